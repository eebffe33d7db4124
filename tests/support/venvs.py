"""Virtual environments."""

import sys
from pathlib import Path
from typing import Any

from support import run


def make_venv(python: object, directory: Path, *options: str) -> Path:
    """A virtual environment without pip, which is made at once."""
    run(python, '-m', 'venv', '--without-pip', *options, directory, check=True)
    return directory


def pip(venv: Path, *arguments: object, **options: Any) -> None:
    """Our own pip, on another environment."""
    command = [sys.executable, '-m', 'pip', '--quiet', '--python', venv / 'bin' / 'python']
    result = run(*command, *arguments, **options)
    assert result.returncode == 0, result.stderr
