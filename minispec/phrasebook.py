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
from minispec.data import read_lines

LEXICON = Path(__file__).parent / 'lexicon'
TABLES = ('nouns', 'adjectives', 'verbs')  # sections whose first line names columns; all others map a name to a text
RULES = ('nouns forms', 'adjectives forms', 'verbs forms', 'determiners')  # what it maps are conditions
TEMPLATES = ('noun phrases', 'frames', 'clauses')
SECTIONS = ('language', *TABLES, *RULES, *TEMPLATES, 'places', 'times', 'spelling')
CONDITIONS = ('any sg pl 1 3 the a two three five pronoun owned described negated predicate present '
              'nom acc dat gen').split()

# The kinds of sentences, each a line in every language's [clauses], and how often they are drawn.
KINDS = {'statement': 5, 'past': 4, 'negative': 2, 'question': 2, 'where': 1, 'modal': 3, 'time': 3, 'says': 3,
         'copula': 1}


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


class Entries(dict):
    """The sections of a table, the lines of a section or the cells of a line, by name, and the place where they stand.

    Whatever is wrong with them is said here, with the file and the line; so is whoever asks for what is not there.
    """

    def __init__(self, place, what):
        super().__init__()
        self.place, self.what = place, what

    def fail(self, message):
        raise UserError(f'{self.place}: {self.what} {message}')

    def __missing__(self, name):
        self.fail(f'has no "{name}"')

    def check(self, words, known):
        for word in words:
            if word not in known:
                self.fail(f'has "{word}" where there can only be {", ".join(sorted(known))}')


class Language:
    """One table of the lexicon, and the sentences that it can make.

    `sections[section][name][column]` is a cell of it; where there are no columns, the second cell is called `text`.
    """

    def __init__(self, path):
        self.code, lines = path.stem, list(read_lines(path))
        if not re.fullmatch(r'\w+', self.code):
            raise UserError(f'{path}: a language has a name of letters, digits and underscores, such as pt_BR.txt')
        self.sections, title = Entries(f'{path}, line {len(lines)}', 'the table up to here'), None
        for number, line in enumerate(lines, 1):
            cells = re.split(r'\s{2,}', line.split('#')[0].strip())
            row = Entries(f'{path}, line {number}', f'[{title}] {cells[0]}')
            if len(cells) == 1 and (heading := re.fullmatch(r'\[(.+)\]', cells[0])):
                title, columns = heading[1], None if heading[1] in TABLES else ['name', 'text']
                row.what = cells[0]
                row.check([title], SECTIONS)
                if title in self.sections:
                    row.fail('is there twice')
                section = self.sections[title] = row
            elif not cells[0]:
                continue
            elif title is None:
                row.fail('comes before the first section, [language]')
            elif columns is None:
                columns = section.columns = cells
                if cells[0] != 'word' or len(set(cells)) < len(cells):
                    row.fail('should be the line that names the columns, "word" and others, each once')
            elif len(cells) != len(columns):
                row.fail(f'has {len(cells)} cells instead of {len(columns)} (two spaces or more end a cell): {line}')
            elif cells[0] in section:
                row.fail('is there twice')
            else:
                section[cells[0]] = row
                row.update((key, cell.replace('∅', '')) for key, cell in zip(columns[1:], cells[1:]) if cell != '-')
        about = self.sections['language']
        self.family, self.pairs = about['family']['text'], about['pairs']['text']
        if not self.pairs.isdecimal() or int(self.pairs) == 0 and self.code != 'en':
            about['pairs'].fail(f'should be a number of sentences, not {self.pairs}')
        self.pairs = int(self.pairs)

    def check(self):
        """Raise UserError for words that nothing knows: when a sentence is said, nobody would miss them."""
        table, known = self.sections, english().sections
        classes, kinds = (about['classes']['text'].split() for about in (table['language'], known['language']))
        table['language']['family'].check([self.family], known['language']['families']['text'].split())
        for title in (title for title in SECTIONS if title not in RULES and title != 'spelling'):
            if not table[title]:
                table[title].fail('has no lines')
            for name, row in table[title].items():
                if name not in known[title]:
                    row.fail('is not in en.txt')
        for row in table['nouns'].values():
            row.check(re.split('[ /]', row['class']), classes)
        may_say = {'fits': kinds, 'who': kinds, 'whom': kinds, 'modals': table['verbs'],
                   'frame': [*table['frames'], 'modal', 'says', 'auxiliary']}  # columns of en.txt
        for row in *table['adjectives'].values(), *table['verbs'].values():
            for column in row.keys() & may_say:
                row.check(row[column].split(' '), may_say[column])
        cases = [row['object'] for row in table['verbs'].values() if 'object' in row]
        templates = [row['text'] for title in TEMPLATES for row in table[title].values()]
        forms = re.findall(r'\.(\w+)\}', ' '.join(templates))
        for title in RULES:
            for conditions, row in table[title].items():
                row.check(conditions.split(), {*CONDITIONS, *classes, *kinds, *cases, *forms})
                if title != 'determiners':
                    row.check([row['text']], table[title.split()[0]].columns[1:])
        for pattern, row in table.get('spelling', {}).items():
            try:
                re.sub(pattern, row['text'], '')
            except (re.error, IndexError, OverflowError) as error:
                row.fail(f'is not a regular expression and its replacement: {error}')

    def rule(self, section, features):
        """The text of the first line whose words are all among `features`; the word `any` always is."""
        for conditions, row in self.sections[section].items():
            if features.issuperset(conditions.split()):
                return row['text']
        self.sections[section].fail(f'has no line for {" ".join(sorted(features - {""}))}')

    def form(self, table, name, features):
        """The form of a word that the rules of its table ask for."""
        return self.sections[table][name][self.rule(f'{table} forms', features)]

    def features(self, phrase):
        """What the rules may ask of a noun phrase: determiner, number, person, and the class of its noun.

        A class such as n/f is that of the singular and that of the plural.
        """
        classes, kinds = (table['nouns'][phrase.noun]['class'] for table in (self.sections, english().sections))
        classes = classes.split('/')
        return {'any', phrase.number, phrase.determiner, '1' if phrase.determiner == 'pronoun' else '3',
                *classes[-1 if phrase.number == 'pl' else 0].split(), *kinds.split()}

    @cache
    def noun_phrase(self, phrase, case, negated=False):
        features = self.features(phrase) | {case, 'negated' if negated else '', 'owned' if phrase.owner else '',
                                            'described' if phrase.adjective else ''}

        template = self.sections['noun phrases']['owned' if phrase.owner else 'plain']
        adjectives = self.sections['adjectives']
        place = phrase.adjective and adjectives[phrase.adjective]['class']
        if place and f'{{{place}}}' not in template['text']:
            adjectives[phrase.adjective].fail(f'has the class "{place}", a slot that {template.what} does not have')

        def word(slot, form):
            if slot == 'determiner':
                return self.rule('determiners', features)
            if slot == 'noun':
                return self.form('nouns', phrase.noun, features)
            if slot == 'owner':
                return self.noun_phrase(phrase.owner, form or 'gen')
            return self.form('adjectives', phrase.adjective, features) if slot == place else ''

        return fill(template, word, {'determiner', 'before', 'noun', 'after', *(['owner'] if phrase.owner else [])})

    def clause(self, clause):
        """The clause in this language, before spelling rules."""
        negated = clause.kind == 'negative'
        subject = self.features(clause.subject)

        # What there is to say; a place and a time can be empty.
        slots = {slot for slot, value in clause._asdict().items() if value and slot != 'kind'}
        slots |= {'place', 'time', 'have', 'do', 'be'}

        def word(slot, form):
            if slot == 'subject':
                return self.noun_phrase(clause.subject, form or 'nom')
            if slot in ('verb', 'modal', 'have', 'do', 'be'):
                return self.form('verbs', getattr(clause, slot, slot), subject | {form or 'present'})
            if slot == 'rest':
                return fill(self.sections['frames'][english().sections['verbs'][clause.verb]['frame']], word, slots)
            if slot == 'object':
                case = form or self.sections['verbs'][clause.verb].get('object', 'acc')
                return self.noun_phrase(clause.object, case, negated)
            if slot == 'recipient':
                return self.noun_phrase(clause.recipient, form or 'dat')
            if slot == 'adjective':
                return self.form('adjectives', clause.adjective, subject | {'predicate'})
            if slot == 'said':
                return self.clause(clause.said)
            name = getattr(clause, slot)  # place or time
            return self.sections[f'{slot}s'][name]['text'] if name else ''

        return fill(self.sections['clauses'][clause.kind], word, slots | {'rest'})

    def say(self, clause):
        """The clause as a written sentence."""
        text = self.clause(clause)
        for pattern, row in self.sections.get('spelling', {}).items():
            text = re.sub(pattern, row['text'], text)
        return re.sub(r'\w', lambda letter: letter[0].upper(), text, count=1)


def fill(template, word, slots):
    """Replace each {slot} or {slot.form} of a line's text by word(slot, form); an empty word takes its space along."""
    def replace(match):
        space, slot, form = match.groups()
        template.check([slot or match[0].strip()], slots)  # or: a brace by itself
        text = word(slot, form)
        return space + text if text else ''
    return re.sub(r'( ?)(?:\{(\w+)(?:\.(\w+))?\}|[{}])', replace, template['text']).strip()


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
    for code in codes():
        language(code).check()
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

    def words(section, column, allowed, avoid=()):
        """The words of an English table that have one of these values in a column."""
        return [word for word, row in table[section].items()
                if word not in avoid and set(row[column].split()) & set(allowed)] or table[section].fail(
                    f'has too few lines with {" or ".join(sorted(allowed))} as their {column}')

    def noun_phrase(kinds, determiners, avoid=(), may_be_owned=True):
        """Some noun of these kinds, at times with an adjective or an owner, none of them in `avoid`."""
        noun = rng.choice(words('nouns', 'class', kinds, avoid))
        noun_kinds = table['nouns'][noun]['class'].split()
        if 'pronoun' in noun_kinds:
            return NounPhrase(noun, 'sg' if 'sg' in table['nouns'][noun] else 'pl', 'pronoun')
        number, determiner = rng.choice(determiners)
        adjective = rng.choice(words('adjectives', 'fits', noun_kinds)) if rng.random() < 0.4 else ''
        owner = None
        if determiner == 'the' and 'person' not in noun_kinds and may_be_owned and rng.random() < 0.2:
            name = rng.choice(words('nouns', 'class', ['person'], avoid))
            # Always with an adjective: for a bare *farmer's dog* Czech would have an adjective of its own, *sedlákův*.
            fitting = words('adjectives', 'fits', table['nouns'][name]['class'].split())
            owner = NounPhrase(name, 'sg', 'the', rng.choice(fitting))
        return NounPhrase(noun, number, determiner, adjective, owner)

    the = [('sg', 'the')] * 3 + [('pl', 'the')]
    if kind == 'copula':
        subject = noun_phrase(['person', 'animal', 'text', 'thing', 'large'], the)._replace(adjective='')
        fitting = words('adjectives', 'fits', table['nouns'][subject.noun]['class'].split())
        return Clause(kind, subject, adjective=rng.choice(fitting))
    if kind == 'says':
        subject = noun_phrase(['person'], the)
        verb = rng.choice(words('verbs', 'frame', ['says']))
        return Clause(kind, subject, verb, said=draw_clause(rng, 'said', [subject.noun]))

    frames = {'where': ['intransitive'], 'negative': ['intransitive', 'transitive']}
    verb = rng.choice(words('verbs', 'frame', frames.get(kind, ['intransitive', 'transitive', 'ditransitive'])))
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
