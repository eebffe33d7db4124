"""What an explanation is made of: checks, steps and advice."""

from __future__ import annotations

from caps.explain.execve import Outcome
from caps.system.records import dataclass
from caps.system.types import Process


@dataclass(frozen=True)
class Check:
    """What ppy-check says about one of ppy's rules."""

    holds: bool
    text: str
    fix: str | None = None


@dataclass(frozen=True)
class Step:
    """One change of a process: by execve(2) of a program, or by ppy itself."""

    what: str
    before: Process
    outcome: Outcome


@dataclass(frozen=True)
class Advice:
    """What to do: the rule that stands in the way, a sentence, and a command that does it."""

    rule: str
    text: str
    command: str | None = None
