"""A small file that is replaced in one step, by one command at a time.

Only root and this account can change the way to it.  A crash at any step leaves what was there,
and at most a lock and a new file that the next command takes away.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from caps.admin.copies import is_ours, sync, take_back, write_copy
from caps.admin.opening import refuse
from caps.admin.places import stops
from caps.admin.transaction import AdminError, lock, transaction, unlock
from caps.system.path import strangers


@contextmanager
def rewriting(path: str) -> Iterator[tuple[int, str]]:
    """A descriptor of a file's directory and the file's name, which no other command changes now.

    Raises AdminError where others could change the way there, and OSError.
    """
    directory, name = os.path.split(path)
    *linked, directory = stops(directory)
    for stop in (*linked, directory):
        refuse(strangers(stop, os.geteuid()), AdminError)
    with ExitStack() as held:
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        held.callback(os.close, place)
        if (locked := lock(f'.{name}.lock', place)) is not None:
            held.callback(os.close, locked)
            held.callback(unlock, locked, f'.{name}.lock', place)
        with suppress(FileNotFoundError):
            if is_ours(os.stat(_new(name), dir_fd=place, follow_symlinks=False)):
                os.unlink(_new(name), dir_fd=place)
        yield place, name


def replace(place: int, name: str, content: bytes, owner: tuple[int, int], mode: int) -> None:
    """Put a file in a place that is being rewritten, or in place of what is there."""
    with ExitStack() as held, transaction() as undo:
        written = write_copy(_new(name), content, owner, mode, None, place)
        held.callback(os.close, written)
        undo.callback(take_back, written, _new(name), place)
        os.rename(_new(name), name, src_dir_fd=place, dst_dir_fd=place)
        undo.pop_all()
        sync(place)


def _new(name: str) -> str:
    return f'.{name}.new'
