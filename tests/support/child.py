"""Functions that run in a child, since what they do to their process cannot be undone."""

import ctypes
import functools
import os
import pickle
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from support.accounts import Account
from support.children import loopback
from support.children.inside import PATIENCE

P = ParamSpec('P')
T = TypeVar('T')
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def in_a_child(function: Callable[P, T]) -> Callable[P, T]:
    """Have each call of a function made in a fork; what it returns there is returned.

    Its threads end with it. A program that it executes has the test's streams.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        with tempfile.TemporaryFile() as file:
            for stream in sys.stdout, sys.stderr:
                stream.flush()
            child = os.fork()
            if not child:
                status = 1
                try:
                    file.write(pickle.dumps(function(*arguments, **options)))
                    status = 0
                except BaseException:
                    file.write(traceback.format_exc().encode(errors='backslashreplace'))
                finally:
                    for stream in file, sys.stdout, sys.stderr:
                        stream.flush()
                    os._exit(status)
            pidfd = os.pidfd_open(child)
            ended = select.select([pidfd], [], [], PATIENCE)[0]
            os.close(pidfd)
            if not ended:
                os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            file.seek(0)
            said = file.read()
            if code:
                pytest.fail(f'the child ended with {code}\n{said.decode()}', pytrace=False)
            result: T = pickle.loads(said)
            return result

    return call


def become(account: Account) -> None:
    os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)


def unshare(kind: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(kind) < 0:
        raise OSError(ctypes.get_errno(), 'unshare')


def enter_network_namespace() -> None:
    """Have this process be where no port is taken."""
    unshare(CLONE_NEWNET)
    loopback.set_up()


def enter_user_namespace(inside: int = 0, outside: int = 0, setgroups: bool = True) -> None:
    """Have this process be in a new user namespace, which has one account and one group."""
    process, (told, tell) = Path('/proc', str(os.getpid())), os.pipe()
    if writer := os.fork():
        unshare(CLONE_NEWUSER)
        os.write(tell, b'\n')
        assert os.waitpid(writer, 0)[1] == 0, 'the namespace got no accounts'
        return
    status = 1
    try:  # in the old namespace, since only there is every account to be given
        os.read(told, 1)
        if not setgroups:
            (process / 'setgroups').write_text('deny')
        for name in 'uid_map', 'gid_map':
            (process / name).write_text(f'{inside} {outside} 1')
        status = 0
    finally:
        os._exit(status)
