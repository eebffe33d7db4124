"""Directives that take a command of caps from its parser, so that its page says what it does.

command:: show     how it is called, its arguments and options, and what its help says of them
examples:: show    the examples of its help; of the whole command line without a name
shape:: get        what it prints with --json
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import caps.cli
from caps.cli.completion import places
from caps.cli.parsers import shape_text

COMMANDS = {place.strip(): command for place, command in places(caps.cli.parser())}
SOURCES = [*Path(caps.cli.__file__).parent.glob('*.py')]
COMMON = {'--help', '--help-json', '--json'}  # which the page explains once


def inline(usage: str) -> Iterator[nodes.Node]:
    """What is typed as it stands is strong, what stands for something is emphasized."""
    for word in re.split(r'([A-Z]+|[\w/-]+)', usage):
        if re.fullmatch('[A-Z]+', word):
            yield nodes.emphasis(text=word)
        elif re.fullmatch(r'[\w/-]+', word):
            yield nodes.strong(text=word)
        else:
            yield nodes.Text(word)


def spelled(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else '')
    if action.choices:
        value = '{' + ','.join(action.choices) + '}'
    return ' '.join(filter(None, [', '.join(action.option_strings), str(value)]))


def arguments(command: argparse.ArgumentParser) -> nodes.definition_list:
    listed = nodes.definition_list()
    for action in command._actions:
        is_told = action.option_strings or not action.choices  # a choice is told where it is named
        if action.help and not COMMON & {*action.option_strings} and is_told:
            term = nodes.term('', '', *inline(spelled(action)))
            meaning = nodes.definition('', nodes.paragraph(text=action.help))
            listed += nodes.definition_list_item('', term, meaning)
    return listed


class FromSource(SphinxDirective):
    """A page is read anew when what it is taken from has changed."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        for source in SOURCES:
            self.env.note_dependency(str(source))
        return self.taken()

    def taken(self) -> list[nodes.Node]:
        raise NotImplementedError


class Command(FromSource):
    def taken(self) -> list[nodes.Node]:
        place = self.arguments[0]
        command = COMMANDS[place]
        # As wide as it needs, since a page breaks lines itself.
        formatter = argparse.HelpFormatter(command.prog, width=1000)
        formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups, '')
        usage = nodes.paragraph('', '', *inline(formatter.format_help().strip()))
        notes = command.examples.partition('examples:')[0].split('\n\n')
        said = [nodes.paragraph(text=' '.join(note.split())) for note in notes if note.strip()]
        listed = arguments(command)
        return [usage, nodes.paragraph(text=command.description), *[listed] * bool(listed), *said]


class Examples(FromSource):
    required_arguments = 0
    optional_arguments = 1

    def taken(self) -> list[nodes.Node]:
        listed = nodes.definition_list()
        for line in (
            COMMANDS[' '.join(self.arguments)].examples.partition('examples:\n')[2].splitlines()
        ):
            command, _, meaning = line.strip().partition('  ')
            if line.startswith('      '):  # of the command above
                listed[-1][-1] += nodes.paragraph(text=line.strip())
            elif command:
                term = nodes.term('', '', nodes.literal(text=command))
                about = [nodes.paragraph(text=meaning.strip())] * bool(meaning)
                listed += nodes.definition_list_item('', term, nodes.definition('', *about))
        return [listed]


class Shape(FromSource):
    def taken(self) -> list[nodes.Node]:
        shape = COMMANDS[self.arguments[0]].shape
        assert shape, f'{self.arguments[0]} prints no document'
        shown = shape_text(shape)
        return [nodes.literal_block(shown, shown, language='json')]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive('command', Command)
    app.add_directive('examples', Examples)
    app.add_directive('shape', Shape)
    return {'parallel_read_safe': True}
