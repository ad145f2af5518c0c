"""The paper's questions, and some that it leaves open: each is a command that trains many models and compares them.

    python experiments/sweep.py controls --seeds 3   the method and its controls, at k = 95, 70 and 50
    python experiments/sweep.py k                    Fig. 4: ΔBLEU vs. dense of own, random and permuted masks, over k
    python experiments/sweep.py depth                Fig. 3: base, dense and own with 1 to 3 encoder and decoder layers
    python experiments/sweep.py cost --seeds 3       sub-networks against dense baselines that cost as much at inference
    python experiments/sweep.py wide --seeds 3       bases of 2, 4 and 8 times the width, specialized to the usual width
    python experiments/sweep.py factors              what ΔBLEU vs. dense depends on

The four scripts do the work, two at a time, in folders RUN/seedN. All sweeps share these: run only one sweep at a time.
A script whose log says that it has ended well is not run again: after an interruption, the same command continues, and
an interrupted training is resumed.
"""
import time
from dataclasses import replace
from pathlib import Path

import runs  # first: it finds minispec
from runs import (System, home, mean_width, measure, parameters, parser, print_results, refuse, token_counts,
                  train_bases, usual_base)

from minispec import cli, figures, scoring
from minispec.corpora import open_corpus
from minispec.model import Transformer
from minispec.tasks import HUB, from_hub, split_task


def arguments():
    result = parser(__doc__.splitlines()[0])
    result.set_defaults(run='runs/sweeps')
    result.add_argument('sweep', choices=list(SWEEPS))
    result.add_argument('--k', type=cli.percentage, nargs='+', default=None,
                        help='for controls, k and cost: the values of k (default: 95 70 50; 30 40 50 70 95; 70 50)')
    result.add_argument('--times', type=cli.positive_int, nargs='+', default=[2, 4, 8],
                        help='for wide: the widths of bases, as multiples of the usual width')
    return result.parse_args()


def sweep_controls(args):
    train_bases(args, {'base': []})
    base, dense = System('base'), System('dense', masks='dense')
    systems, pairs = [base, dense], [(dense, base)]
    for k in args.k or (95, 70, 50):
        own, *controls = [System(f'{masks} {k:g}', masks=masks, k=k)
                          for masks in ('own', 'random', 'permuted', 'reverse', 'shared')]
        systems += [own, *controls]
        pairs += [(one, dense) for one in (own, *controls)] + [(own, control) for control in controls]
    measure(args, systems)
    print_results(systems, pairs)


def sweep_k(args):
    train_bases(args, {'base': []})
    dense, kinds, ks = System('dense', masks='dense'), ('own', 'random', 'permuted'), args.k or (30, 40, 50, 70, 95)
    systems = [System(f'{masks} {k:g}', masks=masks, k=k) for masks in kinds for k in ks]
    measure(args, [dense, *systems])
    pairs = [(system, dense) for system in systems]  # these first: the figure shows no others
    pairs += [(own, control) for own in systems[:len(ks)] for control in systems[len(ks):] if control.k == own.k]
    rows = print_results([dense, *systems], pairs)
    lines = {masks: [ks, *([row[name] for row, system in zip(rows, systems) if system.masks == masks]
                           for name in ('mean', 'low', 'high'))] for masks in kinds}
    draw(args, lines, 'k', 'ΔBLEU vs. dense', scoring.MARGIN)


def sweep_depth(args):
    usual = usual_base(args).model.config.layers
    depths = sorted({1, 2, 3, usual})
    train_bases(args, {f'layers{layers}': ['--layers', layers] for layers in depths if layers != usual})
    systems, pairs = [], []
    for layers in depths:
        name = 'base' if layers == usual else f'layers{layers}'
        base, dense, own = (System(f'{layers} layers, {masks or "base"}', name, masks, k)
                            for masks, k in ((None, None), ('dense', None), ('own', 70)))
        systems, pairs = [*systems, base, dense, own], [*pairs, (own, dense)]
    measure(args, systems)
    print_results(systems, pairs)
    lines = {name: [depths, [system.mean('bleu') for system in systems[i::3]]]
             for i, name in enumerate(('base', 'dense', 'own'))}
    draw(args, lines, 'layers', 'BLEU')


def sweep_cost(args):
    """Dense baselines as wide as a layer of sub-networks on average, trained for as many steps, or at the same cost."""
    refuse(args, '--steps')
    usual = usual_base(args).model.config
    dense = System('dense', masks='dense')
    systems, pairs = [dense], []
    for k in args.k or (70, 50):
        def narrow(home, k=k):
            return ['--d-ff', round(mean_width(token_counts(home / 'base'), k))]

        width = narrow(home(args, args.seed))[1]
        more = ['--steps', round(args.steps * size(usual) / size(usual, width))]
        train_bases(args, {f'narrow{k:g}': narrow, f'longer{k:g}': lambda home: [*narrow(home), *more]})
        baseline = System(f'dense, as narrow as k = {k:g}', f'narrow{k:g}', 'dense')
        longer = System(f'the same, trained at the cost of k = {k:g}', f'longer{k:g}', 'dense', flags=more)
        own, random = (System(f'{masks} {k:g}', masks=masks, k=k) for masks in ('own', 'random'))
        systems += [baseline, longer, own, random]
        pairs += [(one, other) for one in (own, random) for other in (baseline, longer, dense)] + [(own, random)]
    measure(args, systems)
    print_results(systems, pairs)
    draw_sizes(args, systems)


def sweep_wide(args):
    """Wide bases, specialized to the width F of the usual one; and the usual one, trained at the cost of the widest."""
    refuse(args, '--steps')
    usual = usual_base(args).model
    F, widths = usual.config.d_ff, [times * usual.config.d_ff for times in args.times]
    widest = max(widths)
    steps = ['--steps', round(args.steps * size(usual.config, widest) / size(usual.config))]
    train_bases(args, {**{f'wide{width}': ['--d-ff', width] for width in widths}, f'longer{widest}': steps})
    dense = System('dense', masks='dense')
    longer = System(f'dense, trained at the cost of {widest} neurons', f'longer{widest}', 'dense', flags=steps)
    systems, pairs = [dense, longer], []
    for width in widths:
        whole = System(f'dense, {width} neurons', f'wide{width}', 'dense')
        own, random, permuted = (System(f'{masks}, {F} of {width}', f'wide{width}', masks, neurons=F)
                                 for masks in ('own', 'random', 'permuted'))
        systems += [whole, own, random, permuted]
        pairs += [(one, other) for one in (own, random) for other in (dense, whole)]
        pairs += [(own, random), (own, permuted)] + [(own, longer)] * (width == widest)
    measure(args, systems)
    print_results(systems, pairs)
    draw_sizes(args, systems)


def sweep_factors(args):
    """What ΔBLEU vs. dense depends on, one factor at a time; the sweeps `k` and `wide` vary two more.

    Which masks: own, random, permuted, random by family, or random neurons for every batch. Where: encoder or decoder
    alone. For how long: the base has half or one and a half times --steps, the rest of twice --steps has masks. For
    how many directions: all, or those between English and the two languages with most text.
    """
    refuse(args, '--steps')
    pairs = usual_base(args).data['pairs']
    largest = sorted(from_hub(pairs), key=lambda task: -pairs[task])[:2]
    half, more = ['--steps', args.steps // 2], ['--steps', args.steps + args.steps // 2]
    train_bases(args, {'early': half, 'late': more,
                       'few': ['--languages', HUB, *(split_task(task)[1] for task in largest)]})
    dense = System('dense', masks='dense')
    own, *others = [System(f'{masks} 70', masks=masks, k=70)
                    for masks in ('own', 'random', 'permuted', 'family', 'dropout')]
    sides = [System('own 70, encoder alone', masks='own', k=(70, 100)),
             System('own 70, decoder alone', masks='own', k=(100, 70))]
    systems, pairs = [dense, own, *others, *sides], [(one, dense) for one in (own, *others, *sides)]
    pairs += [(own, other) for other in others]
    for folder, label, flags in (('early', 'masks for longer', more), ('late', 'masks for less', half),
                                 ('few', 'four directions', [])):
        one, other = (System(f'{masks} 70, {label}' if masks == 'own' else f'dense, {label}', folder, masks, k=k,
                             flags=flags) for masks, k in (('own', 70), ('dense', None)))
        systems, pairs = [*systems, other, one], [*pairs, (one, other)]
    measure(args, systems)
    print_results(systems, pairs)


def size(config, width=None):
    """The number of parameters of a Transformer, with `width` instead of d_ff if it is given."""
    return parameters(Transformer(replace(config, d_ff=width or config.d_ff)))


def draw_sizes(args, systems):
    """BLEU against the parameters of one direction's sub-network, a line for each kind of masks."""
    kinds = {}
    for system in systems:
        kinds.setdefault(system.masks + ', at equal training cost' * bool(system.flags), []).append(system)
    draw(args, {kind: [[system.mean(name) for system in points] for name in ('width', 'bleu')]
                for kind, points in kinds.items()}, 'parameters of one direction alone', 'BLEU')


def draw(args, lines, x, y, margin=None):
    """The figure of a sweep, a line for each of `lines`."""
    runs.draw(figures.draw_lines, args.run, args.sweep, lines, x, y, margin)


SWEEPS = {'controls': sweep_controls, 'k': sweep_k, 'depth': sweep_depth, 'cost': sweep_cost, 'wide': sweep_wide,
          'factors': sweep_factors}


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
