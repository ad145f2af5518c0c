"""Exercise 7: the share of a task's activity that its masks keep."""
import pytest
import torch
from harness import asked_for, check

from minispec.masks import make_masks

TASKS = ['en-de', 'de-en']
COUNTS = torch.tensor([[[5, 3, 2, 0], [60, 30, 9, 1]], [[0, 0, 1, 9], [6, 2, 1, 1]]])  # (N=2, L=2, F=4)
MASKS = torch.tensor([[[1, 0, 1, 0], [0, 1, 1, 1]], [[1, 1, 0, 1], [0, 0, 0, 0]]]).bool()


def test_coverage_by_hand_and_of_own_masks():
    coverage = asked_for('neurons', 'coverage(counts, masks)')
    found = coverage(COUNTS, MASKS)
    check(tuple(found.shape) == (2, 2), f'coverage returns shape {tuple(found.shape)}, and not (N, L)')
    expected = [[0.7, 0.4], [0.9, 0.0]]
    check(torch.allclose(found.double(), torch.tensor(expected).double(), atol=1e-6),
          f'coverage by task and layer is {found.tolist()}; by hand it is {expected}')
    counts = torch.randint(1, 10 ** 9, (2, 4, 256), generator=torch.Generator().manual_seed(1))
    for kind, expected in (('own', 0.70), ('permuted', None)):
        masks = make_masks(kind, TASKS, counts, 70, 70, seed=1)
        found, density = coverage(counts, masks).double().mean().item(), masks.double().mean().item()
        check(found == pytest.approx(expected or density, abs=0.02),
              f'coverage of {kind} masks at k = 70 is {found:.2f} on average, and not {expected or density:.2f}')
