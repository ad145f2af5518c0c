"""Adapters: they change no output at first, and training changes nothing but their own neurons."""
import torch
from conftest import make_batch

from minispec.adapters import add_adapters, freeze
from minispec.training import make_optimizer, train_step

TASKS = ['en-de', 'fr-en', 'en-nl']


def adapted(model, kind='adapters', bottleneck=3):
    model.masks.fill_(True)
    wide = add_adapters(model, kind, TASKS, bottleneck)
    wide.positions.copy_(model.positions)  # the tiny model has random ones
    return wide


def test_adapters_change_nothing_at_first(model, batch):
    wide = adapted(model).eval()
    assert torch.allclose(wide(*batch), model.eval()(*batch), atol=1e-6)
    assert [ffn.w1.out_features for ffn in wide.ffns] == [16 + 3 * 3] * 4
    assert all(ffn.w1.weight[16:].abs().min() > 0 and not ffn.w2.weight[:, 16:].any() for ffn in wide.ffns)


def test_each_direction_or_family_has_a_block_of_its_own(model):
    blocks = adapted(model).masks[..., 16:].view(3, 4, 3, 3)  # (N, L, blocks, bottleneck)
    assert (blocks.all(-1) == blocks.any(-1)).all()
    assert blocks[..., 0].nonzero()[:, 2].view(3, 4).tolist() == [[0] * 4, [2] * 4, [1] * 4]  # en-de, en-nl, fr-en
    families = adapted(model, 'family-adapters').masks[..., 16:].view(3, 4, 2, 3)  # Germanic, Romance
    assert families[..., 0].nonzero()[:, 2].view(3, 4).tolist() == [[0] * 4, [1, 1, 0, 0], [0] * 4]


def test_training_changes_only_the_block_of_the_task(model):
    wide = adapted(model)
    freeze(wide, 16)
    optimizer, before = make_optimizer(wide), {name: x.clone() for name, x in wide.state_dict().items()}
    for seed in range(3):
        train_step(wide, optimizer, [make_batch([(4, 5), (3, 6)], tasks=[0, 0], seed=seed)], torch.float32)
    own = slice(16, 19)  # en-de is the first of the names
    for name, old in before.items():
        new = wide.state_dict()[name]
        if name.endswith(('w1.weight', 'w1.bias', 'w2.weight')) and '.ffn.' in name:
            new, old = (x.T if 'w2' in name else x for x in (new, old))  # (F', ...)
            assert not torch.equal(new[own], old[own]), name
            assert torch.equal(new[19:], old[19:]) and torch.equal(new[:16], old[:16]), name
        else:
            assert torch.equal(new, old), name


def test_an_adapter_is_a_sub_network(model, batch):
    """A direction alone, extracted, has the base's neurons and its own block, and computes the same."""
    wide = adapted(model)
    torch.nn.init.normal_(wide.ffns[1].w2.weight)
    wide.eval()
    part = wide.sub_network(1).eval()
    only = batch.task == 1
    src, tgt, task = batch.src[only], batch.tgt[only], batch.task[only]
    assert [ffn.w1.out_features for ffn in part.ffns] == [16 + 3] * 4
    assert torch.allclose(part(src, tgt, torch.zeros_like(task)), wide(src, tgt, task), atol=1e-5)
