import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import PersonalData
from tinygrad_llm.data.patterns import PATTERNS, card, find, iban

# Shapes and published examples; none belongs to anybody.
FOUND = {
    "email": ["jo.doe+news@mail.example.org", "a@b.co", "x_y%z@sub-domain.example.museum"],
    "iban": [
        "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR14 2004 1010 0505 0001 3M02 606",
        "NO93 8601 1117 947",
    ],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"],
    "ip address": ["192.168.0.1", "8.8.8.8"],
    "phone": [
        "+49 30 901820", "+1 (202) 555-0143", "0044 20 7946 0958", "08452810075", "(202) 555-0143", "202-555-0143",
    ],
    "key": [
        "AKIA" + "Z7" * 8, "gh" + "p_" + "aB3" * 12, "xox" + "b-123456789012-abcdefABCDEF", "AI" + "za" + "x" * 35,
        "s" + "k-" + "proj-" + "a1B2" * 8, "h" + "f_" + "Qw" * 17,
        "ey" + "JhbGciOiJIUzI1." + "ey" + "JzdWIiOiIxMjM0.c2lnbmF0dXJl",
    ],
    "private key": [
        "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nabc+/=\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN " + "PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nMIIE",
    ],
}  # fmt: skip

STAYS = [
    "it was 12:30 on 2024-01-02", "pi is 3.14159265358979", "version 1.2.3.4.5", "@home and me@work",
    "ISBN 978-3-16-148410-0",
    "4111 1111 1111 1112", "256.1.1.1", "1,234,567,890", "in 1984 and 2001", "AKIA", "sk-short",
    "a public key: -----BEGIN PUBLIC KEY-----", "0.5 0.25 0.125", "the year 2000-2010",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_what_has_the_shape_is_found_whole(kind, text):
    before, after = "write this: ", ", or do not. "
    assert find(before + text + after) == [(len(before), len(before) + len(text), kind)]
    judge = PersonalData().start()
    assert judge(0, before + text).spans == [(len(before), len(before) + len(text), f"[{kind.upper()}]")]


@pytest.mark.parametrize("text", STAYS)
def test_what_only_looks_like_it_stays(text):
    assert find(text) == []


def test_what_follows_a_number_does_not_hide_it():
    assert find("DE89 3704 0044 0532 0130 00 AND MORE")[0][:2] == (0, 27)
    assert find("AB12 DE89 3704 0044 0532 0130 00")[0][:2] == (5, 32)
    assert find("4111 1111 1111 1111 5 times")[0][:2] == (0, 19)


@given(st.from_regex(re.compile(r"[0-9A-Z]{18}"), fullmatch=True))
def test_an_iban_holds_for_one_pair_of_check_digits(account):
    holding = [check for check in range(2, 99) if iban(f"DE{check:02d}{account}")]
    assert len(holding) == 1


@given(st.integers(10**14, 10**15 - 1))
def test_a_card_number_holds_for_one_last_digit(number):
    assert sum(card(f"{number}{last}") == 16 for last in range(10)) == 1


@given(st.text(alphabet="a@.1-+ DE89370400440532013", max_size=80))
def test_spans_are_in_order_and_apart(text):
    spans = find(text)
    assert all(0 <= a < b <= len(text) and kind in PATTERNS for a, b, kind in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_kinds_can_be_chosen_and_documents_removed():
    text = "a@b.org 8.8.8.8 c@d.org"
    assert [kind for *_, kind in find(text)] == ["email", "ip address", "email"]
    judge = PersonalData(["email"], mask=False).start()
    finding = judge(0, text)
    assert finding.spans == () and finding.reason == "2 email" and finding.measure == 2
    assert judge(1, "8.8.8.8") is None
    with pytest.raises(ValueError, match="unknown kind 'name'; known are private key, key, email"):
        PersonalData(["name"])


@pytest.mark.parametrize(
    "piece",
    ["a", "1 ", "-", "a.", "a@", "A", "A1 ", "eyJ", "-eyJaaaaaaaa", "+", "0", "sk-", "-----BEGIN PRIVATE KEY-----"],
)
def test_no_text_makes_a_pattern_try_for_ever(piece):
    """Looking ahead without a bound from each place of these would take hours."""
    spans = find(piece * (400_000 // len(piece)))
    assert bool(spans) == (piece in ("sk-", "-----BEGIN PRIVATE KEY-----"))


def test_an_iban_with_other_check_digits_is_none():
    assert "iban" not in [kind for *_, kind in find("DE88 3704 0044 0532 0130 00")]


@pytest.mark.parametrize("address", ["jo@example.org", "555-123-4567", "4111 1111 1111 1111", "192.168.10.1"])
def test_what_stands_beside_letters_of_other_scripts_is_found(address):
    for before, after in (("写信 ", "谢谢"), ("почта ", "да")):
        assert [span[:2] for span in find(before + address + after)] == [(len(before), len(before + address))]


def test_a_local_part_of_any_letters_is_found_with_all_of_them():
    assert find("a jörg@example.org_b") == [(2, 18, "email")]
