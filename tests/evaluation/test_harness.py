"""Our models in EleutherAI's harness: its own encoding, windows and tool as the judge. Skipped without lm_eval."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.evaluation.parts import TEXT, TOKENIZER, gpt

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows

from tinygrad_llm.evaluation.__main__ import main
from tinygrad_llm.evaluation.harness import HarnessModel

GPT = gpt()
END = TOKENIZER.special_tokens["<|endoftext|>"]
words = st.text(st.sampled_from("the cat so é!"), min_size=1, max_size=12)


class Theirs(TemplateLM):
    """The harness's own splitting of context and continuation, and the plainest way to score ids."""

    eot_token_id = END
    max_length = 12
    loglikelihood_rolling = generate_until = None

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return TOKENIZER.encode_ordinary(string)

    def _loglikelihood_tokens(self, requests, **kwargs):
        found = []
        for _, context, continuation in requests:
            ids = (context + continuation)[-self.max_length - 1 :]
            with tg.no_grad():
                logp = GPT(tg.tensor([ids[:-1]]))[0].log_softmax(-1).numpy()[-len(continuation) :]
            found.append((logp[range(len(continuation)), continuation].sum(), logp.argmax(-1).tolist() == continuation))
        return found


def requests(kind, *arguments):
    return [Instance(kind, {}, given, n) for n, given in enumerate(arguments)]


@given(st.lists(st.tuples(st.just("") | words.filter(str.strip), words.filter(str.strip)), min_size=1, max_size=5))
def test_log_likelihoods_are_those_of_the_harness(texts):
    asked = requests("loglikelihood", *texts)
    expected = Theirs().loglikelihood(asked, disable_tqdm=True)
    found = HarnessModel(GPT, TOKENIZER, 3).loglikelihood(asked)
    np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=1e-9)
    assert [g for _, g in found] == [g for _, g in expected]


def test_what_greedy_decoding_writes_is_known():
    start = TOKENIZER.encode_ordinary("the cat")
    ids = tg.models.generate(GPT, tg.tensor([start]), 3).tolist()[0]
    text = TOKENIZER.decode(ids)[len("the cat") :]
    if TOKENIZER.encode_ordinary("the cat" + text) == ids:
        assert HarnessModel(GPT, TOKENIZER).loglikelihood(requests("loglikelihood", ("the cat", text)))[0][1]
    assert not HarnessModel(GPT, TOKENIZER).loglikelihood(requests("loglikelihood", ("the cat", " or or or")))[0][1]


@given(st.lists(st.integers(0, 90).map(lambda n: TEXT[:n]), min_size=1, max_size=4))
def test_texts_are_read_in_the_windows_of_the_harness(texts):
    found = HarnessModel(GPT, TOKENIZER, 2).loglikelihood_rolling(
        requests("loglikelihood_rolling", *((t,) for t in texts))
    )
    for text, sum_ in zip(texts, found, strict=True):
        ids, expected = TOKENIZER.encode_ordinary(text), 0.0
        for given_ids, targets in get_rolling_token_windows(ids, END, 12, 1):
            with tg.no_grad():
                logp = GPT(tg.tensor([given_ids]))[0].log_softmax(-1).numpy()[-len(targets) :]
            expected += logp[range(len(targets)), targets].sum()
        assert sum_ == pytest.approx(expected, abs=1e-9)


def test_answers_end_before_a_stop_string_and_unknown_options_are_refused():
    model = HarnessModel(GPT, TOKENIZER)
    (whole,) = model.generate_until(requests("generate_until", ("the cat", {"until": [], "max_gen_toks": 20})))
    stop = whole[3:5]
    asked = ("the cat", {"until": [stop], "max_gen_toks": 20, "do_sample": False, "temperature": 0.0})
    assert model.generate_until(requests("generate_until", asked)) == [whole[: whole.index(stop)]]
    with pytest.raises(ValueError, match="num_beams in the request is not known here"):
        model.generate_until(requests("generate_until", ("a", {"num_beams": 3})))


def test_a_task_of_its_own_tool(tmp_path, capsys):
    """A YAML task over a local file, by the command line: multiple choice, and the perplexity of texts."""
    run = tmp_path / "run"
    GPT.save_pretrained(run)
    TOKENIZER.save(run / "tokenizer.json")
    data, texts = tmp_path / "data.jsonl", tmp_path / "texts.jsonl"
    questions = [{"q": "the cat", "c": ["sat", "on the log"], "a": n % 2} for n in range(4)]
    data.write_text("".join(json.dumps(q) + "\n" for q in questions))
    texts.write_text(json.dumps({"text": TEXT}) + "\n")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    source = (
        "dataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n    test: {}\nmetadata:\n  version: 1\n"
    )
    (tasks / "cats.yaml").write_text(
        "task: cats\noutput_type: multiple_choice\n"
        "doc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\ndoc_to_target: '{{a}}'\n" + source.format(data)
    )
    (tasks / "read.yaml").write_text(
        "task: read\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list:\n  - metric: bits_per_byte\n" + source.format(texts)
    )
    report = tmp_path / "report.json"
    arguments = ["--model", str(run), "--include-path", str(tasks), "--json", str(report)]
    assert main(["harness", *arguments, "--tasks", "cats,read"]) == 0
    shown = capsys.readouterr().out
    results = json.loads(report.read_text())["results"]
    assert results["cats"]["acc,none"] == 0.5 and "|cats" in shown.replace(" ", "")

    from tinygrad_llm.evaluation import text_loss

    loss = text_loss(GPT, TOKENIZER, TEXT, stride=12)
    assert results["read"]["bits_per_byte,none"] == pytest.approx(loss.bits_per_byte, rel=1e-6)
    assert main(["harness", *arguments, "--tasks", "dogs"]) == 2
    assert "--tasks dogs: not known to lm-eval" in capsys.readouterr().err
