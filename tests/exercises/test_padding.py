"""Exercise 1: count padding, as the released code does."""
import torch
from harness import check, check_parameter

from minispec.data import Batch
from minispec.model import PAD
from minispec.neurons import record


def count_by_hand(model, batch, padding):
    """The counts of `record` by a plain loop over sentences, with their padding or without."""
    N, L, F = model.masks.shape
    counts = {'token': torch.zeros(N, L, F).long(), 'sentence': torch.zeros(N, L, F).long(),
              'positions': torch.zeros(N, L).long(), 'sentences': torch.zeros(N, L).long()}
    for src, tgt, task in zip(*batch):
        if not padding:
            src, tgt = src[src != PAD], tgt[tgt != PAD]
        for layer, ffn in enumerate(model.ffns):
            seen = []
            hook = ffn.w1.register_forward_hook(lambda module, inputs, output: seen.append(output[0] > 0))
            with torch.no_grad():
                model(src[None], tgt[None], task[None])
            hook.remove()
            for name, found in zip(counts, (seen[0].sum(0), seen[0].any(0), len(seen[0]), 1)):
                counts[name][task, layer] += found
    return counts


def test_padding_is_counted_if_asked_for_and_else_not(model, batch):
    check_parameter(record, 'count_padding', 'minispec/neurons.py: record(model, batches)')
    model.masks.fill_(True)
    for padding in (False, True):
        expected, found = count_by_hand(model, batch, padding), record(model, [batch], count_padding=padding)
        for name in expected:
            for side, layers in (('encoder', slice(0, 2)), ('decoder', slice(2, 4))):
                check(torch.equal(found[name][:, layers], expected[name][:, layers]),
                      f'count_padding={padding}: "{name}" of the {side} layers is wrong')
    wider = Batch(*(torch.nn.functional.pad(x, (0, 5), value=PAD) for x in batch[:2]), batch.task)
    narrow, wide = (record(model, [each])['token'] for each in (batch, wider))
    check(torch.equal(narrow, wide), 'without count_padding, the counts depend on how wide a batch is padded')
