"""Switches for a GPU's matrix products, which are computed in float32 whatever they say."""

from tinygrad_llm.cuda import is_available


class matmul:
    """Whether products may round their factors. Here they do not."""

    allow_tf32 = False


def is_built() -> bool:
    """Whether CuPy is installed and finds a GPU."""
    return is_available()
