"""Lines of words, in which any byte of a name survives as printable characters."""

import os
import re

WORD = re.compile(r'[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s"\\]+))(?=[ \t]|$)')
ESCAPE = re.compile(r'\\(x[0-9a-fA-F]{2}|.)')


class ManifestError(ValueError):
    """What is wrong with a line of a manifest."""


def quoted(word: str) -> str:
    """A word as it is written, in printable characters."""
    if word and word.isprintable() and not set(word) & set(' "\\') and word[0] != '#':
        return word
    return '"' + ''.join(map(_escaped, word)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return '\\' + char
    if char.isprintable():
        return char
    return ''.join(f'\\x{byte:02x}' for byte in os.fsencode(char))


def _unescaped(text: str) -> str:
    def byte(match: re.Match[str]) -> bytes:
        code = match[1]
        if code in ('"', '\\'):
            return code.encode()
        if len(code) != 3:
            raise ManifestError(f'\\{code} means nothing')
        return bytes([int(code[1:], 16)])

    parts, end = [], 0
    for match in ESCAPE.finditer(text):
        parts += [os.fsencode(text[end : match.start()]), byte(match)]
        end = match.end()
    return os.fsdecode(b''.join([*parts, os.fsencode(text[end:])]))


def words_of(line: str) -> tuple[list[str], str]:
    """The words of a line, and its comment with the blanks before that."""
    words: list[str] = []
    place = 0
    while rest := line[place:].strip(' \t'):
        if rest[0] == '#':
            return words, line[place:]
        match = WORD.match(line, place)
        if not match:
            raise ManifestError('a quote is not closed, or there is no blank beside it')
        words.append(_unescaped(match[1]) if match[1] is not None else match[2])
        place = match.end()
    return words, ''
