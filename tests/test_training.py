"""The loop: its arithmetic, its files, and that a resumed run equals an uninterrupted one."""
import copy
import csv
import shutil
import signal
import sys
from argparse import Namespace
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pytest
import torch
from conftest import make_batch
from torch.nn.functional import cross_entropy

from minispec import UserError, training
from minispec.checkpoint import Checkpoint, fingerprint, load_checkpoint, save_checkpoint
from minispec.corpora import Corpus
from minispec.data import Bitext, Vocabulary
from minispec.files import locked
from minispec.model import PAD, Config, Transformer
from minispec.runtime import pick_device, pick_dtype
from minispec.training import Diverged, SmoothedCrossEntropy, go_on, learning_rate, train, train_step, validate


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-2)


# One step -------------------------------------------------------------------------------------------------------------

def test_a_step_over_small_batches_is_one_over_a_large_one(model):
    sizes, tasks = [(5, 7), (3, 4), (8, 2), (5, 9)], [0, 1, 2, 1]
    whole = make_batch(sizes, tasks)
    parts = [type(whole)(*(x[part] for x in whole)) for part in (slice(0, 1), slice(1, 4))]
    other = copy.deepcopy(model)
    sgd, other_sgd = (torch.optim.SGD(x.parameters(), lr=0.1) for x in (model, other))  # Adam would magnify rounding
    loss, tokens = train_step(model, sgd, [whole], torch.float32)
    other_loss, other_tokens = train_step(other, other_sgd, parts, torch.float32)
    assert tokens == other_tokens == 26 and loss == pytest.approx(other_loss, rel=1e-5)
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_step_by_hand(model, batch):
    """Label smoothing 0.1, the mean over tokens that are not PAD, a gradient clipped to norm 1 before the step."""
    before = copy.deepcopy(model)
    loss, tokens = train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), [batch], torch.float32)
    log_probs = before.project(before(*batch)).log_softmax(-1)
    targets = batch.tgt[:, 1:][batch.tgt[:, 1:] != PAD]
    own = log_probs[torch.arange(len(targets)), targets]
    expected = -(0.9 * own + 0.1 * log_probs.mean(-1)).mean()
    assert tokens == len(targets) and loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    norm = torch.cat([p.grad.flatten() for p in before.parameters()]).norm()
    assert norm > 1
    for after, old in zip(model.parameters(), before.parameters()):
        torch.testing.assert_close(after, old - old.grad / norm, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('n', [0, 1, 1100])
def test_the_loss_in_slices_is_torchs_loss_in_one_piece(n):
    """Value and both gradients; 1,100 tokens are three slices."""
    torch.manual_seed(0)
    x, weight = torch.randn(n, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    targets = torch.randint(30, (n,))
    expected = cross_entropy(x @ weight.T, targets, reduction='none', label_smoothing=0.1)  # (n,)
    gradients = torch.autograd.grad(expected.sum() / 7, (x, weight))
    loss, each = SmoothedCrossEntropy.apply(x, weight, targets)
    torch.testing.assert_close(each, expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss.detach(), each.sum())
    for found, right in zip(torch.autograd.grad(loss / 7, (x, weight)), gradients):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-5)


def test_dropout_is_on_in_a_step_and_off_in_a_validation(model, batch):
    """Whatever mode the model was left in."""
    valid = Namespace(eval_batches=lambda batch_tokens: [batch])
    without, _ = train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), [batch], torch.float32)
    plain = validate(model, valid, 100)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.eval()
    losses = [train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), [batch], torch.float32)[0]
              for _ in range(2)]
    assert len({*losses, without}) == 3  # other random numbers, another loss
    model.train()
    assert torch.equal(validate(model, valid, 100), plain)


def test_validation_loss_is_the_mean_over_the_tokens_of_each_task(model, batch):
    losses = validate(model, Namespace(eval_batches=lambda batch_tokens: [batch]), 100)
    for task in range(3):
        rows = batch.task == task
        scores = model.project(model(batch.src[rows], batch.tgt[rows], batch.task[rows]))
        targets = batch.tgt[rows, 1:][batch.tgt[rows, 1:] != PAD]
        assert losses[task].item() == pytest.approx(cross_entropy(scores, targets).item(), rel=1e-5)


def test_the_tasks_whose_loss_is_no_number_are_named_and_no_weight_moves(model, batch):
    lost = (batch.task == 2)[:, None, None]  # (B, 1, 1)
    model.encoder_norm.register_forward_hook(lambda module, inputs, x: x.masked_fill(lost, torch.nan))
    before = fingerprint(model)
    with pytest.raises(Diverged) as diverged:
        train_step(model, adam(model), [batch], torch.float32)
    assert diverged.value.args == ([2],)
    assert fingerprint(model) == before


def test_learning_rate_rises_and_stays_or_falls_to_nothing():
    assert [learning_rate(step, 5, 2.0, 2, decays=False) for step in range(1, 6)] == [1, 2, 2, 2, 2]
    assert [learning_rate(step, 5, 2.0, 2, decays=True) for step in range(1, 6)] == [1, 2, 1.5, 1, 0.5]
    assert [learning_rate(step, 3, 2.0, 0, decays=True) for step in range(1, 4)] == [1.5, 1, 0.5]
    assert learning_rate(1, 1, 2.0, 1, decays=True) == 2.0


def test_an_unknown_device_is_said():
    with pytest.raises(UserError, match='--device tpu9'):
        pick_device('tpu9')


def test_auto_takes_bfloat16_where_the_processor_has_instructions_for_it(monkeypatch):
    cpu = torch.device('cpu')
    for known, expected in (({'avx512_bf16': True}, 'bfloat16'), ({'amx_bf16': True}, 'bfloat16'),
                            ({'avx512_bf16': False, 'avx2': True}, 'float32'), ({}, 'float32')):
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: known, raising=False)
        assert pick_dtype('auto', cpu) == expected
        assert [pick_dtype(name, cpu) for name in ('float32', 'bfloat16')] == ['float32', 'bfloat16']


def test_bfloat16_trains_about_as_float32_does(model, batch):
    other = copy.deepcopy(model)
    loss, _ = train_step(model, adam(model), [batch], torch.float32)
    other_loss, _ = train_step(other, adam(other), [batch], torch.bfloat16)
    assert other_loss == pytest.approx(loss, rel=0.02) and other_loss != loss
    assert all(p.dtype == torch.float32 for p in other.parameters())


# The loop -------------------------------------------------------------------------------------------------------------

class Trainer:
    """Trains a small model on a small corpus, with dropout on."""

    def __init__(self, corpus_folder, text_folder):
        self.corpus = Corpus(corpus_folder)
        self.vocabulary = Vocabulary.train(self.corpus.texts('train'), 80)
        self.data, self.valid = (Bitext(self.corpus, split, self.corpus.tasks, self.vocabulary, 32, text_folder)
                                 for split in ('train', 'valid'))

    def fresh(self):
        """A Checkpoint that nobody has trained, the same each time."""
        torch.manual_seed(0)
        config = Config(len(self.vocabulary), len(self.corpus.tasks), d_model=16, d_ff=32, layers=1, heads=2,
                        dropout=0.2, max_len=32)
        return Checkpoint(Transformer(config), self.vocabulary, self.corpus.tasks, {}, {'phase': 'base'})

    def __call__(self, path, checkpoint=None, resume=False, **settings):
        usual = dict(steps=12, batch_tokens=400, accumulate=2, lr=1e-2, temperature=2.0, eval_every=3, patience=100,
                     device='cpu', seed=4)
        if resume:
            checkpoint = load_checkpoint(path.with_suffix('.last.pt'))
        return train(checkpoint or self.fresh(), self.data, self.valid, path, Namespace(**{**usual, **settings}))


@pytest.fixture(scope='module')
def trainer(corpus_folder, tmp_path_factory):
    return Trainer(corpus_folder, tmp_path_factory.mktemp('text'))


@pytest.fixture
def steps(monkeypatch):
    """What each step of the loop was called with: (optimizer settings, batches)."""
    seen = []

    def spy(model, optimizer, batches, dtype):
        seen.append(([{**group, 'params': None} for group in optimizer.param_groups], batches))
        return train_step(model, optimizer, batches, dtype)
    monkeypatch.setattr(training, 'train_step', spy)
    return seen


def curve(path):
    """The training curve as a list of rows, without the column that depends on the clock."""
    with path.open(encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row.pop('target_tokens_per_second')) > 0
    return rows


@pytest.fixture(scope='module')
def whole(trainer, tmp_path_factory):
    """An uninterrupted run: where its checkpoint is, and its best loss."""
    path = tmp_path_factory.mktemp('whole') / 'base.pt'
    return path, trainer(path)


def made_of(path):
    """The start of a `dense` training that continues from the base at `path`."""
    return go_on(load_checkpoint(path), 'dense')


def same(one, other):
    """Are best and last checkpoint and the curve of two runs, both base.pt, the same to the last bit?"""
    for suffix in ('.pt', '.last.pt'):
        a, b = (load_checkpoint(path.with_suffix(suffix)) for path in (one, other))
        assert fingerprint(a.model) == fingerprint(b.model) and a.info['valid'] == b.info['valid']
    assert curve(one.with_suffix('.csv')) == curve(other.with_suffix('.csv'))
    return True


def test_training_learns_and_keeps_the_best(trainer, tmp_path):
    best = trainer(tmp_path / 'base.pt', steps=60, eval_every=20)
    kept = load_checkpoint(tmp_path / 'base.pt')
    assert best < 3.0 and sum(kept.info['valid']) / 4 == pytest.approx(best)
    assert validate(kept.model, trainer.valid, 200).tolist() == pytest.approx(kept.info['valid'], rel=1e-5)


def test_every_step_has_the_rate_of_the_schedule(trainer, tmp_path, steps):
    """That of a base rises over the first tenth, 2 of 20 steps, and stays. That of a continued training falls linearly
    to 0. That of a restarted one does both. The curve has the same rates.
    """
    base = tmp_path / 'base.pt'
    trainer(base, steps=20, eval_every=2, lr=0.02)
    trainer(tmp_path / 'dense.pt', made_of(base), steps=20, eval_every=2, lr=0.02)
    trainer(tmp_path / 'anew.pt', replace(made_of(base), training=None), steps=20, eval_every=2, lr=0.02)
    rates = [group['lr'] for groups, _ in steps for group in groups]
    expected = [0.01, *[0.02] * 19, *(0.02 * (20 - i) / 21 for i in range(20)),
                0.01, *(0.02 * (19 - i) / 19 for i in range(19))]
    assert rates == pytest.approx(expected)
    assert [float(row['learning_rate']) for row in curve(tmp_path / 'dense.csv')] == pytest.approx(expected[21:40:2])


def test_a_base_and_what_goes_on_from_it_are_one_training(trainer, tmp_path, monkeypatch):
    """To the last bit: a base of 6 steps and 9 more are 15 steps of one, also if the 9 are interrupted and resumed."""
    base, dense, one = (tmp_path / f'{name}.pt' for name in ('base', 'dense', 'one'))
    trainer(base, steps=6, eval_every=6)
    rates = [learning_rate(step, 6, 1e-2, 1, decays=False) for step in range(1, 7)]
    rates += [learning_rate(step, 9, 1e-2, 0, decays=True) for step in range(1, 10)]
    with monkeypatch.context() as patch:
        patch.setattr(training, 'learning_rate', lambda step, *args: rates[step - 1])
        trainer(one, steps=15, eval_every=5)

    def killed(*args):
        patch.setattr(training, 'validate', lambda *args: 1 / 0)
        return validate(*args)
    with monkeypatch.context() as patch:
        patch.setattr(training, 'validate', killed)
        with pytest.raises(ZeroDivisionError):
            trainer(dense, made_of(base), steps=9, eval_every=3)
    trainer(dense, resume=True, steps=9, eval_every=3)
    weights = [load_checkpoint(path.with_suffix('.last.pt')) for path in (one, dense)]
    assert fingerprint(weights[0].model) == fingerprint(weights[1].model)
    assert weights[0].training['progress']['step'] == 15 and weights[1].training['progress']['step'] == 9


def test_the_optimizer_is_the_papers_adam_without_weight_decay(trainer, tmp_path, steps):
    """A neuron that is off in all tasks has a gradient of 0: to the last bit, it stays as it was. Others do move."""
    checkpoint = trainer.fresh()
    checkpoint.model.masks[:, :, :5] = False
    before = copy.deepcopy(checkpoint.model)
    trainer(tmp_path / 'base.pt', checkpoint)
    for ffn, old in zip(checkpoint.model.ffns, before.ffns):
        assert torch.equal(ffn.w1.weight[:5], old.w1.weight[:5]) and torch.equal(ffn.w1.bias[:5], old.w1.bias[:5])
        assert torch.equal(ffn.w2.weight[:, :5], old.w2.weight[:, :5])
        assert not torch.equal(ffn.w1.weight[5:], old.w1.weight[5:])
    (group,), _ = steps[0]
    assert (group['betas'], group['eps'], group['weight_decay']) == ((0.9, 0.98), 1e-9, 0)


def test_the_temperature_decides_what_is_trained_on(tmp_path, steps):
    """Of 440 pairs 40 have French: at temperature 1 a share of 1/11, at a high one a half."""
    folder = tmp_path / 'corpus'
    folder.mkdir()
    for other, size in (('de', 200), ('fr', 20)):
        for split, n in (('train', size), ('valid', 4)):
            for language in ('en', other):
                text = ''.join(f'{language} {i} a b c d e f g h\n' for i in range(n))
                (folder / f'{split}.en-{other}.{language}').write_text(text, encoding='utf-8', newline='\n')
    uneven = Trainer(folder, tmp_path)
    for temperature, low, high in ((1.0, 0.06, 0.12), (100.0, 0.45, 0.55)):
        steps.clear()
        uneven(tmp_path / 'base.pt', steps=20, batch_tokens=250, temperature=temperature, eval_every=20)
        tasks = torch.cat([batch.task for _, batches in steps for batch in batches])
        french = [index for index, task in enumerate(uneven.corpus.tasks) if 'fr' in task]
        assert low < torch.isin(tasks, torch.tensor(french)).double().mean() < high


def test_the_best_and_the_last_weights_are_not_mixed_up(trainer, tmp_path, monkeypatch):
    """Of four validations the second is the best: its weights and losses are in base.pt, the latest in the other."""
    found, losses = [], [3.0, 2.0, 4.0, 2.5]

    def scripted(model, *args):
        found.append(fingerprint(model))
        return torch.tensor([losses[len(found) - 1] + x for x in (0.0, 0.1, -0.1, 0.0)])
    monkeypatch.setattr(training, 'validate', scripted)
    assert trainer(tmp_path / 'base.pt') == pytest.approx(2.0)
    best, last = load_checkpoint(tmp_path / 'base.pt'), load_checkpoint(tmp_path / 'base.last.pt')
    assert len(set(found)) == 4
    assert (best.info['step'], last.info['step']) == (6, 12)
    assert (fingerprint(best.model), fingerprint(last.model)) == (found[1], found[3])
    assert best.info['valid'] == pytest.approx([2.0, 2.1, 1.9, 2.0])
    assert (best.training['progress']['step'], last.training['progress']['step']) == (6, 12)


def test_the_curve_has_a_row_for_each_validation(trainer, tmp_path, steps):
    trainer(tmp_path / 'base.pt', steps=7)
    text = (tmp_path / 'base.csv').read_text(encoding='utf-8')
    assert text.splitlines()[0] == ('step,smoothed_train_loss,learning_rate,target_tokens_per_second,'
                                    'valid_en-de,valid_en-fr,valid_de-en,valid_fr-en')
    rows = curve(tmp_path / 'base.csv')
    assert [int(row['step']) for row in rows] == [3, 6, 7]
    last = load_checkpoint(tmp_path / 'base.last.pt')
    assert [float(rows[-1][f'valid_{task}']) for task in last.tasks] == last.info['valid']


def test_the_curves_train_loss_is_the_mean_over_the_tokens_since_the_last_validation(trainer, tmp_path, monkeypatch):
    numbers = iter([(4.0, 10), (2.0, 30), (1.0, 5), (3.0, 5)])  # loss and tokens of each step
    monkeypatch.setattr(training, 'train_step', lambda *args: next(numbers))
    trainer(tmp_path / 'base.pt', steps=4, eval_every=2)
    assert [float(row['smoothed_train_loss']) for row in curve(tmp_path / 'base.csv')] == [2.5, 2.0]


def test_the_table_fits_100_columns(trainer, tmp_path, monkeypatch, capsys):
    """With eighteen directions and long numbers: step 1,234,567 of two million, after a day."""
    others = 'cs de es fr it nl pl ru sv'.split()
    tasks = [f'en-{other}' for other in others] + [f'{other}-en' for other in others]

    def long_step(*args):
        signal.raise_signal(signal.SIGINT)  # this row is enough
        return 100.0, 123_456_789
    trainer(tmp_path / 'base.pt', steps=1)
    state = load_checkpoint(tmp_path / 'base.last.pt')
    state.training['progress'] |= {'step': 1_234_566, 'seconds': 86_400.0, 'window_start': 86_300.0}
    save_checkpoint(tmp_path / 'base.last.pt', replace(state, tasks=tasks))
    monkeypatch.setattr(training, 'train_step', long_step)
    monkeypatch.setattr(training, 'validate', lambda *args: torch.arange(18) / 16)
    monkeypatch.setattr(trainer.data, 'train_batches', lambda *args: repeat(torch.arange(4)))
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / 'base.pt', resume=True, steps=2_000_000, eval_every=1, patience=10 ** 7, lr=2e-11)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[-4:])) <= 100, lines  # three of the header
    for part in ('1,234,567', '100.0', '0.53', 'en-cs', '0.00', 'sv-en', '1.06', 'e-11', '892.8 min', 'best'):
        assert part in lines[-1], (part, lines[-1])


def test_resumed_is_uninterrupted_to_the_last_bit(trainer, whole, tmp_path, monkeypatch):
    """Weights, optimizer, batches, dropout, schedule, best-so-far, curve: killed in the third of four validations."""
    path, calls = tmp_path / 'base.pt', []

    def killed(*args):
        calls.append(args)
        return validate(*args) if len(calls) < 3 else 1 / 0
    with monkeypatch.context() as patch:
        patch.setattr(training, 'validate', killed)
        with pytest.raises(ZeroDivisionError):
            trainer(path)
    assert len(curve(path.with_suffix('.csv'))) == 2
    assert trainer(path, resume=True) == whole[1] and same(path, whole[0])


@pytest.mark.parametrize('kind, at', [(signal.SIGINT, 1), (signal.SIGTERM, 4), (signal.SIGINT, 6)])
def test_ctrl_c_saves_and_goes_on_to_the_last_bit(trainer, whole, tmp_path, monkeypatch, capfd, kind, at):
    """In the first step, between validations, or in a step that is validated; SIGTERM, too. A line says so at once."""
    path, handler, number = tmp_path / 'base.pt', signal.getsignal(kind), iter(range(1, 99))

    def interrupted_step(*args):
        if next(number) == at:
            signal.raise_signal(kind)
        return train_step(*args)
    with monkeypatch.context() as patch:
        patch.setattr(training, 'train_step', interrupted_step)
        with pytest.raises(KeyboardInterrupt, match=f'saved after step {at}; to go on: python .* --resume'):
            trainer(path)
    assert signal.getsignal(kind) is handler and capfd.readouterr().err.count('saving after this step') == 1
    assert load_checkpoint(path.with_suffix('.last.pt')).info['step'] == at
    assert trainer(path, resume=True) == whole[1] and same(path, whole[0])


def test_ctrl_c_in_the_last_validation_is_not_forgotten(trainer, whole, tmp_path, monkeypatch):
    path, number = tmp_path / 'base.pt', iter(range(1, 99))

    def interrupted_validate(*args):
        if next(number) == 4:
            signal.raise_signal(signal.SIGINT)
        return validate(*args)
    with monkeypatch.context() as patch:
        patch.setattr(training, 'validate', interrupted_validate)
        with pytest.raises(KeyboardInterrupt, match='saved after step 12'):
            trainer(path)
    assert trainer(path, resume=True) is None and same(path, whole[0])


def test_ctrl_c_while_the_last_state_is_saved_is_not_forgotten(trainer, tmp_path, monkeypatch):
    def interrupted_save(path, checkpoint):
        save_checkpoint(path, checkpoint)
        if path.name == 'parts.last.pt':
            signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(training, 'save_checkpoint', interrupted_save)
    with pytest.raises(KeyboardInterrupt, match='^$'):
        trainer(tmp_path / 'parts.pt', eval_every=99)
    assert load_checkpoint(tmp_path / 'parts.pt').info['step'] == 12


def test_a_second_ctrl_c_stops_at_once(trainer, tmp_path, monkeypatch):
    def interrupted_step(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(training, 'train_step', interrupted_step)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt, match='^$'):
            trainer(tmp_path / 'base.pt')
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in tmp_path.iterdir()] == ['base.lock']


def test_two_trainings_at_once_do_not_write_the_same_file(trainer, tmp_path):
    """The second is refused; the lock of one that is gone is not in the way."""
    with locked(tmp_path / 'base.lock'):
        with pytest.raises(UserError, match='another training writes .*base.pt;'):
            trainer(tmp_path / 'base.pt')
        trainer(tmp_path / 'dense.pt', steps=1)
    trainer(tmp_path / 'base.pt', steps=1)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trainer, tmp_path, monkeypatch, steps):
    """Another seed gives other batches, too. The progress bar changes nothing."""
    weights, batches = [], []
    for name, seed, terminal in (('a', 4, False), ('b', 4, True), ('c', 5, False)):
        monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)
        steps.clear()
        trainer(tmp_path / f'{name}.pt', steps=3, seed=seed, eval_every=99)
        weights.append(fingerprint(load_checkpoint(tmp_path / f'{name}.pt').model))
        batches.append([batch.src.tolist() for _, share in steps for batch in share])
    assert weights[0] == weights[1] != weights[2] and batches[0] == batches[1] != batches[2]


def test_a_training_in_bfloat16_ends_within_2_percent_of_float32(trainer, tmp_path):
    """In validation loss. The two are not equal, so bfloat16 was used."""
    losses = [trainer(tmp_path / f'{dtype}.pt', replace(trainer.fresh(), dtype=dtype), steps=12, eval_every=12)
              for dtype in ('float32', 'bfloat16')]
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_saved(trainer, tmp_path):
    trainer(tmp_path / 'base.pt', steps=3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match='the loss of .*en-de.* at step 2; .*try a lower --lr'):
        trainer(tmp_path / 'base.pt', steps=9, lr=1e30)
    with pytest.raises(UserError, match='validation loss is nan at step 1; .* --lr'):
        trainer(tmp_path / 'base.pt', steps=1, lr=1e30)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_patience_ends_training(trainer, tmp_path):
    """After two validations that are no better than the best."""
    trainer(tmp_path / 'base.pt', steps=60, lr=1e-30, patience=2)  # a rate at which nothing is learned
    assert load_checkpoint(tmp_path / 'base.last.pt').info['step'] == 9


# Files ----------------------------------------------------------------------------------------------------------------

def test_a_checkpoint_brings_everything_back(trainer, tmp_path):
    first = replace(trainer.fresh(), training={'progress': {'step': 3}})
    first.model.masks[1, 0, :7] = False
    save_checkpoint(tmp_path / 'base.pt', first)
    second = load_checkpoint(tmp_path / 'base.pt')
    assert second.model.config == first.model.config and second.vocabulary.proto == first.vocabulary.proto
    assert (second.tasks, second.info, second.training) == (first.tasks, first.info, first.training)
    assert torch.equal(second.model.masks, first.model.masks) and fingerprint(second.model) == fingerprint(first.model)
    assert [path.name for path in tmp_path.iterdir()] == ['base.pt']


def test_a_full_disk_keeps_the_previous_file(trainer, tmp_path):
    """Simulated: this process may not write a file of more than 10,000 bytes."""
    resource = pytest.importorskip('resource')  # not on Windows
    save_checkpoint(tmp_path / 'base.pt', trainer.fresh())
    before = (tmp_path / 'base.pt').read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match='^cannot write .*base.pt: File too large$'):
            trainer(tmp_path / 'base.pt', steps=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / 'base.pt').read_bytes() == before and not list(tmp_path.glob('*.part'))


def test_a_place_that_cannot_be_written_keeps_the_previous_file(trainer, tmp_path, monkeypatch):
    """Simulated, because root may write anywhere."""
    def refused(path, target):
        raise PermissionError(13, 'Permission denied')
    save_checkpoint(tmp_path / 'base.pt', trainer.fresh())
    before = (tmp_path / 'base.pt').read_bytes()
    monkeypatch.setattr(Path, 'replace', refused)
    with pytest.raises(UserError, match='^cannot write .*base.pt: Permission denied$'):
        save_checkpoint(tmp_path / 'base.pt', trainer.fresh())
    assert [(path.name, path.read_bytes()) for path in tmp_path.glob('base.pt*')] == [('base.pt', before)]


def test_a_run_folder_that_vanishes_is_said(trainer, tmp_path, monkeypatch):
    def vanishing(*args):
        shutil.rmtree(tmp_path / 'run')
        return validate(*args)
    monkeypatch.setattr(training, 'validate', vanishing)
    with pytest.raises(UserError, match='^cannot write .*base.* No such file or directory$'):
        trainer(tmp_path / 'run' / 'base.pt', steps=1)
