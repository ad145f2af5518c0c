"""Adapters, a rival of the method: a few new neurons for each direction or family are trained, and all else is frozen.

A parallel bottleneck adapter (He et al. 2022) is a second, small FFN beside the first: FFN(x) + ReLU(x A + a) B. Both
together are one FFN with more neurons. So every FFN gets a block of new neurons for each direction or family, and masks
give a direction the base's neurons and its own block. The blocks' columns of w2.weight start at 0: at first, the model
computes what the base does.
"""
from dataclasses import replace

import torch

from minispec.corpora.languages import groups_of_tasks
from minispec.model import Transformer

# New neurons for each direction; for each family; for each direction, with nothing frozen (a control).
ADAPTERS = ('adapters', 'family-adapters', 'unfrozen-adapters')


def owners(kind, tasks):
    """Which block each task has in the encoder and in the decoder: two lists of N names.

    With family-adapters, encoder blocks belong to families of source languages, decoder blocks to those of targets.
    """
    return groups_of_tasks(tasks) if kind == 'family-adapters' else (tasks, tasks)


def add_adapters(model, kind, tasks, bottleneck):
    """A copy of a dense model with `bottleneck` new neurons per block in every FFN, F' in all; masks (N, L, F')."""
    sides = owners(kind, tasks)
    names = sorted({*sides[0], *sides[1]})
    config = model.config
    wide = Transformer(replace(config, d_ff=config.d_ff + len(names) * bottleneck))
    state = wide.state_dict()  # the model's own tensors, to be written into
    for name, old in model.state_dict().items():
        if name == 'masks':
            continue
        if name.endswith('w2.weight'):
            state[name].zero_()
        state[name][tuple(slice(n) for n in old.shape)] = old  # the new rows of w1.weight stay random
    wide.masks[..., config.d_ff:] = False
    for side, layers in zip(sides, (slice(config.layers), slice(config.layers, None))):
        for task, name in enumerate(side):
            start = config.d_ff + names.index(name) * bottleneck
            wide.masks[task, layers, start:start + bottleneck] = True
    return wide


def freeze(model, d_ff):
    """Let training change the neurons after the first d_ff of every FFN, and nothing else.

    Frozen weights stay the same bit for bit: Adam does not move a weight whose gradients were all 0 up to now.
    """
    def only_new(grad):
        return torch.cat([torch.zeros_like(grad[:d_ff]), grad[d_ff:]])

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for ffn in model.ffns:
        for parameter, hook in ((ffn.w1.weight, only_new), (ffn.w1.bias, only_new),
                                (ffn.w2.weight, lambda grad: only_new(grad.T).T)):
            parameter.requires_grad_(True).register_hook(hook)
