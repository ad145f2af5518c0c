"""The built-in corpus: everyday sentences, the same in ten languages, made by a small grammar from tables.

A *meaning* (who does what, where) is drawn at random and then said in each language. All that is a language's own lies
in its table, `lexicon/LANGUAGE.txt`: the words with their forms written out, and rules that say which form goes where.
This file only draws meanings, looks forms up and fills templates; it knows no language. `lexicon/README.md` tells how
to add a word or a language.
"""
import random
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minispec import UserError

LEXICON = Path(__file__).parent / 'lexicon'
TABLES = ('nouns', 'adjectives', 'verbs')  # sections whose first line names columns; all others map a name to a text

# The kinds of sentences, each a line in every language's [clauses], and how often they are drawn.
KINDS = {'statement': 5, 'past': 4, 'negative': 2, 'question': 2, 'where': 1, 'modal': 3, 'time': 3, 'says': 3, 'copula': 1}


class NounPhrase(NamedTuple):
    """`the old farmer's small dog`, before it has a language. Pronouns are noun phrases with determiner `pronoun`."""
    noun: str
    number: str                # sg or pl
    determiner: str            # the, a, two, three, five or pronoun
    adjective: str = ''
    owner: 'NounPhrase | None' = None  # the old farmer


class Clause(NamedTuple):
    """A sentence before it has a language; `kind` names a template in each language's [clauses]."""
    kind: str
    subject: NounPhrase
    verb: str = 'be'
    object: NounPhrase | None = None
    recipient: NounPhrase | None = None
    modal: str = ''
    adjective: str = ''        # that the copula ascribes to the subject
    place: str = ''
    time: str = ''
    said: 'Clause | None' = None


class Language:
    """One table of the lexicon, and the sentences that it can make."""

    def __init__(self, path):
        self.path, self.code, self.sections, section = path, path.stem, {}, None
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            cells = re.split(r'\s{2,}', line.split('#')[0].strip())
            if heading := re.fullmatch(r'\[(.+)\]', cells[0]):
                section, columns = self.sections.setdefault(heading[1], {}), None
                is_table = heading[1] in TABLES
            elif not cells[0]:
                continue
            elif is_table and columns is None:
                columns = cells
            elif len(cells) != (len(columns) if is_table else 2):
                raise UserError(f'{path}, line {number}: {len(cells)} cells instead of '
                                f'{len(columns) if is_table else 2} (two spaces or more end a cell): {line}')
            elif cells[0] in section:
                raise UserError(f'{path}, line {number}: {cells[0]} is there twice')
            else:
                section[cells[0]] = dict(zip(columns[1:], cells[1:])) if is_table else cells[1]
        self.family, self.pairs = self.entry('language', 'family'), int(self.entry('language', 'pairs'))

    def entry(self, section, name):
        """What the table says of `name` in `section`. Raises UserError if it says nothing, or `-`."""
        found = self.sections.get(section, {}).get(name, '-')
        if found == '-':
            raise UserError(f'{self.path}: [{section}] has no line for "{name}"')
        return '' if found == '∅' else found

    def rule(self, section, features):
        """The text of the first line whose words are all among `features`; the word `any` always is."""
        for conditions, text in self.sections[section].items():
            if features.issuperset(conditions.split()):
                return '' if text == '∅' else text
        raise UserError(f'{self.path}: [{section}] has no line for {", ".join(sorted(features))}')

    def form(self, table, name, features):
        """The form of a word that the rules of its table ask for."""
        column = self.rule(f'{table} forms', features)
        text = self.entry(table, name).get(column, '-')
        if text == '-':
            raise UserError(f'{self.path}: [{table}] {name} has no form "{column}"')
        return '' if text == '∅' else text

    def features(self, phrase):
        """What the rules may ask of a noun phrase: determiner, number, person, and the class of its noun.

        A class such as n/f is that of the singular and that of the plural.
        """
        classes = self.entry('nouns', phrase.noun)['class'].split('/')
        return {'any', phrase.number, phrase.determiner, '1' if phrase.determiner == 'pronoun' else '3',
                *classes[-1 if phrase.number == 'pl' else 0].split(), *english().entry('nouns', phrase.noun)['class'].split()}

    @cache
    def noun_phrase(self, phrase, case, negated=False):
        features = self.features(phrase) | {case, 'negated' if negated else '', 'owned' if phrase.owner else '',
                                            'described' if phrase.adjective else ''}

        def word(slot, owner_case):
            if slot == 'determiner':
                return self.rule('determiners', features)
            if slot == 'noun':
                return self.form('nouns', phrase.noun, features)
            if slot == 'owner':
                return self.noun_phrase(phrase.owner, owner_case)
            adjective = phrase.adjective and self.entry('adjectives', phrase.adjective)
            return self.form('adjectives', phrase.adjective, features) if adjective and adjective['class'] == slot else ''

        return fill(self.entry('noun phrases', 'owned' if phrase.owner else 'plain'), word)

    def clause(self, clause):
        """The clause in this language, before spelling rules."""
        negated = clause.kind == 'negative'
        subject = self.features(clause.subject)

        def word(slot, form):
            if slot == 'subject':
                return self.noun_phrase(clause.subject, 'nom')
            if slot in ('verb', 'modal', 'have', 'do', 'be'):
                return self.form('verbs', getattr(clause, slot, slot), subject | {form or 'present'})
            if slot == 'rest':
                frame = english().sections['verbs'][clause.verb]['frame']
                return fill(self.entry('frames', frame), word)
            if slot == 'object':
                case = self.entry('verbs', clause.verb).get('object', 'acc')
                return self.noun_phrase(clause.object, case, negated)
            if slot == 'recipient':
                return self.noun_phrase(clause.recipient, form)
            if slot == 'adjective':
                return self.form('adjectives', clause.adjective, subject | {'predicate'})
            if slot == 'said':
                return self.clause(clause.said)
            name = getattr(clause, slot)  # place or time
            return self.entry(f'{slot}s', name) if name else ''

        return fill(self.entry('clauses', clause.kind), word)

    def say(self, clause):
        """The clause as a written sentence."""
        text = self.clause(clause)
        for pattern, replacement in self.sections.get('spelling', {}).items():
            text = re.sub(pattern, '' if replacement == '∅' else replacement, text)
        return re.sub(r'\w', lambda letter: letter[0].upper(), text, count=1)


def fill(template, word):
    """Replace each {slot} or {slot.form} of `template` by word(slot, form); an empty word takes its space along."""
    def replace(match):
        space, slot, form = match.groups()
        text = word(slot, form)
        return space + text if text else ''
    return re.sub(r'( ?)\{(\w+)\.?(\w*)\}', replace, template).strip()


@cache
def language(code):
    return Language(LEXICON / f'{code}.txt')


def english():
    """English, whose table also says which meanings make sense: who can do what to whom, and what can be old."""
    return language('en')


@cache
def codes():
    """The codes of all languages of the lexicon."""
    return sorted(path.stem for path in LEXICON.glob('*.txt'))


@cache
def families():
    """The family of each language of the lexicon: {'de': 'Germanic', ...}."""
    return {code: language(code).family for code in codes()}


def sentences(seed=1):
    """Meanings without end, each said in every language: {code: sentence}. No sentence of any language comes twice."""
    rng, seen = random.Random(seed), set()
    while True:
        clause = draw_clause(rng)
        said = {code: language(code).say(clause) for code in codes()}
        if seen.isdisjoint(said.items()):
            seen.update(said.items())
            yield said


def draw_clause(rng, kind=None, avoid=()):
    """A random meaning; `rng` is a random.Random, `kind`, if given, one of KINDS; no noun in `avoid` does anything."""
    table = english().sections
    kind = kind or rng.choices(list(KINDS), KINDS.values())[0]

    def words(section, column, *allowed):
        """The words of an English table that have one of these values in a column."""
        return [word for word, row in table[section].items() if set(row[column].split()) & set(allowed)]

    def noun_phrase(kinds, determiners, avoid=(), may_be_owned=True):
        """Some noun of these kinds, at times with an adjective or an owner, none of them in `avoid`."""
        noun = rng.choice([word for word in words('nouns', 'class', *kinds) if word not in avoid])
        noun_kinds = table['nouns'][noun]['class'].split()
        if 'pronoun' in noun_kinds:
            return NounPhrase(noun, 'pl' if noun == 'we' else 'sg', 'pronoun')
        number, determiner = rng.choice(determiners)
        adjective = rng.choice(words('adjectives', 'fits', *noun_kinds)) if rng.random() < 0.4 else ''
        owner = None
        if determiner == 'the' and 'person' not in noun_kinds and may_be_owned and rng.random() < 0.2:
            name = rng.choice([word for word in words('nouns', 'class', 'person') if word not in avoid])
            # Always with an adjective: for a bare *farmer's dog* Czech would have an adjective of its own, *sedlákův*.
            fitting = words('adjectives', 'fits', *table['nouns'][name]['class'].split())
            owner = NounPhrase(name, 'sg', 'the', rng.choice(fitting))
        return NounPhrase(noun, number, determiner, adjective, owner)

    the = [('sg', 'the')] * 3 + [('pl', 'the')]
    if kind == 'copula':
        subject = noun_phrase(['person', 'animal', 'text', 'thing', 'large'], the)._replace(adjective='')
        fitting = words('adjectives', 'fits', *table['nouns'][subject.noun]['class'].split())
        return Clause(kind, subject, adjective=rng.choice(fitting))
    if kind == 'says':
        subject = noun_phrase(['person'], the)
        return Clause(kind, subject, rng.choice(words('verbs', 'frame', 'says')), said=draw_clause(rng, 'said', [subject.noun]))

    frames = {'where': ['intransitive'], 'negative': ['intransitive', 'transitive']}
    verb = rng.choice(words('verbs', 'frame', *frames.get(kind, ['intransitive', 'transitive', 'ditransitive'])))
    row = table['verbs'][verb]
    may_be_pronoun = kind in ('statement', 'negative', 'modal', 'time') and rng.random() < 0.3
    subject = noun_phrase(['pronoun'] if may_be_pronoun else set(row['who'].split()) - {'pronoun'}, the, avoid)
    slots = {}
    if row['frame'] != 'intransitive':
        one = [('sg', 'the')] if kind == 'negative' else [('sg', 'the'), ('sg', 'a')]
        several = [] if kind == 'negative' else [('pl', 'the'), ('pl', 'two'), ('pl', 'three'), ('pl', 'five')]
        whom = rng.choice(row['whom'].split())
        # In French, *montre le vélo de la femme au fermier* would have two readings.
        slots['object'] = noun_phrase([whom], one if whom == 'person' else one + several, avoid=[subject.noun],
                                      may_be_owned=row['frame'] != 'ditransitive')
    if row['frame'] == 'ditransitive':
        slots['recipient'] = noun_phrase(['person'], [('sg', 'the')], avoid=[subject.noun])
    if kind == 'modal':
        slots['modal'] = rng.choice(row['modals'].split())
    if kind == 'time':
        slots['time'] = rng.choice(list(table['times']))
    if kind not in ('negative', 'where') and rng.random() < 0.5:
        slots['place'] = rng.choice(list(table['places']))
    return Clause(kind, subject, verb, **slots)
