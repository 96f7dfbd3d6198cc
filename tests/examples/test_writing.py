"""examples/generate.py, chat.py and attention_map.py on a small model: what they show, and mistakes in one sentence."""

import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import models, text
from tinygrad_llm.data.instructions import ChatTemplate

EXAMPLES = Path(__file__).parents[2] / "examples"
LETTERS = " abcdefgh.\n<|>/user"


def example(name):
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


write, chat, attention = example("generate"), example("chat"), example("attention_map")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    tokenizer = text.build("char", LETTERS + "imstan")
    tg.manual_seed(1)
    model = models.GPTModel(models.GPTConfig(tokenizer.vocab_size, 16, emb_dim=16, n_heads=2, n_layers=2))
    models.save_pretrained(model, out)
    tokenizer.save(out / "tokenizer.json")
    return out


def run(module, *arguments):
    try:
        return module.main([str(a) for a in arguments])
    except SystemExit as error:
        return error.code


def continuation(folder, prompt, count, **options):
    model, tokenizer = models.commandline.load_run(folder)
    options = {"slide": 8, **options}
    return tokenizer.decode(models.generate(model, tg.tensor([tokenizer.encode(prompt)]), count, **options)[0].tolist())


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_a_prompt_is_continued(folder, tmp_path, capsys, monkeypatch, flags):
    expected = continuation(folder, "a bad cab", 30)
    (tmp_path / "prompt.txt").write_text("a bad cab")
    monkeypatch.setattr(sys, "stdin", io.StringIO("a bad cab\n"))
    for place in (["a bad cab"], ["--file", tmp_path / "prompt.txt"], []):
        assert run(write, folder, *place, "--tokens", 30, "--temperature", 0, *flags) == 0
        shown = capsys.readouterr()
        assert shown.out == expected + "\n"
        assert "prompt: 9 tokens, perplexity" in shown.err


def test_flags_reach_the_sampling(folder, capsys):
    generator = tg.Generator().manual_seed(5)
    expected = continuation(
        folder, "bad", 20, temperature=1.5, top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.1, context_size=10,
        slide=3, generator=generator,
    )  # fmt: skip
    flags = "--temperature 1.5 --top-k 9 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.1 --context 10 --slide 3"
    assert run(write, folder, "bad", "--tokens", 20, "--seed", 5, *flags.split()) == 0
    assert capsys.readouterr().out == expected + "\n"
    greedy = continuation(folder, "bad", 20)[3:]
    stop = greedy[4:6]
    assert run(write, folder, "bad", "--tokens", 20, "--temperature", 0, "--stop", stop, "--stop", "\u00e9") == 0
    assert capsys.readouterr().out == "bad" + greedy[: greedy.index(stop)] + "\n"
    assert run(write, folder, "bad", "--tokens", 20, "--top-k", 10_000, "--seed", 1, "--temperature", 1) == 0
    alike = continuation(folder, "bad", 20, temperature=1.0, generator=tg.Generator().manual_seed(1))
    assert capsys.readouterr().out == alike + "\n"
    assert run(write, folder, "a" * 40, "--tokens", 2) == 0
    assert "the model sees the last 16 at most" in capsys.readouterr().err
    assert run(write, folder, "bad", "--beams", 3, "--tokens", 5) == 0
    model, tokenizer = models.commandline.load_run(folder)
    found = models.beam_search(model, tg.tensor([tokenizer.encode("bad")]), 5, 3)[0].tolist()
    assert capsys.readouterr().out == tokenizer.decode(found) + "\n"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_get_the_dtype_asked_for(folder, capsys, dtype):
    model, tokenizer = models.commandline.load_run(folder, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(tg, dtype)}
    written = models.generate(model, tg.tensor([tokenizer.encode("bad")]), 9)[0].tolist()
    assert run(write, folder, "bad", "--tokens", 9, "--temperature", 0, "--dtype", dtype) == 0
    assert capsys.readouterr().out == tokenizer.decode(written) + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "--tokens", "1"], "the prompt is empty"),
        (["xyz"], "the prompt: char tokenizer"),
        (["a", "--file", "b"], "--file and a PROMPT are both given"),
        (["--file", "nowhere.txt"], "No such file"),
        (["a", "--top-p", "0"], "top_p must lie in 0 < top_p <= 1, not 0.0"),
        (["a", "--top-k", "0"], "top_k must be at least 1"),
        (["a", "--temperature", "-1"], "temperature must be 0 or a positive number"),
        (["a", "--tokens", "-1"], "--tokens -1"),
        (["a", "--context", "17"], "--context 17: must lie in 1..16"),
        (["a", "--slide", "0"], "--slide 0"),
        (["a", "--stop", ""], "--stop is empty"),
        (["a", "--seed", "-1"], "--seed -1"),
        (["a", "--beams", "0"], "--beams 0: must be at least 1"),
        (["a", "--dtype", "float64"], "--dtype float64: unknown; choose float32, bfloat16 or float16"),
        (["a", "--topk", "1"], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_sentence(folder, capsys, arguments, message):
    assert run(write, folder, *arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and not shown.out


def damage(copy, how):
    if how == "no tokenizer":
        (copy / "tokenizer.json").unlink()
    elif how == "another tokenizer":
        text.build("char", "abc").save(copy / "tokenizer.json")
    elif how == "no weights":
        (copy / "model.safetensors").unlink()
    elif how == "weights cut off":
        (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-100])
    elif how == "another model":
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "n_layers": 1}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no tokenizer", "without its tokenizer a model reads no text"),
        ("another tokenizer", "they were not made for each other"),
        ("no weights", "model.safetensors: there is no such file"),
        ("weights cut off", "not a whole safetensors file"),
        ("another model", "not expected are"),
    ],
)
@pytest.mark.parametrize("script", ["generate", "chat", "attention"])
def test_a_folder_that_does_not_fit_is_refused(folder, tmp_path, capsys, how, message, script):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy, how)
    module, arguments = {
        "generate": (write, [copy, "a"]),
        "chat": (chat, ["--model", copy]),
        "attention": (attention, [copy, "a", "--out", tmp_path / "a.png"]),
    }[script]
    assert run(module, *arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1
    assert run(write, tmp_path / "nowhere", "a") == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_checkpoint_reads_by_the_tokenizer_and_in_the_style_of_its_run(folder, tmp_path, capsys):
    out, made = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-00000400"
    shutil.copytree(folder, made)
    (made / "tokenizer.json").rename(out / "tokenizer.json")
    assert run(write, made, "bad", "--tokens", 9, "--temperature", 0) == 0
    assert capsys.readouterr().out == continuation(folder, "bad", 9) + "\n"
    assert models.commandline.load_base(made)[1].vocab_size == text.load(out / "tokenizer.json").vocab_size
    ChatTemplate("<{role}>", "<|>", roles=("user", "assistant")).save(out / "chat_template.json")
    assert run(write, made, "bad", "--tokens", 9, "--temperature", 0) == 0
    asked = continuation(folder, "<user>bad<|><assistant>", 9)[len("<user>bad<|><assistant>") :]
    assert capsys.readouterr().out == f"bad\n{asked.partition('<|>')[0]}\n"
    (out / "tokenizer.json").unlink()
    assert run(write, made, "bad") == 2
    assert f"{out / 'tokenizer.json'}: there is no such file" in capsys.readouterr().err


def talk(monkeypatch, capsys, folder, lines, *flags):
    """What is shown when these lines are typed; an exception among them is raised in place of one."""
    left = iter(lines)

    def typed(prompt):
        line = next(left, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)
    code = run(chat, "--model", folder, "--temperature", 0, "--tokens", 6, *flags)
    return code, capsys.readouterr().out.partition("\n")[2]


def test_a_chat_goes_on_from_all_that_was_said(folder, monkeypatch, capsys):
    first = continuation(folder, "bad", 6)
    second = continuation(folder, first + "\ncab", 6)
    code, shown = talk(monkeypatch, capsys, folder, ["bad", "", "cab", "/reset", "bad", "/quit", "never"])
    assert code == 0
    assert shown == f"{first[3:]}\n{second[len(first) + 4 :]}\n(all forgotten)\n{first[3:]}\n"


def test_a_chat_survives_what_is_typed(folder, monkeypatch, capsys):
    code, shown = talk(monkeypatch, capsys, folder, [KeyboardInterrupt(), "Ö!", "bad"])
    assert code == 0
    assert "/quit or Ctrl-D leaves" in shown and "(char tokenizer" in shown
    assert continuation(folder, "bad", 6)[3:] in shown  # what could not be read is not part of the conversation


def test_ctrl_c_ends_an_answer_and_keeps_it(folder, monkeypatch, capsys):
    whole, pieces = chat.stream_text, []

    def interrupted(*args, **options):
        for n, piece in enumerate(whole(*args, **options)):
            if n == 2 and not pieces:
                pieces.append(n)
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(chat, "stream_text", interrupted)
    code, shown = talk(monkeypatch, capsys, folder, ["bad", "cab"])
    half = continuation(folder, "bad", 2)
    expected = continuation(folder, half + "\ncab", 6)[len(half) + 4 :]
    assert code == 0 and shown.startswith(f"{half[3:]} ...\n{expected}\n")


@pytest.mark.parametrize(("script", "at"), [("generate", 2), ("generate", 0), ("chat", None)])
def test_ctrl_c_ends_a_program_in_one_sentence(folder, monkeypatch, capsys, script, at):
    """In the middle of a text, which keeps its line, or while a model is read."""

    def interrupted(*args, **options):
        for n in range(9):
            if n == at:
                raise KeyboardInterrupt
            yield "x"

    def at_once(*args):
        raise KeyboardInterrupt

    module = {"generate": write, "chat": chat}[script]
    monkeypatch.setattr(module, "stream_text", interrupted)
    if at is None:
        monkeypatch.setattr(module.commandline, "load_run", at_once)
    assert run(module, *(["--model", folder] if script == "chat" else [folder, "bad"])) == 130
    shown = capsys.readouterr()
    assert shown.err == f"{script}.py: stopped\n"
    assert shown.out == ("" if at is None else f"bad{at * 'x'}\n")


def test_a_template_beside_the_model_is_used(folder, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "tuned"
    shutil.copytree(folder, copy)
    template = ChatTemplate("<{role}>", "<|>", roles=("user", "assistant"))
    template.save(copy / "chat_template.json")
    assert ChatTemplate.from_file(copy / "chat_template.json") == template
    asked = []
    whole = chat.stream_text

    def watched(model, tokenizer, ids, *args, **options):
        asked.append((tokenizer.decode(ids), options["stop"]))
        return whole(model, tokenizer, ids, *args, **options)

    monkeypatch.setattr(chat, "stream_text", watched)
    code, shown = talk(monkeypatch, capsys, copy, ["bad", "cab"])
    answer = shown.split("\n")[0]
    assert code == 0 and asked[0] == ("<user>bad<|><assistant>", ["<|>"])
    assert asked[1][0].startswith(f"<user>bad<|><assistant>{answer}")
    (copy / "chat_template.json").write_text('{"opening": "<{role!r}>", "closing": "x"}')
    assert run(chat, "--model", copy) == 2
    assert "chat_template.json: not a chat template" in capsys.readouterr().err
    assert run(chat, "--model", copy, "--template", "jinja") == 2
    assert "--template jinja: unknown" in capsys.readouterr().err


def test_attention_is_drawn(folder, tmp_path, capsys):
    matplotlib = pytest.importorskip("matplotlib.image")
    picture = tmp_path / "a.png"
    assert run(attention, folder, "a bad cab.", "--out", picture) == 0
    assert "2 layers of 2 heads on 10 tokens" in capsys.readouterr().out
    pixels = matplotlib.imread(picture)
    assert pixels.shape[0] > 400 and len(np.unique(pixels.reshape(-1, 4), axis=0)) > 50
    for flags, message in [
        ([""], "the text has 0 tokens"),
        (["a" * 17], "the text has 17 tokens; the model takes 1 to 16"),
        (["a", "--layer", 2], "--layer 2: must lie in 0..1"),
        (["a", "--out", "a.jpg"], "let the name end in .png"),
        (["a", "--out", tmp_path / "no" / "a.png"], "No such file"),
    ]:
        assert run(attention, folder, "--out", picture, *flags) == 2
        assert message in capsys.readouterr().err
