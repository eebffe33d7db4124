"""Keys in a session's keyring: what attackers do with theirs, and what a script finds in its own.

keys.py DEED ARGUMENT...
"""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
ADD_KEY, KEYCTL = {'x86_64': (248, 250), 'aarch64': (217, 219)}[platform.machine()]
JOIN_SESSION, SEARCH, SET_DEFAULT, SESSION_TO_PARENT = 1, 10, 14, 18
SESSION, USER = -3, 4


def join() -> None:
    """Have a session's keyring of this process's own."""
    if libc.syscall(KEYCTL, JOIN_SESSION, None) < 0:
        sys.exit(os.strerror(ctypes.get_errno()))


def add() -> None:
    libc.syscall(ADD_KEY, b'user', b'token', b'planted', 7, SESSION)


def plant(*command: str) -> None:
    join()
    add()
    os.execv(command[0], command)


def send(*command: str) -> None:
    """Have a child give its keyring to what this process becomes, again and again."""
    join()
    add()
    parent = os.getpid()
    if not os.fork():
        while os.getppid() == parent:
            libc.syscall(KEYCTL, SESSION_TO_PARENT)
        os._exit(0)
    os.execv(command[0], command)


def aim(*command: str) -> None:
    """Have keys go to another keyring than they go to by default."""
    libc.syscall(KEYCTL, SET_DEFAULT, USER)
    os.execv(command[0], command)


def exhaust(launcher: str, waiting: str, *command: str) -> None:
    """Launch a script while others of its owner's have all keyrings that the owner may have."""
    join()
    pipe = subprocess.PIPE
    held = [subprocess.Popen([launcher, waiting], stdin=pipe, stdout=pipe) for _ in range(205)]
    for process in held:
        assert process.stdout
        process.stdout.readline()
    add()
    subprocess.run(command)
    for process in held:
        process.communicate(b'')


def find(loot: str) -> None:
    if libc.syscall(KEYCTL, SEARCH, SESSION, b'user', b'token', 0) > 0:
        Path(loot).touch()


def find_aim(loot: str) -> None:
    if libc.syscall(KEYCTL, SET_DEFAULT, -1):  # which tells what it is
        Path(loot).touch()


if __name__ == '__main__':
    deeds = {deed.__name__: deed for deed in (plant, send, aim, exhaust, find, find_aim)}
    deeds[sys.argv[1]](*sys.argv[2:])
