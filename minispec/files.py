"""Files, written whole and read safely.

A file is written under a temporary name and then renamed, so none is ever half-written. Reading an untrusted file never
executes code. Compressed content is refused, because a small file could fill the memory.
"""
import contextlib
import os
import uuid
import zipfile
from pathlib import Path

import torch

from minispec import UserError

VERSION = 5  # format version of all files that hold tensors; increase it if their content changes


def make_folder(path):
    """Make the folder `path` and those above it. Raises UserError if that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make the folder {path}: {error}')


def write(path, content):
    """Save text, bytes, or a dict of tensors and plain values as `path`, whole or not at all. The folder must exist."""
    path = Path(path)
    temporary = path.with_name(f'{path.name}.{uuid.uuid4().hex}.part')  # another run or thread may write this file, too
    try:
        with temporary.open('wb') as file:
            if isinstance(content, dict):
                torch.save({'version': VERSION, **content}, file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut could leave the new name without the content
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch turns one into a RuntimeError
        raise UserError(f'cannot write {path}: {getattr(cause, "strerror", None) or error}')
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # if it still has this name


@contextlib.contextmanager
def locked(path):
    """Hold the lock on the file `path`. Raises UserError if another process holds it.

    The operating system releases the lock when the process ends, even if it is killed. The file stays.
    """
    path = Path(path)
    make_folder(path.parent)
    with path.open('ab') as file:
        try:
            if os.name == 'nt':
                import msvcrt
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f'another training writes {path.with_suffix(".pt")}; wait for it, or name another --run')
        yield


def read(path, kind, made_by):
    """The dict that `write` saved as `path`, if its 'kind' is this one. `made_by` says which script makes such a file.

    Raises UserError if the file is not there, cut, damaged, of another kind, or of another format version.
    """
    path = Path(path)
    try:
        file = path.open('rb')
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f'{path} is not there; {made_by} makes it')
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    with file:
        try:
            content = load_safely(file)
        except Exception:  # a damaged or hostile file can raise anything
            content = None
    if not isinstance(content, dict) or content.get('kind') != kind:
        raise UserError(f'{path} is not a minispec {kind}, or is damaged; {made_by} makes it')
    if content.get('version') != VERSION:
        raise UserError(f'{path} has format {content.get("version")!r}, and this minispec reads format {VERSION}; '
                        f'{made_by} makes it anew')
    return content


def load_safely(file):
    """torch.load that executes no code, refuses compressed content and verifies the checksums."""
    with zipfile.ZipFile(file) as archive:
        # torch would unpack a small compressed file into all of the memory, and it does not verify the checksums.
        if any(entry.compress_type for entry in archive.infolist()) or archive.testzip():
            raise ValueError
        # Only one thing that weights_only allows takes more memory than the file: `bytearray(n)`. Our files have none.
        if any(b'bytearray' in archive.read(name) for name in archive.namelist() if name.endswith('.pkl')):
            raise ValueError
    file.seek(0)
    return torch.load(file, map_location='cpu', weights_only=True)  # never unpickles code


def check_keys(path, found, expected, what=''):
    """Raise UserError, naming the keys, if those of a file (`found`) differ from those of the code (`expected`)."""
    missing = [what + key for key in expected if key not in found]
    unknown = [what + key for key in found if key not in expected]
    differences = []
    if missing:
        differences.append('the file lacks ' + ', '.join(missing))
    if unknown:
        differences.append('the code does not know ' + ', '.join(unknown))
    if differences:
        raise UserError(f'{path} and the code differ, because one of them has changed: {"; ".join(differences)}')
