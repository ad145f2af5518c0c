"""What the scripts hand to each other, one file at a time.

A checkpoint holds all that its reader needs: configuration, weights and masks, vocabulary, tasks, and its origin.
`activations.pt` holds what `neurons.record` counted and the fingerprint of the base that it was counted in.
"""
import hashlib
import io
from dataclasses import asdict, dataclass, fields

import torch

from minispec import UserError
from minispec.data import Vocabulary
from minispec.files import check_keys, read, write
from minispec.masks import MASKS
from minispec.model import Config, Transformer


@dataclass
class Checkpoint:
    model: Transformer
    vocabulary: Vocabulary
    tasks: list  # in the order of the model's masks
    info: dict  # where it came from: phase, step, validation loss, the settings it was trained with
    training: dict | None = None  # in a .last.pt: what a resumed run needs beside the weights


def checkpoint_name(masks):
    """The file that specialize.py writes with these --masks."""
    return 'specialized.pt' if masks == 'own' else f'{masks}.pt'


def maker(path):
    """The command that makes a checkpoint of this name: base.pt, specialized.pt, dense.pt, specialized.en-de.pt."""
    whole, _, rest = path.name.partition('.')
    if '-' in rest:
        return f'translate.py --model {whole}.pt --extract'
    for masks in MASKS:
        if f'{whole}.pt' == checkpoint_name(masks):
            return f'specialize.py --masks {masks}'
    return 'train.py'


def save_checkpoint(path, checkpoint):
    """Write a Checkpoint, whole or not at all."""
    model = checkpoint.model
    write(path, {'kind': 'checkpoint', 'config': asdict(model.config), 'weights': model.state_dict(),
                 'widths': [ffn.w1.out_features for ffn in model.ffns],  # (L,): below d_ff in a sub-network
                 'vocabulary': checkpoint.vocabulary.proto, 'tasks': checkpoint.tasks, 'info': checkpoint.info,
                 'training': checkpoint.training})


def load_checkpoint(path, made_by=None):
    """Read a Checkpoint; its model is on the CPU.

    Raises UserError if the file is not there, damaged, or no longer fits the code. Errors in the code are not caught.
    """
    content = read(path, 'checkpoint', made_by or maker(path))
    check_keys(path, content, ['kind', 'version', 'config', 'weights', 'widths', 'vocabulary', 'tasks', 'info',
                               'training'])
    check_keys(path, content['config'], [field.name for field in fields(Config)], 'config.')
    config, weights = Config(**content['config']), content['weights']
    file_size = path.stat().st_size  # in bytes, of which each weight takes at least one
    largest = max(config.vocab_size, config.n_tasks, config.d_ff, config.max_len * config.d_model)
    if config.layers > len(weights) or largest > file_size:
        raise UserError(f'{path} is damaged: its weights would be larger than the file')
    with torch.device('meta'):  # shapes without memory
        expected = build(config, content['widths']).state_dict()
    check_keys(path, weights, expected, 'weights.')
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise UserError(f'{path} and the code differ, because one of them has changed: {name} is of shape '
                            f'{tuple(weights[name].shape)} in the file and {tuple(tensor.shape)} in the code')
    if sum(tensor.nbytes for tensor in expected.values()) > file_size:
        raise UserError(f'{path} is damaged: its weights would be larger than the file')
    model = build(config, content['widths'])
    model.load_state_dict(weights)
    return Checkpoint(model, Vocabulary(content['vocabulary']), content['tasks'], content['info'], content['training'])


def build(config, widths):
    """A Transformer whose L FFN layers have these widths: d_ff, but in a sub-network."""
    model = Transformer(config)
    if any(width != config.d_ff for width in widths):
        model.narrow([torch.arange(width) for width in widths])
    return model


def load_base(path):
    """Read a Checkpoint in which all neurons are on: what is recorded and specialized."""
    checkpoint = load_checkpoint(path)
    if not checkpoint.model.masks.all():
        raise UserError(f'{path} is no base, because some of its neurons are off; train.py makes one')
    return checkpoint


def load_state(path, phase):
    """Read the Checkpoint from which an interrupted training of this phase goes on."""
    made_by = f'{maker(path)}, at its first validation or at Ctrl-C,'
    checkpoint = load_checkpoint(path, made_by)
    if checkpoint.info['phase'] != phase or checkpoint.training is None:
        raise UserError(f'{path} is no interrupted run of the phase "{phase}"; {made_by} makes it')
    return checkpoint


def save_activations(path, base, counts):
    """Write what `neurons.record` counted in the Checkpoint `base`."""
    write(path, {'kind': 'activations', 'base': fingerprint(base.model), 'tasks': base.tasks, **counts})


def load_activations(path, base):
    """Read what `save_activations` wrote for this `base`: the counts of `neurons.record`."""
    content = read(path, 'activations', 'profile.py')
    check_keys(path, content, ['kind', 'version', 'base', 'tasks', 'token', 'sentence', 'positions', 'sentences'])
    if content['base'] != fingerprint(base.model) or content['tasks'] != base.tasks:
        raise UserError(f'{path} was recorded in another base than {path.with_name("base.pt")}; run profile.py again')
    return content


def fingerprint(model):
    """A short text that only the same weights and masks have."""
    saved = io.BytesIO()
    torch.save([(name, tensor.cpu()) for name, tensor in model.state_dict().items()], saved)
    return hashlib.sha256(saved.getbuffer()).hexdigest()[:16]
