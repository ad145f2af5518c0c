"""Which languages are relatives, that is, of one family. Only languages.txt lists the families."""
import re
from functools import cache
from pathlib import Path

from minispec.data import read_lines
from minispec.tasks import split_task

LANGUAGES = Path(__file__).with_name('languages.txt')


def rows():
    """The rows of the table: (codes, English name, family)."""
    for line in read_lines(LANGUAGES):
        if line and not line.startswith('#'):
            codes, name, family = re.split(r'\s{2,}', line.strip())
            yield codes.split(), name, family


@cache
def families():
    """The family of each code in the table: {'de': 'Germanic', 'deu': 'Germanic', ...}."""
    return {code: family for codes, _, family in rows() for code in codes}


@cache
def english_names():
    """The code of each language by its English name in lower case: {'german': 'de', ...}."""
    return {name.lower(): codes[0] for codes, name, _ in rows()}


def family(code):
    """The family of a language such as de, deu, zh_Hans or PT-BR; None if the table does not have it."""
    return families().get(base_code(code))


def group(code):
    """The family of a language, or the language itself if the table does not have it."""
    return family(code) or base_code(code)


def groups_of_tasks(tasks):
    """The `group` of each task's source language, and that of its target language: two lists of N names."""
    return [[group(language) for language in side] for side in zip(*map(split_task, tasks))]


def same_family(one, other):
    """Are two languages relatives? One that is not in the table is a relative of itself only."""
    return group(one) == group(other)


def base_code(code):
    """The code without its script and region, in lower case: zh for zh_Hans."""
    return re.split('[_-]', code.lower())[0]
