"""Scores, their bootstrap and its correction, by hand and against sacreBLEU."""
import random

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF

from minispec.scoring import (SAMPLES, alarms, bleu, difference, groups, holm, metrics_for, print_scores, resample,
                              score, statistics, verdicts)

REFERENCES = [f'the {noun} {verb} the {other} in the old house' for noun in ('dog', 'cat', 'man')
              for verb in ('sees', 'likes') for other in ('bird', 'boat', 'tree', 'hat')]
GOOD = [line if i % 5 else line.replace('old', 'red') for i, line in enumerate(REFERENCES)]
BAD = [line if i % 3 else line.replace('sees the', 'see a') for i, line in enumerate(REFERENCES)]
SHORT = ['the', 'a bird', 'house', *REFERENCES[3:]]  # lines without any 4-gram
BACKWARDS = [' '.join(reversed(line.split())) for line in REFERENCES]  # no right 4-gram: BLEU smooths


def test_bleu_and_chrf_are_sacrebleus_corpus_scores():
    for hypotheses in (GOOD, BAD, SHORT, BACKWARDS):
        row = score({'en-de': REFERENCES}, {'en-de': hypotheses}, None, {}, seed=1)[0]['en-de']
        assert row['BLEU'] == pytest.approx(BLEU().corpus_score(hypotheses, [REFERENCES]).score)
        assert row['chrF++'] == pytest.approx(CHRF(word_order=2).corpus_score(hypotheses, [REFERENCES]).score)
        assert row['length'] == pytest.approx(sum(len(line.split()) for line in hypotheses) / (9 * len(REFERENCES)))


# The paired bootstrap ------------------------------------------------------------------------------------------------

def test_difference_interval_and_p_by_hand():
    """Ten samples in a thousand lie as far from the difference of 2 as that lies from 0: five at 0, five at 4."""
    after = torch.tensor([30.0] * 5 + [32.0] * 990 + [34.0] * 5, dtype=torch.double)
    found = difference(30.0, 32.0, torch.full((SAMPLES,), 30.0, dtype=torch.double), after)
    assert found == {'difference': 2.0, 'low': 2.0, 'high': 2.0, 'p': 11 / 1001}
    after[:40], after[-40:] = 30.5, 33.0  # 4% on each side: inside the interval of 95%
    found = difference(30.0, 32.0, torch.full((SAMPLES,), 30.0, dtype=torch.double), after)
    assert (found['low'], found['high'], found['p']) == (0.5, 3.0, 1 / 1001)


def test_p_and_interval_are_those_of_texts_drawn_and_scored_by_sacrebleu():
    """300 texts drawn by another generator, each scored as a text: the same p and interval up to chance."""
    generator, differences, n = random.Random(1), [], 12  # lines
    for _ in range(300):
        drawn = generator.choices(range(n), k=n)
        references = [[REFERENCES[i] for i in drawn]]
        good, bad = [BLEU().corpus_score([lines[i] for i in drawn], references).score for lines in (GOOD, BAD)]
        differences.append(good - bad)
    row = score({'en-de': REFERENCES[:n]}, {'en-de': GOOD[:n]}, {'en-de': BAD[:n]}, {}, seed=7)[0]['en-de']
    assert row['difference'] == pytest.approx(row['BLEU'] - row['other'])
    p = sum(abs(x - row['difference']) >= abs(row['difference']) for x in differences) / 300
    assert 0.02 < p < 0.98 and row['p'] == pytest.approx(p, abs=0.1)  # 3.5 standard deviations
    differences.sort()
    sixth = (row['high'] - row['low']) / 6  # 4 standard deviations of either end
    assert (row['low'], row['high']) == pytest.approx((differences[7], differences[-8]), abs=sixth)


def test_a_resampled_text_is_scored_as_a_text():
    """Only one line is right. A text that draws it twice is twice as good as one that draws it once."""
    hypotheses = [REFERENCES[0], *['wrong'] * 4]
    stats = statistics(BLEU(), hypotheses, REFERENCES[:5])  # (5, 10)
    possible = [bleu(times * stats[0] + (5 - times) * stats[1]) for times in range(6)]
    found = resample(stats, seed=1)  # (SAMPLES,)
    assert len(found) == SAMPLES and {round(x, 6) for x in found.tolist()} == {round(x, 6) for x in possible}
    assert torch.equal(found, resample(stats, seed=1)) and not torch.equal(found, resample(stats, seed=2))


def test_a_tie_is_not_significant_and_has_no_interval():
    two = ('en-de', 'en-fr')
    rows, means, _ = score(dict.fromkeys(two, REFERENCES), dict.fromkeys(two, GOOD), dict.fromkeys(two, GOOD),
                           {'all': [*two]}, seed=1)
    for row in (rows['en-de'], means['all']):
        assert [row[column] for column in ('difference', 'low', 'high', 'p')] == [0, 0, 0, 1]
    assert verdicts(rows) == {'wins': 0, 'ties': 2, 'losses': 0, 'up': 0, 'down': 0}


def test_a_mean_draws_the_same_lines_in_all_its_tasks():
    """Two tasks with the same text: their mean is as sure as either. One the other's opposite: it is always 0."""
    both = dict.fromkeys(('en-de', 'en-fr'), REFERENCES)
    rows, means, _ = score(both, dict.fromkeys(both, GOOD), dict.fromkeys(both, BAD), {'all': [*both]}, seed=1)
    for column in ('BLEU', 'chrF++', 'length', 'other', 'difference', 'low', 'high', 'p'):
        assert means['all'][column] == pytest.approx(rows['en-de'][column]), column
    means = score(both, {'en-de': GOOD, 'en-fr': BAD}, {'en-de': BAD, 'en-fr': GOOD}, {'all': [*both]}, seed=1)[1]
    assert means['all']['low'] == means['all']['high'] == 0


# Many tasks ----------------------------------------------------------------------------------------------------------

def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which is less than the one before it and so gets as much."""
    corrected = holm({'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': 0.005})
    assert corrected == pytest.approx({'d': 0.02, 'a': 0.03, 'c': 0.06, 'b': 0.06})
    assert holm({'a': 0.9, 'b': 0.8}) == {'a': 1, 'b': 1}


def test_the_p_of_all_tasks_are_corrected_together():
    references = dict.fromkeys(('en-de', 'en-fr', 'de-en'), REFERENCES)
    rows = score(references, {**references, 'de-en': GOOD}, {'en-de': BAD, 'en-fr': GOOD, 'de-en': BAD}, {}, seed=1)[0]
    corrected = holm({task: row['p'] for task, row in rows.items()})
    assert {task: row['p_holm'] for task, row in rows.items()} == corrected
    assert any(row['p_holm'] > row['p'] for row in rows.values())


def test_verdicts_count_what_is_sure_apart_from_what_is_up():
    rows = {name: {'difference': difference, 'p_holm': p}
            for name, difference, p in (('a', 2, 0.01), ('b', 1, 0.05), ('c', -1, 0.049), ('d', -1, 1), ('e', 0, 1))}
    assert verdicts(rows) == {'wins': 1, 'ties': 3, 'losses': 1, 'up': 2, 'down': 2}


def test_an_alarm_names_the_task_whose_translations_are_too_long_or_of_another_length():
    rows = {'en-de': {'length': 1.15}, 'en-fr': {'length': 1.25}}
    assert [line.split()[1] for line in alarms(rows)] == ['en-fr:']
    rows = {'en-de': {'length': 1.0, 'other_length': 0.95}, 'en-fr': {'length': 0.8, 'other_length': 1.0}}
    assert [line.split()[1] for line in alarms(rows)] == ['en-fr:']


def test_averages_are_over_sides_and_training_sizes():
    sizes = {'en-cs': 9, 'en-de': 8, 'cs-en': 9, 'de-en': 8, 'de-cs': 1}
    assert groups(sizes) == {'all': [*sizes], 'from en': ['en-cs', 'en-de'], 'into en': ['cs-en', 'de-en'],
                             '9 pairs': ['en-cs', 'cs-en'], '8 pairs': ['en-de', 'de-en']}
    assert groups({'en-de': 4, 'de-en': 4}) == {'all': ['en-de', 'de-en']}  # one size, one task a side


def test_the_table_says_which_number_is_which(capsys):
    references = dict.fromkeys(('en-de', 'en-fr'), REFERENCES)
    rows, means, _ = score(references, {'en-de': GOOD, 'en-fr': BAD}, dict.fromkeys(references, BAD),
                           {'all': [*references]}, seed=1)
    print_scores(rows, means, 'dense')
    header, first, _, mean = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[:6] == ['BLEU', 'chrF++', 'length', 'dense', 'length', 'ΔBLEU']
    for line, row in ((first, rows['en-de']), (mean, means['all'])):
        columns = ['BLEU', 'chrF++', 'length', 'other', 'other_length', 'difference', 'low', 'high', 'p']
        assert [float(cell) for cell in line[1:10]] == pytest.approx([row[column] for column in columns], abs=0.006)
    assert float(first[10]) == pytest.approx(rows['en-de']['p_holm'], abs=0.001) and len(mean) == 10


def test_the_tokenizer_is_that_of_the_language():
    """Japanese and Korean are scored over characters where sacreBLEU's tokenizer for them is not installed."""
    for language, tokenizers in [('de', '13a'), ('kok', '13a'), ('zho_Hans', 'zh'), ('ja', ('ja-mecab', 'char')),
                                 ('kor', ('ko-mecab', 'char'))]:
        metric = metrics_for(language)['BLEU']
        metric.corpus_score(['a'], [['a']])
        assert str(metric.get_signature()).split('tok:')[1].split('|')[0].startswith(tokenizers), language
