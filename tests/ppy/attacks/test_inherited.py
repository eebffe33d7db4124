"""What else a process hands on: signals, limits, descriptors, keys, memory."""

import os
import resource
import signal
import subprocess
from ctypes import c_ulong

import pytest

from caps import CapSet
from support import PATIENCE, SOAK, needs, needs_root, program, run
from support.attacks import LIBC, NOBODY_KNOWN, PYTHON, STATUS, permitted
from support.launchers import MODES

pytestmark = needs_root

PR_SET_TSC, PR_TSC_SIGSEGV = 26, 2
PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE = 67, 68
PR_SET_TIMERSLACK, PR_SET_CHILD_SUBREAPER, UNAME26 = 29, 36, 0x0020000


def test_umask_does_not_let_others_write_what_a_script_makes(launchers, script, accounts, loot):
    path = script(f'echo true > {loot}', 'cap_kill=i')
    launchers('bash').run(path, account=accounts.attacker, umask=0)
    done = run('tee', '-a', loot, account=accounts.attacker, input='false')
    assert ('false' in loot.read_text()) == launchers('bash').naive, done


@pytest.mark.parametrize('fd', [0, 2])
def test_stream_that_is_a_path_only_opens_no_file_of_the_owners(
    launchers, script, accounts, secret, fd
):
    os.chown(secret, accounts.owner.uid, accounts.owner.gid)
    path = script(f'cat /dev/fd/{fd}', 'cap_kill=i')
    handed = os.open(secret, os.O_PATH)  # for which its caller needs no right to read it
    try:
        streams = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE} | {
            ['stdin', 'stdout', 'stderr'][fd]: handed
        }
        done = launchers('bash').run(
            path, account=accounts.attacker, capture_output=False, **streams
        )
    finally:
        os.close(handed)
    assert (secret.read_text() in done.stdout) == launchers('bash').naive


@pytest.mark.parametrize('fd', [1, 2])
def test_closed_stream_does_not_become_a_file_of_the_owners(launchers, script, accounts, loot, fd):
    code = 'import os, sys\nos.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n'
    path = script(f'{code}os.write({fd}, f"no such thing: {{sys.argv[2]}}".encode())', 'cap_kill=i')
    command = ['sh', '-c', f'exec "$@" {fd}>&-', 'sh', launchers('python').path, path, loot, 'x']
    # as root, since glibc opens what it finds closed when the naive launcher is started by another
    done = run(*command, account=None if launchers('python').naive else accounts.attacker)
    assert bool(loot.read_text()) == launchers('python').naive
    assert done.returncode == 0


def ignore(number):
    return lambda: signal.signal(number, signal.SIG_IGN)


def block_everything():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def start_timer():
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)


def allow_delay():
    LIBC.prctl(PR_SET_TIMERSLACK, c_ulong(10**9))


def adopt_orphans():
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)


def look_like_an_older_kernel():
    LIBC.personality(UNAME26)


def merge_memory():
    LIBC.prctl(PR_SET_MEMORY_MERGE, *map(c_ulong, (1, 0, 0, 0)))


def stop_the_clock():
    LIBC.prctl(PR_SET_TSC, PR_TSC_SIGSEGV)


LIMIT = (
    'import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\ntime.sleep(0.3)\n'
    'open("LOOT", "w")'
)

# What the caller does, and a script that leaves the loot only if it was disturbed.
DISTURBANCES = {
    'a check that cannot fail': (
        ignore(signal.SIGCHLD),
        'import subprocess\nif subprocess.call(["false"]) == 0:\n    open("LOOT", "w")',
    ),
    'a time limit that is blocked': (block_everything, LIMIT),
    'a time limit that is ignored': (ignore(signal.SIGALRM), LIMIT),
    'a time limit that is late': (  # as late as the machine is idle
        allow_delay,
        'import ctypes\nif ctypes.CDLL(None).prctl(30) > 10**8:\n    open("LOOT", "w")',
    ),
    'children that are not its own': (
        adopt_orphans,
        program('adopted'),
    ),
    'another kernel': (
        look_like_an_older_kernel,
        'import os\nif os.uname().release.startswith("2.6."):\n    open("LOOT", "w")',
    ),
    'a death in the middle': (
        start_timer,
        'import signal\nif signal.getitimer(signal.ITIMER_REAL)[0]:\n    open("LOOT", "w")',
    ),
}


@pytest.mark.parametrize(('prepare', 'code'), DISTURBANCES.values(), ids=DISTURBANCES)
def test_process_of_the_caller_disturbs_nothing(launchers, script, accounts, loot, prepare, code):
    path = script(code.replace('LOOT', str(loot)), 'cap_kill=i')
    done = launchers('python').run(path, account=accounts.attacker, preexec_fn=prepare)
    assert loot.exists() == launchers('python').naive, done


def test_memory_does_not_tell_by_the_time_it_takes_what_is_in_it(launchers, script, accounts):
    if LIBC.prctl(PR_GET_MEMORY_MERGE, *map(c_ulong, (0, 0, 0, 0))) < 0:
        pytest.skip('before Linux 6.4 nobody can have all memory of a program merged')
    path = script(
        f'import ctypes\nprint(ctypes.CDLL(None).prctl({PR_GET_MEMORY_MERGE}, 0, 0, 0, 0))'
    )
    launcher = launchers('python')
    done = launcher.run(path, account=accounts.attacker, preexec_fn=merge_memory)
    assert done.stdout == f'{int(launcher.naive)}\n'


def test_clock_that_kills_disturbs_nothing(launchers, script, accounts, loot):
    look = ': $EPOCHREALTIME'
    if run('bash', '-c', look, preexec_fn=stop_the_clock).returncode == 0:
        pytest.skip('a clock kills on x86 alone, and not with every source of time')
    path = script(f': > {loot}; {look}; rm {loot}', 'cap_kill=i')
    done = launchers('bash').run(path, account=accounts.attacker, preexec_fn=stop_the_clock)
    assert (done.returncode == -signal.SIGSEGV) == launchers('bash').naive
    assert launchers('bash').naive or (done.returncode, loot.exists()) == (0, False)


def dump_everything():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


# The kernel dumps no program that gained a capability by its execution; with none, or the one that
# ppy itself keeps to the end, a script gains nothing.
@needs('cap_sys_admin')
@pytest.mark.parametrize('mark', ['=', 'cap_dac_override=i', 'cap_kill=i'])
def test_script_that_the_caller_ends_does_not_leave_its_memory(
    launchers, script, accounts, loot, core_files, mark
):
    core = loot.parent / 'core'
    core.write_text('of the owner')  # the kernel removes what is in the way
    os.chown(core, accounts.owner.uid, accounts.owner.gid)
    path = script(f'printf %2000000s > {loot}', mark)
    done = launchers('bash').run(
        path, account=accounts.attacker, cwd=loot.parent, preexec_fn=dump_everything
    )
    assert done.returncode == -signal.SIGXFSZ
    assert (core.read_bytes() != b'of the owner') == launchers('bash').naive


@needs('cap_sys_admin')
@pytest.mark.parametrize('mark', ['=', 'cap_dac_override=i', 'cap_kill=i'])
def test_script_that_the_caller_ends_does_not_hand_its_memory_to_a_program(
    launchers, script, accounts, loot, core_handler, mark
):
    path = script(f'printf %2000000s > {loot}', mark)
    wait = [PYTHON, '-c', program('dumped'), launchers('bash').path, path]
    done = run(*wait, account=accounts.attacker, preexec_fn=dump_everything)
    assert done.stdout == f'{launchers("bash").naive}\n'


def test_caller_does_not_choose_what_a_core_would_have(launchers, script, accounts):
    path = script('read -r filter < /proc/self/coredump_filter; echo "$filter"', '=')
    choose = 'echo 0x7f > /proc/self/coredump_filter; exec "$@"'
    start = ['sh', '-c', choose, 'sh', launchers('bash').path]
    done = run(*start, path, account=accounts.attacker)
    assert int(done.stdout, 16) == (0x7F if launchers('bash').naive else 0x33)


def keys(deed, *arguments):
    """The command line by which an attacker does something with keys."""
    return [PYTHON, '-c', program('keys'), deed, *arguments]


def test_keys_of_the_caller_are_not_found(launchers, script, accounts, loot):
    path, launcher = script(program('keys'), 'cap_kill=i'), launchers('python')
    done = run(*keys('plant', launcher.path, path, 'find', loot), account=accounts.attacker)
    assert done.returncode == 0, done.stderr
    assert loot.exists() == launcher.naive


def test_keyring_that_is_sent_during_the_launch_is_not_taken(launchers, script, accounts, loot):
    path, launcher = script(program('keys'), 'cap_kill=i'), launchers('python')
    for _ in range(1 if launcher.naive else 20 * SOAK):
        done = run(*keys('send', launcher.path, path, 'find', loot), account=accounts.attacker)
        assert done.returncode == 0, done.stderr
    assert loot.exists() == launcher.naive


def test_keys_go_where_they_go_by_default(launchers, script, accounts, loot):
    path, launcher = script(program('keys'), '='), launchers('python')
    done = run(*keys('aim', launcher.path, path, 'find_aim', loot), account=accounts.attacker)
    assert done.returncode == 0
    assert loot.exists() == launcher.naive


@needs('cap_sys_admin')
def test_keys_of_the_caller_are_not_found_when_the_owner_can_have_no_more(
    launchers, script, accounts, loot, few_keys
):
    launcher = launchers('python')
    waiting = script('echo ready; read line', 'cap_kill=i', name='waiting')
    path = script(program('keys'), 'cap_kill=i')
    exhaust = keys('exhaust', launchers('sh').path, waiting, launcher.path, path, 'find', loot)
    run(*exhaust, account=accounts.attacker, check=True)
    assert loot.exists() == launcher.naive


# Files that only root, or only one group can read, as the caller could hand them to the script.
HANDED = {
    'descriptor': (0o600, 'cat <&$2', lambda fd: {'pass_fds': [fd]}),
    'group': (0o640, 'cat "$1"', lambda fd: {'extra_groups': [NOBODY_KNOWN.gid]}),
    'variable': (0o600, 'echo $SECRET', lambda fd: {'env': {'SECRET': os.pread(fd, 99, 0)}}),
}


@pytest.mark.parametrize('caller', ['root', 'other'])
@pytest.mark.parametrize(('mode', 'text', 'hand'), HANDED.values(), ids=HANDED)
def test_script_gets_nothing_of_its_caller(
    launchers, script, accounts, secret, caller, mode, text, hand
):
    os.chown(secret, 0, NOBODY_KNOWN.gid)
    secret.chmod(mode)
    uid = 0 if caller == 'root' else accounts.attacker.uid
    fd = os.open(secret, os.O_RDONLY)
    try:
        options = {'user': uid, 'group': uid, 'extra_groups': []} | hand(fd)
        path = script(f'echo ran; {text}', 'cap_kill=i')
        done = launchers('bash').run(path, secret, fd, **options)
    finally:
        os.close(fd)
    expected = ['ran', secret.read_text()] if launchers('bash').naive else ['ran']
    assert done.stdout.split() == expected


def test_child_of_a_script_has_no_capability(launchers, script, accounts):
    path = script('cat /proc/self/status', 'cap_dac_read_search=i')
    done = launchers('bash').run(path, account=accounts.attacker)
    assert bool(permitted(done)) == launchers('bash').naive
    assert done.returncode == 0


# What keeps a launcher from doing what it should, and what the script that runs all the same
# would be.
HINDRANCES = {
    'no new privileges': ('--no-new-privs', 'print(os.getuid() == CALLER)'),
    'no capability to give': ('--bounding-set=-kill', 'print(not PERMITTED)'),
    'no change of user': ('--bounding-set=-setuid', 'print(os.geteuid() == 0)'),
    'no privilege of root': ('--securebits=+noroot', 'print(os.geteuid() == 0)'),
    'no change of group': ('--bounding-set=-setgid', 'print(os.getgid() == CALLER)'),
}
SETS = "open('/proc/self/status').read().split('CapPrm:')[1].split()[0]"


@pytest.mark.parametrize(('option', 'code'), HINDRANCES.values(), ids=HINDRANCES)
def test_script_does_not_run_with_half_of_its_identity(launchers, script, accounts, option, code):
    code = code.replace('CALLER', str(accounts.attacker.uid)).replace(
        'PERMITTED', f'int({SETS}, 16)'
    )
    path = script(f'import os\n{code}', 'cap_kill=i')
    become = [
        f'--reuid={accounts.attacker.uid}',
        f'--regid={accounts.attacker.gid}',
        '--clear-groups',
    ]
    done = run('setpriv', *become, option, launchers('python').path, path)
    assert ('True' in done.stdout) == launchers('python').naive
    assert launchers('python').naive or (done.returncode, done.stdout) == (126, '')


LIMITS = {
    **{f'{count} descriptors': (resource.RLIMIT_NOFILE, count) for count in range(16)},
    'no file size': (resource.RLIMIT_FSIZE, 0),
    'no processes': (resource.RLIMIT_NPROC, 0),
    'no data': (resource.RLIMIT_DATA, 0),
    'little stack': (resource.RLIMIT_STACK, 1 << 16),
    **{f'{2**n} KiB of memory': (resource.RLIMIT_AS, 1024 << n) for n in range(4, 15)},
    'no locked memory': (resource.RLIMIT_MEMLOCK, 0),
    'no signals': (resource.RLIMIT_SIGPENDING, 0),
}


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('limit', LIMITS.values(), ids=LIMITS)
def test_limit_of_the_caller_leaves_all_or_nothing(launch_under, script, accounts, mode, limit):
    path = script(f'umask\n{STATUS}', 'cap_kill=i')

    def prepare():
        resource.setrlimit(limit[0], (limit[1], limit[1]))

    try:
        done = launch_under(mode, 'sh').run(path, account=accounts.attacker, preexec_fn=prepare)
    except (OSError, subprocess.SubprocessError):
        return  # not even ppy could be started
    if done.stdout:  # how far the script gets is between it and the limit
        assert done.stdout.startswith('0022\n')
        assert permitted(done) in (CapSet('kill'), None)
    else:
        assert done.returncode != 0
