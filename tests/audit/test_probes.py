"""How checks of capabilities are seen: by a tracepoint, or by a kprobe on the kernel's function."""

import itertools
import os
import platform
import signal

import pytest

from caps.audit import Options, audit, once, probes, tracing
from caps.audit.perf import Events, Sample
from caps.audit.probes import ENTRY, FUNCTION, REGISTERS, Kprobe, kprobe_kind
from caps.system.processes import is_kernel_before
from support import needs, needs_root, run
from support.children.inside import wait_for

HOME, ADMIN, NOAUDIT, REFUSED = 1 << 47, 21, 2, 0xFFFFFFFF


class Opened:
    """Events that are open; each has one identifier."""

    def __init__(self):
        self.count = itertools.count(1)

    def add(self, event, *, has_stack=False):
        assert has_stack == (event.number == ENTRY)
        return {next(self.count)}


LEFT, ENTERED = 1, 2
SECOND, THIRD, FOURTH = REGISTERS[platform.machine()][0]


def entry(time, capability=ADMIN, *, thread=1, options=0):
    values = {SECOND: HOME, THIRD: capability, FOURTH: options | 0xABC << 32}
    registers = tuple(values[bit] for bit in sorted(values))
    return Sample(ENTERED, 1, thread, time, (7, 8), b'', registers)


def leave(time, result=0, *, thread=1):
    return Sample(LEFT, 1, thread, time, (), b'', (result,))


def checks(*samples, refusals_only=False):
    kprobe = Kprobe(Opened(), 6)
    if refusals_only:
        kprobe.restrict()
    return kprobe.checks(samples)


def test_check_is_what_came_in_and_what_went_out():
    (check,), lost = checks(leave(2, REFUSED), entry(1, options=NOAUDIT))
    assert (check.time, check.process, check.thread, check.stack) == (1, 1, 1, (7, 8))
    assert (check.capability, check.namespace) == (ADMIN, HOME)
    assert (check.is_granted, check.is_unaudited, lost) == (False, True, 0)
    (check,), lost = checks(entry(1), leave(2))
    assert (check.is_granted, check.is_unaudited, lost) == (True, False, 0)


def test_threads_have_checks_of_their_own():
    samples = entry(1, 1), entry(2, 2, thread=2), leave(3, REFUSED), leave(4, thread=2)
    found, lost = checks(*samples)
    assert [(check.capability, check.is_granted) for check in found] == [(1, False), (2, True)]
    assert not lost
    assert [check.capability for check in checks(*samples, refusals_only=True)[0]] == [1]


def test_check_without_a_result_is_lost():
    found, lost = checks(entry(1, 1), entry(2, 2), leave(3), leave(4), entry(5, 3))
    assert [check.capability for check in found] == [2]
    assert lost == 2


@needs_root
@needs('cap_sys_admin')
def test_first_that_the_kernel_has_is_taken_and_named(account):
    expected = 'a kprobe on cap_capable'
    if not is_kernel_before(6, 14):
        expected = 'the tracepoint capability:cap_capable'
    elif kprobe_kind() is None:
        pytest.skip('this kernel has neither')
    assert once(['true'], account).method == f'traced by {expected}'


@pytest.fixture
def kprobe_only(monkeypatch):
    """The kernel as if it had no tracepoint."""
    if kprobe_kind() is None:
        pytest.skip('this kernel has no kprobes for perf_event_open(2)')
    open_probe = probes.open_probe
    monkeypatch.setattr(tracing, 'open_probe', lambda events, _: open_probe(events, None))


has_mounts = pytest.mark.skipif(
    is_kernel_before(5, 12), reason='an audit of a program needs Linux 5.12'
)


@needs_root
@has_mounts
@pytest.mark.parametrize('from_all', [False, True], ids=['from none', 'from all'])
def test_kprobe_is_enough_for_an_audit(kprobe_only, account, from_all):
    found = audit(['cat', '/etc/shadow'], account, Options(from_all=from_all))
    assert found.needs == {'cap_dac_read_search'}
    assert found.method == 'traced by a kprobe on cap_capable'
    assert found.lost == 0
    (run,) = [run for run in found.runs if not run.caps]
    assert run.failures('cap_dac_read_search') == {('openat', 'EACCES'): 1}
    (call,) = [call for call in run.calls if call.error and call.refused]
    assert (call.refused[-1], call.site) == ('cap_dac_override', 'generic_permission')
    assert all(call.site == 'generic_permission' for call in run.calls if call.error)


@needs_root
@has_mounts
def test_kprobe_misses_nothing_that_a_call_fails_for(kprobe_only, account):
    """The kernel asks for these where the function may be a part of its caller."""
    code = 'import ctypes; exit(ctypes.CDLL(None).prctl(28, 1))'  # PR_SET_SECUREBITS
    assert audit(['python3', '-c', code], account).needs == {'cap_setpcap'}


def is_probed():
    """Whether the kernel has a probe on the function."""
    shown = 'mount -t debugfs none /sys/kernel/debug && cat /sys/kernel/debug/kprobes/list'
    return FUNCTION in run('unshare', '--mount', 'sh', '-c', shown, check=True).stdout


@needs_root
@needs('cap_sys_admin')
def test_kprobe_goes_away_with_an_audit_that_is_killed(kprobe_only):
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        events = Events()
        Kprobe(events, kprobe_kind())
        os.write(theirs, b'.')
        signal.pause()
    os.read(ours, 1)
    for end in ours, theirs:
        os.close(end)
    assert is_probed()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_for(lambda: not is_probed())
