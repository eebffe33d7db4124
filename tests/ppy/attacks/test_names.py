"""How a script, ppy itself and their interpreter are named."""

import os
import re
import subprocess

import pytest

from support import PATIENCE, needs_root, run
from support.attacks import PYTHON, assert_only_naive_loses, library

pytestmark = needs_root

DELETED = {
    'standard input': '/proc/self/fd/0',
    'own descriptor': '/proc/self/fd/{fd}',
    "another's descriptor": '/proc/{pid}/fd/{fd}',
    'through a root': '/proc/{pid}/root/proc/{pid}/fd/{fd}',
}


@pytest.mark.parametrize('place', ['file', 'directory'])
@pytest.mark.parametrize('name', DELETED.values(), ids=DELETED)
def test_deleted_script_does_not_run_by_a_descriptor(
    launchers, script, accounts, scene, loot, name, place
):
    (scene / 'old').mkdir(0o755)
    # with these the interpreter, too, can look into another's descriptors
    path = script(f': > {loot}', 'cap_sys_ptrace,cap_dac_read_search=i', name='old/script')
    fd = os.open(path, os.O_RDONLY)
    path.unlink()
    if place == 'directory':
        path.parent.rmdir()
    holder = subprocess.Popen(
        ['cat'],
        stdin=subprocess.PIPE,
        pass_fds=[fd],
        user=accounts.attacker.uid,
        group=accounts.attacker.gid,
    )
    try:
        name = name.format(pid=holder.pid, fd=fd)
        done = launchers('bash').run(name, account=accounts.attacker, pass_fds=[fd], stdin=fd)
    finally:
        os.close(fd)
        holder.stdin.close()
        holder.wait(PATIENCE)
    assert_only_naive_loses(launchers('bash'), loot.exists(), done)


def test_script_in_another_mount_namespace_does_not_run_what_has_its_name_here(
    launchers, script, accounts, scene, loot, namespaces
):
    path = script('pass', 'cap_kill=i')
    tool = script('import sys\nexec(sys.argv[1])', None, name='tool.py')
    bind = 'mount --bind "$0" "$1" && echo ready && exec cat'
    holder = subprocess.Popen(
        ['unshare', '-Urm', 'sh', '-c', bind, str(path), str(tool)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=accounts.attacker.uid,
        group=accounts.attacker.gid,
    )
    try:
        assert holder.stdout.readline() == b'ready\n'
        cwd, code = f'/proc/{holder.pid}/root{scene}', f'open({str(loot)!r}, "w")'
        assert os.path.samefile(f'{cwd}/tool.py', path)
        done = launchers('python').run('./tool.py', code, account=accounts.attacker, cwd=cwd)
    finally:
        holder.communicate(timeout=PATIENCE)
    assert_only_naive_loses(launchers('python'), loot.exists(), done)


def test_planted_virtual_environment_is_not_entered(launchers, script, accounts, nest):
    nest.plant('pyvenv.cfg', 'home = /usr/bin\ninclude-system-site-packages = false\n')
    code = nest.python('code.py').read_text().replace('\n', ';')
    nest.plant(f'{library()}/site-packages/planted.pth', code)
    planted = nest.plant('bin/python3', '')
    done = run(
        planted,
        script('print("ran")'),
        account=accounts.attacker,
        executable=launchers('python').path,
    )
    assert nest.loot.exists() == launchers('python').naive
    assert done.stdout == 'ran\n'


def test_over_long_path_overflows_nothing(launchers, accounts):
    done = launchers('sh').run('x/' * 60_000, account=accounts.attacker)
    assert_only_naive_loses(launchers('sh'), done.returncode < 0, done)


def test_no_arguments_do_not_let_the_environment_be_taken_for_them(launchers, script, accounts):
    path = script('echo ran', 'cap_kill=i')
    code = 'import ctypes, sys; array = ctypes.c_char_p * 2\n'
    code += 'array = array(sys.argv[2].encode()), array()\n'
    code += 'ctypes.CDLL(None).execve(sys.argv[1].encode(), array[1], array[0])'
    done = run(PYTHON, '-c', code, launchers('sh').path, path, account=accounts.attacker)
    # Linux 5.18 gives every program an argv[0]; without argv[1] the naive launcher crashes
    won = 'ran' in done.stdout or done.returncode < 0
    assert_only_naive_loses(launchers('sh'), won, done)


@pytest.mark.parametrize('name', ['\x1b]0;x\x07\x1b[2J', '\n', '$(: > loot)', '; : > loot; '])
def test_name_of_a_script_does_nothing_to_a_terminal_or_a_shell(launchers, accounts, loot, name):
    done = launchers('sh').run(f'absent {name}', account=accounts.attacker)
    run('bash', '-c', done.stderr, cwd=loot.parent)  # pasted by root
    raw = re.search(r'[^ -~]', done.stderr.removesuffix('\n'))
    assert_only_naive_loses(launchers('sh'), bool(raw) or loot.exists(), done)


CLOSED = {
    'directly': 'closed/{}',
    'by a link': 'den/{}',
    'by way of': 'closed/{}/../../den/here',
    'below': 'closed/{}/x',
    'with a slash': 'closed/{}/',
    'through /proc': '/proc/self/cwd/closed/{}',
}


@pytest.mark.parametrize('owner', ['root', 'owner'])
@pytest.mark.parametrize('kind', ['file', 'script', 'directory'])
@pytest.mark.parametrize('way', CLOSED.values(), ids=CLOSED)
def test_caller_learns_nothing_of_closed_directories(
    launchers, script, accounts, scene, nest, way, kind, owner
):
    closed, present = scene / 'closed', scene / 'closed/present'
    closed.mkdir()
    if kind == 'directory':
        present.mkdir()
        (present / 'x').touch()
    else:
        script('echo ran', 'cap_kill=i' if kind == 'script' else None, name='closed/present')
    for name in ('present', 'missing'):
        (nest.path / name).symlink_to(closed / name)
    nest.plant('here', '')
    os.chown(closed, 0 if owner == 'root' else accounts.owner.uid, 0)
    closed.chmod(0o700)

    def answer(name):
        done = launchers('bash').run(way.format(name), account=accounts.attacker, cwd=scene)
        return done.returncode, done.stdout, done.stderr.replace(name, 'NAME')

    assert (answer('present') != answer('missing')) == launchers('bash').naive
