"""Exercise 8: `sweep.py k` compares own neurons with random ones at every k."""
import sys
from argparse import Namespace
from pathlib import Path

from harness import check

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'experiments'))

import sweep  # noqa: E402


def test_own_is_compared_with_random_at_every_k(monkeypatch):
    """Without any training: which systems would be measured and compared, and what would be drawn."""
    measured, compared, drawn = [], [], {}
    monkeypatch.setattr(sweep, 'train_bases', lambda *_: None)
    monkeypatch.setattr(sweep, 'measure', lambda args, systems: measured.extend(systems))
    monkeypatch.setattr(sweep, 'draw', lambda args, lines, *_: drawn.update(lines))

    def print_results(systems, pairs):
        compared.extend(pairs)
        names = [f'{one.label} - {other.label}' for one, other in pairs]
        return [dict.fromkeys(('mean', 'low', 'high'), name) for name in names]

    monkeypatch.setattr(sweep, 'print_results', print_results)
    sweep.sweep_k(Namespace(k=None, seed=1, seeds=1, run='runs/sweeps'))
    own = {system.k: system for system in measured if system.masks == 'own'}
    for k, system in own.items():
        others = [other for one, other in compared if one is system]
        check(any(other.masks == 'dense' for other in others), f'own {k} is no longer compared with dense')
        check(any(other.masks == 'random' and other.k == k for other in others),
              f'experiments/sweep.py: sweep_k does not compare own {k} with random {k} yet')
    for masks, (ks, means, *_) in drawn.items():
        check(means == [f'{masks} {k} - dense' for k in ks],
              f'the line of {masks} in the figure is no longer its ΔBLEU vs. dense: {means}')
