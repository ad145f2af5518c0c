"""The figures as pictures. Each function writes a PNG and an SVG into `folder` and returns their paths."""
import io
import statistics
from itertools import groupby
from pathlib import Path

import torch

from minispec import UserError
from minispec.corpora.languages import group
from minispec.figures.analysis import (SHARED_BY, comparable_pairs, diagonal_means, display_order, language_tree,
                                       languages_of, place, read_curve, sharing, sparsity)
from minispec.files import write
from minispec.tasks import HUB, split_task

SHARED, OWN, OFF = '#4477AA', '#EE6677', '#EBEBEB'  # a neuron of all directions, of one alone, one that is off
SHARING_COLOURS = SHARED, '#66CCEE', '#228833', '#CCBB44', OWN, OFF  # in the order of SHARED_BY
FAMILY_COLOURS = 'C0', 'C1', 'C2', 'C3', 'C4', 'C5', 'C6', 'C8', 'C9'  # without C7, gray


def draw_all(folder, profile, shown):
    """All pictures but `draw_ablation`'s; `shown` names the layers whose overlap, neurons and tree are drawn."""
    paths = draw_ffn(folder, profile) + draw_overlap_by_layer(folder, profile) + draw_sparsity(folder, profile)
    for layer in shown:
        paths += draw_overlap(folder, profile, layer)
        paths += draw_neuron_map(folder, profile, layer)
        paths += draw_tree(folder, profile, layer)
    return paths


def new_figure(columns=1, width=7, height=5):
    """An empty picture: (figure, its axes, side by side). Raises UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('pictures need matplotlib: python -m pip install matplotlib')
    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def save(figure, folder, name):
    """Write a picture as PNG and as SVG; returns the paths."""
    paths = [Path(folder) / f'{name}.{suffix}' for suffix in ('png', 'svg')]
    for path in paths:
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], dpi=150)
        write(path, picture.getvalue())
    return paths


def save_profile(figure, folder, name, profile, title):
    """`save` a picture of a Profile; its title and its name tell the selection."""
    figure.suptitle(f'{title}\n({profile.selection})', fontsize='medium')
    return save(figure, folder, name + profile.suffix)


def draw_legend(figure, axes, entries):
    """A legend below the picture, of `entries` {label: (colour, marker)} and of what is labelled in `axes`."""
    for label, (colour, marker) in entries.items():
        axes.plot([], [], marker, color=colour, markeredgecolor='gray' if colour == OFF else colour, label=label)
    figure.legend(loc='outside lower center', ncols=6, fontsize='small', frameon=False, handletextpad=0.3,
                  columnspacing=1.2)


def draw_ffn(folder, profile):
    """Eq. 2 as a schematic: the last layer's first neurons, in the two tasks with most text; nothing for one task."""
    if len(profile.tasks) == 1:
        return []
    chosen = sorted(display_order(profile.tasks), key=lambda task: -profile.train_sizes[task])[:2]
    masks = profile.masks[chosen, -1, :10]  # (2, up to 10)
    shared = masks.all(0).tolist()
    figure, panels = new_figure(2, 9, 5)
    for axes, task, mask in zip(panels, chosen, masks.tolist()):
        axes.set_title(profile.tasks[task], fontweight='bold')
        draw_sub_network(axes, [(SHARED if both else OWN) if on else None for on, both in zip(mask, shared)])
    for height, label in enumerate(['input $x$', '$W_1$', 'ReLU,\nmask $m_t$', '$W_2$', 'output']):
        panels[0].text(-0.8, height / 2, label, ha='right', va='center', fontsize='large')
    draw_legend(figure, panels[0], {'both directions have it': (SHARED, 'o'), 'only this direction has it': (OWN, 'o'),
                                    'off: no output, no gradient': (OFF, 'o')})
    return save_profile(figure, folder, 'ffn', profile,
                        'One FFN, two sub-networks: each direction passes through its own neurons\n'
                        r'$\mathrm{FFN}_t(x) = (\mathrm{ReLU}(x W_1 + b_1) \odot m_t)\, W_2 + b_2$, with '
                        f'the first {len(shared)} of {profile.masks.shape[2]} neurons of {profile.layers[-1]}')


def draw_sub_network(axes, colours):
    """One FFN, its input at the bottom, with a colour for each neuron that is on, and None for one that is off."""
    ends = [(len(colours) - 1) * share for share in (0.2, 0.4, 0.6, 0.8)]  # where inputs and outputs stand
    for neuron, colour in enumerate(colours):
        for end in ends if colour else []:
            axes.plot([end, neuron, end], [0, 1, 2], color=colour, linewidth=1, alpha=0.6, zorder=1)
        axes.scatter(neuron, 1, s=260, color=colour or 'white', edgecolors=colour or 'silver')
        axes.text(neuron, 1, '1' if colour else '0', color='white' if colour else 'gray', ha='center',
                  va='center_baseline')
    for height in 0, 2:
        axes.scatter(ends, [height] * len(ends), s=260, color='white', edgecolors='black')
    axes.set_axis_off()


def label_rows(axes, profile, columns=False):
    """Name the rows of a map, and perhaps its columns: all tasks, in `display_order`, which is returned.

    Thin lines are drawn between families, thick ones between directions from the hub and into it.
    """
    order = display_order(profile.tasks)
    font = {'fontsize': min(9, 250 / len(order))}
    names = [profile.tasks[task] for task in order]
    sizes = [profile.train_sizes[task] for task in order]
    axes.set_yticks(range(len(order)), [f'{name} ({size:,})' for name, size in zip(names, sizes)], **font)
    axes.set_xticks(range(len(order)) if columns else [], names if columns else [], rotation=90, **font)
    end, before = 0, None
    for (side, family), block in groupby(map(place, names)):
        start, end = end, end + len(list(block))
        axes.text(1.01, (start + end - 1) / 2, family, transform=axes.get_yaxis_transform(), va='center', **font)
        for draw_line in (axes.axhline, axes.axvline) if columns else (axes.axhline,):
            draw_line(start - 0.5, color='black', linewidth=0.6 if before in (None, side) else 2)
        before = side
    return order


def draw_matrix(figure, axes, profile, values, label, **colours):
    """Values (N, N) as colours, in the order of `tables.print_matrix`. Returns the colour bar."""
    order = label_rows(axes, profile, columns=True)
    image = axes.imshow(values[order][:, order].tolist(), **colours)
    bar = figure.colorbar(image, ax=axes, label=label, location='bottom', shrink=0.9)
    bar.locator.set_params(nbins=5)
    return bar


def draw_overlap(folder, profile, layer):
    """Figure 1 for one layer: the IoU, and beside it how much of it is above chance; nothing for one task."""
    if len(profile.tasks) == 1:
        return []
    figure, (left, right) = new_figure(2, 10, 5.6)
    iou, chance = profile.overlap(layer)
    mean, by_chance = diagonal_means(iou)[1], diagonal_means(chance)[1]
    bar = draw_matrix(figure, left, profile, iou, f'IoU (red line: {by_chance:.2f}, expected by chance)',
                      vmin=0, vmax=1, cmap='viridis')
    bar.ax.axvline(by_chance, color='red', linewidth=2)
    excess = (iou - chance).masked_fill(iou == 1, torch.nan)  # such as a task with itself; it would stretch the scale
    limit = max(excess[iou < 1].abs().tolist(), default=1)
    draw_matrix(figure, right, profile, excess, 'IoU minus chance (gray: the same neurons)',
                vmin=-limit, vmax=limit, cmap='RdBu_r')
    right.set(yticks=[], facecolor='lightgray')
    title = f'All pairs of directions in {layer}: IoU {mean:.2f} on average, {by_chance:.2f} expected by chance'
    if layer.startswith('enc'):
        title += '\nThe encoder sees the source only: on line-aligned text, all directions from one language are equal'
    return save_profile(figure, folder, f'overlap-{layer}', profile, title)


def draw_ablation(folder, profile, excess):
    """The table of `print_ablation` in colours."""
    figure, (axes,) = new_figure(height=6.5)
    limit = excess.abs().max().item()
    draw_matrix(figure, axes, profile, excess, 'rise of the validation loss, minus the rise with random neurons off\n'
                '(nats per target token)', vmin=-limit, vmax=limit, cmap='RdBu_r')
    return save_profile(figure, folder, 'ablation', profile, "Ablating a direction's specific neurons (rows), not "
                        'random ones, costs it {:.3f} nats on average, others {:.3f}'.format(*diagonal_means(excess)))


def draw_neuron_map(folder, profile, layer):
    """Which directions have which neuron of a layer. Columns are sorted by `sharing`, then by how many have it."""
    from matplotlib.colors import ListedColormap
    figure, (axes,) = new_figure(width=10, height=2 + 0.17 * min(len(profile.tasks), 40))
    order = label_rows(axes, profile)
    masks = profile.masks[:, profile.layers.index(layer)]  # (N, F)
    shared_by, held = sharing(masks, profile.tasks).tolist(), masks[order].T.tolist()  # (F,), (F, N)
    columns = sorted(range(len(held)), key=lambda neuron: (
        shared_by[neuron], -sum(held[neuron]), [not on for on in held[neuron]]))
    none = len(SHARED_BY) - 1
    axes.imshow([[shared_by[neuron] if held[neuron][row] else none for neuron in columns] for row in range(len(order))],
                cmap=ListedColormap(SHARING_COLOURS), vmin=0, vmax=none, aspect='auto', interpolation='nearest')
    axes.set_xlabel(f'neurons of {layer}, by who shares them')
    counts = [shared_by.count(answer) for answer in range(len(SHARED_BY))]  # in the order of SHARED_BY
    draw_legend(figure, axes, {f'{answer}: {count}': (colour, 's')
                               for answer, count, colour in zip(SHARED_BY, counts, SHARING_COLOURS)})
    return save_profile(figure, folder, f'neurons-{layer}', profile, f'Of {len(held)} neurons in {layer}, {counts[0]} '
                        f'serve all directions, {counts[3]} one family, {counts[4]} one direction, {counts[5]} none')


def family_colours(profile):
    """The families of all languages but the hub, {family: (colour, label)}; from the tenth on 'other families'."""
    tasks = [profile.tasks[task] for task in display_order(profile.tasks)]
    families = dict.fromkeys(group(language) for task in tasks for language in split_task(task) if language != HUB)
    return {family: (FAMILY_COLOURS[i], family) if i < len(FAMILY_COLOURS) else ('black', 'other families')
            for i, family in enumerate(families)}


def draw_points(folder, name, profile, what, layers, legend, by_chance=()):
    """Figures 2 and 5: points over layers, and each group's median. `what` labels the values.

    `layers` has for each layer its groups (values, colours, marker), drawn side by side. `by_chance` has a value for
    each layer. Nothing is drawn if no layer has a group.
    """
    figure, (axes,) = new_figure()
    means = {}
    for x, groups in enumerate(layers):
        for i, (values, colours, marker) in enumerate(groups):
            left, width, n = x - 0.4 + (0.8 * i + 0.05) / len(groups), 0.7 / len(groups), len(values)
            places = [left + width * (point + 0.5) / n for point in range(n)]
            axes.scatter(places, values, c=colours, marker=marker, s=18)
            axes.hlines(statistics.median(values), left, left + width, color='black')
            means[profile.layers[x]] = statistics.fmean(value for values, *_ in groups for value in values)
        axes.axvline(x + 0.5, color='lightgray', linewidth=0.8)
    if not means:
        return []
    axes.set_xticks(range(len(layers)), profile.layers)
    axes.set(xlim=(-0.5, len(layers) - 0.5), ylabel=what)
    if by_chance:
        axes.plot(range(len(layers)), by_chance, 'x--', color='black', label='expected by chance')
    families = {family: (colour, 'o') for colour, family in family_colours(profile).values()}
    draw_legend(figure, axes, {**families, **legend, 'median': ('black', '_')})
    highest, lowest = max(means, key=means.get), min(means, key=means.get)
    return save_profile(figure, folder, name, profile, f'{what.split()[0]} is highest in {highest} '
                        f'({means[highest]:.2f} on average) and lowest in {lowest} ({means[lowest]:.2f})')


def draw_overlap_by_layer(folder, profile):
    """Figure 2: a point for every two of a layer's `comparable_pairs`."""
    family, layers, by_chance = family_colours(profile), [], []
    for layer in profile.layers:
        iou, chance = profile.overlap(layer)
        families = [group(own) for own, _ in languages_of(profile.tasks, layer)]
        colours = {(a, b): family[families[a]][0] if families[a] == families[b] else 'silver'
                   for a, b in comparable_pairs(profile.tasks, layer).triu().nonzero().tolist()}
        pairs = sorted(colours, key=colours.get)  # those of a family side by side
        layers.append([([iou[pair].item() for pair in pairs], [colours[pair] for pair in pairs], 'o')] if pairs else [])
        by_chance.append(statistics.fmean(chance[pair].item() for pair in pairs) if pairs else None)
    return draw_points(folder, 'overlap-by-layer', profile, 'IoU of two source (enc) or target (dec) languages', layers,
                       {'two families': ('silver', 'o')}, by_chance)


def draw_sparsity(folder, profile):
    """Figure 5: a point for every task; in each layer, tasks from the hub are left of those into it."""
    family = family_colours(profile)
    places = {task: place(profile.tasks[task]) for task in display_order(profile.tasks)}
    sides = {side: list(tasks) for side, tasks in groupby(places, key=lambda task: places[task][0])}
    markers = dict(zip(sides, 'o^s'))
    layers = [[([off[task] for task in tasks], [family[places[task][1]][0] for task in tasks], markers[side])
               for side, tasks in sides.items()] for off in sparsity(profile.masks).T.tolist()]
    return draw_points(folder, 'sparsity', profile, 'Sparsity (share of neurons that are off)', layers,
                       {side: ('gray', marker) for side, marker in markers.items()})


def draw_tree(folder, profile, layer):
    """The tree of `print_tree`; nothing for one language."""
    languages, merges = language_tree(profile, layer)
    if not merges:
        return []
    figure, (axes,) = new_figure()
    leaves = merges[-1][0] + merges[-1][1]
    ends = {(leaf,): (0, y) for y, leaf in enumerate(leaves)}  # where a cluster's branch ends
    for a, b, height in merges:
        (xa, ya), (xb, yb) = ends[a], ends[b]
        axes.plot([xa, height, height, xb], [ya, ya, yb, yb], color='C0')
        ends[a + b] = height, (ya + yb) / 2
    axes.set_yticks(range(len(leaves)), [languages[leaf] for leaf in leaves])
    axes.invert_yaxis()  # from top to bottom, as the text
    axes.set_xlabel('1 - IoU')
    return save_profile(figure, folder, f'tree-{layer}', profile,
                        f'Languages by the neurons that they share in {layer} (average linkage)')


def draw_lines(folder, name, lines, x, y, margin=None, title=''):
    """Lines {label: (xs, ys)}, or with intervals (xs, ys, lows, highs), over axes with these labels.

    With a `margin`, y is a difference: a line at 0, and a band as wide as the margin on both sides of it.
    """
    figure, (axes,) = new_figure()
    if margin is not None:
        axes.axhline(0, color='gray', linewidth=1)
        axes.axhspan(-margin, margin, color='gray', alpha=0.15, linewidth=0, label=f'margin, \u00b1{margin:g}')
    for label, (xs, ys, *interval) in lines.items():
        line, = axes.plot(xs, ys, marker='.', label=label)
        if interval:
            axes.fill_between(xs, *interval, color=line.get_color(), alpha=0.2)
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize='medium')
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)  # there is no layer 1.25
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.ticklabel_format(axis='y', style='plain', useOffset=False)
    axes.legend()
    return save(figure, folder, name)


def draw_gains(folder, name, pairs, gains, y):
    """Gains {label: ΔBLEU by direction} in the order of training size; `pairs` is {direction: training pairs}."""
    figure, (axes,) = new_figure()
    order = sorted(range(len(pairs)), key=lambda index: -list(pairs.values())[index])
    names = [list(pairs)[index] for index in order]
    for (label, values), marker in zip(gains.items(), 'osDv^'):
        axes.plot(names, [values[index] for index in order], marker, label=label)
    axes.axhline(0, color='gray', linewidth=1)
    for x in range(1, len(names)):
        if pairs[names[x]] != pairs[names[x - 1]]:
            axes.axvline(x - 0.5, color='gray', linestyle=':')
    axes.tick_params(axis='x', rotation=90)
    axes.set_title('Transfer (above 0) and interference (below 0), from high- to low-resource', fontsize='medium')
    axes.set_ylabel(y)
    axes.legend()
    return save(figure, folder, name)


def draw_curve(csv_path):
    """The training curve in RUN/base.csv, as RUN/base.curve.png and .svg."""
    csv_path = Path(csv_path)
    steps, train, valid = read_curve(csv_path)
    mean = [sum(losses) / len(losses) for losses in valid]
    lines = {'smoothed train loss': (steps, train),
             'validation loss, mean (band: best to worst direction)':
             (steps, mean, [min(losses) for losses in valid], [max(losses) for losses in valid])}
    return draw_lines(csv_path.parent, f'{csv_path.stem}.curve', lines, 'training step', 'nats per target token',
                      title=f'Validation loss {mean[-1]:.3f} after {steps[-1]:,} steps')
