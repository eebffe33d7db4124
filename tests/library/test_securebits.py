"""Secure bits and no_new_privs against the kernel, setpriv and capsh."""

import errno
import sys
import threading
import time

import pytest

import caps
from caps import Caps, SecureBits
from support import needs, run
from support.child import in_a_child
from support.children.inside import refusal, seen, start, threads

# capabilities(7), "The securebits flags", and linux/securebits.h.
NAMES = {
    'noroot': 0, 'noroot_locked': 1, 'no_setuid_fixup': 2, 'no_setuid_fixup_locked': 3,
    'keep_caps': 4, 'keep_caps_locked': 5, 'no_cap_ambient_raise': 6,
    'no_cap_ambient_raise_locked': 7, 'exec_restrict_file': 8, 'exec_restrict_file_locked': 9,
    'exec_deny_interactive': 10, 'exec_deny_interactive_locked': 11,
}  # fmt: skip
CAPSH = {
    'noroot': 'secure-noroot', 'no_setuid_fixup': 'secure-no-suid-fixup',
    'keep_caps': 'secure-keep-caps', 'no_cap_ambient_raise': 'secure-no-ambient-raise',
}  # fmt: skip


def of_mask(mask):
    bits = SecureBits()
    bits.mask = mask
    return bits


@pytest.mark.parametrize(('name', 'bit'), NAMES.items())
def test_a_name_is_its_bit(name, bit):
    for spelling in name, name.upper(), f'SECBIT_{name.upper()}', str(bit):
        bits = SecureBits([spelling])
        assert bits.mask == 1 << bit
        assert list(bits) == [name]
        assert name in bits
        bits.discard(spelling)
        assert not bits


def test_it_is_a_set():
    bits = SecureBits(['keep_caps']) | {'noroot'}
    assert bits == {'noroot', 'keep_caps'} == SecureBits(['keep_caps', 'noroot'])
    assert bits - {'noroot'} == {'keep_caps'}
    assert len(bits) == 2
    assert repr(bits) == "SecureBits(['noroot', 'keep_caps'])"
    assert eval(repr(bits)) == bits


def test_a_bit_without_a_name_survives_as_its_number():
    bits = of_mask(1 << 30 | 1 << 31 | 1)
    assert list(bits) == ['noroot', '30', '31']
    assert repr(bits) == "SecureBits(['noroot', '30', '31'])"
    assert SecureBits(bits).mask == bits.mask == eval(repr(bits)).mask
    assert '30' in bits
    bits.discard('30')
    bits |= {'29'}
    assert list(bits) == ['noroot', '29', '31']


@pytest.mark.parametrize('member', ['no_root', '32', '-1', '', 'cap_kill', None])
def test_what_is_no_bit_is_refused_with_those_there_are(member):
    for act in SecureBits().add, SecureBits().discard, SecureBits().__contains__:
        with pytest.raises(ValueError, match='is not a secure bit; there are noroot, noroot_locke'):
            act(member)


def test_this_process_has_what_the_kernel_says():
    dumped = run('setpriv', '--dump').stdout
    assert dumped.partition('Securebits: ')[2].startswith('[none]') == (not caps.securebits)
    assert isinstance(caps.securebits, SecureBits)
    assert caps.securebits is not caps.securebits, 'each time it is read anew'


@needs('cap_setpcap')
@pytest.mark.parametrize(
    'name', [name for name in NAMES if NAMES[name] < 8 and name != 'keep_caps']
)
def test_a_bit_that_is_set_is_named_alike_by_setpriv_and_capsh(name):
    @in_a_child
    def add():
        bits = caps.securebits
        bits.add(name)
        assert bits.apply() is bits
        assert caps.securebits == bits
        return run('sh', '-c', 'setpriv --dump; capsh --print').stdout

    printed = add()
    if 'ambient' not in name:  # which setpriv has no name for
        assert f'Securebits: {name}\n' in printed
    flag, lock, _ = name.partition('_locked')
    assert f'{CAPSH[flag]}: {"no (locked)" if lock else "yes (unlocked)"}' in printed


@needs('cap_setpcap')
def test_what_setpriv_sets_is_read():
    code = 'import caps; print(*caps.securebits)'
    named = '+noroot,+noroot_locked,+no_setuid_fixup'
    result = run('setpriv', f'--securebits={named}', sys.executable, '-c', code)
    assert result.stdout.split() == ['noroot', 'noroot_locked', 'no_setuid_fixup'], result.stderr


@needs('cap_setpcap')
@in_a_child
def test_one_thread_or_all_of_them():
    def seen_after(bits, **options):
        masks, go = [], threading.Event()
        looking = start(lambda: masks.append(go.wait() and caps.securebits.mask), count=3)
        SecureBits(bits).apply(**options)
        go.set()
        for thread in looking:
            thread.join()
        return masks

    assert seen_after(['noroot']) == [0] * 3
    both = ['no_setuid_fixup', 'keep_caps']
    assert seen_after(both, all_threads=True) == [1 << 2 | 1 << 4] * 3


@needs('cap_setpcap', 'cap_kill')
@in_a_child
def test_cap_setpcap_is_effective_only_meanwhile():
    Caps('cap_setpcap,cap_kill=p cap_kill+e').apply()
    SecureBits(['noroot']).apply()
    assert str(Caps.from_process()) == 'cap_kill=ep cap_setpcap+p'
    assert caps.securebits == {'noroot'}


# What a process with such sets and bits asks for.
BOTH = 'cap_setpcap,cap_kill=p'
REFUSED = {
    'locked': (
        BOTH, ['noroot', 'noroot_locked'], ['noroot_locked'],
        'noroot cannot be changed: locked for good (prctl(2))',
    ),
    'a lock': (
        BOTH, ['keep_caps_locked'], [],
        'keep_caps_locked cannot be changed: locked for good (prctl(2))',
    ),
    'unknown to the kernel': (
        BOTH, [], ['30'], "setting SecureBits(['30']): Operation not permitted",
    ),
    'without cap_setpcap': (
        'cap_kill=ep', [], ['noroot'],
        "setting SecureBits(['noroot']): Operation not permitted",
    ),
}  # fmt: skip


@needs('cap_setpcap', 'cap_kill')
@pytest.mark.parametrize('all_threads', [False, True], ids=['one', 'all'])
@pytest.mark.parametrize(('state', 'first', 'then', 'reason'), REFUSED.values(), ids=REFUSED)
@in_a_child
def test_a_refusal_gives_the_reason_and_changes_nothing(state, first, then, reason, all_threads):
    SecureBits(first).apply()
    Caps(state).apply()
    start(time.sleep, 60, count=2)
    before = threads(), caps.securebits
    error = refusal(SecureBits(then).apply, all_threads=all_threads)
    assert before == (threads(), caps.securebits)
    assert (error.errno, error.strerror) == (errno.EPERM, reason)


@pytest.mark.parametrize(
    'held', ['', pytest.param('cap_setpcap', marks=needs('cap_setpcap'))], ids=['nothing', 'it']
)
@in_a_child
def test_where_nothing_has_to_change_it_takes_no_capability(held):
    SecureBits(['keep_caps', 'noroot_locked'] if held else ()).apply()
    Caps(held and held + '=p').apply()
    bits = SecureBits.from_process()
    Caps().apply()
    assert bits.apply() is bits
    assert SecureBits.from_process() == bits


# no_new_privs.


def test_no_new_privs_is_read_as_the_kernel_has_it():
    code = 'import caps; print(caps.no_new_privs())'
    assert run(sys.executable, '-c', code).stdout == 'False\n'
    assert run('setpriv', '--no-new-privs', sys.executable, '-c', code).stdout == 'True\n'


@pytest.mark.parametrize(
    ('options', 'after'), [({}, {'1'}), ({'all_threads': False}, {'0', '1'})], ids=['all', 'one']
)
@in_a_child
def test_no_new_privs_is_set_in_all_threads_unless_asked_otherwise(options, after):
    start(time.sleep, 60, count=3)
    assert not caps.no_new_privs()
    caps.set_no_new_privs(**options)
    assert caps.no_new_privs()
    assert seen('NoNewPrivs') == after
    caps.set_no_new_privs(**options)
