"""Every public function again and again: no memory, descriptor or thread is left behind."""

import ctypes
import json
import os
import shutil
import sys
from inspect import getattr_static

import pytest

import caps
from caps import _caps
from support import CHILDREN, ROOT, SOAK, needs, needs_root, run
from support.sources import extension_with

pytestmark = [
    needs_root,
    needs('cap_kill', 'cap_setpcap', 'cap_sys_admin', 'loop_devices'),
    pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallinfo2'), reason='needs glibc 2.33'),
]

# One call for several names of several classes.
CALLS = {
    f'{cls}.{name}': call.format(cls=cls, name=name)
    for classes, names, call in [
        ('Caps IAB', '__bool__ __copy__ __repr__ copy', '{cls}().{name}()'),
        ('Caps IAB', '__getitem__', "{cls}()['inheritable']"),
        ('Caps IAB', '__setitem__', "{cls}()['inheritable'] = ['cap_kill', 5]"),
        ('Caps IAB', '__eq__', '{cls}() == {cls}()'),
        ('Caps IAB', '__str__', 'str({cls}.from_process())'),
        ('Caps IAB', 'apply', '{cls}.from_process().apply(all_threads=True)'),
        ('Caps IAB', 'from_process', '{cls}.from_process(); {cls}.from_process(1)'),
        ('Caps', 'activate clear deactivate propagate propagnate', "Caps('=p').{name}('kill')"),
        ('Caps', 'terminate', "Caps('=i').{name}()"),
        ('Caps', 'effective inheritable permitted', "Caps().{name} = 'cap_kill'"),
        ('IAB', 'ambient bounding inheritable', "IAB().{name} = 'cap_kill'"),
        ('Caps', 'marked root_id', 'Caps().{name}'),
        ('CapSet', '__str__ copy', "CapSet(['KILL', 63]).{name}()"),
        ('CapSet SecureBits', '__len__ __repr__ clear pop', "{cls}(['5', '30']).{name}()"),
        ('CapSet SecureBits', '__contains__ add discard', "{cls}(['5']).{name}('30')"),
        ('CapSet SecureBits', '__and__ __eq__ __ge__ __gt__ __iand__ __ior__ __isub__ __ixor__ '
         '__le__ __lt__ __or__ __rand__ __ror__ __rsub__ __rxor__ __sub__ __xor__ isdisjoint',
         "{cls}(['5']).{name}({cls}(['5', '30']))"),
        ('CapSet SecureBits', '__iter__', "list({cls}(['5', '30']))"),
        ('CapSet SecureBits', 'remove', "{cls}(['5', '30']).remove('5')"),
        ('_caps', 'max_bits names no_new_privs securebits', '_caps.{name}()'),
        ('_caps', 'get_iab get_process', '_caps.{name}(0); _caps.{name}(1)'),
        ('raised', '__enter__ __exit__', 'in_a_thread(enter, raising)'),
    ]
    for cls in classes.split()
    for name in names.split()
} | {
    'Caps': "Caps('cap_kill=ep', inheritable=['chown']); Caps(Caps())",
    'Caps.from_file': 'Caps.from_file(marked); Caps.from_file(directory + "/unmarked")',
    'Caps.from_text': "Caps.from_text('cap_kill,cap_chown=ep 63+i')",
    'Caps.remove': "Caps('cap_kill=p').apply(marked); Caps.remove(marked)",
    'CapSet': "CapSet(['NET_RAW', 5, 'cap_chown'])",
    'CapSet.all': 'CapSet.all()',
    'CapSet.from_mask': 'CapSet.from_mask(1 << 40)',
    'CapSet.mask': 'CapSet.all().mask',
    'IAB': "IAB('!cap_kill,^cap_chown'); IAB(IAB())",
    'IAB.from_text': "IAB.from_text('!cap_kill,^5,%0x8')",
    'SecureBits': "SecureBits(['noroot', '30'])",
    'SecureBits.apply': "SecureBits(['keep_caps']).apply(); SecureBits().apply(all_threads=True)",
    'SecureBits.from_process': 'SecureBits.from_process()',
    'SecureBits.mask': 'SecureBits.from_process().mask',
    'command': "command(['true'], ambient=['kill'], user=1, group=1, groups=[2])",
    'drop': "drop('cap_setuid,cap_setgid,cap_setpcap', 65534, 65534, [1]); "
            "drop(Caps.from_process().permitted, 'root', no_new_privs=True)",
    'no_new_privs': 'no_new_privs()',
    'raised': "enter(raised('cap_kill')); enter(raised())",
    'securebits': 'caps.securebits',
    'set_no_new_privs': 'set_no_new_privs(); set_no_new_privs(all_threads=False)',
    '_caps.Raised': '_caps.Raised()',
    '_caps.canonical': "_caps.canonical('=p 63+i')",
    '_caps.canonical_iab': "_caps.canonical_iab('!cap_kill,^5')",
    '_caps.find_in': "all = b'/absent', b'x' * 5000, closed.encode(), directory.encode(); "
                     '_caps.find_in(all, -1); _caps.find_in(all, 9999)',
    '_caps.get_file': 'fd = os.open(marked, os.O_PATH); _caps.get_file(fd); os.close(fd)',
    '_caps.set_file': "fd = os.open(marked, 0); _caps.set_file(fd, '=p', 7); os.close(fd)",
    '_caps.set_process': '_caps.set_process(_caps.get_process(0))',
    '_caps.system_calls': 'now = threads.capset(*threads.masks_of())[1]; '
                          'assert _caps.system_calls([now], True) is None; '
                          'assert _caps.system_calls([now, (-1, bytes(9))], True)',
}  # fmt: skip

# Each is refused to a process that has no capabilities.
REFUSED = {
    'Caps': ["Caps('x')", "Caps('cap_kil=p')", 'Caps(5)', "Caps(permitted=['x'])"],
    'Caps.__getitem__': ["Caps()['ambient']"],
    'Caps.activate': ["Caps().activate('x')"],
    'Caps.apply': ["Caps('=p').apply()", "Caps('=i').apply(all_threads=True)",
                   "Caps('=p').apply(marked)", "Caps('=p 5+e').apply(marked)",
                   'Caps().apply(directory)', "Caps().apply('/absent')", 'Caps().apply(-1)'],
    'Caps.from_file': ['Caps.from_file(malformed)', "Caps.from_file('/absent')",
                       'Caps.from_file(directory)', 'Caps.from_file(None)', 'Caps.from_file(-1)'],
    'Caps.from_process': ['Caps.from_process(2**22 + 1)', 'Caps.from_process(2**31)'],
    'Caps.remove': ['Caps.remove(marked)', "Caps.remove('/absent')", 'Caps.remove(directory)'],
    'CapSet': ["CapSet('x')", 'CapSet([None])', 'CapSet(5)'],
    'CapSet.__and__': ["CapSet() & 'x'"],
    'CapSet.from_mask': ['CapSet.from_mask(1 << 64)'],
    'CapSet.pop': ['CapSet().pop()'],
    'IAB': ["IAB('x')", 'IAB(5)', "IAB('\\0')"],
    'IAB.apply': ["IAB('^cap_kill').apply()", "IAB('!cap_kill').apply(all_threads=True)"],
    'IAB.from_process': ['IAB.from_process(2**22 + 1)', "IAB.from_process('1')"],
    'SecureBits': ["SecureBits(['x'])"],
    'SecureBits.apply': ["SecureBits(['noroot']).apply()",
                         "SecureBits(['noroot']).apply(all_threads=True)"],
    'command': ["command('true')", "command(['true'], ambient=[63])", "command('a', user='?')"],
    'drop': ["drop('cap_kill')", 'drop(user=65534, group=1)', "drop(user='nobody at all')"],
    'raised': ["enter(raised('cap_kill'))", "raised('x')", 'next(suspended())'],
    '_caps.canonical': ["_caps.canonical('x')", '_caps.canonical(5)'],
    '_caps.canonical_iab': ["_caps.canonical_iab('x')", '_caps.canonical_iab()'],
    '_caps.find_in': ["_caps.find_in(('/',), -1)", "_caps.find_in([b'/'], -1)",
                      "_caps.find_in((b'/',) * 17, -1)"],
    '_caps.get_file': ['_caps.get_file(-1)', '_caps.get_file(None)', "_caps.get_file('/absent')"],
    '_caps.get_iab': ['_caps.get_iab(2**22 + 1)', '_caps.get_iab(2**31)'],
    '_caps.get_process': ['_caps.get_process(2**22 + 1)', "_caps.get_process('1')"],
    '_caps.names': ['_caps.names(1)'],
    '_caps.set_file': ["_caps.set_file(0, 'x', 0)", "_caps.set_file(0, '=p', -1)",
                       "_caps.set_file(-1, '=p', 0)", '_caps.set_file(-1, None, 0)'],
    '_caps.set_process': ["_caps.set_process('x')", "_caps.set_process('=p')"],
    '_caps.system_calls': ['_caps.system_calls([()], False)', '_caps.system_calls(5, False)',
                           "_caps.system_calls([(1, 'x')], True)",
                           '_caps.system_calls([(0,)] * 161, True)'],
}  # fmt: skip
SOURCES = {name: f'def call():\n    {call}' for name, call in CALLS.items()} | {
    f'{name} refused': 'def call():\n' + ''.join(f'    with Refused(): {one}\n' for one in calls)
    for name, calls in REFUSED.items()
}


def public_names():
    """Every function, class, method, operator and attribute that a user can reach."""
    yield from caps.__all__
    public = [getattr(caps, name) for name in caps.__all__]
    yield from (f'_caps.{name}' for name, value in vars(_caps).items() if callable(value))
    plumbing = {'__init__', '__init_subclass__', '__subclasshook__'}
    plumbing |= {'__annotate__', '__annotate_func__'}  # of Python 3.14
    for cls in (value for value in public if isinstance(value, type)):
        for name in set(dir(cls)) - plumbing:
            value = getattr_static(cls, name)
            is_operator = name[:2] == '__' and callable(value)
            if name[0] != '_' or (is_operator and value is not getattr(object, name, None)):
                yield f'{cls.__name__}.{name}'


def test_every_public_name_is_among_the_calls():
    assert set(CALLS) == set(public_names())
    assert set(REFUSED) <= set(CALLS)


@pytest.fixture(scope='module')
def measure(image, tmp_path_factory):
    """A function that runs sources, with a package, and returns what each left behind."""
    directory = tmp_path_factory.mktemp('leaks')
    (directory / 'below').mkdir()
    (directory / 'closed').mkdir(0)
    names = {name: str(directory / name) for name in ('', 'closed', 'marked', 'unmarked')}
    files = {'directory': names.pop(''), 'malformed': str(image / 'version-2-of-19-bytes'), **names}

    def run_all(sources, times, package=ROOT):
        for name in 'marked', 'unmarked':
            shutil.copy('/bin/true', names[name])
        caps.Caps('cap_kill=p').apply(names['marked'])
        # What a thread keeps for its next malloc(3) would count as used.
        exact = {'PYTHONPATH': str(package), 'GLIBC_TUNABLES': 'glibc.malloc.tcache_count=0'}
        command = [sys.executable, CHILDREN / 'leaks.py', json.dumps([sources, times, files])]
        result = run(*command, env=os.environ | exact, timeout=3600)
        assert result.returncode == 0, result.stderr
        return dict(map(json.loads, result.stdout.splitlines()))

    return run_all


@pytest.fixture(scope='module')
def left_behind(measure):
    return measure(SOURCES, 100 * SOAK)


@pytest.mark.parametrize('name', SOURCES)
def test_nothing_is_left_behind_by(name, left_behind):
    assert left_behind[name] is None, 'bytes, blocks, descriptors and threads'


# What is made wrong, in which source, and the call that must be found to leave something.
PLANTED = {
    'text': ('ext/text.h', 'CAPS_OWNED char *text = caps', 'char *text = caps', 'Caps.__str__'),
    'state': ('ext/files.c', 'CAPS_OWNED cap_t caps = text', 'cap_t caps = text', 'Caps.remove'),
    'object': ('ext/find.c', 'Py_XDECREF(item);', '', '_caps.find_in'),
    'object of a failure': ('ext/calls.c', 'Py_XDECREF(thread);', '', '_caps.system_calls'),
    'descriptor': ('ext/find.c', 'close(*fd);', ';', '_caps.find_in'),
}  # fmt: skip


@pytest.mark.parametrize(('file', 'old', 'new', 'name'), PLANTED.values(), ids=PLANTED)
def test_what_is_planted_is_found(file, old, new, name, measure, tmp_path):
    package = extension_with(tmp_path, file, old, new)
    assert max(measure({name: SOURCES[name]}, 20, package)[name]) >= 20


@pytest.mark.parametrize(
    ('call', 'kind'),
    [('kept.append(object())', 1), ("os.open('/', 0)", 2), ('start(time.sleep, 600)', 3)],
    ids=['object', 'descriptor', 'thread'],
)
def test_what_python_leaves_behind_is_found(call, kind, measure):
    assert measure({'': f'def call():\n    {call}'}, 20)[''][kind] >= 20
