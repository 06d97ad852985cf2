"""A run in two processes is the run in one, whatever befalls them on the way."""

import collections
import json
import os
import pathlib
import re
import signal

import numpy as np
import pytest

from rlhf_jax.build import saved_bytes
from rlhf_jax.config import from_json
from rlhf_jax.data.tokenizers import load_tokenizer
from rlhf_jax.owner import Owner
from tests.end_to_end import tiny
from tests.multiprocess import placed
from tests.multiprocess.conftest import COMMAND, FSDP, STAGES, TENSOR, Ended, run_together

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5
HEARTBEAT = 3
STALL = 4
PMAP = ("--config.parallel.mode=pmap",)


def launch(count: int, workdir: pathlib.Path, *words: str, order: str = "", stall: int = 0) -> list[Ended]:
    patience = dict.fromkeys(range(count), stall)
    told = (order, *COMMAND, *words, f"--workdir={workdir}")
    return run_together("tests.multiprocess.child", count, *told, stall=patience)


def assert_like(one: pathlib.Path, other: pathlib.Path) -> None:
    """All that the last checkpoints hold, and every row of metrics, but for rounding."""
    for stage in STAGES:
        assert tiny.last_step(one, stage) == tiny.last_step(other, stage)
        a, b = tiny.state_of(one, stage), tiny.state_of(other, stage)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], atol=TOLERANCE, err_msg=f"{stage}: {name}")
    mine, theirs = tiny.rows_of(one), tiny.rows_of(other)
    assert [(row["stage"], row["step"]) for row in mine] == [(row["stage"], row["step"]) for row in theirs]
    for row, wanted in zip(mine, theirs, strict=True):
        assert row["metrics"].keys() == wanted["metrics"].keys()
        for name, value in wanted["metrics"].items():
            if row["stage"] in ("dpo", "online") and name.endswith("pair_accuracy"):
                continue  # the first gaps are 0 but for rounding, and which is larger is chance
            assert row["metrics"][name] == pytest.approx(value, rel=1e-3, abs=TOLERANCE), (row["stage"], name)


def test_a_run_goes_on_in_other_processes_on_another_mesh_and_is_the_run_in_one(
    alone: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Begun by two processes until one of them stalls, gone on with by one, by two and by four.

    Of the parameters four devices have a quarter each, or two devices a half of each layer. A signal to one process
    stops all after the same step, of which there is no other checkpoint.
    """
    workdir = tmp_path / "run"
    ended = launch(2, workdir, *FSDP, order="1:sft:3:stall", stall=40)
    assert [one.code for one in ended] == [75, 75], ended[0].err + ended[1].err
    assert "in ordered" in ended[1].err
    status = tiny.status_of(workdir)
    assert (status["state"], status["exit_code"]) == ("interrupted", 75)
    assert status["reason"] == "process 1 made no step" or status["reason"].startswith("no step for")

    (one,) = launch(1, workdir, *TENSOR, order="0:reward:3:SIGTERM")
    assert one.code == 75, one.err
    assert "sft: going on from step 2\n" in one.out
    assert tiny.last_step(workdir, "reward") == 3

    first, second = launch(2, workdir, *FSDP, order="1:dpo:1:SIGTERM")
    assert (first.code, second.code) == (75, 75), first.err + second.err
    assert "reward: going on from step 3\n" in first.out
    assert "SIGTERM: stopping after the step under way" in second.err
    assert second.out == "", "one process tells for all"
    stopped = tiny.status_of(workdir)
    assert (stopped["state"], stopped["stage"], stopped["reason"]) == ("interrupted", "dpo", "SIGTERM")
    assert stopped["step"] == tiny.last_step(workdir, "dpo")
    assert stopped["step"] in (1, 2, 3)

    ended = launch(4, workdir, *TENSOR)
    assert [one.code for one in ended] == [0] * 4, "".join(one.err for one in ended)
    assert f"dpo: going on from step {stopped['step']}\n" in ended[0].out
    assert_like(workdir, alone)


@pytest.mark.parametrize(
    ("mishap", "codes", "reason"),
    [
        ("1:SIGKILL", (75, -signal.SIGKILL), "another process was lost"),
        ("0:SIGKILL", (-signal.SIGKILL, 75), "another process was lost"),
        ("1:abort", (75, -signal.SIGABRT), "another process was lost"),
        ("1:error", (1, 1), "another process failed"),
        ("0:user_error", (2, 2), "another process failed"),
        ("1:SIGTERM", (0, 0), ""),
        # Alive, but stopped: only the other one can say so.
        ("0:SIGSTOP", (-signal.SIGKILL, 75), "another process was lost"),
        ("1:SIGSTOP", (75, -signal.SIGKILL), "another process was lost"),
    ],
)
def test_no_process_is_left_behind(tmp_path: pathlib.Path, mishap: str, codes: tuple[int, int], reason: str) -> None:
    """Killed, crashed, or ended by an error of its own: the other one ends within seconds, and says why."""
    left = int(mishap[0]) if mishap.endswith("SIGSTOP") else None
    ended = run_together("tests.multiprocess.failing", 2, mishap, str(tmp_path), heartbeat=HEARTBEAT, left=left)
    assert (ended[0].code, ended[1].code) == codes, ended[0].err + ended[1].err
    print(f"{mishap}: the processes ended {abs(ended[0].at - ended[1].at):.1f} s apart")
    assert abs(ended[0].at - ended[1].at) < HEARTBEAT + 5
    other = 1 - int(mishap[0])
    words = [path.read_text() for path in tmp_path.iterdir()]
    assert words == ([f"{codes[other]} {reason}"] if reason else [])
    if reason:
        assert f"rlhf-jax: process {other} ends: {reason}" in ended[other].err


@pytest.mark.parametrize("noticing", [0, 1])
def test_a_process_that_gets_nowhere_ends_all_and_shows_where_it_stood(tmp_path: pathlib.Path, noticing: int) -> None:
    """It is alive and says so; the other one waits for it in a collective. Either may be the one that notices."""
    stall = {noticing: STALL}
    ended = run_together("tests.multiprocess.failing", 2, "1:stall", str(tmp_path), stall=stall)
    assert [one.code for one in ended] == [75, 75], ended[0].err + ended[1].err
    print(f"the processes ended {abs(ended[0].at - ended[1].at):.1f} s apart")
    assert abs(ended[0].at - ended[1].at) < 5
    assert "in befall" in ended[1].err, "the stack of the thread that sleeps"
    words = {int(path.name): path.read_text() for path in tmp_path.iterdir()}
    assert words[1 - noticing] == f"75 process {noticing} made no step"
    assert re.fullmatch(rf"75 no step for \d+ s \(RLHF_JAX_STALL={STALL}\)", words[noticing])


def test_four_processes_read_every_example_once_a_pass(tmp_path: pathlib.Path) -> None:
    """Rows on the devices of all processes together; of the state, each has the shards of its own devices alone."""
    ended = run_together("tests.multiprocess.placed", 4, str(tmp_path), devices=8)
    assert [one.code for one in ended] == [0] * 4, "".join(one.err for one in ended)
    found = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(4)]
    batches = list(zip(*(one["rows"] for one in found), strict=True))
    each = placed.LISTS // placed.BATCH
    for start in range(0, len(batches), each):
        read = [row for batch in batches[start : start + each] for rows in batch for row in rows]
        assert collections.Counter(read) == collections.Counter(range(placed.LISTS))
    assert len({str(sorted(batch)) for batch in batches}) == len(batches), "every pass has its own order"
    for one in found:
        assert one["shards"] == [[4, 2], [4, 2]]


def test_a_user_error_ends_all_processes_with_2(tmp_path: pathlib.Path) -> None:
    ended = run_together(
        "rlhf_jax", 2, f"--config={tiny.ROOT / 'configs' / 'sft.py'}", f"--workdir={tmp_path}", *PMAP, devices=4
    )
    assert [one.code for one in ended] == [2, 2]
    line = "rlhf-jax: error: config.parallel.mode: pmap runs in one process, and this run has 2; choose mesh\n"
    assert ended[0].err == line
    assert tiny.status_of(tmp_path)["state"] == "failed"


def test_a_directory_that_has_an_owner_ends_all_processes_with_2_and_stays_as_it_was(tmp_path: pathlib.Path) -> None:
    with Owner(tmp_path, lambda: None) as mine:
        mine.take()
        ended = run_together(
            "rlhf_jax", 2, f"--config={tiny.ROOT / 'configs' / 'sft.py'}", f"--workdir={tmp_path}", devices=2
        )
        assert [one.code for one in ended] == [2, 2]
        assert ended[0].err.startswith(f"rlhf-jax: error: --workdir: {tmp_path}: process {os.getpid()} on ")
        assert [path.name for path in tmp_path.iterdir()] == [".owner"]


def test_the_bytes_of_the_checkpoints_of_every_stage_are_known_before(alone: pathlib.Path) -> None:
    """Adapters, heads of segments, direct methods: held to the arrays that Orbax reads."""
    config = from_json((alone / "config.json").read_text())
    told = saved_bytes(config, load_tokenizer(alone / "tokenizer").vocab_size)
    for stage in STAGES:
        arrays = sum(leaf.nbytes for leaf in tiny.state_of(alone, stage).values())
        assert 0 <= arrays - told[stage] < 300, stage  # step, key, and the learner's scalars


@pytest.mark.parametrize("mishap", ["bit", "unread", "copy"])
def test_all_processes_agree_that_a_checkpoint_is_damaged(tmp_path: pathlib.Path, mishap: str) -> None:
    """Whether each can see it or one alone: it is renamed once, and all go on from the step before."""
    ended = run_together("tests.multiprocess.damaged", 2, mishap, str(tmp_path))
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    found = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2)]
    assert found[0] == found[1]
    assert (found[0]["step"], found[0]["latest"], found[0]["same"]) == (2, 2, True)
    (note,) = found[0]["notes"]
    assert note.startswith(f"{tmp_path / 'c' / '4'}: damaged: params")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "4.corrupt"]
