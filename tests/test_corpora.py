"""Where text comes from: folders in both layouts, Multi30k from a server on this machine, families of languages."""
import gzip
import hashlib
import re
import shutil
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_scripts import SMALL, call_here

from minispec import UserError
from minispec.checkpoint import load_checkpoint
from minispec.corpora import Corpus, check_splits, multi30k, open_corpus
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


@pytest.mark.parametrize('name, said', [
    ('train.pt-BR', 'rename train.pt-BR to train.pt_BR'),
    ('train.pt-BR.gz', 'rename train.pt-BR.gz to train.pt_BR.gz'),
    ('train.en-pt-BR.en', 'rename train.en-pt-BR.en to train.en-pt_BR.en'),
    ('train.en-pt-BR.pt-BR', 'rename train.en-pt-BR.pt-BR to train.en-pt_BR.pt_BR'),
    ('train.en-zh-Hans.zh-Hans', 'to train.en-zh_Hans.zh_Hans'),
    ('train.pt-BR.en', 'a language with its region as pt_BR, not pt-BR'),
    ('train.en-de.fr', 'name files train.en-de.en and train.en-de.de'),
    ('train.en.pt-BR', 'name files train.en-de.en and train.en-de.de'),
])
def test_a_name_that_does_not_say_its_language_is_an_error(tmp_path, name, said):
    """Also beside other text."""
    touch(tmp_path, 'train.de', 'train.en', name)
    with pytest.raises(UserError, match=f'{name} names no pair of languages; .*{said}'):
        Corpus(tmp_path).tasks


def test_codes_of_all_kinds_are_languages(tmp_path):
    touch(tmp_path, 'train.en-zh.zh', 'train.en-zh.en', 'train.zho_Hant', 'train.es_419', 'train.pt_br',
          'train.bak_Cyrl')
    corpus = Corpus(tmp_path)
    assert corpus.languages == ['bak_Cyrl', 'en', 'es_419', 'pt_br', 'zh', 'zho_Hant']
    assert {'en-zh', 'zh-en', 'pt_br-es_419'} < set(corpus.tasks)


@pytest.mark.parametrize('name, right', [('train.english', 'train.en'), ('train.EN', 'train.en'),
                                         ('train_en.txt.gz', 'train.en.gz')])
def test_text_that_would_be_left_out_for_its_name_is_an_error(tmp_path, name, right):
    """Else the others would be trained without it. It is none where the text has its right name as well."""
    touch(tmp_path, 'train.de', 'train.fr', name)
    with pytest.raises(UserError, match=f'{name} would be left out; rename it to {right},'):
        Corpus(tmp_path).tasks
    touch(tmp_path, right.removesuffix('.gz'))
    assert 'en-de' in Corpus(tmp_path).tasks


def test_files_beside_the_text_are_no_languages(tmp_path, capsys):
    """One line names those that begin with train, once; other files are not mentioned."""
    beside = ['train.log', 'train.bak', 'train.txt.gz', 'train.tsv', 'train.json', 'train.ods', 'train.TMP',
              'train.notes', 'train.backup', 'train.en-de.tsv', 'train.en-de.log', 'train.en.de.zz', 'train']
    touch(tmp_path, 'train.en', 'train.de', 'train.fr', 'train_fr.txt', 'notes.txt', 'valid.log', *beside)
    corpus = Corpus(tmp_path)
    assert capsys.readouterr().err == ''  # tasks are worked out on first use
    assert corpus.languages == ['de', 'en', 'fr']
    out, err = capsys.readouterr()
    listed = sorted([*beside, 'train_fr.txt'])
    assert out == ''
    assert err == f'note: {tmp_path}: left out, because the name says no language: {", ".join(listed)}\n'


def test_a_folder_with_test_text_alone_has_no_tasks_but_can_be_scored(tmp_path):
    touch(tmp_path, 'test.en', 'test.de', 'test.fr')
    corpus = Corpus(tmp_path)
    assert [path.name for path in corpus.files('test', 'de-en')] == ['test.de', 'test.en']
    with pytest.raises(UserError, match='no training text in it, only test.de, test.en, test.fr; name files'):
        corpus.tasks


def test_text_that_is_not_used_is_said(tmp_path, capsys):
    """A pair of files is preferred to aligned ones. No advice renames a file to one that exists."""
    touch(tmp_path, 'train.en', 'train.de', 'train.fr', 'train.en-de.en', 'train.en-de.de', 'train_en.txt')
    assert Corpus(tmp_path).tasks == ['en-de', 'en-fr', 'de-en', 'fr-en']
    left_out, unused = capsys.readouterr().err.splitlines()
    assert left_out.endswith(': train_en.txt')
    assert unused.endswith('en-de is trained on its pair of files alone, and not on train.en and train.de')


def test_the_words_of_languages_that_have_few(tmp_path):
    """A language with more words than the limit has none, nor has one that is written without spaces."""
    write_texts(tmp_path, {'train.en': 'A dog.|a cat', 'train.de': 'ein Hund mit Katze|ein', 'train.zh': '狗|猫'})
    assert Corpus(tmp_path).words(limit=3) == {'en': ['a', 'cat', 'dog']}


# Some languages of a folder -------------------------------------------------------------------------------------------

def test_the_tasks_between_some_languages(tmp_path):
    touch(tmp_path, 'train.cs', 'train.de', 'train.en', 'train.en-fr.en', 'train.en-fr.fr')
    assert Corpus(tmp_path, ['fr', 'en', 'de']).tasks == ['en-de', 'en-fr', 'de-en', 'fr-en']
    assert open_corpus(tmp_path, ['en', 'fr']).tasks == ['en-fr', 'fr-en']
    assert open_corpus(tmp_path, ['en', 'fr']).languages == ['en', 'fr']
    assert Corpus(tmp_path, ['cs', 'de']).tasks == ['cs-de', 'de-cs']  # without the hub, each with each
    with pytest.raises(UserError, match='--languages fr de: .* has no training text between them'):
        Corpus(tmp_path, ['fr', 'de']).tasks
    for wrong in (['en', 'xx'], ['en'], ['de', 'de']):
        with pytest.raises(UserError, match=f'--languages {" ".join(wrong)}: name two or more of .*: cs de en fr$'):
            Corpus(tmp_path, wrong).tasks


def test_some_directions(tmp_path):
    touch(tmp_path, 'train.cs', 'train.de', 'train.en')
    corpus = open_corpus(tmp_path, directions=['de-en', 'en-cs'])
    assert corpus.tasks == ['en-cs', 'de-en'] and corpus.languages == ['cs', 'de', 'en']
    for wrong in ('cs-de', 'en', 'EN-DE'):
        with pytest.raises(UserError, match=f'--directions {wrong}: name some of .*: cs-en de-en en-cs en-de$'):
            open_corpus(tmp_path, directions=[wrong]).tasks


def test_a_bilingual_model_knows_its_direction_alone(corpus_folder, tmp_path):
    flags = ['--data', corpus_folder, '--run', tmp_path, '--device', 'cpu']
    code, out, err = call_here('train.py', *flags, *SMALL, '--steps', 1, '--directions', 'en-de')
    checkpoint = load_checkpoint(tmp_path / 'base.pt')
    assert code == 0 and checkpoint.tasks == ['en-de'] and list(checkpoint.data['pairs']) == ['en-de']
    code, out, err = call_here('specialize.py', *flags, '--steps', 1, '--masks', 'dense')
    assert code == 0, err
    code, out, err = call_here('translate.py', *flags, '--model', 'dense.pt', '--src', 'de', '--tgt', 'en', '--test')
    assert code == 2 and err == 'error: de-en: no direction was trained from de; the model knows en-de\n'


def test_train_takes_some_languages(corpus_folder, tmp_path):
    flags = ['--data', corpus_folder, '--run', tmp_path, '--device', 'cpu', *SMALL, '--steps', 1]
    code, out, err = call_here('train.py', *flags, '--languages', 'de', 'fr')
    assert code == 0 and load_checkpoint(tmp_path / 'base.pt').tasks == ['de-fr', 'fr-de']
    code, out, err = call_here('train.py', *flags[:6], '--resume')
    assert code == 0 and "languages=['de', 'fr']" in out
    code, out, err = call_here('train.py', *flags, '--languages', 'de', 'it')
    note, error = err.splitlines()
    assert code == 2 and error.endswith(': de en fr') and f'{tmp_path / "base.pt"} will be replaced' in note


# What is wrong with a folder ------------------------------------------------------------------------------------------

def test_missing_folders_and_texts_are_said(tmp_path):
    with pytest.raises(UserError, match='--data .*nowhere: there is no such folder, and no such built-in .*: '
                                        'phrasebook, '):
        open_corpus(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='no training text in it, nothing at all; name files train.en-de.en'):
        open_corpus(tmp_path).tasks
    touch(tmp_path, 'train.en', 'train.de', 'valid.en')
    with pytest.raises(UserError, match='no valid text for en-de; name it valid.en-de.en and valid.en-de.de, or'):
        open_corpus(tmp_path).files('valid', 'en-de')
    with pytest.raises(UserError, match='no test_2018 text for de-en'):
        open_corpus(tmp_path).files('test_2018', 'de-en')


@pytest.mark.parametrize('names, said', [
    (['train_en.txt', 'train_de.txt'], 'rename train_de.txt to train.de; rename train_en.txt to train.en'),
    (['train_en.txt.gz', 'train.de'], 'rename train_en.txt.gz to train.en.gz'),
    (['Train.EN', 'Train.DE', 'Test.EN', 'Test.DE'], 'rename Train.DE to train.de; rename Train.EN to train.en'),
    (['train-de.txt', 'valid-de.txt', 'dev_de.txt'], 'rename train-de.txt to train.de'),
    (['english.txt', 'Haitian.txt', 'German'], 'rename German to train.de; rename english.txt to train.en'),
    (['europarl.de-en.de', 'europarl.de-en.en'], 'to train.de-en.de; rename europarl.de-en.en to train.de-en.en'),
    (['train_pt_BR.txt', 'pt-BR.txt', 'zh-Hans.txt'], 'train.pt_BR; rename train_pt_BR.txt to train.pt_BR; rename zh-'),
    (['cs.txt', 'de.txt', 'en.txt', 'fr.txt'], 'de.txt to train.de; rename en.txt to train.en; and so on'),
    (['train.en-de.tsv'], 'train.en-de.tsv is a table: cut its columns into one file for each language'),
    (['corpus.csv'], 'corpus.csv is a table'),
    (['corpus.json.gz'], 'corpus.json.gz is a table'),
    (['Corpus.XLSX'], 'Corpus.XLSX is a table'),
    (['train.en'], 'its only training text is train.en; add that of a second language'),
    (['raw/train.en', 'raw/train.de', 'doc/index.html'], 'but in its folder raw; --data takes the folder in which'),
    (['train/en.txt', 'valid/en.txt'], 'but in its folder train and valid; --data takes'),
    (['train.log', 'a.pdf', 'b.pdf', 'notes.txt'], 'only a.pdf, b.pdf, notes.txt and so on; name files train.en-de.en'),
])
def test_a_folder_without_training_text_says_what_to_rename(tmp_path, capsys, names, said):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        touch((tmp_path / name).parent, Path(name).name)
    with pytest.raises(UserError) as error:
        Corpus(tmp_path).tasks
    assert str(error.value).startswith(f'--data {tmp_path}: ') and said in str(error.value)
    assert '\n' not in str(error.value) and 'valid-de' not in str(error.value) and capsys.readouterr().err == ''


# What is looked at before training ------------------------------------------------------------------------------------

def write_texts(folder, texts):
    """Write {name: lines in one string, a bar between two}."""
    for name, lines in texts.items():
        (folder / name).write_text(''.join(line + '\n' for line in lines.split('|')), encoding='utf-8', newline='\n')


def test_check_reads_what_serves_one_way_only(tmp_path):
    """If a direction has files of its own in one split, both directions' files are read."""
    write_texts(tmp_path, {f'{split}.en-de.{code}': 'a|b' for split in ('train', 'valid', 'test')
                           for code in ('en', 'de')})
    write_texts(tmp_path, {'valid.de-en.de': 'a|b', 'valid.de-en.en': 'a'})
    with pytest.raises(UserError, match='valid.de-en.de has 2 lines but .*valid.de-en.en has 1'):
        check_splits(Corpus(tmp_path), ['en-de', 'de-en'])


@pytest.mark.parametrize('name, content, said', [
    ('train.de', b'a\n', 'train.en has 2 lines but .*train.de has 1;'),
    ('train.de', b'a\nb\nc\n', 'train.en has 2 lines but .*train.de has 3;'),
    ('valid.fr', b'a\n', 'valid.en has 2 lines but .*valid.fr has 1;'),
    ('test.fr', b'a\nb\nc\n', 'test.en has 2 lines but .*test.fr has 3;'),
    ('test.en', b'', 'test.en is empty'),
    ('test.de', b'a\n\xff\n', 'test.de, line 2: not UTF-8'),
    ('valid.de', 'a\nb\n'.encode('utf-16'), 'valid.de is UTF-16 text'),
    ('train.fr', b'a\nb\xe9\n', 'train.fr, line 2: not UTF-8'),
    ('valid.de', None, 'no valid text for en-de'),
    ('train.de', None, 'no train text for en-de'),
])
def test_check_names_whatever_is_wrong_with_any_split(tmp_path, capsys, name, content, said):
    write_texts(tmp_path, {f'{split}.{code}': 'a|b' for split in ('train', 'valid', 'test')
                           for code in ('en', 'de', 'fr')})
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        check_splits(Corpus(tmp_path), ['en-de', 'de-en', 'en-fr', 'fr-en'])
    assert capsys.readouterr() == ('', '')  # the error is the only line


def test_check_names_empty_files(tmp_path):
    touch(tmp_path, 'train.en', 'train.de', 'valid.en', 'valid.de')
    for name in ('test.en', 'test.de'):
        (tmp_path / name).write_bytes(b'')
    with pytest.raises(UserError, match='test.en and .*test.de are empty'):
        check_splits(Corpus(tmp_path), ['en-de', 'de-en'])


def test_check_warns_of_tasks_without_test_text(tmp_path, capsys):
    write_texts(tmp_path, {f'{split}.{code}': f'{code} {split}|{code} b {split}' for split in ('train', 'valid', 'test')
                           for code in ('en', 'de', 'fr')})
    (tmp_path / 'test.fr').unlink()
    corpus = Corpus(tmp_path)
    check_splits(corpus, corpus.tasks)
    out, err = capsys.readouterr()
    assert out == '' and err == (f'warning: {tmp_path} has no test text for en-fr, fr-en; without it, they cannot be '
                                 'scored\n')


def test_check_says_where_a_copy_is_in_place_of_a_translation(tmp_path, capsys):
    """More than half of the pairs are the same on both sides; a few, such as names, are no reason."""
    write_texts(tmp_path, {'train.en': 'Anna|one|two', 'train.de': 'Anna|one|zwei', 'train.fr': 'Anna|un|deux',
                           'valid.en': 'a', 'valid.de': 'b', 'valid.fr': 'c', 'test.en': 'd', 'test.de': 'e',
                           'test.fr': 'f'})
    corpus = Corpus(tmp_path)
    check_splits(corpus, corpus.tasks)
    assert capsys.readouterr() == ('note: most training pairs have the same text on both sides: en-de\n', '')


def test_check_counts_the_pairs_that_training_text_shares_with_other_splits(tmp_path, capsys):
    """A pair counts if the same task trains on both of its lines: once for each time that the split has it."""
    write_texts(tmp_path, {
        'train.en': 'one|two|two|three||four|five', 'train.de': 'eins|zwei|zwei|drei||vier|fünf',
        'train.en-fr.en': 'one|six', 'train.en-fr.fr': 'un|six',
        'valid.en': 'one|two|eins|seven', 'valid.de': 'eins|drei|one|sieben',  # the first
        'valid.en-fr.en': 'two|eight', 'valid.en-fr.fr': 'deux|huit',          # none: two is trained on with German
        'test.en': 'two|two||four|nine', 'test.de': 'zwei|zwei||vier|neun',    # all but an empty one and the last
        'test.en-fr.en': 'six|ten', 'test.en-fr.fr': 'six|dix'})               # the first
    corpus = Corpus(tmp_path)
    check_splits(corpus, corpus.tasks)
    said = 'note: some {} pairs are training pairs, too, and so too easy: {}\n'
    assert capsys.readouterr() == (said.format('valid', 'en-de 1 of 4')
                                   + said.format('test', 'en-de 3 of 5, en-fr 1 of 2'), '')


def test_check_does_not_keep_the_training_text_in_memory(tmp_path):
    lines = [f'{n:0200}' for n in range(20_000)]  # 4 MB a file
    for code in ('en', 'de'):
        write_texts(tmp_path, {f'train.{code}': '|'.join(lines), f'valid.{code}': lines[7], f'test.{code}': lines[-1]})
    corpus = Corpus(tmp_path)
    tracemalloc.start()
    check_splits(corpus, ['en-de', 'de-en'])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # bytes


def test_train_looks_at_all_text_first(corpus_folder, tmp_path):
    """Also when a run is resumed. Nothing is written, and --resume works again once the text is as it was."""
    data, run = shutil.copytree(corpus_folder, tmp_path / 'data'), tmp_path / 'run'
    flags = ['train.py', '--data', data, '--run', run, '--device', 'cpu']
    whole = (data / 'test.fr').read_bytes()
    (data / 'test.fr').write_bytes(b'un\n')
    code, out, err = call_here(*flags, *SMALL, '--steps', 1)
    assert code == 2 and 'test.en has 20 lines but' in err and err.count('\n') == 1 and not run.exists()
    (data / 'test.fr').unlink()
    code, out, err = call_here(*flags, *SMALL, '--steps', 1)
    assert code == 0 and err.startswith('warning: ') and 'no test text for en-fr, fr-en' in err
    (data / 'test.fr').write_bytes(b'un\n')
    code, out, err = call_here(*flags, '--resume')
    assert code == 2 and 'test.en has 20 lines but' in err
    (data / 'test.fr').write_bytes(whole)
    code, out, err = call_here(*flags, '--resume')
    assert (code, err) == (0, '') and 'note: some test pairs are training pairs, too, and so too easy: en-de 5' in out


# Multi30k from a classroom's own server ------------------------------------------------------------------------------

@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """The files that a server on this machine serves, {name: bytes}; the list of checksums has no others."""
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
    """Languages need no lexicon; an unknown one has no relatives but itself."""
    codes = ['en', 'de', 'fr', 'cs', 'uk', 'ar', 'zh', 'xx', 'yy']
    pairs = {(one, other) for one in codes for other in codes if one < other and same_family(one, other)}
    assert pairs == {('de', 'en'), ('cs', 'uk')}
    assert same_family('pt', 'pt_BR') and same_family('xx', 'xx_Latn') and not same_family('xx', 'yy')


def test_no_code_of_the_table_stands_twice():
    rows = [re.split(r'\s{2,}', line) for line in read_lines(LANGUAGES) if line and not line.startswith('#')]
    codes = [code for row in rows for code in row[0].split()]
    assert sorted(codes) == sorted(families()) and all(re.fullmatch('[a-z]{2,3}', code) for code in codes)
    assert len({name for _, name, _ in rows}) == len(rows)
