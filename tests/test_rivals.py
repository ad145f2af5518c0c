"""Other methods: LaSS, in which each direction has its own weights, and the tables of all."""
import contextlib
import io
import json
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import make_batch, tiny_model
from test_experiments import NO_STEPS, check_pair, check_row, in_this_process, scripts_here, table
from test_scripts import SHORT, SMALL, fail, succeed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'experiments'))

import lass  # noqa: E402
import rivals  # noqa: E402
import runs  # noqa: E402

from minispec.checkpoint import load_base, load_checkpoint  # noqa: E402


@pytest.fixture
def model():
    """The tiny model as LaSS, in which each task keeps a random half of the weights."""
    tiny = tiny_model()
    model = lass.LaSS(tiny.config)
    model.load_state_dict(tiny.state_dict())
    model.masks.fill_(True)
    generator = torch.Generator().manual_seed(1)
    model.kept = {name: torch.rand(3, *weight.shape, generator=generator) < 0.5
                  for name, weight in lass.largest(model, 0.5).items()}
    return model


def test_a_mixed_batch_is_what_single_ones_are(model):
    lengths, tasks = [(4, 5), (3, 6), (7, 2), (2, 3)], [2, 0, 1, 0]
    model.eval()
    whole = model(*make_batch(lengths, tasks))
    batch = make_batch(lengths, tasks)
    found = []
    for row, task in enumerate(tasks):
        part = lass.LaSS(model.config)
        part.load_state_dict({**model.state_dict(), **model.weights_of(task)})
        one = [x[row:row + 1] for x in batch]
        found.append(lass.Transformer.forward(part.eval(), *one))
    assert torch.allclose(whole, torch.cat(found), atol=1e-5)


def test_a_weight_that_a_task_does_not_keep_gets_no_gradient_from_it(model):
    model(*make_batch([(4, 5), (3, 6)], [1, 1])).sum().backward()
    for name, weight in model.named_parameters():
        if name in model.kept:
            assert not weight.grad[~model.kept[name][1]].any() and weight.grad[model.kept[name][1]].any(), name
    assert 'embedding.weight' not in model.kept and len(model.kept) == 2 * (3 + 2) + 2 * (6 + 2)


def test_the_largest_weights_stay():
    model = torch.nn.Linear(2, 2)
    model.weight.data.copy_(torch.tensor([[0.1, -4.0], [3.0, -0.2]]))
    assert lass.largest(model, 0.5)['weight'].tolist() == [[False, True], [True, False]]
    assert lass.largest(model, 0.75)['weight'].tolist() == [[False, True], [True, True]]
    assert lass.largest(model, 0.75, torch.rand_like)['weight'].sum() == 3


@pytest.mark.slow
def test_lass_ends_in_a_checkpoint_for_each_direction(corpus_folder, tmp_path):
    succeed('train.py', '--data', corpus_folder, '--run', tmp_path, '--device', 'cpu', *SMALL, *SHORT)
    arguments = ['--run', tmp_path, '--steps', 4, '--eval-every', 2, '--tune-steps', 20]
    code, out, err = in_this_process(ROOT / 'experiments' / 'lass.py', arguments)
    assert code == 0 and 'wrote' in out, err
    base = load_base(tmp_path / 'base.pt')
    weights = []
    for task in base.tasks:
        part = load_checkpoint(tmp_path / f'lass.{task}.pt')
        assert part.tasks == [task] and len(part.info['valid']) == 1
        weight = part.model.ffns[0].w1.weight
        assert (weight == 0).double().mean() == pytest.approx(0.3, abs=0.01)
        weights.append(weight == 0)
    assert not torch.equal(weights[0], weights[2]) and not (tmp_path / 'lass.pt').exists()
    code, out, err = in_this_process(ROOT / 'experiments' / 'lass.py', [*arguments, '--resume'])
    assert code == 0 and out.endswith('all was finished before\n'), err
    code, out, err = in_this_process(ROOT / 'experiments' / 'lass.py', [*arguments, '--random'])
    assert code == 0, err
    random = [load_checkpoint(tmp_path / f'random-lass.{task}.pt').model.ffns[0].w1.weight == 0 for task in base.tasks]
    assert [each.double().mean().item() for each in random] == pytest.approx([0.3] * len(random), abs=0.01)
    # Two directions drop much the same weights, those that are small in the base. Random ones share 30% of zeros.
    shared = [(one[0] & one[2]).sum() / one[0].sum() for one in (weights, random)]
    assert shared[0] > 0.8 and shared[1] == pytest.approx(0.3, abs=0.1)
    out = succeed('translate.py', '--run', tmp_path, '--test', '--beam', 1, '--src', 'en', '--tgt', 'de', '--model',
                  'lass.en-de.pt')
    assert '\nen-de ' in out
    flags = ['translate.py', '--run', tmp_path, '--model', 'lass.en-de.pt']
    assert 'no direction was trained from de; the model knows en-de' in fail(*flags, '--src', 'de', '--tgt', 'en')
    assert 'does not translate en-fr, de-en, fr-en' in fail('translate.py', '--run', tmp_path, '--model', 'base.pt',
                                                             '--test', '--compare', 'lass.en-de.pt')
    shutil.copy(tmp_path / 'lass.en-de.pt', tmp_path / 'base.pt')
    assert 'is no base' in fail('profile.py', '--run', tmp_path)


def test_parts_are_merged_into_one_system():
    """Two models of one direction each, merged as separate models, and as parts of one model."""
    parts = []
    for number, task in enumerate(['en-de', 'de-en'], 1):
        samples = torch.full((1, 3), 10.0 * number)
        parts.append(runs.System(task, found={1: runs.Found({task: number}, {task: 10 * number}, samples, {task: 7},
                                                            {task: 50 * number}, 0.2 * number, 50, 8, 100, 6)}))
    alone, joint = (rivals.merge('all', parts, joint).found[1] for joint in (False, True))
    assert alone.bleus == {'en-de': 10, 'de-en': 20} and joint.loss == 1.5 and alone.width == 75
    assert alone.loss != alone.loss  # NaN: its subwords are not those of other models
    assert alone.samples.tolist() == [[10] * 3, [20] * 3] and alone.sparsity == pytest.approx(0.3)
    assert (alone.stored, alone.size, alone.training, alone.seconds) == (100, 16, 200, 12)
    assert (joint.stored, joint.size, joint.training, joint.seconds) == (50, 16, 100, 6)


@pytest.mark.slow
def test_rivals_prints_scores_costs_and_gains(corpus_folder, tmp_path):
    out = io.StringIO()
    argv = ['rivals.py', '--data', str(corpus_folder), '--run', str(tmp_path), '--device', 'cpu', '--steps', '90',
            '--bilingual-steps', '60', '--train', NO_STEPS, '--specialize', '--eval-every 90']
    for again in (False, True):
        with patch.object(sys, 'argv', argv), scripts_here() as calls, contextlib.redirect_stdout(out):
            rivals.main()
        assert bool(calls) != again
    text = out.getvalue()
    results, costs, gains = re.split(r'\n(?= +(?:extra|training pairs))', text[:text.rindex('data=')], maxsplit=2)
    base = tmp_path / 'seed1' / 'base'
    check_row(results, 'own 70', base / 'specialized.pt')
    for label in ('adapters', 'unfrozen-adapters', 'random'):
        pair = f'{label} 70 - dense' if label == 'random' else f'{label} - dense'
        check_pair(results, pair, base / f'{label}.pt', base / 'dense.pt')
    dense, adapted = (float(table(results, label)[0][-1]) for label in ('dense', 'adapters'))
    before, after = (runs.parameters(load_checkpoint(base / name).model) for name in ('base.pt', 'adapters.pt'))
    assert adapted / dense == pytest.approx((before + after) / (2 * before), rel=0.02)  # the base had no adapters
    corpus_tasks = load_base(base / 'base.pt').tasks
    homes = {'LaSS': base / 'test.lass.TASK', 'LaSS, random weights': base / 'test.random-lass.TASK'}
    for folder in ('bilingual', 'bilingual-longer'):
        homes[folder.replace('-', ', ')] = tmp_path / 'seed1' / folder / 'TASK' / 'test.dense'
    for label, folder in homes.items():
        scores = [bleu_of(Path(str(folder).replace('TASK', task)), task) for task in corpus_tasks]
        assert float(table(results, label)[0][2]) == pytest.approx(sum(scores) / len(scores), abs=0.0051)
        extra = int(table(costs, label)[0][1].replace(',', ''))
        assert extra > 10_000 if 'bilingual' in label else extra == 0
    check_pair(results, 'own 70 - random 70', base / 'specialized.pt', base / 'random.pt')
    selected, drawn = (float(table(results, label)[0][2]) for label in list(homes)[:2])
    assert float(table(results, 'LaSS - LaSS, random weights')[0][2]) == pytest.approx(selected - drawn, abs=0.011)
    dense = bleu_of(base / 'test.dense', 'en-de')
    first, last = table(gains, 'en-de')  # the last scores are those of the longer training
    assert float(last[2]) == pytest.approx(scores[corpus_tasks.index('en-de')], abs=0.0051)
    assert float(last[3]) == pytest.approx(dense - float(last[2]), abs=0.011)
    steps = [load_base(tmp_path / 'seed1' / 'bilingual' / task / 'base.pt').info['settings']['steps']
             for task in corpus_tasks]
    assert sum(steps) == pytest.approx(90, abs=2)
    assert (tmp_path / 'rivals.png').is_file()


def bleu_of(folder, task):
    return json.loads((folder / 'scores.json').read_text(encoding='utf-8'))['scores'][task]['BLEU']
