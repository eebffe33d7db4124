import os
from types import TracebackType

from caps.capset import CapSet

PathOrFd = str | bytes | os.PathLike[str] | os.PathLike[bytes] | int

MAX_THREADS: int
CAPSET: int
CAPSET_VERSION: int
KEYCTL: int
PRCTL: int
RENAMEAT2: int
SETGROUPS: int
SETRESGID: int
SETRESUID: int
UNSHARE: int
PR_CAPBSET_DROP: int
PR_CAP_AMBIENT: int
PR_CAP_AMBIENT_CLEAR_ALL: int
PR_CAP_AMBIENT_RAISE: int
PR_SET_CHILD_SUBREAPER: int
PR_SET_KEEPCAPS: int
PR_SET_NO_NEW_PRIVS: int
PR_SET_SECUREBITS: int

def get_process(pid: int, /) -> str: ...
def set_process(text: str, /) -> None: ...
def get_file(file: PathOrFd, /) -> tuple[str | None, int]: ...
def set_file(file: PathOrFd, text: str | None, root_id: int, /) -> None: ...
def get_iab(pid: int, /) -> str: ...
def canonical(text: str, /) -> str: ...
def canonical_iab(text: str, /) -> str: ...
def system_calls(
    calls: list[tuple[int | bytes, ...]], all_threads: bool, /
) -> tuple[int, int, list[int], int] | None: ...

class Raised:
    _mask: int
    def __enter__(self) -> CapSet: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

def names() -> tuple[str, ...]: ...
def securebits() -> int: ...
def no_new_privs() -> bool: ...
def max_bits() -> int: ...
def find_in(
    directories: tuple[bytes, ...], top: int, /
) -> tuple[list[tuple[bytes, bytes | int]], list[bytes]]: ...
