"""``rlhf-jax collapse`` on scores made up for the purpose."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax.main import main
from rlhf_jax.metrics import write_optimum, write_rewards
from rlhf_jax.objectives.utilities import Log
from rlhf_jax.theory.optimum import best_rewards_of_tiers

EVEN = (1.0, 0.75, 0.5, 0.25, 0.0)
SHARP = (1.0, 1.0, 0.5, 0.0, 0.0)
W1 = 0.1  # the mean of |EVEN - SHARP|, both in falling order


def rows(open_: tuple[float, ...], closed: tuple[float, ...], lists: int = 12) -> list[dict[str, object]]:
    return [
        {"prompt_type": kind, "list": place, "rank": rank, "reward": reward, "best": best}
        for place in range(lists)
        for kind, rewards, bests in (("open", open_, EVEN), ("closed", closed, SHARP))
        for rank, (reward, best) in enumerate(zip(rewards, bests, strict=True))
    ]


def written(path: pathlib.Path, found: list[dict[str, object]]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    main(["collapse", *words, "--json"])
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["collapse", *words])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("rlhf-jax: error: ")
    assert line.count("\n") == 1
    return line.removeprefix("rlhf-jax: error: ").strip()


def test_a_collapsed_model_is_told_from_one_that_is_not(tmp_path, capsys):
    path = written(tmp_path / "scores.jsonl", rows(EVEN, EVEN))
    found = answer(capsys, str(path))
    assert found["collapse_index"] == 1.0
    (pair,) = found["pairs"]
    assert (pair["w1"], pair["expected"], pair["basis"]) == (0.0, pytest.approx(W1), "utilities")
    assert found["warnings"] == [
        "closed and open: one reward distribution (W1 0.000, expected 0.100 by their utilities): collapsed"
    ]
    np.testing.assert_allclose(found["types"]["closed"]["profile"], EVEN)
    assert found["types"]["closed"]["mean_distance"] == pytest.approx(W1)
    apart = answer(capsys, str(written(path, rows(EVEN, SHARP))))
    assert apart["collapse_index"] == pytest.approx(0.0, abs=1e-12)
    assert apart["warnings"] == []


def test_the_printed_answer_has_profiles_distances_floor_index_and_warning(tmp_path, capsys):
    main(["collapse", str(written(tmp_path / "scores.jsonl", rows(EVEN, EVEN)))])
    printed = capsys.readouterr().out
    assert "│ 1    │ 0.750 │ 0.750 │" in printed
    assert "closed and open: W1 0.0000, KS 0.0000; shuffled lists W1 0.0000, p 1.000" in printed
    assert "collapse index: 1.000" in printed
    assert "warning: closed and open: one reward distribution" in printed


def test_types_that_lie_too_far_apart_are_told_so(tmp_path, capsys):
    """By hand: five rewards that are 0.4 apart, where the best ones are 0.1 apart."""
    low, high = (0.2, 0.15, 0.1, 0.05, 0.0), (0.6, 0.55, 0.5, 0.45, 0.4)
    main(["collapse", str(written(tmp_path / "scores.jsonl", rows(low, high)))])
    printed = capsys.readouterr().out
    assert "collapse index 0.00; 4.0 times as far apart as they should lie" in printed
    main(["collapse", str(written(tmp_path / "scores.jsonl", rows(EVEN, SHARP)))])
    assert "times as far" not in capsys.readouterr().out


def test_a_named_utility_gives_the_best_rewards_ties_and_ranks_from_one_included(tmp_path, capsys):
    found = [row | {"best": None, "rank": (1, 2, 2, 3, 7)[row["rank"]]} for row in rows(EVEN, EVEN)]
    path = written(tmp_path / "scores.jsonl", found[::-1])
    answered = answer(capsys, str(path), "--utility=open=log", "--utility=closed=linear")
    r = best_rewards_of_tiers(Log(), (1, 2, 1, 1)).rewards
    np.testing.assert_allclose(answered["types"]["open"]["r_star"], r[[0, 1, 3, 4]])
    np.testing.assert_allclose(answered["types"]["open"]["profile"], [1.0, 0.625, 0.25, 0.0])
    assert answered["pairs"][0]["basis"] == "utilities"
    assert answered["types"]["closed"]["r_star"][0] == 1.0
    assert answer(capsys, str(path))["pairs"][0]["basis"] == "scale"


def test_a_run_directory_answers_for_each_reward_model_and_its_last_evaluation(tmp_path, capsys):
    """The second knows by the run's record that its types should lie .1 apart; no row of it has a best reward."""
    for step, closed in ((5, EVEN), (10, SHARP)):
        write_rewards(tmp_path, "reward", step, [row | {"split": "validation"} for row in rows(EVEN, closed)])
    write_rewards(tmp_path, "reward", 10, [row | {"split": "train"} for row in rows(EVEN, EVEN)])
    write_rewards(tmp_path, "reward_common", 10, [row | {"best": None} for row in rows(EVEN, EVEN)])
    write_optimum(tmp_path, "reward_common", {"closed": {"apart": {"open": W1}}, "open": {"apart": {"closed": W1}}})
    found = answer(capsys, str(tmp_path))
    assert {stage: one["collapse_index"] for stage, one in found.items()} == {
        "reward": pytest.approx(0.0, abs=1e-12),
        "reward_common": 1.0,
    }
    assert len(found["reward_common"]["warnings"]) == 1


@pytest.mark.parametrize("name", ["scores.png", "scores.svg", "scores.pdf"])
def test_a_picture(name, tmp_path, capsys):
    main(["collapse", str(written(tmp_path / "scores.jsonl", rows(EVEN, SHARP))), f"--plot={tmp_path / name}"])
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert (tmp_path / name).read_bytes().startswith(begins[name.rpartition(".")[2]])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"rank": 1.5}, "3: rank: expected a whole number, found 1.5"),
        ({"rank": True}, "3: rank: expected a whole number, found true"),
        ({"reward": "nan"}, '3: reward: expected a finite number, found "nan"'),
        ({"reward": float("inf")}, "3: reward: expected a finite number, found Infinity"),
        ({"list": None}, "3: list: expected a whole number or a text, found null"),
        ({"prompt_type": "\ud800"}, '3: prompt_type: expected a text, found "\\ud800"'),
        ({"prompt_type": 7}, "3: prompt_type: expected a text, found 7"),
        ({"gold": "good"}, '3: gold: expected a finite number or null, found "good"'),
        ({"step": "x"}, '3: step: expected a whole number or null, found "x"'),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(change, error, tmp_path, capsys):
    found = rows(EVEN, SHARP)
    found[2] |= change
    path = written(tmp_path / "scores.jsonl", found)
    assert refused(capsys, str(path)) == f"{path}:{error}"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"reward": None}, "3: reward: expected a number, found null"),
        ({"reward": "high"}, '3: reward: expected a number, found "high"'),
        ({"rank": None}, "3: rank: expected a whole number from 0 to 999999, found null"),
        ({"rank": -1}, "3: rank: expected a whole number from 0 to 999999, found -1"),
        ({"list": []}, "3: list: expected a whole number or a text, found []"),
        ({"prompt_type": 7}, "3: prompt_type: expected a text or null, found 7"),
        ({"best": {}}, "3: best: expected a number or null, found {}"),
        ({"step": "x"}, '3: step: expected a whole number or null, found "x"'),
    ],
)
def test_a_bad_row_of_a_run_is_named_by_file_line_and_field(change, error, tmp_path, capsys):
    found = rows(EVEN, SHARP)
    found[2] |= change
    (tmp_path / "rewards").mkdir()
    path = written(tmp_path / "rewards" / "reward.jsonl", found)
    assert refused(capsys, str(tmp_path)) == f"{path}:{error}"


def test_rewards_of_a_run_that_are_not_finite_are_left_out_and_types_may_be_missing(tmp_path, capsys):
    bad = [row | {"reward": float("nan")} if row["rank"] == 1 else row for row in rows(EVEN, SHARP)]
    write_rewards(tmp_path, "reward", 1, [*bad, {"list": 99, "rank": 0, "reward": 0.0}])
    assert answer(capsys, str(tmp_path))["reward"]["types"]["open"]["profile"] == [1.0, None, 0.5, 0.25, 0.0]


def test_a_line_that_is_nested_too_deeply_is_named(tmp_path, capsys):
    path = written(tmp_path / "scores.jsonl", rows(EVEN, SHARP)[:2])
    with path.open("a") as file:
        file.write("[" * 200_000 + "\n")
    assert refused(capsys, str(path)) == f"{path}:3: not JSON that can be read: nested too deeply"
    (tmp_path / "config.json").write_text("[" * 200_000)
    assert refused(capsys, str(tmp_path)) == f"{tmp_path}/config.json: not JSON that can be read: nested too deeply"


def test_a_last_line_without_an_end_counts(tmp_path, capsys):
    path = written(tmp_path / "scores.jsonl", rows(EVEN, SHARP))
    path.write_text(path.read_text().rstrip("\n"))
    assert answer(capsys, str(path))["types"]["closed"]["responses"] == 60


def test_a_missing_field_and_a_missing_file_are_named(tmp_path, capsys):
    path = written(tmp_path / "scores.jsonl", [{"prompt_type": "open", "list": 0, "rank": 0}])
    assert refused(capsys, str(path)) == f"{path}:1: reward: missing; expected a finite number"
    assert refused(capsys, str(written(path, []))) == f"{path}: no rows"
    assert "no such file" in refused(capsys, str(tmp_path / "none.jsonl"))
    assert "no rewards" in refused(capsys, str(tmp_path))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "name one JSONL file or run directory, not 0"),
        (["--utility=opn=log"], "no prompt of type 'opn'"),
        (["--utility=open=lg"], "did you mean log?"),
        (["--utility=open=power:1,2"], "power:1,2: must be power:GAMMA"),
        (["--utility=open=quantile:-1,2"], "collapse: --utility=open: a: -1 is not allowed, must be above 0"),
        (["--utility=log"], "must be --utility=TYPE=NAME[:PARAMETER]"),
        (["--plot=a.gif"], "none of a .png, .svg or .pdf file"),
        (["--jsn"], "did you mean --json?"),
    ],
)
def test_a_bad_word_is_named(words, error, tmp_path, capsys):
    path = [str(written(tmp_path / "scores.jsonl", rows(EVEN, SHARP)))] if words else []
    assert error in refused(capsys, *path, *words)


@pytest.mark.parametrize(
    "text",
    ["lg", "power:1,2", "power:2", "power:-1", "power:inf", "power:half", "log:1", "quantile:2", "missing.py:Mine"],
)
def test_a_utility_is_refused_in_the_words_of_theory(text, tmp_path, capsys):
    path = written(tmp_path / "scores.jsonl", rows(EVEN, SHARP))
    found = refused(capsys, str(path), f"--utility=open={text}")
    with pytest.raises(SystemExit):
        main(["theory", f"--utility={text}"])
    told = capsys.readouterr().err.removeprefix("rlhf-jax: error: theory: --utility: ").strip()
    assert found == f"collapse: --utility=open: {told}"


def test_it_needs_no_jax_without_a_utility_and_has_a_help(tmp_path):
    path = written(tmp_path / "scores.jsonl", rows(EVEN, SHARP))
    code = (
        f"import sys; from rlhf_jax.main import main; main(['collapse', {str(path)!r}]); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_one_type_of_prompt_has_nothing_to_be_compared_with(tmp_path, capsys):
    path = written(tmp_path / "scores.jsonl", [row for row in rows(EVEN, SHARP) if row["prompt_type"] == "open"])
    main(["collapse", str(path)])
    assert "fewer than two types" in capsys.readouterr().out
    main(["collapse", "--help"])
    assert "usage: rlhf-jax collapse" in capsys.readouterr().out
