"""Launches at random. Either nothing runs, or the marked file does: as its owner, with exactly
its set. A model says beforehand which of the two; CAPS_SEED repeats a run."""

import ast
import ctypes
import fcntl
import os
import pwd
import random
import re
import reprlib
import resource
import select
import shutil
import signal
import stat
import struct
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from caps import Caps, CapSet
from caps.admin.ppy import install
from support import PATIENCE, ROOT, SOAK, needs, needs_root, program
from support.launchers import MODES, make_launcher

pytestmark = [needs_root, needs('cap_setpcap')]

SEED = os.environ.get('CAPS_SEED') or os.urandom(4).hex()
LAUNCHES = 5000 if SOAK > 1 else 300
LIBC = ctypes.CDLL(None, use_errno=True)
SYSTEM = dict(line.split(':\t', 1) for line in Path('/proc/self/status').read_text().splitlines())
BOUNDING = int(SYSTEM['CapBnd'], 16)
EVERY = CapSet.all().mask
OWN = CapSet('cap_setgid,cap_setuid,cap_setpcap,cap_dac_override').mask  # what ppy needs
FEW = 'cap_net_raw,cap_kill,cap_chown'
STRANGER = 2_000_000_001  # neither a user nor a group
SET_UP, EXEC = 99, 98  # statuses of a child that did not become ppy
REFUSED = 126, 127
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 200
SHORT.maxlist = SHORT.maxset = SHORT.maxdict = 40
XATTR = 'security.capability'
F_SETPIPE_SZ = 1031
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 8, 24, 28
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 38, 47, 2

# ---- What a launch is ----


@dataclass
class Place:
    """Where launches happen: installations by mode, accounts, and what attackers left there."""

    root: Path
    accounts: object
    installations: dict
    pipe: int = -1

    def __post_init__(self):
        (self.root / 'cases').mkdir(0o755)
        (self.root / 'canary').mkdir(0o755)
        os.mkfifo(self.root / 'pipe')
        (self.root / 'pipe').chmod(0o622)
        self.pipe = os.open(self.root / 'pipe', os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self.pipe, F_SETPIPE_SZ, 1 << 20)  # nobody reads while a script writes
        for name in ('sitecustomize', 'usercustomize', 'encodings', 'os', 'startup'):
            (self.root / f'canary/{name}.py').write_text(self.reporter('canary'))
        unmarked = self.root / 'unmarked.py'
        unmarked.write_text(self.reporter('unmarked'))
        unmarked.chmod(0o755)
        os.chown(unmarked, self.accounts.owner.uid, self.accounts.owner.gid)

    def reporter(self, name):
        return program('tells').replace('NAME', name).replace('PIPE', str(self.root / 'pipe'))

    def reports(self):
        """What has been reported since the last time."""
        text = b''
        with suppress(BlockingIOError):
            while True:
                text += os.read(self.pipe, 1 << 20)
        return [ast.literal_eval(line.decode()) for line in text.splitlines()]


@dataclass
class Entry:
    """A file or directory: who may do what with it."""

    uid: int
    gid: int
    mode: int

    def allows(self, bit, uid, groups):
        """Whether an account has a permission, as path_resolution(7) has it."""
        if uid == self.uid:
            return bool(self.mode >> 6 & bit)
        return bool(self.mode >> (3 if self.gid in groups else 0) & bit)

    def apply(self, path):
        os.chown(path, self.uid, self.gid)
        os.chmod(path, self.mode)


@dataclass
class Launch:
    """What is random about one launch."""

    mode: str
    uid: int
    gid: int
    groups: list
    script: Entry
    mark: bytes | None
    above: list  # the directories that the script is in
    name: bytes
    spelling: str
    decoy: str | None
    cwd: str
    arguments: list
    environment: list
    closed: set
    wrong: set  # descriptors that are open, but for the opposite
    extra: list
    limits: dict
    umask: int
    ignored: set
    blocked: set
    pending: int
    timer: float
    dropped: int
    no_new_privs: bool
    securebits: int
    inheritable: int
    path: bytes = b''
    stored: bytes | None = None
    hung: bool = False
    status: int | None = None
    stderr: bytes = b''
    reports: list = field(default_factory=list)

    def __str__(self):
        return '\n'.join(f'  {name}: {SHORT.repr(value)}' for name, value in vars(self).items())

    @property
    def sets(self):
        """Inheritable capabilities and root id of what the kernel made of the mark."""
        magic, *words = struct.unpack(f'<{len(self.stored) // 4}I', self.stored)
        return words[1] | words[3] << 32, words[4] if magic >> 24 == 3 else 0

    @property
    def permitted(self):
        """What the kernel's mark has as permitted."""
        _, *words = struct.unpack(f'<{len(self.stored) // 4}I', self.stored)
        return words[0] | words[2] << 32


def bits(rng):
    """A capability set, of the kinds that make a difference."""
    kinds = [0, 1 << rng.randrange(41), OWN, BOUNDING, EVERY, rng.getrandbits(41), 1 << 63, ~0]
    some = sum(1 << rng.randrange(41) for _ in range(3))
    few = CapSet(rng.choice(FEW.split(','))).mask
    kind = rng.choices([*kinds, some, few], [6, 9, 4, 4, 1, 1, 0.3, 0.3, 6, 12])[0]
    return kind & (BOUNDING if rng.random() < 0.95 else ~0) & 0xFFFF_FFFF_FFFF_FFFF


def words(value):
    return value & 0xFFFF_FFFF, value >> 32


def draw_mark(rng):
    """The bytes of a security.capability attribute; the kernel does not take all of them."""
    permitted, inheritable = words(bits(rng) if rng.random() < 0.3 else 0), words(bits(rng))
    magic = 0x0200_0000 | (rng.random() < 0.2)
    mark = struct.pack('<5I', magic, permitted[0], inheritable[0], permitted[1], inheritable[1])
    kind = rng.choices(['v2', 'v3', 'none', 'noise', 'flipped'], [88, 4, 4, 2, 2])[0]
    if kind == 'v3':
        root_id = rng.choice([0, 1, 1000, STRANGER, 0xFFFF_FFFF])
        return struct.pack('<I', 0x0300_0000) + mark[4:] + struct.pack('<I', root_id)
    if kind == 'flipped':
        flipped = bytearray(mark)
        flipped[rng.randrange(20)] ^= 1 << rng.randrange(8)
        return bytes(flipped[: rng.choice([20, 20, 19, 12, 4, 0])])
    return {'v2': mark, 'none': None, 'noise': rng.randbytes(rng.randrange(40))}[kind]


def draw_environment(rng, canary):
    """Pairs that ppy is to keep, pairs that would run the canary, and noise."""
    harmless = rng.sample(sorted(KEPT), rng.randrange(6))
    pairs = [(name, rng.choice(['C', 'C.UTF-8', 'de_DE.UTF-8', 'x:y,z', ''])) for name in harmless]
    odd = [f'{canary}/x', '%n%s', 'a b', '\x1b[m', 'x' * 129, '../x', ':x', 'é', 'C\n']
    pairs += [(name, rng.choice(odd)) for name in rng.sample(sorted(KEPT), rng.randrange(4))]
    hostile = [('PYTHONSTARTUP', f'{canary}/startup.py'), ('PYTHONINSPECT', '1')]
    hostile += [(name, str(canary)) for name in HOSTILE]
    pairs += rng.sample(hostile, rng.choice([0, 1, 3, len(hostile)]))
    raw = [f'{name}={value}'.encode() for name, value in pairs]
    raw += [rng.randbytes(rng.randrange(40)).replace(b'\0', b'') for _ in range(rng.randrange(3))]
    if rng.random() < 0.05:
        raw += [b'V%d=%s' % (n, b'v' * rng.randrange(50)) for n in range(rng.randrange(2000))]
    if rng.random() < 0.5:
        rng.shuffle(raw)
    return raw


def draw_limits(rng):
    """Resource limits, by name."""
    choices = {
        'NOFILE': [0, 3, 4, 5, 8, 64],
        'FSIZE': [0, 1, 4096],
        'NPROC': [0, 1, 2],
        'AS': [1 << 20, 16 << 20, 64 << 20, 1 << 30],
        'DATA': [0, 1 << 20, 8 << 20],
        'STACK': [64 << 10, 1 << 20],
        'CPU': [0, 1, 10],
        'CORE': [0],
        'MEMLOCK': [0],
        'SIGPENDING': [0],
        'MSGQUEUE': [0],
    }
    chosen = rng.sample(sorted(choices), rng.choices([0, 1, 2, 4], [6, 2, 1, 1])[0])
    return {name: rng.choice(choices[name]) for name in chosen}


NAMES = [
    *(b'script.py', b'two words.py', b"quo'te", b'line\nfeed', b'\x1b[31mred', b'$(id)', b'%s%n'),
    *(b'\xff\xfe', 'é'.encode(), b'-c', b'--help', b'x' * 255, b'~', b'*', b'x (deleted)', b' '),
]
DECOYS = [
    *('interpreter', 'capped', 'ppy', 'unmarked', 'system', 'directory', 'pipe', 'device'),
    *('absent', 'empty', 'dash', 'long', 'nothing', 'no argv', 'descriptor'),
]
SPELLINGS = [
    *('absolute', 'relative', 'dots', 'link', 'directory link', 'link chain', 'working directory'),
    *('standard input', 'root'),
]


def draw(rng, place):
    """A launch in which most things are as they should be."""
    owned, other = place.accounts.owner, place.accounts.attacker
    owners = [owned.uid, owned.uid, other.uid, STRANGER, 0]

    def odd(choices, usual, chance=0.06):
        return rng.choice(choices) if rng.random() < chance else usual

    uid, gid = rng.choice(
        [(owned.uid, owned.gid), (other.uid, other.gid), (other.uid, other.gid), (0, 0)]
    )
    gid = odd([owned.gid, 0, STRANGER], gid)
    mode = rng.choice([*place.installations])
    owner = rng.choices(owners, [18, 0, 4, 3, 4 if mode == 'allow-root' else 2])[0]
    group = odd([owned.gid, other.gid, STRANGER, 0], owner or owned.gid, 0.1)
    every_mode = rng.randrange(0o10000)
    script = Entry(
        *(owner, group),
        odd([0o700, 0o750, 0o775, 0o757, 0o644, 0, 0o111, 0o4755, 0o6755, every_mode], 0o755, 0.15),
    )
    modes = [0o700, 0o750, 0o775, 0o757, 0o1777, 0o1775, rng.randrange(0o10000)]
    above = []
    for _ in range(rng.randrange(1, 4)):
        holder = odd([owned.uid, other.uid, 0, STRANGER], rng.choice([owner, 0]))
        above.append(Entry(holder, odd([0, owned.gid, other.gid], holder), odd(modes, 0o755, 0.1)))
    every_signal = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
    spelling = rng.choice(SPELLINGS) if rng.random() < 0.4 else 'absolute'
    relative = spelling in ('relative', 'working directory')
    return Launch(
        mode=mode,
        uid=uid,
        gid=gid,
        groups=rng.sample([owned.gid, other.gid, 0, 4, 24], rng.choice([0, 0, 1, 3])),
        script=script,
        mark=draw_mark(rng),
        above=above,
        name=odd(NAMES, b'script.py', 0.3),
        spelling=spelling,
        decoy=odd(DECOYS, None, 0.08),
        cwd='here' if relative else rng.choice(['here', '/', 'closed', 'deleted', '/proc/self']),
        arguments=[
            rng.randbytes(rng.choice([0, 1, 9, 300, 9000])).replace(b'\0', b'x')
            if rng.random() < 0.5
            else rng.choice([b'-c', b'-m', b'--', b'-I', b'', b'import os', b'../x'])
            for _ in range(rng.choice([0, 0, 1, 2, 5]))
        ],
        environment=draw_environment(rng, place.root / 'canary'),
        closed=set(rng.sample(range(3), rng.choice([0, 0, 0, 1, 2, 3]))),
        wrong=set(rng.sample(range(3), rng.choice([0, 0, 0, 0, 1, 2]))),
        extra=rng.sample([*range(3, 20), 63, 200], rng.choice([0, 0, 1, 5, 15])),
        limits=draw_limits(rng),
        umask=rng.choice([0, 0o2, 0o22, 0o77, 0o777, rng.randrange(0o1000)]),
        ignored=set(rng.sample(every_signal, rng.choice([0, 0, 1, 10, 60]))),
        blocked=set(rng.sample(every_signal, rng.choice([0, 0, 1, 10, 60]))),
        pending=odd([signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGPIPE], 0),
        timer=odd([0.0005, 0.002, 0.01, 3600], 0),
        dropped=odd([bits(rng), bits(rng), 1 << rng.randrange(41), OWN & bits(rng)], 0, 0.12),
        no_new_privs=odd([True], False, 0.03),
        securebits=odd([1 << rng.randrange(12), rng.getrandbits(8), 16, 64], 0, 0.06),
        inheritable=odd([BOUNDING, bits(rng) & BOUNDING], 0, 0.12),
    )


# ---- What is to come of it ----

KEPT = {
    *('TERM', 'COLORTERM', 'NO_COLOR', 'LANG', 'LANGUAGE', 'TZ'),
    *('LC_ALL', 'LC_ADDRESS', 'LC_COLLATE', 'LC_CTYPE', 'LC_IDENTIFICATION', 'LC_MESSAGES'),
    *('LC_MEASUREMENT', 'LC_MONETARY', 'LC_NAME', 'LC_NUMERIC', 'LC_PAPER', 'LC_TELEPHONE'),
    'LC_TIME',
}
HOSTILE = [
    *('PYTHONPATH', 'PYTHONHOME', 'PYTHONUSERBASE', 'PYTHONPYCACHEPREFIX', 'HOME', 'PATH', 'IFS'),
    *('LD_LIBRARY_PATH', 'LD_PRELOAD', 'LD_DEBUG', 'GLIBC_TUNABLES', 'BASH_ENV', 'ENV', 'TMPDIR'),
    *('PYTHONBREAKPOINT', 'PYTHONWARNINGS', 'BROWSER', 'LOCPATH', 'OPENSSL_CONF', 'LC_', 'LC_X'),
    *('PPY_UID', 'PPY_GID', 'SHELL', 'USER', 'LOGNAME', 'PWD', 'XDG_RUNTIME_DIR', 'TZDIR'),
]
FREE = re.compile(rb'[!-$&-.0-~]{0,128}')  # printable and without blank, / and %
ZONE = re.compile(rb'(?!.*\.\.)(?![:/])[!-$&-~]{0,128}')


def may_launch(launch):
    """Whether every rule of ppy's is kept."""
    caller = launch.uid, {launch.gid, *launch.groups}
    root = launch.uid == 0
    bounding = BOUNDING & ~launch.dropped
    if launch.decoy or launch.stored is None or OWN & ~bounding:
        return False
    given, root_id = launch.sets
    allowed = CapSet(FEW).mask if launch.mode == 'few' else EVERY
    script, above = launch.script, launch.above
    if launch.mode != 'allow-root' and not (script.uid and script.gid):
        return False
    executable = script.mode & 0o111 if root else script.allows(1, *caller)
    reachable = root or all(entry.allows(1, *caller) for entry in above)
    tidy = all(
        entry.uid in (0, script.uid)
        and (not entry.mode & 0o022 or (entry.mode & stat.S_ISVTX and entry is not above[-1]))
        for entry in above
    )
    dash = launch.spelling == 'relative' and launch.name.startswith(b'-')
    marked = root_id == 0 and not given & ~(allowed & bounding)
    free = not (launch.no_new_privs or launch.securebits & (1 | 4 | 0xAAAA_AAAA))
    closed = not script.mode & 0o022
    meant = given or not launch.permitted  # marked as programs are, it would get nothing
    return bool(
        marked and meant and free and executable and reachable and tidy and closed and not dash
    )


def asks_for_help(launch):
    """Whether what ppy is given as the path of a script is its own option."""
    return launch.spelling == 'relative' and launch.name == b'--help'


def may_fail(launch):
    """Whether the script can be hindered from reporting although it is launched."""
    hindering = {'NOFILE', 'NPROC', 'AS', 'DATA', 'STACK', 'CPU'} & {*launch.limits}
    owner = launch.script.uid, {launch.script.gid}
    unreadable = not launch.script.allows(4, *owner) or not all(
        entry.allows(1, *owner) for entry in launch.above
    )
    return bool(hindering or launch.pending or 0 < launch.timer < 1 or unreadable)


def wrong_environment(launch, environment):
    """What a script should not find in its environment."""
    first = {}
    for item in launch.environment:
        name, equals, value = item.partition(b'=')
        if equals:
            first.setdefault(name, value)
    fixed = {
        b'PATH': b'/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        b'SHELL': b'/bin/sh',
        b'HOME': b'/',
        b'PPY_UID': b'%d' % launch.uid,
        b'PPY_GID': b'%d' % launch.gid,
    }
    with suppress(KeyError):
        account = pwd.getpwuid(launch.script.uid)
        fixed |= {b'USER': account.pw_name.encode(), b'LOGNAME': account.pw_name.encode()}
        if os.path.isdir(account.pw_dir):
            fixed[b'HOME'] = account.pw_dir.encode()
    for name, value in environment.items():
        rule = ZONE if name == b'TZ' else FREE
        kept = os.fsdecode(name) in KEPT and first.get(name) == value and rule.fullmatch(value)
        if not (kept or fixed.pop(name, None) == value or (name, value) == COERCED):
            yield f'environment has {name}={value}'
    if fixed:
        yield f'environment lacks {fixed}'


# What a user may have had ignored, and Python's own.
IGNORABLE = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN}
IGNORABLE |= {signal.SIGTTOU, signal.SIGPIPE, signal.SIGXFSZ}
SILENCING = {'FSIZE', 'AS', 'DATA'}  # limits under which ppy cannot write, or glibc not start
MESSAGE = re.compile(rb'ppy: [ -~]+\n')
# Only a caller who gets no privilege from ppy sees what newer glibcs say of their GLIBC_TUNABLES.
UNPRIVILEGED = re.compile(rb'(WARNING: ld\.so: .+\n)*' + MESSAGE.pattern, re.DOTALL)
COERCED = (b'LC_CTYPE', b'C.UTF-8')  # Python's own doing, PEP 538


def violations(launch, place):
    """What a launch shows to be wrong, sentence by sentence."""
    if launch.hung:
        yield 'it hangs'
    if not launch.reports:
        if may_launch(launch) and not may_fail(launch):
            yield 'it should have been launched'
        silent = 2 in launch.closed | launch.wrong or SILENCING & {*launch.limits}
        message = UNPRIVILEGED if launch.uid == 0 or launch.no_new_privs else MESSAGE
        if launch.status in REFUSED and not (silent or message.fullmatch(launch.stderr)):
            yield f'its message is {launch.stderr}'
        harmless = (*REFUSED, EXEC, *range(-64, 0), *[0] * asks_for_help(launch))
        if not may_launch(launch) and launch.status not in harmless:
            yield f'something ran and ended with {launch.status}'
        return
    if len(launch.reports) > 1 or launch.reports[0]['name'] != 'marked':
        yield f'{[report["name"] for report in launch.reports]} ran'
        return
    if not may_launch(launch):
        yield 'it should have been refused'
        return
    report = launch.reports[0]
    status = dict(line.split(':\t', 1) for line in report['status'].splitlines())
    for name in ('Uid', 'Gid'):
        if {*map(int, status[name].split())} != {getattr(launch.script, name.lower())}:
            yield f'{name} is {status[name]}'
    given, _ = launch.sets
    for name, right in ('Prm', given), ('Inh', given), ('Eff', 0), ('Amb', 0), ('Bnd', 0):
        if int(status[f'Cap{name}'], 16) != right:
            yield f'{name} is {status[f"Cap{name}"]}, not {right:016x}'
    if status['Groups'].strip():
        yield f'groups are {status["Groups"]}'
    if int(status['Umask'], 8) != launch.umask & 0o77 | 0o22:
        yield f'umask is {status["Umask"]}'
    left = {number for number in range(1, 65) if int(status['SigIgn'], 16) >> number - 1 & 1}
    if int(status['SigBlk'], 16) or left - IGNORABLE:
        yield f'signals {status["SigBlk"]} are blocked, {status["SigIgn"]} ignored'
    if sorted(report['descriptors'])[:3] != ['0', '1', '2'] or len(report['descriptors']) != 4:
        yield f'descriptors {report["descriptors"]} are open'
    opposite = [os.O_WRONLY, os.O_RDONLY, os.O_RDONLY]
    if any(access == wrong for access, wrong in zip(report['access'], opposite, strict=True)):
        yield f'descriptors are open for the opposite: {report["access"]}'
    original = place.installations[launch.mode].original.encode()
    if report['command'].split(b'\0') != [original, launch.path, *launch.arguments, b'']:
        yield f'command is {report["command"]}'
    yield from wrong_environment(launch, report['environment'])


# ---- Making it happen ----


def spell(launch, place, directory):
    """The command's words; makes the links and decoys that they speak of."""
    installed = place.installations[launch.mode]
    links = directory.parent / 'links'
    links.mkdir(0o755)
    (links / 'file').symlink_to(os.fsdecode(launch.path))
    (links / 'chain').symlink_to('file')
    (links / 'directory').symlink_to(directory)
    name, closed = launch.name, launch.closed | launch.wrong
    spelled = {
        'absolute': launch.path,
        'relative': name,
        'dots': b'%s/../%s//.//%s' % (*map(os.fsencode, (directory, directory.name)), name),
        'link': os.fsencode(links / 'file'),
        'link chain': os.fsencode(links / 'chain'),
        'directory link': b'%s/%s' % (os.fsencode(links / 'directory'), name),
        'working directory': b'/proc/self/cwd/' + name,
        'standard input': b'/proc/self/fd/0' if 0 not in closed else launch.path,
        'root': b'/proc/self/root' + launch.path,
    }[launch.spelling]
    decoy = {
        'interpreter': installed.original,
        'capped': installed.capped,
        'ppy': installed.ppy,
        'unmarked': place.root / 'unmarked.py',
        'system': '/usr/bin/ldd',  # a script of root's that all may execute
        'directory': directory,
        'pipe': place.root / 'pipe',
        'device': '/dev/null',
        'absent': directory / 'absent',
        'empty': '',
        'dash': '-',
        'long': '/' + 'x/' * 3000,
        'descriptor': '/dev/fd/5',
    }
    words = [b'ppy', decoy.get(launch.decoy, spelled), *launch.arguments]
    return {'no argv': [], 'nothing': words[:1]}.get(launch.decoy, words)


def prctl(*arguments):
    if LIBC.prctl(*(ctypes.c_ulong(argument) for argument in (*arguments, *[0] * 5)[:5])) < 0:
        raise OSError(ctypes.get_errno(), f'prctl{arguments}')


def become(launch):
    """What the caller is and has, in the child."""
    os.umask(launch.umask)
    each = [bit for bit in range(64) if launch.dropped >> bit & EVERY >> bit & 1]
    if launch.securebits:
        prctl(PR_SET_SECUREBITS, launch.securebits)
    os.setgroups(launch.groups)
    os.setresgid(launch.gid, launch.gid, launch.gid)
    if launch.inheritable and not launch.securebits:
        prctl(PR_SET_KEEPCAPS, 1)
        caps = CapSet.from_mask(launch.inheritable) | CapSet('setuid,setpcap')
        os.setresuid(launch.uid, launch.uid, launch.uid)
        Caps(effective=caps, permitted=caps, inheritable=caps).apply()
        for bit in range(41):
            if launch.inheritable >> bit & 1:
                prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit)
    for bit in each:
        prctl(PR_CAPBSET_DROP, bit)
    os.setresuid(launch.uid, launch.uid, launch.uid)
    if launch.no_new_privs:
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def starve(launch):
    """Descriptors, signals, timers and limits of the child."""
    devices = [os.open(name, os.O_RDWR) for name in ('/dev/null', '/dev/zero')]
    for fd in launch.extra:
        os.dup2(devices[fd % 2], fd)
    for fd in launch.wrong:
        os.dup2(os.open('/dev/null', os.O_RDONLY if fd else os.O_WRONLY), fd)
    for fd in launch.closed:
        os.close(fd)
    for number in launch.ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, launch.blocked | {launch.pending} - {0})
    if launch.pending:
        os.kill(os.getpid(), launch.pending)
    if launch.timer:
        signal.setitimer(signal.ITIMER_REAL, launch.timer, launch.timer)
    for name, limit in launch.limits.items():
        resource.setrlimit(getattr(resource, f'RLIMIT_{name}'), (limit, limit))


def vector(words):
    return (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)


def start(launch, place, words, errors):
    """Fork, become the caller, execute ppy; wait for its end."""
    ppy = os.fsencode(place.installations[launch.mode].ppy)
    argv, environment = vector(words), vector(launch.environment)
    pid = os.fork()
    if not pid:
        status = SET_UP
        try:
            source = '/dev/null' if launch.spelling != 'standard input' else launch.path
            for fd, target in enumerate([os.open(source, os.O_RDONLY), 1, errors]):
                os.dup2(target, fd)
            os.dup2(os.open('/dev/null', os.O_WRONLY), 1)
            become(launch)
            starve(launch)
            status = EXEC
            LIBC.execve(ppy, argv, environment)
        finally:
            os._exit(status)
    pidfd = os.pidfd_open(pid)
    ended = select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)
    launch.hung = not ended
    if launch.hung:
        os.kill(pid, signal.SIGKILL)
    launch.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def perform(launch, place):
    """Make the file, start ppy as the caller, and take down what came of it."""
    case = place.root / 'cases' / 'case'
    case.mkdir(0o755)
    directories = [case]
    for n, _ in enumerate(launch.above):
        directories.append(directories[-1] / f'd{n}')
        directories[-1].mkdir()
    launch.path = os.fsencode(directories[-1]) + b'/' + launch.name
    Path(os.fsdecode(launch.path)).write_text(place.reporter('marked'))
    launch.script.apply(launch.path)
    if launch.mark is not None:
        with suppress(OSError):  # the kernel knows what a mark is
            os.setxattr(launch.path, XATTR, launch.mark)
    with suppress(OSError):
        launch.stored = os.getxattr(launch.path, XATTR)
    words = spell(launch, place, directories[-1])
    for directory, entry in zip(directories[1:], launch.above, strict=True):
        entry.apply(directory)
    here = {'here': directories[-1], 'closed': '/root', 'deleted': case / 'deleted'}
    cwd = here.get(launch.cwd, launch.cwd)
    errors = os.memfd_create('stderr')
    try:
        if launch.cwd == 'deleted':
            cwd.mkdir()
        os.chdir(cwd)
        if launch.cwd == 'deleted':
            cwd.rmdir()
        start(launch, place, words, errors)
        launch.reports = place.reports()
        launch.stderr = os.pread(errors, 1 << 16, 0)
        assert launch.status != SET_UP, f'the child could not be set up: {launch}'
    finally:
        os.chdir('/')
        os.close(errors)
        shutil.rmtree(case)


# ---- The tests ----


@pytest.fixture
def attempt(scene, system_venv, accounts):
    """A function that makes launches, from installations in all modes, and says what is wrong."""
    there, places = os.getcwd(), []
    modes = MODES | {'allow-root': {'allow_root': True}, 'few': {'allow': FEW, 'setuid': True}}

    def attempt(count, seed=SEED, naive=None):
        python = system_venv / 'bin/python'
        installed = (
            {'naive': naive}
            if naive
            else {mode: install(python, scene / mode, **options) for mode, options in modes.items()}
        )
        places.append(Place(scene, accounts, installed))
        for n in range(count):
            launch = draw(random.Random(f'{seed}/{n}'), places[0])
            perform(launch, places[0])
            yield n, launch, [*violations(launch, places[0])]

    yield attempt
    os.chdir(there)
    for place in places:
        os.close(place.pipe)


def test_whatever_the_launch_the_promise_is_kept(attempt):
    print(f'CAPS_SEED={SEED}')
    began, launched, refused = time.monotonic(), 0, Counter()
    for n, launch, wrong in attempt(LAUNCHES):
        assert not wrong, f'CAPS_SEED={SEED} launch {n}: {wrong}\n{launch}'
        launched += bool(launch.reports)
        refused[launch.status] += not launch.reports
    print(f'{launched} of {LAUNCHES} launched in {time.monotonic() - began:.1f} s')
    print(f'the others ended with {refused}')
    assert launched > 0.15 * LAUNCHES


def test_the_naive_launcher_breaks_the_promise_in_every_way(attempt, scene, system_venv):
    python = str(system_venv / 'bin/python')
    path = make_launcher('naive', python, scene / 'naive').path
    naive = SimpleNamespace(ppy=path, original=python, capped=path.parent / 'interpreter')
    wrong = [text for _, _, texts in attempt(150, 'naive', naive) for text in texts]
    ways = 'refused canary environment groups Amb Bnd umask blocked descriptors opposite'
    assert [way for way in ways.split() if not any(way in text for text in wrong)] == []


# A ppy without one of its defences: the violation, and what to replace in its source.
MUTANTS = {
    'unmarked': ('refused', [('must(is_marked, path', 'must(true, path')]),
    'root id': ('refused', [('cap_get_nsowner(mark) == 0', 'true')]),
    'given': ('refused', [('is_given = has(grant, CAP_INHERITABLE, cap)', 'is_given = true')]),
    'permitted': ('refused', [('is_empty(mark, CAP_PERMITTED)', 'true')]),
    'writable': ('refused', [('st_mode & (S_IWGRP | S_IWOTH)', 'st_mode & 0')]),
    'sticky': ('refused', [('S_ISVTX && !is_last', 'S_ISVTX')]),
    'directories': ('refused', [('must(is_theirs(&st, way->owner)', 'must(true')]),
    'owner root': ('refused', [('st->st_uid && st->st_gid', 'true')]),
    'not executable': ('refused', [('must(!denied,', 'must(true,')]),
    "not the caller's view": (
        'refused',
        [('seteuid(caller) < 0 ||', ''), ('if (caller != 0 && (cap_clear', 'if (0 && (cap_clear')],
    ),
    'other name': ('command', [('argv[1] = path', 'argv[1] = argv[1]')]),
    'environment': ('environment', [('argv, environment)', 'argv, environ)')]),
    'time zone': ('environment', [('|| *value == \'/\' || strstr(value, "..")', '')]),
    'descriptors': ('descriptors', [('SYS_close_range, 3U', 'SYS_close_range, 99U')]),
    'opposite': ('opposite', [('(flags & O_ACCMODE) != (fd == 0 ? O_WRONLY : O_RDONLY)', 'true')]),
    'umask': ('umask', [('umask((umask(077) & 077) | 022)', '(void)0')]),
    'signals': ('blocked', [('sigemptyset(&none)', 'sigprocmask(SIG_BLOCK, NULL, &none)')]),
    'child signal': ('ignored', [('if (!sigismember(&kept, number))', 'if (number != SIGCHLD)')]),
    'escape': ('message', [('"\\\\x%02x", (unsigned char)', '"%c", ')]),
    'sets': (
        'Prm is',
        [('cap_dup(mark)', 'cap_from_text("cap_kill=i")')],
    ),
    'groups': (
        'groups are',
        [('setgroups(0, NULL) < 0', 'false'), ('getgroups(0, NULL) == 0', 'true')],
    ),
    'bounding set': (
        'Bnd is',
        [('cap_drop_bound(cap) < 0', 'false'), ('cap_get_bound(cap) != CAP_CLEAR ||', '')],
    ),
}


@pytest.mark.parametrize(('violation', 'mutations'), MUTANTS.values(), ids=MUTANTS)
def test_a_ppy_that_lacks_a_defence_is_found_out(attempt, scene, monkeypatch, violation, mutations):
    sources = shutil.copytree(ROOT / 'wrapper', scene / 'wrapper')
    for old, new in mutations:
        text = {path: path.read_text() for path in sources.iterdir()}
        assert sum(source.count(old) for source in text.values()) == 1, f'{old!r} is not there once'
        for path, source in text.items():
            path.write_text(source.replace(old, new))
    (scene / 'template').mkdir()
    command = ['gcc', '-w', '-static-pie', '-fPIE', '-I', ROOT / 'ext', sources / 'ppy.c']
    subprocess.run([*command, '-o', scene / 'template/ppy', '-lcap'], check=True)
    monkeypatch.setattr('caps.admin.installation.TEMPLATES', scene / 'template')
    found = (n for n, _, wrong in attempt(1000, 'mutant') if any(violation in w for w in wrong))
    n = next(found, None)
    assert n is not None
    print(f'launch {n}')
