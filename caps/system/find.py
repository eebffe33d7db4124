"""Files that carry capabilities, below a directory."""

import errno
import os
import stat
import threading
from collections.abc import Callable

from caps import Caps, _caps, refusals
from caps.system.records import dataclass, field
from caps.system.types import FileCaps

# The calls release the interpreter's lock; what is left under it feeds no more threads than these.
WORKERS = 4
AT_ONCE = 16  # directories, as many as one call takes
ANY_MOUNT = -1


@dataclass
class Findings:
    """What a search has found so far.

    files: each path with its capabilities, sorted in the end; files whose attributes are alike
        share one state
    problems: an OSError for everything that could not be looked at
    searched: how many directories have been
    """

    files: list[tuple[str, Caps]] = field(default_factory=list)
    problems: list[OSError] = field(default_factory=list)
    searched: int = 0

    def take(self) -> list[tuple[str, Caps]]:
        """The files since the last time, which are forgotten here."""
        taken = self.files[:]
        del self.files[: len(taken)]
        return taken


class _States(dict[bytes, Caps]):
    """The state of each attribute, which many files have alike."""

    def __missing__(self, attribute: bytes) -> Caps:
        state = self[attribute] = FileCaps.from_xattr(attribute).state
        return state


class _Search:
    """The work of threads that hand one another directories, and add to the same findings."""

    def __init__(self, directory: bytes, top: int, workers: int) -> None:
        self.findings = Findings()
        self.failure: BaseException | None = None
        self.ended = threading.Event()
        self._top = top
        self._real = os.path.realpath(directory)
        self._below = len(self._real.rstrip(b'/'))
        self._root = os.fsdecode(directory.rstrip(b'/'))
        self._states = _States()
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
            directories = (*mine[-AT_ONCE:],)
            del mine[-AT_ONCE:]
            found, below = _caps.find_in(directories, self._top)
            mine += below
            files = []
            for path, value in found:
                if isinstance(value, int):
                    self._note(value, path)
                else:
                    files.append((self._named(path), self._states[value]))
            self.findings.files += files
            self.findings.searched += len(directories)
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

    def _note(self, error: int, path: bytes) -> None:
        """Note why a file or a directory cannot be looked at, unless it is gone meanwhile."""
        if error in (errno.ENOENT, errno.ESRCH):
            return
        reason = refusals.of_file(OSError(error, os.strerror(error)), path, write=False)
        if error in (errno.ELOOP, errno.ENOTDIR):  # a link is in its place
            error, reason = errno.ESTALE, 'moved while it was looked at'
        self.findings.problems.append(OSError(error, reason, self._named(path)))

    def _named(self, path: bytes) -> str:
        """A path as seen from the directory that was named, which may be a link."""
        return self._root + os.fsdecode(path[self._below :])


def find(
    directory: str | os.PathLike[str],
    *,
    all_file_systems: bool = False,
    watch: Callable[[Findings], None] | None = None,
) -> Findings:
    """Find the files below a directory that carry capabilities, empty ones included.

    directory: may itself be a symbolic link, or a file; no link below it is followed.
    all_file_systems: also enter what is mounted below.
    watch: is called ten times a second until the search has ended, and may take what is found.
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
