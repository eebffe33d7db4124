"""Capabilities of real files: setcap, getcap and the bare attribute are the referees."""

import errno
import io
import os
import shutil
import socket
import struct
from contextlib import ExitStack, contextmanager
from ctypes import CDLL
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caps import Caps, CapSet
from support import examples, libcap, needs, needs_root, run
from support.attributes import ATTRIBUTE, ATTRIBUTES, EFFECTIVE, V2, V3, WELL_FORMED
from support.child import enter_user_namespace, in_a_child
from support.children.inside import refusal

masks = st.integers(0, 2**libcap.BITS - 1)
# Few members are as likely as many.
stored = st.one_of(masks, st.sets(st.integers(0, libcap.BITS - 1), max_size=3).map(
    lambda bits: sum(1 << bit for bit in bits)
))  # fmt: skip
few = settings(max_examples=examples(40))

marking = needs('cap_setfcap')
LIBC = CDLL(None)
CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 0x40000, 2


def raw(revision, permitted, inheritable, *root):
    """The attribute as capability.h lays it out."""
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in (permitted, inheritable)]
    return struct.pack(f'<{5 + len(root)}I', revision, *words, *root)


def state(effective, permitted, inheritable):
    sets = map(CapSet.from_mask, (effective, permitted, inheritable))
    return Caps(**dict(zip(('effective', 'permitted', 'inheritable'), sets, strict=True)))


def getcap(path):
    """What getcap prints of a file, '' for one without the attribute."""
    result = run('getcap', '-n', path)
    assert (result.returncode, result.stderr) == (0, '')
    return result.stdout.removeprefix(str(path)).strip()


def setcap(text, path):
    result = run('setcap', text, path)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def program(tmp_path):
    path = tmp_path / 'program'
    path.write_text('#!/bin/sh\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    """One file for all examples of a test, which leave their marks on it."""
    path = tmp_path_factory.mktemp('shared') / 'program'
    path.touch()
    return path


# Every spelling of a file.


@contextmanager
def descriptor(path, flags=os.O_RDONLY):
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def relative(path):
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        yield path.name
    finally:
        os.chdir(before)


@contextmanager
def itself(path):
    yield path


SPELLINGS = {
    'str': lambda path: itself(str(path)),
    'bytes': lambda path: itself(bytes(path)),
    'Path': itself,
    'relative': relative,
    'descriptor': descriptor,
    'file': lambda path: path.open(),
    'binary-file': lambda path: path.open('rb'),
    'writable-file': lambda path: path.open('r+'),
}
spelled = pytest.mark.parametrize('spell', SPELLINGS.values(), ids=SPELLINGS)


@marking
@spelled
def test_a_file_is_marked_read_and_cleared_however_it_is_spelled(program, spell):
    caps = Caps('cap_net_raw=ep')
    with spell(program) as file:
        assert Caps.from_file(file).marked is False
        assert caps.apply(file) is caps
        assert getcap(program) == 'cap_net_raw=ep'
        assert Caps.from_file(file) == caps
        Caps.remove(file)
        assert getcap(program) == ''
        assert Caps.from_file(file).marked is False


@spelled
def test_an_unmarked_file_is_read_however_it_is_spelled(program, spell):
    with spell(program) as file:
        caps = Caps.from_file(file)
    assert not caps
    assert caps.marked is False
    assert caps.root_id == 0


@marking
def test_a_descriptor_that_is_only_a_path_can_read_but_not_write(program):
    setcap('cap_net_raw=i', program)
    with descriptor(program, os.O_PATH) as fd:
        assert str(Caps.from_file(fd)) == 'cap_net_raw=i'
        for write in Caps('=').apply, Caps.remove:
            with pytest.raises(OSError, match='Bad file descriptor') as refused:
                write(fd)
            assert (refused.value.errno, refused.value.filename) == (errno.EBADF, fd)
    assert getcap(program) == 'cap_net_raw=i'


@marking
def test_a_descriptor_leads_to_the_file_whatever_became_of_its_name(program):
    with descriptor(program) as fd:
        kept = program.rename(program.with_name('kept'))
        program.touch()
        Caps('cap_kill=p').apply(fd)
        assert str(Caps.from_file(fd)) == 'cap_kill=p'
    assert (getcap(kept), getcap(program)) == ('cap_kill=p', '')


@marking
@pytest.mark.parametrize('name', [b'\xff\xfe', b'a b', b'-n', b'\n', 'é'.encode()], ids=repr)
def test_a_file_may_have_any_name(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, 'wb'):
        pass
    for spelling in path, os.fsdecode(path), Path(os.fsdecode(path)):
        Caps('cap_kill=p').apply(spelling)
        assert str(Caps.from_file(spelling)) == 'cap_kill=p'
        Caps.remove(spelling)


# What is written and what is read.


@marking
@few
@given(stored, stored, st.booleans())
def test_any_storable_state_is_written_and_read_as_the_tools_do(shared, permitted, inheritable, on):
    masks = ((permitted | inheritable) * on, permitted, inheritable)
    caps = state(*masks)
    caps.apply(shared)
    assert libcap.read(getcap(shared)) == masks
    assert os.getxattr(shared, ATTRIBUTE) == raw(V2 | bool(masks[0]), permitted, inheritable)
    assert Caps.from_file(shared) == caps
    setcap(str(caps), shared)
    back = Caps.from_file(shared)
    assert libcap.masks(back) == masks
    assert back.marked is True
    Caps.remove(shared)


STORABLE = [
    '=',
    '=p',
    '=i',
    '=ip',
    '=ep',
    '=ei',
    '=eip',
    'cap_net_raw=p',
    'cap_net_raw=i',
    'cap_net_raw=ep',
    'cap_net_raw=ei',
    'cap_net_raw=eip',
    'cap_net_raw=ep cap_kill=ei',
    'cap_chown=p cap_kill=i',
    '63=ep',
    '= 62+i 63+p',
]


@marking
@pytest.mark.parametrize('text', STORABLE)
def test_what_setcap_writes_is_read(program, text):
    setcap(text, program)
    caps = Caps.from_file(program)
    assert caps == Caps(text)
    assert str(caps) == getcap(program)
    assert caps.marked is True


@marking
@pytest.mark.parametrize('text', STORABLE)
def test_getcap_prints_what_was_applied(program, text):
    Caps(text).apply(program)
    assert getcap(program) == str(Caps(text))


UNSTORABLE = [
    'cap_net_raw=e',
    '=e',
    '63=e',
    'cap_net_raw=ep cap_kill=p',
    'cap_net_raw=ep cap_kill=i',
    'cap_net_raw=p cap_kill=e',
    'cap_net_raw=ep cap_kill=e',
]


@marking
@pytest.mark.parametrize('text', UNSTORABLE)
def test_an_effective_set_that_a_file_cannot_store_is_refused(program, text):
    # setcap refuses what would give less, and takes for a mere flag what would give more.
    Caps('cap_chown=i').apply(program)
    assert run('setcap', text, program).returncode != 0 or getcap(program) != str(Caps(text))
    Caps('cap_chown=i').apply(program)
    with pytest.raises(ValueError, match='the effective set of a file is empty or equal to'):
        Caps(text).apply(program)
    assert getcap(program) == 'cap_chown=i'


def test_what_a_file_cannot_store_is_refused_before_the_file_is_looked_at():
    with pytest.raises(ValueError, match=r"together, 'cap_kill'; it cannot be 'cap_net_raw'$"):
        Caps('cap_kill=p cap_net_raw=e').apply('/nowhere/at/all')
    with pytest.raises(ValueError, match=r"together, which are empty; it cannot be 'cap_net_raw'$"):
        Caps('cap_net_raw=e').apply('/nowhere/at/all')


@marking
@few
@given(stored, stored, stored)
def test_any_state_that_is_refused_leaves_the_file_alone(shared, effective, permitted, inheritable):
    if effective in (0, permitted | inheritable):
        effective = (permitted | inheritable) ^ 1 or 2
    Caps('cap_chown=i').apply(shared)
    with pytest.raises(ValueError, match='the effective set of a file'):
        state(effective, permitted, inheritable).apply(shared)
    assert os.getxattr(shared, ATTRIBUTE) == raw(V2, 0, 1)
    Caps.remove(shared)


@marking
def test_no_capabilities_and_empty_capabilities_are_told_apart(program):
    unmarked = Caps.from_file(program)
    Caps().apply(program)
    empty = Caps.from_file(program)
    assert (unmarked.marked, empty.marked) == (False, True)
    assert str(unmarked) == str(empty) == getcap(program) == '='
    assert unmarked == empty
    assert os.getxattr(program, ATTRIBUTE) == raw(V2, 0, 0)


@marking
def test_an_effective_flag_alone_reads_as_marked_and_empty(program):
    os.setxattr(program, ATTRIBUTE, raw(V2 | EFFECTIVE, 0, 0))
    caps = Caps.from_file(program)
    assert not caps
    assert caps.marked is True


@marking
def test_removing_takes_the_attribute_away(program):
    Caps('cap_kill=ep').apply(program)
    Caps.remove(program)
    assert ATTRIBUTE not in os.listxattr(program)
    assert Caps.from_file(program).marked is False


@marking
def test_there_is_nothing_to_remove_twice(program):
    with pytest.raises(OSError, match='the file has no capabilities') as refused:
        Caps.remove(program)
    assert (refused.value.errno, refused.value.filename) == (errno.ENODATA, program)


@marking
def test_a_state_is_changed_and_written_back(program):
    setcap('cap_kill=ep', program)
    Caps.from_file(program).propagate().deactivate().apply(program)
    assert getcap(program) == 'cap_kill=ip'


@needs_root
def test_the_kernel_gives_a_marked_program_what_was_applied(scene, accounts):
    program = scene / 'cat'
    shutil.copy('/bin/cat', program)
    for text in 'cap_net_raw=ep', 'cap_net_raw=p', '=':
        Caps(text).apply(program)
        output = run(program, '/proc/self/status', account=accounts.attacker).stdout
        fields = dict(line.split(':\t') for line in output.splitlines() if ':\t' in line)
        assert libcap.read(text)[:2] == (int(fields['CapEff'], 16), int(fields['CapPrm'], 16))


# The root of a user namespace.


@marking
@pytest.mark.parametrize('root', [1, 1000, 100000, 2**32 - 2])
def test_the_root_of_a_namespace_is_written_read_and_kept(program, root):
    mask = Caps('cap_net_raw=p').permitted.mask
    os.setxattr(program, ATTRIBUTE, raw(V3 | EFFECTIVE, mask, 0, root))
    caps = Caps.from_file(program)
    assert (str(caps), caps.root_id) == ('cap_net_raw=ep', root)
    assert caps != Caps('cap_net_raw=ep')

    caps.propagate().apply(program)
    assert os.getxattr(program, ATTRIBUTE) == raw(V3 | EFFECTIVE, mask, mask, root)
    signed = root - (root >> 31 << 32)  # as getcap prints it
    assert getcap(program) == f'cap_net_raw=eip [rootid={signed}]'
    assert Caps.from_file(program) == caps == caps.copy()

    caps.root_id = 0
    caps.apply(program)
    assert os.getxattr(program, ATTRIBUTE) == raw(V2 | EFFECTIVE, mask, mask)
    assert getcap(program) == 'cap_net_raw=eip'


@marking
def test_the_root_that_setcap_writes_is_read(program):
    assert run('setcap', '-n', '1000', 'cap_kill=p', program).returncode == 0
    caps = Caps.from_file(program)
    assert (str(caps), caps.root_id) == ('cap_kill=p', 1000)


@marking
@pytest.mark.parametrize('root', [-1, 2**32 - 1, 2**32, 2**32 + 1000, 2**64])
def test_a_root_that_is_no_user_is_refused(program, root):
    caps = Caps('cap_kill=p')
    caps.root_id = root
    with pytest.raises(ValueError, match=rf'^{root} is not a user id$'):
        caps.apply(program)
    assert getcap(program) == ''


namespaces = needs(
    *('cap_setfcap', 'cap_chown', 'cap_setuid', 'cap_setgid', 'cap_sys_admin', 'user_namespaces')
)


@namespaces
def test_what_is_marked_inside_a_user_namespace_is_for_its_root(program):
    @in_a_child
    def mark():
        with descriptor(program) as fd:
            enter_user_namespace(outside=1000)
            Caps('cap_kill=p').apply(fd)
            caps = Caps.from_file(fd)
        assert (str(caps), caps.root_id, caps.marked) == ('cap_kill=p', 0, True)

    os.chown(program, 1000, 1000)
    mark()
    assert getcap(program) == 'cap_kill=p [rootid=1000]'
    assert Caps.from_file(program).root_id == 1000


@namespaces
@in_a_child
def test_what_is_for_another_namespace_is_an_error_inside_one(program):
    caps = Caps('cap_kill=p')
    caps.root_id = 100000
    caps.apply(program)
    with descriptor(program) as fd:
        enter_user_namespace(outside=1000)
        error = refusal(Caps.from_file, fd)
    assert (error.errno, error.strerror) == (
        errno.EOVERFLOW,
        'the capabilities are for a user namespace that this one does not see',
    )


# Refusals.


@marking
def test_a_symbolic_link_is_followed_for_reading_only(program):
    setcap('cap_kill=p', program)
    link = program.with_name('link')
    link.symlink_to(program)
    assert str(Caps.from_file(link)) == 'cap_kill=p'
    assert run('setcap', 'cap_kill=i', link).returncode != 0
    (dangling := program.with_name('dangling')).symlink_to('nothing')
    for write in Caps('cap_kill=i').apply, Caps.remove:
        for path in link, dangling:
            with pytest.raises(OSError, match='not a regular file but a symbolic link') as refused:
                write(path)
            assert (refused.value.errno, refused.value.filename) == (errno.EINVAL, path)
    assert getcap(program) == 'cap_kill=p'


@marking
def test_a_symbolic_link_on_the_way_is_followed(program):
    link = program.parent.with_name('link')
    link.symlink_to(program.parent)
    Caps('cap_kill=p').apply(link / 'program')
    assert getcap(program) == 'cap_kill=p'


@pytest.fixture
def kinds(tmp_path):
    """One file of each kind but the regular one."""
    os.mkfifo(tmp_path / 'fifo')
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        # A socket's address is shorter than a temporary directory may be.
        with relative(tmp_path / 'socket') as name:
            listening.bind(name)
        yield {
            'directory': tmp_path,
            'fifo': tmp_path / 'fifo',
            'socket': tmp_path / 'socket',
            'device': Path('/dev/null'),
        }


USES = {
    'from_file': Caps.from_file,
    'apply': Caps('cap_kill=p').apply,
    'remove': Caps.remove,
}
uses = pytest.mark.parametrize('use', USES.values(), ids=USES)


@uses
@pytest.mark.parametrize('kind', ['directory', 'fifo', 'socket', 'device'])
def test_what_is_no_regular_file_is_refused_at_once(kinds, kind, use):
    with pytest.raises(OSError, match='not a regular file') as refused:
        use(kinds[kind])
    assert (refused.value.errno, refused.value.filename) == (errno.EINVAL, kinds[kind])


@uses
def test_an_open_directory_and_a_pipe_are_refused_as_well(tmp_path, use):
    reading, writing = os.pipe()
    with open(reading, 'rb'), open(writing, 'wb'), descriptor(tmp_path) as directory:
        for fd in reading, writing, directory:
            with pytest.raises(OSError, match='not a regular file') as refused:
                use(fd)
            assert (refused.value.errno, refused.value.filename) == (errno.EINVAL, fd)


@uses
@pytest.mark.parametrize('spell', [str, bytes, Path], ids=['str', 'bytes', 'Path'])
def test_an_error_has_the_name_as_it_was_spelled(tmp_path, use, spell):
    missing = spell(tmp_path / 'missing')
    with pytest.raises(FileNotFoundError) as refused:
        use(missing)
    assert refused.value.errno == errno.ENOENT
    assert refused.value.filename == missing
    assert type(refused.value.filename) is type(missing)


@uses
@pytest.mark.parametrize('named', [{}, {'name': 'thing'}], ids=['nameless', 'named'])
def test_a_file_objects_error_has_its_name(use, named):
    with pytest.raises(OSError, match='Bad file descriptor') as refused:
        use(SimpleNamespace(fileno=lambda: -1, **named))
    assert (refused.value.errno, refused.value.filename) == (errno.EBADF, named.get('name'))


@uses
def test_a_closed_file_object_is_refused(program, use):
    with program.open() as file:
        pass
    with pytest.raises(ValueError, match='closed file'):
        use(file)


@uses
def test_a_closed_descriptor_is_refused(use):
    with descriptor('/') as fd:
        pass
    for number in fd, -1:
        with pytest.raises(OSError, match='Bad file descriptor') as refused:
            use(number)
        assert (refused.value.errno, refused.value.filename) == (errno.EBADF, number)


@uses
def test_a_file_below_a_file_is_refused(program, use):
    with pytest.raises(NotADirectoryError) as refused:
        use(program / 'below')
    assert refused.value.errno == errno.ENOTDIR


@uses
@pytest.mark.parametrize('value', [1.5, [], object(), io.BytesIO()], ids=type)
def test_what_is_no_file_is_refused(use, value):
    with pytest.raises((TypeError, AttributeError, io.UnsupportedOperation)):
        use(value)


@uses
def test_a_name_with_a_null_byte_is_refused(use):
    with pytest.raises(ValueError, match='null'):
        use('a\0b')


@in_a_child
def without_capabilities(use, path):
    """The error in a child that has no capability at all, whoever runs the tests."""
    Caps().apply()
    error = refusal(use, path)
    return type(error), error.errno, error.filename, error.strerror


writes = pytest.mark.parametrize('use', [USES['apply'], USES['remove']], ids=['apply', 'remove'])


@writes
def test_writing_without_the_capability_says_which(program, use):
    error = PermissionError, errno.EPERM, program, 'cap_setfcap must be effective'
    assert without_capabilities(use, program) == error


def mark_read_and_clear(path):
    Caps('cap_kill=p').apply(path)
    assert str(Caps.from_file(path)) == 'cap_kill=p'
    Caps.remove(path)
    assert Caps.from_file(path).marked is False


@needs('cap_linux_immutable', 'cap_setfcap')
def test_immutable_file_is_called_so(program):
    run('chattr', '+i', program, check=True)
    try:
        error = refusal(USES['apply'], program)
    finally:
        run('chattr', '-i', program, check=True)
    assert error.errno == errno.EPERM
    assert error.strerror.startswith('the file is immutable (chattr(1))')


@needs_root
@needs('user_namespaces')
@pytest.mark.parametrize(
    ('root', 'owner', 'reason'),
    [
        (0, 0, ''),
        (0, 1, 'the owner of the file is not in this user namespace (user_namespaces(7))'),
        (
            5, 0,
            'a mark is for user 0, and this user namespace has none (user_namespaces(7))',
        ),
    ],
    ids=['root of it', 'unmapped owner', 'no root in it'],
)  # fmt: skip
@in_a_child
def test_user_namespace_says_what_is_in_the_way(program, root, owner, reason):
    os.chown(program, owner, owner)
    program.chmod(0o777)
    enter_user_namespace(inside=root)
    if reason:
        assert refusal(USES['apply'], program).strerror == reason
        return
    mark_read_and_clear(program)
    with descriptor(program, os.O_PATH) as fd:
        assert Caps.from_file(fd).marked is False


@needs('cap_setfcap', 'cap_sys_admin')
@in_a_child
def test_without_proc_what_needs_none_works_and_the_rest_says_so(program):
    assert LIBC.unshare(CLONE_NEWNS) == 0
    assert LIBC.mount(None, b'/', None, MS_REC | MS_PRIVATE, None) == 0
    assert LIBC.umount2(b'/proc', MNT_DETACH) == 0
    mark_read_and_clear(program)
    with descriptor(program, os.O_PATH) as fd:
        error = refusal(Caps.from_file, fd)
    reason = f'/proc is needed for descriptor {fd}, which is a path only (O_PATH)'
    assert (error.errno, error.strerror) == (errno.ENOENT, reason)


@marking
@in_a_child
def test_reading_needs_no_capability(program):
    setcap('cap_kill=p', program)
    program.chmod(0)
    Caps().apply()
    assert str(Caps.from_file(program)) == 'cap_kill=p'


@marking
@in_a_child
def test_writing_by_path_needs_no_readable_file(program):
    program.chmod(0)
    Caps('cap_setfcap=ep').apply()
    mark_read_and_clear(program)


@uses
def test_a_directory_that_cannot_be_entered_is_an_error(program, use):
    program.parent.chmod(0)
    error = without_capabilities(use, program)
    program.parent.chmod(0o755)
    assert error == (PermissionError, errno.EACCES, program, 'Permission denied')


@marking
@pytest.mark.parametrize('write', ['apply', 'remove'])
def test_a_file_system_without_attributes_stores_none(write):
    with pytest.raises(OSError, match='the file system stores no capabilities') as refused:
        USES[write]('/proc/version')
    assert refused.value.errno == errno.EOPNOTSUPP
    assert refused.value.filename == '/proc/version'


def test_a_file_on_a_file_system_without_attributes_is_unmarked():
    assert Caps.from_file('/proc/version').marked is False


# What no system call writes: the attributes of a file system made by hand.
mounting = needs('cap_sys_admin', 'cap_setfcap', 'cap_dac_override', 'loop_devices')


@mounting
@pytest.mark.parametrize('name', [name for name in ATTRIBUTES if name not in WELL_FORMED])
def test_a_malformed_attribute_is_an_error(image, name):
    path = image / name
    assert ATTRIBUTE in os.listxattr(path)
    assert not os.path.exists('/nowhere')  # leaves ENOENT in errno
    with pytest.raises(
        OSError, match=r'its security\.capability attribute is malformed'
    ) as refused:
        Caps.from_file(path)
    assert (refused.value.errno, refused.value.filename) == (errno.EINVAL, path)


@mounting
@pytest.mark.parametrize('name', WELL_FORMED)
def test_a_well_formed_attribute_of_the_same_make_is_read(image, name):
    words = struct.unpack_from('<5I', ATTRIBUTES[name])
    caps = Caps.from_file(image / name)
    assert caps.permitted.mask == words[1] | words[3] << 32
    assert caps.inheritable.mask == words[2] | words[4] << 32
    assert caps.effective == (
        (caps.permitted | caps.inheritable) if words[0] & EFFECTIVE else set()
    )
    assert (caps.root_id, caps.marked) == (WELL_FORMED[name], True)


@mounting
def test_a_malformed_attribute_can_be_replaced_and_removed(image):
    Caps('cap_kill=p').apply(image / 'to-be-replaced')
    assert getcap(image / 'to-be-replaced') == 'cap_kill=p'
    Caps.remove(image / 'to-be-removed')
    assert Caps.from_file(image / 'to-be-removed').marked is False


@mounting
@pytest.mark.parametrize('write', ['apply', 'remove'])
def test_a_read_only_file_system_is_an_error(image, write):
    path = image / 'version-2-of-20-bytes'
    assert run('mount', '-o', 'remount,ro', image).returncode == 0
    try:
        with pytest.raises(OSError, match='Read-only file system') as refused:
            USES[write](path)
    finally:
        assert run('mount', '-o', 'remount,rw', image).returncode == 0
    assert (refused.value.errno, refused.value.filename) == (errno.EROFS, path)
