"""Will a run fit? An estimate made before anything is allocated, and what the machine has."""

import os
import shutil
from pathlib import Path
from typing import Any

from tinygrad_llm.kernels.cpu_attention import KEPT
from tinygrad_llm.kernels.cuda.losses import LOGITS
from tinygrad_llm.kernels.cuda.memory import available
from tinygrad_llm.models.gpt import parts_of_batch

FLOAT32 = 4


def parameter_count(config: dict[str, Any]) -> int:
    """Parameters of `models.GPTModel` with these keys, counted without making it."""
    v, t, c, n = (config[k] for k in ("vocab_size", "context_length", "emb_dim", "n_layers"))
    qkv = 3 * c * c + (3 * c if config["qkv_bias"] else 0)
    block = qkv + (c * c + c) + (8 * c * c + 5 * c) + 4 * c  # qkv, out_proj, feed-forward, two norms
    return v * c + t * c + n * block + 2 * c + (0 if config["tie_weights"] else v * c)


def training_bytes(config: dict[str, Any], batch: int, checkpoint: bool = False, device: str = "cpu") -> int:
    """About the most memory that training holds at once: batch windows of the whole context, float32.

    Parameters, gradients and AdamW's two moments: 4 numbers a parameter, and one more where a second part of the batch
    is computed beside the first. Kept for backward, for each token: 16 C a block (inputs of the norms, of the four
    matrix products and of the GELU, and its result), H T attention weights if they are few enough to be kept, with
    dropout 3 C and H T bools more; the logits and their gradient, 2 V; and the gradients at work in one block, 8 C.
    With checkpoints all blocks but one keep only their input, C. A GPU computes a batch in one part, and without
    dropout keeps no attention weights; its logits stand in memory a block at a time.
    """
    v, t, c, n, h = (config[k] for k in ("vocab_size", "context_length", "emb_dim", "n_layers", "n_heads"))
    parameters = parameter_count(config)
    drops, gpu = bool(config["drop_rate"]), device != "cpu"
    parts = 1 if drops or gpu else parts_of_batch(batch, t, parameters)
    kept = h * t if (drops if gpu else -(-batch // parts) * h * t * t <= KEPT) else 0
    dropped = 3 * c + h * t / FLOAT32 if drops else 0
    block = 16 * c + kept + dropped
    per_token = block + (n - 1) * (c if checkpoint else block) + 8 * c
    logits = min(batch * t * v, LOGITS) if gpu else batch * t * 2 * v
    return int(FLOAT32 * ((3 + parts) * parameters + batch * t * per_token + logits))


def machine_bytes() -> int | None:
    """The memory this process may use: what is free now, or the limit of its container; None where nobody tells."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit.isdigit():
            limits.append(int(limit) - used)
    except (OSError, ValueError):
        pass
    if not limits and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits) if limits else None


def held_memory() -> int | None:
    """The memory that this process holds now, in bytes; None where nobody tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def checkpoint_bytes(config: dict[str, Any]) -> int:
    """The size of a checkpoint: parameters and AdamW's two moments, float32."""
    return 3 * FLOAT32 * parameter_count(config)


def check_disk(config: dict[str, Any], folder: Path, checkpoints: int) -> None:
    """Refuse a run whose checkpoints, so many at once, the disk cannot hold. Raises: OSError with what is missing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    needed, free = checkpoints * checkpoint_bytes(config), shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"--out {folder}: {checkpoints} checkpoints need {format_bytes(needed)} and the disk has "
            f"{format_bytes(free)} left; name a folder on another disk, or lower --keep"
        )


def check_fits(config: dict[str, Any], batch: int, checkpoint: bool = False, device: str = "cpu") -> None:
    """Refuse a run that the device cannot hold. Raises: MemoryError with the estimate and what is there."""
    needed = training_bytes(config, batch, checkpoint, device)
    there = machine_bytes() if device == "cpu" else available()
    owner = "this machine" if device == "cpu" else f"device {device}"
    if there is not None and needed > there:
        raise MemoryError(
            f"a batch of {batch} windows of {config['context_length']} tokens needs about {format_bytes(needed)} for "
            f"this model of {parameter_count(config):,} parameters, and {owner} has {format_bytes(there)}; lower "
            f"--batch (--accumulate makes up for it), --context, --channels or --layers"
            + ("" if checkpoint else ", or give --checkpoint")
        )


def format_bytes(count: int) -> str:
    """1536 -> '1.5 KiB'."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
