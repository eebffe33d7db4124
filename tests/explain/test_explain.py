"""The account of an execution: every trap is built, explained, executed, and mended as advised."""

import ctypes
import json
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from caps import Caps, CapSet
from caps.cli.explain import document
from caps.explain import explain
from caps.system.mounts import Mount
from caps.system.types import FileCaps
from support import needs, needs_root, run
from support.child import become, in_a_child
from support.executions import SHORT, advice, follow, happens, waiting

pytestmark = [needs_root, needs('cap_net_raw', 'cap_setpcap')]


def effective(said):
    return str(said.after.effective)


def test_marked_program_is_explained_from_top_to_bottom(program, accounts, as_attacker):
    path = program('cap_net_raw=ep')
    said, _ = happens(path, as_attacker)
    headings = [heading for heading, _ in said.sections]
    assert headings == [
        f'The file {path}',
        'The process',
        f'Executing {path}',
        'Not taken into account',
        'What to do',
    ]
    assert 'permitted: none before, cap_net_raw after: ' in str(said)
    assert "the file's effective flag makes permitted effective" in str(said)
    assert said.advice == ()


def test_account_is_a_document_too(program, as_attacker):
    said, _ = happens(program('cap_net_raw=ep'), as_attacker)
    printed = json.loads(json.dumps(document(said)))
    assert printed['after']['effective'] == ['cap_net_raw']
    assert printed['file']['capabilities']['text'] == 'cap_net_raw=ep'
    assert printed['error'] is None
    assert [*printed] == [
        'file', 'interpreters', 'user', 'process', 'ppy', 'steps', 'error', 'after',
        'caveats', 'advice',
    ]  # fmt: skip


def test_user_has_what_a_login_leaves(program, accounts):
    path = program('cap_net_raw=ep')
    said = explain(path, user=accounts.attacker.name)
    seen = dict(
        line.split(':\t')
        for line in run(path, account=accounts.attacker).stdout.splitlines()
        if ':\t' in line
    )
    for name, short in SHORT.items():
        assert getattr(said.after, name).mask == int(seen[short], 16)


def test_unknown_user_is_refused(program):
    for user in 'nobody-of-this-name', 2**32 - 2, 2**64:
        with pytest.raises(LookupError, match=f"there is no user '{user}'"):
            explain(program(), user=user)


@needs('cap_sys_admin')
def test_nosuid_mount(program, tmpfs, as_attacker):
    path = program('cap_net_raw=ep', directory=tmpfs('nosuid'))
    said, _ = happens(path, as_attacker)
    assert not said.after.effective
    follow(said, 'nosuid')
    said, _ = happens(path, as_attacker)
    assert effective(said) == 'cap_net_raw'


@needs('cap_sys_admin')
@needs('cap_sys_admin', 'cap_sys_chroot')
def test_root_directory_that_is_no_mount_point_is_on_a_mount_of_ours(program, scene):
    name = Path(program('cap_net_raw=ep')).name
    (scene / 'proc').mkdir()

    @in_a_child
    def mount_inside():
        os.chroot(scene)
        os.chdir('/')
        return explain(f'/{name}', pid=os.getpid()).executable.mount

    run('mount', '-t', 'proc', 'proc', scene / 'proc', check=True)
    try:
        assert mount_inside() == Mount('/', 'unknown', nosuid=False, noexec=False)
    finally:
        run('umount', scene / 'proc', check=True)


def test_set_uid_on_a_nosuid_mount(program, tmpfs, as_attacker):
    path = program(mode=0o4755, directory=tmpfs('nosuid'))
    said, _ = happens(path, as_attacker)
    assert said.after.uid.effective != 0
    follow(said, 'nosuid-ids')
    said, _ = happens(path, as_attacker)
    assert said.after.uid.effective == 0


@needs('cap_sys_admin')
def test_noexec_mount(program, tmpfs, as_attacker):
    path = program('cap_net_raw=ep', directory=tmpfs('noexec'))
    said, seen = happens(path, as_attacker)
    assert (said.error, seen['Error']) == ('EACCES', 'Permission denied')
    follow(said, 'noexec')
    assert effective(happens(path, as_attacker)[0]) == 'cap_net_raw'


def test_no_new_privs(program, as_attacker):
    path = program('cap_net_raw=ep')
    said, _ = happens(path, as_attacker + 'set_no_new_privs()')
    assert not said.after.permitted
    assert 'which cannot be taken back' in advice(said, 'no-new-privs').text
    assert effective(happens(path, as_attacker)[0]) == 'cap_net_raw'


def test_set_uid_with_no_new_privs(program, as_attacker):
    said, _ = happens(program(mode=0o4755), as_attacker + 'set_no_new_privs()')
    assert said.after.uid.effective != 0
    assert advice(said, 'no-new-privs')


def mark_as_of_linux_3_16(path):
    """All capabilities of that kernel as permitted."""
    mask = (1 << 38) - 1
    words = (2 << 24, mask & 0xFFFFFFFF, 0, mask >> 32, 0)
    os.setxattr(path, 'security.capability', struct.pack('<5I', *words))


@needs('cap_bpf')
def test_all_of_an_older_kernel(program, as_attacker):
    path = program()
    mark_as_of_linux_3_16(path)
    said, _ = happens(path, as_attacker)
    assert 'cap_bpf' not in said.after.permitted
    assert 'these were all capabilities of an older kernel' in str(said)
    follow(said, 'older-all')
    said, _ = happens(path, as_attacker)
    assert 'cap_bpf' in said.after.permitted
    assert 'older-all' not in [one.rule for one in said.advice]


def without(name):
    """The setup of a process, or a container, whose bounding set lacks a capability."""
    return f'bind({name!r})\n'


def test_effective_flag_with_too_small_a_bounding_set(program, as_attacker):
    path = program('cap_chown,cap_net_raw=ep')
    said, seen = happens(path, without('cap_chown') + as_attacker)
    assert (said.error, seen['Error']) == ('EPERM', 'Operation not permitted')
    assert 'cap_chown' in advice(said, 'bounding').text
    follow(said, 'too-little')
    said, _ = happens(path, without('cap_chown') + as_attacker)
    assert str(said.after.permitted) == 'cap_net_raw'
    follow(happens(path, as_attacker)[0], 'idle')
    assert effective(happens(path, as_attacker)[0]) == 'cap_chown,cap_net_raw'


def test_container_without_the_capability_in_its_bounding_set(program, as_attacker):
    path = program('cap_chown=p')
    said, _ = happens(path, without('cap_chown') + as_attacker)
    assert not said.after.permitted
    assert '--cap-add' in advice(said, 'bounding').text
    assert str(happens(path, as_attacker)[0].after.permitted) == 'cap_chown'


def test_cap_add_gives_a_user_nothing(program, accounts, as_attacker):
    path = program()
    said, _ = happens(path, as_attacker)
    assert not said.after.permitted
    text = advice(said, 'unmarked').text
    assert '--cap-add' in text
    assert f'setcap CAPABILITIES=ep {path}' in text
    command = [
        'setpriv',
        f'--reuid={accounts.attacker.uid}',
        '--clear-groups',
        '--inh-caps=+net_raw',
    ]
    seen = run(*command, '--ambient-caps=+net_raw', path).stdout
    assert f'CapEff:\t{CapSet("cap_net_raw").mask:016x}' in seen
    run('setcap', 'cap_net_raw=ep', path)
    assert effective(happens(path, as_attacker)[0]) == 'cap_net_raw'


@pytest.fixture
def with_ambient(accounts):
    return f'hold("ia", {accounts.attacker.uid}, {accounts.attacker.gid})'


def test_ambient_is_wiped_by_a_marked_file(program, with_ambient):
    path = program('cap_chown=p')
    said, _ = happens(path, with_ambient)
    assert not said.after.ambient
    follow(said, 'ambient-file')
    said, _ = happens(path, with_ambient)
    assert effective(said) == str(said.after.ambient) == 'cap_net_raw'


def test_ambient_is_wiped_by_set_group_id(program, with_ambient):
    path = program(mode=0o2755)
    said, _ = happens(path, with_ambient)
    assert not said.after.ambient
    follow(said, 'ambient-ids')
    assert effective(happens(path, with_ambient)[0]) == 'cap_net_raw'


def test_marked_symbolic_link(program, scene, as_attacker):
    path = program('cap_net_raw=ep')
    (scene / 'link').symlink_to('program')
    said, _ = happens(scene / 'link', as_attacker)
    assert f'{scene}/link is a symbolic link to {scene}/program' in str(said)
    assert str(path) in advice(said, 'link').text
    assert effective(happens(path, as_attacker)[0]) == 'cap_net_raw'


@pytest.fixture
def environment(scene, program):
    """A virtual environment, whose python is a link to a program."""
    (scene / 'venv' / 'bin').mkdir(parents=True)
    (scene / 'venv' / 'pyvenv.cfg').write_text(f'home = {scene}\n')
    (scene / 'venv' / 'bin' / 'python').symlink_to(program('cap_net_raw=ep'))
    return scene / 'venv'


def test_python_of_a_virtual_environment_is_really_another(environment, scene, as_attacker):
    said, _ = happens(environment / 'bin' / 'python', as_attacker)
    assert (
        f'ATTENTION: this looks like a program of the virtual environment {environment}, but it '
        f'really is {scene}/program, which everyone shares' in str(said)
    )
    told = advice(said, 'venv')
    assert told.command == f'caps venv mark {environment} cap_net_raw=ep'
    assert f'setcap -r {scene}/program' in told.text
    assert effective(happens(scene / 'program', as_attacker)[0]) == 'cap_net_raw'


def test_mark_moves_into_the_virtual_environment(scene, accounts):
    base, venv = scene / 'base', scene / 'venv'
    base.write_bytes(Path('/usr/bin/python3').read_bytes())
    base.chmod(0o755)
    Caps('cap_net_raw=ep').apply(base)
    (venv / 'bin').mkdir(parents=True)
    (venv / 'pyvenv.cfg').write_text('home = /usr/bin\n')
    (venv / 'bin' / 'python').symlink_to(base)
    told = advice(explain(venv / 'bin' / 'python', user=accounts.attacker.name), 'venv')
    run('setcap', '-r', base, check=True)
    run(sys.executable, '-m', *shlex.split(told.command), check=True)
    said = explain(venv / 'bin' / 'python', user=accounts.attacker.name)
    assert effective(said) == 'cap_net_raw'
    assert 'ATTENTION' not in str(said)
    (venv / 'bin' / 'python3').symlink_to('python')
    assert not explain(venv / 'bin' / 'python3', user=accounts.attacker.name).advice
    script = 'print(open("/proc/self/status").read())'
    seen = run(venv / 'bin' / 'python', '-c', script, account=accounts.attacker).stdout
    assert f'CapEff:\t{said.after.effective.mask:016x}' in seen
    assert not explain(base, user=accounts.attacker.name).after.permitted


def test_unmarked_python_of_a_virtual_environment_is_not_to_be_marked(
    environment, scene, as_attacker
):
    Caps.remove(scene / 'program')
    said, _ = happens(environment / 'bin' / 'python', as_attacker)
    assert f'caps venv mark {environment} CAPABILITIES' in advice(said, 'unmarked').text
    assert 'setcap' not in advice(said, 'unmarked').text


def test_interpreter_of_a_script_is_not_to_be_marked(program, script, as_attacker):
    said, _ = happens(script(f'#!{program()}\n', None), as_attacker)
    assert 'mark this script for ppy' in advice(said, 'unmarked').text
    assert 'caps audit -- ' in advice(said, 'unmarked').text
    assert not any('setcap' in str(one) for one in said.advice)


def test_capabilities_and_set_uid_of_a_script_are_ignored(program, scene, script, as_attacker):
    path = script(f'#!{program()}\n', 'cap_net_raw=ep')
    path.chmod(0o4755)
    said, _ = happens(path, as_attacker)
    assert not said.after.permitted
    assert said.after.uid.effective != path.stat().st_uid
    assert 'is a script: the kernel ignores its capabilities' in str(said)
    told = advice(said, 'script')
    assert 'ppy' in told.text
    follow(said, 'script')
    assert str(Caps.from_file(path)) == 'cap_net_raw=i'


def test_capabilities_of_an_interpreter_count(program, script, as_attacker):
    path = script(f'#!{program("cap_net_raw=ep")}\n', None)
    assert effective(happens(path, as_attacker)[0]) == 'cap_net_raw'


def test_env_in_a_script_means_another_execution(script):
    assert 'once more' in str(explain(script('#!/usr/bin/env python3\n', None)))


def test_text_without_a_first_line_is_no_script(script, as_attacker):
    said, seen = happens(script('print()\n', None), as_attacker)
    assert (said.error, seen['Error']) == ('ENOEXEC', 'Exec format error')
    assert advice(said, 'format').command is None
    said, _ = happens(path := script('print()\n', 'cap_net_raw=i'), as_attacker)
    assert advice(said, 'format').command == f'caps explain --ppy /usr/local/bin/ppy {path}'


def test_absent_interpreter_is_named(script):
    path = script('#!/absent\n', None)
    with pytest.raises(FileNotFoundError, match=f"first line of {path} names: '/absent'"):
        explain(path)


def test_command_without_its_path_is_found(scene, monkeypatch):
    monkeypatch.chdir(scene)
    with pytest.raises(FileNotFoundError, match=r"did you mean '/.*/cat'"):
        explain('cat')
    with pytest.raises(FileNotFoundError, match="file or directory: 'no-such-command'"):
        explain('no-such-command')


def test_directory_is_no_program(scene):
    with pytest.raises(OSError, match='not a regular file'):
        explain(scene)


def test_inheritable_file_capabilities_alone_give_nothing(program, as_attacker):
    path = program('cap_net_raw=i')
    said, _ = happens(path, as_attacker)
    assert not said.after.permitted
    told = advice(said, 'inheritable')
    assert told.command is None  # which could only give it to everyone
    said, _ = happens(path, "inherit('cap_net_raw')\n" + as_attacker)
    assert str(said.after.permitted) == 'cap_net_raw'


def test_permitted_without_the_effective_flag_waits_for_the_program(program, as_attacker):
    path = program('cap_net_raw=p')
    said, _ = happens(path, as_attacker)
    assert 'activate()' in advice(said, 'idle').text
    follow(said, 'idle')
    assert effective(happens(path, as_attacker)[0]) == 'cap_net_raw'


def test_mark_of_a_user_namespace(program, as_attacker):
    path, caps = program(), Caps('cap_net_raw=ep')
    caps.root_id = 100000
    caps.apply(path)
    said, _ = happens(path, as_attacker)
    assert 'for user namespaces whose root is 100000' in str(said)
    follow(said, 'root-id')
    assert effective(happens(path, as_attacker)[0]) == 'cap_net_raw'


def test_marked_set_uid_root_program_gets_only_its_mark(program, as_attacker):
    path = program('cap_net_raw=ep', mode=0o4755)
    said, _ = happens(path, as_attacker)
    assert effective(said) == 'cap_net_raw'
    follow(said, 'setuid-root-file')
    assert 'cap_chown' in happens(path, as_attacker)[0].after.effective


def test_file_that_the_user_may_not_execute(program, accounts, as_attacker):
    path = program(mode=0o700)
    said, seen = happens(path, as_attacker)
    assert (said.error, seen['Error']) == ('EACCES', 'Permission denied')
    assert advice(said, 'access').command is None  # which could only open it to everybody
    os.chown(path, 0, accounts.attacker.gid)
    path.chmod(0o710)
    assert happens(path, as_attacker)[0].error is None


def test_program_that_may_be_executed_and_not_read(program):
    path = program(mode=0o4111)

    @in_a_child
    def error():
        Caps.from_process().deactivate('dac_override', 'dac_read_search').apply()
        return explain(path).error

    assert error() is None


def test_file_in_a_directory_that_the_user_may_not_search(program, scene, accounts, as_attacker):
    (scene / 'closed').mkdir(mode=0o700)
    path = program(directory=scene / 'closed')
    said, seen = happens(path, as_attacker)
    assert (said.error, seen['Error']) == ('EACCES', 'Permission denied')
    assert advice(said, 'access').command is None  # which could only open it to everybody
    os.chown(scene / 'closed', 0, accounts.attacker.gid)
    (scene / 'closed').chmod(0o710)
    assert happens(path, as_attacker)[0].error is None


@pytest.fixture
def linked(scene):
    """A program with a library that it finds only beside itself, or not even there."""

    def make(*options):
        (scene / 'library.c').write_text('int number(void) { return 0; }')
        (scene / 'main.c').write_text('int number(void); int main(void) { return number(); }')
        (scene / 'libs').mkdir()
        library, path = scene / 'libs' / 'libcapsnumber.so', scene / 'linked'
        run('cc', '-shared', '-fPIC', '-o', library, scene / 'library.c', check=True)
        found = [f'-L{library.parent}', '-lcapsnumber', *options]
        run('cc', '-o', path, scene / 'main.c', *found, check=True)
        Caps('cap_net_raw=ep').apply(path)
        return path

    return make


def test_libraries_beside_the_program_vanish(linked, accounts):
    path = linked('-Wl,-rpath,$ORIGIN/libs')
    said = explain(path, user=accounts.attacker.name)
    assert 'libcapsnumber.so' in run(path, account=accounts.attacker).stderr
    assert 'libcapsnumber.so' in advice(said, 'libraries').text
    follow(said, 'libraries')
    assert run(path, account=accounts.attacker).returncode == 0
    assert 'libraries' not in [
        one.rule for one in explain(path, user=accounts.attacker.name).advice
    ]


def test_libraries_by_environment_vanish(linked, scene, accounts, monkeypatch):
    path = linked()
    monkeypatch.setenv('LD_LIBRARY_PATH', str(scene / 'libs'))
    said = explain(path, user=accounts.attacker.name)
    assert 'libcapsnumber.so' in run(path, account=accounts.attacker).stderr
    follow(said, 'libraries')
    assert run(path, account=accounts.attacker).returncode == 0


def test_libraries_where_the_system_has_them_remain(scene, accounts):
    path = scene / 'sleep'
    path.write_bytes(Path('/usr/bin/sleep').read_bytes())
    path.chmod(0o755)
    Caps('cap_net_raw=ep').apply(path)
    assert explain(path, user=accounts.attacker.name).advice == ()
    assert run(path, '0', account=accounts.attacker).returncode == 0


def test_script_of_ppy(probing_ppy, script, accounts, as_attacker):
    path = script(f'#!{probing_ppy.ppy}\n', 'cap_net_raw=i')
    said, _ = happens(path, as_attacker)
    headings = [heading for heading, _ in said.sections]
    assert headings == [
        f'The file {path}',
        f'The interpreter {probing_ppy.ppy}',
        'The process',
        "ppy's checks",
        f'Executing {path}',
        f'{probing_ppy.ppy} makes itself ready',
        f'Executing {probing_ppy.capped}, the capped copy of {probing_ppy.original}',
        'Not taken into account',
        'What to do',
    ]
    assert said.after.uid.effective == accounts.owner.uid
    assert str(said.after.permitted) == 'cap_net_raw'
    assert advice(said, 'idle')


def test_script_that_is_given_to_ppy(probing_ppy, script, accounts):
    path = script('', 'cap_net_raw=i')
    said = explain(path, user=accounts.attacker.name, launcher=probing_ppy.ppy)
    assert str(said.after.permitted) == 'cap_net_raw'
    assert said.after.uid.real == accounts.owner.uid
    assert run(probing_ppy.ppy, path, account=accounts.attacker).returncode == 0


def test_script_that_ppy_refuses(probing_ppy, script, accounts, as_attacker):
    path = script(f'#!{probing_ppy.ppy}\n', 'cap_net_raw=i', mode=0o775)
    said, _ = happens(path, as_attacker)
    assert said.error == 'refused by ppy'
    assert any(not check.holds for check in said.checks)
    assert f'REFUSED: {path}: must not be writable by group or others' in str(said)
    follow(said, 'ppy-check')
    assert happens(path, as_attacker)[0].error is None


def test_ppy_on_a_process_with_no_new_privs(probing_ppy, script, as_attacker):
    path = script(f'#!{probing_ppy.ppy}\n', 'cap_net_raw=i')
    said, _ = happens(path, as_attacker + 'set_no_new_privs()')
    assert said.error == 'refused by ppy'
    assert advice(said, 'no-new-privs')


def test_ppy_in_a_container_without_the_capability(probing_ppy, script, as_attacker):
    path = script(f'#!{probing_ppy.ppy}\n', 'cap_net_raw=i')
    said, _ = happens(path, without('cap_net_raw') + as_attacker)
    assert said.error == 'refused by ppy'
    assert 'cap_net_raw: must be in the bounding set' in str(said)


def test_script_of_ppy_without_capabilities(probing_ppy, script, as_attacker):
    path = script(f'#!{probing_ppy.ppy}\n', '=')
    said, _ = happens(path, as_attacker)
    assert not said.after.permitted
    assert 'caps audit --ppy PPY -- ' in advice(said, 'empty').text


@pytest.mark.parametrize(
    'change',
    [
        'true', 'chown {uid} ppy-check', 'chown {uid} .', 'chmod g+w ppy-check', 'chmod o+w .',
        'chmod 1777 .', 'mv ppy-check other; ln -s other ppy-check',
    ],
)  # fmt: skip
def test_check_that_is_not_roots_is_not_run(probing_ppy, scene, script, accounts, change):
    theirs = scene / 'theirs'
    theirs.mkdir(0o755)
    (theirs / 'ppy').write_bytes(Path(probing_ppy.ppy).read_bytes())
    (theirs / 'ppy-check').write_text(f'#!/bin/sh\ntouch {scene}/canary\n')
    for path in theirs / 'ppy', theirs / 'ppy-check':
        path.chmod(0o755)
    run('sh', '-c', change.format(uid=accounts.attacker.uid), cwd=theirs, check=True)
    said = explain(script('', 'cap_net_raw=i'), launcher=theirs / 'ppy')
    assert said.error == 'refused by ppy'
    assert (scene / 'canary').exists() == (change == 'true')


@pytest.mark.parametrize('check', ['', 'exit 126', 'echo ok one rule; exit 3'])
def test_check_that_ends_halfway_is_no_consent(probing_ppy, scene, script, check):
    (scene / 'ppy').write_bytes(Path(probing_ppy.ppy).read_bytes())
    (scene / 'ppy-check').write_text(f'#!/bin/sh\n{check}\n')
    for path in scene / 'ppy', scene / 'ppy-check':
        path.chmod(0o755)
    said = explain(script('', 'cap_net_raw=i'), launcher=scene / 'ppy')
    assert said.error == 'refused by ppy'
    assert 'ppy-check: must print the rules' in str(said)


def test_check_that_cannot_run_is_no_consent(probing_ppy, script):
    with open(f'{probing_ppy.ppy}-check', 'w') as file:
        file.write('no program')
    said = explain(script('', 'cap_net_raw=i'), launcher=probing_ppy.ppy)
    assert said.error == 'refused by ppy'
    assert 'ppy-check: must run, and not fail: [Errno 8] Exec format error' in str(said)


def test_check_as_another_user_takes_root(probing_ppy, script, accounts):
    path = script('', 'cap_net_raw=i')

    @in_a_child
    def explained():
        become(accounts.attacker)
        return explain(path, user=accounts.owner.name, launcher=probing_ppy.ppy)

    said = explained()
    assert f'ppy-check judged as user {accounts.attacker.uid}' in str(said.caveats)


def test_capped_copy_that_cannot_be_executed_is_to_be_installed_again(probing_ppy, script):
    path = script('', 'cap_net_raw=i')
    os.chmod(probing_ppy.capped, 0o600)
    said = explain(path, launcher=probing_ppy.ppy)
    assert said.error == 'EACCES'
    assert 'install ppy again' in advice(said, 'ppy-install').text
    assert run(probing_ppy.ppy, path).returncode == 126


def test_capped_copy_of_an_older_kernel_is_to_be_installed_again(probing_ppy, script):
    Caps(inheritable=CapSet.from_mask((1 << 38) - 1)).apply(probing_ppy.capped)
    said = explain(script('', 'cap_net_raw=i'), launcher=probing_ppy.ppy)
    assert said.error is None
    assert 'cannot give cap_perfmon' in advice(said, 'older-all').text


def test_launcher_that_is_no_ppy_is_refused(program, script):
    with pytest.raises(ValueError, match='not an installed ppy'):
        explain(script('', '='), launcher=program())


@needs('cap_sys_admin')
def test_seccomp_filter_is_mentioned(program, as_attacker):
    with waiting(program(), setup='filter_nothing()') as child:
        assert 'seccomp filter' in str(explain(program(), pid=child.pid))


def test_file_system_user_that_is_another_is_mentioned(program):
    with waiting(program(), setup='ctypes.CDLL(None).setfsuid(5)') as child:
        assert 'file system user is not its effective one' in str(explain(program(), pid=child.pid))
    with waiting(program()) as child:
        assert 'file system user' not in str(explain(program(), pid=child.pid))


@needs('cap_sys_admin')
def test_mount_namespace_that_is_another_is_mentioned(program):
    private = 'assert ctypes.CDLL(None).unshare(0x20000) == 0'  # CLONE_NEWNS
    with waiting(program(), setup=private) as child:
        assert 'it has another mount namespace' in str(explain(program(), pid=child.pid))
    with waiting(program()) as child:
        assert 'mount namespace' not in str(explain(program(), pid=child.pid))


@needs('cap_sys_ptrace')
def test_tracer_is_mentioned(program):
    libc = ctypes.CDLL(None, use_errno=True)
    with waiting(program()) as child:
        assert libc.ptrace(0x4206, child.pid, None, None) == 0  # PTRACE_SEIZE
        said = explain(program(), pid=child.pid)
        assert f'process {os.getpid()} traces it' in str(said)


def test_absent_process_is_an_error(program):
    with pytest.raises(ProcessLookupError, match='no such process'):
        explain(program(), pid=2**22 - 1)


def test_malformed_capabilities_are_an_error():
    with pytest.raises(ValueError, match='malformed'):
        FileCaps.from_xattr(b'\0\0\0\2')


@needs('cap_sys_admin', 'user_namespaces')
def test_process_of_another_user_namespace(program):
    path = program('cap_net_raw=ep')
    with subprocess.Popen(['unshare', '--user', '--map-root-user', 'sleep', '60']) as child:
        try:
            while not Path(f'/proc/{child.pid}/cmdline').read_bytes().startswith(b'sleep'):
                assert child.poll() is None
            said = explain(path, pid=child.pid)
        finally:
            child.kill()
    assert said.actor.process.namespace.roots == (0, 0)
    assert said.after.permitted == CapSet.all()
