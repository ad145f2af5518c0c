"""Several processes train as one: torchrun's, with gloo, on this machine."""
import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_batch
from kill_campaign import curve
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from minispec.checkpoint import fingerprint, load_checkpoint
from minispec.training import train_step, validate

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
SMALL = ('--vocab-size 90 --d-model 16 --d-ff 32 --layers 1 --heads 2 --dropout 0.2 --batch-tokens 200 '
         '--eval-every 4').split()


class Valid:
    """Three batches for `validate`, which asks a Bitext for them."""
    batches = [make_batch([(5, 7), (3, 4)], [0, 1], seed=1), make_batch([(8, 2)], [2]), make_batch([(4, 4)], [1])]

    def eval_batches(self, batch_tokens):
        return self.batches


def share(batch, rank, world):
    return type(batch)(*(x[rank::world] for x in batch))


def one_of_two(rank, model, batches, folder):
    """What one of two processes does: a step with its share of the batches, and a validation."""
    distributed.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    model = copy.deepcopy(model)  # what `spawn` hands over lies in memory that both would write to
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = train_step(parallel, optimizer, [share(batch, rank, 2) for batch in batches], torch.float32)
    torch.save((result, model.state_dict(), validate(model, Valid(), 100)), f'{folder}/{rank}.pt')
    distributed.destroy_process_group()


def test_two_processes_take_the_step_of_one(model, batch, tmp_path):
    """With uneven shares, and none of a batch of one sentence: the same loss, tokens, weights and validation."""
    batches = [batch, make_batch([(5, 9), (8, 2), (3, 3)], [2, 0, 1], seed=1), make_batch([(4, 6)], [1], seed=2)]
    multiprocessing.spawn(one_of_two, (model, batches, tmp_path.as_posix()), nprocs=2)
    loss, tokens = train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), batches, torch.float32)
    losses = validate(model, Valid(), 100)
    for rank in (0, 1):
        (found_loss, found_tokens), weights, found_losses = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        assert found_loss == pytest.approx(loss, rel=1e-5) and found_tokens == tokens
        for name, right in model.state_dict().items():
            torch.testing.assert_close(weights[name], right, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found_losses, losses)


def torchrun(*command):
    # Without the --, it would take our --run for its own.
    two = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '--']
    return subprocess.Popen([sys.executable, *two, *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE,
                            encoding='utf-8')


def test_torchrun_trains_resumes_and_specializes(corpus_folder, tmp_path):
    """One process prints. A run that is stopped and resumed equals a whole one to the last bit, dropout included."""
    def run(name, *command):
        with torchrun(*command, '--data', corpus_folder, '--device', 'cpu', '--run', tmp_path / name) as process:
            assert process.stdout.read().count('wrote ') == 1
        assert process.returncode == 0

    train = ['train.py', *SMALL, '--steps', 40]
    run('whole', *train)
    with torchrun(*train, '--data', corpus_folder, '--device', 'cpu', '--run', tmp_path / 'parts') as process:
        next(line for line in process.stdout if line.startswith('      8 '))  # so the validation after 4 steps is saved
        process.terminate()
    run('parts', 'train.py', '--resume')
    whole, parts = (load_checkpoint(tmp_path / name / 'base.last.pt') for name in ('whole', 'parts'))
    assert fingerprint(whole.model) == fingerprint(parts.model) and whole.info['valid'] == parts.info['valid']
    assert curve(tmp_path / 'whole' / 'base.csv') == curve(tmp_path / 'parts' / 'base.csv')
    run('whole', 'specialize.py', '--masks', 'dense', '--batch-tokens', 200, '--steps', 4)
