"""Programs whose needs are known beside what an audit says of them, as the table of doc/audit.rst.

As root: unshare --net --uts python bench/audit.py FILE
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from caps import Caps, CapSet
from caps.admin.ppy import install, remove
from caps.audit import Account, Audit, Options, audit
from caps.audit.tracing import Tracer
from caps.audit.types import Run

DD = 'dd', 'if=/dev/zero', 'of=/dev/null'
PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
NO_ANSWER = None
SERVER = "import socket; s = socket.create_server(('127.0.0.1', 80)); s.accept()"
UDP = "import socket; socket.socket(type=socket.SOCK_DGRAM).bind(('127.0.0.1', 53))"
SCRIPT = "from caps import Caps\nCaps.from_process().activate().apply()\nopen('/etc/shadow')\n"


class Case(NamedTuple):
    """A program, and what it needs by the kernel's sources; None where it is to have no answer."""

    command: str
    needs: str | None
    options: Options = Options()
    user: str = 'nobody'


def daemon(seconds: float = 1) -> Options:
    return Options(seconds=seconds)


def before(command: str) -> Options:
    return Options(before=command)


CASES = [
    Case('true', ''),
    Case('ls -l /etc', ''),
    Case('cat closed', 'dac_read_search'),
    Case('sha256sum closed', 'dac_read_search'),
    Case('cp closed /dev/null', 'dac_read_search'),
    Case('tar cf - directory', 'dac_read_search'),
    Case('find directory', 'dac_read_search'),
    Case('du directory', 'dac_read_search'),
    Case('./set-user-id closed', 'dac_read_search'),
    Case('tee -a closed', 'dac_override'),
    Case('touch directory/new', 'dac_override'),
    Case('rm directory/old', 'dac_override', before('touch directory/old')),
    Case('chown 0:0 open', 'chown'),
    Case('chmod 644 open', 'fowner'),
    Case('setcap cap_kill=p own', 'setfcap', Options(from_all=True)),
    Case('ping -c1 127.0.0.1', 'net_raw'),
    Case('tcpdump -i lo -w /dev/null', 'net_raw', daemon()),
    Case(f'python3 -c "{SERVER}"', 'net_bind_service', daemon()),
    Case(f'python3 -c "{UDP}"', 'net_bind_service'),
    Case('ip link set lo mtu 1400', 'net_admin'),
    Case('ip address add 127.0.0.9/8 dev lo', 'net_admin',
         before('ip address del 127.0.0.9/8 dev lo 2>&-; true')),
    Case('mknod null c 1 3', 'mknod', before('rm -f null')),
    Case('chroot / true', 'sys_chroot'),
    Case('nice -n -5 true', ''),
    Case("sh -c 'renice -n -5 $$'", 'sys_nice'),
    Case('chrt -f 1 true', 'sys_nice'),
    Case('ionice -c1 true', 'sys_nice'),
    Case('kill -0 1', 'kill'),
    Case('setpriv --reuid=12345 true', 'setuid'),
    Case('setpriv --clear-groups true', 'setgid'),
    Case('hostname here', 'sys_admin'),
    Case('unshare --mount true', 'sys_admin'),
    Case(f'readlink /proc/{os.getpid()}/exe', 'sys_ptrace'),
    Case('dmesg', 'syslog'),
    Case('mount -t tmpfs none /mnt', 'sys_admin', user='root'),
    Case('mount -t tmpfs none /mnt', NO_ANSWER),
    Case("sh -c 'echo 0 >/proc/sys/kernel/panic'", NO_ANSWER),
    Case('./script.py (under ppy)', 'dac_read_search', Options(ppy='bin/ppy')),
]  # fmt: skip


@contextmanager
def scene() -> Iterator[Path]:
    """A directory with what the programs act on; the working directory meanwhile."""
    place = Path(tempfile.mkdtemp(prefix='caps-bench-', dir='/var/lib'))
    account = Account.of('nobody')
    try:
        os.chdir(place)
        place.chmod(0o777)
        for name, mode in ('closed', 0o600), ('open', 0o644), ('own', 0o644):
            Path(name).write_text('text\n')
            Path(name).chmod(mode)
        os.chown('own', account.uid, account.gid)
        Path('directory').mkdir(0o700)
        shutil.copy('/bin/cat', 'set-user-id')
        Path('set-user-id').chmod(0o4755)
        yield place
    finally:
        os.chdir('/')
        shutil.rmtree(place)


@contextmanager
def launcher() -> Iterator[tuple[str, str]]:
    """A ppy and a script of nobody's, where nobody else can write."""
    place = Path(tempfile.mkdtemp(prefix='caps-bench-', dir='/var/lib'))
    place.chmod(0o755)
    try:
        script, account = place / 'script.py', Account.of('nobody')
        script.write_text(SCRIPT)
        os.chown(script, account.uid, account.gid)
        script.chmod(0o755)
        yield install(sys.executable, str(place)).ppy, str(script)
    finally:
        remove(str(place))
        shutil.rmtree(place)


def audited(case: Case, ppy: str, script: str) -> tuple[Audit, float]:
    command = ['sh', '-c', f'exec {case.command}']
    account: Account | None = Account.of(case.user)
    options = case.options
    if options.ppy:
        command, account, options = [script], None, Options(ppy=ppy)
    start = time.monotonic()
    return audit(command, account, options), time.monotonic() - start


def observed(case: Case) -> CapSet | None:
    """What is granted in one run with everything, which observation alone shows."""
    if case.options.ppy or case.needs is NO_ANSWER:
        return None
    options = Options(from_all=True, seconds=case.options.seconds, before=case.options.before)
    everything: Run = audit(
        ['sh', '-c', f'exec {case.command}'], Account.of(case.user), options
    ).runs[0]
    return everything.granted


def text(caps: CapSet | None) -> str:
    return 'no answer' if caps is None else str(caps).replace('cap_', '').replace(',', ', ') or '-'


def row(case: Case, ppy: str, script: str) -> tuple[list[str], int, int, int]:
    """A line of the table, and the false and the missed of an audit, and the false of observing."""
    found, seconds = audited(case, ppy, script)
    truth = None if case.needs is None else CapSet(case.needs)
    given, wanted = found.needs or CapSet(), truth or CapSet()
    seen = observed(case)
    name = f'{case.command} (as root)' if case.user == 'root' else case.command
    cells = [name, text(truth), text(found.needs), str(len(found.runs)), f'{seconds:.1f} s']
    cells.append('' if seen is None else text(seen))
    is_wrong = (truth is None) != (found.needs is None)
    return (
        cells,
        len(given - wanted) + is_wrong,
        len(wanted - given),
        len((seen or wanted) - wanted),
    )


def overhead(command: list[str], count: int = 7) -> tuple[float, float]:
    """The least of the processor's time that a command takes alone, and while it is traced."""
    tracer = Tracer(refusals_only=True)
    alone, traced = [], []
    for _ in range(count):
        alone.append(processor_time(command))
        tracer.start()
        traced.append(processor_time(command))
        tracer.stop(os.getpid())
    tracer.close()
    return min(alone), min(traced)


def processor_time(command: list[str]) -> float:
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=null, stderr=null, user='nobody')
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    os.environ['PATH'] = PATH
    os.umask(0o022)
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
    Caps.from_process().activate().apply()
    lines, totals = [], [0, 0, 0]
    with scene(), launcher() as (ppy, script):
        for case in CASES:
            cells, *wrong = row(case, ppy, script)
            totals = [a + b for a, b in zip(totals, wrong, strict=True)]
            lines.append('   ' + ', '.join('"' + cell.replace('"', '""') + '"' for cell in cells))
            print(*cells, wrong if any(wrong[:2]) else '', sep=' | ', flush=True)
        costs = [
            (name, *overhead(command))
            for name, command in {
                'find /usr -newermt 2100-01-01': ['find', '/usr', '-newermt', '2100-01-01'],
                'dd bs=1 count=400000': [
                    'dd',
                    'if=/dev/zero',
                    'of=/dev/null',
                    'bs=1',
                    'count=400000',
                ],
            }.items()
        ]
    false, missed, observing = totals
    head = [
        f'{time.strftime("%Y-%m-%d")}, Linux {platform.release()}, {os.cpu_count()} processors, '
        f'CPython {platform.python_version()}. Of {len(CASES)} programs the audit named {false} '
        f'capabilities that were not needed and missed {missed}. One run with everything was '
        f'granted {observing} that were not needed.',
        '',
        *(
            f'- ``{name}`` takes the processor {alone * 1000:.0f} ms, '
            f'and {traced * 1000:.0f} ms while it is traced'
            for name, alone, traced in costs
        ),
        '',
        '.. csv-table::',
        '   :header: program, needs, audit, runs, time, granted with everything',
        '   :widths: 30 16 16 6 8 24',
        '',
    ]
    Path(sys.argv[1]).write_text('\n'.join([*head, *lines]) + '\n')


if __name__ == '__main__':
    output = Path(sys.argv[1]).absolute()
    sys.argv[1] = str(output)
    main()
