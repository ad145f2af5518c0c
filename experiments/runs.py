"""What every experiment needs: it runs the four scripts with each seed, and compares the models that they make.

A script that has ended well is not run again. So an experiment that was interrupted continues if it is started again.
"""
import json
import math
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent  # where the four scripts are
sys.path.insert(0, str(ROOT))

from minispec import UserError, cli, scoring  # noqa: E402
from minispec.checkpoint import DEFAULT_K, checkpoint_name, load_activations, load_checkpoint, origin  # noqa: E402
from minispec.corpora import open_corpus  # noqa: E402
from minispec.data import read_lines, read_test  # noqa: E402
from minispec.files import make_folder, write  # noqa: E402
from minispec.neurons import select  # noqa: E402
from minispec.tasks import split_task  # noqa: E402

# Masks that specialize.py does not make: the script that does, and its flags.
SCRIPTS = {'dropout': ['experiments/neuron_dropout'], 'lass': ['experiments/lass'],
           'random-lass': ['experiments/lass', '--random']}


@dataclass
class System:
    """A model that an experiment trains and scores: a base (masks None), or what specialize.py makes of one."""
    label: str
    base: str = 'base'  # the folder of its base, inside the folder of a seed
    masks: str | None = None  # as in specialize.py --masks, or one of SCRIPTS
    k: float | tuple | None = None  # as specialize.py's --k, or --k-encoder and --k-decoder
    neurons: int | None = None  # instead of k: how many neurons a layer keeps, on average
    flags: list = field(default_factory=list)  # more flags for specialize.py; a System with some has a base of its own
    task: str | None = None  # its only direction, if its script writes a checkpoint for each direction
    found: dict = field(default_factory=dict)  # {seed: Found}, set by `measure`

    def mean(self, name):
        """The mean over seeds of an attribute of Found."""
        return sum(getattr(found, name) for found in self.found.values()) / len(self.found)

    def text(self, name, digits):
        """That mean as text, with the range if there are several seeds."""
        values = [getattr(found, name) for found in self.found.values()]
        if math.isnan(values[0]):  # cannot be compared with other systems'
            return '-'
        spread = f' ({min(values):.{digits}f} to {max(values):.{digits}f})' if len(values) > 1 else ''
        return f'{self.mean(name):.{digits}f}{spread}'


@dataclass
class Found:
    """The results of a system with one seed. The dicts are by direction, all in the same order."""
    losses: dict      # validation losses, in nats per target token
    bleus: dict       # BLEU on the test split, by greedy search
    samples: torch.Tensor  # (N, samples), BLEU of the bootstrap's samples
    pairs: dict       # training pairs
    parameters: dict  # of a direction's sub-network
    sparsity: float   # mean over directions and layers
    stored: int       # parameters that all directions need together
    size: int         # of its files, in bytes
    training: float   # its cost: parameters times steps, plus those of the base
    seconds: float    # of training, with those of the base

    @property
    def loss(self):
        return mean(self.losses)

    @property
    def bleu(self):
        return mean(self.bleus)

    @property
    def width(self):
        return mean(self.parameters)

    @property
    def means(self):
        """BLEU by group of directions, {name: mean}; that of all directions is first."""
        return {name: mean(self.bleus, tasks) for name, tasks in scoring.groups(self.pairs).items()}


def mean(values, tasks=None):
    """The mean of {direction: value}, over some directions or over all."""
    return sum(values[task] for task in tasks or values) / len(tasks or values)


def parser(description):
    """A parser with the flags that all experiments share."""
    result = cli.parser(description)
    result.set_defaults(bar=None)  # a tqdm of training steps, if the experiment knows how many there are
    result.add_argument('--seeds', type=cli.positive_int, default=1, help='number of seeds: --seed and those after it')
    result.add_argument('--steps', type=cli.positive_int, default=2000,
                        help='number of steps of a base, and of each training that goes on from it')
    result.add_argument('--train', type=shlex.split, default=[], help="flags for train.py, as '--d-ff 512 --lr 1e-3'")
    result.add_argument('--specialize', type=shlex.split, default=[],
                        help='flags for specialize.py, without those that select neurons')
    return result


def refuse(args, *names):
    """Raise UserError if --train or --specialize has one of these flags, which are the experiment's own."""
    for word in (*args.train, *args.specialize):
        flag = word.split('=')[0]
        for name in names:
            if len(flag) > 2 and name.startswith(flag):  # argparse takes abbreviated flags, too
                raise UserError(f'the experiment sets {name} itself: give the flag to the experiment, if it has it, '
                                'and not within --train or --specialize')


def seeds(args):
    return range(args.seed, args.seed + args.seeds)


def home(args, seed):
    """The folder of all experiments with this seed."""
    return Path(args.run) / f'seed{seed}'


def together(function, items):
    """Call the function on each item, two at a time; returns the results in order.

    Even a single call gets a thread: in the main one, Ctrl-C would make `subprocess` kill a training before it saves.
    """
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def run_script(args, seed, script, folder, name, flags):
    """Run a script on `folder`, unless the log NAME.log there says that it has ended well.

    The log is the command and, once the script has ended well, what it printed. A training that was interrupted is
    resumed. Raises UserError if the log is of another command, or if the script fails.
    """
    log = folder / f'{name}.log'
    if script == 'train':
        flags = ['--steps', args.steps, *args.train, *flags]  # of a flag given twice, the last counts
    elif script not in ('profile', 'translate'):
        flags = ['--steps', args.steps, *args.specialize, *flags]
    steps = [int(n) for flag, n in zip(flags, flags[1:]) if flag == '--steps'][-1:]
    flags = ['--run', folder, '--data', args.data, '--device', args.device, '--seed', seed, *flags]
    command = shlex.join(['python', f'{script}.py', *map(str, flags)])
    begun, _, printed = log.read_text(encoding='utf-8').partition('\n') if log.exists() else (command, '', '')
    if begun != command:
        raise UserError(f'{log} is of another command than {command}; take another --run, or delete {args.run}')
    if not printed:
        make_folder(folder)
        write(log, f'{command}\n')
        if (folder / f'{name}.last.pt').exists():
            flags.append('--resume')
        done = subprocess.run([sys.executable, str(ROOT / f'{script}.py'), *map(str, flags)], encoding='utf-8',
                              capture_output=True, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUTF8': '1'})
        if done.returncode:
            reason = done.stderr.splitlines()[-1] if done.stderr else 'it was killed'
            raise UserError(f'{script}.py in {folder}: {reason}')
        write(log, f'{command}\n{done.stdout}')
        tqdm.write(f'{time.strftime("%H:%M")} {log.relative_to(args.run)}')
    if args.bar is not None:
        args.bar.update(sum(steps))


def train_bases(args, flags_of, profiled=True):
    """Train bases and record their neurons, with each seed.

    `flags_of`: {name: its flags for train.py, or a function that gives them for the folder of a seed}.
    """
    refuse(args, '--seed', '--run', '--data', '--device')

    def train_base(job):
        seed, name = job
        flags = flags_of[name]
        flags = flags(home(args, seed)) if callable(flags) else flags
        run_script(args, seed, 'train', home(args, seed) / name, 'base', flags)
        if profiled:
            run_script(args, seed, 'profile', home(args, seed) / name, 'profile', [])

    together(train_base, product(seeds(args), flags_of))


def usual_base(args):
    """Train the usual base with each seed; returns the Checkpoint of the first."""
    train_bases(args, {'base': []})
    return load_checkpoint(home(args, args.seed) / 'base' / 'base.pt')


def train_systems(args, systems):
    """Train all systems but bases, with each seed; those with a `task` have been trained together, by one script."""
    jobs = product(seeds(args), systems)
    together(partial(specialize, args), [job for job in jobs if job[1].masks and not job[1].task])


def measure(args, systems):
    """Train all systems and translate the test split with them, with each seed; set `found`."""
    train_systems(args, systems)
    jobs = list(product(seeds(args), systems))
    together(partial(translate, args), jobs)
    for seed, system in jobs:
        system.found[seed] = find(args, seed, system)


def checkpoint_path(args, seed, system):
    folder = home(args, seed) / system.base
    if system.task:
        return folder / f'{system.masks}.{system.task}.pt'
    return folder / (checkpoint_name(system.masks, *ks(folder, system)) if system.masks else 'base.pt')


def ks(folder, system):
    """The k of the encoder and that of the decoder of a system whose base lies in `folder`."""
    k = k_for(folder, system.neurons) if system.neurons else system.k or DEFAULT_K
    return k if isinstance(k, tuple) else (k, k)


@cache
def k_for(folder, neurons):
    """The k, in steps of a half, at which Eq. 1 keeps that many neurons in a layer of this base, on average."""
    counts = token_counts(folder)
    return min((k / 2 for k in range(2, 201)), key=lambda k: abs(mean_width(counts, k) - neurons))


def token_counts(folder):
    """The activity (N, L, F) that was recorded in this folder's base."""
    return load_activations(folder / 'activations.pt', load_checkpoint(folder / 'base.pt'))['token']


def mean_width(counts, k):
    """How many neurons Eq. 1 keeps in a layer, on average; counts (N, L, F)."""
    return select(counts, k).sum(-1).double().mean().item()


def specialize(args, job):
    seed, system = job
    path = checkpoint_path(args, seed, system)
    encoder, decoder = ks(path.parent, system)
    script, *flags = SCRIPTS.get(system.masks, ['specialize', '--masks', system.masks])
    flags += system.flags
    if system.k or system.neurons:
        one = ['--k', f'{encoder:g}']
        flags += one if encoder == decoder else ['--k-encoder', f'{encoder:g}', '--k-decoder', f'{decoder:g}']
    run_script(args, seed, script, path.parent, path.stem, flags)


def translate(args, job):
    path = checkpoint_path(args, *job)
    run_script(args, job[0], 'translate', path.parent, f'test.{path.stem}',
               ['--test', '--beam', 1, '--model', path.name, '--compare'])


def find(args, seed, system):
    """Read what the scripts have written: the checkpoint, and the translations of the test split.

    Raises UserError for what a log does not show: a file that another command has replaced, another test text, or
    models of two precisions.
    """
    path = checkpoint_path(args, seed, system)
    checkpoint, corpus = load_checkpoint(path), open_corpus(args.data)
    model, tasks, base = checkpoint.model, checkpoint.tasks, origin(checkpoint)
    if base != origin(load_checkpoint(path.with_name('base.pt'))):
        raise UserError(f'{path} was made from another base than the one beside it; delete {path.parent}')
    usual = home(args, args.seed) / 'base' / 'base.pt'
    if checkpoint.dtype != load_checkpoint(usual).dtype:  # begun on one machine, continued on another
        raise UserError(f'{path} was not trained in the precision of {usual}; take another --run')
    folder, samples = path.parent / f'test.{path.stem}', []
    _, references, text = read_test(corpus, 'test', tasks)
    content = json.loads((folder / 'scores.json').read_text(encoding='utf-8'))
    if (content['beam'], content['base'], content['text_fingerprint']) != (1, base, text):
        raise UserError(f'{folder} is of another beam, base or text; delete {folder}.log, and this translates again')
    scores = content['scores']
    count = max(scoring.MIN_SAMPLES, scoring.SAMPLES_PER_TASK * len(corpus.tasks))
    for task in tasks:
        metric = scoring.metrics_for(split_task(task)[1], references[task])['BLEU']
        stats = scoring.statistics(metric, list(read_lines(folder / f'{task}.txt')))  # (n, 10)
        samples.append(scoring.resample(stats, count, seed=1))
    parts = [model.sub_network(index) for index in range(len(tasks))]
    last = checkpoint_path(args, seed, replace(system, task=None)).with_suffix('.last.pt')
    info, trainings = checkpoint.info, [last] + [path.with_name('base.last.pt')] * ('base' in checkpoint.info)
    costs, seconds = zip(*map(cost, trainings))
    size, *sizes = map(parameters, (model, *parts))
    tuning = 0
    if system.masks == 'lass':  # which has fine-tuned each direction alone before
        tuning = size * len(info['base']['valid']) * info['settings']['tune_steps']
    return Found(
        losses=dict(zip(tasks, info['valid'])), bleus={task: scores[task]['BLEU'] for task in tasks},
        samples=torch.stack(samples), pairs={task: checkpoint.data['pairs'][task] for task in tasks},
        parameters=dict(zip(tasks, sizes)), sparsity=1 - model.masks.double().mean().item(),
        stored=size, size=path.stat().st_size, training=sum(costs) + tuning, seconds=sum(seconds))


@cache
def cost(last):
    """What the training that wrote this NAME.last.pt took: parameters times steps, and seconds."""
    checkpoint = load_checkpoint(last)
    progress = checkpoint.training['progress']
    return parameters(checkpoint.model) * progress['step'], progress['seconds']


def parameters(model):
    """How many parameters a model has."""
    return sum(p.numel() for p in model.parameters())


def compare(one, other, tasks=None):
    """ΔBLEU of system `one` minus system `other`, as the mean over `tasks` or over all directions.

    Returns `differences` by seed, their `mean` with `low` and `high`, and `verdicts`.

    The 95% interval covers two uncertainties: other test sentences would give other scores, and so would other seeds.
    All seeds are scored on the same sentences, so the bootstrap draws sentences once for all seeds. With several seeds,
    the error of their mean is added as noise with Student's t distribution, which is wider for fewer seeds. How a seed
    changes single sentences counts in both, so the interval is too wide then (simulated coverage: 95 to 99%).
    """
    pairs = [(one.found[seed], other.found[seed]) for seed in one.found]
    tasks = tasks or list(pairs[0][0].bleus)
    rows = [list(pairs[0][0].bleus).index(task) for task in tasks]
    differences = torch.tensor([mean(a.bleus, tasks) - mean(b.bleus, tasks) for a, b in pairs],
                               dtype=torch.double)  # (seeds,)
    samples = torch.stack([(a.samples - b.samples)[rows].mean(0) for a, b in pairs]).mean(0)  # (samples,)
    n = len(pairs)
    if n > 1:
        generator = torch.Generator().manual_seed(1)
        samples = samples.repeat(20)  # more draws of noise than of sentences
        normal = torch.randn(n, len(samples), generator=generator, dtype=torch.double)
        t = normal[0] / normal[1:].square().mean(0).sqrt()  # with n - 1 degrees of freedom
        samples = samples + differences.std() / n ** 0.5 * t
    low, high = torch.quantile(samples, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    verdicts = [scoring.verdicts(scoring.differences(
        *({task: each.bleus[task] for task in tasks} for each in (b, a)),
        {task: (b.samples[row], a.samples[row]) for task, row in zip(tasks, rows)})) for a, b in pairs]
    return {'differences': differences.tolist(), 'mean': differences.mean().item(), 'low': low, 'high': high,
            'verdicts': [sum(each[name] for each in verdicts) for name in ('wins', 'ties', 'losses')]}


def print_results(systems, pairs):
    """Print a table of the systems, and one of the compared pairs (one, other). Returns each pair's `compare`."""
    levels = list(next(iter(systems[0].found.values())).means)[1:]  # without that of all directions
    table = [['', 'validation loss', 'BLEU', *levels, 'sparsity', 'parameters', 'training']]
    most = max(system.mean('training') for system in systems)
    for system in systems:
        means = [found.means for found in system.found.values()]
        cells = [f'{sum(each[level] for each in means) / len(means):.2f}' if level in means[0] else '-'
                 for level in levels]  # a system with fewer directions may have none of a level
        table.append([system.label, system.text('loss', 3), system.text('bleu', 2), *cells,
                      f'{system.mean("sparsity"):.2f}', f'{system.mean("width"):,.0f}',
                      f'{system.mean("training") / most:.2f}'])
    print()
    scoring.print_table(table)
    several = len(systems[0].found) > 1
    print(f'Means over {"seeds and " * several}directions{" (range over seeds)" * several}. BLEU: test split, greedy '
          'search. parameters: of one\n'
          "direction's sub-network. training: parameters times steps, with the base's, relative to the costliest.\n")
    rows = [compare(one, other) for one, other in pairs]
    table = [['ΔBLEU', 'by seed', 'mean', '95% interval', '', 'wins', 'ties', 'losses']]
    for (one, other), row in zip(pairs, rows):
        table.append([f'{one.label} - {other.label}', ' '.join(f'{x:+.2f}' for x in row['differences']),
                      f'{row["mean"]:+.2f}', f'{row["low"]:+.2f} {row["high"]:+.2f}', scoring.verdict(row),
                      *map(str, row['verdicts'])])
    scoring.print_table(table)
    print(f'Intervals cover other test sentences{" and seeds" * several}, and are not corrected for their number. '
          f'within {scoring.MARGIN} BLEU: the whole\ninterval is that near to 0; open: it is not, but contains 0. wins, '
          "ties, losses: directions of all\nseeds, by Holm's p < 0.05.")
    return rows


def draw(figure, *args):
    """Draw with this function of `figures`; without matplotlib, the tables are still worth having."""
    try:
        print('drew ' + ', '.join(map(str, figure(*args))))
    except UserError as error:
        print(f'no figure: {error}')
