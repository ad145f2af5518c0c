"""Which languages are relatives: the families of languages.txt, the only place that knows them."""
import re
from functools import cache
from pathlib import Path

from minispec.data import read_lines

LANGUAGES = Path(__file__).with_name('languages.txt')


@cache
def families():
    """The family of each code in the table: {'de': 'Germanic', 'deu': 'Germanic', ...}."""
    result = {}
    for line in read_lines(LANGUAGES):
        if line and not line.startswith('#'):
            codes, _, family = re.split(r'\s{2,}', line.strip())  # the second cell is the language's name
            for code in codes.split():
                result[code] = family
    return result


def family(code):
    """The family of a language such as de, deu, zh_Hans or PT-BR; None if the table does not have it."""
    return families().get(base_code(code))


def same_family(one, other):
    """Are two languages relatives? One that the table does not have is a relative of none but itself."""
    if base_code(one) == base_code(other):
        return True
    return family(one) is not None and family(one) == family(other)


def base_code(code):
    """The code without its script and region, in lower case: zh for zh_Hans."""
    return re.split('[_-]', code.lower())[0]
