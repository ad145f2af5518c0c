"""The one training loop that train.py and specialize.py share, with what it stands on: device, precision, schedule."""
import contextlib
import math
import os
import shlex
import signal
import sys
import threading
import time
from itertools import islice

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from minispec import UserError
from minispec.checkpoint import make_folder, save_checkpoint
from minispec.model import PAD


def pick_device(name):
    """The device that `--device` names; auto takes CUDA, else MPS (Apple), else the CPU."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    if name == 'cuda':
        name = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'  # under torchrun, each process has a GPU of its own
    try:
        if torch.zeros(1, device=name).device.type in ('cpu', 'cuda', 'mps'):
            return torch.device(name)
    except Exception:  # torch's answers to a device that it does not know, or that is not there, are many
        pass
    raise UserError(f'--device {name}: this machine has no such device; try --device auto')


def processes():
    """Which of torchrun's processes this is, and of how many: (rank, world). Without torchrun (0, 1).

    They train as one: each takes every world-th sentence of every batch, and its own random numbers; gradients, losses
    and numbers of tokens are summed over all; the first alone writes files, and speaks (see `cli.run`).
    """
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def join_processes(model, device):
    """The model as torchrun's processes train it together; without torchrun, the model itself."""
    if not distributed.is_torchelastic_launched():
        return model
    if device.type == 'cuda':
        torch.cuda.set_device(device)  # nccl works on the current one
    distributed.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    return DistributedDataParallel(model)


def summed(numbers):
    """The sum of a tensor over all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(numbers)
    return numbers


def pick_dtype(name, model, batch):
    """The precision that `--dtype` names. auto: bfloat16 where it is at least 1.5 times as fast as float32.

    That is measured, because nothing else tells. Some CPUs have no instructions for bfloat16 and are a hundred times
    slower with it, which one product shows. Others multiply several times as fast, and lose in casts what they gain if
    the model is small, which only a pass through the model shows, forward and backward.
    """
    if name != 'auto':
        return getattr(torch, name)
    device = model.masks.device
    if device.type == 'mps':
        return torch.float32  # autocast on MPS is young, and float32 is safe
    src, tgt, task = batch.to(device)
    x = torch.ones(512, 512, device=device, requires_grad=True)

    def seconds(work, dtype):
        times = []
        for _ in range(4):
            start = time.perf_counter()
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                total = work().float().sum()
            total.backward()
            total.item()  # waits for the device
            times.append(time.perf_counter() - start)
        return min(times)

    model.eval()  # dropout draws no random numbers here
    works = (lambda: x @ x), (lambda: model.project(model(src, tgt, task)))
    faster = all(1.5 * seconds(work, torch.bfloat16) < seconds(work, torch.float32) for work in works)
    model.zero_grad()
    return torch.bfloat16 if faster else torch.float32


def learning_rate(step, steps, peak):
    """Warm up over the first tenth of all steps, then fall to 0 in a straight line; `step` counts from 1."""
    warmup = max(1, steps // 10)
    return peak * min(step / warmup, (steps - step + 1) / (steps - warmup + 1))


class SmoothedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of the scores x W^T (n, V) against smoothed targets, with its gradient, in slices of the n tokens.

    A target is 1 - smoothing on the right token plus smoothing spread over all V; the gradient by the scores is softmax
    minus target. The scores are the largest tensor of a step, and autograd would pass over them some ten times in main
    memory. A slice is turned into its gradient while it is in the processor's cache, and then forgotten: on a CPU the
    step takes 0.8 of the time, and the memory of a batch no longer grows by (n, V).
    """

    @staticmethod
    def forward(ctx, x, weight, targets, smoothing=0.1):
        """x (n, D), weight (V, D), targets (n,). Returns the loss of all tokens together, and of each (n,)."""
        losses, grad_x, grad_weight = [], torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        for rows, right, grad in zip(x.split(512), targets[:, None].split(512), grad_x.split(512)):
            log_p = (rows @ weight.T).float().log_softmax(-1)  # (512, V)
            own = log_p.gather(1, right).squeeze(1)  # (512,)
            losses.append(-(1 - smoothing) * own - smoothing * log_p.mean(-1))
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
    """The loss is not a number; its argument is the list of the tasks whose loss it is."""


def update(model, optimizer, batches, dtype):
    """One step of the optimizer on the mean loss of all target tokens in `batches`. Returns that loss, and the tokens.

    Each batch's loss is divided by the tokens of all of them, so that a step over four small batches is a step over
    one large one; and by those of all processes, if `model` is a DistributedDataParallel, so that a step of several is
    a step of one. Raises Diverged, before the step, if a loss is not a number.
    """
    core = model.module if isinstance(model, DistributedDataParallel) else model
    device, (_, world) = core.masks.device, processes()
    model.train()
    tokens = summed(torch.tensor(sum(int((batch.tgt[:, 1:] != PAD).sum()) for batch in batches), device=device)).item()
    total = torch.zeros((), device=device)
    for batch in batches:
        src, tgt, task = batch.to(device)
        real = tgt[:, 1:] != PAD  # (B, T)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            x = model(src, tgt, task)  # (n, D)
        weight = core.embedding.weight.to(dtype)
        loss, each = SmoothedCrossEntropy.apply(x.to(dtype), weight, tgt[:, 1:][real])  # (), (n,)
        if not loss.isfinite():
            token_task = task[:, None].expand_as(real)[real]  # (n,)
            raise Diverged(token_task[~each.isfinite()].unique().tolist())
        (loss * (world / tokens)).backward()  # DistributedDataParallel takes the mean of processes; this, the sum
        total += loss.detach() / tokens
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return summed(total).item(), tokens


@torch.no_grad()
def validate(model, data, batch_tokens, dtype=torch.float32):
    """Loss of each direction, (N,), in nats per target token: teacher-forced, without dropout and label smoothing."""
    device, (rank, world) = model.masks.device, processes()
    model.eval()
    sums = torch.zeros(2, model.config.n_tasks, dtype=torch.double)  # (2, N): losses, and tokens
    for batch in islice(data.in_order(batch_tokens), rank, None, world):
        src, tgt, task = batch.to(device)
        real = tgt[:, 1:] != PAD  # (B, T)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores = model.project(model(src, tgt, task))  # (n, V)
        each = cross_entropy(scores.float(), tgt[:, 1:][real], reduction='none')  # (n,)
        token_task = task[:, None].expand_as(real)[real].cpu()  # (n,)
        sums.index_add_(1, token_task, torch.stack([each, torch.ones_like(each)]).cpu().double())  # MPS has no doubles
    if world > 1:
        sums = summed(sums.to(device)).cpu()
    return sums[0] / sums[1]


@contextlib.contextmanager
def noting_ctrl_c():
    """A list into which a first Ctrl-C puts something instead of breaking off what goes on; a second one breaks off."""
    noted = []
    if threading.current_thread() is not threading.main_thread():  # others cannot have Ctrl-C
        yield noted
        return

    def note(*_):
        noted.append(True)
        signal.signal(signal.SIGINT, before)
    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
    if noted:  # too late for what went on to take notice
        raise KeyboardInterrupt


def prepare(model, valid, args):
    """What `update` needs: the model on its device, as all processes train it; Adam, new; and the precision."""
    device = pick_device(args.device)
    model.to(device)
    chosen = [pick_dtype(args.dtype, model, next(valid.in_order(args.batch_tokens)))]
    parallel = join_processes(model, device)
    if distributed.is_initialized():
        distributed.broadcast_object_list(chosen)  # each has measured by itself; the first's holds
    # No weight decay: it would move the weights of neurons that are off, whose gradient is exactly 0.
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9, fused=True)
    return parallel, optimizer, *chosen


def train(checkpoint, data, valid, path, args):
    """Train checkpoint.model in place for args.steps updates and keep the best weights, by validation loss, in `path`.

    Every args.eval_every steps the loss of each direction is printed and two files are written: `path` if the mean
    over directions is the lowest yet, and beside it NAME.last.pt, from which a resumed run continues (on a CPU to the
    last bit). Ends early after args.patience evaluations without a new best. Returns the best mean loss.
    After a Ctrl-C it finishes the step, writes NAME.last.pt and raises KeyboardInterrupt with the command to go on.
    Raises UserError if the loss is no longer a number, or if the data is not that of the run to be resumed.
    """
    make_folder(path.parent)
    model, tasks = checkpoint.model, checkpoint.tasks
    parallel, optimizer, dtype = prepare(model, valid, args)
    device, (rank, world) = model.masks.device, processes()
    args.dtype = str(dtype)[6:]  # for a resumed run, too
    step, best, best_step, seconds = 0, float('inf'), 0, 0.0
    if state := checkpoint.training:
        step, best, best_step, seconds = state['step'], state['best'], state['best_step'], state['seconds']
        if state['text'] != data.made_of:
            raise UserError('--resume: the training text is not that of the run that was interrupted; start anew')
        optimizer.load_state_dict({**optimizer.state_dict(), 'state': state['optimizer']['state']})
    order = islice(data.epochs(args.batch_tokens, args.temperature, args.seed), step * args.accumulate, None)

    print(f'{sum(p.numel() for p in model.parameters()):,} parameters on {device.type} in {args.dtype}; '
          f'{len(data):,} training pairs, {data.n_dropped:,} left out (empty on a side, or too long)')
    print(f'   step  train loss   valid: mean  {"  ".join(tasks)}   target tokens/s    time')
    start, window, loss_sum, token_sum = time.monotonic() - seconds, time.monotonic(), 0.0, 0
    info = dict(checkpoint.info)
    with noting_ctrl_c() as interrupted, \
            tqdm(total=args.steps, initial=step, unit='step', disable=rank > 0 or None, dynamic_ncols=True) as bar:
        while step < args.steps and step - best_step < args.patience * args.eval_every:
            step += 1
            for group in optimizer.param_groups:
                group['lr'] = learning_rate(step, args.steps, args.lr)
            # Dropout's random numbers follow from seed and step alone, so that a resumed run need not have saved them.
            torch.manual_seed(hash((args.seed, step, rank)))
            batches = [data.batch(index[rank::world]) for index in islice(order, args.accumulate)]
            try:
                loss, tokens = update(parallel, optimizer, batches, dtype)
            except Diverged as diverged:
                raise UserError(f'the loss of {", ".join(tasks[task] for task in diverged.args[0])} is not a number at '
                                f'step {step}; what was saved before stays; try a lower --lr')
            loss_sum, token_sum = loss_sum + loss * tokens, token_sum + tokens
            speed = token_sum / (time.monotonic() - window)
            bar.set_postfix_str(f'loss {loss:.3f}, {speed:,.0f} target tokens/s', refresh=False)
            bar.update()
            info |= {'step': step, 'settings': vars(args)}
            due = step % args.eval_every == 0 or step == args.steps
            if due:
                losses = validate(model, valid, args.batch_tokens, dtype)
                mean = losses.mean().item()
                if not math.isfinite(mean):
                    raise UserError(f'the validation loss is {mean} at step {step}; what was saved before stays; '
                                    'try a lower --lr')
                each = '  '.join(f'{x:{len(task)}.2f}' for task, x in zip(tasks, losses.tolist()))
                tqdm.write(f'{step:7,}  {loss_sum / token_sum:10.3f}   {mean:11.3f}  {each}   {speed:15,.0f} '
                           f'{(time.monotonic() - start) / 60:5.1f} min' + ('  best' if mean < best else ''))
                info['valid'] = losses.tolist()
                if mean < best:
                    best, best_step = mean, step
                    if rank == 0:
                        save_checkpoint(path, checkpoint._replace(info=info, training=None))
                window, loss_sum, token_sum = time.monotonic(), 0.0, 0
            stop = summed(torch.tensor(len(interrupted), device=device)).item()  # all processes, or none
            if not (due or stop):
                continue
            state = {'text': data.made_of, 'step': step, 'best': best, 'best_step': best_step,
                     'seconds': time.monotonic() - start, 'optimizer': optimizer.state_dict()}
            if rank == 0:
                save_checkpoint(path.with_suffix('.last.pt'), checkpoint._replace(info=info, training=state))
            if stop:
                launcher = ['torchrun', f'--nproc-per-node={world}', '--'] if world > 1 else ['python']
                again = shlex.join([*launcher, *(word for word in sys.argv if word != '--resume'), '--resume'])
                raise KeyboardInterrupt(f'interrupted, and saved after step {step:,}; to go on: {again}')
    if distributed.is_initialized():
        del parallel  # before what it communicates by, or its end can wait for that of the others for ever
        distributed.destroy_process_group()
    return best
