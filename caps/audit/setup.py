"""What a process makes of itself before it becomes the command: account, capabilities, mounts."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caps import IAB, Caps, CapSet, _caps
from caps.accounts import id_of
from caps.audit.types import AuditError
from caps.system.look import look_at, part
from caps.threads import NO_NEW_PRIVS, capset, drop_bounding, prctl, run_calls

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x1000, 0x4000, 1 << 18, 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_NOSUID = 442, -100, 0x8000, 2
PLACE = b'/dev'  # a directory that is always there, and that nobody but root can move
SIZE = 1 << 26  # bytes that a script may have


@dataclass(frozen=True)
class Account:
    """Who a command runs as.

    name, uid, gid, groups: the account
    home, shell: for the environment
    """

    name: str
    uid: int
    gid: int
    groups: Sequence[int]
    home: str = '/'
    shell: str = '/bin/sh'

    @classmethod
    def of(cls, user: str | int) -> Account:
        """The account with a name or a number.

        user: the name or number.
        Raises LookupError where there is none.
        """
        uid = id_of('user', int(user) if str(user).isdecimal() else user)
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise LookupError(f'there is no user {uid}') from None
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir, entry.pw_shell)

    @classmethod
    def unused(cls) -> Account:
        """A number that is no account's, so that no other process runs as it."""
        from caps.admin.copies import unused_id

        number = unused_id()
        return cls(str(number), number, number, ())

    @classmethod
    def usual(cls) -> Account:
        """Who called sudo(8), or nobody."""
        user = os.environ.get('SUDO_UID', '0')
        try:
            return cls.of(user if user != '0' else 'nobody')
        except (LookupError, ValueError):
            return cls('65534', 65534, 65534, ())

    def environment(self) -> dict[str, str]:
        """This process's environment, with what login(1) sets."""
        login = {'USER': self.name, 'LOGNAME': self.name, 'HOME': self.home, 'SHELL': self.shell}
        return os.environ | login

    def use(self) -> None:
        """Be this account in this process, with what it is given by changing to it."""
        if (self.uid, self.gid) != (os.geteuid(), os.getegid()):
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)


def can_give() -> CapSet:
    """The capabilities that this process can give to a command."""
    return Caps.from_process().permitted & IAB.from_process().bounding


def own_mounts(*, nosuid: bool) -> None:
    """Go to a mount namespace of our own, which ends with the last process in it.

    nosuid: marks and set-user-ID bits of files neither add anything nor make execve(2) fail.
    Raises OSError where that is not allowed, AuditError where the kernel is too old for it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _must(libc.unshare(CLONE_NEWNS), 'unshare')
    _must(libc.mount(b'none', b'/', None, MS_REC | MS_PRIVATE, None), 'mount')
    if nosuid:
        attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_NOSUID, 0, 0, 0)
        arguments = AT_FDCWD, b'/', AT_RECURSIVE, attributes, ctypes.sizeof(attributes)
        _must(libc.syscall(MOUNT_SETATTR, *arguments), 'mount_setattr', since='5.12')


def become(account: Account, caps: CapSet) -> None:
    """Be an account with these capabilities in all five sets, which execve(2) cannot add to.

    Raises OSError where that is not allowed.
    """
    mask, everything = caps.mask, Caps.from_process().permitted.mask
    groups = b''.join(group.to_bytes(4, sys.byteorder) for group in account.groups)
    gid, uid = account.gid, account.uid
    calls = [
        capset(everything, everything, mask),
        *drop_bounding(IAB.from_process().bounding - caps),
        ('setgroups', (_caps.SETGROUPS, len(account.groups), groups)),
        ('setresgid', (_caps.SETRESGID, gid, gid, gid)),
        prctl('keeping capabilities', _caps.PR_SET_KEEPCAPS, 1),
        ('setresuid', (_caps.SETRESUID, uid, uid, uid)),
        prctl('keeping no more', _caps.PR_SET_KEEPCAPS, 0),
        capset(mask, mask, mask),
    ]
    for name in caps:
        bit = CapSet(name).mask.bit_length() - 1
        raising = _caps.PR_CAP_AMBIENT, _caps.PR_CAP_AMBIENT_RAISE, bit
        calls.append(prctl(f'making {name} ambient', *raising))
    run_calls([*calls, NO_NEW_PRIVS], False)


def give_mark(script: str, caps: CapSet) -> None:
    """Put a copy of a script, marked with these capabilities, in its place.

    Only this mount namespace has it: the script itself stays as it is, and the copy ends with us.
    Raises OSError where that is not possible.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    copy = os.path.join(PLACE, b'script')
    with look_at(script) as look:  # whose owner may exchange it meanwhile
        with look.opened() as fd:
            content = b'' if fd is None else part(fd, SIZE + 1)
            if fd is None or len(content) > SIZE:
                raise OSError(errno.EINVAL, 'no script, or one that cannot be read', script)
        _must(libc.mount(b'tmpfs', PLACE, b'tmpfs', 0, None), 'mount tmpfs')
        Path(os.fsdecode(copy)).write_bytes(content)
        os.chown(copy, look.info.st_uid, look.info.st_gid)
        os.chmod(copy, look.info.st_mode & 0o7777)
        Caps(inheritable=caps).apply(copy)
        _must(libc.mount(copy, b'/proc/self/fd/%d' % look.fd, None, MS_BIND, None), 'mount --bind')
    _must(libc.umount2(PLACE, MNT_DETACH), 'umount')


def _must(result: int, what: str, since: str = '') -> None:
    if result:
        number = ctypes.get_errno()
        if since and number == errno.ENOSYS:
            raise AuditError(f'an audit of a program needs Linux {since} or later, for {what}(2)')
        raise OSError(number, f'{what}: {os.strerror(number)}')
