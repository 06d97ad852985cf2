"""``rlhf-jax evaluate``: files of scores by hand, a tiny run on its own data and on files, and what it refuses."""

import contextlib
import dataclasses
import gzip
import io
import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax.build.evaluate import load_reward_model, read_source
from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.main import main
from rlhf_jax.metrics import read_jsonl, read_summary
from tests.end_to_end import tiny

ROWS = [
    {"prompt_type": kind, "list": place, "rank": rank, "reward": reward, "length": length}
    for place, (kind, one) in enumerate(
        [("a", [(0, 0.75, 10), (1, 0.25, 12)]), ("b", [(0, 0.5, 3), (1, 0.75, 5), (2, 0.0, 4)])]
    )
    for rank, reward, length in one
]


def answer(*words: str, page: bool = False) -> dict:
    """The JSON that is printed; drawing the page is optional."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        if not page:
            patch.setattr("rlhf_jax.commands.evaluate.write_report", lambda out: out / "report" / "index.html")
        main(["evaluate", *words, "--json"])
    return json.loads(printed.getvalue())


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *words])
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert line.startswith("rlhf-jax: error: ")
    assert line.count("\n") == 1, line
    return line.removeprefix("rlhf-jax: error: ").strip()


# ------------------------------------------------------------------------------ scores


def test_scores_by_hand(tmp_path):
    """Gaps .5 | -.25 .5 .75 at T = .5; three of four pairs right."""
    path = tiny.write_jsonl(tmp_path / "scores.jsonl", ROWS)
    found = answer(f"--scores={path}", f"--out={tmp_path / 'out'}", "--temperature=0.5", page=True)
    assert (found["lists"], found["responses"], found["pairs"], found["accuracy"]) == (2, 5, 4, 0.75)
    assert found["by_type"]["b"] == {"accuracy": pytest.approx(2 / 3), "pairs": 3}
    assert found["by_distance"]["2"] == {"accuracy": 1.0, "pairs": 1}
    gaps = np.array([0.5, -0.25, 0.5, 0.75])
    assert found["raw"]["temperature"] == 0.5
    assert found["raw"]["log_loss"] == pytest.approx(np.log1p(np.exp(-gaps / 0.5)).mean())
    assert found["length"]["better_shorter"] == {"accuracy": pytest.approx(2 / 3), "pairs": 3}
    assert found["robustness"] == {}
    assert json.loads((tmp_path / "out" / "evaluation" / "scores.json").read_text()) == found
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "<h2>Reward model: evaluations</h2>" in page


def test_every_key_of_the_file_is_documented(tmp_path):
    path = tiny.write_jsonl(tmp_path / "scores.jsonl", ROWS)
    found = answer(f"--scores={path}", f"--out={tmp_path}")
    nested = [key for part in ("raw", "length") for key in found[part]]
    text = (tiny.ROOT / "docs" / "evaluation.md").read_text()
    for key in (*found, *nested):
        assert f"`{key}`" in text, key


def test_the_table_says_what_the_file_says(tmp_path, capsys):
    path = tiny.write_jsonl(tmp_path / "scores.jsonl", [row | {"prompt_type": "[b]x"} for row in ROWS])
    main(["evaluate", f"--scores={path}", f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    for text in ("0.750", "log-loss at T = 1.000", "type [b]x", "2 ranks apart", "evaluation/scores.json"):
        assert text in printed


def test_scores_need_no_jax_and_no_lengths(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "length"} for row in ROWS]
    path = tiny.write_jsonl(tmp_path / "scores.jsonl", rows)
    words = ["evaluate", f"--scores={path}", f"--out={tmp_path}", "--json"]
    code = f"import sys; from rlhf_jax.main import main; main({words!r}); sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["length"] is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"length": -1}, "3: length: expected a number from 0 or null, found -1"),
        ({"length": "x"}, '3: length: expected a number from 0 or null, found "x"'),
        ({"length": True}, "3: length: expected a number from 0 or null, found true"),
        ({"reward": "nan"}, '3: reward: expected a finite number, found "nan"'),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(change, error, tmp_path, capsys):
    rows = [dict(row) for row in ROWS]
    rows[2] |= change
    path = tiny.write_jsonl(tmp_path / "scores.jsonl", rows)
    assert refused(capsys, f"--scores={path}", f"--out={tmp_path}") == f"{path}:{error}"


def test_scores_that_compare_nothing(tmp_path, capsys):
    path = tiny.write_jsonl(tmp_path / "scores.jsonl", [row | {"rank": 1} for row in ROWS])
    assert "no list with two responses of different rank" in refused(capsys, f"--scores={path}", f"--out={tmp_path}")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--json"], "name a run directory or --scores=FILE"),
        (["a", "--scores=b", "--out=c"], "name a run directory or --scores=FILE"),
        (["a", "b"], "evaluate: b: a second run directory"),
        (["--scores=a"], "say with --out=DIR"),
        (["--scores=a", "--out=b"], "a: no such file"),
        (["--scores=a", "--out=b", "--data=c"], "--data: goes with a run directory"),
        (["a", "--format=hh"], "--format: goes with --data=FILE"),
        (["a", "--data=b", "--format=hhh"], "no format 'hhh'; did you mean hh?"),
        (["a", "--stage=rewards"], "no stage 'rewards'; did you mean reward?"),
        (["a", "--temperature=hot"], "'hot' is not a number"),
        (["a", "--temperature=0"], "0.0 is not a number above 0"),
        (["a", "--temperature=nan"], "nan is not a number above 0"),
        (["a", "--json=yes"], "--json=yes: must be --json"),
        (["a", "--out"], "--out: no value given"),
        (["a", "--tempature=1"], "no such option; did you mean --temperature?"),
        (["nowhere"], "nowhere: not a run directory"),
    ],
)
def test_a_bad_word_is_named(words, error, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error in refused(capsys, *words)


def test_help(capsys):
    main(["evaluate", "--help"])
    assert "usage: rlhf-jax evaluate RUN" in capsys.readouterr().out


# ------------------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tiny reward model on a file of lists, trained from scratch."""
    folder = tmp_path_factory.mktemp("evaluate")
    words = (
        *(*tiny.SIZE, *tiny.FILE, "--config.tokenizer.kind=byte", "--config.reward.init=scratch"),
        *("--config.stages=('reward',)", "--config.reward.steps=4", "--config.reward.eval_every=4"),
        f"--config.data.path={tiny.lists_file(folder / 'lists.jsonl')}",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        tiny.launch(
            f"--config={tiny.ROOT / 'configs' / 'lists_file.py'}", *words, f"--workdir={folder / 'run'}", report=False
        )
    return folder / "run"


def test_a_run_is_scored_as_training_scored_it_at_its_end(run, tmp_path):
    """The same checkpoint by another road (rows in place of lists) on the same held-out lists."""
    found = answer(str(run), f"--out={tmp_path}")
    summary, rows = read_summary(run), read_jsonl(run / "rewards" / "reward.jsonl")
    assert (found["stage"], found["step"], found["format"]) == ("reward", 4, "lists")
    assert found["responses"] == len([row for row in rows if row["step"] == 4])
    assert found["accuracy"] == pytest.approx(summary["reward.pair_accuracy"])
    for name in ("kendall_tau", "ndcg"):
        assert found[name] == pytest.approx(summary[f"reward.{name}"], abs=1e-6)
    assert found["raw"]["log_loss"] == pytest.approx(summary["reward.log_loss"], abs=1e-5)
    assert found["raw"]["reliability"]["ece"] == pytest.approx(summary["reward.ece"], abs=1e-5)
    assert found["length"]["correlation"] == pytest.approx(summary["reward.length_correlation"], abs=1e-6)
    assert found["by_distance"]["1"]["accuracy"] == pytest.approx(summary["reward.accuracy_at_distance.1"])
    scored = answer(f"--scores={run / 'rewards' / 'reward.jsonl'}", f"--out={tmp_path}")
    for name in ("pairs", "accuracy", "by_distance"):
        assert scored[name] == found[name]
    assert scored["length"]["longer_wins"] == pytest.approx(found["length"]["longer_wins"])


def test_robustness_and_the_page_of_the_run(run):
    found = answer(str(run), page=True)
    assert found["robustness"].keys() == {"whitespace", "first_letter", "final_stop", "bold"}
    assert found["robustness"]["whitespace"]["changed"] == 1.0
    assert found["robustness"]["first_letter"]["shift"] > 0
    assert json.loads((run / "evaluation" / "reward.json").read_text()) == found
    assert "<td>first_letter</td>" in (run / "report" / "index.html").read_text()


def test_pairs_of_a_file_and_what_of_it_is_left_out(run, tmp_path):
    path = tiny.hh_file(tmp_path / "more pairs.jsonl")
    found = answer(str(run), f"--data={path}", f"--out={tmp_path}")
    assert (found["format"], found["lists"], found["pairs"]) == ("hh", 48, 48)
    assert found["by_distance"].keys() == {"1"}
    assert found["name"] == "reward-more-pairs"
    assert (tmp_path / "evaluation" / "reward-more-pairs.json").is_file()
    assert any(note.startswith("cut 48 of 48 prompts") for note in found["notes"])
    tied = tiny.write_jsonl(
        tmp_path / "tied.jsonl",
        [{"prompt": "a", "responses": [{"text": text, "score": score} for text in "xy"]} for score in (1.0, 2.0)],
    )
    some = tmp_path / "some.jsonl"
    some.write_text(tied.read_text() + json.dumps({"prompt": "b", "responses": [{"text": "x"}, {"text": "y"}]}) + "\n")
    rows = [json.loads(line) for line in some.read_text().splitlines()]
    rows[2]["responses"] = [{"text": "x", "score": 1.0}, {"text": "y", "score": 0.0}]
    found = answer(str(run), f"--data={tiny.write_jsonl(some, rows)}", f"--out={tmp_path}")
    assert found["lists"] == 1
    assert "2 of 3 records compare nothing: left out" in found["notes"]


def test_what_annotators_skipped_is_noted(run, tmp_path):
    answers = {"prompt": "q", "answer1": "x", "answer2": "y"}
    judged = {"result": [{"to_name": "answer1,answer2", "value": {"selected": "left"}}]}
    path = tiny.write_jsonl(tmp_path / "export.jsonl", [{"data": answers, "annotations": [judged, {"result": []}]}])
    source = read_source(load_reward_model(run), str(path), "auto")
    assert source.notes == ("1 judgements left out that their annotators skipped",)


def test_words_that_the_tokenizer_does_not_know_are_noted(run, tmp_path):
    model = load_reward_model(run)
    rows = [{"prompt": "describe the sea at dawn .", "chosen": "crimson sky .", "rejected": "mauve sky ."}]
    path = str(tiny.write_jsonl(tmp_path / "pairs.jsonl", rows))
    assert read_source(model, path, "auto").notes == ()
    words = dataclasses.replace(model, reader=dataclasses.replace(model.reader, tokenizer=build_tokenizer("word")))
    # The template's "Human:" and "mauve".
    assert read_source(words, path, "auto").notes == ("2 of 3 texts have words that the tokenizer does not know",)


def rewards_of(run: pathlib.Path, prompt: str, *texts: str) -> list[float]:
    """What the run's model gives to answers, one at a time."""
    model = load_reward_model(run)
    prompt = model.context.config.data.template.replace("{prompt}", prompt)
    rewards = []
    for text in texts:
        asked = np.array(model.reader.tokenizer.encode(prompt)[-32:], np.int32)
        answered = np.array([*model.reader.tokenizer.encode(text), model.reader.tokenizer.eos_id], np.int32)
        rewards.append(float(model.score([ListExample(asked, (answered,), (0,), "", 0)])[0]))
    return rewards


def test_a_file_of_rewardbench(run, tmp_path):
    """Two subsets; each pair's rewards worked out one at a time."""
    items = [
        {"prompt": f"q{i}", "chosen": f"a{i}", "rejected": f"b{7 * i}", "subset": subset, "id": i}
        for i, subset in enumerate(["math-prm", "math-prm", "hep-go", "hep-go", "hep-go"])
    ]
    found = answer(str(run), f"--data={tiny.write_jsonl(tmp_path / 'rb.jsonl', items)}", f"--out={tmp_path}")
    right = []
    for item in items:
        better, worse = rewards_of(run, item["prompt"], item["chosen"], item["rejected"])
        right.append(better > worse)
    subsets = {"math-prm": np.mean(right[:2]), "hep-go": np.mean(right[2:])}
    assert found["rewardbench"]["subsets"] == pytest.approx(subsets)
    reasoning = (984 * subsets["math-prm"] + 164 * subsets["hep-go"]) / 1148
    assert found["rewardbench"]["sections"] == pytest.approx({"Reasoning": reasoning})
    assert found["rewardbench"]["overall"] is None


def test_a_file_of_rewardbench_2_with_ties(run, tmp_path):
    def item(name, subset, chosen, rejected):
        counts = {"num_correct": len(chosen), "num_incorrect": len(rejected)}
        total = len(chosen) + len(rejected)
        return (
            {"id": name, "prompt": "q", "subset": subset, "chosen": chosen, "rejected": rejected}
            | counts
            | {"total_completions": total}
        )

    items = [
        item("1", "Math", ["a"], ["b", "cc", "ddd"]),
        item("tied:1", "Ties", ["e", "ff"], ["g", "h", "i"]),
        item("ref:1", "Ties", ["e"], ["g", "hh"]),
    ]
    found = answer(str(run), f"--data={tiny.write_jsonl(tmp_path / 'rb2.jsonl', items)}", f"--out={tmp_path}")
    best, *others = rewards_of(run, "q", "a", "b", "cc", "ddd")
    right = rewards_of(run, "q", "e", "ff")
    wrong = rewards_of(run, "q", "g", "h", "i")
    hard = rewards_of(run, "q", "hh")[0]
    gap, spread = min(right) - max(wrong), max(right) - min(right)
    reference = right[0] - max(wrong[0], hard)
    smaller = min(gap, reference)
    ties = 0.3 * (gap > 0) + 0.3 * (reference > 0) + 0.2 * (gap > spread) + 0.2 * (smaller > spread)
    ties += 0.01 * np.tanh(smaller / spread - 1)
    assert found["rewardbench"]["version"] == 2
    assert found["rewardbench"]["subsets"] == pytest.approx({"Math": float(best > max(others)), "Ties": ties}, abs=1e-4)


@pytest.mark.parametrize("name", ["alpaca_eval_lists.jsonl.gz", "hh_harmless_base.jsonl.gz"])
def test_real_lists_and_real_pairs(name, run, real_data, tmp_path):
    """The head of a real file, which is read as it is: some 30 rows."""
    with gzip.open(real_data / name, "rt") as file:
        rows = [json.loads(line) for line in itertools.islice(file, 30)]
    path = tiny.write_jsonl(tmp_path / "head.jsonl", rows)
    found = answer(str(run), f"--data={path}", f"--out={tmp_path}", page=True)
    assert found["format"] == ("lists" if "alpaca" in name else "hh")
    assert found["lists"] > 20
    assert sum(found["raw"]["reliability"]["pairs"]) == found["pairs"]
    assert 0 < found["calibrated"]["log_loss"] <= found["raw"]["log_loss"] + 1e-9
    page = (tmp_path / "report" / "index.html").read_text()
    assert "accuracy by rank distance" in page
    assert "length bias" in page


def test_a_stage_that_a_run_has_not_and_a_file_with_a_bad_row(run, tmp_path, capsys):
    assert "has no reward model 'reward_common'" in refused(capsys, str(run), "--stage=reward_common")
    path = tmp_path / "bad.jsonl"
    path.write_text('{"chosen": "a"}\n')
    assert f"{path}:1: " in refused(capsys, str(run), f"--data={path}", "--format=hh")
