"""What is said of several runs, and of one run's completions, frontier and theory, held against hand-worked rows."""

import json

import numpy as np
import pytest
from scipy.integrate import quad

from rlhf_jax.errors import UserError
from rlhf_jax.metrics import MetricWriter, update_summary, write_samples
from rlhf_jax.reports import completions, write_comparison, write_report
from rlhf_jax.reports.compare import curves_plot
from rlhf_jax.reports.curves import SHOWN_POINTS, thinned
from rlhf_jax.reports.differences import differing, leaves
from rlhf_jax.reports.distributions import limit_distribution, rewards_plot
from rlhf_jax.reports.frontier import frontiers_plot, path_of
from rlhf_jax.reports.plot import Line
from rlhf_jax.reports.records import read_run
from rlhf_jax.reports.report import distinct_names
from tests.reports.conftest import write_run
from tests.reports.test_page import collapsed_run


def test_only_settings_that_differ_are_told_in_every_run():
    one = {"seed": 0, "ppo": {"clip": 0.2, "kl": {"coefficient": 1}, "empty": {}}, "list": [1], "text": "1"}
    two = {"seed": 1, "ppo": {"clip": 0.2, "kl": {"coefficient": 1.0}, "new": None}, "list": [1, 2], "text": 1}
    assert dict(leaves(one))["ppo.kl.coefficient"] == 1
    assert differing([one, two]) == {
        "list": ["[1]", "[1, 2]"],
        "ppo.new": ["–", "null"],
        "seed": ["0", "1"],
    }


def test_the_page_compares_figures_settings_curves_and_completions(tmp_path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    (two / "config.json").write_text(json.dumps({"seed": 7, "reward": {"utility": {"name": "log"}}}))
    update_summary(two, {"ppo.gold.open": 0.5})
    write_report(two)
    page = write_comparison([one, two], tmp_path / "out")
    html = page.read_text()
    for title in (
        "Runs", "Held-out figures", "Configuration", "Curves", "Reward against distance", "Reward distributions",
        "Completions", "These runs",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    assert "<td><code>reward.utility.name</code></td><td>power</td><td>log</td>" in html
    assert '<td class="number">0.850</td><td class="number">0.500</td>' in html
    assert '<a href="../two/report/index.html">two</a>' in html
    assert "../one/" not in html  # has no page
    assert "ppo.gold.open: 0.850 in one, 0.500 in the next best." in html


def test_curves_of_all_runs_stand_in_one_panel(tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        with MetricWriter(tmp_path / name, tensorboard=False) as writer:
            writer.write("ppo", 1, {"kl": value, "grad_norm": 1.0})
            writer.write("ppo", 2, {"kl": 2 * value})
    (panel,) = curves_plot({name: read_run(tmp_path / name) for name in "ab"}).panels
    assert [(list(line.x), list(line.y), line.label) for line in panel.marks] == [
        ([1, 2], [1.0, 2.0], "a 2.00"),
        ([1, 2], [2.0, 4.0], "b 4.00"),
    ]


def test_names_tell_runs_apart_and_one_twice_is_told(tmp_path):
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "other"]
    assert distinct_names(paths) == ["x/run", "y/run", f"{tmp_path.name}/other"]
    with pytest.raises(UserError, match="named twice"):
        distinct_names([paths[0], tmp_path / "y" / ".." / "x" / "run"])


def test_the_frontier_is_the_root_of_the_kl(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for step, kl in ((1, -0.5), (2, 4.0), (3, 9.0)):
            writer.write("ppo", step, {"kl": kl, "gold.open": 0.1 * step, "reward.mean": 0.2 * step})
        writer.write("ppo", 3, {"validation.kl": 1.0, "validation.gold.open": 1.0})
        writer.write("ppo", 4, {"gold.open": 0.5})
    run = read_run(tmp_path)
    x, y, steps = path_of(run, "ppo", "gold.open")
    assert (x.tolist(), steps.tolist()) == ([0.0, 2.0, 3.0], [1, 2, 3])
    np.testing.assert_allclose(y, [0.1, 0.2, 0.3])
    titles = [panel.title for panel in frontiers_plot({"a": run}).panels]
    assert titles == ["ppo: gold reward, open", "ppo: proxy reward"]


@pytest.mark.parametrize("limit", [{"atom": 0.0, "a": 0.5, "b": 0.75}, {"atom": 0.125, "a": 2.0, "b": 2.0}])
def test_the_limit_law_is_atoms_and_a_beta_density(limit):
    """Integrated from the density itself."""
    from math import gamma

    a, b, atom = limit["a"], limit["b"], limit["atom"]
    weight = (1 - 2 * atom) * gamma(a + b) / gamma(a) / gamma(b)
    x = np.array([0.1, 0.5, 0.9])
    expected = [atom + quad(lambda t: weight * t ** (a - 1) * (1 - t) ** (b - 1), 0, end)[0] for end in x]
    np.testing.assert_allclose(limit_distribution(limit, x), expected, rtol=1e-6)
    np.testing.assert_allclose(limit_distribution(limit, np.array([0.0, 1.0])), [atom, 1.0])


def test_two_atoms_and_nothing_between_is_a_law_too():
    halves = limit_distribution({"atom": 0.5, "a": None, "b": None}, np.array([0.0, 0.5, 1.0]))
    assert halves.tolist() == [0.5, 0.5, 1.0]


def test_theory_is_drawn_over_the_rewards_where_it_is_known(tmp_path, full_run):
    """Dashed: the distribution function of the best rewards 1, 1/2 and 0, and their mean at each rank."""
    _, spread, ranks = rewards_plot(read_run(collapsed_run(tmp_path / "a", (1.0, 1.0, 0.0)))).panels
    dashed = [m for m in spread.marks if isinstance(m, Line) and m.dash == "dash" and len(m.x)]
    assert [(list(m.x), list(m.y)) for m in dashed] == [
        ([0.0, 0.0, 0.5, 1.0], [0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0])
    ] * 2
    dashed = [m for m in ranks.marks if isinstance(m, Line) and m.dash == "dash"]
    assert [list(m.y) for m in dashed] == [[1.0, 0.5, 0.0]] * 2
    for panel in rewards_plot(read_run(full_run)).panels:
        assert not [m for m in panel.marks if isinstance(m, Line) and m.dash != "solid"]


def test_completions_stand_by_checkpoint_and_parts_have_their_rewards(tmp_path):
    first = {"prompt": "p", "prompt_type": "open", "response": "bad, good.", "proxy": 0.5, "gold": None}
    write_samples(tmp_path, "ppo", 10, [{**first, "rewards": [(0, 4, -0.3), (4, 10, 0.6), (10, 10, 0.15)]}])
    write_samples(tmp_path, "ppo", 20, [{**first, "response": "fine", "before": "old"}, {"prompt": "new"}])
    found = completions.of_run(read_run(tmp_path))
    assert found.columns == ["before (SFT)", "ppo, step 10", "ppo, step 20"]
    (kind, prompt, answers), (_, other, missing) = found.rows
    assert (kind, prompt, other) == ("open", "p", "new")
    before, early, late = answers
    assert [piece.text for piece in before.pieces] == ["old"]
    assert [(p.text, p.reward, p.shade) for p in early.pieces] == [
        ("bad,", -0.3, -0.5),
        (" ", None, 0.0),
        ("good.", 0.6, 1.0),
        ("", 0.15, 0.25),
    ]
    assert early.scores == [("proxy", "0.500")]
    assert [piece.text for piece in late.pieces] == ["fine"]
    assert missing[1] is None
    html = write_report(tmp_path).read_text()
    assert 'title="reward -0.3">bad,<small>-0.3</small></span>' in html
    assert "⏎<small>+0.15</small>" in html


def test_a_bad_part_is_named(tmp_path):
    write_samples(tmp_path, "ppo", 1, [{"prompt": "p", "rewards": [[0, "x", 1.0]]}])
    with pytest.raises(UserError, match=r"1\.jsonl:1: rewards: expected a list of \[start, end, reward\] or null"):
        read_run(tmp_path)


def test_a_long_curve_keeps_its_extremes():
    x = np.arange(50_000)
    y = np.sin(x / 300.0)
    y[[17, 40_001]] = 5.0, -7.0
    short_x, short_y = thinned(x, y)
    assert len(short_x) <= 2 * SHOWN_POINTS
    assert (short_y.max(), short_y.min()) == (5.0, -7.0)
    assert np.all(np.diff(short_x) > 0)
    np.testing.assert_array_equal(y[short_x], short_y)
    assert thinned(x[:10], y[:10])[0] is not None
