"""How fast is minispec on this machine? Compared work alternates (A B A B ...): python experiments/bench.py

The model is that of `--d-model 256 --d-ff 1024 --layers 3 --vocab-size 8000`. Its weights are random, which cost the
same as trained ones. Batches have about 4,096 positions, padding included. Values are medians, with the quartiles in
brackets.
"""
import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from minispec import cli  # noqa: E402
from minispec.corpora import open_corpus  # noqa: E402
from minispec.data import Bitext, Vocabulary  # noqa: E402
from minispec.decoding import search  # noqa: E402
from minispec.model import EOS, PAD, Config, Transformer  # noqa: E402
from minispec.neurons import record  # noqa: E402
from minispec.training import train_step, validate  # noqa: E402

DENSITIES = {95: 0.78, 70: 0.44}  # {k: share of neurons that Eq. 1 keeps in a trained model}


class Reference(nn.Module):
    """The same model built on torch's own nn.Transformer, in the most direct way."""

    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.Transformer(config.d_model, config.heads, config.layers, config.layers, config.d_ff,
                                     config.dropout, 'relu', batch_first=True, norm_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer('positions', Transformer(config).positions)

    def embed(self, tokens):
        x = self.embedding(tokens) * self.embedding.embedding_dim ** 0.5  # (B, T, D)
        return self.dropout(x + self.positions[:tokens.size(1)])

    def step(self, optimizer, batch):
        tgt, pad = batch.tgt[:, :-1], batch.src == PAD  # (B, T), (B, S)
        later = torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool, device=tgt.device).triu(1)  # (T, T)
        x = self.layers(self.embed(batch.src), self.embed(tgt), tgt_mask=later, src_key_padding_mask=pad,
                        tgt_key_padding_mask=tgt == PAD, memory_key_padding_mask=pad)  # (B, T, D)
        scores = nn.functional.linear(x, self.embedding.weight)  # (B, T, V)
        nn.functional.cross_entropy(scores.flatten(0, 1), batch.tgt[:, 1:].flatten(), ignore_index=PAD,
                                    label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


class Endless(Transformer):
    """Never ends a sentence, so that every search takes the largest possible number of rounds."""

    def project(self, x):
        scores = super().project(x)
        scores[..., EOS] = -1e4
        return scores


def matrix_flops(config, batch):
    """Floating-point operations of all matrix products of a training step, on real and padded positions alike."""
    D, F, V = config.d_model, config.d_ff, config.vocab_size
    (B, S), T = batch.src.shape, batch.tgt.size(1) - 1
    encoder = B * S * (4 * D * D + 2 * D * F) + 2 * B * S * S * D
    decoder = B * T * (6 * D * D + 2 * D * F) + B * S * 2 * D * D + 2 * B * T * (T + S) * D
    project = len(batch.targets()[0]) * D * V
    return 2 * 3 * (config.layers * (encoder + decoder) + project)  # multiply and add; forward once, backward twice


class Bench:
    """Times functions in turns, prints the results, and keeps them in `results` for the JSON line."""

    def __init__(self, args):
        self.args, self.results, self.peaks = args, {}, {}
        self.cuda, self.dtype = args.device.startswith('cuda'), getattr(torch, args.dtype)

    def peak(self, work):
        """Call work(). Returns the peak memory that it adds, in MB: of the GPU, of this process (on Linux), or nan."""
        def held():  # peak memory so far
            return int(Path('/proc/self/status').read_text(encoding='utf-8').split('VmHWM:')[1].split()[0]) / 1024

        if self.cuda:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            work()
            return (torch.cuda.max_memory_allocated() - before) / 2 ** 20
        if sys.platform != 'linux':
            work()
            return float('nan')
        ctypes.CDLL(None).malloc_trim(0)  # hand back what earlier work has left
        Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')  # the peak starts anew
        before = held()
        work()
        return held() - before

    def race(self, works):
        """Call each of {name: function} once for its peak memory, then time all in turns. Returns {name: seconds}."""
        self.peaks |= {name: self.peak(work) for name, work in works.items()}
        times = {name: [] for name in works}
        for _ in range(self.args.rounds):
            for name, work in works.items():
                start = time.perf_counter()
                work()
                if self.cuda:
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - start)
        return times

    def report(self, name, values, unit=''):
        self.results[name] = round(statistics.median(values), 3)
        quartiles = ' ({:.3g} to {:.3g})'.format(*statistics.quantiles(values)[::2]) if len(values) > 1 else ''
        print(f'{name:58} {statistics.median(values):.3g}{quartiles} {unit}'.rstrip())

    def compare(self, name, times, a, b):
        """Report the time of `a` divided by that of `b`, round by round."""
        self.report(name, [x / y for x, y in zip(times[a], times[b])])


def bench_ceiling(bench, config):
    """Speed of a large matrix product, and of the products in this model. Returns the best of the first, in FLOP/s."""
    D, F, V = config.d_model, config.d_ff, config.vocab_size
    best = []
    for name, m, k, n in (('large product', 2048, 2048, 2048), ('attention product', 4096, D, D),
                          ('FFN product', 4096, D, F), ('vocabulary product', 4096, D, V)):
        a = torch.randn(m, k, dtype=bench.dtype, device=bench.args.device)
        b = torch.randn(k, n, dtype=bench.dtype, device=bench.args.device)
        times = bench.race({name: partial(torch.mm, a, b)})[name]
        bench.report(f'{name} ({m} x {k} x {n})', [2 * m * k * n / t / 1e9 for t in times], 'GFLOP/s')
        best.append(2 * m * k * n / min(times))
    return best[0]


def bench_data(bench, corpus, vocabulary, max_len):
    """Reading text, and cutting it into batches. Returns the training and the validation Bitext."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ('tokenizing', 'reading the cached subwords'):
            start = time.perf_counter()
            data = Bitext(corpus, 'train', corpus.tasks, vocabulary, max_len, folder)
            bench.report(name, [len(data.length) / (time.perf_counter() - start)], 'sentences/s')
        valid = Bitext(corpus, 'valid', corpus.tasks, vocabulary, max_len, folder)
    start = time.perf_counter()
    n = sum(len(data.batch(index).task) for index in islice(data.train_batches(4096, 1.0, 1), 100))
    bench.report('batching, the order of an epoch included', [n / (time.perf_counter() - start)], 'pairs/s')
    return data, valid


def bench_training(bench, model, data, ceiling):
    """Our step against torch's, and the masked against the dense one, each over the same two batches."""
    batches = [data.batch(index).to(bench.args.device) for index in islice(data.train_batches(4096, 1.0, 1), 2)]
    reference = Reference(model.config).to(bench.args.device)
    ours, theirs = [torch.optim.Adam(m.parameters(), lr=1e-6, betas=(0.9, 0.98), fused=True)
                    for m in (model, reference)]
    dense = torch.ones_like(model.masks)
    masks = torch.rand(model.masks.shape, device=model.masks.device) < DENSITIES[95]

    def step(mask):
        model.masks.copy_(mask)
        for batch in batches:
            train_step(model, ours, [batch], bench.dtype)

    def reference_step():
        for batch in batches:
            reference.step(theirs, batch)

    times = bench.race({'torch': reference_step, 'dense step': partial(step, dense),
                        'masked step': partial(step, masks)})
    model.masks.copy_(dense)
    tokens = sum(len(batch.targets()[0]) for batch in batches)
    flops = sum(matrix_flops(model.config, batch) for batch in batches)
    bench.report('training, this model', [tokens / t for t in times['dense step']], 'target tokens/s')
    bench.report('training, nn.Transformer in float32', [tokens / t for t in times['torch']], 'target tokens/s')
    bench.compare('speed of our step over that of nn.Transformer', times, 'torch', 'dense step')
    bench.compare('time of a masked step over that of a dense step', times, 'masked step', 'dense step')
    bench.report('share of the ceiling that our step reaches', [flops / t / ceiling for t in times['dense step']])


def bench_recording(bench, model, valid):
    batches = [batch.to(bench.args.device) for batch in islice(valid.eval_batches(4096), 4)]
    data = SimpleNamespace(eval_batches=lambda batch_tokens: batches)  # what `validate` asks a Bitext for
    times = bench.race({'validation': partial(validate, model, data, 4096),
                        'recording': partial(record, model, batches)})
    bench.compare('time of recording over that of a validation', times, 'recording', 'validation')


@torch.inference_mode()
def uncached(model, batch, task):
    """The same search's decoder without caches: every round computes the source's keys and all tokens so far again."""
    memory, src_mask = model.encode(batch.src, task)  # (B, S, D), (B, 1, 1, S)
    rows = torch.arange(len(batch.src), device=memory.device).repeat_interleave(5)  # (B * beam,)
    memory, src_mask, task, tokens = memory[rows], src_mask[rows], task[rows], batch.tgt[rows, :1]
    for _ in range(20):
        x = model.decode(tokens, task, model.new_cache(memory), src_mask)[:, -1]  # (B * beam, D)
        tokens = torch.cat([tokens, model.project(x).log_softmax(-1).argmax(-1, keepdim=True)], dim=1)


def hugging_face(config, batch):
    """Hugging Face's `generate` with a Marian model of this size, in as many rounds. None if it is not installed."""
    try:
        from transformers import MarianConfig, MarianMTModel
    except ImportError:
        print('no comparison with Hugging Face; it needs: python -m pip install transformers')
        return None
    sizes = {f'{side}_{name}': value for side in ('encoder', 'decoder') for name, value in
             (('layers', config.layers), ('attention_heads', config.heads), ('ffn_dim', config.d_ff))}
    model = MarianMTModel(MarianConfig(vocab_size=config.vocab_size, d_model=config.d_model, **sizes,
                                       activation_function='relu', pad_token_id=PAD, eos_token_id=EOS,
                                       decoder_start_token_id=EOS, forced_eos_token_id=None)).to(batch.src.device)
    return partial(model.eval().generate, input_ids=batch.src, attention_mask=(batch.src != PAD).long(), num_beams=5,
                   do_sample=False, min_new_tokens=20, max_new_tokens=20)


def bench_decoding(bench, model, valid):
    """Beam 5, 32 sentences, 20 tokens each: no sentence ends before the model is out of positions."""
    batch = valid.batch(torch.arange(0, len(valid), max(1, len(valid) // 32))[:32]).to(bench.args.device)
    task = torch.zeros_like(batch.task)

    def endless(density):
        result = Endless(model.config).to(bench.args.device)
        result.load_state_dict(model.state_dict())
        result.config = replace(model.config, max_len=21)
        result.masks.copy_(torch.rand(result.masks.shape) < density)
        return result.eval()

    forms = {'dense': endless(1.0)}
    for k, density in DENSITIES.items():
        forms[f'masked {k}'] = endless(density)
        forms[f'sub-network {k}'] = forms[f'masked {k}'].sub_network(0)
    inputs = batch.src, task, batch.tgt[:, 0], torch.full_like(task, 20), [PAD]  # at most 20 tokens
    works = {name: partial(search, form, *inputs, beam=5) for name, form in forms.items()}
    if generate := hugging_face(model.config, batch):
        works['hugging face'] = generate
    times = bench.race({'uncached': partial(uncached, forms['dense'], batch, task), **works})
    bench.report('beam 5, 20 tokens', [len(batch.src) / t for t in times['dense']], 'sentences/s')
    bench.compare('speed of search with caches over that without', times, 'uncached', 'dense')
    if generate:
        bench.compare("speed of search over that of Hugging Face's", times, 'hugging face', 'dense')
    for k in DENSITIES:
        masked, part = forms[f'masked {k}'], forms[f'sub-network {k}']
        for other in (f'masked {k}', 'dense'):
            bench.compare(f'speed of the sub-network at k = {k} over {other}', times, other, f'sub-network {k}')
        ffn_times = bench.race({'masked FFN': partial(last_ffn, masked, task[:1]),
                                'its own FFN': partial(last_ffn, part, task[:1])})
        widths = f'{part.ffns[-1].w1.out_features} of {model.config.d_ff} neurons'
        bench.compare(f'the same of one FFN alone, {widths}', ffn_times, 'masked FFN', 'its own FFN')
        sizes = [sum(p.numel() for p in form.parameters()) for form in (part, masked)]
        bench.report(f'parameters of the sub-network at k = {k}', [sizes[0] / sizes[1]], 'of all')


def last_ffn(model, task):
    """Run the last FFN alone, a hundred times, on one token of each of 32 * 5 hypotheses."""
    x = torch.ones(32 * 5, 1, model.config.d_model, device=task.device)
    ffn, mask = model.ffns[-1], model.task_masks(task)[-1]  # (1, 1, F)
    for _ in range(100):
        ffn(x, mask)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data', default='multi30k', help='as in the scripts')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32', help='precision of products')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help='number of threads on a CPU')
    parser.add_argument('--rounds', type=int, default=7, help='number of rounds of each measurement')
    parser.add_argument('--d-model', type=int, default=256, help='model width')
    parser.add_argument('--d-ff', type=int, default=1024, help='neurons in each FFN')
    parser.add_argument('--vocab-size', type=int, default=8000, help='number of subwords')
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    bench, corpus = Bench(args), open_corpus(args.data)
    vocabulary = Vocabulary.train(corpus.texts('train'), args.vocab_size)
    config = Config(len(vocabulary), len(corpus.tasks), args.d_model, args.d_ff, layers=3)
    model = Transformer(config).to(args.device)

    print(f'{args.device}, {args.dtype}, {args.threads} threads, torch {torch.__version__}\n')
    ceiling = bench_ceiling(bench, config)
    data, valid = bench_data(bench, corpus, vocabulary, config.max_len)
    bench_training(bench, model, data, ceiling)
    bench_recording(bench, model, valid)
    bench_decoding(bench, model, valid)
    for name in ('torch', 'dense step', 'masked step', 'validation', 'recording', 'uncached', 'dense',
                 'sub-network 70'):
        bench.report(f'peak memory: {name}', [bench.peaks[name]], 'MB')
    print(json.dumps({'device': args.device, 'dtype': args.dtype, 'threads': args.threads, 'torch': torch.__version__,
                      **bench.results}))


if __name__ == '__main__':
    cli.run(main)
