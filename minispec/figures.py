"""The paper's Figures 1, 2 and 5, from what `profile.py` recorded: each as a table of text and as a picture.

    Figure 1   overlap of all directions in one layer; and a tree of languages from it, which the paper does not have
    Figure 2   overlap through the layers, over pairs of languages
    Figure 5   sparsity through the layers

These take `masks` (N, L, F), `iou` and `chance` (L, N, N) as `neurons.select` and `neurons.overlap` return them, the
names of the N tasks, and those of the L layers: enc1, enc2, ..., dec1, ... `draw_lines` draws what `sweep.py` measured,
Figures 3 and 4.
"""
import io
import random

import torch

from minispec import UserError
from minispec.checkpoint import write
from minispec.phrasebook import families


def side(layer):
    """Which of its two languages a direction tells the layer: 0, the source (encoder), or 1, the target (decoder)."""
    return 0 if layer.startswith('enc') else 1


def compared(tasks, layer):
    """The pairs of directions, two lists of indices, that differ in the one language that `layer` has to do with.

    So the encoder compares de-en with fr-en, and the decoder en-de with en-fr, all else being equal. Directions from
    one language are told apart by the decoder alone: on line-aligned text their encoder's IoU is 1 by design.
    """
    own, sides = side(layer), [task.split('-') for task in tasks]
    pairs = [(a, b) for b in range(len(tasks)) for a in range(b)
             if sides[a][own] != sides[b][own] and sides[a][1 - own] == sides[b][1 - own]]
    return [a for a, b in pairs], [b for a, b in pairs]


def likeness(tasks, layer, sizes, pieces):
    """How alike are the two languages of each pair `compared` in `layer`? Three answers from 0 to 1, (3, pairs).

    Of one family, 0 or 1; the share of subwords in common, with `pieces` {language: set of those it uses}; the smaller
    training text over the larger, with `sizes` (N,). A language of unknown family has no relatives.
    """
    found = []
    for a, b in zip(*compared(tasks, layer)):
        one, other = tasks[a].split('-')[side(layer)], tasks[b].split('-')[side(layer)]
        found.append((families().get(one, one) == families().get(other, other),
                      len(pieces[one] & pieces[other]) / len(pieces[one] | pieces[other]),
                      min(sizes[a], sizes[b]) / max(sizes[a], sizes[b])))
    return torch.tensor(found, dtype=torch.double).T  # (3, pairs)


def nearest_relatives(tasks, layer, kin, excess):
    """Of how many directions is the nearest neighbour, among those `compared` in this layer, from the same family?

    kin (pairs,) says which pairs are relatives, excess (N, N) how much they share above chance. Directions without a
    relative to be nearest to are not counted. Returns the number, the number that neighbours drawn by chance would
    give, and of how many.
    """
    relatives = dict(zip(zip(*compared(tasks, layer)), kin.tolist()))
    found, by_chance, of = 0.0, 0.0, 0
    for task in range(len(tasks)):
        others = {a if b == task else b: kin for (a, b), kin in relatives.items() if task in (a, b)}
        if any(others.values()):
            nearest = [kin for other, kin in others.items() if excess[task, other] == excess[task, list(others)].max()]
            found += sum(nearest) / len(nearest)  # of equally near ones, each counts in part
            by_chance += sum(others.values()) / len(others)
            of += 1
    return found, by_chance, of


def spearman(x, y):
    """Rank correlation of x (n,) and y (n,), equal values sharing their mean rank; NaN if one is constant."""
    ranks = [(v[:, None] > v).double().sum(1) + (v[:, None] == v).double().sum(1) / 2 for v in (x, y)]  # (n,) each
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def linkage(distance):
    """The tree over distances (n, n) by average linkage: it joins the two clusters nearest on average, again and again.

    Returns the n - 1 joins, (members of one, members of the other, their mean distance), nearest first.
    """
    clusters, joins = [(i,) for i in range(len(distance))], []
    while len(clusters) > 1:
        height, one, other = min((distance[list(a)][:, list(b)].mean().item(), a, b)
                                 for i, b in enumerate(clusters) for a in clusters[:i])
        joins.append((one, other, height))
        clusters = [cluster for cluster in clusters if cluster not in (one, other)] + [one + other]
    return joins


def tree(tasks, layer, iou):
    """The languages of a layer, and their `linkage` on 1 - IoU (N, N), in directions that share the other language."""
    own, sides = side(layer), [task.split('-') for task in tasks]
    hubs = [languages[1 - own] for languages in sides]
    leaves = [task for task, hub in enumerate(hubs) if hub == max(hubs, key=hubs.count)]  # mostly English
    return [sides[task][own] for task in leaves], linkage(1 - iou[leaves][:, leaves])


def united(joins, family):
    """How many pairs of relatives a tree joins before an outsider comes in; `family` has a name for each leaf."""
    return sum(len(a) * len(b) for a, b, _ in joins if len({family[leaf] for leaf in a + b}) == 1)


def print_layers(layers, tasks, masks, iou, chance):
    """Figures 5 and 2 as a table, with chance beside overlap."""
    print('\n        neurons off           IoU of two languages             by\n'
          '       mean least  most   least  25%  50%  75%  most  mean  chance')
    for layer, name in enumerate(layers):
        off = sparsity(masks)[:, layer]  # (N,)
        line = f'{name:5}  {off.mean():.2f}  {off.min():.2f}  {off.max():.2f}   '
        a, b = compared(tasks, name)
        if a:
            pairs = iou[layer, a, b]  # one for each pair
            quartiles = torch.quantile(pairs, torch.linspace(0, 1, 5).double()).tolist()
            line += ' {:.2f} {:.2f} {:.2f} {:.2f} {:.2f} '.format(*quartiles)
            line += f' {pairs.mean():.2f}    {chance[layer, a, b].mean():.2f}'
        print(line)
    print('IoU: pairs of directions with the same target (encoder: of source languages) or the same source (decoder:\n'
          'of target languages).')


def print_families(layers, tasks, sizes, pieces, iou, chance):
    """Which languages share more than chance: relatives, those with as much text, those with the same subwords?

    sizes and pieces as in `likeness`. Every pair is in one of the three groups.
    """
    if min(len(compared(tasks, name)[0]) for name in layers) < 6:  # fewer than four languages say nothing
        return
    print('\n                    IoU minus chance                            its rank correlation with\n'
          '      relatives  equally rich  neither  nearest is a relative    family  subwords  riches')
    for layer, name in enumerate(layers):
        a, b = compared(tasks, name)
        excess = (iou - chance)[layer]  # (N, N)
        alike = likeness(tasks, name, sizes, pieces)  # (3, pairs)
        kin, rich = alike[0] == 1, alike[2] == 1  # (pairs,)
        means = [f'{excess[a, b][chosen].mean():.3f}' if chosen.any() else '-'
                 for chosen in (kin, rich & ~kin, ~rich & ~kin)]
        found, by_chance, of = nearest_relatives(tasks, name, kin, excess)
        nearest = f'{found:g} of {of} (chance {by_chance:.1f})' if of else '-'
        correlations = [spearman(excess[a, b], values) for values in alike]
        shown = ['-' if rho != rho else f'{rho:.2f}' for rho in correlations]  # NaN: all pairs are equally alike
        print('{:5} {:>9}  {:>12}  {:>7}  {:21} {:>9}  {:>8}  {:>6}'.format(name, *means, nearest, *shown))
    n = len(alike[0])
    print(f'{n} pairs: of correlations that mean nothing, 19 in 20 lie within {2 / (n - 1) ** 0.5:.2f} of 0.\n'
          'family: the same or not; subwords: the share in common of those in the validation text; riches: the\n'
          'smaller training text over the larger.')


def print_tree(name, languages, joins):
    """The tree of a layer's languages as text, and its agreement with their families."""
    print(f'\nTree of languages in {name} by average linkage on 1 - IoU, which stands where two branches join')
    text = {(leaf,): [language] for leaf, language in enumerate(languages)}
    for a, b, height in joins:
        text[a + b] = [f'{height:.3f}'] + ['| ' + line for line in text[a] + text[b]]
    print('\n'.join(text[a + b]))
    family = [families().get(language, language) for language in languages]
    if pairs := sum(family[:i].count(name) for i, name in enumerate(family)):
        rng = random.Random(1)
        by_chance = sum(united(joins, rng.sample(family, len(family))) for _ in range(1000)) / 1000
        print(f'It joins {united(joins, family)} of {pairs} pairs of relatives before an outsider comes in; with its '
              f'languages shuffled, {by_chance:.1f}.')


def sparsity(masks):
    """The share of neurons that are off, (N, L)."""
    return 1 - masks.double().mean(-1)


def grouped(tasks):
    """The order in which Figure 1 shows tasks: those from English first, and languages beside their relatives."""
    def key(task):
        src, tgt = tasks[task].split('-')
        other = tgt if src == 'en' else src
        return src != 'en', families().get(other, ''), other, tgt
    return sorted(range(len(tasks)), key=key)


def average_chance(chance):
    """The mean of a layer's (N, N) off the diagonal."""
    n = len(chance)
    return ((chance.sum() - chance.trace()) / (n * (n - 1))).item()


def print_matrix(tasks, values):
    """A table of values (N, N), rounded to whole numbers so that many directions fit a terminal's width."""
    order = grouped(tasks)
    sides = [tasks[task].split('-') for task in order]
    left = max(map(len, tasks)) + 1
    width = max(4, *(len(language) + 1 for languages in sides for language in languages),
                *(len(f'{value:.0f}') + 1 for value in values.flatten().tolist()))
    for side in (0, 1):
        print(' ' * left + ''.join(f'{languages[side]:>{width}}' for languages in sides))
    for task in order:
        print(f'{tasks[task]:{left}}' + ''.join(f'{value:{width}.0f}' for value in values[task, order].tolist()))


def print_overlap(name, tasks, iou, chance):
    """Figure 1 as a table: the IoU (N, N) of one layer."""
    print(f'\nIoU in {name}, in hundredths; chance alone gives {100 * average_chance(chance):.0f}')
    print_matrix(tasks, 100 * iou)
    if name.startswith('enc'):
        print('(The encoder is told the source language alone: on line-aligned text, directions from one language use\n'
              'the same encoder neurons.)')


def print_ablation(tasks, excess):
    """What the losses (N, N) gain when the neurons that a direction has and the fewest others have are silent.

    Row by row a direction's neurons; column by column the loss of each direction, less what random neurons cost it.
    """
    print('\nValidation loss, in thousandths, when neurons of the direction on the left that few others have are off,\n'
          'less that when as many random ones of its own are')
    print_matrix(tasks, 1000 * excess)
    own = torch.eye(len(tasks), dtype=torch.bool)
    print('mean on the diagonal (own neurons) {:.1f}, off it {:.1f}'.format(
        1000 * excess[own].mean(), 1000 * excess[~own].mean()))


def new_figure():
    """An empty picture, (figure, axes). Raises UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('pictures need matplotlib: python -m pip install matplotlib')
    figure = Figure(figsize=(7, 5), layout='constrained')
    return figure, figure.subplots()


def save(figure, folder, name):
    """Write a picture as PNG and as SVG; returns the paths."""
    paths = [folder / f'{name}.{suffix}' for suffix in ('png', 'svg')]
    for path in paths:
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], dpi=150)
        write(path, picture.getvalue())
    return paths


def draw_matrix(folder, name, tasks, values, title, label, **colours):
    """Values (N, N) as a picture, in the order of `print_matrix`."""
    figure, axes = new_figure()
    order = grouped(tasks)
    image = axes.imshow(values[order][:, order].numpy(), **colours)
    axes.set_xticks(range(len(tasks)), [tasks[task] for task in order], rotation=90)
    axes.set_yticks(range(len(tasks)), [tasks[task] for task in order])
    axes.set_title(title)
    figure.colorbar(image, label=label)
    return save(figure, folder, name)


def draw_overlap(folder, name, tasks, iou, chance):
    """Figure 1 as a picture: the table of `print_overlap` in colours."""
    title = f'Overlap of neurons in {name} (chance alone: {average_chance(chance):.2f})'
    return draw_matrix(folder, f'overlap-{name}', tasks, iou, title, 'IoU', vmax=1, cmap='viridis')


def draw_ablation(folder, tasks, excess):
    """The table of `print_ablation` in colours."""
    most = excess.abs().max().item()
    return draw_matrix(folder, 'ablation', tasks, excess, "Silence one direction's own neurons (rows): loss of each",
                       'change of loss, less that by random neurons', vmin=-most, vmax=most, cmap='RdBu_r')


def draw_overlap_by_layer(folder, layers, tasks, iou, chance):
    """Figure 2 as a picture: a box for each layer, from the first to the third quartile of the pairs `compared`."""
    figure, axes = new_figure()
    pairs = [compared(tasks, name) for name in layers]
    axes.boxplot([iou[layer, a, b].tolist() for layer, (a, b) in enumerate(pairs)], whis=(0, 100))
    axes.plot(range(1, len(layers) + 1), [chance[layer, a, b].mean() for layer, (a, b) in enumerate(pairs)],
              'x--', color='gray', label='by chance')
    axes.set_xticks(range(1, len(layers) + 1), layers)
    axes.set(title='Overlap of languages: of the source (encoder), of the target (decoder)', ylabel='IoU')
    axes.legend()
    return save(figure, folder, 'overlap-by-layer')


def draw_sparsity(folder, layers, tasks, masks):
    """Figure 5 as a picture: a line for each direction."""
    figure, axes = new_figure()
    pairs = list(dict.fromkeys('-'.join(sorted(tasks[task].split('-'))) for task in grouped(tasks)))
    for task in grouped(tasks):
        pair = '-'.join(sorted(tasks[task].split('-')))  # both directions in one colour
        axes.plot(layers, sparsity(masks)[task], '-' if tasks[task].startswith('en-') else '--', marker='.',
                  color=f'C{pairs.index(pair)}', label=tasks[task])
    axes.set(title='Neurons that are off', ylabel='share of the layer')
    figure.legend(loc='outside right center', fontsize='small')  # eighteen directions would hide the lines
    return save(figure, folder, 'sparsity')


def draw_tree(folder, name, languages, joins):
    """The tree of `print_tree` as a picture."""
    figure, axes = new_figure()
    leaves = joins[-1][0] + joins[-1][1]
    ends = {(leaf,): (0, y) for y, leaf in enumerate(leaves)}  # where a cluster's branch ends
    for a, b, height in joins:
        (xa, ya), (xb, yb) = ends[a], ends[b]
        axes.plot([xa, height, height, xb], [ya, ya, yb, yb], color='C0')
        ends[a + b] = height, (ya + yb) / 2
    axes.set_yticks(range(len(leaves)), [languages[leaf] for leaf in leaves])
    axes.invert_yaxis()  # from top to bottom, as the text
    axes.set(title=f'Languages by the neurons that they share in {name} (average linkage)', xlabel='1 - IoU')
    return save(figure, folder, f'tree-{name}')


def draw_lines(folder, name, lines, x, y):
    """Lines {label: (xs, ys)}, or with intervals (xs, ys, lows, highs), over axes with these labels."""
    figure, axes = new_figure()
    for label, (xs, ys, *interval) in lines.items():
        line, = axes.plot(xs, ys, marker='o', label=label)
        if interval:
            axes.fill_between(xs, *interval, color=line.get_color(), alpha=0.2)
    axes.set(xlabel=x, ylabel=y)
    axes.xaxis.get_major_locator().set_params(integer=True)  # there is no layer 1.25
    axes.legend()
    return save(figure, folder, name)
