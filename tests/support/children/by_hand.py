"""command() beside setpriv(1) by hand: a program without capabilities, asked for in every way."""

import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

from caps import IAB, Caps, CapSet, SecureBits, command

IDS = 'cap_setuid,cap_setgid'
NOBODY = 65534


def act(
    permitted: str | None = None,
    ambient: str = '',
    inheritable: str = '',
    bounding: str | None = None,
    bits: Iterable[str] = (),
    uid: int = 0,
) -> None:
    """Make this process one of such an account, with such sets and secure bits."""
    if uid:
        before = Caps.from_process()
        SecureBits(['keep_caps']).apply()
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        Caps(permitted=before.permitted, effective=before.permitted).apply()
    iab = IAB.from_process()
    iab.ambient, iab.inheritable = ambient, CapSet(ambient) | CapSet(inheritable)
    if bounding is not None:
        iab.bounding &= CapSet(bounding)
    iab.apply()
    SecureBits(bits).apply()
    if permitted is not None:
        Caps(permitted=permitted, effective=permitted, inheritable=iab.inheritable).apply()


def asked() -> Iterator[dict[str, Any]]:
    for ambient, inheritable, bounding, (user, groups) in itertools.product(
        ('', 'cap_kill', 'cap_chown'),
        (None, '', 'cap_chown'),
        (None, '', 'cap_kill,cap_setpcap'),
        ((None, ()), (None, (5,)), (NOBODY, ()), (54321, (5,))),
    ):
        new = {} if user is None else {'user': user, 'group': user}
        yield new | {
            'ambient': ambient,
            'inheritable': inheritable,
            'bounding': bounding,
            'groups': groups,
        }


def refused(options: dict[str, Any]) -> bool:
    try:
        command(['true'], **options)
    except PermissionError:
        return True
    return False


def by_hand(
    now: IAB,
    user: int | None = None,
    group: int | None = None,
    groups: tuple[int, ...] = (),
    **sets: Any,
) -> list[str]:
    words = ['setpriv']
    if user is not None:
        words += [f'--reuid={user}', f'--regid={group}']
    if groups or user is not None:
        words.append(f'--groups={groups[0]}' if groups else '--clear-groups')
    if sets['ambient']:
        base = now.inheritable if sets['inheritable'] is None else CapSet(sets['inheritable'])
        sets['inheritable'] = base | CapSet(sets['ambient'])
    for option, name in (
        ('inh-caps', 'inheritable'),
        ('ambient-caps', 'ambient'),
        ('bounding-set', 'bounding'),
    ):
        if sets[name] is not None and CapSet(sets[name]) != now[name]:
            wanted = ['-all', *('+' + member[4:] for member in CapSet(sets[name]))]
            words.append(f'--{option}={",".join(wanted)}')
    if now.ambient and CapSet(sets['ambient']) == now.ambient:
        words.append('--ambient-caps=-all,' + ','.join('+' + name[4:] for name in now.ambient))
    return [*words, 'cat', '/proc/self/status']


def fails(now: IAB, options: dict[str, Any]) -> bool:
    ran = subprocess.run(by_hand(now, **options), capture_output=True, text=True)
    if ran.returncode:
        return True
    fields = dict(line.split(':\t', 1) for line in ran.stdout.splitlines() if ':\t' in line)
    inheritable, ambient = options['inheritable'], CapSet(options['ambient'])
    bounding = now.bounding if options['bounding'] is None else CapSet(options['bounding'])
    inheritable = now.inheritable if inheritable is None else CapSet(inheritable)
    wanted = {'CapAmb': ambient, 'CapInh': inheritable | ambient, 'CapBnd': bounding}
    return any(int(fields[name], 16) != members.mask for name, members in wanted.items())


def compare() -> int:
    """In how many kinds of ways both agree; they must in all."""
    now = IAB.from_process()
    answers = {(refused(options), fails(now, options)): options for options in asked()}
    wrong = {pair: options for pair, options in answers.items() if pair[0] != pair[1]}
    assert not wrong, wrong
    return len(answers)
