"""The paper's two sweeps and two of ours, each one command of up to half an hour on one core.

    python -m minispec.sweep controls   the method and all its controls, at k = 95 and k = 50
    python -m minispec.sweep k          Fig. 4: what its own neurons, or random ones, gain over `dense`, against k
    python -m minispec.sweep depth      Fig. 3: base, dense and specialized models of 1, 2 and 3 layers a side
    python -m minispec.sweep cost       at equal cost of inference: specialized models against ordinary ones

The four scripts do the work, two at a time, in subfolders of RUN/sweep-seedN, which all sweeps of a seed share: run
them one after the other. Each script leaves a log, and once it has ended well is not run again: after an interruption,
the same command goes on, and a training with --resume.
"""
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

from minispec import UserError, cli, figures
from minispec.checkpoint import load_activations, load_checkpoint, make_folder, write
from minispec.corpora import open_corpus
from minispec.data import read_lines
from minispec.decoding import translate
from minispec.neurons import select

SCRIPTS = Path(__file__).resolve().parent.parent


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument('sweep', choices=['controls', 'k', 'depth', 'cost'])
    parser.add_argument('--train', type=shlex.split, default='',
                        help="flags for train.py, as '--d-ff 512 --steps 9000'")
    parser.add_argument('--specialize', type=shlex.split, default='--steps 1000',
                        help='flags for specialize.py, but those that select neurons')
    return parser.parse_args()


def run(args, script, folder, name, *flags):
    """Run a script on `folder`, unless its log NAME.log says that it has ended well.

    The log is the command and, at the end, what the script printed. UserError if it is that of another command.
    """
    log = folder / f'{name}.log'
    flags = [*{'train': args.train, 'specialize': args.specialize}.get(script, []), '--run', folder,
             '--data', args.data, '--device', args.device, '--seed', args.seed, *flags]  # of equal ones the last counts
    command = cli.command(f'{script}.py', *flags)
    begun, _, printed = log.read_text(encoding='utf-8').partition('\n') if log.exists() else (command, '', '')
    if begun != command:
        raise UserError(f'{log} was made by another command than {command}; take another --run, or delete {args.run}')
    if printed:
        return
    make_folder(folder)
    write(log, f'{command}\n')
    resume = ['--resume'] if (folder / f'{name}.last.pt').exists() else []
    done, = together(partial(  # in a thread of its own: in the main one, Ctrl-C would kill the script before it saves
        subprocess.run, [sys.executable, str(SCRIPTS / f'{script}.py'), *map(str, flags), *resume], encoding='utf-8',
        capture_output=True, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUTF8': '1'}))
    if done.returncode:
        raise UserError(f'{script}.py in {folder}: {(done.stderr.splitlines() or ["it was killed"])[-1]}')
    write(log, f'{command}\n{done.stdout}')
    print(f'{time.strftime("%H:%M")} {log.relative_to(args.run)}')


def train_base(args, name, *flags):
    """A base, and what profile.py records in it; returns its folder."""
    folder = args.run / name
    run(args, 'train', folder, 'base', *flags)
    run(args, 'profile', folder, 'profile')
    return folder


def specialize(args, base, control, k=None):
    """Train on from the base in folder `base`, `dense` there and all else in BASE-CONTROLK; returns the path."""
    stem = 'specialized' if control == 'neurons' else control
    folder, flags = base, ['--control', control]
    if control != 'dense':
        folder = base.with_name(f'{base.name}-{control}{k}')
        flags += ['--k', k]
        make_folder(folder)
        if not (folder / f'{stem}.last.pt').exists():  # from there on, it goes on without them
            for file in base / 'base.pt', base / 'activations.pt', *base.glob('*.text.pt'):
                shutil.copy(file, folder)
    run(args, 'specialize', folder, stem, *flags)
    return folder / f'{stem}.pt'


def score(args, path, other=None):
    """Mean scores on the test split, greedy, {name: row}; with `other`, a checkpoint, `all` has verdicts as well."""
    folder = path.parent / f'over-{other.parent.name}' if other else path.parent
    run(args, 'translate', folder, f'test.{path.stem}', '--test', '--beam', 1, '--model', path,
        *(['--compare', other] if other else []))
    found = json.loads((folder / f'test.{path.stem}' / 'scores.json').read_text(encoding='utf-8'))
    return found['means'] | {'all': found['means']['all'] | found.get('verdicts', {})}


def together(*jobs):
    """Call these functions, two at a time; returns what they return."""
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda job: job(), jobs))


def loss(path):
    """The mean validation loss of a checkpoint over its directions."""
    valid = load_checkpoint(path).info['valid']
    return sum(valid) / len(valid)


def slim_costs(args, paths):
    """For each checkpoint, the parameters of its slim models, on average, and the seconds of the first for 100 lines.

    They are timed in turns, the least of ten each: the speed of a machine changes from one second to the next.
    """
    sizes, first = [], []
    for path in paths:
        model, vocabulary, tasks, *_ = load_checkpoint(path)
        slim = [model.slim(task) for task in range(len(tasks))]
        sizes.append(sum(p.numel() for model in slim for p in model.parameters()) / len(slim))
        lines = islice(read_lines(open_corpus(args.data).files('test', tasks[0])[0]), 100)
        first.append((slim[0], vocabulary, list(lines), tasks[0], 0, 1, 1.0))
    seconds = [math.inf] * len(paths)
    for _ in range(10):
        for i, arguments in enumerate(first):
            start = time.perf_counter()
            translate(*arguments)
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    return list(zip(sizes, seconds))


def against(row):
    """A row of `score` as text: the difference to the other system, its 95% interval, wins, ties and losses."""
    return '{difference:+6.2f}  {low:+6.2f} {high:+6.2f}  {wins:>3} {ties:>4} {losses:>4}'.format(**row)


AGAINST = '  BLEU   95% interval  won tied lost'  # over `against`


def sweep_controls(args):
    base = train_base(args, 'base')
    points = [(k, control) for k in (95, 50) for control in ('neurons', 'random', 'swapped', 'shared')]
    dense, *paths = together(partial(specialize, args, base, 'dense'),
                             *(partial(specialize, args, base, control, k) for k, control in points))
    systems = [('base', base / 'base.pt', dense), ('dense', dense, None),
               *((f'{control} {k}', path, dense) for (k, control), path in zip(points, paths))]
    rows = together(*(partial(score, args, path, other) for _, path, other in systems))
    names = '  '.join(f'{mean:>5}' for mean in rows[0])
    print(f'\n{"":19}over dense:{"":33}BLEU:\n{"":13}loss  {AGAINST}        {names}')
    for (name, path, other), means in zip(systems, rows):
        difference = against(means['all']) if other else ''
        each = '  '.join(f'{row["BLEU"]:{max(5, len(mean))}.2f}' for mean, row in means.items())
        print(f'{name:10}  {loss(path):.3f}  {difference:{len(AGAINST)}}        {each}')


def sweep_k(args):
    ks, controls = [30, 40, 50, 70, 95], ['neurons', 'random']
    base = train_base(args, 'base')
    points = [(k, control) for k in ks for control in controls]
    dense, *paths = together(partial(specialize, args, base, 'dense'),
                             *(partial(specialize, args, base, control, k) for k, control in points))
    rows = [row['all'] for row in together(*(partial(score, args, path, dense) for path in paths))]
    (parameters, seconds), *costs = slim_costs(args, [dense, *paths])
    print(f'\ndense: BLEU {rows[0]["other"]:.2f}, loss {loss(dense):.3f}, {parameters:,.0f} parameters; '
          'the others over it:\n\n'
          '             neurons off       slim model\n'
          f' k           least mean most   parameters  speed   loss {AGAINST}')
    for (k, control), path, row, (size, time_taken) in zip(points, paths, rows, costs):
        off = figures.sparsity(load_checkpoint(path).model.masks)  # (N, L)
        print(f'{k:2}  {control:7}   {off.min():.2f} {off.mean():.2f} {off.max():.2f}   {size:10,.0f}  '
              f'{seconds / time_taken:4.2f}x  {loss(path):.3f} {against(row)}')
    return {control: (ks, *([row[column] for row in rows[i::2]] for column in ('difference', 'low', 'high')))
            for i, control in enumerate(controls)}, 'k', 'BLEU over dense'


def sweep_depth(args):
    base = train_base(args, 'base')
    own_layers = load_checkpoint(base / 'base.pt').model.config.layers

    def work(layers):
        folder = base if layers == own_layers else train_base(args, f'layers{layers}', '--layers', layers)
        dense, own = specialize(args, folder, 'dense'), specialize(args, folder, 'neurons', 70)
        rows = score(args, folder / 'base.pt'), score(args, dense), score(args, own, dense)
        return [row['all'] for row in rows], [loss(path) for path in (folder / 'base.pt', dense, own)]

    depths = sorted({1, 2, 3, own_layers})
    found = together(*(partial(work, layers) for layers in depths))
    print('\n        base          dense         neurons, k = 70\n'
          f'layers  BLEU   loss   BLEU   loss   BLEU   loss  over dense:\n{"":49}{AGAINST}')
    for layers, (rows, losses) in zip(depths, found):
        each = '  '.join(f'{row["BLEU"]:5.2f} {value:.3f} ' for row, value in zip(rows, losses))
        print(f'{layers:6}  {each} {against(rows[-1])}')
    lines = {name: (depths, [rows[i]['BLEU'] for rows, _ in found])
             for i, name in enumerate(('base', 'dense', 'neurons, k = 70'))}
    return lines, 'layers', 'BLEU'


def kept(folder):
    """A function of k: how many neurons of a layer it keeps on average, by what was recorded in a folder."""
    counts = load_activations(folder / 'activations.pt', load_checkpoint(folder / 'base.pt'))['token']
    return lambda k: select(counts, k).sum(-1).double().mean().item()


def sweep_cost(args):
    base = train_base(args, 'base')
    width = load_checkpoint(base / 'base.pt').model.config.d_ff
    dense, wide = together(partial(specialize, args, base, 'dense'),
                           partial(train_base, args, 'wide', '--d-ff', 2 * width))

    def ordinary(width):
        return specialize(args, train_base(args, f'd_ff{width}', '--d-ff', width), 'dense')

    def trio(width, train, base, k, kind=''):
        """An ordinary system and two of its cost: (name, that of the one it is compared with, what trains it) each."""
        name = f'ordinary, d_ff {width}'
        return [(name, None, train), *((f'{control}{kind}, k = {k}', name, partial(specialize, args, base, control, k))
                                       for control in ('neurons', 'random'))]

    of_base, of_wide = kept(base), kept(wide)
    narrow = {k: round(of_base(k)) for k in (50, 70)}
    wide_k = min(range(1, 101), key=lambda k: abs(of_wide(k) - width))
    systems = [*(system for k in narrow for system in trio(narrow[k], partial(ordinary, narrow[k]), base, k)),
               *trio(width, lambda: dense, wide, wide_k, ' of twice the width')]
    paths = dict(zip((name for name, *_ in systems), together(*(train for *_, train in systems))))
    rows = together(*(partial(score, args, paths[name], paths.get(other)) for name, other, _ in systems))
    print(f'\n{"":36}  parameters  seconds   BLEU   loss  over the ordinary one:\n{"":72}{AGAINST}')
    lines = {}
    for (name, other, _), row, (size, seconds) in zip(systems, rows, slim_costs(args, paths.values())):
        print(f'{name:36}  {size:10,.0f}  {seconds:7.2f}  {row["all"]["BLEU"]:5.2f}  {loss(paths[name]):.3f} '
              + (against(row['all']) if other else ''))
        xs, ys = lines.setdefault(name.split(',')[0], ([], []))
        xs.append(size)
        ys.append(row['all']['BLEU'])
    print('parameters: of one direction alone; seconds: it takes for 100 lines. The ordinary ones are bases of that\n'
          'width, trained on for as long as the specialized ones (`dense`).')
    return lines, 'parameters of one direction alone', 'BLEU'


def main():
    args = arguments()
    cli.print_settings(args)
    open_corpus(args.data)  # written or downloaded here, and not by two scripts at once
    args.run = Path(args.run) / f'sweep-seed{args.seed}'
    start = time.monotonic()
    sweeps = {'controls': sweep_controls, 'k': sweep_k, 'depth': sweep_depth, 'cost': sweep_cost}
    try:
        curves = sweeps[args.sweep](args)
    except KeyboardInterrupt:
        raise KeyboardInterrupt('interrupted; the same command goes on')
    if curves:
        try:
            print('drew ' + ', '.join(map(str, figures.draw_lines(args.run, args.sweep, *curves))))
        except UserError as error:
            print(f'no picture: {error}')
    print(f'took {(time.monotonic() - start) / 60:.1f} min, all of it in {args.run}')


if __name__ == '__main__':
    cli.run(main)
