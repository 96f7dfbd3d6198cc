"""The hyper-parameters of a run, each with its meaning and its bounds, and the named presets."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


def setting(group: str, help: str, low: float = -math.inf, below: float = math.inf, **keywords: Any) -> Any:
    """A hyper-parameter that lies in [low, below); `group` and `help` are what a command line shows."""
    return field(metadata={"group": group, "help": help, "low": low, "below": below}, **keywords)


DTYPES = ("float32", "bfloat16", "float16")
SCHEDULES = ("cosine", "constant", "inverse-sqrt", "warmup-stable-decay")
MODEL, OPTIMIZER, EVALUATION = "model", "optimization", "evaluation and samples"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a pre-training run is made of, except its text, its seed and its machine.

    Raises: ValueError naming the first value outside its bounds and what is allowed.
    """

    layers: int = setting(MODEL, "transformer blocks", 1)
    heads: int = setting(MODEL, "attention heads; must divide the channels", 1)
    channels: int = setting(MODEL, "width of the residual stream", 1)
    context: int = setting(MODEL, "tokens the model sees at once", 1)
    dropout: float = setting(MODEL, "share of activations dropped while training", 0, 1)
    qkv_bias: bool = setting(MODEL, "a bias in the query, key and value projections")
    tie_weights: bool = setting(MODEL, "one matrix as token embedding and as output head")

    steps: int = setting(OPTIMIZER, "optimizer steps", 1)
    batch: int = setting(OPTIMIZER, "windows in a forward pass", 1)
    accumulate: int = setting(OPTIMIZER, "forward and backward passes whose gradients make one step", 1, default=1)
    lr: float = setting(OPTIMIZER, "highest learning rate", 0)
    min_lr: float = setting(OPTIMIZER, "learning rate at the end of the schedule", 0)
    warmup: int = setting(OPTIMIZER, "steps of linear warm-up to the highest rate", 0)
    schedule: str = setting(OPTIMIZER, f"after the warm-up: {', '.join(SCHEDULES)}", default="cosine")
    decay: float = setting(OPTIMIZER, "share of the steps in which warmup-stable-decay falls", 0, 1, default=0.2)
    beta1: float = setting(OPTIMIZER, "AdamW: decay of the mean gradient", 0, 1, default=0.9)
    beta2: float = setting(OPTIMIZER, "AdamW: decay of the mean squared gradient", 0, 1)
    weight_decay: float = setting(OPTIMIZER, "AdamW: decay of the matrices; vectors are not decayed", 0, default=0.1)
    clip: float = setting(OPTIMIZER, "largest norm of the whole gradient; 0 = no limit", 0, default=1.0)
    spike: float = setting(
        OPTIMIZER, "skip a step whose loss lies so many deviations above the mean of late; 0 = never", 0, default=0.0
    )
    dtype: str = setting(
        OPTIMIZER, f"of products: {', '.join(DTYPES)}; weights and their steps are float32", default="float32"
    )
    checkpoint: bool = setting(OPTIMIZER, "compute blocks again in backward: less memory, more time", default=False)

    eval_every: int = setting(EVALUATION, "steps from one evaluation to the next", 1)
    eval_windows: int = setting(EVALUATION, "windows of each part of the text in an evaluation", 1)
    patience: int = setting(
        EVALUATION, "end after so many evaluations without a better validation loss; 0 = never", 0, default=0
    )
    samples: int = setting(EVALUATION, "samples of generated text, evenly over the run; 0 = none", 0, default=4)
    sample_tokens: int = setting(EVALUATION, "tokens in a sample", 1)
    temperature: float = setting(EVALUATION, "of samples: 0 = the likeliest token, 1 = as it thinks", 0, default=0.8)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, low, below = getattr(self, f.name), f.metadata["low"], f.metadata["below"]
            if f.type in (bool, str):
                continue
            if not math.isfinite(value):
                raise ValueError(f"{flag(f.name)} {value}: must be a finite number ({f.metadata['help']})")
            if not low <= value < below:
                allowed = f"at least {low}" if below == math.inf else f"in [{low}, {below})"
                raise ValueError(f"{flag(f.name)} {value}: must be {allowed} ({f.metadata['help']})")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"--schedule {self.schedule}: unknown; choose one of {', '.join(SCHEDULES)}")
        check_dtype(self.dtype)
        if self.channels % self.heads:
            raise ValueError(
                f"--heads {self.heads} does not divide --channels {self.channels}; each head gets channels / heads"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"--min-lr {self.min_lr:g} is above --lr {self.lr:g}; the rate falls from lr to min-lr")
        if self.warmup > self.steps:
            raise ValueError(f"--warmup {self.warmup} is more than --steps {self.steps}")

    def replace(self, **changes: Any) -> "Recipe":
        """This recipe with some values changed. A warm-up that is not among them stays within a tenth of the steps."""
        if "steps" in changes and "warmup" not in changes:
            changes["warmup"] = min(self.warmup, max(changes["steps"], 0) // 10)
        if "lr" in changes and "min_lr" not in changes:
            changes["min_lr"] = changes["lr"] * (self.min_lr / self.lr)
        return dataclasses.replace(self, **changes)

    def model_config(self, vocab_size: int) -> dict[str, Any]:
        """The keys of `models.GPTConfig` for a vocabulary of this size."""
        return {
            "vocab_size": vocab_size,
            "context_length": self.context,
            "emb_dim": self.channels,
            "n_heads": self.heads,
            "n_layers": self.layers,
            "drop_rate": self.dropout,
            "qkv_bias": self.qkv_bias,
            "tie_weights": self.tie_weights,
        }

    @property
    def tokens_per_step(self) -> int:
        """Predictions that one optimizer step learns from."""
        return self.batch * self.accumulate * self.context


def flag(name: str) -> str:
    """How a hyper-parameter is called on a command line: eval_every -> --eval-every."""
    return "--" + name.replace("_", "-")


def check_dtype(name: str) -> str:
    """The name of a dtype that products may have. Raises: ValueError naming those that they may."""
    if name not in DTYPES:
        raise ValueError(f"--dtype {name}: unknown; choose one of {', '.join(DTYPES)}")
    return name


@dataclass(frozen=True)
class Preset:
    """A recipe with a name, what it is for, and the text and tokenizer it takes unless told otherwise."""

    about: str
    recipe: Recipe
    tokenizer: str
    vocab_size: int | None = None  # of the tokenizer, where it is learned
    data: str | None = None


PRESETS = {
    "stories": Preset(
        about="a small GPT on the embedded stories, about two minutes on two cores",
        data="stories",
        tokenizer="bpe",
        vocab_size=2048,
        recipe=Recipe(
            layers=4, heads=4, channels=128, context=64, dropout=0.0, qkv_bias=False, tie_weights=True,
            steps=1600, batch=8, lr=2e-3, min_lr=2e-4, warmup=100, beta2=0.99,
            eval_every=400, eval_windows=160, sample_tokens=120,
        ),
    ),
    "shakespeare-char": Preset(
        about="nanoGPT's recipe for a CPU, made for tiny Shakespeare",
        tokenizer="char",
        recipe=Recipe(
            layers=4, heads=4, channels=128, context=64, dropout=0.0, qkv_bias=False, tie_weights=True,
            steps=2000, batch=12, lr=1e-3, min_lr=1e-4, warmup=100, beta2=0.99,
            eval_every=250, eval_windows=480, sample_tokens=300,
        ),
    ),
    "gpt2-124m": Preset(
        about="GPT-2 small at 256 tokens of context, constant learning rate",
        tokenizer="gpt2",
        recipe=Recipe(
            layers=12, heads=12, channels=768, context=256, dropout=0.1, qkv_bias=False, tie_weights=False,
            steps=90, batch=2, lr=4e-4, min_lr=4e-4, warmup=0, beta2=0.999,
            eval_every=10, eval_windows=10, samples=3, sample_tokens=50,
        ),
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset called `name`. Raises: ValueError naming those that exist."""
    if name not in PRESETS:
        raise ValueError(f"--preset {name}: there is no such preset; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
