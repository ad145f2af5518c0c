"""Whose neurons a task gets: its own, which is the method, or those of a control.

    own       its own neurons: the method of the paper
    dense     all neurons: an ordinary training. Is the method worth anything?
    random    as many neurons, drawn at random. Is it worth selecting neurons?
    permuted  its own after one permutation of each layer's neurons, the same for all tasks: who shares how much with
              whom stays. Does it matter what a neuron does?
    family    as many, drawn at random, but the same for relatives. Is it enough that families differ?
    reverse   those of the reverse direction. Must they be a task's own?
    shared    the neurons that all tasks use most, the same for all: plain pruning. Must tasks differ?

All go on from the same base and see the same batches on the same schedule. What counts is `own` against `dense`.
Masks have the shape (N, L, F); see `model.py` for the symbols.
"""
import torch

from minispec import UserError
from minispec.corpora.languages import groups
from minispec.neurons import select
from minispec.tasks import reverse_task, split_task

MASKS = ('own', 'dense', 'random', 'permuted', 'family', 'reverse', 'shared')


def make_masks(kind, tasks, counts, k_encoder, k_decoder, seed):
    """The masks (N, L, F) of one of the MASKS but `dense`, from the counts (N, L, F) that `neurons.record` made.

    k_encoder and k_decoder are the k of Eq. 1, each for its half of the layers.
    """
    encoder, decoder = counts.chunk(2, dim=1)  # (N, L/2, F) each
    own = torch.cat([select(encoder, k_encoder), select(decoder, k_decoder)], dim=1)  # (N, L, F)
    if kind == 'random':
        return random_masks(own, seed)
    if kind == 'permuted':
        return permuted_masks(own, seed)
    if kind == 'family':
        return family_masks(own, tasks, seed)
    if kind == 'reverse':
        return reverse_masks(own, tasks)
    if kind == 'shared':
        return shared_masks(counts, own)
    return own


def random_masks(masks, seed):
    """As many neurons as `masks` (N, L, F) has in every task and layer, drawn at random.

    Each task draws for itself, so both the selection of neurons and what related tasks share are lost.
    """
    noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed))
    return masks.gather(-1, noise.argsort(-1))


def permuted_masks(masks, seed):
    """The masks (N, L, F) after a random permutation of each layer's neurons, the same for all tasks.

    How many neurons a task has, and how many any two tasks share, stays. Only which neurons these are is lost.
    """
    noise = torch.rand(masks.shape[1:], generator=torch.Generator().manual_seed(seed))  # (L, F)
    return masks.gather(-1, noise.argsort(-1).expand_as(masks))


def family_masks(masks, tasks, seed):
    """As many random neurons as `masks` (N, L, F) has in every task and layer, drawn by family.

    Each family has a random order of a layer's neurons, and a task takes the first of it. So of two relatives' sets the
    smaller is part of the larger. The encoder goes by the family of the source language, the decoder by that of the
    target.
    """
    families = groups(tasks)  # of sources, of targets
    known = sorted({name for side in families for name in side})
    noise = torch.rand(len(known), *masks.shape[1:], generator=torch.Generator().manual_seed(seed))
    rank = noise.argsort(-1).argsort(-1)  # (families, L, F)
    sources, targets = ([known.index(name) for name in side] for side in families)
    half = masks.size(1) // 2
    own_rank = torch.cat([rank[sources, :half], rank[targets, half:]], dim=1)  # (N, L, F)
    return own_rank < masks.sum(-1, keepdim=True)


def reverse_masks(masks, tasks):
    """The neurons of the reverse direction: en-de gets those of de-en. masks (N, L, F).

    Raises UserError if a task has no reverse.
    """
    if alone := [task for task in tasks if reverse_task(task) not in tasks]:
        raise UserError(f'--masks reverse: {", ".join(alone)} has no reverse direction in the base')
    return masks[[tasks.index(reverse_task(task)) for task in tasks]]


def shared_masks(counts, masks):
    """The same neurons for all tasks: those that are most active over all tasks.

    In each layer as many as `masks` (N, L, F) keeps on average. A task's counts (N, L, F) weigh the same as another's,
    however much text was recorded for it.
    """
    share = counts.double() / counts.sum(-1, keepdim=True).clamp(min=1)  # (N, L, F), of a task's activity in a layer
    rank = share.mean(0).argsort(dim=-1, descending=True, stable=True).argsort(-1)  # (L, F), 0 for the most active
    kept = masks.sum(-1).double().mean(0).round()  # (L,)
    return (rank < kept[:, None]).expand_as(masks)  # (L, F) -> (N, L, F)


def zero_shot_masks(masks, tasks, task):
    """The neurons (L, F) of a task that was never trained: de-fr gets the encoder's of de-en, the decoder's of en-fr.

    In general those of the first of `tasks` with its source, and of the first with its target. Returns also the names
    of these two. Raises UserError if there is no such task.
    """
    src, tgt = split_task(task)
    same_source = [other for other in tasks if split_task(other)[0] == src]
    same_target = [other for other in tasks if split_task(other)[1] == tgt]
    if not same_source:
        raise UserError(f'{task}: no direction was trained from {src}; the model knows {", ".join(tasks)}')
    if not same_target:
        raise UserError(f'{task}: no direction was trained into {tgt}; the model knows {", ".join(tasks)}')
    encoder, decoder = same_source[0], same_target[0]
    half = masks.size(1) // 2
    mask = torch.cat([masks[tasks.index(encoder), :half], masks[tasks.index(decoder), half:]])  # (L, F)
    return mask, encoder, decoder
