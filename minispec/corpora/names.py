"""What the names of files say: the languages of a text, and the right name of a file that is named differently.

A language is a code of two or three small letters, and optionally a script or a region: de, pt_BR, zho_Hant, es_419.
"""
import re

from minispec.corpora.languages import english_names, family

CODE = r'[a-z]{2,3}(?:_(?:[A-Za-z]{2}|[A-Za-z]{4}|\d{3}))?'
ALIGNED_FILE = re.compile(rf'train\.({CODE})')
PAIR_FILE = re.compile(rf'train\.({CODE})-({CODE})\.(?:\1|\2)')
PART = rf'(?:{CODE}|[A-Za-z]{{2,4}})'  # of a name such as train.pt-BR or train.zh-Hans.en
UNCLEAR_FILE = re.compile(rf'train\.{PART}(?:-{PART})+(?:\.{PART}(?:-{PART})*)?|train\.{PART}\.{PART}(?:-{PART})+')
TABLES = {'csv', 'json', 'jsonl', 'ods', 'parquet', 'tsv', 'xls', 'xlsx'}
# Endings of files that lie beside text. Some are also language codes, but are not read as such: bak is a backup here,
# and Bashkir can be named ba or bak_Cyrl.
ENDINGS = TABLES.union('bak bin bpe cfg dat doc idx log md new old out pdf py sh spm swp tar tmp tok txt xml xz '
                       'zip'.split())
WORD = re.compile(r'(?<![A-Za-z])[A-Za-z]{2,3}_(?:[A-Z]{2}|[A-Z][a-z]{3})(?![A-Za-z])|[A-Za-z]+')  # pt_BR is one


def plain(name):
    """The name of a file without .gz."""
    return name.removesuffix('.gz')


def ending(name):
    return plain(name).rpartition('.')[2].lower()


def languages_in(name):
    """The languages in the name of a training file: two for train.en-de.en, one for train.en; else none."""
    match = PAIR_FILE.fullmatch(plain(name)) or ALIGNED_FILE.fullmatch(plain(name))
    codes = list(match.groups()) if match else []
    return [] if ENDINGS.intersection(map(str.lower, codes)) else codes


def is_unclear(name):
    """Does this name contain languages, as train.en-de.fr and train.pt-BR do, but not say which one the text is in?"""
    return bool(UNCLEAR_FILE.fullmatch(plain(name))) and not languages_in(name) and ending(name) not in ENDINGS


def right_name(name):
    """The right name of a file of training text: train.en for train_en.txt; None if it has it, or none is known."""
    with_region = re.sub(r'(?<![A-Za-z])([a-z]{2,3})-([A-Z]{2}|[A-Z][a-z]{3})(?![A-Za-z])', r'\1_\2', plain(name))
    words = WORD.findall(with_region)
    if {'valid', 'val', 'dev', 'test'}.intersection(map(str.lower, words)):
        return None
    codes = [word if '_' in word else english_names().get(word.lower(), word.lower()) for word in words]
    codes = [code for code in codes if family(code) and code not in ENDINGS]
    if len(codes) == 3 and codes[2] in codes[:2]:
        right = 'train.{}-{}.{}'.format(*codes)
    elif len(codes) == 1:
        right = f'train.{codes[0]}'
    else:
        return None
    return right + '.gz' * name.endswith('.gz') if right != plain(name) else None


def remedy(name):
    """What to do with a file that may be training text; None if nothing is known."""
    if ending(name) in TABLES:
        return f'{name} is a table: cut its columns into one file for each language'
    right = right_name(name)
    return f'rename {name} to {right}' if right else None
