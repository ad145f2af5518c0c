"""From files to batches: hand-made files, hostile and broken ones, and what training relies on."""
import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from minispec import UserError, corpora
from minispec.corpora import Corpus, open_corpus
from minispec.data import Bitext, read_lines
from minispec.model import PAD
from minispec.vocabulary import EOS, Vocabulary


@pytest.fixture(scope='module')
def vocabulary(corpus_folder):
    lines = [line for language in ('en', 'de', 'fr') for line in read_lines(corpus_folder / f'train.{language}')]
    return Vocabulary.train(lines, 90, ['de', 'en', 'fr'])


@pytest.fixture
def bitext(corpus_folder, vocabulary, tmp_path):
    corpus = Corpus(corpus_folder)
    return Bitext(corpus, 'train', corpus.directions, vocabulary, 64, tmp_path)


def write_pair(folder, english, german, split='train'):
    (folder / f'{split}.en-de.en').write_bytes(english)
    (folder / f'{split}.en-de.de').write_bytes(german)


# Lines ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('raw, lines', [
    (b'a\nb\n', ['a', 'b']),
    (b'a\r\nb\r\n', ['a', 'b']),
    (b'a\n\nb', ['a', '', 'b']),                                   # an empty line is a line; the last needs no end
    (b'\xef\xbb\xbfa\n', ['a']),                                   # the BOM that Windows editors write
    ('a\u2028b\x85c\x0bd\x0ce\n'.encode(), ['a\u2028b\x85c\x0bd\x0ce']),  # what str.splitlines would split
    (b'a\rb\n', ['a\rb']),
    (b'', []),
])
def test_lines_end_in_newlines_only(tmp_path, raw, lines):
    (tmp_path / 'plain').write_bytes(raw)
    (tmp_path / 'packed.gz').write_bytes(gzip.compress(raw))
    assert list(read_lines(tmp_path / 'plain')) == lines
    assert list(read_lines(tmp_path / 'packed.gz')) == lines


def test_all_lines_of_a_file_are_counted_in_one_reading(tmp_path, monkeypatch):
    for language, lines in ('en', 'a\n\nb\n'), ('de', 'x\ny\nz\n'), ('fr', 'u\nv\nw\n'):
        (tmp_path / f'train.{language}').write_text(lines, encoding='utf-8')
    opened = []
    monkeypatch.setattr(corpora, 'read_lines', lambda path: opened.append(path.name) or read_lines(path))
    assert Corpus(tmp_path).lines(['en-fr', 'en-de', 'de-en']) == {'en-fr': 3, 'en-de': 3, 'de-en': 3}
    assert sorted(opened) == ['train.de', 'train.en']


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / 'latin').write_bytes('gut\nschön\n'.encode('latin-1'))
    with pytest.raises(UserError, match='latin, line 2: not UTF-8'):
        list(read_lines(tmp_path / 'latin'))


@pytest.mark.parametrize('raw', [b'no gzip at all', gzip.compress(b'line\n' * 1000)[:-20],
                                 gzip.compress(b'line\n')[:12] + b'\xff\xff' + gzip.compress(b'line\n')[14:]])
def test_a_broken_gz_is_named(tmp_path, raw):
    (tmp_path / 'train.en.gz').write_bytes(raw)
    with pytest.raises(UserError, match='cannot read .*train.en.gz'):
        list(read_lines(tmp_path / 'train.en.gz'))


# Corpora -------------------------------------------------------------------------------------------------------------

def test_pair_files_serve_both_directions(tmp_path):
    write_pair(tmp_path, b'a\n', b'b\n')
    corpus = Corpus(tmp_path)
    assert corpus.directions == ['en-de', 'de-en'] and corpus.languages == ['de', 'en']
    assert [path.name for path in corpus.files('train', 'de-en')] == ['train.en-de.de', 'train.en-de.en']


def test_line_aligned_languages_are_paired_with_english(tmp_path):
    for language in ('cs', 'de', 'en'):
        (tmp_path / f'train.{language}.gz').write_bytes(gzip.compress(b'x\n'))
    assert Corpus(tmp_path).directions == ['en-cs', 'en-de', 'cs-en', 'de-en']
    (tmp_path / 'train.en.gz').unlink()
    assert Corpus(tmp_path).directions == ['cs-de', 'de-cs']


def test_multi30k_names_of_splits(tmp_path):
    for name in ('train.en', 'train.de', 'val.en', 'val.de', 'test_2016_flickr.en', 'test_2016_flickr.de'):
        (tmp_path / name).write_bytes(b'x\n')
    corpus = Corpus(tmp_path)
    assert corpus.files('valid', 'en-de')[0].name == 'val.en'
    assert corpus.files('test', 'en-de')[1].name == 'test_2016_flickr.de'
    assert corpus.files('test_2016_flickr', 'en-de')[1].name == 'test_2016_flickr.de'
    with pytest.raises(UserError, match='no test_2018 text for en-de'):
        corpus.files('test_2018', 'en-de')


def test_a_language_with_its_region(tmp_path):
    """pt_BR is a language as any other: in names of files, in directions and as a tag. pt-BR is not overlooked."""
    for name in ('train.pt_BR', 'train.en', 'train.en-zh_Hant.en', 'train.en-zh_Hant.zh_Hant'):
        (tmp_path / name).write_bytes(b'a b c d\n')
    corpus = Corpus(tmp_path)
    assert corpus.directions == ['en-pt_BR', 'en-zh_Hant', 'pt_BR-en', 'zh_Hant-en']
    assert [path.name for path in corpus.files('train', 'pt_BR-en')] == ['train.pt_BR', 'train.en']
    vocabulary = Vocabulary.train(['a b c d'] * 9, 12, corpus.languages)
    assert all(map(vocabulary.has_tag, corpus.languages)) and not vocabulary.has_tag('pt')
    src, tgt, _ = next(Bitext(corpus, 'train', ['pt_BR-en'], vocabulary, 64, tmp_path).in_order(64))
    assert (src[0, 0], tgt[0, 0]) == (vocabulary.tag('pt_BR'), vocabulary.tag('en'))
    for name in ('train.pt-BR', 'train.en-pt-BR.en', 'train.en-pt-BR.pt-BR', 'train.pt-BR.en'):
        (tmp_path / f'{name}.gz').write_bytes(b'')
        with pytest.raises(UserError, match=f'{name} names no pair of languages.*pt_BR'):
            Corpus(tmp_path)
        (tmp_path / f'{name}.gz').unlink()


def test_missing_folders_and_texts_are_said(tmp_path):
    with pytest.raises(UserError, match='no such folder'):
        open_corpus(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='no training text'):
        open_corpus(tmp_path)


def test_uneven_files_are_named_with_their_counts(tmp_path, vocabulary):
    write_pair(tmp_path, b'a\na\na\n', b'b\nb\n')
    with pytest.raises(UserError, match=r'train.en-de.en has 3 lines but .*train.en-de.de has 2'):
        Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, 64, tmp_path)


# Multi30k from a classroom's own server ------------------------------------------------------------------------------

@pytest.fixture
def mirror(monkeypatch):
    """A server on this machine, and what it serves: name -> bytes. Its files are the only ones that are expected."""
    served = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = served.get(self.path.rsplit('/')[-1])
            self.send_response(200 if content is not None else 404)
            self.send_header('Content-Length', '1000' if content == b'torn' else str(len(content or b'')))
            self.end_headers()
            self.wfile.write(content or b'')

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    content = {f'{split}.{language}.gz': gzip.compress(b'a dog\n' * 3)
               for split in ('train', 'val') for language in ('en', 'de')}
    monkeypatch.setattr(corpora, 'MULTI30K_SHA256', {name: hashlib.sha256(x).hexdigest() for name, x in content.items()})
    monkeypatch.setenv('MINISPEC_MULTI30K_URL', f'http://127.0.0.1:{server.server_port}/raw')
    served.update(content)
    yield served
    server.shutdown()


def test_multi30k_downloads_checks_and_keeps(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_corpus('multi30k').directions == ['en-de', 'de-en']
    kept = tmp_path / 'data' / 'multi30k'
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == mirror
    mirror.clear()  # the second time nothing is fetched
    assert open_corpus('multi30k').directions == ['en-de', 'de-en']


def test_a_corrupted_or_missing_download_leaves_nothing_behind(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good, mirror['val.de.gz'] = mirror['val.de.gz'], b'an error page'
    with pytest.raises(UserError, match='val.de.gz is not the file that was published'):
        open_corpus('multi30k')
    mirror['val.de.gz'] = b'torn'
    with pytest.raises(UserError, match='cannot download .*val.de.gz'):
        open_corpus('multi30k')
    del mirror['val.de.gz']
    with pytest.raises(UserError, match='cannot download .*val.de.gz'):
        open_corpus('multi30k')
    assert not list((tmp_path / 'data' / 'multi30k').glob('val.de.gz*'))
    mirror['val.de.gz'] = good
    (tmp_path / 'data' / 'multi30k' / 'train.de.gz').write_bytes(b'damaged later')  # is fetched again
    assert open_corpus('multi30k').directions == ['en-de', 'de-en']


# Vocabulary ----------------------------------------------------------------------------------------------------------

def test_a_typed_tag_is_only_text(vocabulary):
    typed = vocabulary.encode(['<de> a dog </s> <pad>'])[0]
    assert not {vocabulary.tag('de'), EOS, PAD} & set(typed)


def test_vocabulary_survives_its_bytes_and_restores_text(vocabulary):
    again = Vocabulary(vocabulary.proto)
    assert again.decode(again.encode(['the dog runs', 'der Hund läuft'])) == ['the dog runs', 'der Hund läuft']
    assert len({again.tag(language) for language in ('de', 'en', 'fr')} | {PAD, EOS}) == 5


def test_a_vocabulary_that_the_text_cannot_fill_says_what_works():
    lines = ['a dog runs', 'a cat runs']
    with pytest.raises(UserError, match=r'the largest is (\d+)') as error:
        Vocabulary.train(lines, 5000, ['en'])
    largest = int(str(error.value).rsplit(' ', 1)[1])
    assert len(Vocabulary.train(lines, largest, ['en'])) == largest
    with pytest.raises(UserError, match='the smallest is'):
        Vocabulary.train(lines, 6, ['en'])


@pytest.mark.parametrize('lines, languages, said', [
    (['', ' '], ['en'], ''),  # sentencepiece 0.2.0 calls it a --vocab-size too large
    (['dog ' * 2000], ['en'], 'all lines are empty, or longer than 4,192 bytes'),
    (['a dog'], ['en', 'unk'], '<unk>'),
])
def test_text_that_no_vocabulary_can_be_learned_from(lines, languages, said):
    with pytest.raises(UserError) as error:
        Vocabulary.train(lines, 20, languages)
    assert said in str(error.value) and '.cc' not in str(error.value) and '\n' not in str(error.value)


# Batches -------------------------------------------------------------------------------------------------------------

def test_rows_are_tag_pieces_end_padding(bitext, corpus_folder, vocabulary):
    """Every pair of the corpus comes out once, as its text, with its own direction's tags."""
    corpus = Corpus(corpus_folder)
    expected = set()
    for task, direction in enumerate(corpus.directions):
        sources, targets = map(read_lines, corpus.files('train', direction))
        expected |= {(task, i, a, b) for i, (a, b) in enumerate(zip(sources, targets))}
    found = []
    for src, tgt, task in bitext.in_order(300):
        for s, t, k in zip(src.tolist(), tgt.tolist(), task.tolist()):
            for row, language in zip((s, t), corpus.directions[k].split('-')):
                end = row.index(EOS)
                assert row[0] == vocabulary.tag(language) and PAD not in row[:end] and set(row[end + 1:]) <= {PAD}
            found.append((k, vocabulary.decode(s), vocabulary.decode(t)))
    assert sorted(found) == sorted((task, a, b) for task, _, a, b in expected)


def test_empty_and_too_long_lines_are_left_out_and_counted(tmp_path, vocabulary):
    write_pair(tmp_path, b'a dog\n\na dog\n   \na dog\n', b'ein Hund\nein\n\nein\n' + b'ein ' * 70 + b'\n')
    bitext = Bitext(Corpus(tmp_path), 'train', ['en-de', 'de-en'], vocabulary, 64, tmp_path)
    assert bitext.sizes().tolist() == [1, 1] and bitext.n_dropped == 8
    write_pair(tmp_path, b'\n', b'\n')
    with pytest.raises(UserError, match='no pair of lines'):
        Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, 64, tmp_path)


def test_encoded_text_is_kept_until_text_or_vocabulary_change(tmp_path, vocabulary, corpus_folder, monkeypatch):
    def pieces(vocabulary):
        return Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, 64, tmp_path / 'run').pieces.tolist()

    calls, encode = [], Vocabulary.encode
    monkeypatch.setattr(Vocabulary, 'encode', lambda self, lines: calls.append(lines) or encode(self, lines))
    other = Vocabulary.train(read_lines(corpus_folder / 'train.en'), 50, ['de', 'en'])
    write_pair(tmp_path, b'a dog\n', b'ein Hund\n')
    first = pieces(vocabulary)
    assert pieces(vocabulary) == first and calls == [['a dog'], ['ein Hund']]
    write_pair(tmp_path, b'a cat\n', b'ein Hund\n')
    second = pieces(vocabulary)
    assert second == [*encode(vocabulary, ['a cat'])[0], *encode(vocabulary, ['ein Hund'])[0], PAD] != first
    assert pieces(other) != second and len(calls) == 6
    kept, = (tmp_path / 'run').iterdir()
    kept.write_bytes(kept.read_bytes()[:-99])  # damaged: as if it were not there
    assert pieces(vocabulary) == second and len(calls) == 8


def test_the_longest_sentence_that_fits_fits(tmp_path, vocabulary):
    n = len(vocabulary.encode(['dog dog dog'])[0])
    write_pair(tmp_path, b'dog dog dog\n', b'ein\n')
    assert len(Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, n + 2, tmp_path)) == 1
    with pytest.raises(UserError):
        Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, n + 1, tmp_path)


def test_an_epoch_at_temperature_1_takes_each_pair_once_within_the_budget(bitext):
    batches = bitext.into_batches(bitext.sample(1.0, torch.Generator().manual_seed(3)), 300)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(bitext)))
    assert all(max(bitext.batch(index).src.numel(), bitext.batch(index).tgt.numel()) <= 300 for index in batches)
    assert any(len(bitext.batch(index).task.unique()) > 1 for index in batches)  # directions are mixed


def test_nine_positions_in_ten_are_real_tokens(tmp_path, vocabulary):
    """On sentences of 4 to 24 words whose translations are up to a quarter longer or shorter."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 25, (4000,), generator=generator)
    ratio = 0.75 + 0.5 * torch.rand(4000, generator=generator)
    write_pair(tmp_path, b''.join(b'dog ' * n + b'\n' for n in lengths.tolist()),
               b''.join(b'Hund ' * n + b'\n' for n in (lengths * ratio).round().long().tolist()))
    bitext = Bitext(Corpus(tmp_path), 'train', ['en-de', 'de-en'], vocabulary, 64, tmp_path)
    batches = [bitext.batch(index) for index in bitext.into_batches(bitext.sample(1.0, generator), 2048)]
    real = sum(int((x != PAD).sum()) for src, tgt, _ in batches for x in (src, tgt))
    assert real / sum(src.numel() + tgt.numel() for src, tgt, _ in batches) > 0.9


def test_a_sentence_larger_than_the_budget_is_a_batch_by_itself(bitext):
    assert [len(index) for index in bitext.into_batches(torch.arange(3), 1)] == [1, 1, 1]


def test_temperature_evens_out_the_directions(tmp_path, vocabulary):
    write_pair(tmp_path, b'a dog\n' * 90, b'ein Hund\n' * 90)
    (tmp_path / 'train.en-fr.en').write_bytes(b'a dog\n' * 10)
    (tmp_path / 'train.en-fr.fr').write_bytes(b'un chien\n' * 10)
    bitext = Bitext(Corpus(tmp_path), 'train', ['en-de', 'en-fr'], vocabulary, 64, tmp_path)
    for temperature, expected in ((1, [90, 10]), (2, [75, 25]), (1e9, [50, 50])):  # sqrt(90) : sqrt(10) = 3 : 1
        picked = bitext.sample(temperature, torch.Generator().manual_seed(0))
        assert bitext.task[picked].bincount().tolist() == expected
        rare = picked[bitext.task[picked] == 1].bincount()[90:]
        assert rare.max() - rare.min() <= 1  # repeated evenly


def test_the_same_seed_gives_the_same_batches(bitext):
    def first(seed, n=30):
        stream = bitext.epochs(300, 5.0, seed)
        return [next(stream).tolist() for _ in range(n)]
    assert first(1) == first(1) != first(2)
