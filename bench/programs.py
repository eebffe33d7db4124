"""Programs started over and over: a pyperf script, started by run.py."""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import pyperf


def spawn(loops: int, program: str, command: list[str], uid: int) -> float:
    account: dict[str, Any] = {'user': uid, 'group': uid, 'extra_groups': []} if uid else {}
    done = subprocess.run(
        [program, str(loops), *command],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd='/',
        text=True,
        **account,
    )
    return float(done.stdout)


def imports(loops: int, command: list[str]) -> float:
    """What interpreters say that they took, since their start takes longer and varies more."""
    return sum(float(subprocess.check_output(command)) for _ in range(loops))


def pass_on(command: list[str], arguments: argparse.Namespace) -> None:
    command += [arguments.program, arguments.contestants]


def main() -> None:
    runner = pyperf.Runner(add_cmdline_args=pass_on)
    runner.argparser.add_argument('program', help='what spawn.c was compiled to')
    runner.argparser.add_argument(
        'contestants', help='JSON: name, command and uid of each, null for an import'
    )
    arguments = runner.parse_args()
    for name, command, uid in json.loads(Path(arguments.contestants).read_text()):
        if uid is None:
            runner.bench_time_func(name, imports, command)
        else:
            runner.bench_time_func(name, spawn, arguments.program, command, uid)


main()
