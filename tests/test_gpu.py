"""What a GPU computes is what the CPU computes. Skipped where there is none; MINISPEC_DEVICE=cpu tries the tests."""
import copy
import os

import pytest
import torch
from conftest import make_batch
from test_experiments import in_this_process
from test_scripts import ROOT, SHORT, SMALL, succeed

from minispec.checkpoint import load_checkpoint
from minispec.decoding import search
from minispec.model import PAD
from minispec.neurons import record
from minispec.runtime import pick_device
from minispec.training import make_optimizer, train_step

DEVICE = os.environ.get('MINISPEC_DEVICE') or pick_device('auto').type
pytestmark = pytest.mark.skipif(DEVICE == 'cpu' and 'MINISPEC_DEVICE' not in os.environ, reason='no CUDA, and no MPS')


@pytest.fixture
def twin(model):
    """The same model on the device."""
    return copy.deepcopy(model).to(DEVICE)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_a_step_is_that_of_the_cpu(model, twin, batch, dtype, tolerance):
    batches = [batch, make_batch([(5, 9), (8, 2)], [2, 0], seed=1)]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, twin)]  # Adam would magnify rounding
    loss, tokens = train_step(model, optimizers[0], batches, torch.float32)
    found = train_step(twin, optimizers[1], batches, dtype)
    assert found == (pytest.approx(loss, rel=tolerance), tokens)
    for name, weights in twin.state_dict().items():
        torch.testing.assert_close(weights.cpu(), model.state_dict()[name], atol=tolerance, rtol=tolerance)


def test_a_neuron_that_is_off_gets_no_gradient(twin, batch):
    """Exactly none, from sentences of the task for which it is off."""
    batch = batch._replace(task=torch.ones_like(batch.task))
    twin.project(twin(*batch.to(DEVICE))).logsumexp(-1).sum().backward()
    for ffn, mask in zip(twin.ffns, twin.masks[1]):
        off = ~mask
        assert off.any() and mask.any()
        assert not ffn.w1.weight.grad[off].any() and not ffn.w1.bias.grad[off].any()
        assert not ffn.w2.weight.grad[:, off].any() and ffn.w2.weight.grad[:, mask].any()


def test_recorded_counts_are_those_of_the_cpu(model, twin, batch):
    """Rounding decides values close to 0: a neuron's count may differ by 1, the sum of differences by 1 in 1,000."""
    counts, found = record(model, [batch]), record(twin, [batch.to(DEVICE)])
    assert counts.keys() == found.keys()
    for name in counts:
        difference = (counts[name] - found[name].cpu()).abs()
        assert difference.max() <= 1 and difference.sum() <= 1e-3 * counts[name].sum()


def test_beam_search_finds_what_the_cpu_finds(model, twin, batch):
    inputs = batch.src, batch.task, torch.tensor([3, 4, 5, 4]), torch.full((4,), 12)
    for beam in (1, 4):
        expected = search(model, *inputs, [PAD], beam=beam)
        assert search(twin, *(x.to(DEVICE) for x in inputs), [PAD], beam=beam) == expected


def test_training_on_the_device_lowers_the_loss(twin, batch):
    optimizer = make_optimizer(twin)
    losses = [train_step(twin, optimizer, [batch], torch.float32)[0] for _ in range(30)]
    assert losses[-1] < losses[0] and all(p.device.type == DEVICE for p in twin.parameters())


def test_the_four_scripts_run_and_resume(corpus_folder, tmp_path):
    flags = ['--run', tmp_path, '--device', DEVICE]
    succeed('train.py', '--data', corpus_folder, *flags, *SMALL, *SHORT)
    succeed('train.py', *flags, '--resume')
    succeed('profile.py', *flags, '--ablate')
    for masks in ('own', 'dense', 'random'):
        succeed('specialize.py', *flags, *SHORT, '--masks', masks)
    out = succeed('translate.py', *flags, '--beam', 2)
    assert 'specialized.pt' in out and load_checkpoint(tmp_path / 'specialized.pt').model.masks.device.type == 'cpu'
    succeed('translate.py', *flags, '--src', 'en', '--tgt', 'de', stdin=b'the dog\n')
    for script in ('lass', 'neuron_dropout'):
        code, _, err = in_this_process(ROOT / 'experiments' / f'{script}.py', [*flags, *SHORT])
        assert code == 0, err
