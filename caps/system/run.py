"""Starts a program as another account, which must get nothing of ours.

1. It has no terminal of ours: a session of its own, /dev/null to read and pipes to write to.
2. It has nothing else of ours: no descriptor, environment, directory, key or capability.
3. It ends at a deadline, when it prints too much, and when this process ends, killed or not.
4. What it starts ends with it.  Where we may make a pid namespace the kernel sees to that: the
   program is the first process in it.  Elsewhere its group is killed, then each orphan it left.

A supervisor, forked from here, starts and ends the program.  It learns that this process has ended
from a pipe, whose other end is then closed.
"""

import errno
import os
import select
import selectors
import signal
import struct
import subprocess
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from caps import Caps, _caps

REPORT = struct.Struct('=ii')  # errno of the start, and exit status
CLONE_NEWPID = 0x20000000
OWN_KEYRING = _caps.KEYCTL, 1, 0  # KEYCTL_JOIN_SESSION_KEYRING, to a new one
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
KILLING = 5.0  # seconds to kill a program that makes processes as fast as they are killed


class RunError(Exception):
    """The reason why a program was ended."""


class Account(NamedTuple):
    """Who a program runs as."""

    uid: int
    gid: int
    groups: Collection[int] = ()


class Finished(NamedTuple):
    """How a program has ended, with a negative status for a signal, and what it printed."""

    status: int
    output: bytes
    errors: bytes


def run_as(
    argv: Sequence[str], account: Account | None, *, seconds: float = 30, limit: int = 1 << 20
) -> Finished:
    """Run a program in a session of its own, with nothing of this process's, and end what it left.

    argv: the path of the program and its arguments
    account: who it runs as, without capabilities; None for the account of this process
    seconds, limit: for how long it may run, and how many bytes it may print

    Raises OSError where it cannot be started, and RunError where it went beyond a limit; and as
    `stop_if_signalled` does.
    """
    with _Pipes() as pipes:
        supervisor = os.fork()
        if not supervisor:
            _supervise(argv, account, pipes)
        try:
            pipes.keep(pipes.ours)
            report, output, errors = _collect(pipes, argv[0], seconds, limit)
        finally:
            os.close(pipes.hold)  # ends what still runs
            os.waitpid(supervisor, 0)
    if len(report) != REPORT.size:
        raise RunError(f'{argv[0]} was lost: the process that started it was killed')
    error, status = REPORT.unpack(report)
    if error:
        raise OSError(error, os.strerror(error), argv[0])
    return Finished(status, output, errors)


def stop_if_signalled() -> None:
    """Raise KeyboardInterrupt if a signal that ends this process is pending and blocked."""
    if signal.sigpending() & ENDING:
        raise KeyboardInterrupt


class _Pipes:
    """Four pipes: the program's output and errors, the supervisor's report, and our life."""

    def __enter__(self) -> '_Pipes':
        self._open: set[int] = set()
        self.output, self._output = self._pipe()
        self.errors, self._errors = self._pipe()
        self.report, self._report = self._pipe()
        self._life, self.hold = self._pipe()
        self.ours = {self.output, self.errors, self.report, self.hold}
        self.theirs = self._output, self._errors, self._report, self._life
        return self

    def __exit__(self, *_: object) -> None:
        self._open.discard(self.hold)  # closed before
        self.keep(set())

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def keep(self, kept: set[int]) -> None:
        """Close all others."""
        for fd in self._open - kept:
            os.close(fd)
        self._open &= kept


def _collect(pipes: _Pipes, name: str, seconds: float, limit: int) -> tuple[bytes, bytes, bytes]:
    """The report, output and errors, as far as they are within the limits."""
    read = {pipes.report: b'', pipes.output: b'', pipes.errors: b''}
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for fd in read:
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            # With the report nothing is left that could still print; what it printed is here.
            is_over = pipes.report not in selector.get_map()
            ready = selector.select(0 if is_over else 0.1)
            stop_if_signalled()
            if not ready and is_over:
                break
            if time.monotonic() > end:
                raise RunError(f'{name} has not ended within {seconds:g} seconds')
            for fd in (key.fd for key, _ in ready):
                part = os.read(fd, 1 << 16)
                read[fd] += part
                if not part:
                    selector.unregister(fd)
            if sum(map(len, read.values())) > limit + REPORT.size:
                raise RunError(f'{name} prints more than {limit} bytes')
    return read[pipes.report], read[pipes.output], read[pipes.errors]


def _supervise(argv: Sequence[str], account: Account | None, pipes: _Pipes) -> NoReturn:
    try:
        output, errors, report, life = pipes.theirs
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        _close_all_but({0, 1, 2, *pipes.theirs})
        for call in (
            (_caps.UNSHARE, CLONE_NEWPID),
            (_caps.PRCTL, _caps.PR_SET_CHILD_SUBREAPER, 1),
            OWN_KEYRING,
        ):
            _caps.system_calls([call], False)  # each where it is allowed
        try:
            program = _start(argv, account, output, errors)
        except (OSError, subprocess.SubprocessError) as error:
            code = getattr(error, 'errno', None)
            os.write(report, REPORT.pack(code or errno.EPERM, 0))
            os._exit(0)
        os.close(output)
        os.close(errors)
        poll = select.poll()
        poll.register(life, select.POLLIN)
        poll.register(os.pidfd_open(program.pid), select.POLLIN)
        poll.poll()
        _kill(program.pid)
        program.wait()
        kill_children()
        os.write(report, REPORT.pack(0, program.returncode))
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    first = 0
    for fd in (*sorted(kept), os.sysconf('SC_OPEN_MAX')):
        if first < fd:  # CPython takes an empty range at 0 for all
            os.closerange(first, fd)
        first = fd + 1


def _start(
    argv: Sequence[str], account: Account | None, output: int, errors: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        user=account and account.uid,
        group=account and account.gid,
        extra_groups=account and sorted(account.groups),
        # What secure bits keep across the change of the account is dropped after it.
        preexec_fn=account and Caps().apply,
        cwd='/',
        env={},
        umask=0o077,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )


def _kill(group: int) -> None:
    """Kill a group whose leader has not been waited for, so that its number is still its own."""
    for kill in os.killpg, os.kill:  # the leader alone, where it has not its group yet
        with suppress(ProcessLookupError, PermissionError):
            kill(group, signal.SIGKILL)


def kill_children() -> list[int]:
    """Kill every child of this process, and each orphan that becomes its child meanwhile.

    Returns those that have not ended within some seconds.
    """
    end = time.monotonic() + KILLING
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return []
        for pid in children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    return children()


def children() -> list[int]:
    """The children of this process, also those that have ended and were not waited for."""
    with suppress(FileNotFoundError), open(f'/proc/self/task/{os.getpid()}/children') as file:
        return [int(pid) for pid in file.read().split()]
    return []
