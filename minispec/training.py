"""The one training loop that train.py and specialize.py share: loss, schedule, steps, validation, curve."""
import contextlib
import math
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from minispec import UserError
from minispec.checkpoint import fingerprint, save_checkpoint
from minispec.files import check_keys, locked, write
from minispec.runtime import all_reduce_sum, deferred_ctrl_c, pick_device, rank_and_world_size, wrap_ddp


def learning_rate(step, steps, peak, warmup, decays):
    """Rise to `peak` over the first `warmup` steps, then stay, or fall to 0 in a straight line; `step` counts from 1.

    The base rises and stays; what goes on from it falls. So both together are one training with one schedule.
    """
    if step < warmup:
        return peak * step / warmup
    return peak * (steps - step + 1) / (steps - warmup + 1) if decays else peak


def scheduled_rate(progress, args, of_base):
    """The rate of this step: a base warms up and stays; what goes on falls; what starts anew does both."""
    warmup = 0 if progress.before else max(1, args.steps // 10)
    return learning_rate(progress.step, args.steps, args.lr, warmup, not of_base)


class SmoothedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of the scores x W^T (n, V) against smoothed targets, with its gradient, in slices of 512 tokens.

    A target is 1 - smoothing on the right token plus smoothing spread over all V. The gradient by the scores is softmax
    minus target. The scores are the largest tensor of a step, and autograd would pass over them some ten times in main
    memory. A slice is turned into its gradient while it is in the processor's cache, and then forgotten. On a CPU the
    step takes 0.8 of the time, and the memory of a batch does not grow by (n, V).
    """

    @staticmethod
    def forward(ctx, x, weight, targets, smoothing=0.1):
        """x (n, D), weight (V, D), targets (n,). Returns the loss of all tokens together, and of each (n,)."""
        losses, grad_x, grad_weight = [], torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        for rows, right, grad in zip(x.split(512), targets[:, None].split(512), grad_x.split(512)):
            log_p = (rows @ weight.T).float().log_softmax(-1)  # (512, V)
            of_right = log_p.gather(1, right).squeeze(1)  # (512,)
            losses.append(-(1 - smoothing) * of_right - smoothing * log_p.mean(-1))
            by_scores = log_p.exp_().sub_(smoothing / log_p.size(1))  # (512, V), in the memory of log_p
            by_scores = by_scores.scatter_add_(1, right, log_p.new_full(right.shape, smoothing - 1)).to(x.dtype)
            torch.mm(by_scores, weight, out=grad)  # (512, D)
            grad_weight += by_scores.T @ rows  # (V, D), summed in float32 whatever the precision of the product
        each = torch.cat(losses)
        ctx.save_for_backward(grad_x, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    def backward(ctx, grad, _):
        grad_x, grad_weight = ctx.saved_tensors
        return grad * grad_x, grad * grad_weight, None, None


class Diverged(ArithmeticError):
    """The loss is not a number; its argument lists the tasks (indices) whose loss it is."""


def make_optimizer(model):
    """Adam as in the paper. No weight decay: it would move the weights of neurons that are off, whose gradient is 0."""
    return torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9, fused=True)


def train_step(model, optimizer, batches, dtype):
    """One step of the optimizer on the mean loss of all target tokens in `batches`. Returns that loss, and the tokens.

    Each batch's loss is divided by the tokens of all batches and all processes. So a step over four small batches, or
    by four processes, is a step over one large batch. Raises Diverged, before the step, if a loss is not a number.
    """
    parallel = isinstance(model, DistributedDataParallel)
    core = model.module if parallel else model
    device, (_, world_size) = core.masks.device, rank_and_world_size()
    model.train()
    tokens = sum(len(batch.targets()[0]) for batch in batches)
    if world_size > 1:
        tokens = all_reduce_sum(torch.tensor(tokens, device=device)).item()
    total, losses = torch.zeros((), device=device), []
    for number, batch in enumerate(batches, 1):
        batch = batch.to(device)
        targets, target_tasks = batch.targets()  # (n,) each
        # Processes exchange their gradients after the last batch alone.
        with model.no_sync() if parallel and number < len(batches) else contextlib.nullcontext():
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                x = model(*batch)  # (n, D)
            loss, each = SmoothedCrossEntropy.apply(x.to(dtype), core.embedding.weight.to(dtype), targets)  # (), (n,)
            (loss * (world_size / tokens)).backward()  # DistributedDataParallel takes the processes' mean, not the sum
        total += loss.detach() / tokens
        losses.append((each, target_tasks))
    if not total.isfinite():  # asked once a step: a GPU has to be waited for
        raise Diverged(sorted({task for each, tasks in losses for task in tasks[~each.isfinite()].tolist()}))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return all_reduce_sum(total).item(), tokens


@torch.no_grad()
def validate(model, data, batch_tokens, dtype=torch.float32):
    """Loss of each task (N,) in nats per target token: teacher-forced, without dropout and label smoothing."""
    device, (rank, world_size) = model.masks.device, rank_and_world_size()
    model.eval()
    sums = torch.zeros(2, model.config.n_tasks, dtype=torch.double)  # (2, N): losses, and tokens
    for batch in islice(data.eval_batches(batch_tokens), rank, None, world_size):
        batch = batch.to(device)
        targets, target_tasks = batch.targets()  # (n,) each
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores = model.project(model(*batch))  # (n, V)
        each = cross_entropy(scores.float(), targets, reduction='none').cpu().double()  # (n,); MPS has no doubles
        sums.index_add_(1, target_tasks.cpu(), torch.stack([each, torch.ones_like(each)]))
    if world_size > 1:
        sums = all_reduce_sum(sums.to(device)).cpu()
    return sums[0] / sums[1]


@dataclass
class Progress:
    """How far a training has come: beside weights and optimizer, all that a resumed run needs."""
    step: int = 0
    before: int = 0  # steps of the base, after which this training goes on
    batches: int = 0  # drawn so far, those of the base included
    best: float = math.inf  # lowest mean validation loss
    best_step: int = 0
    seconds: float = 0.0  # that it has taken
    window_start: float = 0.0  # the value of `seconds` after the last validation
    loss_sum: float = 0.0  # smoothed loss since the last validation, summed over tokens
    token_sum: int = 0
    curve: list = field(default_factory=list)  # rows of the CSV file, without its header

    def add_step(self, loss, tokens, seconds):
        """A step with this mean loss, `seconds` after the start."""
        self.loss_sum += loss * tokens
        self.token_sum += tokens
        self.seconds = seconds

    def ended(self, args):
        """Are all steps done, or were there args.patience validations without a new best?"""
        return self.step >= args.steps or self.step - self.best_step >= args.patience * args.eval_every

    def speed(self):
        """Target tokens a second since the last validation."""
        return self.token_sum / (self.seconds - self.window_start)


def go_on(base, phase, restart=False):
    """What a training of this phase begins with: the base, with its optimizer and its place in the text.

    With `restart` it has neither, but a new optimizer, a new warm-up and the first batches.
    """
    done = base.training['progress']
    state = {'progress': asdict(Progress(before=done['step'], batches=done['batches'])),
             'optimizer': base.training['optimizer']}
    return replace(base, info={'phase': phase, 'base': base.info}, base=fingerprint(base.model),
                   training=None if restart else state)


def prepare(checkpoint, path, args):
    """What the loop needs: the model as all processes train it, its optimizer, and the Progress."""
    device = pick_device(args.device)
    wrapped = wrap_ddp(checkpoint.model.to(device), device)
    optimizer = make_optimizer(checkpoint.model)
    progress = Progress()
    if checkpoint.training is not None:
        saved = checkpoint.training['progress']
        check_keys(path.with_suffix('.last.pt'), saved, [each.name for each in fields(Progress)], 'progress.')
        progress = Progress(**saved)
        optimizer.load_state_dict(checkpoint.training['optimizer'])
    return wrapped, optimizer, progress


def train(checkpoint, train_data, valid_data, path, args):
    """Train checkpoint.model in place for args.steps steps and keep the best weights, by validation loss, in `path`.

    A base warms up over a tenth of its steps, and then keeps its rate; what is made from it goes on where it was (see
    `go_on`) with a falling rate, or with a new warm-up. Every args.eval_every steps the model is validated, a row is
    printed, and up to three files are written: `path` if the mean over tasks is the lowest yet; NAME.last.pt, from
    which a resumed run goes on (on a CPU to the last bit); the training curve NAME.csv. Ends early after args.patience
    validations without a new best. Returns the best mean, or None if nothing was left to train. After a Ctrl-C it
    finishes the step, writes NAME.last.pt and raises KeyboardInterrupt with the command to go on. Raises UserError if
    the loss is no longer a number.
    """
    path = Path(path)
    model, tasks, dtype = checkpoint.model, checkpoint.tasks, getattr(torch, checkpoint.dtype)
    wrapped, optimizer, progress = prepare(checkpoint, path, args)
    if progress.ended(args):
        return None
    rank, world_size = rank_and_world_size()
    batches = islice(train_data.train_batches(args.batch_tokens, args.temperature, args.seed), progress.batches, None)
    info = {**checkpoint.info, 'settings': vars(args)}
    print_header(model, train_data, valid_data, checkpoint.dtype, progress.before)
    start = time.monotonic() - progress.seconds
    bar = tqdm(total=args.steps, initial=progress.step, unit='step', disable=rank > 0 or None, dynamic_ncols=True)
    lock = locked(path.with_suffix('.lock')) if rank == 0 else contextlib.nullcontext()
    with lock, deferred_ctrl_c() as interrupted, bar:
        while not progress.ended(args):
            progress.step += 1
            optimizer.param_groups[0]['lr'] = scheduled_rate(progress, args, checkpoint.base is None)
            # Dropout's random numbers follow from seed and step alone, so that a resumed run need not have saved them.
            torch.manual_seed(hash((args.seed, progress.before + progress.step, rank)))
            share = [train_data.batch(index[rank::world_size]) for index in islice(batches, args.accumulate)]
            progress.batches += args.accumulate
            loss, tokens = checked_step(wrapped, optimizer, share, dtype, progress.step, tasks)
            progress.add_step(loss, tokens, time.monotonic() - start)
            bar.set_postfix_str(f'smoothed loss {loss:.3f}, {progress.speed():,.0f} target tokens/s', refresh=False)
            bar.update()
            is_best, due = False, progress.step % args.eval_every == 0 or progress.step == args.steps
            if due:
                losses = validate(model, valid_data, args.batch_tokens, dtype).tolist()
                is_best = note_validation(progress, losses, optimizer.param_groups[0]['lr'], start, tasks, args.steps)
                info['valid'] = losses
            stop = all_reduce_sum(torch.tensor(len(interrupted), device=model.masks.device)).item()  # for all processes
            if rank == 0 and (due or stop):
                save(path, replace(checkpoint, info=info), progress, optimizer, is_best)
            if stop:
                raise KeyboardInterrupt(f'interrupted, and saved after step {progress.step:,}; '
                                        f'to go on: {command_to_resume(world_size)}')
    if distributed.is_initialized():
        del wrapped  # before what it communicates by, or its end can wait for that of the others for ever
        distributed.destroy_process_group()
    return progress.best


def checked_step(model, optimizer, batches, dtype, step, tasks):
    """`train_step`, with a UserError that names the tasks whose loss is not a number."""
    try:
        return train_step(model, optimizer, batches, dtype)
    except Diverged as diverged:
        raise UserError(f'the loss of {", ".join(tasks[task] for task in diverged.args[0])} is not a number at step '
                        f'{step}; what was saved before stays; try a lower --lr')


def print_header(model, train_data, valid_data, dtype, before):
    size = sum(p.numel() for p in model.parameters())
    print(f'{size:,} parameters, {model.config.vocab_size:,} subwords, on {model.masks.device.type} in {dtype}')
    for data in (train_data, valid_data):
        print(f'{data.split}: {len(data):,} pairs, {data.n_dropped:,} left out (empty on a side, or too long), '
              f'{data.n_unknown:,} unknown subwords')
    if before:
        print(f'goes on after step {before:,} of the base, the best by validation loss')
    print('losses in nats per target token; the smoothed one cannot be compared with the others\n'
          '           smoothed  validation loss:                                      target       time\n'
          '   step  train loss    mean  best direction  worst direction     rate     tokens/s       left')


def note_validation(progress, losses, rate, start, tasks, steps):
    """Print a row of the table, add one to the curve, and begin a new window. Returns whether the loss is the best.

    losses: N numbers. Raises UserError if their mean is not a number.
    """
    mean = sum(losses) / len(losses)
    if not math.isfinite(mean):
        raise UserError(f'the validation loss is {mean} at step {progress.step}; what was saved before stays; '
                        'try a lower --lr')
    is_best = mean < progress.best
    if is_best:
        progress.best, progress.best_step = mean, progress.step
    train_loss, speed = progress.loss_sum / progress.token_sum, progress.speed()
    progress.curve.append([progress.step, train_loss, rate, speed, *losses])
    progress.seconds = time.monotonic() - start
    progress.loss_sum, progress.token_sum, progress.window_start = 0.0, 0, progress.seconds
    ranked = sorted(zip(losses, tasks))
    (best, best_task), (worst, worst_task) = ranked[0], ranked[-1]
    minutes_left = progress.seconds / progress.step * (steps - progress.step) / 60
    tqdm.write(f'{progress.step:7,}  {train_loss:10.3f}  {mean:6.3f}  {best_task:>9} {best:4.2f}  {worst_task:>10} '
               f'{worst:4.2f}  {rate:7.1e}  {speed:11,.0f}  {minutes_left:5.1f} min' + (' best' if is_best else ''))
    return is_best


def save(path, checkpoint, progress, optimizer, is_best):
    """Write the training curve, the checkpoint if it is the best, and all that a resumed run needs.

    The best checkpoint of a base holds that as well, because others go on from it.
    """
    names = ['step', 'smoothed_train_loss', 'learning_rate', 'target_tokens_per_second',
             *(f'valid_{task}' for task in checkpoint.tasks)]
    write(path.with_suffix('.csv'), ''.join(','.join(map(str, row)) + '\n' for row in [names, *progress.curve]))
    checkpoint.info['step'] = progress.step
    checkpoint.training = {'progress': asdict(progress), 'optimizer': optimizer.state_dict()}
    if is_best:
        save_checkpoint(path, replace(checkpoint, training=None) if checkpoint.base else checkpoint)
    save_checkpoint(path.with_suffix('.last.pt'), checkpoint)


def command_to_resume(world_size):
    """The command, as text, that goes on with what sys.argv has started."""
    launcher = ['torchrun', f'--nproc-per-node={world_size}', '--'] if world_size > 1 else ['python']
    return shlex.join([*launcher, *(word for word in sys.argv if word != '--resume'), '--resume'])
