"""Exercise 8: `sweep.py depth` compares own neurons with random ones at every depth."""
import sys
from argparse import Namespace
from pathlib import Path

from harness import check

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'experiments'))

import sweep  # noqa: E402


def test_own_is_compared_with_random_at_every_depth(monkeypatch):
    """Without any training: which systems would be measured and compared, and what would be drawn."""
    bases, measured, compared, drawn = ['base'], [], [], {}

    def measure(args, systems):
        measured.extend(systems)
        for bleu, system in enumerate(systems):  # to each a score of its own
            system.found[1] = Namespace(bleu=bleu)

    usual = Namespace(model=Namespace(config=Namespace(layers=2)))
    monkeypatch.setattr(sweep, 'usual_base', lambda args: usual)
    monkeypatch.setattr(sweep, 'train_bases', lambda args, flags_of: bases.extend(flags_of))
    monkeypatch.setattr(sweep, 'measure', measure)
    monkeypatch.setattr(sweep, 'print_results', lambda systems, pairs: compared.extend(pairs))
    monkeypatch.setattr(sweep, 'draw', lambda args, lines, *_: drawn.update(lines))
    sweep.sweep_depth(Namespace(seed=1, seeds=1, run='runs/sweeps'))
    check(sorted(bases) == ['base', 'layers1', 'layers3'], f'the bases that are trained are now {bases}')
    for base in bases:
        made = {system.masks: system for system in measured if system.base == base}
        check('random' in made, f'experiments/sweep.py: sweep_depth has no system with random masks on {base} yet')
        check(made['random'].k == 70, f'on {base}, random masks have k = {made["random"].k} and own ones 70')
        for other in ('dense', 'random'):
            check((made['own'], made[other]) in compared, f'own masks on {base} are not compared with {other}')
    check(set(drawn) == {'base', 'dense', 'own', 'random'}, f'the lines of the figure are {", ".join(drawn)}')
    for label, (depths, bleus) in drawn.items():
        want = [system.mean('bleu') for folder in ('layers1', 'base', 'layers3') for system in measured
                if system.base == folder and (system.masks or 'base') == label]
        check((depths, bleus) == ([1, 2, 3], want), f'the line of {label} in the figure is not its BLEU by depth')
