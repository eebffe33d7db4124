"""What a command loads before it does anything: no more than it needs."""

import dataclasses
import inspect
import sys
from pathlib import Path

import pytest

import caps
from caps.cli import ROOMS, parser
from caps.cli.completion import places
from caps.system import records
from support import run

PARENT = str(Path(caps.__file__).parent.parent)
# Each takes longer to load than most commands run.
SLOW = {
    'dataclasses', 'email', 'importlib.metadata', 'inspect', 'json', 'pathlib', 'shutil',
    'subprocess', 'typing',
}  # fmt: skip


def loaded(*arguments):
    """The modules that an interpreter without site has after a command."""
    code = (
        f'import sys; sys.path.insert(0, {PARENT!r}); from caps.cli import main\n'
        'try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)'
    )
    return set(run(sys.executable, '-I', '-S', '-c', code, *arguments).stderr.split())


@pytest.mark.parametrize(
    'arguments',
    [['get', sys.executable], ['find', '/etc/ssl'], ['show'], ['explain', '/bin/true']],
    ids=lambda arguments: arguments[0],
)
def test_command_loads_nothing_that_takes_long(arguments):
    modules = loaded(*arguments)
    assert 'caps.cli.output' in modules
    assert not modules & SLOW


@pytest.mark.parametrize('words', [['get', '--help'], ['--json', 'verify', '=p', '/bin/true']])
def test_command_loads_no_other_room(words):
    rooms = {name[9:] for name in loaded(*words) if name.startswith('caps.cli.')}
    assert rooms & {*ROOMS} == {'files'}


def commands(words=()):
    return [place for place, _ in places(parser(words)) if place.count(' ') == 1]


def test_every_command_is_found_in_its_room():
    own = [' version', ' help']
    assert commands() == [f' {name}' for names in ROOMS.values() for name in names] + own
    for names in ROOMS.values():
        for name in names:
            assert commands([name]) == [f' {name}' for name in names]


def test_word_that_is_no_command_is_shown_all_of_them():
    assert commands(['--help']) == commands(['absent']) == commands()


def classes(room):
    """The same class by one of the modules that make classes of plain facts."""

    @room.dataclass(frozen=True)
    class Fact:
        name: str
        number: int = 5
        names: list[str] = room.field(default_factory=list)

    @room.dataclass
    class Changing:
        name: str
        number: int = 5

    return Fact, Changing


def outcome(call):
    try:
        return f'{call()!r}'.replace('classes.<locals>.', '')
    except (AttributeError, TypeError) as error:
        return AttributeError if isinstance(error, AttributeError) else TypeError


@pytest.mark.parametrize(
    'call',
    [
        lambda room, fact, changing: fact('a'),
        lambda room, fact, changing: fact('a', 1, ['b']),
        lambda room, fact, changing: fact(names=['b'], name='a'),
        lambda room, fact, changing: fact(),
        lambda room, fact, changing: fact('a', 1, [], 'b'),
        lambda room, fact, changing: fact('a', other=1),
        lambda room, fact, changing: fact('a') == fact('a'),
        lambda room, fact, changing: fact('a') == fact('b'),
        lambda room, fact, changing: fact('a') == changing('a'),
        lambda room, fact, changing: fact('a').names is fact('a').names,
        lambda room, fact, changing: hash(fact('a', 1, ())) == hash(fact('a', 1, ())),
        lambda room, fact, changing: hash(fact('a')),
        lambda room, fact, changing: hash(changing('a')),
        lambda room, fact, changing: [*inspect.signature(fact).parameters],
        lambda room, fact, changing: inspect.signature(changing).parameters,
        lambda room, fact, changing: setattr(fact('a'), 'name', 'b'),
        lambda room, fact, changing: delattr(fact('a'), 'name'),
        lambda room, fact, changing: setattr(changing('a'), 'name', 'b'),
        lambda room, fact, changing: room.replace(fact('a', 1), name='b'),
        lambda room, fact, changing: room.replace(fact('a', 1), other='b'),
    ],
)
def test_record_is_what_dataclasses_makes(call):
    ours, theirs = (
        outcome(lambda room=room: call(room, *classes(room))) for room in (records, dataclasses)
    )
    assert ours == theirs
