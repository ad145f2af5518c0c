"""What the four scripts hand to each other, one file at a time.

A checkpoint holds all that its reader needs: configuration, weights and masks, vocabulary, tasks, and its origin.
`activations.pt` holds what `neurons.record` counted and the fingerprint of the base that it was counted in.
Files are written under a temporary name and then renamed, so none is ever half-written. They are read without running
code, and what comes in is checked here, once: after this door everything is there and fits together.
"""
import contextlib
import hashlib
import os
import zipfile
from dataclasses import asdict
from typing import NamedTuple

import torch

from minispec import UserError
from minispec.model import Config, Transformer
from minispec.vocabulary import Vocabulary

VERSION = 1  # of the files below; whoever changes what they hold counts it up


class Checkpoint(NamedTuple):
    model: Transformer
    vocabulary: Vocabulary
    tasks: list  # of directions, in the order of the model's masks
    info: dict  # where it came from: phase, step, validation loss, the settings it was trained with
    training: dict | None = None  # in a .last.pt: what a resumed run needs beside the weights


def make_folder(path):
    """Make the folder `path` and those above it; UserError if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make the folder {path}: {error}')


def write(path, content):
    """Save text, bytes, or a dict of tensors and plain values as `path`, in a folder that exists: all, or nothing."""
    temporary = path.with_name(f'{path.name}.{os.getpid()}.part')  # another script may write the same file now
    try:
        with temporary.open('wb') as file:
            if isinstance(content, dict):
                torch.save({'version': VERSION, **content}, file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # or the new name could outlive a power cut, and the content not
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch raises its own when it meets one
        raise UserError(f'cannot write {path}: {getattr(cause, "strerror", None) or error}')
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # if it still has this name


def read(path, kind, made_by, build):
    """What build(content) makes of a file that `write` saved, if it is a sound file of this `kind`.

    `made_by` is the script that makes such a file. Raises UserError whatever is wrong with it.
    """
    try:
        file = path.open('rb')
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f'{path} is not there; {made_by} makes it')
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                # torch would unpack a small file into all of the memory, and does not look at the checksums.
                if any(entry.compress_type for entry in archive.infolist()) or archive.testzip():
                    raise ValueError
            file.seek(0)
            content = torch.load(file, map_location='cpu', weights_only=True)  # never unpickles code
            if content['kind'] != kind:
                raise ValueError
            if content['version'] != VERSION:
                raise UserError(f'{path} has format {content["version"]!r}, not {VERSION}; make it anew with {made_by}')
            return build(content)
        except UserError:
            raise
        except Exception:  # a broken or hostile file can fail its reader in any way there is
            raise UserError(f'{path} is not a minispec {kind}, or is damaged; {made_by} makes it')


def check(found, example):
    """ValueError unless `found` is like `example`, all the way down: its type, its keys, its tensors' types and shapes.

    And their numbers are finite, and really there. Tensors of `example` may be on `meta`, where they take no memory.
    """
    if not isinstance(found, type(example)):
        raise ValueError
    if isinstance(example, dict):
        for key in example:
            check(found[key], example[key])
    if isinstance(example, torch.Tensor):
        if (found.dtype, found.shape) != (example.dtype, example.shape):
            raise ValueError
        if found.untyped_storage().nbytes() < found.nbytes:  # it repeats a smaller one, until someone copies it
            raise ValueError
        if not found.isfinite().all():
            raise ValueError


def save_checkpoint(path, checkpoint):
    """Write a Checkpoint."""
    write(path, {'kind': 'checkpoint', 'config': asdict(checkpoint.model.config),
                 'weights': checkpoint.model.state_dict(),  # the masks among them
                 'vocabulary': torch.frombuffer(bytearray(checkpoint.vocabulary.proto), dtype=torch.uint8),
                 'tasks': checkpoint.tasks, 'info': checkpoint.info, 'training': checkpoint.training})


def load_checkpoint(path, made_by='train.py'):
    """Read a Checkpoint; its model is on the CPU."""
    return read(path, 'checkpoint', made_by, build_checkpoint)


def load_base(path):
    """Read a Checkpoint in which all neurons are on: what is recorded and specialized."""
    checkpoint = load_checkpoint(path)
    if not checkpoint.model.masks.all():
        raise UserError(f'{path} is no base, because some of its neurons are off; train.py makes one')
    return checkpoint


def load_state(path, phase, made_by):
    """Read the Checkpoint from which an interrupted run of this phase goes on."""
    checkpoint = load_checkpoint(path, made_by)
    if checkpoint.info['phase'] != phase or not checkpoint.training:
        raise UserError(f'{path} is no interrupted run of the phase "{phase}"; {made_by} makes it')
    return checkpoint


def build_checkpoint(content):
    """A Checkpoint from what `save_checkpoint` wrote. Raises an error of some kind if its parts do not fit together."""
    proto, given, tasks = content['vocabulary'], content['config'], content['tasks']
    check(content, {'vocabulary': torch.empty(proto.shape, dtype=torch.uint8, device='meta'), 'tasks': [],
                    'config': {**asdict(Config(0, 0)), 'd_ff': given['d_ff']}, 'weights': {}, 'info': {'phase': ''}})
    vocabulary, config, weights = Vocabulary(bytes(proto.numpy())), Config(**given), content['weights']
    for src, tgt in (task.split('-') for task in tasks):
        if not vocabulary.has_tag(src) or not vocabulary.has_tag(tgt):
            raise ValueError
    # Numbers alone must not be able to fill the memory, or to take hours.
    sound = (config.vocab_size == len(vocabulary), config.n_tasks == len(tasks) == len(set(tasks)),
             1 <= config.layers <= len(weights), 2 < config.max_len <= 2 ** 16, config.dropout < 1,
             not isinstance(config.d_ff, list) or len(config.d_ff) == 2 * config.layers,
             config.heads >= 1 and config.d_model % (2 * config.heads) == 0)
    if not all(sound):
        raise ValueError
    with torch.device('meta'):
        check(weights, Transformer(config).state_dict())
    model = Transformer(config)
    model.load_state_dict(weights)
    if content['training'] is not None:
        check_training(content, model)
    return Checkpoint(model, vocabulary, tasks, content['info'], content['training'])


def check_training(content, model):
    """ValueError unless `content` has what `cli.resume` and `training.train` need to go on with this model."""
    moments = {i: {'step': torch.zeros(()), 'exp_avg': p.detach(), 'exp_avg_sq': p.detach()}
               for i, p in enumerate(model.parameters())}
    numbers = {'text': '', 'step': 0, 'best': 0.0, 'best_step': 0, 'seconds': 0.0}
    check(content, {'info': {'settings': {'steps': 0}}, 'training': {**numbers, 'optimizer': {'state': moments}}})
    training = content['training']
    if not (0 <= training['best_step'] <= training['step'] <= content['info']['settings']['steps']
            and training['best'] >= 0 and training['seconds'] >= 0):
        raise ValueError
    for moment in training['optimizer']['state'].values():
        if moment['step'] != training['step'] or (moment['exp_avg_sq'] < 0).any():
            raise ValueError


def load_activations(path, base):
    """Read what profile.py recorded in the Checkpoint `base`: `neurons.record`'s counts."""
    return read(path, 'activations', 'profile.py', lambda content: build_activations(content, path, base))


def build_activations(content, path, base):
    check(content, {'base': '', 'tasks': []})
    if content['base'] != fingerprint(base.model) or content['tasks'] != base.tasks:
        raise UserError(f'{path} was recorded in another base than {path.with_name("base.pt")}; run profile.py again')
    N, L, F = base.model.masks.shape
    each, total = (torch.zeros(*shape, dtype=torch.long, device='meta') for shape in ((N, L, F), (N, L)))
    check(content, {'token': each, 'sentence': each, 'positions': total, 'sentences': total})
    token, sentence = content['token'], content['sentence']
    most_tokens, most_sentences = content['positions'][..., None], content['sentences'][..., None]  # (N, L, 1) each
    if not ((0 <= sentence) & (sentence <= token) & (token <= most_tokens) & (sentence <= most_sentences)).all():
        raise ValueError
    return content


def fingerprint(model):
    """A short text that is the same for the same weights and masks only."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
