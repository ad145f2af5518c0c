"""Every experiment, run for real on a tiny corpus; the four scripts run in this process, to spare their start."""
import contextlib
import csv
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'experiments'))

import runs  # noqa: E402
import sweep  # noqa: E402

from minispec import UserError  # noqa: E402
from minispec.checkpoint import checkpoint_name, load_checkpoint  # noqa: E402

SHORT = '--steps 4 --eval-every 2 --batch-tokens 400 --lr 0.01'
TRAIN = ('--vocab-size 90 --d-model 32 --d-ff 64 --layers 1 --heads 2 --dropout 0 --temperature 1 --batch-tokens 300 '
         '--dtype float32 --lr 0.02 --steps 90 --eval-every 90')  # as many as a BLEU above 0 takes


class Scripts:
    """Runs scripts in this process, one at a time, in place of `runs.subprocess`; `calls` lists their arguments."""

    def __init__(self):
        self.calls = []

    def run(self, command, **kwargs):
        self.calls.append(command[1:])
        code, out, err = in_this_process(command[1], command[2:])
        return subprocess.CompletedProcess(command, code, out, err)


def in_this_process(script, arguments):
    """Run a script as `python script ...` does; returns (exit code, stdout, stderr)."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding='utf-8') for _ in range(2))
    code = 0
    with patch.object(sys, 'argv', [str(script), *map(str, arguments)]), contextlib.redirect_stdout(out), \
            contextlib.redirect_stderr(err):
        try:
            runpy.run_path(str(script), run_name='__main__')
        except SystemExit as ending:
            code = ending.code
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


def one_by_one(function, items):
    return [function(item) for item in items]


@contextlib.contextmanager
def scripts_here():
    """`runs` starts the scripts in this process; yields a list of their arguments."""
    scripts = Scripts()
    with patch.multiple(runs, subprocess=scripts, together=one_by_one):
        yield scripts.calls


def run_sweep(name, corpus, run, train=TRAIN, specialize=SHORT):
    """One sweep in this process. Returns what it printed, and the calls of scripts that it took."""
    out = io.StringIO()
    argv = ['sweep.py', name, '--data', str(corpus), '--run', str(run), '--device', 'cpu', '--train', train,
            '--specialize', specialize]
    with patch.object(sys, 'argv', argv), scripts_here() as calls, contextlib.redirect_stdout(out):
        sweep.main()
    return out.getvalue(), calls


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The run folder that all sweeps share, as they do for a user."""
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def controls(corpus_folder, run):
    return run_sweep('controls', corpus_folder, run)[0]


def scores(folder, system):
    return json.loads((folder / f'test.{system}' / 'scores.json').read_text(encoding='utf-8'))


def bleu(folder, system):
    """The mean BLEU of a system over all directions, computed anew from that of each direction."""
    rows = scores(folder, system)['scores'].values()
    return sum(row['BLEU'] for row in rows) / len(rows)


def table(text, first):
    """The words of the rows of a table that begin with these words."""
    return [line.split() for line in text.splitlines() if line.startswith(first)]


def check_delta(words, folder, system, other_bleu, other_path):
    """The last six words of a row: ΔBLEU, its interval, wins, ties, losses."""
    ((other, found),) = scores(folder, system)['others'].items()
    assert Path(other) == other_path
    assert float(words[-6]) == pytest.approx(bleu(folder, system) - other_bleu, abs=0.0051)
    assert float(words[-5]) <= float(words[-4])
    assert list(map(int, words[-3:])) == [found['verdicts'][name] for name in ('wins', 'ties', 'losses')]


def logs(run):
    return {path: path.stat().st_mtime_ns for path in run.rglob('*.log')}


def test_from_a_base_to_scores(corpus_folder, tmp_path):
    """A small experiment: each script runs once, and what is compared with what; other flags are one line."""
    args = Namespace(run=tmp_path, data=str(corpus_folder), device='cpu', seed=1, train=TRAIN.split(),
                     specialize=SHORT.split())
    base = tmp_path / 'base'
    dense = runs.System('dense', base, 'dense')
    own = runs.System('own', base, 'own', 50, compared_with=dense)
    with scripts_here() as calls:
        runs.train_bases(args, {'base': ['--heads', 4]})
        runs.measure(args, [dense, own])
        before, names = logs(tmp_path), [Path(call[0]).stem for call in calls]
        assert names == ['train', 'profile', 'specialize', 'specialize', 'translate', 'translate']
        runs.train_bases(args, {'base': ['--heads', 4]})
        runs.measure(args, [dense, own])
        assert len(calls) == 6 and logs(tmp_path) == before
        with pytest.raises(UserError, match='base.log is of another command'):
            runs.train_bases(args, {'base': ['--heads', 2]})
    settings = load_checkpoint(base / 'base.pt').info['settings']
    assert (settings['heads'], settings['d_ff'], settings['steps']) == (4, 64, 90)  # the last of two flags counts
    assert dense.bleu() == pytest.approx(bleu(base, 'dense')) and dense.bleu() > 0 and dense.delta() == ''
    check_delta(own.delta().split(), base / 'vs-base.dense', 'specialized.k50', dense.bleu(), dense.path)


def test_a_script_that_fails_is_one_line(corpus_folder, tmp_path):
    with pytest.raises(UserError, match=r'train.py in .*base: error: --vocab-size 9999 is more than'):
        run_sweep('controls', corpus_folder, tmp_path, train=f'{TRAIN} --vocab-size 9999')


@pytest.mark.slow
def test_controls(controls, run):
    home = run / 'sweep-seed1'
    dense = bleu(home / 'base', 'dense')
    for masks in ('own', 'random', 'reverse', 'shared'):
        for k in (95, 50):
            (words,) = table(controls, f'{masks} {k} ')
            info = load_checkpoint(home / 'base' / checkpoint_name(masks, k, k)).info
            assert float(words[2]) == pytest.approx(sum(info['valid']) / len(info['valid']), abs=0.00051)
            folder, file = home / 'base' / 'vs-base.dense', Path(checkpoint_name(masks, k, k)).stem
            assert float(words[3]) == pytest.approx(bleu(folder, file), abs=0.0051)
            check_delta(words, folder, file, dense, home / 'base' / 'dense.pt')
            settings = info['settings']
            assert (settings['masks'], settings['k'], settings['steps']) == (masks, k, 4)
    (words,) = table(controls, 'base ')
    check_delta(words, home / 'base' / 'vs-base.dense', 'base', dense, home / 'base' / 'dense.pt')
    (words,) = table(controls, 'dense ')
    assert len(words) == 5 and float(words[2]) == pytest.approx(dense, abs=0.0051)


@pytest.mark.slow
def test_a_finished_sweep_runs_no_script_again(controls, corpus_folder, run):
    before = logs(run)
    again, calls = run_sweep('controls', corpus_folder, run)
    assert not calls and logs(run) == before and len(before) >= 21  # more if other sweeps came before
    assert table(again, 'own ') == table(controls, 'own ')


@pytest.mark.slow
def test_other_flags_are_refused(controls, corpus_folder, run):
    arguments = ['controls', '--data', corpus_folder, '--run', run, '--device', 'cpu', '--train', TRAIN + ' --steps 5']
    code, out, err = in_this_process(ROOT / 'experiments' / 'sweep.py', arguments)
    assert code == 2 and err.count('\n') == 1 and 'base.log is of another command' in err and 'delete' in err


@pytest.mark.slow
def test_k(controls, corpus_folder, run):
    out, calls = run_sweep('k', corpus_folder, run)
    home = run / 'sweep-seed1'
    for k in (30, 40, 50, 70, 95):
        for masks in ('own', 'random'):
            (words,) = table(out, f'{k}  {masks} ')
            path = home / 'base' / checkpoint_name(masks, k, k)
            check_delta(words, home / 'base' / 'vs-base.dense', path.stem, bleu(home / 'base', 'dense'),
                        home / 'base' / 'dense.pt')
            model = load_checkpoint(path).model
            sparsity = 1 - model.masks.double().mean(-1)  # (N, L)
            for word, value in zip(words[2:5], (sparsity.min(), sparsity.mean(), sparsity.max())):
                assert float(word) == pytest.approx(value.item(), abs=0.0051)
    trained = [call for call in calls if 'specialize.py' in str(call[0])]
    assert trained and not any('50' in map(str, call) for call in trained)  # the sweep of controls has made those
    assert all((home / f'k.{suffix}').is_file() for suffix in ('png', 'svg'))


@pytest.mark.slow
def test_depth(controls, corpus_folder, run):
    out, _ = run_sweep('depth', corpus_folder, run)
    home = run / 'sweep-seed1'
    for layers, base in ((1, 'base'), (2, 'layers2'), (3, 'layers3')):
        (words,) = table(out, f'     {layers}  own, k = 70')
        check_delta(words, home / base / f'vs-{base}.dense', 'specialized', bleu(home / base, 'dense'),
                    home / base / 'dense.pt')
        assert load_checkpoint(home / base / 'specialized.pt').model.config.layers == layers
        for masks in ('base', 'dense'):
            (words,) = table(out, f'     {layers}  {masks} ')
            assert len(words) == 4 and float(words[-1]) == pytest.approx(bleu(home / base, masks), abs=0.0051)


@pytest.mark.slow
def test_cost(controls, corpus_folder, run):
    out, _ = run_sweep('cost', corpus_folder, run)
    home, baseline, compared = run / 'sweep-seed1', None, 0
    for line in out.splitlines():
        words = line.split()
        if line.startswith('dense baseline'):
            baseline = int(words[4])  # its width
        elif line.startswith(('own', 'random')):
            k, wide = line.split('k = ')[1].split()[0], 'twice' in line
            masks = words[0].rstrip(',')
            path = home / ('wide' if wide else 'base') / checkpoint_name(masks, int(k), int(k))
            other = home / ('base' if wide else f'd_ff{baseline}')
            check_delta(words, path.parent / f'vs-{other.name}.dense', path.stem, bleu(other, 'dense'),
                        other / 'dense.pt')
            widths = load_checkpoint(path).model.masks.sum(-1).double().mean().item()
            assert widths == pytest.approx(baseline, abs=2)  # of equal cost
            compared += 1
    assert compared == 6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='Ctrl-C cannot be sent to a process there')
def test_an_interrupted_training_is_resumed(corpus_folder, tmp_path):
    """Ctrl-C stops the sweep and its scripts, as in a terminal; the same flags go on from the last validation."""
    train = f'{TRAIN} --steps 400 --eval-every 20'
    command = [sys.executable, str(ROOT / 'experiments' / 'sweep.py'), 'controls', '--data', str(corpus_folder),
               '--run', str(tmp_path), '--device', 'cpu', '--train', train, '--specialize', SHORT]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, encoding='utf-8',
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    last = tmp_path / 'sweep-seed1' / 'base' / 'base.last.pt'
    while not last.exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and err == 'interrupted; the same command goes on\n'
    stopped = load_checkpoint(last).training['progress']['step']
    assert 20 <= stopped < 400

    args = Namespace(run=tmp_path / 'sweep-seed1', data=str(corpus_folder), device='cpu', seed=1, train=train.split(),
                     specialize=SHORT.split())
    runs.together(lambda _: runs.run_script(args, 'train', last.parent, 'base', []), [None])
    assert 'resume=True' in (last.parent / 'base.log').read_text(encoding='utf-8')
    with (last.parent / 'base.csv').open(encoding='utf-8', newline='') as file:
        assert [int(row['step']) for row in csv.DictReader(file)] == list(range(20, 401, 20))


@pytest.mark.slow
def test_bench(corpus_folder, tmp_path):
    command = [sys.executable, ROOT / 'experiments' / 'bench.py', '--data', corpus_folder, '--d-model', 16,
               '--d-ff', 32, '--vocab-size', 90, '--rounds', 1, '--threads', 1]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, encoding='utf-8')
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    numbers = {name: value for name, value in found.items() if not isinstance(value, str)}
    assert len(numbers) >= 30 and all(value > 0 for name, value in numbers.items() if 'peak memory' not in name)
    assert found['parameters of the sub-network at k = 70'] < found['parameters of the sub-network at k = 95'] < 1
