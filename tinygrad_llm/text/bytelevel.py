"""Bytes as printable characters: how GPT-2's and Hugging Face's files write tokens that are no whole characters."""

# GPT-2 numbers its first 256 tokens in this order: the bytes that Latin-1 prints, then the others.
BYTE_ORDER = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER += [b for b in range(256) if b not in BYTE_ORDER]

TO_CHARACTER = {b: chr(b) if i < 188 else chr(256 + i - 188) for i, b in enumerate(BYTE_ORDER)}
TO_BYTE = {c: b for b, c in TO_CHARACTER.items()}


def to_printable(token: bytes) -> str:
    """b" the" -> "Ġthe": one printable character a byte."""
    return token.decode("latin-1").translate(TO_CHARACTER)


def from_printable(text: str) -> bytes:
    """The inverse of `to_printable`. Raises: ValueError naming a character that stands for no byte."""
    try:
        return bytes([TO_BYTE[c] for c in text])
    except KeyError as error:
        raise ValueError(
            f"token {text!r} holds {error.args[0]!r}, which stands for no byte: this vocabulary is not byte-level"
        ) from None


def visible(token: bytes) -> str:
    r"""A token for the eye: b" caf\xc3" -> "␣caf\xc3". Spaces are shown, what does not print is escaped."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        text = token.decode("latin-1").encode("ascii", "backslashreplace").decode()
    shown = "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])
    return shown.replace(" ", "␣")
