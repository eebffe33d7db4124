"""One change on every thread of a process, whoever started it and whatever it is at."""

import asyncio
import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

import caps
from caps import IAB, Caps, SecureBits, _caps, drop, set_no_new_privs
from caps import threads as calls
from support import CHILDREN, PATIENCE, SUPPORT, needs, needs_root, program, python
from support.child import in_a_child
from support.children.inside import Raw, refusal, seen, start, status_fields, threads, wait_for
from support.sources import extension_with

DROP = Caps()
FREE_THREADED = bool(sysconfig.get_config_var('Py_GIL_DISABLED'))
needs_something = pytest.mark.skipif(
    not caps.Caps.from_process().permitted, reason='needs something to drop'
)


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    """The path of rawthread.c's library."""
    path = tmp_path_factory.mktemp('rawthread') / 'rawthread.so'
    source = SUPPORT / 'rawthread.c'
    flags = ['-std=gnu11', '-O1', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC']
    subprocess.run(['cc', *flags, source, '-o', path], check=True)
    return path


# Whatever the threads are at.

# Without Python's lock those that are busy are so at the same time, and the others hardly run.
BUSY = 4 if FREE_THREADED else 64


def loop():
    while not stop:
        pass
    time.sleep(60)


def all_of_them(raw):
    for work in (time.sleep, 60), (os.read, os.pipe()[0], 1), (lock.acquire,):
        start(*work, count=16)
    start(loop, count=BUSY // 4)


stop, lock = [], threading.Lock()
WORK = {
    'sleep': lambda raw: start(time.sleep, 60, count=64),
    'read': lambda raw: start(os.read, os.pipe()[0], 1, count=64),
    'lock': lambda raw: start(lock.acquire, count=64),
    'lock for a time': lambda raw: start(lock.acquire, True, 60, count=64),
    'CPU': lambda raw: start(loop, count=BUSY),
    'all of them': all_of_them,
    'raw reads': lambda raw: [raw.start('read_once', os.pipe()[0]) for _ in range(64)],
    'raw loops': lambda raw: [raw.start('spin') for _ in range(4)],
}


@needs_something
@pytest.mark.parametrize('work', WORK.values(), ids=WORK)
@in_a_child
def test_every_thread_changes_and_without_all_threads_only_one(library, work):
    sys.setswitchinterval(1e-4)
    raw, before = Raw(library), status_fields(os.getpid())['CapPrm']
    lock.acquire()
    work(raw)
    assert DROP.apply() is DROP
    assert status_fields(os.getpid())['CapPrm'] == 0
    assert status_fields(os.listdir('/proc/self/task')[-1])['CapPrm'] == before
    assert DROP.apply(all_threads=True) is DROP
    stop.append(1)
    for field in 'CapPrm', 'CapEff', 'CapInh', 'CapAmb':
        assert seen(field) == {0}
    assert len(threads()) >= 5


@needs_something
@in_a_child
def test_a_process_of_one_thread_needs_no_other():
    DROP.apply(all_threads=True)
    assert seen('CapPrm') == {0}


@needs_something
@in_a_child
def test_the_asking_thread_may_be_any(library):
    raw = Raw(library)
    start(time.sleep, 60, count=2)
    raw.start('spin')
    thread = threading.Thread(target=DROP.apply, kwargs={'all_threads': True})
    thread.start()
    thread.join()
    assert seen('CapPrm') == {0}


@needs_root
@in_a_child
def test_glibc_leaves_raw_threads_at_root_and_drop_does_not(library):
    raw = Raw(library)
    start(time.sleep, 60, count=2)
    raw.start('spin')
    os.setresuid(65534, 65534, 0)
    assert seen('Uid') == {'65534\t65534\t0\t65534', '0\t0\t0\t0'}
    os.setresuid(0, 0, 0)
    drop(user=65534, group=65534)
    assert seen('Uid') == seen('Gid') == {'65534\t65534\t65534\t65534'}
    assert seen('CapPrm') == {0}


@needs_something
@in_a_child
def test_an_asyncio_loop_goes_on():
    async def main():
        ticks = []

        async def tick():
            while True:
                await asyncio.sleep(0.01)
                ticks.append(1)

        task = asyncio.create_task(tick())
        reader, _writer = await asyncio.open_connection(sock=pair[0])
        reading = asyncio.create_task(reader.readexactly(5))
        await asyncio.to_thread(DROP.apply, all_threads=True)
        seen_ticks = len(ticks)
        pair[1].send(b'hello')
        assert await reading == b'hello'
        while len(ticks) < seen_ticks + 5:
            await asyncio.sleep(0.01)
        task.cancel()

    pair = socket.socketpair()
    asyncio.run(main())
    assert seen('CapPrm') == {0}


@needs_something
@in_a_child
def test_threads_of_a_subinterpreter_change_and_it_can_ask():
    try:
        import _interpreters as interpreters

        create, run = (lambda: interpreters.create('legacy')), interpreters.exec
    except ImportError:
        import _xxsubinterpreters as interpreters

        create, run = (lambda: interpreters.create(isolated=False)), interpreters.run_string
    drop_there = (
        'from caps import Caps\n'
        "Caps('=').apply(all_threads=True)\n"
        'assert not Caps.from_process().permitted'
    )

    def at_work():
        interpreter = create()
        run(interpreter, 'import time; time.sleep(.5)')
        done.wait()
        run(interpreter, drop_there)

    done = threading.Event()
    (thread,) = start(at_work)
    kept = Caps.from_process()
    kept.permitted -= ['cap_chown']
    kept.effective.clear()
    kept.apply(all_threads=True)
    assert seen('CapPrm') == {kept.permitted.mask}
    done.set()
    thread.join()
    assert seen('CapPrm') == {0}


# A thread that does not answer.

APPLICATIONS = {
    'Caps': lambda: DROP.apply(all_threads=True),
    'IAB': lambda: IAB(IAB.from_process()).apply(all_threads=True),
    'SecureBits': lambda: SecureBits(['keep_caps']).apply(all_threads=True),
    'drop': drop,
}
EVERY = APPLICATIONS | {'no_new_privs': set_no_new_privs}  # which takes no capability


@needs('cap_setpcap')
@pytest.mark.parametrize('apply', EVERY.values(), ids=EVERY)
@in_a_child
def test_a_thread_that_blocks_all_signals_is_named_and_nothing_changes(library, apply):
    raw = Raw(library)
    start(time.sleep, 60, count=3)
    thread, job = raw.start('deaf')
    before = threads()
    error = refusal(apply)
    assert threads() == before
    job.stop = 1
    wait_for(lambda: job.result and not job.started and thread not in threads())
    time.sleep(0.05)
    after = threads()
    del before[thread]
    assert after == before, 'it came later, when it was no longer asked'
    assert error.errno == errno.ETIMEDOUT
    assert error.strerror.startswith(f'nothing was changed: no answer from thread {thread} (')
    assert ',' not in error.strerror, 'only one is to blame'
    apply()


@needs_something
@in_a_child
def test_of_many_that_do_not_answer_some_are_named_and_the_rest_counted(library):
    raw = Raw(library)
    deaf = [raw.start('deaf') for _ in range(20)]
    reason = refusal(DROP.apply, all_threads=True).strerror
    for _, job in deaf:
        job.stop = 1
    wait_for(lambda: len(threads()) == 1)
    assert reason.count('(') == 16
    assert reason.endswith(' and 4 more')


@needs('cap_kill', 'cap_setpcap')
@pytest.mark.parametrize('apply', APPLICATIONS.values(), ids=APPLICATIONS)
@in_a_child
def test_a_thread_with_less_permitted_is_named_and_nothing_changes(apply):
    def less():
        Caps('cap_kill=p').apply()
        time.sleep(60)

    (poor,) = start(less)
    wait_for(lambda: len(seen('CapPrm')) == 2)
    start(time.sleep, 60, count=2)
    Caps('cap_setpcap,cap_kill=p').apply()
    DROP.permitted = 'cap_setpcap'
    before = threads()
    error = refusal(apply)
    assert threads() == before
    assert error.errno == errno.EPERM
    reason = 'nothing was changed: cap_setpcap is not permitted in thread '
    assert error.strerror.startswith(reason)
    assert str(poor.native_id) in error.strerror


@needs('cap_kill', 'cap_setpcap')
@in_a_child
def test_a_thread_that_the_kernel_refuses_is_named_and_the_others_changed():
    def less():
        iab = IAB()
        iab.bounding -= ['cap_kill', 'cap_sys_resource']
        iab.bounding &= IAB.from_process().bounding
        iab.apply()
        time.sleep(60)

    (bound,) = start(less)
    start(time.sleep, 60, count=2)
    wait_for(lambda: len(seen('CapBnd')) == 2)
    error = refusal(Caps(Caps.from_process(), inheritable='cap_kill').apply, all_threads=True)
    for thread, fields in threads().items():
        assert bool(fields['CapInh']) == (thread != bound.native_id)
    assert error.errno == errno.EPERM
    assert error.strerror.startswith('capset to ')
    assert f': Operation not permitted in thread {bound.native_id} (' in error.strerror
    assert error.strerror.endswith('), while all others were changed')


# What cannot be asked at all.


@needs_something
@in_a_child
def test_when_the_program_handles_every_signal_it_is_told_so(library):
    raw = Raw(library)
    start(time.sleep, 60)
    before = threads()
    for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
        assert raw.library.take(number) == 0
    error = refusal(DROP.apply, all_threads=True)
    assert threads() == before
    assert error.errno == errno.EBUSY
    reason = (
        'nothing was changed: other threads are asked by a real-time signal, and none is unused'
    )
    assert error.strerror == reason


def ring(flags):
    parameters = (ctypes.c_uint32 * 30)(0, 0, flags)
    fd = ctypes.CDLL(None).syscall(425, 4, parameters)
    assert fd >= 0, 'io_uring_setup(2)'
    return fd


def workers():
    """The threads of this process that the kernel made for io_uring."""
    tasks = Path('/proc/self/task').iterdir()
    named = []
    for task in tasks:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if (task / 'comm').read_text().startswith('iou-'):
                named.append(task.name)
    return named


@needs_something
@in_a_child
def test_a_worker_of_io_uring_is_named_as_such_at_once():
    start(time.sleep, 60, count=3)
    fd = ring(2)  # IORING_SETUP_SQPOLL
    wait_for(workers)
    (thread,) = workers()
    before = seen('CapPrm')
    error = refusal(DROP.apply, all_threads=True)
    assert seen('CapPrm') == before
    os.close(fd)
    wait_for(lambda: not workers())
    DROP.apply(all_threads=True)
    assert seen('CapPrm') == {0}
    assert error.errno == errno.EBUSY
    assert error.strerror.startswith(f'nothing was changed: thread {thread} (iou-sqp-')
    assert 'works for io_uring' in error.strerror


@needs_something
@in_a_child
def test_a_thread_that_only_has_the_name_of_such_a_worker_changes():
    def named():
        ctypes.CDLL(None).prctl(15, b'iou-sqp-1')
        time.sleep(60)

    start(named)
    DROP.apply(all_threads=True)
    assert seen('CapPrm') == {0}


@needs_something
@pytest.mark.parametrize('limit', [0, 32])
@in_a_child
def test_where_few_signals_can_be_pending_all_threads_change_or_the_limit_is_named(library, limit):
    raw = Raw(library)
    raw.start('read_once', os.pipe()[0])
    start(time.sleep, 60, count=100)
    before = seen('CapPrm')
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (limit, limit))
    if limit:
        DROP.apply(all_threads=True)
        assert seen('CapPrm') == {0}
    else:
        error = refusal(DROP.apply, all_threads=True)
        assert seen('CapPrm') == before
        assert error.errno == errno.EAGAIN
        reason = 'nothing was changed: other threads are asked by signals, and the limit'
        assert error.strerror.startswith(reason)


@needs_something
def test_more_threads_than_there_is_room_for_are_refused_at_once(tmp_path):
    package = extension_with(tmp_path, 'ext/threads.h', 'MAX_THREADS = 16384', 'MAX_THREADS = 16')
    printed = python(program('crowd'), cwd=CHILDREN, env=os.environ | {'PYTHONPATH': str(package)})
    assert printed == f'{errno.E2BIG} nothing was changed: there are more than 16 other threads\n'


@needs_something
@pytest.mark.parametrize('left', range(4))
@in_a_child
def test_with_few_descriptors_left_all_threads_change_or_none(left):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    start(time.sleep, 60, count=3)
    before, full = seen('CapPrm'), []
    try:
        while True:
            full.append(os.open('/dev/null', os.O_RDONLY))
    except OSError:
        for _ in range(left):
            os.close(full.pop())
    reason = None
    try:
        DROP.apply(all_threads=True)
    except OSError as error:
        reason = error.strerror
    for fd in full:
        os.close(fd)
    assert seen('CapPrm') == ({0} if left else before)
    assert reason == (None if left else 'Too many open files')


NO_CALLS = {
    'no list': ((), TypeError),
    'no tuple': ([1], TypeError),
    'nothing': ([()], TypeError),
    'too many arguments': ([(calls.NO_NEW_PRIVS[1][0],) * 7], TypeError),
    'text': ([('getpid',)], TypeError),
    'too many': ([calls.NO_NEW_PRIVS[1]] * 161, ValueError),
}


@pytest.mark.parametrize(('made', 'error'), NO_CALLS.values(), ids=NO_CALLS)
@in_a_child
def test_what_is_no_list_of_calls_is_refused_and_none_is_made(made, error):
    with pytest.raises(error):
        _caps.system_calls(made, False)
    assert seen('NoNewPrivs') == {'0'}


# What the program had stays.


@needs_something
@in_a_child
def test_system_calls_that_threads_sit_in_go_on(library):
    raw = Raw(library)
    pipes = [os.pipe() for n in range(8)]
    jobs = [raw.start('read_once', out)[1] for out, _ in pipes[:4]]
    data = []
    start(lambda: data.append(os.read(pipes[4][0], 9)))
    slept = []

    def sleep():
        began = time.monotonic()
        time.sleep(0.5)
        slept.append(time.monotonic() - began)

    (sleeping,) = start(sleep)
    lock = threading.Lock()
    lock.acquire()
    locked = []
    start(lambda: locked.append(lock.acquire(timeout=PATIENCE)))
    for _ in range(50):
        DROP.apply(all_threads=True)
    assert not any(job.stop for job in jobs)
    assert not data
    assert not locked
    for _, into in pipes:
        os.write(into, b'x')
    lock.release()
    wait_for(lambda: all(job.stop for job in jobs) and data and locked)
    assert [job.result for job in jobs] == [1] * 4
    assert data == [b'x']
    assert locked == [True]
    sleeping.join()
    assert slept[0] >= 0.5
    assert seen('CapPrm') == {0}


@needs_something
@in_a_child
def test_handlers_of_the_program_stay_and_still_fire(library):
    raw = Raw(library)
    first, last = signal.SIGRTMIN, signal.SIGRTMAX
    fired = []
    signal.signal(signal.SIGUSR1, lambda number, frame: fired.append(number))
    signal.signal(last, lambda number, frame: fired.append(number))
    signal.signal(signal.SIGRTMAX - 1, signal.SIG_IGN)
    for number in range(first, last - 1):
        if number != last - 5:
            assert raw.library.take(number) == 0
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    start(time.sleep, 60, count=3)
    for _ in range(3):
        DROP.apply(all_threads=True)
    assert seen('CapPrm') == {0}
    assert handlers == {number: signal.getsignal(number) for number in signal.valid_signals()}
    for number in range(first, last - 1):
        if number != last - 5:
            os.kill(os.getpid(), number)
            wait_for(lambda number=number: raw.library.times(number) == 1)
    os.kill(os.getpid(), last - 1)
    os.kill(os.getpid(), last)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert sorted(fired) == [signal.SIGUSR1, last]


@needs_something
@in_a_child
def test_a_handler_that_the_program_sets_later_is_its_own(library):
    raw = Raw(library)
    start(time.sleep, 60, count=2)
    IAB.from_process().apply(all_threads=True)
    assert raw.library.take(signal.SIGRTMAX) == 0
    DROP.apply(all_threads=True)
    assert seen('CapPrm') == {0}
    assert raw.library.times(signal.SIGRTMAX) == 0


@needs_something
@in_a_child
def test_a_signal_that_another_sends_does_nothing():
    start(time.sleep, 60, count=2)
    IAB.from_process().apply(all_threads=True)
    before = threads()
    for _thread in before:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGRTMAX)
        os.kill(os.getpid(), signal.SIGRTMAX)
    assert threads() == before


@needs('cap_sys_admin')
@in_a_child
def test_a_thread_whose_id_was_asked_before_finds_nothing_to_do(library):
    """The first one with the id ends unanswered; then its request is repeated to the second."""
    raw = Raw(library)
    gone, _ = raw.start('vanish')
    IAB.from_process().apply(all_threads=True)
    assert gone not in threads()
    heir = None
    while not heir or heir.native_id != gone:
        with open('/proc/sys/kernel/ns_last_pid', 'w') as file:
            file.write(str(gone - 1))
        (heir,) = start(time.sleep, 60)

    def last_call():
        _caps.system_calls([calls.NO_NEW_PRIVS[1]], False)
        raw.library.ask(gone, 0)
        made.append(1)
        time.sleep(60)

    made = []
    start(last_call)
    wait_for(lambda: made)
    time.sleep(0.05)
    assert threads()[gone]['NoNewPrivs'] == '0'


# Meanwhile.


@in_a_child
def drop_among_relays(library, relays, looks):
    def relay():
        if not stop:
            threading.Thread(target=relay, daemon=True).start()

    raw = Raw(library)
    sys.setswitchinterval(1e-4)
    start(time.sleep, 60, count=20)
    jobs = [raw.start('relay')[1] for _ in range(relays)]
    for _ in range(8 - relays):
        threading.Thread(target=relay, daemon=True).start()
    DROP.apply(all_threads=True)
    for _ in range(looks):
        assert seen('CapPrm') == {0}
    for job in jobs:
        job.stop = 1
    stop.append(1)
    wait_for(lambda: len(threads()) == 21)
    assert seen('CapPrm') == {0}


@needs_something
@pytest.mark.parametrize(('relays', 'looks'), [(8, 100), (0, 3)], ids=['raw', 'Python'])
def test_no_thread_escapes_where_threads_start_and_end_all_the_time(library, relays, looks):
    for _ in range(10):
        drop_among_relays(library, relays, looks)


@needs_something
@in_a_child
def test_calls_at_the_same_time_do_not_block_each_other():
    def change(turns):
        while time.monotonic() < end or len(made) <= 20:
            state = Caps.from_process()
            state.effective = state.permitted if next(turns) % 2 else ()
            state.apply(all_threads=True)
            made.append(1)

    start(time.sleep, 60, count=8)
    made, end = [], time.monotonic() + 2
    changing = start(change, count(), count=2) + start(change, count(1), count=2)
    for thread in changing:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(seen('CapEff')) == 1


@needs('cap_setuid')
@in_a_child
def test_calls_while_glibc_changes_ids_do_not_block():
    def change():
        while time.monotonic() < end or len(made) <= 10:
            os.setuid(0)
            made.append(1)

    start(time.sleep, 60, count=8)
    made, end = [], time.monotonic() + 1
    (changing,) = start(change)
    while time.monotonic() < end:
        IAB.from_process().apply(all_threads=True)
    changing.join(PATIENCE)
    assert not changing.is_alive()


@pytest.mark.skipif(
    FREE_THREADED, reason="a child of fork finds Python's own objects locked by other threads"
)
@needs_something
@in_a_child
def test_forks_at_the_same_time_have_children_that_can_call():
    def change():
        while time.monotonic() < end or min(len(made), forks) <= 10:
            IAB.from_process().apply(all_threads=True)
            made.append(1)

    def in_the_child():
        start(time.sleep, 60)
        DROP.apply(all_threads=True)
        assert seen('CapPrm') == {0}

    start(time.sleep, 60, count=4)
    made, forks, end = [], 0, time.monotonic() + 2
    changing = start(change, count=2)
    while time.monotonic() < end or min(len(made), forks) <= 10:
        pid = os.fork()
        if not pid:
            signal.alarm(PATIENCE)
            try:
                in_the_child()
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        forks += 1
    for thread in changing:
        thread.join(PATIENCE)
    assert 0 not in seen('CapPrm')


@needs_something
@in_a_child
def test_programs_started_at_the_same_time_run():
    def run():
        while time.monotonic() < end or len(runs) <= 10:
            assert subprocess.run(['true']).returncode == 0
            runs.append(1)

    runs, end = [], time.monotonic() + 1.5
    running = start(run, count=3)
    calls = 0
    while time.monotonic() < end or min(len(runs), calls) <= 10:
        IAB.from_process().apply(all_threads=True)
        calls += 1
    for thread in running:
        thread.join()


# The first thread.


# What ends it, and nothing else of the process.
ENDS = {
    'pthread_exit': lambda libc: libc.pthread_exit(None),
    'exit': lambda libc: libc.syscall({'x86_64': 60, 'aarch64': 93}[platform.machine()], 0),
}


@needs_something
@pytest.mark.parametrize('end', ENDS.values(), ids=ENDS)
@in_a_child
def test_the_first_thread_may_have_ended(library, end):
    def outlive():
        result = 1
        try:
            wait_for(lambda: status_fields(os.getpid()) is None)
            drop()
            assert seen('CapPrm') == {0}
            assert len(threads()) == 3
            result = 0
        finally:
            os._exit(result)

    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
        return
    raw = Raw(library)
    start(time.sleep, 60)
    raw.start('spin')
    start(outlive)
    end(ctypes.CDLL(None))


@in_a_child
def test_thousands_of_calls_leave_nothing_behind():
    def held():
        with open('/proc/self/statm') as file:
            return int(file.read().split()[1])

    start(time.sleep, 60, count=4)
    state = Caps.from_process()

    def call(times):
        for _ in range(times):
            state.apply(all_threads=True)
            with contextlib.suppress(OSError):
                Caps(permitted=[63]).apply(all_threads=True)

    call(200)
    fds, pages, ours = os.listdir('/proc/self/fd'), held(), threads()
    call(2000)
    assert os.listdir('/proc/self/fd') == fds
    assert held() - pages < 64, (pages, held())
    assert threads() == ours
