"""Exercise 9: masks for attention heads, by task, as for FFN neurons."""
import copy

import torch
from conftest import make_batch
from harness import check

from minispec.data import Batch
from minispec.decoding import search
from minispec.model import PAD

LENGTHS = [(5, 7), (3, 4), (8, 2), (5, 7)]
NEVER = [0, 1, 3]  # ids that no translation has


def attentions(model):
    """In the order of head_masks: the encoder's, then self- and cross-attention of each decoder layer."""
    return [*(layer.attention for layer in model.encoder),
            *(each for layer in model.decoder for each in (layer.self_attention, layer.cross_attention))]


def columns(mask):
    """For each of the D = 16 inputs of `out`: does it come from a head that is on? mask (H,)."""
    return mask.repeat_interleave(16 // len(mask))


def without_heads(model, task):
    """A copy with all heads on, in which `out` has zeros for the heads that are off for this task."""
    result = copy.deepcopy(model)
    for attention, mask in zip(attentions(result), model.head_masks[task]):
        attention.out.weight.data *= columns(mask)
    result.head_masks.fill_(True)
    return result


def check_training(model, mixed):
    """Outputs and gradients of one task's sentences, and outputs of several tasks' together."""
    for task in range(3):
        batch = make_batch(LENGTHS, [task] * 4)
        model.zero_grad()
        output = model(*batch)
        check(torch.allclose(output, without_heads(model, task)(*batch), atol=1e-5),
              f'task {task}: not the model in which the columns of Attention.out of its off heads are 0')
        output.square().sum().backward()
        for attention, mask in zip(attentions(model), model.head_masks[task]):
            for gradient in (attention.out.weight.grad.T, attention.query.weight.grad,
                             *attention.key_value.weight.grad.chunk(2)):  # a row belongs to a head
                check((gradient[~columns(mask)] == 0).all(), f'task {task}: a head that is off gets a gradient')
    single = [model(src[src != PAD][None], tgt[tgt != PAD][None], task[None]) for src, tgt, task in zip(*mixed)]
    check(torch.allclose(model(*mixed), torch.cat(single), atol=1e-5), 'a mixed batch is not its single sentences')


def check_translating(model, mixed):
    """Beam search, in which a sentence has several rows, and sub-networks."""
    tags, bound = torch.full_like(mixed.task, 3), torch.full_like(mixed.task, 12)
    try:
        found, _ = search(model, mixed.src, mixed.task, tags, bound, NEVER, beam=3)
        expected = [search(without_heads(model, mixed.task[i]), mixed.src[i:i + 1], mixed.task[i:i + 1], tags[:1],
                           bound[:1], NEVER, beam=3)[0][0] for i in range(len(tags))]
    except RuntimeError as error:
        check(False, f'beam search fails, where a sentence has several rows: {error}')
    check(found == expected, 'beam search does not use the head masks of each sentence')
    for task in range(3):
        batch = make_batch(LENGTHS, [task] * 4)
        alone = Batch(batch.src, batch.tgt, torch.zeros_like(batch.task))
        check(torch.allclose(model.sub_network(task)(*alone), model(*batch), atol=1e-5),
              f'task {task}: sub_network does not keep its heads')


def test_a_head_that_is_off_is_off(model, batch):
    check(hasattr(model, 'head_masks'), 'minispec/model.py: Transformer has no head_masks yet')
    check(tuple(model.head_masks.shape) == (3, 6, 2) and model.head_masks.dtype == torch.bool,
          'head_masks is not a boolean tensor (N, 3 * layers, H)')
    check(model.head_masks.all(), 'in a new model not all heads are on')
    model.head_masks.copy_(torch.rand(3, 6, 2, generator=torch.Generator().manual_seed(3)) < 0.5)
    check_training(model, batch)
    check_translating(model, batch)
