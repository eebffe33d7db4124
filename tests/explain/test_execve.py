"""What caps.explain.execve says against what the kernel does, over random processes and files.

python tests/explain/test_execve.py --count 20000 [--seed N] is the long run, as root.
"""

import argparse
import ctypes
import io
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import tempfile
import traceback
import types
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from caps import IAB, Caps, CapSet, SecureBits, set_no_new_privs
from caps.explain import execve
from caps.system import types as model_types
from caps.system.processes import is_kernel_before
from caps.system.records import replace
from caps.system.types import File, FileCaps, Ids, Process, UserNamespace
from support import SUPPORT, needs

MODEL_TYPES = re.compile(r'from caps\.system\.types import .*')
libc = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_MOUNT = 0x10000000, 0x00020000
MS_NOSUID, MS_NOEXEC, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 8, 0x4000, 1 << 18, 2
PROBE = SUPPORT / 'execve_probe.c'

needs_a_machine = needs(
    'cap_chown', 'cap_dac_override', 'cap_fowner', 'cap_setfcap', 'cap_setgid', 'cap_setpcap',
    'cap_setuid', 'cap_sys_admin', 'user_namespaces',
)  # fmt: skip

# Few ids and capabilities, so that they often meet.
CAPS = CapSet('cap_chown,cap_dac_override,cap_setuid,cap_net_raw,cap_bpf')
EVERYTHING = CapSet.all()
UNKNOWN = CapSet.from_mask(1 << 62)
USERS, GROUPS = (0, 1001, 1002), (0, 2001, 2002)
BASE = 100000
# A user namespace: the first id inside and outside, and how many.
MAPS = [(0, 0, 65536), (0, BASE, 65536), (9, 9, 9000)]
KINDS = {'plain': 0, 'nosuid': MS_NOSUID, 'noexec': MS_NOEXEC, 'foreign': 0}

# What the model says and what it might wrongly say.
MUTATIONS = [
    ('caps.permitted & process.bounding', 'caps.permitted'),
    ('caps.inheritable & process.inheritable', 'caps.inheritable'),
    (
        'caps.inheritable & process.inheritable',
        'caps.inheritable & process.inheritable & process.bounding',
    ),
    ('if caps.effective and (missing', 'if (missing'),
    ('caps.permitted - permitted', 'caps.permitted - process.bounding'),
    ("elif 'noroot' in process.securebits:", 'elif False:'),
    ('if root not in (uid, process.uid.real)', 'if root != uid'),
    ('if root not in (uid, process.uid.real)', 'if root != process.uid.real'),
    ('if root not in (uid, process.uid.real)', 'if 0 not in (uid, process.uid.real)'),
    ('elif counting and root != process.uid.real', 'elif counting'),
    ('elif counting and root != process.uid.real', 'elif False'),
    ('permitted = process.inheritable | process.bounding', 'permitted = process.bounding'),
    ('        if uid == root:', '        if True:'),
    ('permitted &= process.permitted', 'permitted = permitted'),
    ('uid, gid = process.uid.real, process.gid.real', 'uid = process.uid.real'),
    ('uid, gid = process.uid.real, process.gid.real', 'gid = process.gid.real'),
    (
        '_ambient(process, counting is not None, is_changed, say)',
        '_ambient(process, False, is_changed, say)',
    ),
    (
        '_ambient(process, counting is not None, is_changed, say)',
        '_ambient(process, counting is not None, False, say)',
    ),
    ('permitted |= ambient', 'permitted |= CapSet()'),
    ('permitted if becomes_effective else ambient', 'permitted if becomes_effective else CapSet()'),
    ('is_changed or uid != process.uid.real or gid', 'uid != process.uid.real or gid'),
    ('process.uid.real != root and', ''),
    ('(becomes_effective or permitted - ambient)', 'becomes_effective'),
    ('(becomes_effective or permitted - ambient)', 'permitted - ambient'),
    ("securebits.discard('keep_caps')", ''),
    ('uid=Ids(process.uid.real, uid, uid)', 'uid=Ids(process.uid.real, uid, process.uid.saved)'),
    ('gid=Ids(process.gid.real, gid, gid)', 'gid=Ids(process.gid.real, gid, process.gid.saved)'),
    ('MAX_SCRIPTS = 5', 'MAX_SCRIPTS = 4'),
    ('MAX_SCRIPTS = 5', 'MAX_SCRIPTS = 6'),
    ('if file.noexec:', 'if False:'),
    ('if not file.is_program:', 'if False:'),
    ('file.gid in process.all_groups', 'file.gid == process.gid.effective'),
    ('return {self.gid.effective, *self.groups}', 'return set(self.groups)'),
    (' and process.namespace.maps(file.uid, file.gid):', ':'),
    ('bits = 0o111', 'bits = 0o777'),
    ('file.mode & 0o2010 == 0o2010', 'file.mode & 0o2000'),
    ('    if file.nosuid:\n', '    if False:\n'),
    ('elif process.no_new_privs:', 'elif False:'),
    ('elif not process.namespace.maps(file.uid, file.gid):', 'elif False:'),
    ('elif file.nosuid:', 'elif False:'),
    ('not in process.namespace.roots:', '!= process.namespace.roots[0]:'),
    ('elif file.caps.root_id not in process.namespace.roots:', 'elif False:'),
    ('file.caps.permitted & known', 'file.caps.permitted'),
    ('if process.compares_real', 'if not process.compares_real'),
]
if is_kernel_before(6, 16):
    MUTATIONS += [
        ('is_changed = uid != process.uid.real or gid', 'is_changed = gid'),
        ('is_changed = uid != process.uid.real or gid != process.gid.real', 'is_changed = False'),
        ('gained or (process.compares_real and is_changed)', 'gained'),
    ]
else:
    MUTATIONS += [
        ('gid not in process.all_groups', 'gid != process.gid.effective'),
        ('is_changed or uid != process.uid.real or', 'is_changed or'),
        ('or gid != process.gid.real\n    if', '\n    if'),
    ]


def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)


class Execution(NamedTuple):
    """What the kernel made of a process and a file."""

    before: Process
    file: File
    error: int
    after: Process | None
    secure: bool

    def mismatch(self, model=execve):
        """What the model says differently from the kernel, '' for nothing."""
        said = model.execve(self.before, self.file)
        pairs = [('error', said.error, self.error)]
        if said.process and self.after:
            pairs.append(('secure', said.secure, self.secure))
            for name in Process.__annotations__:
                pairs.append((name, getattr(said.process, name), getattr(self.after, name)))
        return '; '.join(f'{name}: said {a}, is {b}' for name, a, b in pairs if a != b)


class Random(random.Random):
    def caps(self, within=EVERYTHING):
        some = CapSet(name for name in CAPS if self.random() < 0.5)
        return self.choice([CapSet(), EVERYTHING, some, some, some, EVERYTHING - some]) & within

    def subset(self, members):
        return [member for member in members if self.random() < 0.3]

    def often(self, value, others):
        return value if self.random() < 0.6 else self.choice(others)


class Mount:
    """A tmpfs, of which a descriptor remains when it is no longer in the mount namespace."""

    def __init__(self, parent, name, flags):
        self.path = parent / name
        self.path.mkdir()
        call('mount', b'none', os.fsencode(self.path), b'tmpfs', flags, b'mode=755')
        self.fd = os.open(self.path, os.O_PATH)
        self.nosuid, self.noexec = bool(flags & MS_NOSUID), bool(flags & MS_NOEXEC)
        self.is_there = True

    def detach(self):
        if self.is_there:
            call('umount2', os.fsencode(self.path), MNT_DETACH)
            self.is_there, self.nosuid = False, True

    def make(self, rng, name, content, interpreter=None):
        """A file with random attributes; what the model knows of it."""
        path = f'/proc/self/fd/{self.fd}/{name}'
        if interpreter or not os.path.exists(path):
            Path(path).write_bytes(content)
        uid = rng.often(0, [*USERS, BASE, BASE + 1001])
        gid = rng.often(0, [*GROUPS, BASE, BASE + 2001])
        mode = rng.often(0o755, [0o711, 0o750, 0o700, 0o701, 0o641, 0o644, 0o070])
        mode |= rng.often(0, [0o4000, 0o2000, 0o6000])
        os.chown(path, uid, gid)  # this takes capabilities away, and set-id bits
        os.chmod(path, mode)
        caps = None
        if rng.random() < 0.6:
            caps = FileCaps(
                rng.caps() | rng.choice([CapSet(), CapSet(), UNKNOWN]),
                rng.caps(),
                rng.random() < 0.5,
                rng.often(0, [BASE, 1001, 0]),
            )
            os.setxattr(path, 'security.capability', xattr(caps, rng.random() < 0.5))
        path = str(self.path / name)
        is_program = content != b''
        return File(path, mode, uid, gid, caps, self.nosuid, self.noexec, interpreter, is_program)


def xattr(caps, with_root_id):
    """A security.capability attribute, of version 2 where that will do."""
    with_root_id = with_root_id or caps.root_id
    p, i = caps.permitted.mask, caps.inheritable.mask
    low = 0xFFFFFFFF
    words = [(3 if with_root_id else 2) << 24 | caps.effective, p & low, i & low, p >> 32, i >> 32]
    words += [caps.root_id] if with_root_id else []
    return struct.pack(f'<{len(words)}I', *words)


class Case:
    """A random process and file, and what became of them."""

    def __init__(self, rng, mounts, probe):
        self.map = rng.often(None, MAPS)
        inside = [0] if self.map is None or self.map[0] == 0 else []
        users, groups = (*inside, 1001, 1002), (*inside, 2001, 2002)
        self.uids = rng.often((rng.choice(users),) * 3, [rng.choices(users, k=3)])
        self.gids = rng.often((rng.choice(groups),) * 3, [rng.choices(groups, k=3)])
        self.groups = rng.subset(groups)
        self.permitted = rng.caps()
        self.inheritable = rng.caps()
        self.effective = rng.often(self.permitted, [rng.caps()])
        self.ambient = rng.caps()
        self.bounding = rng.often(EVERYTHING, [rng.caps()])
        self.securebits = rng.subset(
            ['noroot', 'no_setuid_fixup', 'keep_caps', 'no_cap_ambient_raise', 'noroot_locked']
        )
        self.no_new_privs = rng.random() < 0.15
        kinds = list(mounts)
        self.mount = mounts[rng.often('plain', kinds)]
        depth = rng.often(0, [1, 1, 1, 2, 5, 6])
        kinds.remove('foreign')
        file = mounts[rng.often('plain', kinds)].make(rng, 'probe', probe) if depth else None
        for number in range(1, depth):
            line = f'#!{file.path}\n'.encode()
            file = mounts[rng.often('plain', kinds)].make(rng, f'script{number}', line, file)
        if rng.random() < 0.02:
            file = self.mount.make(rng, 'empty', b'')
        elif file:
            file = self.mount.make(rng, 'script', f'#!{file.path}\n'.encode(), file)
        else:
            file = self.mount.make(rng, 'probe', probe)
        self.file = file

    def become(self, unshared, mapped):
        """Make the calling process this one; what it may not have is left out."""
        if self.map:
            call('unshare', NEW_USER)
            os.write(unshared, b'.')
            os.read(mapped, 1)
        SecureBits(['keep_caps', 'no_setuid_fixup']).apply()
        os.setgroups(self.groups)
        os.setresgid(*self.gids)
        os.setresuid(*self.uids)
        had = Caps.from_process()
        iab = IAB.from_process()
        iab.inheritable = self.inheritable & iab.bounding
        iab.ambient = self.ambient & iab.inheritable & had.permitted & self.permitted
        iab.bounding = self.bounding & iab.bounding
        iab.apply()
        SecureBits(self.securebits).apply()
        permitted = self.permitted & had.permitted
        Caps(
            effective=self.effective & permitted,
            permitted=permitted,
            inheritable=iab.inheritable,
        ).apply()
        if self.no_new_privs:
            set_no_new_privs(all_threads=False)

    def execute(self):
        """Do it in a child."""
        unshared, mapped, output = os.pipe(), os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            try:
                self.become(unshared[1], mapped[0])
                report = Path('/proc/self/status').read_bytes()
                report += f'SecureBits:\t{SecureBits.from_process().mask}\n'.encode()
                os.dup2(output[1], 1)
                os.write(1, report + b'\0')
                if not self.mount.is_there:
                    file = os.open(Path(self.file.path).name, os.O_PATH, dir_fd=self.mount.fd)
                    os.set_inheritable(file, True)  # a script is opened again
                    os.execve(file, ['probe'], {})
                os.execve(self.file.path, ['probe'], {})
            except OSError as error:
                os.write(1, f'Error:\t{error.errno}\n'.encode())
            finally:
                os._exit(0)
        for end in unshared[1], mapped[0], output[1]:
            os.close(end)
        if self.map:
            os.read(unshared[0], 1)
            for kind in 'uid', 'gid':
                Path(f'/proc/{child}/{kind}_map').write_text(' '.join(map(str, self.map)))
            os.write(mapped[1], b'.')
        with open(output[0], 'rb') as file:
            before, after = map(read, file.read().split(b'\0'))
        for end in unshared[0], mapped[1]:
            os.close(end)
        os.waitpid(child, 0)
        error = int(after.get('Error', 0))
        return Execution(
            self.process(before),
            self.file,
            error,
            None if error else self.process(after),
            after.get('Secure') == '1',
        )

    def process(self, found):
        """The process that a report of /proc describes, with the ids of the initial namespace."""
        first, start, count = self.map or (0, 0, 2**32 - 1)
        ids = [
            [int(one) + start - first for one in found[name].split()]
            for name in ('Uid', 'Gid', 'Groups')
        ]
        root = start - first if first == 0 else -1
        securebits = SecureBits()
        securebits.mask = int(found['SecureBits'])
        mapped = (range(start, start + count),)
        return Process(
            *(
                CapSet.from_mask(int(found[f'Cap{name}'], 16))
                for name in ('Eff', 'Prm', 'Inh', 'Amb', 'Bnd')
            ),
            uid=Ids(*ids[0][:3]),
            gid=Ids(*ids[1][:3]),
            groups=frozenset(ids[2]),
            securebits=securebits,
            no_new_privs=found['NoNewPrivs'] == '1',
            namespace=UserNamespace((root, 0), mapped, mapped) if self.map else UserNamespace(),
            compares_real=is_kernel_before(6, 16),
        )


def read(report):
    lines = (line.split(':', 1) for line in report.decode().splitlines())
    return {name: value.strip() for name, value in lines}


def executions(count, seed):
    """Random cases, executed one after the other, below mounts of their own."""
    call('unshare', NEW_MOUNT)
    call('mount', None, b'/', None, MS_REC | MS_PRIVATE, None)
    with tempfile.TemporaryDirectory(dir='/var/lib') as scratch, ExitStack() as undo:
        os.chmod(scratch, 0o755)
        subprocess.run(['cc', '-static', '-O2', '-s', '-o', f'{scratch}/probe', PROBE], check=True)
        probe = Path(scratch, 'probe').read_bytes()
        mounts = {}
        for name, flags in KINDS.items():
            mounts[name] = Mount(Path(scratch), name, flags)
            undo.callback(mounts[name].detach)
        mounts['foreign'].detach()
        for number in range(count):
            yield Case(Random(f'{seed} {number}'), mounts, probe).execute()


class Loader(pickle.Unpickler):
    """Executions from a pickle, of the types of a model."""

    def __init__(self, pickled, types=model_types):
        super().__init__(io.BytesIO(pickled))
        self.types = types

    def find_class(self, module, name):
        if module == model_types.__name__:
            return getattr(self.types, name)
        return super().find_class(module, name)


@pytest.fixture(scope='module')
def recorded():
    """The short run, in a child because of its mount namespace; each test loads it for itself."""
    if Path('/proc/self/uid_map').read_text().split() != ['0', '0', str(2**32 - 1)]:
        pytest.skip('the ids of a user namespace do not suffice')
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(writing, 'wb') as file:
                pickle.dump(list(executions(600, 'suite')), file)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, 'rb') as file:
        pickled = file.read()
    os.waitpid(child, 0)
    return pickled


@pytest.fixture
def executed(recorded):
    return Loader(recorded).load()


@needs_a_machine
def test_the_model_says_what_the_kernel_does(executed):
    mismatches = [f'{mismatch}: {one}' for one in executed if (mismatch := one.mismatch())]
    assert not mismatches, f'{len(mismatches)} of {len(executed)}, the first: {mismatches[0]}'


@needs_a_machine
def test_every_rule_has_a_say(executed):
    said = {
        reason.rule for one in executed for reason in execve.execve(one.before, one.file).reasons
    }
    assert said == set(execve.RULES)


@needs_a_machine
@pytest.mark.parametrize(('right', 'wrong'), MUTATIONS, ids=map(' -> '.join, MUTATIONS))
def test_a_wrong_rule_would_be_noticed(recorded, right, wrong, monkeypatch):
    sources = [Path(module.__file__).read_text() for module in (model_types, execve)]
    assert ''.join(sources).count(right) == 1
    model = types.ModuleType('wrong')
    monkeypatch.setitem(sys.modules, 'wrong', model)
    for source in sources:
        exec(MODEL_TYPES.sub('', source).replace(right, wrong), model.__dict__)
    assert any(one.mismatch(model) for one in Loader(recorded, model).load())


def test_ids_that_differed_before_have_changed_on_a_kernel_before_6_16_only():
    caps = CapSet('cap_kill')
    ids, sets = Ids(1001, 1002, 1002), {'permitted': caps, 'inheritable': caps, 'ambient': caps}
    process = Process(uid=ids, gid=Ids(1001, 1001, 1001), **sets)
    for is_old, kept in (False, caps), (True, CapSet()):
        outcome = execve.execve(replace(process, compares_real=is_old), File('/bin/true'))
        assert outcome.secure
        assert outcome.process.ambient == kept
    bound = replace(process, compares_real=True, no_new_privs=True)
    assert execve.execve(bound, File('/bin/true')).process.uid == Ids(1001, 1001, 1001)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--count', type=int, default=20000)
    parser.add_argument('--seed', default=str(random.SystemRandom().randrange(10**9)))
    arguments = parser.parse_args()
    print(f'seed {arguments.seed}', flush=True)
    bad = 0
    for number, one in enumerate(executions(arguments.count, arguments.seed)):
        if mismatch := one.mismatch():
            bad += 1
            print(f'case {number}: {mismatch}\n  {one.before}\n  {one.file}', flush=True)
    print(f'{arguments.count} executions, {bad} mismatches')
    return bad > 0


if __name__ == '__main__':
    sys.exit(main())
