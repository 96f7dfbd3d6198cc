"""Texts and windows over them: what a language model is trained on."""

from tinygrad_llm.data.corpora import Corpus, Floor, load, read
from tinygrad_llm.data.windows import Windows, ids_array, split

__all__ = ["Corpus", "Floor", "Windows", "ids_array", "load", "read", "split"]
