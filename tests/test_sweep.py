"""The sweeps' way to run scripts, with small ones in their place: what is done is not done again, what failed is said."""
import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from minispec import UserError, sweep


@pytest.fixture
def args(tmp_path, monkeypatch):
    """Scripts that write their arguments into the run folder; train.py fails as long as a file `broken` is there."""
    body = '''import json, sys, pathlib
folder = pathlib.Path(sys.argv[sys.argv.index('--run') + 1])
(folder / 'calls').open('a', encoding='utf-8').write(json.dumps(sys.argv[1:]) + '\\n')
(folder / 'base.last.pt').touch()
if (folder / 'broken').exists():
    sys.exit('error: é is not\\nerror: a loss')
print('wrote')
'''
    monkeypatch.setattr(sweep, 'SCRIPTS', tmp_path)
    (tmp_path / 'train.py').write_text(body, encoding='utf-8')
    (tmp_path / 'run').mkdir()
    return Namespace(run=tmp_path / 'run', data='d', device='cpu', seed=3, train=['--steps', '9'], specialize=['--lr', '1'])


def test_a_script_that_ended_well_is_not_run_again(args):
    for _ in range(2):
        sweep.run(args, 'train', args.run, 'base', '--steps', 5)
    calls = (args.run / 'calls').read_text(encoding='utf-8').splitlines()
    assert [json.loads(call) for call in calls] == [
        ['--steps', '9', '--run', str(args.run), '--data', 'd', '--device', 'cpu', '--seed', '3', '--steps', '5']]
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


def test_a_training_that_broke_off_is_not_resumed_with_other_flags(args):
    (args.run / 'broken').touch()
    with pytest.raises(UserError, match='a loss'):
        sweep.run(args, 'train', args.run, 'base')
    args.train = []
    with pytest.raises(UserError, match='base.log was made by another command'):
        sweep.run(args, 'train', args.run, 'base')


def test_each_system_is_compared_with_the_one_it_is_named_with(args, monkeypatch):
    """sweep_cost, over made-up trainings: what is trained, from which base, and which is compared with which."""
    monkeypatch.setattr(sweep, 'train_base', lambda args, name, *flags: Path(name, *map(str, flags)))
    monkeypatch.setattr(sweep, 'specialize', lambda args, base, control, k='': base / f'{control}{k}')
    monkeypatch.setattr(sweep, 'kept', lambda folder: (lambda k: k * (2 if 'wide' in folder.parts else 1) / 4))
    monkeypatch.setattr(sweep, 'loss', lambda path: 0.5)
    monkeypatch.setattr(sweep, 'slim_costs', lambda args, paths: [(len(path.parts), 1.0) for path in paths])
    monkeypatch.setattr(sweep, 'load_checkpoint', lambda path: Namespace(model=Namespace(config=Namespace(d_ff=24))))
    compared = []

    def score(args, path, other=None):
        compared.append((path, other))
        return {'all': {'BLEU': 1.0, 'difference': 1.0, 'low': 0.0, 'high': 2.0, 'wins': 1, 'ties': 2, 'losses': 3}}

    monkeypatch.setattr(sweep, 'score', score)
    lines, *_ = sweep.sweep_cost(args)
    narrow = {k: Path(f'd_ff{width}', '--d-ff', width, 'dense') for k, width in ((50, '12'), (70, '18'))}  # 12.5, 17.5
    wide = Path('wide', '--d-ff', '48')
    assert sorted(compared, key=str) == sorted([
        (narrow[50], None), (Path('base', 'neurons50'), narrow[50]), (Path('base', 'random50'), narrow[50]),
        (narrow[70], None), (Path('base', 'neurons70'), narrow[70]), (Path('base', 'random70'), narrow[70]),
        (Path('base', 'dense'), None), (wide / 'neurons48', Path('base', 'dense')),
        (wide / 'random48', Path('base', 'dense'))], key=str)
    assert {name: len(xs) for name, (xs, _) in lines.items()} == {
        'ordinary': 3, 'neurons': 2, 'random': 2, 'neurons of twice the width': 1, 'random of twice the width': 1}


def test_the_other_system_is_what_is_subtracted(args):
    """`score` names the model and the one that it is compared with, and reads what translate.py has written."""
    (args.run.parent / 'translate.py').write_text('''import json, sys, pathlib
flags = dict(zip(sys.argv[1:], sys.argv[2:]))
folder = pathlib.Path(flags['--run'], 'test.' + pathlib.Path(flags['--model']).stem)
folder.mkdir()
found = {'means': {'all': {'names': [flags['--model'], flags['--compare']]}, 'en': {}}, 'verdicts': {'wins': 7}}
(folder / 'scores.json').write_text(json.dumps(found), encoding='utf-8')
print('wrote')
''', encoding='utf-8')
    own, other = args.run / 'base-neurons50' / 'specialized.pt', args.run / 'd_ff9' / 'base.pt'
    assert sweep.score(args, own, other) == {'all': {'names': [str(own), str(other)], 'wins': 7}, 'en': {}}
    assert (own.parent / 'over-d_ff9' / 'test.specialized.log').is_file()


def test_labels_end_where_their_columns_end():
    row = sweep.against({'difference': 1, 'low': 0, 'high': 2, 'wins': 1, 'ties': 2, 'losses': 3})
    ends = [{match.end() for match in re.finditer(r'\S+', text)} for text in (row, sweep.AGAINST.replace('95% int', '95%_int'))]
    assert ends[0] - ends[1] == {row.index('+0.00') + 5}  # low and high have one label


def test_the_table_of_k_stands_beside_what_was_measured(args, monkeypatch, capsys):
    """Compared systems and columns, with made-up measurements: neurons gain k / 10 and random half of it."""
    monkeypatch.setattr(sweep, 'train_base', lambda args, name, *flags: args.run / name)
    monkeypatch.setattr(sweep, 'specialize', lambda args, base, control, k=100: Path(control, str(k)))
    monkeypatch.setattr(sweep, 'slim_costs', lambda args, paths: [(1000 + int(path.name), 200 / int(path.name)) for path in paths])
    monkeypatch.setattr(sweep, 'loss', lambda path: 0.5 + ('random' in path.parts))
    monkeypatch.setattr(sweep, 'load_checkpoint', lambda path: Namespace(model=Namespace(masks=sweep_masks())))

    def score(args, path, other):
        assert other == Path('dense', '100')
        gain = int(path.name) / (10 if 'neurons' in path.parts else 20)
        return {'all': {'difference': gain, 'low': gain - 1, 'high': gain + 1, 'wins': 1, 'ties': 2, 'losses': 3,
                        'other': 30.0}}

    monkeypatch.setattr(sweep, 'score', score)
    lines, *_ = sweep.sweep_k(args)
    assert [column[0] for column in lines['neurons']] == [30, 3, 2, 4] and lines['random'][1][-1] == 4.75
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith('50 ')]
    assert rows == [
        ['50', 'neurons', '0.25', '0.38', '0.50', '1,050', '0.50x', '0.500', '+5.00', '+4.00', '+6.00', '1', '2', '3'],
        ['50', 'random', '0.25', '0.38', '0.50', '1,050', '0.50x', '1.500', '+2.50', '+1.50', '+3.50', '1', '2', '3']]


def test_each_depth_is_compared_with_dense_of_its_own(args, monkeypatch, capsys):
    monkeypatch.setattr(sweep, 'train_base', lambda args, name, *flags: Path(name))
    monkeypatch.setattr(sweep, 'specialize', lambda args, base, control, k='': base / f'{control}{k}')
    monkeypatch.setattr(sweep, 'loss', lambda path: len(path.name) / 10)
    monkeypatch.setattr(sweep, 'load_checkpoint', lambda path: Namespace(model=Namespace(config=Namespace(layers=4))))
    bleu = {'base.pt': 10.0, 'dense': 20.0, 'neurons70': 30.0}

    def score(args, path, other=None):
        assert other == (path.parent / 'dense' if path.name == 'neurons70' else None)
        layers = {'layers1': 1, 'layers2': 2, 'layers3': 3, 'base': 4}[str(path.parent)]
        gain = {'difference': layers, 'low': 0, 'high': 9, 'wins': 4, 'ties': 5, 'losses': 6} if other else {}
        return {'all': {'BLEU': bleu[path.name] + layers, **gain}}

    monkeypatch.setattr(sweep, 'score', score)
    lines, *_ = sweep.sweep_depth(args)
    assert lines == {'base': ([1, 2, 3, 4], [11, 12, 13, 14]), 'dense': ([1, 2, 3, 4], [21, 22, 23, 24]),
                     'neurons, k = 70': ([1, 2, 3, 4], [31, 32, 33, 34])}
    assert capsys.readouterr().out.splitlines()[-1].split() == [
        '4', '14.00', '0.700', '24.00', '0.500', '34.00', '0.900', '+4.00', '+0.00', '+9.00', '4', '5', '6']


def sweep_masks():
    return torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0]]]).bool()  # (N=1, L=2, F=4): 1/4 and 1/2 off
