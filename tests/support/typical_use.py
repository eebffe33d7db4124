"""What users write, for mypy --strict and pyright to read. It is not run. A comment that ignores an
error is an error itself where there is none."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

import subprocess
from collections.abc import Set
from pathlib import Path

import caps
from caps import IAB, Caps, CapSet, SecureBits, command, drop, raised


def states(text: str) -> Caps:
    state = Caps(text).activate('cap_net_raw').propagate(12).clear()
    state['inheritable'].add('cap_kill')
    state.effective = 'cap_net_raw,cap_kill'
    state.permitted |= ['cap_chown', 5]
    state.permitted -= state.effective
    state.inheritable = state.permitted & {'cap_kill'}
    if state and state != Caps() and 'cap_kill' in state.inheritable:
        return Caps(state, inheritable=())
    return state.copy()


def sets(members: CapSet) -> list[str]:
    names: Set[str] = members | {'cap_kill'}
    less: CapSet = members - {'cap_kill'}
    assert less <= members <= CapSet.all()
    return [name.upper() for name in names]


def files(path: Path) -> str:
    Caps('cap_net_raw=ep').apply(path)
    with path.open('rb') as file:
        assert Caps.from_file(file) == Caps.from_file(file.fileno()) == Caps.from_file(str(path))
    Caps.remove(bytes(path))
    return str(Caps.from_file(path))


def processes(pid: int) -> int:
    caps.set_no_new_privs()
    bits = caps.securebits | {'noroot'}
    SecureBits(bits).apply(all_threads=True)
    iab = IAB.from_process(pid)
    iab.bounding -= ['cap_sys_admin']
    iab.apply()
    with raised('cap_net_bind_service') as effective:
        print(', '.join(effective))
    left: CapSet = drop(keep=['cap_net_raw'], user='daemon', groups=[5, 'dialout'])
    argv: list[str] = command(['ping', 'localhost'], user='nobody', ambient=left)
    return subprocess.run(argv).returncode + caps.no_new_privs()


def mistakes(state: Caps) -> None:
    Caps(5)  # type: ignore
    state.activate(None)  # type: ignore
    state.effective.add(b'cap_kill')  # type: ignore
    Caps.from_file(1.5)  # type: ignore
    IAB('').apply('/bin/ping')  # type: ignore
    drop(keep=3)  # type: ignore
    caps.dropp()  # type: ignore
