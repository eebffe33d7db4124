"""What the extension refuses of its callers, before any system call is made."""

import errno

import pytest

from caps import _caps

TEXT_FUNCTIONS = _caps.set_process, _caps.canonical, _caps.canonical_iab
MISUSES = [
    *((function, (1,), TypeError) for function in TEXT_FUNCTIONS),
    (_caps.get_process, ('1',), TypeError),
    (_caps.get_process, (2**31,), OverflowError),
    (_caps.get_iab, ('1',), TypeError),
    (_caps.get_file, (1.5,), TypeError),
    (_caps.get_file, (2**40,), OverflowError),
    (_caps.get_file, (2**70,), OverflowError),
    (_caps.get_file, ('a\0b',), ValueError),
    (_caps.set_file, (None, '=', 0), TypeError),
    (_caps.set_file, (0, '=', -1), OverflowError),
    (_caps.set_file, (0, '=', 2**32 - 1), OverflowError),
    (_caps.system_calls, ((), False), TypeError),
    (_caps.system_calls, ([[1]], False), TypeError),
    (_caps.system_calls, ([()], False), TypeError),
    (_caps.system_calls, ([(1,) * 7], False), TypeError),
    (_caps.system_calls, ([(1.5,)], False), TypeError),
    (_caps.system_calls, ([(1,)] * 161, False), ValueError),
]


@pytest.mark.parametrize(('function', 'arguments', 'error'), MISUSES)
def test_argument_that_cannot_be_meant_is_refused(function, arguments, error):
    with pytest.raises(error):
        function(*arguments)


@pytest.mark.parametrize('function', TEXT_FUNCTIONS, ids=lambda function: function.__name__)
def test_text_that_libcap_rejects_is_an_error_of_the_system(function):
    with pytest.raises(OSError, match=r'Invalid argument') as raised:
        function('cap_of_tomorrow=p' if function is not _caps.canonical_iab else 'cap_of_tomorrow')
    assert raised.value.errno == errno.EINVAL


def test_file_is_not_changed_by_text_that_libcap_rejects(tmp_path):
    with open(tmp_path / 'file', 'w') as file, pytest.raises(OSError, match='Invalid argument'):
        _caps.set_file(file.fileno(), 'cap_of_tomorrow=p', 0)
