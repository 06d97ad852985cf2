"""Of two processes one is killed, fails, stalls or is stopped: the other ends in time, and the run goes on."""

import pathlib
import re
import signal

import pytest

from tests.end_to_end import tiny
from tests.multiprocess.conftest import Ended, run_together
from tests.reliability.conftest import Tally

HEARTBEAT, STALL = 3, 4
WORDS = (
    f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
    *tiny.PIPELINE,
    "--config.stages=sft,reward",
    "--config.sft.steps=10",
    "--config.sft.eval_every=20",
    "--config.parallel.fsdp=2",
)
# What befalls one of them; the exit codes of that one and of the other; seconds that the other has.
MISHAPS = (
    ("SIGKILL", -signal.SIGKILL, 75, 15.0),
    ("error", 1, 1, 5.0),
    ("stall", 75, 75, STALL + 3.0),
    ("SIGSTOP", -signal.SIGKILL, 75, 15.0),
)


def run(workdir: pathlib.Path, order: str = "", stall: int = 0, left: int | None = None) -> list[Ended]:
    told = (order, *WORDS, f"--workdir={workdir}")
    patience = dict.fromkeys(range(2), stall)
    return run_together("tests.multiprocess.child", 2, *told, heartbeat=HEARTBEAT, stall=patience, devices=2, left=left)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    ended = run(workdir)
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    return workdir


@pytest.mark.reliability("R17", tries=1, torture=20)
def test_the_other_process_ends_in_time_and_the_run_goes_on(
    whole: pathlib.Path, tally: Tally, tmp_path: pathlib.Path
) -> None:
    """Held to: the times that are promised, and two processes that nothing befell."""
    for number in tally.tries:
        what, code, of_other, seconds = MISHAPS[number % len(MISHAPS)]
        # Not the first steps, in which programs are compiled and more patience is had.
        victim, step = number // len(MISHAPS) % 2, 5 + number % 5
        workdir = tmp_path / str(number)
        with tally.one(f"{what} of process {victim} before step {step}"):
            stall = STALL if what == "stall" else 0
            left = victim if what == "SIGSTOP" else None
            ended = run(workdir, f"{victim}:sft:{step}:{what}", stall=stall, left=left)
            one, other = ended[victim], ended[1 - victim]
            assert (one.code, other.code) == (code, of_other), one.err + other.err
            (befallen,) = re.findall(r"befallen at ([\d.]+)", one.err)
            assert other.at - float(befallen) <= seconds
            if what == "stall":
                assert "in ordered" in one.err, "where it stood"
            ended = run(workdir)
            assert [each.code for each in ended] == [0, 0], ended[0].err + ended[1].err
            assert "sft: going on from step " in ended[0].out
            tiny.assert_same_state(workdir, whole, ("sft", "reward"))
            assert tiny.rows_of(workdir) == tiny.rows_of(whole)
