"""libcap's two languages, read and written; see cap_from_text(3) and cap_iab(3)."""

from caps import _caps
from caps.capset import ALL, BITS, CapSet, unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Key = TypeVar('Key')
    Value = TypeVar('Value')


def spelled(name: str) -> int:
    """The number of a capability as libcap's text spells it, more strictly than CapSet does."""
    name = name.lower()
    bit = BITS.get(name)
    if bit is None and name.isalnum():
        if name[:2] == '0x':
            bit = BITS.get(int(name, 16))
        elif name[:2] == '0b' and reads_binary():
            bit = BITS.get(int(name, 2))
        elif name.isdigit():
            bit = BITS.get(int(name, 8 if name[0] == '0' else 10))
    if bit is None:
        raise unknown(name)
    return bit


def reads_binary() -> bool:
    """Whether libcap reads 0b1: it does where strtol(3) of the C library follows C23."""
    try:
        return bool(_caps.canonical('0b1=p'))
    except OSError:
        return False


def listed(names: str) -> int:
    mask = 0
    for name in names.split(','):
        if name.lower() == 'all':
            mask = ALL  # libcap too forgets the nameless bits before it
        else:
            mask |= 1 << spelled(name)
    return mask


# A program sees few states, and sees them often.  Reading and writing their text would take longer
# than the two system calls.
_sets_of: dict[str, dict[str, int]] = {}
_text_of: dict[tuple[int, int, int], str] = {}
_iab_text_of: dict[tuple[int, int, int], str] = {}


def remember(memory: 'dict[Key, Value]', key: 'Key', value: 'Value') -> None:
    if len(memory) >= 64:
        memory.clear()
    memory[key] = value


def parse(text: str) -> dict[str, int]:
    """The bits of each set, by its letter; ValueError for what cap_from_text(3) rejects."""
    sets = _sets_of.get(text)
    if sets is None:
        sets = parse_anew(text)
        remember(_sets_of, text, sets)
    return sets


def parse_anew(text: str) -> dict[str, int]:
    sets = {'e': 0, 'p': 0, 'i': 0}
    is_plain = text.isascii() and text.isprintable()  # and the only space is the space
    for clause in text.split() if is_plain else map(bytes.decode, text.encode('ascii').split()):
        names = clause.replace('+', '=').replace('-', '=').partition('=')[0]
        actions = clause[len(names) :]
        if not actions:
            raise ValueError(f'no =, + or - after {names!r}')
        if not names and (actions[0] != '=' or '+' in actions or '-' in actions):
            raise ValueError('only a list of capabilities can be added or taken away')
        mask = listed(names) if names else ALL
        if actions[0] == '=':
            for flag, bits in sets.items():
                sets[flag] = bits and bits & ~mask
            actions = actions[1:]
            if actions and actions[0] not in '+-':
                actions = '+' + actions
        for action in actions.replace('+', ' +').replace('-', ' -').split(' ')[1:]:
            if len(action) == 1:
                raise ValueError(f'no set after {action!r}')
            for flag in action[1:]:
                if flag not in sets:
                    raise ValueError(f'{flag!r} is not one of the sets e, i and p')
                sets[flag] = sets[flag] | mask if action[0] == '+' else sets[flag] & ~mask
    return sets


def written(effective: int, permitted: int, inheritable: int) -> str:
    """libcap's text of three masks."""
    e, p, i = key = effective, permitted, inheritable
    text = _text_of.get(key)
    if text is None:
        # a clause for each combination of sets that some capability is in
        clauses: list[str] = []
        for flags, mask in (
            ('e', e & ~p & ~i),
            ('p', p & ~e & ~i),
            ('i', i & ~e & ~p),
            ('ep', e & p & ~i),
            ('ei', e & i & ~p),
            ('pi', p & i & ~e),
            ('epi', e & p & i),
        ):
            others = ALL & ~mask
            if mask.bit_count() > others.bit_count() and mask <= ALL:  # shorter said by these
                without = f' {CapSet.from_mask(others)}-{flags}' if others else ''
                clauses.insert(0, f'={flags}{without}')
            elif mask:
                clauses.append(f'{CapSet.from_mask(mask)}={flags}')
        text = _caps.canonical(' '.join(clauses))
        remember(_text_of, key, text)
    return text


def parse_iab(text: str) -> dict[str, int]:
    """The bits of each vector, by its prefix; ValueError for what cap_iab_from_text(3) rejects."""
    vectors = {'%': 0, '^': 0, '!': 0}
    *entries, last = text.encode('ascii').decode().split(',')
    if last.strip('!^%'):  # libcap lets the last one be nothing, or prefixes of nothing
        entries.append(last)
    for entry in entries:
        name = entry.lstrip('!^%')
        bit = 1 << spelled(name) & ALL  # libcap ignores those that the kernel lacks
        for prefix in entry[: -len(name)] or '%':
            vectors[prefix] |= bit
    vectors['%'] |= vectors['^']
    return vectors


def written_iab(inheritable: int, ambient: int, blocked: int) -> str:
    """libcap's text of three masks."""
    key = inheritable, ambient, blocked
    text = _iab_text_of.get(key)
    if text is None:
        entries = [
            prefix + name
            for prefix, mask in zip('%^!', key, strict=True)
            for name in CapSet.from_mask(mask)
        ]
        text = _caps.canonical_iab(','.join(entries))
        remember(_iab_text_of, key, text)
    return text
