"""A divergence of a user's own: taken as the built-in one of the same f is, or refused in one line before training."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.build.divergences import divergence
from rlhf_jax.build.specs import check_divergence
from rlhf_jax.config import default_config, validate
from rlhf_jax.errors import UserError
from rlhf_jax.objectives.divergences import HalfChiSquared, ReverseKL

KEY = "ppo.kl.divergence"
OWN = """
import dataclasses

import jax.numpy as jnp

from rlhf_jax.objectives.divergences import Divergence


@dataclasses.dataclass(frozen=True)
class Half(Divergence):
    def value(self, u):
        return 0.5 * (u - 1.0) ** 2

    @property
    def slope_at_zero(self):
        return -1.0


@dataclasses.dataclass(frozen=True)
class KL(Divergence):
    def value(self, u):
        return u * jnp.log(u)

    @property
    def slope_at_one(self):
        return 1.0


class NotOne:
    pass


class Unplaced(KL):
    slope_at_one = 0.0


class Dense(Half):
    slope_at_zero = -float("inf")


class Away(Divergence):
    def value(self, u):
        return 0.1 + (u - 1.0) ** 2


class Concave(Divergence):
    def value(self, u):
        return -((u - 1.0) ** 2)


class Straight(Divergence):
    def value(self, u):
        return 0.0 * u


class Infinite(Divergence):
    def value(self, u):
        return jnp.where(u > 2.0, jnp.inf, (u - 1.0) ** 2)


class Untrue(KL):
    def per_sample(self, log_u):
        return 2.0 * log_u


class Broken(Divergence):
    def value(self, u):
        raise SystemExit(3)
"""


@pytest.fixture
def mine(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path / "mine.py"


@pytest.mark.parametrize(("title", "known"), [("Half", HalfChiSquared()), ("KL", ReverseKL())])
def test_ones_own_f_is_what_the_member_of_the_same_f_is(mine: pathlib.Path, title: str, known: object) -> None:
    own = divergence(f"{mine}:{title}", 0.5, KEY)
    logs = jnp.linspace(-3.0, 3.0, 25)
    for name in ("per_sample", "value_of_log", "centred_slope_of_log"):
        np.testing.assert_allclose(getattr(own, name)(logs), getattr(known, name)(logs), rtol=1e-4, atol=1e-5)
    assert own.permits_direct is known.permits_direct  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("title", "why"),
    [
        ("Missing", "defines no class Missing derived from"),
        ("NotOne", "defines no class NotOne derived from"),
        ("Unplaced", r"f'\(1\) is 1, but slope_at_one is 0"),
        ("Dense", r"f'\(u\) is -1 near u = 0, but slope_at_zero is -inf"),
        ("Away", r"f\(1\) is 0.1, not 0"),
        ("Concave", "not convex"),
        ("Straight", "a straight line"),
        ("Infinite", "value is not a finite number"),
        ("Untrue", "per_sample does not agree with value"),
        ("Broken", "SystemExit: 3"),
    ],
)
def test_what_is_no_divergence_is_one_line_with_the_key(mine: pathlib.Path, title: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"^config\.ppo\.kl\.divergence: .*mine\.py:{title}: .*{why}") as caught:
        divergence(f"{mine}:{title}", 0.5, KEY)
    assert "\n" not in str(caught.value)


def test_a_sparse_one_prices_ppo_but_is_refused_for_given_answers(mine: pathlib.Path) -> None:
    config = default_config()
    config.ppo.kl.divergence = f"{mine}:Half"
    validate(config)
    check_divergence(config)
    config.stages, config.dpo.loss, config.dpo.divergence = ("sft", "dpo"), "f_dpo", f"{mine}:Half"
    validate(config)
    with pytest.raises(UserError, match=r"^config\.dpo\.divergence: .*permits_direct is False"):
        check_divergence(config)
    config.dpo.divergence = f"{mine}:KL"
    check_divergence(config)


def test_a_file_that_is_not_there_is_told_by_its_key() -> None:
    config = default_config()
    config.ppo.kl.divergence = "nowhere.py:Mine"
    with pytest.raises(UserError, match=r"^config\.ppo\.kl\.divergence: no such file: nowhere\.py$"):
        validate(config)
    config = default_config()
    config.stages, config.dpo.loss, config.dpo.divergence = ("sft", "dpo"), "f_dpo", "nowhere.py:Mine"
    with pytest.raises(UserError, match=r"^config\.dpo\.divergence: no such file: nowhere\.py$"):
        validate(config)
    config.dpo.divergence = "kll"
    with pytest.raises(UserError, match=r"^config\.dpo\.divergence: 'kll' is not allowed, must be one of"):
        validate(config)
