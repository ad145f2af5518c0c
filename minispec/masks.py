"""Whose neurons a task gets: its own, which is the method, or those of a control.

    own       its own neurons: the method of the paper
    dense     all neurons: an ordinary training. Does the method help at all?
    random    as many neurons, drawn at random. Does it help to select neurons?
    permuted  its own after one permutation of each layer's neurons, the same for all tasks. So how many neurons two
              tasks share stays the same. Does it matter what a neuron does?
    family    as many, drawn at random, but with one draw for each language family. Is it enough that families differ?
    reverse   those of the reverse direction. Must they be a task's own?
    shared    the neurons that all tasks together use most, the same for all: plain pruning. Must tasks differ?

All continue the same base, on the same batches and schedule. The main comparison is `own` against `dense`. To add a
control, add its name to MASKS, a branch to `make_masks`, and a word to the help of `specialize.py --masks`.
Masks have the shape (N, L, F); see `model.py` for the symbols.
"""
import torch

from minispec import UserError
from minispec.corpora.languages import groups_of_tasks
from minispec.neurons import select
from minispec.tasks import reverse_task, split_task

MASKS = ('own', 'dense', 'random', 'permuted', 'family', 'reverse', 'shared')


def make_masks(kind, tasks, counts, k_encoder, k_decoder, seed):
    """The masks (N, L, F) of any kind in MASKS except `dense`, from the counts (N, L, F) of `neurons.record`.

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
    if kind == 'own':
        return own
    raise ValueError(f'make_masks does not know {kind} yet')


def random_masks(masks, seed):
    """As many neurons as `masks` (N, L, F) has in every task and layer, drawn at random.

    Each task draws independently, so both the selection of neurons and what related tasks share are lost.
    """
    noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed))  # (N, L, F)
    return masks.gather(-1, noise.argsort(-1))  # (N, L, F)


def permuted_masks(masks, seed):
    """The masks (N, L, F) after a random permutation of each layer's neurons, the same for all tasks.

    How many neurons a task has, and how many any two tasks share, stays. Only which neurons these are is lost.
    """
    noise = torch.rand(masks.shape[1:], generator=torch.Generator().manual_seed(seed))  # (L, F)
    return masks.gather(-1, noise.argsort(-1).expand_as(masks))


def family_masks(masks, tasks, seed):
    """As many random neurons as `masks` (N, L, F) has in every task and layer, drawn by family.

    Each family has one random order of a layer's neurons, and a task takes the first of them. So of two sets of one
    family, the smaller is a subset of the larger. The family is the source language's in the encoder, the target's in
    the decoder.
    """
    families = groups_of_tasks(tasks)  # of sources, of targets
    known = sorted({name for side in families for name in side})
    noise = torch.rand(len(known), *masks.shape[1:], generator=torch.Generator().manual_seed(seed))
    rank = noise.argsort(-1).argsort(-1)  # (families, L, F), of each neuron in a family's order
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

    Each layer keeps as many neurons as `masks` (N, L, F) does on average over tasks. The counts (N, L, F) are
    normalized by task and layer, so that a task with more text does not weigh more.
    """
    share = counts.double() / counts.sum(-1, keepdim=True).clamp(min=1)  # (N, L, F), of a task's activity in a layer
    rank = share.mean(0).argsort(dim=-1, descending=True, stable=True).argsort(-1)  # (L, F), 0 for the most active
    kept = masks.sum(-1).double().mean(0).round()  # (L,)
    return (rank < kept[:, None]).expand_as(masks)  # (L, F) -> (N, L, F)


def zero_shot_masks(masks, tasks, task):
    """The mask (L, F) of a task that was never trained: de-fr gets the encoder's of de-en and the decoder's of en-fr.

    In general, the encoder's of the first of `tasks` with its source language, and the decoder's of the first with its
    target language. Returns also the names of these two. Raises UserError if there is no such task.
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
