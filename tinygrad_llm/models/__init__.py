"""Language models: their architecture, writing with them, and their files."""

from .adapters import load_adapter, save_adapter
from .beam import beam_search
from .cache import KVCache, Reader
from .checkpoint import load, save_pretrained
from .generation import generate, generate_batch, generate_text_simple, stream
from .gpt import GPTConfig, GPTModel
from .pretrained import from_pretrained
from .sampling import Sampling
from .scoring import Scored, log_probabilities, perplexity, score_rows
from .streaming import TextDecoder, stream_text

__all__ = [
    "GPTConfig", "GPTModel", "from_pretrained", "load", "load_adapter", "save_adapter", "save_pretrained",
    "generate", "generate_batch", "generate_text_simple", "stream", "stream_text", "Sampling", "TextDecoder",
    "KVCache", "Reader", "beam_search",
    "Scored", "log_probabilities", "perplexity", "score_rows",
]  # fmt: skip
