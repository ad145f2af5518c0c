"""Phase 1: train one multilingual Transformer on all directions of a corpus.

    corpus  ->  RUN/base.pt
"""
import sys
from pathlib import Path

import torch

from minispec import cli, figures
from minispec.checkpoint import Checkpoint, check_text, describe_data, load_state
from minispec.corpora import check_splits, open_corpus, source
from minispec.data import Bitext, Vocabulary
from minispec.model import Config, Transformer
from minispec.runtime import from_first_process, pick_device, pick_dtype
from minispec.training import train


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    some = parser.add_mutually_exclusive_group()
    some.add_argument('--languages', nargs='+', metavar='LANGUAGE',
                      help='train on the directions between these languages alone, as in: --languages en de fr')
    some.add_argument('--directions', nargs='+', metavar='DIRECTION',
                      help='train on these directions alone, as in: --directions en-de')
    cli.add_training_flags(parser)
    shape = parser.add_argument_group('model')
    shape.add_argument('--d-model', type=cli.positive_int, default=Config.d_model, help='width of the model')
    shape.add_argument('--d-ff', type=cli.positive_int, default=Config.d_ff, help='neurons in each FFN layer')
    shape.add_argument('--layers', type=cli.positive_int, default=Config.layers,
                       help='number of encoder layers, and of decoder layers')
    shape.add_argument('--heads', type=cli.positive_int, default=Config.heads, help='number of attention heads')
    shape.add_argument('--vocab-size', type=cli.positive_int,
                       help='number of subwords for all languages (default: 3000, or fewer if the text is small)')
    shape.add_argument('--dropout', type=cli.probability, default=Config.dropout, help='dropout probability')
    shape.add_argument('--dtype', choices=['auto', 'float32', 'bfloat16'], default='auto',
                       help='precision of matrix products, here and in specialize.py; auto takes bfloat16 where the '
                            'processor has instructions for it')
    args = parser.parse_args()
    if args.d_model % args.heads or args.d_model % 2:
        parser.error(f'--d-model {args.d_model} is not even, or not a multiple of the --heads {args.heads}')
    return args, parser


def untrained(corpus, args):
    """A vocabulary from the training text, and a model with random weights."""
    device = pick_device(args.device)
    proto = from_first_process(lambda: Vocabulary.train(corpus.texts('train'), args.vocab_size).proto, device)
    vocabulary = Vocabulary(proto)
    config = Config(len(vocabulary), len(corpus.tasks), args.d_model, args.d_ff, args.layers, args.heads, args.dropout)
    torch.manual_seed(args.seed)
    return Checkpoint(Transformer(config), vocabulary, corpus.tasks, data={}, info={'phase': 'base'},
                      dtype=pick_dtype(args.dtype, device))


def main():
    args, parser = arguments()
    path = Path(args.run) / 'base.pt'
    if args.plot:
        figures.new_figure()  # fails now, not after the work, if there is no matplotlib
    if args.resume:
        last = path.with_suffix('.last.pt')
        checkpoint = load_state(last, 'base')
        args = cli.resumed_settings(parser, last, checkpoint.info)
    elif path.exists():
        print(f'note: {path} will be replaced, and models made from it will not belong to the new base; to keep it, '
              'name another --run', file=sys.stderr)
    args.data = source(args.data or 'phrasebook')
    cli.print_settings(args)

    corpus = open_corpus(args.data, args.languages, args.directions)
    check_splits(corpus, corpus.tasks)
    if not args.resume:
        checkpoint = untrained(corpus, args)
    model, vocabulary, tasks = checkpoint.model, checkpoint.vocabulary, checkpoint.tasks
    train_data = Bitext(corpus, 'train', tasks, vocabulary, model.config.max_len, args.run)
    valid_data = Bitext(corpus, 'valid', tasks, vocabulary, model.config.max_len, args.run)
    if args.resume:
        check_text(checkpoint, args.data, train_data, valid_data)
    else:
        checkpoint.data = describe_data(args.data, tasks, train_data, valid_data, corpus.words())
    print('training pairs: ' + ', '.join(f'{task} {n:,}' for task, n in checkpoint.data['pairs'].items()))
    best = train(checkpoint, train_data, valid_data, path, args)
    if args.plot:
        print('drew ' + ', '.join(map(str, figures.draw_curve(path.with_suffix('.csv')))))
    cli.print_result(path, best, cli.next_command('profile.py', [], args, checkpoint.data['source']))


if __name__ == '__main__':
    cli.run(main)
