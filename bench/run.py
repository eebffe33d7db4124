"""caps and ppy beside their peers, in rounds, each with one turn for every contestant.

Started by 'make bench' as root; exits 1 where a goal of report.py is missed.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import report

import caps
from caps.admin.ppy import install, remove

HERE = Path(__file__).parent
ROUNDS = 5
FILES = 100_000
TURN = ['--quiet', '--processes=1', '--warmups=1']
COMPILE = {
    'calls': ['-O2'],
    'spawn': ['-O2'],
    'hop': ['-O2', '-fPIE', '-static-pie', '-Wl,-z,relro,-z,now'],  # as setup.py links ppy
    'empty': ['-O2', '-static'],
}
MODULES = {
    'caps': 'caps',
    'libcap-ng': 'capng',
    'posixcaps': 'posixcaps',
    'pyprctl': 'pyprctl',
    'python-prctl': 'prctl',
}


Contestant = tuple[str, list[str], int | None]  # its name, its command and as which uid


def where(program: str) -> str:
    path = shutil.which(program)
    assert path, f'{program} is not installed'
    return path


def compile_programs(top: Path) -> None:
    for name, flags in COMPILE.items():
        subprocess.run(['cc', '-Wall', *flags, '-o', top / name, HERE / f'{name}.c'], check=True)


@contextmanager
def account(role: str) -> Iterator[pwd.struct_passwd]:
    name = f'caps-bench-{role}-{os.getpid()}'
    subprocess.run(['useradd', '--no-create-home', '--user-group', name], check=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(['userdel', name], check=True)


def imports() -> Iterator[Contestant]:
    code = 'import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)'
    for name, module in MODULES.items():
        yield f'import: {name}', [sys.executable, '-I', '-c', code.format(module)], None


def launches(
    top: Path, owner: pwd.struct_passwd, caller: pwd.struct_passwd
) -> Iterator[Contestant]:
    """An empty program as its owner with cap_net_raw, as nearly as each launcher can do it."""
    hop, empty, script = str(top / 'hop'), str(top / 'empty'), top / 'script'
    ppy = install(empty, top).ppy
    script.touch(0o755)
    os.chown(script, owner.pw_uid, owner.pw_gid)
    caps.Caps('cap_net_raw=i').apply(script)
    yield 'launch: nothing', [empty], caller.pw_uid
    yield 'launch: an empty hop', [hop, empty], caller.pw_uid
    yield 'launch: ppy', [ppy, str(script)], caller.pw_uid
    setpriv = caps.command([empty], user=owner.pw_name, ambient=['cap_net_raw'])
    yield 'launch: setpriv', [where(setpriv[0]), *setpriv[1:]], 0
    capsh = '--inh=cap_net_raw', '--keep=1', f'--user={owner.pw_name}', '--addamb=cap_net_raw'
    yield 'launch: capsh', [where('capsh'), *capsh, f'--shell={empty}', '--'], 0
    yield 'launch: sudo', [where('sudo'), '-n', '-u', owner.pw_name, empty], 0


def searches(top: Path) -> Iterator[Contestant]:
    """Fifty files in each directory, ten directories in each of those above, ten of all marked."""
    tree = top / 'tree'
    for number in range(FILES // 50):
        directory = tree / f'{number // 100}' / f'{number // 10 % 10}' / f'{number % 10}'
        directory.mkdir(parents=True)
        for file in range(50):
            (directory / f'file-{file}').touch()
        if number % (FILES // 500) == 0:
            caps.Caps('cap_net_raw=ep').apply(directory / 'file-7')
    ours = os.path.join(os.path.dirname(sys.executable), 'caps')
    commands = {
        'caps find': [ours, 'find', str(tree)],
        'getcap -r': [where('getcap'), '-r', str(tree)],
        'filecap': [where('filecap'), str(tree)],
    }
    said = {
        name: subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for name, command in commands.items()
    }
    assert sorted(said['caps find'].splitlines()) == sorted(said['getcap -r'].splitlines())
    assert said['caps find'].count('file-7') == said['filecap'].count('file-7') == 10
    for name, command in commands.items():
        yield f'find: {name}', command, 0


def measure(top: Path, results: Path) -> None:
    with ExitStack() as stack:
        owner, caller = (stack.enter_context(account(role)) for role in ('owner', 'caller'))
        stack.callback(remove, top)
        contestants = [*imports(), *launches(top, owner, caller), *searches(top)]
        (top / 'contestants').write_text(json.dumps(contestants))
        (top / 'file').touch()
        scripts: list[list[Path | str]] = [
            ['library.py', '--values=3', '--min-time=0.03', top / 'calls', top / 'file'],
            ['programs.py', '--values=9', '--loops=1', top / 'spawn', top / 'contestants'],
        ]
        for number in range(ROUNDS):
            print(f'round {number + 1} of {ROUNDS}', flush=True)
            for script, *arguments in scripts:
                command = [sys.executable, HERE / script, *TURN, '--append', results, *arguments]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    results = Path(sys.argv[1])
    results.unlink(missing_ok=True)
    # On a mount that honours set-uid, below directories of root's: ppy would refuse any other.
    with tempfile.TemporaryDirectory(prefix='caps-bench-', dir='/var/lib') as name:
        top = Path(name)
        top.chmod(0o755)
        compile_programs(top)
        measure(top, results)
    sys.exit(report.main(results, HERE.parent / 'doc' / 'bench'))


main()
