"""Settings of fine-grained rewards: what is refused, in one line that begins with its key."""

import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlhf_jax.config import LEVELS, default_config, from_json, to_json, validate
from rlhf_jax.data import segments, world_local
from rlhf_jax.errors import UserError


def changed(**values: Any) -> ConfigDict:
    """The default config, PPO and the fine-grained model among its stages, with dotted keys set."""
    config = default_config()
    config.stages = ("sft", "reward", "segments", "ppo")
    for key, value in values.items():
        *groups, leaf = key.split("__")
        group = config
        for name in groups:
            group = group[name]
        with group.unlocked(), group.ignore_type():
            group[leaf] = value
    return config


BAD = {
    "data__task": ["locally"],
    "segments__steps": [0],
    "segments__batch_size": [0],
    "segments__eval_every": [0],
    "segments__init": ["reward"],
    "segments__kinds": [(), ("plain",), ("plain:phrase",), ("a:token", "a:sentence")],
    "segments__least_words": [0],
    "segments__unmarked": ["bad"],
    "segments__optimizer__learning_rate": [0.0],
    "segments__optimizer__schedule": ["cosin"],
    "ppo__dense__models": [("",), ("this", "this"), ("/no/such/run",)],
    "ppo__dense__at": ["ends"],
    "ppo__dense__value": ["signs"],
    "ppo__dense__weights": [("a",), ("a:much",), ("a:inf",), ("a:1", "a:2"), ("a:1",)],  # the last: there is no model
    "ppo__dense__sequence": [-1.0, 0.0],  # the second: there is nothing else to follow
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_bad_value_is_one_line_that_begins_with_its_key(key: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(**{key: value}))
    assert str(caught.value).startswith(f"config.{key.replace('__', '.')}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "key", "says"),
    [
        ({"stages": ("segments",)}, "parents.sft", "config.segments.init=scratch"),
        ({"stages": ("ppo",), "parents__sft": ".", "ppo__dense__models": ("this",)}, "parents.reward", "ppo"),
        (
            {"stages": ("sft", "ppo"), "ppo__dense__models": ("this",), "ppo__dense__sequence": 0.0},
            "ppo.dense.models",
            "segments is not one of config.stages",
        ),
        ({"segments__unmarked": "skipp"}, "segments.unmarked", "did you mean skip?"),
        ({"stages": ("segments", "sft")}, "stages", "in this order"),
        ({"data__task": "local", "data__path": __file__, "tokenizer__kind": "byte"}, "data.task", "names a file"),
    ],
)
def test_a_bad_combination_says_what_would_mend_it(values: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(**values))
    assert str(caught.value).startswith(f"config.{key}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"ppo__dense__models": ("this", "."), "ppo__dense__weights": ("plain:0.3", "short:-1")},
        {"stages": ("sft", "segments", "ppo"), "ppo__dense__models": ("this",), "ppo__dense__sequence": 0.0},
        {"stages": ("segments",), "segments__init": "scratch"},
        {"segments__kinds": (":sentence", "a:b:token")},  # the unnamed kind, and one with a colon in its name
    ],
)
def test_what_can_run_is_allowed(values: dict[str, Any], tmp_path: pathlib.Path) -> None:
    config = changed(**values)
    validate(config)
    again = from_json(to_json(config))
    assert again.segments.kinds == config.segments.kinds
    assert again.ppo.dense.models == config.ppo.dense.models


def test_levels_and_kinds_are_those_of_the_data() -> None:
    assert segments.LEVELS == LEVELS
    assert {one.partition(":")[0] for one in default_config().segments.kinds} == set(world_local.KINDS)
