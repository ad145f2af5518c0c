"""The experiments, run for real on a tiny corpus; the four scripts run in this process, which saves their start."""
import contextlib
import csv
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import tiny_model

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'experiments'))

import neuron_dropout  # noqa: E402
import runs  # noqa: E402
import sweep  # noqa: E402

from minispec import UserError  # noqa: E402
from minispec.checkpoint import checkpoint_name, load_checkpoint, save_checkpoint  # noqa: E402

SHORT = '--steps 4 --eval-every 2 --batch-tokens 400 --lr 0.01'
TRAIN = ('--vocab-size 90 --d-model 32 --d-ff 64 --layers 1 --heads 2 --dropout 0 --temperature 1 --batch-tokens 300 '
         '--dtype float32 --lr 0.02 --steps 90 --eval-every 90')  # enough for a BLEU above 0


NO_STEPS = TRAIN.replace('--steps 90', '')


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


def run_sweep(name, corpus, run, *more, train=TRAIN, specialize=SHORT):
    """One sweep in this process. Returns what it printed, and the calls of scripts that it took."""
    out = io.StringIO()
    argv = ['sweep.py', name, '--data', str(corpus), '--run', str(run), '--device', 'cpu', '--train', train,
            '--specialize', specialize, '--steps', '90', *more]
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


def bleu(folder, system):
    """The mean BLEU of a system over all directions, as translate.py wrote it."""
    found = json.loads((folder / f'test.{system}' / 'scores.json').read_text(encoding='utf-8'))
    return found['means']['all']['BLEU']


def table(text, first):
    """The cells of the rows of a table that begin with this text."""
    return [re.split(r'\s{2,}', line) for line in text.splitlines() if re.match(rf'{re.escape(first)}(\s\s|$)', line)]


def check_row(text, label, path):
    """The row of a system with one seed: loss, BLEU, sparsity and parameters are those of its checkpoint."""
    (_, loss, score, *_, sparsity, parameters, _), = table(text, label)
    checkpoint = load_checkpoint(path)
    assert float(loss) == pytest.approx(sum(checkpoint.info['valid']) / len(checkpoint.tasks), abs=0.00051)
    assert float(score) == pytest.approx(bleu(path.parent, path.stem), abs=0.0051)
    assert float(sparsity) == pytest.approx(1 - checkpoint.model.masks.double().mean().item(), abs=0.0051)
    whole = sum(p.numel() for p in checkpoint.model.parameters())
    assert (int(parameters.replace(',', '')) == whole) == checkpoint.model.masks.all()
    return checkpoint


def check_pair(text, label, one, other):
    """The row that compares two checkpoints with one seed: the difference of their scores, inside its interval."""
    (_, by_seed, mean, interval, *_, wins, ties, losses), = table(text, label)
    difference = bleu(one.parent, one.stem) - bleu(other.parent, other.stem)
    assert float(by_seed) == pytest.approx(difference, abs=0.0051) and mean == by_seed
    low, high = map(float, interval.split())
    assert low <= float(mean) <= high
    assert int(wins) + int(ties) + int(losses) == len(load_checkpoint(one).tasks)


def logs(run):
    return {path: path.stat().st_mtime_ns for path in run.rglob('*.log')}


def small_args(corpus_folder, run, **more):
    return Namespace(**{**dict(run=run, data=str(corpus_folder), device='cpu', seed=1, seeds=1, steps=2000, bar=None,
                               train=TRAIN.split(), specialize=SHORT.split()), **more})


def test_from_a_base_to_scores(corpus_folder, tmp_path, capsys):
    """Two seeds: each script runs once, other flags are a one-line error, and differences are those of the scores."""
    args = small_args(corpus_folder, tmp_path, seeds=2)
    dense, own = runs.System('dense', masks='dense'), runs.System('own', masks='own', k=50)
    with scripts_here() as calls:
        runs.train_bases(args, {'base': ['--heads', 4]})
        runs.measure(args, [dense, own])
        before, names = logs(tmp_path), [Path(call[0]).stem for call in calls]
        assert names == ['train', 'profile'] * 2 + ['specialize'] * 4 + ['translate'] * 4
        runs.train_bases(args, {'base': ['--heads', 4]})
        runs.measure(args, [dense, own])
        assert len(calls) == 12 and logs(tmp_path) == before
        with pytest.raises(UserError, match='base.log is of another command'):
            runs.train_bases(args, {'base': ['--heads', 2]})
    settings = load_checkpoint(tmp_path / 'seed2' / 'base' / 'base.pt').info['settings']
    assert [settings[name] for name in ('heads', 'd_ff', 'steps', 'seed')] == [4, 64, 90, 2]  # the last flag counts
    capsys.readouterr()
    (row,) = runs.print_results([dense, own], [(own, dense)])
    folders = [tmp_path / f'seed{seed}' / 'base' for seed in (1, 2)]
    expected = [bleu(folder, 'specialized.k50') - bleu(folder, 'dense') for folder in folders]
    assert row['differences'] == pytest.approx(expected) and row['mean'] == pytest.approx(sum(expected) / 2)
    assert bleu(folders[0], 'dense') > 0 and sum(row['verdicts']) == 2 * 4
    out = capsys.readouterr().out
    assert f'{expected[0]:+.2f} {expected[1]:+.2f}' in out and ' to ' in table(out, 'dense')[0][1]


def test_what_a_log_cannot_show_is_refused(corpus_folder, tmp_path):
    """Another beam, another test text, another precision, another base: each is one line, and no table is made."""
    data, run = tmp_path / 'data', tmp_path / 'run'
    shutil.copytree(corpus_folder, data)
    args, folder = small_args(data, run), run / 'seed1' / 'base'
    systems = runs.System('base'), runs.System('dense', masks='dense')

    def measure():
        with scripts_here() as calls:
            runs.measure(args, systems)
        return len(calls)

    def refuses(reason):
        with pytest.raises(UserError, match=reason):
            measure()
    with scripts_here():
        runs.train_bases(args, {'base': []})
    assert measure() == 3 and measure() == 0
    flags = ['--run', folder, '--model', 'dense.pt', '--test', '--beam', 2]
    assert in_this_process(ROOT / 'translate.py', flags)[0] == 0
    refuses(r'test.dense is of another beam, base or text; delete .*test.dense.log')
    (folder / 'test.dense.log').unlink()
    assert measure() == 1
    text = data / 'test.de'
    before = text.read_bytes()
    text.write_bytes(before.upper())
    refuses('another beam, base or text')
    text.write_bytes(before)
    path = folder / 'dense.pt'
    before = path.read_bytes()
    for change, reason in (({'dtype': 'bfloat16'}, 'not trained in the precision of'),
                           ({'base': '0' * 16}, 'made from another base than the one beside it')):
        save_checkpoint(path, replace(load_checkpoint(path), **change))
        refuses(reason)
        path.write_bytes(before)
    assert measure() == 0


def found(bleus, samples):
    """A Found with these scores, by direction, and these samples of theirs."""
    samples = torch.tensor(samples, dtype=torch.double)
    return runs.Found(losses={}, bleus=bleus, samples=samples, pairs={}, parameters={}, sparsity=0.0, stored=1, size=1,
                      training=1, seconds=1)


def test_an_interval_takes_sentences_and_seeds_together():
    """With one seed it is the bootstrap's. With several, Student's t adds the error of their mean."""
    spread = torch.randn(20_000, generator=torch.Generator().manual_seed(3)).double()
    zero = spread * 0
    one, other = (runs.System(name) for name in ('one', 'other'))

    def interval(differences, scale):
        for seed, difference in enumerate(differences):
            one.found[seed] = found({'en-de': 20 + difference}, [(20 + difference + scale * spread).tolist()])
            other.found[seed] = found({'en-de': 20.0}, [(20 + zero).tolist()])
        row = runs.compare(one, other)
        return row['mean'], row['low'], row['high']
    assert interval([1.0], 0.5) == pytest.approx((1, 1 - 0.98, 1 + 0.98), abs=0.03)
    one.found.clear(), other.found.clear()
    assert interval([0.0, 1.0, 2.0], 0.0) == pytest.approx((1, 1 - 4.303 / 3 ** 0.5, 1 + 4.303 / 3 ** 0.5), abs=0.05)
    mean, low, high = interval([1.0, 1.0, 1.0], 0.5)  # equal seeds do not narrow it
    assert (mean, low, high) == pytest.approx((1, 1 - 0.98, 1 + 0.98), abs=0.03)
    for row, word in (((0.1, 0.4), 'better, by less than 0.5'), ((0.1, 0.6), 'better'), ((-0.7, -0.1), 'worse'),
                      ((-0.4, 0.3), 'within 0.5 BLEU'), ((-0.6, 0.3), 'open')):
        assert runs.scoring.verdict(dict(zip(('low', 'high'), row))) == word


def test_an_interval_covers_the_truth_often_enough():
    """Simulated, with a true difference of 0: sentences and seeds change it, and so do both together."""
    generator, covered, n = torch.Generator().manual_seed(1), 0, 300
    one, other = (runs.System(name) for name in ('one', 'other'))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.double)
    for _ in range(n):
        sentences, by_sentence = normal(1).item(), normal(500)  # (samples,): the bootstrap's idea of the former
        for seed, (of_seed, both) in enumerate(normal(3, 2).tolist()):
            difference = 0.25 * (sentences + of_seed + both)
            samples = difference + 0.25 * (by_sentence + normal(500))  # (samples,)
            one.found[seed] = found({'en-de': 20 + difference}, [(20 + samples).tolist()])
            other.found[seed] = found({'en-de': 20.0}, [[20.0] * 500])
        row = runs.compare(one, other)
        covered += row['low'] <= 0 <= row['high']
    assert covered / n >= 0.95  # it was 0.99


def test_a_script_that_fails_is_one_line(corpus_folder, tmp_path):
    with pytest.raises(UserError, match=r'train.py in .*base: error: --vocab-size 9999 is more than'):
        run_sweep('controls', corpus_folder, tmp_path, train=f'{TRAIN} --vocab-size 9999')


@pytest.mark.slow
def test_controls_are_in_a_table_and_compared(controls, run):
    base = run / 'seed1' / 'base'
    for k in (95, 70, 50):
        for masks in ('own', 'random', 'permuted', 'reverse', 'shared'):
            path = base / checkpoint_name(masks, k, k)
            settings = check_row(controls, f'{masks} {k}', path).info['settings']
            assert (settings['masks'], settings['k'], settings['steps']) == (masks, k, 4)
            check_pair(controls, f'{masks} {k} - dense', path, base / 'dense.pt')
            if masks != 'own':
                check_pair(controls, f'own {k} - {masks} {k}', base / checkpoint_name('own', k, k), path)
    check_row(controls, 'base', base / 'base.pt')
    check_row(controls, 'dense', base / 'dense.pt')
    check_pair(controls, 'dense - base', base / 'dense.pt', base / 'base.pt')


@pytest.mark.slow
def test_a_finished_sweep_runs_no_script_again(controls, corpus_folder, run):
    before = logs(run)
    again, calls = run_sweep('controls', corpus_folder, run)
    assert not calls and logs(run) == before and len(before) >= 2 + 16 + 17  # more if other sweeps came before
    assert table(again, 'own 70') == table(controls, 'own 70')


@pytest.mark.slow
def test_other_flags_are_refused(controls, corpus_folder, run):
    arguments = ['controls', '--data', corpus_folder, '--run', run, '--device', 'cpu', '--train', TRAIN + ' --steps 5',
                 '--specialize', SHORT, '--steps', 90]
    code, out, err = in_this_process(ROOT / 'experiments' / 'sweep.py', arguments)
    assert code == 2 and err.count('\n') == 1 and 'base.log is of another command' in err and 'delete' in err


@pytest.mark.slow
def test_k_compares_each_k_with_dense_and_draws(controls, corpus_folder, run):
    out, calls = run_sweep('k', corpus_folder, run)
    base = run / 'seed1' / 'base'
    for k in (30, 40, 50, 70, 95):
        for masks in ('own', 'random', 'permuted'):
            check_row(out, f'{masks} {k}', base / checkpoint_name(masks, k, k))
            check_pair(out, f'{masks} {k} - dense', base / checkpoint_name(masks, k, k), base / 'dense.pt')
    trained = [call for call in calls if 'specialize.py' in str(call[0])]
    assert len(trained) == 2 * 3  # the sweep of controls has made those of 50, 70 and 95
    assert all((run / f'k.{suffix}').is_file() for suffix in ('png', 'svg'))
    out, calls = run_sweep('k', corpus_folder, run, '--k', '62.5', '70')
    assert not table(out, 'own 50') and table(out, 'permuted 62.5') and len(calls) == 2 * 3


@pytest.mark.slow
def test_depth_trains_a_base_for_each_depth(controls, corpus_folder, run):
    out, _ = run_sweep('depth', corpus_folder, run)
    for layers, name in ((1, 'base'), (2, 'layers2'), (3, 'layers3')):
        base = run / 'seed1' / name
        for masks, file in (('base', 'base.pt'), ('dense', 'dense.pt'), ('own', 'specialized.pt')):
            assert check_row(out, f'{layers} layers, {masks}', base / file).model.config.layers == layers
        check_pair(out, f'{layers} layers, own - {layers} layers, dense', base / 'specialized.pt', base / 'dense.pt')


def check_equal_cost(out, one, other):
    """The two have equally many parameters for one direction, and are compared."""
    (row,), (other_row,) = table(out, one), table(out, other)
    sizes = [int(cells[-2].replace(',', '')) for cells in (row, other_row)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    (pair,) = table(out, f'{one} - {other}')
    assert float(pair[2]) == pytest.approx(float(row[2]) - float(other_row[2]), abs=0.011)


@pytest.mark.slow
def test_cost_compares_models_of_equal_size_and_of_equal_training(corpus_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp('cost')
    out, _ = run_sweep('cost', corpus_folder, run, '--steps', '60', train=NO_STEPS, specialize='--eval-every 60')
    for k in (70, 50):
        for masks in ('own', 'random'):
            check_equal_cost(out, f'{masks} {k}', f'dense, as narrow as k = {k}')
        longer = f'the same, trained at the cost of k = {k}'
        check_equal_cost(out, f'own {k}', longer)
        costs = [float(table(out, label)[0][-1]) for label in ('dense', longer, f'own {k}')]
        assert costs == pytest.approx([1] * 3, abs=0.02)
    assert (run / 'cost.png').is_file()
    some, calls = run_sweep('cost', corpus_folder, run, '--k', '50', '--steps', '60', train=NO_STEPS,
                            specialize='--eval-every 60')
    assert not calls and table(some, 'own 50') == table(out, 'own 50') and not table(some, 'own 70')


@pytest.mark.slow
def test_wide_keeps_as_many_neurons_as_the_usual_base_has(corpus_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp('wide')
    out, _ = run_sweep('wide', corpus_folder, run, '--times', '2', '--steps', '60', train=NO_STEPS,
                       specialize='--eval-every 60')
    check_equal_cost(out, 'own, 64 of 128', 'dense')
    check_equal_cost(out, 'random, 64 of 128', 'dense')
    whole, longer = (load_checkpoint(run / 'seed1' / name / 'base.pt') for name in ('wide128', 'longer128'))
    assert whole.model.config.d_ff == 128 and longer.model.config.d_ff == 64
    assert longer.info['settings']['steps'] > whole.info['settings']['steps'] == 60
    assert table(out, 'own, 64 of 128 - dense, trained at the cost of 128 neurons')


@pytest.mark.slow
def test_factors_vary_one_thing_at_a_time(corpus_folder, tmp_path_factory):
    """The corpus also has a smaller language, whose resource level the system with few directions lacks."""
    corpus, run = tmp_path_factory.mktemp('uneven') / 'corpus', tmp_path_factory.mktemp('factors')
    shutil.copytree(corpus_folder, corpus)
    for split in ('train', 'valid', 'test'):
        for language, other in (('en', 'en'), ('it', 'fr')):
            lines = (corpus / f'{split}.{other}').read_text(encoding='utf-8').splitlines()
            text = ''.join(f'{line}\n' for line in lines[:20 if split == 'train' else None])
            (corpus / f'{split}.en-it.{language}').write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match='the experiment sets --steps itself'):
        run_sweep('factors', corpus, run)
    out, _ = run_sweep('factors', corpus, run, '--steps', '16', train=NO_STEPS, specialize='--eval-every 8')
    base = run / 'seed1' / 'base'
    for masks in ('random', 'permuted', 'family', 'dropout'):
        check_pair(out, f'{masks} 70 - dense', base / f'{masks}.pt', base / 'dense.pt')
        check_pair(out, f'own 70 - {masks} 70', base / 'specialized.pt', base / f'{masks}.pt')
    for side, half in (('encoder', slice(0, 1)), ('decoder', slice(1, 2))):
        masks = load_checkpoint(base / f'specialized.k{"70-100" if side == "encoder" else "100-70"}.pt').model.masks
        assert not masks[:, half].all() and masks.sum() == masks[:, half].sum() + masks[:, half].numel()
        assert table(out, f'own 70, {side} alone - dense')
    (few,), (all_of_it,) = table(out, 'own 70, four directions'), table(out, 'own 70')
    assert few.count('-') == 2 and all_of_it.count('-') == 0
    for label in ('masks for longer', 'masks for less', 'four directions'):
        assert table(out, f'own 70, {label} - dense, {label}')


def test_neuron_dropout_drops_as_many_as_own_masks_do_and_only_in_training():
    config = tiny_model().config
    own = torch.rand(config.n_tasks, 4, config.d_ff, generator=torch.Generator().manual_seed(1)) < 0.5
    model = neuron_dropout.NeuronDropout(config, own)
    task = torch.tensor([2, 0, 2])
    first, second = (torch.stack(model.task_masks(task)).squeeze(2).transpose(0, 1) for _ in range(2))  # (B, L, F)
    for kept in (first, second):
        assert torch.equal((kept > 0).sum(-1), model.own[task].sum(-1)) and torch.equal(kept[0], kept[2])
        assert kept.sum(-1).tolist() == [[pytest.approx(16)] * 4] * 3  # scaled up to the sum of all neurons
    assert not torch.equal(first, second)
    assert all(mask.all() for mask in model.eval().task_masks(task))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='Ctrl-C cannot be sent to a process there')
def test_an_interrupted_training_is_resumed(corpus_folder, tmp_path):
    """Ctrl-C stops the sweep and its scripts, as in a terminal; the same flags resume the training."""
    train = f'{TRAIN} --steps 400 --eval-every 20'
    command = [sys.executable, str(ROOT / 'experiments' / 'sweep.py'), 'controls', '--data', str(corpus_folder),
               '--run', str(tmp_path), '--device', 'cpu', '--train', train, '--specialize', SHORT, '--steps', '2000']
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, encoding='utf-8',
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    last = tmp_path / 'seed1' / 'base' / 'base.last.pt'
    while not last.exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and err == 'interrupted; the same command goes on\n'
    stopped = load_checkpoint(last).training['progress']['step']
    assert 20 <= stopped < 400

    args = small_args(corpus_folder, tmp_path, train=train.split())
    runs.together(lambda _: runs.run_script(args, 1, 'train', last.parent, 'base', []), [None])
    assert 'resume=True' in (last.parent / 'base.log').read_text(encoding='utf-8')
    with (last.parent / 'base.csv').open(encoding='utf-8', newline='') as file:
        assert [int(row['step']) for row in csv.DictReader(file)] == list(range(20, 401, 20))


@pytest.mark.slow
def test_bench_reports_every_measurement(corpus_folder, tmp_path):
    command = [sys.executable, ROOT / 'experiments' / 'bench.py', '--data', corpus_folder, '--d-model', 16,
               '--d-ff', 32, '--vocab-size', 90, '--rounds', 1, '--threads', 1]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, encoding='utf-8')
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    numbers = {name: value for name, value in found.items() if not isinstance(value, str)}
    assert len(numbers) >= 30 and all(value > 0 for name, value in numbers.items() if 'peak memory' not in name)
    assert found['parameters of the sub-network at k = 70'] < found['parameters of the sub-network at k = 95'] < 1


@pytest.mark.parametrize('word', ['--steps', '--steps=9', '--st', '--seed'])
def test_flags_that_an_experiment_sets_itself_are_refused(corpus_folder, tmp_path, word):
    args = small_args(corpus_folder, tmp_path, train=[word, '9'], specialize=[])
    with pytest.raises(UserError, match='the experiment sets --s'):
        runs.refuse(args, '--steps', '--seed')
    args.train = ['--d-ff', '9', '--lr', '-1']
    runs.refuse(args, '--steps', '--seed')
