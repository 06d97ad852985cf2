"""What the page says of a reward model, held against the measurements themselves and against hand-worked rows."""

import json

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.metrics import write_rewards
from rlhf_jax.reports import write_report
from rlhf_jax.reports.plot_paper import draw
from rlhf_jax.reports.records import lists_by_type, newest_held_out, read_run
from rlhf_jax.reports.reward_model import (
    reading_of,
    reading_table,
    rewardbench_table,
    robustness_table,
    stage_readings,
    trust_plot,
)


def rows(*lists, kind="", lengths=True):
    """Rows of lists of (rank, reward, length)."""
    return [
        {"list": place, "prompt_type": kind, "rank": rank, "reward": reward} | ({"length": length} if lengths else {})
        for place, one in enumerate(lists)
        for rank, reward, length in one
    ]


# Two lists of three, the second with its last two the wrong way round.
LISTS = rows([(0, 0.9, 12), (1, 0.5, 8), (2, 0.1, 4)], [(0, 0.8, 5), (1, 0.2, 5), (2, 0.4, 10)])
# Pairs: two of three in order, as HH has them.
PAIRS = rows([(0, 1.5, 3), (1, -0.5, 9)], [(0, 0.5, 9), (1, -1.5, 3)], [(0, -1.0, 7), (1, 0.0, 6)])


def run_with(path, **stages):
    for stage, found in stages.items():
        write_rewards(path, stage, 5, found)
    return read_run(path)


def test_a_reading_is_worked_out_from_the_rows_alone(tmp_path):
    found = stage_readings(run_with(tmp_path, reward=LISTS, reward_common=PAIRS))
    lists, pairs = found["reward"], found["reward_common"]
    assert lists["by_distance"] == {"1": {"accuracy": 3 / 4, "pairs": 4}, "2": {"accuracy": 1.0, "pairs": 2}}
    assert lists["length"]["better_longer"] == {"accuracy": 1.0, "pairs": 3}
    assert pairs["accuracy"] == pytest.approx(2 / 3)
    assert pairs["raw"]["log_loss"] == pytest.approx(np.log1p(np.exp([-2.0, -2.0, 1.0])).mean())


def test_prompt_types_are_pooled_and_lists_of_any_length_lie_together(tmp_path):
    found = reading_of(lists_by_type(newest_held_out([*LISTS, *rows([(0, 1.0, 1), (1, 0.0, 1)], kind="open")])))
    assert (found["lists"], found["pairs"]) == (3, 7)
    assert found["by_type"] == {
        "": {"accuracy": pytest.approx(5 / 6), "pairs": 6},
        "open": {"accuracy": 1.0, "pairs": 1},
    }
    assert found["by_size"].keys() == {"2", "3"}


def test_a_partial_order_beside_a_ranking_of_another_type(tmp_path):
    partial = rows([(0, 0.9, 1), (0, 0.1, 1), (1, 0.2, 1), (1, 0.8, 1)], kind="open")
    for row, worse in zip(partial, ([2], [3], [], []), strict=True):
        row["better_than"] = worse
    found = stage_readings(run_with(tmp_path, reward=[*LISTS, *partial]))["reward"]
    assert found["by_type"]["open"] == {"accuracy": 0.5, "pairs": 2}
    assert found["by_type"][""] == {"accuracy": pytest.approx(5 / 6), "pairs": 6}


@pytest.mark.parametrize("found", [LISTS, PAIRS], ids=["lists", "pairs"])
def test_lists_and_pairs_have_the_section_and_its_table(found, tmp_path):
    run_with(tmp_path, reward=found)
    page = write_report(tmp_path).read_text()
    assert "<h2>Reward model: calibration, rank distance, length</h2>" in page
    assert "reward: reliability" in page
    assert "accuracy by rank distance" in page
    assert "length bias: correlation" in page
    (row,) = reading_table(stage_readings(read_run(tmp_path)))
    assert f'<td class="number">{row["log_loss_calibrated"]}</td>' in page


def test_the_panels_show_the_numbers(tmp_path):
    readings = stage_readings(run_with(tmp_path, reward=LISTS))
    reliability, distances, length = draw(trust_plot("reward_model", readings)).axes
    raw, calibrated = readings["reward"]["raw"], readings["reward"]["calibrated"]
    held = [place for place, pairs in enumerate(raw["reliability"]["pairs"]) if pairs]
    drawn = {line.get_label(): line for line in reliability.lines}
    line = drawn[f"T = 1.000, ECE {raw['reliability']['ece']:.3f}"]
    assert list(line.get_ydata()) == [raw["reliability"]["accuracy"][place] for place in held]
    assert list(line.get_xdata()) == [raw["reliability"]["confidence"][place] for place in held]
    assert f"T = {calibrated['temperature']:.3f}, ECE {calibrated['reliability']['ece']:.3f}" in drawn
    assert [bar.get_height() for bar in distances.patches] == [0.75, 1.0]
    assert [bar.get_height() for bar in length.patches] == pytest.approx([0.5, 1.0, 1.0])


def test_runs_without_lengths_and_runs_without_pairs(tmp_path):
    """Older runs wrote no lengths; a list of ties compares nothing."""
    page = write_report(run_with(tmp_path / "a", reward=rows(*[[(0, 1.0, 0), (1, 0.0, 0)]], lengths=False)).workdir)
    assert "lengths are not recorded" in page.read_text()
    page = write_report(run_with(tmp_path / "b", reward=rows([(0, 1.0, 3), (0, 0.0, 3)])).workdir)
    assert "Reward model: calibration" not in page.read_text()


def test_a_bad_length_is_named(tmp_path):
    write_rewards(tmp_path, "reward", 5, rows([(0, 1.0, "long"), (1, 0.0, 3)]))
    with pytest.raises(UserError, match=r'reward\.jsonl:1: length: expected a number or null, found "long"'):
        read_run(tmp_path)


@pytest.mark.parametrize("bad", [1, [-1], [0.5]])
def test_bad_comparisons_are_named(bad, tmp_path):
    write_rewards(tmp_path, "reward", 5, [{**row, "better_than": bad} for row in LISTS])
    with pytest.raises(UserError, match=r"reward\.jsonl:1: better_than: expected a list of whole numbers from 0 or"):
        read_run(tmp_path)


def test_evaluations_have_their_section_and_tables(tmp_path):
    reading = reading_of(lists_by_type(LISTS)) | {
        "robustness": {"bold": {"shift": 0.25, "drift": -0.125, "flips": None, "changed": 1.0}},
        "rewardbench": {
            "version": 2,
            "overall": None,
            "sections": {},
            "subsets": {"Math <b>": 0.75},
        },
    }
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "reward-file.json").write_text(json.dumps(reading))
    readings = read_run(tmp_path).evaluations
    assert robustness_table(readings) == [
        {"name": "reward-file", "change": "bold", "shift": "0.250", "drift": "-0.125", "flips": "–"}
    ]
    assert rewardbench_table(readings) == [
        {"name": "reward-file", "part": "RewardBench 2", "score": "–"},
        {"name": "", "part": "subset Math <b>", "score": "0.750"},
    ]
    page = write_report(tmp_path).read_text()
    assert "<h2>Reward model: evaluations</h2>" in page
    assert "subset Math &lt;b&gt;" in page
    assert "<td>bold</td>" in page
