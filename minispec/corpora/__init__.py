"""Where text comes from: the built-in phrasebook, Multi30k, or a folder of yours.

folder.py      what a corpus is: a folder of parallel text in either of two layouts
splits.py      looks at all text before a training
names.py       what the names of files say of their languages
multi30k.py    downloads the image captions of Multi30k
phrasebook.py  draws meanings and writes them as parallel text; grammar.py says a meaning in a language, from lexicon/
languages.py   which languages are relatives
"""
from pathlib import Path

from minispec import UserError
from minispec.corpora.folder import Corpus
from minispec.corpora.multi30k import download_multi30k
from minispec.corpora.phrasebook import write_phrasebook
from minispec.corpora.splits import check_splits

BUILT_IN = ('phrasebook', 'phrasebook-even', 'multi30k')

__all__ = ['Corpus', 'check_splits', 'open_corpus', 'source']


def open_corpus(data, languages=None, directions=None):
    """The corpus that `--data` names: one of BUILT_IN, made in data/ on first use, or a folder.

    With `languages`, it has the tasks between them alone; with `directions`, those alone.
    """
    if data in ('phrasebook', 'phrasebook-even'):
        data = write_phrasebook(Path('data') / data, even=data == 'phrasebook-even')
    elif data == 'multi30k':
        data = download_multi30k(Path('data') / 'multi30k')
    elif not Path(data).is_dir():
        raise UserError(f'--data {data}: there is no such folder, and no such built-in corpus: {", ".join(BUILT_IN)}')
    return Corpus(data, languages, directions)


def source(data):
    """How a checkpoint names the corpus `data`, so that it is found again from another folder."""
    return data if data in BUILT_IN else str(Path(data).resolve())
