"""What the four scripts hand to each other, one file at a time.

A checkpoint holds all that its reader needs: configuration, weights and masks, vocabulary, tasks, and its origin.
`activations.pt` holds what `neurons.record` counted and the fingerprint of the base that it was counted in.
Files are written under a temporary name and then renamed, so none is ever half-written. They are read without running
code, and what comes in is checked here, once: after this door everything is there and fits together.
"""
import contextlib
import hashlib
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
    temporary = path.with_name(path.name + '.part')
    try:
        if isinstance(content, dict):
            torch.save({'version': VERSION, **content}, temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f'cannot write {path}: {str(error).splitlines()[0]}')


def read(path, kind, made_by, build):
    """What build(content) makes of a file that `write` saved, if it is a sound file of this `kind`.

    `made_by` is the script that makes such a file. Raises UserError whatever is wrong with it.
    """
    if not path.is_file():
        raise UserError(f'{path} is not there; {made_by} makes it')
    try:
        with zipfile.ZipFile(path) as archive:
            flipped = archive.testzip()  # torch does not look at the checksums
        content = torch.load(path, map_location='cpu', weights_only=True)  # never unpickles code
        if flipped or content['kind'] != kind:
            raise ValueError
        if content['version'] != VERSION:
            raise UserError(f'{path} has format {content["version"]}, not {VERSION}; make it anew with {made_by}')
        return build(content)
    except UserError:
        raise
    except Exception:  # a broken or hostile file can fail its reader in any way there is
        raise UserError(f'{path} is not a minispec {kind}, or is damaged; {made_by} makes it')


def save_checkpoint(path, checkpoint):
    """Write a Checkpoint."""
    write(path, {'kind': 'checkpoint', 'config': asdict(checkpoint.model.config),
                 'weights': checkpoint.model.state_dict(),  # the masks among them
                 'vocabulary': torch.frombuffer(bytearray(checkpoint.vocabulary.proto), dtype=torch.uint8),
                 'tasks': checkpoint.tasks, 'info': checkpoint.info, 'training': checkpoint.training})


def load_checkpoint(path, made_by='train.py'):
    """Read a Checkpoint; its model is on the CPU."""
    return read(path, 'checkpoint', made_by, build_checkpoint)


def build_checkpoint(content):
    """A Checkpoint from what `save_checkpoint` wrote. Raises an error of some kind if its parts do not fit together."""
    config, weights, tasks = Config(**content['config']), content['weights'], content['tasks']
    vocabulary = Vocabulary(bytes(content['vocabulary'].numpy()))
    # The sizes are believed if the tensors have them: a number alone must not be able to fill the memory.
    widest = max(config.d_ff) if isinstance(config.d_ff, list) else config.d_ff
    sizes = len(vocabulary), config.d_model, len(tasks), 2 * config.layers, widest
    if sizes != (*weights['embedding.weight'].shape, *weights['masks'].shape) or not 2 < config.max_len <= 2 ** 16:
        raise ValueError
    if config.heads < 1 or config.d_model % (2 * config.heads):
        raise ValueError
    if not all(vocabulary.has_tag(language) for task in tasks for language in task.split('-')):
        raise ValueError
    if any(weight.untyped_storage().nbytes() < weight.nbytes for weight in weights.values()):
        raise ValueError  # a large tensor that repeats a small one
    model = Transformer(config)
    model.load_state_dict(weights)
    return Checkpoint(model, vocabulary, tasks, content['info'], content['training'])


def load_activations(path):
    """Read what profile.py recorded: `neurons.record`'s counts, with `tasks` and the fingerprint of `base`."""
    return read(path, 'activations', 'profile.py', build_activations)


def build_activations(content):
    N, L, F = content['token'].shape
    shapes = [content[name].shape for name in ('sentence', 'positions', 'sentences')]
    if shapes != [(N, L, F), (N, L), (N, L)] or len(content['tasks']) != N or not isinstance(content['base'], str):
        raise ValueError
    return content


def fingerprint(model):
    """A short text that is the same for the same weights and masks only."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
