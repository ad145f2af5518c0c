"""What the four scripts hand to each other, one file at a time.

A checkpoint holds all that its reader needs: configuration, weights and masks, vocabulary, tasks, and its origin.
`activations.pt` holds what `neurons.record` counted and the fingerprint of the base that it was counted in.
Files are written under a temporary name and then renamed, so none is ever half-written, and read without running code.
"""
import contextlib
import hashlib
from dataclasses import asdict
from typing import NamedTuple

import torch

from minispec import UserError
from minispec.data import Vocabulary
from minispec.model import Config, Transformer


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
    temporary = path.with_name(path.name + '.part')
    try:
        if isinstance(content, dict):
            torch.save(content, temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f'cannot write {path}: {str(error).splitlines()[0]}')


def read(path, kind, made_by):
    """Load what `write` saved, if it is the `kind` of file expected; `made_by` is the script that makes it."""
    if not path.is_file():
        raise UserError(f'{path} is not there; {made_by} makes it')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)  # never unpickles code
    except Exception:  # the unpickler stops at a broken file in any way there is
        content = None
    if not isinstance(content, dict) or content.get('kind') != kind:
        raise UserError(f'{path} is not a minispec {kind}, or is damaged; {made_by} makes it')
    return content


def save_checkpoint(path, checkpoint):
    """Write a Checkpoint."""
    write(path, {'kind': 'checkpoint', 'config': asdict(checkpoint.model.config),
                 'weights': checkpoint.model.state_dict(),  # the masks among them
                 'vocabulary': torch.frombuffer(bytearray(checkpoint.vocabulary.proto), dtype=torch.uint8),
                 'tasks': checkpoint.tasks, 'info': checkpoint.info, 'training': checkpoint.training})


def load_checkpoint(path, made_by='train.py'):
    """Read a Checkpoint; its model is on the CPU."""
    content = read(path, 'checkpoint', made_by)
    model = Transformer(Config(**content['config']))
    model.load_state_dict(content['weights'])
    vocabulary = Vocabulary(bytes(content['vocabulary'].numpy()))
    return Checkpoint(model, vocabulary, content['tasks'], content['info'], content['training'])


def fingerprint(model):
    """A short text that is the same for the same weights and masks only."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
