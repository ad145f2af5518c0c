"""The report of a test: one HTML page, which loads no other file and runs no script."""
import contextlib
import math
from html import escape
from itertools import groupby
from pathlib import Path

from minispec.adapters import ADAPTERS
from minispec.figures.analysis import (Profile, diagonal_means, display_order, nearest_pair, place, read_curve,
                                       sparsity)
from minispec.files import write
from minispec.neurons import overlap
from minispec.scoring import SIGNIFICANT, verdict

EXAMPLES = 10  # translations that are shown
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 54rem; margin: auto; padding: 1rem; overflow-wrap: anywhere }
h2 { margin-top: 3rem; border-bottom: 1px solid }
div { overflow-x: auto; margin: 1rem 0 } figure { margin: 1.5rem 0 }
table, figcaption, p { font-size: .85rem } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .1rem .5rem; text-align: right; font-weight: normal; white-space: nowrap; vertical-align: top }
td:first-child, .text * { text-align: left } .text td + td { unicode-bidi: plaintext; white-space: normal }
.cells * { padding: .1rem; font-size: .7rem } .cells th { writing-mode: vertical-rl }
th { border-bottom: 1px solid } b { display: block; font-weight: normal }
text { fill: currentColor; font-size: 11px } path, polyline { fill: none; stroke: currentColor }
</style>
"""


def write_report(folder, found, systems, texts, curves):
    """Write the report of a system's test, and return its path: RUN/report.html for RUN/test.specialized.

    The report of another model or split has a name of its own, such as RUN/report.test.dense.html.

    folder   where the scores and translations lie
    found    what scores.json holds
    systems  {name: Checkpoint}, the tested one and then those that it is compared with
    texts    {what: {task: lines}}: the source, the reference, and each system's translations by its name
    curves   {name: path of NAME.csv}, which may be missing
    """
    name, checkpoint = next(iter(systems.items()))
    tasks, masks = checkpoint.tasks, checkpoint.model.masks.cpu()
    pairs = [checkpoint.data['pairs'].get(task, 0) for task in tasks]
    profile = Profile(tasks, masks, *overlap(masks), pairs, {})
    title = escape(f'{Path(name).name} on {found["data"]}, {found["split"]}')
    size = sum(p.numel() for p in checkpoint.model.parameters())
    facts = escape(f'{found["model"]}; base: {found["base"]}; parameters: {size:,}; beam size: {found["beam"]}')
    points = ''.join(f'<li>{escape(line)}</li>\n' for line in remarks(found, systems, profile))
    sections = {'What to look at': f'<ul>{points}</ul>', 'Scores': scores(found, name),
                'Translations': translations(texts, profile), 'Training curve': curve(systems, curves),
                'Neurons': neurons(profile), 'Settings': settings(systems)}
    body = ''.join(f'<h2>{heading}</h2>\n{content}\n' for heading, content in sections.items() if content)
    path = folder.with_name('report.html' if folder.name == 'test.specialized' else f'report.{folder.name}.html')
    write(path, f'{HEAD}<title>{title}</title></head>\n<body><h1>{title}</h1>\n<p>{facts}</p>\n{body}</body></html>\n')
    return path


def table(rows, kind=''):
    """Rows of cells, which are HTML; the first row has the headings."""
    lines = [''.join(f'<{tag}>{cell}</{tag}>' for cell in row) for row, tag in zip(rows, ['th', *['td'] * len(rows)])]
    return f'<div><table class="{kind}">' + ''.join(f'<tr>{line}</tr>\n' for line in lines) + '</table></div>\n'


def figure(height, drawn, caption):
    return f'<figure><svg viewBox="0 0 800 {height}">{drawn}</svg><figcaption>{caption}</figcaption></figure>\n'


def coloured(text, value):
    """A cell: blue if the value is above 0, orange if it is below; the farther from 0, the stronger."""
    paint = f'rgb({"40 120 255" if value > 0 else "255 130 0"} / {min(1, abs(value)):.2f})'
    return f'<b style="background:{paint}">{text}</b>'


def remarks(found, systems, profile):
    """What to look at: sentences that depend on the results."""
    (name, tested), *others = systems.items()
    for other, system in others:
        if system.base != tested.base:
            yield f'{name} and {other} were not made from the same base, so they differ in more than their masks.'
    fair = [other for other, system in others if 'base' in system.info or 'base' not in tested.info]
    for other in fair:  # a base is only half trained, so a lead over it says nothing
        rows = found['others'][other]['means'] or found['others'][other]['scores']
        first = next(iter(rows.values()))
        said = verdict(first).replace('open', 'not shown to be better or worse')
        yield (f'{name} against {other}: {said}, {interval(first)}. The interval says how much other test '
               'sentences could change this. Another seed can change more: before you believe it, repeat the run with '
               'another --seed, in another --run.')
        levels = [f'{key} {interval(row)}' for key, row in rows.items() if key.endswith(' pairs')]
        if levels:
            yield f'The same by training size: {"; ".join(levels)}. Where intervals overlap, the order may be chance.'
    if 'base' in tested.info and tested.info['phase'] != 'dense' and not fair:
        yield ('Nothing here is compared with dense.pt, so nothing shows what the masks contribute. '
               'python specialize.py --masks dense makes it.')
    if len(found['scores']) > 1:
        worst = min(found['scores'], key=lambda task: found['scores'][task]['BLEU'])
        yield f'{worst} has the lowest BLEU, {found["scores"][worst]["BLEU"]:.2f}. Read its translations.'
    if profile.masks.all() or tested.info['phase'] in ADAPTERS:  # adapters' masks leave out only other adapters
        return
    off = dict(zip(profile.layers, sparsity(profile.masks).mean(0).tolist()))
    low, high = min(off, key=off.get), max(off, key=off.get)
    yield (f'A direction works without {sum(off.values()) / len(off):.0%} of the neurons. This sparsity is lowest in '
           f'{low}, {off[low]:.0%}, and highest in {high}, {off[high]:.0%}. In the paper it falls through the encoder '
           'and rises through the decoder.')
    if pair := nearest_pair(profile):
        yield ('Above chance, {2} and {3} share most, in {4}: IoU {0:.2f}, expected by chance {1:.2f}. Are '
               'these languages related? Do they have the same training size?'.format(*pair))


def interval(row):
    return f'{row["difference"]:+.2f} BLEU (95% interval {row["low"]:+.2f} to {row["high"]:+.2f})'


def scores(found, name):
    """A table of means and directions: the BLEU of all systems, and the difference from the first of the others."""
    others = list(found['others'].values())
    rows = [['', 'chrF++', 'length', *(f'BLEU<br>{escape(system)}' for system in [name, *found['others']]),
             *['ΔBLEU', '95% interval', 'p'] * bool(others)]]
    for kind in ('means', 'scores'):
        for key, row in found[kind].items():
            each = [row, *(other[kind][key] for other in others)]
            rows.append([key, *(f'{x:.2f}' for x in [row['chrF++'], row['length'], *(row['BLEU'] for row in each)])])
            for row in each[1:2]:
                p = row.get('p_holm')  # means have none
                sure = row['low'] > 0 or row['high'] < 0 if p is None else p < SIGNIFICANT
                rows[-1] += [coloured(f'{row["difference"]:+.2f}', sure * math.copysign(0.5, row['difference'])),
                             f'{row["low"]:+.2f} to {row["high"]:+.2f}', '' if p is None else f'{p:.3f}']
    notes = [f'ΔBLEU: {name} minus {next(iter(found["others"]))}; blue (better) or orange (worse) if '
             f'significant. p: corrected by Holm; {found["samples"]:,} bootstrap samples. A base is only half trained, '
             'so a lead over it says nothing.'] if others else []
    return table(rows) + ''.join(f'<p>{escape(note)}</p>\n' for note in [*notes, *found['signatures']])


def translations(texts, profile):
    """EXAMPLES test sentences, spread evenly over the lines and over the directions, from high- to low-resource."""
    ranked = sorted(zip(profile.tasks, profile.train_sizes), key=lambda pair: -pair[1])
    result = '<p>Chosen by their place in the text, not by how good they are. ✓: word for word the reference.</p>\n'
    for i in range(EXAMPLES):
        task, pairs = ranked[i * len(ranked) // EXAMPLES]
        shown = {what: lines[task][i * len(lines[task]) // EXAMPLES] for what, lines in texts.items()}
        rows = [[escape(what) + ' ✓' * (what != 'reference' and text == shown['reference']), escape(text)]
                for what, text in shown.items()]
        result += table([[task, f'{pairs:,} training pairs'], *rows], 'text')
    return result


def curve(systems, curves):
    """Validation losses by step, on a logarithmic scale: each system's mean, and each direction as a faint line."""
    lines = {}  # {name: (steps, rows of N losses)}
    for name, system in systems.items():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # the file is missing or was edited
            steps, _, losses = read_curve(curves[name])
            if base := system.info.get('base'):  # its steps come first
                steps, losses = [base['step'], *(base['step'] + step for step in steps)], [base['valid'], *losses]
            lines[name] = steps, [[max(loss, 1e-4) for loss in row] for row in losses]
    every = [loss for _, losses in lines.values() for row in losses for loss in row]
    if not every:
        return ''
    last, low, high = max(steps[-1] for steps, _ in lines.values()), 0.9 * min(every), 1.1 * max(every)

    def x(step):
        return f'{40 + 720 * step / last:.1f}'

    def y(loss):
        return f'{260 - 250 * math.log(loss / low) / math.log(high / low):.1f}'

    ticks = [tick for e in range(-4, 4) for tick in (10.0 ** e, 2 * 10.0 ** e, 5 * 10.0 ** e) if low < tick < high]
    if len(ticks) < 2:  # the losses are too near to each other
        ticks = [min(every), max(every)]
    drawn = ''.join(f'<path d="M40 {y(tick)}h720" opacity=".2"/><text x="5" y="{y(tick)}" dy="4">{tick:.3g}</text>'
                    for tick in ticks)
    drawn += ''.join(f'<text x="{x(step)}" y="280" text-anchor="middle">{step:,}</text>'
                     for step in sorted({steps[end] for steps, _ in lines.values() for end in (0, -1)}))
    legend = []
    for number, (name, (steps, losses)) in enumerate(reversed(lines.items())):  # the tested one on top
        paint, means = f'hsl({60 + 155 * number} 75% 45%)', [sum(row) / len(row) for row in losses]
        thick = f'stroke-width:{len(lines) - number + 1}'  # lower lines are thicker, to stay visible
        for values, style in [*((each, 'opacity:.3') for each in zip(*losses)), (means, thick)]:
            points = ' '.join(f'{x(step)},{y(value)}' for step, value in zip(steps, values))
            drawn += f'<polyline points="{points}" style="stroke:{paint};{style}"/>'
        legend.append(f'<span style="color:{paint}">■</span> {escape(name)}, final loss {means[-1]:.3f}')
    return figure(290, drawn, 'Validation loss in nats per target token over the steps of base and continued training. '
                              f'Thick: mean; faint: each direction. {"; ".join(legend)}.')


def neurons(profile):
    """A map for each layer; for the last of each side, all overlaps. Nothing if all directions have all neurons."""
    if profile.masks.all():
        return ''
    last = [profile.layers[len(profile.layers) // 2 - 1], profile.layers[-1]] if len(profile.tasks) > 1 else []
    return ('<p>A row is a direction, a column a neuron; filled: the direction has it. Neurons that most directions have '
            'come first.</p>\n'
            + ''.join(neuron_map(profile, layer) for layer in profile.layers)
            + '<p>Overlap: IoU of two directions in percent, the neurons that both have over those that either has. '
              'Blue: above the value expected by chance; orange: below. The encoder sees the source language alone, so '
              'on line-aligned text, directions from one language have the same neurons.</p>\n' * bool(last)
            + ''.join(overlaps(profile, layer) for layer in last))


def neuron_map(profile, layer):
    """Which direction has which neurons. Rows are ordered by family, columns by how many directions have the neuron."""
    order, masks = display_order(profile.tasks), profile.masks[:, profile.layers.index(layer)]  # (N, F)
    columns = sorted(masks[order].T.tolist(), key=lambda column: (-sum(column), [not on for on in column]))  # (F, N)
    drawn, y = '', 0
    tasks = [profile.tasks[task] for task in order]
    for (_, name), rows in groupby(zip(tasks, zip(*columns)), lambda row: place(row[0])):
        drawn += f'<text x="690" y="{y + 18}">{name}</text>'
        for task, row in rows:
            y += 14
            cells = ''.join('h1' if on else 'm1 0' for on in row)
            drawn += (f'<text x="0" y="{y + 4}">{task}</text><path stroke-width="12" d="M0 0{cells}" '
                      f'transform="translate(60 {y}) scale({620 / len(row):.4f} 1)"/>')
        y += 8
    off = sparsity(masks)  # (N,)
    return figure(y, drawn, f'{layer}: sparsity {off.mean():.0%} (by direction, {off.min():.0%} to {off.max():.0%})')


def overlaps(profile, layer):
    """The overlap of every two directions, coloured by how far it is from chance."""
    order, (iou, chance) = display_order(profile.tasks), profile.overlap(layer)  # (N, N) each
    rows = [['', *(profile.tasks[b] for b in order)]]
    for a in order:
        cells = zip((100 * iou[a, order]).tolist(), (iou - chance)[a, order].tolist())
        rows.append([profile.tasks[a], *(coloured(f'{percent:.0f}', excess) for percent, excess in cells)])
    return f'<p>{layer}, expected by chance: {100 * diagonal_means(chance)[1]:.0f}</p>\n' + table(rows, 'cells')


def settings(systems):
    """The settings of the base and of the systems made from it."""
    tested = next(iter(systems.values())).info
    columns = {'base': tested.get('base', tested)['settings']} | {
        escape(name): system.info['settings'] for name, system in systems.items() if 'base' in system.info}
    names = dict.fromkeys(name for column in columns.values() for name, value in column.items()
                          if value not in (None, False) and name not in ('run', 'device'))
    rows = [[name, *(escape(str(column.get(name, ''))) for column in columns.values())] for name in names]
    return table([['', *columns], *rows])
