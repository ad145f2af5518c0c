"""The paper's contribution: which FFN neurons does a task use, which of them make it up, which do two tasks share?

    record    count, for every task, layer and neuron, how often the neuron fires     section 3.1
    select    keep the most active neurons that carry k% of a layer's activity        Eq. 1
    overlap   intersection over union of the tasks' neurons, and what chance gives    section 3.2
    silence   what happens to every task when the neurons of one are off              (not in the paper)

Counts and masks have the shape (N, L, F); see `model.py` for the symbols.
"""
import warnings

import torch

from minispec.model import PAD


@torch.no_grad()
def record(model, batches):
    """Count active neurons while `model`, unmasked, reads validation text teacher-forced in eval mode (section 3.1).

    A neuron is active at a position if its ReLU output is > 0. Encoder layers are counted over source positions,
    decoder layers over target positions, padding never. `batches` yields (src, tgt, task) as `Transformer.forward`
    takes them. Returns integer tensors on the CPU:

        token      (N, L, F)  positions at which the neuron was active
        sentence   (N, L, F)  sentences in which it was active at least once
        positions  (N, L)     positions looked at
        sentences  (N, L)     sentences looked at
    """
    N, L, F = model.masks.shape
    counts = {'token': torch.zeros(N, L, F, dtype=torch.long), 'sentence': torch.zeros(N, L, F, dtype=torch.long),
              'positions': torch.zeros(N, L, dtype=torch.long), 'sentences': torch.zeros(N, L, dtype=torch.long)}

    def listen(layer):
        def count(module, inputs, h):  # h (B, T, F), the ReLU's output
            real = src != PAD if layer < L // 2 else tgt[:, 1:] != PAD  # (B, T)
            # The sign of a ReLU's output is 1 where it is active, else 0; summing bools takes ten times as long.
            active = (real[:, None].to(h.dtype) @ h.sign()).squeeze(1)  # (B, 1, T) (B, T, F) -> (B, F), in positions
            for name, found in (('token', active), ('sentence', active > 0),  # (B, F)
                                ('positions', real.sum(1)), ('sentences', real.any(1))):  # (B,)
                counts[name][:, layer].index_add_(0, task.cpu(), found.long().cpu())
        return count

    model.eval()
    hooks = [ffn.relu.register_forward_hook(listen(layer)) for layer, ffn in enumerate(model.ffns)]
    try:
        for src, tgt, task in batches:
            model(src, tgt, task)  # and no scores over the vocabulary, which would take as long again
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def select(counts, k):
    """Eq. 1: in every row of counts (..., F), the fewest most active neurons whose counts reach k% of the row's sum.

    Neurons are taken by count, ties by index, up to and with the one that reaches the line. With counts 5 3 1 1 0 and
    k = 80 the line is at 8, so 5 and 3 stay; with k = 81 it is at 8.1, and the first of the two 1s stays too.
    k = 100 keeps every neuron, and so, with a warning, does a row of zeros, which says nothing about its neurons.
    Returns a boolean mask (..., F). Raises ValueError for a k outside (0, 100].
    """
    if not 0 < k <= 100:
        raise ValueError(f'k is a percentage in (0, 100], not {k}')
    ranked, order = counts.sort(dim=-1, descending=True, stable=True)  # (..., F)
    total = ranked.sum(-1, keepdim=True)  # (..., 1)
    if (total == 0).any():
        warnings.warn(f'nothing fired in {int((total == 0).sum())} of {total.numel()} rows; they keep all neurons')
    before = ranked.cumsum(-1) - ranked  # (..., F): activity of the neurons ranked higher
    # 64-bit floats keep whole-number k exact; a neuron stays if those before it do not reach the line by themselves.
    keep = (before.double() * 100 < total.double() * k) | (total == 0) | (k == 100)  # (..., F), in ranked order
    return torch.zeros_like(keep).scatter_(-1, order, keep)


def shuffled(masks, seed):
    """The `random` control: as many neurons as `masks` (N, L, F) has in every task and layer, drawn by chance.

    Drawn for each task by itself, so that `random` loses both the choice of neurons and what related tasks share.
    """
    noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed))
    return masks.gather(-1, noise.argsort(-1))


def swapped(masks):
    """The `swapped` control: each task gets the neurons of the task half a list away, so that none keeps its own.

    As a corpus lists its directions, from English first, that is the reverse direction: en-de gets those of de-en.
    """
    return masks.roll(len(masks) // 2, dims=0)


def shared(counts, masks):
    """The `shared` control: all tasks get the same neurons, plain pruning without specialization.

    In each layer as many as `masks` (N, L, F) keeps on average, those that fire most often over all tasks, whose counts
    (N, L, F) weigh alike however much text was recorded for each.
    """
    rate = counts.double() / counts.sum(-1, keepdim=True).clamp(min=1)  # (N, L, F), its share of a task's activity
    rank = rate.mean(0).argsort(dim=-1, descending=True, stable=True).argsort(-1)  # (L, F), 0 for the most active
    return (rank < masks.sum(-1).double().mean(0).round()[:, None]).expand_as(masks)


def zero_shot(masks, tasks, direction):
    """The neurons (L, F) of a direction never trained: de-fr gets the encoder's of de-en and the decoder's of en-fr.

    In general, of the first of the N `tasks` with its source and the first with its target; returns also their names.
    Raises ValueError if there is no such task.
    """
    src, tgt = direction.split('-')
    encoder = [task for task in tasks if task.startswith(f'{src}-')][:1]
    decoder = [task for task in tasks if task.endswith(f'-{tgt}')][:1]
    if not (encoder and decoder):
        raise ValueError(f'no direction was trained {"into " + tgt if encoder else "from " + src}')
    L = masks.size(1)
    halves = masks[tasks.index(*encoder), :L // 2], masks[tasks.index(*decoder), L // 2:]  # (L/2, F) each
    return torch.cat(halves), *encoder, *decoder


def overlap(masks):
    """Intersection over union of every two tasks' neurons in each layer, (L, N, N), and the same by chance alone.

    Two sets drawn independently with densities p and q share pq of all neurons and cover p + q - pq of them, so chance
    gives IoU pq / (p + q - pq), for instance 0.64 if both densities are 0.78. Returns (iou, chance).
    """
    m = masks.transpose(0, 1).double()  # (L, N, F)
    shared = m @ m.mT  # (L, N, N)
    size = m.sum(-1)  # (L, N)
    iou = shared / (size[:, :, None] + size[:, None, :] - shared)
    density = m.mean(-1)  # (L, N)
    both = density[:, :, None] * density[:, None, :]  # (L, N, N)
    return iou, both / (density[:, :, None] + density[:, None, :] - both)


def private(masks, n, seed):
    """Of the neurons that each task has, n in every layer: those that the fewest tasks have, ties by index; and random.

    Returns both, (N, L, F) each; n is at most the number of neurons that any task has in any layer.
    """
    holders = masks.sum(0).float().expand(masks.shape)  # (N, L, F), how many tasks have the neuron
    noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed))
    return [score.masked_fill(~masks, torch.inf).argsort(dim=-1, stable=True).argsort(-1) < n
            for score in (holders, noise)]


@torch.no_grad()
def silence(model, sets, measure):
    """What measure(), such as the loss of each task (N,), gains when a set of neurons is off for all tasks.

    Returns a row for each of the `sets` (n, L, F): (n, N).
    """
    whole, masks, rows = measure(), model.masks.clone(), []
    for off in sets.to(masks.device):  # (L, F)
        model.masks.copy_(masks & ~off)
        rows.append(measure() - whole)
    model.masks.copy_(masks)
    return torch.stack(rows)
