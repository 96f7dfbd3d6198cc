"""The JSON object of Hugging Face's `tokenizer.json`: read with every part checked, and written."""

from collections.abc import Iterator, Mapping
from typing import Any

Fields = dict[str, Any]


def option(fields: Fields, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """fields[key], which must be of that kind. Raises: ValueError when it is not, or missing without a default."""
    value = fields.get(key, default)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):  # a bool is an int to Python
        raise ValueError(f'{fields.get("type", "tokenizer.json")}: "{key}" may not be {value!r:.80}')
    return value


def only(fields: Fields, **allowed: Any) -> None:
    """Raises: ValueError when a field has another value than the one we know."""
    for key, value in allowed.items():
        if fields.get(key, value) != value:
            raise ValueError(f'{fields["type"]}: "{key}" {fields[key]!r:.80} is not supported, only {value!r}')


def model_type(fields: Fields) -> str:
    """The type of the model: "BPE", "WordPiece", ...; the first files did not name BPE's.

    Raises: ValueError for an object of another version, or without a type.
    """
    if fields.get("version") != "1.0":
        raise ValueError(f'tokenizer.json: "version" must be "1.0", found {fields.get("version")!r:.80}')
    model = option(fields, "model", dict)
    return option(model, "type", str, "BPE" if "merges" in model else None)


def model_of(fields: Fields, kind: str) -> Fields:
    """The object "model", of the kind asked for. Raises: ValueError for another kind or version."""
    if (found := model_type(fields)) != kind:
        raise ValueError(f"tokenizer.json: the model is {found!r:.80}, not {kind}")
    return fields["model"]


def added_tokens(fields: Fields, **expected: bool) -> Iterator[tuple[str, int]]:
    """The added tokens and their ids. They must be found as they are: nothing around them is eaten or looked at.

    expected: further flags and the value that they must have.

    Raises: ValueError for a token with a flag that says otherwise.
    """
    for added in option(fields, "added_tokens", (list, type(None))) or []:
        if not isinstance(added, dict):
            raise ValueError(f"tokenizer.json: an added token must be an object, found {added!r:.80}")
        content, i = option(added, "content", str), option(added, "id", int)
        for flag, value in {"lstrip": False, "rstrip": False, "single_word": False, **expected}.items():
            if added.get(flag, value) is not value:
                raise ValueError(
                    f'tokenizer.json: added token {content!r:.80} with "{flag}" {added[flag]!r:.80} is not supported, '
                    f"only {value}"
                )
        yield content, i


def tokenizer_json(
    model: Fields, special_tokens: Mapping[str, int], normalizer: Any, pre_tokenizer: Any, decoder: Any
) -> Fields:
    """The whole object, for a model and the steps around it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = sorted((i, token) for token, i in special_tokens.items())
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in added],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
