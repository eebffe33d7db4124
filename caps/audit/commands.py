"""What can be audited: a program as an account, a marked script under ppy, or a function."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from shutil import which

from caps import CapSet
from caps.audit.setup import Account, become, give_mark, own_mounts
from caps.audit.types import AuditError
from caps.system.launcher import read_record
from caps.threads import prctl, run_calls

PR_SET_DUMPABLE = 4


class Program:
    """A program that runs as an account, with exactly the capabilities of a run."""

    skipped = 1  # programs that are executed until it runs: itself

    def __init__(self, argv: Sequence[str], account: Account) -> None:
        self.argv, self.account = argv, account
        self._environment = account.environment()
        self.owner = account.uid, account.gid
        if not which(argv[0]):
            raise AuditError(f'there is no program {argv[0]}')

    def prepare(self) -> None:
        # In most containers it is not allowed: there marks of files are left as they are.
        self._has_mounts = False
        with suppress(PermissionError):
            own_mounts(nosuid=True)
            self._has_mounts = True

    def become(self, caps: CapSet) -> None:
        if self._has_mounts:
            own_mounts(nosuid=False)  # nosuid from the keeper on; this ends with the run
        close_on_exec()
        become(self.account, caps)

    def begin(self, has_begun: Callable[[], None]) -> None:
        # Until now nobody but root can look into this process, which has what the audit has.
        try:
            os.execvpe(self.argv[0], [*self.argv], self._environment)
        except OSError as error:
            raise AuditError(f'{self.argv[0]} cannot be executed: {error.strerror}') from None


class Today(Program):
    """A program in the state that it would have if it were started without an audit."""

    def __init__(self, argv: Sequence[str], account: Account | None) -> None:
        super().__init__(argv, account or Account.of(os.geteuid()))
        self._environment = self.account.environment() if account else dict(os.environ)
        self._is_other = account is not None

    def prepare(self) -> None:
        """Nothing is changed."""

    def become(self, caps: CapSet) -> None:
        close_on_exec()
        if self._is_other:
            self.account.use()


class Script(Program):
    """A script under ppy, whose mark has the capabilities of a run."""

    skipped = 2  # ppy, and then its interpreter

    def __init__(self, argv: Sequence[str], account: Account, ppy: str) -> None:
        launcher = which(ppy) or ppy
        if not read_record(launcher):
            raise AuditError(f'{ppy} is no installed ppy: caps ppy install makes one')
        super().__init__([launcher, *argv], account)
        self.script = os.path.realpath(argv[0])
        if not os.path.isfile(self.script):
            raise AuditError(f'there is no script {argv[0]}')

    def prepare(self) -> None:
        try:
            own_mounts(nosuid=False)
        except PermissionError:
            raise AuditError('cap_sys_admin is missing, to give a script another mark') from None

    def become(self, caps: CapSet) -> None:
        own_mounts(nosuid=False)
        give_mark(self.script, caps)
        close_on_exec()
        self.account.use()


class Function:
    """A function of this process, in a child: it has done its work when it returns."""

    skipped = 0

    def __init__(self, function: Callable[[], object], account: Account) -> None:
        self._function, self._account = function, account
        self.owner = account.uid, account.gid

    def prepare(self) -> None:
        """Nothing is to be done: a function may use the mounts that are there."""

    def become(self, caps: CapSet) -> None:
        become(self._account, caps)
        # Else /proc/self would be root's; so the account can look into the child.
        run_calls([prctl('being dumpable', PR_SET_DUMPABLE, 1)], False)

    def begin(self, has_begun: Callable[[], None]) -> None:
        has_begun()
        sys.stdout = sys.stderr = open(2, 'w', closefd=False)  # noqa: SIM115
        status = 1
        try:
            self._function()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(status)


def close_on_exec() -> None:
    """Have a program find no descriptor but the first three."""
    for fd in map(int, os.listdir('/proc/self/fd')):
        with suppress(OSError):  # the one that listed them
            os.set_inheritable(fd, fd <= 2)
