"""raised: effective for a block, in one thread, and never where the block can be suspended."""

from importlib.util import find_spec

import pytest

from support import CHILDREN, SOAK, needs, python, require

CODE = """
import asyncio, contextlib, os, sys, threading, time
from contextlib import ExitStack, AsyncExitStack, asynccontextmanager, contextmanager
from caps import IAB, Caps, drop, raised
from inside import refusal, start, status, threads

Caps('cap_chown,cap_kill,cap_net_raw=p cap_kill+e').apply()
BEFORE = Caps.from_process()

def effective():
    return str(Caps.from_process().effective)
"""


def child(code, *arguments):
    return python(CODE + code, *arguments, cwd=CHILDREN)


pytestmark = needs('cap_chown', 'cap_kill', 'cap_net_raw')


def test_what_is_named_is_effective_in_the_block_and_only_there():
    child("""
with raised('cap_chown', 'NET_RAW') as now:
    assert effective() == str(now) == 'cap_chown,cap_kill,cap_net_raw'
assert Caps.from_process() == BEFORE
with raised(0):
    assert effective() == 'cap_chown,cap_kill'
assert Caps.from_process() == BEFORE
""")


def test_without_names_it_is_all_that_is_permitted():
    child("""
with raised():
    assert effective() == 'cap_chown,cap_kill,cap_net_raw'
assert Caps.from_process() == BEFORE
""")


def test_what_was_effective_stays_so():
    child("""
with raised('cap_kill'):
    assert Caps.from_process() == BEFORE
assert Caps.from_process() == BEFORE
""")


def test_it_works_for_the_kernel():
    child("""
import tempfile
with tempfile.NamedTemporaryFile() as file:
    os.fchown(file.fileno(), 0, 0)
    assert refusal(os.fchown, file.fileno(), 1, 1).errno == 1
    with raised('cap_chown'):
        os.fchown(file.fileno(), 1, 1)
    assert refusal(os.fchown, file.fileno(), 0, 0).errno == 1
""")


@pytest.mark.parametrize(
    'leave', ['1 / 0', 'sys.exit(3)', 'raise KeyboardInterrupt', 'raise OSError']
)
def test_it_ends_with_an_exception_that_goes_on(leave):
    child(f"""
try:
    with raised('cap_chown'):
        {leave}
except BaseException as error:
    assert Caps.from_process() == BEFORE
else:
    raise AssertionError('it was swallowed')
""")


@pytest.mark.parametrize('leave', ['return', 'break', 'continue'])
def test_it_ends_with_a_jump(leave):
    child(f"""
def function():
    for _ in range(2):
        assert Caps.from_process() == BEFORE
        with raised('cap_chown'):
            {leave}
function()
assert Caps.from_process() == BEFORE
""")


def test_it_nests_and_can_be_entered_again():
    child("""
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
""")


@pytest.mark.parametrize(
    ('act', 'after'),
    [
        ('drop()', '='),
        ("drop(keep=['cap_kill'])", 'cap_kill=ep'),
        ("drop(keep=['cap_chown'])", 'cap_chown=p'),
        ("Caps('cap_chown=ep').apply()", 'cap_chown=p'),
        ("Caps('cap_kill=p').apply()", 'cap_kill=ep'),
        ('Caps.from_process().deactivate().apply()', 'cap_kill=ep cap_chown,cap_net_raw+p'),
        (
            "Caps.from_process().propagate('cap_kill').apply()",
            'cap_kill=eip cap_chown,cap_net_raw+p',
        ),
    ],
)  # fmt: skip
def test_what_the_block_gave_up_does_not_come_back(act, after):
    child(f"""
with raised('cap_chown'):
    {act}
assert Caps.from_process() == Caps({after!r}), Caps.from_process()
""")


def test_another_thread_does_not_see_it():
    child("""
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
""")


def test_one_object_may_serve_many_threads_at_once():
    child("""
one = raised('cap_chown')
barrier = threading.Barrier(2, timeout=10)
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
""")


def test_what_is_not_permitted_is_refused_by_name_and_nothing_is_raised():
    printed = child("""
error = refusal(lambda: raised('cap_chown', 'cap_sys_admin').__enter__())
assert Caps.from_process() == BEFORE
print(error.errno, error.strerror)
""")
    assert printed.startswith('1 cap_sys_admin cannot be added to effective: only the permitted ')


def test_a_typo_is_refused_with_the_nearest_name():
    child("""
try:
    raised('cap_cown')
except ValueError as error:
    assert "did you mean 'cap_chown'" in str(error)
else:
    raise AssertionError
""")


# Blocks that are not left in the order in which they were entered, or not in the usual way.


def test_blocks_that_overlap_keep_what_they_raised_and_leave_nothing():
    child("""
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
""")


@pytest.mark.parametrize('seed', range(5 * SOAK))
def test_what_is_effective_is_what_open_blocks_raised_whatever_their_order(seed):
    code = """
import random
draw = random.Random(int(sys.argv[1]))
names = ['cap_chown', 'cap_kill', 'cap_net_raw']
blocks = [raised(*draw.sample(names, count)) for count in (1, 1, 1, 2, 2, 3)] + [raised()]
opened = []
for _ in range(3000):
    if opened and draw.random() < .5:
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
"""
    child(code, seed)


# raised as one would write it in Python; how many signals fall into it.
NAIVE = """
class naive:
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
"""


@pytest.mark.parametrize('block', ['naive', 'raised'])
def test_an_exception_of_a_signal_handler_leaves_nothing_raised(block):
    code = (
        NAIVE
        + f"""
import random, signal

class Late(Exception):
    pass

def late(number, frame):
    raise Late

signal.signal(signal.SIGALRM, late)
block, left = {block}('cap_chown'), 0
for _ in range({3000 * SOAK}):
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
print(left)
"""
    )
    assert (int(child(code)) > 0) == (block == 'naive')


def test_a_signal_handler_may_have_a_block_of_its_own():
    child("""
import signal
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
""")


def test_a_child_of_fork_leaves_the_block_as_its_parent_does():
    child("""
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
""")


def test_a_thread_started_in_the_block_keeps_what_is_raised_as_documented():
    child("""
seen = []
with raised('cap_chown'):
    thread = threading.Thread(target=lambda: (go.wait(), seen.append(effective())))
    go = threading.Event()
    thread.start()
go.set()
thread.join()
assert seen == ['cap_chown,cap_kill']
assert Caps.from_process() == BEFORE
""")


def test_a_block_that_this_thread_has_not_entered_cannot_be_left():
    child("""
def leave():
    try:
        block.__exit__(None, None, None)
    except RuntimeError as error:
        said.append(str(error))
    assert status(threading.get_native_id())['CapEff'] in (1 << 5, 1 << 5 | 1)

block, said = raised('cap_chown'), []
leave()
with block:
    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
leave()
assert said == ['the block was not entered in this thread'] * 3
assert Caps.from_process() == BEFORE
""")


def test_what_another_thread_takes_from_all_does_not_come_back():
    child("""
def others():
    for _ in range(100):
        IAB.from_process().apply(all_threads=True)
    drop('cap_kill')
block = raised('cap_chown')
thread = threading.Thread(target=others)
thread.start()
try:
    while True:
        with block:
            pass
except OSError as error:
    assert error.errno == 1
thread.join()
assert {fields['CapPrm'] for fields in threads().values()} == {1 << 5}
""")


@pytest.mark.parametrize(
    ('where', 'refused'), [('greenlet(work).switch()', True), ('work()', False)]
)
def test_it_is_refused_in_a_greenlet_that_is_not_the_main_one(where, refused):
    require(find_spec('greenlet'), 'greenlet')
    printed = child(f"""
from greenlet import greenlet
def work():
    with raised('cap_chown'):
        assert effective() == 'cap_chown,cap_kill'
try:
    {where}
    threading.Thread(target=work).start()
except RuntimeError as error:
    print(error)
assert Caps.from_process() == BEFORE
""")
    assert printed == REFUSAL.format('work') * refused


# Where the block could be left with its capabilities raised.

REFUSAL = '{} can be left with capabilities raised: use a with statement in a plain function\n'

SUSPENDED = {
    'a generator': """
def block():
    with raised('cap_chown'):
        yield
next(block())
""",
    'a generator that does not yield inside': """
def block():
    yield
    with raised('cap_chown'):
        pass
list(block())
""",
    'a coroutine': """
async def block():
    with raised('cap_chown'):
        await asyncio.sleep(0)
asyncio.run(block())
""",
    'a coroutine run by hand': """
async def block():
    with raised('cap_chown'):
        pass
block().send(None)
""",
    'an asynchronous generator': """
async def block():
    with raised('cap_chown'):
        yield
async def main():
    async for _ in block():
        pass
asyncio.run(main())
""",
    'a generator-based coroutine': """
import types
@types.coroutine
def block():
    with raised('cap_chown'):
        yield
block().send(None)
""",
    'a context manager made of a generator': """
@contextmanager
def block():
    with raised('cap_chown'):
        yield
with block():
    pass
""",
    'an asynchronous context manager': """
@asynccontextmanager
async def block():
    with raised('cap_chown'):
        yield
async def main():
    async with block():
        pass
asyncio.run(main())
""",
    'ExitStack': """
with ExitStack() as stack:
    stack.enter_context(raised('cap_chown'))
""",
    'AsyncExitStack': """
async def main():
    async with AsyncExitStack() as stack:
        stack.enter_context(raised('cap_chown'))
asyncio.run(main())
""",
    'an instance that served a plain function': """
one = raised('cap_chown')
with one:
    pass
def block():
    with one:
        yield
list(block())
""",
}


@pytest.mark.parametrize('code', SUSPENDED.values(), ids=SUSPENDED)
def test_where_it_could_stay_raised_it_is_refused(code):
    indented = code.replace('\n', '\n    ')
    printed = child(f"""
try:
    {indented}
except RuntimeError as error:
    assert Caps.from_process() == BEFORE
    print(error)
""")
    assert printed.endswith(
        'can be left with capabilities raised: use a with statement in a plain function\n'
    )


def test_a_plain_function_that_a_coroutine_or_generator_calls_may_raise():
    child("""
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
""")


def test_no_task_sees_what_another_raised():
    child("""
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
""")
