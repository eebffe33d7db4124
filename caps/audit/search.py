"""Runs a command with less and more until what it needs is minimal; nothing here knows the kernel.

1. It grows from nothing by what was refused, the weaker capability first, or shrinks from all.
2. It ends where the command does its work, and does not without any one capability that is left.
3. The last state is run twice, and both runs must end alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from caps import CapSet
from caps.audit.types import UNAUDITED, Call, Run

LIMIT = 100  # runs
TRIES = 3  # of a run that loses events, which are those of the whole machine
ROUNDS = 5  # of giving more to a command that has done its work, but was refused something

# What can do nearly all that the others can; the later, the stronger.
STRONG = (
    'cap_dac_override',
    'cap_fowner',
    'cap_chown',
    'cap_setgid',
    'cap_setuid',
    'cap_setpcap',
    'cap_sys_ptrace',
    'cap_bpf',
    'cap_setfcap',
    'cap_sys_rawio',
    'cap_sys_module',
    'cap_sys_admin',
)


class NoAnswerError(Exception):
    """Why runs do not give an answer."""


@dataclass
class SearchResult:
    """What a search has found.

    runs: in their order
    final: the last run in the minimal state; None where there is no answer
    without: the run without each capability of the minimal state
    helped: the capabilities with which fewer calls failed than in the final run, though the
    command did its work without them
    reason: why there is no answer, '' where there is one
    """

    runs: list[Run] = field(default_factory=list)
    final: Run | None = None
    without: dict[str, Run] = field(default_factory=dict)
    helped: CapSet = field(default_factory=CapSet)
    reason: str = ''


def strength(capability: str) -> int:
    """How much a capability can do, as a number to be compared."""
    return STRONG.index(capability) + 1 if capability in STRONG else 0


def search(
    run: Callable[[CapSet], Run], everything: CapSet, *, from_all: bool = False
) -> SearchResult:
    """Find what a command needs.

    run: starts the command with these capabilities and nothing else
    everything: the capabilities that it can be given
    from_all: begin with all of them
    """
    searching = _Search(run, everything)
    try:
        searching.find(from_all)
    except NoAnswerError as why:
        searching.result.final = None
        searching.result.reason = str(why)
    return searching.result


class _Search:
    def __init__(self, run: Callable[[CapSet], Run], everything: CapSet) -> None:
        self._start, self._everything = run, everything
        self._known: dict[int, Run] = {}
        self._goal: tuple[int | None, bool] | None = None
        self.result = SearchResult()

    def find(self, from_all: bool) -> None:
        most = self._from_all() if from_all else self._from_none()
        if not most.is_done:
            self._settle_for(most, from_all)
        kept = self._minimal(self._weakened(self._minimal(most.caps)))
        before, final = self._run(kept), self._run(kept, again=True)
        if before.outcome != final.outcome:
            raise NoAnswerError(
                f'two runs with the same capabilities ended differently: {ends(before.status)}, '
                f'and {ends(final.status)}'
            )
        self._help(final)
        self.result.final = final
        self.result.without = {name: self._run(kept - [name]) for name in kept}

    def _run(self, caps: CapSet, *, again: bool = False) -> Run:
        if again or caps.mask not in self._known:
            for _ in range(TRIES):
                if len(self.result.runs) >= LIMIT:
                    raise NoAnswerError(f'{LIMIT} runs were not enough')
                run = self._start(caps.copy())
                self.result.runs.append(run)
                if not run.lost:
                    break
            else:
                raise NoAnswerError(
                    f'{run.lost} events were lost, and {TRIES} runs did not help: ask again when '
                    'less is refused on this machine'
                )
            self._known[caps.mask] = run
        return self._known[caps.mask]

    def _is_done(self, run: Run) -> bool:
        return run.is_done if self._goal is None else run.outcome == self._goal

    def _from_none(self) -> Run:
        run = self._run(CapSet())
        while not run.is_done:
            more = candidates(run) & self._everything
            if not more:
                break
            run = self._run(run.caps | more)
        return run

    def _from_all(self) -> Run:
        everything = self._run(self._everything)
        asked = everything.granted & self._everything
        if everything.calls is not None and everything.is_done and asked != self._everything:
            less = self._run(asked)
            if less.is_done:
                return less
        return everything

    def _settle_for(self, most: Run, from_all: bool) -> None:
        """Take for its work what a command did with all that it asked for, where that differs."""
        nothing = self._run(CapSet())
        if nothing.outcome != most.outcome:
            self._goal = most.outcome
            return
        still = most.refused & most.caps
        if still:
            why = f'{still} was refused although it was permitted: the program has to activate it'
            if not from_all:
                why += ', or looks at what is permitted first (--from all finds out)'
            raise NoAnswerError(why)
        if missing := most.refused - self._everything:
            raise NoAnswerError(f'{missing} was refused, and cannot be given here')
        how = f'it {ends(most.status)} {most.fault}'.rstrip()
        if from_all:
            others = 'it asks who it is and not what it may, or fails for another reason'
            raise NoAnswerError(f'{how}, whatever it has: {others}')
        what = (
            f'was given all that it asked for ({most.caps})' if most.caps else 'asked for nothing'
        )
        raise NoAnswerError(
            f'{how}, and {what}. It may look at its own capabilities first (--from all finds out), '
            'ask who it is and not what it may (--as), or fail for another reason'
        )

    def _minimal(self, kept: CapSet) -> CapSet:
        while True:
            less = self._reduced(kept, sorted(kept, key=strength, reverse=True))
            if less == kept:
                return kept
            kept = less

    def _reduced(self, kept: CapSet, part: Sequence[str]) -> CapSet:
        """What is kept without as much of a part as the command can do without."""
        if not part:
            return kept
        if self._is_done(self._run(kept - part)):
            return kept - part
        if len(part) == 1:
            return kept
        half = len(part) // 2
        return self._reduced(self._reduced(kept, part[:half]), part[half:])

    def _weakened(self, kept: CapSet) -> CapSet:
        """What is kept, with each capability exchanged for a weaker one that is enough too."""
        for name in sorted(kept, key=strength, reverse=True):
            others = kept - [name]
            for call in self._run(others).calls or ():
                for weaker in call.refused if name in call.refused else ():
                    is_weaker = weaker not in others and strength(weaker) < strength(name)
                    if is_weaker and self._is_done(self._run(others | [weaker])):
                        return self._weakened(others | [weaker])
        return kept

    def _help(self, final: Run) -> None:
        """Give more to a command that did its work, as long as that has fewer calls fail."""
        now = final
        for _ in range(ROUNDS):
            more = _weakest(now, failed) & self._everything
            if not more:
                return
            better = self._run(now.caps | more)
            failures = better.failures()
            for name in more:
                if any(failures.get(key, 0) < n for key, n in now.failures(name).items()):
                    self.result.helped.add(name)
            now = better


def candidates(run: Run) -> CapSet:
    """What to give a command that did not do its work, by what it was refused."""
    for kind in failed, went_on, went_on_unaudited:
        if more := _weakest(run, kind):
            return more
    return CapSet()


def failed(call: Call) -> bool:
    return bool(call.error)


def went_on(call: Call) -> bool:
    # netlink refuses in a message, and the call succeeds.
    return not call.error and call.means_something


def went_on_unaudited(call: Call) -> bool:
    return not call.error and call.noise == UNAUDITED


def _weakest(run: Run, kind: Callable[[Call], bool]) -> CapSet:
    """The weakest capability that each call of a kind was refused and the run did not have."""
    weakest = CapSet()
    for call in run.calls or ():
        missing: Iterable[str] = [name for name in call.refused if name not in run.caps]
        if kind(call) and missing:
            weakest.add(min(missing, key=strength))
    return weakest


def ends(status: int | None) -> str:
    """How a run ended, as a verb."""
    if status is None:
        return 'still runs'
    return f'exits {status}' if status >= 0 else f'is killed by signal {-status}'
