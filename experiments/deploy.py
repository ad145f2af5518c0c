"""How fast and how large is a direction's sub-network, in minispec and in CTranslate2, an engine for inference?

    python experiments/deploy.py --src en --tgt de dense.pt specialized.pt

needs `python -m pip install ctranslate2`. Each checkpoint's sub-network translates the test text of one direction by
beam search (beam size 5), in batches of 32 sentences: in minispec, and exported to CTranslate2 in float32 and in 8-bit
integers. All take turns. Speeds are medians, with the quartiles in brackets; a model's size is that of its weights.
"""
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import sentencepiece
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from minispec import UserError, cli  # noqa: E402
from minispec.checkpoint import load_checkpoint  # noqa: E402
from minispec.corpora import open_corpus  # noqa: E402
from minispec.data import read_test  # noqa: E402
from minispec.decoding import translate  # noqa: E402
from minispec.export import export  # noqa: E402
from minispec.scoring import metrics_for  # noqa: E402
from minispec.tasks import join_task  # noqa: E402


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument('models', nargs='+', metavar='MODEL.pt', help='checkpoints in --run')
    parser.add_argument('--src', required=True, help='language to translate from')
    parser.add_argument('--tgt', required=True, help='language to translate into')
    parser.add_argument('--rounds', type=cli.positive_int, default=5, help='number of rounds that are timed')
    parser.add_argument('--threads', type=cli.positive_int, default=1, help='number of CPU threads')
    return parser.parse_args()


def ours(part, lines, task):
    """(A function that translates the lines with minispec, the size of the weights in bytes)."""
    # CTranslate2 is given batches of 32 sentences; ours are bounded by positions instead.
    size = 32 * 5 * (2 + max(map(len, part.vocabulary.encode(lines))))
    return (lambda: translate(part, lines, task, batch_tokens=size)[0],
            sum(p.numel() * p.element_size() for p in part.model.parameters()))


def theirs(part, lines, task, folder, quantization, args):
    """The same with CTranslate2, to which the model is exported in `folder`."""
    import ctranslate2
    export(part, task, folder, quantization)
    subwords = sentencepiece.SentencePieceProcessor(str(folder / 'subwords.model'))
    translator = ctranslate2.Translator(str(folder), compute_type=quantization or 'float32',
                                        intra_threads=args.threads)

    def work():
        rows = [[f'<{args.src}>', *subwords.encode(line, out_type=str), '</s>'] for line in lines]
        found = translator.translate_batch(rows, beam_size=5, max_batch_size=32)
        return [subwords.decode(each.hypotheses[0]) for each in found]
    return work, (folder / 'model.bin').stat().st_size


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    task, works = join_task(args.src, args.tgt), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            checkpoint = load_checkpoint(Path(args.run) / name)
            if task not in checkpoint.tasks:
                raise UserError(f'{name} was not trained on {task}; it knows {", ".join(checkpoint.tasks)}')
            args.data = args.data or checkpoint.data['source']
            sources, targets, _ = read_test(open_corpus(args.data), 'test', [task])
            lines, references = sources[task], targets[task]
            model = checkpoint.model.sub_network(checkpoint.tasks.index(task))
            part = replace(checkpoint, model=model, tasks=[task])
            works[name, 'minispec float32'] = ours(part, lines, task)
            for kind, quantization in (('float32', None), ('int8', 'int8')):
                works[name, f'CTranslate2 {kind}'] = theirs(part, lines, task, Path(folder) / f'{name}.{kind}',
                                                            quantization, args)
        cli.print_settings(args)
        seconds = {key: [] for key in works}
        found = {key: work() for key, (work, _) in works.items()}  # once untimed
        for _ in range(args.rounds):
            for key, (work, _) in works.items():
                start = time.perf_counter()
                work()
                seconds[key].append(time.perf_counter() - start)
    metric = metrics_for(args.tgt, references)['BLEU']
    print(f'{"":40}  sentences/s            vs minispec  weights     BLEU')
    for (name, engine), (_, size) in works.items():
        speeds = [len(lines) / each for each in seconds[name, engine]]
        low, middle, high = statistics.quantiles(speeds) if len(speeds) > 1 else speeds * 3
        ratio = statistics.median(a / b for a, b in zip(seconds[name, 'minispec float32'], seconds[name, engine]))
        bleu = metric.corpus_score(found[name, engine], None).score
        print(f'{name:20} {engine:19}  {middle:6.0f} ({low:.0f} to {high:.0f})'.ljust(66)
              + f'{ratio:4.2f}  {size / 1e6:5.2f} MB  {bleu:6.2f}')


if __name__ == '__main__':
    cli.run(main)
