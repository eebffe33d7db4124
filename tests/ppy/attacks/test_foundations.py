"""What ppy stands on: its interpreter and itself."""

import mmap
import os
import shutil
import stat

import pytest

from support import needs_root, run
from support.attacks import assert_only_naive_loses
from support.child import become, in_a_child
from support.launchers import make_launcher

pytestmark = needs_root

# How the attacker comes to decide what the interpreter is.
REPLACEMENTS = {
    'writable': (lambda path, attacker: path.chmod(0o757), ': > "$0"; cat > "$0"'),
    "the attacker's": (
        lambda path, attacker: os.chown(path, attacker.uid, attacker.gid),
        'cat > "$0"',
    ),
    'in a writable directory': (
        lambda path, attacker: path.parent.chmod(0o777),
        'mv "$0" "$0-"; cat > "$0"; chmod 755 "$0"',
    ),
    'gone from a writable directory': (
        lambda path, attacker: (path.unlink(), path.parent.chmod(0o777)),
        'cat > "$0"; chmod 755 "$0"',
    ),
    'below a writable directory': (
        lambda path, attacker: path.parent.parent.chmod(0o777),
        'd="${0%/*}"; mv "$d" "$d-"; mkdir -m 755 "$d"; cat > "$0"; chmod 755 "$0"',
    ),
}


@pytest.mark.parametrize(('expose', 'replace'), REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_replaced_interpreter_does_not_run(
    launchers, script, accounts, scene, loot, expose, replace
):
    program = scene / 'upper/programs/shell'
    program.parent.mkdir(parents=True)
    shutil.copyfile('/bin/sh', program)
    for part in (program.parent.parent, program.parent, program):
        part.chmod(0o755)
    launcher = make_launcher(launchers.args[0], program, scene / 'prefix')
    path = script('echo ran', 'cap_kill=i')
    assert launcher.run(path, account=accounts.attacker).stdout == 'ran\n'
    expose(program, accounts.attacker)
    planted = f'#!/bin/sh\n: > {loot}\n'
    run('sh', '-c', replace, program, account=accounts.attacker, input=planted, check=True)
    done = launcher.run(path, account=accounts.attacker)
    assert_only_naive_loses(launcher, loot.exists(), done)


@in_a_child
def patch(path, old, new, account):
    become(account)
    with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 0) as memory:
        start = memory.find(os.fsencode(old) + b'\0')
        memory[start : start + len(old)] = os.fsencode(new).ljust(len(old), b'\0')


def test_launcher_that_others_can_write_to_does_not_run_what_they_wrote(
    launchers, script, accounts, scene, nest
):
    launcher = make_launcher(launchers.args[0], '/bin/sh', scene / 'prefix')
    old = '/interpreter' if launcher.naive else launcher.installed.capped
    new = '/../den/prog' if launcher.naive else str(nest.path / 'prog')
    nest.program('prog')
    path = script('echo ran', 'cap_kill=i')
    launcher.path.chmod(stat.S_IMODE(launcher.path.stat().st_mode) | 0o002)
    patch(launcher.path, old, new, accounts.attacker)
    assert new.encode() in launcher.path.read_bytes()
    done = launcher.run(path, account=accounts.attacker)
    assert_only_naive_loses(launcher, nest.loot.exists(), done)
