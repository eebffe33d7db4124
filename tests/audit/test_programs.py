"""Programs that everybody knows: what an audit says of them, in a network namespace of the test."""

import json
import os
import shutil
import sys

import pytest

from support import needs, needs_root, require, run

pytestmark = [needs_root, needs('cap_net_admin', 'cap_net_raw', 'cap_sys_admin')]


@pytest.fixture
def audit():
    """A function that audits a command in a network namespace; its document."""

    def start(*command, options=(), status=0, account=None):
        options = [*options, *(['--as', account.name] if account else [])]
        words = [sys.executable, '-m', 'caps', 'audit', '--json', *options, '--', *command]
        path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
        result = run(
            'unshare', '--net', 'sh', '-c', 'ip link set lo up && exec "$@"', 'sh', *words,
            cwd='/', env=os.environ | {'PATH': path},
        )  # fmt: skip
        assert result.returncode == status, result.stderr
        assert result.stderr == ''
        return json.loads(result.stdout)

    require(shutil.which('ip'), 'iproute2')
    return start


def verdicts(found, verdict):
    return [each['capability'] for each in found['verdicts'] if each['verdict'] == verdict]


def test_ping_needs_net_raw_and_not_the_setuid_that_it_asks_for(audit, accounts):
    require(shutil.which('ping'), 'iputils-ping')
    found = audit('ping', '-c1', '127.0.0.1', account=accounts.owner)
    assert found['needs'] == ['cap_net_raw']
    assert 'cap_setuid' in verdicts(found, 'unused')


def test_tar_of_a_closed_directory_needs_to_search_and_not_to_override(audit, scene, accounts):
    closed = scene / 'closed'
    closed.mkdir()
    (closed / 'file').write_text('closed too')
    (closed / 'file').chmod(0o600)
    closed.chmod(0o700)
    found = audit('tar', 'cf', '-', '-C', scene, 'closed', account=accounts.owner)
    assert found['needs'] == ['cap_dac_read_search']
    assert 'cap_dac_override' in verdicts(found, 'unused')


def test_chown_of_what_is_another_s_needs_chown(audit, scene, accounts):
    (scene / 'file').touch()
    found = audit('chown', '0:0', scene / 'file', account=accounts.owner)
    assert found['needs'] == ['cap_chown']


ASK = 'python3 -c \'import urllib.request as r; r.urlopen("http://127.0.0.1")\''
ANSWERS = f'until {ASK}; do sleep 0.1; done'


def test_web_server_on_port_80_needs_to_bind_it(audit, accounts):
    options = '--for', '2', '--ready', ANSWERS
    command = 'python3', '-m', 'http.server', '80', '--bind', '127.0.0.1'
    found = audit(*command, options=options, account=accounts.owner)
    assert found['needs'] == ['cap_net_bind_service']
    assert found['runs'][0]['status'] == 1
    assert found['runs'][-1]['status'] is None


def test_netlink_refuses_in_a_message_and_net_admin_is_found_all_the_same(audit, accounts):
    found = audit('ip', 'link', 'set', 'lo', 'mtu', '1400', account=accounts.owner)
    assert found['needs'] == ['cap_net_admin']
    first = found['runs'][0]
    assert {each['error'] for each in first['refused'] if each['capability']} == {None}


def test_nice_goes_on_and_degrades(audit, accounts):
    found = audit('nice', '-n', '-5', 'true', account=accounts.owner)
    assert found['needs'] == []
    assert verdicts(found, 'degrades') == ['cap_sys_nice']


def test_mount_asks_who_it_is(audit, scene, accounts):
    command = 'mount', '-t', 'tmpfs', 'none', scene
    found = audit(*command, account=accounts.owner, status=1)
    assert found['needs'] is None
    assert audit(*command, options=['--as', 'root'])['needs'] == ['cap_sys_admin']


def test_sysctl_of_root_is_opened_by_no_capability(audit, accounts):
    command = 'sh', '-c', 'echo 0 >/proc/sys/kernel/panic'
    found = audit(*command, account=accounts.owner, status=1)
    assert found['needs'] is None
    refused = found['runs'][0]['refused']
    assert [(each['capability'], each['error']) for each in refused] == [(None, 'EACCES')]


@pytest.mark.parametrize('start', ['none', 'all'])
def test_answer_is_the_same_from_all(audit, accounts, start):
    require(shutil.which('ping'), 'iputils-ping')
    command = 'ping', '-c1', '127.0.0.1'
    found = audit(*command, options=['--from', start], account=accounts.owner)
    assert found['needs'] == ['cap_net_raw']


def test_what_is_refused_in_a_user_namespace_of_the_command_is_nothing_here(audit, accounts):
    found = audit('unshare', '--user', 'chroot', '/', 'true', account=accounts.owner, status=1)
    everywhere = [each['capability'] for run in found['runs'] for each in run['refused']]
    assert 'cap_sys_chroot' not in everywhere
