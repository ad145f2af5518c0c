"""The built-in corpus: everyday sentences, the same in ten languages.

A *meaning* (who does what, where) is drawn at random, with English words as names of things, and then said in each
language by grammar.py. Which meanings make sense is written in English's table, lexicon/en.txt.
"""
import hashlib
import random
import sys
from itertools import islice
from pathlib import Path

from minispec.corpora import grammar
from minispec.corpora.grammar import Clause, NounPhrase, codes, language
from minispec.files import make_folder, write
from minispec.tasks import HUB

# The kinds of sentences, each a line in every language's [clauses], and their relative frequencies.
KINDS = {'statement': 5, 'past': 4, 'negative': 2, 'question': 2, 'where': 1, 'modal': 3, 'time': 3, 'says': 3,
         'copula': 1}
THE = [('sg', 'the')] * 3 + [('pl', 'the')]  # numbers and determiners to draw from: the singular is more frequent


def draw_clause(rng):
    """A random meaning; `rng` is a random.Random."""
    kind, = rng.choices(list(KINDS), KINDS.values())
    if kind == 'copula':
        subject = draw_noun_phrase(rng, ['person', 'animal', 'text', 'thing', 'large'], THE)._replace(adjective='')
        return Clause(kind, subject, adjective=draw_adjective(rng, subject.noun))
    if kind == 'says':
        subject = draw_noun_phrase(rng, ['person'], THE)
        verb = draw_word(rng, 'verbs', 'frame', ['says'])
        return Clause(kind, subject, verb, said=draw_action(rng, 'said', [subject.noun]))
    return draw_action(rng, kind)


def draw_action(rng, kind, avoid=()):
    """A random meaning in which somebody does something; no noun in `avoid` is its subject."""
    frames = {'where': ['intransitive'], 'negative': ['intransitive', 'transitive']}
    verb = draw_word(rng, 'verbs', 'frame', frames.get(kind, ['intransitive', 'transitive', 'ditransitive']))
    row = language('en').sections['verbs'][verb]
    who = set(row['who'].split()) - {'pronoun'}
    if kind in ('statement', 'negative', 'modal', 'time') and rng.random() < 0.3:
        who = ['pronoun']
    subject = draw_noun_phrase(rng, who, THE, avoid)
    slots = {}
    if row['frame'] != 'intransitive':
        whom = rng.choice(row['whom'].split())
        determiners = [('sg', 'the')]
        if kind != 'negative':
            determiners += [('sg', 'a')]
            if whom != 'person':
                determiners += [('pl', 'the'), ('pl', 'two'), ('pl', 'three'), ('pl', 'five')]
        # In French, *montre le vélo de la femme au fermier* would have two readings.
        may_be_owned = row['frame'] != 'ditransitive'
        slots['object'] = draw_noun_phrase(rng, [whom], determiners, [subject.noun], may_be_owned)
    if row['frame'] == 'ditransitive':
        slots['recipient'] = draw_noun_phrase(rng, ['person'], [('sg', 'the')], [subject.noun])
    if kind == 'modal':
        slots['modal'] = rng.choice(row['modals'].split())
    if kind == 'time':
        slots['time'] = rng.choice(list(language('en').sections['times']))
    if kind not in ('negative', 'where') and rng.random() < 0.5:
        slots['place'] = rng.choice(list(language('en').sections['places']))
    return Clause(kind, subject, verb, **slots)


def draw_noun_phrase(rng, kinds, determiners, avoid=(), may_be_owned=True):
    """Some noun of these kinds, at times with an adjective or an owner, none of them in `avoid`."""
    noun = draw_word(rng, 'nouns', 'class', kinds, avoid)
    row = language('en').sections['nouns'][noun]
    if 'pronoun' in row['class'].split():
        return NounPhrase(noun, 'sg' if 'sg' in row else 'pl', 'pronoun')
    number, determiner = rng.choice(determiners)
    adjective = draw_adjective(rng, noun) if rng.random() < 0.4 else ''
    owner = None
    if determiner == 'the' and 'person' not in row['class'].split() and may_be_owned and rng.random() < 0.2:
        name = draw_word(rng, 'nouns', 'class', ['person'], avoid)
        # Always with an adjective: for a bare *farmer's dog* Czech would have an adjective of its own, *sedlákův*.
        owner = NounPhrase(name, 'sg', 'the', draw_adjective(rng, name))
    return NounPhrase(noun, number, determiner, adjective, owner)


def draw_adjective(rng, noun):
    """An adjective that fits a noun."""
    return draw_word(rng, 'adjectives', 'fits', language('en').sections['nouns'][noun]['class'].split())


def draw_word(rng, title, column, allowed, avoid=()):
    """A word of a section of English's table that has one of the `allowed` values in a column."""
    section = language('en').sections[title]
    words = [word for word, row in section.items()
             if word not in avoid and not set(allowed).isdisjoint(row[column].split())]
    if not words:
        raise section.error(f'has too few lines with {" or ".join(sorted(allowed))} as their {column}')
    return rng.choice(words)


def sentences(seed=1):
    """Meanings without end, each in every language: {code: sentence}. No sentence of any language comes twice."""
    rng, seen = random.Random(seed), set()
    for code in codes():
        language(code).check()
    while True:
        clause = draw_clause(rng)
        said = {code: language(code).say(clause) for code in codes()}
        if seen.isdisjoint(said.items()):
            seen.update(said.items())
            yield said


def fingerprint():
    """A checksum of all that the text is made from: the tables of the lexicon and the code that reads them."""
    digest = hashlib.sha256()
    for path in [*sorted(grammar.LEXICON.glob('*.txt')), Path(grammar.__file__), Path(__file__)]:
        content = path.read_bytes()
        digest.update(f'{path.name} {len(content)}\n'.encode() + content)
    return digest.hexdigest()


def write_phrasebook(folder, even=False):
    """Write the phrasebook's pair files, English with each other language; returns `folder`.

    If they are there and tables and code have not changed since, nothing is done.

    200 meanings for validation and 200 for test are the same for all pairs of languages. Training takes others: the
    first 8,000, 2,000 or 400 of one list, as the language's table says. If `even`, all languages have the same number
    of them, and the total is the same up to rounding.
    """
    folder, made_from = Path(folder), fingerprint()
    stamp = folder / 'fingerprint'
    if stamp.is_file() and stamp.read_bytes() == made_from.encode():
        return folder
    if folder.is_dir():
        print(f'note: {folder} is not what the tables in {grammar.LEXICON} give now, and is written anew',
              file=sys.stderr)
    texts = draw_files(even)
    make_folder(folder)
    # A folder that is left half-written is written anew by the next run. Concurrent runs write the same text, each file
    # whole, so none of them is in another's way.
    write(stamp, 'unfinished')
    for path in folder.glob('*.*-*.*'):
        if path.name not in texts and path.suffix != '.part':  # its table is gone
            path.unlink(missing_ok=True)
    for name, text in texts.items():
        write(folder / name, text)
    write(stamp, made_from)
    return folder


def draw_files(even):
    """The names and the texts of the pair files of all splits."""
    pairs = {code: language(code).pairs for code in codes() if code != HUB}
    if even:
        pairs = dict.fromkeys(pairs, sum(pairs.values()) // len(pairs))
    source, texts = sentences(), {}
    for split, size in ('valid', 200), ('test', 200), ('train', max(pairs.values())):
        drawn = list(islice(source, size))
        for other in pairs:
            used = drawn[:pairs[other]] if split == 'train' else drawn
            for code in (HUB, other):
                texts[f'{split}.{HUB}-{other}.{code}'] = ''.join(said[code] + '\n' for said in used)
    return texts
