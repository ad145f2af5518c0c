"""BLEU and chrF++ of a system, task by task, and whether it differs from others by more than chance.

A test set is one sample of sentences; another sample would give other scores. The paired bootstrap (Koehn 2004) draws
its sentences again and again, with replacement, and measures how much the difference of two systems varies. It is
implemented here because sacreBLEU's PairedTest cannot test means over tasks.
"""
import re
from itertools import zip_longest
from pathlib import Path

import torch
from sacrebleu.metrics import BLEU, CHRF

from minispec.tasks import HUB, from_hub, into_hub, split_task

# Languages and scripts without spaces between words: sacreBLEU's default tokenizer would take a sentence for one word.
# Korean has spaces, but also a tokenizer of its own.
TOKENIZERS = {
    'zh': 'zh zho chi cmn yue lzh wuu nan hak gan hsn cdo cjy cpx czh czo mnp cn hans hant hani',
    'ja-mecab': 'ja jpn jp jpan',
    'ko-mecab': 'ko kor kore hang',
    'char': 'th tha lo lao km khm my mya bur shn bo bod tib dz dzo thai laoo khmr mymr tibt',
}
MIN_SAMPLES, SAMPLES_PER_TASK = 1000, 100  # p is at least 1 / (samples + 1), and Holm multiplies it by up to N
BLOCK = 2 ** 17  # lines that are drawn at a time: bounds the memory, and fits a processor's cache
SIGNIFICANT = 0.05
MARGIN = 0.5  # in BLEU, fixed before the experiments were run: smaller differences do not matter
LENGTHS_DIFFER, TOO_LONG = 0.1, 1.2  # of length / reference length, for `alarms`


def tokenizer_for(language):
    """The name of sacreBLEU's tokenizer for a language such as de, ZH, zho_Hans or zh-CN.

    A region is ignored: ms_MY is Malay, though my is Burmese. A script (four letters) counts if the code is unknown.
    """
    code, *subtags = re.split('[_-]', language.lower())
    for part in [code, *(subtag for subtag in subtags if len(subtag) == 4)]:
        for tokenizer, codes in TOKENIZERS.items():
            if part in codes.split():
                return tokenizer
    return BLEU.TOKENIZER_DEFAULT


def metrics_for(language, references):
    """BLEU with the tokenizer that the language needs, or over characters where that is not installed; and chrF++."""
    try:
        metric = BLEU(tokenize=tokenizer_for(language), references=[references])
    except RuntimeError:
        metric = BLEU(tokenize='char', references=[references])
    return {'BLEU': metric, 'chrF++': CHRF(word_order=2)}


def statistics(metric, hypotheses):
    """What BLEU adds up over n sentences, (n, 10): correct n-grams and all n-grams of orders 1 to 4, and both lengths.

    sacreBLEU's own PairedTest calls the same method. Unlike a corpus_score for each sentence, it counts the references'
    n-grams once for all systems, and warns of a text that looks tokenized.
    """
    stats = torch.tensor(metric._extract_corpus_statistics(hypotheses, None), dtype=torch.double)  # lengths first
    return stats.roll(-2, dims=1)  # (n, 10)


def bleu(totals):
    """The BLEU (...) of texts from the sums of their sentences' statistics (..., 10), as BLEU.compute_bleu has it.

    The first order without a correct n-gram gets a count of 1/2, the next such order 1/4, and so on.
    """
    right, every = totals[..., :4], totals[..., 4:8]  # (..., 4) each
    length, reference_length = totals[..., 8], totals[..., 9]  # (...) each
    smoothed = torch.where(right > 0, right, 0.5 ** (right == 0).cumsum(-1))  # (..., 4)
    brevity = (1 - reference_length / length.clamp(min=1e-9)).clamp(max=0).exp()  # (...), 0 for a text of no words
    score = 100 * brevity * (smoothed / every).log().mean(-1).exp()  # (...)
    return torch.where((right > 0).any(-1) & (every > 0).all(-1), score, 0.0)


def resample(stats, samples, seed):
    """BLEU (..., samples) of bootstrap samples: n sentences drawn with replacement from the n of stats (..., n, 10).

    Which lines are drawn depends on seed and n alone. So they are the same for all systems, and also for all tasks
    whose test texts have the same number of lines, such as line-aligned ones.
    """
    n, generator, found = stats.shape[-2], torch.Generator().manual_seed(seed), []
    for block in torch.arange(samples).split(max(1, BLOCK // n)):
        drawn = torch.randint(n, (len(block), n), generator=generator)  # (block, n)
        times = torch.zeros(drawn.shape, dtype=torch.double).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        found.append(bleu(times @ stats))  # (block, n) @ (..., n, 10) -> (..., block)
    return torch.cat(found, dim=-1)


def difference(before, after, before_samples, after_samples):
    """The difference of two scores, its 95% interval, and p: how often resampling moves it by its own size or more.

    p is two-sided. sacreBLEU's p is smaller, because it compares *absolute* differences with their mean, and so leaves
    out one tail. Between equal systems it is below 0.05 in 11 of 100 cases (simulated), and this one in 5. A difference
    of exactly 0 has a p of 1.
    """
    samples = after_samples - before_samples  # (samples,)
    moved = (samples - (after - before)).abs() >= abs(after - before)  # (samples,)
    low, high = torch.quantile(samples, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    p = (int(moved.sum()) + 1) / (len(samples) + 1) if after != before else 1.0
    return {'difference': after - before, 'low': low, 'high': high, 'p': p}


def differences(before, after, samples):
    """What `difference` returns for each task, and p_holm. All are by task; `samples` are pairs (before, after)."""
    rows = {task: difference(before[task], after[task], *samples[task]) for task in before}
    for task, p in holm({task: row['p'] for task, row in rows.items()}).items():
        rows[task]['p_holm'] = p
    return rows


def holm(p):
    """Holm's correction of {name: p}: at p < 0.05, the risk of one or more false positives among all is 5%.

    The smallest of m is multiplied by m, the next by m - 1, and so on. None becomes less than the one before, or more
    than 1.
    """
    corrected, largest = {}, 0.0
    for i, name in enumerate(sorted(p, key=p.get)):
        largest = corrected[name] = max(largest, min(1.0, p[name] * (len(p) - i)))
    return corrected


def groups(sizes):
    """The tasks to average over, {name: tasks}. `sizes`, {task: training pairs}, gives the resource levels."""
    found = {'all': list(sizes), f'from {HUB}': from_hub(sizes), f'into {HUB}': into_hub(sizes)}
    levels = sorted(set(sizes.values()), reverse=True)
    if len(levels) > 1:
        found |= {f'{level:,} pairs': [task for task in sizes if sizes[task] == level] for level in levels}
    return {name: members for name, members in found.items() if len(members) > 1}


def score(references, hypotheses, others, averaged, seed):
    """Score {task: hypotheses} against {task: references}, and against others, {name: {task: hypotheses}}.

    Returns what scores.json holds of it:
      scores      {task: row} with BLEU, chrF++, and length over the references' length
      means       {name: row} of means over the tasks that {name: tasks} `averaged` lists
      signatures  {signature: tasks} of the metrics
      samples     the number of bootstrap samples; 0 without others
      others      {name: the scores and means of that system, without chrF++ and with what `compare` adds}
    """
    systems, stats, signatures = [hypotheses, *others.values()], {}, {}
    scores = [{} for _ in systems]
    for task, lines in references.items():
        metrics = metrics_for(split_task(task)[1], lines)
        stats[task] = torch.stack([statistics(metrics['BLEU'], system[task]) for system in systems])  # (systems, n, 10)
        for rows, totals in zip(scores, stats[task].sum(1)):  # (systems, 10)
            rows[task] = {'BLEU': bleu(totals).item(), 'length': (totals[8] / totals[9].clamp(min=1)).item()}
        scores[0][task]['chrF++'] = metrics['chrF++'].corpus_score(hypotheses[task], [lines]).score
        for name, metric in metrics.items():
            signatures.setdefault(f'{name}|{metric.get_signature()}', []).append(task)
    tested, *compared = ({'scores': rows, 'means': {name: mean_row(rows, tasks) for name, tasks in averaged.items()}}
                         for rows in scores)
    count = max(MIN_SAMPLES, SAMPLES_PER_TASK * len(references)) if others else 0
    samples = {task: resample(x, count, seed) for task, x in stats.items()} if others else {}  # (systems, count) each
    for i, other in enumerate(compared, start=1):
        compare(tested, other, {task: x[[i, 0]] for task, x in samples.items()}, averaged)  # (2, count) each
    return {**tested, 'signatures': signatures, 'samples': count, 'others': dict(zip(others, compared))}


def mean_row(rows, tasks):
    """The row of the mean over some tasks."""
    return {column: sum(rows[task][column] for task in tasks) / len(tasks) for column in rows[tasks[0]]}


def compare(tested, other, samples, averaged):
    """Add to the other system's rows what `difference` returns, for tasks also p_holm; then add the verdicts.

    `samples` are {task: (2, count)}, of the other system and of the tested one. The samples of a mean are the means of
    the tasks' samples.
    """
    before, after = ({task: row['BLEU'] for task, row in system['scores'].items()} for system in (other, tested))
    for task, row in differences(before, after, samples).items():
        other['scores'][task] |= row
    for name, row in other['means'].items():
        both = torch.stack([samples[task] for task in averaged[name]]).mean(0)  # (2, samples)
        row |= difference(row['BLEU'], tested['means'][name]['BLEU'], *both)
    other['verdicts'] = verdicts(other['scores'])


def verdicts(rows):
    """In how many tasks a system wins, ties or loses (by p_holm), and is up or down (even if not significantly)."""
    up = [row['p_holm'] < SIGNIFICANT for row in rows.values() if row['difference'] > 0]
    down = [row['p_holm'] < SIGNIFICANT for row in rows.values() if row['difference'] < 0]
    return {'wins': sum(up), 'ties': len(rows) - sum(up) - sum(down), 'losses': sum(down),
            'up': len(up), 'down': len(down)}


def verdict(row):
    """What the 95% interval of a difference, from `low` to `high`, says in words."""
    small = max(-row['low'], row['high']) < MARGIN
    if row['low'] > 0 or row['high'] < 0:
        return ('better' if row['low'] > 0 else 'worse') + f', by less than {MARGIN}' * small
    return f'within {MARGIN} BLEU' if small else 'open'


def alarms(found):
    """A line for each task whose length is above TOO_LONG, or more than LENGTHS_DIFFER from another system's."""
    lines = []
    for task, row in found['scores'].items():
        others = {name: other['scores'][task]['length'] for name, other in found['others'].items()}
        far = {name: x for name, x in others.items() if abs(row['length'] - x) > LENGTHS_DIFFER}
        if row['length'] > TOO_LONG or far:
            lines.append(f'warning: {task}: translations are {row["length"]:.2f} times as long as the references'
                         + ''.join(f', those of {name} {x:.2f} times' for name, x in far.items()))
    return lines


def print_scores(found):
    """The table of tasks and of means, beside the first of the other systems; alarms, and the metrics' signatures."""
    table, others = [['', 'BLEU', 'chrF++', 'length']], {}
    for path, other in list(found['others'].items())[:1]:
        table[0] += [Path(path).name, 'length', 'ΔBLEU', '95% interval', 'p']
        others = {**other['scores'], **other['means']}
    for name, row in {**found['scores'], **found['means']}.items():
        table.append([name, *(f'{row[column]:.2f}' for column in ('BLEU', 'chrF++', 'length'))])
        if others:
            other = others[name]
            table[-1] += [f'{other["BLEU"]:.2f}', f'{other["length"]:.2f}', *difference_cells(other)]
            table[-1] += [f'{other["p_holm"]:.3f}'] if name in found['scores'] else []
    print_table(table)
    if others:
        print(f'p: two-sided, corrected by Holm, from {found["samples"]:,} bootstrap samples')
    for line in alarms(found):
        print(line)
    for signature, tasks in found['signatures'].items():
        print('all directions' if len(tasks) == len(found['scores']) else ', '.join(tasks), signature, sep=': ')


def print_systems(found, tested):
    """A row for each other system and one for the `tested`: its means (or its only score), and how the two differ."""
    kind = 'means' if found['means'] else 'scores'
    first = next(iter(found[kind]))  # the mean over all tasks
    table = [['BLEU', *found[kind], 'ΔBLEU', '95% interval', 'wins', 'ties', 'losses']]
    for name, system in [*found['others'].items(), (tested, found)]:
        table.append([name, *(f'{row["BLEU"]:.2f}' for row in system[kind].values())])
        if system is not found:
            counts = [str(system['verdicts'][verdict]) for verdict in ('wins', 'ties', 'losses')]
            table[-1] += [*difference_cells(system[kind][first]), *counts]
    print()
    print_table(table)
    print(f"ΔBLEU: {tested} minus the row's system, column {first}; wins, losses: directions with p < {SIGNIFICANT}")


def difference_cells(row):
    """Two cells of a table: the difference and its interval."""
    return [f'{row["difference"]:+.2f}', f'{row["low"]:+6.2f} {row["high"]:+6.2f}']


def print_table(table):
    """Print rows of cells, each column as wide as its widest cell. A row may end early."""
    widths = [max(map(len, column)) for column in zip_longest(*table, fillvalue='')]
    for first, *cells in table:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:])), sep='  ')
