"""Where text comes from: the built-in phrasebook, Multi30k, or a folder of yours.

A corpus is a folder with a training, a validation and a test split in either layout, each file plain or .gz:

    train.en-de.en  train.en-de.de  valid.en-de.en  ...     one pair of files for each two languages
    train.en  train.de  train.fr  val.en  ...               line n of every file means the same

A language's name is of letters, digits and underscores: pt_BR. Each pair of files serves both directions.
Line-aligned languages are paired with English, if it is one of them, else each with each.
"""
import hashlib
import http.client
import os
import re
import shutil
import urllib.request
import uuid
from itertools import islice, permutations
from pathlib import Path

from tqdm import tqdm

from minispec import UserError, phrasebook
from minispec.checkpoint import make_folder, write
from minispec.data import read_lines

SPLITS = {'train': ('train',), 'valid': ('valid', 'val'), 'test': ('test', 'test_2016_flickr')}  # the names files use

MULTI30K_URL = 'https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/'
MULTI30K_SHA256 = {
    'train.cs.gz': 'a65adb8b32e3bc664f21ecba7a6e7f6950fd1f405e135f7c312faabdb6255077',
    'train.de.gz': '726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6',
    'train.en.gz': 'd79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f',
    'train.fr.gz': '622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c',
    'val.cs.gz': 'b63226e05c4bd5dd6a42897d74b86a1b9d2c31498252c572b1ea7f7996927fcc',
    'val.de.gz': 'f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a',
    'val.en.gz': '14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28',
    'val.fr.gz': 'ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9',
    'test_2016_flickr.cs.gz': '200a4a74cc9560f051924abb9803be008d1908d77f747e9141aeb86dfd2797f1',
    'test_2016_flickr.de.gz': '9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8',
    'test_2016_flickr.en.gz': '611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9',
    'test_2016_flickr.fr.gz': '6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90',
    'test_2018_flickr.cs.gz': '7d0a9db904f94c554a8c58049a9f3a5357c27f46cc3d710d70cb0b4a2585b8c2',
    'test_2018_flickr.de.gz': 'ddd0130c7d97482dc5197a02141dae8dd79f20f03586c480d675c09a32daf608',
    'test_2018_flickr.en.gz': 'ef4f4844037d4c5dea75c9a8ed5fd78905967a26f67c255e230cc9780032654d',
    'test_2018_flickr.fr.gz': 'fb2b83fcceb937a4f7e3e93c1c51c22aba92f1e342391e6b5ba392b16a920501',
}


class Corpus:
    """A folder of parallel text. `directions` lists what it can train, from English first: ['en-cs', ..., 'cs-en']."""

    def __init__(self, folder):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f'--data {folder}: there is no such folder')
        names = {path.name.removesuffix('.gz') for path in self.folder.iterdir() if path.is_file()}
        pair_file = re.compile(r'train\.(\w+)-(\w+)\.(?:\1|\2)').fullmatch
        pairs = {match.groups() for match in map(pair_file, names) if match}
        aligned = {match[1] for match in map(re.compile(r'train\.(\w+)').fullmatch, names) if match}
        for name in sorted(names):  # pt-BR, which would be left out without a word
            if re.fullmatch(r'train\.\w*-[\w-]*(\.[\w-]+)?', name) and not pair_file(name):
                raise UserError(f'--data {folder}: {name} names no pair of languages; name files train.en-de.en and '
                                'train.en-de.de, and write a language with its region as pt_BR, not pt-BR')
        pairs |= {pair for pair in permutations(aligned, 2) if 'en' in pair or 'en' not in aligned}
        directions = {'-'.join(direction) for pair in pairs for direction in permutations(pair)}
        self.directions = sorted(directions, key=lambda direction: (not direction.startswith('en-'), direction))
        if not self.directions:
            raise UserError(f'--data {folder}: no training text in it; name files train.en-de.en and train.en-de.de, '
                            'or train.en and train.de')

    @property
    def languages(self):
        return sorted({language for direction in self.directions for language in direction.split('-')})

    def files(self, split, direction):
        """The source and the target file of a direction in `split`: 'train', 'valid', 'test' or a file's own name."""
        src, tgt = direction.split('-')
        for name in SPLITS.get(split, (split,)):
            for stem in (f'{name}.{src}-{tgt}', f'{name}.{tgt}-{src}', name):
                found = [self._file(f'{stem}.{language}') for language in (src, tgt)]
                if all(found):
                    return found
        raise UserError(f'{self.folder} has no {split} text for {direction}; name it {split}.{direction}.{src} and '
                        f'{split}.{direction}.{tgt}, or {split}.{src} and {split}.{tgt}')

    def lines(self, directions):
        """How many lines of training text each direction has, {direction: lines}; a file is read once."""
        sources = [self.files('train', direction)[0] for direction in directions]
        lines = {path: sum(1 for _ in read_lines(path)) for path in set(sources)}
        return {direction: lines[path] for direction, path in zip(directions, sources)}

    def _file(self, name):
        return next((path for path in (self.folder / name, self.folder / f'{name}.gz') if path.is_file()), None)


def open_corpus(data):
    """The corpus that `--data` names: 'phrasebook' or 'multi30k', written or downloaded on first use, or a folder."""
    if data == 'phrasebook':
        return Corpus(write_phrasebook(Path('data') / 'phrasebook'))
    if data == 'multi30k':
        return Corpus(download_multi30k(Path('data') / 'multi30k'))
    return Corpus(data)


def write_phrasebook(folder):
    """Write the phrasebook's pair files, English with each other language, unless `folder` is there already.

    200 meanings for validation and 200 for test are the same for all pairs of languages. Training takes others: the
    first 8,000, 2,000 or 400 of one list, as the language's table says.
    """
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f'{folder.name}.{uuid.uuid4().hex}.part')  # a run beside this one has its own
    make_folder(unfinished)
    try:
        others = [phrasebook.language(code) for code in phrasebook.codes() if code != 'en']
        source = phrasebook.sentences()
        for split, size in ('valid', 200), ('test', 200), ('train', max(other.pairs for other in others)):
            drawn = list(islice(source, size))
            for other in others:
                for code in ('en', other.code):
                    lines = [said[code] + '\n' for said in drawn[:other.pairs if split == 'train' else size]]
                    write(unfinished / f'{split}.en-{other.code}.{code}', ''.join(lines))
        unfinished.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else that other run was first, and its folder is as good
            raise UserError(f'cannot make the folder {folder} ({error.strerror}); is there a file of that name?')
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def download_multi30k(folder):
    """Fetch the files of Multi30k's task 1 that `folder` lacks or has damaged; each is checked before it gets its name.

    (Elliott et al. 2016, 2017; Barrault et al. 2018: image captions in en, de, fr, cs; for research and education.)
    The environment variable MINISPEC_MULTI30K_URL names another address to take them from, such as a classroom's.
    """
    base = (os.environ.get('MINISPEC_MULTI30K_URL') or MULTI30K_URL).rstrip('/') + '/'
    make_folder(folder)

    def is_good(name, content):
        return hashlib.sha256(content).hexdigest() == MULTI30K_SHA256[name]

    missing = [name for name in MULTI30K_SHA256
               if not (folder / name).is_file() or not is_good(name, (folder / name).read_bytes())]
    for name in tqdm(missing, desc=f'Multi30k from {base}', unit='file', disable=not missing):
        try:
            with urllib.request.urlopen(base + name, timeout=30) as response:
                content = response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UserError(f'cannot download {base}{name} ({error}); run the command again when the network is back, '
                            f'set MINISPEC_MULTI30K_URL to a mirror, or put the file into {folder} yourself')
        if not is_good(name, content):
            raise UserError(f'{base}{name} is not the file that was published (its SHA-256 differs) and was not kept; '
                            'run the command again, or set MINISPEC_MULTI30K_URL to another mirror')
        write(folder / name, content)
    return folder
