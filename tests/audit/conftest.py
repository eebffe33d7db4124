"""What the tests of audits share."""

import os

import pytest

from caps.audit import Account


@pytest.fixture
def account(accounts):
    """The account that commands run as."""
    owner = accounts.owner
    return Account(owner.name, owner.uid, owner.gid, ())


@pytest.fixture
def sleeper(request):
    """An argument of sleep(1) by which its process is known."""
    return f'{1000 + os.getpid() / 1e7 + id(request) % 1000:.9f}'
