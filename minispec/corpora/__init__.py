"""Where text comes from: the built-in phrasebook, Multi30k, or a folder of yours.

folder.py      what a corpus is: a folder of parallel text in either of two layouts
multi30k.py    downloads the image captions of Multi30k
phrasebook.py  draws meanings and writes them down as parallel text; grammar.py says one in a language, from lexicon/
languages.py   which languages are relatives
"""
from pathlib import Path

from minispec.corpora.folder import Corpus
from minispec.corpora.multi30k import download_multi30k
from minispec.corpora.phrasebook import write_phrasebook


def open_corpus(data):
    """The corpus that `--data` names: 'phrasebook' or 'multi30k', made in data/ on first use, or a folder."""
    if data == 'phrasebook':
        return Corpus(write_phrasebook(Path('data') / 'phrasebook'))
    if data == 'multi30k':
        return Corpus(download_multi30k(Path('data') / 'multi30k'))
    return Corpus(data)


def source(data):
    """How a checkpoint names the corpus `data`, so that it is found again from another folder."""
    return data if data in ('phrasebook', 'multi30k') else str(Path(data).resolve())
