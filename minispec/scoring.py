"""BLEU and chrF++ of a system, task by task, and whether it differs from another by more than chance.

A test text is one draw of sentences; another draw would have given other scores. The paired bootstrap draws it again
and again out of itself and looks how far the difference of two systems moves. It is done here and not by sacreBLEU's
PairedTest, because averages over tasks need it as well.
"""
import torch
from sacrebleu.metrics import BLEU, CHRF

from minispec.tasks import HUB, from_hub, into_hub, split_task

SAMPLES = 1000  # so p is at least 1/1001; to find one task of more than 50 significant, Holm needs more of them
SIGNIFICANT = 0.05
LENGTHS_DIFFER, TOO_LONG = 0.1, 1.2  # in lengths of the reference: from where on a task gets an alarm


def metrics_for(language):
    """BLEU with the tokenizer that the language needs, or over characters where that is not installed; and chrF++."""
    code = language.split('_')[0]  # zho_Hans, zh_CN
    try:
        bleu = BLEU(trg_lang={'zho': 'zh', 'jpn': 'ja', 'kor': 'ko'}.get(code, code))
    except RuntimeError:
        bleu = BLEU(tokenize='char')
    return {'BLEU': bleu, 'chrF++': CHRF(word_order=2)}


def statistics(metric, hypotheses, references):
    """What BLEU adds up over n sentences, (n, 10): right n-grams and all n-grams for n = 1 ... 4, and both lengths."""
    each = [metric.corpus_score([hypothesis], [[reference]]) for hypothesis, reference in zip(hypotheses, references)]
    return torch.tensor([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in each],
                        dtype=torch.double)


def bleu(total):
    """The BLEU of a text from the sum of its sentences' statistics (10,)."""
    total = total.long().tolist()
    return BLEU.compute_bleu(total[:4], total[4:8], *total[8:], smooth_method='exp').score


def resample(stats, seed):
    """BLEU of texts as long as this one, its sentences (n, 10) drawn with replacement: (SAMPLES,).

    Which lines are drawn depends on seed and n alone. So both systems get the same, and so do all tasks if their test
    texts have the same number of lines, as line-aligned ones have.
    """
    n = len(stats)
    drawn = torch.randint(n, (SAMPLES, n), generator=torch.Generator().manual_seed(seed))  # (SAMPLES, n)
    times = torch.zeros(SAMPLES, n, dtype=torch.double).scatter_add_(1, drawn, torch.ones_like(drawn).double())
    return torch.tensor([bleu(total) for total in times @ stats], dtype=torch.double)  # (SAMPLES, 10) -> (SAMPLES,)


def difference(before, after, before_samples, after_samples):
    """The difference of two scores, its 95% interval, and p: how often chance moves the difference by as much.

    p is two-sided. sacreBLEU's own is smaller, because it compares *absolute* differences with their mean, which leaves
    out one tail: where nothing differs it gives p < 0.05 in 11 of 100 cases (simulated), this one in 5. A difference of
    exactly 0 has a p of 1.
    """
    samples = after_samples - before_samples  # (SAMPLES,)
    moved = (samples - (after - before)).abs() >= abs(after - before)  # (SAMPLES,)
    low, high = torch.quantile(samples, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    p = (int(moved.sum()) + 1) / (SAMPLES + 1) if after != before else 1.0
    return {'difference': after - before, 'low': low, 'high': high, 'p': p}


def holm(p):
    """Holm's correction of {name: p}, so that 5 in 100 is the risk of any false alarm, not of each one.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none gets less than a smaller one, nor above 1.
    """
    corrected, largest = {}, 0.0
    for i, name in enumerate(sorted(p, key=p.get)):
        largest = corrected[name] = max(largest, min(1.0, p[name] * (len(p) - i)))
    return corrected


def groups(sizes):
    """Over which tasks to average, {name: tasks}. `sizes`, {task: training pairs}, gives the resource levels."""
    found = {'all': list(sizes), f'from {HUB}': from_hub(sizes), f'into {HUB}': into_hub(sizes)}
    levels = sorted(set(sizes.values()), reverse=True)
    if len(levels) > 1:
        found |= {f'{level:,} pairs': [task for task in sizes if sizes[task] == level] for level in levels}
    return {name: members for name, members in found.items() if len(members) > 1}


def score(references, hypotheses, others, averaged, seed):
    """Score {task: hypotheses} against {task: references}; `others` are those of another system, or None.

    Returns {task: row}, {name: row} of means over the tasks that {name: tasks} `averaged` lists, and the metrics'
    signatures. A row has BLEU, chrF++ and length, in lengths of the references; with others also other (their BLEU),
    other_length and what `difference` returns. A task's row has p_holm, too.
    """
    rows, samples, signatures = {}, {}, set()
    for task, lines in references.items():
        metrics = metrics_for(split_task(task)[1])
        after, length, stats = score_one(metrics['BLEU'], hypotheses[task], lines)
        rows[task] = {'BLEU': after, 'chrF++': metrics['chrF++'].corpus_score(hypotheses[task], [lines]).score,
                      'length': length}
        if others:
            before, other_length, other_stats = score_one(metrics['BLEU'], others[task], lines)
            samples[task] = resample(other_stats, seed), resample(stats, seed)  # (SAMPLES,) each
            rows[task] |= {'other': before, 'other_length': other_length,
                           **difference(before, after, *samples[task])}
        signatures |= {f'{name}|{metric.get_signature()}' for name, metric in metrics.items()}
    means = {name: mean_row(rows, samples, members) for name, members in averaged.items()}
    if others:
        for task, p in holm({task: row['p'] for task, row in rows.items()}).items():
            rows[task]['p_holm'] = p
    return rows, means, sorted(signatures)


def score_one(metric, hypotheses, references):
    """BLEU, the length in lengths of the references, and the statistics (n, 10) of one system in one task."""
    stats = statistics(metric, hypotheses, references)  # (n, 10)
    total = stats.sum(0)  # (10,)
    length, reference_length = total[8:].tolist()
    return bleu(total), length / max(1, reference_length), stats


def mean_row(rows, samples, members):
    """The row of the mean over some tasks. The bootstrap draws the same lines in all of them, and takes their mean."""
    columns = [column for column in ('BLEU', 'chrF++', 'length', 'other', 'other_length') if column in rows[members[0]]]
    row = {column: sum(rows[task][column] for task in members) / len(members) for column in columns}
    if samples:
        before = torch.stack([samples[task][0] for task in members]).mean(0)  # (SAMPLES,)
        after = torch.stack([samples[task][1] for task in members]).mean(0)
        row |= difference(row['other'], row['BLEU'], before, after)
    return row


def verdicts(rows):
    """In how many tasks a system wins, ties or loses (by p_holm), and in how many it is up or down at all."""
    up = [row['p_holm'] < SIGNIFICANT for row in rows.values() if row['difference'] > 0]
    down = [row['p_holm'] < SIGNIFICANT for row in rows.values() if row['difference'] < 0]
    return {'wins': sum(up), 'ties': len(rows) - sum(up) - sum(down), 'losses': sum(down),
            'up': len(up), 'down': len(down)}


def alarms(rows):
    """A line for each task whose translations are much longer than the references or than the other system's."""
    found = []
    for task, row in rows.items():
        other_length = row.get('other_length', row['length'])
        if row['length'] > TOO_LONG or abs(row['length'] - other_length) > LENGTHS_DIFFER:
            compared = f', those of the other system {other_length:.2f} times' if 'other_length' in row else ''
            found.append(f'warning: {task}: translations are {row["length"]:.2f} times as long as the references'
                         + compared)
    return found


def print_scores(rows, means, other):
    """The table of tasks and of means; `other` is the name of the system compared with, or None."""
    width = max(len(name) for name in [*rows, *means])
    header = f'{"":{width}}   BLEU  chrF++  length'
    if other:
        header += f'  {other:>12}  length   ΔBLEU   95% interval      p   Holm'
    print(header)
    for name, row in [*rows.items(), *means.items()]:
        line = f'{name:{width}} {row["BLEU"]:6.2f}  {row["chrF++"]:6.2f}  {row["length"]:6.2f}'
        if other:
            line += (f'  {row["other"]:{max(12, len(other))}.2f}  {row["other_length"]:6.2f}  {row["difference"]:+6.2f}'
                     f'  {row["low"]:+6.2f} {row["high"]:+6.2f}  {row["p"]:.3f}')
        if 'p_holm' in row:
            line += f'  {row["p_holm"]:.3f}'
        print(line)
