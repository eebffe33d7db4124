"""What keeps a file from getting its capabilities is named as what it is."""

import errno
import functools
import os
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from caps import Caps
from caps.cli import main
from caps.explain import explain
from support import needs, needs_root, run
from support.child import become, in_a_child
from support.executions import advice, happens
from support.mounts import mount_idmapped

pytestmark = [needs_root, needs('cap_net_raw', 'cap_setpcap')]


def rules(said):
    return [told.rule for told in said.advice]


# ---- First lines ----


@pytest.mark.parametrize('options', ['-u', '-u  ', '/etc/hostname'])
def test_option_in_the_first_line_is_refused_as_ppy_does(probing_ppy, script, as_attacker, options):
    path = script(f'#!{probing_ppy.ppy} {options}\n', 'cap_net_raw=i')
    said, _ = happens(path, as_attacker)
    assert said.error == 'refused by ppy'
    assert f'its first line must be #!{probing_ppy.ppy} alone' in str(said)


def test_script_of_a_script_of_ppy_is_not_what_ppy_looks_at(probing_ppy, script, as_attacker):
    inner = script(f'#!{probing_ppy.ppy}\n', 'cap_net_raw=i', name='inner')
    outer = script(f'#!{inner}\n', 'cap_chown=i', name='outer')
    said, _ = happens(outer, as_attacker)
    assert str(said.after.permitted) == 'cap_net_raw'


@pytest.mark.parametrize('argument', ['{}', '-S {}'])
def test_ppy_by_way_of_env_is_followed(probing_ppy, script, as_attacker, argument):
    path = script(f'#!/usr/bin/env {argument.format(probing_ppy.ppy)}\n', 'cap_net_raw=i')
    said, _ = happens(path, as_attacker)
    assert str(said.after.permitted) == 'cap_net_raw'
    assert 'script' not in rules(said)


@pytest.mark.parametrize('argument', ["-S 'ppy", '-S', '/no/such/ppy'])
def test_env_that_leads_to_no_ppy_is_a_program_like_others(script, as_attacker, argument):
    said = explain(script(f'#!/usr/bin/env {argument}\n', 'cap_net_raw=i'))
    assert said.launcher is None
    assert 'env then executes another program' in str(said)


def test_option_by_way_of_env_is_refused(probing_ppy, script, as_attacker):
    path = script(f'#!/usr/bin/env -S {probing_ppy.ppy} -u\n', 'cap_net_raw=i')
    assert happens(path, as_attacker)[0].error == 'refused by ppy'


@pytest.mark.parametrize(('start', 'named'), [('\ufeff', 'byte order mark'), (' ', 'white space')])
def test_what_stands_before_a_first_line_is_named(probing_ppy, script, as_attacker, start, named):
    path = script(f'{start}#!{probing_ppy.ppy}\n', 'cap_net_raw=i')
    said, _ = happens(path, as_attacker)
    assert said.error == 'ENOEXEC'
    assert named in advice(said, 'format').text


# ---- Under ppy ----


@pytest.mark.parametrize('is_script', [True, False])
def test_bounding_set_that_ppy_empties_is_no_fault_of_the_launcher(
    probing_ppy, program, script, as_attacker, is_script
):
    path = program('cap_net_raw=ep')
    if is_script:
        path = script(f'#!{probing_ppy.ppy}\n', 'cap_net_raw=i')
    said, _ = happens(path, f'bind()\n{as_attacker}')
    assert said.error == 'EPERM'
    assert 'as ppy leaves it' in advice(said, 'bounding').text
    assert not any(told.command and probing_ppy.ppy in told.command for told in said.advice)


# ---- Logins ----


@contextmanager
def configured(monkeypatch, tmp_path, text):
    from caps.system import pam

    (tmp_path / 'pam.d').mkdir()
    (tmp_path / 'pam.d/login').write_text(
        f'# pam_cap.so config=/absent\nauth optional pam_cap.so config={tmp_path}/conf keepcaps\n'
    )
    (tmp_path / 'conf').write_text(text)
    monkeypatch.setattr(pam, 'SERVICES', str(tmp_path / 'pam.d'))
    yield


@pytest.mark.parametrize(
    ('line', 'given', 'is_told'),
    [
        ('cap_net_raw {name}', 'cap_net_raw', True),
        ('cap_net_raw nobody @{name} # theirs', 'cap_net_raw', True),
        ('^cap_net_raw,!cap_kill *', 'cap_net_raw', True),
        ('none {name}\ncap_net_raw {name}', '', True),
        ('all {name}', 'cap_net_raw', True),
        ('cap_net_raw nobody', '', False),
        ('# cap_net_raw {name}', '', False),
    ],
)
def test_login_has_what_pam_cap_gives(
    program, accounts, monkeypatch, tmp_path, line, given, is_told
):
    name, path = accounts.attacker.name, program('cap_net_raw=ie')
    with configured(monkeypatch, tmp_path, line.format(name=name) + '\n'):
        said = explain(path, user=name)
    assert str(said.after.permitted) == given
    assert ('pam_cap' in str(said.caveats)) == is_told
    assert ('inheritable' in rules(said)) == (not given)


def test_configuration_of_pam_cap_that_cannot_be_understood_is_named(
    program, accounts, monkeypatch, tmp_path
):
    with configured(monkeypatch, tmp_path, 'cap_of_tomorrow *\n'):
        said = explain(program('cap_net_raw=ie'), user=accounts.attacker.name)
    assert 'cannot be understood' in str(said)


# ---- Copies of an environment's python ----


@pytest.fixture
def copied(scene, program):
    """A marked copy of a python, as `caps venv mark` leaves it, and its original."""
    original = program(name='original')
    (scene / 'venv/bin').mkdir(parents=True)
    (scene / 'venv/pyvenv.cfg').write_text(f'home = {scene}\n')
    copy = scene / 'venv/bin/python3'
    copy.write_bytes(original.read_bytes())
    copy.chmod(0o755)
    Caps('cap_net_raw=ep').apply(copy)
    (scene / 'venv/bin/python3.unmarked').symlink_to(original)
    return copy, original


@pytest.mark.parametrize('change', [lambda text: text + b'\0', lambda text: text[:-1] + b'\1'])
def test_copy_that_is_older_than_its_original_is_to_be_marked_again(copied, as_attacker, change):
    copy, original = copied
    assert happens(copy, as_attacker)[0].advice == ()
    original.write_bytes(change(original.read_bytes()))
    said, _ = happens(copy, as_attacker)
    environment = copy.parent.parent
    assert advice(said, 'stale').command == f'caps venv mark {environment} cap_net_raw=ep'


def test_copy_without_its_mark_is_to_be_marked_as_an_environment(copied, as_attacker):
    copy, _ = copied
    Caps.remove(copy)
    said, _ = happens(copy, as_attacker)
    text = advice(said, 'unmarked').text
    assert f'caps venv mark {copy.parent.parent} CAPABILITIES' in text
    assert 'setcap' not in text


# ---- Namespaces ----


@needs('cap_sys_admin', 'user_namespaces')
def test_namespace_without_a_root_is_named(program):
    path = program('cap_net_raw=ep')
    command = ['unshare', '--user', '--map-user=1000', '--map-group=1000', sys.executable]
    done = run(*command, '-m', 'caps', 'explain', path)
    assert 'has no user 0' in done.stdout, done.stderr
    assert 'setcap' not in done.stdout


@needs('cap_sys_admin')
def test_owner_who_is_not_in_the_namespace_is_named(program, accounts, system_venv):
    path, owner = program(), accounts.attacker
    ids = ['--map-user=1000', '--map-group=1000']
    command = ['unshare', '--user', *ids, system_venv / 'bin/caps', 'explain', path]
    done = run(*command, account=owner)
    if 'unshare' in done.stderr:
        pytest.skip(done.stderr)
    assert 'can only be marked from outside' in done.stdout, done.stderr
    assert 'setcap' not in done.stdout


@needs('cap_sys_admin', 'user_namespaces')
def test_idmapped_mount_is_named(scene, program, as_attacker):
    (scene / 'from').mkdir()
    (scene / 'to').mkdir()
    path = program('cap_net_raw=ep', directory=scene / 'from')
    try:
        mount_idmapped(scene / 'from', scene / 'to')
    except OSError as error:
        pytest.skip(str(error))
    try:
        said, _ = happens(scene / 'to' / path.name, as_attacker)
    finally:
        run('umount', scene / 'to', check=True)
    assert not said.after.permitted
    assert 'idmapped' in advice(said, 'root-id').text
    assert advice(said, 'root-id').command is None


# ---- /proc ----


WITHOUT_PROC = 'umount -l /proc || exit 9; exec "$@"'
ONLY_PIDS = 'mount -t proc -o subset=pid proc /proc || exit 9; exec "$@"'


def within(setup, *command, options=('--mount',)):
    return run('unshare', *options, 'sh', '-c', setup, 'sh', sys.executable, '-m', 'caps', *command)


@needs('cap_sys_admin')
@pytest.mark.parametrize('command', ['show', 'show --all', 'show --tree', 'explain'])
def test_command_that_needs_proc_says_so(program, command):
    path = [program()] if command == 'explain' else []
    done = within(WITHOUT_PROC, *command.split(), *path)
    assert done.returncode == 1
    assert (
        done.stderr == 'caps: this needs /proc, and it is not mounted: mount -t proc proc /proc\n'
    )


@needs('cap_sys_admin')
def test_proc_with_processes_alone_does(program, as_attacker):
    path = program('cap_net_raw=ep')
    done = within(ONLY_PIDS, 'explain', path, options=('--mount', '--pid', '--fork'))
    assert done.returncode == 0, done.stderr
    assert 'subset=pid' in done.stdout
    assert '/proc/cmdline' in done.stdout


@needs('cap_sys_admin')
@pytest.mark.parametrize('command', [('show',), ('explain', '/bin/true')])
def test_process_in_another_pid_namespace_than_procs_is_itself(command):
    options = ('--mount', '--pid', '--fork')
    done = within('exec "$@"', *command, options=options)
    inner = within('mount -t proc proc /proc; exec "$@"', *command, options=options)
    assert done.returncode == inner.returncode == 0
    for name in 'permitted', 'bounding':
        shown = [line for line in done.stdout.splitlines() if line.strip().startswith(name)]
        assert shown == [
            line for line in inner.stdout.splitlines() if line.strip().startswith(name)
        ]
    assert 'python' in done.stdout.splitlines()[0] or command[0] == 'explain'


# What is not taken into account, and how it comes to be there.
FACTORS = {
    'bpf may refuse or change': 'mount -t securityfs none /sys/kernel/security || exit 9; "$@"',
    'the kernel was booted with no_file_caps': (
        'mount -t tmpfs none /mnt && echo quiet no_file_caps > /mnt/line &&'
        'mount --bind /mnt/line /proc/cmdline || exit 9; "$@"'
    ),
    'binfmt_misc hands some files to an interpreter': (
        'cd /proc/sys/fs/binfmt_misc; mount -t binfmt_misc none . && cd . &&'
        "echo ':caps-tests:M::never-so::/bin/true:' > register || exit 9;"
        '"$@"; echo -1 > caps-tests'
    ),
}


@needs('cap_sys_admin')
@pytest.mark.parametrize(('caveat', 'setup'), FACTORS.items(), ids=FACTORS)
def test_factor_that_is_not_taken_into_account_is_named(caveat, setup):
    done = within(setup, 'explain', '/bin/true')
    assert done.returncode == 0, done.stderr
    assert caveat in done.stdout
    assert caveat not in run(sys.executable, '-m', 'caps', 'explain', '/bin/true').stdout


def test_access_control_list_is_named(program):
    path = program()
    run('setfacl', '-m', 'user:nobody:rx', path, check=True)
    assert f'{path} has an access control list' in str(explain(path))


def test_process_of_another_account_is_explained_as_far_as_it_may_be_seen(program, accounts):
    path, root = program('cap_net_raw=ep'), os.getpid()

    @in_a_child
    def explained():
        become(accounts.attacker)
        return explain(path, pid=root)

    said = explained()
    assert (said.error, said.after.uid.effective) == (None, 0)


# ---- Threads ----


def test_threads_that_differ_are_shown(capsys):
    ready, ended = threading.Event(), threading.Event()

    def differ():
        Caps.from_process().deactivate().apply()
        ready.set()
        ended.wait()

    thread = threading.Thread(target=differ)
    thread.start()
    ready.wait()
    try:
        for command in ['show'], ['show', '--all'], ['show', '--tree', str(os.getpid())]:
            main(command)
            assert str(thread.native_id) in capsys.readouterr().out
        main(['show', str(thread.native_id)])
        assert 'differ' not in capsys.readouterr().out
    finally:
        ended.set()
        thread.join()
    main(['show'])
    assert 'differ' not in capsys.readouterr().out


def test_accounts_are_asked_for_once(monkeypatch):
    from caps.system import tasks

    asked = []
    name_of = tasks._name_of.__wrapped__
    told = functools.cache(lambda uid: asked.append(uid) or name_of(uid))
    monkeypatch.setattr(tasks, '_name_of', told)
    assert [task.user for task in tasks.everything() * 2]
    assert len(asked) == len(set(asked))


# ---- First lines that peers and the kernel's own tests try ----

TRUE = Path('/bin/true')
FIRST_LINES = {
    'nothing': (b'#!', 'EACCES'),
    'zero': (b'#!\0', 'EACCES'),
    'newline': (b'#!\n', 'ENOEXEC'),
    'blanks': (b'#!   \t  \n', 'ENOEXEC'),
    'blanks alone, 256 bytes': (b'#!' + b' ' * 254, 'ENOEXEC'),
    'path that ends with the file': (b'#!/bin/true', None),
    'path that ends with 256 bytes': (b'#!' + b'/' * 245 + b'/bin/true', 'ENOEXEC'),
    'blank as the 256th byte': (b'#!' + b'/' * 244 + b'/bin/true ', None),
    'blank as the 257th byte': (b'#!' + b'/' * 245 + b'/bin/true ', 'ENOEXEC'),
    'newline as the 257th byte': (b'#!' + b'/' * 245 + b'/bin/true\n', 'ENOEXEC'),
    'newline as the 256th byte': (b'#!' + b'/' * 244 + b'/bin/true\n', None),
    'argument that is cut': (b'#!/bin/true ' + b'x' * 300, None),
    'leading blanks': (b'#! \t /bin/true\n', None),
    'trailing blanks': (b'#!/bin/true \t \n', None),
    'zero after the path': (b'#!/bin/true\0junk\n', None),
    'carriage return': (b'#!/bin/true\r\n', 'ENOENT'),
    'byte order mark': (b'\xef\xbb\xbf#!/bin/true\n', 'ENOEXEC'),
    'blank before': (b' #!/bin/true\n', 'ENOEXEC'),
    'directory': (b'#!/\n', 'EACCES'),
}


def error_of(function):
    """The name of an error that a function raises, or what it returns."""
    try:
        return function()
    except OSError as error:
        return errno.errorcode[error.errno]


@pytest.mark.parametrize(('text', 'error'), FIRST_LINES.values(), ids=FIRST_LINES)
def test_first_line_is_read_as_the_kernel_does(scene, text, error):
    path = scene / 'script'
    path.write_bytes(text)
    path.chmod(0o755)
    assert error_of(lambda: run(path) and None) == error
    assert error_of(lambda: explain(path).error) == error
