"""The space of a sweep: points in order, mistakes told before anything runs."""

import json
import pathlib
import sys

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.sweeps import space as spaces
from rlhf_jax.sweeps.space import Base, asking, draw, grid, make_space, named
from tests.sweeps.standin import GAMMA, spec_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = "reward.utility.name"


def points(*keys: tuple[str, str]) -> list[dict[str, object]]:
    return [dict(point) for point in grid(make_space(None, keys))]


def test_a_grid_is_nested_loops_over_its_keys_in_the_order_given() -> None:
    assert points((NAME, "log,power"), ("reward.steps", "20,3"), ("reward.balance_utilities", "true")) == [
        {NAME: name, "reward.steps": steps, "reward.balance_utilities": True}
        for name in ("log", "power")
        for steps in (20, 3)
    ]


def test_a_key_of_a_file_may_depend_on_what_another_came_out_as() -> None:
    found = grid(make_space(ROOT / "configs" / "spaces" / "utilities.py", ()))
    assert [tuple(point.values()) for point in found] == [
        *(("power", gamma) for gamma in (0.2, 0.5, 0.8)),
        *(("negative_power", gamma) for gamma in (0.5, 1.0, 2.0)),
        ("log",),
        ("exponential", 0.25),
    ]
    assert list(found[-1]) == [NAME, "reward.utility.sigma"]
    both = grid(make_space(ROOT / "configs" / "spaces" / "utilities.py", (("reward.steps", "1,2"),)))
    assert len(both) == 16
    assert named(both[1]) == [f"{NAME}=power", f"{GAMMA}=0.2", "reward.steps=2"]


@pytest.mark.parametrize(
    ("key", "text", "error"),
    [
        (
            "reward.utility.gama",
            "1",
            "config.reward.utility.gama: no such key; did you mean config.reward.utility.gamma?",
        ),
        ("reward.utility", "1", "config.reward.utility: a group of settings"),
        (GAMMA, "0.5,half", "config.reward.utility.gamma: 'half' is not a number"),
        (GAMMA, "0.5,0.5", "a value is there twice"),
        (GAMMA, "uniform:1:0.5", "must be uniform:LOW:HIGH, the first below the second"),
        (GAMMA, "log:1", "must be log:LOW:HIGH"),
        (GAMMA, "log:0:1", "must begin above 0"),
        (GAMMA, "int:1:3", "is a number; use uniform or log"),
        ("reward.steps", "uniform:1:3", "is an integer; use int"),
        (NAME, "uniform:1:3", "config.reward.utility.name is a text; list its values"),
        ("stages", "reward", "is a list of texts; sweep it by a file"),
    ],
)
def test_a_mistake_in_a_key_is_told(key: str, text: str, error: str) -> None:
    with pytest.raises(UserError, match=error.replace("?", r"\?")):
        make_space(None, [(key, text)])


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"needs optuna: pip install 'rlhf_jax\[sweep\]'"):
        points((GAMMA, "1,2"))


def test_nothing_to_sweep_over_is_a_mistake() -> None:
    with pytest.raises(UserError, match="nothing to sweep over"):
        make_space(None, ())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1", "defines no function space"),
        ("def space(trial):\n    trial.suggest_float('reward.utility.gamma', 1)", r"space.py:2: TypeError"),
        ("def space(trial)\n    pass", r"space.py:1: SyntaxError"),
        (
            "def space(trial):\n    for _ in 'ab':\n        trial.suggest_int('reward.steps', 1, 2)",
            r"space.py:3: config.reward.steps: the space asks for it twice",
        ),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(tmp_path: pathlib.Path, text: str, error: str) -> None:
    path = tmp_path / "space.py"
    path.write_text(text)
    with pytest.raises(UserError, match=error):
        grid(make_space(path, ()))


def test_a_grid_needs_lists_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="step must be given"):
        points((GAMMA, "uniform:0.1:0.9"))
    monkeypatch.setattr(spaces, "MOST_POINTS", 4)
    assert len(points(("reward.steps", "1,2,3,4"))) == 4
    with pytest.raises(UserError, match="more than 4 points"):
        points(("reward.steps", "1,2,3,4,5"))


def test_a_random_point_depends_on_its_number_and_the_seed_alone() -> None:
    space = make_space(None, [(GAMMA, "log:0.01:1"), ("reward.steps", "int:1:9"), (NAME, "log,power")])
    found = [draw(space, 7, point) for point in range(20)]
    assert [draw(space, 7, point) for point in reversed(range(20))] == found[::-1]
    assert draw(space, 8, 0) != found[0]
    assert all(0.01 <= point[GAMMA] <= 1 and point["reward.steps"] in range(1, 10) for point in found)
    assert len({point[GAMMA] for point in found}) == 20
    # Even in the logarithm: about half lie below the middle, 0.1.
    low = sum(draw(space, 7, point)[GAMMA] < 0.1 for point in range(200))
    assert 70 < low < 130


def test_a_point_that_is_known_is_asked_for_by_its_keys() -> None:
    space = make_space(ROOT / "configs" / "spaces" / "utilities.py", ())
    asked = asking(space, None, {NAME: "power", GAMMA: 0.8})
    assert asked.parameters == {NAME: "power", GAMMA: 0.8}
    assert [one.choices for one in asked.distributions.values()][1] == (0.2, 0.5, 0.8)
    with pytest.raises(UserError, match=r"reward.utility.gamma: not a key of the point"):
        asking(space, None, {NAME: "power"})


def test_a_trial_has_the_configuration_that_its_overrides_would_give() -> None:
    base = Base(json.dumps(spec_of().config))
    found = base.at({NAME: "power", GAMMA: 0.25, "reward.balance_utilities": True}, 5)
    assert (found.reward.utility.name, found.reward.utility.gamma, found.seed) == ("power", 0.25, 5)
    assert found.reward.balance_utilities is True
    # A prompt type's own utility is a copy of reward.utility as the trial has it, in whatever order keys come.
    found = base.at({"reward.utility_by_type.open.name": "log", GAMMA: 0.25}, 0)
    assert (found.reward.utility_by_type.open.gamma, found.reward.utility_by_type.open.name) == (0.25, "log")
    with pytest.raises(
        UserError, match=r"config.reward.utility.gamma: 1.5 is not allowed, must be in \(0, 1\] for power"
    ):
        base.at({NAME: "power", GAMMA: 1.5}, 0)
    with pytest.raises(UserError, match="seeds are a dimension of their own"):
        base.at({"seed": 3}, 0)
