"""The report of a test: a page that is whole, that stands alone, and that says what the files say."""
import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import pytest
from test_scripts import EN_DE, SHORT, SMALL, succeed

from minispec.checkpoint import load_checkpoint
from minispec.neurons import overlap

NASTY = '<script>alert("1 & 2")</script>'
BROWSER = shutil.which('chromium') or shutil.which('google-chrome')


class Page(HTMLParser):
    """What a page says. Fails where a tag is not closed in its place."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.attributes = [], set(), {}
        self.headings, self.tables, self.points, self.source = [], [], [], path.read_text(encoding='utf-8')
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes.update(attributes)
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('th', 'td'):
            self.tables[-1][-1].append('')
        elif tag == 'li':
            self.points.append('')
        if tag not in ('meta', 'br'):  # which have no end
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if 'td' in self.open or 'th' in self.open:
            self.tables[-1][-1][-1] += text
        elif self.open[-1:] == ['li']:
            self.points[-1] += text
        elif self.open[-1:] == ['h2']:
            self.headings.append(text)


@pytest.fixture(scope='module')
def run(corpus_folder, tmp_path_factory):
    """The folder of a whole run, whose test text has a sentence that is code to a browser."""
    folder = tmp_path_factory.mktemp('report')
    data = shutil.copytree(corpus_folder, folder / 'data')
    for path in data.glob('test.*'):
        path.write_text(path.read_text(encoding='utf-8').replace(' ', f' {NASTY} ', 1), encoding='utf-8')
    flags = ['--run', folder / 'run']
    succeed('train.py', '--data', data, *flags, *SMALL, *SHORT)
    succeed('profile.py', *flags)
    for masks in ('own', 'dense'):
        succeed('specialize.py', *flags, *SHORT, '--masks', masks)
    out = succeed('translate.py', *flags, '--beam', 1)
    assert f'test.specialized and {folder / "run" / "report.html"} in ' in out.splitlines()[-1]
    return folder / 'run'


def test_the_scores_are_those_of_the_file(run):
    page = Page(run / 'report.html')
    found = json.loads((run / 'test.specialized' / 'scores.json').read_text(encoding='utf-8'))
    head, *rows = page.tables[0]
    assert head[3:] == ['BLEUspecialized.pt', 'BLEUdense.pt', 'BLEUbase.pt', 'ΔBLEU', '95% interval', 'p']
    assert [row[0] for row in rows] == [*found['means'], *found['scores']]
    own, dense, base = ({**system['means'], **system['scores']} for system in (found, *found['others'].values()))
    for name, *cells in rows:
        expected = [own[name]['chrF++'], own[name]['length'], *(system[name]['BLEU'] for system in (own, dense, base)),
                    *(dense[name][key] for key in ('difference', 'low', 'high', 'p_holm') if key in dense[name])]
        numbers = [float(number) for cell in cells for number in cell.split(' to ') if number]
        assert numbers == pytest.approx(expected, abs=0.00501)


def test_a_page_has_all_parts_and_stands_alone(run):
    page = Page(run / 'report.html')
    assert page.headings == ['What to look at', 'Scores', 'Translations', 'Training curve', 'Neurons', 'Settings']
    assert f'<title>specialized.pt on {escape(str(run.parent / "data"))}, test</title>' in page.source
    assert not page.tags & {'script', 'link', 'img', 'image', 'iframe', 'object', 'embed', 'use', 'base'}
    assert not page.attributes.keys() & {'src', 'srcset', 'href', 'xlink:href', 'data', 'onload'}
    assert not re.search(r'https?:|url\(|@import', page.source)
    assert page.source.count('<polyline') == 3 * (1 + 4)  # of each system the mean, and each direction
    assert page.source.count('h720"') > 1  # marks of losses, also after so few steps
    assert ['k', '', '70.0', '70.0'] in page.tables[-1] and ['masks', '', 'own', 'dense'] in page.tables[-1]
    assert ['d_model', '16', '', ''] in page.tables[-1]


def test_a_map_shows_the_masks(run):
    page, masks = Page(run / 'report.html'), load_checkpoint(run / 'specialized.pt').model.masks  # (4, 2, 32)
    rows = [''.join(cells) for cells in re.findall('d="M0 0((?:h1|m1 0)+)"', page.source)]
    assert len(rows) == 2 * 4
    assert sorted(row.count('h1') for row in rows[:4]) == sorted(masks[:, 0].sum(1).tolist())
    for layer in (rows[:4], rows[4:]):
        columns = list(zip(*(re.findall('h1|m1 0', row) for row in layer)))
        assert len(columns) == 32
        owners = [column.count('h1') for column in columns]
        assert owners == sorted(owners, reverse=True)
    tasks, (iou, _) = load_checkpoint(run / 'specialized.pt').tasks, overlap(masks)
    tables = [table for table in page.tables if len(table) == len(table[0]) == 5]
    assert len(tables) == 2
    for (head, *rows), values in zip(tables, iou):
        order = [tasks.index(task) for task in head[1:]]
        assert rows == [[tasks[a], *(f'{100 * values[a, b]:.0f}' for b in order)] for a in order]


def test_text_is_text_and_never_code(run):
    page = Page(run / 'report.html')
    shown = [table for table in page.tables if len(table) > 1 and table[1][0].startswith('source')]
    assert len(shown) == 10 and all(NASTY in table[1][1] and NASTY in table[2][1] for table in shown[:1])
    assert escape(NASTY) in page.source and '<script' not in page.source


def test_another_model_has_a_page_of_its_own_without_what_it_lacks(run):
    before = (run / 'report.html').read_bytes()
    out = succeed('translate.py', '--run', run, '--beam', 1, '--model', 'dense.pt', '--test', 'valid')
    assert f' and {run / "report.valid.dense.html"} in ' in out
    page = Page(run / 'report.valid.dense.html')
    assert '<title>dense.pt on ' in page.source and 'Neurons' not in page.headings and 'Settings' in page.headings
    succeed('translate.py', '--run', run, '--beam', 1, *EN_DE, '--test')  # one direction of several is no whole run
    assert (run / 'report.html').read_bytes() == before


def test_a_run_of_one_direction_without_dense_and_curves(run, tmp_path):
    flags = ['--run', tmp_path / 'run']
    succeed('train.py', '--data', run.parent / 'data', *flags, *SMALL, *SHORT, '--directions', 'en-de')
    succeed('profile.py', *flags)
    succeed('specialize.py', *flags, *SHORT)
    for path in (tmp_path / 'run').glob('*.csv'):
        path.write_text('edited;by;hand\n1;2;3\n', encoding='utf-8')
    succeed('translate.py', *flags, '--beam', 1, '--compare')
    page = Page(tmp_path / 'run' / 'report.html')
    assert page.headings == ['What to look at', 'Scores', 'Translations', 'Neurons', 'Settings']
    assert 'Nothing here is compared with dense.pt' in page.points[0]
    assert 'share most' not in page.source and 'Overlap' not in page.source
    assert [row[0] for row in page.tables[0]] == ['', 'en-de']


@pytest.mark.skipif(not BROWSER, reason='there is no Chromium')
@pytest.mark.parametrize('width', [500, 1000])
def test_a_browser_shows_it_without_a_bar_to_scroll_sideways(run, tmp_path, width):
    source = re.sub('<meta http-equiv[^>]*>', '', (run / 'report.html').read_text(encoding='utf-8'))  # scripts may run
    measure = ('[document.documentElement.scrollWidth, innerWidth, ...[...document.querySelectorAll("svg")]'
               '.map(svg => svg.getBoundingClientRect().height)]')
    (tmp_path / 'page.html').write_text(f'{source}<script>document.title = {measure}</script>', encoding='utf-8')
    shown = subprocess.run([BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}/user',
                            f'--window-size={width},800', '--dump-dom', str(tmp_path / 'page.html')], text=True,
                           capture_output=True, timeout=60).stdout
    content, window, *heights = map(float, re.search('<title>([^<]*)', shown)[1].split(','))
    assert content <= window == width and len(heights) == 3 and min(heights) > 20
