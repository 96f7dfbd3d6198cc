"""Writes pytorch.md: which of PyTorch's public names are here, by comparing the two packages. Needs PyTorch.

`python docs/pytorch_table.py` writes the file; a test makes sure that it is what this would write.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

PLACE = Path(__file__).with_name("pytorch.md")
SPACES = [
    "torch", "torch.Tensor", "torch.autograd", "torch.nn", "torch.nn.Module", "torch.nn.functional", "torch.nn.init",
    "torch.nn.utils", "torch.optim", "torch.optim.lr_scheduler", "torch.utils.data", "torch.amp", "torch.cuda",
]  # fmt: skip
# Parts of PyTorch that are not for training language models on one machine; their names are not listed one by one.
ELSEWHERE = (
    "sparse", "quant", "fbgemm", "mkldnn", "cudnn", "miopen", "cufft", "fft", "xpu", "mtia", "ipu", "hpu", "mps",
    "onnx", "jit", "script", "sym_", "fake_", "nested", "complex", "conv", "pool", "lstm", "rnn", "gru", "foreach",
    "c10", "dispatch", "storage", "Storage", "Type", "native", "batch_norm_", "segment", "float8", "uint1", "int1",
    "bits", "qint", "quint", "Upsample", "upsample", "Lazy", "2d", "3d", "stream", "Stream", "Event", "nccl", "ipc",
    "graph", "Graph", "memory", "Memory", "autocast", "Autocast", "profil", "dtype_", "unsafe_", "_copy", "_scatter",
    "view_as_", "ccol", "crow", "col_ind", "row_ind", "names", "rename", "refine", "align", "has_", "is_",
)  # fmt: skip

HEAD = """# Beside PyTorch

`import tinygrad_llm as torch`, or `python -m tinygrad_llm.compat script.py`. This page says what is there, what
differs and what is missing; `docs/pytorch_table.py` writes it by comparing this package with PyTorch {version}.

```python
import tinygrad_llm as torch

torch.manual_seed(123)
print(torch.nn.Embedding(6, 3).weight[0])   # tensor([ 0.3374, -0.1778, -0.1690], grad_fn=<SelectBackward0>)
```

## What differs

{differences}

## Names

What is missing raises `AttributeError` with its name. Not listed: names of sparse, quantized, complex and nested
tensors, convolutions, recurrent layers, graph capture, profiling, and of devices other than the CPU and CUDA.
"""

DIFFERENCES = (
    "Gradients cannot be differentiated again: `create_graph=True` raises.",
    "float16 and bfloat16 are computed with in float32, and each result is rounded once; a GPU's kernels take them as "
    "they are. `autocast` follows PyTorch's lists of functions, for the CPU and for CUDA. It is more exact in one "
    "place: a weight's gradient, a float32 sum, reaches the float32 weight without being rounded to 16 bits in "
    "between. `GradScaler.overflowed(optimizer)` is an addition.",
    "`compile` returns what it is given; the switches of `backends` are accepted and change nothing, but on a GPU "
    "`backends.cuda.matmul.allow_tf32`, which `set_float32_matmul_precision` sets, `backends.cudnn.deterministic` and "
    "those of attention. `use_deterministic_algorithms` concerns a GPU's attention alone: all else has one order.",
    "Random streams are those of PyTorch's CPU generator: uniform and normal numbers (these to within three units of "
    "the last place, one in seven of them, since its logarithm and cosine are others), permutations, initial "
    "weights, samplers, and the dropout masks of machines where PyTorch draws them without MKL (AMD, Arm; on Intel's "
    "it draws others). `with random.fast_masks():` makes dropout about ten times faster, with masks of its own; "
    "`Trainer` does so. A GPU gets the CPU's numbers, but makes its dropout masks itself.",
    "`utils.checkpoint.checkpoint` with `use_reentrant=True` behaves as with False, and `early_stop` changes nothing.",
    "`load` never unpickles: it reads tensors, plain containers and numbers, and refuses every other name, also "
    "with `weights_only=False`. Files of 64 MiB and more are mapped. `save` refuses what such a file cannot hold: "
    "a module, say, instead of its `state_dict()`.",
    "An in-place write into memory whose elements overlap is refused, where PyTorch sometimes writes. A recorded "
    "write into one of several views of `split`, `chunk` or `unbind` works, where PyTorch refuses. Where PyTorch "
    "says that a recorded value was modified, the gradient is sometimes still known here, and given.",
    "Workers of a `DataLoader` are processes of the standard library's `concurrent.futures`.",
    "Devices are `cpu` and `cuda` (through CuPy); there is no `meta`, `mps` or other device.",
)


def namespace(root: ModuleType, dotted: str) -> Any:
    """tinygrad_llm or torch, and "torch.nn.Module" -> the module or class of that name in it; None if it is absent."""
    found: Any = root
    for part in dotted.split(".")[1:]:
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(f"{found.__name__}.{part}")
            except ModuleNotFoundError:
                return None
    return found


def names(space: Any) -> set[str]:
    """The public functions, classes, methods and constants of a namespace; of a class, its own and inherited ones."""
    listed = getattr(space, "__all__", None) if inspect.ismodule(space) else None
    everything = set(dir(space)) | set(listed or ())
    public = {n for n in everything if not n.startswith("_")}
    return {n for n in public if not inspect.ismodule(getattr(space, n, None)) and _belongs(space, n)}


def _belongs(space: Any, name: str) -> bool:
    """Whether a name is the library's own: not something that its source merely imports."""
    module = getattr(getattr(space, name, None), "__module__", None)
    return module is None or module.split(".")[0] in ("torch", "tinygrad_llm", "builtins")


def listing(found: set[str]) -> str:
    """Names in one wrapped paragraph."""
    ordered = sorted(found, key=lambda n: (n.lower(), n))
    return textwrap.fill(", ".join(f"`{n}`" for n in ordered), 120, break_long_words=False)


def section(ours: ModuleType, theirs: ModuleType, dotted: str) -> str:
    """One namespace: how many of PyTorch's names are here, which are, and which are not."""
    mine, other = namespace(ours, dotted), namespace(theirs, dotted)
    there = names(other) & set(dir(mine))
    missing = {n for n in names(other) - there if not any(part in n for part in ELSEWHERE)}
    if dotted == "torch":  # holds many names of its own making: classes of its compiler, in-place forms of methods
        missing = {n for n in missing if n.islower() and not n.endswith("_")}
    parts = [f"### {dotted}: {len(there)} names", listing(there)]
    if missing:
        parts.append(f"Missing ({len(missing)}): {listing(missing)}")
    return "\n\n".join(parts)


def page() -> str:
    """The whole page."""
    ours, theirs = importlib.import_module("tinygrad_llm"), importlib.import_module("torch")
    items = "\n".join(textwrap.fill(text, 118, initial_indent="* ", subsequent_indent="  ") for text in DIFFERENCES)
    head = HEAD.format(version=theirs.__version__.split("+")[0], differences=items)
    return "\n\n".join([head.rstrip(), *(section(ours, theirs, dotted) for dotted in SPACES)]) + "\n"


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(page(), end="")
    else:
        PLACE.write_text(page(), "utf-8")
