"""What records of the kernel say of a run: which belong to it, and which check to which call."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caps import CapSet
from caps.audit.kernel import SYMBOLS, system_call
from caps.audit.records import Check, Exec, Failure, Fork, Names, read
from caps.audit.types import UNAUDITED, Call

FUNCTIONS = {
    1: 'cap_capable', 2: 'security_capable', 3: 'capable_wrt_inode_uidgid', 4: 'generic_permission',
    5: '__x64_sys_openat', 6: 'security_vm_enough_memory_mm', 7: '__mmap_region', 8: 'capable',
    9: '__do_sys_setpriority', 10: 'cap_capset', 11: '__x64_sys_capset', 12: 'netlink_rcv_skb',
    13: '__sys_sendmsg', 14: 'can_nice', 15: '__arm64_sys_openat', 16: 'do_sys_openat2',
}  # fmt: skip
CALLS = {257: 'openat', 141: 'setpriority', 126: 'capset', 46: 'sendmsg'}
CAPABILITIES = ['cap_dac_override', 'cap_dac_read_search', 'cap_sys_nice', 'cap_sys_admin']
NAMES = Names(
    lambda address: FUNCTIONS.get(address, ''),
    lambda number: CALLS.get(number, ''),
    CAPABILITIES.__getitem__,
)
OVERRIDE, SEARCH, NICE, ADMIN = range(4)
OPENAT, SETPRIORITY = (1, 2, 3, 4, 5), (1, 2, 8, 14, 9)
OVERCOMMIT, CAPSET, NETLINK = (1, 6, 7), (1, 2, 10, 11), (1, 2, 12, 13)
HOME, ELSEWHERE = 1000, 2000  # user namespaces


def check(time, capability, stack, *, process=1, thread=None, granted=False, namespace=HOME):
    thread = thread or process
    return Check(time, process, thread, capability, granted, namespace, stack)


def failure(time, number, error='EACCES', *, process=1, thread=None):
    return Failure(time, process, thread or process, number, error)


def calls(*records, skipped=0):
    return dict(read(records, NAMES, 1, skipped, HOME).calls)


def test_checks_belong_to_the_call_that_fails_after_them():
    found = calls(check(1, SEARCH, OPENAT), check(2, OVERRIDE, OPENAT), failure(3, 257))
    refused = ('cap_dac_read_search', 'cap_dac_override')
    assert found == {Call('openat', 'EACCES', refused, 'generic_permission'): 1}


def test_check_of_a_call_that_went_on_is_not_that_of_a_later_failure():
    found = calls(check(1, NICE, SETPRIORITY), failure(2, 257))
    assert found == {
        Call('setpriority', '', ('cap_sys_nice',), 'can_nice'): 1,
        Call('openat', 'EACCES', ()): 1,
    }


def test_failure_without_a_check_is_one_that_no_capability_would_help():
    assert calls(failure(1, 257, 'EPERM')) == {Call('openat', 'EPERM', ()): 1}


def test_same_check_twice_is_of_two_calls():
    found = calls(*(check(time, SEARCH, OPENAT) for time in (1, 2)), failure(3, 257))
    assert {call.error: count for call, count in found.items()} == {'': 1, 'EACCES': 1}


def test_threads_are_told_apart():
    found = calls(
        check(1, SEARCH, OPENAT, thread=1), check(2, NICE, SETPRIORITY, thread=2),
        failure(3, 257, thread=1), failure(4, 141, thread=2),
    )  # fmt: skip
    assert {call.name: call.refused for call in found} == {
        'openat': ('cap_dac_read_search',), 'setpriority': ('cap_sys_nice',)
    }  # fmt: skip


def test_memory_overcommit_is_noise_and_of_no_call_that_fails():
    found = calls(check(1, ADMIN, OVERCOMMIT), check(2, SEARCH, OPENAT), failure(3, 257))
    assert [(call.error, call.noise, call.means_something) for call in found] == [
        ('', 'memory overcommit', False), ('EACCES', '', True)
    ]  # fmt: skip


@pytest.mark.parametrize(('fails', 'means_something'), [(True, True), (False, False)])
def test_capset_is_noise_unless_it_fails(fails, means_something):
    records = [check(1, ADMIN, CAPSET)] + [failure(2, 126, 'EPERM')] * fails
    (call,) = calls(*records)
    assert call.means_something is means_something


def test_call_that_refuses_in_a_message_is_no_noise():
    (call,) = calls(check(1, ADMIN, NETLINK))
    assert call == Call('sendmsg', '', ('cap_sys_admin',), 'netlink_rcv_skb')
    assert call.means_something


def test_checks_in_another_user_namespace_are_nothing_here():
    assert calls(check(1, ADMIN, NETLINK, namespace=ELSEWHERE)) == {}


def test_other_processes_do_not_count_but_descendants_do():
    found = calls(
        failure(1, 257, process=7), Fork(2, 1, 2), Fork(3, 2, 3), Fork(4, 7, 8),
        failure(5, 257, process=3), failure(6, 141, process=8),
    )  # fmt: skip
    assert found == {Call('openat', 'EACCES', ()): 1}


def test_nothing_counts_before_the_command_is_executed():
    records = failure(1, 257), Exec(2, 1), failure(3, 141), Exec(4, 1), failure(5, 46)
    assert [call.name for call in calls(*records, skipped=1)] == ['setpriority', 'sendmsg']
    assert [call.name for call in calls(*records, skipped=2)] == ['sendmsg']


def test_granted_capabilities_are_told_without_noise():
    records = [check(1, ADMIN, OVERCOMMIT, granted=True), check(2, NICE, SETPRIORITY, granted=True)]
    seen = read(records, NAMES, 1, 0, HOME)
    assert seen.granted == CapSet('cap_sys_nice')
    assert not seen.calls


def test_check_that_nobody_could_see_is_told_by_its_failure():
    records = failure(1, 126, 'EPERM'), failure(2, 126, 'EACCES'), failure(3, 257, 'EPERM')
    seen = read(records, NAMES, 1, 0, HOME, {'capset': 'cap_setpcap'})
    assert [call.refused for call in seen.calls] == [('cap_setpcap',), (), ()]
    seen = read([check(1, ADMIN, CAPSET), *records], NAMES, 1, 0, HOME, {'capset': 'cap_setpcap'})
    assert [call.refused for call in seen.calls] == [('cap_sys_admin',), (), ()]


def test_what_was_asked_without_audit_is_noise_unless_the_call_fails():
    (call,) = calls(check(1, ADMIN, NETLINK)._replace(is_unaudited=True))
    assert (call.noise, call.means_something) == (UNAUDITED, False)
    (call,) = calls(check(1, ADMIN, OPENAT)._replace(is_unaudited=True), failure(2, 257))
    assert call.means_something


def test_call_without_a_name_has_its_number():
    assert calls(failure(1, 999)) == {Call('system call 999', 'EACCES', ()): 1}


@pytest.mark.parametrize('stack', [(1, 2, 3, 4, 15), (1, 2, 3, 4, 16)])
def test_other_names_of_a_system_call_are_understood(stack):
    (call,) = calls(check(1, SEARCH, stack), failure(2, 257))
    assert call.name == 'openat'
    assert call.refused


records = st.one_of(
    st.builds(
        check,
        st.integers(0, 50),
        st.integers(0, 3),
        st.sampled_from([OPENAT, SETPRIORITY, OVERCOMMIT, CAPSET, NETLINK, ()]),
        thread=st.integers(1, 2),
        granted=st.booleans(),
    ),
    st.builds(
        failure, st.integers(0, 50), st.sampled_from([*CALLS, 999]), thread=st.integers(1, 2)
    ),
)


@given(st.lists(records, unique_by=lambda record: record.time), st.randoms())
def test_every_failure_and_every_refused_check_is_counted_once(records, chance):
    shuffled = [*records]
    chance.shuffle(shuffled)
    seen = read(shuffled, NAMES, 1, 0, HOME)
    assert seen.calls == read(records, NAMES, 1, 0, HOME).calls
    checks, failures = Counter(), 0
    for call, count in seen.calls.items():
        failures += count * bool(call.error)
        checks.update(dict.fromkeys(call.refused, count))
    assert failures == sum(isinstance(record, Failure) for record in records)
    assert checks == Counter(
        CAPABILITIES[record.capability]
        for record in records
        if isinstance(record, Check) and not record.is_granted
    )


def test_function_is_found_by_every_address_in_it():
    text = Path('/proc/kallsyms').read_text()
    lines = [line.split() for line in text.splitlines() if '[' not in line]
    known = [(int(address, 16), name) for address, _, name in lines]
    if not known[-1][0]:
        pytest.skip('kptr_restrict hides the addresses')
    texts = {}
    for address, name in known:
        texts.setdefault(address, set()).add(name)
    places = sorted(address for address in texts if address >> 63)
    chosen = random.Random(1).sample(range(len(places) - 1), 200)
    for place, after in ((places[n], places[n + 1]) for n in chosen):
        assert SYMBOLS.name(place) in texts[place]
        assert SYMBOLS.name(after - 1) in texts[place]
    assert SYMBOLS.name(5) == ''


def test_system_call_is_named():
    assert system_call(10_000_000) == ''
