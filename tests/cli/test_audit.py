"""caps audit: what it says, in words and as a document, and when it refuses."""

import json
import os
import subprocess
import sys

import pytest

from caps.cli import main
from support import needs_root, run
from support.documents import PARSERS, matches

pytestmark = needs_root


def audit(*arguments, **options):
    return run(sys.executable, '-m', 'caps', 'audit', *arguments, **options)


def document(capsys, *arguments, status=0):
    """The document of an audit, which is of its shape."""
    assert main(['audit', '--json', *map(str, arguments)]) == status
    found = json.loads(capsys.readouterr().out)
    assert matches(PARSERS['audit'].shape, found), found
    return found


def test_answer_says_what_is_needed_and_how_that_is_proved():
    result = audit('--', 'cat', '/etc/shadow')
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        'needs cap_dac_read_search',
        '  without it the command exits 1: openat EACCES (once)',
        '  with it alone it exits 0, and nothing is refused that more would let through',
    ]
    assert 'not needed: cap_dac_override (openat EACCES: once)' in lines
    assert lines[-2].startswith('proof: 3 runs as nobody; traced by ')
    assert lines[-2].endswith('; no event lost')
    assert lines[-1] == 'mark it: sudo setcap cap_dac_read_search=i SCRIPT'
    assert result.stderr == ''


def test_answer_is_a_document(capsys):
    found = document(capsys, '--', 'cat', '/etc/shadow')
    assert (found['needs'], found['reason'], found['lost']) == (['cap_dac_read_search'], None, 0)
    assert found['verdicts'][0]['verdict'] == 'needed'
    first, second, third = found['runs']
    assert (first['caps'], first['status'], first['done']) == ([], 1, False)
    assert first['refused'][0] == {
        'capability': 'cap_dac_read_search',
        'syscall': 'openat',
        'error': 'EACCES',
        'site': 'generic_permission',
        'times': 1,
        'help': None,
    }
    assert (second['caps'], second['status']) == (['cap_dac_read_search'], 0)
    assert third == second
    assert {each['reason'] for each in found['ignored']} == {'memory overcommit'}


def test_command_that_needs_nothing_needs_an_empty_list(capsys):
    assert document(capsys, '--', 'true')['needs'] == []
    assert audit('--', 'true').stdout.startswith('needs no capability\n')


def test_no_answer_is_null_and_says_why(capsys):
    found = document(capsys, '--', 'sh', '-c', 'echo it is what it is; exit 3', status=1)
    assert found['needs'] is None
    assert found['reason'].startswith('it exits 3, and asked for nothing. It may look at its own')
    result = audit('--', 'sh', '-c', 'echo it is what it is; exit 3')
    assert result.returncode == 1
    assert result.stdout.startswith('no answer: it exits 3, and asked for nothing. ')
    assert '  it said: it is what it is\n' in result.stdout


def test_degraded_command_says_which_call_fails():
    result = audit('--', 'nice', '-n', '-5', 'true')
    assert result.stdout.startswith('needs no capability\n')
    line = 'cap_sys_nice: without it the command exits 0 all the same: setpriority EACCES (once)'
    assert line in result.stdout.splitlines()


def test_script_under_ppy_ends_with_the_line_that_marks_it(ppy, script, capsys):
    text = "from caps import Caps\nCaps.from_process().activate().apply()\nopen('/etc/shadow')\n"
    path = script(text, None)
    result = audit('--ppy', ppy.path, '--', path)
    assert result.stdout.splitlines()[-1] == f'mark it: sudo setcap cap_dac_read_search=i {path}'
    assert document(capsys, '--ppy', ppy.path, '--', path)['mark'] == 'cap_dac_read_search=i'


def test_once_says_what_would_help(capsys):
    command = '--once', '--as', 'nobody', '--', 'sh', '-c', 'echo 1 >/proc/sys/kernel/panic'
    result = audit(*command)
    assert result.returncode == 0
    assert '  openat EACCES (once): no capability would help' in result.stdout.splitlines()
    (refused,) = document(capsys, *command)['runs'][0]['refused']
    assert (refused['capability'], refused['help']) == (None, 'nothing')


def test_once_ends_a_daemon_and_says_what_it_was_refused_until_then(capsys):
    options = '--once', '--as', 'nobody', '--for', '1'
    found = document(capsys, *options, '--', 'sh', '-c', 'cat /etc/shadow; exec sleep 1000')
    assert found['runs'][0]['status'] is None
    assert audit(*options, '--', 'sleep', '1000').stdout.startswith('it still runs as nobody\n')


@pytest.fixture
def audits(tmp_path):
    """The documents of two audits, and of one without an answer."""
    commands = {
        'read': ['cat', '/etc/shadow'],
        'chown': ['chown', '0', '/etc/hostname'],
        'none': ['sh', '-c', 'exit 1'],
    }
    for name, command in commands.items():
        (tmp_path / name).write_text(audit('--json', '--', *command).stdout)
    return tmp_path


def test_merge_joins_what_several_audits_have_shown(audits, capsys):
    found = document(capsys, '--merge', audits / 'read', audits / 'chown')
    assert found['needs'] == ['cap_chown', 'cap_dac_read_search']
    assert [v['capability'] for v in found['verdicts'] if v['verdict'] == 'needed'] == [
        'cap_dac_read_search', 'cap_chown'
    ]  # fmt: skip
    assert len(found['runs']) == 6
    (audits / 'merged').write_text(json.dumps(found))
    again = document(capsys, '--merge', audits / 'merged', audits / 'chown')
    assert again['needs'] == found['needs']


def test_merge_needs_answers(audits):
    result = audit('--merge', audits / 'read', audits / 'none')
    assert result.returncode == 1
    assert result.stderr == 'caps: the audit of sh -c exit 1 has no answer\n'


@pytest.mark.parametrize(
    'text', ['', '[]', '{}', 'null', '{"needs": 1}', '[' * 100_000, '\udcff'],
    ids=['nothing', 'list', 'object', 'null', 'number', 'deep', 'not UTF-8'],
)  # fmt: skip
def test_merge_refuses_what_is_no_document(tmp_path, text):
    (tmp_path / 'file').write_text(text, errors='surrogateescape')
    result = audit('--merge', tmp_path / 'file')
    assert result.returncode == 1
    assert result.stderr == f'caps: {tmp_path}/file is not what caps audit --json printed\n'


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'the following arguments are required: COMMAND'),
        (['--ready', 'true', '--', 'true'], '--ready is for a daemon'),
        (['--once', '--from', 'all', '--', 'true'], '--once does not go with --from'),
        (['--merge', 'x', '--ppy', 'y'], '--merge does not go with --ppy'),
        (['--merge', 'x', '--', 'true'], '--merge takes documents and no COMMAND'),
        (['--for', '0', '--', 'true'], "argument --for: '0' is no number of seconds"),
        (['--for', 'nan', '--', 'true'], "argument --for: 'nan' is no number of seconds"),
        (['--from', 'some', '--', 'true'], 'argument --from: invalid choice'),
    ],
)
def test_wrong_usage_exits_2(arguments, words):
    result = audit(*arguments)
    assert result.returncode == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--', 'no-such-program'], 'there is no program no-such-program'),
        (['--as', 'no-such-user', '--', 'true'], "there is no user 'no-such-user'"),
        (['--as', '4000000000', '--', 'true'], 'there is no user 4000000000'),
        (['--before', 'false', '--', 'true'], 'the command before each run failed: false'),
        (
            ['--before', 'echo why >&2; exit 3', '--', 'true'],
            'the command before each run failed: echo why >&2; exit 3; it said: why',
        ),
        (
            ['--ppy', '/bin/true', '--', '/etc/hostname'],
            '/bin/true is no installed ppy: caps ppy install makes one',
        ),
    ],
)
def test_what_cannot_be_audited_is_a_sentence(arguments, words):
    result = audit(*arguments)
    assert (result.returncode, result.stderr) == (1, f'caps: {words}\n')


def test_without_root_it_says_so(system_venv, accounts):
    command = system_venv / 'bin/caps', 'audit', '--', 'true'
    result = run(*command, account=accounts.owner, cwd='/')
    missing = 'cap_setgid,cap_setuid,cap_setpcap is missing: an audit needs root'
    assert (result.returncode, result.stderr) == (1, f'caps: {missing}\n')


def test_terminal_is_told_how_often_the_command_is_started():
    master, slave = os.openpty()
    command = [sys.executable, '-m', 'caps', 'audit', '--', 'true']
    subprocess.run(command, stderr=slave, stdout=subprocess.DEVNULL, check=True)
    said = os.read(master, 4096)
    os.close(master)
    os.close(slave)
    assert said == b'true is started at least twice, and at most 100 times\r\n'


def test_words_after_the_dashes_are_the_command_s(capsys):
    assert document(capsys, '--', 'env', '--', 'true')['command'] == ['env', '--', 'true']
    assert document(capsys, '--', 'echo', '--as', 'x')['command'] == ['echo', '--as', 'x']
