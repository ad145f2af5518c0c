"""The figures as tables of text."""
import random

import torch

from minispec.corpora.languages import group
from minispec.figures import analysis
from minispec.tasks import split_task


def print_all(profile, shown):
    """All tables but `print_ablation`'s; `shown` names the layers whose overlap and tree are printed."""
    print_summary(profile)
    print_layers(profile)
    print_families(profile)
    for layer in shown:
        print_overlap(profile, layer)
        print_tree(layer, *analysis.language_tree(profile, layer))


def print_summary(profile):
    """What was found, in three lines."""
    kept = 100 * (1 - analysis.sparsity(profile.masks).mean(1))  # (N,), percent of the neurons of all layers
    print(f'\nA direction needs {kept.mean():.0f}% of the neurons ({kept.min():.0f}% to {kept.max():.0f}%): '
          f'{profile.selection}.')
    if pair := analysis.nearest_pair(profile):
        print('Above chance, {2} and {3} share most, in {4}: IoU {0:.2f}, expected by chance {1:.2f}.'.format(*pair))
    print('Look at how sparsity and overlap change from layer to layer, and compare each IoU with what chance gives.')


def print_layers(profile):
    """Figure 5 (sparsity) and Figure 2 (IoU), layer by layer."""
    print('\n           sparsity             IoU of two languages        expected\n'
          '       mean   min   max    min  25%  50%  75%  max   mean  by chance')
    for layer, off in zip(profile.layers, analysis.sparsity(profile.masks).T):  # (N,)
        line = f'{layer:5}  {off.mean():.2f}  {off.min():.2f}  {off.max():.2f}'
        pairs = analysis.comparable_pairs(profile.tasks, layer).triu()  # (N, N), each pair once
        iou, chance = [values[pairs] for values in profile.overlap(layer)]  # (pairs,) each
        if len(iou):
            quartiles = torch.quantile(iou, torch.linspace(0, 1, 5).double()).tolist()
            line += '   {:.2f} {:.2f} {:.2f} {:.2f} {:.2f}'.format(*quartiles)
            line += f'   {iou.mean():.2f}     {chance.mean():.2f}'
        print(line)
    print('IoU: encoder layers compare directions that differ only in the source language, decoder layers those that\n'
          'differ only in the target language.')


def print_families(profile):
    """Which languages overlap more than expected: relatives, those with equal training sizes, with common subwords?"""
    if min(len(analysis.leaves(profile.tasks, layer)) for layer in profile.layers) < 4:
        return  # fewer than four languages are too few to compare
    print('\n               IoU minus chance                                   its rank correlation with (p)\n'
          '      relatives  same size  others   nearest is a relative'
          '          family      subwords    size ratio')
    for layer in profile.layers:
        comparable = analysis.comparable_pairs(profile.tasks, layer)  # (N, N)
        pairs = comparable.triu()  # (N, N), each pair once
        iou, chance = profile.overlap(layer)
        similar = analysis.similarity(profile, layer)  # (3, N, N)
        relatives, same_size = similar[0] == 1, similar[2] == 1  # (N, N)
        groups = relatives, same_size & ~relatives, ~same_size & ~relatives
        means = [(iou - chance)[pairs & group].mean() for group in groups]
        found, expected, counted = analysis.nearest_relatives(comparable, relatives, iou - chance)
        nearest = f'{found:g} of {counted} (expected {expected:.1f})' if counted else '-'
        leaves = analysis.leaves(profile.tasks, layer)
        correlations = [analysis.mantel(*(x[leaves][:, leaves] for x in (iou - chance, values))) for values in similar]
        cells = ['-' if rho != rho else f'{rho:.2f} ({p:.3f})' for rho, p in correlations]
        print('{:5} {:>9}  {:>9}  {:>6}   {:22} {:>14}{:>14}{:>14}'.format(
            layer, *(number(mean, 3) for mean in means), nearest, *cells))
    print('relatives: of one family; same size: of two families, with equal training sizes; others: neither. '
          'p: by permuting\nthe languages (Mantel), two-sided, not corrected. subwords: IoU of the subwords in the '
          'validation text;\nsize ratio: smaller training size over larger.')


def number(value, digits):
    """The number as text; a dash for NaN, the mean of no pairs or the rank correlation with a constant."""
    return '-' if value != value else f'{value:.{digits}f}'


def print_overlap(profile, layer):
    """Figure 1 for one layer; nothing for one task."""
    if len(profile.tasks) == 1:
        return
    iou, chance = profile.overlap(layer)
    by_chance = analysis.diagonal_means(chance)[1]
    print(f'\nIoU of all directions in {layer}, in percent; expected by chance: {100 * by_chance:.0f}')
    print_matrix(profile.tasks, 100 * iou)
    if layer.startswith('enc'):
        print('(The encoder sees the source language only: on line-aligned text, directions from one language use the\n'
              'same encoder neurons.)')


def print_tree(layer, languages, merges):
    """A layer's tree of languages, and how well it agrees with their families. Prints nothing for one language."""
    if not merges:
        return
    print(f'\nTree of languages in {layer} by average linkage; each merge shows its mean distance, 1 - IoU')
    text = {(leaf,): [language] for leaf, language in enumerate(languages)}
    for a, b, height in merges:
        text[a + b] = [f'{height:.3f}'] + ['| ' + line for line in text[a] + text[b]]
    print('\n'.join(text[a + b]))
    families = [group(language) for language in languages]
    pairs = sum(families[:i].count(name) for i, name in enumerate(families))
    if pairs:
        rng = random.Random(1)
        by_chance = [analysis.pure_pairs(merges, rng.sample(families, len(families))) for _ in range(1000)]
        print(f'{analysis.pure_pairs(merges, families)} of {pairs} pairs of relatives merge before an outsider joins; '
              f'expected by chance: {sum(by_chance) / 1000:.1f}.')


def print_ablation(tasks, excess):
    """The rise of every loss (columns) with one task's specific neurons ablated (rows), minus that with random ones."""
    print("\nRise of the validation loss when a direction's specific neurons are ablated, minus the rise when as many\n"
          'random ones of its others are, in thousandths of a nat per target token. Rows: ablated; columns: evaluated.')
    print_matrix(tasks, 1000 * excess)
    print('mean on the diagonal (own neurons) {:.1f}, off it {:.1f}'.format(*analysis.diagonal_means(1000 * excess)))


def print_matrix(tasks, values):
    """A table of values (N, N), rounded to whole numbers so that many tasks fit a terminal's width."""
    order = analysis.display_order(tasks)
    names = [tasks[task] for task in order]
    sources, targets = zip(*(split_task(name) for name in names))
    rows = [[f'{value:.0f}' for value in row] for row in values[order][:, order].tolist()]
    width = 1 + max(len(cell) for row in [sources, targets, *rows] for cell in row)
    for name, row in zip(['', '', *names], [sources, targets, *rows]):
        print(f'{name:{len(max(names, key=len))}} ' + ''.join(f'{cell:>{max(4, width)}}' for cell in row))
