"""Language models: their architecture, writing with them, and their files."""

from .checkpoint import load, save_pretrained
from .generation import generate, generate_text_simple
from .gpt import GPTConfig, GPTModel

__all__ = ["GPTConfig", "GPTModel", "generate", "generate_text_simple", "load", "save_pretrained"]
