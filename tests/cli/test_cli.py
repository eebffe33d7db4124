"""The command line, with libcap's and libcap-ng's own tools as the referees."""

import getpass
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, suppress

import pytest

from caps import IAB, Caps, CapSet
from caps.cli import main, parser
from caps.cli.output import escaped, in_one_line
from caps.system.launcher import NAME, PREFIX
from caps.system.tasks import in_words
from support import CHILDREN, needs, needs_root, run
from support.child import become, in_a_child
from support.documents import PARSERS, matches
from support.executions import waiting

COMMANDS = [place for place in PARSERS if place]


def caps(*arguments, **options):
    return run(sys.executable, '-m', 'caps', *arguments, **options)


def on_terminal(*arguments, code='from caps.cli import main', columns=400, **environ):
    """What a command writes to a terminal."""
    code = f'import sys; {code}; sys.exit(main(sys.argv[1:]))'
    master, slave = os.openpty()
    plain = {name: value for name, value in os.environ.items() if 'COLOR' not in name}
    environ = plain | {'TERM': 'xterm', 'COLUMNS': str(columns)} | environ
    command = [sys.executable, '-c', code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=environ):
        os.close(slave)
        output = b''
        with open(master, 'rb', buffering=0) as screen, suppress(OSError):
            while part := screen.read(65536):  # EIO is how a terminal ends
                output += part
    return output.decode()


def from_json(capsys, *arguments, status=0):
    """The document of a command, which is of its shape."""
    command = ' '.join(arguments[: 2 if arguments[0] in ('ppy', 'venv') else 1])
    assert main([*map(str, arguments), '--json']) == status
    document = json.loads(capsys.readouterr().out)
    assert matches(PARSERS[command].shape, document), document
    return document


@contextmanager
def process(*command):
    """The id of a process that has started once it has written a line; it ends with its group."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as started:
        try:
            started.stdout.readline()
            yield started.pid
        finally:
            os.killpg(started.pid, signal.SIGKILL)


@pytest.fixture
def limited():
    """A process with an ambient capability and not all of the bounding set, and its child."""
    shell = ['--shell=/bin/sh', '--', '-c', 'sleep 100 & echo; wait']
    with process('capsh', '--drop=cap_bpf', '--iab=!cap_sys_boot,^cap_kill', *shell) as pid:
        yield pid


# Files.


@pytest.fixture
def marked(tmp_path):
    (tmp_path / 'file').touch()
    Caps('cap_net_raw,cap_kill=ep').apply(tmp_path / 'file')
    return tmp_path / 'file'


@needs('cap_setfcap')
@pytest.mark.parametrize('text', ['cap_kill=ep', 'all=p', '=', 'cap_chown=ip', 'cap_kill,63=p'])
@pytest.mark.parametrize('root_id', [0, 1000])
def test_get_prints_what_getcap_prints(marked, text, root_id, capfd):
    run('setcap', *['-n', root_id] * bool(root_id), text, marked, check=True)
    assert main(['get', str(marked)]) == 0
    assert capfd.readouterr().out == run('getcap', '-n', marked).stdout


@needs('cap_setfcap')
def test_get_fails_unless_every_file_has_capabilities(marked, capsys):
    (bare := marked.parent / 'bare').touch()
    assert main(['get', str(bare)]) == 1
    assert main(['get', str(marked), str(bare), '/absent']) == 1
    out, err = capsys.readouterr()
    assert out == f'{marked} cap_kill,cap_net_raw=ep\n'
    assert err == 'caps: /absent: No such file or directory\n'


@needs('cap_setfcap')
def test_json_tells_no_capabilities_from_empty_ones(marked, capsys):
    (bare := marked.parent / 'bare').touch()
    Caps().apply(marked)
    files = from_json(capsys, 'get', marked, bare, status=1)['files']
    assert [(file['marked'], file['text']) for file in files] == [(True, '='), (False, '=')]


@needs('cap_setfcap')
@pytest.mark.parametrize('text', ['cap_kill=ep', '=', 'cap_chown+ip', 'all=i'])
def test_set_does_what_setcap_does(marked, text, capsys):
    (other := marked.parent / 'other').touch()
    assert main(['set', text, str(marked), str(other)]) == 0
    assert capsys.readouterr() == ('', '')
    mine = os.getxattr(marked, 'security.capability')
    run('setcap', text, marked, check=True)
    assert os.getxattr(marked, 'security.capability') == mine
    assert os.getxattr(other, 'security.capability') == mine


@needs('cap_setfcap')
def test_each_text_is_for_the_files_up_to_the_next(marked):
    files = [str(marked.parent / name) for name in ('one', 'two', 'three')]
    for path in files:
        open(path, 'w').close()
    assert main(['set', 'cap_kill=p', *files[:2], 'cap_chown=i', files[2]]) == 0
    assert [str(Caps.from_file(path)) for path in files] == ['cap_kill=p'] * 2 + ['cap_chown=i']
    assert main(['verify', 'cap_kill=p', *files[:2], 'cap_chown=i', files[2]]) == 0


@needs('cap_setfcap')
@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        (['', 'FILE'], "'' is not a TEXT (is a variable unset?); = is a mark with empty sets"),
        (['cap_net_raw', 'FILE'], 'cap_net_raw=ep for a program, cap_net_raw=i for a script'),
        (['cap_kill=p'], "no FILE after 'cap_kill=p'"),
        (['cap_kill=p', 'FILE', 'cap_chown=p'], "no FILE after 'cap_chown=p'"),
        (['cap_kill=p', 'cap_chown=p', 'FILE'], "no FILE before 'cap_chown=p'"),
        (['--root-id', '99999999999999999999', '=', 'FILE'], 'is not a user id'),
        (['--root-id=-1', '=', 'FILE'], 'is not a user id'),
    ],
    ids=str,
)
def test_set_that_cannot_be_meant_is_refused_before_anything_is_written(
    marked, words, reason, capsys
):
    before = os.getxattr(marked, 'security.capability')
    with pytest.raises(SystemExit, match='2'):
        main(['set', *(str(marked) if word == 'FILE' else word for word in words)])
    assert reason in capsys.readouterr().err
    assert os.getxattr(marked, 'security.capability') == before


def test_empty_list_for_an_environment_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['venv', 'mark', str(tmp_path), ''])
    assert "'' is not CAPS (is a variable unset?)" in capsys.readouterr().err


@needs_root
def test_who_may_not_mark_is_told_of_sudo(scene, accounts):
    path = scene / 'file'
    path.touch()

    @in_a_child
    def refused():
        become(accounts.attacker)
        with redirect_stderr(io.StringIO()) as errors:
            assert main(['set', 'cap_kill=p', str(path)]) == 1
        return errors.getvalue()

    assert refused() == f'caps: {path}: cap_setfcap must be effective; run this with sudo\n'


@needs('cap_setfcap')
def test_text_comes_from_standard_input_too(marked):
    done = run(sys.executable, '-m', 'caps', 'set', '-', marked, input='cap_chown=i\n')
    assert (done.returncode, done.stderr) == (0, '')
    assert str(Caps.from_file(marked)) == 'cap_chown=i'


@needs('cap_setfcap')
@pytest.mark.parametrize('text', ['cap_kill=ep', 'cap_kill,cap_net_raw=ep', '='])
def test_verify_is_that_of_setcap(marked, text, capsys):
    (bare := marked.parent / 'bare').touch()
    for path in marked, bare:
        status = main(['verify', text, str(path)])
        if path is marked:
            assert status == min(run('setcap', '-v', text, path).returncode, 1)
        else:
            assert status == 1
    assert f'{bare} has none, not {text}\n' in capsys.readouterr().out


@needs('cap_setfcap')
def test_set_takes_the_root_id_of_a_user_namespace(marked, capsys):
    assert main(['set', '--root-id', '1000', 'cap_kill=p', str(marked)]) == 0
    assert run('getcap', '-n', marked).stdout == f'{marked} cap_kill=p [rootid=1000]\n'
    assert from_json(capsys, 'get', marked)['files'][0]['root_id'] == 1000


@needs('cap_setfcap')
def test_files_after_a_refused_one_are_changed(marked, capsys):
    (other := marked.parent / 'other').touch()
    document = from_json(capsys, 'set', 'cap_kill=p', '/absent', other, status=1)
    assert document['problems'] == ['/absent: No such file or directory']
    assert [file['text'] for file in document['files']] == ['cap_kill=p']
    assert main(['remove', '/absent', str(other)]) == 1
    assert Caps.from_file(other).marked is False


@needs('cap_setfcap')
def test_remove_takes_capabilities_away_once(marked, capsys):
    assert from_json(capsys, 'remove', marked)['files'][0]['marked'] is False
    assert run('getcap', '-v', marked).stdout == f'{marked}\n'
    assert main(['remove', str(marked)]) == 1
    assert capsys.readouterr().err == f'caps: {marked}: the file has no capabilities\n'


def test_wrong_text_is_wrong_usage_and_names_the_nearest(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        main(['set', 'cap_kil=ep', str(tmp_path)])
    assert raised.value.code == 2
    assert "did you mean 'cap_kill'?" in capsys.readouterr().err


def test_text_that_no_file_can_have_is_refused(tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert main(['set', 'cap_kill=ep cap_chown=p', str(tmp_path / 'file')]) == 1
    assert 'effective set' in capsys.readouterr().err


# Processes.


@needs('cap_setpcap')
def test_show_says_what_getpcaps_says(limited, capsys):
    [found] = from_json(capsys, 'show', limited)['processes']
    assert f'{limited}: {found["text"]}\n' == run('getpcaps', limited).stdout
    assert run('getpcaps', '--iab', limited).stdout.endswith(f' [{found["iab"]}]\n')
    assert found['ambient'] == ['cap_kill']


@needs('cap_setpcap')
def test_show_says_what_capsh_says(limited):
    code = 'import sys; from caps.cli import main; main(["show"])'
    command = f"exec {sys.executable} -c '{code}'"
    limits = ['--secbits=0x15', '--no-new-privs', '--drop=cap_chown,cap_kill']
    done = run('capsh', *limits, '--shell=/bin/sh', '--', '-c', command)
    assert 'secure bits     noroot, no_setuid_fixup\n' in done.stdout, done.stderr
    assert 'no_new_privs    yes\n' in done.stdout
    assert re.search('bounding        all but .*cap_chown,cap_kill', done.stdout)


@pytest.mark.skipif(not shutil.which('pscap'), reason='no pscap (libcap-ng-utils)')
@needs('cap_setpcap')
def test_all_shows_the_processes_that_pscap_shows(limited, capsys):
    with process('setpriv', '--reuid=1', '--clear-groups', 'sh', '-c', 'echo; read line') as bare:
        listed = {int(line.split()[1]) for line in run('pscap', '-a').stdout.splitlines()[1:]}
        processes = from_json(capsys, 'show', '--all')['processes']
    mine = {each['pid'] for each in processes if each['permitted']}
    for pid, has_some in (1, True), (os.getpid(), True), (limited, True), (bare, False):
        assert (pid in mine, pid in listed) == (has_some, has_some)
    assert bare in [each['pid'] for each in processes]


def test_defect_of_a_command_is_not_called_a_refusal(monkeypatch):
    monkeypatch.setattr('caps.cli.show.run', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(['show'])


@pytest.mark.parametrize('option', [[], ['--json']], ids=['text', 'json'])
def test_what_cannot_be_written_is_one_line_on_standard_error(option):
    with open('/dev/full', 'w') as full:
        command = [sys.executable, '-m', 'caps', 'show', *option]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, 'caps: No space left on device\n')


def test_tree_has_a_process_below_its_parent(capsys):
    # What tail prints says that the shell has executed it.
    with process('sh', '-c', 'tail -n 1 -f "$0" & wait', __file__) as pid:
        assert main(['show', '--tree', str(os.getpid())]) == 0
        header, first, *rest = capsys.readouterr().out.splitlines()
        assert header.split() == ['PID', 'USER', 'NAME', 'CAPS', 'IAB', 'NOTES']
        assert first.split()[0] == str(os.getpid())
        place = next(n for n, line in enumerate(rest) if line.split()[0] == str(pid))
        start = rest[place].index(' sh ')
        assert rest[place + 1].index('  tail ') == start + 1
        found = from_json(capsys, 'show', '--tree', pid)['processes']
        assert [each['name'] for each in found] == ['sh', 'tail']
        assert found[1]['parent'] == pid


def test_tree_of_everything_begins_with_the_first_process(capsys):
    assert main(['show', '--tree']) == 0
    _, first, *rest = capsys.readouterr().out.splitlines()
    assert first.split()[0] == str(min(int(pid) for pid in os.listdir('/proc') if pid.isdecimal()))
    assert any(line.split()[0] == str(os.getpid()) for line in rest)


def test_notes_name_what_else_limits_a_process(capsys):
    with waiting('/bin/true', setup='set_no_new_privs()\nfilter_nothing()') as child:
        assert main(['show', '--tree', str(child.pid)]) == 0
        child.communicate('\n')
    assert capsys.readouterr().out.splitlines()[1].endswith('no_new_privs, seccomp filter')


@pytest.mark.parametrize('name', ['a\n\udcc3', 'a:\tUid:\t7', ' a\\n\t', ''], ids=repr)
def test_name_of_a_process_is_the_same_everywhere(name, capsys):
    change = f'CDLL(None).prctl(15, {os.fsencode(name)!r})'
    code = f'from ctypes import CDLL; {change}; print(flush=True); input()'
    with process(sys.executable, '-c', code) as pid:
        (shown,) = from_json(capsys, 'show', pid)['processes']
        explained = from_json(capsys, 'explain', '/bin/true', '--pid', pid)['process']
    assert shown['name'] == explained['name'] == name
    assert shown['uid']['real'] == explained['uid']['real'] == os.getuid()


def test_absent_process_is_a_problem(capsys):
    document = from_json(capsys, 'show', 2**22 + 1, os.getpid(), status=1)
    assert document['problems'] == [f'{2**22 + 1}: no such process']
    assert [each['pid'] for each in document['processes']] == [os.getpid()]
    assert main(['show', '--tree', str(2**22 + 1)]) == 1
    assert main(['show', '--all', '1']) == 1


@needs_root
@needs('cap_setpcap', 'cap_sys_admin')
def test_process_that_may_not_be_seen_is_not_called_absent():
    stranger = 'setpriv --regid=65534 --clear-groups --bounding-set=-sys_ptrace'
    show = f'{stranger} {sys.executable} -m caps show 1'
    hide = 'mount -t proc -o hidepid=1 none /proc'
    done = run('unshare', '--mount', 'sh', '-c', f'{hide} && {show}')
    assert done.returncode == 1
    assert done.stderr == 'caps: /proc/1/status: Operation not permitted\n'


@needs('cap_sys_admin', 'user_namespaces')
def test_process_in_another_user_namespace_is_told(capsys):
    with process('unshare', '--user', 'sh', '-c', 'echo; exec sleep 100') as pid:
        [found] = from_json(capsys, 'show', pid)['processes']
        assert found['user_namespace'] == os.stat(f'/proc/{pid}/ns/user').st_ino
        assert main(['show', '--tree', str(pid)]) == 0
        assert f'user namespace {found["user_namespace"]}' in capsys.readouterr().out


@needs('cap_sys_admin')
def test_file_of_another_mount_namespace_has_no_mount_point(tmp_path, capsys):
    lay = f'mount -t tmpfs none {tmp_path} && cp /bin/true {tmp_path} && echo && exec sleep 100'
    with process('unshare', '--mount', 'sh', '-c', lay) as pid:
        found = from_json(capsys, 'explain', f'/proc/{pid}/root{tmp_path}/true')['file']
    assert (found['mount']['point'], found['mount']['nosuid']) == (None, True)


@pytest.mark.parametrize(
    ('members', 'words'),
    [
        (CapSet(), 'none'),
        (CapSet.all(), 'all'),
        (CapSet.all() - ['cap_kill', 'cap_bpf'], 'all but cap_kill,cap_bpf'),
        (CapSet('cap_kill'), 'cap_kill'),
    ],
)
def test_set_is_put_in_the_fewest_words(members, words):
    assert in_words(members) == words


# Terminals, pipes and programs.

EVIL = 'evil\x1b[31m\n\\\u202e\udcff'
HARMLESS = r'evil\x1b[31m\n\\\u202e\xff'


def test_what_is_not_printable_is_escaped():
    assert escaped(EVIL) == HARMLESS
    assert escaped('é ü ☃') == 'é ü ☃'


@needs('cap_setfcap')
def test_name_of_a_file_cannot_act_on_a_terminal_and_is_one_line_in_a_pipe(tmp_path):
    (path := tmp_path / EVIL).touch()
    Caps('cap_kill=p').apply(path)
    for command in ('get', path), ('find', tmp_path):
        shown = on_terminal(*command, NO_COLOR='1')
        assert shown == f'{tmp_path}/{HARMLESS} cap_kill=p\r\n'
        piped = os.fsencode(f'{tmp_path}/{in_one_line(EVIL)} cap_kill=p\n')
        assert caps(*command, text=False).stdout == piped
        assert b'\x1b' not in piped
    assert HARMLESS in caps('get', f'{path}x').stderr


@pytest.mark.parametrize('rich', ['rich', 'no_rich'])
def test_name_of_a_process_cannot_act_on_a_terminal(rich):
    name = EVIL[:-1]
    code = 'import ctypes; ctypes.CDLL(None).prctl(15, %r); print(flush=True); input()'
    code %= name.encode()
    hide = 'sys.modules["rich"] = None; ' if rich == 'no_rich' else ''
    with process(sys.executable, '-c', code) as pid:
        for command in ('show', pid), ('show', '--tree', pid):
            shown = on_terminal(*command, code=f'{hide}from caps.cli import main', NO_COLOR='1')
            assert escaped(name) in shown
            assert name[:6] not in shown


@needs('cap_setfcap')
def test_colour_is_for_terminals_and_can_be_declined(marked):
    assert '\x1b[33m' in on_terminal('get', marked)
    assert '\x1b' not in on_terminal('get', marked, NO_COLOR='1')
    assert '\x1b' not in caps('get', marked).stdout


@needs('cap_setpcap')
def test_table_of_rich_has_the_words_of_the_plain_one(limited):
    pytest.importorskip('rich')
    command = 'show', '--tree', limited
    drawn = on_terminal(*command, NO_COLOR='1')
    hidden = 'sys.modules["rich"] = None; from caps.cli import main'
    assert '─' in drawn
    words = re.sub('\x1b\\[[0-9;]*m|[─━]', '', drawn).split()
    assert words == on_terminal(*command, code=hidden).split() == caps(*command).stdout.split()


def test_reader_that_has_seen_enough_is_no_failure_to_speak_of():
    done = run('sh', '-c', f'{sys.executable} -m caps show --all | true')
    assert done.stderr == ''


@needs('cap_setfcap')
def test_reader_that_has_seen_enough_of_files_is_none_either(marked):
    names = f'{marked} ' * 1000  # more than what is written at once
    done = run('sh', '-c', f'{sys.executable} -m caps get {names} | true')
    assert done.stderr == ''


def test_closed_streams_take_what_is_written_to_them():
    command = f'{sys.executable} -m caps'
    assert run('sh', '-c', f'{command} show >&-').stderr == ''
    result = run('sh', '-c', f'{command} get /absent 2>&-')
    assert (result.returncode, result.stdout) == (1, '')


def test_refusal_is_a_document_too(tmp_path, capsys):
    assert main(['venv', 'mark', '--json', str(tmp_path), 'cap_kill']) == 1
    out, err = capsys.readouterr()
    sentence = f'{tmp_path} is not a virtual environment: it has no pyvenv.cfg'
    assert json.loads(out) == {'problems': [sentence]}
    assert err == f'caps: {sentence}\n'


@needs_root
def test_installation_is_a_document(scene, capsys):
    place = ['--prefix', str(scene), '--name', 'ppy-x']
    assert from_json(capsys, 'ppy', 'status', *place, status=1)['installed'] is False
    made = from_json(capsys, 'ppy', 'install', *place, '--interpreter', '/bin/sh')
    assert made['original'] == '/usr/bin/sh' or made['original'] == '/bin/sh'
    assert from_json(capsys, 'ppy', 'status', *place) == made
    assert from_json(capsys, 'ppy', 'remove', *place)['ppy'] == f'{scene}/bin/ppy-x'


def test_explanation_is_a_document_and_says_whether_the_file_would_run(tmp_path, capsys):
    assert from_json(capsys, 'explain', '/bin/true')['problems'] == []
    from_json(capsys, 'explain', shutil.which('ldd'), '--as', 'daemon')
    (tmp_path / 'file').touch()
    assert main(['explain', str(tmp_path / 'file')]) == 1
    assert main(['explain', '/bin/true', '--as', 'absent-account']) == 1
    assert main(['explain', '/absent']) == 1
    assert capsys.readouterr().err.count('caps: ') == 2


def test_show_brief_is_that_of_getpcaps(limited, capsys):
    assert main(['show', '--brief', str(limited)]) == 0
    printed = capsys.readouterr().out
    assert printed == f'{limited}: {Caps.from_process(limited)}\n'
    assert printed == run(shutil.which('getpcaps', path='/sbin:/usr/sbin'), limited).stdout


@needs('cap_kill')
def test_show_with_leaves_out_who_has_nothing(limited, capsys):
    with process('capsh', '--inh=', '--drop=all', '--', '-c', 'echo; exec sleep 60') as pid:
        everything = {one['pid'] for one in from_json(capsys, 'show', '--all')['processes']}
        some = from_json(capsys, 'show', '--with')['processes']
    assert {limited, pid} <= everything
    assert limited in {one['pid'] for one in some}
    assert all(one['permitted'] or one['inheritable'] or one['ambient'] for one in some)


def test_show_listening_names_sockets_and_who_holds_them(capsys):
    command, pipe = [sys.executable, CHILDREN / 'listens.py'], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as server:
        tcp, udp = map(int, server.stdout.readline().split())
        document = from_json(capsys, 'show', '--listening')
        assert main(['show', '--listening']) == 0
        server.stdin.close()
    for protocol, address, port in ('tcp', '127.0.0.1', tcp), ('udp6', '*', udp):
        wanted = {'protocol': protocol, 'address': address, 'port': port, 'pids': [server.pid]}
        assert wanted in document['sockets']
    assert server.pid in [one['pid'] for one in document['processes']]
    assert re.search(rf'tcp +127\.0\.0\.1:{tcp} +{server.pid} ', capsys.readouterr().out)


@needs('cap_net_raw')
def test_packet_sockets_listen_too(capsys):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        sockets = from_json(capsys, 'show', '--listening')['sockets']
    packet = {'protocol': 'packet', 'address': '*', 'port': 0, 'pids': [os.getpid()]}
    assert packet in sockets


# Help and completion.


@pytest.mark.parametrize('command', ['', *COMMANDS], ids=lambda command: command or 'caps')
def test_help_teaches_by_example(command, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*command.split(), '--help'])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert 'examples:\n' in text
    assert 'exit status:\n' in text
    assert ('--help-json' in text) == bool(PARSERS[command].shape)
    assert text.count('\n') <= 60  # a tall screen


@pytest.mark.parametrize('command', [place for place in COMMANDS if PARSERS[place].shape])
def test_shape_of_the_document_is_shown(command, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*command.split(), '--help-json'])
    assert raised.value.code == 0
    _, _, shown = capsys.readouterr().out.partition('\n')
    assert json.loads(shown) == PARSERS[command].shape


@pytest.mark.parametrize('words', [[], ['ppy'], ['venv']], ids=str)
def test_without_a_command_there_is_help(words, capsys):
    assert main(words) == 0
    assert main(['help', *words]) == 0
    first, second = capsys.readouterr().out.split('usage:')[1:]
    assert first == second


def test_help_of_no_command_is_refused(capsys):
    assert main(['help', 'ppy', 'fly']) == 1
    assert capsys.readouterr().err == 'caps: there is no command ppy fly; caps help lists them\n'


def test_json_may_stand_before_the_command(capsys):
    for words in ['--json', 'decode', '3'], ['decode', '--json', '3'], ['decode', '3', '--json']:
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out)['capabilities'] == [
            'cap_chown', 'cap_dac_override',
        ]  # fmt: skip
    with pytest.raises(SystemExit, match='2'):
        main(['--json', 'completion', 'bash'])


def test_decode_is_that_of_capsh(capsys):
    for mask in '0', '1', '0000000000003000', '1ffffffffff':
        assert main(['decode', mask]) == 0
        names = capsys.readouterr().out.split()
        assert run('capsh', f'--decode={mask}').stdout.strip().partition('=')[2] == ','.join(names)
    with pytest.raises(SystemExit, match='2'):
        main(['decode', '1' + '0' * 16])


def test_list_has_every_capability_with_its_meaning(capsys):
    capabilities = from_json(capsys, 'list')['capabilities']
    assert [one['name'] for one in capabilities] == [*CapSet.all()]
    assert all(one['meaning'] for one in capabilities)
    assert [one['number'] for one in capabilities] == [*range(len(capabilities))]
    assert main(['list']) == 0
    assert re.search(r'\n\* +cap_setuid +7 +become any user\n', capsys.readouterr().out)


def test_examples_are_commands_that_parse():
    tried = 0
    for line in '\n'.join(command.examples for command in PARSERS.values()).splitlines():
        command = re.match(r'  (?:sudo )?caps (.*?)(?:   .*| [|>].*)?$', line)
        if command:
            parser().parse_args(shlex.split(command[1].replace('$$', '1')))
            tried += 1
    assert tried > 30


@pytest.mark.parametrize('word', ['--version', '-V', 'version'])
def test_version_is_that_of_the_distribution(word, capsys):
    if word.startswith('-'):
        with pytest.raises(SystemExit, match='0'):
            main([word])
    else:
        assert main([word]) == 0
    assert re.fullmatch(r'caps \d+\.\d+\.\d+\n', capsys.readouterr().out)


def test_defaults_are_those_of_the_library():
    found = parser().parse_args(['ppy', 'status'])
    assert (found.prefix, found.name) == (PREFIX, NAME)


SHELLS = {
    'bash': (['bash', '--norc', '--noprofile', '-i'], ''),
    'zsh': (['zsh', '-f', '-i'], 'autoload -Uz compinit; compinit -u -D;'),
}


@pytest.mark.parametrize('shell', SHELLS)
def test_shell_completes_subcommands_options_and_files(shell, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f'no {shell}')
    command, start = SHELLS[shell]
    (tmp_path / 'script').write_text(caps('completion', shell).stdout)
    (tmp_path / 'some-file').touch()
    typed = [
        f'{start} . ./script; caps() {{ echo $* >> ran; }}',
        'caps sho\t--al\t',
        'caps ppy ins\t--allow-r\t',
        'caps get some-f\t',
        'caps completion zs\t',
        'caps set cap_wake\t some-f\t',
        f'caps explain --as {getpass.getuser()[:-1]}\t',
        'caps ppy install --allow cap_net_bi\t',
        'exit',
    ]
    master, slave = os.openpty()
    environ = {'PATH': os.environ['PATH'], 'TERM': 'dumb', 'HOME': str(tmp_path)}
    ends = dict.fromkeys(('stdin', 'stdout', 'stderr'), slave)
    with (
        subprocess.Popen(command, cwd=tmp_path, env=environ, start_new_session=True, **ends),
        open(master, 'r+b', buffering=0) as screen,
        suppress(OSError),  # EIO is how a terminal ends
    ):
        os.close(slave)
        for line in typed:
            screen.write(line.encode() + b'\n')
        while screen.read(65536):
            pass
    assert (tmp_path / 'ran').read_text().splitlines() == [
        'show --all',
        'ppy install --allow-root',
        'get some-file',
        'completion zsh',
        'set cap_wake_alarm some-file',
        f'explain --as {getpass.getuser()}',
        'ppy install --allow cap_net_bind_service',
    ]


@pytest.mark.parametrize('columns', [30, 60, 100, 200])
def test_table_on_a_terminal_folds_between_words(columns, limited):
    screen = on_terminal('show', '--tree', limited, columns=columns)
    assert max(map(len, re.sub(r'\x1b\[[\d;]*m', '', screen).splitlines())) <= columns
    words = re.findall(r'cap_\w+', str(Caps.from_process(limited)) + str(IAB.from_process(limited)))
    assert {*words} <= {*re.findall(r'\bcap_\w+', screen)}


@pytest.mark.skipif(not shutil.which('fish'), reason='no fish')
def test_fish_completes_subcommands_options_and_files(tmp_path):
    (tmp_path / 'script').write_text(caps('completion', 'fish').stdout)
    (tmp_path / 'some-file').touch()

    def offered(line):
        code = f"source script; complete -C '{line}'"
        environ = {'PATH': os.environ['PATH'], 'HOME': str(tmp_path)}
        done = run('fish', '--no-config', '-c', code, cwd=tmp_path, env=environ)
        words = [one.split('\t')[0] for one in done.stdout.splitlines()]
        # Newer ones offer what has it in the middle too.
        return [word for word in words if word.startswith(line.split(' ')[-1])]

    assert offered('caps sh') == ['show']
    assert offered('caps ppy ') == ['install', 'mark', 'remove', 'status', 'unmark']
    assert offered('caps ppy install --allow') == ['--allow', '--allow-root']
    assert offered('caps get some') == ['some-file']
    assert offered('caps completion ') == ['bash', 'fish', 'zsh']
