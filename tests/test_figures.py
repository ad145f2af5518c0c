"""What the tables and pictures of profile.py are drawn from."""
import pytest
import torch

from minispec.figures import compared, draw_overlap, grouped, nearest_relatives, print_families, print_layers
from minispec.neurons import overlap

TASKS = ['en-cs', 'en-de', 'en-nl', 'en-pl', 'cs-en', 'de-en', 'nl-en', 'pl-en']


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
    assert nearest_relatives(TASKS, 'enc1', iou) == (3, pytest.approx(4 / 3), 4)  # chance: one of three others
    assert nearest_relatives(['de-en', 'fr-en', 'xx-en'], 'enc1', torch.eye(3)) == (0, 0, 0)  # no relatives at all
    assert nearest_relatives(TASKS, 'enc1', torch.ones(8, 8)) == (pytest.approx(4 / 3), pytest.approx(4 / 3), 4)  # all ties


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


def test_the_table_of_families_by_hand(three, capsys):
    """Above chance by 1/3 - 1/4 = 0.08 in the family; cs overlaps with both as a full layer must: not at all."""
    tasks, _, iou, chance = three
    chance[0, 0, 1] = chance[0, 1, 0] = 0.25
    for pairs, rich in ([9, 5, 9], ['0.000', '0.042']), ([1, 2, 3], ['-', '0.028']), ([4, 4, 4], ['0.028', '-']):
        print_families(['enc1'], tasks, pairs, iou, chance)
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('enc1'))
        assert line.split() == ['enc1', '0.083', '0.000', *rich, '0', 'of', '2', '(chance', '1.0)']


def test_without_relatives_no_table_of_families(three, capsys):
    print_families(['enc1'], ['de-en', 'fr-en', 'cs-en'], [1, 1, 1], *three[2:])
    assert capsys.readouterr().out == ''


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
