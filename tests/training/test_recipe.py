import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.models import GPTConfig
from tinygrad_llm.training import PRESETS, Recipe, preset
from tinygrad_llm.training.cli import Parser, add_recipe_flags, chosen_recipe

BASE = PRESETS["shakespeare-char"].recipe


def parsed(*flags):
    parser = Parser(prog="test")
    parser.add_argument("--preset", default="stories")
    add_recipe_flags(parser)
    return chosen_recipe(parser.parse_args(flags))


def test_shakespeare_char_is_nanogpts_recipe_for_a_cpu():
    r = BASE
    assert (r.layers, r.heads, r.channels, r.context, r.batch, r.steps, r.dropout) == (4, 4, 128, 64, 12, 2000, 0.0)
    assert (r.lr, r.min_lr, r.warmup, r.clip) == (1e-3, 1e-4, 100, 1.0)
    assert (r.beta1, r.beta2, r.weight_decay) == (0.9, 0.99, 0.1)
    assert r.eval_every == 250 and r.tie_weights and not r.qkv_bias


def test_gpt2_124m_is_the_configuration_of_that_name():
    r = PRESETS["gpt2-124m"].recipe
    assert (r.layers, r.heads, r.channels, r.context, r.batch, r.lr, r.weight_decay) == (12, 12, 768, 256, 2, 4e-4, 0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_valid_model_configuration(name):
    config = GPTConfig.from_dict(PRESETS[name].recipe.model_config(65))
    assert config.vocab_size == 65 and config.emb_dim == PRESETS[name].recipe.channels


def test_an_unknown_preset_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"--preset tiny: .* stories, shakespeare-char, gpt2-124m"):
        preset("tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -5}, "--steps -5: must be at least 1"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"batch": 0}, "--batch 0: must be at least 1"),
        ({"lr": math.nan}, "--lr nan: must be a finite number"),
        ({"lr": math.inf}, "--lr inf: must be a finite number"),
        ({"lr": -1.0, "min_lr": 0.0}, "--lr -1.0"),
        ({"dropout": 1.0}, r"--dropout 1.0: must be in \[0, 1\)"),
        ({"beta2": 1.0}, r"--beta2 1.0: must be in \[0, 1\)"),
        ({"clip": -1.0}, "--clip -1.0"),
        ({"heads": 5}, "--heads 5 does not divide --channels 128"),
        ({"min_lr": 1.0}, "--min-lr 1 is above --lr 0.001"),
        ({"warmup": 3000}, "--warmup 3000 is more than --steps 2000"),
        ({"temperature": -0.1}, "--temperature -0.1"),
    ],
)
def test_a_value_out_of_bounds_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        BASE.replace(**changes)


@given(st.integers(1, 5000))
def test_fewer_steps_shorten_the_warmup_of_the_preset(steps):
    recipe = BASE.replace(steps=steps)
    assert recipe.warmup == min(100, steps // 10)
    assert BASE.replace(steps=steps, warmup=steps).warmup == steps  # but not one that was asked for


@given(st.floats(1e-6, 1.0))
def test_another_rate_falls_in_the_same_proportion(lr):
    assert BASE.replace(lr=lr).min_lr == pytest.approx(lr / 10)
    assert BASE.replace(lr=lr, min_lr=lr / 2).min_lr == lr / 2


FIELDS = [f for f in dataclasses.fields(Recipe) if f.name not in ("heads", "warmup", "min_lr")]


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_every_value_has_a_flag_that_overrides_the_preset(field):
    flag = "--" + field.name.replace("_", "-")
    old = getattr(BASE, field.name)
    if field.type is bool:
        flags, new = [flag if not old else flag.replace("--", "--no-", 1)], not old
    elif field.type is int:
        flags, new = [flag, str(old * 2)], old * 2
    elif field.type is str:
        new = {"schedule": "constant", "dtype": "bfloat16"}[field.name]
        flags = [flag, new]
    else:
        flags, new = [flag, "0.25"], 0.25
    chosen, recipe = parsed("--preset", "shakespeare-char", *flags)
    assert chosen is PRESETS["shakespeare-char"] and getattr(recipe, field.name) == new
    assert recipe == BASE.replace(**{field.name: new})


def test_without_flags_the_recipe_is_the_presets():
    assert parsed() == (PRESETS["stories"], PRESETS["stories"].recipe)
