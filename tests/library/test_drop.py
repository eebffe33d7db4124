"""drop: privilege given up for good in every thread, or an exception that says how far it got."""

import sys

import pytest

from caps import CapSet
from support import CHILDREN, needs, needs_root, python, run

CODE = """
import os, sys, threading, time
import caps.dropping
from caps import IAB, Caps, CapSet, SecureBits, drop, raised, set_no_new_privs
from inside import *

start(time.sleep, 60, count=3)

def ended(kept='', uid=0, gid=0, groups=''):
    mask = CapSet(kept).mask
    wanted = {
        'CapPrm': mask, 'CapEff': mask, 'CapInh': 0, 'CapAmb': 0,
        'Uid': '\\t'.join([str(uid)] * 4), 'Gid': '\\t'.join([str(gid)] * 4), 'Groups': groups,
    }
    for name, value in wanted.items():
        assert seen(name) == {value}, (name, seen(name), value)
"""

pytestmark = needs_root
needs_setpcap = needs('cap_setpcap')


def child(code, *arguments, **options):
    return python(CODE + code, *arguments, cwd=CHILDREN, **options)


# What is left.


@needs_setpcap
@pytest.mark.parametrize(
    'keep', ['', 'cap_net_bind_service', 'cap_kill,cap_chown,cap_setuid', 'cap_setpcap']
)
@pytest.mark.parametrize('user', ['as it was', 'ordinary'])
def test_every_thread_ends_with_exactly_what_is_kept(keep, user, accounts):
    code = """
keep, uid, gid = sys.argv[1], *map(int, sys.argv[2:])
left = drop(keep, **({'user': uid} if uid else {}))
ended(keep, uid, gid)
assert seen('CapBnd') == {0} and left == set()
leave()
"""
    uid, gid = (0, 0) if user == 'as it was' else (accounts.owner.uid, accounts.owner.gid)
    child(code, keep, uid, gid)


def test_the_system_calls_alone_change_one_thread():
    child("""
from ctypes import CDLL
before = seen('CapPrm')
Caps('cap_setuid=ep').apply()
CDLL(None).syscall(caps.dropping._caps.SETRESUID, 65534, 65534, 65534)
assert seen('CapPrm') == before | {0}
assert seen('Uid') == {'0\\t0\\t0\\t0', '65534\\t65534\\t65534\\t65534'}
leave()
""")


@needs_setpcap
@pytest.mark.parametrize('keep', [['net_raw', 'CAP_KILL'], CapSet('cap_kill,cap_net_raw'), (5, 13)])
def test_what_is_kept_may_be_spelled_as_ever(keep):
    child(f"drop({keep!r}); ended('cap_kill,cap_net_raw'); leave()")


WAYS = {
    'user by name': ('user={owner.name!r}', '{owner.uid}', '{owner.gid}', ''),
    'user by number': ('user={owner.uid}', '{owner.uid}', '{owner.gid}', ''),
    'group by name': ('group={attacker.name!r}', '0', '{attacker.gid}', ''),
    'group by number': ('group={attacker.gid}', '0', '{attacker.gid}', ''),
    'user and group': (
        'user={owner.name!r}, group={attacker.name!r}', '{owner.uid}', '{attacker.gid}', '',
    ),
    'numbers without accounts': ('user=54321, group=54322', '54321', '54322', ''),
    'root with another group': ('user="root", group={owner.name!r}', '0', '{owner.gid}', ''),
    'groups': (
        'user={owner.name!r}, groups=[{attacker.name!r}, 54323]', '{owner.uid}', '{owner.gid}',
        '{attacker.gid} 54323',
    ),
    'groups alone': ('groups=[54323]', '0', '0', '54323'),
    'many groups': (
        'user={owner.uid}, groups=range(60000, 60500)', '{owner.uid}', '{owner.gid}',
        ' '.join(map(str, range(60000, 60500))),
    ),
    'in the order given': (
        '("cap_kill",), {owner.name!r}, {attacker.name!r}, [54323]',
        '{owner.uid}', '{attacker.gid}', '54323',
    ),
}  # fmt: skip


@pytest.mark.parametrize(('call', 'uid', 'gid', 'groups'), WAYS.values(), ids=WAYS)
def test_ids_change_in_every_thread(call, uid, gid, groups, accounts):
    call, uid, gid, groups = (text.format(**vars(accounts)) for text in (call, uid, gid, groups))
    kept = 'cap_kill' if 'cap_kill' in call else ''
    child(f"""
os.setgroups([0, 1, 2])
drop({call})
ended({kept!r}, {uid}, {gid}, {groups!r})
leave()
""")


# setgroups(2) for the calling thread alone, as any library can make it.
OTHER_GROUPS = """
from ctypes import CDLL, c_uint32
def other(*groups):
    packed = (c_uint32 * len(groups))(*groups)
    assert CDLL(None).syscall(caps._caps.SETGROUPS, len(groups), packed) == 0
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ('mine', 'others', 'options', 'groups'),
    [
        ([], [0, 42], 'user={uid}', ''),
        ([0, 42], [], 'user={uid}', ''),
        ([42], [42, 43], 'user={uid}, groups=[42]', '42'),
        ([43, 42], [42, 43], 'user={uid}, groups=[42, 43]', '42 43'),
        ([42], [43], 'groups=[42]', '42'),
    ],
)  # fmt: skip
def test_groups_that_only_another_thread_has_go_too(mine, others, options, groups, accounts):
    child(f"""
{OTHER_GROUPS}
os.setgroups({mine})
start(other, *{others})
wait_for(lambda: len(seen('Groups')) == {2 if sorted(mine) != sorted(others) else 1})
drop({options.format(uid=accounts.owner.uid)})
assert seen('Groups') == {{{groups!r}}}
leave()
""")


# PR_SET_NAME, to what was cut in the middle of a letter.
NAMED = "from ctypes import CDLL; CDLL(None).prctl(15, b'caf\\xc3')\n"


def test_a_name_that_is_not_utf8_is_no_matter():
    child(NAMED + 'drop(); ended(); assert not caps.no_new_privs(); leave()')


def test_a_name_that_is_not_utf8_is_told():
    child(
        NAMED
        + """
start(lambda: (Caps().apply(), time.sleep(60)))
wait_for(lambda: 0 in seen('CapPrm'))
assert '(caf\\udcc3)' in str(refusal(drop))
leave()
"""
    )


def test_without_ids_groups_stay():
    child("os.setgroups([1, 2]); drop(); ended(groups='1 2'); leave()")


@pytest.mark.parametrize('asked', [False, True])
def test_no_new_privs_is_set_when_asked_for(asked, accounts):
    child(f"""
drop(['cap_kill'], {accounts.owner.uid}, no_new_privs={asked})
assert seen('NoNewPrivs') == {{{str(int(asked))!r}}}
leave()
""")


@needs_setpcap
def test_ambient_and_inheritable_become_empty():
    child("""
iab = IAB.from_process()
iab.inheritable |= ['cap_kill', 'cap_chown']
iab.ambient |= ['cap_kill']
iab.apply(all_threads=True)
assert seen('CapAmb') == {1 << 5}
drop(['cap_kill'])
ended('cap_kill')
leave()
""")


@needs_setpcap
@pytest.mark.parametrize('how', ['capsh --drop', 'Caps.apply'])
def test_without_cap_setpcap_the_bounding_set_is_left_and_returned(how):
    code = """
from caps import IAB, Caps, drop
before = Caps.from_process()
before.clear('cap_setpcap')
before.apply()
bounding = IAB.from_process().bounding
assert drop() == bounding == IAB.from_process().bounding != set()
assert not Caps.from_process()
print('left')
"""
    if how == 'Caps.apply':
        assert python(code) == 'left\n'
    else:
        shell = ['capsh', '--drop=cap_setpcap', '--', '-c', 'exec "$0" -c "$1"']
        assert run(*shell, sys.executable, code).stdout == 'left\n'


@needs_setpcap
def test_a_program_that_root_executes_after_it_gets_nothing():
    executed = "os.execvp('grep', ['grep', '-E', 'Uid|Cap', '/proc/self/status'])"

    def masks(printed):
        lines = [line.split() for line in printed.splitlines()]
        assert lines[0] == ['Uid:', *'0000']
        return {name: int(mask, 16) for name, mask in lines[1:]}

    names = 'CapInh:', 'CapPrm:', 'CapEff:', 'CapBnd:', 'CapAmb:'
    assert masks(child(f'drop(); {executed}')) == dict.fromkeys(names, 0)
    assert masks(child(f'Caps().apply(); {executed}'))['CapEff:'], 'Caps alone is not enough'


# From where.


@needs_setpcap
def test_one_with_capabilities_but_not_root_drops_too(accounts):
    child(f"""
held = 'cap_setuid,cap_setgid,cap_setpcap,cap_kill,cap_chown'
drop(held, user={accounts.owner.uid})
Caps(f'{{held}}=p').apply(all_threads=True)
drop('cap_kill', user={accounts.attacker.uid}, groups=[54321])
ended('cap_kill', {accounts.attacker.uid}, {accounts.attacker.gid}, '54321')
drop()
ended('', {accounts.attacker.uid}, {accounts.attacker.gid}, '54321')
leave()
""")


@needs_setpcap
def test_one_with_capabilities_may_become_root(accounts):
    child(f"""
drop('cap_setuid,cap_setgid,cap_setpcap,cap_kill', user={accounts.owner.uid})
drop('cap_kill', user=0, group=0)
ended('cap_kill')
leave()
""")


def test_what_is_permitted_and_not_effective_is_enough(accounts):
    child(f"""
Caps.from_process().deactivate().apply(all_threads=True)
drop(user={accounts.owner.uid})
ended('', {accounts.owner.uid}, {accounts.owner.gid})
leave()
""")


def test_one_that_has_nothing_may_drop_again(accounts):
    child(f"""
drop(user={accounts.owner.uid})
drop()
set_no_new_privs()
drop(no_new_privs=True)
ended('', {accounts.owner.uid}, {accounts.owner.gid})
leave()
""")


def test_saved_ids_are_no_way_back(accounts):
    child(f"""
os.setresgid({accounts.owner.gid}, {accounts.owner.gid}, 0)
os.setresuid({accounts.owner.uid}, 0, 0)
drop(user={accounts.owner.uid})
ended('', {accounts.owner.uid}, {accounts.owner.gid})
for act in lambda: os.seteuid(0), lambda: os.setegid(0), lambda: os.setresuid(0, 0, 0):
    assert refusal(act).errno == 1
leave()
""")


@needs_setpcap
def test_no_setuid_fixup_leaves_no_way_back(accounts):
    child(f"""
SecureBits(['no_setuid_fixup']).apply(all_threads=True)
drop(user={accounts.owner.uid})
ended('', {accounts.owner.uid}, {accounts.owner.gid})
leave()
""")


def test_threads_that_end_meanwhile_are_no_failure(accounts):
    child(f"""
sys.setswitchinterval(1e-4)
def relay():
    threading.Thread(target=relay, daemon=True).start()
for _ in range(8):
    relay()
drop(user={accounts.owner.uid})
for field in 'CapPrm', 'CapEff':
    assert seen(field) == {{0}}
leave()
""")


# A way back. drop() leaves none, so that each scene takes one of its steps away.

HOLES = {
    'the saved user id': (
        'SETRESUID', 'user=65534, group=0', 'there is a way back to id 0',
    ),
    'the saved group id': (
        'SETRESGID', 'user=0, group=65534', 'there is a way back to id 0',
    ),
}  # fmt: skip


@pytest.mark.parametrize(('call', 'options', 'reason'), HOLES.values(), ids=HOLES)
def test_a_way_back_is_found(call, options, reason):
    """The saved id is left as it was, as by a kernel or a filter that ignores the argument; what
    the status in /proc shows of it is taken out of the comparison."""
    printed = child(f"""
from caps import _caps
make, check = _caps.system_calls, caps.dropping._check_threads

class Leaky:
    def __getattr__(self, name):
        return getattr(_caps, name)

    def system_calls(self, calls, all_threads):
        if all_threads:
            number = _caps.{call}
            calls = [(*one[:3], -1) if one[0] == number else one for one in calls]
        return make(calls, all_threads)

caps.dropping._caps = caps.threads._caps = Leaky()
caps.dropping._check_threads = lambda promised: check(
    {{name: value for name, value in promised.items() if name not in ('Uid', 'Gid')}})
try:
    drop({options})
except RuntimeError as error:
    print(error)
leave()
""")
    assert printed == f'{reason}\n'


def test_capabilities_that_come_back_are_found():
    """The last step, that clears permitted, is taken away, and so is the comparison before."""
    printed = child("""
from caps import _caps
make = _caps.system_calls

class Leaky:
    def __getattr__(self, name):
        return getattr(_caps, name)

    def system_calls(self, calls, all_threads):
        return make(calls[:-1] if all_threads else calls, all_threads)

caps.dropping._caps = caps.threads._caps = Leaky()
caps.dropping._check_threads = lambda *ignored: None
try:
    drop()
except RuntimeError as error:
    print(error)
leave()
""")
    assert printed.startswith('there is a way back to capset to ')


@pytest.mark.parametrize(
    ('left_out', 'options', 'field'),
    [('SETGROUPS', 'user=65534, group=65534', 'Groups'), ('PRCTL', 'no_new_privs=True', 'NoNew')],
)
def test_groups_and_no_new_privs_are_among_what_is_compared(left_out, options, field):
    """The call is taken away, as a filter does that lets it pass and does nothing."""
    printed = child(f"""
from caps import _caps
make = _caps.system_calls

class Leaky:
    def __getattr__(self, name):
        return getattr(_caps, name)

    def system_calls(self, calls, all_threads):
        left = _caps.{left_out}, _caps.PR_SET_NO_NEW_PRIVS
        return make([one for one in calls if one[0] != left[0] or (
            left[0] == _caps.PRCTL and one[1] != left[1])], all_threads)

os.setgroups([5])
caps.threads._caps = Leaky()
try:
    drop({options})
except RuntimeError as error:
    print(error)
leave()
""")
    assert f' did not drop: {field}' in printed


def test_a_thread_that_did_not_drop_is_found_and_named():
    """The calls are made on the calling thread alone."""
    printed = child("""
from caps import _caps
make = _caps.system_calls

class Leaky:
    def __getattr__(self, name):
        return getattr(_caps, name)

    def system_calls(self, calls, all_threads):
        return make(calls, False)

caps.dropping._caps = caps.threads._caps = Leaky()
try:
    drop()
except RuntimeError as error:
    print(error)
leave()
""")
    assert ' did not drop: CapPrm 00000' in printed
    assert printed.startswith('thread ')


def test_what_is_kept_is_not_taken_for_a_way_back():
    child("""
drop(['cap_setuid', 'cap_setgid'], user=65534, group=65534)
ended('cap_setuid,cap_setgid', 65534, 65534)
leave()
""")


# Refused before anything is changed.

REFUSED = {
    'what is not permitted': (
        "Caps('cap_kill=p').apply(all_threads=True)", "['cap_chown', 'cap_kill']",
        'PermissionError', 'cap_chown cannot be kept: it is not permitted',
    ),
    'without cap_setuid': (
        "Caps('cap_setgid=ep').apply(all_threads=True)", 'user=65534, group=65534',
        'PermissionError', 'ids cannot be changed: cap_setuid is not permitted',
    ),
    'without cap_setgid': (
        "Caps('cap_setuid=ep').apply(all_threads=True)", 'user=65534, group=65534',
        'PermissionError', 'ids cannot be changed: cap_setgid is not permitted',
    ),
    'groups without cap_setgid': (
        "Caps('cap_setuid=ep').apply(all_threads=True)", 'groups=[5]',
        'PermissionError', 'ids cannot be changed: cap_setgid is not permitted',
    ),
    'an unknown user': ('', "user='nobody-here'", 'LookupError', "there is no user 'nobody-here'"),
    'an unknown group': ('', "group='nowhere'", 'LookupError', "there is no group 'nowhere'"),
    'one unknown group of many': (
        '', "user=65534, group=65534, groups=[5, 'nowhere']", 'LookupError',
        "there is no group 'nowhere'",
    ),
    'a number as text': ('', "user='0'", 'LookupError', "there is no user '0'"),
    'a number without account and no group': (
        '', 'user=54321', 'LookupError', 'user 54321 has no account: name the group too',
    ),
    'the number that means no change': (
        '', 'user=2**32 - 1, group=0', 'LookupError', '4294967295 is not the number of a user',
    ),
    'a negative number': ('', 'user=65534, group=-1', 'LookupError', '-1 is not the number of a '),
    'a number that wraps to root': (
        '', 'user=2**32, group=65534', 'LookupError', '4294967296 is not the number of a user',
    ),
    'a group number too large': (
        '', 'groups=[2**32 - 1]', 'LookupError', '4294967295 is not the number of a group',
    ),
    'locked keep_caps': (
        "SecureBits(['keep_caps_locked']).apply(all_threads=True)",
        "['cap_kill'], user=65534, group=65534",
        'PermissionError', 'cap_kill cannot be kept: the secure bit keep_caps is locked',
    ),
    'a typo': ('', "['cap_kil']", 'ValueError', "'cap_kil' is not a capability; did you mean"),
    'a thread with less': (
        "poor = start(lambda: (Caps('cap_kill=p').apply(), time.sleep(60))); "
        "wait_for(lambda: len(seen('CapPrm')) == 2)", '',
        'PermissionError', 'nothing was changed: ',
    ),
}  # fmt: skip


@needs_setpcap
@pytest.mark.parametrize(('first', 'call', 'kind', 'reason'), REFUSED.values(), ids=REFUSED)
def test_it_raises_before_anything_changes(first, call, kind, reason):
    printed = child(f"""
{first}
before = threads()
try:
    drop({call})
except Exception as error:
    assert threads() == before
    print(type(error).__name__, getattr(error, 'strerror', None) or error)
leave()
""")
    assert printed.removeprefix('KeyError').startswith(f'{kind} {reason}')


@needs_setpcap
def test_without_anything_kept_a_locked_keep_caps_is_no_matter():
    child("""
SecureBits(['keep_caps_locked']).apply(all_threads=True)
drop(user=65534, group=65534)
ended('', 65534, 65534)
leave()
""")


# Refused by the kernel, after a change.


@needs('cap_setpcap', 'cap_sys_admin')
@pytest.mark.parametrize(
    ('call', 'number', 'failing', 'done'),
    [
        (
            'user=5, group=0', 22, 'setresuid to 5: Invalid argument, after ',
            ['dropping from bounding', 'setresgid to 0'],
        ),
        ('user=0, group=5', 22, 'setresgid to 5: Invalid argument, after ', ['bounding']),
        ('groups=[5]', 1, 'setgroups([5]): Operation not permitted, after ', ['bounding']),
    ],
)  # fmt: skip
def test_what_the_kernel_refuses_says_how_far_it_got(call, number, failing, done):
    code = (
        CODE
        + f"""
before = threads()
error = refusal(drop, {call})
after = threads()
assert len(after) == 4
for thread in before:
    assert (after[thread] == before[thread]) == (thread != threading.get_native_id())
print(error.errno, error.strerror)
leave()
"""
    )
    # A user namespace in which only root has a number, and setgroups(2) is not allowed.
    result = run(
        'unshare', '--user', '--map-root-user', sys.executable, '-c', code,
        cwd=CHILDREN,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    printed, _, reason = result.stdout.partition(' ')
    assert int(printed) == number
    assert reason.startswith(failing)
    assert reason.endswith(' in this thread only\n')
    assert all(step in reason for step in done)
    assert len(reason) < 400
