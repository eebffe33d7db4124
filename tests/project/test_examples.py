"""What examples/ shows works as written."""

import contextlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from support import PATIENCE, ROOT, needs, needs_root, run
from support.child import enter_network_namespace, in_a_child
from support.machine import alone

pytestmark = needs_root
EXAMPLES = ROOT / 'examples'


def marked(script, name, mark):
    return script((EXAMPLES / name).read_text(), mark, name=name)


@needs('cap_dac_read_search')
def test_list_root(ppy, script, accounts):
    done = ppy.run(
        marked(script, 'list_root.py', 'cap_dac_read_search=i'), account=accounts.attacker
    )
    assert done.returncode == 0, done.stderr
    started, activated, listed, child = done.stdout.splitlines()
    assert started.endswith('cap_dac_read_search=ip')
    assert activated.endswith('cap_dac_read_search=eip')
    assert listed.endswith(str(os.listdir('/root')))
    assert child.endswith('Permission denied')


@pytest.fixture
def directory(scene, accounts):
    """A function that makes a directory of the script's owner beside the script."""

    def make(name, mode):
        path = scene / name
        path.mkdir()
        os.chown(path, accounts.owner.uid, accounts.owner.gid)
        path.chmod(mode)
        return path

    return make


@needs('cap_dac_read_search')
def test_backup_reads_what_its_owner_cannot(ppy, script, accounts, scene, directory):
    archives = directory('archive', 0o700)
    secret = scene / 'secret'
    secret.mkdir(mode=0o700)
    (secret / 'file').write_text('kept')
    plain = ppy.run(marked(script, 'backup.py', '='), secret, account=accounts.attacker)
    assert 'cap_dac_read_search cannot be added to effective' in plain.stderr
    for path in archives.iterdir():
        path.unlink()
    path = marked(script, 'backup.py', 'cap_dac_read_search=i')
    done = ppy.run(path, secret, account=accounts.attacker)
    assert done.returncode == 0, done.stderr
    archive = Path(done.stdout.strip())
    assert 'secret/file' in run('tar', '-tf', archive).stdout
    assert archive.parent == archives
    assert archive.stat().st_uid == accounts.owner.uid
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600


@needs('cap_dac_read_search')
def test_caller_does_not_choose_where_the_backup_goes(ppy, script, accounts, den, directory):
    directory('archive', 0o700)
    den.chmod(0o777)
    path = marked(script, 'backup.py', 'cap_dac_read_search=i')
    done = ppy.run(path, '/etc/shadow', den / 'x.tar', account=accounts.attacker, cwd=den)
    assert done.returncode != 0
    assert not list(den.iterdir())


@pytest.mark.parametrize('name', ['backup.py', 'ping.py', 'daemon.py'])
def test_example_without_its_argument_says_how_it_is_started(name, tmp_path):
    (tmp_path / 'aioping.py').touch()
    environment = os.environ | {'PYTHONPATH': str(tmp_path)}
    done = run(sys.executable, EXAMPLES / name, env=environment)
    assert done.stderr.startswith('usage: ')
    assert 'Traceback' not in done.stderr


@contextlib.contextmanager
def started(*command, **options):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@needs('cap_net_admin', 'cap_sys_admin')
@in_a_child
def test_web_server_listens_on_port_80_and_has_nothing_left(ppy, script, accounts, directory, den):
    enter_network_namespace()
    address = '127.0.0.1'
    path = marked(script, 'web_server.py', 'cap_net_bind_service=i')
    (directory('public', 0o755) / 'page').write_text('served')
    (den / 'private').write_text('not served')
    os_options = {'user': accounts.attacker.uid, 'group': accounts.attacker.gid, 'extra_groups': []}
    with started(ppy.path, path, address, cwd=den, **os_options) as process:
        assert process.stdout.readline() == 'listening with =\n'
        with urlopen(f'http://{address}/page', timeout=PATIENCE) as answer:
            assert answer.read() == b'served'
        with pytest.raises(HTTPError, match='404'):
            urlopen(f'http://{address}/private', timeout=PATIENCE)
        lines = Path(f'/proc/{process.pid}/status').read_text().splitlines()
        status = dict(line.split(':\t', 1) for line in lines)
    assert int(status['CapPrm'], 16) == 0
    assert status['NoNewPrivs'].strip() == '1'


def test_daemon_keeps_one_capability_in_every_thread(accounts):
    done = run(sys.executable, EXAMPLES / 'daemon.py', accounts.attacker.name)
    assert done.returncode == 0, done.stderr
    jobs = sorted(done.stdout.splitlines())
    assert jobs == [f'job {number} runs with cap_net_raw=ep' for number in range(8)]


def test_child_has_one_capability():
    done = run(sys.executable, EXAMPLES / 'child.py')
    assert done.returncode == 0, done.stderr
    sets = dict(re.findall(r'Cap(\w+):\t(\w+)', done.stdout))
    assert set(sets) == {'Inh', 'Prm', 'Eff', 'Bnd', 'Amb'}
    assert {int(mask, 16) for mask in sets.values()} == {1 << 10}


@needs('cap_dac_read_search')
def test_demo_shows_it_all_and_leaves_nothing(wheel):
    with alone():  # whoever else shows it has such accounts and directories, too
        done = run('sh', EXAMPLES / 'demo.sh', env=os.environ | {'CAPS': f'{sys.prefix}/bin/caps'})
        assert not [name for name in os.listdir('/var/lib') if name.startswith('caps-demo-')]
        assert 'caps-owner-' not in Path('/etc/passwd').read_text()
    assert done.returncode == 0, done.stdout
    assert 'PermissionError' in done.stdout
    assert '\033' not in done.stdout  # no colours into a pipe
    assert 'started with: cap_dac_read_search=ip' in done.stdout
    assert "ls: cannot open directory '/root'" in done.stdout
