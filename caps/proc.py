"""Small readers of /proc that several rooms share; see proc(5)."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def own_pid() -> int | None:
    """The number that /proc has for this process, which may be of an outer pid namespace.

    Returns None where /proc is not mounted, or for a pid namespace without this process.
    """
    try:
        return int(os.readlink('/proc/self'))
    except OSError:
        return None


def require() -> int:
    """What `own_pid` returns.

    Raises OSError where it returns None.
    """
    import errno

    pid = own_pid()
    if pid is not None:
        return pid
    if os.path.exists('/proc/mounts') or os.path.lexists('/proc/self'):
        reason = 'it is of a pid namespace without this process: mount -t proc proc /proc'
    else:
        reason = 'it is not mounted: mount -t proc proc /proc'
    raise OSError(errno.ENOENT, f'this needs /proc, and {reason}')


def read(path: str) -> str:
    """The text of a file of /proc, in which names need not be UTF-8.

    path: of the file.
    Raises OSError where there is no such file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b''.join(iter(lambda: os.read(fd, 1 << 16), b''))
    finally:
        os.close(fd)
    return content.decode(errors='surrogateescape')


def status_fields(directory: str) -> dict[str, str]:
    """What /proc/PID/status says of a process or thread, by name; values need not be UTF-8.

    directory: of the process or thread, such as /proc/self.
    Raises OSError where there is no such process or thread.
    """
    # The name may have any characters, so it is kept out of what the others are split at.
    name, _, rest = read(f'{directory}/status').partition('\n')
    words = iter(rest.rstrip('\n').replace('\n', ':\t').split(':\t'))
    return {'Name': name.partition(':\t')[2], **dict(zip(words, words, strict=False))}


def some_status_fields(directory: str, names: 'Iterable[str]') -> tuple[str, ...]:
    """The values that `status_fields` would give for some names; quicker, for many threads.

    directory: of the process or thread, such as /proc/self.
    names: of fields that the kernel has, none of them the first.
    Raises OSError where there is no such process or thread.
    """
    text = b''
    fd = os.open(f'{directory}/status', os.O_RDONLY | os.O_CLOEXEC)
    try:
        while part := os.read(fd, 1 << 16):
            text += part
    finally:
        os.close(fd)
    return tuple(
        text.partition(f'\n{name}:'.encode())[2].partition(b'\n')[0].strip().decode()
        for name in names
    )


def comm(directory: str) -> str:
    """The name of a process or thread.

    directory: of the process or thread, such as /proc/self.
    Raises OSError where there is no such process or thread.
    """
    return read(f'{directory}/comm')[:-1]
