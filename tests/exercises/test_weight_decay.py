"""Exercise 6: how far one step moves the weights of neurons that are off."""
import pytest
import torch
from conftest import make_batch, tiny_model
from harness import asked_for, check

LENGTHS, LR, DECAY = [(5, 7), (3, 4), (8, 2)], 0.01, 0.1


def with_a_weight_of_50(matrix):
    """A model with one weight of 50, which belongs to a neuron that is off for task 1."""
    model = tiny_model()
    ffn, neuron = model.ffns[2], int((~model.masks[1, 2]).nonzero()[-1])
    weights = {'W1': ffn.w1.weight[neuron], 'b1': ffn.w1.bias[neuron:], 'W2': ffn.w2.weight[:, neuron]}
    weights[matrix].data[0] = 50.0
    return model


def test_what_moves_neurons_that_are_off(model):
    """Plain SGD does not; weight decay does, and so does momentum from a step on another task."""
    moved_off = asked_for('training', 'moved_off(model, optimizer, batch)')
    for tasks in ([1, 1, 1], [0, 1, 1]):  # in a batch of several tasks, a neuron is off if none of them has it
        before = model.embedding.weight.clone()
        found = moved_off(model, torch.optim.SGD(model.parameters(), lr=LR), make_batch(LENGTHS, tasks))
        check(found == 0, f'moved_off with plain SGD and sentences of tasks {tasks} is {found}, and not exactly 0')
        check(not torch.equal(before, model.embedding.weight), 'moved_off makes no step of the optimizer')

    for matrix in ('W1', 'b1', 'W2'):
        other = with_a_weight_of_50(matrix)
        optimizer = torch.optim.AdamW(other.parameters(), lr=LR, weight_decay=DECAY)
        found = moved_off(other, optimizer, make_batch(LENGTHS, [1, 1, 1]))
        check(found == pytest.approx(LR * DECAY * 50, rel=1e-3),
              f'with AdamW and a weight of 50 in {matrix}, moved_off is {float(found):.3g}, and not lr * decay * 50')

    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    moved_off(model, optimizer, make_batch(LENGTHS, [0, 0, 0]))  # a step of another task goes before
    check(moved_off(model, optimizer, make_batch(LENGTHS, [1, 1, 1])) > 0,
          'with momentum, neurons that another task has moved stay in motion; moved_off is 0')
