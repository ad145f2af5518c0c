"""Whose neurons a task gets, by hand."""
import pytest
import torch

from minispec import UserError
from minispec.masks import (family_masks, make_masks, permuted_masks, random_masks, reverse_masks, shared_masks,
                            zero_shot_masks)

TASKS = ['en-de', 'fr-en', 'en-fr', 'de-en']  # in an order that no rule of positions explains
COUNTS = torch.tensor([[[5, 3, 2, 0], [1, 1, 4, 4]], [[0, 0, 1, 9], [6, 2, 2, 0]],
                       [[2, 8, 0, 0], [0, 7, 0, 3]], [[3, 3, 3, 1], [9, 0, 1, 0]]])  # (N=4, L=2, F=4): sums of 10


def test_own_masks_have_a_k_for_the_encoder_and_one_for_the_decoder():
    own = make_masks('own', TASKS, COUNTS, 50, 85, seed=1)
    assert own[:, 0].int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0]]  # lines at 5
    assert own[:, 1].int().tolist() == [[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0]]  # lines at 8.5


def test_each_kind_of_masks_is_made_by_its_rule():
    own = make_masks('own', TASKS, COUNTS, 60, 60, seed=1)
    expected = {'random': random_masks(own, 1), 'permuted': permuted_masks(own, 1),
                'family': family_masks(own, TASKS, 1), 'reverse': reverse_masks(own, TASKS),
                'shared': shared_masks(COUNTS, own)}
    for kind, masks in expected.items():
        assert torch.equal(make_masks(kind, TASKS, COUNTS, 60, 60, seed=1), masks) and not torch.equal(masks, own)
    with pytest.raises(ValueError, match='does not know dense'):  # nor any name that MASKS alone was given
        make_masks('dense', TASKS, COUNTS, 60, 60, seed=1)


def test_random_masks_keep_the_number_of_neurons_in_every_row():
    masks = torch.rand(3, 4, 200, generator=torch.Generator().manual_seed(1)) < 0.3
    drawn = random_masks(masks, seed=5)
    assert torch.equal(drawn.sum(-1), masks.sum(-1)) and not torch.equal(drawn, masks)
    assert torch.equal(drawn, random_masks(masks, seed=5)) and not torch.equal(drawn, random_masks(masks, seed=6))
    same = random_masks(masks[:1].expand(3, -1, -1), seed=5)
    assert not torch.equal(same[0], same[1])  # each task draws for itself


def test_permuted_masks_keep_what_tasks_share_and_lose_which_neurons_these_are():
    masks = torch.rand(5, 4, 200, generator=torch.Generator().manual_seed(1)) < 0.3
    permuted = permuted_masks(masks, seed=5)
    shared = [torch.einsum('nlf,mlf->lnm', x.double(), x.double()) for x in (masks, permuted)]  # (L, N, N)
    assert torch.equal(*shared) and not torch.equal(permuted, masks)
    moved = [(permuted[:, layer] != masks[:, layer]).any(0) for layer in range(4)]  # (F,) each
    assert not torch.equal(moved[0], moved[1])  # each layer has a permutation of its own
    assert torch.equal(permuted, permuted_masks(masks, seed=5)) and not torch.equal(permuted, permuted_masks(masks, 6))


def test_family_masks_are_the_same_for_relatives():
    tasks = ['en-cs', 'de-cs', 'fr-ru', 'sw-de', 'fr-zu']  # Germanic-Slavic twice, Romance-Slavic; sw, zu: no table
    masks = torch.zeros(5, 2, 50).bool()
    for task, n in enumerate((20, 30, 20, 20, 20)):
        masks[task, :, :n] = True
    drawn = family_masks(masks, tasks, seed=5)
    assert torch.equal(drawn.sum(-1), masks.sum(-1))
    encoder, decoder = drawn.unbind(1)
    assert not (encoder[0] & ~encoder[1]).any() and not (decoder[0] & ~decoder[1]).any()  # 20 of the other's 30
    assert torch.equal(decoder[0], decoder[2]) and torch.equal(encoder[2], encoder[4])
    different = [encoder[0], encoder[2], encoder[3], decoder[0], decoder[3], decoder[4]]
    assert len({tuple(x.tolist()) for x in different}) == 6


def test_reverse_masks_are_found_by_name():
    masks = torch.eye(4).bool()[:, None]  # (N=4, L=1, F=4): task t has neuron t alone
    owner = reverse_masks(masks, TASKS).nonzero()[:, 2].tolist()
    assert [TASKS[i] for i in owner] == ['de-en', 'en-fr', 'fr-en', 'en-de']


def test_shared_masks_by_hand():
    counts = torch.tensor([[[80, 0, 20, 0]], [[0, 5, 3, 2]]])  # (N=2, L=1, F=4); shares .8 0 .2 0 and 0 .5 .3 .2
    masks = torch.tensor([[[1, 0, 0, 0]], [[0, 1, 1, 1]]]).bool()  # 1 and 3 neurons: 2 on average
    assert shared_masks(counts, masks).int().tolist() == [[[1, 1, 0, 0]]] * 2  # the sums are .8 .5 .5 .2; ties by index
    assert shared_masks(counts.flip(-1), masks).int().tolist() == [[[0, 1, 0, 1]]] * 2


def test_zero_shot_takes_the_encoder_of_the_source_and_the_decoder_of_the_target():
    masks = torch.arange(4)[:, None, None].expand(4, 4, 1)  # (N=4, L=4, F=1): every neuron says whose it is
    mask, encoder, decoder = zero_shot_masks(masks, TASKS, 'de-fr')
    assert (mask.flatten().tolist(), encoder, decoder) == ([3, 3, 2, 2], 'de-en', 'en-fr')
    for task, cause in (('xx-fr', 'from xx'), ('de-xx', 'into xx'), ('en-x', 'into x')):
        with pytest.raises(UserError, match=f'no direction was trained {cause}; the model knows '):
            zero_shot_masks(masks, TASKS, task)


def test_a_direction_without_a_reverse_is_an_error():
    with pytest.raises(UserError, match='--masks reverse: fr-en has no reverse'):
        reverse_masks(torch.ones(3, 2, 4), ['en-de', 'de-en', 'fr-en'])
