"""Phase 1: train one multilingual Transformer on all directions of a corpus.

    corpus  ->  RUN/base.pt
"""
from itertools import chain, islice
from pathlib import Path

import torch

from minispec import cli, figures
from minispec.checkpoint import Checkpoint, load_state
from minispec.corpora import open_corpus
from minispec.data import Bitext, Vocabulary, read_lines
from minispec.model import Config, Transformer
from minispec.training import train


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument('--languages', nargs='+', metavar='LANGUAGE',
                        help='train on the directions between these languages alone, as in: --languages en de fr')
    cli.add_training_flags(parser)
    shape = parser.add_argument_group('model')
    shape.add_argument('--d-model', type=cli.positive_int, default=Config.d_model, help='width of the model')
    shape.add_argument('--d-ff', type=cli.positive_int, default=Config.d_ff, help='neurons in each FFN layer')
    shape.add_argument('--layers', type=cli.positive_int, default=Config.layers,
                       help='number of encoder layers, and of decoder layers')
    shape.add_argument('--heads', type=cli.positive_int, default=Config.heads, help='number of attention heads')
    shape.add_argument('--vocab-size', type=cli.positive_int, default=3000, help='number of subwords for all languages')
    shape.add_argument('--dropout', type=cli.probability, default=Config.dropout, help='dropout probability')
    args = parser.parse_args()
    if args.d_model % (2 * args.heads):
        parser.error(f'--d-model {args.d_model} is not a multiple of twice the --heads {args.heads}')
    return args, parser


def untrained(corpus, sizes, args):
    """A vocabulary from the training text, and a model with random weights. `sizes`: {task: lines}."""
    texts = {path: sizes[task] for task in corpus.tasks for path in corpus.files('train', task)}
    every = -(-sum(texts.values()) // 400_000)  # so many lines teach it enough
    lines = islice(chain.from_iterable(map(read_lines, sorted(texts))), 0, None, every)
    vocabulary = Vocabulary.train(lines, args.vocab_size, corpus.languages)
    config = Config(len(vocabulary), len(corpus.tasks), args.d_model, args.d_ff, args.layers, args.heads, args.dropout)
    torch.manual_seed(args.seed)
    return Checkpoint(Transformer(config), vocabulary, corpus.tasks, {'phase': 'base'})


def main():
    args, parser = arguments()
    path = Path(args.run) / 'base.pt'
    if args.plot:
        figures.new_figure()  # fails now, not after the work, if there is no matplotlib
    if args.resume:
        last = path.with_suffix('.last.pt')
        checkpoint = load_state(last, 'base')
        args = cli.resumed_settings(args, parser, last, checkpoint.info)
    cli.print_settings(args)

    corpus = open_corpus(args.data, args.languages)
    sizes = corpus.check(checkpoint.tasks if args.resume else corpus.tasks)
    if not args.resume:
        checkpoint = untrained(corpus, sizes, args)
    model, vocabulary, tasks = checkpoint.model, checkpoint.vocabulary, checkpoint.tasks
    train_data = Bitext(corpus, 'train', tasks, vocabulary, model.config.max_len, args.run)
    valid_data = Bitext(corpus, 'valid', tasks, vocabulary, model.config.max_len, args.run)
    print('training pairs: ' + ', '.join(f'{task} {n:,}' for task, n in zip(tasks, train_data.sizes().tolist())))
    best = train(checkpoint, train_data, valid_data, path, args)
    if args.plot:
        print('drew ' + ', '.join(map(str, figures.draw_curve(path.with_suffix('.csv')))))
    print(f'wrote {path} (validation loss {best:.3f}); next: '
          + cli.command('profile.py', '--data', args.data, '--run', args.run))


if __name__ == '__main__':
    cli.run(main)
