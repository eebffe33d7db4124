"""command: the setpriv command line, run for real, and refused where setpriv would fail."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePath

import pytest

from caps import IAB, CapSet, command, set_no_new_privs
from support import libcap, needs, needs_root, run
from support.child import become, in_a_child
from support.children.by_hand import IDS, NOBODY, act, compare
from support.children.inside import refusal

CAT = 'cat', '/proc/self/status'


def bit(*names):
    return sum(1 << libcap.NAMES.index(name) for name in names)


def fields(text):
    """What /proc says of a program, its sets as numbers."""
    found = dict(line.split(':\t', 1) for line in text.splitlines() if ':\t' in line)
    names = 'CapInh', 'CapAmb', 'CapBnd', 'CapPrm', 'CapEff'
    return {name: value.strip() for name, value in found.items()} | {
        name: int(found[name], 16) for name in names
    }


def by_subprocess(argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def by_asyncio(argv):
    async def start():
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*argv, stdout=pipe)
        output, _ = await child.communicate()
        assert child.returncode == 0
        return output.decode()

    return asyncio.run(start())


@pytest.fixture(params=[by_subprocess, by_asyncio], ids=['subprocess', 'asyncio'])
def start(request):
    return request.param


# What the program is then.


def test_asked_for_nothing_it_changes_nothing(start):
    now, then = fields(by_subprocess(CAT)), fields(start(command(CAT)))
    assert command(CAT) == ['setpriv', '--', *CAT]
    for name in now:
        if name.startswith(('Cap', 'Uid', 'Gid', 'Groups', 'NoNew')):
            assert then[name] == now[name]


SOME = 'cap_kill', 'cap_net_raw'
OTHER = {'user': 65534, 'group': 65533}


@needs_root
@needs('cap_setpcap', *SOME)
@pytest.mark.parametrize(
    ('asked', 'expected'),
    [
        ({'ambient': ['cap_kill']}, {'CapAmb': bit('cap_kill'), 'CapInh': bit('cap_kill')}),
        ({'inheritable': 'net_raw,5'}, {'CapInh': bit(*SOME), 'CapAmb': 0}),
        (
            {'ambient': 'cap_kill', 'inheritable': ['cap_net_raw']},
            {'CapInh': bit(*SOME), 'CapAmb': bit('cap_kill')},
        ),
        ({'bounding': SOME}, {'CapBnd': bit(*SOME), 'CapPrm': bit(*SOME), 'CapEff': bit(*SOME)}),
        ({'bounding': ()}, {'CapBnd': 0, 'CapPrm': 0, 'CapEff': 0}),
        (OTHER, {'Uid': 65534, 'Gid': 65533, 'Groups': '', 'CapPrm': 0, 'CapEff': 0}),
        ({'group': 65533}, {'Uid': 0, 'Gid': 65533, 'Groups': ''}),
        ({'groups': [5, 60000]}, {'Uid': 0, 'Gid': 0, 'Groups': '5 60000'}),
        ({**OTHER, 'groups': (6, 5)}, {'Uid': 65534, 'Gid': 65533, 'Groups': '5 6'}),
        ({'no_new_privs': True}, {'NoNewPrivs': '1'}),
        (
            {**OTHER, 'ambient': SOME},
            {'Uid': 65534, **dict.fromkeys(('CapPrm', 'CapEff', 'CapAmb', 'CapInh'), bit(*SOME))},
        ),
        (
            {**OTHER, 'ambient': SOME, 'bounding': SOME, 'no_new_privs': True, 'groups': [5]},
            {
                'Uid': 65534, 'Gid': 65533, 'Groups': '5', 'NoNewPrivs': '1',
                **dict.fromkeys(('CapPrm', 'CapEff', 'CapAmb', 'CapInh', 'CapBnd'), bit(*SOME)),
            },
        ),
        (
            {**OTHER, 'ambient': 'cap_kill', 'inheritable': ['cap_net_raw'], 'bounding': SOME},
            {'CapPrm': bit('cap_kill'), 'CapInh': bit(*SOME), 'CapBnd': bit(*SOME)},
        ),
    ],
    ids=str,
)  # fmt: skip
def test_the_program_is_what_was_asked_for(asked, expected, start):
    then = fields(start(command(CAT, **asked)))
    for name, value in expected.items():
        found = set(then[name].split()) if name in ('Uid', 'Gid') else {then[name]}
        assert found == {str(value) if name in ('Uid', 'Gid') else value}, name


@needs_root
def test_user_and_group_may_be_named(accounts, start):
    one, other = accounts.owner, accounts.attacker
    for asked, gid, groups in (
        ({'user': one.name}, one.gid, ''),
        ({'user': one.name, 'group': other.name}, other.gid, ''),
        ({'user': one.uid, 'groups': [other.name]}, one.gid, str(other.gid)),
    ):
        then = fields(start(command(CAT, **asked)))
        assert then['Uid'].split() == [str(one.uid)] * 4
        assert then['Gid'].split() == [str(gid)] * 4
        assert then['Groups'] == groups


@needs('cap_kill')
def test_ambient_capabilities_reach_the_program_of_a_script(tmp_path, start):
    script = tmp_path / 'script'
    script.write_text('#!/bin/sh\nexec cat /proc/self/status\n')
    script.chmod(0o755)
    then = fields(start(command([script], ambient=['cap_kill'])))
    assert then['CapAmb'] == bit('cap_kill')


@pytest.mark.parametrize(
    'words', [['-n', 'a'], ['--', '-c'], ['two words', '', "'", '$HOME', '\n'], ['--help'], ['é']]
)
def test_words_reach_the_program_as_they_are(words, start):
    code = 'import json, sys; print(json.dumps(sys.argv[1:]))'
    assert json.loads(start(command([sys.executable, '-c', code, *words]))) == words


def test_words_may_be_paths(start):
    assert start(command([PurePath('/bin/echo'), PurePath('a/b')])) == 'a/b\n'


def test_a_program_that_looks_like_an_option_is_no_option():
    result = run(*command(['--help']))
    assert result.returncode != 0
    assert '--help' in result.stderr


def test_what_it_was_asked_from_stays_as_it_was():
    ambient = CapSet()
    before = IAB.from_process()
    command(CAT, ambient=ambient, inheritable=ambient)
    assert IAB.from_process() == before
    assert ambient == CapSet()


# What is refused up front.


@pytest.mark.parametrize('argv', ['ls -l', b'ls', [], ()])
def test_what_is_no_list_of_words_is_refused(argv):
    with pytest.raises(ValueError, match='is not a program and its arguments'):
        command(argv)


@pytest.mark.parametrize(
    ('asked', 'reason'),
    [
        ({'user': 'nobody-here'}, "there is no user 'nobody-here'"),
        ({'group': 'nowhere'}, "there is no group 'nowhere'"),
        ({'groups': ['nowhere']}, "there is no group 'nowhere'"),
        ({'user': 54321}, 'user 54321 has no account: name the group too'),
        ({'user': -1, 'group': 0}, '-1 is not the number of a user'),
    ],
    ids=str,
)
def test_an_unknown_account_is_refused(asked, reason):
    with pytest.raises(LookupError, match=reason):
        command(CAT, **asked)


def test_a_typo_is_refused_with_the_nearest_name():
    for asked in 'ambient', 'inheritable', 'bounding':
        with pytest.raises(ValueError, match="did you mean 'cap_kill'"):
            command(CAT, **{asked: ['cap_kil']})


SCENES = {
    'root': {},
    'root without permitted': {'permitted': 'cap_kill'},
    'root bounded': {'bounding': 'cap_kill,cap_setpcap,' + IDS},
    'root without cap_setpcap': {'bounding': 'cap_kill,' + IDS},
    'root with inheritable': {
        'inheritable': 'cap_chown', 'bounding': 'cap_kill,cap_setpcap,' + IDS,
    },
    'root that is nobody special': {
        'bits': ['noroot'], 'ambient': 'cap_kill,cap_setpcap,' + IDS,
    },
    'root without ambient': {'bits': ['no_cap_ambient_raise']},
    'root that keeps nothing': {'bits': ['keep_caps_locked']},
    'a user': {'uid': NOBODY, 'permitted': ''},
    'a user with permitted alone': {'uid': NOBODY, 'permitted': 'cap_kill,cap_setpcap,' + IDS},
    'a user with ambient': {'uid': NOBODY, 'permitted': 'cap_kill', 'ambient': 'cap_kill'},
    'a user with cap_setpcap': {
        'uid': NOBODY, 'permitted': 'cap_kill,cap_setpcap', 'ambient': 'cap_kill,cap_setpcap',
    },
    'a user with cap_setgid': {
        'uid': NOBODY, 'permitted': 'cap_kill,cap_setgid', 'ambient': 'cap_kill,cap_setgid',
    },
    'a user with ids': {
        'uid': NOBODY, 'permitted': 'cap_kill,' + IDS, 'ambient': 'cap_kill,' + IDS,
    },
    'a user with all of these': {
        'uid': NOBODY, 'permitted': 'cap_kill,cap_setpcap,' + IDS,
        'ambient': 'cap_kill,cap_setpcap,' + IDS,
    },
    'a user with inheritable out of bounds': {
        'uid': NOBODY, 'permitted': 'cap_kill,cap_setpcap', 'ambient': 'cap_kill',
        'inheritable': 'cap_chown', 'bounding': 'cap_kill',
    },
}  # fmt: skip


@needs_root
@needs('cap_setpcap', 'cap_kill')
@pytest.mark.parametrize('scene', SCENES.values(), ids=SCENES)
@in_a_child
def test_it_is_refused_exactly_where_setpriv_by_hand_fails(scene):
    act(**scene)
    assert compare()


@needs_root
@needs('cap_setpcap', 'cap_kill')
@in_a_child
def test_under_no_new_privs_root_is_given_only_what_it_has():
    act('cap_kill,' + IDS)
    set_no_new_privs()
    assert compare() == 2


@needs('cap_kill')
@pytest.mark.parametrize(
    ('scene', 'asked', 'reason'),
    [
        (
            {'uid': NOBODY, 'permitted': 'cap_kill', 'ambient': 'cap_kill'},
            {'ambient': 'cap_chown'},
            'cap_chown cannot be added to ambient: execve(2) does not give it to a program',
        ),
        (
            {'bounding': 'cap_kill,cap_setpcap'}, {'bounding': 'cap_chown'},
            'cap_chown cannot be added to bounding: bounding can only be reduced',
        ),
        (
            {'bounding': 'cap_kill,cap_setpcap'}, {'inheritable': 'cap_chown'},
            'cap_chown cannot be added to inheritable: it must be in the bounding set and',
        ),
        (
            {'uid': NOBODY, 'permitted': ''}, {'user': 5, 'group': 5},
            'cap_setgid,cap_setuid is needed, and execve(2) does not give it to programs',
        ),
        (
            {'bounding': 'cap_kill'}, {'bounding': ''},
            'cap_setpcap is needed, and execve(2) does not give it to programs of this process',
        ),
        (
            {'bits': ['no_cap_ambient_raise']}, {'ambient': 'cap_kill'},
            'cap_kill cannot be ambient: the secure bit no_cap_ambient_raise is set',
        ),
        (
            {'bits': ['keep_caps_locked']}, {},
            'setpriv(1) sets the secure bit keep_caps, which is locked',
        ),
    ],
)  # fmt: skip
@needs_root
@needs('cap_setpcap')
@in_a_child
def test_a_refusal_names_capability_and_rule(scene, asked, reason):
    act(**scene)
    error = refusal(command, ['true'], **asked)
    assert error.errno == errno.EPERM
    assert error.strerror.startswith(reason)


# Other setprivs.


def put_setpriv(directory, content):
    (directory / 'setpriv').write_bytes(content)
    (directory / 'setpriv').chmod(0o755)


def find_first(directory):
    os.environ['PATH'] = f'{directory}:{os.environ["PATH"]}'


def ask():
    kill = ['cap_kill']
    return command(['cat', '/proc/self/status'], ambient=kill, inheritable=[], bounding=kill)


@needs('cap_setpcap', 'cap_kill')
@in_a_child
def test_the_setpriv_of_busybox_is_refused(tmp_path):
    put_setpriv(tmp_path, b'#!/bin/sh\n: BusyBox v1.35.0 (Debian 1:1.35.0-4)\n')
    find_first(tmp_path)
    reason = str(refusal(ask))
    assert "setpriv(1) is BusyBox's and cannot do this" in reason
    assert f"'{tmp_path}/setpriv'" in reason


@needs('cap_setpcap', 'cap_kill')
@in_a_child
def test_without_a_setpriv_it_says_which_one_is_needed(tmp_path):
    os.environ['PATH'] = str(tmp_path)
    assert 'setpriv(1) of util-linux is needed, and not on PATH' in str(refusal(ask))


@needs('cap_setpcap', 'cap_kill')
@pytest.mark.parametrize(('version', 'has_all'), [(b'2.36.2', False), (b'2.37.1', True)])
@in_a_child
def test_a_setpriv_that_refuses_all_on_a_newer_kernel_is_told_each(tmp_path, version, has_all):
    content = Path(shutil.which('setpriv')).read_bytes()
    start = content.index(b'util-linux 2.') + len(b'util-linux ')
    end = content.index(b'\0', start)
    content = content[:start] + version.ljust(end - start, b'\0')[: end - start] + content[end:]
    put_setpriv(tmp_path, content)
    find_first(tmp_path)
    words = ask()
    assert ('-all' in str(words)) == has_all
    sets = fields(run(*words, check=True).stdout)
    assert sets['CapInh'] == sets['CapAmb'] == bit('cap_kill')
    assert sets['CapBnd'] == bit('cap_kill')


@needs_root
def test_setpriv_that_may_be_run_and_not_read_is_taken(scene, accounts):
    (scene / 'setpriv').write_bytes(b'not to be read')
    (scene / 'setpriv').chmod(0o711)

    @in_a_child
    def words():
        become(accounts.attacker)
        os.environ['PATH'] = str(scene)
        return command(['true'])

    assert words() == ['setpriv', '--', 'true']
