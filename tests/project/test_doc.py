"""The documentation leaves nothing out: it is compared with the code and with the command line."""

import importlib.util
import inspect
import json
import re
import sys

import pytest

import caps
import caps.admin.ppy
import caps.audit
import caps.explain.execve
import caps.system.types
from caps.cli import parser
from caps.cli.completion import places
from support import CHILDREN, ROOT, require, run

MODULES = caps, caps.audit, caps.explain.execve, caps.admin.ppy, caps.system.types
ALIASES = {'caps.AnyFile', 'caps.Members'}  # of types, in signatures


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The names that the reference describes, and the directory of the man pages."""
    require(importlib.util.find_spec('sphinx'), "sphinx: pip install -e '.[doc]'")
    target = tmp_path_factory.mktemp('doc')
    done = run(sys.executable, CHILDREN / 'builds_doc.py', ROOT / 'doc', target)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout)), target


# ---- The reference ----


def public_classes():
    for module in MODULES:
        for name, value in members(module):
            if inspect.isclass(value):
                yield f'{module.__name__}.{name}', value


def members(module):
    """Name and value of all that a module offers."""
    names = getattr(module, '__all__', None) or [
        name
        for name, value in vars(module).items()
        if getattr(value, '__module__', '') == module.__name__
        and (inspect.isclass(value) or inspect.isfunction(value))
        and not name.startswith('_')
    ]
    return [(name, getattr(module, name)) for name in names]


def own_members(cls):
    """Name and value of what a class and its bases in this package offer."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition('.')[0] == 'caps':
            annotated = dict.fromkeys(inspect.get_annotations(base))
            found |= annotated | vars(base)
    fields = getattr(cls, '_fields', ())  # of a NamedTuple, whose signature has them
    return {n: v for n, v in found.items() if not n.startswith('_') and n not in fields}


def test_reference_has_every_public_name(built):
    described, _ = built
    wanted = {f'{one.__name__}.{name}' for one in MODULES for name, _ in members(one)}
    for path, cls in public_classes():
        wanted |= {f'{path}.{name}' for name in own_members(cls)}
    assert sorted(wanted - described) == []
    top = {name for name in described if name.count('.') == 1 and name.startswith('caps.')}
    assert top - {'caps.audit'} == {f'caps.{n}' for n in caps.__all__} | ALIASES


def callables():
    """By name, what takes arguments that its docstring is to describe."""
    for path, cls in public_classes():
        if not issubclass(cls, (BaseException, tuple)):
            yield path, cls
        for name, value in own_members(cls).items():
            if inspect.isfunction(getattr(value, '__func__', value)):
                yield f'{path}.{name}', getattr(value, '__func__', value)
    for module in MODULES:
        for name, value in members(module):
            if inspect.isfunction(value):
                yield f'{module.__name__}.{name}', value


CALLABLES = dict(callables())


@pytest.mark.parametrize('name', CALLABLES)
def test_docstring_describes_every_argument(name):
    text = inspect.getdoc(CALLABLES[name])
    described = re.findall(r'^([a-z_]+(?:, [a-z_]+)*): ', text, re.M)
    arguments = set(inspect.signature(CALLABLES[name]).parameters) - {'self', 'cls'}
    assert not arguments - {one for names in described for one in names.split(', ')}


# ---- caps(1) ----


def sections(page):
    """The text of a man page below each heading of its commands, without what formats it."""
    text = re.sub(r'\\f[A-Z]|\\&', '', page).replace('\\-', '-').replace('\\(aq', "'")
    parts = re.split(r'^\.SS (.*)$', text, flags=re.M)
    return {
        heading: re.split(r'^\.SH ', body, maxsplit=1, flags=re.M)[0]
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_man_page_has_every_command_with_every_option(built):
    _, pages = built
    page = (pages / 'caps.1').read_text()
    found, options = sections(page), page.partition('.SH OPTIONS')[2].partition('.SH ')[0]
    parsers = {
        one.prog: one for place, one in places(parser()) if one.get_default('run') is not None
    }
    assert set(found) == set(parsers)
    for heading, one in parsers.items():
        text = ' '.join(found[heading].split())
        assert ' '.join(one.format_usage().removeprefix('usage: ').split()) in text
        for action in one._actions:
            if action.dest in ('help', 'help_json', 'json'):  # explained once
                assert action.option_strings[-1].replace('-', r'\-') in options
            elif action.option_strings:
                assert action.option_strings[-1] in text
                assert action.help in text


def test_man_pages_are_those_of_the_command_and_the_launcher(built):
    _, pages = built
    assert {one.name for one in pages.iterdir() if one.is_file()} == {'caps.1', 'ppy.8'}


@pytest.mark.parametrize('page', ['caps.1', 'ppy.8'])
def test_man_page_has_the_sections_of_one(built, page):
    _, pages = built
    headings = re.findall(r'^\.SH (.*)$', (pages / page).read_text(), re.M)
    assert headings[0] == 'NAME'
    usual = {'SYNOPSIS', 'DESCRIPTION', 'EXIT STATUS', 'FILES', 'EXAMPLES', 'SEE ALSO'}
    assert usual <= set(headings)
