"""IAB, the rest of a state, against libcap's text, /proc, getpcaps and capsh."""

import copy
import ctypes
import errno
import os
import re
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from caps import IAB, Caps, CapSet, SecureBits
from support import ROOT, examples, libcap, needs, run
from support.child import in_a_child
from support.children.inside import refusal, seen, start, threads

FIELDS = {'inheritable': 'CapInh', 'ambient': 'CapAmb', 'bounding': 'CapBnd'}
SOME = 'cap_chown', 'cap_kill', 'cap_net_raw'
INH, AMB, BOUND = 2, 3, 4  # cap_iab_vector_t

lib = libcap.library
for name in 'cap_iab_from_text', 'cap_iab_to_text', 'cap_iab_init':
    getattr(lib, name).restype = ctypes.c_void_p
for name in 'cap_iab_to_text', 'cap_iab_set_proc':
    getattr(lib, name).argtypes = [ctypes.c_void_p]
lib.cap_iab_get_vector.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
lib.cap_iab_set_vector.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]


# libcap's side: three vectors, the last being what is blocked from the bounding set.


def read(text):
    """The vectors that libcap reads in a text; None where it rejects it."""
    iab = lib.cap_iab_from_text(text.encode())
    if not iab:
        return None
    vectors = tuple(
        sum(lib.cap_iab_get_vector(iab, vector, bit) << bit for bit in range(libcap.KERNEL))
        for vector in (INH, AMB, BOUND)
    )
    lib.cap_free(iab)
    return vectors


def written(vectors):
    """The text that libcap prints for three vectors."""
    iab = lib.cap_iab_init()
    for vector, mask in zip((INH, AMB, BOUND), vectors, strict=True):
        for bit in range(libcap.KERNEL):
            if mask >> bit & 1:
                assert lib.cap_iab_set_vector(iab, vector, bit, 1) == 0
    text = libcap.taken(lib.cap_iab_to_text(iab))
    lib.cap_free(iab)
    return text


def vectors(iab):
    return iab.inheritable.mask, iab.ambient.mask, libcap.ALL & ~iab.bounding.mask


def proc_masks(pid='thread-self'):
    """The inheritable, ambient and bounding bits in /proc."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    fields = dict(line.split(':\t', 1) for line in lines if ':\t' in line)
    return tuple(int(fields[name], 16) for name in FIELDS.values())


def masks_of(iab):
    return tuple(iab[name].mask for name in FIELDS)


# The language.

names = st.sampled_from([name for name in libcap.NAMES if not name.isdigit()])
spelled = st.one_of(
    names,
    names.map(str.upper),
    st.builds(
        str.format,
        st.sampled_from(['{}', '0{:o}', '{:#x}', '0X{:X}']),
        st.integers(0, libcap.KERNEL + 1) | st.integers(0, libcap.BITS),
    ),
)
entries = st.builds(str.__add__, st.text('!^%', max_size=3), spelled)
sentences = st.lists(entries, max_size=5).map(','.join)
scraps = st.one_of(
    st.sampled_from(
        ['!', '^', '%', ',', ',,', '%,', 'all', 'ALL', '=', ' ', '\t', 'x', '0x', '08', '-1', '64',
         'cap_', 'net_raw', 'cap_net_rwa', '_', '\x1c', '\xb2', '\u0663', '+5', '5 ', str(2**64)]
    ),
    st.characters(min_codepoint=1, max_codepoint=0x2FF),
)  # fmt: skip


@st.composite
def slips(draw):
    """A sentence of the language with something cut out of it or put into it."""
    text = draw(sentences)
    start = draw(st.integers(0, len(text)))
    stop = min(len(text), start + draw(st.sampled_from([0, 0, 1, 1, 2, 5])))
    return text[:start] + draw(st.just('') | scraps) + text[stop:]


junk = st.lists(scraps, max_size=5).map(''.join) | st.text('!^%,cap_kil05x ', max_size=12)


def meaning(text):
    try:
        return vectors(IAB(text))
    except ValueError:
        return None


def same(text):
    """Whether libcap takes a text, having seen that IAB reads the same in it."""
    expected = read(text)
    assert meaning(text) == expected
    return expected is not None


def test_texts_are_taken_where_libcap_takes_them_and_mean_the_same():
    taken = Counter()

    @settings(max_examples=examples(800))
    @given(sentences | slips())
    def compare(text):
        taken[same(text)] += 1

    compare()
    assert min(taken[True], taken[False]) > examples(800) // 16, taken


@settings(max_examples=examples(300))
@given(junk)
@example('')
@example(',')
@example('!')
@example('cap_kill,')
@example('cap_kill,!')
@example('cap_kill,,cap_chown')
@example('cap_kill\0')
def test_junk_is_refused_where_libcap_refuses_it(text):
    if '\0' in text:
        assert meaning(text) is None
    else:
        event(f'taken: {same(text)}')


mask = st.integers(0, libcap.ALL)


@given(mask, mask, mask)
def test_any_three_vectors_are_printed_and_read_as_libcap_does(inheritable, ambient, blocked):
    iab = IAB()
    iab.inheritable = CapSet.from_mask(inheritable | ambient)  # as cap_iab_set_vector(3) has it
    iab.ambient = CapSet.from_mask(ambient)
    iab.bounding = CapSet.from_mask(libcap.ALL & ~blocked)
    text = written((inheritable, ambient, blocked))
    assert str(iab) == text
    assert vectors(IAB(text)) == read(text) == vectors(iab)
    assert eval(repr(iab)) == iab == IAB.from_text(text)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('cap_net_rwa', "'cap_net_rwa' is not a capability; did you mean 'cap_net_raw'?"),
        ('!net_raw', "'net_raw' is not a capability; did you mean 'cap_net_raw'?"),
        ('cap_kill=p', "'cap_kill=p' is not a capability; did you mean 'cap_kill'?"),
    ],
)
def test_a_refusal_names_the_text_and_the_reason(text, reason):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        IAB(text)
    assert str(refusal.value) == f'{text!r} is not IAB text: {reason}'


# The sets.


def test_the_sets_are_those_of_caps():
    iab = IAB('!cap_chown,^cap_kill,cap_net_raw')
    assert list(iab.inheritable) == ['cap_kill', 'cap_net_raw']
    assert iab['ambient'] is iab.ambient == {'cap_kill'}
    assert CapSet.all() - iab.bounding == {'cap_chown'}
    iab['inheritable'].add('cap_sys_time')
    iab.bounding -= ['cap_kill']
    assert str(iab) == '!cap_chown,!^cap_kill,cap_net_raw,cap_sys_time'
    with pytest.raises(KeyError, match='effective'):
        iab['effective']


def test_a_copy_is_equal_and_independent():
    iab = IAB('^cap_kill')
    for other in iab.copy(), copy.copy(iab), copy.deepcopy(iab), IAB(iab):
        assert other == iab
        other.ambient.clear()
        assert other != iab == IAB('^cap_kill')
    assert iab != Caps()
    with pytest.raises(TypeError, match='unhashable'):
        hash(iab)


def test_it_is_false_only_when_all_sets_are_empty():
    iab = IAB()
    assert iab
    iab.bounding.clear()
    assert not iab


# Reading processes.


@contextmanager
def capsh(*options):
    """A shell that capsh started with options and that waits; its process id."""
    command = ['capsh', *options, '--', '-c', 'echo; read _']
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        child.stdout.readline()
        yield child.pid
        child.communicate('\n')


def test_this_process_is_what_proc_says():
    assert masks_of(IAB.from_process()) == proc_masks()


@needs('cap_setpcap', *SOME)
@pytest.mark.parametrize(
    'text', ['!cap_kill', 'cap_chown', '!cap_sys_time,^cap_net_raw', '!^cap_chown,cap_kill']
)
def test_another_process_is_read_by_its_pid(text):
    with capsh(f'--iab={text}') as pid:
        iab = IAB.from_process(pid)
        assert masks_of(iab) == proc_masks(pid)
        printed = run('getpcaps', '--iab', pid).stdout
    assert IAB(printed.split()[-1].strip('[]')) == iab
    assert iab.ambient == IAB(text).ambient
    assert not iab.bounding & (CapSet.all() - IAB(text).bounding)


@pytest.mark.parametrize('pid', [2**22 + 1, -1])
def test_a_process_that_is_not_there_is_an_error(pid):
    with pytest.raises(ProcessLookupError, match=f'process {pid}: No such process'):
        IAB.from_process(pid)


@needs('cap_sys_chroot')
@in_a_child
def test_without_proc_another_process_is_not_called_absent(tmp_path):
    os.chroot(tmp_path)
    IAB.from_process()
    reason = refusal(IAB.from_process, 1).strerror
    assert reason == 'process 1: it is read from /proc, which is not mounted'


# Applying.


@needs('cap_setpcap', *SOME)
@pytest.mark.parametrize(
    'text',
    [
        '',
        'cap_kill',
        '^cap_net_raw',
        '!cap_kill',
        '!^cap_chown,!cap_sys_time,cap_kill',
        ','.join(f'!{name}' for name in libcap.NAMES[: libcap.KERNEL]),
    ],
    ids=lambda text: text[:40] or 'nothing',
)
@in_a_child
def test_an_applied_state_is_what_the_kernel_and_capsh_have(text):
    inheritable, ambient, blocked = read(text)
    bounding = proc_masks()[2] & ~blocked
    iab = IAB(text)
    iab.bounding &= IAB.from_process().bounding
    assert iab.apply() is iab
    assert IAB.from_process() == iab
    assert proc_masks() == (inheritable, ambient, bounding)
    if iab.bounding:  # without, nothing can be executed that root has capabilities in
        printed = run('capsh', '--print').stdout
        (line,) = [line for line in printed.splitlines() if line.startswith('Current IAB: ')]
        assert IAB(line.removeprefix('Current IAB: ')).ambient.mask == ambient


# IAB texts, for instance of libcap's manual pages and its own tests; what the process has before;
# and the inheritable, ambient and dropped capabilities afterwards.
APPLIED = [
    ('', '', ('', '', '')),
    ('', 'cap_kill', ('', '', '')),
    ('', '^cap_kill', ('', '', '')),
    ('', '!cap_kill', ('', '', 'cap_kill')),
    ('!cap_sys_admin,^cap_net_raw', '', ('cap_net_raw', 'cap_net_raw', 'cap_sys_admin')),
    ('!cap_sys_admin', '!cap_kill', ('', '', 'cap_sys_admin,cap_kill')),
    ('!cap_kill', '!cap_kill,cap_chown', ('', '', 'cap_kill')),
    ('cap_kill', '^cap_chown', ('cap_kill', '', '')),
    ('%cap_kill', '', ('cap_kill', '', '')),
    ('^cap_kill', '!cap_chown', ('cap_kill', 'cap_kill', 'cap_chown')),
    ('!^cap_kill', '', ('cap_kill', 'cap_kill', 'cap_kill')),
    ('!%cap_kill', '', ('cap_kill', '', 'cap_kill')),
    ('!%cap_kill,^cap_chown', '', ('cap_kill,cap_chown', 'cap_chown', 'cap_kill')),
    ('^5,!0', '', ('cap_kill', 'cap_kill', 'cap_chown')),
    ('cap_kill', 'cap_kill,!cap_kill', ('cap_kill', '', 'cap_kill')),
    ('!cap_kill', '^cap_kill', ('', '', 'cap_kill')),
]


def by_libcap(text, all_threads=False):
    assert lib.cap_iab_set_proc(lib.cap_iab_from_text(text.encode())) == 0


def by_us(text, all_threads):
    IAB(text).apply(all_threads=all_threads)


@in_a_child
def apply_one_after_another(apply, held, first, text, all_threads):
    """In a process whose bounding set is reduced already, as in every container."""
    by_libcap('!cap_sys_time')
    if held:
        Caps(permitted=held).apply()
    caps, bounding = Caps.from_process(), IAB.from_process().bounding
    by_libcap(first)
    apply(text, all_threads)
    return caps, bounding, Caps.from_process(), IAB.from_process()


@needs('cap_setpcap', *SOME)
@pytest.mark.parametrize('held', [None, ['cap_setpcap', *SOME]], ids=['everything', 'some'])
@pytest.mark.parametrize('all_threads', [False, True], ids=['one', 'all'])
@pytest.mark.parametrize('apply', [by_libcap, by_us])
def test_a_text_does_what_cap_iab_set_proc_does_with_it(held, all_threads, apply):
    for text, first, wanted in APPLIED:
        inheritable, ambient, dropped = map(CapSet, wanted)
        caps, bounding, after, iab = apply_one_after_another(apply, held, first, text, all_threads)
        assert iab.inheritable == inheritable, (text, first, iab)
        assert iab.ambient == ambient, (text, first, iab)
        assert iab.bounding == bounding - dropped, (text, first, iab)
        caps.inheritable = inheritable
        assert after == caps


@needs('cap_setpcap', *SOME)
@in_a_child
def test_what_readme_shows_applies_in_a_reduced_bounding_set():
    (text,) = set(re.findall(r"IAB\('(.*?)'\)", (ROOT / 'README.md').read_text()))
    IAB('!cap_sys_time').apply()
    IAB(text).apply()
    assert set(str(IAB.from_process()).split(',')) >= {*text.split(','), '!cap_sys_time'}


@needs('cap_setpcap', *SOME)
@in_a_child
def test_bounding_never_grows_whatever_is_assigned():
    IAB('!cap_sys_time').apply()
    iab = IAB.from_process()
    now = iab.bounding.copy()
    iab.bounding = CapSet.all()
    iab.apply()
    iab.apply(all_threads=True)
    assert IAB.from_process().bounding == now
    Caps('cap_kill=p').apply()
    IAB('^cap_kill').apply()
    assert IAB.from_process().bounding == now


@needs('cap_setpcap', 'cap_kill')
@in_a_child
def test_what_is_ambient_reaches_a_program_of_an_ordinary_user():
    Caps('cap_kill,cap_setuid,cap_setpcap=ep').apply()
    SecureBits(['no_setuid_fixup']).apply()
    os.setuid(65534)
    iab = IAB.from_process()
    iab.inheritable.add('cap_kill')
    iab.ambient.add('cap_kill')
    iab.apply()
    printed = run('/bin/grep', 'CapEff', '/proc/self/status').stdout
    assert int(printed.split()[1], 16) == 1 << libcap.NAMES.index('cap_kill')


def discard(iab, *names):
    iab.bounding -= names


def raise_ambient(iab, name='cap_kill'):
    iab.inheritable.add(name)
    iab.ambient.add(name)


# What the process has, what it does first, what it asks for, and the rule that this breaks.
REFUSED = {
    'bounding shrinks without cap_setpcap': (
        'cap_kill=ep',
        None,
        lambda iab: discard(iab, 'cap_kill', 'cap_chown'),
        'cap_chown,cap_kill cannot be taken from bounding: cap_setpcap is not permitted',
    ),
    'inheritable without cap_setpcap': (
        'cap_kill=ep',
        None,
        lambda iab: iab.inheritable.add('cap_chown'),
        'cap_chown cannot be added to inheritable: it must be in the bounding set and, without '
        'cap_setpcap permitted, permitted',
    ),
    'inheritable out of bounds': (
        'cap_setpcap,cap_kill=ep',
        lambda iab: (discard(iab, 'cap_kill'), iab.apply()),
        lambda iab: iab.inheritable.add('cap_kill'),
        'cap_kill cannot be added to inheritable: it must be in the bounding set and, without ',
    ),
    'ambient that is not inheritable': (
        'cap_kill=ep',
        None,
        lambda iab: iab.ambient.add('cap_kill'),
        'cap_kill cannot be added to ambient: it must be permitted and inheritable',
    ),
    'ambient that is not permitted': (
        'cap_setpcap=ep',
        None,
        raise_ambient,
        'cap_kill cannot be added to ambient: it must be permitted and inheritable',
    ),
    'ambient under a secure bit': (
        'cap_setpcap,cap_kill=ep',
        lambda iab: SecureBits(['no_cap_ambient_raise']).apply(),
        raise_ambient,
        'cap_kill cannot be ambient: the secure bit no_cap_ambient_raise is set',
    ),
}


@needs('cap_setpcap', *SOME)
@pytest.mark.parametrize('all_threads', [False, True], ids=['one', 'all'])
@pytest.mark.parametrize(('held', 'first', 'ask', 'reason'), REFUSED.values(), ids=REFUSED)
@in_a_child
def test_a_broken_rule_is_named_before_anything_changes(held, first, ask, reason, all_threads):
    Caps(held).apply()
    iab = IAB.from_process()
    if first:
        first(iab)
    start(time.sleep, 60, count=2)
    before = threads()
    ask(iab)
    if 'cap_setpcap' in Caps.from_process().permitted:
        discard(iab, 'cap_sys_time')
    error = refusal(iab.apply, all_threads=all_threads)
    assert threads() == before
    assert error.errno == errno.EPERM
    assert error.strerror.startswith(reason)


@needs('cap_setpcap')
@in_a_child
def test_cap_setpcap_is_effective_only_meanwhile():
    Caps('cap_setpcap,cap_kill=p cap_kill+e').apply()
    for bit in '!cap_chown', '!cap_chown,!cap_kill':
        iab = IAB(bit)
        iab.bounding &= IAB.from_process().bounding
        iab.apply()
        assert str(Caps.from_process()) == 'cap_kill=ep cap_setpcap+p'


@needs('cap_setpcap', *SOME)
@in_a_child
def test_all_threads_get_it():
    start(time.sleep, 60, count=3)
    iab = IAB.from_process()
    discard(iab, 'cap_sys_time')
    raise_ambient(iab)
    iab.apply()
    assert seen('CapAmb') == {0, 1 << 5}, 'one thread is not all'
    iab.apply(all_threads=True)
    for name, field in FIELDS.items():
        assert seen(field) == {iab[name].mask}, field
