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
    """Rise linearly to `peak` over `warmup` steps, then stay there, or decay linearly to 0; `step` counts from 1.

    A base rises and stays; the training that continues it decays. So both together are one training with one schedule.
    """
    if step < warmup:
        return peak * step / warmup
    return peak * (steps - step + 1) / (steps - warmup + 1) if decays else peak


def scheduled_rate(progress, args, of_base):
    """The rate of this step. A base warms up and stays, its continuation decays, a restart warms up and decays."""
    warmup = 0 if progress.before else max(1, args.steps // 10)
    return learning_rate(progress.step, args.steps, args.lr, warmup, not of_base)


class SmoothedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of the scores x W^T (n, V) against smoothed targets, with its gradient, in slices of 512 tokens.

    A target is 1 - smoothing on the right token plus smoothing spread over all V. The gradient with respect to the
    scores is softmax minus target. The scores are the largest tensor of a step, and autograd would pass over them some
    ten times in main memory. Here a slice is turned into its gradient while it is in the processor's cache, and then
    dropped. On a CPU, a step takes 0.8 of the time, and only 512 tokens' scores are in memory at a time.
    """

    @staticmethod
    def forward(ctx, x, weight, targets, smoothing=0.1):
        """x (n, D), weight (V, D), targets (n,). Returns the sum of the tokens' losses, and each loss (n,)."""
        losses, grad_x, grad_weight = [], torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        for rows, right, grad in zip(x.split(512), targets[:, None].split(512), grad_x.split(512)):
            log_p = (rows @ weight.T).float().log_softmax(-1)  # (512, V)
            of_right = log_p.gather(1, right).squeeze(1)  # (512,)
            losses.append(-(1 - smoothing) * of_right - smoothing * log_p.mean(-1))
            grad_scores = log_p.exp_().sub_(smoothing / log_p.size(1))  # (512, V), in the memory of log_p
            grad_scores = grad_scores.scatter_add_(1, right, log_p.new_full(right.shape, smoothing - 1)).to(x.dtype)
            torch.mm(grad_scores, weight, out=grad)  # (512, D)
            grad_weight += grad_scores.T @ rows  # (V, D), summed in float32 whatever the precision of the product
        each = torch.cat(losses)  # (n,)
        ctx.save_for_backward(grad_x, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    def backward(ctx, grad, _):
        grad_x, grad_weight = ctx.saved_tensors
        return grad * grad_x, grad * grad_weight, None, None


class Diverged(ArithmeticError):
    """A loss is infinite or not a number; the argument lists the indices of the tasks with such a loss."""


def make_optimizer(model):
    """Adam as in Vaswani et al. (2017). No weight decay: it would shrink the weights of neurons that are off, too."""
    return torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9, fused=True)


def train_step(model, optimizer, batches, dtype):
    """One optimizer step on the mean loss of all target tokens in `batches`. Returns that loss, and how many tokens.

    Each batch's loss is divided by the number of tokens in all batches of all processes. So four small batches, or four
    processes, make the same step as one large batch. Raises Diverged, before the step, if a loss is not finite.
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
        # Processes exchange their gradients only once, after the last batch.
        with model.no_sync() if parallel and number < len(batches) else contextlib.nullcontext():
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                x = model(*batch)  # (n, D)
            loss, each = SmoothedCrossEntropy.apply(x.to(dtype), core.embedding.weight.to(dtype), targets)  # (), (n,)
            (loss * (world_size / tokens)).backward()  # DistributedDataParallel takes the processes' mean, not the sum
        total += loss.detach() / tokens
        losses.append((each, target_tasks))
    if not total.isfinite():  # asked once a step, because it waits for the GPU
        raise Diverged(sorted({task for each, tasks in losses for task in tasks[~each.isfinite()].tolist()}))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return all_reduce_sum(total).item(), tokens


@torch.no_grad()
def validate(model, data, batch_tokens, dtype=torch.float32):
    """Loss of each task (N,) in nats per target token: teacher-forced, without dropout or label smoothing."""
    device, (rank, world_size) = model.masks.device, rank_and_world_size()
    model.eval()
    sums = torch.zeros(2, model.config.n_tasks, dtype=torch.double)  # (2, N): losses, and tokens
    for batch in islice(data.eval_batches(batch_tokens), rank, None, world_size):
        batch = batch.to(device)
        targets, target_tasks = batch.targets()  # (n,) each
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores = model.project(model(*batch))  # (n, V)
        each = cross_entropy(scores.float(), targets, reduction='none').cpu().double()  # (n,); MPS has no doubles
        sums.index_add_(1, target_tasks.cpu(), torch.stack([each, torch.ones_like(each)]))  # (2, n)
    if world_size > 1:
        sums = all_reduce_sum(sums.to(device)).cpu()
    return sums[0] / sums[1]


@dataclass
class Progress:
    """How far a training has come: all that a resumed run needs besides weights and optimizer."""
    step: int = 0
    before: int = 0  # steps of the base that this training continues
    batches: int = 0  # drawn so far, including the base's
    best: float = math.inf  # lowest mean validation loss
    best_step: int = 0
    seconds: float = 0.0  # of training and validation so far
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
        """Target tokens per second since the last validation."""
        return self.token_sum / (self.seconds - self.window_start)


def go_on(base, phase, restart=False):
    """The Checkpoint from which this phase continues: the base, its optimizer state and its place in the batches.

    With `restart` there is neither: training begins with a new optimizer, a new warm-up and the first batches.
    """
    done = base.training['progress']
    state = {'progress': asdict(Progress(before=done['step'], batches=done['batches'])),
             'optimizer': base.training['optimizer']}
    return replace(base, info={'phase': phase, 'base': base.info}, base=fingerprint(base.model),
                   training=None if restart else state)


def prepare(checkpoint, path, args):
    """What the loop needs: the model, wrapped if several processes train it, its optimizer, and the Progress."""
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

    `scheduled_rate` and `go_on` say how a base and its continuation differ. Every args.eval_every steps the model is
    validated, a row is printed, and up to three files are written: `path` if the mean loss over tasks is the lowest so
    far; NAME.last.pt, from which --resume continues (bit for bit on a CPU); and the training curve NAME.csv. Training
    ends early after args.patience validations without a new best.

    Returns the lowest mean loss, or None if nothing was left to train. After a Ctrl-C it finishes the step, writes
    NAME.last.pt and raises KeyboardInterrupt with the command to resume. Raises UserError if a loss is not finite.
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
    start = time.perf_counter() - progress.seconds  # time.monotonic may not see a step pass on Windows
    bar = tqdm(total=args.steps, initial=progress.step, unit='step', disable=rank > 0 or None, dynamic_ncols=True)
    lock = locked(path.with_suffix('.lock')) if rank == 0 else contextlib.nullcontext()
    with lock, deferred_ctrl_c() as interrupted, bar:
        while not progress.ended(args):
            progress.step += 1
            optimizer.param_groups[0]['lr'] = scheduled_rate(progress, args, checkpoint.base is None)
            # Dropout's random numbers depend on seed, step and rank alone, so a resumed run needs no state of them.
            torch.manual_seed(hash((args.seed, progress.before + progress.step, rank)))
            share = [train_data.batch(index[rank::world_size]) for index in islice(batches, args.accumulate)]
            progress.batches += args.accumulate
            loss, tokens = checked_step(wrapped, optimizer, share, dtype, progress.step, tasks)
            progress.add_step(loss, tokens, time.perf_counter() - start)
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
        del wrapped  # before the process group, or its end can wait for the other processes for ever
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
        print(f'continues from step {before:,} of the base, its best by validation loss')
    print('losses in nats per target token; the smoothed one cannot be compared with the others\n'
          '           smoothed  validation loss:                                      target       time\n'
          '   step  train loss    mean  best direction  worst direction     rate     tokens/s       left')


def note_validation(progress, losses, rate, start, tasks, steps):
    """Print a row of the table, add one to the curve, and reset the sums. Returns whether the mean is the best so far.

    losses: N numbers. Raises UserError if their mean is not finite.
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
    progress.seconds = time.perf_counter() - start
    progress.loss_sum, progress.token_sum, progress.window_start = 0.0, 0, progress.seconds
    ranked = sorted(zip(losses, tasks))
    (best, best_task), (worst, worst_task) = ranked[0], ranked[-1]
    minutes_left = progress.seconds / progress.step * (steps - progress.step) / 60
    tqdm.write(f'{progress.step:7,}  {train_loss:10.3f}  {mean:6.3f}  {best_task:>9} {best:4.2f}  {worst_task:>10} '
               f'{worst:4.2f}  {rate:7.1e}  {speed:11,.0f}  {minutes_left:5.1f} min' + (' best' if is_best else ''))
    return is_best


def save(path, checkpoint, progress, optimizer, is_best):
    """Write the training curve, the checkpoint if it is the best, and all that a resumed run needs.

    The best checkpoint of a base holds that as well, because specialize.py continues from it.
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
    """The command, as text, that resumes the run that sys.argv started."""
    launcher = ['torchrun', f'--nproc-per-node={world_size}', '--'] if world_size > 1 else ['python']
    return shlex.join([*launcher, *(word for word in sys.argv if word != '--resume'), '--resume'])
