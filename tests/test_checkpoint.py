"""What comes in through a file: nothing that runs code, nothing broken, nothing whose parts do not fit."""
import io
import os
import pickle
import zipfile

import pytest
import torch

from minispec import UserError
from minispec.checkpoint import (VERSION, Checkpoint, fingerprint, load_activations, load_base, load_checkpoint, load_state,
                                 save_checkpoint, write)
from minispec.model import Config, Transformer
from minispec.neurons import record
from minispec.vocabulary import Vocabulary


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A sound checkpoint of two tasks after one step of training, as bytes."""
    lines = ['a dog runs and a cat sleeps', 'ein Hund rennt und eine Katze schläft'] * 9
    vocabulary = Vocabulary.train(lines, 40, ['de', 'en'])
    model = Transformer(Config(len(vocabulary), n_tasks=2, d_model=16, d_ff=8, layers=1, heads=2))
    path = tmp_path_factory.mktemp('sound') / 'sound.pt'
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    training = {'text': 'x', 'step': 1, 'best': 2.0, 'best_step': 1, 'seconds': 3.0, 'optimizer': optimizer.state_dict()}
    info = {'phase': 'base', 'settings': {'steps': 5}}
    save_checkpoint(path, Checkpoint(model, vocabulary, ['en-de', 'de-en'], info, training))
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
    change('config', 'heads', to=-2),
    change('config', 'layers', to=0),
    change('config', 'd_ff', to=[8, 8, 8]),
    change('config', 'd_ff', to='8'),
    change('config', 'dropout', to=float('nan')),
    change('config', 'dropout', to=2.0),
    change('config', 'unheard of', to=1),
    drop('config', 'heads'),
    change('weights', 'encoder.0.ffn.w1.bias', to=torch.full((8,), float('nan'))),
    change('weights', 'decoder.0.ffn.w2.bias', to=torch.full((16,), float('-inf'))),
    change('weights', 'masks', to=torch.ones(2, 2, 8)),
    change('weights', 'masks', to=[True]),
    change('weights', 'embedding.weight', to=torch.zeros(40, 16, dtype=torch.float64)),
    change('weights', to=None),
    change('info', to={}),
    change('info', 'settings', to=None),
    change('tasks', to=['en', 'de-en']),
    change('tasks', to=['en-de-en', 'de-en']),
    change('tasks', to=['en-de', 'en-de']),
    change('tasks', to=[1, 2]),
    change('vocabulary', to=torch.zeros(1, dtype=torch.uint8).expand(10 ** 12)),
    change('training', to={}),
    *(drop('training', key) for key in ('text', 'step', 'best', 'best_step', 'seconds', 'optimizer')),
    change('training', 'step', to='1'),
    change('training', 'step', to=-1),
    change('info', 'settings', 'steps', to=0),
    change('training', 'best', to=float('nan')),
    change('training', 'best_step', to=2),
    change('training', 'seconds', to=float('nan')),
    change('training', 'optimizer', to=[]),
    drop('training', 'optimizer', 'state', 0),
    change('training', 'optimizer', 'state', 0, 'exp_avg', to=torch.zeros(1)),
    change('training', 'optimizer', 'state', 0, 'exp_avg', to=torch.full((40, 16), float('inf'))),
    change('training', 'optimizer', 'state', 0, 'exp_avg_sq', to=-torch.ones(40, 16)),
    change('training', 'optimizer', 'state', 0, 'step', to=torch.tensor(7.0)),
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


def test_a_small_file_cannot_fill_the_memory(sound, tmp_path):
    """torch would unpack what is compressed; `write` never compresses."""
    with zipfile.ZipFile(io.BytesIO(sound)) as archive, zipfile.ZipFile(tmp_path / 'a.pt', 'w', zipfile.ZIP_DEFLATED) as bomb:
        for entry in archive.infolist():
            bomb.writestr(entry.filename, archive.read(entry))
    torch.load(tmp_path / 'a.pt', weights_only=True)
    assert 'is damaged' in refused(tmp_path / 'a.pt')


def test_a_base_has_all_its_neurons(sound, tmp_path):
    (tmp_path / 'base.pt').write_bytes(sound)
    base = load_base(tmp_path / 'base.pt')
    base.model.masks[0, 1, 3] = False
    for model, tasks in ((base.model, base.tasks), (base.model.slim(0), base.tasks[:1])):
        save_checkpoint(tmp_path / 'base.pt', base._replace(model=model, tasks=tasks, training=None))
        load_checkpoint(tmp_path / 'base.pt')
        assert 'is no base' in refused(tmp_path / 'base.pt', load_base)


def test_a_run_goes_on_from_a_state_of_its_own_phase(sound, tmp_path):
    path = tmp_path / 'base.last.pt'
    path.write_bytes(sound)
    state = load_state(path, 'base', 'train.py')
    assert 'no interrupted run of the phase "dense"' in refused(path, lambda path: load_state(path, 'dense', 'specialize.py'))
    save_checkpoint(path, state._replace(training=None))
    assert 'no interrupted run' in refused(path, lambda path: load_state(path, 'base', 'train.py'))


def test_activations_are_checked_too(model, batch, tmp_path):
    model.masks.fill_(True)
    base = Checkpoint(model, None, ['a-b', 'b-a', 'c-a'], {})
    good = {'kind': 'activations', 'base': fingerprint(model), 'tasks': base.tasks, **record(model, [batch])}
    path = tmp_path / 'activations.pt'

    def load(path):
        return load_activations(path, base)
    write(path, good)
    assert torch.equal(load(path)['token'], good['token'])
    token, sentence = good['token'], good['sentence']
    for name, value in (('sentence', torch.zeros(1)), ('positions', None), ('base', 1), ('tasks', None),
                        ('token', token.double()), ('token', -token), ('sentence', -sentence), ('token', token + 99),
                        ('sentence', token + 1), ('sentences', good['sentences'] - 1), ('token', token[:, :, :8]),
                        ('token', token[:, :2]), ('sentence', sentence[:2])):
        write(path, good | {name: value})
        assert 'is damaged; profile.py makes it' in refused(path, load)
    for name, value in (('tasks', base.tasks[::-1]), ('base', 'abc')):
        write(path, good | {name: value})
        assert 'recorded in another base' in refused(path, load)
