"""Settings to specs: which utility a prompt type is trained under, and where rewards are bounded."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rlhf_jax.build.specs import (
    check_utilities,
    critique_spec,
    decoder_spec,
    optimizer_spec,
    ppo_spec,
    reward_bounded,
    reward_spec,
    rollout_spec,
    utility_notes,
    utility_table,
)
from rlhf_jax.config import default_config, utility
from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.lists import sizes_of
from rlhf_jax.data.loader import rank_eval_batches
from rlhf_jax.errors import UserError
from rlhf_jax.objectives.utilities import Linear, LogSigmoid, NegativePower, Power


def _settings(first: str, **by_type: str) -> ConfigDict:
    reward = default_config().reward
    reward.utility = utility(first, sigma=0.25)
    reward.utility_by_type.unlock()
    for kind, name in by_type.items():
        reward.utility_by_type[kind] = utility(name, gamma=0.75, epsilon=0.05, extension="shift")
    return reward


def test_each_named_type_has_its_own_utility_and_the_first_is_for_all_others() -> None:
    utilities, index = utility_table(_settings("log_sigmoid", open="power", closed="linear"), prompt_aware=True)
    assert utilities[0] == LogSigmoid(sigma=0.25)
    assert index.keys() == {"open", "closed"}
    assert utilities[index["open"]] == Power(gamma=0.75, epsilon=0.05, extension="shift")
    assert isinstance(utilities[index["closed"]], Linear)
    assert len(utilities) == 3


def test_in_a_batch_types_without_a_utility_of_their_own_get_the_first() -> None:
    """The index that the reward stage hands to its batches, on lists of four types."""
    utilities, index = utility_table(_settings("negative_power", essay="power", closed="linear"), prompt_aware=True)
    kinds = ["closed", "open", "essay", ""]
    tokens = np.array([3, 4], np.int32)
    lists = [ListExample(tokens, (tokens, tokens), (0, 1), kind, place) for place, kind in enumerate(kinds)]
    (batch,) = rank_eval_batches(lists, index, 4, sizes_of(lists, 2), 0)
    assert [type(utilities[number]) for number in batch.utility] == [Linear, NegativePower, Power, NegativePower]


def test_a_stage_that_is_not_prompt_aware_knows_one_utility() -> None:
    utilities, index = utility_table(_settings("negative_power", open="power"), prompt_aware=False)
    assert [type(utility) for utility in utilities] == [NegativePower]
    assert index == {}


@pytest.mark.parametrize(
    ("first", "by_type", "prompt_aware", "bounded"),
    [
        ("log_sigmoid", {}, True, False),
        ("linear", {}, True, True),
        ("power", {}, False, True),
        ("log_sigmoid", {"open": "log_sigmoid"}, True, False),
        ("log_sigmoid", {"open": "log"}, True, True),
        ("log_sigmoid", {"open": "log"}, False, False),
        ("negative_power", {"open": "log_sigmoid"}, True, True),
    ],
)
def test_auto_bounds_rewards_where_any_utility_in_use_asks_for_it(
    first: str, by_type: dict[str, str], prompt_aware: bool, bounded: bool
) -> None:
    assert reward_bounded(_settings(first, **by_type), prompt_aware=prompt_aware) is bounded


@pytest.mark.parametrize(("word", "bounded"), [("yes", True), ("no", False)])
def test_yes_and_no_are_taken_at_their_word(word: str, bounded: bool) -> None:
    reward = _settings("log_sigmoid")
    reward.bounded = word
    assert reward_bounded(reward) is bounded


def test_balancing_divides_by_the_range_of_each_utility() -> None:
    """U(1) - U(0) of the linear utility is 1; of -x^-1 continued from 0.5 by its tangent it is -1 + 2 + 4/2 = 3."""
    reward = default_config().reward
    reward.utility = utility("negative_power", gamma=1.0, epsilon=0.5)
    reward.utility_by_type.unlock()
    reward.utility_by_type.closed = utility("linear")
    decoder = decoder_spec(default_config().model, 100)
    assert reward_spec(reward, decoder, prompt_aware=True).weights is None
    reward.balance_utilities = True
    weights = reward_spec(reward, decoder, prompt_aware=True).weights
    assert weights == pytest.approx((1 / 3, 1.0), rel=1e-5)


def test_every_setting_of_ppo_reaches_its_spec() -> None:
    """Set to a value that is not its default, each of them must show."""
    config = default_config()
    config.ppo.temperature, config.ppo.top_k, config.ppo.top_p = 0.5, 7, 0.75
    config.ppo.epochs, config.ppo.minibatches = 3, 2
    config.ppo.gamma, config.ppo.lambda_ = 0.5, 0.25
    config.ppo.clip, config.ppo.value_clip, config.ppo.value_coefficient = 0.125, 0.375, 0.625
    config.ppo.whiten_advantages = False
    config.ppo.kl.coefficient, config.ppo.kl.controller = 0.75, "adaptive"
    config.ppo.kl.target, config.ppo.kl.horizon = 3.0, 500
    config.ppo.missing_eos.score = -2.5
    config.data.max_response = 9
    decoder, other = decoder_spec(config.model, 50), decoder_spec(config.model, 60)

    spec = ppo_spec(config.ppo, decoder, other)
    assert (spec.policy, spec.value) == (decoder, other)
    assert (spec.temperature, spec.epochs, spec.minibatches, spec.gamma, spec.lambda_) == (0.5, 3, 2, 0.5, 0.25)
    assert (spec.clip, spec.value_clip, spec.value_coefficient, spec.whiten_advantages) == (0.125, 0.375, 0.625, False)
    assert (spec.kl.coefficient, spec.kl.controller, spec.kl.target, spec.kl.horizon) == (0.75, "adaptive", 3.0, 500)

    rolling = rollout_spec(config, decoder, other, bounded=True, eos_id=1, pad_id=2)
    assert (rolling.policy, rolling.reward, rolling.reward_bounded) == (decoder, other, True)
    assert (rolling.max_response, rolling.eos_id, rolling.pad_id) == (9, 1, 2)
    assert (rolling.sampling.temperature, rolling.sampling.top_k, rolling.sampling.top_p) == (0.5, 7, 0.75)
    assert rolling.missing_eos_score == -2.5
    config.ppo.missing_eos.rule = "none"
    assert rollout_spec(config, decoder, other, bounded=True, eos_id=1, pad_id=2).missing_eos_score is None


def test_a_model_and_an_optimizer_are_what_their_settings_say() -> None:
    config = default_config()
    config.model.width, config.model.norm, config.model.tied = 24, "layer", False
    spec = decoder_spec(config.model, 77)
    settings = config.model.to_dict()
    assert settings.pop("path") == ""
    assert {name: getattr(spec, name) for name in settings} == settings
    assert spec.vocab_size == 77
    made = optimizer_spec(config.sft.optimizer, 123)
    assert {name: getattr(made, name) for name in config.sft.optimizer} == config.sft.optimizer.to_dict()
    assert made.steps == 123
    assert optimizer_spec(config.sft.optimizer, 123, 0.5).learning_rate == 0.5


OWN = """
import dataclasses
import jax.numpy as jnp
from rlhf_jax.objectives.utilities import Utility

@dataclasses.dataclass(frozen=True)
class Arctan(Utility):
    sigma: float = 1.0

    def raw(self, x):
        return jnp.arctan(x / self.sigma)

class Other:
    pass

@dataclasses.dataclass(frozen=True)
class Broken(Utility):
    def raw(self, x):
        return x.no_such_thing

@dataclasses.dataclass(frozen=True)
class Falling(Utility):
    def raw(self, x):
        return -x

@dataclasses.dataclass(frozen=True)
class Pole(Utility):
    def raw(self, x):
        return jnp.log(x - 0.5)

@dataclasses.dataclass(frozen=True)
class Misweighed(Arctan):
    def pair_weights(self, ranks, mask):
        return jnp.ones(3)

@dataclasses.dataclass(frozen=True)
class Lawless(Arctan):
    def limit_law(self):
        raise RuntimeError("none")

@dataclasses.dataclass(frozen=True)
class Leaving(Arctan):
    def raw(self, x):
        raise SystemExit(3)

@dataclasses.dataclass(frozen=True)
class Square(Utility):
    tau: float = 2.0

    def raw(self, x):
        return x * x

@dataclasses.dataclass(frozen=True)
class Bent(Arctan):
    tau: float = 0.5

    def raw(self, x):  # 2 up to a gap of 1/2, 1 from there
        return jnp.minimum(2 * x, x + self.tau)

@dataclasses.dataclass(frozen=True)
class BentUp(Utility):
    def raw(self, x):  # of no curvature anywhere but at the kink
        return jnp.maximum(x, 2 * x - 0.5)
"""


def _own(folder: pathlib.Path, title: str) -> ConfigDict:
    (folder / "mine.py").write_text(OWN)
    reward = default_config().reward
    reward.utility = utility(f"{folder / 'mine.py'}:{title}", sigma=0.5, epsilon=0.2)
    return reward


def test_a_utility_of_the_users_own_file_takes_its_settings_and_needs_no_slope(tmp_path: pathlib.Path) -> None:
    (own,), _ = utility_table(_own(tmp_path, "Arctan"), prompt_aware=False)
    # d/dx arctan(2x) = 2 / (1 + 4 x^2): 1 at x = 1/2, and 2 / 1.16 from the knee at 0.2 on downwards
    np.testing.assert_allclose(own.slope(jnp.array([0.5, 0.2, -1.0])), [1.0, 2 / 1.16, 2 / 1.16], rtol=1e-6)
    assert reward_bounded(_own(tmp_path, "Arctan"))


@pytest.mark.parametrize("title", ["Missing", "Other", "Broken", "Falling", "Pole", "Misweighed", "Lawless", "Leaving"])
def test_a_users_file_without_a_working_utility_is_one_line_with_the_key(tmp_path: pathlib.Path, title: str) -> None:
    with pytest.raises(UserError, match=r"^config\.reward\.utility\.name: .*mine\.py") as caught:
        utility_table(_own(tmp_path, title), prompt_aware=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("title", ["Square", "BentUp"])
def test_an_own_utility_that_is_not_concave_is_refused_by_the_words_of_the_theory(
    tmp_path: pathlib.Path, title: str
) -> None:
    with pytest.raises(UserError, match=r"is not concave on \(0, 1\]: its best rewards are not unique"):
        utility_table(_own(tmp_path, title), prompt_aware=False)
    assert utility_table(_own(tmp_path, "Bent"), prompt_aware=False)[0]  # concave, with a kink


def test_the_line_of_a_users_file_that_broke_is_named(tmp_path: pathlib.Path) -> None:
    line = 1 + OWN.splitlines().index("        return x.no_such_thing")
    with pytest.raises(UserError, match=rf": AttributeError: .* \({tmp_path}/mine\.py, line {line}\)$"):
        utility_table(_own(tmp_path, "Broken"), prompt_aware=False)


def test_fields_that_nothing_can_set_are_told(tmp_path: pathlib.Path) -> None:
    config = default_config()
    config.reward = _own(tmp_path, "Bent")
    assert utility_notes(config) == ["utility Bent: of its fields only gamma, sigma, a, b can be set, not tau"]
    config.reward = _own(tmp_path, "Arctan")
    assert utility_notes(config) == []
    with pytest.raises(UserError, match=r"can be set, not tau$"):
        utility_table(_own(tmp_path, "Square"), prompt_aware=False)


def test_an_own_utility_that_needs_bounds_refuses_unbounded_rewards(tmp_path: pathlib.Path) -> None:
    reward = _own(tmp_path, "Arctan")
    reward.bounded = "no"
    with pytest.raises(UserError, match=r"^config\.reward\.bounded: no, but Arctan"):
        reward_bounded(reward)


def test_a_quantile_utility_whose_gaps_epsilon_swallows_is_refused() -> None:
    config = default_config()
    config.reward.utility = utility("quantile", a=2, b=2, epsilon=0.02)
    check_utilities(config)  # lists of 8: the smallest gap is 0.0835
    config.data.list_size = 64
    with pytest.raises(UserError, match=r"epsilon 0\.02 is above 0\.01\d+, the smallest gap"):
        check_utilities(config)


def test_a_utility_too_flat_to_divide_by_is_refused_before_training() -> None:
    config = default_config()
    config.reward.utility = utility("exponential", sigma=1e9)
    with pytest.raises(UserError, match=r"^config\.reward\.utility\.name: exponential: "):
        check_utilities(config)


@pytest.mark.parametrize(("source", "own"), [("data", 0.0), ("mixed", 0.5), ("own", 1.0)])
def test_a_model_that_criticises_has_the_utilities_of_the_reward_section(source: str, own: float) -> None:
    config = default_config()
    config.reward.utility = utility("log_sigmoid", sigma=0.5)
    config.reward.utility_by_type.closed = utility("linear")
    config.reward.balance_utilities = True
    config.critique.source = source
    config.critique.max_tokens, config.critique.first_steps = 9, 4
    spec = critique_spec(config, decoder_spec(config.model, 50), eos_id=1, pad_id=0)
    assert spec.utilities == (LogSigmoid(sigma=0.5), Linear(epsilon=0.1))
    gain = np.log(2) - np.log1p(np.exp(-2.0))  # from gap 0 to gap 1
    assert spec.weights == pytest.approx((1 / gain, 1.0), rel=1e-5)
    assert spec.bounded  # linear asks for it
    assert (spec.own, spec.max_critique, spec.first_steps, spec.decoder.vocab_size) == (own, 9, 4, 50)
