"""The system's log: each launch and each refusal is one line of it, and it stops nothing."""

import os
import re
import socket
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import needs, needs_root, program, run
from support.accounts import Account
from support.attacks import PYTHON
from support.launchers import MODES, make_launcher

pytestmark = needs_root


@dataclass
class Log:
    """A /dev of the test's own, whose log the test makes and reads."""

    path: Path
    launcher: object
    account: Account

    def run(self, *command, **options):
        """Run a command with that /dev as the attacker."""
        become = ['setpriv', f'--reuid={self.account.uid}', f'--regid={self.account.gid}']
        enter = ['unshare', '-m', 'sh', '-c', 'mount --bind "$0" /dev && exec "$@"', self.path]
        return run(*enter, *become, '--clear-groups', *command, **options)

    def bind(self, kind=socket.SOCK_DGRAM):
        log = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        log.bind(f'{self.path}/log')
        os.chmod(f'{self.path}/log', 0o666)
        return log

    def lines(self, path, *start):
        """What a launch of a script leaves there, after the process's id."""
        with self.bind() as log:
            done = self.run(*start, self.launcher.path, path)
            lines = []
            with suppress(BlockingIOError):
                while True:
                    lines.append(re.sub(r'ppy\[\d+\]', 'ppy', log.recv(1 << 16).decode()))
        (self.path / 'log').unlink()
        return done, lines


@pytest.fixture(params=MODES)
def log(request, launch_under, scene, accounts):
    path = scene / 'dev'
    path.mkdir()
    os.mknod(path / 'null', stat.S_IFCHR, os.makedev(1, 3))
    os.chmod(path / 'null', 0o666)
    return Log(path, launch_under(request.param, 'sh'), accounts.attacker)


on_a_dev_of_its_own = needs('cap_sys_admin', 'cap_mknod')


@on_a_dev_of_its_own
def test_launch_is_one_line_in_the_log(log, script, accounts):
    owner, attacker = accounts.owner, accounts.attacker
    path = script('echo ran', 'cap_kill,cap_net_raw=i')
    done, lines = log.lines(path)
    assert done.stdout == 'ran\n'
    line = f'<86>ppy: from uid {attacker.uid} gid {attacker.gid}: launch of {path} '
    line += f'as uid {owner.uid} gid {owner.gid} with cap_kill,cap_net_raw=i'
    assert lines == [line]


@on_a_dev_of_its_own
def test_refusal_is_one_line_in_the_log(log, script, accounts):
    path, attacker = script('echo ran', None), accounts.attacker
    done, lines = log.lines(path)
    assert (done.returncode, done.stdout) == (126, '')
    reason = done.stderr.removeprefix('ppy: ').removesuffix('\n')
    assert 'must be marked' in reason
    assert lines == [f'<84>ppy: from uid {attacker.uid} gid {attacker.gid}: {reason}']


# How the attacker starts ppy so that it may come to nothing before it has told the log.
SILENCE = {
    'broken': '{ sleep 0.1; exec "$@"; } 2>&1 >/dev/null | true',
    'full': '{ printf %65536s; exec "$@"; } 2>&1 | sleep 0.5',
    'of no size': 'ulimit -f 0; exec 2>file; exec "$@"',
    'one too many': 'ulimit -n 3; exec "$@"',
}


@on_a_dev_of_its_own
@pytest.mark.parametrize('start', SILENCE.values(), ids=SILENCE)
def test_refusal_is_in_the_log_where_the_callers_stderr_is(log, script, den, start):
    path = script('echo ran', None)
    _, lines = log.lines(path, 'env', f'--chdir={den}', 'bash', '-c', start, 'bash')
    assert len(lines) == 1
    assert str(path) in lines[0]


@on_a_dev_of_its_own
def test_refusal_at_the_very_end_names_the_caller(log, script, accounts, scene):
    log.launcher = make_launcher(log.launcher.mode, '/bin/sh', scene / 'prefix')
    os.chmod(log.launcher.installed.capped, 0o600)
    _, lines = log.lines(script('echo ran', 'cap_kill=i'))
    assert [line[:4] for line in lines] == ['<86>', '<84>']
    assert all(
        f'from uid {accounts.attacker.uid} gid {accounts.attacker.gid}:' in line for line in lines
    )


@on_a_dev_of_its_own
@needs('cap_sys_ptrace')
def test_caller_keeps_no_launch_out_of_the_log_by_taking_its_descriptors(log, script, accounts):
    path, number, ended = script('echo ran', 'cap_kill=i'), 0, False
    log.account = Account('root', 0, 0)
    while not ended:
        start = [PYTHON, '-c', program('deprive'), accounts.attacker.uid, number]
        done, lines = log.lines(path, *start)
        assert done.returncode == 0, done.stderr
        assert len(lines) == 1, f'at descriptor {number}'
        assert 'limited' not in done.stdout, f'at descriptor {number}'
        ended, number = 'ended' in done.stdout, number + 1
    assert number > 20


@on_a_dev_of_its_own
@pytest.mark.parametrize('mark', ['cap_kill=i', None], ids=['launch', 'refusal'])
def test_name_of_a_script_forges_no_line_in_the_log(log, script, mark):
    name = '\n<86>ppy[1]: from uid 0\x1b[2J\x7f\udcff'
    done, lines = log.lines(script('echo ran', mark, name=name))
    assert done.stdout == ('ran\n' if mark else '')
    assert len(lines) == 1
    assert re.fullmatch('[ -~]+', lines[0])
    assert r'\x0a\x3c86\x3eppy' in lines[0]


def fill(log, path):
    """Send what nobody reads until nothing more is taken."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with sender, suppress(BlockingIOError):
        while True:
            sender.sendto(b'x', str(path))
    return log


LOGS = {
    'missing': lambda it: None,
    'full': lambda it: fill(it.bind(), it.path / 'log'),
    'left behind': lambda it: it.bind().close(),
    'a stream': lambda it: it.bind(socket.SOCK_STREAM),
    'a fifo': lambda it: os.mkfifo(it.path / 'log', 0o666),
    'a file': lambda it: (it.path / 'log').touch(),
    'a link to itself': lambda it: (it.path / 'log').symlink_to('log'),
}


@on_a_dev_of_its_own
@pytest.mark.parametrize('spoil', LOGS.values(), ids=LOGS)
@pytest.mark.parametrize('mark', ['cap_kill=i', None], ids=['launch', 'refusal'])
def test_log_neither_delays_nor_stops_anything(log, script, spoil, mark):
    path = script('echo ran', mark)
    kept = spoil(log)
    try:
        done = log.run(log.launcher.path, path)
    finally:
        if kept:
            kept.close()
    assert (done.returncode, done.stdout) == ((0, 'ran\n') if mark else (126, ''))


@on_a_dev_of_its_own
def test_full_log_would_delay_another_program(log):
    with fill(log.bind(), log.path / 'log'), pytest.raises(subprocess.TimeoutExpired):
        log.run(PYTHON, '-c', 'import syslog; syslog.syslog("x")', timeout=1)
