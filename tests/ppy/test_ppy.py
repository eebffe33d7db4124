"""What ppy promises, in both installation modes, as the script itself sees it."""

import itertools
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from caps import Caps, CapSet
from caps.admin.ppy import install
from support import PATIENCE, needs, needs_root, run
from support.accounts import Account
from support.launchers import MODES, REPORT, Ppy
from support.machine import alone

pytestmark = needs_root


def parse(status):
    return dict(line.split(':\t', 1) for line in status.splitlines() if ':\t' in line)


BOUNDING = CapSet.from_mask(int(parse(Path('/proc/self/status').read_text())['CapBnd'], 16))
NOBODY_KNOWN = Account('', 2_000_000_001, 2_000_000_002)

# A file's mark, and what a script with that mark is given: the inheritable set alone.
MARKS = {
    'empty': ('=', ''),
    'one': ('cap_net_raw=i', 'net_raw'),
    'several': ('cap_chown,cap_net_bind_service,cap_bpf=i', 'chown,net_bind_service,bpf'),
    'what ppy has itself': ('cap_setuid,cap_dac_override=i', 'setuid,dac_override'),
    'read everything': ('cap_dac_read_search=i', 'dac_read_search'),
    'all': (f'{BOUNDING}=i', str(BOUNDING)),
    'permitted too': ('cap_net_raw=ip', 'net_raw'),
    'effective too': ('cap_net_raw=eip', 'net_raw'),
    'others permitted': ('cap_net_raw=i cap_kill+p', 'net_raw'),
}


@pytest.fixture(params=['root', 'other', 'owner'])
def caller(request, accounts):
    """How to start a program as somebody who is in groups."""
    uid = {'root': 0, 'other': accounts.attacker.uid, 'owner': accounts.owner.uid}[request.param]
    return {'user': uid, 'group': uid, 'extra_groups': [4, 24]}


def assert_sets(state, given):
    assert CapSet.from_mask(state['permitted']) == CapSet(given)
    assert CapSet.from_mask(state['inheritable']) == CapSet(given)
    assert (state['effective'], state['ambient'], state['bounding']) == (0, 0, 0)


@pytest.mark.parametrize(('mark', 'given'), MARKS.values(), ids=MARKS)
def test_script_has_the_inheritable_set_of_its_file_and_no_other(ppy, script, caller, mark, given):
    assert_sets(ppy.report(script(mark=mark), **caller), given)


def test_script_is_its_owner_and_group_and_in_no_other_group(ppy, script, accounts, caller):
    state = ppy.report(script(mark='cap_kill=i'), **caller)
    assert state['uid'] == [accounts.owner.uid] * 3
    assert state['gid'] == [accounts.owner.gid] * 3
    assert state['groups'] == []


def test_group_is_that_of_the_file_not_of_the_account(ppy, script, accounts):
    state = ppy.report(script(group=NOBODY_KNOWN), account=accounts.attacker)
    assert state['uid'] == [accounts.owner.uid] * 3
    assert state['gid'] == [NOBODY_KNOWN.gid] * 3


def test_capabilities_of_the_caller_are_not_handed_on(ppy, script, accounts):
    state = json.loads(
        run(
            *(
                'setpriv',
                '--reuid',
                accounts.attacker.uid,
                '--regid',
                accounts.attacker.gid,
                '--groups',
                '4',
            ),
            *('--inh-caps=+kill,+net_admin', '--ambient-caps=+kill,+net_admin'),
            *(ppy.path, script(mark='cap_net_raw=i')),
        ).stdout
    )
    assert_sets(state, 'net_raw')
    assert state['groups'] == []


def test_securebits_keep_root_from_capabilities(ppy, script, accounts):
    code = 'import ctypes; print(ctypes.CDLL(None).prctl(27, 0, 0, 0, 0))'
    noroot, noroot_locked = 1, 2
    done = ppy.run(script(code, 'cap_kill=i'), account=accounts.attacker)
    assert int(done.stdout) == noroot | noroot_locked


@pytest.mark.parametrize(('mark', 'given'), MARKS.values(), ids=MARKS)
def test_child_of_a_script_gets_nothing(ppy, script, accounts, mark, given):
    code = 'import caps, os; caps.Caps.from_process().activate().apply()\n'
    code += "os.execv('/bin/cat', ['cat', '/proc/self/status'])"
    child = parse(ppy.run(script(code, mark), account=accounts.attacker).stdout)
    assert int(child['CapPrm'], 16) == int(child['CapEff'], 16) == 0
    assert int(child['CapAmb'], 16) == int(child['CapBnd'], 16) == 0
    assert CapSet.from_mask(int(child['CapInh'], 16)) == CapSet(given)


ACTIVATE = 'from caps import Caps; Caps.from_process().activate().apply()'
LIST = "import os; os.listdir('/root'); print('listed')"


@pytest.mark.parametrize(
    ('code', 'mark', 'stdout'),
    [
        (f'{ACTIVATE}; {LIST}', 'cap_dac_read_search=i', 'listed\n'),
        (LIST, 'cap_dac_read_search=i', ''),
        (f'{ACTIVATE}; {LIST}', 'cap_net_raw=i', ''),
        (f'{ACTIVATE}; {LIST}', '=', ''),
    ],
    ids=['activated', 'not activated', 'with another', 'without'],
)
def test_script_uses_the_capability_that_it_has(ppy, script, caller, code, mark, stdout):
    done = ppy.run(script(code, mark), **caller)
    assert done.stdout == stdout
    assert ('PermissionError' in done.stderr) != bool(stdout)


# ---- The interpreter ----


# What is typed in the script's directory to start it.
WAYS = {
    'absolute': ['{ppy}', '{script}'],
    'shebang': ['{script}'],
    'shebang through PATH': ['script.py'],
    'relative': ['{ppy}', 'script.py'],
    'link': ['{ppy}', 'link.py'],
    'link to a directory': ['{ppy}', 'elsewhere/here/../{script.parent.name}//./script.py'],
}


@pytest.mark.parametrize('way', WAYS.values(), ids=WAYS)
def test_script_is_known_by_its_canonical_path(ppy, script, accounts, scene, way):
    path = script(f'#!{ppy.path}\n{REPORT}', 'cap_kill=i')
    (scene / 'link.py').symlink_to('script.py')
    (scene / 'elsewhere').mkdir(0o755)
    (scene / 'elsewhere/here').symlink_to(scene)
    command = [word.format(ppy=ppy.path, script=path) for word in way]
    done = run(*command, 'x', account=accounts.attacker, cwd=scene, env={'PATH': str(scene)})
    state = json.loads(done.stdout)
    assert state['argv'] == [str(path), 'x']
    assert (state['file'], state['path0']) == (str(path), str(scene))
    assert state['cwd'] == str(scene)
    assert_sets(state, 'kill')


def test_python_finds_its_virtual_environment(ppy, script, accounts, system_venv):
    state = ppy.report(script(), account=accounts.attacker)
    assert state['executable'] == ppy.installed.original == str(system_venv / 'bin/python')
    assert state['prefix'] == str(system_venv)
    done = ppy.run(script('import caps; print(caps.__file__)'), account=accounts.attacker)
    assert Path(done.stdout).is_relative_to(system_venv)


def test_script_can_start_its_interpreter_which_gets_nothing(ppy, script, accounts):
    child = "print(open('/proc/self/status').read())"
    code = f'import subprocess, sys; {ACTIVATE}; '
    code += f'subprocess.run([sys.executable, "-c", {child!r}], check=True)'
    child = parse(ppy.run(script(code, f'{BOUNDING}=i'), account=accounts.attacker).stdout)
    assert int(child['CapPrm'], 16) == int(child['CapEff'], 16) == 0


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    ('interpreter', 'code'),
    [
        ('sh', 'while read -r line; do printf "%s\\n" "$line"; done < /proc/self/status'),
        ('perl', 'open F, "/proc/self/status"; print while <F>'),
    ],
    ids=['sh', 'perl'],
)
def test_other_interpreters_keep_the_promise(scene, script, accounts, mode, interpreter, code):
    installed = install(shutil.which(interpreter), scene / 'prefix', **MODES[mode])
    options = {
        'user': accounts.attacker.uid,
        'group': accounts.attacker.gid,
        'extra_groups': [4, 24],
    }
    done = Ppy(mode, installed).run(script(code, 'cap_net_raw=i'), **options)
    state = parse(done.stdout)
    assert state['Uid'].split() == [str(accounts.owner.uid)] * 4
    assert state['Gid'].split() == [str(accounts.owner.gid)] * 4
    assert state.get('Groups', '').strip() == ''
    sets = {name: int(state[f'Cap{name}'], 16) for name in ('Prm', 'Inh', 'Eff', 'Amb', 'Bnd')}
    net_raw = CapSet('net_raw').mask
    assert sets == {'Prm': net_raw, 'Inh': net_raw, 'Eff': 0, 'Amb': 0, 'Bnd': 0}


@pytest.mark.parametrize(('name', 'status'), [('ppy-perl', 0), ('ppy', 1)])
def test_perl_reads_first_lines_that_name_perl(scene, script, accounts, name, status):
    installed = install(shutil.which('perl'), scene / 'prefix', name)
    path = script(f'#!{installed.ppy}\nprint "ran\\n"', 'cap_net_raw=i')
    done = run(path, account=accounts.attacker)
    assert (done.returncode, done.stdout) == (status, '' if status else 'ran\n')


# ---- What passes through untouched ----


@pytest.mark.parametrize(
    'arguments',
    [
        ['', ''],
        ['two words', ' ', '*', '$HOME', "'", '"', '\n'],
        ['\udcff\udc80', 'é'],
        ['-c', '-m', '--', '-', '--help', '-I'],
        ['x' * 100 * 1024, *['y'] * 1000],
    ],
    ids=['empty', 'special', 'not UTF-8', 'dashes', 'long'],
)
def test_arguments_pass_through(ppy, script, accounts, arguments):
    state = ppy.report(script(), *arguments, account=accounts.attacker)
    assert state['argv'][1:] == arguments


@pytest.mark.parametrize('status', [0, 1, 42, 126, 255])
def test_exit_status_passes_through(ppy, script, accounts, status):
    path = script('import sys; sys.exit(int(sys.argv[1]))', 'cap_kill=i')
    assert ppy.run(path, status, account=accounts.attacker).returncode == status


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_death_by_a_signal_passes_through(ppy, script, accounts, number):
    path = script(f'import os; os.kill(os.getpid(), {int(number)})', 'cap_kill=i')
    assert ppy.run(path, account=accounts.attacker).returncode == -number


def test_signal_to_the_process_reaches_the_script(ppy, script, accounts):
    code = 'import os, signal, sys, time\n'
    code += 'signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\n'
    code += 'print(os.getpid(), flush=True); time.sleep(600)'
    command = [ppy.path, script(code, 'cap_kill=i')]
    options = {'user': accounts.attacker.uid, 'group': accounts.attacker.gid, 'extra_groups': []}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        try:
            assert int(process.stdout.readline()) == process.pid
            process.send_signal(signal.SIGUSR1)
            assert process.wait(PATIENCE) == 7
        finally:
            process.kill()


def test_streams_pass_through(ppy, script, accounts):
    code = 'import sys; data = sys.stdin.buffer.read()\n'
    code += 'sys.stdout.buffer.write(data); sys.stderr.buffer.write(data[::-1])'
    data = bytes(range(256)) * 1000
    done = ppy.run(script(code, 'cap_kill=i'), account=accounts.attacker, input=data, text=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, data[::-1])


CLOSED = [fds for count in range(4) for fds in itertools.combinations('012', count)]


@pytest.mark.parametrize('closed', CLOSED, ids=' '.join)
def test_closed_streams_are_opened(ppy, script, accounts, scene, closed):
    (scene / 'out').mkdir()
    os.chown(scene / 'out', accounts.owner.uid, accounts.owner.gid)
    use = ''.join(f'os.{"read" if fd == "0" else "write"}({fd}, {1 if fd == "0" else b"x"})\n'
                  for fd in closed)  # fmt: skip
    path = script(REPORT.replace('sys.stdout', 'open(sys.argv[1], "w")') + use, 'cap_kill=i')
    out = scene / 'out' / 'state'
    redirections = ' '.join(f'{fd}>&-' for fd in closed)
    command = f'exec "$@" {redirections}'
    done = run('sh', '-c', command, 'sh', ppy.path, path, out, account=accounts.attacker)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    state = json.loads(out.read_text())
    assert_sets(state, 'kill')
    assert state['descriptors'] == [0, 1, 2]


# ---- What does not pass through ----

KEPT = {
    *('TERM', 'COLORTERM', 'NO_COLOR', 'LANG', 'LANGUAGE', 'TZ'),
    *('LC_ALL', 'LC_ADDRESS', 'LC_COLLATE', 'LC_CTYPE', 'LC_IDENTIFICATION', 'LC_MESSAGES'),
    *('LC_MEASUREMENT', 'LC_MONETARY', 'LC_NAME', 'LC_NUMERIC', 'LC_PAPER', 'LC_TELEPHONE'),
    'LC_TIME',
}
FOREIGN = {
    *('HOME', 'USER', 'LOGNAME', 'PATH', 'SHELL', 'PPY_UID', 'PPY_GID', 'PWD', 'MAIL', 'IFS'),
    *('ENV', 'BASH_ENV', 'LC_x', 'LC_', 'TERMINFO', 'TZDIR', 'TMPDIR', 'DISPLAY', 'SUDO_USER'),
    *('PYTHONPATH', 'PYTHONHOME', 'LD_LIBRARY_PATH', 'XDG_RUNTIME_DIR'),
}
LOCALE = {'LC_ALL': 'C'}  # with none, Python would add an LC_CTYPE


def environment(ppy, script, account, **variables):
    return ppy.report(script(), account=account, env=LOCALE | variables)['environ']


def test_environment_is_made_anew(ppy, script, accounts):
    told = dict.fromkeys(FOREIGN, '/nowhere')
    account = pwd.getpwuid(accounts.owner.uid)
    assert environment(ppy, script, accounts.attacker, **told) == LOCALE | {
        'HOME': '/',  # there is no such directory
        'USER': account.pw_name,
        'LOGNAME': account.pw_name,
        'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'SHELL': '/bin/sh',
        'PPY_UID': str(accounts.attacker.uid),
        'PPY_GID': str(accounts.attacker.gid),
    }


def test_environment_of_an_owner_without_an_account(ppy, script, accounts):
    state = ppy.report(script(owner=NOBODY_KNOWN), account=accounts.attacker, env=LOCALE)
    assert state['uid'] == [NOBODY_KNOWN.uid] * 3
    assert state['environ']['HOME'] == '/'
    assert not {'USER', 'LOGNAME'} & set(state['environ'])


@pytest.fixture
def as_listed(ppy, scene, accounts):
    """A function that launches a script where /etc/passwd has other lines, or cannot be read."""

    def launch(path, lines, *before, launcher=ppy.path):
        listed = scene / 'passwd'
        if lines is None:
            os.mknod(listed, stat.S_IFCHR | 0o644, os.makedev(0, 0))
        else:
            listed.write_text(lines)
        enter = ['unshare', '-m', 'sh', '-c', 'mount --bind "$0" /etc/passwd && exec "$@"', listed]
        ids = [f'--reuid={accounts.attacker.uid}', f'--regid={accounts.attacker.gid}']
        with alone():  # what is mounted on /etc/passwd goes where somebody adds an account
            return run(*enter, 'setpriv', *ids, '--clear-groups', *before, launcher, path)

    return launch


ENTRY = '{name}:x:{uid}:0::/etc:'
LISTED = {
    'an account': (f'{ENTRY}\n', True),
    'the first of two': (f'{ENTRY}\nother:x:{{uid}}:0::/:\n', True),
    'without an end': (ENTRY, True),
    'after a long line': ('x' * 100_000 + f'\n\n#\nx:y:\n{ENTRY}\n', True),
    'after many lines': ('x:x:1:{uid}:{uid}:/:\n' * 40_000 + f'{ENTRY}\n', True),
    'of NIS': ('+::::::\n+@admins::{uid}::::\n+x:x:{uid}:0::/etc:\n', False),
    'excluded from NIS': ('-x:x:{uid}:0::/etc:\n', False),
    'a comment': ('#{name}:x:{uid}:0::/etc:\n', False),
    'without a name': (':x:{uid}:0::/etc:\n', False),
    'short': ('{name}:x:{uid}\n', False),
    'with another number': ('{name}:x:{uid}x:0::/etc:\nx:x:+{uid}:0::/etc:\n', False),
    'with no number': ('{name}:x::0::/etc:\n', False),
}


@needs('cap_sys_admin')
@pytest.mark.parametrize(('lines', 'known'), LISTED.values(), ids=LISTED)
def test_account_is_that_of_a_line_for_it_alone(as_listed, script, accounts, lines, known):
    owner = accounts.owner
    done = as_listed(script(), lines.format(name=owner.name, uid=owner.uid))
    environ = json.loads(done.stdout)['environ']
    expected = ('/etc', owner.name, owner.name) if known else ('/', None, None)
    assert tuple(map(environ.get, ('HOME', 'USER', 'LOGNAME'))) == expected


@needs('cap_sys_admin')
def test_root_is_not_a_line_of_nis(scene, as_listed, script, ppy):
    installed = install('/bin/sh', scene / 'prefix', allow_root=True, **MODES[ppy.mode])
    path = script('echo "$HOME $USER"', None)
    os.chown(path, 0, 0)
    Caps('cap_kill=i').apply(path)
    done = as_listed(path, '+\n+@admins\n+:x:0:0::/etc:\n', launcher=installed.ppy)
    assert done.stdout == '/ \n', done.stderr


UNREADABLE = {
    'no device': (None, 'No such device'),
    'a line too long': ('x' * (1 << 18), 'must have lines below 256 KiB'),
}


@needs('cap_sys_admin', 'cap_mknod')
@pytest.mark.parametrize(('lines', 'reason'), UNREADABLE.values(), ids=UNREADABLE)
def test_accounts_that_cannot_be_read_are_not_taken_for_none(as_listed, script, lines, reason):
    done = as_listed(script(), lines)
    assert (done.returncode, done.stdout) == (126, '')
    assert done.stderr.startswith(f'ppy: /etc/passwd: {reason}')


HOMES = {
    "the owner's": ('owner', 0o755, True),
    "the owner's alone": ('owner', 0o700, True),
    "the owner's group's": ('owner', 0o775, False),
    "everybody's": ('owner', 0o757, False),
    "the caller's": ('attacker', 0o755, False),
}


@pytest.mark.parametrize(('owner', 'mode', 'kept'), HOMES.values(), ids=HOMES)
def test_home_is_one_where_only_the_owner_writes(ppy, script, accounts, owner, mode, kept):
    home = Path(pwd.getpwuid(accounts.owner.uid).pw_dir)
    home.mkdir(parents=True)
    try:
        os.chown(home, getattr(accounts, owner).uid, accounts.owner.gid)
        home.chmod(mode)
        environ = environment(ppy, script, accounts.attacker, HOME='/nowhere')
    finally:
        home.rmdir()
    assert environ['HOME'] == (str(home) if kept else '/')


def test_harmless_variables_are_kept(ppy, script, accounts):
    told = {name: f'de_DE.UTF-8@{name}:x,y=z' for name in KEPT}
    kept = environment(ppy, script, accounts.attacker, **told)
    assert told.items() <= kept.items()
    assert environment(ppy, script, accounts.attacker, NO_COLOR='')['NO_COLOR'] == ''


@pytest.mark.parametrize('value', ['a/b', '%n', 'a b', '\n', '\x1b[m', '\x7f', 'é', 'x' * 129])
def test_variables_that_could_name_a_file_or_format_something_are_dropped(
    ppy, script, accounts, value
):
    names = KEPT - {'LC_ALL'} - ({'TZ'} if value == 'a/b' else set())
    kept = environment(ppy, script, accounts.attacker, **dict.fromkeys(names, value))
    assert not names & set(kept)


ZONES = dict.fromkeys(['', 'UTC', 'Europe/Berlin', 'CET-1CEST,M3.5.0,M10.5.0/3', '<+03>-3'], True)
ZONES |= dict.fromkeys([':UTC', '/etc/localtime', '../x', 'a/../../x', 'a/%s'], False)


@pytest.mark.parametrize(('zone', 'kept'), ZONES.items(), ids=ZONES)
def test_time_zone_is_kept_unless_it_could_name_any_file(ppy, script, accounts, zone, kept):
    environ = environment(ppy, script, accounts.attacker, TZ=zone)
    assert environ.get('TZ') == (zone if kept else None)


@pytest.mark.parametrize(
    ('before', 'after'), [(0, 0o22), (0o2, 0o22), (0o77, 0o77), (0o777, 0o77)], ids=oct
)
def test_umask_keeps_others_from_writing(ppy, script, accounts, before, after):
    assert ppy.report(script(), account=accounts.attacker, umask=before)['umask'] == after


def test_signals_and_timers_of_the_caller_are_undone(ppy, script, accounts):
    timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

    def starve():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, which is to work
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        for timer in timers:
            signal.setitimer(timer, 3600, 3600)

    code = 'import signal\n'
    code += 'print([int(signal.getsignal(name)) for name in (signal.SIGCHLD, signal.SIGHUP)])\n'
    code += "print(signal.pthread_sigmask(signal.SIG_BLOCK, ''))\n"
    code += f'print([signal.getitimer(timer)[0] for timer in {[*map(int, timers)]}])'
    done = ppy.run(script(code, 'cap_kill=i'), account=accounts.attacker, preexec_fn=starve)
    default, ignored = int(signal.SIG_DFL), int(signal.SIG_IGN)
    assert done.stdout == f'{[default, ignored]}\nset()\n[0.0, 0.0, 0.0]\n'


def test_descriptors_of_the_caller_are_closed(ppy, script, accounts):
    extra = [os.open('/dev/null', os.O_RDONLY) for _ in range(20)]
    try:
        state = ppy.report(script(), account=accounts.attacker, pass_fds=extra)
    finally:
        for fd in extra:
            os.close(fd)
    assert state['descriptors'] == [0, 1, 2]
