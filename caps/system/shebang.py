"""The first line of a script, as load_script() of the kernel takes it apart; see execve(2)."""

from __future__ import annotations

import os
import re

from caps.system.records import dataclass

HEAD = 256  # what the kernel reads of a file to recognise it
BYTE_ORDER_MARK = b'\xef\xbb\xbf'


@dataclass(frozen=True)
class FirstLine:
    """The line of a script that names its interpreter.

    text: the line, without its newline
    interpreter: the path in it; empty where there is none, which leads to EACCES; None where the
    kernel does not take the file for a script
    argument: all that follows the interpreter, which is one argument
    """

    text: str
    interpreter: str | None
    argument: str | None


def first_line(head: bytes) -> FirstLine | None:
    """What the kernel reads in a file's first bytes; None where these are not #!.

    head: up to `HEAD` bytes.
    """
    if head[:2] != b'#!':
        return None
    buffer = head[:HEAD].ljust(HEAD, b'\0')
    text = os.fsdecode(head[:HEAD].partition(b'\n')[0])
    end = buffer.find(b'\n')
    if end < 0 or b'\0' in buffer[:end]:
        if not re.match(rb'[ \t]*[^ \t]*[ \t\0]', buffer[2:]) or not buffer[2:].strip(b' \t'):
            return FirstLine(text, None, None)  # blanks alone, or a path that may be cut off
        end = HEAD - 1
    line = buffer[2:end].rstrip(b' \t').lstrip(b' \t')
    if not line:
        return FirstLine(text, None, None)
    match = re.match(rb'([^ \t\0]*)[ \t]*([^\0]*)', line, re.DOTALL)
    assert match
    return FirstLine(text, os.fsdecode(match[1]), os.fsdecode(match[2]) or None)


def stray_start(head: bytes) -> str | None:
    """What keeps a first line from being one, in words; None where nothing of the kind does.

    head: the first bytes of a file.
    """
    if head.startswith(BYTE_ORDER_MARK + b'#!'):
        return 'a byte order mark'
    if head.lstrip(b' \t\r\n').startswith(b'#!') and head[:2] != b'#!':
        return 'white space'
    return None
