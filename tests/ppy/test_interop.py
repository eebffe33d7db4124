"""Scripts under ppy that know nothing of it: other libraries' ways to a capability, what people
use one for, and containers."""

import re
import subprocess
import sys

import pytest

from caps.admin.ppy import install
from support import CHILDREN, ROOT, needs, needs_root, program, require, run
from support.launchers import MODES, Ppy

pytestmark = [needs_root, needs('cap_net_admin', 'cap_setpcap', 'cap_sys_admin')]

PYTHON = '/usr/bin/python3'
PACKAGES = ['python-prctl', 'pyprctl', 'aioping']  # of PyPI
OWN = '+setgid,+setuid,+setpcap,+dac_override'  # what ppy needs


@pytest.fixture(scope='module')
def equipped(world, wheel):
    """An environment of the system's Python with ours and other libraries."""
    found = run(PYTHON, '-c', 'import capng').returncode == 0
    require(found, "libcap-ng's Python binding: apt install python3-cap-ng")
    venv = world / 'equipped'
    subprocess.run([PYTHON, '-m', 'venv', '--system-site-packages', venv], check=True)
    pip = [venv / 'bin/pip', 'install', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, '--no-index', '--no-deps', wheel], check=True)
    done = run(*pip, *PACKAGES)
    require(done.returncode == 0, f'{", ".join(PACKAGES)} from PyPI: {done.stderr}')
    return venv


@pytest.fixture(scope='module')
def installed(world, equipped):
    """ppy for that environment, by mode."""
    python = equipped / 'bin/python'
    return {
        mode: Ppy(mode, install(python, world / f'equipped-{mode}', **options))
        for mode, options in MODES.items()
    }


# ---- Where things run ----


def as_account(account):
    return ['setpriv', '--reuid', account.uid, '--regid', account.gid, '--clear-groups']


def own_network(account):
    """A loopback of its own, on which neither a port nor a ping is anybody's."""
    loopback = [sys.executable, CHILDREN / 'loopback.py']
    return ['unshare', '--net', *loopback, *as_account(account)]


def container(account, bounding):
    """What a container is to ppy: namespaces of its own, and a bounding set."""
    namespaces = ['--net', '--mount', '--ipc', '--uts', '--pid', '--fork', '--mount-proc']
    rest = own_network(account)[2:]
    return ['unshare', *namespaces, *rest, f'--bounding-set=-all,{bounding}']


def bubblewrap(*options):
    require(run('which', 'bwrap').returncode == 0, 'bubblewrap: apt install bubblewrap')
    root = ['--bind', '/', '/', '--dev', '/dev', '--proc', '/proc', '--unshare-net']
    return ['bwrap', *root, *options]


# ---- Scripts ----

ACTIVATE = 'from caps import Caps; Caps.from_process().activate().apply()\n'
LIST = "\nimport os; os.listdir('/root'); print('done')"
PING = 'import aioping, asyncio; asyncio.run(aioping.ping("127.0.0.1", 10)); print("done")'
USES = {
    'caps lists a directory': ('cap_dac_read_search', ACTIVATE, LIST),
    'libcap-ng lists a directory': (
        'cap_dac_read_search',
        """
import capng
capng.capng_get_caps_process()
capng.capng_update(capng.CAPNG_ADD, capng.CAPNG_EFFECTIVE, capng.CAP_DAC_READ_SEARCH)
capng.capng_apply(capng.CAPNG_SELECT_CAPS)
""",
        LIST,
    ),
    'python-prctl lists a directory': (
        'cap_dac_read_search',
        'import prctl; prctl.cap_effective.dac_read_search = True',
        LIST,
    ),
    'pyprctl lists a directory': (
        'cap_dac_read_search',
        'import pyprctl; pyprctl.cap_effective.add(pyprctl.Cap.DAC_READ_SEARCH)',
        LIST,
    ),
    'aioping pings': ('cap_net_raw', ACTIVATE, PING),
    'a server binds port 80': ('cap_net_bind_service', ACTIVATE, program('bind')),
}


@pytest.fixture(params=USES.values(), ids=USES)
def use(request):
    """A capability, code that makes it effective, and code that uses it."""
    return request.param


def test_a_script_uses_the_capability_of_its_mark(installed, script, accounts, use):
    capability, activate, code = use
    path = script(activate + code, f'{capability}=i')
    done = run(*own_network(accounts.attacker), installed['file-capabilities'].path, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'done\n', '')


def test_the_example_that_pings(installed, script, accounts):
    example = (ROOT / 'examples/ping.py').read_text()
    path = script(example, 'cap_net_raw=i', name='ping.py')
    command = [
        *own_network(accounts.attacker),
        installed['file-capabilities'].path,
        path,
        '127.0.0.1',
    ]
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, '')
    assert re.fullmatch(r'127\.0\.0\.1 answered after \d+\.\d\d ms\n', done.stdout)
    run('setcap', '=', path, check=True)
    assert 'cap_net_raw cannot be added to effective' in run(*command).stderr


@pytest.mark.parametrize('mark', ['=', 'cap_kill=i'], ids=['without', 'with another'])
def test_a_script_without_it_fails(installed, script, accounts, use, mark):
    _, activate, code = use
    path = script(activate + code, mark)
    done = run(*own_network(accounts.attacker), installed['file-capabilities'].path, path)
    assert (done.returncode, done.stdout) == (1, '')
    assert 'PermissionError' in done.stderr


def test_a_script_that_does_not_activate_it_fails(installed, script, accounts, use):
    capability, _, code = use
    path = script(code, f'{capability}=i')
    done = run(*own_network(accounts.attacker), installed['file-capabilities'].path, path)
    assert (done.returncode, done.stdout) == (1, '')
    assert 'PermissionError' in done.stderr


# ---- Containers ----


@pytest.mark.parametrize('mode', MODES)
def test_a_script_uses_the_one_capability_of_a_container(installed, script, accounts, use, mode):
    capability, activate, code = use
    path = script(activate + code, f'{capability}=i')
    bounding = f'{OWN},+{capability.removeprefix("cap_")}'
    done = run(*container(accounts.attacker, bounding), installed[mode].path, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'done\n', '')


@pytest.mark.parametrize('mode', MODES)
def test_a_container_without_the_capability_is_refused(installed, script, accounts, use, mode):
    capability, activate, code = use
    path = script(activate + code, f'{capability}=i')
    done = run(*container(accounts.attacker, f'{OWN},+kill'), installed[mode].path, path)
    assert (done.returncode, done.stdout) == (126, '')
    rule = 'must be in the bounding set that ppy is started with'
    assert done.stderr == f'ppy: {capability}: {rule}\n'


@pytest.mark.parametrize(
    ('mode', 'reason'),
    [
        ('file-capabilities', 'Operation not permitted'),  # execve(2) refuses it itself
        ('set-uid', 'ppy: cap_setpcap: must be in the bounding set that ppy is started with'),
    ],
)
def test_a_container_without_what_ppy_needs_is_refused(installed, script, accounts, mode, reason):
    bounding = OWN.replace('+setpcap', '+kill')
    command = [
        *container(accounts.attacker, bounding),
        installed[mode].path,
        script('', 'cap_kill=i'),
    ]
    done = run(*command)
    assert (done.returncode, done.stdout) == (126, '')
    assert done.stderr.strip().endswith(reason)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('account', [None, 'attacker'], ids=['root', 'ordinary account'])
def test_bubblewrap_which_forbids_privilege_is_refused(installed, script, accounts, mode, account):
    path = script('print("ran")', 'cap_kill=i')
    caller = account and accounts.attacker
    works = run(*bubblewrap(), 'true', account=caller).returncode == 0
    require(works, 'bubblewrap to work: kernel.unprivileged_userns_clone or the like may forbid it')
    done = run(*bubblewrap(), installed[mode].path, path, account=caller)
    assert (done.returncode, done.stdout) == (126, '')
    assert done.stderr.startswith('ppy: no_new_privs: must not be set')


NETWORK = {name: USES[name] for name in ('aioping pings', 'a server binds port 80')}


@pytest.mark.parametrize(('capability', 'activate', 'code'), NETWORK.values(), ids=NETWORK)
def test_caps_uses_the_one_capability_of_a_bubblewrap_container(
    equipped, capability, activate, code
):
    show = 'from caps import Caps; print(Caps.from_process().permitted)\n'
    command = [equipped / 'bin/python', '-c', show + activate + code]
    given = bubblewrap('--cap-drop', 'ALL', '--cap-add', capability.upper())
    done = run(*given, *command)
    assert (done.returncode, done.stdout) == (0, f'{capability}\ndone\n'), done.stderr
    another = bubblewrap('--cap-drop', 'ALL', '--cap-add', 'CAP_KILL')
    done = run(*another, *command)
    assert (done.returncode, done.stdout) == (1, 'cap_kill\n')
    assert 'PermissionError' in done.stderr
