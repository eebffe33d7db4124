"""What pam_cap(8) gives an account at a login, by its configuration."""

from __future__ import annotations

import glob
import grp
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from caps import IAB
from caps.system.records import dataclass

SERVICES = '/etc/pam.d'
CONFIGURATION = '/etc/security/capability.conf'


@dataclass(frozen=True)
class Login:
    """What pam_cap adds to a login.

    service: the file that names pam_cap
    configuration: the file that names the account
    iab: what it gives; None where the line cannot be understood
    """

    service: str
    configuration: str
    iab: IAB | None


def login_of(name: str, groups: frozenset[int]) -> Login | None:
    """What pam_cap gives an account; None where it is not configured, or not for this account.

    name, groups: of the account.
    """
    for service, configuration in _uses():
        for words in _lines(configuration):
            if _is_for(name, groups, words[1:]):
                return Login(service, configuration, _iab(words[0]))
    return None


def _uses() -> Iterator[tuple[str, str]]:
    """Each service that names pam_cap, and the configuration that it has it read."""
    for service in sorted(glob.glob(f'{SERVICES}/*')):
        for words in _lines(service):
            if any(os.path.basename(word) == 'pam_cap.so' for word in words):
                options = dict(word.split('=', 1) for word in words if '=' in word)
                yield service, options.get('config', CONFIGURATION)


def _lines(path: str) -> Iterator[list[str]]:
    with suppress(OSError), open(path, errors='surrogateescape') as file:
        for line in file:
            if words := line.partition('#')[0].split():
                yield words


def _is_for(name: str, groups: frozenset[int], members: list[str]) -> bool:
    for member in members:
        if member in ('*', name):
            return True
        with suppress(KeyError):
            if member.startswith('@') and grp.getgrnam(member[1:]).gr_gid in groups:
                return True
    return False


def _iab(text: str) -> IAB | None:
    if text == 'none':
        return IAB()
    iab = IAB()
    if text == 'all':
        iab.inheritable = iab.bounding
        return iab
    with suppress(ValueError):
        return IAB(re.sub(r'\s', '', text))
    return None
