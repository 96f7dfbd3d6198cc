"""Training: recipes and presets, the loop, its numbers, pictures and messages."""

from tinygrad_llm.training.interrupt import StopOnInterrupt
from tinygrad_llm.training.metrics import Evaluation, MetricsFile, peak_memory, perplexity, read_metrics
from tinygrad_llm.training.plots import plot_loss
from tinygrad_llm.training.recipe import PRESETS, Preset, Recipe, preset
from tinygrad_llm.training.trainer import NonFiniteLoss, Trainer, adamw, mean_loss, next_token_loss

__all__ = [
    "PRESETS",
    "Evaluation",
    "MetricsFile",
    "NonFiniteLoss",
    "Preset",
    "Recipe",
    "StopOnInterrupt",
    "Trainer",
    "adamw",
    "mean_loss",
    "next_token_loss",
    "peak_memory",
    "perplexity",
    "plot_loss",
    "preset",
    "read_metrics",
]
