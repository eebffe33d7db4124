"""The language of capability text: what libcap takes and prints, Caps does, and nothing else."""

from collections import Counter

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from caps import IAB, Caps, CapSet
from support import examples, libcap

SPACES = ' \t\n\r\v\f'
# Python takes these for spaces or digits, C does not.
TRAPS = '\x1c\x1d\x1e\x1f\x85\xa0\u2003\u3000\u0663\xb2\uff11'

masks = st.integers(0, 2**libcap.BITS - 1)
states = st.tuples(masks, masks, masks)


names = [name for name in libcap.NAMES if not name.isdigit()]
bases = ['{}', '0{:o}', '00{:o}', '{:#x}', '0X{:X}', '0x00{:x}']
if libcap.read('0b1=p'):  # with the strtol(3) of C23
    bases += ['{:#b}', '0B{:b}', '0b00{:b}']
numbers = st.one_of(
    st.sampled_from([base.format(bit) for base in bases for bit in range(libcap.BITS)]),
    st.sampled_from([base.format(libcap.KERNEL + near) for base in bases for near in (-1, 0, 1)]),
)
words = st.one_of(
    st.sampled_from(names),
    st.sampled_from([*map(str.upper, names), *map(str.title, names)]),
    numbers,
    st.sampled_from(['all', 'ALL', 'All']),
)
lists = st.lists(words, min_size=1, max_size=3).map(','.join)
flags = st.sampled_from(['e', 'p', 'i', 'ep', 'ie', 'ip', 'epi', 'pp', 'eie'])
moves = st.lists(st.builds(str.__add__, st.sampled_from('+-'), flags), max_size=2).map(''.join)
replacements = st.one_of(st.just('='), flags.map('='.__add__))
clauses = st.one_of(
    replacements,
    st.builds('{}{}{}'.format, lists, replacements, moves),
    st.builds('{}{}{}'.format, lists, st.builds(str.__add__, st.sampled_from('+-'), flags), moves),
)
gaps = st.sampled_from([*SPACES, '  ', '\t ', '\r\n'])
sentences = st.lists(st.tuples(clauses, gaps), max_size=4).map(
    lambda pairs: ''.join(clause + gap for clause, gap in pairs)
)

WRONG = [
    '+', '-', '=', '=+', '=-', ',', '+ep', 'e', 'E', 'x', '_', '!', '#', '0x', '0b1', '08', '0xg',
    '64', '0100', '0x40', str(2**64), '-1', '1_0', 'all', 'none', 'all_', 'allx', 'cap_all',
    'cap_', 'net_raw', 'cap_net_rwa', 'cap_net_raw2',
]  # fmt: skip
scraps = st.one_of(
    st.sampled_from(WRONG),
    st.sampled_from(SPACES + TRAPS),
    st.characters(min_codepoint=1, max_codepoint=0x2FF),
)


@st.composite
def slips(draw):
    """A sentence of the language with something cut out of it or put into it."""
    text = draw(sentences)
    start = draw(st.integers(0, len(text)))
    stop = min(len(text), start + draw(st.sampled_from([0, 0, 1, 1, 2, 5])))
    return text[:start] + draw(st.one_of(st.just(''), scraps)) + text[stop:]


junk = st.one_of(
    st.lists(scraps, max_size=5).map(''.join),
    st.text('=+-,epi01x_ \ta', max_size=12),
    st.text(st.characters(min_codepoint=1, exclude_categories=['Cs']), max_size=12),
)


def meaning(text):
    """The bits that Caps reads in a text; None where it refuses it."""
    try:
        return libcap.masks(Caps(text))
    except ValueError:
        return None


def same(text):
    """What libcap and Caps both read in a text."""
    expected = libcap.read(text)
    assert meaning(text) == expected
    return expected


def test_sentences_of_the_language_mean_what_libcap_reads():
    seen = Counter()

    @settings(max_examples=examples(400))
    @given(sentences)
    def compare(text):
        three = same(text)
        assert three is not None
        seen[len(set(three))] += 1

    compare()
    assert seen[2] + seen[3] > examples(400) // 8, 'the sentences are too simple to prove anything'


def test_texts_near_the_language_are_taken_where_libcap_takes_them():
    taken = Counter()

    @settings(max_examples=examples(600))
    @given(slips())
    def compare(text):
        taken[same(text) is not None] += 1

    compare()
    assert min(taken[True], taken[False]) > examples(600) // 12, taken


@settings(max_examples=examples(300))
@given(junk)
def test_junk_is_refused_where_libcap_refuses_it(text):
    event(f'taken: {same(text) is not None}')


EVERYTHING = [libcap.ALL] * 3

TAKEN = {
    '': (0, 0, 0),
    ' \t\n\r\v\f': (0, 0, 0),
    '=': (0, 0, 0),
    '= = =': (0, 0, 0),
    '=epi': EVERYTHING,
    'all=epi': EVERYTHING,
    'ALL+epi': EVERYTHING,
    'all,cap_kill=eepipe': EVERYTHING,
    '=i cap_kill-i': (0, 0, libcap.ALL & ~(1 << 5)),
    'cap_kill=+ep': (1 << 5, 1 << 5, 0),
    'cap_kill=-ep': (0, 0, 0),
    'CAP_KILL=p': (0, 1 << 5, 0),
    'cap_kill=ep-e+i': (0, 1 << 5, 1 << 5),
    'cap_kill=epi cap_kill=': (0, 0, 0),
    '=epi\tcap_kill=p': (libcap.ALL & ~(1 << 5), libcap.ALL, libcap.ALL & ~(1 << 5)),
    'cap_chown,5,07,0x8=p': (0, 0b110100001, 0),
    '010=p': (0, 1 << 8, 0),
    '63=p': (0, 1 << 63, 0),
    '0X3F+p': (0, 1 << 63, 0),
    '63=p =': (0, 1 << 63, 0),
    '63,all=p': (0, libcap.ALL, 0),
    'all,63=p': (0, libcap.ALL | 1 << 63, 0),
    '0' * 5000 + '=p': (0, 1, 0),
}


@pytest.mark.parametrize('text', TAKEN, ids=lambda text: repr(text[:20]))
def test_text_that_is_taken(text):
    assert libcap.read(text) == meaning(text) == tuple(TAKEN[text])


REFUSED = [
    'cap_kill', 'all', '5', '+ep', '-ep', '=+ep', '=-', '=e+p', '+', '==', ',=p', 'x',
    'cap_kill=E', 'cap_kill=x', 'cap_kill=p,', 'cap_kill+', 'cap_kill-', 'cap_kill=+',
    'cap_kill=p+', 'cap_kill=p-=', 'cap_kill==p', 'cap_kill+ p', 'cap_kill =p', 'cap_kill, 5=p',
    ',cap_kill=p', 'cap_kill,=p', 'cap_kill,,5=p', 'kill=p', 'cap_kil=p', 'cap_killl=p',
    'cap_kill5=p', 'cap_5=p', 'all5=p', 'all_=p', '_=p', '64=p', '0100=p', '0x40=p', '08=p',
    '0x=p', '0xg=p', '0b=p', '0b2=p', '0b_1=p', '0o7=p', '1_0=p', '5 0=p',
    f'{2**32 + 5}=p', f'{2**64 + 5}=p',
    '9' * 5000 + '=p', 'cap_kill=p\x1ccap_chown=p', 'cap_kill=p\xa0', 'cap_kill=p\x1c',
    'cap_kill=p\x1c-p', '\u0665=p', '\xb2=p', 'cap_k\u0131ll=p', 'CAP_KILL=p \u2003',
    '!cap_kill', 'cap_kill=p ^cap_chown',
]  # fmt: skip


@pytest.mark.parametrize('text', REFUSED, ids=lambda text: repr(text[:20]))
def test_text_that_is_refused(text):
    assert libcap.read(text) is None
    for read in Caps, Caps.from_text:
        with pytest.raises(ValueError, match='is not capability text: '):
            read(text)


def test_a_binary_number_is_taken_where_libcap_takes_it():
    assert same('0b101=p') == same('0B00101=p') in (None, (0, 1 << 5, 0))
    assert same('0b1000000=p') is None


@pytest.mark.parametrize('text', ['\0', 'cap_kill=p\0', 'cap_kill=p\0cap_chown=p', '\ud800'])
def test_what_no_c_string_can_hold_is_refused(text):
    with pytest.raises(ValueError, match='is not capability text: '):
        Caps(text)


@pytest.mark.parametrize('what', [None, 1, b'cap_kill=p', ['cap_kill']])
def test_what_is_no_text_is_said_to_be_none(what):
    with pytest.raises(TypeError, match=f'text is a str, .* not {type(what).__name__}$'):
        Caps(what)
    with pytest.raises(TypeError, match=f'text is a str, .* not {type(what).__name__}$'):
        IAB(what)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('cap_net_rwa=p', "'cap_net_rwa' is not a capability; did you mean 'cap_net_raw'?"),
        ('net_raw=p', "'net_raw' is not a capability; did you mean 'cap_net_raw'?"),
        ('64=p', "'64' is not a capability"),
        ('cap_net_raw', "no =, + or - after 'cap_net_raw'"),
        ('cap_net_raw=p cap_kill', "no =, + or - after 'cap_kill'"),
        ('+ep', 'only a list of capabilities can be added or taken away'),
        ('cap_net_raw+', "no set after '+'"),
        ('cap_net_raw=E', "'E' is not one of the sets e, i and p"),
    ],
)
def test_a_refusal_names_the_text_and_the_reason(text, reason):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        Caps(text)
    assert str(refusal.value).startswith(f'{text!r} is not capability text: {reason}')


@pytest.mark.parametrize('value', [None, 5, b'=p', ['cap_kill']])
def test_what_is_no_text_is_no_state(value):
    with pytest.raises((TypeError, AttributeError)):
        Caps(value)


@given(states)
def test_any_three_sets_are_printed_as_libcap_prints_them(three):
    text = str(Caps(**sets(three)))
    assert text == libcap.written(three)
    assert libcap.read(text) == three


@given(states)
def test_any_three_sets_that_libcap_prints_are_read(three):
    caps = Caps(libcap.written(three))
    assert libcap.masks(caps) == three
    assert eval(repr(caps)) == caps == Caps(**sets(three))


def sets(three):
    effective, permitted, inheritable = map(CapSet.from_mask, three)
    return {'effective': effective, 'permitted': permitted, 'inheritable': inheritable}


def test_keywords_add_to_the_text():
    caps = Caps('cap_kill=p', permitted=['net_raw'], effective='chown', inheritable=iter([5]))
    assert str(caps) == 'cap_kill=ip cap_net_raw+p cap_chown+e'


def test_capabilities_without_a_name_are_numbers_in_text():
    assert libcap.NAMES[63] == '63'
    assert str(Caps('62=p 63=ei')) == '= 63+ei 62+p'
    assert repr(Caps(permitted=[63])) == "Caps('= 63+p')"
