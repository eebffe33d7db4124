"""Every refusal of ppy, in both installation modes: what it says, that nothing ran, what fixes it.

Each test launches the same scene without the defect too, so that none passes for another reason.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import caps
from caps import Caps
from caps.admin.ppy import InstallError, install, installation_at
from caps.system.launcher import LAUNCHER_CAPS
from support import needs, needs_root, older_kernel, run
from support.accounts import Account
from support.launchers import MODES, Ppy

pytestmark = needs_root


def assert_launched(done):
    assert (done.returncode, done.stdout, done.stderr) == (0, 'ran\n', '')


def assert_refused(done, saying, status=126):
    """Nothing ran, and one line says why; returns what fixes that, as it says."""
    assert (done.returncode, done.stdout) == (status, '')
    assert re.fullmatch(r'ppy: [ -~]+\n', done.stderr)
    assert saying in done.stderr
    return done.stderr.rstrip('\n').partition('; fix: ')[2]


@dataclass
class ByAttacker(Ppy):
    """A ppy that the attacker starts."""

    attacker: Account

    def run(self, script, *arguments, **options):
        return super().run(script, *arguments, account=self.attacker, **options)


@pytest.fixture(scope='module', params=MODES)
def ppy(request, world, accounts):
    installed = install('/bin/sh', world / f'sh-{request.param}', **MODES[request.param])
    return ByAttacker(request.param, installed, accounts.attacker)


@pytest.fixture(params=MODES)
def reinstall(request, scene, accounts):
    """A function that installs a ppy of the test's own, which may be damaged."""
    for directory in ('programs', 'links'):
        (scene / directory).mkdir()
        (scene / directory).chmod(0o755)
    shutil.copyfile('/bin/sh', scene / 'programs/shell')
    (scene / 'programs/shell').chmod(0o755)
    interpreter = scene / 'links/shell'
    interpreter.symlink_to('../programs/shell')

    def make(**options):
        options = MODES[request.param] | options
        installed = install(interpreter, scene / 'prefix', **options)
        return ByAttacker(request.param, installed, accounts.attacker)

    return make


@pytest.fixture
def path(script, scene):
    """A script, two directories down, that ppy launches."""
    for directory in ('upper', 'upper/lower'):
        (scene / directory).mkdir()
        (scene / directory).chmod(0o755)
    return script('echo ran', 'cap_kill=i', name='upper/lower/script')


@pytest.fixture
def do(path, accounts):
    """A function that runs a command beside the script, with the names $OWNER and $ATTACKER."""

    def command(text, **variables):
        text = text.replace('CAPABILITIES', 'cap_kill').replace('USER:GROUP', '$OWNER:$OWNER')
        text = re.sub('^caps ', f'{sys.executable} -m caps ', text)
        names = {'OWNER': accounts.owner.name, 'ATTACKER': accounts.attacker.name}
        done = run('bash', '-ec', text, cwd=path.parent, env=os.environ | names | variables)
        assert done.returncode == 0, done.stderr

    return command


@pytest.fixture
def as_attacker(accounts):
    """The beginning of a command that setpriv starts as the attacker."""
    return [
        'setpriv',
        f'--reuid={accounts.attacker.uid}',
        f'--regid={accounts.attacker.gid}',
        '--clear-groups',
    ]


@contextmanager
def remounted(path, option):
    """A directory as a mount of its own."""
    run('mount', '--bind', path, path, check=True)
    try:
        run('mount', '-o', f'remount,bind,{option}', path, check=True)
        yield
    finally:
        run('umount', path, check=True)


# ---- The script ----

MARK = 'setcap cap_kill=i script'
WRITABLE = 'must not be writable by group or others'
NOT_ROOT = 'script: must have an owner and a group other than root'
OWNED = "must be owned by root or the script's owner"

# What is done to a script, and what ppy says then, once for each command that fixes it.
SCRIPTS = {
    'setcap -r script': ['script: must be marked'],
    'setcap cap_kill=ep script': ['script: must be marked with inheritable capabilities (=i)'],
    'setcap cap_kill,cap_setuid=p script': ['script: must be marked with inheritable'],
    f'setcap -n 1000 {MARK[7:]}': ['script: must not have capabilities of a user namespace'],
    f'chown 0 script; {MARK}': [NOT_ROOT, 'script: must be marked'],
    f'chgrp 0 script; {MARK}': [NOT_ROOT, 'script: must be marked'],
    'chmod g+w script': [f'lower/script: {WRITABLE}'],
    'chmod o+w script': [f'lower/script: {WRITABLE}'],
    'setfacl -m u:$ATTACKER:rwx script': [f'lower/script: {WRITABLE}'],
    'chmod g+w .': [f'upper/lower: {WRITABLE}'],
    'chmod o+w .': [f'upper/lower: {WRITABLE}'],
    'setfacl -m u:$ATTACKER:rwx .': [f'upper/lower: {WRITABLE}'],
    'chmod g+w ..': [f'/upper: {WRITABLE}'],
    'chmod o+w ..': [f'/upper: {WRITABLE}'],
}


@pytest.mark.parametrize(('spoil', 'sayings'), SCRIPTS.items(), ids=SCRIPTS)
def test_script_is_refused_after(ppy, path, do, spoil, sayings):
    assert_launched(ppy.run(path))
    do(spoil)
    for saying in sayings:
        do(assert_refused(ppy.run(path), saying))
    assert_launched(ppy.run(path))


# Directories that are to stay as they are: somebody's home, /tmp.
ELSEWHERE = {
    'chown $ATTACKER .': f'upper/lower: {OWNED}',
    'chown $ATTACKER ..': f'/upper: {OWNED}',
    'chmod 1777 ..; chown $ATTACKER ..': f'/upper: {OWNED}',
    'chmod 1777 .': f'upper/lower: {WRITABLE}',
}


@pytest.mark.parametrize(('spoil', 'saying'), ELSEWHERE.items(), ids=ELSEWHERE)
def test_script_in_the_wrong_place_is_to_be_moved(ppy, path, do, scene, spoil, saying):
    do(spoil)
    assert assert_refused(ppy.run(path), saying) == 'move the script, for example to /srv'
    do('mkdir -m 755 ../../elsewhere; mv script ../../elsewhere')
    assert_launched(ppy.run(scene / 'elsewhere/script'))


@pytest.mark.parametrize('spoil', ['chmod a-x script', 'chmod 700 script'])
def test_nobody_is_told_to_open_a_script_to_everyone(ppy, path, do, spoil):
    do(spoil)
    saying = 'script: must be executable for its caller'
    assert assert_refused(ppy.run(path), saying) == 'ask its owner for that right'


ACCEPTED = [
    *('chmod 1777 ..', 'chmod 1777 ..; chown $OWNER ..', 'chown $OWNER .', 'chmod 511 script'),
    *('chmod 6755 script', f'chgrp $ATTACKER . script; {MARK}', 'setfacl -m u:$ATTACKER:rx script'),
]


@pytest.mark.parametrize('change', ACCEPTED)
def test_script_is_accepted_after(ppy, path, do, change):
    do(change)
    assert_launched(ppy.run(path))


def test_refusal_is_one_line_whose_command_can_be_pasted(ppy, script, do):
    path = script('echo ran', None, name="a b\n'$(x)\x1b[7m\udcff;é")
    do(assert_refused(ppy.run(path), 'must be marked'))
    assert_launched(ppy.run(path))


@needs('cap_sys_admin')
@pytest.mark.parametrize(
    ('option', 'saying'),
    [('nosuid', 'must not be on a nosuid mount'), ('noexec', 'must not be on a noexec mount')],
)
def test_script_on_a_mount_that_runs_no_such_file_is_refused(ppy, path, option, saying):
    with remounted(path.parent, 'suid,exec'):
        assert_launched(ppy.run(path))
    with remounted(path.parent, option):
        assert_refused(ppy.run(path), f'script: {saying}')


KINDS = {
    'fifo': 'mkfifo script',
    'directory': 'mkdir script',
    'device': 'mknod script c 1 5',
    'socket': 'python3 -c \'import socket; socket.socket(socket.AF_UNIX).bind("script")\'',
}


@needs('cap_mknod')
@pytest.mark.parametrize('name', ['script', 'link'])
@pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)
def test_what_is_no_file_is_refused_at_once(ppy, path, do, make, name):
    (path.parent / 'link').symlink_to('script')
    assert_launched(ppy.run(path.parent / name))
    do(f'rm script; {make}; chown $OWNER:$OWNER script; chmod 755 script')
    done = ppy.run(path.parent / name)
    assert_refused(done, 'script: must be a regular file')


@pytest.mark.parametrize('name', ['absent', 'absent/script', 'script/script', 'dangling', 'sh'])
def test_script_that_is_not_there_is_not_found(ppy, path, name):
    (path.parent / 'dangling').symlink_to('absent')
    options = {'cwd': path.parent, 'env': {'PATH': '/bin'}}
    assert_launched(ppy.run('script', **options))
    assert_refused(ppy.run(name, **options), f'ppy: {name}: ', status=127)


def test_caller_does_not_learn_what_a_closed_directory_has(ppy, path, do):
    assert_launched(ppy.run(path))
    do('chown $OWNER .; chmod 700 .')
    present, absent = (ppy.run(path.parent / x) for x in ('script', 'absent'))
    assert_refused(present, 'Permission denied')
    assert_refused(absent, present.stderr[5:].replace('script', 'absent'))


@pytest.mark.parametrize('closed', ['.', '..'])
def test_relative_path_in_a_closed_directory_is_refused(ppy, path, do, closed):
    assert_launched(ppy.run('script', cwd=path.parent))
    do(f'chmod 700 {closed}')
    done = ppy.run('script', cwd=path.parent)
    assert_refused(done, 'Permission denied')


# ---- How ppy is started ----


@pytest.mark.parametrize('root', [True, False], ids=['root', 'another'])
def test_capability_outside_the_bounding_set_is_refused(ppy, path, as_attacker, root):
    start = ['setpriv'] if root else as_attacker
    assert_launched(run(*start, '--bounding-set=-net_raw', ppy.path, path))
    done = run(*start, '--bounding-set=-net_raw,-kill', ppy.path, path)
    assert_refused(done, 'cap_kill: must be in the bounding set')


@pytest.mark.parametrize('cap', LAUNCHER_CAPS.permitted)
def test_bounding_set_without_what_ppy_needs_is_refused(ppy, path, as_attacker, cap):
    assert_launched(run(*as_attacker, ppy.path, path))
    done = run(*as_attacker, f'--bounding-set=-{cap[4:]}', ppy.path, path)
    if ppy.mode == 'set-uid':
        assert_refused(done, f'{cap}: must be in the bounding set')
    else:  # the kernel does not even start ppy
        assert (done.returncode, done.stdout) == (126, '')
        assert 'Operation not permitted' in done.stderr


NO_PRIVILEGE = {
    '--no-new-privs': 'no_new_privs: must not be set',
    '--securebits=+noroot': 'securebits: must have neither',
    '--securebits=+noroot_locked': 'securebits: must have neither',
    '--securebits=+no_setuid_fixup': 'securebits: must have neither',
    '--securebits=+keep_caps_locked': 'securebits: must have neither',
}


@pytest.mark.parametrize(('option', 'saying'), NO_PRIVILEGE.items(), ids=NO_PRIVILEGE)
def test_process_that_is_kept_from_privilege_is_refused(ppy, path, as_attacker, option, saying):
    assert_launched(run(*as_attacker, ppy.path, path))
    assert_refused(run(*as_attacker, option, ppy.path, path), saying)


USAGE = [[], [''], ['', 'script']]
OPTIONS = [['-u', 'script'], ['-c', 'code'], ['-m'], ['-'], ['--', 'script'], ['--help', 'script']]
LONG = [['x' * 256], ['./' * 2045 + 'script'], ['./' * 20000 + 'script']]


@pytest.mark.parametrize(
    ('arguments', 'saying'),
    [(words, 'usage: ppy SCRIPT [ARGUMENT]...') for words in USAGE]
    + [
        (words, f'{words[0]}: must be the path of a script, since ppy takes no')
        for words in OPTIONS
    ]
    + [(words, 'name too long') for words in LONG],
    ids=repr,
)
def test_arguments_without_a_script_are_refused(ppy, path, as_attacker, arguments, saying):
    assert_launched(ppy.run('./' * 2044 + 'script', cwd=path.parent))
    assert_refused(run(*as_attacker, ppy.path, *arguments, cwd=path.parent), saying)


def test_option_in_the_first_line_is_refused_with_the_first_line_that_works(
    ppy, path, do, as_attacker
):
    path.write_text(f'#!{ppy.path} -u\necho ran')
    do(MARK)
    fix = assert_refused(run(*as_attacker, path), '-u: must be the path of a script')
    first_line = re.search('(#!.*) alone as the first line of SCRIPT$', fix)[1]
    path.write_text(f'{first_line}\necho ran')
    do(MARK)
    assert_launched(run(*as_attacker, path))


def test_ppy_that_is_removed_while_it_starts_says_so(reinstall, path, accounts):
    ppy = reinstall()
    held = os.open(ppy.path, os.O_PATH)
    os.set_inheritable(held, True)
    ppy.path.unlink()
    start = ['sh', '-c', f'exec /proc/self/fd/{held} "$0"', path]
    done = run(*start, account=accounts.attacker, pass_fds=[held])
    os.close(held)
    saying = 'ppy: must not be replaced or removed while it starts'
    assert assert_refused(done, saying) == 'run it again'


def test_empty_argument_vector_is_refused(ppy):
    code = 'import ctypes, sys; none = (ctypes.c_char_p * 1)()\n'
    code += 'ctypes.CDLL(None).execve(sys.argv[1].encode(), none, none)'
    done = run('/usr/bin/python3', '-c', code, ppy.path)
    assert_refused(done, 'usage: ppy SCRIPT')  # Linux 5.18 and later supply an empty argv[0]


def test_kernel_that_is_too_old_is_named(ppy, script):
    close_range = 436
    done = run(*older_kernel(close_range), ppy.path, script())
    assert_refused(done, 'ppy: kernel: must be Linux 5.9 or later')


CLOSED = [fds for count in (1, 2, 3) for fds in itertools.combinations('012', count)]


@pytest.mark.parametrize('closed', CLOSED, ids=' '.join)
def test_refusal_with_closed_streams_is_a_refusal(ppy, path, accounts, do, closed):
    command = ['sh', '-c', 'exec "$@" ' + ' '.join(f'{fd}>&-' for fd in closed), 'sh']
    path.write_text(':')
    do(MARK)
    assert run(*command, ppy.path, path, account=accounts.attacker).returncode == 0
    do('setcap -r script')
    done = run(*command, ppy.path, path, account=accounts.attacker)
    assert (done.returncode, done.stdout) == (126, '')
    assert ('must be marked' in done.stderr) == ('2' not in closed)


# ---- What is installed ----

MARKED = '/shell: must have inheritable file capabilities and no others'
ROOTS = 'must be a file that root owns'

# What is done to an installation, and what ppy says then.
DAMAGE = {
    'chmod g+w $ORIGINAL': f'programs/shell: {WRITABLE}',
    'chmod o+w ${ORIGINAL%/*}': f'/programs: {WRITABLE}',
    'chmod o+w ${LINK%/*}': f'/links: {WRITABLE}',
    'rm $COPY': '/shell: No such file',
    'chmod a-x $COPY': '/shell: Permission denied',
    'chmod g+w $COPY': f'/shell: {WRITABLE}',
    'chown $OWNER $COPY': f'/shell: {ROOTS}',
    'chmod g+w ${COPY%/*/*}': f'prefix/libexec: {WRITABLE}',
    'chown $OWNER ${COPY%/*}': ': must be owned by root; ',
    'setcap -r $COPY': MARKED,
    'setcap "all=i cap_kill+p" $COPY': MARKED,
    'setcap all=ei $COPY': MARKED,
    'setcap -n 1000 all=i $COPY': '/shell: must not have capabilities of a user namespace',
    'setcap cap_chown=i $COPY': 'cap_kill: must be among those that ppy was installed to give',
    'chmod g+w $PPY': f'bin/ppy: {WRITABLE}',
    'cp $PPY $PPY-; chmod 755 $PPY-; mv $PPY- $PPY': 'must have been given to ppy',
}
IRREPARABLE = {
    'chown $OWNER ${ORIGINAL%/*}': '/programs: must be owned by root; ',
    'rm $ORIGINAL': 'links/shell: No such file',
    'rm $LINK': 'links/shell: No such file',
    'chown $OWNER $ORIGINAL': f'programs/shell: {ROOTS}',
}


def inspecting(ppy):
    """The command that looks at an installation."""
    return f'caps ppy status --prefix {ppy.installed.prefix}'


def damaged(ppy, path, do, damage, saying):
    """Damage a sound ppy, and return what it says fixes it."""
    assert_launched(ppy.run(path))
    it = ppy.installed
    original = os.path.realpath(it.original)
    do(damage, PPY=it.ppy, COPY=it.capped, LINK=it.original, ORIGINAL=original)
    return assert_refused(ppy.run(path), saying)


@pytest.mark.parametrize(('damage', 'saying'), DAMAGE.items(), ids=DAMAGE)
def test_installation_is_refused_after(reinstall, path, do, damage, saying):
    ppy = reinstall()
    fix = damaged(ppy, path, do, damage, saying)
    reinstall(allow='all') if fix == inspecting(ppy) else do(fix)
    assert_launched(ppy.run(path))


@pytest.mark.parametrize(('damage', 'saying'), IRREPARABLE.items(), ids=IRREPARABLE)
def test_interpreter_is_refused_after(reinstall, path, do, damage, saying):
    ppy = reinstall()
    assert damaged(ppy, path, do, damage, saying) == inspecting(ppy)
    with pytest.raises(InstallError, match=r'choose another --interpreter|use another directory'):
        reinstall()


@pytest.mark.parametrize('name', ['ppy-x', "x '-y\n"])
def test_the_installation_to_look_at_is_named(reinstall, path, do, name):
    ppy = reinstall(name=name)
    fix = damaged(ppy, path, do, 'rm "$COPY"', ': No such file')
    found = installation_at(ppy.installed.prefix, name)
    assert name in shlex.split(found.command)
    said = run('bash', '-c', fix.replace('caps', f'{sys.executable} -m caps', 1) + ' --json')
    assert (said.returncode, json.loads(said.stdout)['problems']) == (1, found.problems)


STICKY = {
    'chmod 1777 ${ORIGINAL%/*}': f'/programs: {WRITABLE}',
    'chmod 1777 ${PPY%/*}': f'prefix/bin: {WRITABLE}',
}


@pytest.mark.parametrize(('damage', 'saying'), STICKY.items(), ids=STICKY)
def test_installation_in_a_sticky_directory_is_refused(reinstall, path, do, damage, saying):
    ppy = reinstall()
    assert damaged(ppy, path, do, damage, saying) == inspecting(ppy)


def test_ppy_of_another_account_is_refused(reinstall, path, do):
    ppy = reinstall()
    again, saying = 'chmod 4755 $PPY', 'must have been given to ppy'
    if ppy.mode == 'file-capabilities':
        again, saying = f'setcap {LAUNCHER_CAPS} $PPY', f'bin/ppy: {ROOTS}'
    assert damaged(ppy, path, do, f'chown $OWNER $PPY; {again}', saying) == inspecting(ppy)


@needs('cap_sys_admin')
@pytest.mark.parametrize('root', [True, False], ids=['root', 'another'])
@pytest.mark.parametrize('part', ['bin', 'libexec'])
def test_installation_on_a_nosuid_mount_is_refused(reinstall, path, scene, as_attacker, part, root):
    command = [*(['env'] if root else as_attacker), reinstall().path, path]
    with remounted(scene / 'prefix' / part, 'suid'):
        assert_launched(run(*command))
    with remounted(scene / 'prefix' / part, 'nosuid'):
        assert_refused(run(*command), 'nosuid')


@pytest.mark.parametrize('privileged', [True, False], ids=['privileged', 'not privileged'])
def test_ppy_that_was_not_installed_is_refused(ppy, path, scene, accounts, privileged):
    bare, is_set_uid = scene / 'ppy', ppy.mode == 'set-uid'
    shutil.copyfile(Path(caps.__file__).with_name('ppy'), bare)
    bare.chmod(0o4755 if privileged and is_set_uid else 0o755)
    if privileged and not is_set_uid:
        LAUNCHER_CAPS.apply(bare)
    assert_launched(ppy.run(path))
    done = run(bare, path, account=accounts.attacker)
    assert assert_refused(done, 'ppy: must have been installed') == 'caps ppy install'


@pytest.mark.parametrize('options', [{}, {'allow_root': True}], ids=['', 'allow root'])
def test_capability_that_ppy_may_not_give_is_refused(reinstall, path, do, options):
    ppy = reinstall(allow='kill,chown', **options)
    assert_launched(ppy.run(path))
    Caps('cap_kill,cap_net_raw=i').apply(path)
    fix = assert_refused(ppy.run(path), 'cap_net_raw: must be among those')
    assert fix.endswith(' --allow cap_chown,cap_kill,cap_net_raw')
    before = installation_at(ppy.installed.prefix)
    do(fix)
    assert_launched(ppy.run(path))
    after = installation_at(ppy.installed.prefix)
    changed = {name for name in vars(before) if vars(before)[name] != vars(after)[name]}
    assert changed == {'capped', 'allowed'}


def test_capability_that_the_kernel_does_not_know_is_refused(ppy, path):
    assert_launched(ppy.run(path))
    Caps('cap_kill,63=i').apply(path)
    assert_refused(ppy.run(path), '63: must be')


STATUS = 'while read -r line; do echo "$line"; done < /proc/self/status; cat /proc/self/status'


@pytest.mark.parametrize(('uid', 'gid'), [(0, 0), (0, 2_000_000), (2_000_000, 0)])
def test_script_of_root_runs_where_the_installer_allows_it(reinstall, path, do, uid, gid):
    path.write_text(STATUS)
    do(f'chown {uid}:{gid} script; {MARK}')
    assert_refused(reinstall().run(path), NOT_ROOT)
    own_and_child = reinstall(allow_root=True).run(path).stdout
    kill, none = f'{1 << 5:016x}', f'{0:016x}'
    assert re.findall(r'[UG]id:\t(\d+)\t', own_and_child) == [str(uid), str(gid)] * 2
    assert re.findall(r'CapPrm:\t(\w+)', own_and_child) == [kill, none]
    assert re.findall(r'Cap(?:Eff|Bnd|Amb):\t(\w+)', own_and_child) == [none] * 6


def test_programs_of_ppy_are_refused_as_scripts(reinstall, path, do):
    ppy = reinstall(allow_root=True)
    Caps('cap_kill=i').apply(os.path.realpath(ppy.installed.original))
    assert_launched(ppy.run(path))
    (path.parent / 'link').symlink_to(ppy.installed.original)
    for program in (ppy.installed.original, path.parent / 'link'):
        assert_refused(ppy.run(program), 'must not itself be the script')
    saying = 'must be marked' if ppy.mode == 'set-uid' else 'must not itself be the script'
    assert_refused(ppy.run(ppy.path), saying)
