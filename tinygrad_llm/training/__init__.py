"""Training: recipes and presets, the loop, its numbers, pictures and messages."""

from tinygrad_llm.training.checkpoint import Checkpoints, Damaged
from tinygrad_llm.training.folder import RunFolder
from tinygrad_llm.training.interrupt import StopOnInterrupt
from tinygrad_llm.training.lock import locked
from tinygrad_llm.training.metrics import Evaluation, MetricsFile, peak_memory, perplexity, read_metrics
from tinygrad_llm.training.out_folder import check_out, open_out
from tinygrad_llm.training.plots import plot_loss, plot_runs
from tinygrad_llm.training.recipe import PRESETS, Preset, Recipe, preset
from tinygrad_llm.training.resumable import Resumable
from tinygrad_llm.training.spikes import BadStep, LossSpike, NonFiniteLoss, SpikeGuard
from tinygrad_llm.training.steps import StepsFile, read_steps
from tinygrad_llm.training.tensorboard import EventsFile
from tinygrad_llm.training.trainer import Trainer, adamw, mean_loss, next_token_loss, rate_factor, targets_in

__all__ = [
    "BadStep",
    "Checkpoints",
    "Damaged",
    "Evaluation",
    "EventsFile",
    "LossSpike",
    "MetricsFile",
    "NonFiniteLoss",
    "PRESETS",
    "Preset",
    "Recipe",
    "Resumable",
    "RunFolder",
    "SpikeGuard",
    "StepsFile",
    "StopOnInterrupt",
    "Trainer",
    "adamw",
    "check_out",
    "locked",
    "mean_loss",
    "next_token_loss",
    "open_out",
    "peak_memory",
    "perplexity",
    "plot_loss",
    "plot_runs",
    "preset",
    "rate_factor",
    "read_metrics",
    "read_steps",
    "targets_in",
]
