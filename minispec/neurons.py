"""The paper's contribution: which FFN neurons does a task use, which of them does it need, which do two tasks share?

    record    count, for every task, layer and neuron, how often the neuron is active     section 3.1
    select    keep the most active neurons that carry k% of a layer's activity            Eq. 1
    overlap   intersection over union of the tasks' neurons, and what chance gives        section 3.2

Counts and masks have the shape (N, L, F); see `model.py` for the symbols. `masks.py` gives each task its neurons.
"""
import warnings

import torch

from minispec.model import PAD, target_mask


@torch.no_grad()
def record(model, batches):
    """Count active neurons while `model` reads text teacher-forced (section 3.1).

    Its masks are in force: as in the paper, all are true in a base. It is put into eval mode, and stays in it.

    A neuron is active at a position if its ReLU output is > 0. Encoder layers are counted over source positions,
    decoder layers over target positions, padding never. `batches` yields (src, tgt, task) as `Transformer.forward`
    takes them. Returns integer tensors on the CPU:

        token      (N, L, F)  positions at which the neuron was active
        sentence   (N, L, F)  sentences in which it was active at least once
        positions  (N, L)     positions read
        sentences  (N, L)     sentences read
    """
    N, L, F = model.masks.shape
    counts = {'token': torch.zeros(N, L, F, dtype=torch.long), 'sentence': torch.zeros(N, L, F, dtype=torch.long),
              'positions': torch.zeros(N, L, dtype=torch.long), 'sentences': torch.zeros(N, L, dtype=torch.long)}
    outputs = [None] * L  # of each layer's ReLU, for the batch that the model has just read: (B, T, F)

    def keep_output(layer):
        def hook(module, inputs, output):
            outputs[layer] = output
        return hook

    model.eval()
    hooks = [ffn.relu.register_forward_hook(keep_output(layer)) for layer, ffn in enumerate(model.ffns)]
    try:
        for src, tgt, task in batches:
            model(src, tgt, task)
            for layer, h in enumerate(outputs):
                real = src != PAD if layer < L // 2 else target_mask(tgt)  # (B, T)
                count_active(counts, layer, h, real, task)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def count_active(counts, layer, h, real, task):
    """Add one batch of one layer to `counts`: h (B, T, F) ReLU's output, real (B, T) false at padding, task (B,)."""
    # The sign of a ReLU's output is 1 where it is active, else 0. A product is ten times as fast as a sum of bools.
    active = (real[:, None].to(h.dtype) @ h.sign()).squeeze(1)  # (B, 1, T) @ (B, T, F) -> (B, F), counts of positions
    found = {'token': active, 'sentence': active > 0,  # (B, F) each
             'positions': real.sum(1), 'sentences': real.any(1)}  # (B,) each
    for name, values in found.items():
        counts[name][:, layer].index_add_(0, task.cpu(), values.long().cpu())


def select(counts, k):
    """Eq. 1: in every row of counts (..., F), the fewest neurons whose counts sum to k% of the row's total or more.

    Neurons are taken by falling count, ties by index, until their sum reaches the threshold. With counts 5 3 1 1 0 and
    k = 80 the threshold is 8, so 5 and 3 stay; with k = 81 it is 8.1, and the first of the two 1s stays too.
    k = 100 keeps every neuron. A row of zeros does too, with a warning, because it does not rank its neurons.
    Returns a boolean mask (..., F). Raises ValueError for a k outside (0, 100].
    """
    if not 0 < k <= 100:
        raise ValueError(f'k is a percentage in (0, 100], not {k}')
    ranked, order = counts.sort(dim=-1, descending=True, stable=True)  # (..., F)
    total = ranked.sum(-1, keepdim=True)  # (..., 1)
    if (total == 0).any():
        warnings.warn(f'no neuron is active in {int((total == 0).sum())} of {total.numel()} rows; they keep all')
    before = ranked.cumsum(-1) - ranked  # (..., F): activity of the neurons ranked higher
    # A neuron stays if those before it do not reach the threshold. 64-bit floats keep whole-number k exact.
    keep = (before.double() * 100 < total.double() * k) | (total == 0) | (k == 100)  # (..., F), in ranked order
    return torch.zeros_like(keep).scatter_(-1, order, keep)


def overlap(masks):
    """Intersection over union (IoU) of every two tasks' neurons in each layer, and the IoU expected by chance.

    Two independent random sets with densities p and q share pq of all neurons on average, and cover p + q - pq. So the
    IoU by chance is about pq / (p + q - pq), 0.64 if both densities are 0.78. masks (N, L, F); returns (L, N, N) each.
    """
    m = masks.transpose(0, 1).double()  # (L, N, F)
    shared = m @ m.mT  # (L, N, N)
    size = m.sum(-1)  # (L, N)
    iou = shared / (size[:, :, None] + size[:, None, :] - shared)  # (L, N, N)
    density = m.mean(-1)  # (L, N)
    both = density[:, :, None] * density[:, None, :]  # (L, N, N)
    return iou, both / (density[:, :, None] + density[:, None, :] - both)
