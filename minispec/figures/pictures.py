"""The figures as pictures. Each function writes a PNG and an SVG into `folder` and returns their paths."""
import io
from pathlib import Path

from minispec import UserError
from minispec.files import write
from minispec.figures.analysis import (comparable_pairs, diagonal_means, display_order, language_tree, read_curve,
                                       sparsity)
from minispec.tasks import from_hub, reverse_task


def draw_all(folder, profile, shown):
    """All pictures but `draw_ablation`'s; `shown` names the layers whose overlap and tree are drawn."""
    paths = draw_overlap_by_layer(folder, profile) + draw_sparsity(folder, profile)
    for layer in shown:
        paths += draw_overlap(folder, profile, layer)
        paths += draw_tree(folder, profile, layer)
    return paths


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
    paths = [Path(folder) / f'{name}.{suffix}' for suffix in ('png', 'svg')]
    for path in paths:
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], dpi=150)
        write(path, picture.getvalue())
    return paths


def save_figure(figure, axes, folder, name, profile):
    """`save` a picture of a Profile: its title and its name say of which selection it is."""
    axes.set_title(f'{axes.get_title()}\n({profile.selection})', fontsize='medium')
    return save(figure, folder, name + profile.suffix)


def draw_matrix(folder, name, profile, values, title, label, **colours):
    """Values (N, N) as a picture, in the order of `tables.print_matrix`."""
    figure, axes = new_figure()
    order = display_order(profile.tasks)
    names = [profile.tasks[task] for task in order]
    image = axes.imshow(values[order][:, order].tolist(), **colours)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title)
    figure.colorbar(image, label=label)
    return save_figure(figure, axes, folder, name, profile)


def draw_overlap(folder, profile, layer):
    """Figure 1 for one layer."""
    iou, chance = profile.overlap(layer)
    title = f'Overlap of neurons in {layer} (expected by chance: {diagonal_means(chance)[1]:.2f})'
    return draw_matrix(folder, f'overlap-{layer}', profile, iou, title, 'IoU', vmax=1, cmap='viridis')


def draw_ablation(folder, profile, excess):
    """The table of `print_ablation` in colours."""
    limit = excess.abs().max().item()
    return draw_matrix(folder, 'ablation', profile, excess, "Ablation of one direction's specific neurons (rows)",
                       'rise of the loss, minus that by random neurons', vmin=-limit, vmax=limit, cmap='RdBu_r')


def draw_overlap_by_layer(folder, profile):
    """Figure 2: a box for each layer, from the first to the third quartile of its `comparable_pairs`."""
    figure, axes = new_figure()
    pairs = [comparable_pairs(profile.tasks, layer).triu() for layer in profile.layers]  # (N, N) each
    ticks = range(1, len(pairs) + 1)
    axes.boxplot([iou[shown].tolist() for iou, shown in zip(profile.iou, pairs)], whis=(0, 100))
    axes.plot(ticks, [chance[shown].mean().item() for chance, shown in zip(profile.chance, pairs)], 'x--', color='gray',
              label='expected by chance')
    axes.set_xticks(ticks, profile.layers)
    axes.set(title='Overlap of source languages (encoder) and of target languages (decoder)', ylabel='IoU')
    axes.legend()
    return save_figure(figure, axes, folder, 'overlap-by-layer', profile)


def draw_sparsity(folder, profile):
    """Figure 5: a line for each task; a task and its reverse have one colour, tasks from the hub are solid."""
    figure, axes = new_figure()
    colours = {}
    for index in display_order(profile.tasks):
        task = profile.tasks[index]
        colour = colours.setdefault(min(task, reverse_task(task)), f'C{len(colours)}')
        axes.plot(profile.layers, sparsity(profile.masks)[index].tolist(), marker='.', color=colour, label=task,
                  linestyle='-' if task in from_hub(profile.tasks) else '--')
    axes.set(title='Sparsity', ylabel='share of neurons that are off')
    figure.legend(loc='outside right center', fontsize='small')  # inside, eighteen tasks would hide the lines
    return save_figure(figure, axes, folder, 'sparsity', profile)


def draw_tree(folder, profile, layer):
    """The tree of `print_tree`; nothing for one language."""
    languages, merges = language_tree(profile, layer)
    if not merges:
        return []
    figure, axes = new_figure()
    leaves = merges[-1][0] + merges[-1][1]
    ends = {(leaf,): (0, y) for y, leaf in enumerate(leaves)}  # where a cluster's branch ends
    for a, b, height in merges:
        (xa, ya), (xb, yb) = ends[a], ends[b]
        axes.plot([xa, height, height, xb], [ya, ya, yb, yb], color='C0')
        ends[a + b] = height, (ya + yb) / 2
    axes.set_yticks(range(len(leaves)), [languages[leaf] for leaf in leaves])
    axes.invert_yaxis()  # from top to bottom, as the text
    axes.set(title=f'Languages by the neurons that they share in {layer} (average linkage)', xlabel='1 - IoU')
    return save_figure(figure, axes, folder, f'tree-{layer}', profile)


def draw_lines(folder, name, lines, x, y):
    """Lines {label: (xs, ys)}, or with intervals (xs, ys, lows, highs), over axes with these labels."""
    figure, axes = new_figure()
    for label, (xs, ys, *interval) in lines.items():
        line, = axes.plot(xs, ys, marker='.', label=label)
        if interval:
            axes.fill_between(xs, *interval, color=line.get_color(), alpha=0.2)
    axes.set(xlabel=x, ylabel=y)
    axes.xaxis.get_major_locator().set_params(integer=True)  # there is no layer 1.25
    axes.ticklabel_format(style='plain', useOffset=False)
    axes.legend()
    return save(figure, folder, name)


def draw_gains(folder, name, pairs, gains):
    """What each direction of {direction: training pairs} gains, {label: ΔBLEU by direction}, by resource level."""
    figure, axes = new_figure()
    order = sorted(range(len(pairs)), key=lambda index: -list(pairs.values())[index])
    names = [list(pairs)[index] for index in order]
    for (label, values), marker in zip(gains.items(), 'osDv^'):
        axes.plot(names, [values[index] for index in order], marker, label=label)
    axes.axhline(0, color='gray', linewidth=1)
    for place in range(1, len(names)):
        if pairs[names[place]] != pairs[names[place - 1]]:
            axes.axvline(place - 0.5, color='gray', linestyle=':')
    axes.tick_params(axis='x', rotation=90)
    axes.set(title='Transfer (above 0) and interference (below 0), directions from high- to low-resource',
             ylabel='ΔBLEU vs. a bilingual model')
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
    return draw_lines(csv_path.parent, f'{csv_path.stem}.curve', lines, 'step', 'nats per target token')
