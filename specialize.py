"""Phase 3: continue training the base, each direction with its own neurons (section 4), or with those of a control.

    RUN/base.pt + RUN/activations.pt  ->  RUN/specialized.pt     (--masks own, the method; with --k 95,
                                                                  RUN/specialized.k95.pt)
    RUN/base.pt                       ->  RUN/dense.pt           (--masks dense: an ordinary training to its end)
    RUN/base.pt + RUN/activations.pt  ->  RUN/random.pt ...      (--masks random, permuted, family, reverse or shared)
    RUN/base.pt                       ->  RUN/adapters.pt ...    (--masks adapters, family-adapters: rivals)

All but adapters continue the base's training, with its optimizer and the next batches, while the rate falls to 0. So
base and `dense` together are one ordinary training. All have the same number of steps, unless --patience ends one
early; each keeps its best weights by validation loss. `minispec/masks.py` says what each kind of masks tests.
"""
import contextlib
from pathlib import Path

import torch

from minispec import UserError, cli, figures
from minispec.adapters import ADAPTERS, add_adapters, freeze
from minispec.checkpoint import (check_text, checkpoint_name, load_activations, load_base, load_checkpoint, load_state,
                                 maker, warn_of_other_base)
from minispec.corpora import open_corpus, source
from minispec.data import Bitext
from minispec.masks import MASKS, make_masks
from minispec.tasks import split_task
from minispec.training import go_on, train


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    cli.add_flags_to_go_on(parser)
    cli.add_selection_flags(parser)
    parser.add_argument('--k-encoder', type=cli.percentage, help='k of the encoder (default: --k); 100 keeps all of it')
    parser.add_argument('--k-decoder', type=cli.percentage, help='k of the decoder (default: --k); 100 keeps all of it')
    parser.add_argument('--masks', choices=[*MASKS, *ADAPTERS], default='own',
                        help="a direction's neurons. own: its own (the method); dense: all; random: as many at random; "
                             'permuted: its own after one permutation for all directions; family: random ones that '
                             "relatives share; reverse: the reverse direction's; shared: those that all directions "
                             'together use most; adapters, family-adapters: all and new ones, of the direction or its '
                             'family, which alone are trained; unfrozen-adapters: as adapters, all weights trained')
    parser.add_argument('--bottleneck', type=cli.positive_int, default=32,
                        help='number of new neurons in each adapter of a layer')
    return parser


def selection(args):
    """The k of the encoder, the k of the decoder, and the rule of counting."""
    return args.k_encoder or args.k, args.k_decoder or args.k, args.count


def specialized(base, args):
    """The base with the masks that the flags ask for, not yet trained with them."""
    args.restart |= args.masks in ADAPTERS  # the base's optimizer has no state for new neurons
    result = go_on(base, args.masks, args.restart)
    if args.masks in ADAPTERS:
        torch.manual_seed(args.seed)
        result.model = add_adapters(base.model, args.masks, base.tasks, args.bottleneck)
    elif args.masks != 'dense':
        activations = load_activations(Path(args.run) / 'activations.pt', base)
        k_encoder, k_decoder, count = selection(args)
        base.model.masks.copy_(make_masks(args.masks, base.tasks, activations[count], k_encoder, k_decoder, args.seed))
    return result


def following(path, checkpoint, corpus, args, parser):
    """The script to run next, and its flags: train `dense` in the same way, if this base has none, then compare."""
    tasks, base_of_dense = checkpoint.tasks, None
    with contextlib.suppress(UserError):  # there is none, or an outdated one
        base_of_dense = load_checkpoint(path.with_name('dense.pt')).base
    if base_of_dense != checkpoint.base:
        of_base = checkpoint.info['base']['settings']
        usual = {name: of_base[name] if name in cli.INHERITED else parser.get_default(name) for name in cli.TRAINING}
        given = [name for name in cli.TRAINING if getattr(args, name) != usual[name]]
        return 'specialize.py', ['--masks', 'dense', *['--restart'] * args.restart, *(
            word for name in given for word in ('--' + name.replace('_', '-'), getattr(args, name)))]
    if args.masks == 'dense':  # `dense` is there for comparison
        found = [other for other in path.parent.glob('specialized*.pt')
                 if not other.stem.endswith('.last') and '--extract' not in maker(other)]
        path = max(found, key=lambda other: other.stat().st_mtime, default=path)  # the latest
    if all(corpus.find('test', task) for task in tasks):
        return 'translate.py', ['--model', path.name]
    src, tgt = split_task(tasks[0])
    return 'translate.py', ['--model', path.name, '--src', src, '--tgt', tgt]


def main():
    parser = arguments()
    args = parser.parse_args()
    path = Path(args.run) / checkpoint_name(args.masks, *selection(args))
    if args.plot:
        figures.new_figure()  # fails now, not after the work, if there is no matplotlib
    if args.resume:
        last = path.with_suffix('.last.pt')
        checkpoint = load_state(last, args.masks)
        args = cli.resumed_settings(parser, last, checkpoint.info)
        warn_of_other_base(last, checkpoint)
    else:
        base = load_base(Path(args.run) / 'base.pt')
        cli.inherit(args, base.info)
        checkpoint = specialized(base, args)
    args.data = source(args.data or checkpoint.data['source'])
    cli.print_settings(args)

    corpus = open_corpus(args.data)
    model, vocabulary, tasks = checkpoint.model, checkpoint.vocabulary, checkpoint.tasks
    train_data = Bitext(corpus, 'train', tasks, vocabulary, model.config.max_len, args.run)
    valid_data = Bitext(corpus, 'valid', tasks, vocabulary, model.config.max_len, args.run)
    check_text(checkpoint, args.data, train_data, valid_data)
    if args.masks not in ADAPTERS:  # whose masks hide the adapters of other directions
        sparsity = figures.sparsity(model.masks).mean(0)  # (N, L) -> (L,)
        print('sparsity by layer: ' + ' '.join(f'{x:.2f}' for x in sparsity.tolist()))
    elif args.masks != 'unfrozen-adapters':
        freeze(model, checkpoint.info['base']['settings']['d_ff'])
    best = train(checkpoint, train_data, valid_data, path, args)
    if args.plot:
        print('drew ' + ', '.join(map(str, figures.draw_curve(path.with_suffix('.csv')))))
    script, flags = following(path, checkpoint, corpus, args, parser)
    cli.print_result(path, best, cli.next_command(script, flags, args, checkpoint.data['source']))


if __name__ == '__main__':
    cli.run(main)
