"""Which room may use which: the arrows that must never be, held against the sources."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import caps
from support import ROOT

PACKAGE = ROOT / 'caps'
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob('*/__init__.py'))
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in PACKAGE.rglob('*.py')
}


def imports(path):
    """The modules of caps that a source names, also inside functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: a relative import'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)
            if node.module == 'caps':  # by the door
                public = {alias.name for alias in node.names} & {*caps.__all__}
                yield from (getattr(caps, name).__module__ for name in public)


def arrows():
    """Every pair of rooms of which one uses the other: a file of caps/, or a folder."""
    for name, path in MODULES.items():
        for target in imports(path):
            if target in MODULES:
                yield name.removeprefix('caps.'), target.removeprefix('caps.')


ARROWS = sorted(set(arrows()))


def room(module):
    return module.partition('.')[0]


def broken(*, sources, targets):
    return [(a, b) for a, b in ARROWS if room(a) in sources and room(b) in targets]


def test_every_folder_has_its_arrows():
    assert {'admin', 'cli', 'explain', 'system'} <= set(FOLDERS)
    assert {room(source) for source, _ in ARROWS} >= set(FOLDERS)


@pytest.mark.parametrize(
    'module', [name for name in MODULES if name.count('.') == 1 and room(name[5:]) not in FOLDERS]
)
def test_what_stands_directly_in_caps_loads_no_folder(module):
    if module == 'caps.__main__':
        assert {b for a, b in ARROWS if a == '__main__'} == {'cli'}
        return
    code = f'import sys, {module}; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    loaded = [name.split('.')[1] for name in done.stdout.split() if name.startswith('caps.')]
    assert not set(loaded) & set(FOLDERS)
    name = module.removeprefix('caps.')
    assert not broken(sources={name}, targets=set(FOLDERS))  # nor later, inside a function


@pytest.mark.parametrize(
    ('sources', 'targets'),
    [
        ({'capset', 'text'}, {'state', 'iab'}),
        ({'threads', 'refusals'}, {'state', 'iab'}),
        ({'system'}, {'explain', 'audit', 'admin'}),
        ({'explain'}, {'admin'}),
        ({'admin'}, {'explain'}),
        ({*FOLDERS} - {'cli'}, {'cli'}),
    ],
    ids=lambda names: ','.join(sorted(names)),
)
def test_arrow_that_must_never_be(sources, targets):
    assert broken(sources=sources, targets=targets) == []


def test_model_of_execve_knows_only_plain_types_and_its_sentences():
    used = {b for a, b in ARROWS if a == 'explain.execve' and room(b) in FOLDERS}
    assert used == {'explain.rules', 'system.records', 'system.types'}
    assert {b for a, b in ARROWS if a == 'explain.rules'} == {'system.records'}


def includes(folder):
    for path in (ROOT / folder).glob('*.[ch]'):
        for line in path.read_text().splitlines():
            if match := re.match(r'#\s*include\s*[<"]([^>"]+)', line):
                yield path.name, match[1]


def test_wrapper_and_extension_share_capstate_alone():
    ours = {
        folder: {path.name for path in (ROOT / folder).iterdir()} for folder in ('ext', 'wrapper')
    }
    wrapper, ext = set(includes('wrapper')), set(includes('ext'))
    assert 'Python.h' not in {name for _, name in wrapper}
    assert {name for _, name in wrapper} & ours['ext'] == {'capstate.h'}
    assert not {name for _, name in ext} & ours['wrapper']
    shared = (ROOT / 'ext/capstate.h').read_text()
    assert 'Python.h' not in shared
    assert 'stdio.h' not in shared


def test_folder_names_are_packages_that_setup_installs():
    listed = (ROOT / 'pyproject.toml').read_text()
    for name in FOLDERS:
        assert f'"caps.{name}"' in listed
    assert Path(caps.__file__).parent.name == 'caps'
