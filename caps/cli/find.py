"""caps find: the files below directories that carry capabilities."""

from __future__ import annotations

import argparse
import os
import sys

from caps.cli.documents import FILES, Document, file
from caps.cli.files import print_file
from caps.cli.output import Output, Progress
from caps.cli.parsers import Commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.system.find import Findings

EXAMPLES = """\
Symbolic links below DIR are not followed. A file with several hard links is listed under each name.
Each line is one file: a control character in a name is shown as a backslash and a code. --null and
--json print names as they are, for programs.

examples:
  caps find /usr/bin /opt
  sudo caps find --all-file-systems /                     also what is mounted below
  sudo caps find --null / | sudo xargs -0r caps remove    for a program that reads names
  sudo caps find --json / > before                        to compare after an upgrade
"""


def add(commands: Commands) -> None:
    """Add the command to a parser."""
    text = 'the files below directories that carry capabilities'
    parser = commands.add('find', run, text, EXAMPLES, FILES)
    parser.add_argument('directories', nargs='+', metavar='DIR')
    parser.add_argument(
        '--all-file-systems', action='store_true', help='also search what is mounted below'
    )
    parser.add_argument(
        '--null', action='store_true', help='print names alone, each ended by a zero byte'
    )


def run(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.system.find import find

    progress, count = Progress(sys.stderr), 0
    files: list[Document] = []

    def show(findings: Findings) -> None:
        """Print what has been found since the last time."""
        nonlocal count
        news = findings.take()
        if news:
            progress.clear()
        count += len(news)
        for path, caps in sorted(news, key=lambda entry: os.fsencode(entry[0])):
            if out.as_json:
                files.append(file(path, caps))
            elif arguments.null:
                out.name(path)
            else:
                print_file(path, caps, out)

    def watch(findings: Findings) -> None:
        show(findings)
        progress.tick(f'{findings.searched} directories searched, {count} files found')

    out.document = {'files': files}
    try:
        for directory in arguments.directories:
            with out.noting():
                findings = find(directory, all_file_systems=arguments.all_file_systems, watch=watch)
                show(findings)
                for problem in findings.problems:
                    out.problem(problem)
    except KeyboardInterrupt:
        progress.clear()
        out.problem('interrupted: not every directory has been searched')
        out.finish()
        raise
    finally:
        progress.clear()
    return count > 0
