"""From the text that flags name to ids: the corpus, its tokenizer, the ids to learn from and to judge by."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygrad_llm import data, text
from tinygrad_llm.data import Corpus, Row, Windows
from tinygrad_llm.data.manifest import MANIFEST

Ids = np.ndarray | Row


@dataclass(frozen=True)
class Material:
    """What a run learns from. fingerprint: tells the text, as this tokenizer cuts it, from every other."""

    corpus: Corpus
    tokenizer: text.Tokenizer
    train: Ids
    validation: Ids
    fingerprint: str

    def windows(self, context: int) -> tuple[Windows, Windows]:
        """Every window to learn from, and those to judge by, which overlap nowhere.

        Raises: ValueError naming a part that does not fill one.
        """
        return _windows("training", self.train, context, 1), _windows("validation", self.validation, context, context)

    def first_ids(self, prompt: str | None) -> list[int]:
        """The ids that samples begin with: the prompt's; else an empty line, or how the text begins.

        Raises: ValueError for an empty prompt, or one that the tokenizer has no ids for.
        """
        if prompt is None:
            usual = "\n\n" if "\n\n" in self.corpus.train else self.corpus.train[:1]
            return self.tokenizer.encode_ordinary(usual) or self.train[:1].tolist()  # some drop white space
        if not prompt:
            raise ValueError("--prompt is empty; a sample needs at least one token to go on from")
        try:
            ids = self.tokenizer.encode(prompt, allowed_special="all")
        except ValueError as error:
            raise ValueError(f"--prompt {prompt!r}: {error}") from None
        if not ids:
            raise ValueError(f"--prompt {prompt!r}: the tokenizer {self.tokenizer.name} has no tokens for it")
        return ids


def load_material(
    path: str, val_fraction: float, tokenizer: str | None, vocab_size: int | None, usual: tuple[str, int | None]
) -> Material:
    """A text by its path or name, cut in two and tokenized; or the ids that examples/prepare_data.py made of one.

    tokenizer and vocab_size: as the flags say; usual: the tokenizer and its size where they say nothing.

    Raises: OSError; ValueError for what is no text, is damaged, or a tokenizer other than that of the shards.
    """
    if data.is_prepared(path) and not data.corpora.is_name(path):
        if vocab_size is not None:
            raise ValueError(f"--vocab-size {vocab_size}: the shards in {path} have their tokenizer; leave it out")
        return _prepared(path, tokenizer)
    corpus = data.load(path, val_fraction)
    if not isinstance(corpus, Corpus):
        raise ValueError(f"--data {path}: a table of examples, not a text")
    name = tokenizer or usual[0]
    size = usual[1] if vocab_size is None and name == usual[0] else vocab_size
    # a tokenizer that has ids for any text never sees the validation text
    made = text.build(name, corpus.train if text.is_trainable(name) else corpus.train + corpus.validation, size)
    if made.vocab_size < 2:
        raise ValueError(f"--data: {corpus.name} has one different token only; there is nothing to learn from it")
    train, validation = (
        data.ids_array(made.encode_ordinary(part), made.vocab_size) for part in (corpus.train, corpus.validation)
    )
    digest = hashlib.sha256()
    for part in (train, validation):
        digest.update(part.tobytes())
    return Material(corpus, made, train, validation, digest.hexdigest())


def _prepared(folder: str, tokenizer: str | None) -> Material:
    """What examples/prepare_data.py made of a text; as the text itself stands its beginning."""
    manifest = data.verify(folder)
    if tokenizer not in (None, manifest.tokenizer):
        raise ValueError(
            f"--tokenizer {tokenizer}: the shards in {folder} were made with {manifest.tokenizer}; leave the flag out, "
            f"or prepare the text again"
        )
    shards = data.Shards(folder)
    train, validation = shards.row("train"), shards.row("validation")
    beginning = shards.tokenizer.decode(train[:256].tolist())
    digest = hashlib.sha256(Path(folder, MANIFEST).read_bytes()).hexdigest()  # it has the checksum of every shard
    return Material(Corpus(Path(folder).resolve().name, beginning, ""), shards.tokenizer, train, validation, digest)


def _windows(part: str, ids: Ids, context: int, stride: int) -> Windows:
    if len(ids) < context + 1:
        raise ValueError(
            f"the {part} text has {len(ids)} tokens and one window needs {context} + 1; give a longer text with "
            f"--data, a smaller --context, or another --val-fraction"
        )
    return Windows(ids, context, stride)
