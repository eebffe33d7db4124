"""The C sources under libFuzzer, AddressSanitizer, UndefinedBehaviorSanitizer and valgrind.

CAPS_SOAK=1 fuzzes for ten minutes and runs all tests with the sanitized extension.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from caps.system.launcher import RECORD
from support import PATIENCE, ROOT, SOAK, SUPPORT, needs_root, require, run
from support.pythons import LIBRARY
from support.sources import compile_c, plant

STRANGER = 1001
OWNER = 1000  # as fuzz_walk.c has it
MARK = struct.pack('<5I', 0x0200_0000, 0, 1 << 13, 0, 0)


# ---- In-process fuzzing ----

HARNESSES = {
    'xattr': ['fuzz_xattr.c'],
    'walk': ['fuzz_walk.c'],
    'walk of ppy-check': ['fuzz_walk.c', '-DCHECK_ONLY=1'],
}
# How many inputs each gets; to soak, it gets them for ten minutes.
RUNS = {'xattr': 200_000, 'walk': 5000, 'walk of ppy-check': 5000}


def make_tree(directory, depth=2):
    """Directories and files of root, the owner and a stranger, with what can be wrong of each."""
    for name in ('file', 'script'):
        (directory / name).touch()
        os.chown(directory / name, OWNER, OWNER)
        (directory / name).chmod(0o755)
    os.setxattr(directory / 'script', 'security.capability', MARK)
    os.mkfifo(directory / 'pipe')
    (directory / 'link').symlink_to('root')
    (directory / 'loop').symlink_to('loop')
    kinds = {'root': (0, 0o755), 'owner': (OWNER, 0o755), 'stranger': (STRANGER, 0o755)}
    kinds |= {'group': (0, 0o775), 'others': (0, 0o757), 'sticky': (0, 0o1777)}
    for name, (uid, mode) in kinds.items() if depth else ():
        (directory / name).mkdir()
        make_tree(directory / name, depth - 1)
        os.chown(directory / name, uid, uid)
        (directory / name).chmod(mode)
    return directory


def seeds(harness, tree):
    """Inputs that the fuzzer would be long in finding."""
    if harness == 'xattr':
        for revision, size in (1, 12), (2, 20), (3, 24):
            yield b'\xff' + struct.pack('<I', revision << 24 | 1) + bytes(range(size - 4))
        yield b'\1'
    else:
        for choice in range(64):
            yield bytes([choice]) + b'\0\1\x08'  # root/owner/file
            yield bytes([choice]) + b'\5\x0d'  # sticky/script
        yield b'\2' + b'\1' * 5000
        yield from (b'\4C', b'\x0cUTC')
        yield b'\2' + b'a' * 20000 + b'\n'
        yield b'\0' + os.fsencode(tree / 'owner' / 'script')
        yield b'\6owner/script'


def start_fuzzer(directory, tree, harness, bound, sources=ROOT):
    require(shutil.which('clang'), 'clang and its compiler-rt: apt install clang libclang-rt-dev')
    source, *flags = HARNESSES[harness]
    fuzz = ['-fsanitize=fuzzer,address,undefined', '-fno-sanitize-recover=all', *flags]
    program = compile_c('clang', directory / 'fuzzer', *fuzz, SUPPORT / source, sources=sources)
    corpus = directory / 'corpus'
    corpus.mkdir()
    for n, seed in enumerate(seeds(harness, tree)):
        (corpus / str(n)).write_bytes(seed)
    options = [bound, '-print_final_stats=1', f'-timeout={PATIENCE}']
    options += ['-max_len=32' if harness == 'xattr' else '-max_len=24000']
    with (directory / 'log').open('w') as log:
        return subprocess.Popen(
            [program, *options, f'-artifact_prefix={directory}/', corpus],
            env=os.environ | {'FUZZ_TREE': str(tree), 'ASAN_OPTIONS': 'quarantine_size_mb=16'},
            stdout=log,
            stderr=log,
        )


@pytest.fixture(scope='module')
def tree(world):
    path = world / 'tree'
    path.mkdir(0o755)
    yield make_tree(path)
    shutil.rmtree(path)


@pytest.fixture(scope='module')
def fuzzers(tree, tmp_path_factory):
    """The fuzzers, which run beside the other tests of this file; its last one waits for them."""
    running = {}
    try:
        for harness in HARNESSES:
            directory = tmp_path_factory.mktemp('fuzzer')
            bound = '-max_total_time=600' if SOAK > 1 else f'-runs={RUNS[harness]}'
            running[harness] = directory, start_fuzzer(directory, tree, harness, bound)
        yield running
    finally:
        for _, process in running.values():
            process.kill()
            process.wait()


# What is made wrong, for a fuzzer to find; and in which source.
PLANTED = {
    'small buffer': ('xattr', 'ext/capstate.h', ' + 3 * sizeof(int)', ''),
    'leak': ('xattr', 'ext/capstate.h', 'if (object)', 'if (!object)'),
    'no reason': ('xattr', 'ext/capstate.h', '\terrno = 0;\n', ''),
    'long name': ('walk', 'wrapper/message.h', 'name[n] && n < PATH_MAX', 'name[n]'),
    'symbolic link': ('walk', 'wrapper/walk.h', 'O_PATH | O_NOFOLLOW |', 'O_PATH |'),
    'other file': ('walk', 'wrapper/walk.h', ' && last.st_ino == expected->st_ino', ''),
    'high bit': ('walk', 'wrapper/clean.h', "|| *c > '~'", ''),
    'sticky parent': ('walk of ppy-check', 'wrapper/walk.h', 'S_ISVTX && !is_last', 'S_ISVTX'),
}


@needs_root
@pytest.mark.parametrize(('harness', 'file', 'old', 'new'), PLANTED.values(), ids=PLANTED)
def test_fuzzer_finds_what_is_planted(fuzzers, tmp_path, tree, harness, file, old, new):
    sources = plant(tmp_path / 'planted', file, old, new)
    process = start_fuzzer(tmp_path, tree, harness, f'-max_total_time={PATIENCE}', sources)
    try:
        assert process.wait() != 0
    finally:
        process.kill()
    log = (tmp_path / 'log').read_text(errors='replace')
    assert re.search('ERROR: (Address|Leak)Sanitizer|ERROR: libFuzzer: deadly signal', log), log


# ---- The extension under AddressSanitizer and UndefinedBehaviorSanitizer ----


class Sanitized:
    """The package with an extension that reports into a directory of logs."""

    def __init__(self, directory, sources=ROOT):
        package, self.logs = directory / 'caps', directory / 'logs'
        shutil.copytree(ROOT / 'caps', package, ignore=shutil.ignore_patterns('*.so', '__py*'))
        self.logs.mkdir()
        self.logs.chmod(0o1777)
        directory.chmod(0o755)
        self.library = run('gcc', '-print-file-name=libasan.so').stdout.strip()
        require(os.path.isabs(self.library), 'libasan and libubsan, which gcc brings along')
        flags = ['-shared', '-fPIC', '-fsanitize=address,undefined', '-fno-sanitize-recover=all']
        macros = ['-DCAPS_LIMITED_API=0x030a0000', '-I', sysconfig.get_path('include')]
        extension = package / '_caps.abi3.so'
        compile_c(
            'gcc', extension, *flags, *macros, *(sources / 'ext').glob('*.c'), sources=sources
        )
        self.environment = os.environ | {
            'LD_PRELOAD': self.library,
            'PYTHONPATH': str(directory),
            'ASAN_OPTIONS': f'detect_leaks=0:disable_coredump=0:log_path={self.logs}/log',
            'UBSAN_OPTIONS': 'print_stacktrace=1',
            'CAPS_SOAK': '',
            'CAPS_FEW': '1' if SOAK == 1 else '',
        }

    def python(self, *arguments, **options):
        """Run Python with it; away from the sources, which Python would find first."""
        options = {'cwd': self.logs.parent, 'env': self.environment, 'timeout': 3600} | options
        return run(sys.executable, *arguments, **options)

    @property
    def reports(self):
        return ''.join(path.read_text() for path in self.logs.iterdir())


# What cannot hold under AddressSanitizer: it keeps freed memory, a child forked beside another
# thread may find its locks taken, and an exception of C++, as greenlet's, is unknown to it where
# the program itself is not of C++.
NOT_SANITIZED = ['thousands_of_calls_leave_nothing', 'forks_at_the_same_time', 'in_a_greenlet']


@pytest.fixture
def sanitized():
    """Where programs of other accounts can report: gcc 14's end if they cannot."""
    with tempfile.TemporaryDirectory() as directory:
        yield Sanitized(Path(directory))


def test_the_tests_find_nothing_wrong_with_a_sanitized_extension(sanitized):
    where = sanitized.python('-c', 'import caps._caps; print(caps._caps.__file__)').stdout
    assert Path(where.strip()).parent.parent == sanitized.logs.parent
    if SOAK > 1:
        apart = {
            'test_build',
            'test_dist',
            'test_sanitizers',
            'test_fuzz',
            'test_leaks',
        }
        tests = [path for path in (ROOT / 'tests').rglob('test_*.py') if path.stem not in apart]
    else:
        names = {*LIBRARY} - {'library/test_import'}  # which starts Python again and again
        tests = [ROOT / 'tests' / f'{name}.py' for name in sorted(names)]
    options = ['-q', '-p', 'no:cacheprovider', '-c', ROOT / 'pyproject.toml', '--rootdir', ROOT]
    options += ['-k', ' and '.join(f'not {name}' for name in NOT_SANITIZED)]
    result = sanitized.python('-m', 'pytest', *options, *tests)
    assert not sanitized.reports
    assert result.returncode == 0, result.stdout[-5000:]


# Of a descriptor that fgetxattr(2) refuses, so that its path has to be made.
READ = "import os; from caps import Caps; Caps.from_file(os.open('/bin/sh', os.O_PATH))"


@pytest.mark.parametrize(
    ('file', 'old', 'new', 'found'),
    [
        ('ext/capstate.h', ' + 3 * sizeof(int)', '', 'stack-buffer-'),
        (
            'ext/capstate.h',
            'unsigned int digits =',
            'int shift = 31 + fd; int digits = 1 << shift |',
            'shift exponent',
        ),
    ],
    ids=['address', 'undefined'],
)
def test_sanitized_extension_finds_what_is_planted(tmp_path, file, old, new, found):
    sources = plant(tmp_path / 'planted', file, old, new)
    directory = tmp_path / 'sanitized'
    directory.mkdir()
    sanitized = Sanitized(directory, sources)
    result = sanitized.python('-c', READ)
    assert result.returncode != 0
    assert found in sanitized.reports + result.stderr


# ---- ppy-check under valgrind ----


@pytest.fixture
def valgrind(launch_under, scene, accounts):
    """A function that runs ppy-check under valgrind, beside a copy of ppy and with its record."""
    require(shutil.which('valgrind'), 'valgrind: apt install valgrind')
    ppy = Path(shutil.copy(launch_under('set-uid', 'sh').path, scene))
    ppy.chmod(0o4755)

    def check(name, sources=ROOT):
        program, magic = scene / 'ppy-check', b'caps-ppy-record1'
        compile_c('gcc', program, '-DCHECK_ONLY=1', sources / 'wrapper/ppy.c', sources=sources)
        installed, content = ppy.read_bytes(), program.read_bytes()
        record = installed[installed.index(magic) :][: RECORD.size]
        start = content.index(magic)
        program.write_bytes(content[:start] + record + content[start + RECORD.size :])
        options = ['--quiet', '--error-exitcode=99', '--leak-check=full', '--track-origins=yes']
        return run('valgrind', *options, program, name, account=accounts.attacker)

    return check


NAMES = {
    'good': ({}, 0),
    'unmarked': ({'mark': None}, 126),
    'writable': ({'mode': 0o777}, 126),
    'hostile name': ({'name': '\n\udcff' + 'x' * 200, 'mode': 0o644}, 126),
    'absent': (None, 127),
}


@needs_root
@pytest.mark.parametrize(('options', 'status'), NAMES.values(), ids=NAMES)
def test_valgrind_finds_nothing_wrong_with_ppy_check(valgrind, script, scene, options, status):
    name = scene / 'absent' if options is None else script(**{'mark': 'cap_kill=i', **options})
    result = valgrind(name)
    assert (result.returncode, '==' in result.stderr) == (status, False), result.stderr
    assert status == 127 or result.stdout.startswith('ok      no_new_privs: ')


@needs_root
def test_valgrind_finds_what_is_planted(valgrind, script, tmp_path):
    planted = plant(tmp_path / 'planted', 'wrapper/rules.h', 'fstat(fd, st) < 0', 'fd < 0')
    result = valgrind(script(mark='cap_kill=i'), sources=planted)
    assert result.returncode == 99
    assert 'uninitialised' in result.stderr


# ---- The end of the fuzzers ----


@needs_root
@pytest.mark.parametrize('harness', HARNESSES)
def test_fuzzer_finds_nothing(fuzzers, harness):
    directory, process = fuzzers[harness]
    status = process.wait()
    log = (directory / 'log').read_text(errors='replace')
    assert status == 0, log[-10_000:]
    assert int(re.search(r'number_of_executed_units: (\d+)', log)[1]) > 1000
