"""ppy-check says what ppy would do, and why, without any privilege."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from caps import Caps
from caps.admin.ppy import install
from support import ROOT, needs, needs_root, run
from support.launchers import MODES, Ppy

pytestmark = needs_root

OK, REFUSED = 'ok      ', 'REFUSED '


def check(ppy, *arguments, before=(), **options):
    """What ppy-check says, started as ppy would be."""
    return run(*before, f'{ppy.path}-check', *arguments, **options)


def verdicts(done):
    """The rules that hold, and those that do not, each as the rest of its line."""
    *lines, verdict = done.stdout.splitlines()
    assert (verdict == 'ppy would start this script') == (done.returncode == 0), verdict
    assert (done.stderr, len(lines)) == ('', len({*lines}))
    assert all(line.startswith((OK, REFUSED)) for line in lines), lines
    return tuple([line[8:] for line in lines if line.startswith(word)] for word in (OK, REFUSED))


def assert_as_ppy(ppy, *arguments, status, **options):
    """ppy-check ends as ppy does, and what ppy says is among what ppy-check says is refused."""
    before = options.pop('before', ())
    launched = run(*before, ppy.path, *arguments, **options)
    checked = check(ppy, *arguments, before=before, **options)
    holds, refused = verdicts(checked)
    assert (launched.returncode, checked.returncode) == (status, status), launched.stderr
    if status:
        said = launched.stderr.removeprefix('ppy: ').strip()
        assert refused
        if not said.startswith('setpriv: failed to execute'):  # the kernel's own refusal
            assert said in refused
    else:
        assert (launched.stderr, refused) == ('', [])
        assert len(holds) > 20
    return holds, refused


# ---- The script ----


class Scene:
    """A script in a directory of its owner's, and what can be wrong with the two."""

    def __init__(self, scene, script, accounts, ppy):
        self.here, self.accounts, self.ppy = scene, accounts, ppy
        self.script = script('', 'cap_net_raw=i')
        self.before = [
            'setpriv',
            '--reuid',
            accounts.attacker.uid,
            '--regid',
            accounts.attacker.gid,
        ]
        self.before += ['--clear-groups']
        self.arguments = [self.script]

    def mode(self, mode, path=None):
        (path or self.script).chmod(mode)

    def owner(self, uid, gid, path=None):
        mark = None if path else Caps.from_file(self.script)
        os.chown(path or self.script, uid, gid)
        if mark:
            mark.apply(self.script)

    def mark(self, text, root_id=0):
        caps = Caps(text)
        caps.root_id = root_id
        caps.apply(self.script)

    def name(self, *names):
        self.arguments = names

    def rename(self, name):
        self.arguments = [self.script.rename(self.here / name)]

    def special(self, kind):
        os.mknod(self.here / 'special', 0o755 | kind)
        self.arguments = [self.here / 'special']

    def caller(self, *options):
        self.before += options


GOOD = {
    'as it should be': lambda case: None,
    'without a capability': lambda case: case.mark('='),
    'in a directory of its owner': lambda case: case.owner(case.accounts.owner.uid, 0, case.here),
    'by a link': lambda case: case.name(
        os.symlink('script.py', case.here / 'link') or case.here / 'link'
    ),
    'with a hostile name': lambda case: case.rename("\n'\x1b[m\udcff"),
}
ABSENT = {
    'absent': lambda case: case.name(case.here / 'absent'),
    'below a file': lambda case: case.name(case.script / 'below'),
    'a dangling link': lambda case: case.name(os.symlink('x', case.here / 'y') or case.here / 'y'),
    'absent, with a hostile name': lambda case: case.name(case.here / "\n'\x1b[m\udcff"),
}
WRONG = {
    'unmarked': lambda case: Caps.remove(case.script),
    'of a user namespace': lambda case: case.mark('cap_net_raw=i', 1000),
    'writable by its group': lambda case: case.mode(0o775),
    'writable by others': lambda case: case.mode(0o757),
    'not executable': lambda case: case.mode(0o644),
    'not executable for its caller': lambda case: case.mode(0o744),
    "root's": lambda case: case.owner(0, case.accounts.owner.gid),
    "root's group's": lambda case: case.owner(case.accounts.owner.uid, 0),
    'in a closed directory': lambda case: case.mode(0o700, case.here),
    'in a writable directory': lambda case: case.mode(0o757, case.here),
    'in a sticky directory': lambda case: case.mode(0o1777, case.here),
    "in another's directory": lambda case: case.owner(case.accounts.attacker.uid, 0, case.here),
    'a directory': lambda case: case.name(case.here),
    'a FIFO': lambda case: case.special(stat.S_IFIFO),
    'a socket': lambda case: case.special(stat.S_IFSOCK),
    'a device': lambda case: case.name('/dev/null'),
    'ppy': lambda case: case.name(case.ppy.path),
    'the interpreter': lambda case: case.name(case.ppy.installed.original),
    'its capped copy': lambda case: case.name(case.ppy.installed.capped),
    'a long name': lambda case: case.name('x/' * 5000),
    'a link to itself': lambda case: case.name(os.symlink('z', case.here / 'z') or case.here / 'z'),
    'more than the bounding set': lambda case: case.caller('--bounding-set=-net_raw'),
    'without the bounding set': lambda case: case.caller('--bounding-set=-all'),
    'under no_new_privs': lambda case: case.caller('--no-new-privs'),
    'under securebits': lambda case: case.caller('--securebits=+noroot'),
    'absent, under no_new_privs': lambda case: (
        case.name('/absent'),
        case.caller('--no-new-privs'),
    ),
}
SCENES = {
    **{name: (arrange, 0) for name, arrange in GOOD.items()},
    **{name: (arrange, 127) for name, arrange in ABSENT.items()},
    **{name: (arrange, 126) for name, arrange in WRONG.items()},
}


@needs('cap_setpcap')
@pytest.mark.parametrize(('arrange', 'status'), SCENES.values(), ids=SCENES)
def test_ppy_check_ends_as_ppy_does(scene, script, accounts, ppy, arrange, status):
    case = Scene(scene, script, accounts, ppy)
    arrange(case)
    assert_as_ppy(ppy, *case.arguments, before=case.before, status=status)


@needs('cap_sys_admin')
@pytest.mark.parametrize(('options', 'status'), [('nosuid', 126), ('noexec', 126), ('nodev', 0)])
def test_ppy_check_sees_the_mount_as_ppy_does(scene, script, accounts, ppy, options, status):
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'{options},mode=755', 'none', scene], check=True)
    try:
        assert_as_ppy(ppy, script('', 'cap_net_raw=i'), account=accounts.attacker, status=status)
    finally:
        subprocess.run(['umount', scene], check=True)


@pytest.mark.parametrize('arguments', [[], [''], ['-c'], ['--tsv'], ['--tsv', '--quiet', 'x']])
def test_ppy_check_wants_a_script(accounts, ppy, arguments):
    done = check(ppy, *arguments, account=accounts.attacker)
    assert (done.returncode, done.stdout) == (126, '')
    assert done.stderr == 'ppy-check: usage: ppy-check [--quiet | --tsv] SCRIPT\n'


@pytest.mark.parametrize('option', ['--help', '--version'])
@pytest.mark.parametrize('name', ['ppy', 'ppy-check'])
@pytest.mark.parametrize('installed', [True, False], ids=['installed', 'not installed'])
def test_programs_say_what_they_are(ppy, accounts, installed, name, option):
    place = ppy.path.parent if installed else ROOT / 'caps'
    done = run(place / name, option, account=accounts.attacker if installed else None)
    project = (ROOT / 'pyproject.toml').read_text()
    version = re.search('^version = "(.*)"$', project, re.MULTILINE)[1]
    begin = {'--help': f'Usage: {name} ', '--version': f'{name} {version}\n'}[option]
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(begin)
    with open('/dev/full', 'w') as full:
        done = run(place / name, option, capture_output=False, stdout=full)
    assert done.returncode == 126


def test_ppy_check_for_programs(scene, script, accounts, ppy):
    case = Scene(scene, script, accounts, ppy)
    case.rename("a\tb\n'\x1b[m\udcff")
    case.mode(0o775, case.arguments[0])
    done = check(ppy, '--tsv', *case.arguments, account=accounts.attacker)
    rows = [line.split('\t') for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr, {len(row) for row in rows}) == (126, '', {4})
    assert re.fullmatch(r'[ -~\t\n]+', done.stdout)
    (refused,) = [row for row in rows if row[0] != 'ok']
    assert refused[0] == 'refused'
    assert refused[2] == 'must not be writable by group or others'
    said = run('bash', '-c', f'printf %s {refused[1]}', text=False).stdout
    assert said == os.fsencode(case.arguments[0])
    run('bash', '-c', refused[3], check=True)
    done = check(ppy, '--tsv', *case.arguments, account=accounts.attacker)
    assert (done.returncode, {line[:3] for line in done.stdout.splitlines()}) == (0, {'ok\t'})
    done = check(ppy, '--tsv', '/absent', account=accounts.attacker)
    assert (done.returncode, done.stderr) == (127, '')
    assert done.stdout.splitlines()[-1] == 'refused\t/absent\tNo such file or directory\t'


def test_quiet_ppy_check_says_only_what_does_not_hold(script, accounts, ppy):
    path = script('', 'cap_net_raw=i')
    done = check(ppy, '--quiet', path, account=accounts.attacker)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    path.chmod(0o757)
    Caps('cap_net_raw=i').apply(path)
    done = check(ppy, '--quiet', path, account=accounts.attacker)
    rule = f'{path}: must not be writable by group or others; fix: chmod go-w {path}'
    assert (done.returncode, done.stdout) == (126, f'REFUSED {rule}\n')


def test_ppy_check_sees_what_its_caller_can_do(scene, script, accounts, ppy):
    path = script('', 'cap_net_raw=i', mode=0o744)
    assert_as_ppy(ppy, path, account=accounts.owner, status=0)
    assert_as_ppy(ppy, path, account=accounts.attacker, status=126)


@pytest.mark.parametrize('marked', [True, False], ids=['marked', 'unmarked'])
def test_ppy_check_shows_all_that_is_wrong_at_once(scene, script, accounts, ppy, marked):
    case = Scene(scene, script, accounts, ppy)
    case.owner(0, 0)
    case.mark('cap_net_raw,cap_kill=i', root_id=1000)
    case.mode(0o666)
    case.owner(accounts.attacker.uid, accounts.attacker.gid, scene)
    case.mode(0o775, scene)
    case.caller('--bounding-set=-kill,-net_raw', '--no-new-privs')
    if not marked:
        Caps.remove(case.script)
    _, refused = assert_as_ppy(ppy, case.script, before=case.before, status=126)
    rules = [line.split('; fix: ')[0] for line in refused]
    of_the_mark = [
        f'{case.script}: must not have capabilities of a user namespace (a root id)',
        f'{case.script}: must have an owner and a group other than root, and then be marked anew',
        f"{scene}: must be owned by root or the script's owner",
        f'{scene}: must not be writable by group or others',
        'cap_kill: must be in the bounding set that ppy is started with',
        'cap_net_raw: must be in the bounding set that ppy is started with',
    ]
    without = [
        f'{case.script}: must be marked with the capabilities it may have',
        *of_the_mark[1:4],
    ]
    assert rules == [
        'no_new_privs: must not be set, it keeps every program from privilege (prctl(2))',
        f'{case.script}: must be executable for its caller',
        f'{case.script}: must not be writable by group or others',
        *(of_the_mark if marked else without),
    ]


def test_each_fix_fixes(scene, script, accounts, ppy):
    case = Scene(scene, script, accounts, ppy)
    case.owner(0, 0)
    case.mode(0o777)
    case.mode(0o775, scene)
    os.removexattr(case.script, 'security.capability')
    names = {
        'USER:GROUP': f'{accounts.owner.uid}:{accounts.owner.gid}',
        'CAPABILITIES': 'cap_net_raw',
    }
    for _ in range(9):
        _, refused = verdicts(check(ppy, case.script, account=accounts.attacker))
        for line in refused:
            fix = line.split('; fix: ')[1]
            for name, value in names.items():
                fix = fix.replace(name, value)
            run('bash', '-c', fix, check=True)
        if not refused:
            break
    assert_as_ppy(ppy, case.script, account=accounts.attacker, status=0)


def test_ppy_check_has_no_privilege_and_needs_none(script, accounts, ppy):
    program = Path(f'{ppy.path}-check')
    assert stat.S_IMODE(program.stat().st_mode) == 0o711
    assert not Caps.from_file(program).marked
    check(ppy, script('', 'cap_net_raw=i'), account=accounts.attacker, check=True)


def test_a_check_that_cannot_be_read_is_no_success(script, accounts, ppy):
    with open('/dev/full', 'w') as full:
        done = check(
            ppy, script('', '='), account=accounts.attacker, capture_output=False, stdout=full
        )
    assert done.returncode == 126


# ---- The installation ----


@pytest.fixture(params=MODES)
def own(request, scene):
    """A ppy with an interpreter of its own, for one test to damage."""
    shutil.copy('/bin/sh', scene / 'interpreter')
    options = {'allow': 'cap_net_raw'} | MODES[request.param]
    return Ppy(request.param, install(scene / 'interpreter', scene / 'prefix', **options))


def lose_privilege(ppy):
    ppy.path.chmod(0o755)
    if Caps.from_file(ppy.path).marked:
        Caps.remove(ppy.path)


DAMAGES = {
    'ppy has lost its privilege': lose_privilege,
    'ppy is writable': lambda case: case.path.chmod(case.path.stat().st_mode | 0o020),
    'ppy is in a writable directory': lambda case: case.path.parent.chmod(0o775),
    'capped copy is gone': lambda case: os.unlink(case.installed.capped),
    'capped copy is unmarked': lambda case: Caps.remove(case.installed.capped),
    'capped copy has more': lambda case: Caps('cap_kill=p').apply(case.installed.capped),
    'capped copy is writable': lambda case: os.chmod(case.installed.capped, 0o720),
    'interpreter is gone': lambda case: os.unlink(case.installed.original),
    "interpreter is another's": lambda case: os.chown(case.installed.original, 1, 1),
    'interpreter is writable': lambda case: os.chmod(case.installed.original, 0o757),
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_ppy_check_sees_a_damaged_installation(own, script, accounts, damage):
    path = script('', 'cap_net_raw=i')
    assert_as_ppy(own, path, account=accounts.attacker, status=0)
    damage(own)
    assert_as_ppy(own, path, account=accounts.attacker, status=126)


def test_ppy_check_knows_what_ppy_was_installed_to_give(own, script, accounts):
    path = script('', 'cap_kill,cap_net_raw=i')
    _, refused = assert_as_ppy(own, path, account=accounts.attacker, status=126)
    assert len(refused) == 1
    assert refused[0].startswith('cap_kill: must be among those that ppy was installed to give')


@pytest.mark.parametrize('mode', MODES)
def test_ppy_check_refuses_ppy_itself_where_root_may_own_scripts(scene, accounts, mode):
    installed = install('/bin/sh', scene / 'prefix', allow_root=True, **MODES[mode])
    ppy = Ppy(mode, installed)
    for name in (ppy.path, installed.original, installed.capped):
        assert_as_ppy(ppy, name, account=accounts.attacker, status=126)


def test_ppy_check_that_is_not_installed_says_so(accounts, scene):
    program = shutil.copy(ROOT / 'caps' / 'ppy-check', scene)
    done = run(program, '/bin/sh', account=accounts.attacker)
    assert (done.returncode, done.stderr) == (126, '')
    assert verdicts(done) == ([], ['ppy: must have been installed; fix: caps ppy install'])
