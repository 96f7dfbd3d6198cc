"""What the command lines that write with a model share: its folder, and the flags that say how tokens are chosen."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from tinygrad_llm import dtypes, text
from tinygrad_llm.data.instructions import CHATML, FORM_FILE, PHI3_CHAT, Form, alpaca, read_form
from tinygrad_llm.nn.lora import merge_lora, remove_lora
from tinygrad_llm.random import Generator

from . import adapters
from .gpt import GPTModel
from .pretrained import from_pretrained
from .sampling import Sampling

TOKENIZER = "tokenizer.json"
END = "<|endoftext|>"
DTYPES = {"float32": dtypes.float32, "bfloat16": dtypes.bfloat16, "float16": dtypes.float16}
TEMPLATES: dict[str, Form] = {"phi3": PHI3_CHAT, "chatml": CHATML, "alpaca": alpaca}


def load_run(
    folder: str | os.PathLike[str], device: str = "cpu", dtype: str | None = None
) -> tuple[GPTModel, text.Tokenizer]:
    """The model, on a device, and the tokenizer in a folder that a run wrote, or any that `from_pretrained` reads.

    dtype: the name of one of DTYPES that the weights get, instead of the one that they have.

    Raises: FileNotFoundError for a file that is missing; ValueError for one that is damaged, for weights that do not
    fit the configuration, for a classifier, or where model and tokenizer do not belong together.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype}: unknown; choose float32, bfloat16 or float16")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; examples/pretrain.py --out makes one")
    path = beside(folder, TOKENIZER)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; without its tokenizer a model reads no text")
    tokenizer, model = text.load(path), load_model(folder, dtype=None)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens and the model {model.config.vocab_size:,}; "
            f"they were not made for each other"
        )
    return model.to(device) if dtype is None else model.to(device, DTYPES[dtype]), tokenizer


def tokenizer_of(source: str | os.PathLike[str]) -> text.Tokenizer:
    """The tokenizer of the model that `from_pretrained` reads: the one beside its weights, else GPT-2's."""
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    path = beside(folder, TOKENIZER)
    return text.load(path) if path.is_file() else text.build("gpt2", "")


def beside(folder: str | os.PathLike[str], name: str) -> Path:
    """The file of that name in a model's folder; for a checkpoint, which has none, that of its run, two folders up."""
    path, above = Path(folder, name), Path(folder).resolve().parent
    return above.parent / name if not path.exists() and above.name == "checkpoints" else path


def check_tokenizer(source: str | os.PathLike[str], model: GPTModel, tokenizer: text.Tokenizer) -> None:
    """Raise a ValueError for a tokenizer with more tokens than the model that it is to serve."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"--model {source}: has {model.config.vocab_size} tokens, its tokenizer {tokenizer.vocab_size}; give the "
            f"folder its own {TOKENIZER}"
        )


def load_base(source: str | os.PathLike[str], drop_rate: float | None = None) -> tuple[GPTModel, text.Tokenizer]:
    """What a tuning begins with: the model that --model names, in float32, and the tokenizer beside it, else GPT-2's.

    drop_rate: of dropout, by default what the source says.

    Raises: as `load_run`.
    """
    model, tokenizer = load_model(source, drop_rate=drop_rate), tokenizer_of(source)
    check_tokenizer(source, model, tokenizer)
    return model, tokenizer


def load_model(source: str | os.PathLike[str], **how: Any) -> GPTModel:
    """The language model of `read_model`. Raises: as `load_run`."""
    model = read_model(source, **how)
    if adapters.classifies(model):
        raise ValueError(f"{source}: the model tells classes apart and writes no text; use the one it was made from")
    return model.eval()


def read_model(
    source: str | os.PathLike[str], dtype: dtypes.dtype | None = dtypes.float32, drop_rate: float | None = None
) -> GPTModel:
    """The model that `from_pretrained` reads, or one with the adapter of a folder merged into it; all of it may learn.

    dtype, drop_rate: as there; what an adapter was merged into is float32.

    Raises: as `load_run`.
    """
    folders: list[str | os.PathLike[str]] = []  # of adapters, each on what the next one gives
    while adapters.is_adapter(source):
        if any(Path(source).samefile(folder) for folder in folders):
            raise ValueError(f"{source}: its base_model_name_or_path leads back to it; name there what it adapts")
        folders.append(source)
        source = adapters.base_of(source)
    model = from_pretrained(source, dtype=dtypes.float32 if folders else dtype, drop_rate=drop_rate)
    for folder in reversed(folders):
        adapters.load_adapter(model, folder)
        merge_lora(model)
        remove_lora(model)
    return model.requires_grad_(True)


def add_dtype_flag(page: Any) -> None:
    """The flag for the dtype of `load_run`; page: a parser or one of its groups."""
    about = "of weights and memory: float32, or bfloat16 or float16, of which a GPU reads half as much [the folder's]"
    page.add_argument("--dtype", metavar="NAME", help=about)


def add_template_flag(page: argparse.ArgumentParser) -> None:
    """The flag that `form` reads."""
    page.add_argument(
        "--template", metavar="NAME", help=f"{', '.join(TEMPLATES)}, or none to write on [the folder's, or none]"
    )


def form(args: argparse.Namespace, folder: str | os.PathLike[str]) -> Form | None:
    """The form in which a model is asked: the one named, or the one beside it; None for a model that writes on.

    Raises: ValueError for an unknown name or a damaged file.
    """
    if args.template is None:
        path = beside(folder, FORM_FILE)
        return read_form(path) if path.is_file() else None
    if args.template not in (*TEMPLATES, "none"):
        raise ValueError(f"--template {args.template}: unknown; choose one of {', '.join(TEMPLATES)} or none")
    return TEMPLATES.get(args.template)


def add_sampling_flags(page: argparse.ArgumentParser) -> None:
    """The flags that `sampling` and its neighbours read."""
    choice = page.add_argument_group("how tokens are chosen")
    choice.add_argument("--tokens", type=int, default=200, metavar="N", help="to write at most [200]")
    choice.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0 takes the likeliest [0.8]")
    choice.add_argument("--top-k", type=int, metavar="N", help="only the N likeliest [all]")
    choice.add_argument("--top-p", type=float, metavar="X", help="only the likeliest that together reach X [all]")
    choice.add_argument("--min-p", type=float, metavar="X", help="only those at least X as likely as the first [all]")
    choice.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: less of it [1]")
    choice.add_argument("--seed", type=int, metavar="N", help="makes the text the same each time [a new text]")
    choice.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated")
    choice.add_argument("--ignore-end", action="store_true", help=f"write on after {END}")
    choice.add_argument("--context", type=int, metavar="N", help="tokens that the model sees [all it can]")
    choice.add_argument(
        "--slide", type=int, metavar="N", help="tokens to drop at once where the context is full [half of it]"
    )


def sampling(args: argparse.Namespace) -> Sampling:
    """How tokens are chosen. Raises: ValueError for a flag out of range."""
    if args.tokens < 0:
        raise ValueError(f"--tokens {args.tokens}: must not be negative")
    if not all(args.stop):
        raise ValueError("--stop is empty; give the text to stop at, or leave the flag out")
    return Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty)


def window(args: argparse.Namespace, model: GPTModel) -> tuple[int, int]:
    """How many tokens the model sees, and how many it drops at once. Raises: ValueError out of range."""
    most = model.config.context_length
    size = most if args.context is None else args.context
    if not 1 <= size <= most:
        raise ValueError(f"--context {size}: must lie in 1..{most}, what the model can see")
    slide = max(1, size // 2) if args.slide is None else args.slide
    if not 1 <= slide <= size:
        raise ValueError(f"--slide {slide}: must lie in 1..{size}, the context")
    return size, slide


def generator(args: argparse.Namespace) -> Generator:
    """Where draws come from: the seed given, or a fresh one."""
    stream = Generator()
    if args.seed is None:
        stream.seed()
    elif not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed {args.seed}: must lie in [0, 2**63)")
    else:
        stream.manual_seed(args.seed)
    return stream


def ends(args: argparse.Namespace, tokenizer: text.Tokenizer) -> list[int]:
    """The tokens at which a text ends: the tokenizer's end of text, unless it is to be ignored."""
    return [] if args.ignore_end or END not in tokenizer.special_tokens else [tokenizer.special_tokens[END]]
