"""Language models: their architecture, writing with them, and their files."""

from .adapters import load_adapter, save_adapter
from .checkpoint import load, save_pretrained
from .generation import generate, generate_text_simple
from .gpt import GPTConfig, GPTModel
from .pretrained import from_pretrained

__all__ = [
    "GPTConfig",
    "GPTModel",
    "from_pretrained",
    "generate",
    "generate_text_simple",
    "load",
    "load_adapter",
    "save_adapter",
    "save_pretrained",
]
