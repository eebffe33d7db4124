"""caps find against getcap -r, on real trees."""

import json
import os
import random
import shutil
import socket
import sys
import threading
import time

import pytest

from caps import Caps, _caps
from caps.cli import main
from caps.system.find import find
from support import CHILDREN, needs, needs_root, older_kernel, require, run
from support.child import in_a_child

pytestmark = needs('cap_setfcap')
TEXTS = 'cap_net_raw=ep', 'cap_kill,cap_chown=p', 'cap_dac_read_search=i', '=', '=ip'


def grown(top, seed=0, files=300):
    """A random tree of directories, files, links and special files, some of them marked."""
    chance = random.Random(seed)
    directories = [os.fsencode(top)]
    for number in range(files):
        name = chance.choice([b'plain%d', b'%d \xff\xfe', b'%d\xe2\x80\xae', b'.%d']) % number
        path = os.path.join(chance.choice(directories), name)
        kind = chance.random()
        if kind < 0.2:
            os.mkdir(path)
            directories.append(path)
        elif kind < 0.25:
            os.symlink(chance.choice([b'/usr/bin', *directories]), path)
        elif kind < 0.28:
            os.mkfifo(path)
        else:
            os.close(os.open(path, os.O_CREAT))
            if kind < 0.5:
                caps = Caps(chance.choice(TEXTS))
                caps.root_id = chance.choice([0, 0, 1000])
                caps.apply(path)
                if kind < 0.32:
                    os.link(path, path + b'-too')
    return top


CALLS = {
    'openat2': 437,
    'getxattrat': 464,
    'listxattrat': 465,
    'statx': 332 if os.uname().machine == 'x86_64' else 291,
}


def find_without(call, answer):
    """The command line that searches without a system call."""
    return [*older_kernel(CALLS[call], answer), sys.executable, '-m', 'caps', 'find']


def lines(*command):
    done = run(*command, text=False)
    assert done.stderr == b''
    return sorted(done.stdout.splitlines())


def caps_find(*arguments, **options):
    return run(sys.executable, '-m', 'caps', 'find', *arguments, **options)


@pytest.mark.parametrize('seed', range(3))
def test_finds_what_getcap_finds(tmp_path, seed):
    grown(tmp_path, seed)
    found = lines(sys.executable, '-m', 'caps', 'find', tmp_path)
    assert len(found) > 30
    assert found == lines('getcap', '-n', '-r', tmp_path)


def test_paths_are_sorted_and_begin_as_the_directory_was_named(tmp_path, monkeypatch):
    grown(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    for named in tmp_path.name, f'{tmp_path.name}/', f'../{tmp_path.parent.name}/{tmp_path.name}':
        paths = [os.fsencode(path) for path, _ in find(named).files]
        assert paths == sorted(paths)
        assert all(path.startswith(os.fsencode(named).rstrip(b'/') + b'/') for path in paths)
        assert all(os.path.exists(path) for path in paths)


@pytest.mark.parametrize('text', TEXTS)
def test_what_is_found_is_what_the_file_says(tmp_path, text):
    state = Caps(text, root_id=len(text))
    (tmp_path / 'file').touch()
    state.apply(tmp_path / 'file')
    [(path, found)] = find(tmp_path).files
    alone = Caps.from_file(path)
    assert (found, found.marked, f'{found}') == (alone, True, f'{alone}')
    assert found == state


def test_what_is_taken_is_not_found_again(tmp_path):
    for number in range(3):
        (tmp_path / f'{number}').touch()
        Caps('cap_kill=p').apply(tmp_path / f'{number}')
    findings = find(tmp_path)
    assert len(findings.take()) == 3
    assert findings.take() == findings.files == []


def test_every_name_of_a_file_is_found_and_no_link_below_is_followed(tmp_path):
    (tmp_path / 'below').mkdir()
    (tmp_path / 'below/file').touch()
    Caps('cap_kill=p').apply(tmp_path / 'below/file')
    os.link(tmp_path / 'below/file', tmp_path / 'name')
    (tmp_path / 'link').symlink_to('name')
    (tmp_path / 'loop').symlink_to('.')
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / 'socket'))
    assert [path for path, _ in find(tmp_path).files] == [
        f'{tmp_path}/below/file',
        f'{tmp_path}/name',
    ]
    (tmp_path / 'named').symlink_to('below')
    assert [path for path, _ in find(tmp_path / 'named').files] == [f'{tmp_path}/named/file']


def test_name_that_is_no_text_survives_json(tmp_path, capsys):
    path = os.fsencode(tmp_path) + b'/\xff\x1b[31m\n'
    os.close(os.open(path, os.O_CREAT))
    Caps('cap_kill=p').apply(path)
    assert main(['find', '--json', str(tmp_path)]) == 0
    [file] = json.loads(capsys.readouterr().out)['files']
    assert os.fsencode(file['path']) == path
    assert file['permitted'] == ['cap_kill']


def test_exit_status_says_whether_anything_was_found(tmp_path, capsys):
    assert main(['find', str(tmp_path)]) == 1
    (tmp_path / 'file').touch()
    assert main(['find', str(tmp_path)]) == 1
    Caps().apply(tmp_path / 'file')
    assert main(['find', str(tmp_path)]) == 0
    assert capsys.readouterr() == (f'{tmp_path}/file =\n', '')


@pytest.mark.parametrize('name', ['absent', 'fifo'])
def test_what_is_no_directory_is_a_problem(tmp_path, name, capsys):
    os.mkfifo(tmp_path / 'fifo')
    assert main(['find', f'{tmp_path}/{name}']) == 1
    out, err = capsys.readouterr()
    assert (out, err[: len(f'caps: {tmp_path}/')]) == ('', f'caps: {tmp_path}/')


def test_file_is_found_by_its_own_name(tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert main(['find', f'{tmp_path}/file']) == 1
    Caps('cap_kill=p').apply(tmp_path / 'file')
    (tmp_path / 'link').symlink_to('file')
    assert main(['find', f'{tmp_path}/file', f'{tmp_path}/link']) == 0
    assert capsys.readouterr() == (
        f'{tmp_path}/file cap_kill=p\n{tmp_path}/link cap_kill=p\n', ''
    )  # fmt: skip


def test_each_file_is_one_line_in_a_pipe(tmp_path):
    names = ['plain', 'a\nb cap_chown=p', 'tab\t', '\x1b[31m', 'back\\slash', '\x85']
    for name in names:
        (tmp_path / name).touch()
        Caps('cap_kill=p').apply(tmp_path / name)
    done = caps_find(tmp_path)
    assert len(done.stdout.splitlines()) == len(names)
    assert f'{tmp_path}/a\\nb cap_chown=p cap_kill=p\n' in done.stdout
    assert '\x1b' not in done.stdout
    done = caps_find('--null', tmp_path)
    assert sorted(done.stdout.split('\0')) == sorted(
        ['', *(f'{tmp_path}/{name}' for name in names)]
    )


WITHOUT_PROC = 'umount -l /proc || exit 9; exec "$@"'


@needs('cap_sys_admin')
@pytest.mark.parametrize('is_old', [False, True])
def test_without_proc_the_same_is_found(tmp_path, is_old):
    grown(tmp_path)
    command = ['unshare', '--mount', 'sh', '-c', WITHOUT_PROC, 'sh']
    search = [sys.executable, '-m', 'caps', 'find']
    if is_old:
        search = find_without('getxattrat', 'ENOSYS')
    assert lines(*command, *search, tmp_path) == lines('getcap', '-n', '-r', tmp_path)


@needs('cap_sys_admin')
def test_subvolumes_of_btrfs_are_searched(tmp_path):
    image, top = tmp_path / 'image', tmp_path / 'top'
    top.mkdir()
    with open(image, 'wb') as file:
        file.truncate(128 << 20)
    require(shutil.which('mkfs.btrfs'), 'btrfs-progs')
    run('mkfs.btrfs', '-q', image, check=True)
    if run('mount', '-t', 'btrfs', '-o', 'loop', image, top).returncode:
        pytest.skip('no btrfs, or no loop device')
    try:
        run('btrfs', 'subvolume', 'create', top / 'nested', check=True)
        (top / 'nested/file').touch()
        Caps('cap_kill=p').apply(top / 'nested/file')
        assert (top / 'nested').stat().st_dev != top.stat().st_dev
        plain = [sys.executable, '-m', 'caps', 'find']
        for search in plain, find_without('statx', 'ENOSYS'), find_without('statx', 'EPERM'):
            assert lines(*search, top) == lines('getcap', '-nr', top)
        (top / 'nested/other').mkdir()
        run('mount', '-t', 'tmpfs', 'none', top / 'nested/other', check=True)
        (top / 'nested/other/file').touch()
        Caps('cap_kill=p').apply(top / 'nested/other/file')
        assert len(find(top).files) == 1
        assert len(find(top, all_file_systems=True).files) == 2
    finally:
        run('umount', '-R', top, check=True)


@needs('cap_setuid', 'cap_setgid')
@pytest.mark.parametrize('mode', [0o700, 0o744, 0o711], ids=oct)
def test_directory_that_cannot_be_read_is_a_problem_and_the_rest_is_found(
    scene, accounts, system_venv, mode
):
    for name in 'closed', 'open':
        (scene / name).mkdir()
        for number in range(3):
            (scene / name / f'{number}').touch()
            Caps('cap_kill=p').apply(scene / name / f'{number}')
    (scene / 'closed').chmod(mode)
    done = run(system_venv / 'bin/caps', 'find', scene, account=accounts.attacker)
    assert done.stdout == ''.join(f'{scene}/open/{number} cap_kill=p\n' for number in range(3))
    assert done.stderr == f'caps: {scene}/closed: Permission denied\n'
    assert done.returncode == 1


@needs('cap_sys_admin')
def test_mounted_file_system_is_searched_only_if_told(tmp_path):
    (tmp_path / 'mounted').mkdir()
    run('mount', '-t', 'tmpfs', 'none', tmp_path / 'mounted', check=True)
    try:
        (tmp_path / 'mounted/file').touch()
        Caps('cap_kill=p').apply(tmp_path / 'mounted/file')
        assert find(tmp_path).files == []
        assert len(find(tmp_path, all_file_systems=True).files) == 1
        assert len(find(tmp_path / 'mounted').files) == 1
    finally:
        run('umount', tmp_path / 'mounted', check=True)


@needs('cap_sys_admin')
def test_file_system_that_does_not_tell_types_is_searched(tmp_path):
    image, top = tmp_path / 'image', tmp_path / 'top'
    top.mkdir()
    with open(image, 'wb') as file:
        file.truncate(8 << 20)
    run('mkfs.ext4', '-q', '-O', '^filetype', image, check=True)
    if run('mount', '-o', 'loop', image, top).returncode:
        pytest.skip('no loop device')
    try:
        grown(top, files=100)
        assert lines(sys.executable, '-m', 'caps', 'find', top) == lines('getcap', '-nr', top)
    finally:
        run('umount', top, check=True)


def test_all_of_proc_is_searched_without_a_hang():
    assert find('/proc/self', all_file_systems=True).files == []


def test_path_that_is_too_long_is_a_problem(tmp_path):
    @in_a_child
    def make_directories():
        os.chdir(tmp_path)
        for _ in range(30):
            os.mkdir('d' * 200)
            os.chdir('d' * 200)

    make_directories()
    try:
        [problem] = find(tmp_path).problems
        assert problem.strerror == 'File name too long'
    finally:
        run('rm', '-r', tmp_path, check=True)


def test_link_put_in_the_place_of_a_directory_leads_nowhere(tmp_path):
    outside, inside = tmp_path / 'outside', tmp_path / 'inside'
    for directory in outside, inside / 'a':
        for number in range(20):
            (directory / f'{number}').mkdir(parents=True)
    for number in range(20):
        (outside / f'{number}/file').touch()
        Caps('cap_kill=p').apply(outside / f'{number}/file')
    (inside / 'link').symlink_to(outside)
    ended = threading.Event()

    def exchange():
        while not ended.is_set():
            for old, new in ('a', 'b'), ('link', 'a'), ('a', 'link'), ('b', 'a'):
                os.rename(inside / old, inside / new)

    attacker = threading.Thread(target=exchange)
    attacker.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert find(inside).files == []
    finally:
        ended.set()
        attacker.join()


def test_failure_of_a_thread_is_not_waited_for(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(_caps, 'find_in', fail)
    with pytest.raises(MemoryError):
        find(tmp_path)


@needs_root
def test_limit_of_processes_is_a_refusal(system_venv, accounts):
    command = ['prlimit', '--nproc=1', system_venv / 'bin/caps', 'find', '/etc/ssl']
    done = run(*command, account=accounts.attacker)
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.endswith('no thread can be started, see ulimit -u\n')
    assert 'Traceback' not in done.stderr


def test_progress_is_shown_after_a_second_and_taken_away():
    from caps.cli.output import Progress

    master, slave = os.openpty()
    with open(slave, 'w') as terminal, open(master, 'rb', buffering=0) as screen:
        progress = Progress(terminal)
        for _ in range(10):
            progress.tick('not yet')
        progress.tick('1 directory \x1b[31m')
        progress.clear()
        expected, shown = b'\r1 directory \\x1b[31m\x1b[K\r\x1b[K', b''
        while len(shown) < len(expected):  # a terminal hands on what it has
            shown += screen.read(100)
        assert shown == expected


@pytest.mark.parametrize('answer', ['ENOSYS', 'EPERM'])
@pytest.mark.parametrize('call', ['openat2', 'getxattrat', 'listxattrat'])
def test_finds_the_same_on_an_older_kernel(tmp_path, call, answer):
    grown(tmp_path)
    search = find_without(call, answer)
    assert lines(*search, tmp_path) == lines('getcap', '-nr', tmp_path)


@pytest.mark.parametrize('options', [[], ['--json']], ids=['lines', 'json'])
def test_what_was_found_before_control_c_is_kept(tmp_path, options):
    (tmp_path / 'file').touch()
    Caps('cap_kill=p').apply(tmp_path / 'file')
    done = run(sys.executable, CHILDREN / 'interrupted.py', 'find', *options, tmp_path, '/absent')
    assert done.returncode == 130
    reason = 'interrupted: not every directory has been searched'
    assert done.stderr == f'caps: {reason}\n'
    if options:
        document = json.loads(done.stdout)
        assert [file['text'] for file in document['files']] == ['cap_kill=p']
        assert document['problems'] == [reason]
    else:
        assert done.stdout == f'{tmp_path}/file cap_kill=p\n'


@needs('cap_sys_admin')
def test_all_file_systems_are_not_those_that_the_kernel_makes_up(tmp_path):
    for kind in 'proc', 'sysfs', 'tmpfs':
        (tmp_path / kind).mkdir()
    mounts = ' && '.join(f'mount -t {kind} none {tmp_path}/{kind}' for kind in ('sysfs', 'tmpfs'))
    mark = f'touch {tmp_path}/tmpfs/file && setcap cap_kill=p {tmp_path}/tmpfs/file'
    code = (
        'import sys; from caps.system.find import find; '
        'found = find(sys.argv[1], all_file_systems=True); '
        'print(found.searched, len(found.files))'
    )
    mount_proc = f'mount -t proc none {tmp_path}/proc'
    done = run(
        'unshare', '--mount', 'sh', '-ec',
        f'{mounts} && {mount_proc} && {mark}; exec "$0" -c \'{code}\' {tmp_path}', sys.executable,
    )  # fmt: skip
    assert done.stdout == '4 1\n', done.stderr
