"""Installing and removing ppy, killed, signalled, refused by the file system, and twice at once."""

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from caps import Caps
from caps.admin import proof
from caps.admin.ppy import InstallError, install, installation_at, remove
from caps.admin.registry import Ppy, forget, recorded
from caps.cli import main
from caps.system.path import NOBODY
from caps.system.run import Account, run_as
from support import CHILDREN, PATIENCE, SOAK, needs, needs_root, require, run

pytestmark = needs_root

SH = '/bin/sh'
STRIDE = 1 if SOAK > 1 else 17  # of the points at which a command is killed
COMMAND = [sys.executable, '-m', 'caps', 'ppy']


def interrupted(name, *arguments, prepare, stride=STRIDE):
    """Prepare and interrupt a command at one point after the other, until it comes to its end."""
    for point in range(1 if stride == 1 else 3, 10_000, stride):
        prepare()
        command = [sys.executable, CHILDREN / 'killed.py', point, name, *arguments]
        done = run('prlimit', '--core=0', *command)
        yield done
        if done.returncode == 0:
            break


def files(directory):
    return [path for path in Path(directory).rglob('*') if not path.is_dir()]


def is_recorded(prefix):
    return recorded(Ppy(str(prefix), 'ppy')) is not None


def exposed(prefix):
    """What others can reach below libexec that gives privilege to everyone who executes it."""
    for path in (prefix / 'libexec').rglob('*'):
        way = [above for above in path.parents if above.is_relative_to(prefix)]
        if path.is_file() and all(above.stat().st_mode & 0o001 for above in way):
            info = path.stat()
            is_marked = info.st_mode & 0o6000 or Caps.from_file(path).marked
            if is_marked and (info.st_mode & 0o007 or info.st_uid):
                yield path


@pytest.fixture
def prefix(scene):
    return scene / 'prefix'


@pytest.fixture
def launches(script, accounts):
    """Whether a ppy with sh as its interpreter launches a script."""
    marked = script(':', 'cap_kill=i')
    return lambda ppy: run(ppy, marked, account=accounts.attacker).returncode == 0


def start(prefix, options):
    """Have nothing below a prefix, or an installation with options."""
    shutil.rmtree(prefix, ignore_errors=True)
    forget(Ppy(str(prefix), 'ppy'))
    if options is not None:
        install(SH, prefix, **options)


@pytest.mark.parametrize(
    'before', [None, {}, {'setuid': True}], ids=['fresh', 'over', 'over set-uid']
)
def test_killed_install_leaves_nothing_to_the_next_ones(prefix, before, launches):
    exposures = 0
    for done in interrupted(
        *('SIGKILL', 'ppy', 'install', '--prefix', prefix, '--interpreter', SH),
        prepare=lambda: start(prefix, before),
    ):
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert {path.name for path in exposed(prefix)} <= {'ppy'}
        exposures += any(exposed(prefix))
        assert is_recorded(prefix) or not (prefix / 'bin/ppy').exists()
        if before is not None:
            assert launches(prefix / 'bin/ppy')
        assert install(SH, prefix).problems == []
        assert list(exposed(prefix)) == []
        remove(prefix)
        assert files(prefix) == []
    # Killed as it is about to get its place, a launcher that is proved is where others can go; so
    # is the one that it replaces, until a launch that had begun is over.
    assert exposures <= (1 if before is None else 10)


def test_killed_remove_can_be_repeated(prefix):
    for done in interrupted(
        'SIGKILL', 'ppy', 'remove', '--prefix', prefix, prepare=lambda: start(prefix, {})
    ):
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert is_recorded(prefix) or not (prefix / 'bin/ppy').exists()
        if done.returncode:
            assert main(['ppy', 'remove', '--prefix', str(prefix)]) in (0, 1)
        assert files(prefix) == []
        assert not is_recorded(prefix)


@pytest.mark.parametrize('before', [None, {}], ids=['fresh', 'over'])
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGQUIT'])
def test_signal_leaves_what_was_or_what_is_installed(prefix, name, before, launches):
    for done in interrupted(
        *(name, 'ppy', 'install', '--prefix', prefix, '--interpreter', SH),
        prepare=lambda: start(prefix, before),
        stride=STRIDE * 3,
    ):
        number = signal.Signals[name]
        expected = (0, 130, -number) if number == signal.SIGINT else (0, -number)
        assert done.returncode in expected, done.stderr
        assert 'Traceback' not in done.stderr or number == signal.SIGINT
        installation = installation_at(prefix)
        if before is None and not installation.original:
            assert files(prefix) == []
            assert not is_recorded(prefix)
        else:
            assert installation.problems == []
            assert launches(installation.ppy)
            # The signal can arrive as the lock is held, which the next command then takes.
            assert len({*os.listdir(prefix / 'libexec')} - {'.ppy.lock'}) <= 2


@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'install'])
def test_nobody_reaches_the_script_of_the_proof(prefix, monkeypatch, is_naive):
    """It is marked, and its owner could write to it after ppy has looked."""
    reached = []

    def run_and_attack(argv, account):
        """What another process of an account that others have too does meanwhile."""
        finished = run_as(['/usr/bin/tee', argv[-1]], Account(NOBODY, NOBODY))
        reached.append(finished.status == 0)
        return run_as(argv, account)

    if is_naive:
        monkeypatch.setattr('caps.admin.staging.unused_id', lambda: NOBODY)
    monkeypatch.setattr(proof, 'run_as', run_and_attack)
    with pytest.raises(InstallError) if is_naive else nullcontext():  # its mark is gone then
        install(SH, prefix)
    assert reached == [is_naive]


@pytest.mark.parametrize('before', [None, {}], ids=['fresh', 'over'])
def test_installs_at_once_wait_for_each_other(prefix, before):
    for _ in range(SOAK):
        start(prefix, before)
        command = [*COMMAND, 'install', '--prefix', prefix, '--interpreter', SH]
        each = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
        assert [child.wait(PATIENCE) for child in each] == [0] * 4
        assert installation_at(prefix).problems == []
        assert len(os.listdir(prefix / 'libexec')) == 2
        remove(prefix)
        assert files(prefix) == []


def test_no_launch_fails_while_ppy_is_installed_again(prefix, launches, script, accounts):
    install(SH, prefix)
    loop = 'until [ -e "$2" ]; do "$0" "$1" || exit 1; done'
    end = prefix / 'end'
    command = [SH, '-c', loop, prefix / 'bin/ppy', script(':', 'cap_kill=i'), end]
    identity = {'user': accounts.attacker.uid, 'group': accounts.attacker.gid}
    each = [subprocess.Popen(command, extra_groups=[], **identity) for _ in range(2)]
    try:
        for _ in range(4 * SOAK):
            run(*COMMAND, 'install', '--prefix', prefix, check=True)
    finally:
        end.touch()
    assert [child.wait(PATIENCE) for child in each] == [0, 0]


def test_another_account_cannot_keep_an_installation_waiting(prefix, accounts):
    install(SH, prefix)
    code = 'import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print(); input()'
    identity = {'user': accounts.attacker.uid, 'group': accounts.attacker.gid}
    command = ['/usr/bin/python3', '-c', code, prefix / 'libexec']
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen(command, extra_groups=[], **identity, **pipes) as locking:
        locking.stdout.readline()
        try:
            assert install(prefix=prefix).problems == []
            remove(prefix)
        finally:
            locking.communicate(b'\n')


def test_error_after_the_launchers_are_in_place_takes_nothing_back(prefix, monkeypatch, launches):
    install(SH, prefix)

    def fail(installation):
        raise OSError(5, 'Input/output error')

    with monkeypatch.context() as patch:
        patch.setattr('caps.admin.installation.Installation.stages', fail)
        with pytest.raises(OSError, match='Input/output error'):
            install(prefix=prefix)
    assert installation_at(prefix).problems == []
    assert launches(prefix / 'bin/ppy')
    remove(prefix)
    assert files(prefix) == []


@pytest.fixture
def unchangeable():
    """A function that has the file system refuse every change of a file."""
    require(shutil.which('chattr'), 'e2fsprogs')
    paths = []

    def make(path):
        if run('chattr', '+i', path).returncode:
            pytest.skip('this file system has no immutable files')
        paths.append(path)

    yield make
    for path in paths:
        run('chattr', '-i', path, check=True)


@pytest.mark.parametrize('name', ['ppy', 'ppy-check'])
def test_launcher_that_cannot_be_replaced_leaves_both_as_they_were(
    prefix, unchangeable, name, launches
):
    before = install(SH, prefix)
    unchangeable(prefix / 'bin' / name)
    with pytest.raises(OSError, match=f'bin/{name}'):
        install(SH, prefix)
    assert installation_at(prefix) == before
    assert launches(before.ppy)
    assert len(os.listdir(prefix / 'libexec')) == 1


def test_what_cannot_be_cleaned_is_told_and_is_no_failure(prefix, unchangeable, capsys):
    first = install(SH, prefix)
    second = install(SH, prefix)
    unchangeable(first.capped)
    unchangeable(second.capped)
    third = install(SH, prefix)
    stages = {os.path.dirname(old.capped) for old in (first, second)}
    assert {problem.split()[0] for problem in third.problems} == stages
    assert all('stays: Operation not permitted' in problem for problem in third.problems)
    assert installation_at(prefix).problems == []


@needs('cap_sys_admin')
def test_file_system_without_capabilities_is_named_in_a_sentence(prefix, capsys):
    prefix.mkdir()
    run('mount', '-t', 'ramfs', '-o', 'mode=755', 'none', prefix, check=True)
    try:
        arguments = ['ppy', 'install', '--prefix', str(prefix), '--interpreter', SH]
        assert main(arguments) == 1
        assert capsys.readouterr().err.startswith(f'caps: {prefix}/libexec/ppy-')
        assert os.listdir(prefix) == []
    finally:
        run('umount', prefix, check=True)


@pytest.mark.parametrize('deed', [remove, lambda prefix: install(SH, prefix)])
def test_what_a_power_cut_emptied_is_replaced_and_removed(prefix, deed):
    installation = install(SH, prefix)
    for path in installation.ppy, f'{installation.ppy}-check', installation.capped:
        os.truncate(path, 0)
    deed(prefix)
    if deed is not remove:
        assert installation_at(prefix).problems == []
        remove(prefix)
    assert files(prefix) == []


FS_IOC_SHUTDOWN = 0x8004587D
NO_FLUSH = struct.pack('=I', 2)


@needs('cap_sys_admin')
@pytest.mark.parametrize('before', [None, {'allow': 'cap_kill'}], ids=['fresh', 'over'])
def test_power_cut_after_an_install_leaves_it_whole(scene, before, launches):
    """The file system stops without writing what only memory has."""
    image, mounted = scene / 'image', scene / 'mounted'
    prefix = mounted / 'prefix'
    mounted.mkdir()
    run('truncate', '-s', '64M', image, check=True)
    run('mkfs.ext4', '-q', image, check=True)
    if (done := run('mount', '-o', 'loop', image, mounted)).returncode:
        pytest.skip(f'no loop device: {done.stderr.strip()}')
    try:
        mounted.chmod(0o755)
        if before:
            install(SH, prefix, **before)
            os.sync()
        install(SH, prefix, allow='cap_kill')
        fd = os.open(mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, NO_FLUSH)
        except OSError as error:
            pytest.skip(f'this kernel cannot cut a file system off: {error}')
        finally:
            os.close(fd)
        run('umount', mounted, check=True)
        run('mount', '-o', 'loop', image, mounted, check=True)
        installation = installation_at(prefix)
        assert installation.problems == []
        assert launches(installation.ppy)
        remove(prefix)
    finally:
        run('umount', mounted, check=True)
