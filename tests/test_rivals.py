"""LaSS: each direction through its own weights."""
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_batch, tiny_model
from test_experiments import in_this_process
from test_scripts import SHORT, SMALL, succeed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'experiments'))

import lass  # noqa: E402

from minispec.checkpoint import load_base, load_checkpoint  # noqa: E402


@pytest.fixture
def model():
    """The tiny model as LaSS, with half of the weights of each task."""
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
    assert not torch.equal(weights[0], weights[2])
    out = succeed('translate.py', '--run', tmp_path, '--test', '--beam', 1, '--src', 'en', '--tgt', 'de', '--model',
                  'lass.en-de.pt')
    assert '\nen-de ' in out
