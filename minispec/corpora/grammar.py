"""Says a meaning, a `Clause`, in a language. All that is particular to the language is in its table, lexicon/CODE.txt.

A table has the words with their forms written out, and rules that say which form goes where. This file looks forms up
and fills templates; it knows no language. lexicon/README.md tells how to add a word or a language.
"""
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minispec import UserError
from minispec.corpora.names import CODE
from minispec.data import read_lines

LEXICON = Path(__file__).with_name('lexicon')
WORDS = ['nouns', 'adjectives', 'verbs']  # sections whose first line names columns; others have `name` and `text`
RULES = ['nouns forms', 'adjectives forms', 'verbs forms', 'determiners']  # here a row's name lists its conditions
TEMPLATES = ['noun phrases', 'frames', 'clauses']
NAMED = ['language', *WORDS, *TEMPLATES, 'places', 'times']  # here a row's name must be in en.txt
SECTIONS = [*NAMED, *RULES, 'spelling']
CONDITIONS = ('any sg pl 1 3 the a two three five pronoun owned described negated predicate present '
              'nom acc dat gen').split()  # that the rules of any language can use


class NounPhrase(NamedTuple):
    """`the old farmer's small dog`, in no language yet. Pronouns are noun phrases with determiner `pronoun`."""
    noun: str
    number: str                # sg or pl
    determiner: str            # the, a, two, three, five or pronoun
    adjective: str = ''
    owner: 'NounPhrase | None' = None  # the old farmer


class Clause(NamedTuple):
    """The meaning of a sentence, in no language yet; `kind` names a template in each language's [clauses]."""
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
    """Part of a table: its sections, a section's rows or a row's cells, by name. Errors begin with its `place`."""

    def __init__(self, place):
        super().__init__()
        self.place = place
        self.columns = []  # of a section: the names of its cells

    def error(self, message):
        return UserError(f'{self.place} {message}')

    def __missing__(self, name):
        raise self.error(f'has no "{name}"')

    def add(self, name, entries):
        if name in self:
            raise entries.error('is there twice')
        self[name] = entries

    def check_known(self, words, known):
        for word in words:
            if word not in known:
                raise self.error(f'has "{word}" where there can only be {", ".join(sorted(known))}')


def read_table(path):
    """The sections of a table: sections['nouns']['dog']['pl'] is a cell."""
    lines = list(read_lines(path))
    sections = Entries(f'{path}, line {len(lines)}: the table up to here')
    section = None
    for number, line in enumerate(lines, 1):
        cells = re.split(r'\s{2,}', line.split('#')[0].strip())
        name = cells[0]
        row = Entries(f'{path}, line {number}: {name}')
        if not name:
            continue
        if name.startswith('[') and len(cells) == 1:
            section, name = row, name.strip('[]')
            section.check_known([name], SECTIONS)
            sections.add(name, section)
            section.columns = [] if name in WORDS else ['name', 'text']
        elif section is None:
            raise row.error('comes before the first section, [language]')
        elif not section.columns:
            section.columns = cells
        elif len(cells) != len(section.columns):
            raise row.error(f'has {len(cells)} cells instead of {len(section.columns)} (two spaces or more end a cell)')
        else:
            section.add(name, row)
            for column, cell in zip(section.columns[1:], cells[1:]):
                if cell != '-':  # a form that no sentence needs
                    row[column] = cell.replace('∅', '')
    return sections


class Language:
    """One table of the lexicon, and what it can say. `pairs`: how many sentence pairs with English it trains on."""

    def __init__(self, path):
        self.code = path.stem
        self.sections = read_table(path)
        pairs = self.sections['language']['pairs']
        if not pairs['text'].isdecimal():
            raise pairs.error(f'should be a number of sentences, not {pairs["text"]}')
        self.pairs = int(pairs['text'])

    def check(self):
        """Raise UserError for unknown names. In a rule, a misspelt one would never hold, and nobody would notice."""
        own, english = self.sections, language('en').sections
        kinds = english['language']['classes']['text'].split()
        classes = own['language']['classes']['text'].split()
        known = {'fits': kinds, 'who': kinds, 'whom': kinds, 'modals': own['verbs'],
                 'frame': [*own['frames'], 'modal', 'says', 'auxiliary']}  # by column
        for title in NAMED:
            if not own[title]:
                raise own[title].error('has no lines')
            for name, row in own[title].items():
                if name not in english[title]:
                    raise row.error('is not in en.txt')
                for column in known.keys() & row.keys():
                    row.check_known(row[column].split(' '), known[column])  # split() would let an empty cell pass
        for row in own['nouns'].values():
            row.check_known(re.split('[ /]', row['class']), classes)
        for template in own['noun phrases'].values():
            for row in own['adjectives'].values():
                row.check_known([row['class']], {'before', 'after'}.intersection(re.findall(r'\w+', template['text'])))

        cases = [row['object'] for row in own['verbs'].values() if 'object' in row]
        templates = [row['text'] for title in TEMPLATES for row in own[title].values()]
        forms = re.findall(r'\.(\w+)\}', ' '.join(templates))
        for title in RULES:
            for conditions, row in own[title].items():
                row.check_known(conditions.split(), {*CONDITIONS, *classes, *kinds, *cases, *forms})
                if title != 'determiners':  # 'nouns forms' names columns of 'nouns'
                    row.check_known([row['text']], own[title.split()[0]].columns[1:])
        for pattern, row in own.get('spelling', {}).items():
            try:
                re.sub(pattern, row['text'], '')
            except (re.error, IndexError, OverflowError) as error:
                raise row.error(f'is not a regular expression and its replacement: {error}')

    def rule(self, section, features):
        """The text of the first line whose conditions are all among `features`."""
        for conditions, row in self.sections[section].items():
            if features.issuperset(conditions.split()):
                return row['text']
        raise self.sections[section].error(f'has no line for {" ".join(sorted(features))}')

    def form(self, section, word, features):
        """The form of a noun, an adjective or a verb that the rules ask for."""
        return self.sections[section][word][self.rule(f'{section} forms', features)]

    def features(self, phrase):
        """What rules can ask of a noun phrase: number, determiner, person, the noun's class, its kind in English."""
        classes = self.sections['nouns'][phrase.noun]['class'].split('/')  # n/f: n in the singular, f in the plural
        kinds = language('en').sections['nouns'][phrase.noun]['class']
        person = '1' if phrase.determiner == 'pronoun' else '3'
        own = classes[-1] if phrase.number == 'pl' else classes[0]
        return {'any', phrase.number, phrase.determiner, person, *own.split(), *kinds.split()}

    @cache
    def noun_phrase(self, phrase, case, negated=False):
        """The noun phrase in a case, as the object of a negative clause if `negated`."""
        features = self.features(phrase) | {case}
        conditions = {'negated': negated, 'owned': phrase.owner, 'described': phrase.adjective}
        features.update(name for name, holds in conditions.items() if holds)
        words = {'determiner': self.rule('determiners', features), 'before': '', 'after': '',
                 'noun': self.form('nouns', phrase.noun, features)}
        if phrase.adjective:
            place = self.sections['adjectives'][phrase.adjective]['class']  # before or after the noun
            words[place] = self.form('adjectives', phrase.adjective, features)
        if phrase.owner:
            words['owner'] = self.noun_phrase(phrase.owner, 'gen')
        template = self.sections['noun phrases']['owned' if phrase.owner else 'plain']
        return fill(template, lambda slot, form: words.get(slot))

    def clause(self, clause):
        """The clause in this language, before spelling rules."""
        def word(slot, form):
            if slot == 'rest':
                frame = language('en').sections['verbs'][clause.verb]['frame']
                return fill(self.sections['frames'][frame], part)
            return part(slot, form)

        def part(slot, form):
            return self.part(clause, slot, form)

        return fill(self.sections['clauses'][clause.kind], word)

    def part(self, clause, slot, form):
        """What fills a slot of a clause, None if nothing can; `form` is the case or form that the template asks for."""
        if slot in ('have', 'do', 'be'):
            return self.form('verbs', slot, self.features(clause.subject) | {form or 'present'})
        meant = clause._asdict().get(slot)
        if slot in ('place', 'time'):
            return self.sections[f'{slot}s'][meant]['text'] if meant else ''
        if not meant:
            return None
        if slot in ('verb', 'modal'):
            return self.form('verbs', meant, self.features(clause.subject) | {form or 'present'})
        if slot == 'subject':
            return self.noun_phrase(meant, form or 'nom')
        if slot == 'object':
            case = form or self.sections['verbs'][clause.verb].get('object', 'acc')
            return self.noun_phrase(meant, case, negated=clause.kind == 'negative')
        if slot == 'recipient':
            return self.noun_phrase(meant, form or 'dat')
        if slot == 'adjective':
            return self.form('adjectives', meant, self.features(clause.subject) | {'predicate'})
        return self.clause(meant) if slot == 'said' else None

    def say(self, clause):
        """The clause as a written sentence."""
        text = self.clause(clause)
        for pattern, row in self.sections.get('spelling', {}).items():
            text = re.sub(pattern, row['text'], text)
        return re.sub(r'\w', lambda letter: letter[0].upper(), text, count=1)


def fill(template, word):
    """A line's text, each {slot} or {slot.form} replaced by word(slot, form); if that is empty, its space goes, too."""
    def replace(match):
        space, slot, form = match.groups()
        text = word(slot, form)
        if text is None:  # or a brace by itself, which is no slot
            raise template.error(f'has "{match[0].strip()}", which nothing can fill here')
        return space + text if text else ''
    return re.sub(r'( ?)(?:\{(\w+)(?:\.(\w+))?\}|[{}])', replace, template['text']).strip()


@cache
def language(code):
    """The language of a table; language('en') also says which meanings make sense, such as who can do what to whom."""
    return Language(LEXICON / f'{code}.txt')


@cache
def codes():
    """The codes of all languages of the lexicon. Raises UserError if a table's name is no code."""
    found = sorted(path.stem for path in LEXICON.glob('*.txt'))
    for name in found:
        if not re.fullmatch(CODE, name):
            raise UserError(f'{LEXICON / name}.txt: name a table by the code of its language, such as pt.txt')
    return found
