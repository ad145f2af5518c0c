"""Recording, selection and overlap, worked by hand."""
import pytest
import torch
from conftest import make_batch

from minispec.model import PAD
from minispec.neurons import overlap, private, record, select, shared, shuffled, silence, swapped, zero_shot


def kept(counts, k):
    return select(torch.tensor(counts), k).long().tolist()


@pytest.mark.parametrize('counts, k, expected', [
    ([5, 3, 1, 1, 0], 80, [1, 1, 0, 0, 0]),       # 5 + 3 reach the line at 8 exactly
    ([5, 3, 1, 1, 0], 81, [1, 1, 1, 0, 0]),       # the neuron that crosses the line stays, the first of two equals
    ([1, 3, 1, 0, 5], 81, [1, 1, 0, 0, 1]),       # the same, unsorted
    ([5, 3, 1, 1, 0], 100, [1, 1, 1, 1, 1]),      # k = 100 keeps the neuron that never fired
    ([5, 3, 1, 1, 0], 99.99, [1, 1, 1, 1, 0]),    # but anything less does not
    ([9, 1], 1, [1, 0]),                          # at least one neuron
    ([2, 2, 2, 2], 50, [1, 1, 0, 0]),             # ties by index
    ([7, 0, 0], 95, [1, 0, 0]),                   # one neuron does it all
    ([95, 4, 1], 95, [1, 0, 0]),                  # on the line is enough
    ([94, 5, 1], 95, [1, 1, 0]),
])
def test_selection_by_hand(counts, k, expected):
    assert kept(counts, k) == expected


def test_ties_go_by_index_however_many_there_are():
    """Short rows sort stably by luck; a layer of 2,000 equal counts does not."""
    assert kept([1] * 2000, 50) == [1] * 1000 + [0] * 1000


def test_selection_keeps_silent_layers_whole_and_says_so():
    with pytest.warns(UserWarning, match='nothing fired in 1 of 2'):
        assert kept([[0, 0, 0], [0, 4, 0]], 50) == [[1, 1, 1], [0, 1, 0]]


def test_selection_is_exact_for_large_counts():
    """Counts of a real corpus pass the 24 bits of a 32-bit float."""
    counts = [95 * 10**9, 5 * 10**9 - 1, 1]
    assert kept(counts, 95) == [1, 0, 0]
    assert kept([95 * 10**9 - 1, 5 * 10**9, 1], 95) == [1, 1, 0]


@pytest.mark.parametrize('k', [0, -1, 100.5, float('nan')])
def test_selection_refuses_what_is_no_percentage(k):
    with pytest.raises(ValueError):
        select(torch.ones(3), k)


def test_record_counts_what_a_plain_loop_counts(model, batch):
    """Against an independent count, a sentence at a time without any padding; each neuron, both rules, the totals."""
    model.masks.fill_(True)
    N, L, _ = model.masks.shape
    expected = {name: torch.zeros_like(model.masks, dtype=torch.long) for name in ('token', 'sentence')}
    totals = {name: torch.zeros(N, L, dtype=torch.long) for name in ('positions', 'sentences')}
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
            totals['positions'][task, layer] += len(active)
            totals['sentences'][task, layer] += 1
    found = record(model, [batch])
    for name, value in {**expected, **totals}.items():
        assert torch.equal(found[name], value), name


def test_record_does_not_depend_on_batches_or_padding(model):
    model.masks.fill_(True)
    sentences = make_batch([(5, 7), (3, 4), (8, 2)], [0, 0, 1])
    wider = type(sentences)(*(torch.nn.functional.pad(x, (0, 5), value=PAD) for x in sentences[:2]), sentences.task)
    one = [type(sentences)(*(x[i:i + 1] for x in sentences)) for i in range(3)]
    together = record(model, [sentences])
    for other in (record(model, [wider]), record(model, one)):
        assert all(torch.equal(together[name], other[name]) for name in together)


def test_record_reads_without_dropout(model, batch):
    first = record(model, [batch])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    again = record(model, [batch])
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_record_leaves_no_hooks(model, batch):
    record(model, [batch])
    assert not any(ffn.relu._forward_hooks for ffn in model.ffns)


def test_random_control_keeps_the_density_of_every_row():
    masks = torch.rand(3, 4, 200, generator=torch.Generator().manual_seed(1)) < 0.3
    random = shuffled(masks, seed=5)
    assert torch.equal(random.sum(-1), masks.sum(-1)) and not torch.equal(random, masks)
    assert torch.equal(random, shuffled(masks, seed=5)) and not torch.equal(random, shuffled(masks, seed=6))
    assert not torch.equal(random[0, 0].nonzero(), random[1, 0].nonzero())


def test_swapped_control_gives_every_task_another_ones_neurons():
    masks = torch.eye(6).bool()[:, None]  # (N=6, L=1, F=6): task t has neuron t alone
    given = swapped(masks).nonzero()[:, 2].tolist()
    assert given == [3, 4, 5, 0, 1, 2]  # en-cs en-de en-fr cs-en de-en fr-en: no language on the same side


def test_shared_control_by_hand():
    counts = torch.tensor([[[80, 0, 20, 0]], [[0, 5, 3, 2]]])  # (N=2, L=1, F=4); shares .8 0 .2 0 and 0 .5 .3 .2
    masks = torch.tensor([[[1, 0, 0, 0]], [[0, 1, 1, 1]]]).bool()  # 1 and 3 neurons: 2 on average
    both = shared(counts, masks)
    assert both.int().tolist() == [[[1, 1, 0, 0]]] * 2  # the sums are .8 .5 .5 .2; ties by index


def test_zero_shot_takes_the_encoder_of_the_source_and_the_decoder_of_the_target():
    tasks = ['en-de', 'en-fr', 'de-en', 'fr-en']
    masks = torch.arange(4)[:, None, None].expand(4, 4, 1)  # (N=4, L=4, F=1): every neuron says whose it is
    mask, encoder, decoder = zero_shot(masks, tasks, 'de-fr')
    assert (mask.flatten().tolist(), encoder, decoder) == ([2, 2, 1, 1], 'de-en', 'en-fr')
    for direction, said in (('xx-fr', 'from xx'), ('de-xx', 'into xx'), ('en-x', 'into x')):
        with pytest.raises(ValueError, match=f'no direction was trained {said}$'):
            zero_shot(masks, tasks, direction)


def test_overlap_by_hand():
    masks = torch.tensor([[[1, 1, 0, 0]], [[1, 0, 1, 1]]]).bool()  # (N=2, L=1, F=4)
    iou, chance = overlap(masks)
    assert iou.tolist() == [[[1.0, 0.25], [0.25, 1.0]]]  # 1 shared of 4
    assert chance[0, 0, 1].item() == pytest.approx(0.375 / 0.875)  # p = 1/2, q = 3/4
    assert chance[0, 0, 1] == chance[0, 1, 0]


def test_chance_level_is_what_random_masks_reach():
    masks = torch.ones(2, 1, 100_000).bool()
    masks[0, :, :40_000] = False
    masks[1, :, :20_000] = False
    iou, chance = overlap(shuffled(masks, seed=0))
    assert iou[0, 0, 1].item() == pytest.approx(chance[0, 0, 1].item(), abs=0.01)


def test_private_neurons_are_those_that_the_fewest_others_have():
    masks = torch.tensor([[[1, 1, 1, 1, 0]], [[0, 1, 1, 0, 1]], [[0, 1, 0, 1, 1]]]).bool()  # (N=3, L=1, F=5); held by 1 3 2 2 2
    own, random = private(masks, 2, seed=1)
    assert own.int().tolist() == [[[1, 0, 1, 0, 0]], [[0, 0, 1, 0, 1]], [[0, 0, 0, 1, 1]]]  # ties by index
    assert (random.sum(-1) == 2).all() and not (random & ~masks).any()
    assert any(not torch.equal(random, private(masks, 2, seed)[1]) for seed in range(2, 9))


def test_silence_measures_each_set_and_leaves_the_masks(model):
    """What is measured here is how many neurons each task has on: every set takes those that were on from it."""
    before = model.masks.clone()
    sets = torch.rand(2, *before.shape[1:], generator=torch.Generator().manual_seed(1)) < 0.3  # (2, L, F)
    found = silence(model, sets, lambda: model.masks.sum((1, 2)))
    assert torch.equal(found, -(before & sets[:, None]).sum((2, 3))) and torch.equal(model.masks, before)
