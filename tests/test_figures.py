"""The paper's figures: what is computed, the tables and the pictures of profile.py, and training curves."""
import sys
from types import SimpleNamespace

import pytest
import torch

from minispec import UserError, figures
from minispec.figures import Profile
from minispec.figures.analysis import (SHARED_BY, ablate, comparable_pairs, display_order, language_tree, layer_names,
                                       linkage, mantel, nearest_relatives, pure_pairs, sharing, similarity,
                                       specific_neurons)
from minispec.figures.pictures import (draw_curve, draw_ffn, draw_lines, draw_neuron_map, draw_overlap,
                                       draw_overlap_by_layer, draw_sparsity, draw_tree)
from minispec.figures.tables import print_ablation, print_families, print_layers, print_summary, print_tree
from minispec.neurons import overlap

TASKS = ['en-cs', 'en-de', 'en-nl', 'en-pl', 'cs-en', 'de-en', 'nl-en', 'pl-en']
SIZES = [80, 80, 20, 20] * 2
SUBWORDS = {'en': {0}, 'cs': {1, 2, 3}, 'de': {3, 4}, 'nl': {3, 4, 5, 6}, 'pl': {7}}


def profile(tasks, iou, chance=None, sizes=SIZES, subwords=SUBWORDS):
    """A profile of one encoder and one decoder layer, both with this IoU (N, N)."""
    chance = torch.zeros(iou.shape) if chance is None else chance
    masks = torch.ones(len(tasks), 2, 1, dtype=torch.bool)
    return Profile(tasks, masks, torch.stack([iou, iou]), torch.stack([chance, chance]), sizes, subwords)


def symmetric(tasks, others, **values):
    """A matrix (N, N) of ones on the diagonal, `others` off it, and values such as de_nl=0.9 for de-en and nl-en."""
    matrix = torch.full((len(tasks), len(tasks)), others).double().fill_diagonal_(1)
    for pair, value in values.items():
        a, b = [tasks.index(f'{language}-en') for language in pair.split('_')]
        matrix[a, b] = value
        matrix[b, a] = value
    return matrix


def line_of(capsys, start):
    """The cells of the line of the output that starts with this."""
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith(start)).split()


def test_the_summary_says_how_many_neurons_and_who_shares_most(capsys):
    """de and nl share most above chance, though cs and pl have the higher IoU."""
    iou, chance = symmetric(TASKS, 0.5, de_nl=0.7, cs_pl=0.9), symmetric(TASKS, 0.5, cs_pl=0.8)
    found = profile(TASKS, iou, chance)
    found.masks = torch.tensor([[[1, 1, 1, 0]] * 2] * 4 + [[[1, 0, 0, 0]] * 2] * 4, dtype=torch.bool)
    print_summary(found)
    out = capsys.readouterr().out
    assert 'needs 50% of the neurons (25% to 75%)' in out
    assert 'de-en and nl-en share most, in enc1: IoU 0.70, expected by chance 0.50.' in out


def test_layers_are_named_in_the_order_of_the_masks():
    assert layer_names(2) == ['enc1', 'enc2', 'dec1', 'dec2']


@pytest.mark.parametrize('layer, same', [('enc1', '-en'), ('dec2', 'en-')])
def test_comparable_tasks_differ_in_the_language_of_the_layer_only(layer, same):
    found = {(TASKS[a], TASKS[b]) for a, b in comparable_pairs(TASKS, layer).triu().nonzero().tolist()}
    assert len(found) == 6 and all(same in a and same in b and a != b for a, b in found)
    assert torch.equal(comparable_pairs(TASKS, layer), comparable_pairs(TASKS, layer).T)


def test_nearest_relatives_by_hand():
    """Into English: cs and pl are each other's nearest, de is nearest to nl, but nl is nearest to cs."""
    excess = symmetric(TASKS, 0, cs_pl=0.9, de_nl=0.5, cs_nl=0.6, cs_de=0.4)
    comparable, relatives = comparable_pairs(TASKS, 'enc1'), similarity(profile(TASKS, excess), 'enc1')[0] == 1
    expected = pytest.approx(4 / 3)  # one of three others is a relative
    assert nearest_relatives(comparable, relatives, excess) == (3, expected, 4)
    assert nearest_relatives(comparable, torch.zeros(8, 8).bool(), excess) == (0, 0, 0)  # no relatives at all
    assert nearest_relatives(comparable, relatives, torch.ones(8, 8)) == (expected, expected, 4)  # all ties


def test_similarity_by_hand():
    found = similarity(profile(TASKS, torch.eye(8)), 'dec1')
    assert found[:, 1, 2].tolist() == [1, 0.5, 0.25]  # de, nl: of one family, 2 of 4 subwords, 20 to 80 pairs
    assert found[:, 0, 1].tolist() == [0, 0.25, 1]  # cs, de
    assert found[:, 0, 3].tolist() == [1, 0, 0.25]  # cs, pl


def square(*above):
    """The symmetric matrix (4, 4) with these six values above its diagonal."""
    matrix = torch.zeros(4, 4).double()
    matrix[tuple(torch.triu_indices(4, 4, 1))] = torch.tensor(above).double()
    return matrix + matrix.T


def test_rank_correlation_and_mantels_test_by_hand():
    """Spearman's rho of ranks 1 ... 6 and 1.5 1.5 3 4 5 6; 1 if monotone; NaN if all values are equal."""
    x = square(1, 2, 3, 4, 5, 6)
    assert mantel(x, square(0, 0, 1, 5, 6, 7))[0] == pytest.approx((1 - 0.5 / 17.5) ** 0.5)
    assert mantel(x, square(-9, 0, 1, 70, 71, 80))[0] == pytest.approx(1) and mantel(x, -x)[0] == pytest.approx(-1)
    assert all(value != value for value in mantel(x, torch.ones(4, 4)))  # NaN
    # Of the 24 orders of four languages, 8 leave the two pairs of relatives as they are.
    relatives = square(1, 0, 0, 0, 0, 1)
    rho, p = mantel(relatives, relatives)
    assert rho == pytest.approx(1) and p == pytest.approx(8 / 24, abs=0.02)


def test_figure_1_puts_relatives_side_by_side():
    shown = [TASKS[i] for i in display_order(TASKS)]
    assert shown == ['en-de', 'en-nl', 'en-cs', 'en-pl', 'de-en', 'nl-en', 'cs-en', 'pl-en']
    tasks = ['de-fr', 'nl-en', 'fr-de', 'en-fr', 'xx-en', 'en-de']
    assert [tasks[i] for i in display_order(tasks)] == ['en-de', 'en-fr', 'xx-en', 'nl-en', 'de-fr', 'fr-de']


def shared_by(tasks, *holders):
    """Who shares each neuron, in words; `holders` has the tasks of each, such as 'en-de nl-en'."""
    masks = torch.tensor([[task in held.split() for held in holders] for task in tasks])
    return [SHARED_BY[answer] for answer in sharing(masks, tasks)]


def test_who_shares_a_neuron_by_hand():
    """Of the answers that fit, the narrowest; de and nl are of one family, cs and pl of another."""
    into, holders = 'cs-en de-en nl-en pl-en', ['en-de', 'en-de nl-en', 'en-de en-nl', 'en-de en-cs', 'en-de cs-en', '']
    assert shared_by(TASKS, *holders, into, ' '.join(TASKS), ' '.join(TASKS[1:])) == [
        'one direction only', 'one family only', 'one family only', 'only from en or only into en', 'several families',
        'no direction', 'only from en or only into en', 'all directions', 'several families']


def test_who_shares_a_neuron_where_there_is_one_side_or_family_or_task():
    assert shared_by(['en-de', 'en-nl', 'en-sv'], 'en-de en-nl', 'en-de') == ['several families', 'one direction only']
    assert shared_by(['en-de', 'en-fr', 'en-cs'], 'en-de en-fr', 'en-de') == ['several families', 'one direction only']
    assert shared_by(['en-xx', 'xx-en', 'en-yy'], 'en-xx xx-en', 'en-xx en-yy') == ['one family only',
                                                                                    'only from en or only into en']
    assert shared_by(['en-de'], 'en-de', '') == ['all directions', 'no direction']


def test_the_table_of_layers_by_hand(capsys):
    """Three tasks with 2, 2 and 4 of 4 neurons; IoU of de, nl 1/3, of the others with cs 1/2."""
    masks = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]).bool()[:, None].expand(3, 2, 4)
    print_layers(Profile(['de-en', 'nl-en', 'cs-en'], masks, *overlap(masks), SIZES, SUBWORDS))
    by_chance = f'{(0.25 / 0.75 + 0.5 + 0.5) / 3:.2f}'
    assert line_of(capsys, 'enc1') == ['enc1', '0.33', '0.00', '0.50', '0.33', '0.42', '0.50', '0.50', '0.50', '0.44',
                                       by_chance]


def test_the_table_of_families_by_hand(capsys):
    """Above chance by 0.3 for relatives, by 0.2 for cs and de, nl and pl of equal training size, by 0.1 for others."""
    chance, iou = torch.full((8, 8), 0.5).double(), symmetric(TASKS, 0.6, cs_pl=0.8, de_nl=0.8, cs_de=0.7, nl_pl=0.7)
    print_families(profile(TASKS, iou, chance=chance))
    assert line_of(capsys, 'enc1')[:11] == ['enc1', '0.300', '0.200', '0.100', '4', 'of', '4', '(expected', '1.3)',
                                            '0.87', '(0.665)']  # 12 / sqrt(16 * 12); 16 of 24 orders give it or -it
    print_families(profile(TASKS, iou, chance=chance, sizes=[1] * 8))
    assert line_of(capsys, 'enc1')[:4] == ['enc1', '0.300', '0.150', '-']  # relatives of equal size count as relatives
    unknown = [task.replace('de', 'xx').replace('pl', 'yy') for task in TASKS]
    print_families(profile(unknown, iou, chance=chance, sizes=[1] * 8, subwords={**SUBWORDS, 'xx': {1}, 'yy': {2}}))
    cells = line_of(capsys, 'enc1')
    assert cells[:5] == ['enc1', '-', '0.200', '-', '-'] and cells[-1] == '-'


def test_the_table_of_families_needs_four_languages(capsys):
    print_families(profile(TASKS[:3] + TASKS[4:7], torch.eye(6)))
    assert capsys.readouterr().out == ''


def test_average_linkage_by_hand(capsys):
    """1 and 2 are nearest, then 0 joins them at (4 + 6) / 2; 3 is (9 + 8 + 10) / 3 away, and the tree is done."""
    distance = torch.tensor([[0, 4, 6, 9], [4, 0, 2, 8], [6, 2, 0, 10], [9, 8, 10, 0]]).double()
    merges = linkage(distance)
    assert [(set(a + b), height) for a, b, height in merges] == [({1, 2}, 2), ({0, 1, 2}, 5), ({0, 1, 2, 3}, 9)]
    assert [pure_pairs(merges, families) for families in ('aaab', 'baaa', 'aabb')] == [3, 1, 0]
    print_tree('dec1', ['cs', 'de', 'nl', 'fr'], merges)
    out = capsys.readouterr().out
    assert out.splitlines()[2:-1] == ['9.000', '| fr', '| 5.000', '| | cs', '| | 2.000', '| | | de', '| | | nl']
    assert '1 of 1 pairs of relatives' in out and 'by chance: 0.2.' in out  # the nearest pair is one of six


def test_the_tree_is_over_the_languages_of_the_layer(capsys):
    languages, merges = language_tree(profile(TASKS, symmetric(TASKS, 0, de_nl=0.9)), 'enc1')
    assert languages == ['cs', 'de', 'nl', 'pl'] and merges[0] == ((1,), (2,), pytest.approx(0.1))
    languages, merges = language_tree(profile(['en-de', 'de-en'], torch.eye(2)), 'dec1')
    assert (languages, merges) == (['de'], [])
    print_tree('dec1', languages, merges)
    assert capsys.readouterr().out == ''  # one language is no tree


def test_families_are_known_of_languages_that_the_phrasebook_does_not_have(capsys):
    """Multi30k with Ukrainian, Arabic and Chinese: cs and uk are relatives, as are en and de; ar and zh have none."""
    tasks = ['de-en', 'fr-en', 'cs-en', 'uk-en', 'ar-en', 'zh-en']
    languages, merges = language_tree(profile(tasks, symmetric(tasks, 0.2, cs_uk=0.8)), 'enc1')
    assert languages == ['de', 'fr', 'cs', 'uk', 'ar', 'zh'] and merges[0][:2] == ((2,), (3,))
    print_tree('enc1', languages, merges)
    assert '\n1 of 1 pairs of relatives merge before an outsider joins' in capsys.readouterr().out


def test_the_table_of_ablation_has_its_rows_where_it_says(capsys):
    print_ablation(['fr-en', 'en-fr'], torch.tensor([[0.010, -0.002], [0.004, 0.020]]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-5:-1]] == [['en', 'fr'], ['fr', 'en'], ['en-fr', '20', '4'],
                                                       ['fr-en', '-2', '10']]
    assert lines[-1] == 'mean on the diagonal (own neurons) 15.0, off it 1.0'


def test_specific_neurons_are_those_that_the_fewest_others_have():
    masks = torch.tensor([[[1, 1, 1, 1, 0]], [[0, 1, 1, 0, 1]], [[0, 1, 0, 1, 1]]]).bool()  # held by 1 3 2 2 2
    specific, *random = specific_neurons(masks, 1, draws=9, seed=1)
    assert specific.int().tolist() == [[[1, 0, 0, 0, 0]], [[0, 0, 1, 0, 0]], [[0, 0, 0, 1, 0]]]  # ties by index
    for each in random:
        assert (each.sum(-1) == 1).all() and not (each & (specific | ~masks)).any()
    assert len({str(each) for each in random}) > 3


def test_ablation_measures_each_set_and_leaves_the_masks():
    """Measured here: how many neurons each task has on. Each set takes away those of its neurons that were on."""
    generator = torch.Generator().manual_seed(1)
    before = torch.rand(3, 4, 16, generator=generator) < 0.5  # (N, L, F)
    model = SimpleNamespace(masks=before.clone())
    sets = torch.rand(2, 4, 16, generator=generator) < 0.3  # (2, L, F)
    rise = ablate(model, sets, lambda: model.masks.sum((1, 2)))
    assert torch.equal(rise, -(before & sets[:, None]).sum((2, 3))) and torch.equal(model.masks, before)


@pytest.fixture
def unsaved(monkeypatch):
    """Pictures are drawn, but not rendered into files, which takes most of the time."""
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda self, *args, **options: None)


@pytest.fixture
def axes(monkeypatch):
    """What is drawn: a list of (method, arguments, options), in the order of the calls on matplotlib's axes."""
    from matplotlib.axes import Axes
    calls = []

    def spy(name):
        method = getattr(Axes, name)

        def call(self, *args, **options):
            calls.append((name, args, options))
            return method(self, *args, **options)
        monkeypatch.setattr(Axes, name, call)

    for name in ('set_title', 'set_yticks', 'text', 'imshow', 'plot', 'scatter', 'fill_between', 'axhline', 'axhspan'):
        spy(name)
    return calls


def test_a_drawn_tree_has_its_languages_in_the_order_of_its_branches(tmp_path, axes, unsaved):
    distance = torch.tensor([[0, 0.3, 0.1], [0.3, 0, 0.3], [0.1, 0.3, 0]])
    draw_tree(tmp_path, profile(['cs-en', 'de-en', 'fr-en'], 1 - distance), 'enc1')
    ticks = [args for name, args, _ in axes if name == 'set_yticks']
    assert [(list(at), names) for at, names in ticks] == [([0, 1, 2], ['de', 'cs', 'fr'])]
    drawn = [torch.tensor(args) for name, args, _ in axes if name == 'plot']
    for found, expected in zip(drawn, [([0, 0.1, 0.1, 0], [1, 1, 2, 2]), ([0, 0.3, 0.3, 0.1], [0, 0, 1.5, 1.5])]):
        torch.testing.assert_close(found, torch.tensor(expected))
    assert len(drawn) == 2


def called(axes, method):
    """The arguments of all calls of this method."""
    return [args for name, args, _ in axes if name == method]


def test_the_cells_of_a_drawn_map_are_the_tables(tmp_path, axes, unsaved):
    """On the left the IoU, on the right the IoU minus chance, without the diagonal."""
    iou, chance = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1))
    iou.fill_diagonal_(1)
    draw_overlap(tmp_path, profile(TASKS, iou, chance), 'enc1')
    (cells,), (excess,) = called(axes, 'imshow')
    order = display_order(TASKS)
    assert cells == [[iou[a, b].item() for b in order] for a in order]
    assert cells[1][2] == iou[TASKS.index('en-nl'), TASKS.index('en-cs')].item()
    assert [a for a in range(8) for b in range(8) if excess[a][b] != excess[a][b]] == list(range(8))  # NaN: diagonal
    assert excess[1][2] == pytest.approx(cells[1][2] - chance[TASKS.index('en-nl'), TASKS.index('en-cs')].item())


def test_rows_are_named_with_sizes_and_families_and_parted_by_lines(tmp_path, axes, unsaved):
    draw_neuron_map(tmp_path, profile(TASKS, torch.eye(8), sizes=[8000, 400] * 4), 'enc1')
    (at, names), = called(axes, 'set_yticks')
    assert list(at) == list(range(8)) and names[:3] == ['en-de (400)', 'en-nl (8,000)', 'en-cs (8,000)']
    assert [args[1:] for args in called(axes, 'text')] == [(0.5, 'Germanic'), (2.5, 'Slavic'), (4.5, 'Germanic'),
                                                           (6.5, 'Slavic')]
    widths = {args[0]: options['linewidth'] for name, args, options in axes if name == 'axhline'}
    assert widths[1.5] == widths[5.5] < widths[3.5]  # between families; between directions from and into English


def test_a_map_of_neurons_has_its_columns_in_blocks_by_who_shares_them(tmp_path, axes, unsaved):
    """All tasks have neuron 3; several families 0, and fewer of their tasks 4; one family 2; one task 1; none 5."""
    masks = {'cs-en': [1, 0, 0, 1, 1, 0], 'en-cs': [1, 0, 0, 1, 0, 0], 'de-en': [1, 0, 1, 1, 0, 0],
             'en-de': [0, 1, 1, 1, 1, 0], 'en-nl': [0, 0, 1, 1, 0, 0]}
    tasks, masks = list(masks), torch.tensor(list(masks.values())).bool()
    masks = torch.stack([masks, masks.flip(1)], dim=1)  # (N, L, F)
    draw_neuron_map(tmp_path, Profile(tasks, masks, *overlap(masks), [1] * 5, {}), 'enc1')
    (cells,), = called(axes, 'imshow')
    assert cells == [[0, 5, 1, 3, 4, 5],  # en-de
                     [0, 5, 5, 3, 5, 5],  # en-nl
                     [0, 1, 5, 5, 5, 5],  # en-cs
                     [0, 1, 5, 3, 5, 5],  # de-en
                     [0, 1, 1, 5, 5, 5]]  # cs-en


def test_the_drawn_ffn_has_the_neurons_of_the_two_largest_directions(tmp_path, axes, unsaved):
    masks = torch.rand(8, 4, 30, generator=torch.Generator().manual_seed(1)) < 0.5
    draw_ffn(tmp_path, Profile(TASKS, masks, *overlap(masks), [9, 1, 2, 3, 8, 9, 1, 1], SUBWORDS))
    assert called(axes, 'set_title') == [('en-cs',), ('de-en',)]
    digits = [args[2] for args in called(axes, 'text') if args[2] in ('0', '1')]
    assert ''.join(digits) == ''.join(str(int(on)) for on in masks[[0, 5], -1, :10].flatten())
    strokes = [args for args in called(axes, 'plot') if args[0]]  # those of the legend are empty
    assert len(strokes) == 4 * digits.count('1')  # a neuron that is off is connected with nothing


def points(axes):
    """The drawn points: for each call of scatter the values, the colours and the marker."""
    return [(args[1], options['c'], options['marker']) for name, args, options in axes if name == 'scatter']


def test_figure_2_has_a_point_for_each_two_languages_relatives_in_colour(tmp_path, axes, unsaved):
    found = profile(TASKS, symmetric(TASKS, 0.5, de_nl=0.9, cs_pl=0.8, cs_nl=0.7), symmetric(TASKS, 0.4))
    draw_overlap_by_layer(tmp_path, found)
    (values, colours, _), _ = points(axes)
    assert sorted(values) == [0.5, 0.5, 0.5, 0.7, 0.8, 0.9]
    of_one_family = {value: colour for value, colour in zip(values, colours) if colour != 'silver'}
    assert set(of_one_family) == {0.8, 0.9} and len(set(of_one_family.values())) == 2
    by_chance, = [args for name, args, options in axes if options.get('label') == 'expected by chance']
    assert by_chance[1] == [pytest.approx(0.4)] * 2


def test_figure_5_has_a_point_for_each_direction_by_side_and_family(tmp_path, axes, unsaved):
    masks = torch.arange(8)[:, None, None] >= torch.arange(8)  # the task at index i has i + 1 of 8 neurons
    masks = masks.expand(8, 2, 8)
    draw_sparsity(tmp_path, Profile(TASKS, masks, *overlap(masks), SIZES, SUBWORDS))
    first, second, *other_layer = points(axes)
    assert first[0] == [6 / 8, 5 / 8, 7 / 8, 4 / 8] and second[0] == [2 / 8, 1 / 8, 3 / 8, 0]  # de, nl, cs, pl
    (a, b, c, d), marker = first[1:]
    assert a == b != c == d and second[1] == first[1] and second[2] != marker
    assert [values for values, *_ in other_layer] == [first[0], second[0]]


def test_a_difference_has_a_line_at_0_and_its_margin(tmp_path, axes, unsaved):
    draw_lines(tmp_path, 'k', {'own': ([50, 70], [-0.2, 0.3])}, 'k', 'ΔBLEU vs. dense', margin=0.5)
    assert called(axes, 'axhline') == [(0,)] and called(axes, 'axhspan') == [(-0.5, 0.5)]
    draw_lines(tmp_path, 'k', {'own': ([50, 70], [80, 81])}, 'k', 'BLEU')
    assert len(called(axes, 'axhline')) == 1


def test_a_drawn_curve_is_what_the_csv_says(tmp_path, axes):
    path = tmp_path / 'base.csv'
    path.write_text('step,smoothed_train_loss,learning_rate,target_tokens_per_second,valid_en-de,valid_de-en,'
                    'valid_en-fr\n100,5.5,0.001,900,4.5,5,5.5\n200,3.25,0.002,901,2,3,7\n', encoding='utf-8')
    assert draw_curve(path) == [tmp_path / 'base.curve.png', tmp_path / 'base.curve.svg']
    assert [args for name, args, _ in axes if name == 'plot'] == [([100, 200], [5.5, 3.25]), ([100, 200], [5, 4])]
    assert [args for name, args, _ in axes if name == 'fill_between'] == [([100, 200], [4.5, 2], [5.5, 7])]
    assert (tmp_path / 'base.curve.png').read_bytes().startswith(b'\x89PNG')
    assert '<svg' in (tmp_path / 'base.curve.svg').read_text(encoding='utf-8')


def test_everything_is_drawn_and_printed_for_a_run(tmp_path, monkeypatch, capsys):
    """Pictures are laid out, once each, though no file is rendered."""
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda self, file, format, **options:
                        format == 'svg' and self.draw_without_rendering())
    masks = torch.rand(8, 2, 50, generator=torch.Generator().manual_seed(1)) < 0.7
    found = Profile(TASKS, masks, *overlap(masks), SIZES, SUBWORDS)
    names = {path.name for path in figures.draw_all(tmp_path, found, ['dec1'])}
    assert names == {path.name for path in tmp_path.iterdir()} == {
        f'{name}.{suffix}' for name in ('ffn', 'overlap-by-layer', 'sparsity', 'overlap-dec1', 'neurons-dec1',
                                        'tree-dec1') for suffix in ('png', 'svg')}
    figures.print_all(found, ['dec1'])
    out = capsys.readouterr().out
    assert 'IoU of all directions in dec1' in out and 'Tree of languages in dec1' in out and 'Mantel' in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize('names, pictures', [
    ('en-de', 2),  # sparsity and neurons
    ('en-de de-en', 4),  # and ffn, overlap
    ('en-de de-en en-xx xx-en', 6),  # and overlap by layer, a tree; a language without a family
    ('en-de en-fr', 6),  # the encoder has nothing to compare
    ('de-fr de-es fr-de nl-fr', 6),  # no English
    ('de-fr en-fr de-en en-de', 6),  # some with English
    (' '.join(f'en-{language}' for language in 'de fr ru hi fa lt ga el sq hy ar'.split()), 6),  # many families
])
def test_any_corpus_has_tables_and_pictures(names, pictures, tmp_path, capsys, unsaved):
    tasks = names.split()
    masks = torch.rand(len(tasks), 2, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    masks[:, :, 0] = True
    subwords = {language: {1} for task in tasks for language in task.split('-')}
    found = Profile(tasks, masks, *overlap(masks), [9] * len(tasks), subwords)
    figures.print_all(found, ['dec1'])
    assert ('Tree' in capsys.readouterr().out) == (pictures == 6)
    assert len(figures.draw_all(tmp_path, found, ['dec1'])) == 2 * pictures
    assert len(figures.draw_ablation(tmp_path, found, torch.zeros(len(tasks), len(tasks)))) == 2


def test_without_matplotlib_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(UserError, match='pip install matplotlib'):
        figures.new_figure()
