"""What the tables and pictures of profile.py are drawn from."""
import pytest
import torch

from minispec.figures import (compared, draw_overlap, draw_tree, grouped, likeness, linkage, nearest_relatives, print_ablation,
                              print_families, print_layers, print_tree, spearman, tree, united)
from minispec.neurons import overlap

TASKS = ['en-cs', 'en-de', 'en-nl', 'en-pl', 'cs-en', 'de-en', 'nl-en', 'pl-en']
SIZES = [80, 80, 20, 20] * 2
PIECES = {'en': {0}, 'cs': {1, 2, 3}, 'de': {3, 4}, 'nl': {3, 4, 5, 6}, 'pl': {7}}


def test_compared_are_directions_that_differ_in_the_language_of_the_side():
    encoder = {(TASKS[x], TASKS[y]) for x, y in zip(*compared(TASKS, 'enc1'))}
    assert len(encoder) == 6 and all(x.endswith('-en') and y.endswith('-en') and x != y for x, y in encoder)
    decoder = {(TASKS[x], TASKS[y]) for x, y in zip(*compared(TASKS, 'dec2'))}
    assert len(decoder) == 6 and all(x.startswith('en-') and y.startswith('en-') and x != y for x, y in decoder)


def test_nearest_relatives_by_hand():
    """Into English: cs and pl are each other's nearest, de is nearest to nl, but nl is nearest to cs."""
    iou = torch.eye(8)
    for x, y, value in (('cs-en', 'pl-en', 0.9), ('de-en', 'nl-en', 0.5), ('cs-en', 'nl-en', 0.6), ('cs-en', 'de-en', 0.4)):
        x, y = TASKS.index(x), TASKS.index(y)
        iou[x, y] = iou[y, x] = value
    kin = likeness(TASKS, 'enc1', SIZES, PIECES)[0]
    assert nearest_relatives(TASKS, 'enc1', kin, iou) == (3, pytest.approx(4 / 3), 4)  # chance: one of three others
    assert nearest_relatives(TASKS, 'enc1', torch.zeros(6), iou) == (0, 0, 0)  # no relatives at all
    assert nearest_relatives(TASKS, 'enc1', kin, torch.ones(8, 8)) == (pytest.approx(4 / 3), pytest.approx(4 / 3), 4)  # all ties


def test_figure_1_puts_relatives_side_by_side():
    assert [TASKS[i] for i in grouped(TASKS)] == ['en-de', 'en-nl', 'en-cs', 'en-pl', 'de-en', 'nl-en', 'cs-en', 'pl-en']


@pytest.fixture
def three():
    """Three directions with 2, 2 and 4 of 4 neurons; IoU of de, nl 1/3, of the others with cs 1/2."""
    masks = torch.tensor([[[1, 1, 0, 0]], [[1, 0, 1, 0]], [[1, 1, 1, 1]]]).bool()
    return ['de-en', 'nl-en', 'cs-en'], masks, *overlap(masks)


def test_the_table_of_layers_by_hand(three, capsys):
    print_layers(['enc1'], *three)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('enc1'))
    chance = (0.25 / 0.75 + 0.5 + 0.5) / 3
    assert line.split() == ['enc1', '0.33', '0.00', '0.50', '0.33', '0.42', '0.50', '0.50', '0.50', '0.44', f'{chance:.2f}']


def test_likeness_by_hand():
    pairs = [(TASKS[x], TASKS[y]) for x, y in zip(*compared(TASKS, 'dec1'))]
    found = dict(zip(pairs, likeness(TASKS, 'dec1', SIZES, PIECES).T.tolist()))
    assert found['en-de', 'en-nl'] == [1, 0.5, 0.25]  # of one family, 2 of 4 pieces, 20 to 80 pairs
    assert found['en-cs', 'en-de'] == [0, 0.25, 1]
    assert found['en-cs', 'en-pl'] == [1, 0, 0.25]


def test_rank_correlation_by_hand():
    """Ranks 1 2 3 4 and 1.5 1.5 3.5 3.5, as any table of Spearman's rho has it; monotone is 1; all equal is undefined."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, torch.tensor([0.0, 0.0, 1.0, 1.0])) == pytest.approx(0.8 ** 0.5)
    assert spearman(x, torch.tensor([-9.0, 0.0, 0.1, 70.0])) == pytest.approx(1) and spearman(x, -x.exp()) == pytest.approx(-1)
    assert spearman(x, torch.ones(4)) != spearman(x, torch.ones(4))


def test_the_table_of_families_by_hand(capsys):
    """Above chance by 0.3 for relatives, by 0.2 for cs and de, nl and pl, which are as rich, and by 0.1 for the others."""
    iou, chance = torch.full((1, 8, 8), 0.6).double(), torch.full((1, 8, 8), 0.5).double()
    for x, y, value in ((4, 7, 0.8), (5, 6, 0.8), (4, 5, 0.7), (6, 7, 0.7)):
        iou[0, x, y] = iou[0, y, x] = value
    print_families(['enc1'], TASKS, SIZES, PIECES, iou, chance)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('enc1'))
    assert line.split()[:10] == ['enc1', '0.300', '0.200', '0.100', '4', 'of', '4', '(chance', '1.3)', '0.87']  # 12 / sqrt(16 * 12)
    unknown = [task.replace('de', 'xx').replace('pl', 'yy') for task in TASKS]
    print_families(['enc1'], unknown, [1] * 8, {**PIECES, 'xx': {1}, 'yy': {2}}, iou, chance)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('enc1'))
    assert line.split()[:5] == ['enc1', '-', '0.200', '-', '-'] and line.split()[-1] == '-'


def test_average_linkage_by_hand(capsys):
    """1 and 2 are nearest, then 0 joins them at (4 + 6) / 2; 3 is (9 + 8 + 10) / 3 away, and the tree is done."""
    distance = torch.tensor([[0, 4, 6, 9], [4, 0, 2, 8], [6, 2, 0, 10], [9, 8, 10, 0]]).double()
    joins = linkage(distance)
    assert [(set(a + b), height) for a, b, height in joins] == [({1, 2}, 2), ({0, 1, 2}, 5), ({0, 1, 2, 3}, 9)]
    assert united(joins, 'aaab') == 3 and united(joins, 'baaa') == 1 and united(joins, 'aabb') == 0
    print_tree('dec1', ['cs', 'de', 'nl', 'fr'], joins)
    out = capsys.readouterr().out
    assert out.splitlines()[2:-1] == ['9.000', '| fr', '| 5.000', '| | cs', '| | 2.000', '| | | de', '| | | nl']
    assert '1 of 1 pairs of relatives' in out and 'shuffled, 0.2.' in out  # the nearest pair is one of six


def test_the_tree_is_over_the_languages_of_the_side():
    iou = torch.eye(8)
    iou[5, 6] = iou[6, 5] = 0.9  # de-en, nl-en
    languages, joins = tree(TASKS, 'enc1', iou)
    assert languages == ['cs', 'de', 'nl', 'pl'] and joins[0] == ((1,), (2,), pytest.approx(0.1))
    assert tree(['en-de', 'de-en'], 'dec1', torch.eye(2)) == (['de'], [])


def test_a_drawn_tree_has_its_languages_in_the_order_of_its_branches(tmp_path, monkeypatch):
    import matplotlib.axes
    labels = []
    monkeypatch.setattr(matplotlib.axes.Axes, 'set_yticks', lambda self, at, names: labels.extend(zip(at, names)))
    draw_tree(tmp_path, 'enc1', ['cs', 'de', 'fr'], [((0,), (2,), 0.1), ((1,), (0, 2), 0.3)])
    assert labels == [(0, 'de'), (1, 'cs'), (2, 'fr')]


def test_the_cells_of_a_drawn_map_are_the_tables(tmp_path, monkeypatch):
    import matplotlib.axes
    drawn = []
    show = matplotlib.axes.Axes.imshow
    monkeypatch.setattr(matplotlib.axes.Axes, 'imshow', lambda self, image, **kw: drawn.append(image) or show(self, image, **kw))
    masks = torch.rand(8, 1, 50, generator=torch.Generator().manual_seed(1)) < 0.7
    iou, chance = overlap(masks)
    draw_overlap(tmp_path, 'enc1', TASKS, iou[0], chance[0])
    order = grouped(TASKS)
    assert drawn[0].shape == (8, 8) and drawn[0][1, 2] == iou[0][TASKS.index('en-nl'), TASKS.index('en-cs')]
    assert drawn[0][4, 7] == iou[0][order[4], order[7]]


def test_the_table_of_ablation_has_its_rows_where_it_says(capsys):
    print_ablation(['fr-en', 'en-fr'], torch.tensor([[0.010, -0.002], [0.004, 0.020]]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-5:-1]] == [['en', 'fr'], ['fr', 'en'], ['en-fr', '20', '4'], ['fr-en', '-2', '10']]
    assert lines[-1] == 'mean on the diagonal (own neurons) 15.0, off it 1.0'
