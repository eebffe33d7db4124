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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import report

import caps
from caps.admin.ppy import install, remove

HERE = Path(__file__).parent
ROUNDS = 3
FILES = 100_000
PROCESSES = 10_000
THREADS = 15_000
# Of which each is ten times the one before: the cost over them is the second plot.
SIZES = {
    'find': [1000, 10_000, FILES],
    'show': [100, 1000, PROCESSES],
    'threads': [10, 100, 1000, THREADS],
    'launch': [100, 1000, 10_000, 100_000, 1_000_000],  # lines of /etc/passwd
}
TURN = ['--quiet', '--processes=1']
QUICK = [*TURN, '--warmups=1', '--values=9', '--loops=1']
HOT = [*TURN, '--warmups=1', '--values=3', '--min-time=0.03']
SLOW = [*TURN, '--warmups=0', '--values=1', '--loops=1']
COMPILE = {
    'calls': ['-O2'],
    'looks': ['-O2'],
    'spawn': ['-O2'],
    'crowd': ['-O2', '-static'],
    'hop': ['-O2', '-fPIE', '-static-pie', '-Wl,-z,relro,-z,now'],  # as setup.py links ppy
    'empty': ['-O2', '-static'],
}
OURS = os.path.join(os.path.dirname(sys.executable), 'caps')
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


def starts(top: Path) -> Iterator[Contestant]:
    """Commands that have next to nothing to do."""
    yield 'start: nothing', [sys.executable, '-c', 'pass'], 0
    yield 'start: caps get', [OURS, 'get', str(top / 'script')], 0
    yield 'start: caps explain', [OURS, 'explain', '/bin/true'], 0
    yield 'start: caps show', [OURS, 'show'], 0


def launches(
    top: Path, owner: pwd.struct_passwd, caller: pwd.struct_passwd, subject: str = 'launch'
) -> Iterator[Contestant]:
    """An empty program as its owner with cap_net_raw, as nearly as each launcher can do it."""
    hop, empty, script = str(top / 'hop'), str(top / 'empty'), top / 'script'
    script.touch(0o755)
    os.chown(script, owner.pw_uid, owner.pw_gid)
    caps.Caps('cap_net_raw=i').apply(script)
    yield f'{subject}: nothing', [empty], caller.pw_uid
    yield f'{subject}: an empty hop', [hop, empty], caller.pw_uid
    yield f'{subject}: ppy', [str(top / 'bin/ppy'), str(script)], caller.pw_uid
    setpriv = caps.command([empty], user=owner.pw_name, ambient=['cap_net_raw'])
    yield f'{subject}: setpriv', [where(setpriv[0]), *setpriv[1:]], 0
    capsh = '--inh=cap_net_raw', '--keep=1', f'--user={owner.pw_name}', '--addamb=cap_net_raw'
    yield f'{subject}: capsh', [where('capsh'), *capsh, f'--shell={empty}', '--'], 0
    yield f'{subject}: sudo', [where('sudo'), '-n', '-u', owner.pw_name, empty], 0


def grow(tree: Path, files: int, *, all_marked: bool = False) -> Path:
    """Fifty files in each directory, ten directories in each of those above, ten of all marked."""
    for number in range(files // 50):
        directory = tree / f'{number // 100}' / f'{number // 10 % 10}' / f'{number % 10}'
        directory.mkdir(parents=True)
        for file in range(50):
            (directory / f'file-{file}').write_bytes(b'#')
            if all_marked or (file == 7 and number % max(files // 500, 1) == 0):
                caps.Caps('cap_net_raw=ep').apply(directory / f'file-{file}')
    return tree


def finders(subject: str, tree: Path, looks: Path) -> Iterator[Contestant]:
    commands = {
        'caps find': [OURS, 'find', str(tree)],
        'getcap -r': [where('getcap'), '-r', str(tree)],
        'filecap': [where('filecap'), str(tree)],
    }
    said = {
        name: subprocess.run(command, capture_output=True, text=True).stdout
        for name, command in commands.items()
    }
    assert sorted(said['caps find'].splitlines()) == sorted(said['getcap -r'].splitlines())
    assert said['caps find'].count('file-') == said['filecap'].count('file-')
    yield f'{subject}: system calls', [str(looks), 'find', str(tree)], 0
    for name, command in commands.items():
        yield f'{subject}: {name}', command, 0


def searches(top: Path) -> Iterator[Contestant]:
    """Trees of files of which few, all or none are marked, and what is listed in a manifest."""
    looks = top / 'looks'
    for size in SIZES['find']:
        yield from finders(f'find/{size}', grow(top / f'files-{size}', size), looks)
    one = ['taskset', '--cpu-list', str(min(os.sched_getaffinity(0)))]
    for name, command, uid in [*finders('find one', top / f'files-{FILES}', looks)]:
        yield name, [where(one[0]), *one[1:], *command], uid
    marked = grow(top / 'marked', FILES, all_marked=True)
    yield from finders('find marked', marked, looks)
    for number in range(FILES):
        (top / f'directories/{number // 1000}/{number % 1000}').mkdir(parents=True)
    (top / 'directories/file-7').touch()  # since caps find fails where it finds nothing
    caps.Caps('cap_net_raw=ep').apply(top / 'directories/file-7')
    yield from finders('find empty', top / 'directories', looks)
    manifest = top / 'manifest'
    with manifest.open('w') as file:
        subprocess.run([OURS, 'manifest', 'save', str(marked)], stdout=file, check=True)
    yield 'check: caps manifest check', [OURS, 'manifest', 'check', str(manifest)], 0
    yield 'check: caps find', [OURS, 'find', str(marked)], 0
    yield 'check: sha256sum', ['/bin/sh', '-c', f'find {marked} -type f -exec sha256sum {{}} +'], 0


def audits(top: Path) -> Iterator[Contestant]:
    """A command that needs one capability, to read what is root's."""
    secret = top / 'secret'
    secret.touch(0o600)
    yield 'audit: the command', [where('cat'), str(secret)], 0
    yield 'audit: caps audit', [OURS, 'audit', '--', where('cat'), str(secret)], 0


def threads() -> Iterator[Contestant]:
    """Calls on every thread; each program says itself what they took."""
    program = [sys.executable, str(HERE / 'threads.py')]
    for size in SIZES['threads']:
        for what in 'drop', 'apply':
            yield f'threads/{size}: {what}', [*program, what, str(size), 'asleep'], None
    yield 'threads spinning: apply', [*program, 'apply', '50', 'spinning'], None


@contextmanager
def crowd(top: Path, size: int) -> Iterator[None]:
    """So many processes more."""
    command = [str(top / 'crowd'), str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout
        assert started.stdin
        assert started.stdout.readline() == b'ready\n'
        try:
            yield
        finally:
            started.stdin.close()


def shows(size: int, looks: Path) -> Iterator[Contestant]:
    yield f'show/{size}: system calls', [str(looks), 'show'], 0
    yield f'show/{size}: caps show --all', [OURS, 'show', '--all'], 0
    yield f'show/{size}: pscap -a', [where('pscap'), '-a'], 0


def passwd(top: Path, size: int, accounts: Iterable[pwd.struct_passwd]) -> list[str]:
    """What runs a command where /etc/passwd has so many lines, those of the accounts at the end."""
    file = top / f'passwd-{size}'
    last = [account.pw_name for account in accounts]
    lines = Path('/etc/passwd').read_text().splitlines(keepends=True)
    with file.open('w') as content:
        content.writelines(line for line in lines if line.split(':')[0] not in last)
        for number in range(size - len(lines)):
            content.write(f'filler{number}:x:{number + 200_000}:200000::/nonexistent:/bin/false\n')
        content.writelines(line for line in lines if line.split(':')[0] in last)
    mount = f'mount --bind {file} /etc/passwd && exec "$@"'
    return [where('unshare'), '--mount', 'sh', '-c', mount, 'sh']


class Measuring:
    """Runs contestants in turns, and adds what they took to the results."""

    def __init__(self, top: Path, results: Path) -> None:
        self.top, self.results = top, results

    def run(
        self, script: str, turn: list[str], *arguments: str, within: Sequence[str] = ()
    ) -> None:
        command = [*within, sys.executable, str(HERE / script), *turn]
        command += ['--append', str(self.results), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def programs(
        self, turn: list[str], contestants: Iterable[Contestant], within: Sequence[str] = ()
    ) -> None:
        listed = self.top / 'contestants'
        listed.write_text(json.dumps([*contestants]))
        self.run('programs.py', turn, str(self.top / 'spawn'), str(listed), within=within)


def measure(top: Path, results: Path) -> None:
    with ExitStack() as stack:
        owner, caller = (stack.enter_context(account(role)) for role in ('owner', 'caller'))
        stack.callback(remove, top)
        install(str(top / 'empty'), top)
        (top / 'file').touch()
        measuring = Measuring(top, results)
        launched = [*launches(top, owner, caller)]
        quick = [*imports(), *starts(top), *launched]
        slow = [*searches(top), *audits(top), *threads()]
        grown = {size: passwd(top, size, (owner, caller)) for size in SIZES['launch']}
        for number in range(ROUNDS):
            print(f'round {number + 1} of {ROUNDS}', flush=True)
            given = str(top / 'calls'), str(top / 'file')
            measuring.run('library.py', QUICK, 'first', *given)
            measuring.run('library.py', HOT, 'hot', *given)
            measuring.programs(QUICK, quick)
            measuring.programs(SLOW, slow)
            for size in SIZES['show']:
                with crowd(top, size):
                    measuring.programs(SLOW, shows(size, top / 'looks'))
            for size, within in grown.items():
                launched = [*launches(top, owner, caller, f'launch/{size}')]
                measuring.programs(QUICK, launched, within)


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
