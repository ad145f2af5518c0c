"""The paper's two sweeps and one of ours. Each is one command that takes up to half an hour on two cores:

    python -m minispec.sweep k       Fig. 4: what specializing gains over `dense`, and random neurons do, against k
    python -m minispec.sweep depth   Fig. 3: base, dense and specialized models of 1, 2 and 3 layers
    python -m minispec.sweep cost    at equal cost of inference: specialized models against ordinary ones of their width

The four scripts do the work, two at a time, in subfolders of RUN/SWEEP-seedN. Each leaves its log when it has ended
well, and is then not run again: after an interruption, the same command goes on, and a training with --resume.
"""
import json
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
    parser.add_argument('sweep', choices=['k', 'depth', 'cost'])
    parser.add_argument('--train', default='', help="flags for train.py, as '--d-ff 512 --steps 9000'")
    parser.add_argument('--specialize', default='--steps 1500', help='flags for specialize.py')
    return parser.parse_args()


def run(args, script, folder, name, *flags):
    """Run a script on `folder` unless its log NAME.log is there: it ended well, if with the same flags."""
    log = folder / f'{name}.log'
    own = {'train': args.train, 'specialize': args.specialize}.get(script, '')
    flags = ['--run', folder, '--data', args.data, '--device', args.device, '--seed', args.seed, *shlex.split(own), *flags]
    command = cli.command(f'{script}.py', *flags)  # of equal flags the last one counts
    if log.exists():
        if log.read_text(encoding='utf-8').split('\n')[0] != command:
            raise UserError(f'{log} was made by another command than {command}; take another --run, or delete it')
        return
    make_folder(folder)
    resume = ['--resume'] if (folder / f'{name}.last.pt').exists() else []
    done = subprocess.run([sys.executable, str(SCRIPTS / f'{script}.py'), *map(str, flags), *resume], encoding='utf-8',
                          capture_output=True, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUTF8': '1'})
    if done.returncode:
        raise UserError(f'{script}.py in {folder}: {(done.stderr.splitlines() or ["it was killed"])[-1]}')
    write(log, f'{command}\n{done.stdout}')
    print(f'{time.strftime("%H:%M")} {log.relative_to(args.run)}')


def train_base(args, name, *flags):
    """A base, and what profile.py records in it; returns its folder."""
    folder = Path(args.run) / name
    run(args, 'train', folder, 'base', *flags)
    run(args, 'profile', folder, 'profile')
    return folder


def specialize(args, base, name, control, *flags):
    """Train on from the base in folder `base`, in a folder of this name; returns the checkpoint's path."""
    folder = Path(args.run) / name
    make_folder(folder)
    for file in ('base.pt', 'activations.pt') if folder != base else ():
        shutil.copy(base / file, folder)
    stem = 'specialized' if control == 'neurons' else control
    run(args, 'specialize', folder, stem, '--control', control, *flags)
    return folder / f'{stem}.pt'


def score(args, path, other=None):
    """Mean scores on the test split, greedy, and where `other` is a checkpoint, differences to it and verdicts."""
    run(args, 'translate', path.parent, f'test.{path.stem}', '--test', '--beam', 1, '--model', path.name,
        *(['--compare', other.resolve()] if other else []))
    found = json.loads((path.parent / f'test.{path.stem}' / 'scores.json').read_text(encoding='utf-8'))
    return {**found['means']['all'], **found.get('verdicts', {})}


def together(*jobs):
    """Call these functions, two at a time; returns what they return."""
    with ThreadPoolExecutor(min(2, os.cpu_count())) as pool:
        return list(pool.map(lambda job: job(), jobs))


def loss(path):
    """The mean validation loss of a checkpoint over its directions."""
    valid = load_checkpoint(path).info['valid']
    return sum(valid) / len(valid)


def slim_cost(args, path):
    """Parameters of a checkpoint's slim models, on average, and the seconds the first one takes for 100 lines."""
    model, vocabulary, tasks, *_ = load_checkpoint(path)
    models = [model.slim(task) for task in range(len(tasks))]
    lines = list(islice(read_lines(open_corpus(args.data).files('test', tasks[0])[0]), 100))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        translate(models[0], vocabulary, lines, tasks[0], 0, 1, 1.0)
        seconds.append(time.perf_counter() - start)
    return sum(p.numel() for one in models for p in one.parameters()) / len(tasks), min(seconds)


def against(row):
    """A row of `score` as text: the difference to the other system, its 95% interval, wins, ties and losses."""
    return '{difference:+6.2f} {low:+6.2f} {high:+6.2f}  {wins:>2} {ties:>2} {losses:>2}'.format(**row)


def sweep_k(args):
    ks, controls = [30, 40, 50, 60, 70, 80, 90, 95], ['neurons', 'random']
    base = train_base(args, 'base')
    points = [(k, control) for k in ks for control in controls]
    dense, *paths = together(lambda: specialize(args, base, 'base', 'dense'),
                             *(partial(specialize, args, base, f'k{k}', control, '--k', k) for k, control in points))
    rows = dict(zip(points, together(*(partial(score, args, path, dense) for path in paths))))
    parameters, seconds = slim_cost(args, dense)
    print(f'\ndense: BLEU {rows[95, "neurons"]["other"]:.2f}, loss {loss(dense):.3f}, {parameters:,.0f} parameters.\n'
          'gain: in BLEU over dense, with its 95% interval and the number of directions won, tied and lost\n\n'
          '     neurons off    slim model            neurons                          random\n'
          ' k  least mean most  parameters  speed   gain   95% interval  won   loss   gain   95% interval  won   loss')
    for k in ks:
        path, random = (paths[points.index((k, control))] for control in controls)
        off = figures.sparsity(load_checkpoint(path).model.masks)  # (N, L)
        size, time_taken = slim_cost(args, path)
        print(f'{k:2}   {off.min():.2f} {off.mean():.2f} {off.max():.2f}  {size:10,.0f}  {seconds / time_taken:4.2f}x '
              f'{against(rows[k, "neurons"])}  {loss(path):.3f} {against(rows[k, "random"])}  {loss(random):.3f}')
    return {control: (ks, [rows[k, control]['difference'] for k in ks]) for control in controls}, 'k', 'BLEU over dense'


def sweep_depth(args):
    def work(layers):
        base = train_base(args, f'layers{layers}', '--layers', layers)
        dense, own = (specialize(args, base, base.name, control) for control in ('dense', 'neurons'))
        rows = score(args, base / 'base.pt'), score(args, dense), score(args, own, dense)
        return rows, (loss(base / 'base.pt'), loss(dense), loss(own))

    depths = [1, 2, 3]
    found = together(*(partial(work, layers) for layers in depths))
    print('\n        base          dense         specialized   over dense: BLEU and its 95% interval, directions\n'
          'layers   BLEU  loss    BLEU  loss    BLEU  loss   won, tied and lost')
    for layers, (rows, losses) in zip(depths, found):
        each = '  '.join(f'{row["BLEU"]:5.2f} {value:.3f} ' for row, value in zip(rows, losses))
        print(f'{layers:6}  {each}  {against(rows[-1])}')
    lines = {name: (depths, [rows[i]['BLEU'] for rows, _ in found])
             for i, name in enumerate(('base', 'dense', 'specialized'))}
    return lines, 'layers', 'BLEU'


def sweep_cost(args):
    base = train_base(args, 'base')
    model = load_checkpoint(base / 'base.pt').model

    def wide(width):
        folder = train_base(args, 'wide', '--d-ff', 2 * width)
        counts = load_activations(folder / 'activations.pt', load_checkpoint(folder / 'base.pt'))['token']
        k = min(range(1, 101), key=lambda k: abs(mean_kept(counts, k) - width))
        return k, specialize(args, folder, 'wide', 'neurons', '--k', k)

    def ordinary(width, steps):
        run(args, 'train', Path(args.run) / f'd_ff{width}', 'base', '--d-ff', width, '--steps', steps)
        return Path(args.run) / f'd_ff{width}' / 'base.pt'

    (wide_k, wide_path), dense = together(partial(wide, model.config.d_ff),
                                          partial(specialize, args, base, 'base', 'dense'))
    info = load_checkpoint(dense).info
    steps = info['settings']['steps'] + info['base']['settings']['steps']
    counts = load_activations(base / 'activations.pt', load_checkpoint(base / 'base.pt'))['token']
    widths = {k: round(mean_kept(counts, k)) for k in (50, 70)}
    points = [(k, control) for k in widths for control in ('neurons', 'random')]
    narrow = {k: partial(ordinary, width, steps) for k, width in widths.items()}
    paths = together(*narrow.values(), *(partial(specialize, args, base, f'k{k}', control, '--k', k)
                                         for k, control in points))
    narrow, paths = dict(zip(widths, paths)), dict(zip(points, paths[len(widths):]))
    systems = [(f'{control}, k = {k}', path, narrow[k]) for (k, control), path in paths.items()]
    systems.append((f'neurons, k = {wide_k}, of twice the width', wide_path, dense))
    rows = together(*(partial(score, args, path, other) for _, path, other in systems))
    print(f'\n{"":37}  parameters  seconds   BLEU   loss  difference to the ordinary one above')

    def line(name, path, bleu, difference=''):
        parameters, seconds = slim_cost(args, path)
        print(f'{name:37}  {parameters:10,.0f}  {seconds:7.2f}  {bleu:5.2f}  {loss(path):.3f}  {difference}')

    for i, ((name, path, other), row) in enumerate(zip(systems, rows)):
        if i % 2 == 0:  # random comes after neurons, and is compared with the same
            line(f'ordinary, d_ff {load_checkpoint(other).model.config.d_ff}', other, row['other'])
        line(name, path, row['BLEU'], against(row))
    print('seconds: for 100 lines; difference: in BLEU, with its 95% interval and the number of directions won, tied\n'
          f'and lost. The ordinary ones were trained for {steps:,} updates from the start; that of the width of the\n'
          'base is the base trained on (`dense`).')
    lines = {control: ([widths[k] for k in widths], [rows[points.index((k, control))]['BLEU'] for k in widths])
             for control in ('neurons', 'random')}
    lines['ordinary'] = [*widths.values(), model.config.d_ff], [rows[0]['other'], rows[2]['other'], rows[4]['other']]
    lines['of twice the width'] = [model.config.d_ff], [rows[4]['BLEU']]
    return lines, 'neurons of each layer, on average', 'BLEU'


def mean_kept(counts, k):
    """How many neurons of a layer k keeps on average."""
    return select(counts, k).sum(-1).double().mean().item()


def main():
    args = arguments()
    cli.print_settings(args)
    open_corpus(args.data)  # written or downloaded here, and not by two scripts at once
    args.run = Path(args.run) / f'{args.sweep}-seed{args.seed}'
    start = time.monotonic()
    lines, x, y = {'k': sweep_k, 'depth': sweep_depth, 'cost': sweep_cost}[args.sweep](args)
    try:
        print('drew ' + ', '.join(map(str, figures.draw_lines(args.run, args.sweep, lines, x, y))))
    except UserError as error:
        print(f'no picture: {error}')
    print(f'took {(time.monotonic() - start) / 60:.1f} min, all of it in {args.run}')


if __name__ == '__main__':
    cli.run(main)
