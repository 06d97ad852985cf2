"""``rlhf-jax report`` by its words."""

import re
import subprocess
import sys

import pytest

from rlhf_jax.main import main
from tests.reports.sweeps import gold_and_kl, random_points, write_sweep, write_trial


@pytest.fixture(autouse=True)
def without_twins(monkeypatch):
    monkeypatch.setattr("rlhf_jax.reports.page.paper", lambda plot, *forms: [b""] * len(forms))


@pytest.fixture
def runs(tmp_path):
    for name in ("a", "b"):
        write_trial(tmp_path / "runs" / name, {"seed": 0}, {"ppo.gold.open": 0.5, "ppo.kl": 1.0})
    return tmp_path / "runs"


def title_of(page):
    return re.search(r"<h1>(.*)</h1>", page.read_text())[1]


def test_one_run_several_and_a_folder(runs, tmp_path, capsys):
    main(["report", str(runs / "a")])
    assert capsys.readouterr().out == f"report: {runs}/a/report/index.html\n"
    assert title_of(runs / "a" / "report" / "index.html") == "a"
    main(["report", str(runs / "a"), str(runs / "b"), f"--out={tmp_path / 'out'}"])
    assert title_of(tmp_path / "out" / "index.html") == "a · b"
    main(["report", str(runs / "b"), str(runs / "a")])
    assert title_of(runs / "comparison" / "index.html") == "b · a"
    main(["report", str(runs)])
    assert title_of(runs / "report" / "index.html") == "runs"
    sweep = write_sweep(tmp_path / "sweep", random_points(4), (0, 1), gold_and_kl)
    main(["report", str(sweep), "--metric=ppo.kl:max", f"--out={tmp_path / 'swept'}"])
    assert "best first by ppo.kl (max)" in (tmp_path / "swept" / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["{runs}/none"], "none: no such directory"),
        (["{runs}/a", "{runs}"], "runs: no run directory"),
        (["{empty}"], "empty: no run directory, and no run below it"),
        (["{runs}/a", "{runs}/a", "--out=x"], "named twice"),
        (["{runs}/a", "--metric=ppo.kl"], "--metric: goes with a folder of runs"),
        (["{runs}", "--metric=ppo.kl:up"], "after the colon must be max or min"),
        (["{runs}", "--metric=ppo.gold.opne"], "did you mean ppo.gold.open?"),
        (["{runs}", "--outt=x"], "no such option; did you mean --out?"),
        (["--out=x"], "name a run directory"),
        (["{runs}/a", "--out={file}/x"], "Not a directory"),
        (["{runs}/a", "--out={runs}/b"], "b: holds something else than a report"),
    ],
)
def test_mistakes_are_one_line(words, error, runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    places = {"runs": runs, "empty": tmp_path / "empty", "file": tmp_path / "file"}
    with pytest.raises(SystemExit) as stopped:
        main(["report", *(word.format(**places) for word in words)])
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert line.startswith("rlhf-jax: error: ")
    assert error in line
    assert line.count("\n") == 1


def test_it_has_a_help_and_needs_no_jax(runs):
    code = (
        "import sys; sys.modules['jax'] = None; from rlhf_jax.main import main;"
        f"main(['report', '--help']); main(['report', {str(runs / 'a')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: rlhf-jax report RUN" in done.stdout
    assert done.stdout.endswith("report/index.html\n")
