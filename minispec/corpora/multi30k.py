"""Downloads Multi30k: captions of images, line-aligned in English, German, French and Czech.

(Elliott et al. 2016, 2017; Barrault et al. 2018; for research and education.) multi30k.sha256 lists the files with
their checksums, as sha256sum writes them.
"""
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from tqdm import tqdm

from minispec import UserError
from minispec.data import read_lines
from minispec.files import make_folder, write

URL = 'https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/'
CHECKSUMS = Path(__file__).with_name('multi30k.sha256')


def download_multi30k(folder):
    """Download the files that `folder` lacks or has damaged; returns `folder`. A file is checked before it is kept.

    The environment variable MINISPEC_MULTI30K_URL names another address to take them from, such as a classroom's.
    """
    folder = Path(folder)
    base = (os.environ.get('MINISPEC_MULTI30K_URL') or URL).rstrip('/') + '/'
    make_folder(folder)
    missing = {}
    for line in read_lines(CHECKSUMS):
        checksum, name = line.split()
        if not (folder / name).is_file() or sha256((folder / name).read_bytes()) != checksum:
            missing[name] = checksum
    for name, checksum in tqdm(missing.items(), desc=f'Multi30k from {base}', unit='file', disable=not missing):
        try:
            with urllib.request.urlopen(base + name, timeout=30) as response:  # seconds
                content = response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UserError(f'cannot download {base}{name} ({error}); run the command again when the network is back, '
                            f'set MINISPEC_MULTI30K_URL to a mirror, or put the file into {folder} yourself')
        if sha256(content) != checksum:
            raise UserError(f'{base}{name} is not the file that was published (its SHA-256 differs) and was not kept; '
                            'run the command again, or set MINISPEC_MULTI30K_URL to another mirror')
        write(folder / name, content)
    return folder


def sha256(content):
    """The checksum of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
