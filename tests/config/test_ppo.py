"""Settings of PPO that cannot be, or would go unused; each is refused in one line that names the key."""

import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlhf_jax.build.specs import check_divergence, regulariser
from rlhf_jax.config import ADVANTAGES, DIVERGENCES, validate
from rlhf_jax.config.ppo import UNUSED
from rlhf_jax.config.rules import leaves
from rlhf_jax.errors import UserError
from rlhf_jax.objectives.divergences import DIVERGENCES as FAMILY
from tests.config.test_config import changed


def ppo(**values: Any) -> ConfigDict:
    return changed(**{key if key == "stages" else f"ppo__{key}": value for key, value in values.items()})


REFUSED = [
    ({"advantage": "rlo"}, "ppo.advantage: .*did you mean rloo"),
    ({"advantage": "grpo", "samples_per_prompt": 1}, "ppo.samples_per_prompt: 1, but"),
    ({"advantage": "rloo", "gamma": 0.9}, "ppo.gamma: 0.9 would go unused"),
    ({"advantage": "reinforce", "lambda_": 0.5}, "ppo.lambda_: 0.5 would go unused"),
    ({"advantage": "grpo", "value__network": "shared", "value__init": "zero"}, "ppo.value.network: shared would go"),
    ({"group_baseline": True}, "ppo.group_baseline: True would go unused"),
    ({"advantage": "reinforce_pp", "group_baseline": True, "samples_per_prompt": 1}, "ppo.samples_per_prompt: 1, but"),
    ({"clip_high": 1.5}, "ppo.clip_high: 1.5 is not in"),
    ({"clip_high": 0.2}, "ppo.clip_high: 0.2 is not in .* other than config.ppo.clip"),
    ({"value__network": "shared"}, "ppo.value.init: reward, but"),
    (
        {"value__network": "shared", "value__init": "zero", "value_learning_rate": 2e-3},
        "ppo.value_learning_rate: 0.002",
    ),
    ({"missing_eos__rule": "mask", "missing_eos__score": -2.0}, "ppo.missing_eos.score: -2.0 would go unused"),
    ({"truncate__after": 3}, "ppo.truncate.after: 3 would go unused"),
    ({"truncate__token": ".", "truncate__after": 20}, "ppo.truncate.after: 20 leaves none"),
    ({"score_at": "end"}, "ppo.score_at: end is last"),
    ({"monitor__action": "halt"}, "ppo.monitor.action: 'halt' is not allowed, must be one of warn, stop"),
    ({"monitor__action": "stop"}, "ppo.monitor.action: stop would go unused: no bound"),
    ({"monitor__patience": 3}, "ppo.monitor.patience: 3 would go unused"),
    ({"monitor__length": 0.9}, "ppo.monitor.length: 0.9 is not allowed, must be 0 or above 1"),
    ({"monitor__entropy": 1.0}, r"ppo.monitor.entropy: 1.0 is not allowed, must be in \[0, 1\)"),
    ({"monitor__spread": 2.0}, "ppo.monitor.spread: 2.0 would go unused: the reward model is no ensemble"),
    ({"rewards__models": ("nowhere",)}, "ppo.rewards.models: .*RUN:WEIGHT"),
    ({"rewards__models": ("no/such/run:1",)}, "ppo.rewards.models: no such run directory: no/such/run"),
    ({"normalize_reward": True, "rewards__centre": True}, "ppo.rewards.centre: would go unused"),
    ({"pretraining__rows": 4}, "ppo.pretraining.rows: 4 would go unused"),
    ({"kl__divergence": "reverse"}, "ppo.kl.divergence: .*did you mean reverse_kl"),
    ({"kl__alpha": 0.3}, "ppo.kl.alpha: 0.3 would go unused"),
    ({"kl__divergence": "alpha", "kl__alpha": 1.0}, "ppo.kl.alpha: 1.0 is not allowed"),
    ({"kl__coefficient": 0.0, "kl__estimator": "k2"}, "ppo.kl.estimator: k2 would go unused"),
    ({"stop_kl": -1.0}, "ppo.stop_kl: -1.0 is not allowed"),
    *(
        ({"advantage": name, "score_at": "after"}, f"ppo.score_at: after is a slot that config.ppo.advantage={name}")
        for name in ADVANTAGES
        if name != "gae"
    ),
    *(
        ({"advantage": name, "whiten_advantages": False}, "ppo.whiten_advantages: False would go unused")
        for name in ADVANTAGES
        if name != "gae"
    ),
    ({"value__normalize": True}, "ppo.value.normalize: True, but a value model that starts as the reward model"),
    ({"kl__target": 3.0}, "ppo.kl.target: 3.0 would go unused: config.ppo.kl.controller is fixed"),
    ({"kl__horizon": 500}, "ppo.kl.horizon: 500 would go unused"),
    ({"kl__coefficient": 0.0, "kl__horizon": 500}, "ppo.kl.horizon: 500 would go unused"),
    ({"dense__at": "end"}, "ppo.dense.at: end would go unused: config.ppo.dense.models names no model"),
    ({"dense__value": "logit"}, "ppo.dense.value: logit would go unused"),
    *(
        (
            {"stages": ("sft", "segments", "ppo"), "dense__models": ("this",), "dense__sequence": 0.0, key: True},
            f"ppo.{name}: True would go unused: config.ppo.dense.sequence is 0",
        )
        for key, name in {"normalize_reward": "normalize_reward", "rewards__centre": "rewards.centre"}.items()
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=lambda value: "" if isinstance(value, str) else str(value))
def test_what_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"config.{message}"):
        validate(ppo(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"advantage": "reinforce_pp", "group_baseline": True, "gamma": 0.9},
        {"advantage": "reinforce", "samples_per_prompt": 1, "gamma": 0.9},
        {"value__network": "shared", "value__init": "zero", "value__normalize": True},
        {"value__init": "zero", "value__normalize": True, "score_at": "after", "whiten_advantages": False},
        {"kl__controller": "adaptive", "kl__target": 3.0, "kl__horizon": 500},
        {
            "stages": ("sft", "segments", "ppo"),
            "dense__models": ("this",),
            "dense__at": "end",
            "dense__value": "logit",
            "dense__sequence": 0.0,
        },
        {"episode": "fixed", "score_at": "end", "truncate__token": ".", "truncate__after": 19},
        {"missing_eos__rule": "subtract", "missing_eos__score": -2.0, "clip_high": 0.28},
        {"kl__divergence": "alpha", "kl__alpha": 0.3, "pretraining__coefficient": 1.0, "pretraining__rows": 4},
    ],
    ids=str,
)
def test_what_can_be_is_allowed(values: dict[str, Any]) -> None:
    config = ppo(**values)
    validate(config)
    check_divergence(config)


def test_a_run_without_ppo_is_not_asked() -> None:
    validate(changed(stages=("sft",), ppo__truncate__after=3, ppo__score_at="end"))


def test_names_are_those_of_the_family() -> None:
    assert set(DIVERGENCES) == set(FAMILY)
    assert UNUSED.keys() == set(ADVANTAGES)
    settings = dict(leaves(changed().ppo, "ppo."))
    for unused in UNUSED.values():
        assert unused.items() <= settings.items()  # what counts as unchanged is the default


def test_a_pretraining_row_holds_the_longest_demonstration(tmp_path: pathlib.Path) -> None:
    config = changed(stages=("ppo",), ppo__pretraining__coefficient=1.0, sft__row_length=16)
    config.parents.sft = config.parents.reward = str(tmp_path)
    with pytest.raises(UserError, match=r"config\.sft\.row_length: 16 is less than"):
        validate(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kl__estimator": "exact", "kl__level": "sequence"}, "config.ppo.kl.estimator: exact sums"),
        ({"kl__importance": True}, "config.ppo.kl.importance: importance corrects"),
        ({"kl__placement": "loss"}, "config.ppo.kl.placement: loss would have no effect: k1 in the loss has expected"),
    ],
)
def test_a_price_without_meaning_or_effect_is_refused(values: dict[str, Any], message: str) -> None:
    config = ppo(**values)
    validate(config)
    with pytest.raises(UserError, match=message):
        check_divergence(config)
    config.stages = ("sft", "reward")
    check_divergence(config)


def test_a_biased_price_runs_and_says_so() -> None:
    biased = regulariser(ppo(kl__placement="loss", kl__estimator="k3").ppo).bias()
    assert biased is not None
    assert "gradient of the forward KL" in biased
    assert regulariser(ppo().ppo).bias() is None
