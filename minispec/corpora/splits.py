"""Checks of all text before a training, so that no later script finds it missing or misaligned."""
import sys
from itertools import zip_longest

from minispec.data import check_aligned, read_lines


def check_splits(corpus, tasks):
    """Read all text that the scripts will need.

    Raises UserError if training or validation text is missing, or if text of any split is empty, not UTF-8, or has
    another number of lines than its translation. Says which tasks have no test text, and how many validation and test
    pairs are also training pairs. Only validation and test pairs are kept in memory.
    """
    seen, shared = [], {'valid': {}, 'test': {}}
    for task in tasks:
        files = {split: corpus.files(split, task) for split in ('train', 'valid')}
        files['test'] = corpus.find('test', task)
        paths = {path for pair in files.values() for path in pair or ()}
        if paths in seen:
            continue  # en-de and de-en have the same files
        seen.append(paths)
        held = {}  # {pair of lines: the splits that have it}
        for split in filter(files.get, shared):
            for pair in line_pairs(*files[split]):
                held.setdefault(pair, []).append(split)
        for pair in line_pairs(*files['train']):
            for split in held.pop(pair, ()) if all(pair) else ():  # a pair with an empty line is not trained on
                shared[split][task] = shared[split].get(task, 0) + 1
    for split, found in shared.items():
        if found:
            print(f'note: pairs of {split} text that are training text, too: '
                  + ', '.join(f'{task} {n:,}' for task, n in found.items()))
    if untested := [task for task in tasks if not corpus.find('test', task)]:
        print(f'warning: {corpus.folder} has no test text for {", ".join(untested)}; without it, they cannot be '
              'scored', file=sys.stderr)


def line_pairs(src_path, tgt_path):
    """The pairs of lines of two files. Raises UserError at their end if one is longer, or both are empty."""
    src_size = tgt_size = 0
    for src, tgt in zip_longest(read_lines(src_path), read_lines(tgt_path)):
        src_size += src is not None
        tgt_size += tgt is not None
        yield src, tgt
    check_aligned(src_path, src_size, tgt_path, tgt_size)
