"""The paper's two sweeps and two of ours, each one command of up to half an hour on one core.

    python experiments/sweep.py controls   the method and all its controls, at k = 95 and k = 50
    python experiments/sweep.py k          Fig. 4: ΔBLEU vs. dense of own and of random neurons, over k
    python experiments/sweep.py depth      Fig. 3: base, dense and specialized models of 1, 2 and 3 layers a side
    python experiments/sweep.py cost       sub-networks against dense baselines that cost as much at inference

The four scripts do the work, two at a time, in subfolders of RUN/sweep-seedN, which all sweeps of a seed share: run
them one after the other. Each script leaves a log, and once it has ended well is not run again: after an interruption,
the same command goes on, and a training with --resume.
"""
import shlex
import time
from pathlib import Path

from runs import DELTA_HEADER, System, measure, time_sub_networks, train_bases  # first: it finds minispec

from minispec import UserError, cli, figures
from minispec.checkpoint import load_activations, load_checkpoint
from minispec.corpora import open_corpus
from minispec.neurons import select

LEGEND = ('loss: validation loss in nats per target token; BLEU: mean over all directions; wins, ties, losses: '
          'directions,\nby Holm\'s p < 0.05')


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument('sweep', choices=list(SWEEPS))
    parser.add_argument('--train', type=shlex.split, default='',
                        help="flags for train.py, as '--d-ff 512 --steps 9000'")
    parser.add_argument('--specialize', type=shlex.split, default='--steps 1000',
                        help='flags for specialize.py, without those that select neurons')
    return parser.parse_args()


def sweep_controls(args):
    train_bases(args, {'base': []})
    base = args.run / 'base'
    dense = System('dense', base, 'dense')
    systems = [System('base', base, compared_with=dense), dense]
    for k in (95, 50):
        for masks in ('own', 'random', 'reverse', 'shared'):
            systems.append(System(f'{masks} {k}', base, masks, k, compared_with=dense))
    measure(args, systems)
    groups = '  '.join(f'{name:>5}' for name in dense.scores)
    print(f'\n{"":20}BLEU:{"":{len(groups) - 2}}vs. dense:\n{"":13}loss  {groups}{DELTA_HEADER}')
    for system in systems:
        columns = [f'{row["BLEU"]:{max(5, len(name))}.2f}' for name, row in system.scores.items()]
        print(f'{system.label:12}{system.loss():.3f}  {"  ".join(columns)}{system.delta()}')


def sweep_k(args):
    train_bases(args, {'base': []})
    base = args.run / 'base'
    dense = System('dense', base, 'dense')
    systems = []
    for k in (30, 40, 50, 70, 95):
        for masks in ('own', 'random'):
            systems.append(System(f'{k}  {masks}', base, masks, k, compared_with=dense, line=masks, x=k))
    measure(args, [dense, *systems])
    time_sub_networks(args, [dense, *systems])
    print(f'\ndense: BLEU {dense.bleu():.2f}, loss {dense.loss():.3f}, {dense.parameters:,.0f} parameters\n\n'
          f'{"":13}sparsity        sub-network{"":18}vs. dense:\n'
          f' k  masks   min mean  max   parameters   speed   loss{DELTA_HEADER}')
    for system in systems:
        off = figures.sparsity(load_checkpoint(system.path).model.masks)  # (N, L)
        print(f'{system.label:10} {off.min():.2f} {off.mean():.2f} {off.max():.2f}   {system.parameters:10,.0f}  '
              f'{dense.seconds / system.seconds:5.2f}x  {system.loss():.3f}{system.delta()}')
    draw(args, systems, 'k', 'ΔBLEU vs. dense')


def sweep_depth(args):
    train_bases(args, {'base': []})
    default = load_checkpoint(args.run / 'base' / 'base.pt').model.config.layers
    depths = sorted({1, 2, 3, default})
    folders = {layers: 'base' if layers == default else f'layers{layers}' for layers in depths}
    train_bases(args, {folders[layers]: ['--layers', layers] for layers in depths if layers != default})
    systems = []
    for layers in depths:
        base = args.run / folders[layers]
        dense = System(f'{layers:6}  dense', base, 'dense', line='dense', x=layers)
        own = System(f'{layers:6}  own, k = 70', base, 'own', 70, compared_with=dense, line='own, k = 70', x=layers)
        systems += [System(f'{layers:6}  base', base, line='base', x=layers), dense, own]
    measure(args, systems)
    print(f'\n{"":36}vs. dense of that depth:\nlayers  masks          loss   BLEU{DELTA_HEADER}')
    for system in systems:
        print(f'{system.label:21}{system.loss():.3f}  {system.bleu():5.2f}{system.delta()}')
    draw(args, systems, 'layers', 'BLEU')


def mean_width(counts, k):
    """How many neurons Eq. 1 keeps in a layer, on average; counts (N, L, F)."""
    return select(counts, k).sum(-1).double().mean().item()


def token_counts(folder):
    """The activity (N, L, F) that was recorded in this folder's base."""
    return load_activations(folder / 'activations.pt', load_checkpoint(folder / 'base.pt'))['token']


def sweep_cost(args):
    base, wide = args.run / 'base', args.run / 'wide'
    train_bases(args, {'base': []})
    width = load_checkpoint(base / 'base.pt').model.config.d_ff
    narrow = {k: round(mean_width(token_counts(base), k)) for k in (50, 70)}  # {k: width of equal cost}
    train_bases(args, {'wide': ['--d-ff', 2 * width], **{f'd_ff{n}': ['--d-ff', n] for n in narrow.values()}})
    wide_counts = token_counts(wide)
    wide_k = min(range(1, 101), key=lambda k: abs(mean_width(wide_counts, k) - width))
    systems = []
    for F, folder, origin, k, kind in ((narrow[50], args.run / f'd_ff{narrow[50]}', base, 50, ''),
                                       (narrow[70], args.run / f'd_ff{narrow[70]}', base, 70, ''),
                                       (width, base, wide, wide_k, ' of a base twice as wide')):
        baseline = System(f'dense baseline of width {F}', folder, 'dense', line='dense baseline')
        systems.append(baseline)
        for masks in ('own', 'random'):
            line = f'{masks}{kind}'
            systems.append(System(f'{line}, k = {k}', origin, masks, k, compared_with=baseline, line=line))
    measure(args, systems)
    time_sub_networks(args, systems)
    print(f'\n{"":42}sub-network{"":24}vs. the dense baseline:\n'
          f'{"":41}  parameters  seconds   loss   BLEU{DELTA_HEADER}')
    for system in systems:
        system.x = system.parameters
        print(f'{system.label:41}  {system.parameters:10,.0f}  {system.seconds:7.2f}  {system.loss():.3f}  '
              f'{system.bleu():5.2f}{system.delta()}')
    print('parameters: of one direction alone; seconds: for 100 lines. A dense baseline is a base of that width that\n'
          'gets the same amount of continued training.')
    draw(args, systems, 'parameters of one direction alone', 'BLEU')


def draw(args, systems, x, y):
    """The figure of a sweep, a line for each `System.line`: BLEU, or ΔBLEU with its 95% interval."""
    lines = {}
    for line in dict.fromkeys(system.line for system in systems):
        points = [system for system in systems if system.line == line]
        rows = [system.scores['all'] if y == 'BLEU' else system.versus for system in points]
        columns = ['BLEU'] if y == 'BLEU' else ['difference', 'low', 'high']
        lines[line] = [system.x for system in points], *([row[name] for row in rows] for name in columns)
    try:
        paths = figures.draw_lines(args.run, args.sweep, lines, x, y)
        print('drew ' + ', '.join(map(str, paths)))
    except UserError as error:  # without matplotlib, the table is still worth having
        print(f'no figure: {error}')


SWEEPS = {'controls': sweep_controls, 'k': sweep_k, 'depth': sweep_depth, 'cost': sweep_cost}


def main():
    args = arguments()
    cli.print_settings(args)
    open_corpus(args.data)  # written or downloaded here, and not by two scripts at once
    args.run = Path(args.run) / f'sweep-seed{args.seed}'
    start = time.monotonic()
    try:
        SWEEPS[args.sweep](args)
    except KeyboardInterrupt:
        raise KeyboardInterrupt('interrupted; the same command goes on')
    print(f'{LEGEND}\ntook {(time.monotonic() - start) / 60:.1f} min, all of it in {args.run}')


if __name__ == '__main__':
    cli.run(main)
