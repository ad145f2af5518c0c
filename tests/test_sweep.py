"""The sweeps' way to run scripts, with small ones in their place: what is done is not done again, what failed is said."""
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from minispec import UserError, sweep


@pytest.fixture
def args(tmp_path, monkeypatch):
    """Scripts that write their arguments into the run folder; train.py fails as long as a file `broken` is there."""
    body = '''import json, sys, pathlib
folder = pathlib.Path(sys.argv[2])
(folder / 'calls').open('a', encoding='utf-8').write(json.dumps(sys.argv[3:]) + '\\n')
(folder / 'base.last.pt').touch()
if (folder / 'broken').exists():
    sys.exit('error: é is not\\nerror: a loss')
print('wrote')
'''
    monkeypatch.setattr(sweep, 'SCRIPTS', tmp_path)
    (tmp_path / 'train.py').write_text(body, encoding='utf-8')
    (tmp_path / 'run').mkdir()
    return Namespace(run=tmp_path / 'run', data='d', device='cpu', seed=3, train="--steps 9 --vocab-size '70'", specialize='')


def test_a_script_that_ended_well_is_not_run_again(args):
    for _ in range(2):
        sweep.run(args, 'train', args.run, 'base', '--steps', 5)
    calls = (args.run / 'calls').read_text(encoding='utf-8').splitlines()
    assert [json.loads(call) for call in calls] == [
        ['--data', 'd', '--device', 'cpu', '--seed', '3', '--steps', '9', '--vocab-size', '70', '--steps', '5']]
    assert (args.run / 'base.log').read_text(encoding='utf-8').splitlines()[1:] == ['wrote']
    with pytest.raises(UserError, match='base.log was made by another command'):
        sweep.run(args, 'train', args.run, 'base', '--steps', 6)


def test_a_training_that_broke_off_is_resumed(args):
    (args.run / 'broken').touch()
    with pytest.raises(UserError, match=r'train.py in .*run: error: a loss$'):
        sweep.run(args, 'train', args.run, 'base')
    (args.run / 'broken').unlink()
    sweep.run(args, 'train', args.run, 'base')
    calls = [json.loads(call) for call in (args.run / 'calls').read_text(encoding='utf-8').splitlines()]
    assert '--resume' not in calls[0] and calls[1] == [*calls[0], '--resume']


def test_the_table_of_k_stands_beside_what_was_measured(args, monkeypatch, capsys):
    """Folders, compared systems and columns, with made-up measurements: neurons gain k / 10 and random half of it."""
    monkeypatch.setattr(sweep, 'train_base', lambda args, name, *flags: args.run / name)
    monkeypatch.setattr(sweep, 'specialize', lambda args, base, control, k=100: Path(control, str(k)))
    monkeypatch.setattr(sweep, 'slim_cost', lambda args, path: (1000 + int(path.name), 200 / int(path.name)))
    monkeypatch.setattr(sweep, 'loss', lambda path: 0.5 + ('random' in path.parts))
    monkeypatch.setattr(sweep, 'load_checkpoint', lambda path: Namespace(model=Namespace(masks=sweep_masks())))

    def score(args, path, other):
        assert other == Path('dense', '100')
        gain = int(path.name) / (10 if 'neurons' in path.parts else 20)
        return {'all': {'difference': gain, 'low': gain - 1, 'high': gain + 1, 'wins': 1, 'ties': 2, 'losses': 3,
                        'other': 30.0}}

    monkeypatch.setattr(sweep, 'score', score)
    lines, *_ = sweep.sweep_k(args)
    assert lines['neurons'][0][0] == 30 and lines['neurons'][1][0] == 3 and lines['random'][1][-1] == 4.75
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith('50 ')]
    assert rows == [
        ['50', 'neurons', '0.25', '0.38', '0.50', '1,050', '0.50x', '0.500', '+5.00', '+4.00', '+6.00', '1', '2', '3'],
        ['50', 'random', '0.25', '0.38', '0.50', '1,050', '0.50x', '1.500', '+2.50', '+1.50', '+3.50', '1', '2', '3']]


def sweep_masks():
    return torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0]]]).bool()  # (N=1, L=2, F=4): 1/4 and 1/2 off
