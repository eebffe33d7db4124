"""The search, on programs that are made up: what they ask for is known, and so what they need."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caps import CapSet
from caps.audit.search import LIMIT, candidates, search, strength
from caps.audit.types import Call, Run
from caps.audit.verdicts import answer, judge

EVERYTHING = CapSet.all()
NAMES = [*EVERYTHING]


@dataclass(frozen=True)
class Step:
    """A system call: any of its capabilities is enough; the kernel asks for them in this order."""

    name: str
    enough: tuple[str, ...]
    matters: bool = True  # the program gives up where it fails
    error: str = 'EPERM'  # '' where it goes on, as netlink does, and the program sees it otherwise


@dataclass
class Program:
    steps: tuple[Step, ...]
    failure: int = 2
    is_traced: bool = True

    def __post_init__(self):
        self.runs = []

    def run(self, caps):
        calls, granted, status = Counter(), CapSet(), 0
        for step in self.steps:
            refused = []
            for name in step.enough:
                if name in caps:
                    granted.add(name)
                    break
                refused.append(name)
            else:
                calls[Call(step.name, step.error, tuple(refused))] += 1
                if step.matters:
                    status = self.failure
                    break
                continue
            if refused:
                calls[Call(step.name, '', tuple(refused))] += 1
        self.runs.append(caps)
        if not self.is_traced:
            return Run(caps, status, status == 0)
        return Run(caps, status, status == 0, calls, granted)

    def works_with(self, caps):
        return all(not step.matters or set(step.enough) & set(caps) for step in self.steps)


def found_of(program, **options):
    return search(program.run, EVERYTHING, **options)


def answer_of(found):
    return answer(found, judge(found))


def verdicts_of(found):
    return {verdict.capability: verdict.verdict for verdict in judge(found)}


READ = Step('openat', ('cap_dac_read_search', 'cap_dac_override'), error='EACCES')
WRITE = Step('openat', ('cap_dac_override',), error='EACCES')
RAW = Step('socket', ('cap_net_raw',))
NICE = Step('setpriority', ('cap_sys_nice',), matters=False, error='EACCES')
LINK = Step('sendmsg', ('cap_net_admin',), error='')
PERF = Step('perf_event_open', ('cap_sys_admin', 'cap_perfmon'), error='EACCES')

steps = st.builds(
    Step,
    st.sampled_from(['openat', 'socket', 'mount', 'kill']),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple),
    st.booleans(),
    st.sampled_from(['EPERM', 'EACCES', '']),
)
programs = st.lists(steps, max_size=6).map(tuple)
ways = pytest.mark.parametrize('from_all', [False, True], ids=['from none', 'from all'])


@ways
@pytest.mark.parametrize(
    ('program', 'needed'),
    [
        ((), ''),
        ((RAW,), 'net_raw'),
        ((READ,), 'dac_read_search'),
        ((READ, WRITE), 'dac_override'),
        ((WRITE, RAW, LINK), 'dac_override,net_raw,net_admin'),
        ((PERF,), 'perfmon'),
        ((NICE,), ''),
        ((LINK,), 'net_admin'),
    ],
    ids=str,
)
def test_known_program_needs_exactly_this(program, needed, from_all):
    found = found_of(Program(program), from_all=from_all)
    assert answer_of(found) == (CapSet(needed), '')


@ways
@given(programs)
def test_what_is_found_is_enough_and_nothing_of_it_can_be_left_out(from_all, steps):
    program = Program(steps)
    found = found_of(program, from_all=from_all)
    needed, reason = answer_of(found)
    assert needed is not None, reason
    assert program.works_with(needed)
    for name in needed:
        assert not program.works_with(needed - [name])
        assert not found.without[name].is_done
    assert len(found.runs) == len(program.runs) <= LIMIT


@given(programs)
def test_untraced_search_finds_a_minimal_state_too(steps):
    program = Program(steps, is_traced=False)
    needed, _ = answer_of(found_of(program, from_all=True))
    assert program.works_with(needed)
    assert not any(program.works_with(needed - [name]) for name in needed)


@given(programs)
def test_from_none_a_program_never_has_more_than_it_asked_for(steps):
    program = Program(steps)
    asked = CapSet()
    for run in found_of(program).runs:
        assert run.caps <= asked
        asked |= run.refused


@given(programs)
def test_each_capability_that_was_asked_for_has_one_verdict(steps):
    found = found_of(Program(steps))
    verdicts = [verdict.capability for verdict in judge(found)]
    assert len(verdicts) == len(set(verdicts))
    asked = {name for run in found.runs for name in (*run.refused, *run.granted)}
    assert set(verdicts) == asked


def test_weaker_capability_is_preferred():
    assert strength('cap_dac_read_search') < strength('cap_dac_override')
    assert strength('cap_dac_override') < strength('cap_sys_admin')
    run = Program((READ,)).run(CapSet())
    assert candidates(run) == CapSet('cap_dac_read_search')


def test_command_that_is_refused_something_and_goes_on_degrades():
    found = found_of(Program((NICE, RAW)))
    assert verdicts_of(found) == {'cap_net_raw': 'needed', 'cap_sys_nice': 'degrades'}


def test_capability_that_does_not_help_a_failing_call_is_unused():
    calls = {Call('openat', 'EACCES', ('cap_chown',)): 1}
    found = search(lambda caps: Run(caps, 0, True, calls), EVERYTHING)
    assert verdicts_of(found) == {'cap_chown': 'unused'}


def test_command_that_fails_whatever_it_has_gets_no_answer():
    found = search(lambda caps: Run(caps, 32, False, {}), EVERYTHING, from_all=True)
    needed, reason = answer_of(found)
    assert needed is None
    assert reason.startswith('it exits 32, whatever it has: it asks who it is')


def test_status_that_it_has_with_all_it_asked_for_counts_where_that_differs():
    def run(caps):  # diff exits 1 where files differ, and 2 where it cannot read them
        if 'cap_dac_read_search' in caps:
            return Run(caps, 1, False, {})
        return Run(caps, 2, False, {Call('openat', 'EACCES', ('cap_dac_read_search',)): 1})

    assert answer_of(search(run, EVERYTHING)) == (CapSet('cap_dac_read_search'), '')


def test_runs_that_end_differently_with_the_same_capabilities_are_flaky():
    statuses = iter([0, 1])
    found = search(lambda caps: Run(caps, (s := next(statuses)), s == 0, {}), EVERYTHING)
    needed, reason = answer_of(found)
    assert needed is None
    assert reason == 'two runs with the same capabilities ended differently: exits 0, and exits 1'


def test_lost_events_prove_nothing():
    found = search(lambda caps: Run(caps, 0, True, {}, lost=3), EVERYTHING)
    needed, reason = answer_of(found)
    assert needed is None
    assert reason.startswith('3 events were lost, and 3 runs did not help: ask again when')


def test_run_that_loses_events_is_made_again():
    lost = iter([3, 0, 0, 1, 0])
    found = search(lambda caps: Run(caps, 0, True, {}, lost=next(lost)), EVERYTHING)
    assert answer_of(found) == (CapSet(), '')
    assert [run.lost for run in found.runs] == [3, 0, 0]


def test_capability_that_was_permitted_and_refused_has_to_be_activated():
    def run(caps):
        return Run(caps, 1, False, {Call('socket', 'EPERM', ('cap_net_raw',)): 1})

    needed, reason = answer_of(search(run, EVERYTHING))
    assert needed is None
    assert 'has to activate it' in reason


def test_capability_that_cannot_be_given_here_is_named():
    found = search(Program((RAW, LINK)).run, CapSet('cap_net_raw'))
    needed, reason = answer_of(found)
    assert needed is None
    assert reason == 'cap_net_admin was refused, and cannot be given here'


@pytest.mark.parametrize('is_asked', [True, False])
def test_program_that_looks_at_its_own_capabilities_needs_what_the_kernel_grants_it(is_asked):
    def run(caps):
        has_it = 'cap_kill' in caps
        return Run(caps, 0 if has_it else 1, has_it, {}, CapSet('cap_kill' if is_asked else ''))

    found = search(run, EVERYTHING, from_all=True)
    assert verdicts_of(found) == {'cap_kill': 'needed' if is_asked else 'not proved'}
    needed, reason = answer_of(found)
    assert needed == (CapSet('cap_kill') if is_asked else None)
    assert is_asked or 'looks at its own capabilities' in reason


def test_program_that_looks_at_its_own_capabilities_is_one_to_begin_with_all_for():
    found = search(lambda caps: Run(caps, 1, False, {}), EVERYTHING)
    needed, reason = answer_of(found)
    assert needed is None
    assert '--from all finds out' in reason
    assert len(found.runs) == 1


def test_search_ends_for_a_program_that_decides_by_chance():
    counter = iter(range(1 << 20))

    def run(caps):
        n = next(counter)
        return Run(caps, n, n % 3 == 0, {Call('x', 'EPERM', (NAMES[n % len(NAMES)],)): 1})

    assert len(search(run, EVERYTHING).runs) <= LIMIT
    assert len(search(run, EVERYTHING, from_all=True).runs) <= LIMIT
