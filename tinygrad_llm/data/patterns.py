"""A step of `clean` that finds what should not be learned by heart: addresses, numbers of people, keys.

A pattern says where one may stand; where the kind has a checksum, it must hold. Each looks a bounded way ahead, so that
a text of any size is read in time proportional to it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tinygrad_llm.data.cleaning import Finding, Judge, Span

# ISO 13616: letters and digits of an IBAN by country
IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        "([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
        "LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 "
        "SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20",
    )
}


def iban(text: str) -> int:
    """How many characters of the text, from its first, are an IBAN whose check digits hold; 0 for none."""
    length = IBAN_LENGTHS.get(text[:2], 0)
    compact, end = "", 0
    while end < len(text) and len(compact) < length:
        compact += text[end].strip()
        end += 1
    if not length or len(compact) < length or text[end : end + 1].isalnum():
        return 0
    number = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])  # A is 10, B is 11, ..
    return end if int(number) % 97 == 1 else 0


def card(text: str) -> int:
    """How many characters of the text, from its first, are 13 to 19 digits that end with Luhn's check digit, or 0."""
    for end in reversed([group.end() for group in re.finditer("[0-9]+", text)]):
        digits = [int(c) for c in reversed(text[:end]) if c.isdigit()]
        doubled = [sum(divmod(2 * d, 10)) for d in digits[1::2]]
        if len(digits) >= 13 and (sum(digits[::2]) + sum(doubled)) % 10 == 0:
            return end
    return 0


class Pattern(NamedTuple):
    """Where something may stand, and how many characters of what was found it really takes (0: it is none)."""

    regex: re.Pattern[str]
    check: Callable[[str], int] = len


_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"

# In this order: what overlaps takes the name of the first.
PATTERNS = {
    "private key": Pattern(
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:\s*(?:Proc-Type|DEK-Info):[^\n]{0,80}\n)*"
            r"[A-Za-z0-9+/=\s]*(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?"
        )
    ),
    "key": Pattern(
        re.compile(
            r"(?<![A-Za-z0-9])(?:"
            r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # Amazon
            r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
            r"|glpat-[A-Za-z0-9_-]{20,64}"
            r"|AIza[A-Za-z0-9_-]{35}"  # Google
            r"|xox[abeprs]-[A-Za-z0-9-]{10,250}"  # Slack
            r"|sk-[A-Za-z0-9_-]{20,200}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,128}"
            r"|hf_[A-Za-z0-9]{30,64}"
            r"|eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,1000}"  # a signed web token
            r")(?![A-Za-z0-9])"
        )
    ),
    "email": Pattern(
        re.compile(
            r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}"
            r"(?![A-Za-z0-9-])"  # a letter of another script may follow at once
        )
    ),
    "iban": Pattern(re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}"), iban),
    "card": Pattern(re.compile(r"(?<![A-Za-z0-9_.])[2-6](?:[ -]?[0-9]){12,18}(?![A-Za-z0-9_])"), card),
    "ip address": Pattern(re.compile(rf"(?<![A-Za-z0-9_.])(?:{_BYTE}\.){{3}}{_BYTE}(?!\.?[A-Za-z0-9_])")),
    "phone": Pattern(
        re.compile(
            r"(?<![A-Za-z0-9_.+])(?:"
            r"(?:\+|00)[1-9](?:[ ()./-]{0,2}[0-9]){7,13}"  # with the country's code
            r"|0[1-9][0-9]{1,4}[ /-]?[0-9]{3,4}[ -]?[0-9]{3,4}"  # with a leading zero
            r"|(?:\([0-9]{3}\) ?|[0-9]{3}[. -])[0-9]{3}[. -][0-9]{4}"  # North America's
            r")(?![A-Za-z0-9_])"
        )
    ),
}


@dataclass(frozen=True)
class PersonalData:
    """Masks what PATTERNS find, an address as [EMAIL], or with mask=False removes the document that has any.

    Patterns know shapes, not meanings: some numbers are no telephone's, and a name without a shape is not found.

    Raises: ValueError for a name that is none of theirs.
    """

    kinds: Sequence[str] = tuple(PATTERNS)
    mask: bool = True
    name: str = "personal data"

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(PATTERNS):
            raise ValueError(f"PersonalData: unknown kind {min(unknown)!r}; known are {', '.join(PATTERNS)}")

    def start(self) -> Judge:
        """A judge, which remembers nothing."""
        return lambda index, text: self._judge(text)

    def _judge(self, text: str) -> Finding | None:
        found = find(text, self.kinds)
        if not found:
            return None
        kinds = [kind for _, _, kind in found]
        reason = ", ".join(f"{kinds.count(kind)} {kind}" for kind in PATTERNS if kind in kinds)
        spans: list[Span] = [(start, end, f"[{kind.upper()}]") for start, end, kind in found]
        return Finding(reason, len(found), spans if self.mask else ())


def find(text: str, kinds: Sequence[str] = tuple(PATTERNS)) -> list[tuple[int, int, str]]:
    """Where each of these kinds stands: (start, end, kind) in order; what overlaps is one, of the first kind."""
    found = []
    for priority, (kind, pattern) in enumerate(PATTERNS.items()):
        if kind in kinds:
            at = 0
            while match := pattern.regex.search(text, at):
                length = pattern.check(match.group())
                at = match.start() + max(1, length)
                if length:
                    found.append((match.start(), at, priority, kind))
    joined: list[tuple[int, int, int, str]] = []
    for start, end, priority, kind in sorted(found):
        if joined and start < joined[-1][1]:
            before = joined[-1]
            priority, kind = min((priority, kind), before[2:])
            joined[-1] = (before[0], max(end, before[1]), priority, kind)
        else:
            joined.append((start, end, priority, kind))
    return [(start, end, kind) for start, end, _, kind in joined]
