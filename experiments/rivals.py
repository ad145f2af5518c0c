"""The method beside its rivals, and what a direction gains or loses by sharing its model with others.

    python experiments/rivals.py --seeds 3     all from the same base, for as many steps
    python experiments/rivals.py --quick       a tenth of the steps, for a lesson; the scores are poor

Adapters start with a new optimizer and a new warm-up, because the base's know nothing of their neurons. LaSS takes
100 steps more for each direction; a control of it, which keeps random weights, does not.

Prints a table of all systems, what each costs, and what each direction gains by transfer from the others, or loses by
their interference, against a *bilingual* model, which has seen that direction alone. Draws the latter.
"""
import math
import time
from dataclasses import fields
from pathlib import Path

import runs  # first: it finds minispec
import torch
from runs import Found, System, compare, mean
from tqdm import tqdm

from minispec import cli, figures, scoring
from minispec.adapters import ADAPTERS
from minispec.corpora import open_corpus

QUICK = 200  # steps


def arguments():
    result = runs.parser(__doc__.splitlines()[0])
    result.set_defaults(run='runs/sweeps')
    result.add_argument('--bilingual-steps', type=cli.positive_int, default=500,
                        help='steps of a bilingual base, and of what goes on from it, in the second bilingual row')
    result.add_argument('--quick', action='store_true', help=f'{QUICK} steps, in runs/quick')
    if result.parse_args().quick:  # what is given wins
        result.set_defaults(steps=QUICK, bilingual_steps=QUICK // 4, run='runs/quick')
    args = result.parse_args()
    runs.refuse(args, '--steps', '--languages', '--directions')
    return args


def merge(label, parts, joint=False):
    """One System of several that have some directions each. `joint`: all parts are of one training and one model.

    If not, each has subwords of its own, and their losses, by subword, cannot be compared with those of other models.
    """
    result = System(label)
    for seed in parts[0].found:
        found, values = [part.found[seed] for part in parts], {}
        for field in fields(Found):
            each = [getattr(one, field.name) for one in found]
            if field.name == 'samples':
                values['samples'] = torch.cat(each)
            elif isinstance(each[0], dict):
                values[field.name] = {task: value for one in each for task, value in one.items()}
                if field.name == 'losses' and not joint:
                    values['losses'] = dict.fromkeys(values['losses'], math.nan)
            elif field.name == 'sparsity':
                values['sparsity'] = sum(each) / len(each)
            else:
                values[field.name] = each[0] if joint and field.name != 'size' else sum(each)
        result.found[seed] = Found(**values)
    return result


def bilingual(args, label, folder, steps):
    """A model for each direction alone, of the usual size, with {direction: steps} of the base and as many after it."""
    flags = {task: ['--steps', n, '--eval-every', min(n, 100)] for task, n in steps.items()}
    parts = [System(task, f'{folder}/{task}', 'dense', flags=flags[task]) for task in steps]
    runs.train_bases(args, {part.base: ['--directions', part.label, *part.flags] for part in parts}, profiled=False)
    runs.measure(args, parts)
    return merge(label, parts)


def equal_steps(steps, pairs, temperature):
    """How many of the base's steps are about each direction, {direction: steps}, by sampling at this temperature."""
    weights = {task: n ** (1 / temperature) for task, n in pairs.items()}
    return {task: max(1, round(steps * weight / sum(weights.values()))) for task, weight in weights.items()}


def print_costs(systems):
    base, dense = systems[:2]
    table = [['', 'extra parameters', 'files, MB', 'minutes', "in dense's"]]
    for system in systems:
        table.append([system.label, f'{system.mean("stored") - base.mean("stored"):+,.0f}',
                      f'{system.mean("size") / 1e6:.1f}', f'{system.mean("seconds") / 60:.1f}',
                      f'{system.mean("seconds") / dense.mean("seconds"):.2f}'])
    print()
    scoring.print_table(table)
    print("extra parameters: of all directions together, less the base's. files: a base's holds its optimizer, too. "
          "minutes:\nof training, the base's included, but not those in which LaSS's weights were found; two trainings "
          'ran at a time.')


def print_gains(alone, systems):
    """A row for each direction and each resource level: BLEU of the bilingual models, and ΔBLEU vs. them of others."""
    pairs = next(iter(alone.found.values())).pairs
    table = [['', 'training pairs', alone.label, *(system.label for system in systems)]]
    rows = {task: [task] for task in sorted(pairs, key=pairs.get, reverse=True)} | scoring.groups(pairs)
    for name, tasks in rows.items():
        bleus = [mean(found.bleus, tasks) for found in alone.found.values()]
        table.append([name, f'{pairs[name]:,}' if name in pairs else '', f'{sum(bleus) / len(bleus):.2f}'])
        for system in systems:
            row = compare(system, alone, tasks)
            interval = '' if name in pairs else f' ({row["low"]:+.2f} {row["high"]:+.2f})'
            table[-1].append(f'{row["mean"]:+.2f}{interval}')
    print()
    scoring.print_table(table)
    print('above 0: gained by transfer; below 0: lost by interference')


def main():
    args = arguments()
    args.data = args.data or 'phrasebook'
    cli.print_settings(args)
    tasks, start = open_corpus(args.data).tasks, time.monotonic()  # written or downloaded here, and not by two scripts
    base, dense = System('base'), System('dense', masks='dense')
    whole = [System(f'{masks} 70', masks=masks, k=70) for masks in ('own', 'random')]
    whole += [System(masks, masks=masks) for masks in ADAPTERS]
    lass = [System('LaSS', masks='lass'), System('LaSS, random weights', masks='random-lass')]
    steps = args.steps * (len(whole) + len(lass) + 4) + 2 * len(tasks) * args.bilingual_steps
    args.bar = tqdm(total=args.seeds * steps, unit='step', disable=None)
    try:
        temperature = runs.usual_base(args).info['settings']['temperature']
        systems = [base, dense, *whole]
        runs.train_systems(args, lass)
        parts = {each.label: [System(task, masks=each.masks, task=task) for task in tasks] for each in lass}
        runs.measure(args, sum(parts.values(), systems))
        pairs = base.found[args.seed].pairs
        systems += [merge(label, of_task, joint=True) for label, of_task in parts.items()]
        alone = [bilingual(args, 'bilingual', 'bilingual', equal_steps(args.steps, pairs, temperature)),
                 bilingual(args, 'bilingual, longer', 'bilingual-longer', dict.fromkeys(pairs, args.bilingual_steps))]
    except KeyboardInterrupt:
        raise KeyboardInterrupt('interrupted; the same command goes on')
    args.bar.close()
    systems += alone
    runs.print_results(systems, [(system, dense) for system in systems if system is not dense])
    print_costs(systems)
    for one in alone:
        print_gains(one, systems[1:4])
    gains = {system.label: [compare(system, alone[1], [task])['mean'] for task in pairs] for system in systems[1:4]}
    runs.draw(figures.draw_gains, args.run, 'rivals', pairs, gains,
              f'ΔBLEU vs. bilingual models of {args.bilingual_steps} + {args.bilingual_steps} steps')
    print(f'took {(time.monotonic() - start) / 60:.1f} min, all of it in {Path(args.run)}')


if __name__ == '__main__':
    cli.run(main)
