"""From text to token tensors to batches.

A sentence is a row of pieces from one SentencePiece vocabulary that all languages share, laid out as

    source  <en> A dog runs . </s>        the tag says which language this is
    target  <de> Ein Hund läuft . </s>    the tag, the decoder's first input, says which language to write

The tags are control symbols: no text that a user types can turn into one.
"""
import gzip
import io
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import sentencepiece
import torch

from minispec import UserError
from minispec.model import PAD

EOS = 2


def read_lines(path):
    r"""The lines of a UTF-8 file, .gz or plain, without their ends. Only \n and \r\n end a line.

    (`str.splitlines` would also split at U+2028, U+0085 and others, and so put two languages out of step.)
    """
    path = Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'cannot read {path}: {error}')
    return split_lines(raw, path)


def split_lines(raw, name):
    """Split bytes into lines of text; `name` says in an error where they came from."""
    lines = raw.removeprefix(b'\xef\xbb\xbf').split(b'\n')
    if lines[-1] == b'':
        lines.pop()  # the end of the last line is not the start of another
    text = []
    for number, line in enumerate(lines, 1):
        try:
            text.append(line.removesuffix(b'\r').decode('utf-8'))
        except UnicodeDecodeError:
            raise UserError(f'{name}, line {number}: not UTF-8 text; convert the file to UTF-8 first')
    return text


def check_aligned(src_path, src_size, tgt_path, tgt_size):
    """Raise UserError unless two files have equally many lines, and any."""
    if src_size != tgt_size:
        raise UserError(f'{src_path} has {src_size:,} lines but {tgt_path} has {tgt_size:,}; '
                        'line n of one must be the translation of line n of the other')
    if not src_size:
        raise UserError(f'{src_path} and {tgt_path} are empty')


class Vocabulary:
    """The SentencePiece model of all languages, with a tag for each of them."""

    def __init__(self, proto):
        self.proto = proto  # the serialized model, which checkpoints carry
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=proto)

    @classmethod
    def train(cls, lines, size, languages):
        """Learn `size` pieces (BPE: the same text gives the same pieces) from a list of lines."""
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=model, vocab_size=size, model_type='bpe',
                character_coverage=1.0, pad_id=PAD, unk_id=1, eos_id=EOS, bos_id=-1,
                control_symbols=[f'<{language}>' for language in languages], minloglevel=2)
        except RuntimeError as error:
            if largest := re.search(r'value <= (\d+)', str(error)):
                raise UserError(f'--vocab-size {size} is more than this text supports; the largest is {largest[1]}')
            if smallest := re.search(r'required_chars\. \d+ vs (\d+)', str(error)):
                raise UserError(f'--vocab-size {size} does not hold every character; the smallest is {smallest[1]}')
            raise UserError(f'SentencePiece cannot learn {size} pieces from this text: {error}')
        return cls(model.getvalue())

    def __len__(self):
        return len(self.pieces)

    def tag(self, language):
        return self.pieces.piece_to_id(f'<{language}>')

    def has_tag(self, language):
        return self.pieces.is_control(self.tag(language))

    def encode(self, lines):
        """Piece ids of each line, a list of lists, without tag and end of sentence."""
        return self.pieces.encode(lines)

    def decode(self, rows):
        """Text of each row of piece ids."""
        return self.pieces.decode(rows)


class Batch(NamedTuple):
    """Rows padded to the longest; the three tensors that `Transformer.forward` takes."""
    src: torch.Tensor   # (B, S)
    tgt: torch.Tensor   # (B, T + 1)
    task: torch.Tensor  # (B,)

    def to(self, device):
        return Batch(*(x.to(device) for x in self))


def flatten(paths, vocabulary):
    """All files' pieces end to end in one tensor, and for each path starts and lengths of its lines (2, lines)."""
    flat, where, size = [], {}, 0
    for path in paths:
        rows = vocabulary.encode(read_lines(path))
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)  # (lines,)
        where[path] = torch.stack([size + lengths.cumsum(0) - lengths, lengths])  # (2, lines)
        flat.append(torch.tensor([piece for row in rows for piece in row], dtype=torch.int32))
        size += len(flat[-1])
    return torch.cat(flat), where


class Bitext:
    """The sentence pairs of one split, all directions together.

    A pair is five numbers: where its two sentences start in the flat tensor `tokens`, how long they are, and its task.
    A file lies in `tokens` once, however many directions use it.
    """

    def __init__(self, corpus, split, directions, vocabulary, max_len):
        """Read and encode `split` of these directions; max_len positions must hold a sentence with its tag and </s>."""
        self.tags = torch.tensor([[vocabulary.tag(language) for language in direction.split('-')]
                                  for direction in directions])  # (N, 2)
        files = [corpus.files(split, direction) for direction in directions]
        self.tokens, where = flatten(dict.fromkeys(path for pair in files for path in pair), vocabulary)
        self.n_dropped, pairs = 0, []
        for task, (src_path, tgt_path) in enumerate(files):
            src, tgt = where[src_path], where[tgt_path]  # (2, n) each: starts and lengths
            check_aligned(src_path, src.size(1), tgt_path, tgt.size(1))
            fits = (torch.minimum(src[1], tgt[1]) > 0) & (torch.maximum(src[1], tgt[1]) + 2 <= max_len)  # (n,)
            if not fits.any():
                raise UserError(f'{src_path} and {tgt_path} have no pair of lines with text on both sides that fits')
            self.n_dropped += int((~fits).sum())
            pairs.append(torch.cat([src, tgt, torch.full_like(src[:1], task)])[:, fits])  # (5, n)
        self.src_start, self.src_len, self.tgt_start, self.tgt_len, self.task = torch.cat(pairs, dim=1)  # (pairs,) each

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
        order = order[(self.tgt_len[order] * (self.src_len.max() + 1) + self.src_len[order]).argsort(stable=True)]
        widths = torch.maximum(self.src_len, self.tgt_len)[order] + 2
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
        return Batch(self._rows(tags[:, 0], self.src_start[index], self.src_len[index]),
                     self._rows(tags[:, 1], self.tgt_start[index], self.tgt_len[index]), self.task[index])

    def _rows(self, tags, starts, lengths):
        """<tag> pieces </s> PAD ... for sentences that start at `starts` (B,); returns (B, longest + 2)."""
        column = torch.arange(int(lengths.max()))  # (longest,)
        inside = column < lengths[:, None]  # (B, longest)
        pieces = torch.full(inside.shape, PAD)
        pieces[inside] = self.tokens[(starts[:, None] + column)[inside]].long()
        rows = torch.cat([tags[:, None], pieces, torch.full_like(tags, PAD)[:, None]], dim=1)  # (B, longest + 2)
        return rows.scatter_(1, lengths[:, None] + 1, EOS)
