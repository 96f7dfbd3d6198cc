"""A model and a tokenizer, small, for the tests of this folder."""

import tinygrad_llm as tg
from tinygrad_llm.models import GPTModel
from tinygrad_llm.text import BPETokenizer

TEXT = "the cat sat on the mat and the dog sat on the log. Anna said: the café is open, naïve or not! " * 4
TOKENIZER = BPETokenizer.train([TEXT], 300)


def gpt(context=12, seed=0):
    tg.manual_seed(seed)
    return GPTModel({
        "vocab_size": TOKENIZER.vocab_size, "context_length": context, "emb_dim": 16, "n_heads": 2, "n_layers": 1,
        "drop_rate": 0.0, "qkv_bias": True, "tie_weights": True,
    }).double()  # fmt: skip
