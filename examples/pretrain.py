"""Pre-train a GPT: text -> tokenizer -> windows -> model -> training loop -> samples -> files."""

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tinygrad_llm as tg
from tinygrad_llm import text
from tinygrad_llm.commandline import show_anything
from tinygrad_llm.models import GPTModel, generate
from tinygrad_llm.models.checkpoint import save_pretrained
from tinygrad_llm.training import (
    PRESETS,
    BadStep,
    Checkpoints,
    Recipe,
    StopOnInterrupt,
    Trainer,
    console,
    memory,
    plot_loss,
    read_steps,
    speed,
)
from tinygrad_llm.training.cli import (
    Parser,
    add_recipe_flags,
    add_run_flags,
    check_flags,
    chosen_recipe,
    fail,
    os_reason,
    warner,
)
from tinygrad_llm.training.configuration import ALWAYS_FREE, effective_flags
from tinygrad_llm.training.material import Material, load_material
from tinygrad_llm.training.out_folder import check_out, open_out
from tinygrad_llm.training.report import floor_per_token, introduction, summary
from tinygrad_llm.training.session import RUN_FILES, checkpoints_of, exit_code, goes_on, open_run, run_shown

PROGRAM = "pretrain.py"
FILES = ("model.safetensors", "config.json", "tokenizer.json", *RUN_FILES, "loss.png")
FREE = (*ALWAYS_FREE, "steps", "eval_every", "patience", "samples", "sample_tokens", "temperature", "prompt")

DESCRIPTION = """\
Train a small GPT from nothing and watch it learn.

Without arguments it learns for two minutes or so from short stories that ship with
the package. They are drawn from a grammar whose entropy is known exactly, so that the
run can also say how far the model is from the best that any model could do."""

EPILOG = f"""\
presets:
{chr(10).join(f"  {name:<18}{p.about}" for name, p in PRESETS.items())}

files, all in the folder --out; those of an earlier run in it move to earlier-1, -2, ...:
  model.safetensors, config.json   the model
  tokenizer.json                   what turns text into its tokens
  run.json                         every flag's value; --config takes it
  metrics.jsonl                    one record per evaluation: step, tokens, train_loss,
                                   val_loss, lr, tokens_per_second, grad_norm
  steps.csv                        one line per step: tokens, loss, lr, grad_norm, seconds
  loss.png                         the curves over the tokens seen
  checkpoints/                     what --resume goes on from: the newest, and the best
  tensorboard/                     with --tensorboard; tensorboard --logdir shows it

Ctrl-C, or SIGTERM, ends the run after the step at work and keeps the model as it is then.
--resume goes on with the run in --out to the same numbers, to the last bit, as if it had
never stopped, however it ended. Give no flags or the same ones; with other --steps the
learning rate follows the schedule of the new number from then on. With another --device
the numbers differ by rounding, with dropout by its masks.

exit codes:
  0 done    2 refused or failed, with one sentence why    130, 143 stopped by Ctrl-C, SIGTERM

examples:
  python examples/pretrain.py
  python examples/pretrain.py --preset shakespeare-char --data tinyshakespeare.txt
  python examples/pretrain.py --data my-notes/ --steps 500 --out runs/notes
  python examples/pretrain.py --preset gpt2-124m --data the-verdict
  python examples/pretrain.py --out runs/notes --resume
  python examples/pretrain.py --data shards/mine       # made by examples/prepare_data.py
"""


def parser() -> argparse.ArgumentParser:
    """The command line, which reads like a page of a manual."""
    usage = "%(prog)s [--preset NAME] [--data PATH] [--out FOLDER] [flags]"
    page = Parser(prog=PROGRAM, usage=usage, description=DESCRIPTION, epilog=EPILOG)
    run = page.add_argument_group("the run")
    run.add_argument("--preset", default="stories", metavar="NAME", help="where the values come from [stories]")
    run.add_argument(
        "--data", metavar="PATH", help="text file, folder of .txt and .md files or of shards, or name of a corpus"
    )
    run.add_argument("--tokenizer", metavar="NAME", help=f"{' or '.join(text.names())} [the preset's]")
    run.add_argument(
        "--vocab-size", type=int, metavar="N", help="tokens at most, where they are learned [the preset's or its own]"
    )
    run.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="X", help="last part of the text, to judge by [0.1]"
    )
    run.add_argument("--prompt", metavar="TEXT", help="what samples begin with [an empty line or the first token]")
    add_run_flags(run, "runs/pretrain")
    add_recipe_flags(page)
    return page


@dataclass(frozen=True)
class Run:
    """Everything that stands before the first step."""

    recipe: Recipe
    material: Material
    model: GPTModel
    trainer: Trainer
    prompt: list[int]
    out: Path
    checkpoints: Checkpoints
    peak: float  # operations a second of this machine's matrix products


def prepare(args: argparse.Namespace) -> Run:
    """Check every wish, then make text, tokenizer, windows and model; writes nothing."""
    preset, recipe = chosen_recipe(args)
    check_flags(args)
    out = Path(args.out)
    check_out(out)
    args.data = preset.data if args.data is None else args.data
    if args.data is None:
        raise ValueError(f"--preset {args.preset} has no text of its own; name one with --data PATH, or --data stories")
    usual = (preset.tokenizer, preset.vocab_size)
    material = load_material(args.data, args.val_fraction, args.tokenizer, args.vocab_size, usual)
    args.tokenizer = material.tokenizer.name
    train, validation = material.windows(recipe.context)
    config = recipe.model_config(material.tokenizer.vocab_size)
    memory.check_fits(config, recipe.batch, recipe.checkpoint, args.device)
    memory.check_disk(config, out, args.keep + 2)
    tg.manual_seed(args.seed)
    model = GPTModel(config, checkpoint=recipe.checkpoint).to(args.device)
    rng, warn = np.random.default_rng(args.seed), warner(PROGRAM)
    trainer = Trainer(model, recipe, train, validation, rng, args.device, graph=args.graph, warn=warn)
    checkpoints = checkpoints_of(args, {"text or tokenizer": material.fingerprint})
    prompt = material.first_ids(args.prompt)
    return Run(recipe, material, model, trainer, prompt, out, checkpoints, speed.product_peak(args.device))


def train(run: Run, stop: StopOnInterrupt, args: argparse.Namespace) -> None:
    """Train, show, record, sample; go on from the newest checkpoint with --resume."""
    recipe, trainer = run.recipe, run.trainer
    operations = speed.operations_per_token(recipe.model_config(run.material.tokenizer.vocab_size))
    with open_run(PROGRAM, args, run.checkpoints, trainer, recipe) as folder:
        run.material.tokenizer.save(run.out / "tokenizer.json")  # only now: a run that may not go on changes nothing

        def on_step(shown: console.Progress) -> None:
            if trainer.step == 1:
                shown.write(f"the first step's loss: {trainer.last_loss:.4f}")
            if sample_due(trainer.step) and not stop():
                folder.save(trainer)
                shown.write(sampled())

        def sample_due(step: int) -> bool:
            return step * recipe.samples // recipe.steps > (step - 1) * recipe.samples // recipe.steps

        def sampled() -> str:
            with trainer.timed("samples"):
                written = sample(run, args.seed + trainer.step)
            folder.on_sample(trainer, written)
            return console.sample_block(written, trainer.step)

        if folder.resumed and sample_due(folder.resumed):  # its process may have ended before the sample was whole
            print(sampled(), flush=True)
        run_shown(
            folder, trainer, lambda: stop() or trainer.out_of_patience(), on_step,
            share=lambda pace: pace * operations / run.peak,
        )  # fmt: skip


def sample(run: Run, seed: int) -> str:
    """A text that the model goes on with after the prompt."""
    recipe, generator = run.recipe, tg.Generator().manual_seed(seed)
    ids = tg.tensor([run.prompt]).to(run.trainer.device)  # (1, T)
    ids = generate(
        run.model, ids, recipe.sample_tokens, recipe.context, temperature=recipe.temperature, generator=generator
    )
    return run.material.tokenizer.decode(ids[0].tolist())


def save(run: Run) -> None:
    """The model and the picture; each file is written whole or not at all."""
    save_pretrained(run.model, run.out)
    title = f"{run.material.corpus.name}, {run.material.tokenizer.name} tokens"
    steps = read_steps(run.out / "steps.csv")
    plot_loss(run.out / "loss.png", run.trainer.evaluations, title, floor_per_token(run.material), steps)


def kept(out: Path) -> str:
    """The files of a run that are there, each of them whole."""
    return ", ".join(name for name in FILES if (out / name).exists())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    start = time.monotonic()
    show_anything()
    with ExitStack() as stack:
        try:
            args = effective_flags(parser(), argv, FREE)
            run = prepare(args)
            stack.enter_context(open_out(run.out, goes_on=lambda: goes_on(args, run.checkpoints.about)))
        except OSError as error:
            return fail(PROGRAM, os_reason(error))
        except (ValueError, MemoryError, ImportError) as error:
            return fail(PROGRAM, error)
        except RuntimeError as error:
            return failed_on_gpu(args, error)
        except KeyboardInterrupt:
            print(f"{PROGRAM}: stopped before training began; nothing was written", file=sys.stderr)
            return 130
        return execute(run, args, start)


def execute(run: Run, args: argparse.Namespace, start: float) -> int:
    """The run from its first step to its table; returns the exit code."""
    print(introduction(run.material, run.trainer, run.peak), flush=True)
    try:
        with StopOnInterrupt() as stop:
            train(run, stop, args)
            save(run)
            print("\n" + summary(run.material, run.trainer, run.checkpoints, time.monotonic() - start))
    except BadStep as error:
        return fail(PROGRAM, f"{error}; no model was written; {run.out} keeps {kept(run.out)}")
    except ValueError as error:
        return fail(PROGRAM, f"--resume: {error}" if args.resume else error)
    except OSError as error:
        return fail(PROGRAM, f"--out {run.out}: {os_reason(error)}; once that is mended, --resume goes on")
    except MemoryError as error:
        return fail(PROGRAM, f"the memory is full at step {run.trainer.step} ({error}); lower --batch or --context")
    except RuntimeError as error:
        return failed_on_gpu(args, error)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped at once; {run.out} keeps {kept(run.out)}", file=sys.stderr)
        return 130
    print(f"\nfiles in {run.out}: {kept(run.out)}")
    if not stop() and run.trainer.step < run.recipe.steps:
        print(f"ended after step {run.trainer.step}: no better validation loss in {run.recipe.patience} evaluations")
    return exit_code(stop, run.trainer)


def failed_on_gpu(args: argparse.Namespace, error: RuntimeError) -> int:
    """What the driver or the compiler of kernels said. On the CPU such an error is a mistake of ours, and raised."""
    if args.device == "cpu":
        raise error
    return fail(PROGRAM, f"--device {args.device}: {error}")


if __name__ == "__main__":
    sys.exit(main())
