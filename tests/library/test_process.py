"""Caps of processes and threads against the kernel: /proc, getpcaps and capsh are the referees."""

import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caps import IAB, Caps, CapSet
from support import PATIENCE, examples, libcap, needs, run
from support.child import in_a_child
from support.children.inside import refusal

SETS = {'effective': 'CapEff', 'permitted': 'CapPrm', 'inheritable': 'CapInh'}
SOME = 'cap_chown', 'cap_kill', 'cap_net_raw'
PR_CAPBSET_DROP = 24

masks = st.integers(0, 2**libcap.BITS - 1)


def proc_masks(thread='thread-self'):
    """The effective, permitted and inheritable bits in /proc."""
    lines = Path(f'/proc/{thread}/status').read_text().splitlines()
    fields = dict(line.split(':\t', 1) for line in lines if ':\t' in line)
    return tuple(int(fields[name], 16) for name in SETS.values())


def state(masks):
    return Caps(**dict(zip(SETS, map(CapSet.from_mask, masks), strict=True)))


@contextmanager
def child_with(text):
    """A child that has applied a state and waits; its process id."""
    code = f'from caps import Caps; Caps({text!r}).apply(); print(flush=True); input()'
    with subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        yield child.pid
        child.communicate('\n')
    assert child.returncode == 0


@contextmanager
def thread_with(text):
    """A thread of this process that has applied a state and waits; its thread id."""
    applied, done = threading.Event(), threading.Event()

    def work():
        Caps(text).apply()
        applied.set()
        done.wait(PATIENCE)

    thread = threading.Thread(target=work)
    thread.start()
    assert applied.wait(PATIENCE)
    try:
        yield thread.native_id
    finally:
        done.set()
        thread.join()


def in_a_thread(function, *arguments):
    """The result of a function called in a thread of its own, whose state ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


@in_a_child
def refused(before, after):
    """The reason that a child is given which applies one state and then, in vain, another."""
    Caps(before).apply()
    error = refusal(Caps(after).apply)
    assert (type(error), error.errno, error.filename) == (PermissionError, errno.EPERM, None)
    assert Caps.from_process() == Caps(before)
    return error.strerror


# Reading.


def test_this_process_is_what_proc_says():
    assert libcap.masks(Caps.from_process()) == proc_masks()


def test_a_process_is_no_file():
    caps = Caps.from_process()
    assert caps.marked is None
    assert caps.root_id == 0


@pytest.mark.parametrize(
    'text',
    ['=', *(pytest.param(text, marks=needs(*SOME)) for text in [
        'cap_net_raw=p', 'cap_net_raw=eip cap_kill=p cap_chown=ip', 'cap_kill=ep cap_net_raw=i',
    ])],
)  # fmt: skip
def test_another_process_is_read_by_its_pid(text):
    with child_with(text) as pid:
        caps = Caps.from_process(pid)
        assert caps == Caps(text)
        assert libcap.masks(caps) == proc_masks(pid) == libcap.read(text)
        printed = run('getpcaps', pid).stdout
        assert printed.startswith(f'{pid}: ')
        assert Caps(printed.partition(': ')[2]) == caps


@needs('cap_kill')
def test_a_thread_is_read_by_its_id():
    with thread_with('cap_kill=p') as thread:
        caps = Caps.from_process(thread)
        assert caps == Caps('cap_kill=p')
        assert libcap.masks(caps) == proc_masks(thread)


@pytest.mark.parametrize('pid', [2**22 + 1, 2**31 - 1])
def test_a_process_that_is_not_there_is_an_error(pid):
    with pytest.raises(ProcessLookupError) as missing:
        Caps.from_process(pid)
    assert missing.value.errno == errno.ESRCH
    assert missing.value.strerror == f'process {pid}: No such process'


def test_a_process_that_has_ended_is_an_error():
    with child_with('=') as pid:
        pass
    with pytest.raises(ProcessLookupError, match=f'process {pid}: '):
        Caps.from_process(pid)


def test_a_negative_pid_is_an_error():
    with pytest.raises(OSError, match='process -1: ') as refused:
        Caps.from_process(-1)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize('pid', ['1', None, 1.5, 2**31, -(2**31) - 1])
@pytest.mark.parametrize('read', [Caps.from_process, IAB.from_process], ids=['Caps', 'IAB'])
def test_what_is_no_pid_is_refused_as_kill_refuses_it(pid, read):
    with pytest.raises((TypeError, OverflowError)) as killed:
        os.kill(pid, 0)
    with pytest.raises(killed.type):
        read(pid)


# Arithmetic.

STATE = 'cap_chown=p cap_kill=ep cap_net_raw=i cap_sys_time=eip'


@pytest.mark.parametrize(
    ('method', 'names', 'after'),
    [
        ('activate', [], 'cap_chown=ep cap_kill=ep cap_net_raw=i cap_sys_time=eip'),
        ('activate', ['chown'], 'cap_chown=ep cap_kill=ep cap_net_raw=i cap_sys_time=eip'),
        (
            'activate',
            ['kill', 'NET_RAW'],
            'cap_chown=p cap_kill=ep cap_net_raw=ei cap_sys_time=eip',
        ),
        ('deactivate', [], 'cap_chown=p cap_kill=p cap_net_raw=i cap_sys_time=ip'),
        ('deactivate', [5], 'cap_chown=p cap_kill=p cap_net_raw=i cap_sys_time=eip'),
        ('deactivate', ['cap_chown'], STATE),
        ('propagate', [], 'cap_chown=ip cap_kill=eip cap_net_raw=i cap_sys_time=eip'),
        ('propagate', ['cap_kill'], 'cap_chown=p cap_kill=eip cap_net_raw=i cap_sys_time=eip'),
        ('propagnate', ['cap_kill'], 'cap_chown=p cap_kill=eip cap_net_raw=i cap_sys_time=eip'),
        ('terminate', [], 'cap_chown=p cap_kill=ep cap_sys_time=ep'),
        ('terminate', ['cap_net_raw', 'kill'], 'cap_chown=p cap_kill=ep cap_sys_time=eip'),
        ('clear', [], '='),
        ('clear', ['kill', 'sys_time'], 'cap_chown=p cap_net_raw=i'),
    ],
    ids=lambda value: ' '.join(map(str, value)) or 'all' if isinstance(value, list) else None,
)
def test_a_method_changes_the_named_or_all_and_returns_self(method, names, after):
    caps = Caps(STATE)
    kept = {name: caps[name] for name in SETS}
    assert getattr(caps, method)(*names) is caps
    assert caps == Caps(after)
    assert all(caps[name] is kept[name] for name in SETS)


@pytest.mark.parametrize('method', ['activate', 'deactivate', 'propagate', 'terminate', 'clear'])
def test_a_method_with_a_typo_changes_nothing(method):
    caps = Caps(STATE)
    with pytest.raises(ValueError, match="did you mean 'cap_sys_time'"):
        getattr(caps, method)('cap_kill', 'cap_sys_tine')
    assert caps == Caps(STATE)


def test_methods_chain():
    caps = Caps('cap_kill=p').activate().propagate().deactivate().terminate()
    assert str(caps) == 'cap_kill=p'


# Applying.


@needs(*SOME)
@pytest.mark.parametrize(
    'text',
    [
        '=',
        'cap_net_raw=p',
        'cap_net_raw=ep',
        'cap_net_raw=ip',
        'cap_net_raw=i',
        'cap_net_raw=eip',
        'cap_net_raw=i cap_kill=p cap_chown=ep',
    ],
)
@in_a_child
def test_an_applied_state_is_what_the_kernel_has(text):
    caps = Caps(text)
    assert caps.apply() is caps
    assert Caps.from_process() == caps
    assert proc_masks() == libcap.read(text)


@needs(*SOME)
@in_a_child
def test_what_is_inheritable_reaches_capsh():
    Caps.from_process().propagate('cap_net_raw', 'cap_kill').terminate('cap_kill').apply()
    printed = run('capsh', '--current', '--has-i=cap_net_raw')
    assert printed.returncode == 0, printed.stderr
    current = printed.stdout.splitlines()[0]
    assert list(Caps(current.removeprefix('Current: ')).inheritable) == ['cap_net_raw']


@needs(*SOME, 'cap_setpcap')
def test_what_capsh_makes_inheritable_is_read():
    code = 'from caps import Caps; print(Caps.from_process().inheritable)'
    shell = f'exec {sys.executable} -c "{code}"'
    result = run('capsh', '--inh=cap_net_raw,cap_kill', '--', '-c', shell)
    assert result.stdout == 'cap_kill,cap_net_raw\n', result.stderr


@needs('cap_sys_chroot')
@in_a_child
def test_activated_capabilities_work():
    caps = Caps.from_process().deactivate().apply()
    assert refusal(os.chroot, '/').errno == errno.EPERM
    caps.activate('cap_sys_chroot').apply()
    os.chroot('/')


@needs(*SOME)
def test_apply_changes_the_calling_thread_only():
    before = proc_masks()
    with thread_with('cap_kill=p') as one, thread_with('=') as two:
        assert proc_masks(one) == libcap.read('cap_kill=p')
        assert proc_masks(two) == (0, 0, 0)
        assert proc_masks() == before
        assert in_a_thread(proc_masks) == before
    assert proc_masks() == before


@pytest.mark.parametrize(
    ('before', 'after', 'reason'),
    [
        ('=', 'cap_net_raw=p', 'cap_net_raw cannot be added to permitted: permitted can only '),
        ('=', 'cap_net_raw=ep', 'cap_net_raw cannot be added to permitted: permitted can only '),
        ('=', 'cap_net_raw=e', 'cap_net_raw cannot be added to effective: only the permitted '),
        ('=', 'cap_net_raw=i', 'cap_net_raw cannot be added to inheritable: it must be in the '),
        ('=', 'cap_kill,5,cap_chown=p', 'cap_chown,cap_kill cannot be added to permitted: '),
        pytest.param(
            'cap_kill=ep',
            'cap_kill=ep cap_net_raw=p',
            'cap_net_raw cannot be added to permitted: permitted can only be reduced',
            marks=needs('cap_kill'),
        ),
        pytest.param(
            'cap_kill=ep',
            'cap_kill=p cap_kill,cap_net_raw=e',
            'cap_kill,cap_net_raw cannot be added to effective: only the permitted ',
            marks=needs('cap_kill'),
        ),
        pytest.param(
            'cap_kill=ep cap_setpcap=p',
            'cap_kill=eip cap_net_raw=i',
            'cap_net_raw cannot be added to inheritable: it must be in the bounding set and, '
            'without cap_setpcap effective, permitted',
            marks=needs('cap_kill', 'cap_setpcap'),
        ),
    ],
)
def test_a_broken_rule_names_capability_set_and_rule(before, after, reason):
    given = refused(before, after)
    assert given.startswith(reason)
    assert given.endswith('; see capset(2)')


@needs('cap_net_raw', 'cap_setpcap')
@pytest.mark.parametrize('effective', ['cap_setpcap', 'cap_net_raw'])
@in_a_child
def test_what_is_not_in_the_bounding_set_cannot_become_inheritable(effective):
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, libcap.NAMES.index('cap_net_raw')) == 0
    before = f'cap_net_raw,cap_setpcap=p {effective}+e'
    assert refused(before, f'{before} cap_net_raw+i').startswith(
        'cap_net_raw cannot be added to inheritable: it must be in the bounding set'
    )


@needs('cap_setpcap')
@in_a_child
def test_with_cap_setpcap_what_is_not_permitted_can_become_inheritable():
    Caps('cap_setpcap=ep').apply()
    Caps('cap_setpcap=ep cap_net_raw=i').apply()
    assert Caps.from_process().inheritable == {'cap_net_raw'}


# How close a state keeps to what a thread with another state may take.
CLOSE = {
    'within': lambda old, new: (
        new[0] & new[1] & old[1], new[1] & old[1], new[2] & (old[1] | old[2])
    ),
    'inheritable': lambda old, new: (new[0] & new[1] & old[1], new[1] & old[1], new[2]),
    'effective': lambda old, new: (new[0], new[1] & old[1], new[2]),
    'anything': lambda old, new: new,
}  # fmt: skip


@needs(*SOME)
def test_any_state_is_applied_or_refused_with_the_rule():
    verdicts = Counter()
    own = proc_masks()[1]

    def verdict(old, new):
        state(old).apply()
        assert proc_masks() == old
        try:
            state(new).apply()
        except PermissionError as error:
            assert proc_masks() == old
            return error.strerror.partition(' cannot be added to ')[2].partition(':')[0]
        assert proc_masks() == new
        return 'applied'

    @settings(max_examples=examples(300))
    @given(st.tuples(*[masks] * 3), st.tuples(*[masks] * 3), st.sampled_from(list(CLOSE)))
    def attempt(old, new, how):
        old, new = (tuple(mask & own for mask in three) for three in (old, new))
        old = old[0] & old[1], old[1], old[2]
        verdicts[in_a_thread(verdict, old, CLOSE[how](old, new))] += 1

    attempt()
    each = 'applied', 'permitted', 'effective', 'inheritable'
    assert verdicts.keys() <= {*each}
    assert min(verdicts[verdict] for verdict in each) >= examples(300) // 60, verdicts
