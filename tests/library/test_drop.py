"""drop: privilege given up for good in every thread, or an exception that says how far it got."""

import os
import sys
import threading
import time
from ctypes import CDLL, c_uint32
from types import SimpleNamespace

import pytest

import caps.dropping
from caps import IAB, Caps, CapSet, SecureBits, _caps, drop, set_no_new_privs
from support import needs, needs_root, python
from support.child import enter_user_namespace, in_a_child
from support.children.inside import ended, refusal, seen, start, threads, wait_for

LIBC = CDLL(None)
PR_SET_NAME = 15

pytestmark = needs_root
needs_setpcap = needs('cap_setpcap')


def begin():
    """Have some threads."""
    start(time.sleep, 60, count=3)


def name_in_the_middle_of_a_letter():
    LIBC.prctl(PR_SET_NAME, b'caf\xc3')


def set_own_groups(*groups):
    """setgroups(2) for the calling thread alone, as any library can make it."""
    packed = (c_uint32 * len(groups))(*groups)
    assert LIBC.syscall(_caps.SETGROUPS, len(groups), packed) == 0


def change_calls(monkeypatch, change):
    """Have drop() make other system calls than it decided to."""
    make = _caps.system_calls
    changed = SimpleNamespace(**vars(_caps))
    changed.system_calls = lambda calls, all_threads: make(*change(calls, all_threads))
    monkeypatch.setattr('caps.dropping._caps', changed)
    monkeypatch.setattr('caps.threads._caps', changed)


# What is left.


@needs_setpcap
@pytest.mark.parametrize(
    'keep', ['', 'cap_net_bind_service', 'cap_kill,cap_chown,cap_setuid', 'cap_setpcap']
)
@pytest.mark.parametrize('user', ['as it was', 'ordinary'])
@in_a_child
def test_every_thread_ends_with_exactly_what_is_kept(keep, user, accounts):
    begin()
    owner = accounts.owner
    uid, gid = (0, 0) if user == 'as it was' else (owner.uid, owner.gid)
    left = drop(keep, **({'user': uid} if uid else {}))
    ended(keep, uid, gid)
    assert seen('CapBnd') == {0}
    assert left == set()


@in_a_child
def test_the_system_calls_alone_change_one_thread():
    begin()
    before = seen('CapPrm')
    Caps('cap_setuid=ep').apply()
    CDLL(None).syscall(caps.dropping._caps.SETRESUID, 65534, 65534, 65534)
    assert seen('CapPrm') == before | {0}
    assert seen('Uid') == {'0\t0\t0\t0', '65534\t65534\t65534\t65534'}


@needs_setpcap
@pytest.mark.parametrize('keep', [['net_raw', 'CAP_KILL'], CapSet('cap_kill,cap_net_raw'), (5, 13)])
@in_a_child
def test_what_is_kept_may_be_spelled_as_ever(keep):
    begin()
    drop(keep)
    ended('cap_kill,cap_net_raw')


# What is asked for, and the user, the group and the groups that every thread has then.
WAYS = {
    'user by name': lambda owner, attacker: ({'user': owner.name}, owner.uid, owner.gid, ''),
    'user by number': lambda owner, attacker: ({'user': owner.uid}, owner.uid, owner.gid, ''),
    'group by name': lambda owner, attacker: ({'group': attacker.name}, 0, attacker.gid, ''),
    'group by number': lambda owner, attacker: ({'group': attacker.gid}, 0, attacker.gid, ''),
    'user and group': lambda owner, attacker: (
        {'user': owner.name, 'group': attacker.name}, owner.uid, attacker.gid, '',
    ),
    'numbers without accounts': lambda owner, attacker: (
        {'user': 54321, 'group': 54322}, 54321, 54322, '',
    ),
    'root with another group': lambda owner, attacker: (
        {'user': 'root', 'group': owner.name}, 0, owner.gid, '',
    ),
    'groups': lambda owner, attacker: (
        {'user': owner.name, 'groups': [attacker.name, 54323]},
        owner.uid, owner.gid, f'{attacker.gid} 54323',
    ),
    'groups alone': lambda owner, attacker: ({'groups': [54323]}, 0, 0, '54323'),
    'many groups': lambda owner, attacker: (
        {'user': owner.uid, 'groups': range(60000, 60500)},
        owner.uid, owner.gid, ' '.join(map(str, range(60000, 60500))),
    ),
}  # fmt: skip


@pytest.mark.parametrize('way', WAYS.values(), ids=WAYS)
@in_a_child
def test_ids_change_in_every_thread(way, accounts):
    options, uid, gid, groups = way(accounts.owner, accounts.attacker)
    begin()
    os.setgroups([0, 1, 2])
    drop(**options)
    ended('', uid, gid, groups)


@in_a_child
def test_arguments_may_be_given_in_their_order(accounts):
    begin()
    drop(('cap_kill',), accounts.owner.name, accounts.attacker.name, [54323])
    ended('cap_kill', accounts.owner.uid, accounts.attacker.gid, '54323')


@pytest.mark.parametrize(
    ('mine', 'others', 'user', 'options', 'groups'),
    [
        ([], [0, 42], True, {}, ''),
        ([0, 42], [], True, {}, ''),
        ([42], [42, 43], True, {'groups': [42]}, '42'),
        ([43, 42], [42, 43], True, {'groups': [42, 43]}, '42 43'),
        ([42], [43], False, {'groups': [42]}, '42'),
    ],
)  # fmt: skip
@in_a_child
def test_groups_that_only_another_thread_has_go_too(mine, others, user, options, groups, accounts):
    begin()
    os.setgroups(mine)
    start(lambda: (set_own_groups(*others), time.sleep(60)))
    wait_for(lambda: len(seen('Groups')) == (2 if sorted(mine) != sorted(others) else 1))
    drop(**options, **({'user': accounts.owner.uid} if user else {}))
    assert seen('Groups') == {groups}


@in_a_child
def test_a_name_that_is_not_utf8_is_no_matter():
    name_in_the_middle_of_a_letter()
    begin()
    drop()
    ended()
    assert not caps.no_new_privs()


@in_a_child
def test_a_name_that_is_not_utf8_is_told():
    # in the thread, to which Python gives a name of its own since 3.14
    start(lambda: (name_in_the_middle_of_a_letter(), Caps().apply(), time.sleep(60)))
    wait_for(lambda: 0 in seen('CapPrm'))
    assert '(caf\udcc3)' in str(refusal(drop))


@in_a_child
def test_without_ids_groups_stay():
    begin()
    os.setgroups([1, 2])
    drop()
    ended(groups='1 2')


@pytest.mark.parametrize('asked', [False, True])
@in_a_child
def test_no_new_privs_is_set_when_asked_for(asked, accounts):
    begin()
    drop(['cap_kill'], accounts.owner.uid, no_new_privs=asked)
    assert seen('NoNewPrivs') == {str(int(asked))}


@needs_setpcap
@in_a_child
def test_ambient_and_inheritable_become_empty():
    begin()
    iab = IAB.from_process()
    iab.inheritable |= ['cap_kill', 'cap_chown']
    iab.ambient |= ['cap_kill']
    iab.apply(all_threads=True)
    assert seen('CapAmb') == {1 << 5}
    drop(['cap_kill'])
    ended('cap_kill')


@needs_setpcap
@pytest.mark.parametrize('bounding', [IAB('!cap_setpcap'), IAB()], ids=['lost', 'kept'])
@in_a_child
def test_without_cap_setpcap_the_bounding_set_is_left_and_returned(bounding):
    bounding.apply()
    before = Caps.from_process()
    before.clear('cap_setpcap')
    before.apply()
    left = IAB.from_process().bounding
    assert drop() == left == IAB.from_process().bounding != set()
    assert not Caps.from_process()


@needs_setpcap
def test_a_program_that_root_executes_after_it_gets_nothing():
    def printed(change):
        execute = "os.execvp('grep', ['grep', '-E', 'Uid|Cap', '/proc/self/status'])"
        return python(f'import os; from caps import Caps, drop; {change}; {execute}')

    def masks(printed):
        lines = [line.split() for line in printed.splitlines()]
        assert lines[0] == ['Uid:', *'0000']
        return {name: int(mask, 16) for name, mask in lines[1:]}

    names = 'CapInh:', 'CapPrm:', 'CapEff:', 'CapBnd:', 'CapAmb:'
    assert masks(printed('drop()')) == dict.fromkeys(names, 0)
    assert masks(printed('Caps().apply()'))['CapEff:'], 'Caps alone is not enough'


# From where.


@needs_setpcap
@in_a_child
def test_one_with_capabilities_but_not_root_drops_too(accounts):
    begin()
    held = 'cap_setuid,cap_setgid,cap_setpcap,cap_kill,cap_chown'
    drop(held, user=accounts.owner.uid)
    Caps(f'{held}=p').apply(all_threads=True)
    drop('cap_kill', user=accounts.attacker.uid, groups=[54321])
    ended('cap_kill', accounts.attacker.uid, accounts.attacker.gid, '54321')
    drop()
    ended('', accounts.attacker.uid, accounts.attacker.gid, '54321')


@needs_setpcap
@in_a_child
def test_one_with_capabilities_may_become_root(accounts):
    begin()
    drop('cap_setuid,cap_setgid,cap_setpcap,cap_kill', user=accounts.owner.uid)
    drop('cap_kill', user=0, group=0)
    ended('cap_kill')


@in_a_child
def test_what_is_permitted_and_not_effective_is_enough(accounts):
    begin()
    Caps.from_process().deactivate().apply(all_threads=True)
    drop(user=accounts.owner.uid)
    ended('', accounts.owner.uid, accounts.owner.gid)


@in_a_child
def test_one_that_has_nothing_may_drop_again(accounts):
    begin()
    drop(user=accounts.owner.uid)
    drop()
    set_no_new_privs()
    drop(no_new_privs=True)
    ended('', accounts.owner.uid, accounts.owner.gid)


@in_a_child
def test_saved_ids_are_no_way_back(accounts):
    begin()
    os.setresgid(accounts.owner.gid, accounts.owner.gid, 0)
    os.setresuid(accounts.owner.uid, 0, 0)
    drop(user=accounts.owner.uid)
    ended('', accounts.owner.uid, accounts.owner.gid)
    for act in lambda: os.seteuid(0), lambda: os.setegid(0), lambda: os.setresuid(0, 0, 0):
        assert refusal(act).errno == 1


@needs_setpcap
@in_a_child
def test_no_setuid_fixup_leaves_no_way_back(accounts):
    begin()
    SecureBits(['no_setuid_fixup']).apply(all_threads=True)
    drop(user=accounts.owner.uid)
    ended('', accounts.owner.uid, accounts.owner.gid)


@in_a_child
def test_threads_that_end_meanwhile_are_no_failure(accounts):
    begin()
    sys.setswitchinterval(1e-4)

    def relay():
        threading.Thread(target=relay, daemon=True).start()

    for _ in range(8):
        relay()
    drop(user=accounts.owner.uid)
    for field in 'CapPrm', 'CapEff':
        assert seen(field) == {0}


# A way back. drop() leaves none, so that each scene takes one of its steps away.

HOLES = {
    'the saved user id': ('SETRESUID', {'user': 65534, 'group': 0}),
    'the saved group id': ('SETRESGID', {'user': 0, 'group': 65534}),
}


@pytest.mark.parametrize(('call', 'options'), HOLES.values(), ids=HOLES)
@in_a_child
def test_a_way_back_is_found(call, options, monkeypatch):
    """The saved id is left as it was, as by a kernel or a filter that ignores the argument; what
    the status in /proc shows of it is taken out of the comparison."""
    number, check = getattr(_caps, call), caps.dropping._check_threads

    def leave_saved_id(calls, all_threads):
        if all_threads:
            calls = [(*one[:3], -1) if one[0] == number else one for one in calls]
        return calls, all_threads

    def check_but_ids(promised):
        check({name: value for name, value in promised.items() if name not in ('Uid', 'Gid')})

    begin()
    change_calls(monkeypatch, leave_saved_id)
    monkeypatch.setattr('caps.dropping._check_threads', check_but_ids)
    with pytest.raises(RuntimeError, match=r'^there is a way back to id 0$'):
        drop(**options)


@in_a_child
def test_capabilities_that_come_back_are_found(monkeypatch):
    """The last step, that clears permitted, is taken away, and so is the comparison before."""
    begin()
    change_calls(monkeypatch, lambda calls, every: (calls[:-1] if every else calls, every))
    monkeypatch.setattr('caps.dropping._check_threads', lambda *ignored: None)
    with pytest.raises(RuntimeError, match=r'^there is a way back to capset to '):
        drop()


LEFT_OUT = {
    'Groups': ((_caps.SETGROUPS,), {'user': 65534, 'group': 65534}),
    'NoNew': ((_caps.PRCTL, _caps.PR_SET_NO_NEW_PRIVS), {'no_new_privs': True}),
}


@pytest.mark.parametrize(
    ('field', 'start_of_call', 'options'),
    [(field, *rest) for field, rest in LEFT_OUT.items()],
    ids=LEFT_OUT,
)
@in_a_child
def test_groups_and_no_new_privs_are_among_what_is_compared(
    field, start_of_call, options, monkeypatch
):
    """The call is taken away, as a filter does that lets it pass and does nothing."""

    def leave_out(calls, all_threads):
        length = len(start_of_call)
        return [one for one in calls if tuple(one[:length]) != start_of_call], all_threads

    begin()
    os.setgroups([5])
    change_calls(monkeypatch, leave_out)
    with pytest.raises(RuntimeError, match=f' did not drop: {field}'):
        drop(**options)


@in_a_child
def test_a_thread_that_did_not_drop_is_found_and_named(monkeypatch):
    """The calls are made on the calling thread alone."""
    begin()
    change_calls(monkeypatch, lambda calls, all_threads: (calls, False))
    with pytest.raises(RuntimeError, match=r'^thread .* did not drop: CapPrm 00000'):
        drop()


@in_a_child
def test_what_is_kept_is_not_taken_for_a_way_back():
    begin()
    drop(['cap_setuid', 'cap_setgid'], user=65534, group=65534)
    ended('cap_setuid,cap_setgid', 65534, 65534)


# Refused before anything is changed.

REFUSED = {
    'what is not permitted': (
        lambda: Caps('cap_kill=p').apply(all_threads=True),
        lambda: drop(['cap_chown', 'cap_kill']),
        PermissionError, 'cap_chown cannot be kept: it is not permitted',
    ),
    'without cap_setuid': (
        lambda: Caps('cap_setgid=ep').apply(all_threads=True),
        lambda: drop(user=65534, group=65534),
        PermissionError, 'ids cannot be changed: cap_setuid is not permitted',
    ),
    'without cap_setgid': (
        lambda: Caps('cap_setuid=ep').apply(all_threads=True),
        lambda: drop(user=65534, group=65534),
        PermissionError, 'ids cannot be changed: cap_setgid is not permitted',
    ),
    'groups without cap_setgid': (
        lambda: Caps('cap_setuid=ep').apply(all_threads=True),
        lambda: drop(groups=[5]),
        PermissionError, 'ids cannot be changed: cap_setgid is not permitted',
    ),
    'an unknown user': (
        lambda: None,
        lambda: drop(user='nobody-here'),
        LookupError, "there is no user 'nobody-here'",
    ),
    'an unknown group': (
        lambda: None,
        lambda: drop(group='nowhere'),
        LookupError, "there is no group 'nowhere'",
    ),
    'one unknown group of many': (
        lambda: None,
        lambda: drop(user=65534, group=65534, groups=[5, 'nowhere']),
        LookupError, "there is no group 'nowhere'",
    ),
    'a number as text': (
        lambda: None,
        lambda: drop(user='0'),
        LookupError, "there is no user '0'",
    ),
    'a number without account and no group': (
        lambda: None,
        lambda: drop(user=54321),
        LookupError, 'user 54321 has no account: name the group too',
    ),
    'the number that means no change': (
        lambda: None,
        lambda: drop(user=2**32 - 1, group=0),
        LookupError, '4294967295 is not the number of a user',
    ),
    'a negative number': (
        lambda: None,
        lambda: drop(user=65534, group=-1),
        LookupError, '-1 is not the number of a ',
    ),
    'a number that wraps to root': (
        lambda: None,
        lambda: drop(user=2**32, group=65534),
        LookupError, '4294967296 is not the number of a user',
    ),
    'a group number too large': (
        lambda: None,
        lambda: drop(groups=[2**32 - 1]),
        LookupError, '4294967295 is not the number of a group',
    ),
    'locked keep_caps': (
        lambda: SecureBits(['keep_caps_locked']).apply(all_threads=True),
        lambda: drop(['cap_kill'], user=65534, group=65534),
        PermissionError, 'cap_kill cannot be kept: the secure bit keep_caps is locked',
    ),
    'a typo': (
        lambda: None,
        lambda: drop(['cap_kil']),
        ValueError, "'cap_kil' is not a capability; did you mean",
    ),
    'a thread with less': (
        lambda: (
            start(lambda: (Caps('cap_kill=p').apply(), time.sleep(60))),
            wait_for(lambda: len(seen('CapPrm')) == 2),
        ),
        lambda: drop(),
        PermissionError, 'nothing was changed: ',
    ),
}  # fmt: skip


@needs_setpcap
@pytest.mark.parametrize(('first', 'call', 'kind', 'reason'), REFUSED.values(), ids=REFUSED)
@in_a_child
def test_it_raises_before_anything_changes(first, call, kind, reason):
    begin()
    first()
    before = threads()
    with pytest.raises(kind) as raised:
        call()
    assert threads() == before
    said = getattr(raised.value, 'strerror', None) or str(raised.value)
    assert said.strip('"').startswith(reason)


@needs_setpcap
@in_a_child
def test_without_anything_kept_a_locked_keep_caps_is_no_matter():
    begin()
    SecureBits(['keep_caps_locked']).apply(all_threads=True)
    drop(user=65534, group=65534)
    ended('', 65534, 65534)


# Refused by the kernel, after a change.


@needs('cap_setpcap', 'cap_sys_admin', 'user_namespaces')
@pytest.mark.parametrize(
    ('options', 'number', 'failing', 'done'),
    [
        (
            {'user': 5, 'group': 0}, 22, 'setresuid to 5: Invalid argument, after ',
            ['dropping from bounding', 'setresgid to 0'],
        ),
        ({'user': 0, 'group': 5}, 22, 'setresgid to 5: Invalid argument, after ', ['bounding']),
        ({'groups': [5]}, 1, 'setgroups([5]): Operation not permitted, after ', ['bounding']),
    ],
)  # fmt: skip
@in_a_child
def test_what_the_kernel_refuses_says_how_far_it_got(options, number, failing, done):
    enter_user_namespace(setgroups=False)
    begin()
    before = threads()
    error = refusal(drop, **options)
    after = threads()
    assert len(after) == 4
    for thread in before:
        assert (after[thread] == before[thread]) == (thread != threading.get_native_id())
    assert error.errno == number
    assert error.strerror.startswith(failing)
    assert error.strerror.endswith(' in this thread only')
    assert all(step in error.strerror for step in done)
    assert len(error.strerror) < 400
