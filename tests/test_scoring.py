"""Scores, their bootstrap and its corrections, by hand and against sacreBLEU's own."""
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from minispec.scoring import SAMPLES, alarms, groups, holm, metrics_for, score, verdicts

REFERENCES = [f'the {noun} {verb} the {other} in the old house' for noun in ('dog', 'cat', 'man') for verb in ('sees', 'likes')
              for other in ('bird', 'boat', 'tree', 'hat')]
GOOD = [line if i % 5 else line.replace('old', 'red') for i, line in enumerate(REFERENCES)]
BAD = [line if i % 3 else line.replace('sees the', 'see a') for i, line in enumerate(REFERENCES)]


def test_scores_and_p_are_those_of_sacrebleu(monkeypatch):
    monkeypatch.setenv('SACREBLEU_SEED', '7')
    _, results = PairedTest([('bad', BAD), ('good', GOOD)], {'BLEU': BLEU()}, [REFERENCES], 'bs', SAMPLES)()
    before, after = results['BLEU']
    row = score({'en-de': REFERENCES}, {'en-de': GOOD}, {'en-de': BAD}, {}, seed=7)[0]['en-de']
    assert row['BLEU'] == after.score != row['other'] == before.score and row['p'] == after.p_value <= row['p_two_sided']
    assert row['low'] < row['difference'] < row['high']


def test_a_tie_is_not_significant_and_has_no_interval():
    rows, means, _ = score({'en-de': REFERENCES, 'en-fr': REFERENCES}, {'en-de': GOOD, 'en-fr': GOOD},
                           {'en-de': GOOD, 'en-fr': GOOD}, {'all': ['en-de', 'en-fr']}, seed=1)
    for row in (rows['en-de'], means['all']):
        assert (row['difference'], row['low'], row['high'], row['p'], row['p_two_sided']) == (0, 0, 0, 1, 1)
    assert verdicts(rows) == {'wins': 0, 'ties': 2, 'losses': 0, 'up': 0, 'down': 0}


def test_a_mean_draws_the_same_lines_in_all_its_directions():
    """Two directions with the same text: their mean is as sure as either. One the other's opposite: it is always 0."""
    both = dict.fromkeys(('en-de', 'en-fr'), REFERENCES)
    twins = score(both, dict.fromkeys(both, GOOD), dict.fromkeys(both, BAD), {'all': [*both]}, seed=1)
    for column in ('BLEU', 'other', 'difference', 'low', 'high', 'p'):
        assert twins[1]['all'][column] == pytest.approx(twins[0]['en-de'][column]), column
    opposite = score(both, {'en-de': GOOD, 'en-fr': BAD}, {'en-de': BAD, 'en-fr': GOOD}, {'all': [*both]}, seed=1)
    assert opposite[1]['all']['low'] == opposite[1]['all']['high'] == 0


def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which is less than the one before it and so gets as much."""
    assert holm({'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': 0.005}) == pytest.approx({'d': 0.02, 'a': 0.03, 'c': 0.06, 'b': 0.06})
    assert holm({'a': 0.9, 'b': 0.8}) == {'a': 1, 'b': 1}


def test_verdicts_count_what_is_sure_apart_from_what_is_up():
    rows = {name: {'difference': difference, 'p_holm': p}
            for name, difference, p in (('a', 2, 0.01), ('b', 1, 0.05), ('c', -1, 0.049), ('d', -1, 1), ('e', 0, 1))}
    assert verdicts(rows) == {'wins': 1, 'ties': 3, 'losses': 1, 'up': 2, 'down': 2}


def test_an_alarm_names_the_direction_that_rambles_or_breaks_off():
    rows = {'en-de': {'length': 1.15}, 'en-fr': {'length': 1.25}}
    assert [line.split()[1] for line in alarms(rows)] == ['en-fr:']
    rows = {'en-de': {'length': 1.0, 'other': 5, 'other_length': 0.95}, 'en-fr': {'length': 0.8, 'other': 5, 'other_length': 1.0}}
    assert [line.split()[1] for line in alarms(rows)] == ['en-fr:']
    long = score({'en-de': REFERENCES}, {'en-de': [line + ' in the old house' for line in REFERENCES]}, None, {}, 1)[0]
    assert long['en-de']['length'] == pytest.approx(13 / 9)


def test_averages_are_over_sides_and_levels():
    sizes = {'en-cs': 9, 'en-de': 8, 'cs-en': 9, 'de-en': 8, 'de-cs': 1}
    assert groups(sizes) == {'all': [*sizes], 'from en': ['en-cs', 'en-de'], 'into en': ['cs-en', 'de-en'],
                             '9 pairs': ['en-cs', 'cs-en'], '8 pairs': ['en-de', 'de-en']}
    assert groups({'en-de': 4, 'de-en': 4}) == {'all': ['en-de', 'de-en']}  # one level, one direction a side


@pytest.mark.parametrize('language, tokenizers', [
    ('de', ['13a']), ('jav', ['13a']), ('kok', ['13a']), ('zh', ['zh']), ('zho_Hans', ['zh']), ('ja', ['ja-mecab', 'char']),
    ('jpn', ['ja-mecab', 'char']), ('kor', ['ko-mecab', 'char'])])
def test_the_tokenizer_is_the_languages(language, tokenizers):
    metric = metrics_for(language)['BLEU']
    metric.corpus_score(['a'], [['a']])
    assert any(f'|tok:{name}|' in f'{metric.get_signature()}|' or f'|tok:{name}-' in str(metric.get_signature()) for name in tokenizers)
