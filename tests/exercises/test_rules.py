"""Exercise 2: count by sentence; how much do the selections of the two rules overlap?"""
import torch
from harness import asked_for, check

COUNTS = {  # (N=2, L=2, F=4); selected at k = 60
    'token': torch.tensor([[[6, 2, 1, 1], [5, 5, 0, 0]],       # neuron 0 | 0 1
                           [[3, 3, 3, 1], [0, 0, 9, 1]]]),     # 0 1 | 2
    'sentence': torch.tensor([[[1, 2, 2, 1], [1, 3, 1, 0]],    # 1 2 | 1
                              [[2, 2, 1, 0], [1, 1, 2, 1]]]),  # 0 1 | 0 2
    'positions': torch.full((2, 2), 10), 'sentences': torch.full((2, 2), 3)}
IOU = [[0, 1 / 2], [1, 1 / 2]]
CHANCE = [[1 / 5, 1 / 5], [1 / 3, 1 / 5]]  # sets of 1 and 2, 2 and 1; 2 and 2, 1 and 2 of 4 neurons


def test_overlap_of_the_two_rules_by_hand():
    rule_overlap = asked_for('neurons', 'rule_overlap(counts, k)')
    found = rule_overlap(COUNTS, 60)
    check(isinstance(found, tuple) and len(found) == 2, 'rule_overlap returns two tensors: the IoU, and that of chance')
    for name, values, expected in zip(('IoU', 'IoU expected by chance'), found, (IOU, CHANCE)):
        check(tuple(values.shape) == (2, 2), f'the {name} is of shape {tuple(values.shape)}, and not (N, L)')
        check(torch.allclose(values.double(), torch.tensor(expected).double(), atol=1e-6),
              f'the {name} by task and layer is {values.tolist()}; by hand it is {expected}')
