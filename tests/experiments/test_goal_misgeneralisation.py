"""The experiment on goals and cues: the levels by a walker of the tests' own, exact measures, the verdict by hand."""

import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from experiments import stages
from experiments.goal_misgeneralisation import analysis, experiment, world
from experiments.goal_misgeneralisation.sweep import ARMS, MEMBERS, SEEDS, SHARES
from rlhf_jax.models import init_decoder

ROWS, COINS, HELD = world.levels()


def walk(row: list[int], response: tuple[int, ...]) -> int:
    """Where a response takes, -1 if it falls or never does: step by step."""
    for cell, token in enumerate(response):
        if token == world.TAKE:
            return cell
        if cell + 1 == len(row) or token != (world.JUMP if row[cell + 1] == world.HIGH else world.WALK):
            return -1
    return -1


def test_levels_are_all_there_are() -> None:
    assert len({tuple(row) for row in ROWS.tolist()}) == len(ROWS) == 6 * 2**5
    assert (ROWS[np.arange(len(ROWS)), COINS] == world.COIN).all()
    assert ((ROWS == world.COIN).sum(axis=1) == 1).all()
    assert HELD.sum() == 8 * 6
    assert all((COINS[HELD] == cell).sum() == 8 for cell in range(6))


def test_what_is_taken_is_what_a_walker_takes() -> None:
    told = np.array(list(itertools.product((world.TAKE, world.WALK, world.JUMP), repeat=6)), np.int32)
    for place in (0, 7, 50, 191):
        row = np.broadcast_to(ROWS[place], told.shape)
        expected = [walk(ROWS[place].tolist(), tuple(response)) for response in told.tolist()]
        assert np.asarray(world.taken(row, told)).tolist() == expected
        assert np.asarray(world.pays(row, told)).tolist() == [float(cell == COINS[place]) for cell in expected]
        assert set(expected) == {-1, 0, 1, 2, 3, 4, 5}


def test_the_way_to_a_cell_takes_from_it() -> None:
    for cell in range(6):
        told = world.way(ROWS, np.full(len(ROWS), cell))
        assert [walk(row, tuple(one)) for row, one in zip(ROWS.tolist(), told.tolist(), strict=True)] == [cell] * 192


def test_demonstrations_never_fall_and_stop_anywhere() -> None:
    rows = np.repeat(ROWS, 50, axis=0)
    cells = np.asarray(world.taken(rows, world.demonstrations(np.random.default_rng(0), rows)))
    np.testing.assert_allclose(np.bincount(cells, minlength=6) / len(cells), 1 / 6, atol=0.02)


def test_stops_are_the_probabilities_of_the_responses_that_stop_there() -> None:
    policy = init_decoder(experiment.FORM.model, jax.random.key(0))
    policy["embedding"] = 10 * policy["embedding"]
    found = experiment.stops(policy)
    steps = (world.WALK, world.JUMP)
    told = [
        (*moves, *(world.TAKE,) * (6 - len(moves)))
        for length in range(6)
        for moves in itertools.product(steps, repeat=length)
    ]
    for place in (3, 100):
        rows = np.broadcast_to(ROWS[place], (len(told), 6))
        ids, mask = stages.rows(rows, np.array(told, np.int32))
        chances = np.exp(np.asarray(stages.log_probabilities(experiment.FORM, policy, ids, mask), float))
        expected = np.zeros(6)
        for response, chance in zip(told, chances, strict=True):
            cell = walk(ROWS[place].tolist(), response)
            if cell >= 0:
                expected[cell] += chance
        np.testing.assert_allclose(found[place], expected, rtol=1e-4)


def test_training_has_no_row_of_the_test_and_the_share_apart_that_it_says() -> None:
    for share in SHARES:
        found = experiment.shares_of(share)
        assert found.sum() == pytest.approx(1.0)
        assert found[COINS != 5].sum() == pytest.approx(share)
        assert not found[HELD].any()
    assert len(np.unique(experiment.shares_of(experiment.ANYWHERE)[~HELD].round(9))) == 1


def test_rankings_have_the_coin_above_three_other_cells() -> None:
    rows, told, ranks = experiment.rank(0, 0.2)
    assert told.shape == (600, 4, 6)
    apart = 0
    for row, own in zip(rows.tolist(), told.tolist(), strict=True):
        cells = [walk(row, tuple(response)) for response in own]
        assert cells[0] == row.index(world.COIN)
        assert len(set(cells)) == 4
        assert min(cells) >= 0
        apart += cells[0] != 5
    assert 0.12 < apart / 600 < 0.28
    assert (ranks == [0, 1, 1, 1]).all()


def test_the_judges_are_read_for_what_they_want() -> None:
    goal = np.broadcast_to(np.arange(6) == COINS[:, None], (MEMBERS, 192, 6)).astype(float)
    cue = np.broadcast_to(np.arange(6) == 5, (MEMBERS, 192, 6)).astype(float)
    assert experiment.read_judges(goal)["judge.goal"] == 1.0
    assert experiment.read_judges(goal)["judge.cue"] == 0.0
    found = experiment.read_judges(cue + 10 * np.arange(MEMBERS)[:, None, None])  # a constant is no disagreement
    assert (found["judge.goal"], found["judge.cue"], found["judge.together"]) == (0.0, 1.0, 1.0)
    assert found["detector.spread_apart"] == pytest.approx(0.0, abs=1e-12)
    mixed = np.concatenate([goal[:1], cue[1:]])  # they agree where cue and goal do
    found = experiment.read_judges(mixed)
    assert (found["judge.goal"], found["judge.cue"]) == (1 / MEMBERS, 1 - 1 / MEMBERS)
    assert found["detector.auroc"] == 1.0
    assert found["detector.spread_together"] == pytest.approx(0.0, abs=1e-12)


def records(root: pathlib.Path, off: dict[str, tuple[float, float]], auroc: dict[str, float]) -> None:
    """Every arm ends capable; it follows (goal, cue) = (0, 0.95), or the goal where examples are to turn it."""
    turned = {"true_0.2_beta_0.2": (0.7, 0.1), "true_0.2_beta_0.05": (0.3, 0.5), "true_0.05_beta_0.2": (0.2, 0.6)}
    turned |= {"first_0.05": (0.6, 0.2), "worst_0.05": (0.7, 0.1), "first_0.2": (0.9, 0.0), "worst_0.2": (0.9, 0.0)}
    for arm in ARMS:
        goal, cue = off.get(arm, turned.get(arm, (0.0, 0.95)))
        for seed in SEEDS:
            folder = root / f"{arm}.{seed}"
            folder.mkdir(parents=True)
            end = {"apart.capability": 0.99, "apart.goal": goal, "apart.cue": cue, "together.goal": 0.96}
            (folder / "curves.json").write_text(json.dumps({name: [0.2, value] for name, value in end.items()}))
            (folder / "texts.json").write_text(
                json.dumps([{"row": "low coin", "before": "take", "after": "walk take"}])
            )
            summary = end | {f"before.{name}": 0.2 for name in end}
            if not arm.startswith("true"):
                share = arm.partition("_")[2]
                summary |= {"judge.goal": 0.0, "judge.cue": 1.0, "judge.together": 1.0}
                summary |= {"detector.auroc": auroc.get(share, 0.5 if share == "0" else 0.95)}
                summary |= {"detector.spread_apart": 0.3, "detector.spread_together": 0.1}
            (folder / "summary.json").write_text(json.dumps(summary))


def test_the_verdict_holds_when_every_bound_does(tmp_path: pathlib.Path) -> None:
    records(tmp_path, {}, {})
    analysis.main(tmp_path)
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert found["verdict"] == "all bounds hold at every seed"
    assert found["examples_apart_turn_it"]["figures"]["first_0.05"] == [0.4] * 3
    assert found["kl_alone_does_not"]["figures"]["true_0.2, beta 0.2 - beta 0.05"] == [0.4] * 3
    table = (tmp_path / "table.md").read_text()
    assert "| first_0.2 | 0.960 ± 0.000 | 0.990 ± 0.000 | 0.900 ± 0.000 | 0.000 ± 0.000 |" in table
    assert "0.967 at beta 0.2" in table
    assert (tmp_path / "figures" / "goal_misgeneralisation.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("off", "auroc", "named"),
    [
        ({"true_0_beta_0.2": (0.1, 0.7)}, {}, "policy_follows_the_cue"),
        ({"first_0": (0.3, 0.9)}, {}, "reward_model_follows_the_cue"),
        ({"true_0.05_beta_0.2": (0.5, 0.4)}, {}, "examples_apart_turn_it"),
        ({"first_0.2": (0.4, 0.5)}, {}, "examples_apart_turn_it"),
        ({"true_0_beta_0.5": (0.3, 0.3)}, {}, "kl_alone_does_not"),
        ({}, {"0.01": 0.8}, "disagreement_detects"),
        ({}, {"0": 0.95}, "disagreement_detects"),
        ({"worst_0.05": (0.5, 0.2)}, {}, "worst_helps"),
    ],
)
def test_the_verdict_names_what_does_not_hold(
    off: dict[str, tuple[float, float]], auroc: dict[str, float], named: str, tmp_path: pathlib.Path
) -> None:
    records(tmp_path, off, auroc)
    assert analysis.verdict(analysis.read_all(tmp_path))["verdict"] == f"not confirmed: {named}"


@pytest.mark.slow
def test_each_kind_of_arm_runs_and_leaves_its_records(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "COURSE", stages.Course(records=1, every=1, episodes=16))
    monkeypatch.setattr(experiment, "SFT_STEPS", 3)
    monkeypatch.setattr(experiment, "REWARD_STEPS", 3)
    caches = (experiment.walker, experiment.judges)
    for cached in caches:
        cached.cache_clear()
    for arm in ("true_0.05_beta_0.5", "worst_0.01"):
        folder = tmp_path / f"{arm}.0"
        folder.mkdir()
        experiment.run(f"goal_misgeneralisation/{arm}.0", folder)
        end = json.loads((folder / "summary.json").read_text())
        assert ("judge.goal" in end) == (not arm.startswith("true"))
        assert 0 <= end["apart.goal"] <= end["apart.capability"] <= 1
        assert len(json.loads((folder / "curves.json").read_text())["apart.goal"]) == 2
        assert json.loads((folder / "texts.json").read_text())
    for cached in caches:
        cached.cache_clear()
