"""From text to tokens to batches.

A sentence is a row of subwords from one SentencePiece vocabulary that all languages share, laid out as

    source  <en> A dog runs . </s>        the tag says which language this is
    target  <de> Ein Hund läuft . </s>    the tag, the decoder's first input, says which language to write

The tags are control symbols: no text that a user types can turn into one. Subwords keep every character of the text
except spaces: several in a row become one, and those at the ends are dropped.
"""
import contextlib
import gzip
import hashlib
import io
import math
import re
import zlib
from array import array
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import sentencepiece
import torch

from minispec import UserError
from minispec.files import make_folder, read, write
from minispec.model import EOS, PAD, UNK, target_mask
from minispec.tasks import split_task


@contextlib.contextmanager
def opened(path):
    """A file, .gz or plain, open for reading bytes. Raises UserError if opening or reading it fails."""
    try:
        with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'cannot read {path}: {getattr(error, "strerror", None) or error}')


def read_lines(path):
    """The lines of a UTF-8 file, .gz or plain, without their ends, one by one."""
    with opened(Path(path)) as file:
        yield from decode_lines(file, path)


def decode_lines(file, name):
    r"""The lines of a file that is open for reading bytes; errors call it `name`.

    Only \n and \r\n end a line. (`str.splitlines` would also split at U+2028, U+0085 and others, and so put two
    languages out of step.)
    """
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(b'\xef\xbb\xbf')  # the byte order mark that some editors write
            if line.startswith((b'\xff\xfe', b'\xfe\xff')):  # byte order marks of UTF-16, as spreadsheets write
                raise UserError(f'{name} is UTF-16 text; save it as UTF-8')
            if b'\0' in line:
                raise UserError(f'{name} has zero bytes in its first line, as UTF-16 text has; save it as UTF-8')
            if line.count(b'\r') > 1 or b'\r' in line[:-1] and not line.endswith(b'\n'):
                raise UserError(f'{name}: its lines end in a carriage return alone, as on old Macs; save it with the '
                                'line ends of Unix or Windows')
        try:
            yield line.removesuffix(b'\n').removesuffix(b'\r').decode('utf-8')
        except UnicodeDecodeError:
            raise UserError(f'{name}, line {number}: not UTF-8 text; convert the file to UTF-8 first')


def words(line):
    """The words of a line, in lower case."""
    return re.findall(r'\w+', line.lower())


def check_aligned(src_path, src_size, tgt_path, tgt_size):
    """Raise UserError unless two files have the same number of lines, and at least one."""
    for path, size, other_size in ((src_path, src_size, tgt_size), (tgt_path, tgt_size, src_size)):
        if not size and other_size:
            raise UserError(f'{path} is empty')
    if src_size != tgt_size:
        raise UserError(f'{src_path} has {src_size:,} lines but {tgt_path} has {tgt_size:,}; '
                        'line n of one must be the translation of line n of the other')
    if not src_size:
        raise UserError(f'{src_path} and {tgt_path} are empty')


def read_test(corpus, split, tasks):
    """The sources and the references of each task, {task: lines} each, and a fingerprint of both.

    Raises UserError if they do not have the same number of lines.
    """
    sources, references = {}, {}
    for task in tasks:
        src_path, tgt_path = corpus.files(split, task)
        sources[task], references[task] = list(read_lines(src_path)), list(read_lines(tgt_path))
        check_aligned(src_path, len(sources[task]), tgt_path, len(references[task]))
    return sources, references, hashlib.sha256(repr([sources, references]).encode()).hexdigest()


# Characters that have a meaning of their own for SentencePiece. It is given these noncharacters of Unicode instead.
RESERVED = {'\0': '\ufdd0', '\x1f': '\ufdd1', '▁': '\ufdd2', '▅': '\ufdd3'}
LEARN_FROM = 400_000  # lines of text at most, enough for a vocabulary


def hide_reserved(text):
    for outside, inside in RESERVED.items():
        text = text.replace(outside, inside)
    return text


def show_reserved(text):
    for outside, inside in RESERVED.items():
        text = text.replace(inside, outside)
    return text


def sample_text(texts):
    """The text to learn a vocabulary from {language: files}: an iterator over lines, and the set of all characters.

    Every language gives all its lines, or about LEARN_FROM / languages of them, evenly spaced. So a large language does
    not crowd out a small one. The space is not in the set.
    """
    lines, characters = [], set()
    for files in texts.values():
        n = 0
        for n, line in enumerate(chain.from_iterable(map(read_lines, files)), 1):
            characters.update(line)
        every = max(1, -(-n * len(texts) // LEARN_FROM))
        lines.append(islice(chain.from_iterable(map(read_lines, files)), 0, None, every))
    return chain.from_iterable(lines), characters - {' '}


class Vocabulary:
    """One SentencePiece model for all languages, with a tag for each of them."""

    def __init__(self, proto):
        self.proto = proto  # the serialized model, which checkpoints carry
        self.model = sentencepiece.SentencePieceProcessor(model_proto=proto)

    @classmethod
    def train(cls, texts, size=None):
        """Learn `size` subwords by BPE from texts, {language: files}. The same text gives the same subwords.

        Without a size, 3,000 are learned, or fewer where the text is small. Every character of the text is among them.
        Raises UserError if the size does not fit the text.
        """
        lines, characters = sample_text(texts)
        if not characters:
            raise UserError('the training text has nothing but empty lines')
        smallest = len(characters) + len(texts) + 4  # also the tags, the space, PAD, UNK and EOS
        if (size or 3000) < smallest:
            raise UserError(f'--vocab-size {size or 3000} does not hold every character of the training text; '
                            f'the smallest is {smallest}')
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=map(hide_reserved, lines), model_writer=model, vocab_size=size or 3000,
                model_type='bpe', normalization_rule_name='identity', character_coverage=1.0,
                required_chars=hide_reserved(''.join(sorted(characters))), pad_id=PAD, unk_id=UNK, eos_id=EOS,
                bos_id=-1, control_symbols=[f'<{language}>' for language in texts], minloglevel=2)
        except RuntimeError as error:
            largest = re.search(r'value <= (\d+)', str(error))
            if largest and size is None:
                size = (smallest + int(largest[1])) // 2
                print(f'note: {size:,} subwords are learned, because this text supports at most {int(largest[1]):,}; '
                      '--vocab-size names another number')
                return cls.train(texts, size)
            if largest:
                raise UserError(f'--vocab-size {size} is more than this text supports; the largest is {largest[1]}, '
                                'and half of that is a good choice')
            reason = str(error).rpartition(']')[2].strip()  # its errors are: file(line) [condition] reason
            raise UserError('SentencePiece cannot learn subwords from the training text: '
                            + (reason or 'all lines are longer than 4,192 bytes'))
        return cls(model.getvalue())

    def __len__(self):
        return len(self.model)

    @property
    def forbidden_ids(self):
        """The ids that a translation must not contain: padding, the unknown subword and the tags."""
        return [id for id in range(len(self)) if id != EOS and (id == UNK or self.model.is_control(id))]

    def tag(self, language):
        """The id of a language's tag."""
        return self.model.piece_to_id(f'<{language}>')

    def encode(self, lines):
        """Subword ids of each line, a list of lists, without tag and end of sentence.

        A character that is not in the training text becomes UNK. The only other change is to spaces: several in a row
        become one, and those at the ends are dropped.
        """
        return self.model.encode(list(map(hide_reserved, lines)))

    def decode(self, rows):
        """The text of each row of subword ids."""
        return list(map(show_reserved, self.model.decode(rows)))


def make_rows(tags, tokens, start, length):
    """Rows <tag> subwords </s> PAD ... (B, longest + 2) of the sentences tokens[start[b]:start[b] + length[b]].

    tags (B,), tokens (all,), start (B,), length (B,).
    """
    column = torch.arange(max(length.tolist(), default=0))  # (longest,); a process may get an empty share of a batch
    inside = column < length[:, None]  # (B, longest)
    body = torch.full(inside.shape, PAD)
    body[inside] = tokens[(start[:, None] + column)[inside]].long()
    rows = torch.cat([tags[:, None], body, torch.full_like(tags, PAD)[:, None]], dim=1)  # (B, longest + 2)
    return rows.scatter_(1, length[:, None] + 1, EOS)


class Batch(NamedTuple):
    """Rows padded to the longest: the three tensors that `Transformer.forward` takes."""
    src: torch.Tensor   # (B, S)
    tgt: torch.Tensor   # (B, T + 1)
    task: torch.Tensor  # (B,)

    def to(self, device):
        return Batch(self.src.to(device), self.tgt.to(device), self.task.to(device))

    def targets(self):
        """The n tokens to predict and the task of each, (n,) and (n,), in the order of the model's output."""
        real = target_mask(self.tgt)  # (B, T)
        return self.tgt[:, 1:][real], self.task[:, None].expand_as(real)[real]


def encode_files(paths, vocabulary):
    """All files' subwords end to end in one tensor, and the lengths of each file's lines, (lines,); 32-bit integers."""
    tokens, lengths = array('i'), []  # in Python lists, the tokens of a large corpus would fill the memory
    for path in paths:
        lines, of_file = read_lines(path), array('i')
        while block := list(islice(lines, 10_000)):
            rows = vocabulary.encode(block)
            tokens.extend(chain.from_iterable(rows))
            of_file.extend(map(len, rows))
        lengths.append(torch.tensor(of_file, dtype=torch.int32))
    if not tokens:  # which `frombuffer` refuses
        return torch.empty(0, dtype=torch.int32), lengths
    return torch.frombuffer(tokens, dtype=torch.int32), lengths


def load_tokens(paths, vocabulary, cache):
    """A fingerprint of text and vocabulary, and the two results of `encode_files`.

    These two are read from the file `cache` if its fingerprint is the same, else computed and saved there.
    """
    digest = hashlib.sha256(vocabulary.proto)
    for path in paths:
        with opened(path) as file:
            digest.update(b'file')
            for line in file:
                digest.update(line)
    fingerprint = digest.hexdigest()
    with contextlib.suppress(UserError):  # not there, or damaged
        kept = read(cache, 'text', made_by='')
        if kept.get('text_fingerprint') == fingerprint:
            return fingerprint, kept['tokens'], kept['lengths']
    tokens, lengths = encode_files(paths, vocabulary)
    make_folder(cache.parent)
    write(cache, {'kind': 'text', 'text_fingerprint': fingerprint, 'tokens': tokens, 'lengths': lengths})
    return fingerprint, tokens, lengths


class Bitext:
    """The sentence pairs of one split, all tasks together.

    A pair is three numbers: its source line, its target line and its task. One numbering runs through the lines of all
    files, and a file that several tasks use is stored once. Line i is tokens[start[i]:start[i] + length[i]].
    """

    def __init__(self, corpus, split, tasks, vocabulary, max_len, folder):
        """Read and encode `split` of these tasks; `folder` caches the result for the next start on the same text.

        Pairs are dropped if a side is empty, or is longer than max_len positions, its tag and </s> included.
        """
        self.split = split
        self.tags = torch.tensor([[vocabulary.tag(language) for language in split_task(task)]
                                  for task in tasks])  # (N, 2)
        files = [corpus.files(split, task) for task in tasks]
        paths = list(dict.fromkeys(path for pair in files for path in pair))
        self.text_fingerprint, self.tokens, lengths = load_tokens(paths, vocabulary, Path(folder) / f'{split}.text.pt')
        self.length = torch.cat(lengths)  # (lines of all files,)
        self.start = self.length.cumsum(0) - self.length  # (lines of all files,)
        numbers = dict(zip(paths, torch.arange(len(self.length)).split([len(of_file) for of_file in lengths])))
        self.n_unknown = int((self.tokens == UNK).sum())  # subwords that stand for an unknown character
        self.n_dropped, pairs = 0, []
        for task, (src_path, tgt_path) in enumerate(files):
            src, tgt = numbers[src_path], numbers[tgt_path]  # (n,) each
            check_aligned(src_path, len(src), tgt_path, len(tgt))
            sides = torch.stack([self.length[src], self.length[tgt]])  # (2, n)
            fits = (sides.amin(0) > 0) & (sides.amax(0) + 2 <= max_len)  # (n,)
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

    def length_ratios(self):
        """For each task (N,): the 99th percentile of its pairs' target length / source length, in subwords."""
        ratios = self.length[self.tgt].double() / self.length[self.src]  # (pairs,)
        of_tasks = [ratios[self.task == task] for task in range(len(self.tags))]  # N x (size_t,)
        return torch.stack([own.kthvalue(math.ceil(0.99 * len(own))).values for own in of_tasks])

    def sample(self, temperature, generator):
        """One epoch: as many pairs as there are, task t's share proportional to size_t^(1/temperature).

        A task whose share is larger than its size is repeated. One whose share is smaller is subsampled at random.
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

    def make_batches(self, order, batch_tokens):
        """Cut the pairs `order` (n,) into index tensors, one a batch: pairs of similar length together, tasks mixed.

        A batch has at most `batch_tokens` positions on its longer side, padding included, and at least one pair.
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

    def train_batches(self, batch_tokens, temperature, seed):
        """Index tensors of training batches without end: a new sample each epoch, batches in random order."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            batches = self.make_batches(self.sample(temperature, generator), batch_tokens)
            yield from (batches[i] for i in torch.randperm(len(batches), generator=generator).tolist())

    def eval_batches(self, batch_tokens):
        """Every pair once, in the same batches each time: for validation and recording."""
        for index in self.make_batches(torch.arange(len(self)), batch_tokens):
            yield self.batch(index)

    def batch(self, index):
        """The pairs `index` (B,) as a padded Batch."""
        tags = self.tags[self.task[index]]  # (B, 2)
        src, tgt = self.src[index], self.tgt[index]  # (B,) each: numbers of lines
        return Batch(make_rows(tags[:, 0], self.tokens, self.start[src], self.length[src].long()),
                     make_rows(tags[:, 1], self.tokens, self.start[tgt], self.length[tgt].long()), self.task[index])
