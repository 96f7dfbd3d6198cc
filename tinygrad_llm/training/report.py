"""What a pre-training run says of itself: before its first step, and at the end."""

import math

from tinygrad_llm import cuda
from tinygrad_llm.data import Windows
from tinygrad_llm.training import console, memory, speed
from tinygrad_llm.training.checkpoint import Checkpoints
from tinygrad_llm.training.material import Material
from tinygrad_llm.training.metrics import peak_memory, perplexity
from tinygrad_llm.training.trainer import Trainer, mean_loss


def introduction(material: Material, trainer: Trainer, peak: float) -> str:
    """What is going to happen, in a few lines; peak: operations a second of this machine's matrix products."""
    recipe, tokenizer = trainer.recipe, material.tokenizer
    config = recipe.model_config(tokenizer.vocab_size)
    needed = memory.training_bytes(config, recipe.batch, recipe.checkpoint, trainer.device)
    saved = memory.checkpoint_bytes(config)
    least = speed.least_seconds(config, recipe.steps * recipe.tokens_per_step, peak)
    guess = math.log(tokenizer.vocab_size)
    return (
        f"text       {material.corpus.name}: {len(material.train):,} tokens to learn from, "
        f"{len(material.validation):,} to judge by\n"
        f"tokenizer  {tokenizer.name}, {tokenizer.vocab_size:,} different tokens\n"
        f"model      {sum(p.numel() for p in trainer.model.parameters()):,} parameters: {recipe.layers} layers, "
        f"{recipe.heads} heads, {recipe.channels} channels, {recipe.context} tokens of context\n"
        f"training   {recipe.steps:,} steps of {recipe.tokens_per_step:,} tokens, learning rate {recipe.lr:g} to "
        f"{recipe.min_lr:g}\n"
        f"needs      about {memory.format_bytes(needed)} of memory, {memory.format_bytes(saved)} a checkpoint, and at "
        f"least {console.clock(least)}: this machine's products make {peak / 1e9:,.0f} billion operations a second\n"
        f"an even guess costs ln {tokenizer.vocab_size} = {guess:.4f} nats a token\n"
    )


def floor_per_token(material: Material) -> float | None:
    """What no model can beat on this very validation text, in nats a token; None where the truth is not known."""
    floor = material.corpus.floor
    return None if floor is None else floor.validation_nats / len(material.validation)


def summary(material: Material, trainer: Trainer, checkpoints: Checkpoints, seconds: float) -> str:
    """The table at the end; seconds: how long this process took."""
    last = trainer.evaluations[-1]
    peak = peak_memory() if trainer.device == "cpu" else cuda.max_memory_allocated()
    losses = (last.train_loss, last.val_loss)
    rows = [
        ("", "training", "validation"),
        ("loss, nats a token", *(f"{loss:.4f}" for loss in losses)),
        ("perplexity", *(f"{perplexity(loss):,.2f}" for loss in losses)),
    ]
    pace = trainer.tokens / trainer.seconds if trainer.seconds else 0.0
    lines = [
        console.table(rows),
        "",
        f"tokens/s     {pace:,.0f}",
        f"peak memory  {memory.format_bytes(peak) if peak else 'unknown'}",
        f"time         {console.clock(seconds)}",
        f"spent on     {console.shares({'steps': trainer.seconds, **trainer.beside})}",
    ]
    path = checkpoints.best(trainer)
    if path and trainer.best and trainer.best is not last:
        lines.append(f"best         validation {trainer.best.val_loss:.4f} after step {trainer.best.step}, in {path}")
    floor = floor_per_token(material)
    if floor is not None and trainer.step == trainer.recipe.steps:  # who presses Ctrl-C does not want to wait for it
        lines += ["", _distance_from(floor, material, trainer)]
    return "\n".join(lines)


def _distance_from(floor: float, material: Material, trainer: Trainer) -> str:
    """The model on the whole validation text against the best that is possible."""
    assert isinstance(trainer.validation, Windows)
    with trainer.precision.region():
        loss = mean_loss(trainer.model, trainer.validation.batches(trainer.recipe.batch), trainer.device)
    assert material.corpus.floor is not None
    entropy = material.corpus.floor.nats_per_character * len(material.corpus.validation) / len(material.validation)
    return (
        f"on the whole validation text the model pays {loss:.4f} nats a token; no model can pay less than {floor:.4f}\n"
        f"(the grammar's entropy: {entropy:.4f}), so it is {loss - floor:.4f} nats a token above the floor"
    )
