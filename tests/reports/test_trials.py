"""Folders of runs as points and trials, and what is said of them."""

import json

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from rlhf_jax.diagnostics.ranking import Objective, behind
from rlhf_jax.errors import UserError
from rlhf_jax.reports import write_sweep_report
from rlhf_jax.reports.importance import importances
from rlhf_jax.reports.sweep_page import ranking_table
from rlhf_jax.reports.sweep_plots import intervals_plot, labels_of, parallel_plot, place_on_axis
from rlhf_jax.reports.trials import is_sweep, mean_and_half_width, read_sweep
from tests.reports.sweeps import gold_and_kl, random_points, write_sweep, write_trial


def test_a_sweep_is_read_as_it_is_described(tmp_path):
    points = [{"ppo.kl.coefficient": 0.1}, {"ppo.kl.coefficient": 1.0, "reward.utility.name": "log"}]
    values = {(0.1, 5): 0.2, (0.1, 6): 0.4, (1.0, 5): 0.8, (1.0, 6): 0.6}

    def value(parameters, seed):
        return {"ppo.gold.open": values[parameters["ppo.kl.coefficient"], seed]}

    folder = write_sweep(tmp_path / "sweep", points, (5, 6), value, failed=(3,))
    (folder / "trials" / ".0009").mkdir()  # being made
    (folder / "trials" / ".0009" / "trial.json").write_text("{")
    assert is_sweep(folder)
    sweep = read_sweep(folder)
    assert sweep.objectives == [Objective("ppo.gold.open", "max")]
    assert sweep.parameters == ["ppo.kl.coefficient", "reward.utility.name"]
    assert [(p.name, len(p.trials), p.parameters) for p in sweep.points] == [
        ("point 0", 2, points[0]),
        ("point 1", 2, points[1]),
    ]
    assert [(t.name, t.seed, t.state) for t in sweep.trials] == [
        ("0000", 5, "done"),
        ("0001", 6, "done"),
        ("0002", 5, "done"),
        ("0003", 6, "failed"),
    ]
    assert "<nan>" in sweep.trials[3].reason
    table = ranking_table(sweep)
    # Point 1 has 0.8 of one seed, but its other seed failed.
    assert [row[:2] for row in table.rows] == [["1", "point 0"], ["2", "point 1"]]
    assert dict(zip(table.columns, table.rows[0], strict=True)) == {
        "place": "1",
        "point": "point 0",
        "ppo.kl.coefficient": "0.1",
        "reward.utility.name": "–",
        "n": "2 of 2",
        "ppo.gold.open": "0.300",
        "± (95 %)": "1.271",  # t of one degree of freedom, 12.706, x 0.1414 / sqrt(2)
        "behind the first": "–",
    }
    assert table.rows[1][4:] == ["1 of 2", "0.800", "–", "-0.600"]  # of seed 5, the only one that both have


def test_points_are_compared_over_the_seeds_that_both_have(tmp_path):
    """As scipy's paired t-test has it; seeds differ far more than points."""
    luck = {0: 0.0, 1: 5.0, 2: -3.0, 3: 1.0}
    points = [{"a": 0.0}, {"a": 1.0}]
    extra = {(1.0, 1): 0.1, (1.0, 2): -0.05}

    def value(parameters, seed):
        return {"ppo.kl": luck[seed] + parameters["a"] + extra.get((parameters["a"], seed), 0.0)}

    folder = write_sweep(tmp_path / "s", points, tuple(luck), value, objectives=(("ppo.kl", "min"),), failed=(7,))
    sweep = read_sweep(folder)
    best, other = sweep.ranked(sweep.objectives[0])
    assert best.parameters == {"a": 0.0}
    mean, half = behind(sweep.objectives[0], other.by_seed("ppo.kl"), best.by_seed("ppo.kl"))
    low, high = ttest_rel([1.0, 6.1, -2.05], [0.0, 5.0, -3.0]).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert "more than chance at 95 %" in write_sweep_report(folder).read_text()


def test_the_interval_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(size=7)
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    mean, half = mean_and_half_width(values)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert mean_and_half_width(np.array([2.0])) == (2.0, None)


def test_settings_of_an_experiment_are_grouped_by_their_names(tmp_path):
    for name, beta in (("dpo", 0.1), ("strong", 0.5)):
        for seed in (0, 1):
            config = {"seed": seed, "dpo": {"beta": beta}, "parents": {"sft": f"parents.{seed}"}}
            write_trial(tmp_path / "exp" / f"{name}.{seed}", config, {"dpo.gold.open": beta + seed / 10})
    (tmp_path / "exp" / "figures").mkdir()
    sweep = read_sweep(tmp_path / "exp")
    assert [(point.name, point.parameters) for point in sweep.points] == [
        ("dpo", {"dpo.beta": 0.1}),  # what differs between seeds is no parameter
        ("strong", {"dpo.beta": 0.5}),
    ]
    assert [trial.seed for trial in sweep.trials] == [0, 1, 0, 1]
    assert sweep.objectives == [Objective("dpo.gold.open", "max")]
    assert labels_of(sweep) == {"dpo": "dpo", "strong": "strong"}


def test_runs_of_other_names_are_one_point_where_only_their_seed_differs(tmp_path):
    for name, seed, rate in (("a", 0, 0.1), ("b", 1, 0.1), ("deep/c", 0, 0.2)):
        write_trial(tmp_path / name, {"seed": seed, "rate": rate, "same": 1}, {"sft.loss": rate})
    sweep = read_sweep(tmp_path)
    assert [(point.parameters, [t.name for t in point.trials]) for point in sweep.points] == [
        ({"rate": 0.1}, ["a", "b"]),
        ({"rate": 0.2}, ["deep/c"]),
    ]
    assert sweep.objectives == [Objective("sft.loss", "min")]
    assert [point.parameters["rate"] for point in sweep.ranked(sweep.objectives[0])] == [0.1, 0.2]


def test_names_that_end_in_a_value_are_not_seeds_of_one_point(tmp_path):
    for name, price, gold in (("beta0.1", 0.1, 0.5), ("beta0.3", 0.3, 0.9)):
        write_trial(tmp_path / name, {"seed": 0, "price": price}, {"ppo.gold.open": gold})
    sweep = read_sweep(tmp_path)
    assert [point.parameters for point in sweep.points] == [{"price": 0.1}, {"price": 0.3}]


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("reward.score_rmse", "min"),
        ("reward.label_brier", "min"),
        ("reward.log_loss_calibrated", "min"),
        ("reward.ece_calibrated", "min"),
        ("segments.cross_entropy.fact", "min"),
        ("reward.pair_accuracy.open", "max"),
        ("ppo.gold.closed", "max"),
        ("ppo.reward.mean", "max"),
    ],
)
def test_figures_are_better_in_their_own_direction(tmp_path, name, direction):
    write_trial(tmp_path / "a", {}, {name: 1.0})
    assert read_sweep(tmp_path, name).objectives == [Objective(name, direction)]


def test_a_metric_may_be_named_and_is_told_if_there_is_none(tmp_path):
    write_trial(tmp_path / "a", {}, {"sft.loss": 1.0, "sft.length": 3.0})
    assert read_sweep(tmp_path, "sft.length:min").objectives == [Objective("sft.length", "min")]
    with pytest.raises(UserError, match=r"sft\.length: say which way is better, sft\.length:max or sft\.length:min$"):
        read_sweep(tmp_path, "sft.length")
    with pytest.raises(UserError, match=r"no summary below .* has 'sft.lenght'; did you mean sft.length\?"):
        read_sweep(tmp_path, "sft.lenght")
    (tmp_path / "empty").mkdir()
    assert not is_sweep(tmp_path / "empty")
    with pytest.raises(UserError, match="no run in this folder"):
        read_sweep(tmp_path / "empty")


def test_importance_is_the_share_of_the_variance(tmp_path):
    """Of a + 2 b with a and b independent and uniform, a explains 1/5 and b 4/5; c nothing."""
    grid = [{"a": i / 9, "b": j / 9, "c": ("x", "y")[(i + j) % 2]} for i in range(10) for j in range(10)]
    folder = write_sweep(tmp_path / "s", grid, (0,), lambda p, _: {"ppo.gold.open": p["a"] + 2 * p["b"]})
    sweep = read_sweep(folder)
    found = importances(sweep, sweep.objectives[0])
    assert list(found) == ["b", "a", "c"]
    assert found["b"] == pytest.approx(0.8, abs=0.04)
    assert found["a"] == pytest.approx(0.2, abs=0.04)
    assert found["c"] < 0.01


def test_importance_looks_at_logarithms_where_values_spread_far(tmp_path):
    """Of log10 a + b, with a = 10^0 … 10^4 and b = 0 … 4, both explain half."""
    grid = [{"a": 10.0**i, "b": float(j)} for i in range(5) for j in range(5)]
    folder = write_sweep(tmp_path / "s", grid, (0, 1), lambda p, _: {"ppo.gold.open": np.log10(p["a"]) + p["b"]})
    sweep = read_sweep(folder)
    found = importances(sweep, sweep.objectives[0])
    assert found["a"] == pytest.approx(0.5, abs=0.06)
    assert found["b"] == pytest.approx(0.5, abs=0.06)


def test_of_few_trials_importance_says_nothing(tmp_path):
    folder = write_sweep(tmp_path / "s", [{"a": 0.0}, {"a": 1.0}], (0, 1), lambda p, _: {"ppo.gold.open": p["a"]})
    sweep = read_sweep(folder)
    assert importances(sweep, sweep.objectives[0]) == {}
    assert "nothing to say" in write_sweep_report(folder).read_text()


def test_without_optuna_the_page_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    folder = write_sweep(tmp_path / "s", random_points(8), (0,), gold_and_kl)
    page = write_sweep_report(folder).read_text()
    assert "needs Optuna and scikit-learn" in page
    assert "Parallel coordinates" in page


def test_the_figures_of_a_sweep_show_its_points(tmp_path):
    points = [{"x": 1.0, "name": "b"}, {"x": 100.0, "name": "a"}]
    means = {1.0: 0.25, 100.0: 0.75}
    folder = write_sweep(tmp_path / "s", points, (0, 1), lambda p, seed: {"ppo.gold.open": means[p["x"]] + seed / 100})
    sweep = read_sweep(folder)
    seeds, mean = intervals_plot(sweep).panels[0].marks
    assert list(mean.x) == pytest.approx([0.755, 0.255])
    assert np.asarray(mean.high) - np.asarray(mean.x) == pytest.approx([12.7062 * 0.005] * 2, rel=1e-4)
    assert sorted(seeds.x) == pytest.approx([0.25, 0.26, 0.75, 0.76])
    lines = [mark for mark in parallel_plot(sweep).panels[0].marks if hasattr(mark, "texts")]
    assert [list(line.y) for line in lines] == [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]  # the best is drawn last
    assert lines[1].texts[0].startswith("point 1: x 100; name a")


@pytest.mark.parametrize(
    ("values", "heights"),
    [
        ([1, 2, 5], [0, 0.25, 1]),
        ([1.0, 10.0, 100.0], [0, 0.5, 1]),  # spread far: by their logarithms
        (["b", "a", "b"], [1, 0, 1]),
        ([True, False], [1, 0]),
        ([3, None, 4], [0, np.nan, 1]),
        ([2, 2], [0, 0]),
    ],
)
def test_places_on_an_axis(values, heights):
    assert place_on_axis(values)[0] == pytest.approx(heights, nan_ok=True)


def test_a_bad_trial_is_named(tmp_path):
    folder = write_sweep(tmp_path / "s", [{"a": 0.0}], (0,), lambda p, _: {"ppo.gold.open": 1.0})
    (folder / "trials" / "0000" / "trial.json").write_text(json.dumps({"point": "one"}))
    with pytest.raises(UserError, match=r"0000/trial\.json: expected a trial"):
        read_sweep(folder)


def test_a_folder_without_a_usual_figure_is_shown_and_not_ranked(tmp_path):
    """With the means of what it has, and what its analysis found."""
    for name, value in (("a.0", 1.0), ("a.1", 2.0), ("b.0", 5.0)):
        write_trial(tmp_path / "exp" / name, {"seed": int(name[-1])}, {"lists.w1": value})
    (tmp_path / "exp" / "verdict.json").write_text(json.dumps({"holds": True}))
    (tmp_path / "exp" / "table.md").write_text("| <b> | 1 |")
    assert read_sweep(tmp_path / "exp").objectives == []
    page = write_sweep_report(tmp_path / "exp").read_text()
    assert "name one with --metric=NAME" in page
    assert '<td><code>lists.w1</code></td><td class="number">1.500</td><td class="number">5</td>' in page
    assert "&#34;holds&#34;: true" in page
    assert "| &lt;b&gt; | 1 |" in page
