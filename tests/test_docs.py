"""The scripts accept the commands in README and docs, and the files, symbols and flags that these name exist."""
import argparse
import ast
import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from test_scripts import SHORT, SMALL, call_here, succeed

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')), ROOT / 'minispec/corpora/lexicon/README.md']
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding='utf-8') for page in PAGES}
PLACEHOLDERS = {'SEED': '1', 'K': '95', 'MASKS': 'own', 'A': '1000', 'B': '3000', 'R': '2e-3'}


class Parsed(BaseException):
    """The command line was understood; the script need not go on."""


def commands(text):
    """The commands of a page that start a script of ours, each as a list of words."""
    blocks = re.findall(r'^```sh\n(.*?)^```', text, re.M | re.S)
    prose = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    inline = re.findall(r'`(python3? [^`]*?\.py[^`]*)`', prose)
    inline += [f'python {code}' for code in re.findall(r'`((?:train|profile|specialize|translate)\.py [^`]*)`', prose)]
    found = []
    for line in [line for block in blocks for line in block.splitlines()] + [' '.join(code.split()) for code in inline]:
        for command in re.split(r'&&|\||;', line.split('  #')[0]):
            words = shlex.split(command)
            if words[:1] in (['python'], ['python3']) and words[1].endswith('.py'):
                found.append(words[1:])
            elif words[:1] == ['torchrun']:
                found.append(words[words.index('--') + 1:])
    return found


@pytest.mark.parametrize('page', TEXTS)
def test_the_commands_of_a_page_are_understood(page):
    parse_args = argparse.ArgumentParser.parse_args

    def stop(*args, **kwargs):
        parse_args(*args, **kwargs)
        raise Parsed

    for script, *flags in commands(TEXTS[page]):
        if script == 'SCRIPT.py':
            continue
        argv = [script, *(PLACEHOLDERS.get(flag, flag) for flag in flags)]
        with patch.object(sys, 'argv', argv), patch.object(argparse.ArgumentParser, 'parse_args', stop), \
                patch.object(sys, 'path', [str((ROOT / script).parent), *sys.path]), \
                contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
            try:
                runpy.run_path(str(ROOT / script), run_name='__main__')
            except (Parsed, SystemExit) as end:
                assert isinstance(end, Parsed) or end.code in (0, None), f'{shlex.join(argv)}: {err.getvalue()}'


@pytest.mark.parametrize('page', TEXTS)
def test_flags_that_a_page_names_alone_exist(page):
    code = ''.join(path.read_text(encoding='utf-8') for path in ROOT.rglob('*.py') if 'test' not in path.parts[-1])
    for flag in re.findall(r'`(--[a-z][a-z-]*)', TEXTS[page]):
        assert f"'{flag}'" in code or flag in ('--nproc-per-node',), flag


def test_commands_are_found_in_pages():
    assert len(commands(TEXTS['README.md'])) > 15 and len(commands(TEXTS['docs/results.md'])) > 5


@pytest.mark.parametrize('page', TEXTS)
def test_what_a_page_names_is_there(page):
    text = TEXTS[page]
    for target in re.findall(r'\]\(([^)#:\s]+)(?:#[^)]*)?\)', text):
        assert ((ROOT / page).parent / target).exists(), target
    for anchor_page, anchor in re.findall(r'\]\(([^)#:\s]*)#([^)]+)\)', text):
        target = ((ROOT / page).parent / anchor_page if anchor_page else ROOT / page).read_text(encoding='utf-8')
        headings = [re.sub(r'[^\w\s-]', '', line.lstrip('# ').lower()).replace(' ', '-')
                    for line in target.splitlines() if line.startswith('#')]
        assert anchor in headings, anchor
    for name, symbol in re.findall(r'`(?:[\w/]+/)?(\w+\.py):(\w+)`', text):
        (file,) = [path for path in ROOT.rglob(name) if not {'.venv', 'build'} & {*path.relative_to(ROOT).parts}]
        defined = {node.name for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))) if hasattr(node, 'name')}
        assert symbol in defined, f'{name}:{symbol}'
    for name in re.findall(r'`((?:minispec|experiments|tests|docs)/[\w/.-]+)`', text):
        assert (ROOT / name).exists(), name


def test_the_readme_runs_on_a_small_model(corpus_folder, tmp_path, monkeypatch):
    """The five lines of Python, and the translation of a sentence, as they are written there."""
    run = tmp_path / 'runs' / 'default'
    flags = ['--data', corpus_folder, '--run', run, '--device', 'cpu']
    succeed('train.py', *flags, *SMALL, *SHORT)
    succeed('profile.py', *flags)
    succeed('specialize.py', *flags, *SHORT)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r'^```python\n(.*?)^```', TEXTS['README.md'], re.M | re.S)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(block, {})
    assert "['en-de', 'en-fr', 'de-en', 'fr-en'] torch.Size([4, 2, 32])" in out.getvalue()
    (sentence, script, words), = re.findall(r'^echo "(.*)" \| python (\w+\.py) (.*)$', TEXTS['README.md'], re.M)
    code, printed, err = call_here(script, *words.split(), stdin=sentence.encode())
    assert code == 0 and printed.count('\n') == 1, err
