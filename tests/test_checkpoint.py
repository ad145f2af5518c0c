"""What comes in through a file: nothing that runs code, nothing broken, nothing whose parts do not fit."""
import io
import os
import pickle
import zipfile

import pytest
import torch

from minispec import UserError
from minispec.checkpoint import VERSION, Checkpoint, load_activations, load_checkpoint, save_checkpoint, write
from minispec.model import Config, Transformer
from minispec.neurons import record
from minispec.vocabulary import Vocabulary


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A sound checkpoint of two tasks, as bytes."""
    lines = ['a dog runs and a cat sleeps', 'ein Hund rennt und eine Katze schläft'] * 9
    vocabulary = Vocabulary.train(lines, 40, ['de', 'en'])
    model = Transformer(Config(len(vocabulary), n_tasks=2, d_model=16, d_ff=8, layers=1, heads=2))
    path = tmp_path_factory.mktemp('sound') / 'sound.pt'
    save_checkpoint(path, Checkpoint(model, vocabulary, ['en-de', 'de-en'], {'phase': 'base'}))
    return path.read_bytes()


def refused(path, loader=load_checkpoint):
    """The one line that a file gets."""
    with pytest.raises(UserError) as error:
        loader(path)
    assert '\n' not in str(error.value) and path.name in str(error.value)
    return str(error.value)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_sound_checkpoint_is_taken(sound, tmp_path):
    (tmp_path / 'a.pt').write_bytes(sound)
    assert load_checkpoint(tmp_path / 'a.pt').tasks == ['en-de', 'de-en']


def test_loading_runs_no_code(sound, tmp_path):
    torch.save({'kind': 'checkpoint', 'version': VERSION, 'config': Bomb(tmp_path / 'boom')}, tmp_path / 'a.pt')
    (tmp_path / 'b.pt').write_bytes(pickle.dumps(Bomb(tmp_path / 'boom')))
    for name in ('a.pt', 'b.pt'):
        refused(tmp_path / name)
    assert not (tmp_path / 'boom').exists()
    torch.load(tmp_path / 'a.pt', weights_only=False)  # the bomb was a live one
    assert (tmp_path / 'boom').exists()


def test_a_file_cut_short_anywhere_is_refused(sound, tmp_path):
    for size in range(0, len(sound), len(sound) // 40):
        (tmp_path / 'a.pt').write_bytes(sound[:size])
        assert 'is damaged' in refused(tmp_path / 'a.pt')


def test_a_flipped_bit_in_any_tensor_is_seen(sound, tmp_path):
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist() if '/data/' in entry.filename]
    assert len(entries) > 20
    for entry, content in entries:
        place = sound.index(content, entry.header_offset) + len(content) // 2
        flipped = bytes([sound[place] ^ 1])
        (tmp_path / 'a.pt').write_bytes(sound[:place] + flipped + sound[place + 1:])
        assert 'is damaged' in refused(tmp_path / 'a.pt')


def change(*keys, to):
    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to
    return edit


def drop(*keys):
    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]
    return edit


@pytest.mark.parametrize('edit', [
    *(drop(key) for key in ('kind', 'version', 'config', 'weights', 'vocabulary', 'tasks', 'info', 'training')),
    drop('weights', 'encoder.0.ffn.w1.bias'),
    change('weights', 'encoder.0.ffn.w1.bias', to=torch.zeros(9)),
    change('weights', 'masks', to=torch.ones(3, 2, 8, dtype=torch.bool)),
    change('weights', 'extra', to=torch.zeros(1)),
    change('weights', 'encoder.0.ffn.w1.weight', to=torch.zeros(1).expand(8, 16)),
    change('config', 'd_ff', to=10 ** 12),
    change('config', 'd_model', to=10 ** 12),
    change('config', 'layers', to=10 ** 9),
    change('config', 'max_len', to=10 ** 12),
    change('config', 'heads', to=0),
    change('config', 'heads', to='two'),
    change('config', 'unheard of', to=1),
    change('tasks', to=['en-de']),
    change('tasks', to=['en-de', 'fr-en']),
    change('tasks', to='en'),
    change('tasks', to=None),
    change('vocabulary', to=torch.zeros(100, dtype=torch.uint8)),
    change('vocabulary', to=torch.zeros(100)),
    change('kind', to='activations'),
])
def test_parts_that_are_missing_or_do_not_fit_are_refused(sound, tmp_path, edit):
    content = torch.load(io.BytesIO(sound), weights_only=True)
    edit(content)
    torch.save(content, tmp_path / 'a.pt')
    assert 'is damaged' in refused(tmp_path / 'a.pt')


def test_another_format_is_named(sound, tmp_path):
    torch.save(torch.load(io.BytesIO(sound), weights_only=True) | {'version': 99}, tmp_path / 'a.pt')
    assert 'has format 99' in refused(tmp_path / 'a.pt')


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / 'a.pt')
    torch.save([1, 2], tmp_path / 'b.pt')
    (tmp_path / 'c.pt').write_text('hello', encoding='utf-8')
    for name in 'abc':
        assert 'is not a minispec checkpoint' in refused(tmp_path / f'{name}.pt')


def test_activations_are_checked_too(model, batch, tmp_path):
    model.masks.fill_(True)
    good = {'kind': 'activations', 'base': 'abc', 'tasks': ['a-b', 'b-a', 'c-a'], **record(model, [batch])}
    write(tmp_path / 'good.pt', good)
    assert load_activations(tmp_path / 'good.pt')['base'] == 'abc'
    for key, value in (('tasks', ['a-b']), ('sentence', torch.zeros(1)), ('positions', None), ('base', 1)):
        write(tmp_path / 'bad.pt', good | {key: value})
        assert 'profile.py makes it' in refused(tmp_path / 'bad.pt', load_activations)
