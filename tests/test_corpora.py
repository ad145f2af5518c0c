"""Where text comes from: folders in both layouts, Multi30k from a server on this machine, families of languages."""
import gzip
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minispec import UserError
from minispec.corpora import Corpus, folder, multi30k, open_corpus
from minispec.corpora.languages import LANGUAGES, families, family, same_family
from minispec.data import read_lines


def touch(path, *names):
    """Write files of one line each; those with a name in .gz are compressed."""
    for name in names:
        (path / name).write_bytes(gzip.compress(b'x\n') if name.endswith('.gz') else b'x\n')


# Folders -------------------------------------------------------------------------------------------------------------

def test_pair_files_serve_both_directions(tmp_path):
    touch(tmp_path, 'train.en-de.en', 'train.en-de.de', 'train.fr-en.fr.gz', 'train.fr-en.en.gz', 'notes.txt')
    corpus = Corpus(tmp_path)
    assert corpus.tasks == ['en-de', 'en-fr', 'de-en', 'fr-en'] and corpus.languages == ['de', 'en', 'fr']
    assert [path.name for path in corpus.files('train', 'de-en')] == ['train.en-de.de', 'train.en-de.en']
    assert [path.name for path in corpus.files('train', 'en-fr')] == ['train.fr-en.en.gz', 'train.fr-en.fr.gz']


def test_aligned_languages_are_paired_with_english(tmp_path):
    touch(tmp_path, 'train.cs.gz', 'train.de', 'train.en')
    assert Corpus(tmp_path).tasks == ['en-cs', 'en-de', 'cs-en', 'de-en']
    assert [path.name for path in Corpus(tmp_path).files('train', 'cs-en')] == ['train.cs.gz', 'train.en']
    touch(tmp_path, 'train.cs-de.cs', 'train.cs-de.de')  # both layouts in one folder
    assert Corpus(tmp_path).tasks == ['en-cs', 'en-de', 'cs-de', 'cs-en', 'de-cs', 'de-en']


def test_aligned_languages_without_english_are_paired_each_with_each(tmp_path):
    touch(tmp_path, 'train.cs', 'train.de', 'train.fr')
    assert Corpus(tmp_path).tasks == ['cs-de', 'cs-fr', 'de-cs', 'de-fr', 'fr-cs', 'fr-de']


def test_names_of_splits(tmp_path):
    touch(tmp_path, *(f'{split}.{code}' for split in ('train', 'val', 'test_2016_flickr') for code in ('en', 'de')))
    corpus = Corpus(tmp_path)
    assert corpus.files('valid', 'en-de')[0].name == 'val.en'
    assert corpus.files('test', 'en-de')[1].name == 'test_2016_flickr.de'
    assert corpus.files('test_2016_flickr', 'en-de')[1].name == 'test_2016_flickr.de'
    touch(tmp_path, 'valid.en', 'valid.en-de.en')
    assert corpus.files('valid', 'en-de')[0].name == 'val.en'  # the others have no partner
    touch(tmp_path, 'valid.de', 'valid.en-de.de')
    assert corpus.files('valid', 'en-de')[0].name == 'valid.en-de.en'


def test_a_language_with_its_region(tmp_path):
    """pt_BR is a language like any other; pt-BR is not left out without a word."""
    touch(tmp_path, 'train.pt_BR', 'train.en', 'train.en-zh_Hant.en', 'train.en-zh_Hant.zh_Hant')
    corpus = Corpus(tmp_path)
    assert corpus.tasks == ['en-pt_BR', 'en-zh_Hant', 'pt_BR-en', 'zh_Hant-en']
    assert corpus.languages == ['en', 'pt_BR', 'zh_Hant']
    assert [path.name for path in corpus.files('train', 'pt_BR-en')] == ['train.pt_BR', 'train.en']
    for name in ('train.pt-BR', 'train.en-pt-BR.en', 'train.en-pt-BR.pt-BR', 'train.pt-BR.en', 'train.en-de.fr'):
        touch(tmp_path, f'{name}.gz')
        with pytest.raises(UserError, match=f'{name} names no pair of languages.*pt_BR'):
            Corpus(tmp_path)
        (tmp_path / f'{name}.gz').unlink()


def test_missing_folders_and_texts_are_said(tmp_path):
    with pytest.raises(UserError, match='--data .*nowhere: there is no such folder'):
        open_corpus(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='no training text in it; name files train.en-de.en'):
        open_corpus(tmp_path)
    touch(tmp_path, 'train.en', 'train.de', 'valid.en')
    with pytest.raises(UserError, match='no valid text for en-de; name it valid.en-de.en and valid.en-de.de, or'):
        open_corpus(tmp_path).files('valid', 'en-de')
    with pytest.raises(UserError, match='no test_2018 text for de-en'):
        open_corpus(tmp_path).files('test_2018', 'de-en')


def test_lines_are_counted_and_each_file_is_read_once(tmp_path, monkeypatch):
    for language, lines in ('en', 'a\n\nb\n'), ('de', 'x\ny\n'), ('fr', 'u\nv\nw\n'):
        (tmp_path / f'train.{language}').write_text(lines, encoding='utf-8')
    opened = []

    def counted(path):
        opened.append(path.name)
        return read_lines(path)

    monkeypatch.setattr(folder, 'read_lines', counted)
    assert Corpus(tmp_path).lines(['en-fr', 'en-de', 'de-en']) == {'en-fr': 3, 'en-de': 3, 'de-en': 2}
    assert sorted(opened) == ['train.de', 'train.en']


# Multi30k from a classroom's own server ------------------------------------------------------------------------------

@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """What a server on this machine serves, name -> bytes. Its files are the only ones that are expected."""
    served = {f'{split}.{language}.gz': gzip.compress(b'a dog\n' * 3)
              for split in ('train', 'val') for language in ('en', 'de')}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = served.get(self.path.removeprefix('/raw/'))
            self.send_response(200 if content is not None else 404)
            self.send_header('Content-Length', '1000' if content == b'torn' else str(len(content or b'')))
            self.end_headers()
            self.wfile.write(content or b'')

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    checksums = tmp_path / 'checksums'
    checksums.write_text(''.join(f'{hashlib.sha256(content).hexdigest()}  {name}\n'
                                 for name, content in served.items()), encoding='utf-8')
    monkeypatch.setattr(multi30k, 'CHECKSUMS', checksums)
    monkeypatch.setenv('MINISPEC_MULTI30K_URL', f'http://127.0.0.1:{server.server_port}/raw')
    monkeypatch.chdir(tmp_path)
    yield served
    server.shutdown()
    server.server_close()


def test_multi30k_is_downloaded_and_kept(mirror, tmp_path):
    assert open_corpus('multi30k').tasks == ['en-de', 'de-en']
    kept = tmp_path / 'data' / 'multi30k'
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == mirror
    mirror.clear()  # the second time nothing is fetched
    assert open_corpus('multi30k').tasks == ['en-de', 'de-en']


@pytest.mark.parametrize('content, message', [
    (b'an error page', 'val.de.gz is not the file that was published'),
    (b'torn', 'cannot download .*/raw/val.de.gz'),
    (None, 'cannot download .*/raw/val.de.gz .*404'),
])
def test_a_corrupted_torn_or_missing_download_leaves_nothing_behind(mirror, tmp_path, content, message):
    good, mirror['val.de.gz'] = mirror['val.de.gz'], content
    with pytest.raises(UserError, match=message):
        open_corpus('multi30k')
    kept = tmp_path / 'data' / 'multi30k'
    assert not list(kept.glob('val.de.gz*'))
    mirror['val.de.gz'] = good
    open_corpus('multi30k')
    assert (kept / 'val.de.gz').read_bytes() == good


def test_a_file_that_was_damaged_later_is_fetched_again(mirror, tmp_path):
    open_corpus('multi30k')
    damaged = tmp_path / 'data' / 'multi30k' / 'train.de.gz'
    damaged.write_bytes(b'damaged')
    open_corpus('multi30k')
    assert damaged.read_bytes() == mirror['train.de.gz']


def test_the_list_of_multi30k_files():
    """Four splits of four languages, each with a checksum, in the format of sha256sum."""
    names = []
    for line in read_lines(multi30k.CHECKSUMS):
        checksum, name = line.split('  ')
        assert re.fullmatch('[0-9a-f]{64}', checksum)
        names.append(name)
    assert sorted(names) == sorted(f'{split}.{language}.gz' for language in ('cs', 'de', 'en', 'fr')
                                   for split in ('train', 'val', 'test_2016_flickr', 'test_2018_flickr'))


# Families ------------------------------------------------------------------------------------------------------------

def test_codes_of_all_kinds_have_a_family():
    expected = {'de': 'Germanic', 'deu': 'Germanic', 'ger': 'Germanic', 'pt_BR': 'Romance', 'PT-br': 'Romance',
                'ukr_Cyrl': 'Slavic', 'zh_Hans': 'Sinitic', 'zho': 'Sinitic', 'cmn': 'Sinitic', 'yue': 'Sinitic',
                'AR': 'Semitic', 'he': 'Semitic', 'bn': 'Indo-Aryan', 'tr': 'Turkic', 'xx': None, '': None, 'd': None}
    assert {code: family(code) for code in expected} == expected
    phrasebook = 'en de nl sv fr es it cs pl ru'
    ec30 = 'de nl sv da af lb fr es it pt ro oc ru cs pl bg uk sr hi bn kn mr sd gu ar he mt ha ti am'  # the paper's
    others = 'zh ja ko tr fi hu vi th id'
    assert not [code for code in f'{phrasebook} {ec30} {others}'.split() if family(code) is None]


def test_relatives_of_multi30k_with_ukrainian_arabic_and_chinese():
    """The languages need no lexicon; one that is unknown has no relatives but itself."""
    codes = ['en', 'de', 'fr', 'cs', 'uk', 'ar', 'zh', 'xx', 'yy']
    pairs = {(one, other) for one in codes for other in codes if one < other and same_family(one, other)}
    assert pairs == {('de', 'en'), ('cs', 'uk')}
    assert same_family('pt', 'pt_BR') and same_family('xx', 'xx_Latn') and not same_family('xx', 'yy')


def test_no_code_of_the_table_stands_twice():
    rows = [re.split(r'\s{2,}', line) for line in read_lines(LANGUAGES) if line and not line.startswith('#')]
    codes = [code for row in rows for code in row[0].split()]
    assert sorted(codes) == sorted(families()) and all(re.fullmatch('[a-z]{2,3}', code) for code in codes)
    assert len({name for _, name, _ in rows}) == len(rows)
