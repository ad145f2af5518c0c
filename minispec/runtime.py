"""The machine: its device, its precision, its processes, and Ctrl-C."""
import contextlib
import os
import signal
import threading

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from minispec import UserError


def pick_device(name):
    """The device that `--device` names. auto takes CUDA, else MPS (Apple), else the CPU."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    if name == 'cuda':
        name = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'  # under torchrun, each process has a GPU of its own
    try:
        if torch.zeros(1, device=name).device.type in ('cpu', 'cuda', 'mps'):
            return torch.device(name)
    except Exception:  # torch has many answers to a device that it does not know, or that is not there
        pass
    raise UserError(f'--device {name}: this machine has no such device; try --device auto')


def pick_dtype(name, device):
    """The name of the precision that `--dtype` asks for.

    auto takes bfloat16 where the processor has instructions for it. Without them, bfloat16 is a hundred times slower
    than float32 on a CPU.
    """
    if name != 'auto':
        return name
    if device.type == 'cuda':
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:  # autocast on MPS is young, and its float32 is safe; an older torch does not know what a CPU can do
        known = torch.cpu.get_capabilities() if device.type == 'cpu' and hasattr(torch.cpu, 'get_capabilities') else {}
        fast = known.get('avx512_bf16', False) or known.get('amx_bf16', False)
    return 'bfloat16' if fast else 'float32'


def rank_and_world_size():
    """Which of torchrun's processes this is, and of how many; without torchrun (0, 1).

    All processes train one model. Each takes every world_size-th sentence of a batch, and has its own random numbers.
    Gradients, losses and token counts are summed over all. Only the first writes files and prints (see `cli.run`).
    """
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def join_processes(device):
    """Connect torchrun's processes. Without torchrun, or if they are connected, do nothing."""
    if distributed.is_torchelastic_launched() and not distributed.is_initialized():
        if device.type == 'cuda':
            torch.cuda.set_device(device)  # NCCL uses the current device
        distributed.init_process_group('nccl' if device.type == 'cuda' else 'gloo')


def from_first_process(make, device):
    """Call make() in the first process only, and return its result in all processes."""
    join_processes(device)
    found = [make() if rank_and_world_size()[0] == 0 else None]
    if distributed.is_initialized():
        distributed.broadcast_object_list(found)
    return found[0]


def wrap_ddp(model, device):
    """The model as torchrun's processes train it together; without torchrun, the model itself."""
    join_processes(device)
    return DistributedDataParallel(model) if distributed.is_initialized() else model


def all_reduce_sum(numbers):
    """The sum of a tensor over all processes, in place."""
    if distributed.is_initialized():
        distributed.all_reduce(numbers)
    return numbers


@contextlib.contextmanager
def deferred_ctrl_c():
    """Yields a list that is non-empty after the first Ctrl-C or SIGTERM; a second one interrupts at once.

    Raises KeyboardInterrupt at the end if the first came after the caller last looked at the list.
    """
    noted = []
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield noted
        return

    def note(signal_number, frame):
        noted.append(signal_number)
        restore()
        if rank_and_world_size()[0] == 0:
            os.write(2, b'\nsaving after this step; another Ctrl-C stops at once\n')  # `print` may be running

    def restore():
        for each, handler in before.items():
            signal.signal(each, handler)

    # The schedulers of clusters send SIGTERM.
    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        restore()
    if noted:
        raise KeyboardInterrupt
