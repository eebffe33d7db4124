"""caps venv: one environment's python is marked, and nothing else in the world."""

import fcntl
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import venv as builder
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from caps import Caps
from caps.admin import proof, venv
from caps.admin.registry import Venv, recorded
from caps.admin.venv import VenvError, environment_at, mark, parsed, unmark
from caps.cli import main
from caps.system.path import NOBODY
from caps.system.run import Account, run_as
from support import CHILDREN, PATIENCE, SOAK, needs, needs_root, run
from support.launchers import REPORT

pytestmark = needs_root
PYTHON = os.path.realpath('/usr/bin/python3')
RAW = Caps('cap_net_raw=ep')


def state(directory):
    """What a directory's entries are, by name."""
    found = {}
    for path in Path(directory).rglob('*'):
        info = path.lstat()
        what = os.readlink(path) if path.is_symlink() else info.st_ino
        found[str(path)] = what, info.st_mode, info.st_uid, info.st_gid, info.st_nlink
    return found


def as_account(python, account):
    """Its prefix, its own name, its effective and permitted sets, as somebody runs it."""
    done = run(python, '-c', f'import ssl\n{REPORT}', account=account, cwd='/')
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    return [state[name] for name in ('prefix', 'executable', 'effective', 'permitted')]


@pytest.fixture
def environment(scene):
    builder.EnvBuilder(symlinks=True).create(scene / 'venv')
    top = scene / 'venv'
    for path in (top / 'bin').glob('python*'):  # this python may be closed to other accounts
        path.unlink()
    (top / 'bin/python3').symlink_to(PYTHON)
    (top / 'bin/python').symlink_to('python3')
    home = os.path.dirname(PYTHON)
    (top / 'pyvenv.cfg').write_text(f'home = {home}\ninclude-system-site-packages = false\n')
    return top


def refused(environment, match, caps=RAW, **options):
    before = state(environment)
    with pytest.raises(VenvError, match=match):
        mark(environment, caps, **options)
    assert state(environment) == before


def test_marked_python_has_its_capability_its_library_and_its_environment(environment, accounts):
    found = mark(environment, RAW)
    assert found.python == f'{environment}/bin/python3'
    for name in 'python', 'python3':
        program = f'{environment}/bin/{name}'
        assert as_account(program, accounts.attacker) == [
            str(environment),
            program,
            1 << 13,
            1 << 13,
        ]


def test_nothing_but_the_copy_is_marked(environment):
    before = run('getcap', '-r', os.path.dirname(PYTHON)).stdout
    mark(environment, RAW)
    assert run('getcap', '-r', environment).stdout == f'{environment}/bin/python3 cap_net_raw=ep\n'
    assert run('getcap', '-r', os.path.dirname(PYTHON)).stdout == before


def test_python_without_capabilities_stays_beside_it(environment, accounts):
    found = mark(environment, RAW)
    assert as_account(found.unmarked, accounts.attacker)[::2] == [str(environment), 0]


def test_unmark_puts_back_what_was(environment):
    def links():
        return {path: what[0] for path, what in state(environment / 'bin').items()}

    before = links()
    mark(environment, RAW)
    assert links() != before
    unmark(environment)
    assert links() == before


def test_names_of_the_copy_are_told(environment):
    (environment / 'bin/python3.99').symlink_to('python')
    assert mark(environment, RAW).names == ['python', 'python3', 'python3.99']


def test_marking_again_renews_the_copy(environment, scene):
    mark(environment, RAW)
    inode = os.stat(environment / 'bin/python').st_ino
    mark(environment, Caps('cap_kill=p'))
    assert os.stat(environment / 'bin/python').st_ino != inode
    assert Caps.from_file(environment / 'bin/python') == Caps('cap_kill=p')
    assert os.readlink(environment / 'bin/python3.unmarked') == PYTHON
    unmark(environment)
    assert os.readlink(environment / 'bin/python3') == PYTHON


def test_environment_that_has_a_copy_is_marked_and_unmarked(environment):
    (environment / 'bin/python3').unlink()
    shutil.copy(PYTHON, environment / 'bin/python3')
    assert mark(environment, RAW).unmarked == f'{environment}/bin/python3.unmarked'
    assert Caps.from_file(environment / 'bin/python') == RAW
    unmark(environment)
    assert Caps.from_file(environment / 'bin/python').marked is False
    with pytest.raises(VenvError, match='has no capabilities'):
        unmark(environment)


def test_hard_link_to_another_file_is_not_marked_through(environment, scene):
    (environment / 'bin/python3').unlink()
    shutil.copy(PYTHON, scene / 'other')
    os.link(scene / 'other', environment / 'bin/python3')
    mark(environment, RAW)
    assert Caps.from_file(scene / 'other').marked is False


def test_group_says_who_can_run_it(environment, accounts):
    found = mark(environment, RAW, accounts.owner.name)
    assert found.who == f'every member of {accounts.owner.name}'
    assert as_account(found.python, accounts.owner)[2] == 1 << 13
    with pytest.raises(PermissionError):
        run(found.python, '-c', '', account=accounts.attacker)


def test_owner_of_an_environment_gets_no_group_by_having_it_marked(environment, scene, accounts):
    took = scene / 'took'
    took.mkdir()
    took.chmod(0o777)
    packages = next(environment.glob('lib/python*/site-packages'))
    code = f'import os; open("{took}/" + str(os.getgid()), "w")\n'
    (packages / 'planted.pth').write_text(code)
    run('chown', '-R', f'{accounts.attacker.uid}:{accounts.attacker.gid}', environment, check=True)
    refused(
        environment, f'{accounts.attacker.name}, who is no member of', group=accounts.owner.name
    )
    assert os.listdir(took) == []
    run('gpasswd', '-a', accounts.attacker.name, accounts.owner.name, check=True)
    try:
        mark(environment, RAW, accounts.owner.name)
    finally:
        run('gpasswd', '-d', accounts.attacker.name, accounts.owner.name, check=True)
    assert os.listdir(took) == [str(accounts.owner.gid)]


def test_environment_in_a_closed_home_is_for_those_who_can_enter(environment, accounts):
    run('chown', '-R', f'{accounts.owner.uid}:{accounts.owner.gid}', environment, check=True)
    environment.chmod(0o700)
    found = mark(environment, RAW)
    assert found.who == f'every account that can enter {environment}'
    assert found.owner == accounts.owner.name
    assert as_account(found.python, accounts.owner)[2] == 1 << 13


@pytest.mark.parametrize(
    ('text', 'caps'),
    [
        ('cap_net_raw', 'cap_net_raw=ep'),
        ('net_raw,CAP_KILL', 'cap_kill,cap_net_raw=ep'),
        ('cap_net_raw=p', 'cap_net_raw=p'),
        ('cap_kill+ip', 'cap_kill=ip'),
        ('all', 'all=ep'),
    ],
)
def test_bare_list_means_permitted_and_effective(text, caps):
    assert parsed(text) == Caps(caps)


def test_python_is_never_missing_while_it_is_marked_and_unmarked(environment):
    python = f'{environment}/bin/python'
    # Another process, since a fork of this one could hold the copy open for writing.
    loop = 'until [ -e "$1/end" ]; do "$0" -c "" || exit 1; done'
    watcher = subprocess.Popen(['sh', '-c', loop, python, str(environment)])
    try:
        for _ in range(5):
            for act in ('mark', environment, 'cap_net_raw'), ('unmark', environment):
                run(sys.executable, '-m', 'caps', 'venv', *act, check=True)
    finally:
        (environment / 'end').touch()
    assert watcher.wait(PATIENCE) == 0


def test_directory_that_is_no_environment_is_refused(scene):
    (scene / 'bin').mkdir()
    shutil.copy(PYTHON, scene / 'bin/python')
    refused(scene, 'is not a virtual environment: it has no pyvenv.cfg')
    (scene / 'pyvenv.cfg').symlink_to('/dev/null')
    refused(scene, 'is not a virtual environment: it has no pyvenv.cfg')


def test_empty_path_is_not_the_working_directory(environment, monkeypatch):
    monkeypatch.chdir(environment)
    for change in (lambda: mark('', RAW)), (lambda: unmark('')):
        with pytest.raises(FileNotFoundError):
            change()


def test_link_out_of_the_environment_is_not_followed(environment, scene):
    (environment / 'bin').rename(scene / 'outside')
    (environment / 'bin').symlink_to(scene / 'outside')
    before = state(scene)
    refused(environment, 'bin is no directory of the environment')
    with pytest.raises(VenvError, match='bin is no directory of the environment'):
        unmark(environment)
    assert state(scene) == before


def test_link_to_a_program_that_is_no_more_is_refused(environment):
    (environment / 'bin/python3').unlink()
    (environment / 'bin/python3').symlink_to('/usr/bin/python3.0')
    refused(environment, 'bin/python3 leads to no program: No such file')


def test_environment_without_a_python_is_refused(environment):
    (environment / 'bin/python3').unlink()
    refused(environment, 'bin has no python')


def test_link_to_a_script_is_refused(environment, scene):
    (scene / 'shim').write_text('#!/bin/sh\n')
    (environment / 'bin/python3').unlink()
    (environment / 'bin/python3').symlink_to(scene / 'shim')
    refused(environment, 'leads to no program')


def test_account_that_may_not_mark_is_told_to_be_root(environment, accounts, system_venv):
    for owner in 0, accounts.attacker.uid:
        os.chown(environment / 'bin', owner, 0)
        command = [system_venv / 'bin/caps', 'venv', 'mark', environment, 'cap_net_raw']
        done = run(*command, account=accounts.attacker)
        assert (done.returncode, done.stdout) == (1, '')
        assert re.fullmatch(f'caps: {environment}/bin: .*: run this with sudo\n', done.stderr), (
            done.stderr
        )
        assert not list(environment.glob('bin/.*'))


def test_link_to_the_program_of_a_third_account_is_refused(environment, scene, accounts):
    shutil.copy(PYTHON, scene / 'program')
    os.chown(scene / 'program', accounts.attacker.uid, 0)
    (environment / 'bin/python3').unlink()
    (environment / 'bin/python3').symlink_to(scene / 'program')
    refused(environment, f'leads to a program of {accounts.attacker.name}')


def test_link_to_what_only_root_can_read_is_refused(environment, scene):
    (scene / 'secret').mkdir(0o700)
    shutil.copy('/bin/true', scene / 'secret/program')
    (environment / 'bin/python3').unlink()
    (environment / 'bin/python3').symlink_to(scene / 'secret/program')
    refused(environment, 'cannot be copied: .*Permission denied')


def test_program_that_does_not_find_its_environment_is_refused(environment):
    (environment / 'bin/python3').unlink()
    (environment / 'bin/python3').symlink_to('/bin/true')
    refused(environment, 'cannot run')


def test_file_in_the_way_of_the_link_is_kept(environment):
    (environment / 'bin/python3.unmarked').write_text('mine')
    refused(environment, 'python3.unmarked is in the way')


def test_environment_that_only_root_can_enter_is_refused(environment, accounts):
    environment.chmod(0o700)
    refused(environment, f'no account that may run it can enter {environment}$')
    os.chown(environment, 0, accounts.owner.gid)
    environment.chmod(0o750)
    assert mark(environment, RAW, accounts.owner.name).closed == [str(environment)]


@pytest.mark.parametrize('group', ['absent-group', ''])  # as a variable of a shell can be
def test_unknown_group_is_refused(environment, group):
    refused(environment, f"there is no group '{group}'", group=group)


def test_what_is_not_marked_cannot_be_unmarked(environment):
    with pytest.raises(VenvError, match='is a symbolic link: it is not marked'):
        unmark(environment)


@needs('cap_sys_admin')
def test_nosuid_mount_is_refused(environment):
    run('mount', '--bind', environment, environment, check=True)
    try:
        run('mount', '-o', 'remount,bind,nosuid', environment, check=True)
        refused(environment, 'is on a nosuid mount')
    finally:
        run('umount', environment, check=True)


@needs('cap_setpcap')
def test_capability_outside_the_bounding_set_is_refused(environment):
    before = state(environment)
    command = f'exec {sys.executable} -m caps venv mark {environment} cap_net_raw'
    done = run('capsh', '--drop=cap_net_raw', '--shell=/bin/sh', '--', '-c', command)
    assert done.returncode == 1
    assert 'Operation not permitted; the bounding set lacks cap_net_raw' in done.stderr
    assert state(environment) == before


def test_account_without_cap_setfcap_is_refused(environment, accounts, system_venv):
    run('chown', '-R', f'{accounts.owner.uid}', environment, check=True)
    before = state(environment)
    command = [system_venv / 'bin/caps', 'venv', 'mark', environment, 'cap_net_raw']
    done = run(*command, account=accounts.owner)
    assert done.returncode == 1
    assert 'cap_setfcap must be effective' in done.stderr
    assert state(environment) == before


def test_command_line_marks_says_who_and_unmarks(environment, capsys):
    assert main(['venv', 'mark', str(environment), 'cap_net_raw']) == 0
    out = capsys.readouterr().out
    assert f'{environment}/bin/python3 cap_net_raw=ep' in out
    assert 'can run it:  every account' in out
    assert main(['venv', 'unmark', str(environment)]) == 0
    assert main(['venv', 'unmark', str(environment)]) == 1
    with pytest.raises(SystemExit) as raised:
        main(['venv', 'mark', str(environment), 'cap_net_rew'])
    assert raised.value.code == 2
    assert "did you mean 'cap_net_raw'" in capsys.readouterr().err


@pytest.fixture
def planted(environment, accounts):
    """A function that has an environment's owner run code whenever its python starts."""

    def plant(code):
        packages = next(environment.glob('lib/python*/site-packages'))
        (packages / 'planted.pth').write_text(f'import os, sys; {code}\n')
        owner = accounts.attacker
        run('chown', '-R', f'{owner.uid}:{owner.gid}', environment, check=True)

    return plant


def marked_files(directory):
    return [line.split()[0] for line in run('getcap', '-r', directory).stdout.splitlines()]


@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'mark'])
def test_refused_mark_leaves_no_marked_copy_under_another_name(
    environment, planted, monkeypatch, is_naive
):
    def by_name(fd, name, directory):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)

    if is_naive:
        monkeypatch.setattr(venv, 'take_back', by_name)
    planted(f'os.rename(sys.executable, "{environment}/bin/kept"); os._exit(1)')
    with pytest.raises(VenvError, match='cannot run'):
        mark(environment, RAW)
    assert marked_files(environment) == [f'{environment}/bin/kept'] * is_naive
    kept = (environment / 'bin/kept').stat()
    assert (kept.st_mode & 0o777 == 0) is not is_naive


def test_code_of_an_environment_runs_as_its_owner_and_as_nobody_else(
    environment, planted, accounts, scene
):
    took = scene / 'took'
    took.mkdir()
    took.chmod(0o777)
    planted(f'open("{took}/" + str(os.getuid()), "w")')
    mark(environment, RAW)
    assert os.listdir(took) == [str(accounts.attacker.uid)]
    shutil.rmtree(took)
    took.mkdir()
    took.chmod(0o777)
    run('chown', '-R', '0:0', environment, check=True)
    mark(environment, RAW)
    (uid,) = map(int, os.listdir(took))
    assert uid not in (0, NOBODY)
    with pytest.raises(KeyError):
        pwd.getpwuid(uid)


@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'mark'])
def test_nobody_else_can_run_the_copy_while_it_is_proved(
    environment, accounts, monkeypatch, is_naive
):
    reached = []

    def run_and_attack(argv, account, **options):
        attacker = Account(accounts.attacker.uid, accounts.attacker.gid)
        try:
            reached.append(run_as(argv, attacker, **options).status == 0)
        except PermissionError:
            reached.append(False)
        return run_as(argv, account, **options)

    if is_naive:
        monkeypatch.setattr(venv, 'unused_group', lambda: accounts.attacker.gid)
    monkeypatch.setattr(proof, 'run_as', run_and_attack)
    mark(environment, RAW)
    assert reached == [is_naive]


@pytest.mark.parametrize('target', ['/dev/zero', 'fifo', 'directory'])
def test_link_to_what_never_ends_is_refused(environment, scene, target):
    os.mkfifo(scene / 'fifo')
    (scene / 'directory').mkdir()
    (environment / 'bin/python3').unlink()
    (environment / 'bin/python3').symlink_to(scene / target)
    refused(environment, 'leads to no program: it is not a regular file')


def test_program_that_is_too_long_or_prints_for_ever_is_refused(environment, planted, monkeypatch):
    planted('[os.write(1, b"x" * 65536) for _ in iter(int, 1)]')
    refused(environment, 'cannot run: .* prints more than')
    monkeypatch.setattr('caps.admin.environment.SIZE', 1 << 16)
    refused(environment, 'cannot be copied: .* prints more than 65536 bytes')


def copies(environment):
    """Make the names of an environment's python files of their own, as venv --copies does."""
    for name in 'python', 'python3', 'python3.99':
        (environment / 'bin' / name).unlink(missing_ok=True)
        shutil.copy(PYTHON, environment / 'bin' / name)


def test_every_name_of_an_environment_with_copies_leads_to_the_marked_one(environment, accounts):
    copies(environment)
    before = state(environment)
    found = mark(environment, RAW)
    assert found.names == ['python', 'python3', 'python3.99']
    for name in found.names:
        assert as_account(environment / 'bin' / name, accounts.attacker)[2] == 1 << 13
    assert mark(environment, RAW).names == found.names
    assert environment_at(environment).problems == []
    unmark(environment)
    assert state(environment) == before
    assert marked_files(environment) == []


def test_links_that_lead_out_each_by_itself_become_one(environment, accounts):
    (environment / 'bin/python').unlink()
    (environment / 'bin/python').symlink_to(PYTHON)
    before = {path: what[0] for path, what in state(environment).items()}
    for name in mark(environment, RAW).names:
        assert as_account(environment / 'bin' / name, accounts.attacker)[2] == 1 << 13
    unmark(environment)
    assert {path: what[0] for path, what in state(environment).items()} == before


def test_another_program_under_the_name_of_a_python_is_refused(environment):
    copies(environment)
    shutil.copy('/bin/true', environment / 'bin/python3.99')
    refused(environment, 'bin/python3.99 is another program than .*bin/python: make all names')


@pytest.mark.parametrize('is_copied', [False, True], ids=['link', 'copies'])
@pytest.mark.parametrize('deed', ['mark', 'mark again', 'unmark'])
def test_killed_command_leaves_nothing_to_the_next_one(environment, deed, is_copied):
    words = ['unmark', environment] if deed == 'unmark' else ['mark', environment, 'cap_net_raw']
    if is_copied:
        copies(environment)
    before = {path: what[:2] for path, what in state(environment).items()}
    for point in range(1 if SOAK > 1 else 7, 10_000, 1 if SOAK > 1 else 61):
        if deed != 'mark':
            mark(environment, RAW)
        done = run(sys.executable, CHILDREN / 'killed.py', point, 'SIGKILL', 'venv', *words)
        assert done.returncode in (0, -9), done.stderr
        for name in 'python', 'python3':
            assert run(environment / 'bin' / name, '-c', '').returncode == 0
        pythons = {*marked_files(environment)} & {f'{environment}/bin/python3'}
        assert recorded(Venv(str(environment))) or not pythons
        mark(environment, RAW)
        assert marked_files(environment) == [environment_at(environment).python]
        assert environment_at(environment).problems == []
        unmark(environment)
        assert marked_files(environment) == []
        after = {path: what[:2] for path, what in state(environment).items()}
        assert {path: mode for path, (_, mode) in after.items()} == {
            path: mode for path, (_, mode) in before.items()
        }
        if done.returncode == 0:
            break


def test_file_that_looks_as_if_left_but_is_another_accounts_stays(environment, accounts):
    temporary = environment / 'bin/.python3.0123456789abcdef'
    temporary.write_text('')
    os.chown(temporary, accounts.attacker.uid, 0)
    mark(environment, RAW)
    assert temporary.exists()


def test_status_tells_what_is_wrong(environment, scene, capsys):
    fix = f'caps venv mark {environment} cap_net_raw=ep'
    (problem,) = environment_at(environment).problems
    assert problem.endswith(f'is not marked: caps venv mark {environment} CAPS')
    assert main(['venv', 'status', str(environment)]) == 1
    shutil.copy(PYTHON, scene / 'original')
    (environment / 'bin/python3').unlink()
    (environment / 'bin/python3').symlink_to(scene / 'original')
    mark(environment, RAW)
    capsys.readouterr()
    assert main(['venv', 'status', str(environment)]) == 0
    said = capsys.readouterr().out
    assert f'where it cannot start: {environment}/bin/python3.unmarked -m caps\n' in said
    with open(scene / 'original', 'ab') as file:
        file.write(b'\0')
    assert environment_at(environment).problems == [
        f'{environment}/bin/python3.unmarked has changed since it was copied: {fix}'
    ]
    mark(environment, RAW)
    shutil.copy(PYTHON, environment / 'bin/python3.99')
    assert environment_at(environment).problems == [
        f'{environment}/bin/python3.99 is another file, which is not marked: {fix}'
    ]
    (environment / 'bin/python3.99').unlink()
    (environment / 'bin/.python3.0123456789abcdef').touch()
    assert environment_at(environment).problems == [
        f'{environment}/bin/.python3.0123456789abcdef is what an interrupted command has left: '
        f'{fix}'
    ]


def test_status_of_a_python_for_a_group_is_clean(environment, accounts):
    mark(environment, RAW, accounts.owner.name)
    found = environment_at(environment)
    assert (found.group, found.problems) == (accounts.owner.name, [])


@needs('cap_setpcap')
def test_status_names_the_way_in_where_a_marked_python_cannot_start(environment):
    mark(environment, RAW)
    command = f'exec {sys.executable} -m caps venv status {environment}'
    done = run('capsh', '--drop=cap_net_raw', '--shell=/bin/sh', '--', '-c', command)
    assert done.returncode == 1
    assert 'the bounding set lacks cap_net_raw; until then: ' in done.stderr
    assert f'{environment}/bin/python3.unmarked -m caps' in done.stderr


def test_error_after_the_copy_is_in_place_takes_nothing_back(environment, monkeypatch, accounts):
    def fail(directory):
        raise OSError(5, 'Input/output error')

    with monkeypatch.context() as patch:
        patch.setattr(venv, 'sync', fail)
        with pytest.raises(OSError, match='Input/output error'):
            mark(environment, RAW)
    assert as_account(environment / 'bin/python', accounts.attacker)[2] == 1 << 13
    assert environment_at(environment).problems == []
    unmark(environment)


def test_two_commands_at_once_are_one_and_a_refusal(environment, monkeypatch):
    real = venv.prove_copy

    def prove(*arguments):
        for other in (lambda: mark(environment, Caps('cap_kill=p'))), lambda: unmark(environment):
            with pytest.raises(VenvError, match='is being changed by another command'):
                other()
        real(*arguments)

    monkeypatch.setattr(venv, 'prove_copy', prove)
    mark(environment, RAW)
    assert not (environment / 'bin/.caps.lock').exists()
    unmark(environment)


@pytest.mark.parametrize('kind', ['file', 'link'])
def test_owner_cannot_keep_the_mark_by_a_lock_of_theirs(environment, accounts, kind):
    mark(environment, RAW)
    path = environment / 'bin/.caps.lock'
    if kind == 'link':
        path.symlink_to('nowhere')
    else:
        path.touch()
    os.chown(path, accounts.owner.uid, accounts.owner.gid, follow_symlinks=False)
    with nullcontext() if kind == 'link' else path.open() as file:
        if file:
            fcntl.flock(file, fcntl.LOCK_EX)
        unmark(environment)
    assert not os.path.lexists(path)
