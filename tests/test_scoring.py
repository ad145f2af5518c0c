"""Scores, their bootstrap and its correction, by hand and against sacreBLEU."""
import random
import re
from itertools import product

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF

from minispec import scoring
from minispec.scoring import (alarms, bleu, difference, groups, holm, metrics_for, print_scores, print_systems,
                              resample, score, statistics, tokenizer_for, verdicts)

REFERENCES = [f'the {noun} {verb} the {other} in the old house' for noun in ('dog', 'cat', 'man')
              for verb in ('sees', 'likes') for other in ('bird', 'boat', 'tree', 'hat')]
GOOD = [line if i % 5 else line.replace('old', 'red') for i, line in enumerate(REFERENCES)]
BAD = [line if i % 3 else line.replace('sees the', 'see a') for i, line in enumerate(REFERENCES)]
SHORT = ['the', 'a bird', 'house', *REFERENCES[3:]]  # lines without any 4-gram
BACKWARDS = [' '.join(reversed(line.split())) for line in REFERENCES]  # no right 4-gram: BLEU smooths


def test_bleu_and_chrf_are_sacrebleus_corpus_scores():
    for hypotheses in (GOOD, BAD, SHORT, BACKWARDS):
        row = score({'en-de': REFERENCES}, {'en-de': hypotheses}, {}, {}, seed=1)['scores']['en-de']
        assert row['BLEU'] == pytest.approx(BLEU().corpus_score(hypotheses, [REFERENCES]).score)
        assert row['chrF++'] == pytest.approx(CHRF(word_order=2).corpus_score(hypotheses, [REFERENCES]).score)
        assert row['length'] == pytest.approx(sum(len(line.split()) for line in hypotheses) / (9 * len(REFERENCES)))


def test_bleu_is_that_of_compute_bleu():
    """Within 1e-12 of it: without a right n-gram of any n, without n-grams, shorter than the reference, empty."""
    numbers = random.Random(1)
    cases = [[*right, *every, length, reference_length]
             for right in product((0, 3), repeat=4) for every in ((9, 8, 7, 6), (9, 8, 7, 0), (3, 0, 0, 0), (0,) * 4)
             for length, reference_length in product((0, 1, 9), (0, 9, 500))]
    for _ in range(2000):
        every = [numbers.randint(0, 10 ** numbers.randint(0, 6)) for _ in range(4)]
        cases.append([*(numbers.choice((0, numbers.randint(0, x))) for x in every), *every,
                      numbers.randint(0, 2000), numbers.randint(0, 2000)])
    expected = [BLEU.compute_bleu(x[:4], x[4:8], *x[8:], smooth_method='exp').score for x in cases]
    assert sum(x > 0 for x in expected) > 500 < sum(x == 0 for x in expected)
    found = bleu(torch.tensor(cases, dtype=torch.double).view(2, -1, 10))  # (2, cases / 2)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=0)


def test_each_text_that_looks_tokenized_gets_sacrebleus_warning_once(caplog):
    """It takes 100 lines that end in ` .`; 99 are too few, and those of a reference do not count."""
    tokenized = [f'{line} .' for line in [*REFERENCES * 5][:100]]
    others = {'tokenized.pt': {'en-de': tokenized}, 'fewer.pt': {'en-de': [*tokenized[:99], 'the end.']}}
    score({'en-de': tokenized}, {'en-de': tokenized}, others, {}, seed=1)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']
    assert sum(message.startswith("That's 100 lines") for message in warnings) == 2


# The paired bootstrap ------------------------------------------------------------------------------------------------

def test_difference_interval_and_p_by_hand():
    """Ten samples in a thousand lie as far from the difference of 2 as that lies from 0: five at 0, five at 4."""
    after = torch.tensor([30.0] * 5 + [32.0] * 990 + [34.0] * 5, dtype=torch.double)
    found = difference(30.0, 32.0, torch.full((1000,), 30.0, dtype=torch.double), after)
    assert found == {'difference': 2.0, 'low': 2.0, 'high': 2.0, 'p': 11 / 1001}
    after[:40], after[-40:] = 30.5, 33.0  # 4% on each side: inside the interval of 95%
    found = difference(30.0, 32.0, torch.full((1000,), 30.0, dtype=torch.double), after)
    assert (found['low'], found['high'], found['p']) == (0.5, 3.0, 1 / 1001)


def test_p_and_interval_are_those_of_texts_drawn_and_scored_by_sacrebleu():
    """300 texts drawn by another generator, each scored as a text: the same p and interval up to chance."""
    generator, differences, n = random.Random(1), [], 12  # lines
    for _ in range(300):
        drawn = generator.choices(range(n), k=n)
        references = [[REFERENCES[i] for i in drawn]]
        good, bad = [BLEU().corpus_score([lines[i] for i in drawn], references).score for lines in (GOOD, BAD)]
        differences.append(good - bad)
    found = score({'en-de': REFERENCES[:n]}, {'en-de': GOOD[:n]}, {'bad.pt': {'en-de': BAD[:n]}}, {}, seed=7)
    row = found['others']['bad.pt']['scores']['en-de']
    assert row['difference'] == pytest.approx(found['scores']['en-de']['BLEU'] - row['BLEU'])
    p = sum(abs(x - row['difference']) >= abs(row['difference']) for x in differences) / 300
    assert 0.02 < p < 0.98 and row['p'] == pytest.approx(p, abs=0.1)  # 3.5 standard deviations
    differences.sort()
    sixth = (row['high'] - row['low']) / 6  # 4 standard deviations of either end
    assert (row['low'], row['high']) == pytest.approx((differences[7], differences[-8]), abs=sixth)


def test_a_resampled_text_is_scored_as_a_text(monkeypatch):
    """Only one line is right. A text that draws it twice is twice as good as one that draws it once."""
    hypotheses = [REFERENCES[0], *['wrong'] * 4]
    stats = statistics(metrics_for('de', REFERENCES[:5])['BLEU'], hypotheses)  # (5, 10)
    possible = [bleu(times * stats[0] + (5 - times) * stats[1]).item() for times in range(6)]
    found = resample(stats, 950, seed=1)  # (950,)
    assert len(found) == 950 and {round(x, 6) for x in found.tolist()} == {round(x, 6) for x in possible}
    assert torch.equal(found, resample(stats, 950, seed=1)) and not torch.equal(found, resample(stats, 950, seed=2))
    both = resample(torch.stack([stats, stats.flip(0)]), 950, seed=1)  # (2, 950)
    assert torch.allclose(both[0], found) and not torch.allclose(both[1], found)
    monkeypatch.setattr(scoring, 'BLOCK', 5 * 300)  # no longer all samples at once, but at most 300
    assert torch.allclose(found, resample(stats, 950, seed=1))


def test_a_tie_is_not_significant_and_has_no_interval():
    two = dict.fromkeys(('en-de', 'en-fr'), GOOD)
    other = score(dict.fromkeys(two, REFERENCES), two, {'same.pt': two}, {'all': [*two]}, seed=1)['others']['same.pt']
    for row in (other['scores']['en-de'], other['means']['all']):
        assert [row[column] for column in ('difference', 'low', 'high', 'p')] == [0, 0, 0, 1]
    assert other['verdicts'] == {'wins': 0, 'ties': 2, 'losses': 0, 'up': 0, 'down': 0}


def test_a_mean_draws_the_same_lines_in_all_its_tasks():
    """Of two equal tasks, the mean has the interval of either. Of two opposite ones, the difference is always 0."""
    both = dict.fromkeys(('en-de', 'en-fr'), REFERENCES)
    good, bad = dict.fromkeys(both, GOOD), dict.fromkeys(both, BAD)
    found = score(both, good, {'bad.pt': bad}, {'all': [*both]}, seed=1)
    other = found['others']['bad.pt']
    for result, columns in ((found, ('BLEU', 'chrF++', 'length')),
                            (other, ('BLEU', 'length', 'difference', 'low', 'high', 'p'))):
        for column in columns:
            assert result['means']['all'][column] == pytest.approx(result['scores']['en-de'][column]), column
    mixed, opposite = {'en-de': GOOD, 'en-fr': BAD}, {'en-de': BAD, 'en-fr': GOOD}
    found = score(both, mixed, {'opposite.pt': opposite}, {'all': [*both]}, seed=1)
    row = found['others']['opposite.pt']['means']['all']
    assert row['low'] == row['high'] == 0


def test_each_of_several_systems_is_compared_as_it_would_be_alone():
    references, averaged = dict.fromkeys(('en-de', 'en-fr'), REFERENCES), {'all': ['en-de', 'en-fr']}
    good, others = {'en-de': GOOD, 'en-fr': REFERENCES}, {'bad.pt': dict.fromkeys(references, BAD),
                                                          'short.pt': {'en-de': SHORT, 'en-fr': GOOD}}
    found = score(references, good, others, averaged, seed=1)
    for name, lines in others.items():
        alone = score(references, good, {name: lines}, averaged, seed=1)
        assert alone == {**found, 'others': {name: found['others'][name]}}
        for task, row in found['others'][name]['scores'].items():
            assert row['BLEU'] == pytest.approx(BLEU().corpus_score(lines[task], [REFERENCES]).score)
    assert found['others']['bad.pt'] != found['others']['short.pt']


# Many tasks ----------------------------------------------------------------------------------------------------------

def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which is less than the one before and so gets its value."""
    corrected = holm({'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': 0.005})
    assert corrected == pytest.approx({'d': 0.02, 'a': 0.03, 'c': 0.06, 'b': 0.06})
    assert holm({'a': 0.9, 'b': 0.8}) == {'a': 1, 'b': 1}


def test_the_p_of_all_tasks_are_corrected_together():
    references = dict.fromkeys(('en-de', 'en-fr', 'de-en'), REFERENCES)
    other = {'en-de': BAD, 'en-fr': GOOD, 'de-en': BAD}
    found = score(references, {**references, 'de-en': GOOD}, {'other.pt': other}, {}, seed=1)['others']['other.pt']
    rows = found['scores']
    corrected = holm({task: row['p'] for task, row in rows.items()})
    assert {task: row['p_holm'] for task, row in rows.items()} == corrected
    assert any(row['p_holm'] > row['p'] for row in rows.values()) and found['verdicts'] == verdicts(rows)


def test_one_task_of_sixty_can_be_significant():
    """Holm multiplies its p by 60: a thousand samples would not be enough."""
    references = {f'en-{i}': REFERENCES for i in range(60)}
    wrong = {**references, 'en-7': ['a wrong line'] * len(REFERENCES)}
    found = score(references, references, {'wrong.pt': wrong}, {}, seed=1)
    assert found['samples'] == 6000 and found['others']['wrong.pt']['verdicts']['wins'] == 1
    found = score({'en-de': GOOD}, {'en-de': GOOD}, {'same.pt': {'en-de': GOOD}}, {}, seed=1)
    assert found['samples'] == 1000


def test_verdicts_count_what_is_sure_apart_from_what_is_up():
    rows = {name: {'difference': difference, 'p_holm': p}
            for name, difference, p in (('a', 2, 0.01), ('b', 1, 0.05), ('c', -1, 0.049), ('d', -1, 1), ('e', 0, 1))}
    assert verdicts(rows) == {'wins': 1, 'ties': 3, 'losses': 1, 'up': 2, 'down': 2}


def test_an_alarm_names_the_task_and_the_systems_of_another_length():
    def tasks(lengths, *others):
        rows = [{'scores': {task: {'length': length} for task, length in zip(('en-de', 'en-fr'), x)}}
                for x in (lengths, *others)]
        lines = alarms({**rows[0], 'others': dict(enumerate(rows[1:]))})
        return [(line.split()[1], *re.findall(r'those of (\d)', line)) for line in lines]
    assert tasks((1.15, 1.25)) == [('en-fr:',)]
    assert tasks((1.0, 0.8), (0.95, 1.0)) == [('en-fr:', '0')]
    assert tasks((1.0, 0.8), (0.95, 0.8), (0.85, 0.8)) == [('en-de:', '1')]


def test_averages_are_over_sides_and_training_sizes():
    sizes = {'en-cs': 9, 'en-de': 8, 'cs-en': 9, 'de-en': 8, 'de-cs': 1}
    assert groups(sizes) == {'all': [*sizes], 'from en': ['en-cs', 'en-de'], 'into en': ['cs-en', 'de-en'],
                             '9 pairs': ['en-cs', 'cs-en'], '8 pairs': ['en-de', 'de-en']}
    assert groups({'en-de': 4, 'de-en': 4}) == {'all': ['en-de', 'de-en']}  # one size, one task a side


def test_the_table_says_which_number_is_which(capsys):
    references = dict.fromkeys(('en-de', 'en-fr'), REFERENCES)
    bad = dict.fromkeys(references, BAD)
    others = {'runs/dense.pt': bad, 'base.pt': {'en-de': SHORT, 'en-fr': BACKWARDS}}
    found = score(references, {'en-de': GOOD, 'en-fr': BAD}, others, {'all': [*references]}, seed=1)
    print_scores(found)
    header, first, _, mean, *_ = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == 'BLEU chrF++ length dense.pt length ΔBLEU 95% interval p'.split()
    for line, kind, name in ((first, 'scores', 'en-de'), (mean, 'means', 'all')):
        row, other = found[kind][name], found['others']['runs/dense.pt'][kind][name]
        numbers = [row[x] for x in ('BLEU', 'chrF++', 'length')]
        numbers += [other[x] for x in ('BLEU', 'length', 'difference', 'low', 'high')]
        assert line[0] == name and list(map(float, line[1:9])) == pytest.approx(numbers, abs=0.006)
    p = found['others']['runs/dense.pt']['scores']['en-de']['p_holm']
    assert float(first[9]) == pytest.approx(p, abs=0.001) and len(first) == 10 and len(mean) == 9


@pytest.mark.parametrize('tasks', [('en-de', 'en-fr'), ('en-de',)])
def test_the_last_table_has_a_row_for_each_system(tasks, capsys):
    """It shows the means, or the score of a single direction, and as ΔBLEU the tested system minus that of the row."""
    references = dict.fromkeys(tasks, REFERENCES)
    averaged, kind = ({'all': [*tasks], 'from en': [*tasks]}, 'means') if len(tasks) > 1 else ({}, 'scores')
    others = {'base.pt': dict.fromkeys(tasks, BAD), 'dense.pt': dict.fromkeys(tasks, SHORT)}
    found = score(references, dict.fromkeys(tasks, GOOD), others, averaged, seed=1)
    print_systems(found, 'own.pt')
    header, *lines, _ = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert header == ['BLEU', *' '.join(found[kind]).split(), *'ΔBLEU 95% interval wins ties losses'.split()]
    columns = len(found[kind])
    for (name, *numbers), (expected, system) in zip(lines, [*found['others'].items(), ('own.pt', found)], strict=True):
        rows = [*system[kind].values()]
        values = [row['BLEU'] for row in rows]
        if system is not found:
            values += [rows[0][x] for x in ('difference', 'low', 'high')]
            values += [system['verdicts'][x] for x in ('wins', 'ties', 'losses')]
        assert name == expected and list(map(float, numbers)) == pytest.approx(values, abs=0.006)
    assert [len(line) for line in lines] == [columns + 7, columns + 7, columns + 1]


# Tokenizers ----------------------------------------------------------------------------------------------------------

def test_the_tokenizer_is_that_of_the_language():
    for tokenizer, languages in {
            'zh': 'zh ZH zh_CN zh-TW zho_Hans ZHO_HANT cmn yue lzh wuu nan hak xx_Hant und-hans',
            'ja-mecab': 'ja JA jpn_Jpan ja_XX xx_Jpan', 'ko-mecab': 'ko kor KOR_Hang',
            'char': 'th tha_Thai TH lo lao km khm_Khmr my mya bur bo bod tib dz xx_Mymr xx_Tibt',
            '13a': 'de kok kmr zha mya2 ms_MY en_TH en_LA ko2 deu_Latn'}.items():
        assert {tokenizer_for(language) for language in languages.split()} == {tokenizer}, tokenizer


@pytest.mark.parametrize('language, text, wrong', [('ZH', '我们明天去北京看朋友', '我们昨天去北京看朋友'),
                                                   ('yue_Hant', '我哋聽日去睇戲', '我哋琴日去睇戲'),
                                                   ('tha', 'เราจะไปกรุงเทพพรุ่งนี้', 'เราจะไปกรุงเทพวันนี้'),
                                                   ('ja', '明日は京都へ行きます', '昨日は京都へ行きます')])
def test_a_nearly_right_text_without_spaces_does_not_score_0(language, text, wrong):
    """Japanese and Korean are scored over characters where sacreBLEU's tokenizer for them is not installed."""
    task = f'en-{language}'
    assert BLEU().corpus_score([wrong], [[text]]).score == 0
    found = score({task: [text], 'en-de': ['a']}, {task: [wrong], 'en-de': ['a']}, {}, {}, seed=1)
    assert found['scores'][task]['BLEU'] > 40


def test_each_signature_says_of_which_directions_it_is(capsys):
    tasks = ('en-de', 'en-zh', 'de-yue_Hant')
    found = score(dict.fromkeys(tasks, GOOD), dict.fromkeys(tasks, GOOD), {}, {}, seed=1)
    ours = {signature.split('|')[0] + signature.split('tok:')[-1][:3]: directions
            for signature, directions in found['signatures'].items()}
    assert ours == {'BLEU13a': ['en-de'], 'BLEUzh|': ['en-zh', 'de-yue_Hant'], 'chrF++chr': [*tasks]}
    print_scores(found)
    starts = [line.split('|')[0] for line in capsys.readouterr().out.splitlines()[4:]]
    assert starts == ['en-de: BLEU', 'all directions: chrF++', 'en-zh, de-yue_Hant: BLEU']
