"""raised: effective for a block, in one thread, and never where the block can be suspended."""

import asyncio
import errno
import os
import random
import re
import signal
import tempfile
import threading
import types
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec

import pytest

from caps import IAB, Caps, drop, raised
from support import PATIENCE, SOAK, needs, require
from support.child import in_a_child
from support.children.inside import refusal, start, status_fields, threads

BEFORE = Caps('cap_chown,cap_kill,cap_net_raw=p cap_kill+e')
pytestmark = needs('cap_chown', 'cap_kill', 'cap_net_raw')


def effective():
    return str(Caps.from_process().effective)


@in_a_child
def test_what_is_named_is_effective_in_the_block_and_only_there():
    BEFORE.apply()
    with raised('cap_chown', 'NET_RAW') as now:
        assert effective() == str(now) == 'cap_chown,cap_kill,cap_net_raw'
    assert Caps.from_process() == BEFORE
    with raised(0):
        assert effective() == 'cap_chown,cap_kill'
    assert Caps.from_process() == BEFORE


@in_a_child
def test_without_names_it_is_all_that_is_permitted():
    BEFORE.apply()
    with raised():
        assert effective() == 'cap_chown,cap_kill,cap_net_raw'
    assert Caps.from_process() == BEFORE


@in_a_child
def test_what_was_effective_stays_so():
    BEFORE.apply()
    with raised('cap_kill'):
        assert Caps.from_process() == BEFORE
    assert Caps.from_process() == BEFORE


@in_a_child
def test_it_works_for_the_kernel():
    BEFORE.apply()
    with tempfile.NamedTemporaryFile() as file:
        os.fchown(file.fileno(), 0, 0)
        assert refusal(os.fchown, file.fileno(), 1, 1).errno == 1
        with raised('cap_chown'):
            os.fchown(file.fileno(), 1, 1)
        assert refusal(os.fchown, file.fileno(), 0, 0).errno == 1


@pytest.mark.parametrize('error', [ZeroDivisionError, SystemExit, KeyboardInterrupt, OSError])
@in_a_child
def test_it_ends_with_an_exception_that_goes_on(error):
    BEFORE.apply()
    with pytest.raises(error), raised('cap_chown'):
        raise error
    assert Caps.from_process() == BEFORE


def returns():
    with raised('cap_chown'):
        return


def breaks():
    for _ in range(2):
        with raised('cap_chown'):
            break


def continues():
    for _ in range(2):
        assert Caps.from_process() == BEFORE
        with raised('cap_chown'):
            continue


@pytest.mark.parametrize('jump', [returns, breaks, continues])
@in_a_child
def test_it_ends_with_a_jump(jump):
    BEFORE.apply()
    jump()
    assert Caps.from_process() == BEFORE


@in_a_child
def test_it_nests_and_can_be_entered_again():
    BEFORE.apply()
    one = raised('cap_chown')
    with one:
        with raised('cap_net_raw'), one:
            with one:
                assert effective() == 'cap_chown,cap_kill,cap_net_raw'
            assert effective() == 'cap_chown,cap_kill,cap_net_raw'
        assert effective() == 'cap_chown,cap_kill'
    assert Caps.from_process() == BEFORE

    def deep(n):
        with one:
            if n:
                deep(n - 1)
            assert effective() == 'cap_chown,cap_kill'

    deep(50)
    assert Caps.from_process() == BEFORE


@pytest.mark.parametrize(
    ('act', 'after'),
    [
        (lambda: drop(), '='),
        (lambda: drop(keep=['cap_kill']), 'cap_kill=ep'),
        (lambda: drop(keep=['cap_chown']), 'cap_chown=p'),
        (lambda: Caps('cap_chown=ep').apply(), 'cap_chown=p'),
        (lambda: Caps('cap_kill=p').apply(), 'cap_kill=ep'),
        (lambda: Caps.from_process().deactivate().apply(), 'cap_kill=ep cap_chown,cap_net_raw+p'),
        (
            lambda: Caps.from_process().propagate('cap_kill').apply(),
            'cap_kill=eip cap_chown,cap_net_raw+p',
        ),
    ],
)  # fmt: skip
@in_a_child
def test_what_the_block_gave_up_does_not_come_back(act, after):
    BEFORE.apply()
    with raised('cap_chown'):
        act()
    assert Caps.from_process() == Caps(after)


@in_a_child
def test_another_thread_does_not_see_it():
    BEFORE.apply()
    look, looked, seen = threading.Event(), threading.Event(), []

    def other():
        look.wait()
        seen.append(effective())
        looked.set()

    start(other)
    with raised('cap_chown'):
        assert [fields['CapEff'] for fields in threads().values()].count(1 << 5) == 1
        look.set()
        looked.wait()
    assert seen == ['cap_kill']


@in_a_child
def test_one_object_may_serve_many_threads_at_once():
    BEFORE.apply()
    one = raised('cap_chown')
    barrier = threading.Barrier(2, timeout=PATIENCE)
    found = {}

    def work(before, name):
        caps = Caps.from_process()
        caps.effective = before
        caps.apply()
        if name == 'second':
            barrier.wait()
        with one:
            if name == 'first':
                barrier.wait()
            barrier.wait()
            if name == 'second':
                barrier.wait()
        if name == 'first':
            barrier.wait()
        found[name] = effective()

    given = ('cap_net_raw', 'first'), ((), 'second')
    pair = [threading.Thread(target=work, args=arguments) for arguments in given]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    assert found == {'first': 'cap_net_raw', 'second': ''}, found


@in_a_child
def test_what_is_not_permitted_is_refused_by_name_and_nothing_is_raised():
    BEFORE.apply()
    error = refusal(raised('cap_chown', 'cap_sys_admin').__enter__)
    assert Caps.from_process() == BEFORE
    assert error.errno == errno.EPERM
    assert error.strerror.startswith(
        'cap_sys_admin cannot be added to effective: only the permitted '
    )


@in_a_child
def test_a_typo_is_refused_with_the_nearest_name():
    BEFORE.apply()
    with pytest.raises(ValueError, match="did you mean 'cap_chown'"):
        raised('cap_cown')


# Blocks that are not left in the order in which they were entered, or not in the usual way.


@in_a_child
def test_blocks_that_overlap_keep_what_they_raised_and_leave_nothing():
    BEFORE.apply()
    first, second = raised('cap_chown'), raised('cap_net_raw')
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert effective() == 'cap_kill,cap_net_raw'
    second.__exit__(None, None, None)
    assert Caps.from_process() == BEFORE
    first.__enter__()
    Caps.from_process().activate().apply()
    second.__enter__()
    first.__exit__(None, None, None)
    assert 'cap_net_raw' in effective()
    second.__exit__(None, None, None)
    assert Caps.from_process() == BEFORE


@pytest.mark.parametrize('seed', range(5 * SOAK))
@in_a_child
def test_what_is_effective_is_what_open_blocks_raised_whatever_their_order(seed):
    BEFORE.apply()
    draw = random.Random(seed)
    names = ['cap_chown', 'cap_kill', 'cap_net_raw']
    blocks = [raised(*draw.sample(names, count)) for count in (1, 1, 1, 2, 2, 3)] + [raised()]
    opened = []
    for _ in range(3000):
        if opened and draw.random() < 0.5:
            opened.pop(draw.randrange(len(opened))).__exit__(None, None, None)
        else:
            opened.append(draw.choice(blocks))
            opened[-1].__enter__()
        masks = [block._mask or BEFORE.permitted.mask for block in opened]
        wanted = BEFORE.effective.mask
        for mask in masks:
            wanted |= mask
        assert Caps.from_process().effective.mask == wanted
        assert bool(opened) or Caps.from_process() == BEFORE


# raised as one would write it in Python; how many signals fall into it.
class Naive:
    """raised as two calls, between which anything can happen."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        caps = Caps.from_process()
        self.before = caps.effective.copy()
        caps.activate(self.name).apply()

    def __exit__(self, *error):
        caps = Caps.from_process()
        caps.effective = self.before
        caps.apply()


class Late(Exception):
    pass


def late(number, frame):
    raise Late


@pytest.mark.parametrize('kind', [Naive, raised], ids=['naive', 'raised'])
@in_a_child
def test_an_exception_of_a_signal_handler_leaves_nothing_raised(kind):
    BEFORE.apply()
    signal.signal(signal.SIGALRM, late)
    block, left = kind('cap_chown'), 0
    for _ in range(3000 * SOAK):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 6e-5))
                while True:
                    with block:
                        pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Late:
            pass
        if Caps.from_process() != BEFORE:
            left += 1
            BEFORE.copy().apply()
    assert (left > 0) == (kind is Naive)


@in_a_child
def test_a_signal_handler_may_have_a_block_of_its_own():
    BEFORE.apply()

    def handler(number, frame):
        with raised('cap_net_raw'):
            fired.append(effective())

    fired = []
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    block = raised('cap_chown')
    while len(fired) < 300:
        with block:
            assert effective() == 'cap_chown,cap_kill'
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert set(fired) <= {'cap_chown,cap_kill,cap_net_raw', 'cap_kill,cap_net_raw'}
    assert Caps.from_process() == BEFORE


@in_a_child
def test_a_child_of_fork_leaves_the_block_as_its_parent_does():
    BEFORE.apply()

    def work():
        with raised('cap_chown'):
            pid = os.fork()
            assert effective() == 'cap_chown,cap_kill'
            with raised('cap_net_raw'):
                pass
        assert Caps.from_process() == BEFORE
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        else:
            os._exit(0)

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert Caps.from_process() == BEFORE


@in_a_child
def test_a_thread_started_in_the_block_keeps_what_is_raised_as_documented():
    BEFORE.apply()
    seen = []
    with raised('cap_chown'):
        thread = threading.Thread(target=lambda: (go.wait(), seen.append(effective())))
        go = threading.Event()
        thread.start()
    go.set()
    thread.join()
    assert seen == ['cap_chown,cap_kill']
    assert Caps.from_process() == BEFORE


@in_a_child
def test_a_block_that_this_thread_has_not_entered_cannot_be_left():
    BEFORE.apply()

    def leave():
        try:
            block.__exit__(None, None, None)
        except RuntimeError as error:
            said.append(str(error))
        assert status_fields(threading.get_native_id())['CapEff'] in (1 << 5, 1 << 5 | 1)

    block, said = raised('cap_chown'), []
    leave()
    with block:
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
    leave()
    assert said == ['the block was not entered in this thread'] * 3
    assert Caps.from_process() == BEFORE


@in_a_child
def test_what_another_thread_takes_from_all_does_not_come_back():
    BEFORE.apply()

    def others():
        for _ in range(100):
            IAB.from_process().apply(all_threads=True)
        drop('cap_kill')

    def enter_for_ever():
        while True:
            with raised('cap_chown'):
                pass

    thread = threading.Thread(target=others)
    thread.start()
    assert refusal(enter_for_ever).errno == errno.EPERM
    thread.join()
    assert {fields['CapPrm'] for fields in threads().values()} == {1 << 5}


@pytest.mark.parametrize('inside', [True, False])
@in_a_child
def test_it_is_refused_in_a_greenlet_that_is_not_the_main_one(inside):
    BEFORE.apply()
    require(find_spec('greenlet'), 'greenlet')
    from greenlet import greenlet

    def work():
        with raised('cap_chown'):
            assert effective() == 'cap_chown,cap_kill'

    if inside:
        with pytest.raises(RuntimeError, match=re.escape(REFUSAL.format('work').rstrip())):
            greenlet(work).switch()
    else:
        work()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert Caps.from_process() == BEFORE


# Where the block could be left with its capabilities raised.

REFUSAL = '{} can be left with capabilities raised: use a with statement in a plain function\n'


def a_generator():
    def block():
        with raised('cap_chown'):
            yield

    next(block())


def a_generator_that_does_not_yield_inside():
    def block():
        yield
        with raised('cap_chown'):
            pass

    list(block())


def a_coroutine():
    async def block():
        with raised('cap_chown'):
            await asyncio.sleep(0)

    asyncio.run(block())


def a_coroutine_run_by_hand():
    async def block():
        with raised('cap_chown'):
            pass

    block().send(None)


def an_asynchronous_generator():
    async def block():
        with raised('cap_chown'):
            yield

    async def main():
        async for _ in block():
            pass

    asyncio.run(main())


def a_generator_based_coroutine():
    @types.coroutine
    def block():
        with raised('cap_chown'):
            yield

    block().send(None)


def a_context_manager_made_of_a_generator():
    @contextmanager
    def block():
        with raised('cap_chown'):
            yield

    with block():
        pass


def an_asynchronous_context_manager():
    @asynccontextmanager
    async def block():
        with raised('cap_chown'):
            yield

    async def main():
        async with block():
            pass

    asyncio.run(main())


def exitstack():
    with ExitStack() as stack:
        stack.enter_context(raised('cap_chown'))


def asyncexitstack():
    async def main():
        async with AsyncExitStack() as stack:
            stack.enter_context(raised('cap_chown'))

    asyncio.run(main())


def an_instance_that_served_a_plain_function():
    one = raised('cap_chown')
    with one:
        pass

    def block():
        with one:
            yield

    list(block())


SUSPENDED = [
    a_generator,
    a_generator_that_does_not_yield_inside,
    a_coroutine,
    a_coroutine_run_by_hand,
    an_asynchronous_generator,
    a_generator_based_coroutine,
    a_context_manager_made_of_a_generator,
    an_asynchronous_context_manager,
    exitstack,
    asyncexitstack,
    an_instance_that_served_a_plain_function,
]


@pytest.mark.parametrize('suspend', SUSPENDED)
@in_a_child
def test_where_it_could_stay_raised_it_is_refused(suspend):
    BEFORE.apply()
    with pytest.raises(RuntimeError, match=r'use a with statement in a plain function$'):
        suspend()
    assert Caps.from_process() == BEFORE


@in_a_child
def test_a_plain_function_that_a_coroutine_or_generator_calls_may_raise():
    BEFORE.apply()

    def plain():
        with raised('cap_chown'):
            return effective()

    async def coroutine():
        await asyncio.sleep(0)
        return plain()

    def generator():
        yield plain()

    assert asyncio.run(coroutine()) == next(generator()) == 'cap_chown,cap_kill'
    assert Caps.from_process() == BEFORE


@in_a_child
def test_no_task_sees_what_another_raised():
    BEFORE.apply()

    def plain():
        with raised('cap_chown'):
            assert effective() == 'cap_chown,cap_kill'

    async def raising():
        for _ in range(200):
            plain()
            await asyncio.sleep(0)

    async def looking(seen):
        for _ in range(200):
            seen.add(effective())
            await asyncio.sleep(0)

    async def main():
        seen = set()
        await asyncio.gather(raising(), looking(seen), raising(), looking(seen))
        return seen

    assert asyncio.run(main()) == {'cap_kill'}
