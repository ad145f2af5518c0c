"""Exercise 3: select by mean activation instead of a count."""
import torch
from conftest import make_batch
from harness import asked_for, check

from minispec.model import PAD


def test_means_are_those_of_a_plain_loop(model):
    record_means = asked_for('neurons', 'record_means(model, batches)')
    model.masks.fill_(True)
    # Two batches of unequal size: the mean over positions is neither that over sentences nor that over batches.
    batches = [make_batch([(5, 7), (3, 4), (8, 2)], [0, 1, 2]), make_batch([(2, 9), (6, 3)], [1, 1], seed=1)]
    outputs = {}  # by task and layer: the ReLU's outputs (T, F) of its sentences
    for batch in batches:
        for src, tgt, task in zip(*batch):
            for layer, ffn in enumerate(model.ffns):
                hook = ffn.w1.register_forward_hook(lambda module, inputs, output, place=(int(task), layer):
                                                    outputs.setdefault(place, []).append(output[0].clamp(min=0)))
                with torch.no_grad():
                    model(src[src != PAD][None], tgt[tgt != PAD][None], task[None])
                hook.remove()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    found = record_means(model.train(), iter(batches))
    check(found.shape == model.masks.shape, f'record_means returns shape {tuple(found.shape)}, and not (N, L, F)')
    for (task, layer), parts in outputs.items():
        check(torch.allclose(found[task, layer].double(), torch.cat(parts).mean(0).double(), atol=1e-5),
              f'task {task}, layer {layer}: not the mean ReLU output over its real positions, in eval mode')
    check(not any(ffn.relu._forward_hooks or ffn.w1._forward_hooks for ffn in model.ffns),
          'record_means leaves its hooks in the model')
    check(not found.requires_grad, 'record_means keeps the graph of all batches in memory; it needs no gradient')
