"""The command line: what each command takes and prints; the modules beside it do the work."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from caps import Caps, CapSet, documents, schema
from caps.examples import EXAMPLES, EXIT
from caps.output import Output, Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from caps.install import Installation
    from caps.system.find import Findings
    from caps.system.tasks import Task

    Command = Callable[[argparse.Namespace, Output], bool]
    Add = Callable[[str, Command | None, str], argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    argv: the arguments; by default those of this process
    Returns the exit status: 0 for success, 1 for a refusal or for problems found.
    Raises SystemExit, with 2 for wrong usage; see caps(1).
    """
    for name in 'stdout', 'stderr':
        if getattr(sys, name) is None:  # closed by the caller, who wants to see nothing
            setattr(sys, name, io.StringIO())
    arguments = parser().parse_args(argv)
    out = Output(getattr(arguments, 'json', False))
    try:
        is_found = arguments.run(arguments, out)
        out.finish()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _is_refusal(error):
            raise
        out.problem(error)
        try:
            out.finish()
            sys.stdout.flush()
        except OSError:  # a full disk, which may be the error itself
            _drop_output()
        return 1
    return 0 if is_found and not out.problems else 1


def _drop_output() -> None:
    """Have Python not complain at its end of what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_refusal(error: Exception) -> bool:
    from caps.install import InstallError
    from caps.venv import VenvError

    return isinstance(error, (OSError, ValueError, LookupError, InstallError, VenvError))


class _Formatter(argparse.HelpFormatter):
    """What a parser consults for each argument, without asking for the terminal each time."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


class _Parser(argparse.ArgumentParser):
    """A parser whose help has the examples and the document of its command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, **options)

    def format_help(self) -> str:
        place = self.prog.removeprefix('caps').strip()
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self.epilog = f'{EXAMPLES[place]}\n{EXIT}'
        if place in schema.SCHEMA:
            self.epilog += f'\n--json prints, each leaf being a type:\n{schema.text(place)}'
        return super().format_help()


class _Version(argparse.Action):
    def __call__(self, *_: object) -> None:
        from importlib.metadata import version

        print(f'caps {version("caps-ppy")}')
        raise SystemExit(0)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(prog='caps', description='Linux capabilities of processes and files.')
    parser.add_argument('--version', action=_Version, nargs=0, help='print the version')
    add = _adder(parser)
    adding = add('show', _show, 'the state of processes')
    adding.add_argument('pids', nargs='*', type=int, metavar='PID', help='default: this command')
    adding.add_argument('--tree', action='store_true', help='each process below its parent')
    adding.add_argument('--all', action='store_true', help='every process')
    adding = add('get', _get, 'the capabilities of files')
    adding.add_argument('files', nargs='+', metavar='FILE')
    adding = add('set', _set, 'mark files with capabilities')
    adding.add_argument('caps', type=_text, metavar='TEXT')
    adding.add_argument('files', nargs='+', metavar='FILE')
    adding.add_argument(
        '--root-id', type=int, default=0, metavar='UID', help='of the user namespace they are for'
    )
    adding = add('remove', _remove, 'take the capabilities of files away')
    adding.add_argument('files', nargs='+', metavar='FILE')
    adding = add('find', _find, 'the files below directories that carry capabilities')
    adding.add_argument('directories', nargs='+', metavar='DIR')
    adding.add_argument(
        '--all-file-systems', action='store_true', help='also search what is mounted below'
    )
    adding = add('explain', _explain, 'what executing a file would do, and why')
    adding.add_argument('file', metavar='FILE')
    adding.add_argument('--as', dest='user', metavar='USER', help='default: this account')
    adding.add_argument('--pid', type=int, help='in the state of this process')
    adding.add_argument('--ppy', metavar='PPY', help='given to this launcher as an argument')
    _add_venv(add('venv', None, 'capabilities for one virtual environment'))
    _add_ppy(add('ppy', None, 'the launcher: install it, look at it, remove it'))
    adding = add('completion', _completion, 'print a script that completes this')
    adding.add_argument('shell', choices=('bash', 'zsh', 'fish'))
    return parser


def _adder(parser: argparse.ArgumentParser) -> Add:
    """A function that adds a command to a parser."""
    # With a prog it does not load what draws help.
    commands = parser.add_subparsers(required=True, metavar='COMMAND', prog=parser.prog)

    def add(name: str, run: Command | None, text: str) -> argparse.ArgumentParser:
        adding = commands.add_parser(name, help=text, description=f'{text[0].upper()}{text[1:]}.')
        if run:
            adding.set_defaults(run=run)
            if name != 'completion':
                adding.add_argument('--json', action='store_true', help='print one JSON document')
        return adding

    return add


def _add_venv(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser)
    adding = add('mark', _mark, 'give its python, in a copy of its own, capabilities')
    adding.add_argument('directory', metavar='DIR')
    adding.add_argument('caps', type=_venv_text, metavar='CAPS')
    adding.add_argument('--group', metavar='NAME', help='only its members may run the copy')
    adding = add('unmark', _unmark, 'put the link to the shared python back')
    adding.add_argument('directory', metavar='DIR')


def _add_ppy(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser)
    adding = add('install', _install, 'put a launcher in place, or renew it')
    _add_place(adding)
    adding.add_argument('--interpreter', metavar='PATH', help='default: the Python running this')
    adding.add_argument(
        '--setuid', action='store_true', help='set-user-ID root instead of file capabilities'
    )
    adding.add_argument('--group', metavar='NAME', help='may execute the capped copy directly')
    adding.add_argument('--allow', metavar='CAPS', help='what scripts can be given; default: all')
    adding.add_argument('--allow-root', action='store_true', help="launch root's scripts as well")
    _add_place(add('status', _status, 'say what is installed and what is wrong with it'))
    _add_place(add('remove', _uninstall, 'take it away'))


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--prefix', default='/usr/local', metavar='DIR', help='default: /usr/local')
    parser.add_argument('--name', default='ppy', help='of the launcher; default: ppy')


def _text(text: str) -> Caps:
    try:
        return Caps(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _venv_text(text: str) -> Caps:
    from caps.venv import parsed

    try:
        return parsed(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _show(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.system import tasks

    pids = arguments.pids
    processes: list[Task] = []
    depths: list[int] = []
    if arguments.all and pids:
        raise ValueError('--all shows every process: name none, or use --tree')
    if arguments.tree or arguments.all:
        processes = tasks.everything()
        for pid in sorted(set(pids) - {process.pid for process in processes}):
            out.problem(f'{pid}: no such process')
    if arguments.tree:
        ordered = tasks.tree(processes, pids)
        processes, depths = [it for _, it in ordered], [depth for depth, _ in ordered]
    elif not arguments.all:
        for pid in pids or [os.getpid()]:
            with out.noting():
                processes.append(tasks.read(pid))
    out.document = {'processes': [documents.process(process) for process in processes]}
    if arguments.tree or arguments.all:
        rows = [
            (str(it.pid), it.user, '  ' * depth + it.name, str(it.caps), str(it.iab), notes)
            for it, depth in zip(processes, depths or [0] * len(processes), strict=True)
            for notes in [', '.join(it.notes())]
        ]
        out.table(('PID', 'USER', 'NAME', 'CAPS', 'IAB', 'NOTES'), rows)
        return True
    for process in processes:
        _print_process(process, out)
    return True


def _print_process(it: Task, out: Output) -> None:
    from caps.system.tasks import in_words, user_namespace

    out.line(str(it.pid), it.name, f'({it.user})', style='bold')
    sets = {name: it.caps[name] for name in ('effective', 'permitted', 'inheritable')}
    for name, members in (sets | {name: it.iab[name] for name in ('ambient', 'bounding')}).items():
        style = 'yellow' if members and name in ('effective', 'permitted', 'ambient') else ''
        out.line(f'  {name:<15}', in_words(members), style=style)
    if it.securebits is not None:
        out.line(f'  {"secure bits":<15}', ', '.join(it.securebits) or 'none')
    out.line(f'  {"no_new_privs":<15}', 'yes' if it.no_new_privs else 'no')
    out.line(f'  {"seccomp":<15}', it.seccomp)
    here = ' (as here)' if it.user_namespace == user_namespace(os.getpid()) else ''
    out.line(f'  {"user namespace":<15}', f'{it.user_namespace or "unknown"}{here}')


def _get(arguments: argparse.Namespace, out: Output) -> bool:
    files = []
    for path in arguments.files:
        with out.noting():
            caps = Caps.from_file(path)
            files.append(documents.file(path, caps))
            _print_file(path, caps, out)
    out.document = {'files': files}
    return all(file['marked'] for file in files)


def _print_file(path: str, caps: Caps, out: Output) -> None:
    if caps.marked:
        root_id = f' [rootid={caps.root_id}]' if caps.root_id else ''
        out.line(path, f'{caps}{root_id}', style='yellow')


def _set(arguments: argparse.Namespace, out: Output) -> bool:
    arguments.caps.root_id = arguments.root_id
    return _change(arguments.files, arguments.caps.apply, out)


def _remove(arguments: argparse.Namespace, out: Output) -> bool:
    return _change(arguments.files, Caps.remove, out)


def _change(paths: list[str], change: Callable[[str], object], out: Output) -> bool:
    files = []
    for path in paths:
        with out.noting():
            change(path)
            files.append(documents.file(path, Caps.from_file(path)))
    out.document = {'files': files}
    return True


def _find(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.system.find import find

    progress = Progress(sys.stderr)

    def watch(findings: Findings) -> None:
        done, count = findings.searched, len(findings.files)
        progress.tick(f'{done} directories searched, {count} files found')

    files = []
    for directory in arguments.directories:
        with out.noting():
            findings = find(directory, all_file_systems=arguments.all_file_systems, watch=watch)
            progress.clear()
            for path, caps in findings.files:
                _print_file(path, caps, out)
                files.append(documents.file(path, caps))
            for problem in findings.problems:
                out.problem(problem)
    out.document = {'files': files}
    return bool(files)


def _explain(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.explain import explain

    explanation = explain(arguments.file, arguments.user, arguments.pid, arguments.ppy)
    out.document = documents.explanation(explanation)
    for title, lines in explanation.sections:
        out.line(title, style='bold')
        for line in lines:
            out.line(f'  {line}')
    return explanation.error is None


def _mark(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.venv import mark

    found = mark(arguments.directory, arguments.caps, arguments.group)
    out.document = documents.environment(found)
    out.line(found.python, str(found.caps), style='yellow')
    out.line(f'  names:       {", ".join(found.names)}')
    out.line(f'  can run it:  {found.who}')
    out.line(f'  runs code of {found.owner}, and of whoever else can write to {found.directory}')
    if found.unmarked:
        out.line(f'  unmarked:    {found.unmarked}')
    return True


def _unmark(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.venv import unmark

    out.document = documents.environment(unmark(arguments.directory))
    return True


def _install(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.install import install

    found = install(
        arguments.interpreter,
        arguments.prefix,
        arguments.name,
        setuid=arguments.setuid,
        group=arguments.group,
        allow=arguments.allow,
        allow_root=arguments.allow_root,
    )
    return _report(found, out)


def _status(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.install import status

    return _report(status(arguments.prefix, arguments.name), out)


def _uninstall(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.install import remove

    remove(arguments.prefix, arguments.name)
    out.document = {'ppy': os.path.join(arguments.prefix, 'bin', arguments.name)}
    return True


def _report(found: Installation, out: Output) -> bool:
    out.document = documents.installation(found)
    if found.original:
        everything = found.allowed == CapSet.all()
        allowed = 'unknown' if found.allowed is None else ','.join(found.allowed) or 'nothing'
        out.line(f'{found.ppy} runs scripts under {found.original}')
        out.line(f'  capped copy:     {found.capped}')
        how = 'set-user-ID root' if found.setuid else 'file capabilities'
        out.line(f'  launcher:        {how}')
        out.line(f'  can hand out:    {"every capability" if everything else allowed}')
        out.line(f'  scripts of root: {"launched" if found.allow_root else "refused"}')
        out.line(f'  group:           {found.group or "none"}')
    for problem in found.problems:
        out.problem(problem)
    return bool(found.original)


def _completion(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.completion import script

    print(script(arguments.shell, parser()), end='')
    return True
