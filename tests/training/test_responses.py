"""Answers of a model, many at once: those that each prompt alone would get, cut where the form ends them."""

from types import SimpleNamespace

import pytest

import tinygrad_llm as tg
from tinygrad_llm.data import CHATML, FORMS, ask_entry, tasks
from tinygrad_llm.models import GPTModel, generate
from tinygrad_llm.text import CharTokenizer
from tinygrad_llm.training.responses import respond, shown


@pytest.mark.parametrize("style", FORMS)
def test_answers_are_those_of_each_prompt_alone(style):
    entries = tasks.generate(1, 2 * len(tasks.KINDS))
    form = FORMS[style]
    text = "".join(chr(c) for c in range(32, 127)) + "\n"
    tokenizer = CharTokenizer.build(text)
    end = tokenizer.vocab_size
    tg.manual_seed(0)
    sizes = {"context_length": 400, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    model = GPTModel({"vocab_size": end + 1, **sizes})
    known = SimpleNamespace(
        encode_ordinary=tokenizer.encode_ordinary, encode=tokenizer.encode,
        decode=lambda ids: "".join("|" if i == end else tokenizer.decode([i]) for i in ids),
    )  # fmt: skip
    found = respond(model, known, form, entries, 12, end, batch=5)
    for entry, answer in zip(entries, found, strict=True):
        prompt = ask_entry(entry, known, form)
        alone = generate(model, tg.tensor([prompt]), 12)[0].tolist()[len(prompt) :]
        alone = alone[: alone.index(end)] if end in alone else alone
        assert answer == shown(known.decode(alone), form)


def test_an_answer_ends_where_its_form_says():
    assert shown(" It is.\n<|im_end|>\n<|im_start|>user", CHATML) == "It is."
    assert shown(" It is <|im_end|>.\n", FORMS["alpaca"]) == "It is <|im_end|>."
