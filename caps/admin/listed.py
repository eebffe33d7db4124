"""What a manifest lists."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from caps import Caps, CapSet
from caps.accounts import id_of
from caps.admin.quoting import quoted


@dataclass(slots=True)
class Listed:
    """A file as it is to be.

    path: absolute
    text, root_id: its capabilities, the text being for a kernel that may know more than this one
    owner, group: by name, or by number in digits where there is no name
    mode: its permissions
    sha256: of its content, None for what a package manager verifies
    """

    path: str
    text: str
    owner: str
    group: str
    mode: int
    root_id: int = 0
    sha256: str | None = None

    @property
    def ids(self) -> tuple[int, int]:
        """The numbers of its owner and group; raises LookupError where there is no such account."""
        return id_of('user', _account(self.owner)), id_of('group', _account(self.group))

    @property
    def caps(self) -> Caps:
        """Its capabilities; raises ValueError where this kernel does not know one."""
        caps = Caps(self.text)
        caps.root_id = self.root_id
        return caps

    def __str__(self) -> str:
        words = ['file', quoted(self.path), quoted(self.text), quoted(self.owner)]
        words += [quoted(self.group), f'{self.mode:o}']
        words += [f'rootid={self.root_id}'] if self.root_id else []
        words += [f'sha256={self.sha256}'] if self.sha256 else []
        return ' '.join(words)


@dataclass(slots=True)
class ListedPpy:
    """A ppy as it is to be installed; see `caps.admin.ppy.install`.

    text: what its scripts can be given, as a list of capabilities; empty for all
    """

    prefix: str
    name: str
    interpreter: str
    text: str = ''
    group: str | None = None
    setuid: bool = False
    allow_root: bool = False

    @property
    def path(self) -> str:
        """The path of the launcher."""
        return os.path.join(self.prefix, 'bin', self.name)

    @property
    def caps(self) -> Caps:
        """What its scripts can be given; raises ValueError where this kernel does not know one."""
        return Caps(inheritable=CapSet(self.text) if self.text else CapSet.all())

    def __str__(self) -> str:
        words = ['ppy', *map(quoted, (self.prefix, self.name, self.interpreter))]
        words += [f'allow={quoted(self.text)}'] if self.text else []
        words += [f'group={quoted(self.group)}'] if self.group else []
        words += ['setuid'] * self.setuid + ['allow-root'] * self.allow_root
        return ' '.join(words)


@dataclass(slots=True)
class ListedVenv:
    """A virtual environment whose python is to be marked; see `caps.admin.venv.mark`.

    owner: whose the environment is, by name or by number
    group: whose members may run the python, None for everyone
    """

    path: str
    text: str
    owner: str
    group: str | None = None

    @property
    def uid(self) -> int:
        """The number of its owner; raises LookupError where there is no such account."""
        return id_of('user', _account(self.owner))

    @property
    def caps(self) -> Caps:
        """Its capabilities; raises ValueError where this kernel does not know one."""
        return Caps(self.text)

    def __str__(self) -> str:
        words = ['venv', quoted(self.path), quoted(self.text), quoted(self.owner)]
        words += [f'group={quoted(self.group)}'] if self.group else []
        return ' '.join(words)


ListedCopy = ListedPpy | ListedVenv


@dataclass
class Manifest:
    """What a manifest says: files by path, and the directories that were searched for them.

    copies: what runs a copy of an interpreter, by path
    """

    files: dict[str, Listed] = field(default_factory=dict)
    searched: list[str] = field(default_factory=list)
    copies: dict[str, ListedCopy] = field(default_factory=dict)

    def each(self) -> Iterator[Listed]:
        """The files."""
        yield from self.files.values()

    def __contains__(self, path: str) -> bool:
        return path in self.files


def _account(name: str) -> str | int:
    return int(name) if name.isdecimal() else name
