"""One interpreter, the same work through each library: a pyperf script, started by run.py.

All are checked to do it; what a library does not do it has no function for.
"""

import argparse
import inspect
import os
import subprocess
import sys
from collections.abc import Callable

import capng
import posixcaps
import prctl
import pyperf
import pyprctl

from caps import IAB, Caps, CapSet

MARK = Caps('cap_net_raw=ep')
NUMBERS = range(capng.CAP_LAST_CAP + 1)
BOTH = capng.CAPNG_EFFECTIVE | capng.CAPNG_PERMITTED
POSIXCAPS_MARK = {'effective': True, 'permitted': {posixcaps.Cap.CAP_NET_RAW}}
PYPRCTL_MARK = pyprctl.FileCaps(
    effective=True, permitted={pyprctl.Cap.NET_RAW}, inheritable=set(), rootid=None
)


def activate_caps() -> None:
    Caps.from_process().activate().apply()


def activate_capng() -> None:
    capng.capng_get_caps_process()
    for number in NUMBERS:
        if capng.capng_have_capability(capng.CAPNG_PERMITTED, number):
            capng.capng_update(capng.CAPNG_ADD, capng.CAPNG_EFFECTIVE, number)
    capng.capng_apply(capng.CAPNG_SELECT_CAPS)


def activate_posixcaps() -> None:
    state = posixcaps.get()
    state.set(effective=state.permitted)


def activate_pyprctl() -> None:
    state = pyprctl.CapState.get_current()
    state.effective = state.permitted
    state.set_current()


def activate_prctl() -> None:
    permitted = prctl.get_caps((prctl.ALL_CAPS, prctl.CAP_PERMITTED))[prctl.CAP_PERMITTED]
    names = [cap for cap, is_set in permitted.items() if is_set]
    prctl.set_caps((names, prctl.CAP_EFFECTIVE, True))


def read_caps(file: str | int) -> Caps:
    return Caps.from_file(file)


def read_capng_fd(fd: int) -> set[int]:
    capng.capng_get_caps_fd(fd)
    held = capng.capng_have_capability
    return {number for number in NUMBERS if held(capng.CAPNG_PERMITTED, number)}


def read_capng(path: str) -> set[int]:
    fd = os.open(path, os.O_RDONLY)
    permitted = read_capng_fd(fd)
    os.close(fd)
    return permitted


def fill_capng_fd(fd: int) -> None:
    capng.capng_get_caps_fd(fd)


def write_caps(path: str) -> None:
    MARK.apply(path)


def write_capng(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    capng.capng_clear(capng.CAPNG_SELECT_BOTH)
    capng.capng_update(capng.CAPNG_ADD, BOTH, capng.CAP_NET_RAW)
    capng.capng_apply_caps_fd(fd)
    os.close(fd)


def write_posixcaps(path: str) -> None:
    posixcaps.set_file_caps(path, **POSIXCAPS_MARK)


def bounding_caps() -> CapSet:
    return IAB.from_process().bounding


def bounding_capng() -> set[int]:
    capng.capng_get_caps_process()
    held = capng.capng_have_capability
    return {number for number in NUMBERS if held(capng.CAPNG_BOUNDING_SET, number)}


def bounding_prctl() -> set[str]:
    return {name for name in prctl.ALL_CAP_NAMES if getattr(prctl.capbset, name)}


ACTIVATE = {
    'caps': activate_caps,
    'libcap-ng': activate_capng,
    'posixcaps': activate_posixcaps,
    'pyprctl': activate_pyprctl,
    'python-prctl': activate_prctl,
}
# What a new interpreter has to import before it activates for the first time.
FIRST = {
    'caps': 'from caps import Caps',
    'libcap-ng': 'import capng; NUMBERS = range(capng.CAP_LAST_CAP + 1)',
    'posixcaps': 'import posixcaps',
    'pyprctl': 'import pyprctl',
    'python-prctl': 'import prctl',
}
BOUNDING = {
    'caps': bounding_caps,
    'libcap-ng': bounding_capng,
    'posixcaps': posixcaps.bounding,
    'pyprctl': pyprctl.capbset_probe,
    'python-prctl': bounding_prctl,
}
READ = {
    'caps': read_caps,
    'libcap-ng': read_capng,
    'posixcaps': posixcaps.get_file_caps,
    'pyprctl': pyprctl.FileCaps.get_for_file,
}
READ_OPEN = {
    'caps, a descriptor': read_caps,
    'libcap-ng, a descriptor': read_capng_fd,
    'libcap-ng, a descriptor, nothing asked': fill_capng_fd,
}
WRITE = {
    'caps': write_caps,
    'libcap-ng': write_capng,
    'posixcaps': write_posixcaps,
    'pyprctl': PYPRCTL_MARK.set_for_file,
}


def check(path: str) -> None:
    """That every contestant does what the others do."""
    for activate in ACTIVATE.values():
        Caps.from_process().deactivate('cap_kill').apply()
        activate()
        state = Caps.from_process()
        assert state.effective == state.permitted, activate
    for bounding in BOUNDING.values():
        assert len(bounding()) == len(bounding_caps()), bounding
    for write in WRITE.values():
        Caps('cap_kill=p').apply(path)
        write(path)
        assert Caps.from_file(path) == MARK, write
    with open(path, 'rb') as file:
        assert read_capng(path) == read_capng_fd(file.fileno()) == {capng.CAP_NET_RAW}


def first_time(loops: int, imports: str, function: Callable[[], None]) -> float:
    """What five new interpreters say that their first call took, with everything imported."""
    source = inspect.getsource(function)
    code = (
        f'import time\n{imports}\n{source}\nstart = time.perf_counter()\n'
        f'{function.__name__}()\nprint(time.perf_counter() - start)\n'
    )
    command = [sys.executable, '-I', '-c', code]
    # However many loops pyperf asks for: the start of an interpreter takes a hundred times as long.
    return loops * min(float(subprocess.check_output(command)) for _ in range(5))


def system_calls(loops: int, program: str, what: str, path: str) -> float:
    command = [program, what, str(loops), path]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def pass_on(command: list[str], arguments: argparse.Namespace) -> None:
    command += [arguments.what, arguments.program, arguments.file]


def main() -> None:
    runner = pyperf.Runner(add_cmdline_args=pass_on)
    runner.argparser.add_argument('what', choices=['first', 'hot'], help='calls of a process')
    runner.argparser.add_argument('program', help='what calls.c was compiled to')
    runner.argparser.add_argument('file', help='to write marks on')
    arguments = runner.parse_args()
    path = arguments.file
    check(path)
    if arguments.what == 'first':
        for name, imports in FIRST.items():
            label = f'activate: {name}, the first time'
            runner.bench_time_func(label, first_time, imports, ACTIVATE[name])
        return
    for what, contestants, given in (
        ('activate', ACTIVATE, ()),
        ('bounding', BOUNDING, ()),
        ('read', READ, (path,)),
        ('write', WRITE, (path,)),
    ):
        calls = arguments.program, what, path
        runner.bench_time_func(f'{what}: system calls', system_calls, *calls)
        for name, function in contestants.items():
            runner.bench_func(f'{what}: {name}', function, *given)
    with open(path, 'rb') as file:
        for name, function in READ_OPEN.items():
            runner.bench_func(f'read: {name}', function, file.fileno())


main()
