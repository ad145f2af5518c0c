"""The method beside other methods, and what a direction gains or loses by sharing its model with others.

    python experiments/rivals.py --seeds 3     the whole comparison, with three seeds
    python experiments/rivals.py --quick       a tenth of the steps, for a lesson; the scores are poor

All but the bilingual models continue from the same base, for as many steps. Adapters start with a new optimizer and a
new warm-up, because the base's optimizer has no state for their neurons. LaSS first fine-tunes each direction alone,
for 100 steps; its control with random weights does not.

Prints three tables: the scores of all systems, their costs, and what each direction gains by transfer from the others,
or loses by their interference, against a *bilingual* model, which is trained on that direction alone. Draws the last.
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
                        help='number of steps of a bilingual base, and again after it, in the row "bilingual, longer"')
    result.add_argument('--quick', action='store_true', help=f'train for {QUICK} steps, in the folder runs/quick')
    if result.parse_args().quick:  # a flag that is given wins
        result.set_defaults(steps=QUICK, bilingual_steps=QUICK // 4, run='runs/quick')
    args = result.parse_args()
    runs.refuse(args, '--steps', '--languages', '--directions')
    return args


def merge(label, parts, joint=False):
    """Merge Systems that have some directions each into one. `joint`: all parts come from one training of one model.

    If not, each part has subwords of its own. Then losses per subword are not comparable with others', and become NaN.
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
    """A dense model for each direction alone, of the usual size; {direction: steps} of its base, and as many after."""
    flags = {task: ['--steps', n, '--eval-every', min(n, 100)] for task, n in steps.items()}
    parts = [System(task, f'{folder}/{task}', 'dense', flags=flags[task]) for task in steps]
    runs.train_bases(args, {part.base: ['--directions', part.label, *part.flags] for part in parts}, profiled=False)
    runs.measure(args, parts)
    return merge(label, parts)


def equal_steps(steps, pairs, temperature):
    """Each direction's share of the base's steps, {direction: steps}, if they are sampled at this temperature."""
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
    print("extra parameters: of all directions together, minus the base's. files: that of a base also holds its "
          "optimizer. minutes:\nof training, including the base's, without finding LaSS's weights; two trainings ran "
          "at a time. in dense's: as a ratio.")


def print_gains(alone, systems):
    """A row for each direction and each group: BLEU of the bilingual models, and ΔBLEU of the systems against them."""
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
    tasks, start = open_corpus(args.data).tasks, time.monotonic()  # made now, not by two scripts at once
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
        lass = [merge(label, of_task, joint=True) for label, of_task in parts.items()]
        alone = [bilingual(args, 'bilingual', 'bilingual', equal_steps(args.steps, pairs, temperature)),
                 bilingual(args, 'bilingual, longer', 'bilingual-longer', dict.fromkeys(pairs, args.bilingual_steps))]
    except KeyboardInterrupt:
        raise KeyboardInterrupt('interrupted; the same command goes on')
    args.bar.close()
    systems += [*lass, *alone]
    # Beside dense: selected neurons, and selected weights, against random ones.
    runs.print_results(systems, [(system, dense) for system in systems if system is not dense] + [whole[:2], lass])
    print_costs(systems)
    for one in alone:
        print_gains(one, systems[1:4])
    gains = {system.label: [compare(system, alone[1], [task])['mean'] for task in pairs] for system in systems[1:4]}
    runs.draw(figures.draw_gains, args.run, 'rivals', pairs, gains,
              f'ΔBLEU vs. bilingual models of {args.bilingual_steps} + {args.bilingual_steps} steps')
    print(f'took {(time.monotonic() - start) / 60:.1f} min, all of it in {Path(args.run)}')


if __name__ == '__main__':
    cli.run(main)
