"""Where an installation and its interpreter may lie: open to all, and root's alone to change."""

import errno
import os
import stat
from collections.abc import Iterator

from caps.system.path import strangers, way


def without_links(path: str | os.PathLike[str]) -> str:
    """A path without links but, maybe, the last: Python finds a virtual environment by that."""
    directory, base = os.path.split(path)
    return os.path.join(os.path.realpath(directory), base)


def interpreter_flaws(path: str) -> Iterator[str]:
    """Why a program cannot be the interpreter; path: to it, `without_links`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, 'rb') as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.EINVAL, 'not a regular file')
            head = file.read(4)
    except OSError as error:
        yield f'{path} cannot be the interpreter: {error.strerror}: choose another --interpreter'
        return
    if head.startswith(b'#!'):
        yield f'{path} is a script, on which the kernel ignores capabilities: name the program'
    elif head != b'\x7fELF':
        yield f'{path} is not a program'
    yield from directory_flaws(os.path.dirname(path))
    program, chain = path, ''
    while os.path.islink(program):
        program = without_links(os.path.join(os.path.dirname(program), os.readlink(program)))
        chain += f' -> {program}'
        for flaw in directory_flaws(os.path.dirname(program)):
            yield f'{flaw} (by way of {path}{chain})'
    if info.st_mode & 0o005 != 0o005:
        yield (
            f'{program} is closed to other accounts, which run the scripts: '
            'choose another --interpreter'
        )
    if info.st_uid or info.st_mode & 0o022:
        yield f'users other than root can change {program}: choose another --interpreter'


def place_flaws(directory: str) -> Iterator[str]:
    """What is wrong with a directory, or with where it would be, for a privileged file."""
    yield from directory_flaws(directory)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    flags = os.statvfs(directory).f_flag
    for flag, name, text in (
        (
            os.ST_NOSUID,
            'suid',
            'nosuid mount, where file capabilities and set-user-ID mean nothing',
        ),
        (os.ST_NOEXEC, 'exec', 'noexec mount, where no program runs'),
    ):
        if flags & flag:
            yield f'{directory} is on a {text}: choose another --prefix, or mount -o remount,{name}'


def directory_flaws(directory: str) -> Iterator[str]:
    """What is wrong with a directory, or with the way to where it would be, for all to use."""
    for path, info in way(directory):
        if not info.st_mode & 0o001:
            yield (
                f'{path} is closed to other accounts, which run the scripts: '
                'choose another --interpreter or --prefix'
            )
    yield from strangers(directory)


def stops(path: str) -> Iterator[str]:
    """Where a path leads, and before that each directory that has a link on its way."""
    here, rest, links = '/', path.split('/')[::-1], 40  # as many as the kernel follows
    while rest:
        step = os.path.normpath(os.path.join(here, rest.pop()))
        if links and os.path.islink(step):
            yield here
            target, links = os.readlink(step), links - 1
            rest += target.split('/')[::-1]
            here = '/' if target.startswith('/') else here
        else:
            here = step
    yield here
