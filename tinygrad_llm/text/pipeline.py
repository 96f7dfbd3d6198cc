r"""What stands around a tokenizer's model: text -> words before it, tokens -> text after it.

The steps are those of Hugging Face's `tokenizer.json`, by their names there, so a tokenizer trained here and one from
elsewhere are the same thing with other steps. Each step is a function that its JSON object makes. What is not in the
tables is refused; so is a regular expression other than `WORDS` and `CONTINUES`: one from outside could run forever.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

import regex

from tinygrad_llm.text import bert
from tinygrad_llm.text.bytelevel import TO_BYTE, from_printable, to_printable
from tinygrad_llm.text.huggingface import Fields, only, option

# Letters, digits or marks with a space before them, or white space: the words of a text, joined, are the text. "#" is
# always a word of its own, so that no word starts with "##".
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?#| ?[^\s\p{L}\p{M}\p{N}#]+|\s+(?!\S)|\s"
MOST_STEPS = 100  # of a Sequence
CONTINUES = r"\A##"  # the mark of a WordPiece that goes on with a word

Normalize = Callable[[str], str]
Split = Callable[[str], Iterable[str]]
Decode = Callable[[list[str]], list[str]]


@lru_cache(maxsize=65536)
def bytes_as_characters(text: str) -> str:
    """The UTF-8 bytes of a text, a printable character each."""
    return to_printable(text.encode())


def _byte_level_decoder(tokens: list[str]) -> list[str]:
    spelled = [from_printable(token) if all(c in TO_BYTE for c in token) else token.encode() for token in tokens]
    return [b"".join(spelled).decode(errors="replace")]


def byte_token(byte: int) -> str:
    """The piece that stands for a byte where a character has no piece."""
    return f"<0x{byte:02X}>"


def byte_of(token: str) -> int | None:
    """The byte that a token stands for; None for any other token."""
    found = _BYTE_TOKEN.fullmatch(token)
    return int(found[1], 16) if found else None


_BYTE_TOKEN = regex.compile("<0x([0-9A-Fa-f]{2})>")


def _byte_fallback_decoder(tokens: list[str]) -> list[str]:
    """Runs of byte tokens become the text they spell, or U+FFFD for each of them when they spell none."""
    parts: list[str] = []
    run: list[int] = []
    for token in [*tokens, ""]:
        if (byte := byte_of(token)) is not None:
            run.append(byte)
            continue
        if run:
            try:
                parts.append(bytes(run).decode())
            except UnicodeDecodeError:
                parts += ["\ufffd"] * len(run)
            run = []
        parts.append(token)
    return parts[:-1]


def _metaspace(fields: Fields) -> tuple[str, str, bool]:
    mark = option(fields, "replacement", str)
    if len(mark) != 1:
        raise ValueError(f'Metaspace: "replacement" must be one character, found {mark!r:.80}')
    scheme = option(fields, "prepend_scheme", str, "always")
    if fields.get("add_prefix_space") is False:
        scheme = "never"
    if scheme not in ("always", "never"):
        raise ValueError(f'Metaspace: "prepend_scheme" {scheme!r:.80} is not supported, only "always" and "never"')
    return mark, scheme, option(fields, "split", bool, True)


def _metaspace_words(fields: Fields) -> Split:
    mark, scheme, cuts = _metaspace(fields)
    word = regex.compile(f"{regex.escape(mark)}[^{regex.escape(mark)}]*|[^{regex.escape(mark)}]+")

    def split(text: str) -> list[str]:
        text = text.replace(" ", mark)
        if scheme == "always" and text and not text.startswith(mark):
            text = mark + text
        return word.findall(text) if cuts else [text]

    return split


def _metaspace_decoder(fields: Fields) -> Decode:
    mark, scheme, _ = _metaspace(fields)

    def decode(tokens: list[str]) -> list[str]:
        first = "" if scheme == "always" else " "
        return [token.replace(mark, " " if i else first) for i, token in enumerate(tokens)]

    return decode


def _split_words(fields: Fields) -> Split:
    only(fields, pattern={"Regex": WORDS}, behavior="Isolated", invert=False)
    find = regex.compile(WORDS).finditer
    return lambda text: (found.group() for found in find(text))


def _byte_level_words(fields: Fields) -> Split:
    only(fields, add_prefix_space=False, use_regex=False)
    option(fields, "use_regex", bool)  # whose default would be True
    return lambda text: [bytes_as_characters(text)]


def _replace(fields: Fields) -> Normalize:
    content, pattern = option(fields, "content", str), option(fields, "pattern", dict)
    if pattern == {"Regex": CONTINUES} and not content:
        return lambda text: text.removeprefix("##")
    if list(pattern) != ["String"] or not isinstance(pattern["String"], str) or not pattern["String"]:
        raise ValueError(f"Replace: pattern {pattern!r:.80} is not supported, only a string")
    if len(content) > len(pattern["String"]):  # forty of them would make a terabyte of one letter
        raise ValueError(f"Replace: content {content!r:.80} may not be longer than {pattern['String']!r:.80}")
    return lambda text: text.replace(pattern["String"], content)


def _replace_decoder(fields: Fields) -> Decode:
    replace = _replace(fields)
    return lambda tokens: [replace(token) for token in tokens]


def _strip(fields: Fields) -> Decode:
    mark, start, stop = option(fields, "content", str), option(fields, "start", int), option(fields, "stop", int)
    if len(mark) != 1 or not 0 <= start < 100 or stop:
        raise ValueError(f"Strip: content {mark!r:.80}, start {start}, stop {stop}: one character, 0 to 99, 0 needed")

    def decode(tokens: list[str]) -> list[str]:
        return [token[min(start, len(token) - len(token.lstrip(mark))) :] for token in tokens]

    return decode


def _wordpiece_decoder(fields: Fields) -> Decode:
    prefix, cleanup = option(fields, "prefix", str), option(fields, "cleanup", bool)
    return lambda tokens: bert.spaced(tokens, prefix, cleanup)


def _bert_normalizer(fields: Fields) -> Normalize:
    clean, chinese, lower = (option(fields, key, bool) for key in ("clean_text", "handle_chinese_chars", "lowercase"))
    accents = option(fields, "strip_accents", (bool, type(None)))
    return bert.normalizer(clean, chinese, lower if accents is None else accents, lower)


def _unicode_form(fields: Fields) -> Normalize:
    return lambda text: unicodedata.normalize(fields["type"], text)


NORMALIZERS: dict[str, Callable[[Fields], Normalize]] = {
    "BertNormalizer": _bert_normalizer,
    "Lowercase": lambda fields: lambda text: "".join([c.lower() for c in text]),
    "Replace": _replace,
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD"), _unicode_form),
}
PRE_TOKENIZERS: dict[str, Callable[[Fields], Split]] = {
    "BertPreTokenizer": lambda fields: bert.words,
    "ByteLevel": _byte_level_words,
    "Metaspace": _metaspace_words,
    "Split": _split_words,
}
DECODERS: dict[str, Callable[[Fields], Decode]] = {
    "ByteFallback": lambda fields: _byte_fallback_decoder,
    "ByteLevel": lambda fields: _byte_level_decoder,
    "Fuse": lambda fields: lambda tokens: ["".join(tokens)],
    "Metaspace": _metaspace_decoder,
    "Replace": _replace_decoder,
    "Strip": _strip,
    "WordPiece": _wordpiece_decoder,
}
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "normalizer": (NORMALIZERS, "normalizers"),
    "pre_tokenizer": (PRE_TOKENIZERS, "pretokenizers"),
    "decoder": (DECODERS, "decoders"),
}


def _steps(fields: Any, kind: str) -> list[Callable[[Any], Any]]:
    """The functions that a part of `tokenizer.json` asks for, one for each member of a `Sequence`."""
    if fields is None:
        return []
    makers, members = KINDS[kind]
    parts = [fields]
    if isinstance(fields, dict) and fields.get("type") == "Sequence":
        parts = option(fields, members, list)
        if len(parts) > MOST_STEPS:
            raise ValueError(f"tokenizer.json: {kind} has {len(parts):,} steps, more than {MOST_STEPS}")
    steps = []
    for part in parts:
        name = part.get("type") if isinstance(part, dict) else None
        if not isinstance(name, str) or name not in makers:
            known = ", ".join(sorted(makers))
            raise ValueError(f"tokenizer.json: {kind} {name!r:.80} is not supported; known are {known}")
        steps.append(makers[name](part))
    return steps


class Pipeline:
    """The three parts of a `tokenizer.json` around its model, each a JSON object or None.

    Raises: ValueError for a step that is not known here.
    """

    def __init__(self, normalizer: Any = None, pre_tokenizer: Any = None, decoder: Any = None) -> None:
        self.fields = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder}
        self._normalizers, self._splits, self._decoders = (_steps(part, kind) for kind, part in self.fields.items())

    def words(self, text: str) -> Iterator[str]:
        """Text -> the words that the model sees, one after the other, none of them empty.

        Raises: ValueError naming a lone surrogate and its position; TypeError for what is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"tokenizer: a text must be a str, found {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"tokenizer: {text[error.start]!r} at position {error.start} is half of a surrogate pair and no "
                f"character; text.encode('utf-8', 'replace').decode() makes it a question mark"
            ) from None
        for normalize in self._normalizers:
            text = normalize(text)
        found: Iterable[str] = [text] if text else []
        for split in self._splits:
            found = chain.from_iterable(map(split, found))  # lazily: the words of a long text are many
        return iter(found)

    def join(self, tokens: list[str]) -> str:
        """Tokens -> text."""
        if not self._decoders:
            return " ".join(tokens)
        for decode in self._decoders:
            tokens = decode(tokens)
        return "".join(tokens)


_SPLIT = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def lossless_words() -> Pipeline:
    """Words with the space before them, characters as they are, bytes for what has no piece: `UnigramTokenizer`'s."""
    return Pipeline(None, _SPLIT, {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]})


def lossless_bytes() -> Pipeline:
    """Words with the space before them, spelled in bytes: `WordPieceTokenizer`'s."""
    unmark = {"type": "Replace", "pattern": {"Regex": CONTINUES}, "content": ""}
    return Pipeline(
        None,
        {"type": "Sequence", "pretokenizers": [_SPLIT, _BYTES]},
        {"type": "Sequence", "decoders": [unmark, _BYTES]},
    )


def bert_words(lowercase: bool = True) -> Pipeline:
    """BERT's words and marks, without white space; in lower case and without accents, or as they are."""
    return Pipeline(**bert.fields(lowercase))
