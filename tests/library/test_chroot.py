"""What still works once the files of the system are out of reach, and what each refusal says."""

import shutil
import sys

import pytest

from support import CHILDREN, ROOT, needs, program, python, run

pytestmark = needs('cap_kill', 'cap_setpcap', 'cap_setuid', 'cap_setgid', 'cap_sys_chroot')


def after_chroot(directory, act, first=''):
    return python(program('chroot'), directory, first, act)


@pytest.mark.parametrize(
    ('names', 'act'),
    [
        ('', 'Caps.from_process().deactivate().apply()'),
        ('', "Caps('cap_kill=p').activate().apply()"),
        ('raised', "with raised('cap_kill'): assert 'cap_kill' in Caps.from_process().effective"),
        ('IAB', "IAB('!cap_kill').apply()\nassert 'cap_kill' not in IAB.from_process().bounding"),
        ('SecureBits', "SecureBits(['keep_caps']).apply()\nassert 'keep_caps' in caps.securebits"),
        ('no_new_privs, set_no_new_privs',
         'set_no_new_privs(all_threads=False)\nassert no_new_privs()'),
    ],
)  # fmt: skip
def test_what_needs_no_file_works(names, act, tmp_path):
    assert after_chroot(tmp_path, act, f'from caps import {names}' if names else '') == ''


ROOM = 'needs a part of the package whose file is out of reach: import caps.'


@pytest.mark.parametrize(
    ('act', 'reason'),
    [
        ('caps.drop(user=65534, group=65534)', f'ImportError caps.drop {ROOM}dropping'),
        ("caps.raised('cap_kill')", f'ImportError caps.raised {ROOM}raising'),
        ('caps.IAB()', f'ImportError caps.IAB {ROOM}iab'),
        ('caps.securebits', f'ImportError caps.securebits {ROOM}secbits'),
        ("caps.command(['id'])", f'ImportError caps.command {ROOM}setpriv'),
        ('Caps().apply(all_threads=True)', f'ImportError this {ROOM}threads'),
    ],
)
def test_what_was_not_loaded_is_named_with_the_order_that_works(act, reason, tmp_path):
    printed = after_chroot(tmp_path, act)
    assert printed.startswith(reason)
    assert printed.endswith(' before os.chroot(), or before the account changes\n')


PROC = (
    'FileNotFoundError [Errno 2] nothing was changed: all threads are found in /proc, which is '
    'not mounted: do this before os.chroot(), or mount /proc\n'
)


@pytest.mark.parametrize(
    'act',
    [
        'drop(user=65534, group=65534)',
        'drop()',
        'set_no_new_privs()',
        'Caps().apply(all_threads=True)',
        'IAB().apply(all_threads=True)',
        "SecureBits(['keep_caps']).apply(all_threads=True)",
    ],
)
def test_what_needs_proc_says_so_before_anything_changes(act, tmp_path):
    names = 'from caps import IAB, SecureBits, drop, set_no_new_privs'
    assert after_chroot(tmp_path, act, names) == PROC


@pytest.mark.parametrize(
    ('act', 'kind'),
    [("drop(user='root')", 'user'), ("drop(group='root')", 'group'), ('drop(user=0)', 'user')],
)
def test_an_account_that_cannot_be_looked_up_is_not_called_absent(act, kind, tmp_path):
    file = {'user': '/etc/passwd', 'group': '/etc/group'}[kind]
    printed = after_chroot(tmp_path, act, 'from caps import drop')
    assert printed.endswith(f' {file} is not there: give numbers, or do this before os.chroot()\n')


@pytest.mark.parametrize(
    ('act', 'reason'),
    [
        ("Caps('cap_kil=p')", "'cap_kil' is not a capability"),
        ("Caps('cap_kill=e').apply()", 'PermissionError [Errno 1] '),
    ],
)
def test_a_refusal_is_the_same_with_less_advice(act, reason, tmp_path):
    assert reason in after_chroot(tmp_path, act)


def test_the_order_that_the_guide_gives_works(scene):
    first = "caps.drop(keep=['cap_sys_chroot'], user=65534, group=65534)"
    act = 'Caps().apply()\nassert not Caps.from_process()'
    assert after_chroot(scene, act, first) == ''


def test_an_environment_that_the_new_account_cannot_read_is_named(tmp_path):
    closed = tmp_path / 'closed'
    shutil.copytree(ROOT / 'caps', closed / 'caps')
    closed.chmod(0o700)
    result = run(sys.executable, '-I', '-S', CHILDREN / 'closed_package.py', closed)
    assert 'ImportError: caps.raised ' + ROOM in result.stderr
