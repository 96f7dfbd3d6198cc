import json
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.data.stories import generate
from tinygrad_llm.text import WordPieceTokenizer, bert_words
from tinygrad_llm.text.pipeline import Pipeline
from tinygrad_llm.text.wordpiece import BYTES, SPECIAL_TOKENS
from tinygrad_llm.text.wordpiece_training import Neighbours, joined, learn

PASSAGE = generate(seed=1, characters=20_000) + " Straße, naïve café — 中文字, Ελλάδα 😀😀 ## [MASK] don't 1984"
OWN = WordPieceTokenizer.train([PASSAGE], 700)

PARTS = ["the", "The", "  ", "\n\n", "##", "#", "[UNK]", "[CLS]", "Ġ", "▁", "<0x41>", "café", "中文", "\r", "x1", "'s"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(st.sampled_from(PARTS)).map("".join)
# Hugging Face's Unicode tables are older than ours, so where ids must be the same there are no recent characters.
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"])) | st.lists(st.sampled_from(PARTS)).map("".join)
# Its tables for BERT are older still.
OLD = st.text(
    st.characters(max_codepoint=0x5FF) | st.sampled_from("中文한글ｶﾞ…—“”\u3000\u2028\ufffd𝔘😀ﬁİΣς\u200b\ue000$+`")
)
COUNTS = st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 9), min_size=1, max_size=12)


def characters(words):
    return sorted({c for w in words for c in w}) + sorted({f"##{c}" for w in words for c in w[1:]})


@given(TEXTS)
def test_decode_inverts_encode(passage):
    ids = OWN.encode(passage, disallowed_special=())
    assert OWN.decode(ids) == passage
    assert not set(ids) & set(OWN.special_tokens.values())


@given(TEXTS.filter(len), st.integers(5 + len(BYTES), 450))
def test_one_trained_on_any_text_keeps_every_other(passage, size):
    tokenizer = WordPieceTokenizer.train([passage], size)
    assert tokenizer.vocab_size <= size
    for other in (passage, "Zürich, 中文 😀\n"):
        assert tokenizer.decode(tokenizer.encode(other, disallowed_special=())) == other


@given(TEXTS)
def test_each_piece_is_the_longest_there_is(passage):
    for word in OWN.pipeline.words(passage):
        rest, prefix = word, ""
        for i in OWN.spell(word):
            ends = [n for n in range(1, len(rest) + 1) if prefix + rest[:n] in OWN.ids]
            assert OWN.pieces[i] == prefix + rest[: max(ends)]
            rest, prefix = rest[max(ends) :], "##"
        assert not rest


def test_a_special_token_that_is_allowed_is_one_id():
    ids = OWN.encode("[CLS]the fox[SEP]", allowed_special="all")
    assert (ids[0], ids[-1]) == (OWN.ids["[CLS]"], OWN.ids["[SEP]"])
    assert OWN.decode(ids) == "[CLS]the fox[SEP]"


def test_a_very_long_word_is_spelled():
    assert OWN.decode(OWN.encode("a" * 100_000)) == "a" * 100_000


@pytest.mark.parametrize("criterion", ["likelihood", "frequency"])
def test_the_vocabulary_has_the_size_asked_for_and_words_become_shorter(criterion):
    sizes = [WordPieceTokenizer.train([PASSAGE], size, criterion=criterion) for size in (427, 500, 600)]
    assert [tokenizer.vocab_size for tokenizer in sizes] == [427, 500, 600]
    lengths = [len(tokenizer.encode("The fox said that she was happy.")) for tokenizer in sizes]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]


def naive_frequency(words, size):
    """Pieces by joining the most frequent pair, counted anew each time; and their number when a tie first arises."""
    pieces, first_tie = characters(words), None
    spelled = {w: [pieces.index(w[0]), *(pieces.index(f"##{c}") for c in w[1:])] for w in words}
    while len(pieces) < size:
        counts = Counter()
        for w, ids in spelled.items():
            for pair in pairwise(ids):
                counts[pair] += words[w]
        if not counts:
            break
        pair = min(counts, key=lambda p: (-counts[p], p))
        if list(counts.values()).count(counts[pair]) > 1 and first_tie is None:
            first_tie = len(pieces)
        pieces.append(pieces[pair[0]] + pieces[pair[1]][2:])
        spelled = {w: joined(ids, pair, len(pieces) - 1) for w, ids in spelled.items()}
    return pieces, first_tie or len(pieces)


@given(COUNTS, st.integers(0, 12))
def test_frequency_joins_the_most_frequent_pair(words, more):
    size = len(characters(words)) + more
    assert learn(words, size, characters(words), "##", "frequency", 1) == naive_frequency(words, size)[0]


def likelihood(counts):
    total = sum(counts)
    return sum(c * math.log(c) for c in counts if c) - total * math.log(total)


@given(COUNTS)
def test_likelihood_joins_the_pair_that_gains_most(words):
    first = characters(words)
    spelled = [[first.index(w[0]), *(first.index(f"##{c}") for c in w[1:])] for w in words]
    state = Neighbours([list(ids) for ids in spelled], list(words.values()), len(first) + 20)
    for piece in range(len(first), len(first) + 20):
        total = int(state.pieces.sum())
        pair = state.best("likelihood", 1)
        rows = np.flatnonzero(state.count > 0)
        gains = state.gains(rows, total)
        if pair is None:
            assert not (gains > 0).any()
            return
        assert gains.max() == state.gains(np.array([state.rows[pair]]), total)[0]
        n, before = int(state.count[state.rows[pair]]), likelihood(state.pieces.tolist())
        state.join(pair, piece)
        if state.pieces[piece] == n:  # else a piece stood beside itself three times or more: not every pair is joined
            after = likelihood(state.pieces.tolist())
            assert math.isclose(after - before, gains.max(), rel_tol=1e-9, abs_tol=1e-9)
        recount = Counter()
        for ids, times in zip(state.spelled, words.values(), strict=True):
            for neighbours in pairwise(ids):
                recount[neighbours] += times
        assert {p: c for p, row in state.rows.items() if (c := int(state.count[row]))} == dict(recount)
        symbols = Counter()
        for ids, times in zip(state.spelled, words.values(), strict=True):
            for symbol in ids:
                symbols[symbol] += times
        assert state.pieces.tolist() == [symbols[i] for i in range(len(state.pieces))]


def test_what_may_not_become_a_piece_does_not():
    words = {"abab": 5, "ab": 9}
    assert "ab" in learn(words, 9, characters(words), "##", "frequency", 1)
    assert "ab" not in learn(words, 9, characters(words), "##", "frequency", 1, never={"ab"})


def test_pairs_below_min_count_are_left():
    words = {"ab": 3, "cd": 1}
    assert learn(words, 99, characters(words), "##", "likelihood", 2) == [*characters(words), "ab"]


@pytest.mark.parametrize("bert", [False, True])
def test_save_and_load_give_the_same_tokenizer(tmp_path, bert):
    tokenizer = WordPieceTokenizer.train([PASSAGE], 600, pipeline=bert_words() if bert else None)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = text.load(tmp_path / "tokenizer.json")
    assert isinstance(loaded, WordPieceTokenizer)
    assert loaded.to_dict() == tokenizer.to_dict()
    assert loaded.encode("The fox, 中 said.") == tokenizer.encode("The fox, 中 said.")


def test_bert_loses_what_it_says_it_loses():
    tokenizer = WordPieceTokenizer.train([PASSAGE], 600, pipeline=bert_words())
    decode, encode = tokenizer.decode, tokenizer.encode
    assert decode(encode("The  CAFÉ,\n she said")) == "the cafe, she said"
    assert decode(encode("the \N{SNOWMAN} fox")) == "the [UNK] fox"
    cased = WordPieceTokenizer.train([PASSAGE], 600, pipeline=bert_words(lowercase=False))
    assert cased.decode(cased.encode("The café")) == "The café"


def huggingface(tokenizer):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_huggingface()))
    theirs.encode_special_tokens = True  # special tokens in a text are ordinary text
    return theirs


@given(ASSIGNED)
def test_hugging_face_reads_ours_and_finds_the_same_ids(passage):
    theirs = huggingface(OWN)
    ids = theirs.encode(passage, add_special_tokens=False).ids
    assert ids == OWN.encode(passage, disallowed_special=())
    assert theirs.decode(ids, skip_special_tokens=False) == passage


def test_hugging_face_puts_cls_and_sep_around():
    ids = huggingface(OWN).encode("the fox").ids
    assert ids == [OWN.ids["[CLS]"], *OWN.encode("the fox"), OWN.ids["[SEP]"]]


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def bert(request):
    """A tokenizer that Hugging Face's library trained as BERT's, and ours of its file."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.BertWordPieceTokenizer(lowercase=request.param)
    theirs.train_from_iterator([PASSAGE, "中文한글 déjà vu!"], 400, show_progress=False)
    ours = WordPieceTokenizer.from_huggingface(json.loads(theirs.to_str()))
    return theirs, ours


BERT_PARTS = ["the fox", " Déjà", "don't", "a$b", "x`", "a" * 101, "[SEP]", " "]


@given(passage=OLD | st.lists(st.sampled_from(BERT_PARTS)).map("".join))
def test_a_file_from_hugging_face_gives_the_same_ids(bert, passage):
    theirs, ours = bert
    theirs._tokenizer.encode_special_tokens = True
    assert ours.encode(passage, disallowed_special=()) == theirs.encode(passage, add_special_tokens=False).ids
    theirs._tokenizer.encode_special_tokens = False
    assert ours.encode(passage, allowed_special="all") == theirs.encode(passage, add_special_tokens=False).ids


@given(data=st.data())
def test_a_file_from_hugging_face_decodes_the_same(bert, data):
    theirs, ours = bert
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1)))
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_frequency_finds_the_pieces_of_hugging_faces_trainer_up_to_a_tie():
    tokenizers = pytest.importorskip("tokenizers")
    draw = np.random.default_rng(0)  # the trainer there breaks ties at random, so here are counts with few of them
    short = sorted(word for word in set(bert_words().words(PASSAGE)) if len(word) < 6)
    words = {word: int(draw.integers(1, 1000)) for word in short}
    passage = " ".join(f"{word} " * times for word, times in words.items())
    _, size = naive_frequency(words, 300)
    assert size > len(characters(words)) + 40
    theirs = tokenizers.BertWordPieceTokenizer()
    theirs.train_from_iterator([passage], size + 5, min_frequency=1, limit_alphabet=10**6, show_progress=False)
    ours = WordPieceTokenizer.train([passage], size + 5, pipeline=bert_words(), criterion="frequency", min_count=1)
    assert set(ours.pieces) == set(theirs.get_vocab())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 426}, "vocab_size 426 must be at least 427: 5 special tokens and 422 pieces"),
        ({"special_tokens": ["<a>", "<a>"]}, "'<a>' is named twice"),
        ({"special_tokens": ["x"]}, "two or more visible ASCII characters, not 'x'"),
        ({"special_tokens": ["<é>"]}, "not '<é>'"),
        ({"special_tokens": ["##a"]}, "'##a' cannot be a special token"),
        ({"special_tokens": ["<0x41>"]}, "'<0x41>' cannot be a special token"),
        ({"criterion": "luck"}, "criterion 'luck' must be"),
        ({"min_count": 0}, "min_count 0 must be at least 1"),
    ],
)
def test_a_training_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer.train(["abc"], **{"vocab_size": 500, **arguments})


@pytest.mark.parametrize("passage", ["a\ud800b", "\udfff"])
def test_a_lone_surrogate_is_named(passage):
    with pytest.raises(ValueError, match=rf"at position {len(passage) // 2} is half of a surrogate pair"):
        OWN.encode(passage)


@pytest.mark.parametrize("value", [5, None, b"abc"])
def test_only_text_is_encoded(value):
    with pytest.raises(TypeError):
        OWN.encode_ordinary(value)


def test_an_id_outside_the_vocabulary_is_named():
    with pytest.raises(ValueError, match=r"wordpiece tokenizer: id 700 at position 1 is outside \[0, 700\)"):
        OWN.decode([0, 700])


def test_no_word_is_spelled_with_a_special_token():
    tokenizer = WordPieceTokenizer(["ab", "a", "##a", "##b", "##ab"], ["ab", "##ab"], Pipeline())
    assert tokenizer.encode("abab", disallowed_special=()) == [1, 3, 2, 3]


def test_a_word_without_spelling_and_without_unknown_token_is_named():
    tokenizer = WordPieceTokenizer(["a", "##a"])
    with pytest.raises(ValueError, match=r"no pieces spell 'ab', and there is no '\[UNK\]'"):
        tokenizer.encode("ab")


def changed(**changes):
    """The file of a small tokenizer with other fields; a key "model.x" is a field of its model."""
    fields = WordPieceTokenizer(["[UNK]", "a", "##b"], ["[UNK]"]).to_huggingface()
    for key, value in changes.items():
        target = fields["model"] if key.startswith("model_") else fields
        target[key.removeprefix("model_")] = value
    return fields


TOKEN = {"id": 0, "content": "[UNK]", "special": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2.0"}, '"version" must be "1.0"'),
        ({"model": []}, '"model" may not be'),
        ({"model_type": "BPE"}, "the model is 'BPE', not WordPiece"),
        ({"model_vocab": ["a"]}, '"vocab" may not be'),
        ({"model_vocab": {"a": 1, "b": 2}}, "ids must be 0 to 1, each once; 'b' has 2"),
        ({"model_vocab": {"a": 0, "b": 0}}, "'b' has 0"),
        ({"model_vocab": {"a": True, "b": 0}}, "'a' has True"),
        ({"model_vocab": {"a": 10**30}}, "'a' has 1000"),
        ({"model_unk_token": 3}, '"unk_token" may not be 3'),
        ({"model_continuing_subword_prefix": None}, '"continuing_subword_prefix" may not be None'),
        ({"model_max_input_chars_per_word": -1}, "-1 must be at least 0"),
        ({"added_tokens": {}}, '"added_tokens" may not be'),
        ({"added_tokens": [3]}, "an added token must be an object, found 3"),
        ({"added_tokens": [{**TOKEN, "id": 2}]}, "has id 2, expected 0"),
        ({"added_tokens": [{**TOKEN, "content": "x", "id": 9}]}, "has id 9, expected 3"),
        ({"added_tokens": [{**TOKEN, "special": False}]}, '"special" False is not supported'),
        ({"added_tokens": [{**TOKEN, "lstrip": True}]}, '"lstrip" True is not supported'),
        ({"normalizer": {"type": "Magic"}}, "normalizer 'Magic' is not supported; known are BertNormalizer"),
        ({"normalizer": {"type": ["x"]}}, "normalizer .* is not supported"),
        ({"normalizer": {"type": "BertNormalizer", "clean_text": 1}}, '"clean_text" may not be 1'),
        ({"pre_tokenizer": "BertPreTokenizer"}, "pre_tokenizer None is not supported"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a*)*b"}}}, "Split: \"pattern\" .* only"),
        ({"pre_tokenizer": {"type": "Sequence"}}, '"pretokenizers" may not be None'),
        ({"decoder": {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": ""}}, "Replace: pattern"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused(tmp_path, changes, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"tokenizer": "wordpiece", "huggingface": changed(**changes)}))
    with pytest.raises(ValueError, match=message):
        text.load(path)


def test_build_makes_the_default_kind():
    tokenizer = text.build("wordpiece", PASSAGE)
    assert isinstance(tokenizer, WordPieceTokenizer)
    assert tuple(tokenizer.special_tokens) == SPECIAL_TOKENS
