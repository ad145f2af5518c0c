"""The loop: its arithmetic, its checkpoints, and that an interrupted run goes on as if nothing had been."""
import copy
import os
import shutil
import signal
import sys
from argparse import Namespace

import pytest
import torch
from conftest import make_batch

from minispec import UserError, training
from minispec.checkpoint import Checkpoint, fingerprint, load_checkpoint, save_checkpoint
from minispec.corpora import Corpus
from minispec.data import Bitext, read_lines
from minispec.model import PAD, Config, Transformer
from minispec.training import Diverged, SmoothedCrossEntropy, learning_rate, pick_device, pick_dtype, train, update, validate
from minispec.vocabulary import Vocabulary


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def test_an_update_over_small_batches_is_one_over_a_large_one(model):
    sizes, tasks = [(5, 7), (3, 4), (8, 2), (5, 9)], [0, 1, 2, 1]
    whole = make_batch(sizes, tasks)
    parts = [type(whole)(*(x[part] for x in whole)) for part in (slice(0, 1), slice(1, 4))]
    other = copy.deepcopy(model)
    sgd, other_sgd = (torch.optim.SGD(x.parameters(), lr=0.1) for x in (model, other))  # Adam would magnify rounding
    loss, tokens = update(model, sgd, [whole], torch.float32)
    other_loss, other_tokens = update(other, other_sgd, parts, torch.float32)
    assert tokens == other_tokens == 26 and loss == pytest.approx(other_loss, rel=1e-5)
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_an_update_by_hand(model, batch):
    """Label smoothing 0.1, the mean over tokens, and a gradient that is clipped to norm 1 before the step."""
    before = copy.deepcopy(model)
    loss, _ = update(model, torch.optim.SGD(model.parameters(), lr=1.0), [batch], torch.float32)
    log_probs = before.project(before(*batch)).log_softmax(-1)
    targets = batch.tgt[:, 1:][batch.tgt[:, 1:] != PAD]
    own = log_probs[torch.arange(len(targets)), targets]
    expected = -(0.9 * own + 0.1 * log_probs.mean(-1)).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    norm = torch.cat([p.grad.flatten() for p in before.parameters()]).norm()
    assert norm > 1
    for after, old in zip(model.parameters(), before.parameters()):
        torch.testing.assert_close(after, old - old.grad / norm, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('n', [0, 1, 1100])
def test_the_loss_in_slices_is_torchs_loss_in_one_piece(n):
    """Value and both gradients; 1,100 tokens are three slices."""
    torch.manual_seed(0)
    x, weight, targets = torch.randn(n, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True), torch.randint(30, (n,))
    expected = torch.nn.functional.cross_entropy(x @ weight.T, targets, reduction='none', label_smoothing=0.1)  # (n,)
    gradients = torch.autograd.grad(expected.sum() / 7, (x, weight))
    loss, each = SmoothedCrossEntropy.apply(x, weight, targets)
    torch.testing.assert_close(each, expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss.detach(), each.sum())
    for found, right in zip(torch.autograd.grad(loss / 7, (x, weight)), gradients):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-5)


def test_the_tasks_whose_loss_is_no_number_are_named_and_no_weight_moves(model, batch):
    lost = (batch.task == 2)[:, None, None]  # (B, 1, 1)
    model.encoder_norm.register_forward_hook(lambda module, inputs, x: x.masked_fill(lost, torch.nan))
    before = fingerprint(model)
    with pytest.raises(Diverged) as diverged:
        update(model, adam(model), [batch], torch.float32)
    assert diverged.value.args == ([2],)
    assert fingerprint(model) == before


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_saved(setting, tmp_path):
    setting(tmp_path / 'base.pt', steps=3)
    before = (tmp_path / 'base.pt').read_bytes()
    with pytest.raises(UserError, match='the loss of .*en-de.* at step 2; .*try a lower --lr'):
        setting(tmp_path / 'base.pt', steps=9, lr=1e30)
    assert (tmp_path / 'base.pt').read_bytes() == before


def test_a_run_is_not_resumed_on_other_data(setting, tmp_path):
    setting(tmp_path / 'base.pt', steps=3)
    state = load_checkpoint(tmp_path / 'base.last.pt')
    save_checkpoint(tmp_path / 'base.last.pt', state._replace(training={**state.training, 'text': 'other'}))
    with pytest.raises(UserError, match='--resume: the training text is not that of'):
        setting(tmp_path / 'base.pt', resume=True)


def test_training_never_moves_a_neuron_that_no_task_has(model, batch):
    """Exactly zero gradients stay exactly zero through clipping and the optimizer; other neurons do move."""
    model.masks[:, :, :5] = False
    model.masks[:, :, 5:] = True
    before = copy.deepcopy(model)
    optimizer = adam(model)
    for _ in range(3):
        update(model, optimizer, [batch], torch.float32)
    for ffn, old in zip(model.ffns, before.ffns):
        assert torch.equal(ffn.w1.weight[:5], old.w1.weight[:5]) and torch.equal(ffn.w1.bias[:5], old.w1.bias[:5])
        assert torch.equal(ffn.w2.weight[:, :5], old.w2.weight[:, :5])
        assert not torch.equal(ffn.w1.weight[5:], old.w1.weight[5:])


def test_learning_rate_rises_for_a_tenth_and_falls_to_nothing():
    rates = [learning_rate(step, 100, 2.0) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == rates[9] == pytest.approx(2.0)
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.05
    assert learning_rate(1, 1, 2.0) == 2.0


def test_an_unknown_device_is_said():
    with pytest.raises(UserError, match='--device tpu9'):
        pick_device('tpu9')


def test_the_precision_that_is_asked_for_is_taken(model, batch):
    assert pick_dtype('float32', model, batch) is torch.float32
    assert pick_dtype('bfloat16', model, batch) is torch.bfloat16


def test_measuring_the_precision_changes_nothing(model, batch):
    before, random = copy.deepcopy(model), torch.get_rng_state()
    assert pick_dtype('auto', model, batch) in (torch.float32, torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(x, y) and x.grad is None for x, y in zip(model.parameters(), before.parameters()))


def test_bfloat16_trains_about_as_float32_does(model, batch):
    other = copy.deepcopy(model)
    loss, _ = update(model, adam(model), [batch], torch.float32)
    other_loss, _ = update(other, adam(other), [batch], torch.bfloat16)
    assert other_loss == pytest.approx(loss, rel=0.02)
    assert all(p.dtype == torch.float32 for p in other.parameters())


@pytest.fixture
def setting(corpus_folder, tmp_path_factory):
    """Returns a function that trains a small model on the small corpus, with dropout on."""
    corpus = Corpus(corpus_folder)
    tasks = corpus.directions
    lines = [line for language in corpus.languages for line in read_lines(corpus_folder / f'train.{language}')]
    vocabulary = Vocabulary.train(lines, 80, corpus.languages)
    data, valid = (Bitext(corpus, split, tasks, vocabulary, 32, tmp_path_factory.mktemp('text')) for split in ('train', 'valid'))

    def run(path, steps=12, stop=None, resume=False, **settings):
        args = Namespace(**{**dict(steps=steps, batch_tokens=200, accumulate=2, lr=1e-2, temperature=2.0, dtype='float32', eval_every=3,
                                   patience=100, device='cpu', seed=4), **settings})
        if resume:
            checkpoint = load_checkpoint(path.with_suffix('.last.pt'))
        else:
            torch.manual_seed(0)
            model = Transformer(Config(len(vocabulary), len(tasks), d_model=16, d_ff=32, layers=1, heads=2, dropout=0.2, max_len=32))
            checkpoint = Checkpoint(model, vocabulary, tasks, {'phase': 'base'})
        if stop:  # the n-th evaluation is interrupted
            calls = iter(range(stop))
            original = training.validate

            def interrupted(*args):
                next(calls)
                return original(*args)
            training.validate = interrupted
            try:
                with pytest.raises(StopIteration):
                    train(checkpoint, data, valid, path, args)
            finally:
                training.validate = original
            return None
        return train(checkpoint, data, valid, path, args)
    run.valid = valid
    return run


def test_training_learns_and_keeps_the_best(setting, tmp_path):
    best = setting(tmp_path / 'base.pt', steps=60)
    kept = load_checkpoint(tmp_path / 'base.pt')
    assert best < 3.0 and sum(kept.info['valid']) / 4 == pytest.approx(best)
    again = validate(kept.model, setting.valid, 200)
    assert again.tolist() == pytest.approx(kept.info['valid'], rel=1e-5)


def test_resumed_is_uninterrupted_to_the_last_bit(setting, tmp_path):
    """Weights, optimizer, batches, dropout, schedule, best-so-far."""
    best = setting(tmp_path / 'whole.pt')
    setting(tmp_path / 'parts.pt', stop=2)
    assert setting(tmp_path / 'parts.pt', resume=True) == best
    for name in ('{}.pt', '{}.last.pt'):
        whole, parts = (load_checkpoint(tmp_path / name.format(x)) for x in ('whole', 'parts'))
        assert fingerprint(whole.model) == fingerprint(parts.model) and whole.info['valid'] == parts.info['valid']


@pytest.mark.parametrize('at', [1, 4, 6])
def test_ctrl_c_saves_and_goes_on_to_the_last_bit(setting, tmp_path, monkeypatch, at):
    """In the first step, between two validations, or in the step of one; the handler found is put back."""
    handler, steps = signal.getsignal(signal.SIGINT), iter(range(1, 99))

    def interrupted_update(*args):
        if next(steps) == at:
            signal.raise_signal(signal.SIGINT)
        return update(*args)
    best = setting(tmp_path / 'whole.pt')
    with monkeypatch.context() as patch:
        patch.setattr(training, 'update', interrupted_update)
        with pytest.raises(KeyboardInterrupt, match=f'saved after step {at}; to go on: python .* --resume'):
            setting(tmp_path / 'parts.pt')
    assert signal.getsignal(signal.SIGINT) is handler and load_checkpoint(tmp_path / 'parts.last.pt').info['step'] == at
    assert setting(tmp_path / 'parts.pt', resume=True) == best
    for name in ('{}.pt', '{}.last.pt'):
        whole, parts = (load_checkpoint(tmp_path / name.format(x)) for x in ('whole', 'parts'))
        assert fingerprint(whole.model) == fingerprint(parts.model) and whole.info['valid'] == parts.info['valid']


def test_ctrl_c_in_the_last_validation_is_not_forgotten(setting, tmp_path, monkeypatch):
    def interrupted_validate(*args):
        signal.raise_signal(signal.SIGINT)
        return validate(*args)
    best = setting(tmp_path / 'whole.pt', eval_every=99)
    with monkeypatch.context() as patch:
        patch.setattr(training, 'validate', interrupted_validate)
        with pytest.raises(KeyboardInterrupt, match='saved after step'):
            setting(tmp_path / 'parts.pt', eval_every=99)
    assert setting(tmp_path / 'parts.pt', resume=True, eval_every=99) == best


def test_ctrl_c_while_the_last_state_is_saved_is_not_forgotten(setting, tmp_path, monkeypatch):
    def interrupted_save(path, checkpoint):
        save_checkpoint(path, checkpoint)
        if path.name == 'parts.last.pt':
            signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(training, 'save_checkpoint', interrupted_save)
    with pytest.raises(KeyboardInterrupt, match='^$'):
        setting(tmp_path / 'parts.pt', eval_every=99)
    assert load_checkpoint(tmp_path / 'parts.pt').info['step'] == 12


def test_a_second_ctrl_c_stops_at_once(setting, tmp_path, monkeypatch):
    def interrupted_update(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(training, 'update', interrupted_update)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
    with pytest.raises(KeyboardInterrupt, match='^$'):
        setting(tmp_path / 'base.pt')
    signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(setting, tmp_path):
    for name, seed in (('a', 4), ('b', 4), ('c', 5)):
        setting(tmp_path / f'{name}.pt', steps=3, seed=seed)
    a, b, c = (fingerprint(load_checkpoint(tmp_path / f'{name}.pt').model) for name in 'abc')
    assert a == b != c


def test_the_terminal_makes_no_difference(setting, tmp_path, monkeypatch):
    """With a progress bar or without."""
    for name, terminal in (('a', True), ('b', False)):
        monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)
        setting(tmp_path / f'{name}.pt', steps=3)
    a, b = (fingerprint(load_checkpoint(tmp_path / f'{name}.pt').model) for name in 'ab')
    assert a == b


def test_a_training_in_bfloat16_ends_within_2_percent_of_float32(setting, tmp_path):
    """In validation loss, and with other roundings all the way."""
    losses = [setting(tmp_path / f'{dtype}.pt', steps=30, dtype=dtype) for dtype in ('float32', 'bfloat16')]
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]


def test_weights_that_blew_up_are_not_kept(setting, tmp_path):
    with pytest.raises(UserError, match='loss is nan at step 1; .* --lr'):
        setting(tmp_path / 'base.pt', steps=1, lr=1e30)
    assert not list(tmp_path.iterdir())


def test_patience_ends_training(setting, tmp_path, capsys):
    setting(tmp_path / 'base.pt', steps=60, lr=1e-12, patience=2)  # a rate at which nothing is learned
    assert load_checkpoint(tmp_path / 'base.last.pt').info['step'] < 60


def test_validation_loss_is_the_mean_of_each_directions_tokens(model, batch):
    class One:
        @staticmethod
        def in_order(batch_tokens):
            yield batch

    losses = validate(model, One, 100)
    for task in range(3):
        rows = batch.task == task
        scores = model.project(model(batch.src[rows], batch.tgt[rows], batch.task[rows]))
        targets = batch.tgt[rows, 1:][batch.tgt[rows, 1:] != PAD]
        assert losses[task].item() == pytest.approx(torch.nn.functional.cross_entropy(scores, targets).item(), rel=1e-5)


# Checkpoints ---------------------------------------------------------------------------------------------------------

def test_a_checkpoint_brings_everything_back(setting, tmp_path):
    setting(tmp_path / 'base.pt', steps=1)
    first = load_checkpoint(tmp_path / 'base.pt')
    first.model.masks[1, 0, :7] = False
    save_checkpoint(tmp_path / 'copy.pt', first)
    second = load_checkpoint(tmp_path / 'copy.pt')
    assert second.model.config == first.model.config and second.tasks == first.tasks and second.info == first.info
    assert second.vocabulary.proto == first.vocabulary.proto
    assert torch.equal(second.model.masks, first.model.masks) and fingerprint(second.model) == fingerprint(first.model)
    assert not list(tmp_path.glob('*.part'))


def test_a_missing_checkpoint_names_the_script_that_makes_it(tmp_path):
    with pytest.raises(UserError, match='base.pt is not there; train.py makes it'):
        load_checkpoint(tmp_path / 'base.pt')


def test_a_full_disk_keeps_the_previous_file(setting, tmp_path):
    """A real one, as far as this process can tell: it may not write a file of more than 10,000 bytes."""
    resource = pytest.importorskip('resource')  # not on Windows
    setting(tmp_path / 'base.pt', steps=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match='^cannot write .*base.pt: File too large$'):
            setting(tmp_path / 'base.pt', steps=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written_keeps_the_previous_file(setting, tmp_path):
    """No permission would be the usual reason, but nothing is forbidden to the root user of a container."""
    setting(tmp_path / 'base.pt', steps=1)
    before = (tmp_path / 'base.pt').read_bytes()
    (tmp_path / f'base.pt.{os.getpid()}.part').mkdir()
    with pytest.raises(UserError, match='^cannot write .*base.pt: '):
        setting(tmp_path / 'base.pt', steps=1)
    assert (tmp_path / 'base.pt').read_bytes() == before


def test_a_run_folder_that_vanishes_is_said(setting, tmp_path, monkeypatch):
    def vanishing(*args):
        shutil.rmtree(tmp_path / 'run')
        return validate(*args)
    monkeypatch.setattr(training, 'validate', vanishing)
    with pytest.raises(UserError, match='^cannot write .*base.pt: No such file or directory$'):
        setting(tmp_path / 'run' / 'base.pt', steps=1)
