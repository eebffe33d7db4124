"""A process that may execute something: its state, and what the model does not know of it."""

from __future__ import annotations

import errno
import glob
import os
import pwd
import re
from collections.abc import Iterator, Mapping

from caps import CapSet, SecureBits
from caps.proc import comm, read, require, status_fields
from caps.system.pam import login_of
from caps.system.records import dataclass, field, replace
from caps.system.types import Ids, Process, UserNamespace


@dataclass(frozen=True)
class Actor:
    """A process, with what the model cannot take into account."""

    pid: int
    name: str
    process: Process
    caveats: tuple[str, ...] = field(default_factory=tuple)


def look_at_process(pid: int | None = None) -> Actor:
    """A process, by default the one that asks; OSError where there is none."""
    own = require()
    directory = f'/proc/{pid or "self"}'
    if not os.path.exists(directory):
        raise ProcessLookupError(errno.ESRCH, 'no such process', str(pid))
    fields = status_fields(directory)
    uid, gid, groups = (tuple(map(int, fields[name].split())) for name in ('Uid', 'Gid', 'Groups'))
    process = Process(
        effective=CapSet.from_mask(int(fields['CapEff'], 16)),
        permitted=CapSet.from_mask(int(fields['CapPrm'], 16)),
        inheritable=CapSet.from_mask(int(fields['CapInh'], 16)),
        ambient=CapSet.from_mask(int(fields['CapAmb'], 16)),
        bounding=CapSet.from_mask(int(fields['CapBnd'], 16)),
        uid=Ids(*uid[:3]),
        gid=Ids(*gid[:3]),
        groups=frozenset(groups),
        securebits=SecureBits() if pid else SecureBits.from_process(),
        no_new_privs=fields['NoNewPrivs'] == '1',
        namespace=_namespace(directory),
        compares_real=is_kernel_before(6, 16),
    )
    caveats = tuple(_caveats(directory, fields, bool(pid)))
    return Actor(pid or own, comm(directory), process, caveats)


def is_kernel_before(*version: int) -> bool:
    """Whether the kernel that runs is older than a version."""
    numbers = re.match(r'(\d+)\.(\d+)', os.uname().release)
    return numbers is not None and tuple(map(int, numbers.groups())) < version


def _namespace(directory: str) -> UserNamespace:
    """The user namespace of a process, in ids of our own."""
    is_ours = _same_namespace(directory, 'user')
    ranges: dict[str, list[range]] = {}
    roots: list[int] = []
    for kind in 'gid', 'uid':
        rows = [map(int, line.split()) for line in read(f'{directory}/{kind}_map').splitlines()]
        ranges[kind], roots = [], []
        for inside, outside, count in rows:
            start = inside if is_ours else outside
            ranges[kind].append(range(start, start + count))
            roots += [start] if inside == 0 else []
    roots = roots or [-1]
    maps = tuple(ranges['uid']), tuple(ranges['gid'])
    return UserNamespace(tuple(roots if is_ours else [*roots, 0]), *maps)


def _same_namespace(directory: str, kind: str) -> bool:
    try:
        return os.readlink(f'{directory}/ns/{kind}') == os.readlink(f'/proc/self/ns/{kind}')
    except PermissionError:
        return True


def _caveats(directory: str, fields: Mapping[str, str], is_other: bool) -> Iterator[str]:
    """What execve(2) also depends on, and the model does not take into account."""
    if int(fields['TracerPid']):
        yield (
            f'process {fields["TracerPid"]} traces it: unless the tracer has cap_sys_ptrace, a '
            'program gains no privilege (ptrace(2))'
        )
    if fields.get('Seccomp', '0') == '2':
        yield 'a seccomp filter may refuse system calls to it and to the program (seccomp(2))'
    if len({*fields['Uid'].split()[1::2]}) > 1:
        yield 'its file system user is not its effective one (setfsuid(2))'
    if is_other:
        yield 'the secure bits of another process cannot be read: none is taken to be set'
        if not _same_namespace(directory, 'mnt'):
            yield 'it has another mount namespace: the file is the one that is seen from here'
    for module in _security_modules(directory):
        yield f'the security module {module} may refuse or change an execution'
    for handler in sorted(glob.glob('/proc/sys/fs/binfmt_misc/*')):
        if os.path.basename(handler) not in ('register', 'status'):
            yield f'binfmt_misc hands some files to an interpreter: see {handler}'
    if not os.path.exists('/proc/sys'):
        yield 'whether binfmt_misc hands files to interpreters: /proc is mounted with subset=pid'
    try:
        options = read('/proc/cmdline').split()
    except OSError as error:
        options = []
        yield f'whether the kernel was booted with no_file_caps: /proc/cmdline: {error.strerror}'
    if 'no_file_caps' in options:
        yield 'the kernel was booted with no_file_caps: the capabilities of files mean nothing'


def _security_modules(directory: str) -> list[str]:
    try:
        modules = read('/sys/kernel/security/lsm').strip().split(',')
    except OSError:
        try:
            label = read(f'{directory}/attr/current').strip('\0\n')
        except OSError:
            label = ''
        return [f'that labels it {label!r}'] if label else []
    known = {'selinux', 'apparmor', 'smack', 'tomoyo', 'bpf', 'ipe', 'ima', 'evm', 'loadpin'}
    return [module for module in modules if module in known]


def as_user(actor: Actor, user: str | int) -> Actor:
    """A process that has become a user as setuid(2), initgroups(3) and pam_cap(8) make it.

    Raises LookupError where there is no such account.
    """
    process, name, caveats = actor.process, str(user), actor.caveats
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise LookupError(f'there is no user {name!r}') from None
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    is_root = entry.pw_uid == process.namespace.roots[0] and 'noroot' not in process.securebits
    held = process.bounding if is_root else CapSet()
    inheritable, bounding = process.inheritable, process.bounding
    if login := login_of(entry.pw_name, groups):
        line = f'the line for this account in {login.configuration}'
        if login.iab:
            inheritable = (login.iab.inheritable | login.iab.ambient) & bounding
            bounding &= login.iab.bounding
            caveats += (f'{line} is for logins with pam_cap, as by {login.service}, and no others',)
        else:
            caveats += (f'{line}, which pam_cap of {login.service} reads, cannot be understood',)
        if login.iab and login.iab.ambient:
            caveats += (f'{line} has ambient capabilities, which need an option of pam_cap',)
    process = replace(
        process,
        effective=held,
        permitted=held,
        inheritable=inheritable,
        ambient=CapSet(),
        bounding=bounding,
        uid=Ids(*[entry.pw_uid] * 3),
        gid=Ids(*[entry.pw_gid] * 3),
        groups=groups,
    )
    return replace(actor, process=process, caveats=caveats)
