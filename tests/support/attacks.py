"""What the attacks on ppy have in common: a directory of the attacker's, and who has won."""

import functools
import os
import re
import subprocess
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path

from caps import CapSet
from support import run
from support.accounts import Account
from support.launchers import Launcher

NOBODY_KNOWN = Account('', 2_000_000_001, 2_000_000_002)
PYTHON = '/usr/bin/python3'
STATUS = 'while read -r line; do echo "$line"; done < /proc/self/status\n'
LIBC = CDLL(None, use_errno=True)


def permitted(done: subprocess.CompletedProcess[str]) -> CapSet | None:
    """The capabilities that a script says it has; None if none ran."""
    match = re.search(r'^CapPrm:\s+(\w+)', done.stdout, re.MULTILINE)
    return CapSet.from_mask(int(match[1], 16)) if match else None


def assert_only_naive_loses(
    launcher: Launcher, won: bool, done: subprocess.CompletedProcess[str]
) -> None:
    """The attacker wins against the naive launcher and nothing runs under ppy."""
    assert won == launcher.naive, done
    if not launcher.naive:
        assert (done.returncode, done.stdout) in [(126, ''), (127, '')], done
        assert re.fullmatch(r'ppy: [ -~]+\n', done.stderr)


@dataclass
class Den:
    """What attackers plant in their directory; their code, run as the owner, makes the loot."""

    path: Path
    loot: Path

    def plant(self, name: str, content: str | bytes, mode: int = 0o755) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        uid = self.path.stat().st_uid
        for part in (path, *path.relative_to(self.path).parents):
            os.chown(self.path / part, uid, uid)
        return path

    def python(self, name: str) -> Path:
        # so early in Python's life there is no open()
        code = 'import posix\nposix.open({!r}, posix.O_CREAT | posix.O_WRONLY, 0o644)\n'
        return self.plant(name, code.format(str(self.loot)))

    def program(self, name: str) -> Path:
        return self.plant(name, f'#!/bin/sh\n: > {self.loot}\n')

    def library(self, name: str) -> Path:
        code = '#include <fcntl.h>\n__attribute__((constructor)) static void take(void)\n'
        code += '{ open(LOOT, O_CREAT | O_WRONLY, 0644); }'
        path, define = self.plant(name, ''), f'-DLOOT="{self.loot}"'
        compiler = ['cc', '-shared', '-fPIC', '-xc', define, '-', '-o', path]
        run(*compiler, input=code, check=True)
        return path


@functools.cache
def library() -> str:
    """Where Python's library is below its prefix."""
    code = 'import sys; print("lib/python%d.%d" % sys.version_info[:2])'
    return run(PYTHON, '-c', code).stdout.strip()
