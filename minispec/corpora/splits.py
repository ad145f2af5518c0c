"""Checks of all text before a training, so that no later script finds it missing or misaligned."""
import sys
from collections import Counter
from itertools import zip_longest

from minispec.data import check_aligned, read_lines


def check_splits(corpus, tasks):
    """Read all text that the scripts will need.

    Raises UserError if training or validation text is missing, or if text of any split is empty, not UTF-8, or has
    another number of lines than its translation. Prints which tasks lack test text, which have validation or
    test pairs in their training text, and which have mostly the same text on both sides.
    """
    seen, total, shared, copied = [], Counter(), Counter(), Counter()  # pairs by (split, task), but `copied` by task
    for task in tasks:
        files = {split: corpus.files(split, task) for split in ('train', 'valid')}
        files['test'] = corpus.find('test', task)
        paths = {path for pair in files.values() for path in pair or ()}
        if paths in seen:
            continue  # en-de and de-en have the same files
        seen.append(paths)
        held = {}  # {pair of lines: the splits that have it}
        for split in filter(files.get, ('valid', 'test')):
            for pair in line_pairs(*files[split]):
                held.setdefault(pair, []).append(split)
                total[split, task] += 1
        for pair in line_pairs(*files['train']):
            total['train', task] += 1
            copied[task] += pair[0] == pair[1] != ''
            for split in held.pop(pair, ()) if all(pair) else ():  # a pair with an empty line is not trained on
                shared[split, task] += 1
    for split in ('valid', 'test'):
        if found := [f'{task} {n:,} of {total[split, task]:,}' for (of, task), n in shared.items() if of == split]:
            print(f'note: some {split} pairs are training pairs, too, and so too easy: {", ".join(found)}')
    if found := [task for task, n in copied.items() if 2 * n > total['train', task]]:
        print(f'note: most training pairs have the same text on both sides: {", ".join(found)}')
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
