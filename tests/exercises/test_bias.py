"""Exercise 5: mask W1 alone and leave b1, as the released code does."""
import torch
from harness import check, check_parameter

from minispec.model import FeedForward


def by_hand(**kwargs):
    """Two inputs, three neurons: the first is on; the others are off, one with b1 = 1, one with b1 = -1."""
    ffn = FeedForward(2, 3, **kwargs)
    with torch.no_grad():
        ffn.w1.weight.copy_(torch.tensor([[1., 1.], [2., 0.], [5., 5.]]))
        ffn.w1.bias.copy_(torch.tensor([1., 1., -1.]))
        ffn.w2.weight.copy_(torch.tensor([[1., 10., 100.], [2., 20., 200.]]))
        ffn.w2.bias.copy_(torch.tensor([0.5, 0.]))
    return ffn, ffn(torch.tensor([[[1., 2.]]]), torch.tensor([[[True, False, False]]]))


@torch.no_grad()
def check_sub_networks(model, batch):
    for ffn in model.ffns:
        check(hasattr(ffn, 'masks_bias'), 'FeedForward does not keep masks_bias as an attribute')
        ffn.masks_bias = False
    for task in range(3):
        masked = model(batch.src, batch.tgt, torch.full_like(batch.task, task))
        extracted = model.sub_network(task)(batch.src, batch.tgt, torch.zeros_like(batch.task))
        check(torch.allclose(extracted, masked, atol=1e-5),
              'Transformer.narrow loses the constant output of removed neurons: translate.py would score another model')


def test_an_off_neuron_emits_its_bias(model, batch):
    """And its row of w1.weight has no gradient, but w1.bias and w2.weight have; the default is as before."""
    check_parameter(FeedForward.__init__, 'masks_bias', 'minispec/model.py: FeedForward(d_model, d_ff)')
    for kwargs, expected in (({}, [4.5, 8.0]), ({'masks_bias': False}, [14.5, 28.0])):
        ffn, output = by_hand(**kwargs)
        check(output[0, 0].tolist() == expected, f'FeedForward with {kwargs or "the default"} gives '
                                                 f'{output[0, 0].tolist()}; by hand it is {expected}')
    weights = {'W1': ffn.w1.weight, 'b1': ffn.w1.bias, 'W2': ffn.w2.weight}
    gradients = torch.autograd.grad(output.sum(), list(weights.values()), allow_unused=True, materialize_grads=True)
    expected_gradients = [[[3, 6], [0, 0], [0, 0]], [3, 30, 0], [[4, 1, 0], [4, 1, 0]]]
    for name, found, expected in zip(weights, gradients, expected_gradients):
        check(found.tolist() == expected, f'the gradient of {name} is {found.tolist()}; by hand it is {expected}')
    check_sub_networks(model, batch)
