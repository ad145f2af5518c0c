"""Recording, selection and overlap, by hand and against plain loops."""
import pytest
import torch
from conftest import make_batch

from minispec.data import Batch
from minispec.masks import random_masks
from minispec.model import PAD
from minispec.neurons import overlap, record, select


def kept(counts, k):
    return select(torch.tensor(counts), k).long().tolist()


# Selection: Eq. 1 ----------------------------------------------------------------------------------------------------

def test_selection_by_hand():
    for counts, k, expected in [
        ([5, 3, 1, 1, 0], 80, [1, 1, 0, 0, 0]),       # 5 + 3 reach the line at 8 exactly
        ([5, 3, 1, 1, 0], 81, [1, 1, 1, 0, 0]),       # the neuron that crosses the line stays, the first of two equals
        ([1, 3, 1, 0, 5], 81, [1, 1, 0, 0, 1]),       # the same, unsorted
        ([5, 3, 1, 1, 0], 100, [1, 1, 1, 1, 1]),      # k = 100 keeps the neuron that never fired
        ([5, 3, 1, 1, 0], 99.99, [1, 1, 1, 1, 0]),    # but anything less does not
        ([9, 1], 1, [1, 0]),                          # at least one neuron
        ([94, 5, 1], 95, [1, 1, 0]),
    ]:
        assert kept(counts, k) == expected, (counts, k)


def test_ties_go_by_index_however_many_there_are():
    """Short rows sort stably by luck; a layer of 2,000 equal counts does not."""
    assert kept([1] * 2000, 50) == [1] * 1000 + [0] * 1000


def test_selection_keeps_all_of_a_layer_in_which_nothing_fired_and_warns():
    with pytest.warns(UserWarning, match='no neuron is active in 1 of 2'):
        assert kept([[0, 0, 0], [0, 4, 0]], 50) == [[1, 1, 1], [0, 1, 0]]


def test_selection_is_exact_for_large_counts():
    """Counts of a real corpus pass the 24 bits of a 32-bit float."""
    assert kept([95 * 10**9, 5 * 10**9 - 1, 1], 95) == [1, 0, 0]
    assert kept([95 * 10**9 - 1, 5 * 10**9, 1], 95) == [1, 1, 0]


def test_selection_refuses_what_is_no_percentage():
    for k in (0, 100.5, float('nan')):
        with pytest.raises(ValueError, match='percentage'):
            select(torch.ones(3), k)


# Recording: section 3.1 ----------------------------------------------------------------------------------------------

def test_record_counts_what_a_plain_loop_counts(model, batch):
    """Against an independent count, a sentence at a time without any padding; each neuron, both rules, the totals."""
    model.masks.fill_(True)
    N, L, _ = model.masks.shape
    expected = {name: torch.zeros_like(model.masks, dtype=torch.long) for name in ('token', 'sentence')}
    expected |= {name: torch.zeros(N, L, dtype=torch.long) for name in ('positions', 'sentences')}
    for src, tgt, task in zip(*batch):
        for layer, ffn in enumerate(model.ffns):
            seen = []
            hook = ffn.w1.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
            with torch.no_grad():
                model(src[src != PAD][None], tgt[tgt != PAD][None], task[None])
            hook.remove()
            active = seen[0] > 0  # (T, F); ReLU(x) > 0 where x > 0
            expected['token'][task, layer] += active.sum(0)
            expected['sentence'][task, layer] += active.any(0)
            expected['positions'][task, layer] += len(active)
            expected['sentences'][task, layer] += 1
    found = record(model, [batch])
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_record_does_not_depend_on_batches_or_padding(model):
    sentences = make_batch([(5, 7), (3, 4), (8, 2)], [0, 0, 1])
    wider = Batch(*(torch.nn.functional.pad(x, (0, 5), value=PAD) for x in sentences[:2]), sentences.task)
    one_by_one = [Batch(*(x[i:i + 1] for x in sentences)) for i in range(3)]
    together = record(model, [sentences])
    for other in (record(model, [wider]), record(model, one_by_one)):
        assert all(torch.equal(together[name], other[name]) for name in together)


def test_record_reads_without_dropout_and_leaves_no_hooks(model, batch):
    first = record(model, [batch])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    again = record(model.train(), [batch])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(ffn.relu._forward_hooks for ffn in model.ffns)


# Overlap: section 3.2 ------------------------------------------------------------------------------------------------

def test_overlap_by_hand():
    masks = torch.tensor([[[1, 1, 0, 0]], [[1, 0, 1, 1]]]).bool()  # (N=2, L=1, F=4)
    iou, chance = overlap(masks)
    assert iou.tolist() == [[[1.0, 0.25], [0.25, 1.0]]]  # 1 shared of 4
    assert chance[0, 0, 1].item() == pytest.approx(0.375 / 0.875)  # p = 1/2, q = 3/4
    assert chance[0, 0, 1] == chance[0, 1, 0]


def test_chance_is_what_random_masks_reach():
    masks = torch.ones(2, 1, 100_000).bool()
    masks[0, :, :40_000] = False
    masks[1, :, :20_000] = False
    iou, chance = overlap(random_masks(masks, seed=0))
    assert iou[0, 0, 1].item() == pytest.approx(chance[0, 0, 1].item(), abs=0.01)
