"""The files that one script writes and another reads.

A checkpoint holds all that its reader needs: configuration, weights and masks, vocabulary, tasks, and its origin.
`activations.pt` holds the counts of `neurons.record` and the fingerprint of the base that was recorded.
"""
import hashlib
import re
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from minispec import UserError
from minispec.adapters import ADAPTERS
from minispec.data import Vocabulary
from minispec.files import check_keys, read, write
from minispec.masks import MASKS
from minispec.model import Config, Transformer
from minispec.tasks import split_task

DEFAULT_K = 70.0  # per cent of a layer's activity


@dataclass
class Checkpoint:
    """What a file such as base.pt holds: a model, and all that training, selecting and translating need beside it."""
    model: Transformer
    vocabulary: Vocabulary
    tasks: list  # in the order of the model's masks
    data: dict  # the text that it was trained on; see `describe_data`
    info: dict  # phase, step, validation losses and settings; if it was made from a base, 'base' is that one's info
    dtype: str = 'float32'  # the precision of its training; models made from it inherit it
    base: str | None = None  # fingerprint of its base; None in a base's file, where `origin` gives it
    training: dict | None = None  # only in a base and in a .last.pt, to continue training: progress, optimizer state


def describe_data(source, tasks, train_data, valid_data, words):
    """A checkpoint's record of its text: its source, its fingerprints, and the statistics that translating needs.

    `pairs` and `length_ratios` are by task, `words` by language, where they are few (see `Corpus.words`).
    """
    return {'source': source, 'train': train_data.text_fingerprint, 'valid': valid_data.text_fingerprint,
            'pairs': dict(zip(tasks, train_data.sizes().tolist())),
            'length_ratios': dict(zip(tasks, train_data.length_ratios().tolist())), 'words': words}


def selection_name(k_encoder, k_decoder, count):
    """The part of a file's name that tells its selection: '' for the default, else '.k95' or '.k95-100.sentence'."""
    k = f'.k{k_encoder:g}' + (f'-{k_decoder:g}' if k_decoder != k_encoder else '')
    return ('' if k == f'.k{DEFAULT_K:g}' else k) + ('' if count == 'token' else f'.{count}')


def checkpoint_name(masks, k_encoder=DEFAULT_K, k_decoder=DEFAULT_K, count='token'):
    """The file that specialize.py writes with these --masks and this selection."""
    if masks in ('dense', *ADAPTERS):
        return f'{masks}.pt'
    return ('specialized' if masks == 'own' else masks) + selection_name(k_encoder, k_decoder, count) + '.pt'


def maker(path):
    """The command that makes a checkpoint of this name: base.pt, dense.pt, specialized.k95.pt, specialized.en-de.pt."""
    number = r'([\d.]*\d)'
    path = Path(path)
    match = re.fullmatch(rf'([\w-]+)(?:\.k{number}(?:-{number})?)?(\.sentence)?(\.\w+-\w+)?(\.last)?\.pt', path.name)
    name, k_encoder, k_decoder, sentence, task, _ = match.groups() if match else [None] * 6
    command = 'train.py' if name == 'base' else None
    for masks in (*MASKS, *ADAPTERS):
        if f'{name}.pt' == checkpoint_name(masks):
            flags = f' --k-encoder {k_encoder} --k-decoder {k_decoder}' if k_decoder else f' --k {k_encoder}'
            flags = (flags if k_encoder else '') + (' --count sentence' if sentence else '')
            command = f'specialize.py --masks {masks}{flags}'
    if command and task:
        src, tgt = split_task(task[1:])
        return f'translate.py --model {path.name.replace(task, "")} --extract --src {src} --tgt {tgt}'
    return command or 'a training'


def save_checkpoint(path, checkpoint):
    """Write a Checkpoint, whole or not at all."""
    model = checkpoint.model
    write(path, {'kind': 'checkpoint', 'config': asdict(model.config), 'weights': model.state_dict(),
                 'widths': [ffn.w1.out_features for ffn in model.ffns],  # (L,): below d_ff in a sub-network
                 'vocabulary': checkpoint.vocabulary.proto, 'tasks': checkpoint.tasks, 'data': checkpoint.data,
                 'info': checkpoint.info, 'dtype': checkpoint.dtype, 'base': checkpoint.base,
                 'training': checkpoint.training})


def load_checkpoint(path, made_by=None):
    """Read a Checkpoint; its model is on the CPU.

    Raises UserError if the file is not there, damaged, or no longer fits the code. Errors in the code are not caught.
    """
    path = Path(path)
    content = read(path, 'checkpoint', made_by or maker(path))
    check_keys(path, content, ['kind', 'version', 'config', 'weights', 'widths', 'vocabulary', 'tasks', 'data', 'info',
                               'dtype', 'base', 'training'])
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
    return Checkpoint(model, Vocabulary(content['vocabulary']), content['tasks'], content['data'], content['info'],
                      content['dtype'], content['base'], content['training'])


def build(config, widths):
    """A Transformer whose L FFN layers have these widths: d_ff, or fewer in a sub-network."""
    model = Transformer(config)
    if any(width != config.d_ff for width in widths):
        model.narrow([torch.arange(width) for width in widths])
    return model


def load_base(path):
    """Read the Checkpoint of a base, which profile.py records and specialize.py trains further."""
    checkpoint = load_checkpoint(path)
    if checkpoint.base or checkpoint.training is None:
        raise UserError(f'{path} is no base that a training could continue; train.py makes one')
    return checkpoint


def load_state(path, phase):
    """Read the Checkpoint of an interrupted training of this phase, to resume it."""
    path = Path(path)
    made_by = f'{maker(path)}, at its first validation or at Ctrl-C,'
    checkpoint = load_checkpoint(path, made_by)
    if checkpoint.info['phase'] != phase or checkpoint.training is None:
        raise UserError(f'{path} is no interrupted run of the phase "{phase}"; {made_by} makes it')
    return checkpoint


def check_text(checkpoint, data, *texts):
    """Raise UserError unless each Bitext of `texts` has the same text as that split had when the model was trained."""
    for text in texts:
        if text.text_fingerprint != checkpoint.data[text.split]:
            where = f'{data} has changed' if data == checkpoint.data['source'] else f'--data {data} is another text'
            raise UserError(f'{where}: its {text.split} text is not the text that the model was trained with; '
                            'train a new base with train.py')


def origin(checkpoint):
    """The fingerprint of the base that it was made from; of a base, its own."""
    return checkpoint.base or fingerprint(checkpoint.model)


def warn_of_other_base(path, checkpoint):
    """Say it on stderr if the checkpoint at `path` was not made from the base.pt that lies beside it today."""
    path = Path(path)
    base = path.with_name('base.pt')
    if checkpoint.base and path != base and base.exists():
        if fingerprint(load_checkpoint(base).model) != checkpoint.base:
            print(f'warning: {path} was made from another base than {base}', file=sys.stderr)


def save_activations(path, base, counts):
    """Write what `neurons.record` counted in the Checkpoint `base`."""
    write(path, {'kind': 'activations', 'base': fingerprint(base.model), 'tasks': base.tasks, **counts})


def load_activations(path, base):
    """Read what `save_activations` wrote for this `base`: the counts of `neurons.record`."""
    path = Path(path)
    content = read(path, 'activations', 'profile.py')
    check_keys(path, content, ['kind', 'version', 'base', 'tasks', 'token', 'sentence', 'positions', 'sentences'])
    if content['base'] != fingerprint(base.model) or content['tasks'] != base.tasks:
        raise UserError(f'{path} was recorded in another base than {path.with_name("base.pt")}; run profile.py again')
    return content


def fingerprint(model):
    """A hash of weights and masks, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f'{name} {tuple(tensor.shape)} {tensor.dtype} '.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()[:16]
