"""A sweep whose workers are killed and whose files are torn: no trial lost, none twice, the table from the folders."""

import collections
import json
import pathlib
import subprocess
import sys

import pytest

from rlhf_jax.sweeps.claims import claims
from rlhf_jax.sweeps.folder import read_trials
from rlhf_jax.sweeps.queue import is_over
from rlhf_jax.sweeps.results import counted, write_results
from tests.end_to_end import tiny
from tests.reliability.conftest import Tally
from tests.sweeps.standin import GAMMA, begin


@pytest.mark.reliability("R26", tries=1, torture=3)
def test_no_trial_is_lost_or_run_twice_and_the_table_is_made_of_the_folders(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Eight workers, twelve kills, 200 trials (in small: four, six, 40). Held to the numbers that the trials wrote."""
    full = request.config.getoption("--torture")
    workers, kills, points = (8, 12, 100) if full else (4, 6, 20)
    for number in tally.tries:
        folder = tmp_path / str(number)
        gammas = ",".join(str(place / 1000) for place in range(1, points + 1))
        spec = begin(folder, keys=((GAMMA, gammas),), points=points)
        words = [str(folder), str(workers), str(kills), str(number)]
        with tally.one(f"storm {number}"):
            found = subprocess.run(
                [sys.executable, "-m", "tests.reliability.storm", *words],
                cwd=tiny.ROOT,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert found.returncode == 0, found.stderr
            told = json.loads(found.stdout)
            assert (told["kills"], told["failed"]) == (kills, [])
            assert {"claim", "row"} <= set(told["torn"]), "files were torn"
            trials = read_trials(folder)
            assert [trial.number for trial in trials] == list(range(2 * points))
            assert {trial.state for trial in trials} == {"done"}
            assert [trial.summary["reward.pair_accuracy"] for trial in trials] == [n / 1000 for n in range(2 * points)]
            # Who is killed between the end of a trial and its record leaves it to be closed again: at most one a kill.
            ended = collections.Counter((folder / "ended.log").read_text().split())
            assert ended.keys() == {str(n) for n in range(2 * points)}
            assert ended.total() <= 2 * points + kills
            attempts = [len(claims(trial.folder)) for trial in trials]
            # More than kills where a machine is so busy that leases run out under workers that live; they then give up.
            assert sum(attempts) > 2 * points
            assert is_over(folder)
            assert rebuilt(folder, spec) == sorted(((2 * n) / 1000, (2 * n + 1) / 1000) for n in range(points)), (
                "the table is that of the numbers"
            )
            first = (folder / "results.json").read_bytes()
            for name in ("results.json", "results.csv"):
                (folder / name).unlink()
            rebuilt(folder, spec)
            assert (folder / "results.json").read_bytes() == first


def rebuilt(folder: pathlib.Path, spec: object) -> list[tuple[float, ...]]:
    """The values of all points in a table made anew."""
    write_results(folder, spec, counted(read_trials(folder), spec.objectives))  # type: ignore[arg-type,attr-defined]
    points = json.loads((folder / "results.json").read_text())["points"]
    return sorted(tuple(point["values"]["reward.pair_accuracy"]) for point in points)
