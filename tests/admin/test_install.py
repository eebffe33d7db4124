"""caps ppy install, status and remove against the real kernel, with getcap as the referee."""

import os
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest

from caps import Caps, CapSet
from caps.admin import installation
from caps.admin.ppy import InstallError, _lock, install, installation_at, remove
from caps.cli import main
from support import needs, needs_root, run
from support.venvs import make_venv, pip

pytestmark = needs_root

SH = '/bin/sh'
PERL = shutil.which('perl', path='/usr/bin:/usr/local/bin') or '/usr/bin/perl'
STATUS = {
    'sh': 'while read -r line; do echo "$line"; done < /proc/$$/status',
    'perl': 'open(F, "/proc/$$/status"); print while <F>;',
    'python': 'print(open("/proc/self/status").read())',
}


@pytest.fixture
def prefix(scene):
    return scene / 'prefix'


@pytest.fixture(params=[False, True], ids=['file-capabilities', 'set-uid'])
def setuid(request):
    return request.param


@pytest.fixture
def program(scene):
    """A program that an administrator has put in a public directory."""
    directory = scene / 'programs'
    directory.mkdir()
    directory.chmod(0o755)
    copy = directory / 'program'
    shutil.copyfile(os.path.realpath(SH), copy)
    copy.chmod(0o755)
    return copy


@pytest.fixture
def installed(prefix, program):
    return install(program, prefix)


def getcap(path):
    return (
        run('getcap', path, check=True).stdout.strip().removeprefix(f'{path} ').removeprefix('= ')
    )


def tree(directory):
    """Every path below a directory, with all that an installation decides about it."""
    return {
        str(path): (
            stat.filemode((info := path.lstat()).st_mode),
            info.st_uid,
            info.st_gid,
            info.st_ino,
            getcap(path) if path.is_file() else None,
        )
        for path in Path(directory).rglob('*')
    }


def files(directory):
    return [path for path in Path(directory).rglob('*') if not path.is_dir()]


def refused(prefix, match, interpreter=SH, **options):
    """The installation is refused, and nothing below the prefix has been touched."""
    before = tree(prefix)
    with pytest.raises((InstallError, ValueError), match=match) as raised:
        install(interpreter, prefix, **options)
    assert tree(prefix) == before
    return str(raised.value)


def test_launcher_has_file_capabilities_and_no_set_uid_bit(prefix, program):
    ppy = install(program, prefix).ppy
    info = os.lstat(ppy)
    assert ppy == str(prefix / 'bin/ppy')
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o755, 0, 0)
    assert getcap(ppy) == 'cap_dac_override,cap_setgid,cap_setuid,cap_setpcap=ep'


def test_set_uid_launcher_has_no_file_capabilities(prefix, program):
    ppy = install(program, prefix, setuid=True).ppy
    info = os.lstat(ppy)
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o4755, 0, 0)
    assert getcap(ppy) == ''


def test_capped_copy_is_for_root_and_has_every_capability_inheritable(installed, program):
    info = os.lstat(installed.capped)
    assert os.path.basename(installed.capped) == 'program'
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o700, 0, 0)
    assert getcap(installed.capped) == '=i'
    assert Path(installed.capped).read_bytes() == program.read_bytes()


def test_group_may_execute_the_capped_copy(prefix, program, accounts):
    found = install(program, prefix, group=accounts.owner.name)
    info = os.lstat(found.capped)
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o750, 0, accounts.owner.gid)
    assert (found.group, found.problems) == (accounts.owner.name, [])


def test_allow_limits_the_capped_copy(prefix, program):
    found = install(program, prefix, allow='net_raw,cap_kill')
    assert getcap(found.capped) == 'cap_kill,cap_net_raw=i'
    assert found.allowed == CapSet('cap_kill,cap_net_raw')
    assert found.problems == []


def test_allowing_nothing_leaves_a_change_of_identity(prefix, program, script, accounts):
    assert install(program, prefix, allow='all').allowed == CapSet.all()
    found = install(program, prefix, allow='')
    assert found.problems == []
    assert Caps.from_file(found.capped).marked
    assert run(found.ppy, script('echo here', '='), account=accounts.attacker).stdout == 'here\n'


@pytest.mark.parametrize('umask', [0, 0o777], ids=oct)
def test_umask_does_not_matter(prefix, program, umask):
    before = os.umask(umask)
    try:
        found = install(program, prefix)
    finally:
        os.umask(before)
    assert found.problems == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in prefix.rglob('*') if path.is_dir()} == {
        0o755
    }
    assert stat.S_IMODE(os.stat(found.ppy).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(found.capped).st_mode) == 0o700


def test_status_after_installation_is_clean(prefix, program, setuid):
    found = install(program, prefix, setuid=setuid)
    assert found == installation_at(prefix)
    assert found.problems == []
    assert (found.setuid, found.allow_root, found.group) == (setuid, False, None)
    assert found.allowed == CapSet.all()


def test_allow_root_is_recorded(prefix, program):
    assert install(program, prefix, allow_root=True).allow_root
    assert installation_at(prefix).allow_root


@pytest.mark.parametrize('language', ['sh', 'perl', 'python'])
def test_interpreter_may_be_anything(prefix, script, accounts, system_venv, setuid, language):
    interpreter = {'sh': SH, 'perl': PERL, 'python': system_venv / 'bin/python'}[language]
    found = install(interpreter, prefix, setuid=setuid)
    marked = script(STATUS[language], 'cap_dac_read_search=i')
    done = run(found.ppy, marked, account=accounts.attacker)
    assert done.stderr == ''
    process = dict(line.split(':', 1) for line in done.stdout.splitlines() if ':' in line)
    assert set(process['Uid'].split()) == {str(accounts.owner.uid)}
    assert set(process['Gid'].split()) == {str(accounts.owner.gid)}
    assert int(process['CapPrm'], 16) == CapSet('cap_dac_read_search').mask
    assert int(process['CapEff'], 16) == 0


def test_default_interpreter_is_the_python_that_installs(prefix, system_venv):
    command = [system_venv / 'bin/caps', 'ppy', 'install', '--prefix', prefix]
    assert run(*command).stderr == ''
    assert os.path.dirname(installation_at(prefix).original) == str(system_venv / 'bin')


def test_link_of_a_virtual_environment_stays_as_it_is(prefix, scene, system_venv):
    (scene / 'shortcut').symlink_to(system_venv / 'bin')
    found = install(scene / 'shortcut/python', prefix)
    assert found.original == str(system_venv / 'bin/python')
    assert os.path.islink(found.original)
    assert not os.path.islink(found.capped)


def test_several_installations_stand_side_by_side(prefix, program, script, accounts):
    install(program, prefix, 'ppy')
    other = install(program, prefix, 'ppy-other', allow='cap_kill')
    remove(prefix, 'ppy')
    assert installation_at(prefix, 'ppy-other') == other
    assert other.problems == []
    done = run(other.ppy, script('echo here', 'cap_kill=i'), account=accounts.attacker)
    assert done.stdout == 'here\n'


def test_name_may_be_that_of_the_interpreter(prefix, program):
    assert install(program, prefix, 'program').problems == []


def test_installing_again_replaces_launcher_and_copy(prefix, program, installed):
    again = install(program, prefix, setuid=True)
    assert again.capped != installed.capped
    assert again.problems == []
    # what a launch may need that has begun is kept, but useless to everyone else
    assert stat.S_IMODE(os.stat(installed.capped).st_mode) == 0o700
    left = set(files(prefix)) - {Path(path) for path in (again.ppy, f'{again.ppy}-check')}
    for path in left - {Path(again.capped), Path(installed.capped)}:
        assert (stat.S_IMODE(path.stat().st_mode), getcap(path)) == (0, '')
    install(program, prefix)
    assert not os.path.exists(os.path.dirname(installed.capped))
    assert len(os.listdir(prefix / 'libexec')) == 2


def test_nothing_but_launchers_and_copy_is_left_in_place(prefix, installed):
    launchers = {path for path in files(prefix / 'bin') if path.name.startswith('ppy')}
    assert set(files(prefix)) == launchers | {Path(installed.capped)}


def test_remove_leaves_nothing(prefix, installed):
    remove(prefix)
    assert files(prefix) == []
    assert os.listdir(prefix / 'libexec') == []
    assert installation_at(prefix, 'ppy').problems == [
        f'{installed.ppy} is not installed: caps ppy install --prefix {prefix}'
    ]
    assert installation_at(prefix, 'x').problems == [
        f'{prefix}/bin/x is not installed: caps ppy install --prefix {prefix} --name x'
    ]
    assert installation_at(name='no-such').problems == [
        '/usr/local/bin/no-such is not installed: caps ppy install --name no-such'
    ]


def test_remove_takes_only_a_directory_of_its_own(prefix, program):
    other = install(program, prefix, 'ppy-other')
    shutil.copy(other.ppy, prefix / 'bin/ppy')
    remove(prefix)
    assert not (prefix / 'bin/ppy').exists()
    (prefix / 'prefix/bin').mkdir(parents=True)
    shutil.copy(other.ppy, prefix / 'prefix/bin')
    remove(prefix / 'prefix', 'ppy-other')
    assert not (prefix / 'prefix/bin/ppy-other').exists()
    assert installation_at(prefix, 'ppy-other') == other


def test_removing_what_is_not_installed_is_refused(prefix):
    with pytest.raises(InstallError, match='not an installed ppy'):
        remove(prefix)


def test_removing_a_stranger_is_refused(prefix, installed):
    shutil.copyfile(SH, prefix / 'bin/sh')
    with pytest.raises(InstallError, match='not an installed ppy'):
        remove(prefix, 'sh')
    assert (prefix / 'bin/sh').exists()


def test_failed_proof_leaves_nothing(prefix):
    refused(prefix, 'cannot launch a script: exit status 1', '/bin/false')
    assert not prefix.exists()


def test_failed_proof_keeps_the_previous_installation(prefix, installed):
    refused(prefix, 'cannot launch a script', '/bin/false')
    assert installation_at(prefix) == installed


def test_failure_to_replace_the_launcher_leaves_nothing(prefix, program, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.rename', full)
    with pytest.raises(OSError, match='No space left'):
        install(program, prefix)
    assert not prefix.exists()


def test_library_that_a_privileged_program_cannot_load_is_explained(prefix, scene):
    if not shutil.which('cc'):
        pytest.skip('no C compiler')
    directory = scene / 'relocatable'
    directory.mkdir()
    directory.chmod(0o755)
    (directory / 'f.c').write_text('int f(void) { return 0; }')
    (directory / 'm.c').write_text('int f(void); int main(void) { return f(); }')
    # One for where it is, one that leads there from the capped copy.
    paths = '$ORIGIN:$ORIGIN/../../../relocatable'
    for arguments in (
        ['-shared', '-fPIC', '-o', 'libf.so', 'f.c'],
        ['-o', 'program', 'm.c', '-L.', '-lf', f'-Wl,-rpath,{paths}'],
    ):
        run('cc', *arguments, cwd=directory, check=True)
    run(directory / 'program', check=True)
    refused(prefix, r'libf\.so.*\n.*ignores \$ORIGIN', directory / 'program')


def test_interpreter_in_a_private_home_is_refused(prefix, program):
    program.parent.chmod(0o700)
    assert f'{program.parent} is closed' in refused(prefix, 'other accounts', program)


def test_interpreter_behind_a_link_into_a_private_home_is_refused(prefix, program, scene):
    (scene / 'link').symlink_to(program)
    program.parent.chmod(0o700)
    assert f'{program.parent} is closed' in refused(prefix, 'other accounts', scene / 'link')


@pytest.mark.parametrize('mode', [0o750, 0o754, 0o711], ids=oct)
def test_interpreter_that_others_cannot_run_or_read_is_refused(prefix, program, mode):
    program.chmod(mode)
    refused(prefix, r'closed to other accounts.*choose another', program)


@pytest.mark.parametrize('mode', [0o775, 0o757], ids=oct)
def test_interpreter_that_others_can_write_is_refused(prefix, program, mode):
    program.chmod(mode)
    refused(prefix, 'other than root can change .*choose another', program)


def test_interpreter_of_another_account_is_refused(prefix, program, accounts):
    os.chown(program, accounts.owner.uid, 0)
    refused(prefix, 'other than root can change .*choose another', program)


@pytest.mark.parametrize('mode', [0o775, 0o757, 0o1777], ids=oct)
def test_interpreter_in_a_writable_directory_is_refused(prefix, program, mode):
    program.parent.chmod(mode)
    mend = 'use another directory' if mode & stat.S_ISVTX else 'chmod go-w'
    refused(prefix, f'users other than root can write to {program.parent}: {mend}', program)


def test_interpreter_in_a_directory_of_another_account_is_refused(prefix, program, accounts):
    os.chown(program.parent, accounts.owner.uid, 0)
    refused(prefix, f'belongs to uid {accounts.owner.uid}.*use another directory', program)


def test_interpreter_path_is_resolved_as_the_kernel_does(prefix, program, scene):
    (scene / 'elsewhere').mkdir(0o755)
    (scene / 'elsewhere/shortcut').symlink_to(program.parent)
    found = install(scene / 'elsewhere/shortcut/../programs/program', prefix)
    assert found.original == str(program)


def test_relative_interpreter_path_is_made_absolute(prefix, program, monkeypatch):
    monkeypatch.chdir(program.parent)
    assert install('program', prefix).original == str(program)


def test_script_as_interpreter_is_refused(prefix, program):
    program.write_text('#!/bin/sh\nexec python "$@"\n')
    refused(prefix, 'is a script, on which the kernel ignores capabilities', program)


def test_file_that_is_no_program_is_refused(prefix, program):
    program.write_text('')
    refused(prefix, 'is not a program', program)


@pytest.mark.parametrize('make', [None, os.mkdir, os.mkfifo], ids=['absent', 'directory', 'fifo'])
def test_interpreter_that_is_no_file_is_refused(prefix, scene, make):
    path = scene / 'none'
    if make:
        make(path)
    refused(prefix, 'cannot be the interpreter', path)


def test_interpreter_with_an_over_long_path_is_refused(prefix):
    refused(prefix, 'cannot be the interpreter: File name too long', '/bin' + '/x' * 3000)


@pytest.mark.parametrize('mode', [0o775, 0o757, 0o1777], ids=oct)
@pytest.mark.parametrize('part', ['bin', 'libexec'])
def test_writable_directory_for_the_installation_is_refused(prefix, part, mode):
    (prefix / part).mkdir(parents=True)
    (prefix / part).chmod(mode)
    refused(prefix, f'users other than root can write to {prefix / part}')


def test_writable_directory_above_is_accepted_only_with_the_sticky_bit(scene, program):
    above = scene / 'above'
    above.mkdir()
    above.chmod(0o777)
    refused(above / 'prefix', f'users other than root can write to {above}', program)
    above.chmod(0o1777)
    assert install(program, above / 'prefix').problems == []


def test_prefix_of_another_account_is_refused(prefix, accounts):
    prefix.mkdir()
    os.chown(prefix, accounts.owner.uid, 0)
    refused(prefix, f'{prefix} belongs to uid {accounts.owner.uid}')


@pytest.mark.parametrize('part', ['', 'bin', 'libexec'])
@pytest.mark.parametrize('kind', ['directory', 'link'])
def test_directory_that_another_account_makes_meanwhile_is_refused(
    scene, program, accounts, monkeypatch, part, kind
):
    """What was missing when the way was looked at can be there when it is to be made."""
    above, others = scene / 'above', scene / 'others'
    prefix = above / 'prefix' if not part else above
    above.mkdir()
    others.mkdir()
    make = ['mkdir', '-p'] if kind == 'directory' else ['ln', '-s', others]

    def lock(*arguments):
        above.chmod(0o1777)
        run(*make, prefix / part, account=accounts.attacker, check=True)
        return _lock(*arguments)

    above.chmod(0o755 if part else 0o1777)
    monkeypatch.setattr('caps.admin.ppy._lock', lock)
    with pytest.raises(InstallError, match=r'^[^:]*(is no directory|belongs to uid|write to)'):
        install(program, prefix)
    assert files(above) in ([], [prefix / part])
    assert files(others) == []


def test_prefix_of_another_account_names_no_place_of_roots(scene, program, accounts):
    other = install(program, scene / 'other')
    den = scene / 'den'
    den.mkdir()
    os.chown(den, accounts.attacker.uid, accounts.attacker.gid)
    for part in 'bin', 'libexec':
        run('ln', '-s', scene / 'other' / part, den, account=accounts.attacker, check=True)
    for deed in lambda: install(program, den), lambda: remove(den):
        with pytest.raises(InstallError, match=f'{den} belongs to uid {accounts.attacker.uid}'):
            deed()
    assert installation_at(scene / 'other') == other


def test_launcher_that_another_account_made_up_removes_nothing_and_has_nothing_read(
    scene, program, accounts, capsys
):
    other = install(program, scene / 'other')
    den = scene / 'den'
    (den / 'bin').mkdir(parents=True)
    (den / 'libexec').symlink_to(scene / 'other/libexec')
    shutil.copyfile(other.ppy, den / 'bin/ppy')
    for path in den, den / 'bin', den / 'bin/ppy':
        os.chown(path, accounts.attacker.uid, accounts.attacker.gid)
    with pytest.raises(InstallError, match=f'{den} belongs to uid {accounts.attacker.uid}'):
        remove(den)
    assert installation_at(scene / 'other') == other
    # what it says to be the copy would be read to its end, which is never
    content = (den / 'bin/ppy').read_bytes()
    endless = b'/dev/zero'.ljust(len(other.capped), b'\0')
    (den / 'bin/ppy').write_bytes(content.replace(os.fsencode(other.capped), endless))
    done = run(sys.executable, '-m', 'caps', 'ppy', 'status', '--prefix', den)
    assert done.returncode == 1
    assert f'{den} belongs to uid {accounts.attacker.uid}' in done.stderr


@needs('cap_sys_admin')
def test_prefix_on_a_nosuid_mount_is_refused(prefix):
    prefix.mkdir()
    run('mount', '-t', 'tmpfs', '-o', 'nosuid,mode=755', 'none', prefix, check=True)
    try:
        refused(prefix, 'nosuid.*choose another --prefix')
    finally:
        run('umount', prefix, check=True)


@pytest.mark.parametrize('name', ['', '.', '..', 'a/b', '/ppy'])
def test_name_that_is_a_path_is_refused(prefix, name):
    refused(prefix, 'cannot be the name', name=name)


def test_empty_path_is_not_the_working_directory(monkeypatch, scene):
    monkeypatch.chdir(scene)
    for function in install, installation_at, remove:
        with pytest.raises(InstallError, match="'' cannot be the directory"):
            function(prefix='')
    assert not list(scene.iterdir())


def test_name_of_another_program_is_refused(prefix):
    (prefix / 'bin').mkdir(parents=True)
    shutil.copyfile(SH, prefix / 'bin/sh')
    refused(prefix, 'exists and is not a ppy', name='sh')


def test_unknown_capability_is_refused_with_the_nearest(prefix):
    refused(prefix, 'cap_net_raw', allow='cap_net_rwa')
    refused(prefix, 'no capability 63', allow='63')


@pytest.mark.parametrize('group', ['absent-group', ''])
def test_unknown_group_is_refused(prefix, group):
    refused(prefix, f"there is no group '{group}'", group=group)


def test_account_that_is_not_root_is_refused(prefix, accounts, system_venv):
    command = [system_venv / 'bin/caps', 'ppy', 'install', '--prefix', prefix]
    done = run(*command, account=accounts.attacker)
    assert done.returncode == 1
    assert done.stderr.startswith('caps: this needs root')
    assert 'sudo' in done.stderr


def test_root_without_the_capabilities_is_not_told_to_use_sudo(prefix, system_venv):
    command = f'exec {system_venv}/bin/caps ppy install --prefix {prefix}'
    done = run('capsh', '--drop=cap_chown', '--shell=/bin/sh', '--', '-c', command)
    assert done.returncode == 1
    assert done.stderr.startswith('caps: this root lacks cap_chown: ')


def test_directory_of_an_account_that_is_not_mapped_is_not_to_be_changed(prefix):
    prefix.mkdir()
    os.chown(prefix, 65534, 0)
    refused(prefix, f'^{prefix} belongs to nobody, or .*: use another directory$')


def test_bounding_set_without_what_ppy_needs_is_refused(prefix, system_venv):
    command = f'exec {system_venv}/bin/caps ppy install --prefix {prefix}'
    done = run('capsh', '--drop=cap_setpcap', '--shell=/bin/sh', '--', '-c', command)
    assert done.returncode == 1
    assert 'lacks cap_setpcap, so that executing ppy would fail with EPERM' in done.stderr
    assert not prefix.exists()


DAMAGE = {
    'launcher chmod': (lambda it: os.chmod(it.ppy, 0o775), 'ppy is -rwxrwxr-x'),
    'launcher setcap -r': (
        lambda it: run('setcap', '-r', it.ppy, check=True),
        'ppy is .* without capabilities, not ',
    ),
    'launcher chown': (lambda it: os.chown(it.ppy, 1, 0), 'ppy is -rwxr-xr-x 1:0'),
    'copy chmod': (lambda it: os.chmod(it.capped, 0o755), 'program is -rwxr-xr-x'),
    'copy setcap -r': (
        lambda it: run('setcap', '-r', it.capped, check=True),
        'program is .* without capabilities, not .*--allow CAPS',
    ),
    'copy setcap': (
        lambda it: run('setcap', 'cap_kill=ip', it.capped, check=True),
        'program is .* cap_kill=ip, not .* cap_kill=i',
    ),
    'copy chown': (lambda it: os.chown(it.capped, 1, 0), 'program is -rwx------ 1:0'),
    'copy gone': (
        lambda it: os.unlink(it.capped),
        'program: No such file or directory: caps ppy install',
    ),
    'original changed': (
        lambda it: Path(it.original).write_bytes(Path(it.original).read_bytes() + b'\0'),
        'program has changed since it was copied: caps ppy install',
    ),
    'original gone': (lambda it: os.unlink(it.original), 'cannot be the interpreter: No such'),
    'original writable': (
        lambda it: os.chmod(it.original, 0o777),
        'other than root can change .*program',
    ),
    'bin writable': (
        lambda it: os.chmod(os.path.dirname(it.ppy), 0o777),
        'users other than root can write to .*/bin: chmod go-w',
    ),
    'libexec writable': (
        lambda it: os.chmod(it.libexec, 0o777),
        'users other than root can write to .*/libexec: chmod go-w',
    ),
    'prefix writable': (
        lambda it: os.chmod(it.prefix, 0o777),
        'users other than root can write to .*/prefix: chmod go-w',
    ),
    'older kernel': (
        lambda it: Caps(f'{CapSet(range(38))}=i').apply(it.capped),
        'from before this kernel, which adds cap_perfmon,cap_bpf,cap_checkpoint_restore: caps ppy',
    ),
}


@pytest.mark.parametrize(('damage', 'sentence'), DAMAGE.values(), ids=DAMAGE)
def test_status_notices(prefix, program, installed, damage, sentence):
    damage(installed)
    problems = installation_at(prefix).problems
    assert len(problems) == 1
    assert re.search(sentence, problems[0])
    assert main(['ppy', 'status', '--prefix', str(prefix)]) == 1


def test_command_that_mends_is_the_one_that_installed(prefix, program, accounts, capsys):
    install(
        program,
        prefix,
        'x',
        setuid=True,
        group=accounts.owner.name,
        allow='linux_immutable',
        allow_root=True,
    )
    found = installation_at(prefix, 'x')
    assert found.command == (
        f'caps ppy install --interpreter {program} --prefix {prefix} --name x --setuid '
        f'--allow-root --group {accounts.owner.name} --allow cap_linux_immutable'
    )
    os.unlink(found.capped)
    assert main(found.command.split()[1:]) == 0
    assert installation_at(prefix, 'x').problems == []


def test_account_that_is_not_root_sees_what_it_can(prefix, installed, accounts, system_venv):
    command = [system_venv / 'bin/caps', 'ppy', 'status', '--prefix', prefix]
    done = run(*command, account=accounts.attacker)
    assert done.returncode == 1
    assert installed.capped in done.stdout
    assert done.stderr.count('\n') == 1
    assert 'only root can compare' in done.stderr


def test_command_line_installs_looks_and_removes(prefix, program, capsys):
    place = ['--prefix', str(prefix), '--name', 'ppy-x']
    assert main(['ppy', 'install', '--interpreter', str(program), *place]) == 0
    assert f'{prefix}/bin/ppy-x runs scripts under {program}' in capsys.readouterr().out
    assert main(['ppy', 'status', *place]) == 0
    assert main(['ppy', 'remove', *place]) == 0
    assert capsys.readouterr().err == ''
    assert main(['ppy', 'status', *place]) == 1
    assert main(['ppy', 'remove', *place]) == 1
    assert 'caps: ' in capsys.readouterr().err


def test_wrong_usage_exits_with_2(capsys):
    for arguments in (['ppy', 'instal'], ['ppy', 'install', '--alow', 'x']):
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        assert raised.value.code == 2
        assert 'usage: caps' in capsys.readouterr().err


def test_help_shows_examples(capsys):
    for arguments in (['ppy', '--help'], ['ppy', 'install', '--help']):
        with pytest.raises(SystemExit):
            main(arguments)
        assert 'sudo caps ppy install --interpreter' in capsys.readouterr().out


def test_module_is_the_same_command_line():
    done = run(sys.executable, '-m', 'caps', 'ppy', '--help')
    assert done.returncode == 0
    assert 'usage: caps ppy' in done.stdout


def test_installing_again_keeps_what_was_chosen(prefix, program, accounts, setuid):
    group = accounts.owner.name
    chosen = install(
        program, prefix, setuid=setuid, group=group, allow='cap_kill', allow_root=not setuid
    )
    again = install(prefix=prefix)
    assert again.command == chosen.command
    assert again.problems == []
    other = install(prefix=prefix, allow='all', setuid=not setuid)
    assert other.allowed == CapSet.all()
    assert (other.original, other.group) == (chosen.original, group)
    assert (other.setuid, other.allow_root) == (not setuid, not setuid)
    reset = install(SH, prefix, reset=True)
    assert (reset.group, reset.allowed, reset.setuid) == (None, CapSet.all(), False)
    assert not reset.allow_root


def test_limits_that_nothing_tells_any_more_are_asked_for(prefix, program, installed):
    Caps.remove(installed.capped)
    refused(prefix, 'what scripts can be given: say it with --allow', None)
    assert install(prefix=prefix, allow='cap_kill').allowed == CapSet('cap_kill')


def test_launcher_of_another_account_does_not_say_what_is_kept(prefix, installed, accounts):
    os.chown(installed.ppy, accounts.attacker.uid, 0)
    refused(prefix, f'belongs to uid {accounts.attacker.uid}, .* --reset', None)
    assert install(SH, prefix, reset=True).problems == []


def test_members_of_a_group_that_is_no_more_chosen_cannot_use_the_copy(prefix, accounts):
    with_group = install(SH, prefix, group=accounts.attacker.name)
    assert run(with_group.capped, '-c', ':', account=accounts.attacker).returncode == 0
    install(SH, prefix, reset=True)
    with pytest.raises(PermissionError):
        run(with_group.capped, '-c', ':', account=accounts.attacker)


def test_status_tells_a_launcher_of_another_version(prefix, installed, monkeypatch, tmp_path):
    for name in 'ppy', 'ppy-check':
        content = (installation.TEMPLATES / name).read_bytes()
        (tmp_path / name).write_bytes(content.replace(b'usage', b'Usage'))
    monkeypatch.setattr(installation, 'TEMPLATES', tmp_path)
    problems = installation_at(prefix).problems
    assert [problem.split()[0] for problem in problems] == [
        installed.ppy,
        f'{installed.ppy}-check',
    ]
    assert all('the ppy of this package, version 0' in problem for problem in problems)
    assert all(problem.endswith(installed.command) for problem in problems)


def test_python_whose_library_is_another_accounts_is_refused(scene, prefix, accounts, den):
    """A copy of a python has its standard library where it was copied from."""
    python = os.path.realpath('/usr/bin/python3')
    version = os.path.basename(python)
    (den / 'lib').mkdir()
    (den / 'lib' / version).symlink_to(f'/usr/lib/{version}')
    (den / 'bin').mkdir()
    for path in den / 'lib', den / 'lib' / version:
        os.chown(path, accounts.attacker.uid, accounts.attacker.gid, follow_symlinks=False)
    (scene / 'env/bin').mkdir(parents=True)
    shutil.copy(python, scene / 'env/bin/python3')
    (scene / 'env/pyvenv.cfg').write_text(f'home = {den}/bin\n')
    for path in scene / 'env', scene / 'env/bin':
        path.chmod(0o755)
    program = scene / 'env/bin/python3'
    code = 'import sys; print(sys.path)'
    assert f'{den}/lib' in run(program, '-c', code, account=accounts.attacker).stdout
    told = f'takes code from {den}/lib.*belongs to uid {accounts.attacker.uid}'
    refused(prefix, told, program)


def test_package_that_other_accounts_cannot_import_is_told(prefix, scene, wheel):
    venv = make_venv('/usr/bin/python3', scene / 'venv')
    pip(venv, 'install', '--no-index', '--no-deps', wheel)
    python = venv / 'bin/python'
    (package,) = venv.glob('lib/python*/site-packages/caps')
    assert install(python, prefix).problems == []
    package.chmod(0o700)  # as umask 077 has it
    told = f'{python} has caps installed, but other accounts cannot import it: '
    assert [problem.startswith(told) for problem in installation_at(prefix).problems] == [True]
    refused(prefix, told, None)


@needs('cap_sys_admin')
def test_status_says_what_it_lacks_without_proc(prefix, installed):
    code = f'umount -l /proc; exec {sys.executable} -m caps ppy status --prefix {prefix}'
    done = run('unshare', '-m', 'sh', '-c', code)
    assert done.returncode == 1
    assert done.stderr.startswith('caps: /proc is not mounted here')
    assert done.stderr.count('\n') == 1


@needs('cap_sys_admin')
def test_status_notices_a_noexec_mount(prefix, installed):
    run('mount', '--bind', prefix, prefix, check=True)
    try:
        run('mount', '-o', 'remount,bind,noexec', prefix, check=True)
        assert f'{prefix}/bin is on a noexec mount' in installation_at(prefix).problems[0]
    finally:
        run('umount', prefix, check=True)


def test_remove_keeps_what_it_does_not_know(prefix, installed):
    for name in 'ppy-settings', 'ppy-12345678', 'ppy-x-12345678':
        (prefix / 'libexec' / name).mkdir()
        (prefix / 'libexec' / name / 'one').touch()
        (prefix / 'libexec' / name / 'two').touch()
    remove(prefix)
    assert len(files(prefix)) == 6


def test_chain_of_links_to_a_closed_directory_is_shown(prefix, program, scene):
    (scene / 'one').symlink_to(scene / 'two')
    (scene / 'two').symlink_to(program)
    program.parent.chmod(0o700)
    said = refused(prefix, 'is closed to other accounts', scene / 'one')
    assert said.endswith(f'(by way of {scene}/one -> {scene}/two -> {program})')
