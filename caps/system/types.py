"""The plain types of the model of execve(2): the state of a process and of a file."""

from __future__ import annotations

import struct

from caps import Caps, CapSet, SecureBits
from caps.system.records import dataclass, field

SETS = 'inheritable', 'permitted', 'effective', 'ambient', 'bounding'
EVERY_ID = (range(2**32 - 1),)


@dataclass(frozen=True)
class Ids:
    """The user or the group ids of a process.

    real, effective, saved: see credentials(7)
    """

    real: int
    effective: int
    saved: int


ROOT = Ids(0, 0, 0)


@dataclass(frozen=True)
class UserNamespace:
    """The user namespace of a process; by default the initial one.

    roots: the id that is 0 in this namespace, then in each that contains it; -1 for none
    uids, gids: the ids that have a mapping in it
    """

    roots: tuple[int, ...] = (0,)
    uids: tuple[range, ...] = EVERY_ID
    gids: tuple[range, ...] = EVERY_ID

    def maps(self, uid: int, gid: int) -> bool:
        """Whether both a user and a group exist in this namespace.

        uid, gid: their numbers, as the observer has them; see user_namespaces(7).
        """
        return any(uid in ids for ids in self.uids) and any(gid in ids for ids in self.gids)


@dataclass(frozen=True)
class Process:
    """The state of a process, as far as execve(2) depends on it.

    effective, permitted, inheritable, ambient, bounding: its sets; see capabilities(7)
    uid, gid: its ids
    groups: its supplementary groups
    securebits, no_new_privs: see prctl(2)
    namespace: the user namespace that it is in
    compares_real: ids count as changed where the effective one is not the real one, and not where
        it is not the one before, as before Linux 6.16
    """

    effective: CapSet = field(default_factory=CapSet)
    permitted: CapSet = field(default_factory=CapSet)
    inheritable: CapSet = field(default_factory=CapSet)
    ambient: CapSet = field(default_factory=CapSet)
    bounding: CapSet = field(default_factory=CapSet.all)
    uid: Ids = ROOT
    gid: Ids = ROOT
    groups: frozenset[int] = frozenset()
    securebits: SecureBits = field(default_factory=SecureBits)
    no_new_privs: bool = False
    namespace: UserNamespace = UserNamespace()
    compares_real: bool = False

    @property
    def all_groups(self) -> set[int]:
        """Every group that the process acts as a member of."""
        return {self.gid.effective, *self.groups}


@dataclass(frozen=True)
class FileCaps:
    """A security.capability attribute, which has no effective set but one flag for it.

    permitted, inheritable: its sets; see capabilities(7), "File capabilities"
    effective: the flag
    root_id: the user id that is root in the user namespace that it is for, 0 for all
    """

    permitted: CapSet = field(default_factory=CapSet)
    inheritable: CapSet = field(default_factory=CapSet)
    effective: bool = False
    root_id: int = 0

    @classmethod
    def of(cls, caps: Caps) -> FileCaps | None:
        """What `caps.Caps.from_file` found or `caps.Caps.apply` would write.

        caps: the state.
        Returns None for the state of an unmarked file.
        """
        if caps.marked is False:
            return None
        return cls(caps.permitted, caps.inheritable, bool(caps.effective), caps.root_id)

    @classmethod
    def from_xattr(cls, value: bytes) -> FileCaps:
        """The attribute as getxattr(2) has it.

        value: its bytes.
        Raises ValueError where they are malformed.
        """
        size = {1: 12, 2: 20, 3: 24}.get(value[3] if len(value) > 3 else 0)
        if len(value) != size:
            raise ValueError('security.capability is malformed')
        magic, *words, root_id = struct.unpack('<6I', value.ljust(24, b'\0'))
        permitted, inheritable = words[0] | words[2] << 32, words[1] | words[3] << 32
        sets = CapSet.from_mask(permitted), CapSet.from_mask(inheritable)
        return cls(*sets, bool(magic & 1), root_id)

    @property
    def state(self) -> Caps:
        """The state that `caps.Caps.from_file` finds."""
        caps = Caps(permitted=self.permitted, inheritable=self.inheritable, root_id=self.root_id)
        caps.marked = True
        return caps.activate(*self.permitted | self.inheritable) if self.effective else caps

    def __str__(self) -> str:
        """The text that setcap(8) takes for it."""
        return str(self.state)


@dataclass(frozen=True)
class File:
    """The state of a file, as far as execve(2) depends on it.

    path: what the reasons call it
    mode, uid, gid: permissions with the set-id bits, and the owner; see inode(7)
    caps: its capabilities, None for none
    nosuid: whether the mount is nosuid, or belongs to another mount namespace, or to a user
    namespace that does not contain the process
    noexec: whether the mount executes nothing
    interpreter: the program that the first line of a script names
    is_program: whether the kernel can run it, by itself or through its interpreter
    """

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    caps: FileCaps | None = None
    nosuid: bool = False
    noexec: bool = False
    interpreter: File | None = None
    is_program: bool = True
