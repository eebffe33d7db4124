"""Files for the library to read whose attributes no system call writes."""

import pytest

from support.attributes import mounted_image


@pytest.fixture(scope='session')
def image(tmp_path_factory):
    """A mounted file system with a file for each attribute, malformed ones too."""
    with mounted_image(tmp_path_factory.mktemp('image')) as mounted:
        yield mounted
