"""CapSet, and the sets of a Caps: members, operators, identity, copies."""

import copy
import operator
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caps import Caps, CapSet
from support import libcap

SETS = ['effective', 'permitted', 'inheritable']
NET_RAW = libcap.NAMES.index('cap_net_raw')
KILL = libcap.NAMES.index('cap_kill')

bits = st.integers(0, libcap.BITS - 1)
masks = st.integers(0, 2**libcap.BITS - 1)


def spellings(bit):
    """Every way to write a capability."""
    name = libcap.NAMES[bit]
    short = [] if name.isdigit() else [name[4:], name[4:].upper(), name[4:].title()]
    return [bit, name, name.upper(), *short]


def members(mask):
    return [name for bit, name in enumerate(libcap.NAMES) if mask >> bit & 1]


# Members.


@pytest.mark.parametrize(
    'member', ['cap_net_raw', 'CAP_NET_RAW', 'Cap_Net_Raw', 'net_raw', 'NET_RAW', NET_RAW]
)
def test_every_spelling_is_the_same_member(member):
    one = CapSet([member])
    assert list(one) == ['cap_net_raw']
    assert one == CapSet(['cap_net_raw'])
    assert member in one
    assert member not in CapSet(['cap_kill'])
    one.add(member)
    assert len(one) == 1
    one.remove(member)
    assert not one
    one.discard(member)
    assert not one


@given(bits, st.data())
def test_every_capability_has_every_spelling(bit, data):
    member = data.draw(st.sampled_from(spellings(bit)))
    assert list(CapSet([member])) == [libcap.NAMES[bit]]
    assert CapSet([member]).mask == 1 << bit


def test_one_string_lists_members_with_commas():
    assert list(CapSet('kill,CAP_NET_RAW')) == ['cap_kill', 'cap_net_raw']
    assert list(CapSet('')) == []


USES = {
    'construct': lambda names, typo: CapSet([typo]),
    'list': lambda names, typo: CapSet(f'cap_kill,{typo}'),
    'add': lambda names, typo: names.add(typo),
    'discard': lambda names, typo: names.discard(typo),
    'remove': lambda names, typo: names.remove(typo),
    'in': lambda names, typo: typo in names,
    'or': lambda names, typo: names | [typo],
    'rsub': lambda names, typo: [typo] - names,
    'ior': lambda names, typo: operator.ior(names, [typo]),
    'le': lambda names, typo: names <= [typo],
    'isdisjoint': lambda names, typo: names.isdisjoint([typo]),
    'caps': lambda names, typo: Caps(permitted=[typo]),
    'activate': lambda names, typo: Caps().activate(typo),
    'assign': lambda names, typo: setattr(Caps(), 'permitted', [typo]),
}


@pytest.mark.parametrize('use', USES.values(), ids=USES)
def test_a_typo_names_the_nearest_capability(use):
    names = CapSet(['cap_kill'])
    with pytest.raises(ValueError, match=r"^'cap_net_rwa' is not .*; did you mean 'cap_net_raw'\?"):
        use(names, 'cap_net_rwa')
    assert list(names) == ['cap_kill']


@pytest.mark.parametrize('typo', ['net_rwa', 'NET_RWA', 'CAP_NET_RWA', 'cap-net-raw'])
def test_a_typo_in_any_spelling_names_the_nearest_capability(typo):
    with pytest.raises(ValueError, match="did you mean 'cap_net_raw'"):
        CapSet([typo])


@pytest.mark.parametrize('spelling', ['all', 'ALL', ['all'], ['cap_kill', 'cap_all']])
def test_all_is_no_member_and_names_what_is_meant(spelling):
    with pytest.raises(
        ValueError, match=r"^'\w+' is not a capability; every one is CapSet.all\(\)$"
    ):
        CapSet(spelling)


@pytest.mark.parametrize('members', [b'7', bytearray(b'cap_kill'), [b'cap_kill']])
def test_bytes_are_no_names(members):
    with pytest.raises((TypeError, ValueError), match='not '):
        CapSet(members)


@pytest.mark.parametrize('what', ['xyzzy', '99', 99])
def test_what_is_near_nothing_gets_no_guess(what):
    with pytest.raises(ValueError, match=rf'^{what!r} is not a capability$'):
        CapSet([what])


def test_a_list_is_not_the_name_of_a_capability():
    for use in Caps().activate, CapSet().add, lambda names: CapSet([names]):
        with pytest.raises(TypeError, match=r"^\['cap_kill'\] is not the name or number of a cap"):
            use(['cap_kill'])


@pytest.mark.parametrize(
    'number', [-1, libcap.BITS, 2**40, 1.5, None, '', ' cap_kill', 'cap_', '\u212aill']
)
def test_what_is_no_capability_is_refused(number):
    with pytest.raises(ValueError, match='is not a capability'):
        CapSet([number])


def test_adding_and_taking_away_leaves_the_others():
    names = CapSet('chown,net_raw')
    names.add('kill')
    assert list(names) == ['cap_chown', 'cap_kill', 'cap_net_raw']
    names.discard('chown')
    names.remove('net_raw')
    assert list(names) == ['cap_kill']


def test_a_member_that_is_not_there_cannot_be_removed_but_can_be_discarded():
    names = CapSet(['cap_kill'])
    with pytest.raises(KeyError):
        names.remove('cap_net_raw')
    names.discard('cap_net_raw')
    assert list(names) == ['cap_kill']


def test_pop_and_clear_empty_a_set():
    names = CapSet('net_raw,kill')
    assert names.pop() == 'cap_kill'
    names.clear()
    assert not names
    assert len(names) == 0
    with pytest.raises(KeyError):
        names.pop()


def test_all_is_what_the_running_kernel_has():
    assert CapSet.all().mask == libcap.ALL
    with open('/proc/sys/kernel/cap_last_cap') as last:
        assert len(CapSet.all()) == int(last.read()) + 1


def test_members_come_in_the_kernels_order():
    assert list(CapSet(reversed(libcap.NAMES))) == libcap.NAMES


def test_a_capability_without_a_name_is_its_number():
    assert libcap.NAMES[63] == '63', 'libcap knows a name for every bit: choose a wider set'
    names = CapSet([63])
    assert list(names) == ['63']
    assert str(names) == '63'
    assert '63' in names
    assert CapSet(['63']) == names


@given(masks)
def test_a_set_is_its_mask(mask):
    names = CapSet.from_mask(mask)
    assert names.mask == mask
    assert list(names) == members(mask)
    assert str(names) == ','.join(members(mask))
    assert len(names) == len(members(mask))
    assert bool(names) is bool(mask)


@pytest.mark.parametrize('mask', [-1, 1 << libcap.BITS])
def test_a_mask_wider_than_the_kernels_is_refused(mask):
    with pytest.raises(ValueError, match='64 bits'):
        CapSet.from_mask(mask)


# Operators, with Python's own sets of the same members as the referee.

OPERATORS = {
    'and': operator.and_,
    'or': operator.or_,
    'xor': operator.xor,
    'sub': operator.sub,
}
COMPARISONS = {
    'le': operator.le,
    'lt': operator.lt,
    'ge': operator.ge,
    'gt': operator.gt,
}
# A capital letter, a short name and a number each, so that no operand can be compared as it is.
OPERANDS = {
    'CapSet': CapSet,
    'set': lambda names: {name.upper() for name in names},
    'frozenset': lambda names: frozenset(name.removeprefix('cap_') for name in names),
    'list': lambda names: [libcap.NAMES.index(name) for name in names],
    'tuple': tuple,
    'dictionary': dict.fromkeys,
    'iterator': iter,
    'string': ','.join,
}
operands = st.sampled_from(list(OPERANDS)).map(OPERANDS.get)


@pytest.mark.parametrize('operate', OPERATORS.values(), ids=OPERATORS)
@given(masks, masks, operands)
def test_operators_take_any_iterable_of_names_on_either_side(operate, left, right, operand):
    expected = operate(set(members(left)), set(members(right)))
    for result in (
        operate(CapSet.from_mask(left), operand(members(right))),
        operate(operand(members(left)), CapSet.from_mask(right)),
    ):
        assert type(result) is CapSet
        assert set(result) == expected


@pytest.mark.parametrize('operate', ['iand', 'ior', 'ixor', 'isub'])
@given(masks, masks, operands)
def test_operators_in_place_keep_the_object(operate, left, right, operand):
    expected = getattr(operator, operate)(set(members(left)), set(members(right)))
    names = CapSet.from_mask(left)
    result = getattr(operator, operate)(names, operand(members(right)))
    assert result is names
    assert set(names) == expected


def test_operators_leave_their_operands_alone():
    left, right = CapSet('kill'), CapSet('net_raw')
    for operate in OPERATORS.values():
        operate(left, right)
    assert (list(left), list(right)) == (['cap_kill'], ['cap_net_raw'])


subsets = st.tuples(masks, masks).flatmap(
    lambda pair: st.sampled_from([pair, (pair[0], pair[0]), (pair[0] & pair[1], pair[0])])
)


@pytest.mark.parametrize('compare', COMPARISONS.values(), ids=COMPARISONS)
@given(subsets, operands)
def test_order_compares_with_any_iterable_of_names(compare, pair, operand):
    left, right = (members(mask) for mask in pair)
    assert compare(CapSet(left), operand(right)) is compare(set(left), set(right))
    assert compare(operand(right), CapSet(left)) is compare(set(right), set(left))
    assert CapSet(left).isdisjoint(operand(right)) is set(left).isdisjoint(right)


@pytest.mark.parametrize('operand', ['CapSet', 'set', 'frozenset'])
@given(subsets)
def test_equality_is_with_any_set_of_names(operand, pair):
    operand = OPERANDS[operand]
    left, right = (members(mask) for mask in pair)
    assert (CapSet(left) == operand(right)) is (left == right)
    assert (operand(right) == CapSet(left)) is (left == right)
    assert (CapSet(left) != operand(right)) is (left != right)


@pytest.mark.parametrize('other', [['cap_kill'], 'cap_kill', 1 << KILL, None, {'cap_xyzzy'}, set()])
def test_equality_with_anything_else_is_false_and_no_error(other):
    assert CapSet('kill') != other
    assert (CapSet('kill') == other) is False


def test_a_number_is_no_iterable_of_names():
    with pytest.raises(TypeError):
        CapSet('kill') | KILL


# Copies and identity.


@given(masks)
def test_copies_and_pickles_are_equal_and_independent(mask):
    names = CapSet.from_mask(mask)
    for other in (
        names.copy(),
        copy.copy(names),
        copy.deepcopy(names),
        CapSet(names),
        pickle.loads(pickle.dumps(names)),
        eval(repr(names)),
    ):
        assert type(other) is CapSet
        assert other == names
        assert other is not names
        other ^= 'net_raw'
        assert names.mask == mask


def test_repr_is_the_expression():
    assert repr(CapSet('net_raw,KILL')) == "CapSet('cap_kill,cap_net_raw')"
    assert repr(CapSet()) == "CapSet('')"


@pytest.mark.parametrize('value', [CapSet(), Caps()], ids=['CapSet', 'Caps'])
def test_what_can_change_cannot_be_hashed(value):
    with pytest.raises(TypeError, match='unhashable'):
        hash(value)


@pytest.mark.parametrize('name', SETS)
def test_a_set_is_the_same_object_as_attribute_and_as_item(name):
    caps = Caps()
    assert caps[name] is getattr(caps, name)
    caps[name].add('cap_net_raw')
    assert str(caps) == f'cap_net_raw={name[0]}'


@pytest.mark.parametrize('name', SETS)
def test_an_operator_in_place_changes_the_state_and_keeps_the_set(name):
    caps = Caps()
    names = caps[name]
    caps[name] |= ['net_raw']
    assert caps[name] is names
    setattr(caps, name, operator.ior(getattr(caps, name), {'kill'}))
    assert caps[name] is names
    assert list(names) == ['cap_kill', 'cap_net_raw']
    assert str(caps) == f'cap_kill,cap_net_raw={name[0]}'


@pytest.mark.parametrize('name', SETS)
def test_assignment_replaces_the_members_and_keeps_the_set(name):
    caps = Caps('cap_chown=epi')
    names = caps[name]
    caps[name] = ['net_raw']
    assert list(names) == ['cap_net_raw']
    setattr(caps, name, 'kill')
    assert list(names) == ['cap_kill']
    assert caps[name] is names


def test_two_states_never_share_a_set():
    one, two = Caps(), Caps()
    one.permitted = two.permitted
    one.permitted.add('cap_kill')
    assert not two


@pytest.mark.parametrize('name', ['e', 'ambient', '_effective', 'marked', 0, None])
def test_a_state_has_three_sets_and_no_other(name):
    with pytest.raises(KeyError):
        Caps()[name]
    with pytest.raises(KeyError):
        Caps()[name] = ()
    with pytest.raises(AttributeError):
        Caps().ambient = ()


def test_a_state_is_true_when_any_set_has_a_member():
    assert not Caps()
    assert not Caps('=')
    for name in SETS:
        assert Caps(**{name: ['cap_kill']})


@given(st.tuples(masks, masks, masks))
def test_a_copied_state_is_equal_and_independent(three):
    caps = Caps(**dict(zip(SETS, map(CapSet.from_mask, three), strict=True)))
    caps.root_id = 100000
    caps.marked = True
    for other in (
        caps.copy(),
        copy.copy(caps),
        copy.deepcopy(caps),
        Caps(caps),
        pickle.loads(pickle.dumps(caps)),
    ):
        assert other == caps
        assert (other.root_id, other.marked) == (100000, True)
        for name in SETS:
            other[name] ^= 'net_raw'
            assert other != caps
            other[name] ^= 'net_raw'
        assert libcap.masks(caps) == three


def test_states_differ_by_each_set_and_by_their_root_but_not_by_their_mark():
    caps = Caps('cap_kill=ep')
    assert caps == Caps('cap_kill=ep')
    for other in 'cap_kill=p', 'cap_kill=e', 'cap_kill=epi', '=':
        assert caps != Caps(other)
    other = caps.copy()
    other.marked = True
    assert other == caps
    other.root_id = 1000
    assert other != caps
    assert caps != 'cap_kill=ep'


def test_a_root_id_is_shown_and_taken_by_keyword():
    caps = Caps('cap_kill=i', root_id=1000)
    assert caps.root_id == 1000
    assert repr(caps) == "Caps('cap_kill=i', root_id=1000)"
    assert eval(repr(caps)) == caps != Caps('cap_kill=i')
    assert str(caps) == 'cap_kill=i'
    assert repr(Caps('cap_kill=i', root_id=0)) == "Caps('cap_kill=i')"


def test_a_root_id_is_copied_unless_another_is_given():
    caps = Caps('cap_kill=i', root_id=1000)
    assert Caps(caps) == caps
    assert Caps(caps, permitted=['chown']).root_id == 1000
    assert [Caps(caps, root_id=other).root_id for other in (0, 5)] == [0, 5]
