"""What section 4 claims of the model, as numbers."""
import pytest
import torch
import torch.nn.functional as F
from conftest import make_batch
from torch import nn

from minispec.model import PAD, Dropout, FeedForward


def loss_of(model, batch):
    targets = batch.tgt[:, 1:]
    return F.cross_entropy(model.project(model(*batch)), targets[targets != PAD], reduction='sum')


def test_an_unselected_neuron_is_exactly_off(model, batch):
    """Output 0, and gradient 0 to its row of W1, entry of b1, column of W2; a selected one has a gradient."""
    task = 1
    only = batch.task == task
    for ffn, mask in zip(model.ffns, model.masks[task]):
        seen = []
        hook = ffn.w2.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        model.zero_grad()
        loss_of(model, type(batch)(batch.src[only], batch.tgt[only], batch.task[only])).backward()
        hook.remove()
        h = seen[0]  # what enters W2
        assert (h[..., ~mask] == 0).all() and (h[..., mask] != 0).any()
        for gradient in (ffn.w1.weight.grad, ffn.w1.bias.grad[:, None], ffn.w2.weight.grad.T):  # a row a neuron
            assert (gradient[~mask] == 0).all()
        fired = (h[..., mask] > 0).any(0).any(0)
        assert fired.any() and (ffn.w2.weight.grad.T[mask][fired] != 0).any(1).all()


def test_off_means_that_the_weights_do_not_matter(model, batch):
    """Garbage in an unselected neuron's weights, b1 included, changes nothing: it does not even emit ReLU(b1)."""
    batch = make_batch([(5, 7), (3, 4)], [2, 2])
    before = model(*batch)
    with torch.no_grad():
        for ffn, mask in zip(model.ffns, model.masks[2]):
            ffn.w1.weight[~mask] = 3.0
            ffn.w1.bias[~mask] = 7.0
            ffn.w2.weight[:, ~mask] = -5.0
    assert torch.equal(model(*batch), before)


def test_a_mixed_batch_is_its_single_direction_batches(model, batch):
    """Outputs and summed gradients of four sentences at once are those of each by itself."""
    loss_of(model, batch).backward()
    mixed, mixed_gradients = model(*batch), [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    outputs = []
    for i in range(len(batch.task)):
        src_length, tgt_length = int((batch.src[i] != PAD).sum()), int((batch.tgt[i] != PAD).sum())
        single = type(batch)(batch.src[i:i + 1, :src_length], batch.tgt[i:i + 1, :tgt_length], batch.task[i:i + 1])
        loss_of(model, single).backward()
        outputs.append(model(*single))
    torch.testing.assert_close(torch.cat(outputs), mixed, atol=1e-5, rtol=1e-5)
    for parameter, gradient in zip(model.parameters(), mixed_gradients):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)


def test_masks_that_are_all_true_are_no_masks(model, batch):
    """With every neuron kept, the masked FFN is the plain one to the last bit."""
    model.masks.fill_(True)
    masked = model(*batch)
    for ffn in model.ffns:
        ffn.forward = lambda x, mask, ffn=ffn: ffn.w2(ffn.relu(ffn.w1(x)))
    assert torch.equal(model(*batch), masked)


def test_ffn_worked_by_hand():
    """Two inputs, three neurons, one of them off, one of them silenced by ReLU."""
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


@torch.no_grad()
@pytest.mark.parametrize('task', [0, 1, 2])
def test_a_slim_model_is_the_masked_one(model, task):
    """The same output, from the task's neurons and nothing of the others."""
    batch = make_batch([(5, 7), (3, 4), (8, 2)], [task] * 3)
    slim = model.slim(task)
    output = slim(batch.src, batch.tgt, torch.zeros_like(batch.task))
    torch.testing.assert_close(output, model(*batch), atol=1e-5, rtol=1e-5)
    assert [ffn.w1.weight.size(0) for ffn in slim.ffns] == model.masks[task].sum(-1).tolist()
    off = int((~model.masks[task]).sum())
    assert sum(p.numel() for p in slim.parameters()) == sum(p.numel() for p in model.parameters()) - off * (2 * 16 + 1)
    assert torch.equal(slim.masks.sum(-1), model.masks[[task]].sum(-1))
    assert all(ffn.w1.weight.size(0) == 16 for ffn in model.ffns)  # the model itself is as it was


def copy_attention(theirs, ours):
    """Our weights into torch's own attention."""
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


@torch.no_grad()
def test_layers_are_torchs_own(model, batch):
    """An independent reference: nn.TransformerEncoderLayer and nn.TransformerDecoderLayer with our weights."""
    model.eval()
    model.masks.fill_(True)
    sizes = dict(d_model=16, nhead=2, dim_feedforward=16, dropout=0.0, batch_first=True, norm_first=True)
    src_pad = batch.src == PAD
    memory, src_mask = model.encode(batch.src, batch.task)

    x = model.embed(batch.src)
    for layer in model.encoder:
        theirs = nn.TransformerEncoderLayer(**sizes).eval()
        copy_attention(theirs.self_attn, layer.attention)
        for to, from_ in ((theirs.norm1, layer.attention_norm), (theirs.norm2, layer.ffn_norm),
                          (theirs.linear1, layer.ffn.w1), (theirs.linear2, layer.ffn.w2)):
            to.load_state_dict(from_.state_dict())
        x = theirs(x, src_key_padding_mask=src_pad)
    real = ~src_pad
    torch.testing.assert_close(model.encoder_norm(x)[real], memory[real], atol=1e-5, rtol=1e-5)

    tgt = batch.tgt[:, :-1]
    y = model.embed(tgt)
    causal = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
    for layer in model.decoder:
        theirs = nn.TransformerDecoderLayer(**sizes).eval()
        copy_attention(theirs.self_attn, layer.self_attention)
        copy_attention(theirs.multihead_attn, layer.cross_attention)
        for to, from_ in ((theirs.norm1, layer.self_norm), (theirs.norm2, layer.cross_norm), (theirs.norm3, layer.ffn_norm),
                          (theirs.linear1, layer.ffn.w1), (theirs.linear2, layer.ffn.w2)):
            to.load_state_dict(from_.state_dict())
        y = theirs(y, memory, tgt_mask=causal, memory_key_padding_mask=src_pad)
    real = batch.tgt[:, 1:] != PAD
    expected = F.linear(model.decoder_norm(y)[real], model.embedding.weight)
    torch.testing.assert_close(model.project(model(*batch)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_and_causality(model):
    """Word order matters, and the output at a position does not depend on the tokens after it."""
    batch = make_batch([(6, 6)], [0])
    output = model(*batch)
    tgt = batch.tgt.clone()
    tgt[0, 4] = 7 if tgt[0, 4] != 7 else 8
    changed = model(batch.src, tgt, batch.task)
    assert torch.equal(changed[:4], output[:4]) and not torch.allclose(changed[4:], output[4:])
    src = batch.src.clone()
    src[0, 1:3] = src[0, [2, 1]]
    assert not torch.allclose(model(src, batch.tgt, batch.task), output)


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
