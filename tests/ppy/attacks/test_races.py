"""Races of the attacker against launches: what is looked at is what runs, however often they try.

The attacker exchanges things in a tight loop while launches run. The naive launcher must lose each
race before its tries are over, and ppy none. CAPS_SOAK=1 makes ten times as many launches.
"""

import re
import subprocess
import time

import pytest

from support import PATIENCE, SOAK, needs, needs_root, program, run
from support.attacks import PYTHON

pytestmark = needs_root

LAUNCHES = 200 * SOAK
NAIVE_LAUNCHES = 20_000  # it loses one of the first dozens

# The directory, how it is laid out, what is launched, what the attacker does until it is killed,
# and whether what is launched is now and then a path to a script that ppy has nothing against.
RACES = {
    'links are exchanged': (
        *('den', 'ln -s ../marked/script one; ln -s ../planted/script two'),
        *('{launcher} one', 'exchange', True),
    ),
    'links are exchanged under a shebang': (
        *('den', 'ln -s ../marked/script one; ln -s ../planted/script two'),
        *('./one', 'exchange', True),
    ),
    'a link is made anew': ('den', 'touch one', '{launcher} one', 'relink', True),
    'a link and a file are exchanged': (
        *('den', 'ln -s ../marked/script one; mv ../planted/script two'),
        *('{launcher} one', 'exchange', True),
    ),
    'links to directories are exchanged': (
        *('den', 'ln -s ../marked one; ln -s ../planted two'),
        *('{launcher} one/script', 'exchange', True),
    ),
    'a link and a directory are exchanged': (
        *('den', 'ln -s ../marked one; mv ../planted two'),
        *('{launcher} one/script', 'exchange', True),
    ),
    'scripts are renamed': (
        *('open', 'mv ../marked/script one; mv ../planted/script two'),
        *('{launcher} one', 'exchange', False),
    ),
    'directories are renamed': (
        *('open', 'mv ../marked one; mv ../planted two'),
        *('{launcher} one/script', 'exchange', False),
    ),
    'a hard link is made anew': ('den', 'touch one', '{launcher} one', 'replace', False),
}
LOOP = 'n=0; while [ $n -lt "$0" ] && ! [ -e "$1" ]; do $2; n=$((n + 1)); done 2>&1'


@needs('cap_sys_admin')
@pytest.mark.parametrize(('place', 'lay', 'command', 'deed', 'launched'), RACES.values(), ids=RACES)
def test_race_is_lost_when(
    launchers, script, accounts, scene, den, loot, hard_links, place, lay, command, deed, launched
):
    launcher, attacker = launchers('sh'), accounts.attacker
    for name, mode in {'open': 0o777, 'marked': 0o755, 'planted': 0o755}.items():
        (scene / name).mkdir()
        (scene / name).chmod(mode)
    script(f'#!{launcher.path}\necho marked\n', 'cap_kill=i', name='marked/script')
    script(f': > {loot} && echo planted\n', None, name='planted/script', owner=attacker)
    run('sh', '-c', lay, cwd=scene / place, check=True)

    options = {
        'cwd': scene / place,
        'user': attacker.uid,
        'group': attacker.gid,
        'extra_groups': [],
    }
    tries = NAIVE_LAUNCHES if launcher.naive else LAUNCHES
    words = [str(tries), str(loot), command.format(launcher=launcher.path)]
    with subprocess.Popen([PYTHON, '-c', program('exchange'), deed], **options) as attacker:
        try:
            said, is_enough = '', False
            end = time.monotonic() + PATIENCE * SOAK
            while not is_enough and time.monotonic() < end:
                said += run('sh', '-c', LOOP, *words, timeout=PATIENCE * SOAK, **options).stdout
                is_enough = launcher.naive or not launched or 'marked' in said
            assert attacker.poll() is None
        finally:
            attacker.kill()
    ran = re.findall('^(marked|planted)$', said, re.MULTILINE)
    assert loot.exists() == launcher.naive
    if not launcher.naive:
        assert ran.count('planted') == 0
        assert bool(ran.count('marked')) == launched
        assert said.count('\n') >= LAUNCHES
