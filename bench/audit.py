"""What an audit says of programs whose needs are known, and what other programs say of them.

As root: unshare --net --uts python bench/audit.py RESULTS; audit_report.py makes the tables.
With names of observers behind, only these are asked, and nothing is audited or timed.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from audit_cases import CASES, Case
from observers import OBSERVERS, AbsentError, Observer

from caps import Caps, CapSet
from caps.admin.ppy import install, remove
from caps.audit import Account, Audit, Options, audit
from caps.audit.tracing import Tracer
from caps.audit.types import Run

DD = 'dd', 'if=/dev/zero', 'of=/dev/null'
PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
TIMED = ['ping', '-c1', '127.0.0.1'], ['python3', '-c', 'import json, socket, subprocess']
SCRIPT = "from caps import Caps\nCaps.from_process().activate().apply()\nopen('/etc/shadow')\n"


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
        ppy = install(sys.executable, str(place)).ppy
        try:
            yield ppy, str(script)
        finally:
            remove(str(place))
    finally:
        shutil.rmtree(place)


def audited(case: Case, ppy: str, script: str) -> tuple[Audit, float]:
    argv, account, options = case.argv(), Account.of(case.user), case.options
    if options.ppy:
        argv, options = [script], Options(ppy=ppy)
    start = time.monotonic()
    found = audit(argv, None if options.ppy else account, options)
    return found, time.monotonic() - start


def granted(case: Case) -> CapSet:
    """What is granted in one run with everything."""
    options = Options(from_all=True, seconds=case.options.seconds, before=case.options.before)
    everything: Run = audit(case.argv(), Account.of(case.user), options).runs[0]
    return everything.granted


def observed(case: Case, observer: Observer) -> dict[str, object]:
    if case.options.before:
        subprocess.run(case.options.before, shell=True, check=True)
    said = observer(case.argv(), Account.of(case.user), case.options.seconds)
    names = None if said.capabilities is None else [*said.capabilities]
    return {'capabilities': names, 'calls': [*said.calls]}


def present(names: Iterable[str]) -> tuple[dict[str, Observer], dict[str, str]]:
    """The observers that run here, and why the others do not."""
    observers, absent = {}, {}
    for name in names:
        try:
            observers[name] = OBSERVERS[name]()
        except AbsentError as why:
            absent[name] = str(why)
    return observers, absent


def known(case: Case) -> dict[str, object]:
    command = case.command.replace(str(os.getpid()), 'PID')
    return {
        'command': f'{command} (as root)' if case.user == 'root' else command,
        'truth': None if case.needs is None else [*CapSet(case.needs)],
    }


def judged(case: Case, ppy: str, script: str) -> dict[str, object]:
    """What an audit says."""
    found, seconds = audited(case, ppy, script)
    return {
        'needs': None if found.needs is None else [*found.needs],
        'reason': found.reason,
        'method': found.method,
        'runs': len(found.runs),
        'seconds': seconds,
    }


def watched(case: Case, observers: dict[str, Observer], *, as_granted: bool) -> dict[str, object]:
    """What others say, and what one run with everything is granted."""
    if case.options.ppy:  # they would have to observe the launcher, too
        return {}
    saw: dict[str, object] = {name: observed(case, each) for name, each in observers.items()}
    if as_granted:
        saw['granted'] = {'capabilities': [*granted(case)], 'calls': []}
    return saw


def can_trace() -> bool:
    with suppress(OSError):
        Tracer(refusals_only=True).close()
        return True
    return False


def overhead(command: list[str], count: int = 7) -> tuple[float, float] | None:
    """The least of the processor's time that a command takes alone, and while it is traced."""
    alone, traced = [], []
    for _ in range(count):
        alone.append(processor_time(command))
        try:
            tracer = Tracer(refusals_only=True)  # the kernel is slower from here on
        except OSError:
            return None
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


def times(command: list[str], count: int = 15) -> dict[str, float]:
    """The least seconds that a command takes alone, and what an audit of it takes.

    runs: as many of it as the audit has, one after another
    audit: in a process that has loaded all it takes
    first: the same where nothing is known of the kernel yet
    program: of the whole command line
    python: of the same interpreter, which loads the same and has no command to audit
    """
    account = Account.of('nobody')
    start = time.monotonic()
    runs = len(audit(command, account).runs)
    first = time.monotonic() - start
    caps_audit = [sys.executable, '-m', 'caps', 'audit']
    alone = least(lambda: start_and_wait(command), count)
    return {
        'runs': runs * alone,
        'audit': least(lambda: audit(command, account), count),
        'first': first,
        'program': least(lambda: start_and_wait([*caps_audit, '--', *command]), count),
        'python': least(
            lambda: start_and_wait([sys.executable, '-c', 'import caps.cli, caps.audit']), count
        ),
    }


def least(work: Callable[[], object], count: int) -> float:
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def start_and_wait(command: list[str]) -> None:
    path, actions = shutil.which(command[0]) or command[0], []
    for fd in 1, 2:
        actions.append((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0))
    os.waitpid(os.posix_spawn(path, command, os.environ, file_actions=actions), 0)


def main(results: Path, names: list[str]) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 0)  # which renice(1) is to change
    os.environ['PATH'] = PATH
    os.umask(0o022)
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
    Caps.from_process().activate().apply()
    observers, absent = present(names or OBSERVERS)
    is_traced = not names and can_trace()
    rows = []
    with scene(), launcher() as (ppy, script):
        for case in CASES:
            row = known(case) | ({} if names else judged(case, ppy, script))
            row['observed'] = watched(case, observers, as_granted=is_traced)
            rows.append(row)
            print(json.dumps(row), flush=True)
        costs = (
            {}
            if names
            else {
                name: overhead(command)
                for name, command in {
                    'find /usr -newermt 2100-01-01': ['find', '/usr', '-newermt', '2100-01-01'],
                    'dd bs=1 count=400000': [*DD, 'bs=1', 'count=400000'],
                }.items()
            }
        )
    machine = (
        f'{time.strftime("%Y-%m-%d")}, Linux {platform.release()}, {os.cpu_count()} processors, '
        f'CPython {platform.python_version()}'
    )
    document = {
        'machine': machine, 'absent': absent, 'rows': rows, 'costs': costs,
        'times': {' '.join(command): times(command) for command in TIMED if not names},
    }  # fmt: skip
    results.write_text(json.dumps(document, indent=1))


if __name__ == '__main__':
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
