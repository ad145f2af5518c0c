"""BLEU and chrF++ of a system, direction by direction, and whether it differs from another by more than chance.

A test text is one draw of sentences; another draw would have given other scores. The paired bootstrap draws it again
and again out of itself and looks how far the difference of two systems moves. It is done here and not by sacreBLEU's
PairedTest because averages over directions need it as well; `p` is the same as there, and see `difference` for another.
"""
import numpy as np
from sacrebleu.metrics import BLEU, CHRF

SAMPLES = 1000  # so p is at least 1/1001; to find one direction of more than 50 significant, Holm needs more of them
SIGNIFICANT = 0.05
LENGTHS_DIFFER, TOO_LONG = 0.1, 1.2  # in lengths of the reference: from where on a direction gets an alarm


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
    return np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in each])


def bleu(stats):
    """The BLEU of a text from its sentences' statistics (n, 10)."""
    total = stats.sum(0).tolist()
    return BLEU.compute_bleu(total[:4], total[4:8], *total[8:], smooth_method='exp').score


def resample(stats, seed):
    """BLEU of texts as long as this one, its sentences (n, 10) drawn with replacement: (SAMPLES,).

    Which lines are drawn depends on seed and n alone: so both systems get the same, and all directions, if their test
    texts are of one length, as line-aligned ones are.
    """
    drawn = np.random.default_rng(seed).choice(len(stats), size=(SAMPLES, len(stats)))  # as sacreBLEU draws them
    return np.array([bleu(stats[lines]) for lines in drawn])


def difference(before, after, before_samples, after_samples):
    """The difference of two scores, its 95% interval, p as sacreBLEU's paired bootstrap has it, and a two-sided p.

    Both ask how often resampling alone moves the difference by as much as it is. sacreBLEU looks how far the *absolute*
    difference moves from its mean, which for all but small differences leaves one tail: where nothing differs it gives
    p < 0.05 in 11 of 100 cases (simulated), the two-sided p in 5. A difference of exactly 0 has a p of 1.
    """
    samples = after_samples - before_samples  # (SAMPLES,)
    sacrebleu = abs(samples) - abs(samples).mean() > abs(after - before)  # (SAMPLES,)
    two_sided = abs(samples - (after - before)) >= abs(after - before)  # (SAMPLES,)
    low, high = np.quantile(samples, [0.025, 0.975]).tolist()
    return {'difference': after - before, 'low': low, 'high': high,
            **{name: (int(moved.sum()) + 1) / (SAMPLES + 1) if after != before else 1.0
               for name, moved in (('p', sacrebleu), ('p_two_sided', two_sided))}}


def holm(p):
    """Holm's correction of {name: p}, so that 5 in 100 is the risk of any false alarm, not of each one.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none gets less than a smaller one, nor above 1.
    """
    corrected, largest = {}, 0.0
    for i, name in enumerate(sorted(p, key=p.get)):
        largest = corrected[name] = max(largest, min(1.0, p[name] * (len(p) - i)))
    return corrected


def groups(sizes):
    """Over which directions to average, {name: directions}; sizes {direction: training pairs} give the levels."""
    found = {'all': list(sizes), 'from en': [d for d in sizes if d.startswith('en-')],
             'into en': [d for d in sizes if d.endswith('-en')]}
    levels = sorted(set(sizes.values()), reverse=True)
    if len(levels) > 1:
        found |= {f'{level:,} pairs': [d for d in sizes if sizes[d] == level] for level in levels}
    return {name: members for name, members in found.items() if len(members) > 1}


def score(references, hypotheses, others, averaged, seed):
    """Score {direction: hypotheses} against {direction: references}; others are another system's hypotheses, or None.

    Returns {direction: row}, {name: row} of means over the directions that {name: directions} `averaged` lists, and the
    metrics' signatures. A row has BLEU, chrF++ and length, in lengths of the references; with others also other (their
    BLEU), other_length and what `difference` returns; that of a direction p_holm, too, which corrects the two-sided p.
    """
    rows, samples, signatures = {}, {}, set()
    for direction, lines in references.items():
        metrics = metrics_for(direction.split('-')[1])

        def system(translations):
            """Its BLEU, its length, and the BLEU of resampled texts."""
            stats = statistics(metrics['BLEU'], translations[direction], lines)  # (n, 10)
            length, reference_length = stats[:, 8:].sum(0).tolist()
            return bleu(stats), length / max(1, reference_length), others and resample(stats, seed)

        after, length, after_samples = system(hypotheses)
        row = rows[direction] = {'BLEU': after, 'length': length,
                                 'chrF++': metrics['chrF++'].corpus_score(hypotheses[direction], [lines]).score}
        if others:
            before, other_length, before_samples = system(others)
            samples[direction] = before_samples, after_samples
            row |= {'other': before, 'other_length': other_length,
                    **difference(before, after, before_samples, after_samples)}
        signatures |= {f'{name}|{metric.get_signature()}' for name, metric in metrics.items()}

    means = {name: {column: np.mean([rows[d][column] for d in members]).item()
                    for column in rows[members[0]] if column not in ('low', 'high', 'p', 'p_two_sided')}
             for name, members in averaged.items()}
    if others:
        for direction, p in holm({direction: row['p_two_sided'] for direction, row in rows.items()}).items():
            rows[direction]['p_holm'] = p
        for name, row in means.items():
            row |= difference(row['other'], row['BLEU'], *np.mean([samples[d] for d in averaged[name]], axis=0))
    return rows, means, sorted(signatures)


def verdicts(rows):
    """In how many directions a system wins, ties or loses (by p_holm), and in how many it is up or down at all."""
    up, down = ([row['p_holm'] < SIGNIFICANT for row in rows.values() if sign * row['difference'] > 0]
                for sign in (1, -1))
    return {'wins': sum(up), 'ties': len(rows) - sum(up) - sum(down), 'losses': sum(down),
            'up': len(up), 'down': len(down)}


def alarms(rows):
    """A line for each direction whose translations are too long: a system that rambles, or one that breaks off."""
    return [f'warning: {direction}: {row["length"]:.2f} times as long as the references'
            + (f', the other system {row["other_length"]:.2f} times' if 'other' in row else '')
            for direction, row in rows.items()
            if row['length'] > TOO_LONG or abs(row['length'] - row.get('other_length', row['length'])) > LENGTHS_DIFFER]


def print_scores(rows, means, other):
    """The table of directions and of means; `other` is the name of the system compared with, or None."""
    width = max(map(len, [*rows, *means]))
    print(f'{"":{width}}   BLEU  chrF++  length'
          + (f'  {other:>12}  length  difference   95% interval      p  two-sided   Holm' if other else ''))
    for name, row in [*rows.items(), *means.items()]:
        line = f'{name:{width}} {row["BLEU"]:6.2f}  {row["chrF++"]:6.2f}  {row["length"]:6.2f}'
        if other:
            line += (f'  {row["other"]:{max(12, len(other))}.2f}  {row["other_length"]:6.2f}'
                     f'  {row["difference"]:+10.2f}  {row["low"]:+6.2f} {row["high"]:+6.2f}  {row["p"]:.3f}'
                     f'  {row["p_two_sided"]:9.3f}')
            line += f'  {row["p_holm"]:.3f}' if 'p_holm' in row else ''
        print(line)
