"""Kill the four scripts at random moments, run them again, and compare what they leave with an uninterrupted run.

    python tests/kill_campaign.py --kills 50

Nothing may be half-written: after each kill every file in the run folder must load. A training is resumed as soon as
there is a saved state. At the end, a difference of a single bit from the uninterrupted run is an error.
"""
import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from conftest import write_corpus  # noqa: E402

SMALL = '--vocab-size 90 --d-model 16 --d-ff 32 --layers 1 --heads 2 --dtype float32'.split()
TRAINING = '--steps 40 --eval-every 2 --batch-tokens 200'.split()
SCRIPTS = {  # by name: the file that it can resume from, and its command
    'train': ('base.last.pt', ['train.py', *SMALL, *TRAINING]),
    'profile': ('', ['profile.py']),
    'specialize': ('specialized.last.pt', ['specialize.py', *TRAINING]),
    'translate': ('', ['translate.py', '--test', '--beam', '1']),
}
SPEED = 3  # the column of the curve that depends on the clock


def start(name, run, corpus):
    """Start a script; returns the process and its first line, which it prints when Python and torch are loaded."""
    state, command = SCRIPTS[name]
    command = [*command, '--data', corpus, '--run', run, '--device', 'cpu'] + ['--resume'] * (run / state).is_file()
    process = subprocess.Popen([sys.executable, ROOT / command[0], *command[1:]], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    return process, process.stdout.readline()


def finish(name, run, corpus):
    """Run a script to its end; returns the seconds from its first line on."""
    process, line = start(name, run, corpus)
    begin = time.monotonic()
    rest = process.communicate()[0]
    assert process.returncode == 0, (line + rest).decode()
    return time.monotonic() - begin


def without_clock(x):
    """Tensors as lists, and without what differs from run to run: clock, speed and folder."""
    if isinstance(x, dict):
        different = ('seconds', 'window_start', 'run', 'resume', 'model')
        return {key: [row[:SPEED] + row[SPEED + 1:] for row in value] if key == 'curve' else without_clock(value)
                for key, value in x.items() if key not in different}
    if isinstance(x, torch.Tensor):
        return x.tolist()
    return [without_clock(y) for y in x] if isinstance(x, list) else x


def curve(path):
    """A training curve as rows of text, without the column of the speed."""
    with path.open(encoding='utf-8', newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0][SPEED] == 'target_tokens_per_second'
    return [row[:SPEED] + row[SPEED + 1:] for row in rows]


def contents(run):
    """All that the scripts left, by file name."""
    found = {path.name: without_clock(torch.load(path, weights_only=True)) for path in run.glob('*.pt')}
    found |= {path.name: curve(path) for path in run.glob('*.csv')}
    found |= {path.name: path.read_bytes() for path in run.glob('test.specialized/*.txt')}
    return found | {path.name: without_clock(json.loads(path.read_text(encoding='utf-8')))
                    for path in run.glob('*/scores.json')}


def campaign(kills, seed, folder):
    """Kill `kills` times, each script in turn; AssertionError if anything was lost. Returns the kills by script."""
    moments, count = random.Random(seed), dict.fromkeys(SCRIPTS, 0)
    corpus, whole = write_corpus(folder / 'corpus'), folder / 'whole'
    seconds = {name: finish(name, whole, corpus) for name in SCRIPTS}
    expected = contents(whole)
    while sum(count.values()) < kills:
        run = folder / f'run{sum(count.values())}'
        for name in SCRIPTS:
            for _ in range(min(moments.randint(1, 3), kills - sum(count.values()))):
                process, _ = start(name, run, corpus)
                try:
                    process.wait(moments.uniform(0, seconds[name]))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    count[name] += 1
                contents(run)
            finish(name, run, corpus)
        found = contents(run)
        assert found.keys() == expected.keys(), (found.keys(), expected.keys())
        assert [name for name in found if found[name] != expected[name]] == []
        print(f'{run.name}: the same to the last bit; kills until now: {count}', flush=True)
    return count


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(campaign(args.kills, args.seed, Path(folder)))
