"""Phase 3: train on from the base, each direction through its own neurons alone (section 4), or a control of that.

    RUN/base.pt + RUN/activations.pt  ->  RUN/specialized.pt     (--control neurons, the method)
    RUN/base.pt                       ->  RUN/dense.pt           (--control dense: the base, simply trained on)
    RUN/base.pt + RUN/activations.pt  ->  RUN/random.pt          (--control random: as many neurons, drawn by chance)
                                          RUN/swapped.pt         (--control swapped: the reverse direction's)
                                          RUN/shared.pt          (--control shared: the same for all, plain pruning)

All share the base, the batches and their order, the schedule and the number of updates (unless --patience ends one
early); each keeps its best by validation loss. What the method is worth is `neurons` against `dense`; what choosing the
neurons is worth, `neurons` against `random`.
"""
from pathlib import Path

import torch

from minispec import cli
from minispec.checkpoint import load_activations, load_base
from minispec.corpora import open_corpus
from minispec.data import Bitext
from minispec.neurons import select, shared, shuffled, swapped
from minispec.training import train


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    cli.add_training_flags(parser)
    cli.add_selection_flags(parser)
    parser.add_argument('--k-encoder', type=cli.percentage, help='k of the encoder (default: --k); 100: all of it')
    parser.add_argument('--k-decoder', type=cli.percentage, help='k of the decoder (default: --k); 100: all of it')
    parser.add_argument('--control', choices=['neurons', 'dense', 'random', 'swapped', 'shared'], default='neurons',
                        help="which neurons a direction has: its own, all, as many random ones, another's, or "
                             'those that all directions together use most')
    return parser.parse_args(), parser


def choose_masks(base, args):
    """The masks (N, L, F) that --control, --count and the ks ask for."""
    if args.control == 'dense':
        return torch.ones_like(base.model.masks)
    activations = load_activations(Path(args.run) / 'activations.pt', base)
    encoder, decoder = activations[args.count].chunk(2, dim=1)  # (N, L/2, F) each
    masks = torch.cat([select(encoder, args.k_encoder or args.k), select(decoder, args.k_decoder or args.k)], dim=1)
    return {'neurons': lambda: masks, 'random': lambda: shuffled(masks, args.seed), 'swapped': lambda: swapped(masks),
            'shared': lambda: shared(activations[args.count], masks)}[args.control]()


def main():
    args, parser = arguments()
    path = Path(args.run) / ('specialized.pt' if args.control == 'neurons' else f'{args.control}.pt')
    if args.resume:
        checkpoint = cli.resume(args, parser, path, args.control, f'specialize.py --control {args.control}')
    cli.print_settings(args)

    if not args.resume:
        base = load_base(Path(args.run) / 'base.pt')
        base.model.masks.copy_(choose_masks(base, args))
        checkpoint = base._replace(info={'phase': args.control, 'base': base.info}, training=None)
    model, vocabulary, tasks = checkpoint[:3]
    corpus = open_corpus(args.data)
    data = Bitext(corpus, 'train', tasks, vocabulary, model.config.max_len, args.run)
    valid = Bitext(corpus, 'valid', tasks, vocabulary, model.config.max_len, args.run)
    off = 1 - model.masks.double().mean((0, 2))  # (L,)
    print('neurons off, by layer: ' + ' '.join(f'{x:.2f}' for x in off.tolist()))
    best = train(checkpoint, data, valid, path, args)
    print(f'wrote {path} (validation loss {best:.3f}); next: '
          + cli.command('translate.py', '--test', '--data', args.data, '--run', args.run, '--model', path.name))


if __name__ == '__main__':
    cli.run(main)
