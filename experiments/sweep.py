"""The paper's questions, and those that it leaves open: each one command, which trains many models and compares them.

    python experiments/sweep.py controls --seeds 3   the method and all its controls, at k = 95, 70 and 50
    python experiments/sweep.py k                    Fig. 4: ΔBLEU vs. dense of own, random and permuted masks, over k
    python experiments/sweep.py depth                Fig. 3: base, dense and own of 1, 2 and 3 layers a side
    python experiments/sweep.py cost --seeds 3       sub-networks against dense baselines that cost as much at inference

The four scripts do the work, two at a time, in folders RUN/seedN, which all sweeps share: run them one after the other.
Each script leaves a log, and once it has ended well is not run again: after an interruption, the same command goes on,
and a training with --resume.
"""
import time
from pathlib import Path

from runs import System, measure, parser, print_results, train_bases  # first: it finds minispec

from minispec import UserError, cli, figures
from minispec.corpora import open_corpus
from minispec.model import Config


def arguments():
    result = parser(__doc__.splitlines()[0])
    result.set_defaults(run='runs/sweeps')
    result.add_argument('sweep', choices=list(SWEEPS))
    return result.parse_args()


def sweep_controls(args):
    train_bases(args, {'base': []})
    base, dense = System('base'), System('dense', masks='dense')
    systems, pairs = [base, dense], [(dense, base)]
    for k in (95, 70, 50):
        own, *controls = [System(f'{masks} {k}', masks=masks, k=k)
                          for masks in ('own', 'random', 'permuted', 'reverse', 'shared')]
        systems += [own, *controls]
        pairs += [(one, dense) for one in (own, *controls)] + [(own, control) for control in controls]
    measure(args, systems)
    print_results(systems, pairs)


def sweep_k(args):
    train_bases(args, {'base': []})
    dense, kinds, ks = System('dense', masks='dense'), ('own', 'random', 'permuted'), (30, 40, 50, 70, 95)
    systems = [System(f'{masks} {k}', masks=masks, k=k) for masks in kinds for k in ks]
    measure(args, [dense, *systems])
    rows = print_results([dense, *systems], [(system, dense) for system in systems])
    lines = {masks: [ks, *([row[name] for row, system in zip(rows, systems) if system.masks == masks]
                           for name in ('mean', 'low', 'high'))] for masks in kinds}
    draw(args, lines, 'k', 'ΔBLEU vs. dense')


def sweep_depth(args):
    depths = (1, 2, 3)
    train_bases(args, {folder(layers, Config.layers, 'layers'): ['--layers', layers] for layers in depths})
    systems, pairs = [], []
    for layers in depths:
        name = folder(layers, Config.layers, 'layers')
        base, dense, own = (System(f'{layers} layers, {masks or "base"}', name, masks)
                            for masks in (None, 'dense', 'own'))
        systems, pairs = [*systems, base, dense, own], [*pairs, (own, dense)]
    measure(args, systems)
    print_results(systems, pairs)
    lines = {name: [depths, [average(system) for system in systems[i::3]]]
             for i, name in enumerate(('base', 'dense', 'own'))}
    draw(args, lines, 'layers', 'BLEU')


def sweep_cost(args):
    """A base of width F, specialized to half, a third and a quarter of it; and wider ones specialized to F."""
    F = Config.d_ff
    narrow, wide = [F // 2, F // 3, F // 4], [2 * F, 4 * F, 8 * F]
    train_bases(args, {folder(width, F, 'd_ff'): ['--d-ff', width] for width in (F, *narrow, *wide)})
    dense = {width: System(f'dense, {width} neurons', folder(width, F, 'd_ff'), 'dense')
             for width in (F, *narrow, *wide)}
    systems, pairs = list(dense.values()), []
    for width, kept in [(F, width) for width in narrow] + [(width, F) for width in wide]:
        own, random = (System(f'{masks}, {kept} of {width}', folder(width, F, 'd_ff'), masks, neurons=kept)
                       for masks in ('own', 'random'))
        systems += [own, random]
        pairs += [(own, dense[kept]), (random, dense[kept]), (own, random), (own, dense[width])]
    measure(args, systems)
    print_results(systems, pairs)
    points = {'dense': dense.values(), **{masks: [system for system in systems if system.masks == masks]
                                          for masks in ('own', 'random')}}
    lines = {name: [[size(system) for system in line], [average(system) for system in line]]
             for name, line in points.items()}
    draw(args, lines, 'parameters of one direction alone', 'BLEU')


def folder(value, usual, name):
    """Where the base lies whose setting `name` has this value: `base` if it is the usual one."""
    return 'base' if value == usual else f'{name}{value}'


def average(system):
    return sum(found.bleu for found in system.found.values()) / len(system.found)


def size(system):
    return sum(found.parameters for found in system.found.values()) / len(system.found)


def draw(args, lines, x, y):
    """The figure of a sweep, a line for each of `lines`; without matplotlib, the table is still worth having."""
    try:
        paths = figures.draw_lines(args.run, args.sweep, lines, x, y)
        print('drew ' + ', '.join(map(str, paths)))
    except UserError as error:
        print(f'no figure: {error}')


SWEEPS = {'controls': sweep_controls, 'k': sweep_k, 'depth': sweep_depth, 'cost': sweep_cost}


def main():
    args = arguments()
    args.data = args.data or 'phrasebook'
    cli.print_settings(args)
    open_corpus(args.data)  # written or downloaded here, and not by two scripts at once
    start = time.monotonic()
    try:
        SWEEPS[args.sweep](args)
    except KeyboardInterrupt:
        raise KeyboardInterrupt('interrupted; the same command goes on')
    print(f'took {(time.monotonic() - start) / 60:.1f} min, all of it in {Path(args.run)}')


if __name__ == '__main__':
    cli.run(main)
