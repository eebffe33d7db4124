"""What the documents tell a reader to type does what they say, typed by an account with sudo."""

import re
import shutil
from pathlib import Path

import pip
import pytest

from support import ROOT, needs, needs_root, run

# What no test can type as it stands: what comes from the network, from git and from systemd. An
# environment has no pip of its own, which would take longer than all else.
REPLACED = {
    r'sudo apt install (.*)': r'dpkg --status \1 >/dev/null',
    r'git pull': r':',
    r'(sudo )?(python3 -m venv) (\S+)': r'\1\2 --without-pip \3',
    r'(sudo )?make install PYTHON=(\S+)': r'\1install-into \2 *.whl',
    r'sudo make install': (
        r'sudo test -e /opt/caps || sudo /usr/bin/python3 -m venv --without-pip /opt/caps; '
        r'sudo install-into /opt/caps/bin/python *.whl; '
        r'sudo test -e /usr/local/bin/caps || sudo ln -s /opt/caps/bin/caps /usr/local/bin'
    ),
    r'make (\w+)': r'make help | grep --quiet ^\1',
    r'sudo \S+/pip install aioping': r':',
    r'sudo systemctl (.*)': r'! command -v systemd-analyze || systemd-analyze verify $UNITS',
    r'journalctl (.*)': r':',
}
# Where a reader's machine is the test's own: changes are gone with the mount namespace.
PREPARE = """
set -eu
cd "$0"
for directory in home opt root srv usr/local; do
    mkdir -p ".$directory"
    mount --bind ".$directory" "/$directory"
done
mkdir /usr/local/bin
chmod 700 /root
cp -a /etc .etc
rm -f .etc/*.lock
mount --bind .etc /etc
mkdir bin
mount -t tmpfs -o mode=755 tmpfs bin
mount -t tmpfs -o mode=700 tmpfs /var/lib/caps
install -m 4755 sudo bin
install install-into /usr/local/bin
cd checkout
for block in ../block-*; do
    printf '\\n== %s\\n' "$block"
    setpriv --reuid="$1" --regid="$1" --init-groups \\
        env -i HOME=/tmp USER="$1" UNITS="$2" TERM=dumb \\
        PATH="$0/bin:/usr/local/bin:/usr/bin:/bin" bash -eux -o pipefail "$block"
done
"""


def blocks(document):
    """The blocks of shell commands of a document, in order."""
    text = (ROOT / document).read_text()
    if document.endswith('.md'):
        return re.findall(r'^```sh\n(.*?)^```', text, re.M | re.S)
    indented = re.findall(r'^\.\. code-block:: sh\n\n((?:    ?.*\n|\n)+)', text, re.M)
    return [re.sub(r'^    ?', '', block, flags=re.M) for block in indented]


def typed(block):
    """A block with what a test can type."""
    lines = block.splitlines()
    for pattern, replacement in REPLACED.items():
        whole = re.compile(rf'{pattern}(\s+#.*)?')
        lines = [whole.sub(replacement, line) if whole.fullmatch(line) else line for line in lines]
    return '\n'.join(lines) + '\n'


# The block of README.md that installs all; which pages begin where that has been done.
INSTALL = 1
IS_INSTALLED = {
    'README.md': False,
    'doc/install.rst': False,
    'doc/first-hour.rst': True,
    'doc/guide.rst': True,
    'doc/keep.rst': True,
}


@needs_root
@needs('cap_sys_admin')
@pytest.mark.parametrize('page', IS_INSTALLED)
def test_commands_of_a_page_work_as_they_are_typed(page, scene, accounts, wheel):
    run('cc', '-o', scene / 'sudo', ROOT / 'tests/support/sudo.c', check=True)
    (scene / 'sudo').chmod(0o700)
    shutil.copytree(Path(pip.__file__).parent, scene / 'with-pip' / 'pip')
    (scene / 'install-into').write_text(
        f'#!/bin/sh\nPYTHONPATH={scene}/with-pip exec /usr/bin/python3 -m pip --python "$1" '
        'install --quiet --no-index --no-deps "$2"\n'
    )
    shutil.copytree(ROOT / 'examples', scene / 'checkout' / 'examples')
    for file in wheel, ROOT / 'Makefile':
        shutil.copy(file, scene / 'checkout')
    before = [blocks('README.md')[INSTALL]] * IS_INSTALLED[page]
    for number, block in enumerate([*before, *blocks(page)]):
        (scene / f'block-{number:02}').write_text(typed(block))
    units = ' '.join(str(path) for path in (scene / 'checkout' / 'examples').glob('*.timer'))
    command = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', PREPARE]
    done = run(*command, scene, accounts.attacker.name, units)
    assert done.returncode == 0, done.stdout + done.stderr


def test_first_success_takes_five_commands_at_most():
    """The commands from installing on, which the test above types, up to the first script."""
    lines = ''.join(blocks('README.md')[INSTALL:]).splitlines()
    assert [line.startswith('sudo ppy /srv/backup.py') for line in lines].index(True) < 5


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    page = (ROOT / 'doc' / 'troubleshooting.rst').read_text()
    headings = re.findall(r'^``(.*)``\n~~~', page, re.M)
    files = [*(ROOT / 'caps').rglob('*.py'), *(ROOT / 'wrapper').iterdir()]
    # Without the ends of literals that are continued on the next line.
    code = re.sub(r"""(["'])\s*\n\s*f?\1""", '', '\n'.join(file.read_text() for file in files))
    assert len(headings) > 15
    fixed = {heading: max(re.split("…|[:;] |'", heading), key=len) for heading in headings}
    assert [heading for heading, text in fixed.items() if text.strip() not in code] == []
