"""How fast is minispec here? Everything as a ratio, measured in turns (A B A B ...) in one run: python tests/bench.py

The model is that of `--d-model 256 --d-ff 1024 --layers 3 --vocab-size 8000`, in batches of about 4,096 padded target
tokens, with random weights: they cost the same as trained ones. Times are medians, with the quartiles in brackets.
"""
import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from minispec import decoding  # noqa: E402
from minispec.corpora import open_corpus  # noqa: E402
from minispec.data import Bitext, read_lines  # noqa: E402
from minispec.model import PAD, Config, Transformer  # noqa: E402
from minispec.neurons import record  # noqa: E402
from minispec.training import update, validate  # noqa: E402
from minispec.vocabulary import EOS, Vocabulary  # noqa: E402


class Reference(nn.Module):
    """The same model from torch's own nn.Transformer, as one would write it first."""

    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.Transformer(config.d_model, config.heads, config.layers, config.layers, config.d_ff,
                                     config.dropout, 'relu', batch_first=True, norm_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer('positions', Transformer(config).positions)

    def embed(self, tokens):
        scale = self.embedding.embedding_dim ** 0.5
        return self.dropout(self.embedding(tokens) * scale + self.positions[:tokens.size(1)])  # (B, T, D)

    def forward(self, src, tgt):
        tgt, pad = tgt[:, :-1], src == PAD
        later = torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool, device=tgt.device).triu(1)  # (T, T)
        x = self.layers(self.embed(src), self.embed(tgt), tgt_mask=later, src_key_padding_mask=pad,
                        tgt_key_padding_mask=tgt == PAD, memory_key_padding_mask=pad)  # (B, T, D)
        return nn.functional.linear(x, self.embedding.weight)  # (B, T, V)


def reference_step(model, optimizer, batch):
    scores = model(batch.src, batch.tgt)
    loss = nn.functional.cross_entropy(scores.flatten(0, 1), batch.tgt[:, 1:].flatten(), ignore_index=PAD,
                                       label_smoothing=0.1)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def matrix_flops(config, batch):
    """Floating-point operations of all matrix products of a training step, on real and padded positions alike."""
    D, F, V, layers = config.d_model, config.d_ff, config.vocab_size, config.layers
    (B, S), T = batch.src.shape, batch.tgt.size(1) - 1
    encoder = B * S * (4 * D * D + 2 * D * F) + 2 * B * S * S * D
    decoder = B * T * (6 * D * D + 2 * D * F) + B * S * 2 * D * D + 2 * B * T * (T + S) * D
    project = int((batch.tgt[:, 1:] != PAD).sum()) * D * V
    return 2 * 3 * (layers * (encoder + decoder) + project)  # a multiply and an add; forward once, backward twice


def peak_memory():
    """The most memory that this process has held, in MB, on Linux."""
    return int(Path('/proc/self/status').read_text(encoding='utf-8').split('VmHWM:')[1].split()[0]) / 1024


class Clock:
    """Times pieces of work in turns, and keeps the peak memory of each, in MB, in `peaks`."""

    def __init__(self, device, rounds):
        self.device, self.rounds, self.peaks = device, rounds, {}

    def peak(self, work):
        """Do the work; the memory that it takes at its most, in MB: of the GPU, or on Linux of this process, else nan."""
        if self.device.type == 'cuda':
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            work()
            return (torch.cuda.max_memory_allocated() - before) / 2 ** 20
        if sys.platform != 'linux':
            work()
            return float('nan')
        ctypes.CDLL(None).malloc_trim(0)  # hand back what earlier work has left
        Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')  # the peak starts anew
        before = peak_memory()
        work()
        return peak_memory() - before

    def seconds(self, work):
        start = time.perf_counter()
        work()
        if self.device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def race(self, **works):
        """Run every work once unmeasured, then all of them in turns. Returns {name: seconds of each round}."""
        times = {name: [] for name in works}
        self.peaks |= {name: self.peak(work) for name, work in works.items()}
        for _ in range(self.rounds):
            for name, work in works.items():
                times[name].append(self.seconds(work))
        return times


def spread(values):
    if len(values) == 1:
        return f'{values[0]:.3g}'
    low, middle, high = statistics.quantiles(values, n=4)
    return f'{middle:.3g} ({low:.3g} to {high:.3g})'


class Report:
    """Prints lines and keeps what they say for the JSON line."""

    def __init__(self):
        self.results = {}

    def compare(self, name, times, a, b):
        """How many times as long `a` takes as `b`, round by round."""
        ratios = [x / y for x, y in zip(times[a], times[b])]
        self.results[name] = round(statistics.median(ratios), 3)
        print(f'{name:58} {spread(ratios)}')

    def rate(self, name, values, unit):
        self.results[name] = round(statistics.median(values), 3)
        print(f'{name:58} {spread(values)} {unit}')


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data', default='multi30k', help='as in the scripts')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32', help='of matrix products')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help='on a CPU')
    parser.add_argument('--rounds', type=int, default=7, help='of each measurement')
    parser.add_argument('--d-model', type=int, default=256)
    parser.add_argument('--d-ff', type=int, default=1024)
    parser.add_argument('--vocab-size', type=int, default=8000)
    return parser.parse_args()


def bench_ceiling(clock, report, config, args):
    """What the machine can do: a large product, and the products that this model is made of. Returns the first."""
    dtype = getattr(torch, args.dtype)
    D, F, V = config.d_model, config.d_ff, config.vocab_size
    best = {}
    for name, (m, k, n) in {'large product': (2048, 2048, 2048), 'attention product': (4096, D, D),
                            'FFN product': (4096, D, F), 'vocabulary product': (4096, D, V)}.items():
        a, b = (torch.randn(shape, dtype=dtype, device=args.device) for shape in ((m, k), (k, n)))
        times = clock.race(product=lambda: a @ b)['product']
        report.rate(f'{name} ({m} x {k} x {n})', [2 * m * k * n / t / 1e9 for t in times], 'GFLOP/s')
        best[name] = 2 * m * k * n / min(times)
    return best['large product']


def bench_training(clock, report, model, data, ceiling, args):
    """Our step against torch's, and the masked against the dense one, each over the same two batches."""
    dtype = getattr(torch, args.dtype)
    batches = [data.batch(index).to(args.device) for index in islice(data.epochs(4096, 1.0, 1), 2)]
    reference = Reference(model.config).to(args.device)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-6, betas=(0.9, 0.98), fused=True) for m in (model, reference)]
    dense = torch.ones_like(model.masks)
    masks = torch.rand(model.masks.shape, device=model.masks.device) < 0.78  # the density of k = 95

    def step(mask):
        model.masks.copy_(mask)
        for batch in batches:
            update(model, optimizers[0], [batch], dtype)

    def plain_step():
        reference.train()
        for batch in batches:
            reference_step(reference, optimizers[1], batch)

    times = clock.race(**{'torch': plain_step, 'dense step': lambda: step(dense), 'masked step': lambda: step(masks)})
    model.masks.copy_(dense)
    tokens = sum(int((batch.tgt[:, 1:] != PAD).sum()) for batch in batches)
    report.rate('training, this model', [tokens / t for t in times['dense step']], 'target tokens/s')
    report.rate('training, nn.Transformer in float32', [tokens / t for t in times['torch']], 'target tokens/s')
    report.compare('speed of our step, in nn.Transformer\'s', times, 'torch', 'dense step')
    report.compare('time of a masked step, in dense steps', times, 'masked step', 'dense step')
    flops = sum(matrix_flops(model.config, batch) for batch in batches)
    report.rate('share of the ceiling that our step reaches', [flops / t / ceiling for t in times['dense step']], '')


def bench_recording(clock, report, model, valid, args):
    batches = [batch.to(args.device) for batch in islice(valid.in_order(4096), 4)]

    class Few:
        """The same batches for `validate`, which asks a Bitext for them."""
        in_order = staticmethod(lambda batch_tokens: batches)

    times = clock.race(validation=lambda: validate(model, Few, 4096), recording=lambda: record(model, batches))
    report.compare('time of recording, in validation passes', times, 'recording', 'validation')


@torch.inference_mode()
def uncached(model, batch, task):
    """What the same search costs its decoder without caches: every round runs over the source and all tokens so far."""
    memory, src_mask = model.encode(batch.src, task)
    rows = torch.arange(len(batch.src), device=memory.device).repeat_interleave(5)  # (B*K,)
    memory, src_mask, task, tokens = memory[rows], src_mask[rows], task[rows], batch.tgt[rows, :1]
    for _ in range(20):
        x = model.decode(tokens, task, model.new_cache(memory), src_mask)[:, -1]  # (B*K, D)
        tokens = torch.cat([tokens, model.project(x).log_softmax(-1).argmax(-1, keepdim=True)], dim=1)


def bench_decoding(clock, report, model, valid, args):
    """Beam 5, 32 sentences, 20 tokens each: the end of a sentence is forbidden, and the model has no more positions."""
    batch = valid.batch(torch.arange(0, len(valid), len(valid) // 32)[:32]).to(args.device)
    project, max_len, masks = model.project, model.config.max_len, model.masks.clone()
    task = torch.zeros_like(batch.task)

    def endless(x):
        scores = project(x)
        scores[..., EOS] = -1e4
        return scores

    def translate(some, tasks):
        decoding.search(some, batch.src, tasks, batch.tgt[:, 0], beam=5)

    forms = {'dense': model}
    for k, density in ((95, 0.78), (70, 0.44)):  # the densities that a trained model has at these k
        masked = Transformer(model.config).to(args.device)
        masked.load_state_dict(model.state_dict())
        masked.masks.copy_(torch.rand(masked.masks.shape) < density)
        forms |= {f'masked {k}': masked, f'slim {k}': masked.slim(0)}
    for form in forms.values():
        form.config.max_len = 21
        form.project = endless
    works = {name: lambda form=form: translate(form, task) for name, form in forms.items()}
    times = clock.race(uncached=lambda: uncached(model, batch, task), **works)
    del model.project
    model.config.max_len, model.masks = max_len, masks
    report.rate('beam 5, 20 tokens', [len(batch.src) / t for t in times['dense']], 'sentences/s')
    report.compare('speed of search with caches, in search without', times, 'uncached', 'dense')
    x = torch.randn(32 * 5, 1, model.config.d_model, device=args.device)
    for k in (95, 70):
        report.compare(f'speed of the slim model at the density of k = {k}, in masked', times, f'masked {k}', f'slim {k}')
        report.compare(f'speed of the slim model at the density of k = {k}, in dense', times, 'dense', f'slim {k}')
        masked, slim = forms[f'masked {k}'], forms[f'slim {k}']
        pairs = [(form.ffns[-1], form.task_masks(task[:1])[-1]) for form in (masked, slim)]
        ffn = clock.race(**{name: lambda pair=pair: [pair[0](x, pair[1]) for _ in range(100)]
                            for name, pair in zip(('masked FFN', 'slim FFN'), pairs)})
        report.compare(f'the same of one FFN alone, {slim.config.d_ff[-1]} of {model.config.d_ff} neurons', ffn,
                       'masked FFN', 'slim FFN')
        sizes = [sum(p.numel() for p in form.parameters()) for form in (slim, masked)]
        report.rate(f'parameters of the slim model at the density of k = {k}', [sizes[0] / sizes[1]], 'of all')


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    device = torch.device(args.device)
    clock, report = Clock(device, args.rounds), Report()
    corpus = open_corpus(args.data)
    paths = sorted({path for direction in corpus.directions for path in corpus.files('train', direction)})
    lines = [line for path in paths for line in read_lines(path)]
    vocabulary = Vocabulary.train(lines, args.vocab_size, corpus.languages)
    config = Config(len(vocabulary), len(corpus.directions), args.d_model, args.d_ff, layers=3)
    model = Transformer(config).to(device)

    print(f'{device.type}, {args.dtype}, {args.threads} threads, torch {torch.__version__}\n')
    ceiling = bench_ceiling(clock, report, config, args)
    with tempfile.TemporaryDirectory() as folder:
        for name in ('tokenizing', 'taking the pieces from the disk the second time'):
            start = time.perf_counter()
            data = Bitext(corpus, 'train', corpus.directions, vocabulary, config.max_len, folder)
            report.rate(name, [len(lines) / (time.perf_counter() - start)], 'sentences/s')
        valid = Bitext(corpus, 'valid', corpus.directions, vocabulary, config.max_len, folder)
    start = time.perf_counter()
    n = sum(len(data.batch(index)) and len(index) for index in islice(data.epochs(4096, 1.0, 1), 100))
    report.rate('batching, the order of an epoch included', [n / (time.perf_counter() - start)], 'pairs/s')
    bench_training(clock, report, model, data, ceiling, args)
    bench_recording(clock, report, model, valid, args)
    bench_decoding(clock, report, model, valid, args)
    for name in ('torch', 'dense step', 'masked step', 'validation', 'recording', 'uncached', 'dense', 'slim 70'):
        report.rate(f'memory at its peak: {name}', [clock.peaks[name]], 'MB')
    print(json.dumps({'device': device.type, 'dtype': args.dtype, 'threads': args.threads, 'torch': torch.__version__,
                      **report.results}))


if __name__ == '__main__':
    main()
