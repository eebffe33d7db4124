"""The plain types of an audit: what a run was refused, how it ended, and what that proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from caps import CapSet

UNAUDITED = 'asked without audit'  # of the kinds of noise, the one that may mean something


class AuditError(Exception):
    """The reason why an audit cannot be made."""


class Call(NamedTuple):
    """One kind of system call: what it was refused, and what came of it.

    name: of the system call, '' where it is not known
    error: EPERM or EACCES; '' where it went on, or failed for another reason
    refused: the capabilities that it was refused, in the order in which the kernel asked
    site: the function of the kernel that asked first, '' where it is not known
    noise: why the kernel asks this of every program, '' for a check that means something
    """

    name: str
    error: str
    refused: tuple[str, ...]
    site: str = ''
    noise: str = ''

    @property
    def means_something(self) -> bool:
        """Whether a capability may have changed what the program could do."""
        return bool(self.refused) and (not self.noise or bool(self.error))


@dataclass(frozen=True)
class Run:
    """One run of the command.

    caps: all that it had
    status: its exit status, negative for a signal; None where it still ran at the end of its time
    is_done: whether it did its work, as far as can be told without other runs
    calls: how often each kind of call was refused something; None where nothing was traced
    granted: the capabilities that were asked for and granted, as far as they mean something
    lost: how many events were lost
    said: the end of what it printed
    fault: what a daemon did not do, as a clause; '' where its status tells
    """

    caps: CapSet
    status: int | None
    is_done: bool
    calls: Mapping[Call, int] | None = None
    granted: CapSet = field(default_factory=CapSet)
    lost: int = 0
    said: str = ''
    fault: str = ''

    @property
    def outcome(self) -> tuple[int | None, bool]:
        """What two runs are compared by."""
        return self.status, self.is_done

    @property
    def refused(self) -> CapSet:
        """Every capability that was refused."""
        return CapSet(name for call in self.calls or () for name in call.refused)

    def failures(self, capability: str | None = None) -> dict[tuple[str, str], int]:
        """How often each call failed with each error, be it because of one capability or any."""
        counts: dict[tuple[str, str], int] = {}
        for call, count in (self.calls or {}).items():
            if call.error and (capability is None or capability in call.refused):
                key = call.name, call.error
                counts[key] = counts.get(key, 0) + count
        return counts


class Refusal(NamedTuple):
    """What a command was refused in today's state.

    times: how often
    capability: None where the call failed and the kernel had asked for none
    help: what would help: 'activate', where it was permitted and not effective; 'mark', where it
    was not permitted; 'nothing', where no capability would; 'unknown', where the process had ended
    """

    call: Call
    times: int
    capability: str | None
    help: str


@dataclass(frozen=True)
class Observation:
    """One run in today's state.

    command, account: as of an audit
    status: its exit status, negative for a signal; None where it still ran
    refusals: what it was refused, as far as that means something
    method, lost: how the run was observed, and how many events were lost
    """

    command: Sequence[str]
    account: str
    status: int | None
    refusals: Sequence[Refusal]
    method: str
    lost: int


class Verdict(NamedTuple):
    """What an audit says of one capability.

    verdict: 'needed', 'degrades', 'unused' or 'not proved'
    reason: a sentence without its subject
    """

    capability: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Audit:
    """What an audit has found.

    command: the words of the command
    account: who it ran as
    needs: what the command needs; None where there is no answer
    verdicts: on each capability that the command asked for
    runs: in their order
    method: how the runs were observed
    reason: why there is no answer, '' where there is one
    """

    command: Sequence[str]
    account: str
    needs: CapSet | None
    verdicts: Sequence[Verdict]
    runs: Sequence[Run]
    method: str
    reason: str = ''

    @property
    def lost(self) -> int:
        """How many events were lost."""
        return sum(run.lost for run in self.runs)

    @property
    def ignored(self) -> dict[tuple[str, str], int]:
        """How often each capability was asked for in a way that means nothing, and why."""
        counts: dict[tuple[str, str], int] = {}
        for run in self.runs:
            for call, count in (run.calls or {}).items():
                for name in () if call.means_something else call.refused:
                    counts[name, call.noise] = counts.get((name, call.noise), 0) + count
        return counts
