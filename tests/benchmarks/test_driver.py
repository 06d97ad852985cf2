"""Sides are processes that do rounds in turn: the talk with them, by one that counts, and what answers become."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import dpo, ppo, quickstart, reward_lists, reward_pairs, run, sampling, sft
from benchmarks.harness import results
from benchmarks.harness.driver import ROOT, Lost, Turn, Worker, play
from benchmarks.harness.shapes import MODELS, Shape
from benchmarks.harness.stage import Target, arguments, turns_of

SIDE = """
from benchmarks.harness.worker import measured, serve

def main(line, case):
    print("a library greets")
    count = 0

    def one_round():
        nonlocal count
        count += 1
        found = {"units": case["units"], "count": count}
        with measured(found):
            sum(range(200_000))
        return found

    serve(line, {"round": one_round, "fail": lambda: 1 / 0})
"""


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A side that is found in a folder of its own."""
    (tmp_path / "counting_side.py").write_text(SIDE)
    module = tmp_path / "start.py"
    module.write_text(
        "import json, sys, counting_side\n"
        "from benchmarks.harness.worker import Line, confine\n"
        "line, case = Line(), json.loads(sys.argv[2])\n"
        "confine(case['threads'])\n"
        "counting_side.main(line, case)\n"
    )
    made = Worker(
        sys.executable, "counting", {"units": 6, "threads": 1}, tmp_path / "side.log", f"{tmp_path}:{ROOT}", "start"
    )
    yield made
    made.close()


def test_a_side_answers_commands_and_prints_elsewhere(worker: Worker, tmp_path: Path) -> None:
    assert worker.ready()["ready"]
    found = play([Turn("ours", worker), Turn("ours, again", worker)], rounds=3, tell=False)
    assert sorted(answer["count"] for answers in found.values() for answer in answers) == [1, 2, 3, 4, 5, 6]
    assert all(answer["cpu"] > 0 and answer["wall"] > 0 for answer in found["ours"])
    assert "greets" in (tmp_path / "side.log").read_text()


def test_the_order_of_turns_is_drawn_by_the_seed(worker: Worker) -> None:
    worker.ready()
    turns = [Turn(name, worker) for name in "abcd"]
    orders = []
    for seed in (0, 0, 1):
        counts = {name: [answer["count"] for answer in found] for name, found in play(turns, 2, seed, False).items()}
        orders.append(sorted(counts, key=lambda name: counts[name][0]))
    assert orders[0] == orders[1] != orders[2]


def test_a_side_that_dies_is_named_with_its_last_words(worker: Worker) -> None:
    worker.ready()
    with pytest.raises(Lost, match=r"(?s)side ended with 1.*ZeroDivisionError"):
        worker.ask("fail")


def answers(*seconds: float, units: int = 10) -> list[dict[str, float]]:
    return [{"units": units, "cpu": one, "wall": 2 * one} for one in seconds]


def test_ratios_are_of_rounds_and_targets_of_the_fastest_side() -> None:
    """By hand: ours takes 1, 2, 4 s, A twice that each time, B 3, 3, 3 s; peak 100 FLOP/s by the better library."""
    limits = {"gemm, ours": [{"cpu": 1.0, "flops": 80.0}] * 3, "gemm, A": [{"cpu": 1.0, "flops": 100.0}] * 3}
    limits |= {"bandwidth, ours": [{"cpu": 2.0, "bytes": 8.0}] * 3}
    found = {"ours": answers(1, 2, 4), "A": answers(2, 4, 8), "B": answers(3, 3, 3), **limits}
    about = {"stage": "s", "unit": "tokens", "flops": 5.0, "bytes": 0.0, "first": {}, "checks": {}}
    whole = results.summary(
        {**about, "case": {"model": "tiny", "threads": 1}}, found, (Target("either", ("A", "B"), 1.9),), {}
    )
    rows = whole["rows"]
    assert rows["A"]["ratio"] == {"median": 2, "least": 2, "most": 2}
    assert rows["B"]["ratio"] == {"median": 1.5, "least": 0.75, "most": 3}
    assert rows["ours"]["cpu"]["median"] == 5
    assert rows["ours"]["of peak"] == pytest.approx(5 * 5 / 100)
    assert [one["side"] for one in whole["targets"]] == ["B"]  # 3.3 units a second against 2.5
    assert "| s | either (B) | 1.50 (0.75 to 3.00) | 1.9 | missed |" in results.text(whole)


def test_arithmetic_of_a_text_by_hand() -> None:
    """Width 2, one layer, 16 + 12 parameters; the texts have 2 and 1 tokens, which look at 1, 2 and 1."""
    shape = Shape(vocabulary=5, width=2, depth=1, heads=1, mlp_width=2)
    assert shape.matrices == 28
    assert shape.reading([2, 1], read=3, predicted=2) == 2 * 28 * 3 + 4 * 2 * 4 + 2 * 2 * 5 * 2
    assert shape.reading([2], read=2, predicted=0, after=3) == 2 * 28 * 2 + 4 * 2 * (4 + 5)
    assert shape.reading([2, 1], 3, 0) - shape.reading([2, 1], 1, 0) == 2 * 2 * (4 + 12)
    assert shape.decoding_bytes(rows=3, prompt=4, tokens=3) == 4 * (2 * 38 + 2 * 2 * 3 * (5 + 6))
    assert 24e6 < MODELS["small"].parameters < 26e6
    assert 123e6 < MODELS["gpt2"].parameters < 125e6


STAGES = [sft.STAGE, reward_pairs.STAGE, reward_lists.STAGE, dpo.STAGE, *sampling.STAGES, *ppo.STAGES]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
@pytest.mark.parametrize("model", MODELS)
def test_targets_name_sides_and_cases_are_json(stage: object, model: str) -> None:
    sides = {side.name for side in stage.sides(model)}
    assert {name for target in stage.targets for name in target.against} <= sides
    assert json.loads(json.dumps(stage.case(model)))["records"] >= 1
    for side in stage.sides(model):
        assert (ROOT / "benchmarks" / "sides" / f"{side.module}.py").exists()


def test_scripts_take_what_their_docs_say() -> None:
    args = arguments("", ["--model=tiny", "--rounds=2", "--threads=2", "--only=TRL,by hand", "--quick"])
    assert (args.model, args.rounds, args.threads, args.quick) == ("tiny", 2, 2, True)
    assert run.chosen([])[0] == list(run.STAGES)
    assert run.chosen(["sft", "dpo", "--model=gpt2"])[0] == ["sft", "dpo"]
    with pytest.raises(SystemExit, match="nonsense: no stage"):
        run.chosen(["nonsense"])
    with pytest.raises(SystemExit):
        arguments("", ["--model=huge"])


def test_the_page_of_a_run_ends_with_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"date": "today", "commit": "c", "processor": "p", "cores": 2, "load": (0.0,), "versions": {"jax": "1"}}
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "machine", lambda: about)
    monkeypatch.setattr(quickstart, "run", lambda *_: ({"sft": 1.25, "total": 2.5}, {"sft": {"all": 1.0}}))
    monkeypatch.setattr(sys, "argv", ["run", "quickstart"])
    run.main()
    page = (tmp_path / "build" / "bench.md").read_text()
    assert "| quickstart, wall seconds | sft | total |" in page
    assert page.count("| 1.2 | 2.5 |") == 2
    assert len(json.loads((tmp_path / "build" / "bench.json").read_text())["quickstart"]) == 2


def test_ours_takes_two_turns_and_limits_are_of_both_libraries(worker: Worker) -> None:
    names = [turn.name for turn in turns_of({"ours": worker, "by hand": worker}, placebo=True)]
    assert names == [
        "ours",
        "by hand",
        "ours, again",
        "gemm, ours",
        "bandwidth, ours",
        "gemm, by hand",
        "bandwidth, by hand",
    ]
