"""Tokenizers: text to ids and back, each chosen by name.

`build("char", text)` makes a tokenizer for a text, `load(path)` reads back one that `save` wrote. A new kind of
tokenizer is one class with a name: `register` makes it known to both.
"""

from tinygrad_llm.text.base import Tokenizer, build, load, names, register
from tinygrad_llm.text.char import CharTokenizer
from tinygrad_llm.text.pipeline import bert_words
from tinygrad_llm.text.tiktoken import TiktokenTokenizer
from tinygrad_llm.text.unigram import UnigramTokenizer
from tinygrad_llm.text.word import WordTokenizer
from tinygrad_llm.text.wordpiece import WordPieceTokenizer

__all__ = [
    "CharTokenizer", "TiktokenTokenizer", "Tokenizer", "UnigramTokenizer", "WordPieceTokenizer", "WordTokenizer",
    "bert_words", "build", "load", "names", "register",
]  # fmt: skip
