"""What the model claims, as numbers: the masked FFN of section 4, and a Transformer that computes what torch's does."""
import contextlib
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import make_batch
from torch import nn

from minispec.data import Batch
from minispec.model import EOS, PAD, Config, Dropout, FeedForward, Transformer, target_mask

BF16 = torch.autocast('cpu', torch.bfloat16)
PRECISIONS = pytest.mark.parametrize('precision', [contextlib.nullcontext(), BF16], ids=['float32', 'bfloat16'])


def loss_of(model, batch):
    targets, _ = batch.targets()
    return F.cross_entropy(model.project(model(*batch)).float(), targets, reduction='sum')


# The masked FFN ------------------------------------------------------------------------------------------------------

@PRECISIONS
def test_a_neuron_that_is_off_is_exactly_off(model, batch, precision):
    """Output 0, and gradient 0 to its weights (w1, b1, w2); one that is on has a gradient."""
    task = 1
    only = batch.task == task
    entering = []  # what enters each W2
    for ffn in model.ffns:
        ffn.w2.register_forward_hook(lambda module, inputs, output: entering.append(inputs[0]))
    with precision:
        loss_of(model, Batch(batch.src[only], batch.tgt[only], batch.task[only])).backward()
    for ffn, mask, h in zip(model.ffns, model.masks[task], entering):
        assert (h[..., ~mask] == 0).all()
        for gradient in (ffn.w1.weight.grad, ffn.w1.bias.grad[:, None], ffn.w2.weight.grad.T):  # a row is a neuron
            assert (gradient[~mask] == 0).all()
        fired = mask & (h > 0).flatten(0, 1).any(0)
        assert fired.any() and (ffn.w2.weight.grad.T[fired] != 0).any(1).all()


@torch.no_grad()
@PRECISIONS
def test_the_weights_of_a_neuron_that_is_off_do_not_matter(model, precision):
    """Garbage in its weights, b1 included, changes nothing: it does not even emit ReLU(b1)."""
    batch = make_batch([(5, 7), (3, 4)], [2, 2])
    with precision:
        before = model(*batch)
        for ffn, mask in zip(model.ffns, model.masks[2]):
            ffn.w1.weight[~mask] = 3.0
            ffn.w1.bias[~mask] = 7.0
            ffn.w2.weight[:, ~mask] = -5.0
        assert torch.equal(model(*batch), before)


def test_a_mixed_batch_is_its_single_sentences(model, batch):
    """Outputs and summed gradients of four sentences at once, of three tasks, are those of each alone."""
    loss_of(model, batch).backward()
    mixed, mixed_gradients = model(*batch), [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    outputs = []
    for src, tgt, task in zip(*batch):
        single = Batch(src[src != PAD][None], tgt[tgt != PAD][None], task[None])
        loss_of(model, single).backward()
        outputs.append(model(*single))
    torch.testing.assert_close(torch.cat(outputs), mixed, atol=1e-5, rtol=1e-5)
    for parameter, gradient in zip(model.parameters(), mixed_gradients):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_model_can_compute_in_double_precision(model, batch):
    """As one does to check a gradient: all of it then has 52 bits, attention, too."""
    single, double = model(*batch), copy.deepcopy(model).double()(*batch)  # (n, D) each
    assert double.dtype == torch.double and 0 < (double - single).abs().max() < 1e-5


def test_ffn_by_hand():
    """Two inputs, three neurons, one of them off, one of them negative before the ReLU."""
    ffn = FeedForward(d_model=2, d_ff=3)
    with torch.no_grad():
        ffn.w1.weight.copy_(torch.tensor([[1., 1.], [2., 0.], [-1., 0.]]))
        ffn.w1.bias.copy_(torch.tensor([1., 1., 0.]))
        ffn.w2.weight.copy_(torch.tensor([[1., 10., 100.], [2., 20., 200.]]))
        ffn.w2.bias.copy_(torch.tensor([0.5, 0.]))
    x = torch.tensor([[[1., 2.]]])  # hidden: 1 + 2 + 1 = 4, 2 + 1 = 3, ReLU(-1) = 0
    mask = torch.tensor([[[True, False, True]]])
    assert ffn(x, mask).tolist() == [[[4.5, 8.0]]]
    assert ffn(x, torch.ones(1, 1, 3, dtype=torch.bool)).tolist() == [[[34.5, 68.0]]]


def test_a_new_model_has_all_neurons_on():
    assert Transformer(Config(vocab_size=9, n_tasks=3, d_model=4, d_ff=5, layers=1, heads=1)).masks.sum(-1).eq(5).all()


# Sub-networks --------------------------------------------------------------------------------------------------------

@torch.no_grad()
def test_a_sub_network_is_the_masked_model(model):
    """The same output, from the task's neurons and nothing of the others."""
    for task in range(3):
        batch = make_batch([(5, 7), (3, 4), (8, 2)], [task] * 3)
        extracted = model.sub_network(task)
        torch.testing.assert_close(extracted(batch.src, batch.tgt, torch.zeros_like(batch.task)), model(*batch),
                                   atol=1e-5, rtol=1e-5)
        assert [ffn.w1.weight.size(0) for ffn in extracted.ffns] == model.masks[task].sum(-1).tolist()
        saved = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in extracted.parameters())
        assert saved == int((~model.masks[task]).sum()) * (2 * 16 + 1)  # D of W1, D of W2, one of b1
    assert all(ffn.w1.weight.size(0) == 16 for ffn in model.ffns)  # the model itself is as it was


@torch.no_grad()
def test_narrow_keeps_the_neurons_it_is_given_with_their_weights(model):
    before = [(ffn.w1.weight.clone(), ffn.w1.bias.clone(), ffn.w2.weight.clone()) for ffn in model.ffns]
    model.narrow([torch.tensor([3, 9]), torch.tensor([0]), torch.arange(16), torch.tensor([15, 2, 7])])
    assert [ffn.w1.out_features for ffn in model.ffns] == [ffn.w2.in_features for ffn in model.ffns] == [2, 1, 16, 3]
    last, (w1, b1, w2) = model.ffns[3], before[3]
    assert torch.equal(last.w1.weight, w1[[15, 2, 7]]) and torch.equal(last.w1.bias, b1[[15, 2, 7]])
    assert torch.equal(last.w2.weight, w2[:, [15, 2, 7]])
    assert model.config.n_tasks == len(model.masks) == 1 and model.masks.sum(-1).tolist() == [[2, 1, 16, 3]]
    assert model(*make_batch([(5, 7)], [0])).shape == (8, 16)


# The Transformer -----------------------------------------------------------------------------------------------------

def copy_weights(theirs, ours, pairs):
    """Our weights into torch's own layer: its attentions and modules by name, from ours by name."""
    for their_name, our_name in pairs.items():
        to, source = getattr(theirs, their_name), ours.get_submodule(our_name)
        if isinstance(to, nn.MultiheadAttention):
            to.in_proj_weight.copy_(torch.cat([source.query.weight, source.key_value.weight]))
            to.in_proj_bias.copy_(torch.cat([source.query.bias, source.key_value.bias]))
            to.out_proj.load_state_dict(source.out.state_dict())
        else:
            to.load_state_dict(source.state_dict())


@torch.no_grad()
def test_layers_are_torchs_own(model, batch):
    """An independent reference: nn.TransformerEncoderLayer and nn.TransformerDecoderLayer with our weights."""
    model.eval()
    model.masks.fill_(True)
    sizes = dict(d_model=16, nhead=2, dim_feedforward=16, dropout=0.0, batch_first=True, norm_first=True)
    src_pad = batch.src == PAD
    memory, _ = model.encode(batch.src, batch.task)

    x = model.embed(batch.src)
    for layer in model.encoder:
        theirs = nn.TransformerEncoderLayer(**sizes).eval()
        copy_weights(theirs, layer, {'self_attn': 'attention', 'norm1': 'attention_norm', 'norm2': 'ffn_norm',
                                     'linear1': 'ffn.w1', 'linear2': 'ffn.w2'})
        x = theirs(x, src_key_padding_mask=src_pad)
    torch.testing.assert_close(model.encoder_norm(x)[~src_pad], memory[~src_pad], atol=1e-5, rtol=1e-5)

    y = model.embed(batch.tgt[:, :-1])
    causal = nn.Transformer.generate_square_subsequent_mask(y.size(1))
    for layer in model.decoder:
        theirs = nn.TransformerDecoderLayer(**sizes).eval()
        copy_weights(theirs, layer, {'self_attn': 'self_attention', 'multihead_attn': 'cross_attention',
                                     'norm1': 'self_norm', 'norm2': 'cross_norm', 'norm3': 'ffn_norm',
                                     'linear1': 'ffn.w1', 'linear2': 'ffn.w2'})
        y = theirs(y, memory, tgt_mask=causal, memory_key_padding_mask=src_pad)
    expected = F.linear(model.decoder_norm(y)[batch.tgt[:, 1:] != PAD], model.embedding.weight)
    torch.testing.assert_close(model.project(model(*batch)), expected, atol=1e-5, rtol=1e-5)


def test_the_embedding_is_scaled_and_its_positions_are_those_of_the_formula():
    """sqrt(D) times the token's vector, plus sin and cos of pos / 10000^(2i/D), also for tokens that come later."""
    D = 6
    model = Transformer(Config(vocab_size=9, n_tasks=1, d_model=D, d_ff=4, layers=1, heads=1, max_len=40)).eval()
    tokens = torch.tensor([[5, 3, 8], [3, 3, 3]])
    for start in (0, 1, 37):
        expected = []
        for row in tokens.tolist():
            for position, token in enumerate(row, start):
                angles = [position / 10000 ** (2 * i / D) for i in range(D // 2)]
                signal = [f(angle) for angle in angles for f in (math.sin, math.cos)]
                expected.append([math.sqrt(D) * w + s for w, s in zip(model.embedding.weight[token].tolist(), signal)])
        found = model.embed(tokens, start) if start else model.embed(tokens)
        torch.testing.assert_close(found.flatten(0, 1), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_matters_and_later_tokens_are_not_seen(model):
    batch = make_batch([(6, 6)], [0])
    output = model(*batch)
    tgt = batch.tgt.clone()
    tgt[0, 4] = 7 if tgt[0, 4] != 7 else 8
    changed = model(batch.src, tgt, batch.task)
    assert torch.equal(changed[:4], output[:4]) and not torch.allclose(changed[4:], output[4:])
    src = batch.src.clone()
    src[0, 1:3] = src[0, [2, 1]]
    assert not torch.allclose(model(src, batch.tgt, batch.task), output)


def test_target_mask_leaves_out_the_tag_and_the_padding():
    tgt = torch.tensor([[7, 5, 6, EOS], [7, 5, EOS, PAD], [7, EOS, PAD, PAD]])
    assert target_mask(tgt).int().tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]


# Dropout -------------------------------------------------------------------------------------------------------------

def test_dropout_keeps_the_mean_and_drops_its_share():
    """Ours draws 16 bits for each value: the share of zeros, the scale of the rest, and nothing at all in eval mode."""
    torch.manual_seed(1)
    dropout, x = Dropout(0.25), torch.ones(3, 7, 9999, requires_grad=True)  # not a multiple of four values
    y = dropout(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (y == 0).double().mean(-1).flatten().tolist() == pytest.approx([0.25] * 21, abs=0.02)  # 4.6 deviations
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert not torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def residual_stream(model, batch):
    """What flows through encoder and decoder: the embedding (B, T, D), and its state after each sub-layer."""
    norms = {'encoder': [], 'decoder': []}
    hooks = []
    for side, stream in norms.items():
        found = [getattr(layer, name) for layer in getattr(model, side)
                 for name in ('attention_norm', 'self_norm', 'cross_norm', 'ffn_norm') if hasattr(layer, name)]
        for norm in [*found, getattr(model, f'{side}_norm')]:  # each norm reads the stream
            hooks.append(norm.register_forward_pre_hook(lambda _, inputs, stream=stream: stream.append(inputs[0])))
    model(*batch)
    for hook in hooks:
        hook.remove()
    return norms


@torch.no_grad()
def test_embedding_attention_and_ffn_are_dropped_in_training():
    """Where a sub-layer's output is dropped, its residual connection passes the stream on unchanged."""
    config = Config(vocab_size=30, n_tasks=1, d_model=64, d_ff=64, layers=2, heads=2, dropout=0.25, max_len=32)
    torch.manual_seed(0)
    model, batch = Transformer(config), make_batch([(30, 30)] * 8, [0] * 8)
    for mode, share in (('train', 0.25), ('eval', 0.0)):
        model.train(mode == 'train')
        for side, stream in residual_stream(model, batch).items():
            assert len(stream) == (5 if side == 'encoder' else 7)  # 2 layers of 2, and of 3, after the embedding
            dropped = [(stream[0] == 0), *(after == before for before, after in zip(stream, stream[1:]))]
            # 15,000 values: 4.2 standard deviations; in float32 a few small outputs vanish in a sum
            assert [x.double().mean().item() for x in dropped] == pytest.approx([share] * len(stream), abs=0.015)
