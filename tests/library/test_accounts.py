"""Accounts by name and by number, and what is said where there is none."""

import grp
import pwd

import pytest

from caps.accounts import group_name, id_of, ids_of, user_name
from support.attacks import NOBODY_KNOWN


def test_account_has_a_number_and_the_number_a_name():
    root = pwd.getpwuid(0)
    assert id_of('user', root.pw_name) == id_of('user', 0) == 0
    assert id_of('group', grp.getgrgid(0).gr_name) == 0
    assert user_name(0) == root.pw_name
    assert group_name(0) == grp.getgrgid(0).gr_name


def test_number_without_an_account_is_its_own_name():
    assert user_name(NOBODY_KNOWN.uid) == str(NOBODY_KNOWN.uid)
    assert group_name(NOBODY_KNOWN.gid) == str(NOBODY_KNOWN.gid)
    assert id_of('user', NOBODY_KNOWN.uid) == NOBODY_KNOWN.uid


def test_group_is_by_default_that_of_the_account():
    assert ids_of('root', None) == (0, pwd.getpwnam('root').pw_gid)
    assert ids_of(None, None) == (None, None)
    assert ids_of(NOBODY_KNOWN.uid, 7) == (NOBODY_KNOWN.uid, 7)


@pytest.mark.parametrize(
    ('ask', 'reason'),
    [
        (lambda: id_of('user', 'no such'), "there is no user 'no such'"),
        (lambda: id_of('group', 'no such'), "there is no group 'no such'"),
        (lambda: id_of('user', -1), '-1 is not the number of a user'),
        (lambda: id_of('group', 2**32 - 1), '4294967295 is not the number of a group'),
        (lambda: ids_of(NOBODY_KNOWN.uid, None), 'has no account: name the group too'),
    ],
)
def test_account_that_is_not_there_is_named(ask, reason):
    with pytest.raises(LookupError, match=reason):
        ask()
