"""Exercise 4: the IoU that two random sets have on average, exactly."""
from itertools import combinations

import pytest
from harness import asked_for, check


def test_expected_iou_is_the_mean_over_all_sets():
    """Of all sets of m of 6 neurons with one fixed set of n. For 1,000 neurons it is near pq / (p + q - pq)."""
    expected_iou = asked_for('neurons', 'expected_iou(n, m, F)')
    for n in range(1, 7):
        for m in range(1, 7):
            first = set(range(n))
            ious = [len(first & set(other)) / len(first | set(other)) for other in combinations(range(6), m)]
            mean, p, q = sum(ious) / len(ious), n / 6, m / 6
            found = expected_iou(n, m, 6)
            check(found != pytest.approx(p * q / (p + q - p * q)) or found == pytest.approx(mean),
                  f'expected_iou({n}, {m}, 6) is pq / (p + q - pq), which is not the mean over all sets')
            check(found == pytest.approx(mean), f'expected_iou({n}, {m}, 6) is {found:.4f}; the mean of all sets '
                                                f'is {mean:.4f}')
    found = expected_iou(780, 780, 1000)
    check(found == pytest.approx(0.64, abs=0.005), f'expected_iou(780, 780, 1000) is {found}; it is 0.64')
