"""What a corpus is: a folder with a training, a validation and a test split, each file plain or .gz.

A folder has either layout, or both:

    train.en-de.en  train.en-de.de  valid.en-de.en  ...     one pair of files for each two languages
    train.en  train.de  train.fr  valid.en  ...             line n of every file means the same

Each pair of files serves two tasks, one each way. Languages whose lines are aligned are paired with the hub, `en`, if it
is one of them, else each with each. names.py defines what a language's name is.
"""
import sys
from functools import cached_property
from itertools import chain, permutations
from pathlib import Path

from minispec import UserError
from minispec.corpora.names import is_unclear, languages_in, plain, remedy, right_name
from minispec.data import read_lines, words
from minispec.scoring import tokenizer_for
from minispec.tasks import HUB, from_hub, join_task, split_task

SPLITS = {'train': ['train'], 'valid': ['valid', 'val'], 'test': ['test', 'test_2016_flickr']}  # the names files use


class Corpus:
    """A folder of parallel text. `tasks` lists what it can train, from the hub first: ['en-cs', ..., 'cs-en'].

    With `languages`, these are the tasks between them alone; with `directions`, those alone, as ['en-de'].
    """

    def __init__(self, folder, languages=None, directions=None):
        self.folder, self.chosen, self.directions = Path(folder), languages, directions

    @cached_property
    def tasks(self):
        """Computed on first use, because scoring a folder needs no training text in it."""
        pairs, aligned = self._languages_of_files()
        chosen = self._choose({*aligned, *(code for pair in pairs for code in pair)})
        aligned = chosen.intersection(aligned)
        tasks = {join_task(*way) for pair in pairs if chosen.issuperset(pair) for way in permutations(pair)}
        tasks |= {join_task(src, tgt) for src, tgt in permutations(aligned, 2)
                  if HUB in (src, tgt) or HUB not in aligned}
        if not tasks and self.chosen:
            raise UserError(f'--languages {" ".join(self.chosen)}: {self.folder} has no training text between them')
        if not tasks:
            raise UserError(f'--data {self.folder}: {what_is_missing(self.folder)}')
        if self.directions:
            if not tasks.issuperset(self.directions):
                raise UserError(f'--directions {" ".join(self.directions)}: name some of those that {self.folder} has: '
                                + ' '.join(sorted(tasks)))
            tasks = set(self.directions)
        first = from_hub(sorted(tasks))
        return first + sorted(tasks.difference(first))

    def _languages_of_files(self):
        """The languages of pair files, [(one, other)], and those of aligned files; notes on files that are not used."""
        pairs, aligned, left_out, misnamed = [], [], [], []
        names = file_names(self.folder)
        for name in names:
            codes = languages_in(name)
            if len(codes) == 2:
                pairs.append(tuple(codes))
            elif codes:
                aligned += codes
            elif is_unclear(name):  # it was meant to be training text
                raise UserError(f'--data {self.folder}: {name} names no pair of languages; '
                                + (remedy(name) or 'name files train.en-de.en and train.en-de.de, and write a language '
                                                   'with its region as pt_BR, not pt-BR'))
            elif name.lower().startswith('train'):
                left_out.append(name)
                if (right := right_name(name)) and not {right, plain(right)}.intersection(names):
                    misnamed.append((name, right))
        if left_out and (pairs or len(aligned) > 1):  # otherwise an error follows, which says more
            if misnamed:
                name, right = misnamed[0]
                raise UserError(f'--data {self.folder}: {name} would be left out; rename it to {right}, and its other '
                                'splits likewise, or move it to another folder')
            print(f'note: {self.folder}: left out, because the name says no language: {", ".join(left_out)}',
                  file=sys.stderr)
        for one, other in sorted(set(pairs)):
            if {one, other} <= set(aligned) and pairs.count((one, other)) > 1:  # both files are there
                print(f'note: {self.folder}: {one}-{other} is trained on its pair of files alone, and not on '
                      f'train.{one} and train.{other}', file=sys.stderr)
        return pairs, aligned

    def _choose(self, found):
        """The languages to use out of those that were `found`."""
        if not self.chosen or not found:
            return found
        if not found.issuperset(self.chosen) or len(set(self.chosen)) < 2:
            raise UserError(f'--languages {" ".join(self.chosen)}: name two or more of those that {self.folder} has: '
                            + ' '.join(sorted(found)))
        return set(self.chosen)

    @property
    def languages(self):
        """All languages of the tasks, sorted."""
        return sorted({language for task in self.tasks for language in split_task(task)})

    def files(self, split, task):
        """The source and the target file of a task in `split`: 'train', 'valid', 'test' or a file's own name."""
        found, (src, tgt) = self.find(split, task), split_task(task)
        if not found:
            raise UserError(f'{self.folder} has no {split} text for {task}; name it {split}.{task}.{src} and '
                            f'{split}.{task}.{tgt}, or {split}.{src} and {split}.{tgt}')
        return found

    def texts(self, split):
        """The files of a split by language, {language: files}, sorted."""
        found = {language: set() for language in self.languages}
        for task in self.tasks:
            for language, path in zip(split_task(task), self.files(split, task)):
                found[language].add(path)
        return {language: sorted(files) for language, files in found.items()}

    def words(self, limit=5000):
        """The words of the training text, {language: sorted list}, of the languages that have at most `limit`.

        Languages that are written without spaces between words have none.
        """
        result = {}
        for language, files in self.texts('train').items():
            if tokenizer_for(language) in ('zh', 'ja-mecab', 'char'):
                continue
            found = set()
            for line in chain.from_iterable(map(read_lines, files)):
                found.update(words(line))
                if len(found) > limit:
                    break
            else:
                result[language] = sorted(found)
        return result

    def find(self, split, task):
        """The files of a task in `split`; None if one or both are not there."""
        src, tgt = split_task(task)
        for name in SPLITS.get(split, [split]):
            for stem in (f'{name}.{src}-{tgt}', f'{name}.{tgt}-{src}', name):
                src_file, tgt_file = self._file(f'{stem}.{src}'), self._file(f'{stem}.{tgt}')
                if src_file and tgt_file:
                    return [src_file, tgt_file]
        return None

    def _file(self, name):
        """The path of the file `name`, plain or .gz; None if it is not there."""
        for path in (self.folder / name, self.folder / f'{name}.gz'):
            if path.is_file():
                return path
        return None


def file_names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def what_is_missing(folder):
    """Why a folder has nothing to train on: what it has instead of training text, and what to do with it."""
    names = file_names(folder)
    remedies = [found for name in names if (found := remedy(name))]
    alone = [name for name in names if languages_in(name)]
    inner = [path.name for path in sorted(folder.iterdir()) if path.is_dir()
             and any(languages_in(name) or right_name(name) for name in file_names(path))]
    if remedies:
        return 'no training text in it; ' + '; '.join(remedies[:3]) + '; and so on' * (len(remedies) > 3)
    if alone:
        return f'its only training text is {alone[0]}; add that of a second language, whose line n translates line n'
    if inner:
        return (f'no training text in it, but in its folder {" and ".join(inner)}; --data takes the folder in which '
                'train.en and train.de lie')
    found = f'only {", ".join(names[:3])}{" and so on" * (len(names) > 3)}' if names else 'nothing at all'
    return f'no training text in it, {found}; name files train.en-de.en and train.en-de.de, or train.en and train.de'
