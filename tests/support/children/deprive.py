"""Start a program as an account, and leave it no descriptor before it opens the Nth.

deprive.py UID N PROGRAM ARGUMENT...: the account does what it may do to its process. No tracer
tells attackers the moment, but they have any number of tries.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import sys
from pathlib import Path

SEIZE, CONT, SYSCALL, DETACH, TRACESYSGOOD, TRACEEXEC, EXECUTED = 0x4206, 7, 24, 17, 1, 16, 4
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4


def ptrace(*arguments: int) -> None:
    if libc.ptrace(*arguments) < 0:
        raise OSError(ctypes.get_errno(), 'ptrace')


def wait() -> int:
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if not os.WIFSTOPPED(status):
        print('ended')
        sys.exit()
    return status >> 16


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


uid, number = map(int, sys.argv[1:3])
pid = os.fork()
if not pid:
    become(uid)
    os.kill(os.getpid(), signal.SIGSTOP)
    os.execv(sys.argv[3], sys.argv[3:])
wait()
ptrace(SEIZE, pid, 0, TRACESYSGOOD | TRACEEXEC)
os.kill(pid, signal.SIGCONT)
while wait() != EXECUTED:
    ptrace(CONT, pid, 0, 0)
opening = {'x86_64': (257, 41), 'aarch64': (56, 198)}[platform.machine()]  # openat and socket
while number >= 0:
    ptrace(SYSCALL, pid, 0, 0)
    wait()
    number -= int(Path(f'/proc/{pid}/syscall').read_text().split()[0]) in opening
    if number >= 0:
        ptrace(SYSCALL, pid, 0, 0)
        wait()
if not os.fork():
    become(uid)
    with contextlib.suppress(PermissionError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, 4))
        print('limited', flush=True)
    os._exit(0)
os.wait()
ptrace(DETACH, pid, 0, 0)
os.waitpid(pid, 0)
