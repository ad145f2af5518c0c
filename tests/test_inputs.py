"""Any text, from a file or from standard input, is translated or gives a one-line error.

Many more inputs than in the slow tests:  MINISPEC_INPUTS=1000 python -m pytest -m slow tests/test_inputs.py
"""
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import describe
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_scripts import call_here

from minispec.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from minispec.corpora import Corpus
from minispec.decoding import translate
from minispec.model import Config, Transformer

INPUTS = int(os.environ.get('MINISPEC_INPUTS', 0))


def inputs(n):
    """Hypothesis tries n inputs, the same each time; or MINISPEC_INPUTS random ones."""
    return settings(max_examples=INPUTS or n, derandomize=not INPUTS, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))


WORDS = ['the', 'dog', 'Hund', 'groß', '<de>', '<fr>', '</s>', '<pad>', '<unk>', '▁', '▅', '\u2028', '\x85', '\0', '\r',
         '\t', 'e\u0301', '\u202e', '\ufeff', '\U0001f469\u200d\U0001f680', 'ﬁ', '中文', 'x' * 300]
words = st.lists(st.sampled_from(WORDS), max_size=8)
texts = st.text(max_size=20) | words.map(' '.join) | words.map(''.join)
text_lines = texts.map(lambda text: text.replace('\n', ' ').encode())
surrogates = st.characters(categories=['Cs']).map(lambda text: text.encode('utf-8', 'surrogatepass'))
any_lines = text_lines | st.binary(max_size=20) | surrogates


EN_DE = '--device cpu --src en --tgt de --beam 2'.split()


def is_utf8(line):
    try:
        return line.decode() is not None
    except UnicodeDecodeError:
        return False


@pytest.fixture(scope='module')
def run(corpus_folder, vocabulary, tmp_path_factory):
    """A run folder whose specialized.pt has random weights: it babbles, and never ends a sentence early."""
    corpus, folder = Corpus(corpus_folder), tmp_path_factory.mktemp('run')
    torch.manual_seed(0)
    model = Transformer(Config(len(vocabulary), len(corpus.tasks), d_model=16, d_ff=16, layers=1, heads=2,
                               max_len=32))
    tasks, info = corpus.tasks, {'phase': 'base', 'settings': {}}
    save_checkpoint(folder / 'specialized.pt', Checkpoint(model, vocabulary, tasks, describe(tasks), info))
    return folder


def cause_of_refusal(raw):
    """The error that text gives if it is not lines of UTF-8; None if nothing is wrong with it."""
    lines = raw.split(b'\n')
    first = lines[0].removeprefix(b'\xef\xbb\xbf')
    if first.startswith((b'\xff\xfe', b'\xfe\xff')):
        return ' is UTF-16 text; save it as UTF-8'
    if b'\0' in first:
        return ' has zero bytes in its first line, as UTF-16 text has; save it as UTF-8'
    if first.count(b'\r') > 1 or len(lines) == 1 and b'\r' in first[:-1]:
        return (': its lines end in a carriage return alone, as on old Macs; save it with the line ends of Unix or '
                'Windows')
    wrong = [number for number, line in enumerate(lines, 1) if not is_utf8(line)]
    return f', line {wrong[0]}: not UTF-8 text; convert the file to UTF-8 first' if wrong else None


def check_lines(run, lines, final_newline):
    """Translate these lines: as many come out, or one line says why not."""
    raw = b'\n'.join(lines) + b'\n' * final_newline
    code, out, err = call_here('translate.py', *EN_DE, '--run', run, stdin=raw)
    if cause := cause_of_refusal(raw):
        assert (code, out, err) == (2, '', f'error: standard input{cause}\n')
    else:
        assert code == 0 and out.count('\n') == raw.count(b'\n') + (raw[-1:] not in (b'', b'\n'))
        assert all(line.startswith('warning: en-de, line') for line in err.splitlines())


def test_as_many_lines_come_out_as_go_in(run):
    check_lines(run, [b'dog ' * 25_000, b'd' * 100_000, '中'.encode() * 33_000], False)
    check_lines(run, [b'\xef\xbb\xbf'], False)
    check_lines(run, [b''] * 1000 + [b'\xed\xa0\x80'], True)
    check_lines(run, [b'dog', 'the \u2028 \x85 dog \0 \r <de> </s>'.encode(), b'', b'\r', b'\t', b' '], True)
    check_lines(run, [b'the \r dog', b'a \r dog'], False)
    check_lines(run, [], False)


@pytest.mark.parametrize('raw, cause', [
    ('the dog\r\n'.encode('utf-16'), 'UTF-16'),
    (b'\xfe\xff' + 'the dog\n'.encode('utf-16-be'), 'UTF-16'),
    ('the dog\nthe cat\n'.encode('utf-16-le'), 'zero bytes'),
    ('\nthe dog\n'.encode('utf-16-be'), 'zero bytes'),
    (b'the dog\rthe cat\r', 'carriage return'),
    (b'\xef\xbb\xbfthe dog\rthe cat', 'carriage return'),
])
def test_text_of_spreadsheets_and_old_macs_is_named_with_the_remedy(run, tmp_path, raw, cause):
    """From standard input and from a file."""
    assert cause in cause_of_refusal(raw)
    check_lines(run, [raw], False)
    (tmp_path / 'text').write_bytes(raw)
    code, out, err = call_here('translate.py', *EN_DE, '--run', run, '--input', tmp_path / 'text')
    assert (code, out) == (2, '') and err == f'error: {tmp_path / "text"}{cause_of_refusal(raw)}\n'


@pytest.mark.slow
@inputs(150)
@given(st.lists(any_lines, max_size=6), st.booleans())
def test_as_many_lines_come_out_as_go_in_whatever_they_are(run, lines, final_newline):
    check_lines(run, lines, final_newline)


@pytest.mark.slow
def test_a_million_empty_lines(run):
    code, out, err = call_here('translate.py', *EN_DE, '--run', run, stdin=b'\n' * 10 ** 6)
    assert (code, err) == (0, '') and out == '\n' * 10 ** 6


def test_no_text_becomes_a_tag(vocabulary):
    tags = {vocabulary.tag(language) for language in ('de', 'en', 'fr')}
    assert len(tags) == 3
    for row in vocabulary.encode([*WORDS, ' '.join(WORDS), ''.join(WORDS), '<<de>>', 'a<de>b', '▁<de>']):
        assert tags.isdisjoint(row)


@pytest.mark.slow
@inputs(300)
@given(texts)
def test_no_text_whatever_becomes_a_tag(vocabulary, text):
    assert {vocabulary.tag(language) for language in ('de', 'en', 'fr')}.isdisjoint(vocabulary.encode([text])[0])


def test_a_sentence_is_translated_alike_in_any_company(run):
    """In batches of several sizes, padded or not."""
    checkpoint = load_checkpoint(run / 'specialized.pt')
    lines = ['the dog', 'a', 'red man runs the big cat sees a dog', '', 'dog dog dog', 'sees', 'a cat eats the man',
             'big'] * 2

    def translated(lines, **settings):
        return translate(checkpoint, lines, 'en-de', **settings)[0]
    alone = [translated([line])[0] for line in lines]
    for batch_tokens in (50, 200, 4096):
        assert translated(lines, batch_tokens=batch_tokens) == alone


def test_a_folder_with_test_text_alone_is_scored(run, corpus_folder, tmp_path):
    """All directions and their means: the checkpoint knows them."""
    for code in ('de', 'en', 'fr'):
        shutil.copy(corpus_folder / f'test.{code}', tmp_path)
    common = ['--data', tmp_path, '--device', 'cpu', '--run']
    code, out, err = call_here('translate.py', *common, run, '--test', '--beam', 1)
    rows = [line[:7].strip() for line in out.splitlines()[2:9]]
    assert code == 0 and rows == ['en-de', 'en-fr', 'de-en', 'fr-en', 'all', 'from en', 'into en']
    code, out, err = call_here('train.py', *common, tmp_path)
    assert code == 2 and 'no training text in it' in err and err.count('\n') == 1


def try_all(train, valid, odd, odd_name):
    """Run all four scripts on a corpus en-de; `odd` is the text of one more file, or of one that it replaces.

    Each succeeds, without a NaN in what it prints, or says in one line why not. Returns how many succeeded.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / 'data', Path(folder) / 'run'
        data.mkdir()
        for split, sentences in (('train', train), ('valid', valid), ('test', valid)):
            for language, lines in zip(('en', 'de'), zip(*sentences)):
                (data / f'{split}.en-de.{language}').write_bytes(b''.join(line + b'\n' for line in lines))
        if odd_name:
            (data / odd_name).write_bytes(odd)
        size, succeeded, common = 40, 0, ['--data', data, '--run', run, '--device', 'cpu']
        small = '--d-model 8 --d-ff 8 --layers 1 --heads 1 --dtype float32 --steps 2 --eval-every 1'.split()
        for _ in range(3):
            code, out, err = call_here('train.py', *common, *small, '--vocab-size', size)
            if fitting := re.search(r'; the (?:largest|smallest) is (\d+)', err):
                size = int(fitting[1])
            else:
                break
        scripts = [('profile.py',), ('specialize.py', *small[-4:]), ('translate.py', '--test', '--beam', 1)]
        while code == 0 and scripts:
            assert 'nan' not in out and err == ''
            succeeded += 1
            script, *flags = scripts.pop(0)
            code, out, err = call_here(script, *common, *flags)
        if code:
            assert code == 2 and err.startswith('error: ') and err.count('\n') == 1 and '.cc' not in err, err
        return succeeded + (code == 0)


def test_all_four_scripts_take_a_corpus_or_say_why_not():
    assert try_all([(b'a<de>b' * 9, b'<de>' * 9)] * 9, [(b'<de>', b'<en>')], b'', '') == 4
    assert try_all([(b'a b c', b'd e f'), (b'dog ' * 25_000, b'x')], [(b'a', b'b')], b'', '') == 4
    assert try_all([(b'', b'')], [(b'', b'')], b'', '') == 0
    assert try_all([(b'a b', b'b a')], [(b'a', b'b')], b'c', 'train.en-unk.unk') == 0


pairs = st.tuples(text_lines, text_lines)


@pytest.mark.slow
@inputs(25)
@given(st.lists(pairs, min_size=1, max_size=8), st.lists(pairs, min_size=1, max_size=3), any_lines,
       st.sampled_from(['', '', '', 'train.en-de.en', 'valid.en-de.de', 'test.en-de.de', 'train.fr', 'valid.en-fr.fr',
                        'train.en-unk.unk']))
@example([(b'a', b'b')], [(b'a', b'b')], b'', '')
@example([(b'dog ' * 25_000, b'x' * 100_000)], [(b'a', b'b')], b'', '')
@example([(b'a b', b'b a')], [(b'a', b'b')], b'c', 'train.fr')
def test_all_four_scripts_take_any_corpus_or_say_why_not(train, valid, odd, odd_name):
    assert 0 <= try_all(train, valid, odd, odd_name) <= 4
