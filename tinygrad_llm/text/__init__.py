"""Tokenizers: text to ids and back, each chosen by name.

`build("char", text)` makes a tokenizer for a text, `train("bpe", "texts/")` learns one from files, `load(path)` reads
back one that `save` or another program wrote. A new kind of tokenizer is one class with a name: `register` makes it
known to all three.
"""

from tinygrad_llm.text.base import Tokenizer, Trainable, build, is_trainable, names, register, train
from tinygrad_llm.text.bpe import BPETokenizer
from tinygrad_llm.text.char import CharTokenizer
from tinygrad_llm.text.encoding import EncodingTokenizer
from tinygrad_llm.text.loading import load
from tinygrad_llm.text.pipeline import bert_words
from tinygrad_llm.text.simple import SimpleTokenizer
from tinygrad_llm.text.tiktoken import TiktokenTokenizer
from tinygrad_llm.text.unigram import UnigramTokenizer
from tinygrad_llm.text.word import WordTokenizer
from tinygrad_llm.text.wordpiece import WordPieceTokenizer

__all__ = [
    "BPETokenizer",
    "CharTokenizer",
    "EncodingTokenizer",
    "SimpleTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "Trainable",
    "UnigramTokenizer",
    "WordPieceTokenizer",
    "WordTokenizer",
    "bert_words",
    "build",
    "is_trainable",
    "load",
    "names",
    "register",
    "train",
]
