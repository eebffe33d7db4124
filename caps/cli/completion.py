"""caps completion: a script for bash, zsh or fish that completes commands, options and choices."""

import argparse
import shlex
from collections.abc import Iterator

from caps.cli.output import Output
from caps.cli.parsers import Commands, Parser

# The words so far that name subcommands are the place; files are offered where nothing else is.
BASH = """\
_caps() {{
    local word place='' names='' options='' last=${{COMP_WORDS[COMP_CWORD]}}
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$place $word" in {places}) place="$place $word" ;; esac
    done
    case "$place" in
{table}
    esac
    [[ $last == -* ]] && names=$options
    COMPREPLY=($(compgen -W "$names" -- "$last"))
}}
complete -o bashdefault -o default -F _caps caps
"""
ZSH = """\
#compdef caps
_caps() {{
    local word place='' names='' options=''
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case "$place $word" in {places}) place="$place $word" ;; esac
    done
    case "$place" in
{table}
    esac
    [[ $words[CURRENT] == -* ]] && names=$options
    if [[ -n $names ]]; then compadd -- ${{=names}}; else _files; fi
}}
if [[ $funcstack[1] == _caps ]]; then _caps "$@"; else compdef _caps caps; fi
"""
FISH = """\
function __caps_at
    set -l place ''
    for word in (commandline -opc)[2..-1]
        contains -- "$place $word" {places}; and set place "$place $word"
    end
    test "$place" = "$argv[1]"
end
{table}
"""
EXAMPLES = """\
examples:
  . <(caps completion bash)        in ~/.bashrc
  . <(caps completion zsh)         in ~/.zshrc, after compinit
  caps completion fish | source    in ~/.config/fish/config.fish
"""


def add(commands: Commands) -> None:
    """Add the command to those of a parser."""
    parser = commands.add('completion', run, 'print a script that completes this', EXAMPLES)
    parser.add_argument('shell', choices=('bash', 'zsh', 'fish'))


def run(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.cli import parser

    print(script(arguments.shell, parser()), end='')
    return True


def script(shell: str, parser: Parser) -> str:
    """The completion script of a parser, to be sourced by `shell`."""
    tree = list(places(parser))
    words = [shlex.quote(place) for place, _ in tree if place]
    if shell == 'fish':
        table = [line for place, one in tree for line in _fish(place, one)]
        return FISH.format(places=' '.join(words), table='\n'.join(table))
    table = [
        f'        {shlex.quote(place)})'
        f' names={shlex.quote(" ".join(_names(one)))}'
        f' options={shlex.quote(" ".join(_options(one)))} ;;'
        for place, one in tree
    ]
    template = {'bash': BASH, 'zsh': ZSH}[shell]
    return template.format(places='|'.join(words), table='\n'.join(table))


def places(parser: Parser, place: str = '') -> Iterator[tuple[str, Parser]]:
    """Every command with its parser, by its words with a space before each."""
    yield place, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from places(below, f'{place} {name}')


def _names(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The subcommands and the choices of a positional argument, with their help."""
    found: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {each.dest: each.help or '' for each in action._choices_actions}
        elif action.choices and not action.option_strings:
            found |= dict.fromkeys(action.choices, '')
    return found


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    return (option for action in parser._actions for option in action.option_strings)


def _fish(place: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    start = f'complete -c caps -n {shlex.quote(f"__caps_at {shlex.quote(place)}")}'
    for name, text in _names(parser).items():
        yield f'{start} -f -a {name} -d {_fish_quoted(text)}'
    for action in parser._actions:
        for option in action.option_strings:
            kind = f'-l {option[2:]}' if option.startswith('--') else f'-s {option[1:]}'
            value = '' if action.nargs == 0 else ' -r'
            yield f'{start} {kind}{value} -d {_fish_quoted(action.help or "")}'


def _fish_quoted(text: str) -> str:
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'") + "'"
