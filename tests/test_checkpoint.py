"""What is loaded from a file: nothing that runs code, nothing broken, nothing that fills the memory.

If a student's change of the code no longer fits an older file, the error names the difference. An error in the code
itself is raised as it is.
"""
import io
import os
import pickle
import zipfile
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import describe, learn_vocabulary

from minispec import UserError, checkpoint
from minispec import model as model_file
from minispec.checkpoint import (Checkpoint, checkpoint_name, fingerprint, load_activations, load_base, load_checkpoint,
                                 load_state, maker, save_activations, save_checkpoint)
from minispec.files import VERSION
from minispec.masks import MASKS
from minispec.model import Config, EncoderLayer, FeedForward, Transformer
from minispec.neurons import record


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
    return learn_vocabulary(tmp_path_factory.mktemp('text'), 40, de=['ein Hund rennt und eine Katze schläft'] * 9,
                            en=['a dog runs and a cat sleeps'] * 9)


@pytest.fixture
def small(vocabulary):
    """A Checkpoint of two tasks as a training leaves it."""
    torch.manual_seed(0)
    model = Transformer(Config(len(vocabulary), n_tasks=2, d_model=16, d_ff=8, layers=1, heads=2))
    info, tasks = {'phase': 'base', 'step': 1, 'settings': {'steps': 5}}, ['en-de', 'de-en']
    training = {'progress': {'step': 1}, 'optimizer': {}}
    return Checkpoint(model, vocabulary, tasks, describe(tasks), info, training=training)


@pytest.fixture
def path(small, tmp_path):
    """The file base.pt that holds it."""
    save_checkpoint(tmp_path / 'base.pt', small)
    return tmp_path / 'base.pt'


def refused(path, loader=load_checkpoint):
    """The one-line error that a file gives."""
    with pytest.raises(UserError) as error:
        loader(path)
    assert '\n' not in str(error.value) and path.name in str(error.value)
    return str(error.value)


def outgrown(path):
    """The one-line error of a file that the changed code no longer fits."""
    message = refused(path)
    assert 'damaged' not in message and 'differ, because one of them has changed' in message
    return message


def edited(path, edit):
    """Write the file anew with its content changed."""
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


# A student's own change -----------------------------------------------------------------------------------------------

def test_a_new_parameter_is_what_the_file_lacks(path, monkeypatch):
    original = FeedForward.__init__

    def changed(self, *args):
        original(self, *args)
        self.scale = torch.nn.Parameter(torch.ones(1))
    monkeypatch.setattr(FeedForward, '__init__', changed)
    assert 'the file lacks weights.encoder.0.ffn.scale, weights.decoder.0.ffn.scale' in outgrown(path)


def test_a_parameter_that_is_gone_is_what_the_code_does_not_know(path, monkeypatch):
    original = Transformer.__init__

    def changed(self, config):
        original(self, config)
        del self.encoder_norm
    monkeypatch.setattr(Transformer, '__init__', changed)
    assert 'the code does not know weights.encoder_norm.weight, weights.encoder_norm.bias' in outgrown(path)


def test_a_new_field_of_the_configuration_is_what_the_file_lacks(path, monkeypatch):
    @dataclass
    class Changed(Config):
        tied: bool = True
    monkeypatch.setattr(checkpoint, 'Config', Changed)
    assert 'the file lacks config.tied' in outgrown(path)


def test_a_field_that_is_gone_is_what_the_code_does_not_know(path):
    edited(path, lambda content: content['config'].update(tied=True))
    assert 'the code does not know config.tied' in outgrown(path)


def test_another_shape_is_named(path, monkeypatch):
    original = FeedForward.__init__
    monkeypatch.setattr(FeedForward, '__init__', lambda self, d_model, d_ff: original(self, d_model, d_ff + 1))
    assert 'encoder.0.ffn.w1.weight is of shape (8, 16) in the file and (9, 16) in the code' in outgrown(path)


def test_a_misspelt_name_in_the_model_is_pythons_own_error(path, monkeypatch):
    original = Transformer.__init__

    def misspelt(self, config):
        original(self, config)
        self.encoder_nrom.weight.data.fill_(1.0)
    monkeypatch.setattr(Transformer, '__init__', misspelt)
    with pytest.raises(AttributeError, match='encoder_nrom'):
        load_checkpoint(path)


def test_a_dropout_of_0_or_1_loads(small, path):
    for dropout in (0, 1):
        model = Transformer(replace(small.model.config, dropout=dropout))
        save_checkpoint(path, replace(small, model=model))
        assert load_checkpoint(path).model.config == model.config


def test_a_file_of_version_1_is_said_to_be_made_anew(path):
    edited(path, lambda content: content.update(version=1))
    for name, made_by in (('base.pt', 'train.py'), ('specialized.pt', 'specialize.py --masks own'),
                          ('dense.pt', 'specialize.py --masks dense')):
        path = path.rename(path.with_name(name))
        message = refused(path)
        assert 'has format 1' in message and f'{made_by} makes it anew' in message and 'damaged' not in message


# A stranger's file ----------------------------------------------------------------------------------------------------

class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_loading_runs_no_code(tmp_path):
    torch.save({'kind': 'checkpoint', 'version': VERSION, 'config': Bomb(tmp_path / 'boom')}, tmp_path / 'a.pt')
    (tmp_path / 'b.pt').write_bytes(pickle.dumps(Bomb(tmp_path / 'boom')))
    for name in ('a.pt', 'b.pt'):
        assert 'is damaged' in refused(tmp_path / name)
    assert not (tmp_path / 'boom').exists()
    torch.load(tmp_path / 'a.pt', weights_only=False)  # the bomb was a live one
    assert (tmp_path / 'boom').exists()


def test_a_file_cut_short_anywhere_is_refused(path):
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:size])
        assert 'is damaged' in refused(path)


def test_a_flipped_bit_in_any_tensor_is_seen(path):
    whole = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist() if '/data/' in entry.filename]
    assert len(entries) > 20
    for entry, content in entries:
        place = whole.index(content, entry.header_offset) + len(content) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        assert 'is damaged' in refused(path)


def test_a_compressed_file_is_not_unpacked_into_the_memory(path):
    """`write` never compresses; torch would unpack it."""
    whole = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as bomb:
        for entry in archive.infolist():
            bomb.writestr(entry.filename, archive.read(entry))
    torch.load(path, weights_only=True)
    assert 'is damaged' in refused(path)


def test_what_is_no_checkpoint_of_ours_is_refused(path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), path.with_name('a.pt'))
    torch.save([1, 2], path.with_name('b.pt'))
    path.with_name('c.pt').write_text('hello', encoding='utf-8')
    for name in ('a.pt', 'b.pt', 'c.pt'):
        assert 'is not a minispec checkpoint, or is damaged' in refused(path.with_name(name))
    edited(path, lambda content: content.update(kind='activations'))
    assert 'is not a minispec checkpoint' in refused(path)
    for key in ('config', 'weights', 'vocabulary', 'tasks', 'info', 'training'):
        save = torch.load(path, weights_only=True) | {'kind': 'checkpoint'}
        del save[key]
        torch.save(save, path.with_name('a.pt'))
        assert f'the file lacks {key}' in refused(path.with_name('a.pt'))


def test_a_size_that_would_fill_the_memory_is_refused(small, path, monkeypatch):
    """Before any tensor is made with memory of its own."""
    for name in ('ones', 'empty', 'arange'):
        monkeypatch.setattr(torch, name, only_small(getattr(torch, name)))
    room = iter(range(100))  # at most 100 layers may be built, for all files together

    def layer(config):
        next(room)
        return EncoderLayer(config)
    monkeypatch.setattr(model_file, 'EncoderLayer', layer)
    config = {name: getattr(small.model.config, name) for name in vars(small.model.config)}
    for key in ('vocab_size', 'n_tasks', 'd_model', 'd_ff', 'layers', 'max_len'):
        for size in (10 ** 7, 10 ** 12):
            edited(path, lambda content: content.update(config=config | {key: size}))
            refused(path)


def only_small(function):
    """The torch function, which may make large tensors only without memory (device meta)."""
    def checked(*args, **kwargs):
        result = function(*args, **kwargs)
        assert result.is_meta or result.numel() < 10 ** 6
        return result
    return checked


class Hungry:
    def __reduce__(self):
        return bytearray, (1_000_000,)


def test_a_number_in_a_file_cannot_take_memory(path):
    """torch's safe unpickler calls bytearray(n); such a file is refused before that."""
    torch.save({'kind': 'checkpoint', 'version': VERSION, 'config': Hungry()}, path)
    assert len(torch.load(path, weights_only=True)['config']) == 1_000_000
    assert 'is not a minispec checkpoint, or is damaged' in refused(path)


def test_weights_expanded_from_one_element_are_refused(path):
    """A file of 30 kilobytes whose weights would take 20 GB, or 1 MB."""
    for size in (320_000_000, 20_000):
        def edit(content):
            content['config']['vocab_size'] = size
            content['weights']['embedding.weight'] = torch.zeros(1).expand(size, 16)
        edited(path, edit)
        assert 20_000 < path.stat().st_size < 50_000
        assert 'is damaged' in refused(path)


# Whose file it is -----------------------------------------------------------------------------------------------------

def test_each_masks_have_a_file_and_a_missing_file_names_its_maker(tmp_path):
    assert [checkpoint_name(masks) for masks in MASKS] == ['specialized.pt', 'dense.pt', 'random.pt', 'permuted.pt',
                                                          'family.pt', 'reverse.pt', 'shared.pt']
    for name, made_by in (('base.pt', 'train.py'), ('specialized.pt', 'specialize.py --masks own'),
                          ('reverse.pt', 'specialize.py --masks reverse'),
                          ('random.k95.pt', 'specialize.py --masks random --k 95'),
                          ('specialized.k95-62.5.sentence.pt',
                           'specialize.py --masks own --k-encoder 95 --k-decoder 62.5 --count sentence'),
                          ('base.en-de.pt', 'translate.py --model base.pt --extract --src en --tgt de'),
                          ('lass.en-de.pt', 'a training'), ('mine.pt', 'a training')):
        assert maker(tmp_path / name) == made_by
        assert f'{name} is not there; {made_by} makes it' in refused(tmp_path / name)


def test_the_fingerprint_depends_on_the_weights_alone():
    """And not on how torch writes a file: the digits are those of every version."""
    model = torch.nn.Linear(2, 2)
    model.load_state_dict({'weight': torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 'bias': torch.tensor([5.0, 6.0])})
    assert fingerprint(model) == '28c3a0712a1a4bc2'
    model.bias.data[1] = 7
    assert fingerprint(model) != '28c3a0712a1a4bc2'


def test_a_sub_network_comes_back_with_its_uneven_widths(small, path):
    small.model.masks[1, 0, :3] = small.model.masks[1, 1, :5] = False
    part = replace(small, model=small.model.sub_network(1), tasks=['de-en'])
    save_checkpoint(path, part)
    again = load_checkpoint(path)
    assert [ffn.w1.out_features for ffn in again.model.ffns] == [5, 3] and again.tasks == ['de-en']
    assert again.model.state_dict().keys() == part.model.state_dict().keys()
    for name, weights in part.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weights)


def test_what_was_made_of_a_base_is_no_base(small, path):
    """Neither a continued training nor a sub-network of a base is taken for a base."""
    load_base(path)
    part = replace(small, model=small.model.sub_network(0), tasks=small.tasks[:1], training=None)
    for other in (replace(small, base='0123456789abcdef'), part):
        save_checkpoint(path, other)
        load_checkpoint(path)
        assert 'is no base' in refused(path, load_base)


def test_a_run_goes_on_from_a_state_of_its_own_phase(small, path):
    assert load_state(path, 'base').training == small.training
    assert 'no interrupted run of the phase "dense"' in refused(path, lambda path: load_state(path, 'dense'))
    save_checkpoint(path, replace(small, training=None))
    assert 'no interrupted run of the phase "base"' in refused(path, lambda path: load_state(path, 'base'))


def test_activations_belong_to_one_base(model, batch, tmp_path):
    model.masks.fill_(True)
    base, path = Checkpoint(model, None, ['a-b', 'b-a', 'c-a'], {}, {}), tmp_path / 'activations.pt'
    counts = record(model, [batch])
    save_activations(path, base, counts)
    loaded = load_activations(path, base)
    assert all(torch.equal(loaded[name], values) for name, values in counts.items())
    other = replace(base, tasks=['b-a', 'a-b', 'c-a'])
    assert 'recorded in another base' in refused(path, lambda path: load_activations(path, other))
    model.embedding.weight.data[3, 3] += 1
    assert 'recorded in another base' in refused(path, lambda path: load_activations(path, base))
    path.write_bytes(b'hello')
    assert 'is damaged; profile.py makes it' in refused(path, lambda path: load_activations(path, base))
