"""Random programs of system calls whose needs are known: an audit finds exactly these."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caps import Caps, CapSet
from caps.audit import Account, Options
from caps.audit.commands import Function
from caps.audit.keeper import Keeper
from caps.audit.runs import Around, Runner
from caps.audit.search import search
from caps.audit.setup import can_give
from caps.audit.tracing import Tracer
from caps.audit.verdicts import answer, judge
from support import SOAK, needs_root

pytestmark = needs_root

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, PR_CAPBSET_DROP, F_SETLEASE, CLOCK_REALTIME_ALARM = 0x20000, 24, 1024, 8
SO_RCVBUFFORCE = 33
COUNT = 10_000 if SOAK > 1 else 500
CLOSED, OPEN, OWN, ROOM = 'closed', 'open', 'own', 'room'


def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def reopen(path, flags):
    os.close(os.open(path, flags))


def make_device():
    path = f'{ROOM}/{os.getpid()}'
    os.mknod(path, 0o020600, os.makedev(1, 3))
    os.unlink(path)


def raise_limit():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 1))
    except ValueError:  # which is how Python says EPERM
        raise OSError(errno.EPERM, 'not allowed to raise maximum limit') from None


def be_another():
    user = os.geteuid()
    os.setresuid(-1, user + 1, -1)
    os.setresuid(-1, user, -1)


def bind_low():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        for port in range(700, 1024):
            try:
                sock.bind(('127.0.0.1', port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return


def enlarge_buffer():
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4096)


def adjust_clock():
    """By nothing; see ADJ_OFFSET_SINGLESHOT in adjtimex(2)."""
    must(LIBC.adjtimex(struct.pack('=I4xq', 0x8001, 0).ljust(256, b'\0')))


def set_host_name():
    name = socket.gethostname().encode()
    must(LIBC.sethostname(name, len(name)))


def set_alarm():
    fd = LIBC.timerfd_create(CLOCK_REALTIME_ALARM, 0)
    must(fd)
    os.close(fd)


def lease():
    fd = os.open(OPEN, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, F_SETLEASE, fcntl.F_RDLCK)
    finally:
        os.close(fd)


def mark_own():
    Caps('cap_kill=p').apply(OWN)


ACTIONS = {
    'nothing': (os.getpid, ''),
    'read a closed file': (lambda: reopen(CLOSED, os.O_RDONLY), 'dac_read_search'),
    'write a closed file': (lambda: reopen(CLOSED, os.O_WRONLY), 'dac_override'),
    'give a file away': (lambda: os.chown(OPEN, 1, 1), 'chown'),
    'change the mode of a file': (lambda: os.chmod(OPEN, 0o644), 'fowner'),
    'open a raw socket': (
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(), 'net_raw'
    ),
    'bind a low port': (bind_low, 'net_bind_service'),
    'force a buffer': (enlarge_buffer, 'net_admin'),
    'make a device': (make_device, 'mknod'),
    'change the root': (lambda: os.chroot('/'), 'sys_chroot'),
    'be less nice': (lambda: os.nice(-1), 'sys_nice'),
    'raise a limit': (raise_limit, 'sys_resource'),
    'be another user': (be_another, 'setuid'),
    'change groups': (lambda: os.setgroups([]), 'setgid'),
    'signal init': (lambda: os.kill(1, 0), 'kill'),
    'lease a file': (lease, 'lease'),
    'mark a file': (mark_own, 'setfcap'),
    'drop from bounding': (lambda: must(LIBC.prctl(PR_CAPBSET_DROP, 0, 0, 0, 0)), 'setpcap'),
    'adjust the clock': (adjust_clock, 'sys_time'),
    'set the host name': (set_host_name, 'sys_admin'),
    'unshare mounts': (lambda: must(LIBC.unshare(CLONE_NEWNS)), 'sys_admin'),
    'set an alarm that wakes': (set_alarm, 'wake_alarm'),
}  # fmt: skip
NAMES = [name for name, (_, needed) in ACTIONS.items() if CapSet(needed) <= can_give()]


def needed_by(program):
    """What a program needs: a list of actions, and for each whether it gives up where it fails."""
    needed = CapSet()
    for name, matters in program:
        needed |= ACTIONS[name][1] if matters else ''
    return needed - ['dac_read_search'] if 'dac_override' in needed else needed


def perform(program):
    for name, matters in program:
        try:
            ACTIONS[name][0]()
        except PermissionError:
            if matters:
                raise


class Programs:
    """Runs any program in a keeper that was forked before there was one."""

    def __init__(self, room, account):
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)
        self._room = room
        self.tracer = Tracer(refusals_only=True)
        command = Function(self._perform, account)
        self.keeper = Keeper(command)
        self.runner = Runner(
            self.keeper, self.tracer, command.skipped, Options(), Around(), Around()
        )

    def _perform(self):
        os.chdir(self._room)
        length = self._shared[0]
        perform([(NAMES[code >> 1], bool(code & 1)) for code in self._shared[1 : 1 + length]])

    def audit(self, program):
        codes = bytes(NAMES.index(name) << 1 | matters for name, matters in program)
        self._shared[: 1 + len(codes)] = bytes([len(codes)]) + codes
        return search(self.runner.run, can_give())

    def close(self):
        self.keeper.close()
        self.tracer.close()


@pytest.fixture(scope='module')
def programs(world, accounts):
    room = world / 'programs'
    room.mkdir(0o755)
    for name, mode in (CLOSED, 0o600), (OPEN, 0o644), (OWN, 0o644):
        (room / name).touch()
        (room / name).chmod(mode)
    (room / ROOM).mkdir()
    (room / ROOM).chmod(0o777)
    owner = accounts.owner
    os.chown(room / OWN, owner.uid, owner.gid)
    made = Programs(room, Account(owner.name, owner.uid, owner.gid, ()))
    yield made
    made.close()


def assert_exactly(programs, program):
    found = programs.audit(program)
    needed, reason = answer(found, judge(found))
    said = found.runs[-1].said
    assert (needed, reason) == (needed_by(program), ''), said
    for verdict in judge(found):
        if verdict.verdict == 'degrades':
            names = {ACTIONS[name][1] for name, matters in program if not matters}
            assert verdict.capability.removeprefix('cap_') in names


@pytest.mark.parametrize('name', NAMES)
def test_each_action_alone_needs_its_capability(programs, name):
    assert_exactly(programs, [(name, True)])
    assert_exactly(programs, [(name, False)])


@settings(max_examples=COUNT)
@given(program=st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=4))
def test_random_program_needs_exactly_what_its_actions_need(programs, program):
    assert_exactly(programs, program)
