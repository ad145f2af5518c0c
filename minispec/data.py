"""From text to token tensors to batches.

A sentence is a row of pieces from one SentencePiece vocabulary that all languages share, laid out as

    source  <en> A dog runs . </s>        the tag says which language this is
    target  <de> Ein Hund läuft . </s>    the tag, the decoder's first input, says which language to write

The tags are control symbols: no text that a user types can turn into one.
"""
import contextlib
import gzip
import hashlib
import zlib
from array import array
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import torch

from minispec import UserError
from minispec.checkpoint import check, make_folder, read, write
from minispec.model import PAD
from minispec.vocabulary import EOS


@contextlib.contextmanager
def opened(path):
    """A file, .gz or plain, open for reading bytes; UserError if that fails now or later."""
    try:
        with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'cannot read {path}: {error}')


def read_lines(path):
    """The lines of a UTF-8 file, .gz or plain, without their ends, one by one."""
    with opened(Path(path)) as file:
        yield from decode_lines(file, path)


def decode_lines(file, name):
    r"""The lines of a file that is open for reading bytes; `name` says in an error which it is.

    Only \n and \r\n end a line. (`str.splitlines` would also split at U+2028, U+0085 and others, and so put two
    languages out of step.)
    """
    for number, line in enumerate(file, 1):
        line = line.removeprefix(b'\xef\xbb\xbf') if number == 1 else line  # the mark that some editors begin with
        try:
            yield line.removesuffix(b'\n').removesuffix(b'\r').decode('utf-8')
        except UnicodeDecodeError:
            raise UserError(f'{name}, line {number}: not UTF-8 text; convert the file to UTF-8 first')


def check_aligned(src_path, src_size, tgt_path, tgt_size):
    """Raise UserError unless two files have equally many lines, and any."""
    if src_size != tgt_size:
        raise UserError(f'{src_path} has {src_size:,} lines but {tgt_path} has {tgt_size:,}; '
                        'line n of one must be the translation of line n of the other')
    if not src_size:
        raise UserError(f'{src_path} and {tgt_path} are empty')


class Batch(NamedTuple):
    """Rows padded to the longest; the three tensors that `Transformer.forward` takes."""
    src: torch.Tensor   # (B, S)
    tgt: torch.Tensor   # (B, T + 1)
    task: torch.Tensor  # (B,)

    def to(self, device):
        return Batch(*(x.to(device) for x in self))


def encode_files(paths, vocabulary):
    """All files' pieces end to end in one tensor, and the lengths of each file's lines, (lines,); 32-bit integers."""
    pieces, lengths = array('i'), []
    for path in paths:
        lines, of_file = read_lines(path), array('i')
        while block := list(islice(lines, 10_000)):  # as Python's lists, the pieces of all would fill the memory
            rows = vocabulary.encode(block)
            pieces.extend(chain.from_iterable(rows))
            of_file.extend(map(len, rows))
        lengths.append(torch.tensor(of_file, dtype=torch.int32))
    pieces.append(PAD)  # no line's; `frombuffer`, which saves a copy of all this, refuses to take nothing at all
    return torch.frombuffer(pieces, dtype=torch.int32), lengths


def load_pieces(paths, vocabulary, cache):
    """What `encode_files` returns: read from the file `cache` if it was made of this text, else made and kept there.

    And before it, a fingerprint of text and vocabulary.
    """
    digest = hashlib.sha256(vocabulary.proto)
    for path in paths:
        with opened(path) as file:
            digest.update(b'file')
            for line in file:
                digest.update(line)
    made_of = digest.hexdigest()

    def build(content):
        pieces, lengths = content['pieces'], content['lengths']
        check(pieces, torch.empty(1 + sum(int(of_file.sum()) for of_file in lengths), dtype=torch.int32, device='meta'))
        if content['made_of'] != made_of or pieces.min() < 0 or pieces.max() >= len(vocabulary):
            raise ValueError
        return made_of, pieces, lengths

    with contextlib.suppress(UserError):  # not there, damaged, or made of something else: all the same
        return read(cache, 'text', '', build)
    pieces, lengths = encode_files(paths, vocabulary)
    make_folder(cache.parent)
    write(cache, {'kind': 'text', 'made_of': made_of, 'pieces': pieces, 'lengths': lengths})
    return made_of, pieces, lengths


class Bitext:
    """The sentence pairs of one split, all directions together.

    A pair is three numbers: its two lines and its task. All lines of all files are numbered through, and lie end to end
    in the tensor `pieces`, each file once, however many directions use it: `start` and `length` say where.
    """

    def __init__(self, corpus, split, directions, vocabulary, max_len, folder):
        """Read and encode `split` of these directions; max_len positions must hold a sentence with its tag and </s>.

        What was encoded is kept in `folder`, so that the next start on the same text takes it from there.
        """
        self.tags = torch.tensor([[vocabulary.tag(language) for language in direction.split('-')]
                                  for direction in directions])  # (N, 2)
        files = [corpus.files(split, direction) for direction in directions]
        paths = list(dict.fromkeys(path for pair in files for path in pair))
        self.made_of, self.pieces, lengths = load_pieces(paths, vocabulary, Path(folder) / f'{split}.text.pt')
        self.length = torch.cat(lengths)  # (lines of all files,)
        self.start = self.length.cumsum(0) - self.length  # (lines of all files,)
        numbers = dict(zip(paths, torch.arange(len(self.length)).split([len(of_file) for of_file in lengths])))
        self.n_dropped, pairs = 0, []
        for task, (src_path, tgt_path) in enumerate(files):
            src, tgt = numbers[src_path], numbers[tgt_path]  # (n,) each
            check_aligned(src_path, len(src), tgt_path, len(tgt))
            lengths = torch.stack([self.length[src], self.length[tgt]])  # (2, n)
            fits = (lengths.amin(0) > 0) & (lengths.amax(0) + 2 <= max_len)  # (n,)
            if not fits.any():
                raise UserError(f'{src_path} and {tgt_path} have no pair of lines with text on both sides that fits')
            self.n_dropped += int((~fits).sum())
            pairs.append(torch.stack([src, tgt, torch.full_like(src, task)])[:, fits])  # (3, n')
        self.src, self.tgt, self.task = torch.cat(pairs, dim=1)  # (pairs,) each

    def __len__(self):
        return len(self.task)

    def sizes(self):
        """How many pairs each task has, (N,)."""
        return self.task.bincount(minlength=len(self.tags))

    def sample(self, temperature, generator):
        """One epoch: as many pairs as there are, task t's share proportional to size_t^(1/temperature).

        A task whose share is more than it has is repeated, one with a smaller share gives a random part of itself.
        Temperature 1 takes each pair once. Returns indices in random order.
        """
        sizes = self.sizes()
        share = (sizes.double().log() / temperature).softmax(0)  # (N,), size^(1/temperature) without overflow
        picked = []
        for task, n in enumerate((share * len(self)).round().long().tolist()):
            own = (self.task == task).nonzero().flatten()  # (size_t,)
            rounds = [own[torch.randperm(len(own), generator=generator)] for _ in range(-(-n // len(own)))]
            picked += [torch.cat(rounds)[:n]] if n else []
        picked = torch.cat(picked)
        return picked[torch.randperm(len(picked), generator=generator)]

    def into_batches(self, order, batch_tokens):
        """Cut the pairs `order` (n,) into index tensors, one a batch: sentences of like length together, tasks mixed.

        A batch has at most `batch_tokens` positions on its longer side, padding included, but at least one pair.
        """
        src, tgt = self.length[self.src[order]], self.length[self.tgt[order]]  # (n,) each
        by_length = (tgt * (src.max() + 1) + src).argsort(stable=True)  # (n,)
        order, widths = order[by_length], torch.maximum(src, tgt)[by_length] + 2
        batches, start, widest = [], 0, 0
        for i, width in enumerate(widths.tolist()):
            widest = max(widest, width)
            if i > start and (i + 1 - start) * widest > batch_tokens:
                batches.append(order[start:i])
                start, widest = i, width
        return batches + [order[start:]]

    def epochs(self, batch_tokens, temperature, seed):
        """Index tensors of training batches without end: a new sample each epoch, batches in random order."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            batches = self.into_batches(self.sample(temperature, generator), batch_tokens)
            yield from (batches[i] for i in torch.randperm(len(batches), generator=generator).tolist())

    def in_order(self, batch_tokens):
        """Every pair once, the same batches each time: validation and recording."""
        for index in self.into_batches(torch.arange(len(self)), batch_tokens):
            yield self.batch(index)

    def batch(self, index):
        """The pairs `index` (B,) as a padded Batch."""
        tags = self.tags[self.task[index]]  # (B, 2)
        src, tgt = self._rows(tags[:, 0], self.src[index]), self._rows(tags[:, 1], self.tgt[index])
        return Batch(src, tgt, self.task[index])

    def _rows(self, tags, lines):
        """<tag> pieces </s> PAD ... of lines (B,); returns (B, longest + 2)."""
        starts, lengths = self.start[lines], self.length[lines].long()  # (B,) each
        column = torch.arange(max(lengths.tolist(), default=0))  # (longest,); of several processes one may get no line
        inside = column < lengths[:, None]  # (B, longest)
        pieces = torch.full(inside.shape, PAD)
        pieces[inside] = self.pieces[(starts[:, None] + column)[inside]].long()
        rows = torch.cat([tags[:, None], pieces, torch.full_like(tags, PAD)[:, None]], dim=1)  # (B, longest + 2)
        return rows.scatter_(1, lengths[:, None] + 1, EOS)
