"""What README.md and the docstrings show is what happens."""

import sys

import pytest
from conftest import ROOT, run


@pytest.mark.parametrize('document', ['README.md', 'caps/__init__.py'])
def test_the_examples_run_as_written(document):
    result = run(sys.executable, '-m', 'doctest', ROOT / document)
    assert result.returncode == 0, result.stdout
