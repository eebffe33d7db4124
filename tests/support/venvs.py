"""Virtual environments."""

import sys

from support import run


def make_venv(python, directory, *options):
    """A virtual environment without pip, which is made at once."""
    run(python, '-m', 'venv', '--without-pip', *options, directory, check=True)
    return directory


def pip(venv, *arguments, **options):
    """Our own pip, on another environment."""
    command = [sys.executable, '-m', 'pip', '--quiet', '--python', venv / 'bin' / 'python']
    result = run(*command, *arguments, **{'timeout': 300} | options)
    assert result.returncode == 0, result.stderr
