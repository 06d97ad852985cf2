"""Settings of the stages dpo and online: what is refused, in one line that begins with its key."""

import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlhf_jax.config import DIRECT_DIVERGENCES, DIRECT_LOSSES, default_config, from_json, to_json, validate
from rlhf_jax.errors import UserError
from rlhf_jax.flags import load
from rlhf_jax.objectives.divergences import DIVERGENCES, make_divergence

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A loss and what it cannot do without.
NEEDS: dict[str, dict[str, Any]] = {
    "rdpo": {"dpo__label_smoothing": 0.1},
    "orpo": {"dpo__reference": "none"},
    "simpo": {"dpo__reference": "none"},
}


def changed(**values: Any) -> ConfigDict:
    """The default config with both stages among its own and dotted keys set."""
    config = default_config()
    config.stages = ("sft", "reward", "dpo", "online")
    for key, value in values.items():
        *groups, leaf = key.split("__")
        group = config
        for name in groups:
            group = group[name]
        with group.unlocked(), group.ignore_type():
            group[leaf] = value
    return config


def refused(**values: Any) -> str:
    with pytest.raises(UserError) as caught:
        validate(changed(**values))
    assert "\n" not in str(caught.value)
    return str(caught.value)


BAD = {
    "dpo__steps": [0],
    "dpo__batch_size": [0],
    "dpo__accumulate": [0],
    "dpo__eval_every": [0],
    "dpo__loss": ["ddpo", "tdpo"],
    "dpo__beta": [0.0],
    "dpo__label_smoothing": [0.5, -0.1],
    "dpo__divergence": ["chi_squared", "total_variation"],
    "dpo__alpha": [0.0, 1.0],
    "dpo__gamma": [-1.0],
    "dpo__nll": [-1.0],
    "dpo__lambda_": [-0.1],
    "dpo__desirable": [-1.0],
    "dpo__undesirable": [-1.0],
    "dpo__clip": [0.0],
    "dpo__margin": [float("nan")],
    "dpo__lists": ["pairs"],
    "dpo__reference": ["free"],
    "dpo__optimizer__learning_rate": [0.0],
    "online__iterations": [0],
    "online__prompts_per_iteration": [0],
    "online__samples_per_prompt": [1],
    "online__method": ["dpo"],
    "online__reference_every": [-1],
    "online__epochs": [0],
    "online__minibatches": [0, 3],
    "online__eval_every": [0],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_bad_value_is_one_line_that_begins_with_its_key(key: str, value: object) -> None:
    assert refused(**{key: value}).startswith(f"config.{key.replace('__', '.')}: ")


@pytest.mark.parametrize(
    ("values", "key", "says"),
    [
        ({"stages": ("dpo",)}, "parents.sft", "dpo"),
        ({"stages": ("sft", "online")}, "parents.reward", "online"),
        ({"dpo__label_smoothing": 0.1, "dpo__loss": "hinge"}, "dpo.label_smoothing", "unused"),
        ({"dpo__loss": "rdpo"}, "dpo.label_smoothing", "above 0"),
        ({"dpo__divergence": "hellinger"}, "dpo.divergence", "unused"),
        ({"dpo__alpha": 0.2}, "dpo.alpha", "unused"),
        ({"dpo__alpha": 0.2, "dpo__loss": "f_dpo", "dpo__divergence": "hellinger"}, "dpo.alpha", "unused"),
        ({"dpo__gamma": 0.2}, "dpo.gamma", "unused"),
        ({"dpo__lambda_": 0.2}, "dpo.lambda_", "unused"),
        ({"dpo__desirable": 0.2}, "dpo.desirable", "unused"),
        ({"dpo__undesirable": 0.2}, "dpo.undesirable", "unused"),
        ({"dpo__clip": 0.2}, "dpo.clip", "unused"),
        ({"dpo__loss": "orpo", "dpo__reference": "none", "dpo__nll": 1.0}, "dpo.nll", "unused"),
        ({"dpo__loss": "orpo", "dpo__reference": "none", "dpo__beta": 1.0}, "dpo.beta", "unused"),
        ({"dpo__loss": "orpo"}, "dpo.reference", "none"),
        ({"dpo__loss": "simpo", "dpo__reference": "on_the_fly"}, "dpo.reference", "none"),
        ({"dpo__loss": "f_dpo", "dpo__reference": "none"}, "dpo.reference", "precomputed"),
        ({"dpo__loss": "chi_po", "dpo__reference": "none"}, "dpo.reference", "precomputed"),
        ({"dpo__loss": "chi_po", "dpo__length_normalized": True}, "dpo.length_normalized", "unused"),
        ({"dpo__loss": "hinge", "dpo__lists": "plackett_luce"}, "dpo.lists", "unused"),
        ({"dpo__lists": "plackett_luce", "dpo__margin": 1.0}, "dpo.margin", "unused"),
        ({"dpo__lists": "plackett_luce", "dpo__label_smoothing": 0.1}, "dpo.label_smoothing", "unused"),
        ({"stages": ("sft", "dpo"), "dpo__loss": "kto", "dpo__accumulate": 2}, "dpo.accumulate", "baseline"),
        (
            {"stages": ("sft", "dpo"), "dpo__loss": "kto", "dpo__desirable": 0.0, "dpo__undesirable": 0.0},
            "dpo.desirable",
            "nothing",
        ),
        ({"dpo__loss": "kto"}, "dpo.loss", "online"),
        ({"stages": ("sft", "reward", "online"), "dpo__margin": 1.0}, "dpo.margin", "unused"),
        ({"stages": ("sft", "reward", "online"), "dpo__reference": "on_the_fly"}, "dpo.reference", "unused"),
        ({"dpo__reference": "none", "online__reference_every": 5}, "online.reference_every", "unused"),
        ({"online__method": "expert", "online__reference_every": 5}, "online.reference_every", "unused"),
        ({"ppo__aggregate": "worst"}, "ppo.aggregate", "ensemble"),
        ({"ppo__missing_eos__rule": "mask"}, "ppo.missing_eos.rule", "PPO"),
        ({"ppo__dense__sequence": 0.0}, "ppo.dense", "PPO"),
    ],
)
def test_combinations_that_cannot_be(values: dict[str, Any], key: str, says: str) -> None:
    text = refused(**values)
    assert text.startswith(f"config.{key}: ")
    assert says in text


@pytest.mark.parametrize("loss", DIRECT_LOSSES)
def test_every_loss_can_be_had(loss: str) -> None:
    config = changed(stages=("sft", "dpo"), dpo__loss=loss, **NEEDS.get(loss, {}))
    validate(config)
    assert to_json(from_json(to_json(config))) == to_json(config)


def test_settings_of_losses_that_no_stage_uses_are_left_alone() -> None:
    validate(changed(stages=("sft", "reward", "online"), online__method="expert", dpo__gamma=0.5))


def test_the_divergences_are_those_that_permit_it() -> None:
    assert set(DIRECT_DIVERGENCES) == {name for name in DIVERGENCES if make_divergence(name).permits_direct}


def test_every_named_config_is_one_that_could_run(tmp_path: pathlib.Path) -> None:
    text = (ROOT / "configs" / "dpo.py").read_text()
    names = {name for name in ("dpo", "cdpo", "kto_unpaired", "plackett_luce", "hinge_free") if f'"{name}"' in text}
    assert len(names) == 5
    for path in (*(f"dpo.py:{name}" for name in names), "online.py:iterated", "online.py:expert"):
        config = load(str(ROOT / "configs" / path))
        config.parents.sft = config.parents.reward = str(tmp_path)
        validate(config)
