"""What a corpus is: a folder with a training, a validation and a test split, each file plain or .gz.

A folder has either layout, or both:

    train.en-de.en  train.en-de.de  valid.en-de.en  ...     one pair of files for each two languages
    train.en  train.de  train.fr  valid.en  ...             line n of every file means the same

A language's name has letters, digits and underscores: pt_BR. Each pair of files serves two tasks, one each way.
Languages whose lines are aligned are paired with the hub, English, if it is one of them, else each with each.
"""
import re
from itertools import chain, permutations
from pathlib import Path

from minispec import UserError
from minispec.data import read_lines, words
from minispec.tasks import HUB, from_hub, join_task, split_task

SPLITS = {'train': ['train'], 'valid': ['valid', 'val'], 'test': ['test', 'test_2016_flickr']}  # the names files use
PAIR_FILE = re.compile(r'train\.(\w+)-(\w+)\.(?:\1|\2)')
ALIGNED_FILE = re.compile(r'train\.(\w+)')
UNCLEAR_FILE = re.compile(r'train\.\w*-[\w-]*(\.[\w-]+)?')  # such as train.pt-BR


class Corpus:
    """A folder of parallel text. `tasks` lists what it can train, from the hub first: ['en-cs', ..., 'cs-en']."""

    def __init__(self, folder):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f'--data {folder}: there is no such folder')
        tasks, aligned = set(), set()
        for name in sorted(path.name.removesuffix('.gz') for path in self.folder.iterdir() if path.is_file()):
            if match := PAIR_FILE.fullmatch(name):
                one, other = match.groups()
                tasks |= {join_task(one, other), join_task(other, one)}
            elif match := ALIGNED_FILE.fullmatch(name):
                aligned.add(match[1])
            elif UNCLEAR_FILE.fullmatch(name):  # else it would be left out without a word
                raise UserError(f'--data {folder}: {name} names no pair of languages; name files train.en-de.en and '
                                'train.en-de.de, and write a language with its region as pt_BR, not pt-BR')
        for src, tgt in permutations(aligned, 2):
            if HUB in (src, tgt) or HUB not in aligned:
                tasks.add(join_task(src, tgt))
        if not tasks:
            raise UserError(f'--data {folder}: no training text in it; name files train.en-de.en and train.en-de.de, '
                            'or train.en and train.de')
        first = from_hub(sorted(tasks))
        self.tasks = first + sorted(tasks.difference(first))

    @property
    def languages(self):
        """All languages of the tasks, sorted."""
        return sorted({language for task in self.tasks for language in split_task(task)})

    def files(self, split, task):
        """The source and the target file of a task in `split`: 'train', 'valid', 'test' or a file's own name."""
        src, tgt = split_task(task)
        for name in SPLITS.get(split, [split]):
            for stem in (f'{name}.{src}-{tgt}', f'{name}.{tgt}-{src}', name):
                src_file, tgt_file = self._file(f'{stem}.{src}'), self._file(f'{stem}.{tgt}')
                if src_file and tgt_file:
                    return [src_file, tgt_file]
        raise UserError(f'{self.folder} has no {split} text for {task}; name it {split}.{task}.{src} and '
                        f'{split}.{task}.{tgt}, or {split}.{src} and {split}.{tgt}')

    def texts(self, split):
        """The files of a split by language, {language: files}, sorted."""
        found = {language: set() for language in self.languages}
        for task in self.tasks:
            for language, path in zip(split_task(task), self.files(split, task)):
                found[language].add(path)
        return {language: sorted(files) for language, files in found.items()}

    def words(self, limit=5000):
        """The words of the training text, {language: sorted list}, of the languages that have at most `limit`."""
        result = {}
        for language, files in self.texts('train').items():
            found = set()
            for line in chain.from_iterable(map(read_lines, files)):
                found.update(words(line))
                if len(found) > limit:
                    break
            else:
                result[language] = sorted(found)
        return result

    def lines(self, tasks):
        """How many lines of training text each task has: {task: lines}. Reads each file once."""
        sources = {task: self.files('train', task)[0] for task in tasks}
        lines = {path: sum(1 for _ in read_lines(path)) for path in set(sources.values())}
        return {task: lines[path] for task, path in sources.items()}

    def _file(self, name):
        """The path of the file `name`, plain or .gz; None if it is not there."""
        for path in (self.folder / name, self.folder / f'{name}.gz'):
            if path.is_file():
                return path
        return None
