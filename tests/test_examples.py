"""What examples/ shows works as written."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from conftest import ROOT, needs_root, run

pytestmark = needs_root
EXAMPLES = ROOT / 'examples'


def marked(script, name, mark):
    return script((EXAMPLES / name).read_text(), mark, name=name)


def test_list_root(ppy, script, accounts):
    done = ppy.run(marked(script, 'list_root.py', 'cap_dac_read_search=i'), account=accounts.b)
    assert done.returncode == 0, done.stderr
    started, activated, listed, child = done.stdout.splitlines()
    assert started.endswith('cap_dac_read_search=ip')
    assert activated.endswith('cap_dac_read_search=eip')
    assert listed.endswith(str(os.listdir('/root')))
    assert child.endswith('Permission denied')


def test_backup_reads_what_its_owner_cannot(ppy, script, accounts, scene):
    secret = scene / 'secret'
    secret.mkdir(mode=0o700)
    (secret / 'file').write_text('kept')
    (scene / 'out').mkdir()
    os.chown(scene / 'out', accounts.a.uid, accounts.a.gid)
    arguments = secret, scene / 'out' / 'archive.tar'
    plain = ppy.run(marked(script, 'backup.py', '='), *arguments, account=accounts.b)
    assert 'cap_dac_read_search cannot be added to effective' in plain.stderr
    done = ppy.run(
        marked(script, 'backup.py', 'cap_dac_read_search=i'), *arguments, account=accounts.b
    )
    assert done.returncode == 0, done.stderr
    assert 'secret/file' in run('tar', '-tf', arguments[1]).stdout


@contextlib.contextmanager
def started(*command, **options):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_web_server_listens_on_port_80_and_has_nothing_left(ppy, script, accounts):
    address = '127.0.0.86'  # a loopback address of this test's own
    path = marked(script, 'web_server.py', 'cap_net_bind_service=i')
    os_options = {'user': accounts.b.uid, 'group': accounts.b.gid, 'extra_groups': []}
    with started(ppy.path, path, address, cwd=path.parent, **os_options) as process:
        assert process.stdout.readline() == 'listening with =\n'
        with urlopen(f'http://{address}/web_server.py', timeout=10) as answer:
            assert answer.read() == path.read_bytes()
        lines = Path(f'/proc/{process.pid}/status').read_text().splitlines()
        status = dict(line.split(':\t', 1) for line in lines)
    assert int(status['CapPrm'], 16) == 0
    assert status['NoNewPrivs'].strip() == '1'


def test_daemon_keeps_one_capability_in_every_thread(accounts):
    done = run(sys.executable, EXAMPLES / 'daemon.py', accounts.b.name)
    assert done.returncode == 0, done.stderr
    jobs = sorted(done.stdout.splitlines())
    assert jobs == [f'job {number} runs with cap_net_raw=ep' for number in range(8)]


def test_child_has_one_capability():
    done = run(sys.executable, EXAMPLES / 'child.py')
    assert done.returncode == 0, done.stderr
    sets = dict(re.findall(r'Cap(\w+):\t(\w+)', done.stdout))
    assert set(sets) == {'Inh', 'Prm', 'Eff', 'Bnd', 'Amb'}
    assert {int(mask, 16) for mask in sets.values()} == {1 << 10}


def test_demo_shows_it_all_and_leaves_nothing(wheel):
    done = run('sh', EXAMPLES / 'demo.sh', env=os.environ | {'CAPS': f'{sys.prefix}/bin/caps'})
    assert done.returncode == 0, done.stdout
    assert 'PermissionError' in done.stdout
    assert 'started with: cap_dac_read_search=ip' in done.stdout
    assert "ls: cannot open directory '/root'" in done.stdout
    assert not [name for name in os.listdir('/var/lib') if name.startswith('caps-demo-')]
    assert 'caps-owner-' not in Path('/etc/passwd').read_text()
