"""Exercise 10: Portuguese. Its table is checked against sentences written by hand, and against rules of grammar."""
import re
from itertools import islice

import test_phrasebook as phrasebook
from harness import check

from minispec import UserError
from minispec.corpora.grammar import LEXICON, NounPhrase, language
from minispec.corpora.phrasebook import sentences


def check_articles(portuguese):
    """o homem, a mulher; dois cães, duas casas: *two* agrees as well."""
    forms = {('sg', 'the'): ('o', 'a'), ('pl', 'the'): ('os', 'as'), ('sg', 'a'): ('um', 'uma'),
             ('pl', 'two'): ('dois', 'duas')}
    for noun, row in portuguese.sections['nouns'].items():
        for (number, determiner), (masculine, feminine) in forms.items() if noun not in ('I', 'we') else ():
            said = portuguese.noun_phrase(NounPhrase(noun, number, determiner), 'nom')
            expected = feminine if 'f' in row['class'].split() else masculine
            check(said.split()[0] == expected, f'{determiner} {noun} ({number}) is "{said}"')


def check_objects(portuguese):
    """Portuguese has no case. A copy of the Spanish table would say *ve al vecino*."""
    for noun in ('neighbor', 'woman', 'dog', 'apple'):
        for number, determiner in (('sg', 'the'), ('pl', 'the'), ('sg', 'a')):
            subject, object = (portuguese.noun_phrase(NounPhrase(noun, number, determiner), case)
                               for case in ('nom', 'acc'))
            check(subject == object, f'as an object, "{subject}" is "{object}"')


def check_questions(portuguese):
    """A question has the order of a statement."""
    for meaning in phrasebook.MEANINGS:
        if meaning.kind == 'question':
            statement, question = portuguese.say(meaning._replace(kind='statement')), portuguese.say(meaning)
            check(question == statement[:-1] + '?', f'the question of "{statement}" is "{question}"')


def check_spelling():
    """do, no, ao, à, pelo and never *de o*; and nothing that is spelled as in Spanish."""
    for said in islice(sentences(seed=5), 1000):
        text = said['pt']
        wrong = re.search(r'\b(de|em|por) (o|a|os|as)\b|\ba (o|os|a|as)\b|[¿ñ]|\b(el|los|las|y|del|al)\b', text.lower())
        check(not wrong, f'"{text}" has "{wrong and wrong[0]}"')


def test_portuguese():
    check((LEXICON / 'pt.txt').is_file(), 'minispec/corpora/lexicon/pt.txt is missing')
    check('pt' in phrasebook.SAID, 'tests/test_phrasebook.py: SAID has no sentences by hand for pt yet')
    by_hand = [line.strip() for line in phrasebook.SAID['pt'].splitlines()]
    check(len(by_hand) == len(phrasebook.MEANINGS), f'SAID has {len(by_hand)} sentences, and not one for each meaning')
    try:
        portuguese = language('pt')
        portuguese.check()
        check_articles(portuguese)
        check_objects(portuguese)
        check_questions(portuguese)
        for meaning, expected in zip(phrasebook.MEANINGS, by_hand):
            said = portuguese.say(meaning)
            check(said == expected, f'the table says "{said}", by hand it is "{expected}"')
        phrasebook.test_no_form_is_missing('pt')
        check_spelling()
    except UserError as error:
        check(False, str(error))
