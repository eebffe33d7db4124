"""What there is to know before an execve(2): looked up in files and /proc, and not judged."""

from __future__ import annotations

import errno
import glob
import os
import pwd
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from caps import IAB, Caps, CapSet, SecureBits
from caps.proc import comm, status
from caps.system.types import File, FileCaps, Ids, Process, UserNamespace

HEAD = 256  # what the kernel reads of a file to recognise it
DEPTH = 7  # one more than the kernel follows
SIZE = 1 << 26  # of a file that is read as a whole, since anyone's file is looked at
LIBRARIES = '/lib', '/usr/lib', '/lib64', '/usr/lib64'
MUSL_LIBRARIES = '/lib', '/usr/local/lib', '/usr/lib'


@dataclass(frozen=True)
class Mount:
    """The mount that a file is on; `point` is None in another mount namespace."""

    point: str | None
    kind: str
    nosuid: bool
    noexec: bool


@dataclass(frozen=True)
class Found:
    """A file, and what is worth saying about it.

    path: as it was given
    real_path: without symbolic links
    size: in bytes
    links: each symbolic link that `path` itself is, and what it names
    venv: the virtual environment that the path is in and the file is not
    shebang: the first line of a script, without its newline
    has_acl: whether it has an access control list
    file: what the model of execve(2) wants
    interpreter: the program that the shebang names
    """

    path: str
    real_path: str
    size: int
    links: tuple[tuple[str, str], ...]
    venv: str | None
    mount: Mount
    shebang: str | None
    has_acl: bool
    file: File
    interpreter: Found | None = None

    @property
    def chain(self) -> Iterator[Found]:
        """This file, its interpreter, the interpreter's interpreter, and so on."""
        yield self
        if self.interpreter:
            yield from self.interpreter.chain


@dataclass(frozen=True)
class Actor:
    """A process, with what the model cannot take into account."""

    pid: int
    name: str
    process: Process
    caveats: tuple[str, ...] = field(default_factory=tuple)


def look_at_file(path: str, depth: int = DEPTH) -> Found:
    """A file and, if it is a script, its interpreters.

    Raises OSError where there is no such file, or ValueError where its capabilities are malformed.
    """
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info, mount = os.fstat(descriptor), _mount(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EACCES, 'not a regular file, which nothing can execute', path)
    finally:
        os.close(descriptor)
    real_path = os.path.realpath(path)
    head = _head(path)
    shebang, interpreter = _shebang(head)
    try:
        found = look_at_file(interpreter, depth - 1) if interpreter and depth > 1 else None
    except FileNotFoundError as error:
        if error.filename == interpreter:
            error.strerror = f'{error.strerror}, which the first line of {path} names'
        raise
    value = _attribute(path, 'security.capability')
    return Found(
        path,
        real_path,
        info.st_size,
        links := tuple(_links(path)),
        _venv((path, *(target for _, target in links)), real_path),
        mount,
        shebang,
        _attribute(path, 'system.posix_acl_access') is not None,
        File(
            path,
            info.st_mode,
            info.st_uid,
            info.st_gid,
            None if value is None else FileCaps.from_xattr(value),
            mount.nosuid,
            mount.noexec,
            is_program=head is None or head[:4] == b'\x7fELF' or found is not None,
            interpreter=found.file if found else None,
        ),
        found,
    )


def _head(path: str) -> bytes | None:
    """The first bytes of a regular file, None where it may not be read."""
    if not os.path.isfile(path):
        return b''
    try:
        with open(path, 'rb') as file:
            return file.read(HEAD)
    except PermissionError:
        return None


def _shebang(head: bytes | None) -> tuple[str | None, str | None]:
    """The first line of a script and the interpreter in it; load_script() of the kernel."""
    if head is None or head[:2] != b'#!':
        return None, None
    line, newline, _ = head.partition(b'\n')
    words = re.split(rb'[ \t\0]', line[2:].strip(b' \t'), maxsplit=1)
    is_cut = not newline and len(head) == HEAD and len(words) == 1
    return os.fsdecode(line), None if is_cut else os.fsdecode(words[0]) or None


def _links(path: str) -> Iterator[tuple[str, str]]:
    while os.path.islink(path):
        target = os.path.join(os.path.dirname(path), os.readlink(path))
        yield path, target
        path = target


def _venv(paths: tuple[str, ...], real_path: str) -> str | None:
    for path in paths:
        venv = os.path.realpath(os.path.join(os.path.dirname(path), os.pardir))
        if os.path.exists(f'{venv}/pyvenv.cfg') and not real_path.startswith(f'{venv}/'):
            return venv
    return None


def _mount(descriptor: int) -> Mount:
    number = _mount_id(descriptor)
    for line in _read('/proc/self/mountinfo').split('\n'):
        words = line.split(' ')
        if words[0] == number:
            options = words[5].split(',')
            point = re.sub(r'\\(\d{3})', lambda match: chr(int(match[1], 8)), words[4])
            kind = words[words.index('-') + 1]
            return Mount(point, kind, 'nosuid' in options, 'noexec' in options)
    flags = os.fstatvfs(descriptor).f_flag
    noexec = bool(flags & os.ST_NOEXEC)
    root = os.open('/', os.O_PATH | os.O_CLOEXEC)
    try:
        if _mount_id(root) == number:  # chroot(2) into a directory that is no mount point
            return Mount('/', 'unknown', bool(flags & os.ST_NOSUID), noexec)
    finally:
        os.close(root)
    return Mount(None, 'unknown', True, noexec)


def _mount_id(descriptor: int) -> str:
    info = Path(f'/proc/self/fdinfo/{descriptor}').read_text()
    return info.split('mnt_id:')[1].split()[0]


def _attribute(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        if error.errno == errno.EOVERFLOW:  # for a user namespace that this one cannot see
            return struct.pack('<6I', 3 << 24, 0, 0, 0, 0, 2**32 - 1)
        raise


def look_at_process(pid: int | None = None) -> Actor:
    """A process, by default the one that asks; OSError where there is none."""
    directory = f'/proc/{pid or "self"}'
    if not os.path.exists(directory):
        raise ProcessLookupError(errno.ESRCH, 'no such process', str(pid))
    fields = status(directory)
    uid, gid, groups = (tuple(map(int, fields[name].split())) for name in ('Uid', 'Gid', 'Groups'))
    process = Process.of(
        Caps.from_process(pid or 0),
        IAB.from_process(pid or 0),
        uid=Ids(*uid[:3]),
        gid=Ids(*gid[:3]),
        groups=frozenset(groups),
        securebits=SecureBits() if pid else SecureBits.from_process(),
        no_new_privs=fields['NoNewPrivs'] == '1',
        namespace=_namespace(directory),
    )
    caveats = tuple(_caveats(directory, fields, bool(pid)))
    return Actor(pid or os.getpid(), comm(directory), process, caveats)


def _read(path: str) -> str:
    return Path(path).read_text(errors='surrogateescape')


def _namespace(directory: str) -> UserNamespace:
    """The user namespace of a process, in ids of our own."""
    is_ours = _same_namespace(directory, 'user')
    ranges: dict[str, list[range]] = {}
    roots: list[int] = []
    for kind in 'gid', 'uid':
        rows = [map(int, line.split()) for line in _read(f'{directory}/{kind}_map').splitlines()]
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
    """What has a say in execve(2) and is not in the model."""
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
    if 'no_file_caps' in _read('/proc/cmdline').split():
        yield 'the kernel was booted with no_file_caps: the capabilities of files mean nothing'


def _security_modules(directory: str) -> list[str]:
    try:
        modules = _read('/sys/kernel/security/lsm').strip().split(',')
    except OSError:
        try:
            label = _read(f'{directory}/attr/current').strip('\0\n')
        except OSError:
            label = ''
        return [f'that labels it {label!r}'] if label else []
    known = {'selinux', 'apparmor', 'smack', 'tomoyo', 'bpf', 'ipe', 'ima', 'evm', 'loadpin'}
    return [module for module in modules if module in known]


def as_user(process: Process, user: str | int) -> Process:
    """A process that has become a user as setuid(2) and initgroups(3) make it.

    Raises LookupError where there is no such account.
    """
    name = str(user)
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise LookupError(f'there is no user {name!r}') from None
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    is_root = entry.pw_uid == process.namespace.roots[0] and 'noroot' not in process.securebits
    held = process.bounding if is_root else CapSet()
    return replace(
        process,
        effective=held,
        permitted=held,
        ambient=CapSet(),
        uid=Ids(*[entry.pw_uid] * 3),
        gid=Ids(*[entry.pw_gid] * 3),
        groups=groups,
    )


def closed_directory(process: Process, path: str) -> str | None:
    """The first directory on the way to a file that a process may not search."""
    if process.effective & ['cap_dac_override', 'cap_dac_read_search']:
        return None
    for directory in reversed(Path(path).parents):
        info = directory.stat()
        is_owner = info.st_uid == process.uid.effective
        bit = 0o100 if is_owner else 0o010 if info.st_gid in process.all_groups else 0o001
        if not info.st_mode & bit:
            return str(directory)
    return None


def vanishing_libraries(found: Found, environ: Mapping[str, str]) -> list[str]:
    """Libraries that the dynamic loader finds for a program, but not in secure execution.

    Then it ignores LD_LIBRARY_PATH, and $ORIGIN in what the program names; see ld.so(8).
    """
    try:
        data = Path(found.path).read_bytes() if found.size <= SIZE else b''
        loader, needed, named = _dynamic(data)
    except (OSError, ValueError, struct.error):
        return []
    origin = os.path.dirname(found.real_path)
    safe = [one for one in named if one.startswith('/')]
    unsafe = [
        re.sub(r'\$(ORIGIN|\{ORIGIN\})', lambda _: origin, one) for one in named if '$' in one
    ]
    unsafe += environ.get('LD_LIBRARY_PATH', '').replace(';', ':').split(':')
    if 'musl' in loader:
        safe += MUSL_LIBRARIES
    else:
        safe += LIBRARIES
    try:
        cache = Path('/etc/ld.so.cache').read_bytes()
    except OSError:
        cache = b''

    def is_in(directories: list[str], name: str) -> bool:
        return any(one and os.path.exists(os.path.join(one, name)) for one in directories)

    return [
        name
        for name in needed
        if b'/' + os.fsencode(name) + b'\0' not in cache
        and not is_in(safe, name)
        and is_in(unsafe, name)
    ]


def _dynamic(data: bytes) -> tuple[str, list[str], list[str]]:
    """The loader, the needed libraries and the search path of an ELF file; see elf(5)."""
    if data[:4] != b'\x7fELF':
        raise ValueError('not an ELF file')
    is_wide, order = data[4] == 2, '<' if data[5] == 1 else '>'
    word = 'Q' if is_wide else 'I'
    (start,) = struct.unpack_from(order + word, data, 32 if is_wide else 28)
    size, count = struct.unpack_from(f'{order}HH', data, 54 if is_wide else 42)
    header = struct.Struct(f'{order}II4Q' if is_wide else f'{order}5I')
    segments = []
    for number in range(count):
        kind, *rest = header.unpack_from(data, start + number * size)
        offset, address, _, length = rest[1:] if is_wide else rest
        segments.append((kind, offset, address, length))

    def text(offset: int) -> str:
        return os.fsdecode(data[offset : data.index(b'\0', offset)])

    loader, entries = '', []
    for kind, offset, _, length in segments:
        if kind == 3:  # PT_INTERP
            loader = text(offset)
        if kind == 2:  # PT_DYNAMIC
            entries = list(struct.iter_unpack(f'{order}2{word}', data[offset : offset + length]))
    strings = [value for tag, value in entries if tag == 5]  # DT_STRTAB
    if not strings:
        return loader, [], []
    table = next(
        strings[0] - address + offset
        for kind, offset, address, length in segments
        if kind == 1 and address <= strings[0] < address + length  # PT_LOAD
    )
    needed = [text(table + value) for tag, value in entries if tag == 1]  # DT_NEEDED
    runpath = [text(table + value) for tag, value in entries if tag == 29]
    rpath = [text(table + value) for tag, value in entries if tag == 15]
    return loader, needed, [one for path in runpath or rpath for one in path.split(':')]
