"""Multiple choice: how context and choice become ids, their log-likelihoods, and which one is chosen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.evaluation.parts import TOKENIZER, gpt
from tinygrad_llm.evaluation import Answered, Question, accuracy, answer_questions, encode_pair, score_pairs
from tinygrad_llm.text import CharTokenizer

GPT = gpt()
END = TOKENIZER.special_tokens["<|endoftext|>"]
words = st.text(st.sampled_from("the cat so é!"), min_size=1, max_size=20)


def test_spaces_at_the_contexts_end_begin_the_continuation():
    assert encode_pair(TOKENIZER, "the cat ", "sat") == encode_pair(TOKENIZER, "the cat", " sat")
    assert encode_pair(TOKENIZER, "the cat", " sat") == (TOKENIZER.encode_ordinary("the cat sat"), 2)
    assert encode_pair(TOKENIZER, "", "sat") == ([END, *TOKENIZER.encode_ordinary("sat")], 1)


@given(words, words)
def test_a_pair_is_the_context_and_what_follows_it_in_the_whole_text(context, continuation):
    try:
        ids, first = encode_pair(TOKENIZER, context, continuation)
    except ValueError as error:
        assert "no token before" in str(error) and not context.strip()
        return
    whole, alone = (TOKENIZER.encode_ordinary(text) for text in (context + continuation, context.rstrip()))
    assert 1 <= first < len(ids) and ids[:first] == alone
    assert ids[first:] == whole[first:] or (len(whole) <= first and ids[first:] == whole[-1:])


def test_log_likelihoods_are_sums_over_the_continuation_within_the_context():
    questions = [
        Question("the cat sat on the mat and the dog sat", ("on the log", "on"), 0),  # longer than the context
        Question("", ("Anna", "the"), 1),
    ]
    found = answer_questions(GPT, TOKENIZER, questions, batch=3)
    for question, answered in zip(questions, found, strict=True):
        for c, choice in enumerate(question.choices):
            ids, first = encode_pair(TOKENIZER, question.context, " " + choice)
            cut = max(0, len(ids) - 13)
            with tg.no_grad():
                logp = GPT(tg.tensor([ids[cut:-1]]))[0].log_softmax(-1).numpy()
            expected = sum(logp[t - cut - 1, ids[t]] for t in range(first, len(ids)))
            assert answered.nats[c] == pytest.approx(expected, abs=1e-9)
            assert answered.tokens[c] == len(ids) - first
        assert answered.bytes.tolist() == [len(choice) for choice in question.choices]


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.integers(1, 4))
def test_batches_change_nothing(texts, batch):
    pairs = [encode_pair(TOKENIZER, "the " + a, " so" + b) for a, b in texts]
    pairs = [pair for pair in pairs if len(pair.ids) - pair.first <= 12]
    together = score_pairs(GPT, pairs, batch)
    for pair, found in zip(pairs, together, strict=True):
        np.testing.assert_allclose(found.logp, score_pairs(GPT, [pair])[0].logp, atol=1e-12)


def test_norms_and_accuracy():
    one = Answered(np.array([-4.0, -6.0, -5.0]), np.array([1, 3, 2]), np.array([2, 4, 10]), 2)
    assert [one.chosen(norm) for norm in ("sum", "token", "byte")] == [0, 1, 2]
    other = Answered(one.nats, one.tokens, one.bytes, 0)
    assert accuracy([one, other]) == 0.5 and accuracy([one, other], "byte") == 0.5 and accuracy([one], "token") == 0
    with pytest.raises(ValueError, match="norm must be one of sum, token, byte, not 'word'"):
        one.chosen("word")
    with pytest.raises(ValueError, match="no questions"):
        accuracy([])


def test_records():
    record = {"ctx": "a", "endings": ["x", "1"], "label": "1"}
    keys = {"context": "ctx", "choices": "endings", "answer": "label"}
    assert Question.from_records([record], **keys) == [Question("a", ("x", "1"), 1)]  # the text comes before the number
    assert Question.from_records([{**record, "label": "0"}], **keys)[0].answer == 0
    assert Question.from_records([{**record, "label": 1}], **keys)[0].answer == 1
    for change, message in [
        ({"label": 2}, "record 0: 'label' must be one of the choices or a number in 0..1, not 2"),
        ({"label": True}, "not True"),
        ({"label": "y"}, "not 'y'"),
        ({"endings": ["x"]}, "'endings' must be a list of two texts or more"),
        ({"endings": ["x", ""]}, "none of them empty"),
        ({"ctx": None}, "'ctx' must be a text"),
    ]:
        with pytest.raises(ValueError, match=message):
            Question.from_records([{**record, **change}], **keys)
    with pytest.raises(ValueError, match="record 0 has no 'context'"):
        Question.from_records([record])


def test_what_cannot_be_scored_is_refused():
    plain = CharTokenizer.build("abc ")
    for arguments, message in [
        ((TOKENIZER, "a", ""), "the continuation is empty"),
        ((plain, "", "a"), "the tokenizer has no <|endoftext|>"),
        ((plain, " ", "a"), "no token before"),
    ]:
        with pytest.raises(ValueError, match=message):
            encode_pair(*arguments)
    with pytest.raises(ValueError, match=r"a continuation has \d+ tokens, but the model's context is 12"):
        answer_questions(GPT, TOKENIZER, [Question("the", ("cat sat on " * 9, "b"), 0)])
    with pytest.raises(ValueError, match=r"question 0: .* no token before"):
        answer_questions(GPT, TOKENIZER, [Question(" ", ("a", "b"), 0)], delimiter="")
