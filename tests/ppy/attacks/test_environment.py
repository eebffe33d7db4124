"""The environment, which is the caller's, and the home, which others may write to."""

import os
import pty
import pwd
import shutil
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import PATIENCE, needs_root, run
from support.accounts import Account
from support.attacks import NOBODY_KNOWN, PYTHON, library

pytestmark = needs_root


def cached(nest):
    """A compiled module that Python takes for the one of its library."""
    code = 'import colorsys, importlib.util as util, py_compile as compile, sys\n'
    code += 'sys.pycache_prefix = sys.argv[1]; mode = compile.PycInvalidationMode.UNCHECKED_HASH\n'
    code += 'target = util.cache_from_source(colorsys.__file__)\n'
    code += 'compile.compile(sys.argv[2], target, invalidation_mode=mode)'
    source = nest.python('source.py')
    attacker = nest.path.stat()
    account = Account('', attacker.st_uid, attacker.st_gid)
    run(PYTHON, '-c', code, nest.path / 'cache', source, account=account, check=True)
    return {'PYTHONPYCACHEPREFIX': nest.path / 'cache'}


def locale(nest):
    """A locale whose January is another."""
    given = next(Path('/usr/lib/locale').glob('C.*'))
    for file in filter(Path.is_file, given.rglob('*')):
        data = file.read_bytes().replace(b'January', b'Caught!')
        nest.plant(f'other/{file.relative_to(given)}', data)
    return {'LOCPATH': nest.path, 'LC_ALL': 'other'}


def zone(nest):
    data = b'TZif' + bytes(16) + struct.pack('>6I', 0, 0, 0, 0, 1, 4) + bytes(6) + b'OWN\0'
    return {'TZ': nest.plant('zone', data)}


def provider(nest):
    module = nest.library('provider.so')
    return {
        'OPENSSL_CONF': nest.plant(
            'openssl.cnf',
            'openssl_conf = a\n[a]\nproviders = b\n[b]\nplanted = c\n'
            f'[c]\nmodule = {module}\nactivate = 1\n',
        )
    }


def converter(nest):
    nest.library('planted.so')
    nest.plant('gconv-modules', 'module PLANTED// INTERNAL planted 1\n')
    return {'GCONV_PATH': nest.path}


# The interpreter, what the script does, and what the attacker plants and sets. LOOT is the file
# that the script makes itself where it notices their influence.
CANARIES = {
    'PYTHONPATH': (
        'python',
        'pass',
        lambda it: {'PYTHONPATH': it.python('sitecustomize.py').parent},
    ),
    'PYTHONHOME': (
        'python',
        'pass',
        lambda it: {'PYTHONHOME': it.python(f'{library()}/encodings/__init__.py').parents[3]},
    ),
    'PYTHONUSERBASE': (
        'python',
        'pass',
        lambda it: {
            'PYTHONUSERBASE': it.python(f'{library()}/site-packages/usercustomize.py').parents[3]
        },
    ),
    'HOME': (
        'python',
        'pass',
        lambda it: {
            'HOME': it.python(f'.local/{library()}/site-packages/usercustomize.py').parents[4]
        },
    ),
    'PYTHONSTARTUP': (
        'python',
        'import os; os.system("/usr/bin/python3 -i")',
        lambda it: {'PYTHONSTARTUP': it.python('startup.py')},
    ),
    'PYTHONINSPECT': ('python', 'pass', lambda it: {'PYTHONINSPECT': '1'}),
    'PYTHONPYCACHEPREFIX': ('python', 'import colorsys', cached),
    'PYTHONWARNINGS': (
        'python',
        'pass',
        lambda it: {
            'PYTHONWARNINGS': 'all:0:antigravity.x:0:0',
            'BROWSER': it.program('browser'),
        },
    ),
    'PYTHONBREAKPOINT': (
        'python',
        'import pdb\npdb.set_trace = lambda *_, **__: None\nbreakpoint()',
        lambda it: {'PYTHONBREAKPOINT': 'antigravity.x', 'BROWSER': it.program('browser')},
    ),
    'BASH_ENV': ('bash', ':', lambda it: {'BASH_ENV': it.program('bashrc')}),
    'SHELLOPTS': (
        'bash',
        ':',
        lambda it: {'SHELLOPTS': 'xtrace', 'PS4': f'$({it.program("trace")})'},
    ),
    'BASH_FUNC': ('bash', 'true', lambda it: {'BASH_FUNC_true%%': f'() {{ {it.program("x")}; }}'}),
    'PATH': ('bash', 'id', lambda it: {'PATH': it.program('id').parent}),
    'LD_PRELOAD': ('bash', ':', lambda it: {'LD_PRELOAD': it.library('planted.so')}),
    'LD_LIBRARY_PATH': (
        'python',
        'import ctypes; ctypes.CDLL("libcap.so.2")',
        lambda it: {'LD_LIBRARY_PATH': it.library('libcap.so.2').parent},
    ),
    'LD_DEBUG': ('bash', ':', lambda it: {'LD_DEBUG': 'libs', 'LD_DEBUG_OUTPUT': it.loot}),
    'GLIBC_TUNABLES': (
        'python',
        'import ctypes\nlibc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n'
        'if ctypes.string_at(libc.malloc(5000), 5000).count(0x5a) > 4000:\n    open("LOOT", "w")',
        lambda it: {'GLIBC_TUNABLES': f'glibc.malloc.perturb={0x5A ^ 0xFF}'},
    ),
    'GCONV_PATH': ('bash', 'iconv -f PLANTED -t UTF-8 /dev/null 2>/dev/null', converter),
    'OPENSSL_CONF': ('python', 'import ssl; ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)', provider),
    'LOCPATH': (
        'python',
        'import contextlib, locale\nwith contextlib.suppress(locale.Error):\n'
        '    locale.setlocale(locale.LC_ALL, "")\n'
        'if locale.nl_langinfo(locale.MON_1) == "Caught!":\n    open("LOOT", "w")',
        locale,
    ),
    'TZ': ('python', 'import time\nif "OWN" in time.tzname:\n    open("LOOT", "w")', zone),
}


@contextmanager
def typing(text):
    """A terminal at which that has been typed, and then control-D."""
    ours, keyboard = pty.openpty()
    try:
        os.write(ours, f'{text}\x04'.encode())
        yield keyboard
    finally:
        os.close(ours)
        os.close(keyboard)


@pytest.mark.parametrize(('interpreter', 'text', 'lay'), CANARIES.values(), ids=CANARIES)
def test_environment_of_the_caller_does_nothing(
    launchers, script, accounts, nest, interpreter, text, lay
):
    last = {'python': '\nprint("ran")', 'bash': '\necho ran'}[interpreter]
    # marked, but with nothing: else glibc would help, to which a launch then looks privileged
    path = script(text.replace('LOOT', str(nest.loot)) + last, '=')
    variables = {name: str(value) for name, value in lay(nest).items()}
    with typing(nest.python('typed.py').read_text()) as keyboard:
        stdin = keyboard if 'PYTHONINSPECT' in variables else subprocess.DEVNULL
        done = launchers(interpreter).run(
            path, account=accounts.attacker, env=variables, cwd=nest.path, stdin=stdin
        )
    assert any(nest.loot.parent.iterdir()) == launchers(interpreter).naive, done
    if not launchers(interpreter).naive:
        assert done.returncode == 0
        assert 'ran\n' in done.stdout


def test_home_that_others_write_to_customizes_nothing(launchers, script, accounts, nest):
    home = Path(pwd.getpwuid(accounts.owner.uid).pw_dir)
    place = nest.python(f'home/.local/{library()}/site-packages/usercustomize.py').parents[4]
    shutil.copytree(place, home)
    try:
        run('chown', '-R', f'{accounts.owner.uid}', home, check=True)
        home.chmod(0o777)
        done = launchers('python').run(
            script('print("ran")', '='), account=accounts.attacker, env={}
        )
    finally:
        shutil.rmtree(home)
    assert nest.loot.exists() == launchers('python').naive
    assert done.stdout == 'ran\n'


# How the attacker makes a home pass for the owner's, where anybody may add files.
PRETENCES = {
    'an innocent link': lambda den, home, owner: home.symlink_to('/etc'),
    'a link to where none can look': lambda den, home, owner: (
        (den / 'closed').mkdir(),
        (den / 'closed').chmod(0),
        os.chown(den / 'closed', den.stat().st_uid, 0),
        home.symlink_to(den / 'closed/home'),
    ),
    "the caller's": lambda den, home, owner: (
        home.mkdir(0o755),
        os.chown(home, den.stat().st_uid, 0),
    ),
    "the owner's, which can be renamed": lambda den, home, owner: (
        home.parent.chmod(0o777),
        home.mkdir(0o755),
        os.chown(home, owner.uid, owner.gid),
    ),
}


@pytest.mark.parametrize('pretend', PRETENCES.values(), ids=PRETENCES)
def test_home_that_others_can_exchange_customizes_nothing(
    launchers, script, accounts, scene, nest, pretend
):
    public, home = scene / 'public', scene / 'public/home'
    public.mkdir()
    public.chmod(0o1777)
    nest.python(f'.local/{library()}/site-packages/usercustomize.py')
    path = script(f'import os\nprint("ready", flush=True)\ninput()\nos.system("{PYTHON} -c pass")')
    before = pwd.getpwuid(accounts.owner.uid).pw_dir
    options = {'user': accounts.attacker.uid, 'group': accounts.attacker.gid, 'extra_groups': []}
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'env': {'HOME': str(home)}}
    try:
        run('usermod', '-d', home, accounts.owner.name, check=True)
        pretend(nest.path, home, accounts.owner)
        with subprocess.Popen([launchers('python').path, path], **pipes, **options) as process:
            assert process.stdout.readline() == b'ready\n'
            home.rename(public / 'old')
            home.symlink_to(nest.path)
            process.communicate(b'\n', timeout=PATIENCE)
    finally:
        run('usermod', '-d', before, accounts.owner.name, check=True)
    assert nest.loot.exists() == launchers('python').naive


def test_directory_of_the_caller_does_not_become_the_home(launchers, script, accounts, nest):
    nest.python(f'~/.local/{library()}/site-packages/usercustomize.py')
    os.chown(nest.loot.parent, NOBODY_KNOWN.uid, 0)
    path = script('print("ran")', '=', owner=NOBODY_KNOWN)
    done = launchers('python').run(path, account=accounts.attacker, env={}, cwd=nest.path)
    assert nest.loot.exists() == launchers('python').naive
    assert done.stdout == 'ran\n'


def test_many_variables_and_long_arguments_overflow_nothing(launchers, script, accounts):
    code = 'import os, sys\nprint(len(os.environ), sum(map(len, sys.argv[1:])))'
    variables = {f'LC_{number}': 'x' * 100 for number in range(5000)} | {'LC_TIME': 'x' * 100_000}
    longest = 'x' * (128 * 1024 - 1)
    path = script(code, 'cap_kill=i')
    done = launchers('python').run(path, *[longest] * 4, account=accounts.attacker, env=variables)
    count, length = map(int, done.stdout.split())
    assert (count > 100) == launchers('python').naive
    assert length == 4 * len(longest)
