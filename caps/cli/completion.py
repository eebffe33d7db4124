"""caps completion: a script for bash, zsh or fish that completes commands, options and choices."""

import argparse
import shlex
from collections.abc import Iterator

from caps import CapSet
from caps.cli.output import Output
from caps.cli.parsers import Commands, Parser

# What completes an argument, by the name that stands for it in help.
BASH_VALUES = {
    'USER': 'compgen -u -- "$last"',
    'GROUP': 'compgen -g -- "$last"',
    'CAPS': 'compgen -W "{names}" -- "$last"',
}
ZSH_VALUES = {'USER': '_users', 'GROUP': '_groups', 'CAPS': 'compadd -- {names}'}
FISH_VALUES = {
    'USER': "-a '(__fish_complete_users)'",
    'GROUP': "-a '(__fish_complete_groups)'",
    'CAPS': "-a '{names}'",
}

# The words so far that name subcommands are the place; files are offered where nothing else is.
BASH = """\
_caps() {{
    local word place='' names='' options='' files='' last=${{COMP_WORDS[COMP_CWORD]}}
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$place $word" in {places}) place="$place $word" ;; esac
    done
    case "$place ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
    esac
    case "$place" in
{table}
    esac
    [[ $last == -* ]] && names=$options
    COMPREPLY=($(compgen -W "$names" -- "$last"))
    [[ -n $files ]] && COMPREPLY+=($(compgen -f -- "$last"))
}}
complete -o bashdefault -o default -F _caps caps
"""
ZSH = """\
#compdef caps
_caps() {{
    local word place='' names='' options='' files=''
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case "$place $word" in {places}) place="$place $word" ;; esac
    done
    case "$place $words[CURRENT-1]" in
{values}
    esac
    case "$place" in
{table}
    esac
    [[ $words[CURRENT] == -* ]] && names=$options
    [[ -n $names ]] && compadd -- ${{=names}}
    [[ -z $names || -n $files ]] && _files
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
    """Add the command to a parser."""
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
        table = [line for place, command in tree for line in _fish(place, command)]
        return FISH.format(places=' '.join(words), table='\n'.join(table))
    table = [
        f'        {shlex.quote(place)})'
        f' names={shlex.quote(" ".join(_names(command)))}'
        f' options={shlex.quote(" ".join(_options(command)))}{" files=1" * _takes_caps(command)} ;;'
        for place, command in tree
    ]
    template, kinds = {'bash': (BASH, BASH_VALUES), 'zsh': (ZSH, ZSH_VALUES)}[shell]
    values = [
        f'        {shlex.quote(f"{place} {option}")})'
        f' {_value(shell, kinds[str(action.metavar)])}; return ;;'
        for place, command in tree
        for action in command._actions
        for option in action.option_strings
        if action.metavar in kinds
    ]
    return template.format(places='|'.join(words), table='\n'.join(table), values='\n'.join(values))


def _value(shell: str, how: str) -> str:
    how = how.format(names=' '.join(CapSet.all()))
    return f'COMPREPLY=($({how}))' if shell == 'bash' else how


def _takes_caps(parser: argparse.ArgumentParser) -> bool:
    """Whether an argument is capability text, beside which there are files."""
    return any(
        str(action.metavar).split(' ')[0] in ('CAPS', 'TEXT') and not action.option_strings
        for action in parser._actions
    )


def places(parser: Parser, place: str = '') -> Iterator[tuple[str, Parser]]:
    """Every command with its parser, by its words with a space before each."""
    yield place, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from places(below, f'{place} {name}')


def _names(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The subcommands and the choices of a positional argument, with their help."""
    names: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            names |= {choice.dest: choice.help or '' for choice in action._choices_actions}
        elif action.choices and not action.option_strings:
            names |= dict.fromkeys(action.choices, '')
    if _takes_caps(parser):
        names |= dict.fromkeys(CapSet.all(), '')
    return names


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    return (option for action in parser._actions for option in action.option_strings)


def _fish(place: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    start = f'complete -c caps -n {shlex.quote(f"__caps_at {shlex.quote(place)}")}'
    only = '' if _takes_caps(parser) else ' -f'
    for name, text in _names(parser).items():
        yield f'{start}{only} -a {name} -d {_fish_quoted(text)}'
    for action in parser._actions:
        for option in action.option_strings:
            kind = f'-l {option[2:]}' if option.startswith('--') else f'-s {option[1:]}'
            value = '' if action.nargs == 0 else ' -r'
            if how := FISH_VALUES.get(str(action.metavar)):
                value = f' -x {how.format(names=" ".join(CapSet.all()))}'
            yield f'{start} {kind}{value} -d {_fish_quoted(action.help or "")}'


def _fish_quoted(text: str) -> str:
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'") + "'"
