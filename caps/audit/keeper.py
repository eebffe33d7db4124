"""The process that starts each run of a command, and ends all that a run leaves.

1. It is a subreaper: whatever loses its parent becomes its child, and is ended with the run.
2. A socket tells it that the audit has ended, killed or not; then it ends the run and itself.
3. Nobody waits for the command's first process before the run is stopped: its state can be read.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, Protocol

from caps import CapSet, _caps
from caps.audit.types import AuditError
from caps.system.run import OWN_KEYRING, children, kill_children
from caps.threads import prctl, run_calls

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SAID = 1 << 12  # bytes that are kept of what a command prints
READS = 64  # at the end of a run
BEGINNING = 60.0  # seconds, until a process is the command
MESSAGE = 1 << 16  # bytes


class Command(Protocol):
    """What is run again and again."""

    owner: tuple[int, int]
    """The user and the group who the pipe belongs to that the command prints to."""

    def prepare(self) -> None:
        """Make the keeper what every run begins with."""

    def become(self, caps: CapSet) -> None:
        """Make a child of the keeper what the command shall be, with these capabilities."""

    def begin(self, has_begun: Callable[[], None]) -> None:
        """Be the command; what is no program says that it has begun, and returns at its end."""


class Keeper:
    """Starts runs and ends them, one after another.

    Each method raises AuditError for what the keeper could not do.
    """

    def __init__(self, command: Command) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = os.fork()
        if not self._process:
            self._socket.close()
            _keep(theirs, command)
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """What becomes readable when `end` has an answer."""
        return self._socket.fileno()

    def start(self, caps: CapSet) -> int:
        """Start a run, up to where the command begins; its process."""
        return int(self._ask('start', caps.mask))

    def go(self) -> None:
        """Let the command begin."""
        self._ask('go')

    def end(self) -> tuple[int, bool]:
        """Wait for the end of the command's first process; its status, and if others still run."""
        status, others = self._answer()
        return status, others

    def stop(self) -> tuple[bool, str]:
        """End the run; whether more than its first process had not ended, and what it printed."""
        others, said = self._ask('stop')
        return others, said

    def _ask(self, *words: object) -> Any:
        with suppress(BrokenPipeError):  # then it does not answer either
            self._socket.send(json.dumps(words).encode())
        return self._answer(words[0])

    def _answer(self, wanted: object = None) -> Any:
        while True:
            content = self._socket.recv(MESSAGE)
            if not content:
                raise AuditError('the process that starts the command was killed')
            what, error, answer = json.loads(content)
            if error:
                raise AuditError(error)
            if wanted in (None, what):  # else it is about an end that nobody waits for
                return answer

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs, and the keeper."""
        self._socket.close()
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)


def _keep(audit: socket.socket, command: Command) -> NoReturn:
    try:
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()  # no key of a terminal ends it
        run_calls([prctl('being a subreaper', PR_SET_CHILD_SUBREAPER, 1)], False)
        keeping = _Keeping(audit, command)
        keeping.answer('prepare', command.prepare)
        while request := keeping.next_request():
            what, *arguments = json.loads(request)
            method = {'start': keeping.start, 'go': keeping.go, 'stop': keeping.stop}[what]
            keeping.answer(what, method, *arguments)
    finally:
        with suppress(BaseException):
            kill_children()
        os._exit(0)


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    name = f'{error.filename}: ' if isinstance(error.filename, str) else ''
    return f'{name}{error.strerror}'


class _Keeping:
    """The keeper's own side; between runs it has no child."""

    def __init__(self, audit: socket.socket, command: Command) -> None:
        self._audit, self._command = audit, command
        self._child = 0
        self._fds: dict[str, int] = {}
        self._said = b''

    def answer(self, what: str, method: Any, *arguments: Any) -> None:
        try:
            error, result = '', method(*arguments)
        except (OSError, AuditError) as why:
            error, result = _reason(why), None
        self._audit.send(json.dumps((what, error, result)).encode())

    def next_request(self) -> bytes:
        """What the audit asks next; meanwhile read what the command prints, and see it end."""
        poll = select.poll()
        for fd in self._audit.fileno(), self._fds.get('output'), self._fds.get('pidfd'):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._fds.get('output') in ready and not self._read():
                poll.unregister(self._fds['output'])
            if self._fds.get('pidfd') in ready:
                poll.unregister(self._fds['pidfd'])
                self.answer('end', self._end)
            if self._audit.fileno() in ready:
                return self._audit.recv(MESSAGE)

    def start(self, mask: int) -> int:
        self._fds['report'], report = os.pipe()
        go, self._fds['go'] = os.pipe()
        self._fds['output'], output = os.pipe()
        os.set_blocking(self._fds['output'], False)
        try:
            os.fchown(output, *self._command.owner)  # it may be opened as /dev/stderr
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise AuditError(
                    'this user namespace has no such account: name another with --as'
                ) from None
            raise
        self._said = b''
        self._child = os.fork()
        if not self._child:
            self._be_command(CapSet.from_mask(mask), report, go, output)
        for fd in report, go, output:
            os.close(fd)
        self._fds['pidfd'] = os.pidfd_open(self._child)
        if (message := self._report()) != b'.':
            self.stop()
            raise AuditError(os.fsdecode(message[1:]) or 'the command was killed before it began')
        return self._child

    def go(self) -> None:
        os.write(self._fds['go'], b'.')
        if message := self._report():
            self.stop()
            raise AuditError(os.fsdecode(message[1:]))

    def _report(self) -> bytes:
        """What the child says of its start, which its account can stop at any time."""
        poll = select.poll()
        for fd in self._fds['report'], self._audit.fileno():  # the audit asks nothing meanwhile
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(BEGINNING * 1000)}
        if self._fds['report'] in ready:
            return os.read(self._fds['report'], MESSAGE)
        self.stop()
        raise AuditError(f'the command has not begun after {BEGINNING:g} seconds')

    def stop(self) -> tuple[bool, str]:
        others = self._has_others()
        if left := kill_children():
            raise AuditError(f'processes that cannot be killed: {", ".join(map(str, left))}')
        for _ in range(READS):  # others can keep it full: it is open to the command's account
            if not self._read():
                break
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        return others, self._said.decode(errors='replace')

    def _read(self) -> bool:
        """Read a part of what was printed; whether there may be more."""
        try:
            part = os.read(self._fds['output'], MESSAGE)
        except BlockingIOError:
            return False
        self._said = (self._said + part)[-SAID:]
        return bool(part)

    def _end(self) -> tuple[int, bool]:
        result = os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)
        assert result
        status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        return status, self._has_others()

    def _has_others(self) -> bool:
        return bool(set(children()) - {self._child})

    def _be_command(self, caps: CapSet, report: int, go: int, output: int) -> NoReturn:
        status = 1
        try:
            self._audit.close()
            for fd in self._fds.values():
                os.close(fd)
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            for fd, at in (null, 0), (output, 1), (output, 2):
                os.dup2(fd, at)
            for number in signal.SIGPIPE, signal.SIGXFSZ:
                signal.signal(number, signal.SIG_DFL)
            _caps.system_calls([OWN_KEYRING], False)  # where it is allowed
            self._command.become(caps)
            run_calls([prctl('ending with the keeper', PR_SET_PDEATHSIG, signal.SIGKILL)], False)
            os.write(report, b'.')
            if os.read(go, 1):
                self._command.begin(lambda: os.close(report))
                status = 0
        except Exception as why:
            os.write(report, b'!' + os.fsencode(_reason(why))[:SAID])
        finally:
            os._exit(status)
