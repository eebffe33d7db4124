"""Files that carry capabilities, below a directory."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from caps import Caps, _caps

# The calls release the interpreter's lock; what is left under it feeds no more threads than these.
WORKERS = 4
ANY_MOUNT = -1


@dataclass
class Findings:
    """What a search has found so far.

    files: each path with its capabilities, sorted in the end
    problems: an OSError for everything that could not be looked at
    searched: how many directories have been
    """

    files: list[tuple[str, Caps]] = field(default_factory=list)
    problems: list[OSError] = field(default_factory=list)
    searched: int = 0


class _Search:
    """The work of threads that hand one another directories, and add to the same findings."""

    def __init__(self, directory: bytes, top: int, workers: int) -> None:
        self.findings = Findings()
        self.failure: BaseException | None = None
        self.ended = threading.Event()
        self._root, self._top = directory, top
        self._real = os.path.realpath(directory)
        self._shared = [self._real]
        self._workers, self._idle = workers, 0
        self._changed = threading.Condition()

    def work(self) -> None:
        """Search until no directory is left; to be run by each of the workers."""
        try:
            self._search()
        except BaseException as error:
            self.failure = error
            self.ended.set()

    def _search(self) -> None:
        mine: list[bytes] = []
        while mine or (mine := self._take()):
            directory = mine.pop()
            prefix = directory.rstrip(b'/') + b'/'
            try:
                files, below = _caps.find_in(directory, self._top)
                mine += [prefix + name for name in below]
                for name in files:
                    self._look_at(prefix + name)
            except (FileNotFoundError, ProcessLookupError):
                pass  # gone meanwhile
            except OSError as error:
                self._note(error, directory)
            self.findings.searched += 1
            if self._idle and len(mine) > 1:
                self._share(mine)

    def _take(self) -> list[bytes]:
        with self._changed:
            self._idle += 1
            while not self._shared:
                if self._idle == self._workers:
                    self.ended.set()
                    self._changed.notify_all()
                    return []
                self._changed.wait()
            self._idle -= 1
            taken, self._shared = self._shared, []
            return taken

    def _share(self, mine: list[bytes]) -> None:
        with self._changed:
            half = len(mine) // 2
            self._shared += mine[:half]  # the ones nearest to the top, with the most below them
            del mine[:half]
            self._changed.notify()

    def _look_at(self, path: bytes) -> None:
        try:
            caps = _read(path)
        except FileNotFoundError:
            return
        except OSError as error:
            self._note(error, path)
        else:
            if caps.marked:
                self.findings.files.append((self._named(path), caps))

    def _note(self, error: OSError, path: bytes) -> None:
        self.findings.problems.append(OSError(error.errno, error.strerror, self._named(path)))

    def _named(self, path: bytes) -> str:
        """A path as seen from the directory that was named, which may be a link."""
        below = path[len(self._real) :].lstrip(b'/')
        return os.fsdecode(os.path.join(self._root, below) if below else self._root)


def _read(path: bytes) -> Caps:
    """The capabilities of the file that a path without links leads to.

    An account that may write to a directory on the way may have put a link there meanwhile.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    *directories, name = path.split(b'/')[1:]
    with ExitStack() as opened:

        def enter(name: bytes, flags: int, directory: int | None) -> int:
            fd = os.open(name, flags, dir_fd=directory)
            opened.callback(os.close, fd)
            return fd

        try:
            way = enter(b'/', os.O_PATH | flags, None)
            for directory in directories:
                way = enter(directory, os.O_PATH | os.O_DIRECTORY | flags, way)
            file = enter(name, os.O_PATH | flags, way)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise OSError(errno.ESTALE, 'moved while it was looked at') from None
            raise
        if not os.path.exists(f'/proc/self/fd/{file}') and stat.S_ISREG(os.fstat(file).st_mode):
            readable = enter(name, os.O_RDONLY | os.O_NONBLOCK | flags, way)
            if os.path.samestat(os.fstat(file), os.fstat(readable)):
                file = readable  # since without /proc only such a descriptor leads to attributes
        return Caps.from_file(file)


def find(
    directory: str | os.PathLike[str],
    *,
    all_file_systems: bool = False,
    watch: Callable[[Findings], None] | None = None,
) -> Findings:
    """Find the files below a directory that carry capabilities, empty ones included.

    directory: may itself be a symbolic link, or a file; no link below it is followed.
    all_file_systems: also enter what is mounted below.
    watch: is called ten times a second until the search has ended.
    Returns the findings: a file with several hard links is listed under each name, and what cannot
    be read is a problem.
    Raises OSError where there is no such directory, or no thread can be started; see xattr(7).
    """
    name = os.fsencode(directory)
    top = os.open(name, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = os.fstat(top).st_mode
        if stat.S_ISREG(mode):
            return _one(name)
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
        return _search(name, ANY_MOUNT if all_file_systems else top, watch)
    finally:
        os.close(top)


def _one(name: bytes) -> Findings:
    """What there is to find in a single file."""
    caps = Caps.from_file(name)
    return Findings([(os.fsdecode(name), caps)] if caps.marked else [])


def _search(name: bytes, top: int, watch: Callable[[Findings], None] | None) -> Findings:
    workers = min(WORKERS, len(os.sched_getaffinity(0)))
    search = _Search(name, top, workers)
    findings = search.findings
    for _ in range(workers):
        try:
            threading.Thread(target=search.work, daemon=True).start()
        except RuntimeError:
            raise OSError(errno.EAGAIN, 'no thread can be started, see ulimit -u') from None
    while not search.ended.wait(0.1 if watch else None):
        if watch:
            watch(findings)
    if search.failure:
        raise search.failure
    findings.files.sort(key=lambda file: os.fsencode(file[0]))
    findings.problems.sort(key=lambda problem: os.fsencode(problem.filename))
    return findings
