"""What a launcher and an interpreter do when they run, as an account that nobody else has."""

import errno
import json
import os
import re
from collections.abc import Iterator

from caps import IAB, Caps, CapSet
from caps.admin.copies import write_copy
from caps.admin.environment import Bin, VenvError
from caps.admin.places import stops
from caps.admin.transaction import AdminError
from caps.system.path import strangers
from caps.system.run import Account, RunError, run_as

# Where an interpreter takes its code from, and whether it has this package.
PROBE = """
import importlib.util, json, sys
spec = importlib.util.find_spec('caps')
problem = ''
if spec is not None:
    try:
        import caps
        caps.Caps
    except Exception as error:
        problem = f'{error}'
with open('/proc/self/maps') as file:
    mapped = {line.split(None, 5)[5].strip() for line in file if '/' in line}
json.dump([sys.path, sorted(mapped), problem], sys.stdout)
"""
# What a marked python says of its environment and of what it gets.
PROOF = "import os, sys; print(sys.prefix, open('/proc/self/status').read(), sep='\\n')"


class InstallError(AdminError):
    """The reason why nothing was installed or removed."""


def prove(launcher: str, account: Account, allowed: CapSet) -> None:
    """Launch an empty script of an account, beside the launcher, and remove it.

    Raises InstallError where that fails.
    """
    script = f'{launcher}.script'
    # A single capability suffices to make the execution a secure one.
    mark = Caps(inheritable=list(allowed & IAB.from_process().bounding)[:1])
    os.close(write_copy(script, b'', (account.uid, account.gid), 0o750, mark))
    try:
        finished = run_as([launcher, script], account)
    except (OSError, RunError) as error:
        raise InstallError(f'the new ppy cannot launch a script: {error}') from error
    finally:
        os.unlink(script)
    if finished.status:
        reason = os.fsdecode(finished.errors).strip() or f'exit status {finished.status}'
        if 'loading shared librar' in reason:  # glibc and musl
            reason += (
                '\nWith privileges the dynamic loader ignores $ORIGIN and LD_LIBRARY_PATH: choose '
                'an --interpreter whose libraries are where the system has them'
            )
        raise InstallError(f'the new ppy cannot launch a script: {reason}')


def library_flaws(interpreter: str, account: Account | None) -> Iterator[str]:
    """What is wrong with where a Python takes its code from.

    interpreter: the program, of which and of the way to which nothing is wrong
    account: who to run it as, None for the account of this process
    """
    if not re.fullmatch(r'(python|pypy)[0-9.]*[a-z]*', os.path.basename(interpreter)):
        return
    try:
        taken, problem = taken_code(interpreter, account)
    except (OSError, RunError, ValueError):
        return  # no Python after all, or one that will fail in the proof
    if problem:
        yield (
            f'{interpreter} has caps installed, but other accounts cannot import it: {problem}: '
            'install the package again with umask 022'
        )
    for path in taken:
        yield from (
            f'{interpreter} takes code from {path}: {flaw}: choose another --interpreter'
            for flaw in code_flaws(path)
        )


def taken_code(interpreter: str, account: Account | None) -> tuple[list[str], str]:
    """Where a Python takes its code from, and why it cannot import this package, if it has it.

    Raises OSError, RunError or ValueError where it is no Python that works.
    """
    finished = run_as([interpreter, '-I', '-c', PROBE], account)
    search, mapped, problem = json.loads(finished.output)
    return [*dict.fromkeys([*search, *mapped])], problem


def code_flaws(path: str) -> Iterator[str]:
    """Who else than root can change a file or directory, or what its name leads to."""
    for stop in stops(path):
        if not os.path.isfile(stop):
            yield from strangers(stop)
        else:
            yield from strangers(os.path.dirname(stop))
            if os.stat(stop).st_uid or os.stat(stop).st_mode & 0o022:
                yield f'users other than root can change {stop}'


def prove_copy(place: Bin, name: str, gid: int | None, number: int | None, caps: Caps) -> None:
    """Run a copy and see that it finds its environment and gets its capabilities."""
    what = f'a copy of {place.top}/bin/python'
    try:
        argv = [place.path(name), '-I', '-c', PROOF]
        finished = run_as(argv, place.account(gid, number), seconds=60)
    except OSError as error:
        reason = f'{what} cannot run: {error.strerror}'
        missing = caps.permitted - IAB.from_process().bounding
        if error.errno == errno.EPERM and missing:
            reason += f'; the bounding set lacks {missing}'
        raise VenvError(reason) from None
    except RunError as error:
        raise VenvError(f'{what} cannot run: {error}') from None
    output, errors = os.fsdecode(finished.output), os.fsdecode(finished.errors)
    if not output:
        raise VenvError(f'{what} cannot run: {errors.strip()}')
    if not output.startswith(f'{place.top}\n'):
        raise VenvError(f'{what} takes {output.splitlines()[0]} for its environment')
    said = output.partition('\nCapPrm:')[2].split()
    try:
        permitted = CapSet.from_mask(int(said[0], 16))
    except (IndexError, ValueError):
        raise VenvError(f'{what} does not say what it gets when it runs') from None
    if missing := caps.permitted - permitted:
        raise VenvError(f'{what} does not get {missing} when it runs')
