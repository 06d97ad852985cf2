"""The experiments' own utility and solver, the world's features, and the settings."""

import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.choose_utility import sweep as choosing
from experiments.new_utilities.bimodal import Bimodal
from experiments.new_utilities.experiment import OWN, best_rewards, unreachable, wanted_rewards, wanted_utility
from experiments.policy_effect import sweep as policies
from experiments.policy_effect.exact import distinct, rank_wise
from experiments.small import CITIES, KEYS, WORDS, features_of, noisy_ranks
from rlhf_jax.build.specs import utility_table
from rlhf_jax.diagnostics.best_of_n import best_of_n
from rlhf_jax.flags import parse
from rlhf_jax.objectives.utilities import LimitLaw, make_utility

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_weights_of_the_bimodal_utility_have_the_wanted_rewards_as_their_best() -> None:
    """Sum of w log(gap), gaps adding up to 1, is largest where w / gap is the same everywhere."""
    weights = np.asarray(Bimodal().pair_weights(jnp.arange(6), jnp.ones(6, bool)))
    neighbours = weights[np.arange(5), np.arange(1, 6)]
    assert np.count_nonzero(weights) == 5
    # At ranks 2 to 5 of 6 the probabilities are 9/12, 7/12, 5/12, 3/12: one above the bridge, three below.
    wanted = np.array(
        [1.0, 0.75 + 0.25 * (0.75 - 0.68) / 0.32, 0.25 * 7 / 12 / 0.64, 0.25 * 5 / 12 / 0.64, 0.25 * 3 / 12 / 0.64, 0.0]
    )
    assert wanted_rewards(Bimodal(), 6) == pytest.approx(wanted, abs=1e-6)
    assert np.ptp(neighbours / -np.diff(wanted)) < 1e-4 * neighbours.mean()


def test_one_line_launches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = parse(["--config=configs/reward_listwise.py", "--dry_run", f"--config.reward.utility.name={OWN}"]).config
    (made,), _ = utility_table(config.reward, prompt_aware=True)
    assert type(made).__name__ == "Bimodal"
    assert float(made.quantile(jnp.array(0.66))) == pytest.approx(0.5)


@pytest.mark.parametrize("sigma", [0.05, 0.25, 0.5, 100.0])
def test_best_rewards_of_four_under_the_exponential(sigma: float) -> None:
    """(1, 1 - t, t, 0) by a grid over t, an independent search."""
    t = np.linspace(0.0, 0.5, 20_001)
    u = lambda x: -np.exp(-x / sigma)  # noqa: E731
    total = u(np.ones_like(t)) + 2 * u(t) + 2 * u(1 - t) + u(1 - 2 * t)
    found = best_rewards(np.array([sigma]), np.ones(1), 4)
    assert found == pytest.approx([1.0, 1 - t[total.argmax()], t[total.argmax()], 0.0], abs=2e-3)


def test_what_a_utility_has_as_its_best_is_reachable_and_a_wide_outermost_gap_is_not() -> None:
    fekete = 0.5 + 0.5 * np.array([1.0, 1 / math.sqrt(5.0), -1 / math.sqrt(5.0), -1.0])  # the best four of log x
    assert unreachable(fekete) == pytest.approx(0.0, abs=1e-9)
    assert unreachable(np.array([1.0, 0.5, 0.4, 0.0])) > 0.1
    assert unreachable(wanted_rewards(wanted_utility("Beta(2, 2)"), 8)) == pytest.approx(1 / 3)


def test_rewards_by_rank_keep_the_order_and_share_places() -> None:
    """Texts a, b, b, c of scores 2, 1, 1, 3: mid-probabilities 5/8, 2/8 and 7/8 under the uniform law."""
    answers = distinct(["a", "b", "b", "c"], np.array([2.0, 1.0, 1.0, 3.0]), np.array([0.5, 0.0, 0.0, 1.0]))
    rewards = rank_wise(LimitLaw(1.0, 1.0), answers)
    assert answers.share == pytest.approx([0.25, 0.5, 0.25])
    assert rewards == pytest.approx([0.625, 0.25, 0.875])


def test_best_of_n_does_not_see_the_law() -> None:
    rng = np.random.default_rng(0)
    answers = distinct([f"{i}" for i in range(32)], rng.normal(size=32), rng.random(32))
    found = {
        best_of_n(rank_wise(LimitLaw(a, b), answers), answers.gold, 4) for a, b in ((1.0, 1.0), (0.5, 0.5), (1.0, 4.0))
    }
    assert len(found) == 1


def test_features_by_hand() -> None:
    found = features_of("name the capital of corvia .", "it is pell pell .")
    expected = {WORDS["it"]: 0.25, WORDS["is"]: 0.25, WORDS["pell"]: 0.5, WORDS["."]: 0.25}
    expected |= {len(WORDS) + KEYS["corvia"] * len(CITIES) + CITIES["pell"]: 1.0, len(found) - 1: 1.0}
    assert {int(i): float(found[i]) for i in np.flatnonzero(found)} == expected


def test_a_noisy_rater_follows_bradley_terry() -> None:
    gold = np.tile([0.6, 0.0], (40_000, 1))
    ranks = noisy_ranks(np.random.default_rng(0), gold, 0.4)
    assert (ranks[:, 0] == 0).mean() == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.01)


def test_every_setting_names_a_utility() -> None:
    for name, parameters in choosing.SETTINGS.values():
        assert make_utility(name, **parameters)
    assert all(make_utility(**parameters) for parameters in policies.PPO.values())
    assert all(make_utility(name, **p).limit_law() for name, p in policies.LAWS.values())
