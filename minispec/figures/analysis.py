"""What the figures show, computed: which tasks and languages share neurons, and what a task's neurons do for it."""
import csv
from dataclasses import dataclass

import torch

from minispec.corpora.languages import family, group, same_family
from minispec.tasks import HUB, split_task


@dataclass
class Profile:
    """What `profile.py` finds out about N tasks in L layers."""
    tasks: list           # N
    masks: torch.Tensor   # (N, L, F) bool
    iou: torch.Tensor     # (L, N, N), from `neurons.overlap`
    chance: torch.Tensor  # (L, N, N), the IoU expected by chance
    train_sizes: list     # N, sentence pairs
    subwords: dict        # {language: set of the subwords in its validation text}
    selection: str = ''   # the k, the rule and the base, for titles
    suffix: str = ''      # of the names of pictures, if the selection is not the default

    @property
    def layers(self):
        return layer_names(len(self.iou) // 2)

    def overlap(self, layer):
        """IoU and expected IoU, (N, N) each, of the layer with this name."""
        index = self.layers.index(layer)
        return self.iou[index], self.chance[index]


def layer_names(n):
    """The names of n encoder and n decoder layers: enc1, enc2, ..., dec1, dec2, ..."""
    return [f'{side}{i + 1}' for side in ('enc', 'dec') for i in range(n)]


def languages_of(tasks, layer):
    """For each task the language that `layer` works on (encoder: source, decoder: target), and the other one."""
    pairs = [split_task(task) for task in tasks]
    return pairs if layer.startswith('enc') else [(tgt, src) for src, tgt in pairs]


def comparable_pairs(tasks, layer):
    """Which tasks differ in the language that `layer` works on, and in nothing else? (N, N) bool, symmetric.

    So the encoder compares de-en with fr-en, and the decoder en-de with en-fr. The encoder never compares en-de with
    en-fr: on line-aligned text both read the same English sentences, and their IoU is 1 by construction.
    """
    languages = languages_of(tasks, layer)
    return torch.tensor([[own != own_b and other == other_b for own_b, other_b in languages]
                         for own, other in languages])


def nearest_pair(profile):
    """Of all layers' `comparable_pairs`, the one farthest above chance: (IoU, chance, task, task, layer).

    None if no two tasks can be compared.
    """
    pairs = []
    for layer in profile.layers:
        iou, chance = profile.overlap(layer)
        for a, b in comparable_pairs(profile.tasks, layer).triu().nonzero().tolist():
            pairs.append((iou[a, b].item(), chance[a, b].item(), profile.tasks[a], profile.tasks[b], layer))
    return max(pairs, key=lambda pair: pair[0] - pair[1], default=None)


def similarity(profile, layer):
    """How similar are the languages that `layer` works on, for every two tasks? Three values in [0, 1], (3, N, N).

    Same family (0 or 1); share of subwords in common; ratio of training sizes, the smaller over the larger.
    """
    languages = [own for own, _ in languages_of(profile.tasks, layer)]
    used, sizes = [profile.subwords[language] for language in languages], profile.train_sizes
    return torch.tensor([[[same_family(a, b) for b in languages] for a in languages],
                         [[len(a & b) / len(a | b) for b in used] for a in used],
                         [[min(a, b) / max(a, b) for b in sizes] for a in sizes]], dtype=torch.double)


def nearest_relatives(comparable, relatives, excess):
    """For how many tasks is the comparable task with the highest overlap a relative (of the same family)?

    All are (N, N); `excess` is IoU minus chance. If several tasks are nearest, each counts as a fraction. Tasks without
    a relative are not counted. Returns the number, the number expected by chance, and how many tasks were counted.
    """
    excess = excess.masked_fill(~comparable, -torch.inf)
    nearest = comparable & (excess == excess.amax(1, keepdim=True))  # (N, N)
    relatives = comparable & relatives
    counted = relatives.any(1)  # (N,)
    found = (nearest & relatives).sum(1) / nearest.sum(1)  # (N,)
    expected = relatives.sum(1) / comparable.sum(1)  # (N,)
    return found[counted].sum().item(), expected[counted].sum().item(), counted.sum().item()


def mantel(x, y, permutations=5000):
    """Rank correlation of two symmetric matrices (n, n) above their diagonals, and its p by Mantel's permutation test.

    The n (n - 1) / 2 pairs of n languages are not independent: each language is in n - 1 of them. So the languages of x
    are permuted at random many times; p is the share of permutations with a correlation as far from 0 (two-sided).
    Equal values share their mean rank. Both are NaN if x or y is constant.
    """
    n = len(x)
    a, b = torch.triu_indices(n, n, 1)  # (pairs,) each
    ranks = []
    for values in (x[a, b], y[a, b]):  # (pairs,)
        rank = (values[:, None] > values).double().sum(1) + (values[:, None] == values).double().sum(1) / 2  # (pairs,)
        rank -= rank.mean()
        ranks.append(rank / rank.norm())  # of length 1, so that a dot product is a correlation
    square = x.new_zeros(n, n, dtype=torch.double)
    square[a, b] = square[b, a] = ranks[0]
    noise = torch.rand(permutations, n, generator=torch.Generator().manual_seed(1))
    order = noise.argsort(1)  # (permutations, n)
    rho, by_chance = ranks[0] @ ranks[1], square[order[:, a], order[:, b]] @ ranks[1]  # (), (permutations,)
    if rho.isnan():
        return rho.item(), rho.item()
    return rho.item(), (1 + (by_chance.abs() >= rho.abs() - 1e-9).sum().item()) / (1 + permutations)


def linkage(distance):
    """A tree over distances (n, n) by average linkage: repeatedly merges the two clusters nearest on average.

    Returns the n - 1 merges in that order: (members of one, members of the other, their mean distance).
    """
    clusters, merges = [(i,) for i in range(len(distance))], []
    while len(clusters) > 1:
        height, one, other = min((distance[list(a)][:, list(b)].mean().item(), a, b)
                                 for i, b in enumerate(clusters) for a in clusters[:i])
        merges.append((one, other, height))
        clusters = [cluster for cluster in clusters if cluster not in (one, other)] + [one + other]
    return merges


def leaves(tasks, layer):
    """One task for each language that `layer` works on, as indices: those that share the other language, the hub."""
    others = [other for _, other in languages_of(tasks, layer)]
    return [task for task, other in enumerate(others) if other == max(others, key=others.count)]


def language_tree(profile, layer):
    """The languages of a layer, and their `linkage` on 1 - IoU."""
    languages, chosen = languages_of(profile.tasks, layer), leaves(profile.tasks, layer)
    iou, _ = profile.overlap(layer)
    return [languages[task][0] for task in chosen], linkage(1 - iou[chosen][:, chosen])


def pure_pairs(merges, families):
    """How many pairs of relatives does a tree merge before another family joins? `families`: a name for each leaf."""
    return sum(len(a) * len(b) for a, b, _ in merges if len({families[leaf] for leaf in a + b}) == 1)


def sparsity(masks):
    """The share of neurons that masks (N, L, F) switch off, (N, L)."""
    return 1 - masks.double().mean(-1)


def place(task):
    """Where a task stands in pictures: its side of the hub, and the family of its other language (or of its source)."""
    src, tgt = split_task(task)
    side = f'from {HUB}' if src == HUB else f'into {HUB}' if tgt == HUB else f'without {HUB}'
    return side, group(tgt if src == HUB else src)


def display_order(tasks):
    """The order in which tasks are shown, N indices: from the hub first, and languages beside their relatives."""
    def key(index):
        src, tgt = split_task(tasks[index])
        other = tgt if src == HUB else src
        return src != HUB, tgt != HUB, family(other) or '', other, tgt
    return sorted(range(len(tasks)), key=key)


SHARED_BY = ('all directions', 'several families', f'only from {HUB} or only into {HUB}', 'one family only',
             'one direction only', 'no direction')


def sharing(masks, tasks):
    """Who shares each neuron of a layer? masks (N, F) bool; returns (F,), indices into SHARED_BY.

    The narrowest answer counts: a neuron that only en-de and en-nl have is of one family. Side and family are answers
    only if the tasks have two or more of them.
    """
    sides, families = zip(*map(place, tasks))
    found = torch.ones(masks.shape[1:], dtype=torch.long)  # (F,)
    for answer, names in enumerate((sides, families, tasks), start=2):
        rows = torch.tensor([[name == each for name in names] for each in set(names)])  # (names, N)
        holders = (rows[:, :, None] & masks).any(1).sum(0)  # (F,), how many of the names have the neuron
        if len(rows) > 1:
            found[holders == 1] = answer
    found[masks.all(0)] = SHARED_BY.index('all directions')
    found[~masks.any(0)] = SHARED_BY.index('no direction')
    return found


def diagonal_means(values):
    """The mean of a matrix (N, N) on its diagonal, and off it."""
    diagonal = torch.eye(len(values), dtype=torch.bool)
    return values[diagonal].mean().item(), values[~diagonal].mean().item()


def specific_neurons(masks, n, draws, seed):
    """n direction-specific neurons of each task and layer: those of its own that the fewest tasks have; ties by index.

    To compare with them, `draws` sets of n random ones of its other neurons; together (1 + draws, N, L, F) bool. Every
    task must have 2 n neurons or more in each layer.
    """
    def lowest(score, allowed):
        return score.masked_fill(~allowed, torch.inf).argsort(dim=-1, stable=True).argsort(-1) < n

    specific = lowest(masks.sum(0).float().expand(masks.shape), masks)  # (N, L, F); by how many tasks have the neuron
    noise = torch.rand(draws, *masks.shape, generator=torch.Generator().manual_seed(seed))
    return torch.stack([specific, *(lowest(each, masks & ~specific) for each in noise)])


@torch.no_grad()
def ablate(model, sets, measure):
    """How much does measure() (N,), e.g. the loss of each task, rise when all tasks lose a set of neurons?

    Returns a row for each of the sets (n, L, F): (n, N).
    """
    before, masks, rows = measure(), model.masks.clone(), []
    for off in sets.to(masks.device):  # (L, F)
        model.masks.copy_(masks & ~off)
        rows.append(measure() - before)
    model.masks.copy_(masks)
    return torch.stack(rows)


def read_curve(csv_path):
    """A training's curve NAME.csv: its steps, smoothed train losses, and validation losses (rows of N)."""
    with csv_path.open(encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    return ([int(row['step']) for row in rows], [float(row['smoothed_train_loss']) for row in rows],
            [[float(row[name]) for name in row if name.startswith('valid_')] for row in rows])
