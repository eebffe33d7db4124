"""What README.md and the docstrings show is what happens, and the tests that are named exist."""

import re
import sys
from pathlib import Path

import pytest

from support import ROOT, run


@pytest.mark.parametrize('document', ['README.md', 'caps/__init__.py'])
def test_the_examples_run_as_written(document):
    result = run(sys.executable, '-m', 'doctest', ROOT / document)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('document', ['SECURITY.md', 'CONTRIBUTING.md'])
def test_every_test_that_is_named_exists(document):
    named = re.findall(r'`(test_\w+)(…?)`', (ROOT / document).read_text())
    sources = ''.join(path.read_text() for path in (ROOT / 'tests').rglob('test_*.py'))
    assert named
    assert [name for name, cut in named if f'def {name}{"" if cut else "("}' not in sources] == []


def test_make_help_names_every_target():
    listed = run('make', '--no-print-directory', 'help', cwd=ROOT).stdout
    named = {line.split()[0] for line in listed.splitlines()}
    targets = re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.M)
    assert named == set(targets)


def test_make_install_leaves_nothing_in_the_checkout(tmp_path):
    pip = tmp_path / 'python'
    pip.write_text('#!/bin/sh\ntest -f "$4/setup.py" && echo "$4"\n')
    pip.chmod(0o755)
    done = run('make', '--silent', f'PYTHON={pip}', 'install', cwd=ROOT)
    built = Path(done.stdout.strip())
    assert built != ROOT
    assert not built.exists()
