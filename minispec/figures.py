"""The paper's Figures 1, 2 and 5, from what `profile.py` recorded: each as a table of text and as a picture.

    Figure 1   overlap of all directions in one layer
    Figure 2   overlap through the layers, over pairs of languages
    Figure 5   sparsity through the layers

Everything here takes `masks` (N, L, F), `iou` and `chance` (L, N, N) as `neurons.select` and `neurons.overlap` return
them, the names of the N tasks, and those of the L layers: enc1, enc2, ..., dec1, ...
"""
import io

import torch

from minispec import UserError
from minispec.checkpoint import write
from minispec.phrasebook import families


def compared(tasks, layer):
    """The pairs of directions, two lists of indices, that differ in the one language that `layer` has to do with.

    So the encoder compares de-en with fr-en, and the decoder en-de with en-fr, all else being equal. Directions from
    one language are told apart by the decoder alone: on line-aligned text their encoder's IoU is 1 by design.
    """
    own = 0 if layer.startswith('enc') else 1  # the encoder's language is the source, the decoder's the target
    sides = [task.split('-') for task in tasks]
    pairs = [(a, b) for b in range(len(tasks)) for a in range(b)
             if sides[a][own] != sides[b][own] and sides[a][1 - own] == sides[b][1 - own]]
    return [a for a, b in pairs], [b for a, b in pairs]


def alike(tasks, layer, groups):
    """For each of the pairs `compared` in `layer`: are its two directions of one group? A tensor of bools.

    `groups` has a name for each direction's group, or None.
    """
    return torch.tensor([groups[a] is not None and groups[a] == groups[b] for a, b in zip(*compared(tasks, layer))])


def related(tasks, layer):
    """For each of the pairs `compared` in `layer`: are its two languages of one family?"""
    own = 0 if layer.startswith('enc') else 1
    return alike(tasks, layer, [families().get(task.split('-')[own]) for task in tasks])


def nearest_relatives(tasks, layer, iou):
    """Of how many directions is the nearest neighbour, among those `compared` in this layer, from the same family?

    iou is the layer's (N, N). Directions without a relative to be nearest to are not counted. Returns the number,
    the number that neighbours drawn by chance would give, and of how many.
    """
    relatives = dict(zip(zip(*compared(tasks, layer)), related(tasks, layer).tolist()))
    found, by_chance, of = 0.0, 0.0, 0
    for task in range(len(tasks)):
        others = {a if b == task else b: kin for (a, b), kin in relatives.items() if task in (a, b)}
        if any(others.values()):
            nearest = [kin for other, kin in others.items() if iou[task, other] == iou[task, list(others)].max()]
            found += sum(nearest) / len(nearest)  # of equally near ones, each counts in part
            by_chance += sum(others.values()) / len(others)
            of += 1
    return found, by_chance, of


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
    print('IoU: pairs of directions with the same target (encoder: of source languages) or the same source (decoder: of\n'
          'target languages).')


def print_families(layers, tasks, pairs, iou, chance):
    """Do relatives share more? The mean of IoU minus chance inside families and across; whose nearest is a relative.

    Beside it, the rival explanation: the same for directions with equally many training `pairs` (N,), and others.
    """
    if not any(related(tasks, name).any() for name in layers):
        return
    print('\n                     IoU minus chance\n'
          '       relatives  others   equally rich  others   nearest one is a relative')
    for layer, name in enumerate(layers):
        kin, equal = related(tasks, name), alike(tasks, name, pairs)
        excess = (iou - chance)[layer][compared(tasks, name)]  # one for each pair of directions
        means = [f'{excess[chosen].mean():.3f}' if chosen.any() else '-' for chosen in (kin, ~kin, equal, ~equal)]
        found, by_chance, of = nearest_relatives(tasks, name, iou[layer])
        print('{:5} {:>10} {:>7} {:>14} {:>7}   '.format(name, *means) + f'{found:g} of {of} (chance {by_chance:.1f})')


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


def print_overlap(name, tasks, iou, chance):
    """Figure 1 as a table: the IoU (N, N) of one layer, in hundredths so that many directions fit a terminal's width."""
    print(f'\nIoU in {name}, in hundredths; chance alone gives {100 * average_chance(chance):.0f}')
    order = grouped(tasks)
    sides = [tasks[task].split('-') for task in order]
    left = max(map(len, tasks)) + 1
    width = max(4, *(len(language) + 1 for languages in sides for language in languages))
    for side in (0, 1):
        print(' ' * left + ''.join(f'{languages[side]:>{width}}' for languages in sides))
    for task in order:
        print(f'{tasks[task]:{left}}' + ''.join(f'{100 * value:{width}.0f}' for value in iou[task, order].tolist()))
    if name.startswith('enc'):
        print('(The encoder is told the source language alone: on line-aligned text, directions from one language use\n'
              'the same encoder neurons.)')


def new_figure():
    """An empty picture, (figure, axes). Raises UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('--plot needs matplotlib: python -m pip install matplotlib')
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


def draw_overlap(folder, name, tasks, iou, chance):
    """Figure 1 as a picture: the table of `print_overlap` in colours."""
    figure, axes = new_figure()
    order = grouped(tasks)
    image = axes.imshow(iou[order][:, order].numpy(), vmax=1, cmap='viridis')
    axes.set_xticks(range(len(tasks)), [tasks[task] for task in order], rotation=90)
    axes.set_yticks(range(len(tasks)), [tasks[task] for task in order])
    axes.set_title(f'Overlap of neurons in {name} (chance alone: {average_chance(chance):.2f})')
    figure.colorbar(image, label='IoU')
    return save(figure, folder, f'overlap-{name}')


def draw_overlap_by_layer(folder, layers, tasks, iou, chance):
    """Figure 2 as a picture: a box for each layer, from the first to the third quartile of the pairs `compared` there."""
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
