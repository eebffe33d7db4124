"""An installed ppy, its naive stand-in, and a script that says what it is."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from caps.admin.ppy import Installation, install
from support import ROOT, SUPPORT, program, run
from support.accounts import Account


@dataclass
class Launcher:
    """What runs a script as its owner."""

    mode: str
    naive: ClassVar[bool] = False

    @property
    def path(self) -> Path:
        raise NotImplementedError

    def run(
        self, script: Path, *arguments: object, account: Account | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        return run(self.path, script, *arguments, account=account, **options)


@dataclass
class Ppy(Launcher):
    installed: Installation

    @property
    def path(self) -> Path:
        return Path(self.installed.ppy)

    def report(
        self, script: Path, *arguments: object, account: Account | None = None, **options: Any
    ) -> dict[str, Any]:
        """What a script made of REPORT says about its process."""
        result = self.run(script, *arguments, account=account, **options)
        assert result.returncode == 0, result.stderr
        state: dict[str, Any] = json.loads(result.stdout)
        return state


@dataclass
class Naive(Launcher):
    """The stand-in of naive.c, which ppy would be without its protections."""

    prefix: Path
    naive = True

    @property
    def path(self) -> Path:
        return self.prefix / 'naive'


MODES: dict[str, dict[str, Any]] = {'file-capabilities': {}, 'set-uid': {'setuid': True}}
INTERPRETERS = {'python': '/usr/bin/python3', 'bash': '/bin/bash', 'sh': '/bin/sh'}


def make_launcher(mode: str, interpreter: Path | str, prefix: Path, **options: Any) -> Launcher:
    """ppy installed in a mode, or the naive one, for an interpreter of the system."""
    if mode != 'naive':
        return Ppy(mode, install(interpreter, prefix, **MODES[mode], **options))
    prefix.mkdir(0o755)
    naive = Naive(mode, prefix)
    run('cc', '-fno-builtin', '-o', naive.path, SUPPORT / 'naive.c', '-lcap', check=True)
    naive.path.chmod(0o4755)
    (prefix / 'interpreter').symlink_to(interpreter)
    return naive


def build_launchers(directory: Path) -> None:
    """Those of a build for which a compiler was chosen, so that it is not linked with musl."""
    command = [sys.executable, 'setup.py', 'build_ext', '--build-lib', directory]
    environ = os.environ | {'CC': os.environ.get('CC', 'cc')}
    run(*command, '--build-temp', directory / 'temp', cwd=ROOT, env=environ, check=True)


REPORT = program('launched')  # a script that says what it is
