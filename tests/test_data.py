"""From files to batches: hand-made files, broken ones, and what training relies on."""
import gzip
import re
import shutil

import pytest
import torch
from conftest import learn_vocabulary

from minispec import UserError
from minispec.corpora import Corpus
from minispec.data import Batch, Bitext, Vocabulary, make_rows, read_lines
from minispec.model import EOS, PAD, UNK
from minispec.tasks import split_task


@pytest.fixture
def bitext(corpus_folder, vocabulary, tmp_path):
    corpus = Corpus(corpus_folder)
    return Bitext(corpus, 'train', corpus.tasks, vocabulary, 64, tmp_path)


def write_pair(folder, english, german):
    (folder / 'train.en-de.en').write_bytes(english)
    (folder / 'train.en-de.de').write_bytes(german)


# Lines ---------------------------------------------------------------------------------------------------------------

def test_lines_end_in_newlines_only(tmp_path):
    for raw, lines in [
        (b'a\nb\n', ['a', 'b']),
        (b'a\r\nb\r\n', ['a', 'b']),
        (b'a\n\nb', ['a', '', 'b']),                                   # an empty line is a line; the last needs no end
        (b'\xef\xbb\xbfa\n', ['a']),                                   # the BOM that Windows editors write
        ('a\u2028b\x85c\x0bd\x0ce\rf\n'.encode(), ['a\u2028b\x85c\x0bd\x0ce\rf']),  # what str.splitlines would split
        (b'', []),
    ]:
        (tmp_path / 'plain').write_bytes(raw)
        (tmp_path / 'packed.gz').write_bytes(gzip.compress(raw))
        assert list(read_lines(tmp_path / 'plain')) == list(read_lines(tmp_path / 'packed.gz')) == lines


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / 'latin').write_bytes('gut\nschön\n'.encode('latin-1'))
    with pytest.raises(UserError, match='latin, line 2: not UTF-8'):
        list(read_lines(tmp_path / 'latin'))


def test_a_broken_gz_is_named(tmp_path):
    whole = gzip.compress(b'line\n' * 1000)
    for raw in (b'no gzip at all', whole[:-20], whole[:12] + b'\xff\xff' + whole[14:]):
        (tmp_path / 'train.en.gz').write_bytes(raw)
        with pytest.raises(UserError, match='cannot read .*train.en.gz'):
            list(read_lines(tmp_path / 'train.en.gz'))


def test_uneven_and_empty_files_are_named(tmp_path, vocabulary):
    for english, german, cause in ((b'a\na\na\n', b'b\nb\n', r'train.en-de.en has 3 lines but .*train.en-de.de has 2'),
                                   (b'', b'', 'train.en-de.en and .*train.en-de.de are empty')):
        write_pair(tmp_path, english, german)
        with pytest.raises(UserError, match=cause):
            Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, 64, tmp_path)


# Vocabulary ----------------------------------------------------------------------------------------------------------

def test_a_typed_tag_is_only_text(vocabulary):
    typed = vocabulary.encode(['<de> a dog </s> <pad>'])[0]
    assert not {vocabulary.tag('de'), EOS, PAD} & set(typed)


def test_a_vocabulary_survives_its_bytes_and_restores_text(vocabulary):
    again = Vocabulary(vocabulary.proto)
    assert again.decode(again.encode(['the dog runs', 'der Hund läuft'])) == ['the dog runs', 'der Hund läuft']
    assert len(again) == 90 and len({again.tag(language) for language in ('de', 'en', 'fr')} | {PAD, UNK, EOS}) == 6


def test_a_language_with_its_region_has_a_tag(tmp_path):
    vocabulary = learn_vocabulary(tmp_path, 12, en=['a b c d'] * 9, pt_BR=['a b'])
    assert vocabulary.tag('pt_BR') > EOS and vocabulary.tag('pt') == UNK


def test_a_vocabulary_that_does_not_fit_the_text_says_what_does(tmp_path, capsys):
    lines = ['a dog runs', 'a cat runs']
    with pytest.raises(UserError, match=r'the largest is (\d+)') as error:
        learn_vocabulary(tmp_path, 5000, en=lines)
    largest = int(re.search(r'the largest is (\d+)', str(error.value))[1])
    assert len(learn_vocabulary(tmp_path, largest, en=lines)) == largest
    with pytest.raises(UserError, match='the smallest is (\\d+)') as error:
        learn_vocabulary(tmp_path, 6, en=lines)
    smallest = int(re.search(r'the smallest is (\d+)', str(error.value))[1])
    assert len(learn_vocabulary(tmp_path, smallest, en=lines)) == smallest
    assert capsys.readouterr().out == ''
    chosen = len(learn_vocabulary(tmp_path, None, en=lines))  # the default is lowered, and that is said
    assert smallest < chosen < largest
    assert capsys.readouterr().out == (f'note: {chosen} subwords are learned, because this text supports at most '
                                       f'{largest}; --vocab-size names another number\n')


def test_text_that_no_vocabulary_can_be_learned_from(tmp_path):
    for lines, cause in [({'en': ['', ' ']}, 'nothing but empty lines'),
                         ({'en': ['dog ' * 2000]}, 'all lines are longer than 4,192 bytes'),
                         ({'en': ['a dog'], 'unk': ['a dog']}, '<unk>')]:
        with pytest.raises(UserError) as error:
            learn_vocabulary(tmp_path, 20, **lines)
        assert cause in str(error.value) and '.cc' not in str(error.value) and '\n' not in str(error.value)


def test_every_character_of_the_text_has_a_subword(tmp_path):
    """Even if its line is too long for SentencePiece to learn from."""
    text = ['a dog runs'] * 50 + ['ж' * 3000] + ['a', 'â\u0302'] * 2
    vocabulary = learn_vocabulary(tmp_path, None, en=text)
    assert not any(UNK in row for row in vocabulary.encode(text))


def test_a_small_language_is_learned_whole_beside_a_large_one(tmp_path, monkeypatch):
    """From 8,000 English lines every 160th is learned, from 40 Russian ones all: their words are one subword each."""
    monkeypatch.setattr('minispec.data.LEARN_FROM', 100)
    small = [f'{number} щенок' for number in range(40)]
    large = [f'{number} puppy' if number % 160 else f'{number} kitten' for number in range(8000)]
    vocabulary = learn_vocabulary(tmp_path, 60, en=large, ru=small)
    encoded = vocabulary.encode(['щенок', 'kitten', 'puppy'])
    assert [len(row) for row in encoded[:2]] == [1, 1] and len(encoded[2]) > 1


# What text is made of: ten scripts, what NFKC would change, what SentencePiece keeps for itself.
WRITING = ['Ça coûte ½ €… 5 m² ﬁn', '我爱你，你好吗？！（全角）', 'ｶﾞｷﾞ カタカナ ひらがな', '한국어 조합 각', 'שלום עֲלֵיכֶם', 'السلام عليكم ﷺ',
           'नमस्ते क्षत्रिय', 'สวัสดีครับ กำ', 'Привет й ё', 'Ωμέγα ῶ', 'ﬀ ① ㎏ ™ Ⅳ x² \xa0 \u202f \u200d \u3000',
           '▁ ▅ \x1f \0 \t ⁇ <unk> <en>', '👩\u200d🚀 é e\u0301']


def without_runs_of_spaces(text):
    return ' '.join(filter(None, text.split(' ')))


def test_text_comes_back_as_it_was(tmp_path):
    vocabulary = learn_vocabulary(tmp_path, None, en=WRITING)
    assert vocabulary.decode(vocabulary.encode(WRITING)) == [without_runs_of_spaces(text) for text in WRITING]


@pytest.mark.slow
def test_every_character_of_unicode_comes_back_as_it_was(tmp_path):
    """Without surrogates, which no text has, the newline, and the noncharacters that replace RESERVED characters."""
    characters = [chr(x) for x in range(0x110000) if not 0xd800 <= x < 0xe000 and x != 10 and not 0xfdd0 <= x < 0xfdd4]
    for start in range(0, len(characters), 100_000):
        block = characters[start:start + 100_000]
        lines = ['no zero', *('a' + 'b'.join(block[i:i + 50]) + 'c' for i in range(0, len(block), 50))]
        words = ['several words that add to what a text has']
        vocabulary = learn_vocabulary(tmp_path, len({*block, *''.join(words)}) + 15, en=lines, de=words)
        assert vocabulary.decode(vocabulary.encode(lines)) == list(map(without_runs_of_spaces, lines))


def test_a_single_outlier_does_not_set_the_length_ratio(corpus_folder, vocabulary, tmp_path):
    """Of 200 pairs, one has a target of 40 times its source."""
    data = shutil.copytree(corpus_folder, tmp_path / 'data')
    (data / 'train.en').write_bytes(b'dog\n' + (data / 'train.en').read_bytes().split(b'\n', 1)[1])
    (data / 'train.de').write_bytes(b'Hund ' * 40 + b'\n' + (data / 'train.de').read_bytes().split(b'\n', 1)[1])
    ratios = [Bitext(Corpus(folder), 'train', ['en-de'], vocabulary, 256, tmp_path / folder.name).length_ratios().item()
              for folder in (corpus_folder, data)]
    assert 1 < ratios[0] < 4 and ratios[1] == pytest.approx(ratios[0], rel=0.5)


# Rows ----------------------------------------------------------------------------------------------------------------

def test_rows_by_hand():
    """Sentences 5 6, nothing, and 6 7 8 out of one tensor of tokens."""
    tags, tokens, start, length = map(torch.tensor, ([3, 4, 3], [5, 6, 7, 8], [0, 2, 1], [2, 0, 3]))
    rows = make_rows(tags, tokens, start, length)
    assert rows.tolist() == [[3, 5, 6, EOS, PAD], [4, EOS, PAD, PAD, PAD], [3, 6, 7, 8, EOS]]
    none = torch.empty(0, dtype=torch.long)  # a process may get an empty share of a batch
    assert make_rows(none, torch.tensor([5]), none, none).shape == (0, 2)


def test_targets_by_hand():
    """Without tags and padding, row by row, each with the task of its row."""
    tgt = torch.tensor([[3, 5, 6, EOS, PAD], [4, EOS, PAD, PAD, PAD], [3, 6, 7, 8, EOS]])
    tokens, tasks = Batch(tgt, tgt, torch.tensor([1, 0, 2])).targets()
    assert tokens.tolist() == [5, 6, EOS, EOS, 6, 7, 8, EOS] and tasks.tolist() == [1, 1, 1, 0, 2, 2, 2, 2]


def test_every_pair_comes_out_once_with_the_tags_of_its_task(bitext, corpus_folder, vocabulary):
    corpus = Corpus(corpus_folder)
    expected = []
    for task in corpus.tasks:
        sources, targets = map(read_lines, corpus.files('train', task))
        expected += [(task, src, tgt) for src, tgt in zip(sources, targets)]
    found = []
    for batch in bitext.eval_batches(300):
        for src, tgt, index in zip(*(x.tolist() for x in batch)):
            task = corpus.tasks[index]
            for row, language in zip((src, tgt), split_task(task)):
                end = row.index(EOS)
                assert row[0] == vocabulary.tag(language) and PAD not in row[:end] and set(row[end + 1:]) <= {PAD}
            found.append((task, *vocabulary.decode([src, tgt])))
    assert sorted(found) == sorted(expected)


def test_empty_and_too_long_lines_are_left_out_and_counted(tmp_path, vocabulary):
    write_pair(tmp_path, b'a dog\n\na dog\n   \na dog\n', b'ein Hund\nein\n\nein\n' + b'ein ' * 70 + b'\n')
    bitext = Bitext(Corpus(tmp_path), 'train', ['en-de', 'de-en'], vocabulary, 64, tmp_path)
    assert bitext.sizes().tolist() == [1, 1] and bitext.n_dropped == 8
    write_pair(tmp_path, b'\n', b'\n')
    with pytest.raises(UserError, match='no pair of lines'):
        Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, 64, tmp_path)


def test_the_longest_sentence_that_fits_fits(tmp_path, vocabulary):
    n = len(vocabulary.encode(['dog dog dog'])[0])
    write_pair(tmp_path, b'dog dog dog\n', b'ein\n')
    assert len(Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, n + 2, tmp_path)) == 1
    with pytest.raises(UserError, match='that fits'):
        Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, n + 1, tmp_path)


def test_encoded_text_is_kept_until_text_or_vocabulary_change(tmp_path, vocabulary, corpus_folder, monkeypatch):
    def load(vocabulary):
        return Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, 64, tmp_path / 'run')

    encoded, encode = [], Vocabulary.encode
    monkeypatch.setattr(Vocabulary, 'encode', lambda self, lines: encoded.append(lines) or encode(self, lines))
    write_pair(tmp_path, b'a dog\n', b'ein Hund\n')
    first = load(vocabulary)
    assert first.tokens.tolist() == sum(encode(vocabulary, ['a dog', 'ein Hund']), [])
    again = load(vocabulary)
    assert again.tokens.tolist() == first.tokens.tolist() and again.text_fingerprint == first.text_fingerprint
    assert encoded == [['a dog'], ['ein Hund']] and [x.name for x in (tmp_path / 'run').iterdir()] == ['train.text.pt']

    write_pair(tmp_path, b'a cat\n', b'ein Hund\n')
    second = load(vocabulary)
    assert second.tokens.tolist() == sum(encode(vocabulary, ['a cat', 'ein Hund']), [])
    assert second.text_fingerprint != first.text_fingerprint
    other = Vocabulary.train({language: [corpus_folder / f'train.{language}'] for language in ('de', 'en')}, 50)
    third = load(other)
    assert third.tokens.tolist() == sum(encode(other, ['a cat', 'ein Hund']), []) and len(encoded) == 6
    assert third.text_fingerprint != second.text_fingerprint


def test_kept_text_that_is_damaged_is_as_if_not_there(tmp_path, vocabulary):
    def tokens():
        return Bitext(Corpus(tmp_path), 'train', ['en-de'], vocabulary, 64, tmp_path / 'run').tokens

    write_pair(tmp_path, b'a dog\n', b'ein Hund\n')
    first, kept = tokens(), tmp_path / 'run' / 'train.text.pt'
    whole = kept.read_bytes()
    start = whole.index(bytes(first.untyped_storage()))
    for damaged in (b'', whole[:-99], whole[:start] + b'\xff' + whole[start + 1:]):  # the last in a token
        kept.write_bytes(damaged)
        assert torch.equal(tokens(), first)
        assert len(kept.read_bytes()) == len(whole)  # and it is made anew


# Batches -------------------------------------------------------------------------------------------------------------

def test_an_epoch_at_temperature_1_takes_each_pair_once_within_the_budget(bitext):
    batches = bitext.make_batches(bitext.sample(1.0, torch.Generator().manual_seed(3)), 300)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(bitext)))
    assert all(max(bitext.batch(index).src.numel(), bitext.batch(index).tgt.numel()) <= 300 for index in batches)
    assert any(len(bitext.batch(index).task.unique()) > 1 for index in batches)  # tasks are mixed


def test_nine_positions_in_ten_are_real_tokens(tmp_path, vocabulary):
    """On sentences of 4 to 24 words whose translations are up to a quarter longer or shorter."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 25, (4000,), generator=generator)
    ratio = 0.75 + 0.5 * torch.rand(4000, generator=generator)
    write_pair(tmp_path, b''.join(b'dog ' * n + b'\n' for n in lengths.tolist()),
               b''.join(b'Hund ' * n + b'\n' for n in (lengths * ratio).round().long().tolist()))
    bitext = Bitext(Corpus(tmp_path), 'train', ['en-de', 'de-en'], vocabulary, 64, tmp_path)
    batches = [bitext.batch(index) for index in bitext.make_batches(bitext.sample(1.0, generator), 2048)]
    real = sum(int((x != PAD).sum()) for src, tgt, _ in batches for x in (src, tgt))
    assert real / sum(src.numel() + tgt.numel() for src, tgt, _ in batches) > 0.9


def test_a_sentence_larger_than_the_budget_is_a_batch_by_itself(bitext):
    assert [len(index) for index in bitext.make_batches(torch.arange(3), 1)] == [1, 1, 1]


def test_temperature_evens_out_the_tasks(tmp_path, vocabulary):
    """Shares as size^(1/T), in one epoch and in the batches of training."""
    write_pair(tmp_path, b'a dog\n' * 90, b'ein Hund\n' * 90)
    (tmp_path / 'train.en-fr.en').write_bytes(b'a dog\n' * 10)
    (tmp_path / 'train.en-fr.fr').write_bytes(b'un chien\n' * 10)
    bitext = Bitext(Corpus(tmp_path), 'train', ['en-de', 'en-fr'], vocabulary, 64, tmp_path)
    for temperature in (1, 2, 5, 1e9):
        share = 90 ** (1 / temperature) / (90 ** (1 / temperature) + 10 ** (1 / temperature))
        expected = [round(100 * share), round(100 * (1 - share))]  # 90 10, 75 25, 61 39, 50 50
        picked = bitext.sample(temperature, torch.Generator().manual_seed(0))
        assert bitext.task[picked].bincount().tolist() == expected
        rare = picked[bitext.task[picked] == 1].bincount()[90:]
        assert rare.max() - rare.min() <= 1  # repeated evenly
        stream, epoch = bitext.train_batches(50, temperature, seed=0), []
        while len(epoch) < 100:
            epoch += next(stream).tolist()
        assert bitext.task[epoch].bincount().tolist() == expected


def test_the_same_seed_gives_the_same_batches(bitext):
    def first(seed):
        stream = bitext.train_batches(300, 5.0, seed)
        return [next(stream).tolist() for _ in range(30)]
    assert first(1) == first(1) != first(2)
