"""What every experiment needs: it starts the four scripts, keeps their logs, and reads what they have written.

A script that has ended well is not run again. So after an interruption the same experiment goes on where it was.
"""
import json
import math
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # where the four scripts are
sys.path.insert(0, str(ROOT))

from minispec import UserError  # noqa: E402
from minispec.checkpoint import DEFAULT_K, checkpoint_name, load_checkpoint  # noqa: E402
from minispec.corpora import open_corpus  # noqa: E402
from minispec.data import read_lines  # noqa: E402
from minispec.decoding import translate  # noqa: E402
from minispec.files import make_folder, write  # noqa: E402

DELTA_HEADER = '   ΔBLEU   95% interval  wins ties losses'  # over `System.delta`


@dataclass
class System:
    """A model that an experiment trains and scores: a base (masks None), or what specialize.py makes of one."""
    label: str
    base: Path  # the folder of its base
    masks: str | None = None  # as in specialize.py --masks
    k: int | None = None
    compared_with: 'System | None' = None
    line: str = ''  # in the experiment's figure: the line that it is a point of
    x: float = 0.0  # and its place on the horizontal axis
    scores: dict | None = None  # set by `measure`: {group of directions: row}
    versus: dict | None = None  # set by `measure`: ΔBLEU over all directions, its interval, and the verdicts
    parameters: float = 0.0  # set by `time_sub_networks`, as are the seconds
    seconds: float = math.inf

    @property
    def path(self):
        k = self.k or DEFAULT_K
        return self.base / (checkpoint_name(self.masks, k, k) if self.masks else 'base.pt')

    def loss(self):
        """The mean validation loss over all directions, in nats per target token."""
        losses = load_checkpoint(self.path).info['valid']
        return sum(losses) / len(losses)

    def bleu(self):
        """The mean BLEU over all directions."""
        return self.scores['all']['BLEU']

    def delta(self):
        """The columns under DELTA_HEADER; none if it is compared with nothing."""
        columns = ' {difference:+7.2f}  {low:+6.2f} {high:+6.2f}  {wins:4} {ties:4} {losses:6}'
        return columns.format(**self.versus) if self.compared_with else ''


def together(function, items):
    """Call the function on each item, two at a time; returns the results in order.

    Even a single call gets a thread: in the main one, Ctrl-C would make `subprocess` kill a training before it saves.
    """
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def run_script(args, script, folder, name, flags):
    """Run a script on `folder`, unless the log NAME.log there says that it has ended well.

    The log is the command and, once the script has ended well, what it printed. A training that was interrupted is
    resumed. Raises UserError if the log is of another command, or if the script fails.
    """
    log = folder / f'{name}.log'
    if script == 'train':
        flags = [*args.train, *flags]  # of a flag given twice, the last counts
    elif script == 'specialize':
        flags = [*args.specialize, *flags]
    flags = ['--run', folder, '--data', args.data, '--device', args.device, '--seed', args.seed, *flags]
    command = shlex.join(['python', f'{script}.py', *map(str, flags)])
    if log.exists():
        begun, _, printed = log.read_text(encoding='utf-8').partition('\n')
        if begun != command:
            raise UserError(f'{log} is of another command than {command}; take another --run, or delete {args.run}')
        if printed:
            return
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
    print(f'{time.strftime("%H:%M")} {log.relative_to(args.run)}')


def train_bases(args, flags_of):
    """Train bases and record their neurons. `flags_of` gives each base's folder in args.run its flags for train.py."""
    def train_base(name):
        run_script(args, 'train', args.run / name, 'base', flags_of[name])
        run_script(args, 'profile', args.run / name, 'profile', [])

    together(train_base, flags_of)


def measure(args, systems):
    """Train all systems that are no bases, then score all of them. Those they are compared with must be among them."""
    together(partial(specialize, args), [system for system in systems if system.masks])
    together(partial(score, args), systems)


def specialize(args, system):
    """Train a system on from its base."""
    flags = ['--masks', system.masks] + (['--k', system.k] if system.k else [])
    run_script(args, 'specialize', system.base, system.path.stem, flags)


def score(args, system):
    """Score a system on the test split, by greedy search, and against the one that it is compared with."""
    folder, name = system.base, f'test.{system.path.stem}'
    flags = ['--test', '--beam', 1, '--model', system.path, '--compare']
    if other := system.compared_with:
        folder = folder / f'vs-{other.base.name}.{other.path.stem}'
        flags.append(other.path)
    run_script(args, 'translate', folder, name, flags)
    found = json.loads((folder / name / 'scores.json').read_text(encoding='utf-8'))
    system.scores = found['means']
    for other in found['others'].values():  # one at most
        system.versus = {**other['means']['all'], **other['verdicts']}


def time_sub_networks(args, systems):
    """Set what sub-networks cost: the mean of their parameters, and the seconds of the first direction's for 100 lines.

    They are timed in turns, and the minimum of ten times counts: a machine's speed changes from second to second.
    """
    corpus = open_corpus(args.data)
    task = corpus.tasks[0]
    lines = list(islice(read_lines(corpus.files('test', task)[0]), 100))
    first = []
    for system in systems:
        checkpoint = load_checkpoint(system.path)
        parts = [checkpoint.model.sub_network(index) for index in range(len(checkpoint.tasks))]
        system.parameters = sum(p.numel() for part in parts for p in part.parameters()) / len(parts)
        first.append((system, replace(checkpoint, model=parts[0], tasks=[task])))
    for _ in range(10):
        for system, part in first:
            start = time.perf_counter()
            translate(part, lines, task, beam=1)
            system.seconds = min(system.seconds, time.perf_counter() - start)
