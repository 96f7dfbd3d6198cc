"""Draw what each head of each layer looks at: a run's folder and a text in, a picture out."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm import no_grad, tensor, text
from tinygrad_llm.commandline import Parser, add_device_flags, guarded, show_anything, use_device
from tinygrad_llm.files import replacing
from tinygrad_llm.models import commandline

PROGRAM = "attention_map.py"
MOST_LABELS = 32  # tokens that are written beside a map; more would not be legible

DESCRIPTION = """\
Draw the attention weights of a model of yours on a text, a map for each layer and head.
A row is a token that looks, a column one that is looked at; a row adds up to 1."""

EPILOG = """\
examples:
  python examples/attention_map.py runs/pretrain "The cat sat on the mat because it was tired."
  python examples/attention_map.py runs/pretrain "Once upon a time" --layer 0 --out first-layer.png
"""


def parser() -> Parser:
    """The command line."""
    page = Parser(prog=PROGRAM, usage="%(prog)s FOLDER TEXT [flags]", description=DESCRIPTION, epilog=EPILOG)
    page.add_argument("folder", metavar="FOLDER", help="of a run")
    page.add_argument("text", metavar="TEXT", help="what the model reads")
    page.add_argument("--layer", type=int, metavar="N", help="only this one, from 0 [all]")
    page.add_argument("--out", default="attention.png", metavar="PATH", help="the picture [attention.png]")
    add_device_flags(page)
    return page


def maps(args: argparse.Namespace) -> tuple[np.ndarray, list[str], list[int]]:
    """The weights (L, H, T, T), the tokens, and the number of each layer."""
    if find_spec("matplotlib") is None:
        raise ValueError("matplotlib is not installed; pip install -e '.[examples]' brings it")
    if Path(args.out).suffix.lower() != ".png":
        raise ValueError(f"--out {args.out}: the picture is a PNG; let the name end in .png")
    use_device(args)
    model, tokenizer = commandline.load_run(args.folder, args.device)
    ids = tokenizer.encode(args.text, disallowed_special=())
    if not 1 <= len(ids) <= model.config.context_length:
        raise ValueError(f"the text has {len(ids)} tokens; the model takes 1 to {model.config.context_length}")
    layers = list(range(model.config.n_layers)) if args.layer is None else [args.layer]
    if not 0 <= layers[0] < model.config.n_layers:
        raise ValueError(f"--layer {args.layer}: must lie in 0..{model.config.n_layers - 1}")
    with no_grad():
        _, weights = model(tensor([ids], device=args.device), attention_weights=True)
    return np.stack([weights[layer][0].cpu().numpy() for layer in layers]), shown(tokenizer, ids), layers


def shown(tokenizer: text.Tokenizer, ids: list[int]) -> list[str]:
    """Each token for the eye; a dollar sign would start mathematics."""
    return [token.replace("$", r"\$") for token in tokenizer.shown(ids)]


def draw(path: str, weights: np.ndarray, tokens: list[str], layers: list[int]) -> None:
    """A map for each layer (down) and head (across), on one scale."""
    from matplotlib.figure import Figure

    rows, heads, T = weights.shape[:3]
    labelled = T <= MOST_LABELS
    side = max(1.6, 0.16 * T if labelled else 2.2)
    figure = Figure(figsize=(side * heads + 1.6, side * rows + 1.0), layout="constrained")
    axes = figure.subplots(rows, heads, squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for row, layer in enumerate(layers):
        for head in range(heads):
            a = axes[row][head]
            image = a.imshow(weights[row, head], vmin=0, vmax=1, cmap="magma_r", interpolation="nearest")
            a.set_title(f"layer {layer}, head {head}", fontsize=7)
            if labelled:
                a.set_xticks(range(T), tokens, rotation=90, fontsize=6)
                a.set_yticks(range(T), tokens, fontsize=6)
            a.tick_params(length=0)
    figure.supylabel("looks", fontsize=8)
    figure.supxlabel("is looked at", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label="weight")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    args = parser().parse_args(argv)

    def act() -> None:
        weights, tokens, layers = maps(args)
        draw(args.out, weights, tokens, layers)
        print(f"{len(layers)} layers of {weights.shape[1]} heads on {len(tokens)} tokens: {args.out}")

    return guarded(PROGRAM, act)


if __name__ == "__main__":
    sys.exit(main())
