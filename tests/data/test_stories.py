"""The stories: a text gives back its draws, its exact probability and, over all texts, the exact entropy."""

import dataclasses
import math
import os
import re
import string
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_llm.data import stories
from tinygrad_llm.data.stories_engine import Grammar

SEEDS = st.integers(0, 2**32 - 1)

# Small enough to write out all its texts: facts of one table, rows of several kinds, columns that draw, articles.
SMALL = """
who(name, they, born)
    Mia; Leonora | she | {a mood = mood} girl {.name}
    (3) Tom | he | a boy {.name}
    Pip and Pop | they | two mice, {.name}
mood
    shy | (2) old
pet(name, sound)
    owl | {size} hoo
    (WEIGHT) cat | meow
size
    small | (4) big
story
    (2) Once came {hero = who.born}. {Hero.they} met {friend = who}. {Friend} had {a pet = pet}, which said {pet.sound}.
    {Hero = who} had {a pet = pet}/and {a other = pet} that said {other.sound} to {hero} and {hero}. {A size} {pet}!
"""


def small(weight: int = 1) -> Grammar:
    return Grammar(SMALL.replace("WEIGHT", str(weight)))


def every_text(grammar: Grammar) -> list[tuple[str, float]]:
    """(text, probability) of every sequence of draws."""
    done, todo = [], [("", 1.0, grammar.start, {})]
    while todo:
        text, p, stack, facts = todo.pop()
        printed, slot, rest = grammar.advance(stack, facts)
        if slot is None:
            done.append((text + printed, p))
            continue
        rows, probabilities, _ = grammar.draws(slot, facts)
        for row, q in zip(rows, probabilities, strict=True):
            todo.append((text + printed, p * q, *grammar.after(slot, row, rest, facts)))
    return done


@pytest.fixture(scope="module")
def sample() -> list[tuple[str, float]]:
    """(story, log p) of some 600 stories."""
    text, at, pairs = stories.generate(7, 420_000), 0, []
    for derivation in stories.grammar().parse(text):
        pairs.append((text[at:derivation.end], derivation.log_probability))
        at = derivation.end
    return pairs


# --- a text and its draws ---------------------------------------------------------------------------------------------


@given(SEEDS)
def test_parse_inverts_generate_and_finds_no_second_derivation(seed):
    text, choices = stories.grammar().generate(Random(seed).random)
    found, furthest = stories.grammar().derivations(text)
    assert [derivation.choices for derivation in found] == [choices]
    assert found[0].end == furthest == len(text)


def test_every_slot_of_the_grammar_is_a_prefix_code():
    assert stories.grammar().check_prefix_code() > 90


@pytest.mark.parametrize(("rows", "shared"), [
    ("    tea | coffee | tea", "tea"),
    ("    pea | pear", "pea"),
    ("    {cup} | mug", "mug"),
    ("    {cup} of tea | a mug", None),
    ("    {guest} asks | {cup}", None),
    ("    {guest} asks | {guest} asks why", "Mia asks"),
    ("    {guest} asks | {guest.they} asks", "Mia asks"),
    ("    {host = person} and {host} | Mia and {person.they}", "Mia and Mia"),
    ("    {host = person.they} | tea", None),
    ("    pear | {pea}", "pea"),
    ("    {one} | {one.other}", None),
    ("    {one} | {one}", "Pip"),
])
def test_a_slot_that_is_no_prefix_code_is_found(rows, shared):
    grammar = Grammar(f"""
cup
    mug | bowl
pea
    pea
person(name, they)
    Mia | Mia
    Tom | he
twin(name, other)
    Pip | Pop
    Pop | Pip
drink
{rows}
story
    {{guest = person}}, {{one = twin}}, {{drink}}.
""")
    if shared is None:
        assert grammar.check_prefix_code() > 0
    else:
        with pytest.raises(ValueError, match=f"two rows of 'drink' may both begin '{shared}'"):
            grammar.check_prefix_code()


def test_an_ambiguous_text_has_all_its_derivations():
    grammar = Grammar("x\n    a | aa\nstory\n    {x}{x}!")
    assert sorted(d.choices for d in grammar.derivations("aaa!")[0]) == [(0, 0, 1), (0, 1, 0)]


# --- probability ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9))
def test_the_texts_of_a_small_grammar_are_distinct_and_their_probabilities_sum_to_one(weight):
    grammar = small(weight)
    texts = every_text(grammar)
    assert max(Counter(text for text, _ in texts).values()) == 1
    assert math.fsum(p for _, p in texts) == pytest.approx(1, abs=1e-12)
    for text, p in texts:
        (derivation,) = grammar.parse(text)
        assert derivation.log_probability == pytest.approx(math.log(p), abs=1e-12)


@given(SEEDS)
def test_the_probabilities_of_each_draw_sum_to_one(seed):
    grammar, uniform = stories.grammar(), Random(seed)
    stack, facts = grammar.start, {}
    while True:
        _, slot, rest = grammar.advance(stack, facts)
        if slot is None:
            break
        rows, p, _ = grammar.draws(slot, facts)
        assert math.fsum(p) == pytest.approx(1)
        assert not set(rows) & set(facts.values())
        stack, facts = grammar.after(slot, uniform.choice(rows), rest, facts)


def test_draws_come_as_often_as_their_weights_say():
    grammar, uniform, n = small(4), Random(3), 20_000
    seen = Counter(grammar.generate(uniform.random)[0] for _ in range(n))
    for text, p in every_text(grammar):
        assert seen[text] == pytest.approx(n * p, abs=5 * math.sqrt(n * p) + 1)


@given(SEEDS, SEEDS)
def test_log_probabilities_of_stories_add_up(one, two):
    a, b = stories.generate(one, 1), stories.generate(two, 1)
    assert stories.log_probability(a + b) == pytest.approx(stories.log_probability(a) + stories.log_probability(b))
    assert stories.log_probability(a) < -50
    assert stories.log_probability("") == 0


@given(SEEDS, st.data())
def test_a_text_outside_the_language_is_refused_where_it_leaves_it(seed, data):
    text = stories.generate(seed, 1)
    at = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ValueError, match=r"stories: no story reads .* \(character \d+\)"):
        stories.log_probability(text[:at] + "#" + text[at + 1:])
    with pytest.raises(ValueError, match="no story"):
        stories.log_probability(text[:-1])
    with pytest.raises(ValueError, match=rf"character {len(text)}\b"):
        stories.log_probability(text + "The end.")


@given(SEEDS)
def test_a_story_that_forgets_its_hero_is_refused(seed):
    text = stories.generate(seed, 1)
    (hero,) = re.findall(r"named (\w+(?: and \w+)?)", text)
    head, _, tail = text.rpartition(hero)
    if "named" not in head:  # mentioned once
        return
    with pytest.raises(ValueError, match="no story"):
        stories.log_probability(head + "Zacharias" + tail)


# --- entropy ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9))
def test_the_entropy_of_a_small_grammar_is_that_of_its_texts(weight):
    texts = every_text(small(weight))
    nats, characters = small(weight).entropy()
    assert nats == pytest.approx(-math.fsum(p * math.log(p) for _, p in texts))
    assert characters == pytest.approx(math.fsum(p * len(text) for text, p in texts))


@given(st.integers(1, 50), st.integers(1, 50))
def test_weights_change_the_entropy_as_the_formula_says(a, b):
    nats, characters = Grammar(f"story\n    ({a}) yes | ({b}) no").entropy()
    p = a / (a + b)
    assert nats == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert characters == pytest.approx(2 + p)


def test_a_fact_costs_nothing_when_it_returns_and_leaves_one_row_less_to_draw():
    nats, _ = Grammar("who\n    A | B | C | D\nstory\n    {x = who} {x} {x} {y = who} {y} {x}").entropy()
    assert nats == pytest.approx(math.log(4) + math.log(3))


def test_longer_words_change_the_length_and_not_the_entropy():
    one = Grammar("who\n    A | B\nstory\n    {x = who} {x} {y = who}").entropy()
    two = Grammar("who\n    A | Barbara\nstory\n    {x = who} {x} {y = who}").entropy()
    assert one == (pytest.approx(math.log(2)), 5)
    assert two == (pytest.approx(math.log(2)), 5 + 6 * 1.5)


def test_the_entropy_of_the_stories_agrees_with_their_mean_information(sample):
    exact, n = stories.entropy(), len(sample)
    for mean, values in [(exact.nats_per_story, [-log_p for _, log_p in sample]),
                         (exact.characters_per_story, [len(text) for text, _ in sample])]:
        observed = math.fsum(values) / n
        error = math.sqrt(math.fsum((value - observed) ** 2 for value in values) / n / n)
        assert abs(observed - mean) < 4 * error
        assert error < 0.01 * mean
    assert exact.nats_per_character == exact.nats_per_story / exact.characters_per_story
    with pytest.raises(dataclasses.FrozenInstanceError):
        exact.nats_per_story = 0.0


# --- the corpus -------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(SEEDS, st.integers(0, 4000), st.integers(0, 4000))
def test_generate_gives_whole_stories_and_a_longer_text_goes_on_from_a_shorter(seed, one, two):
    short, long = (stories.generate(seed, characters) for characters in sorted((one, two)))
    assert long.startswith(short)
    assert len(long) >= max(one, two)
    assert len(long) < max(one, two) + 1000
    assert stories.log_probability(long) <= 0  # whole stories, or it raises
    assert stories.generate(seed, len(long)) == long
    assert stories.generate(seed, 0) == ""
    assert stories.generate(seed, 1) != stories.generate(seed + 1, 1)


@pytest.mark.parametrize(("seed", "characters"), [(-1, 100), (1, -100)])
def test_generate_refuses_negative_numbers(seed, characters):
    with pytest.raises(ValueError, match=f"seed {seed} and characters {characters}"):
        stories.generate(seed, characters)


def test_the_stories_do_not_depend_on_the_hash_seed():
    code = "from tinygrad_llm.data import stories; print(stories.generate(5, 3000), stories.entropy())"
    texts = {subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                            capture_output=True, text=True).stdout for seed in ("1", "2")}
    assert texts == {f"{stories.generate(5, 3000)} {stories.entropy()}\n"}


def test_the_stories_are_clean_english(sample):
    for text, _ in sample:
        assert set(text) <= set(string.ascii_letters + ".,!?\" \n")
        assert 350 < len(text) < 1000
        story, end = text[:-2], text[-2:]
        assert end == "\n\n"
        assert len(story.split("\n")) == 4
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|  |[,.?!]{2}|\b(\w+) \1\b", story), story
        for paragraph in story.split("\n"):
            assert paragraph.count('"') % 2 == 0
            assert re.match(r'"?[A-Z]', paragraph)
            assert re.search(r'[.?!]"?$', paragraph)
        assert all(start[-1].isupper() for start in re.findall(r'(?<!Mr)(?<!Mrs)[.?!] "?\w', story)), story


def test_persons_keep_their_pronouns(sample):
    """The first pronoun after the opening is the hero's."""
    pronouns = {"girl": "she her", "fox": "she her", "boy": "he his", "badger": "he his",
                "mice": "they their", "piglets": "they their"}
    for text, _ in sample:
        kind, rest = re.findall(r"(\w+) named .*?\. (.*)", text)[0]
        assert re.findall(r"\b(?:she|her|he|his|they|their)\b", rest.lower())[0] in pronouns[kind].split(), text
    assert not any(re.search(r"\b(they|They) was\b|\b(he|He|she|She) were\b", text) for text, _ in sample)


# --- the notation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "message"), [
    ("story\n    {ghost}", "there is no table 'ghost'"),
    ("story\n    {who.they}\nwho\n    Mia", "table 'who' has no column 'they'"),
    ("story\n    {x = ghost}", "there is no table 'ghost'"),
    ("story\n    {not a slot at all}", "is not in the notation"),
    ("story\n    a } b", "is not in the notation"),
    ("    a\nstory\n    b", "must be the name of a new table"),
    ("story\n    a\nstory\n    b", "must be the name of a new table"),
    ("story\n    {who}\nwho(name, they)\n    Mia", "'Mia' has 1 columns"),
    ("story\n    a | | b", "a row of 'story' is empty"),
    ("story\n    {x}\nx\n    a {story}", "cycle"),
])
def test_a_grammar_that_is_not_in_the_notation_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        Grammar(source)


def test_a_fact_that_may_be_mentioned_before_its_draw_is_found():
    grammar = Grammar("who\n    A | B\nintro\n    I met {x = who}. | Hello.\nstory\n    {intro} Bye {x}.")
    with pytest.raises(ValueError, match="may mention 'x' before it is drawn"):
        grammar.entropy()


def test_a_table_that_runs_out_of_rows_is_found():
    grammar = Grammar("who\n    A | B\nstory\n    {x = who} {y = who} {z = who}")
    with pytest.raises(ValueError, match="hold every row of 'who'"):
        grammar.entropy()
    with pytest.raises(ValueError, match="hold every row of 'who'"):
        grammar.generate(Random(1).random)
