import errno
import io
import json
import math
import os

import numpy as np
import pytest

from rlhf_jax import metrics
from rlhf_jax.config import STAGES
from rlhf_jax.errors import UserError


def test_rows_come_back_as_written_with_non_finite_floats(tmp_path):
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write("sft", 1, {"loss": np.float32(0.5), "grad_norm": float("nan")})
        writer.write("reward", 1, {"loss": float("-inf")})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert first["metrics"] == {"loss": 0.5, "grad_norm": "nan"}
    rows = metrics.read_metrics(tmp_path)
    assert [(row["stage"], row["step"]) for row in rows] == [("sft", 1), ("reward", 1)]
    assert math.isnan(rows[0]["metrics"]["grad_norm"])
    assert rows[1]["metrics"]["loss"] == -math.inf


def test_a_row_is_on_disk_before_write_returns(tmp_path):
    writer = metrics.MetricWriter(tmp_path, tensorboard=False)
    writer.write("sft", 3, {"loss": 1.0})
    assert metrics.read_metrics(tmp_path)[0]["step"] == 3
    writer.close()


def test_rewind_drops_later_rows_of_one_stage_and_a_torn_line(tmp_path):
    writer = metrics.MetricWriter(tmp_path, tensorboard=False)
    for stage, step in [("sft", 10), ("sft", 20), ("ppo", 30), ("sft", 30)]:
        writer.write(stage, step, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "sft", "st')
    writer.rewind("sft", 20)
    writer.write("sft", 25, {"loss": 2.0})
    writer.close()
    rows = metrics.read_metrics(tmp_path)
    assert [(row["stage"], row["step"]) for row in rows] == [
        ("sft", 10),
        ("sft", 20),
        ("ppo", 30),
        ("sft", 25),
    ]


def test_rewind_drops_later_samples(tmp_path):
    for step in (5, 10, 100):
        metrics.write_samples(tmp_path, "ppo", step, [{"prompt": "a", "response": "b"}])
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.rewind("ppo", 10)
    left = sorted(path.name for path in (tmp_path / "samples" / "ppo").iterdir())
    assert left == ["10.jsonl", "5.jsonl"]


def test_rewards_of_every_evaluation_are_kept_and_rewound(tmp_path):
    """Of the step that a stage goes on from, those of a held-out row that will be written again go too."""
    for step in (5, 10, 15):
        metrics.write_rewards(tmp_path, "reward", step, [{"list": 0, "reward": step / 10}, {"list": 1, "reward": 0.0}])
    path = tmp_path / "rewards" / "reward.jsonl"
    with open(path, "a") as file:
        file.write('{"step": 20, "li')
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.rewind("ppo", 1)
        writer.rewind("reward", 10)
        assert [row["step"] for row in metrics.read_jsonl(path)] == [5, 5, 10, 10]
        writer.rewind("reward", 10, held_out=False)
    metrics.write_rewards(tmp_path, "reward", 10, [{"list": 0, "reward": 2.0}])
    assert [(row["step"], row["reward"]) for row in metrics.read_jsonl(path)] == [(5, 0.5), (5, 0.0), (10, 2.0)]


def test_a_new_writer_repairs_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage":"sft","step":1,"time":0,"metrics":{}}\n{"stage":"s')
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write("sft", 2, {})
    assert [row["step"] for row in metrics.read_metrics(tmp_path)] == [1, 2]


def test_tensorboard_holds_the_scalars_and_the_purge_mark(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with metrics.MetricWriter(tmp_path, tensorboard=True) as writer:
        writer.rewind("sft", 4)
        writer.write("sft", 5, {"loss": 1.5})
    (path,) = (tmp_path / "tb" / "sft").iterdir()
    data, events = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert any(event.HasField("session_log") and event.step == 5 for event in events)
    (value,) = [v for event in events for v in event.summary.value]
    assert (value.tag, value.simple_value) == ("loss", 1.5)


def test_samples_carry_their_stage_and_step(tmp_path):
    path = metrics.write_samples(tmp_path, "ppo", 7, [{"prompt": "p", "proxy": None}])
    assert metrics.read_jsonl(path) == [{"stage": "ppo", "step": 7, "prompt": "p", "proxy": None}]


def test_summary_merges_sorted_and_leaves_no_temporary_file(tmp_path):
    metrics.update_summary(tmp_path, {"sft.loss": 2, "ppo.kl": 1.0})
    metrics.update_summary(tmp_path, {"sft.loss": 1.5, "reward.pair_accuracy": math.nan})
    text = (tmp_path / "summary.json").read_text()
    assert list(json.loads(text)) == ["ppo.kl", "reward.pair_accuracy", "sft.loss"]
    assert metrics.read_summary(tmp_path)["sft.loss"] == 1.5
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_status_names_where_and_why(tmp_path):
    metrics.write_status(tmp_path, "failed", stage="ppo", step=4, exit_code=2, reason="no data")
    status = metrics.read_json(tmp_path / "STATUS.json")
    assert status.pop("time") > 1e9
    assert status == {
        "state": "failed",
        "stage": "ppo",
        "step": 4,
        "exit_code": 2,
        "reason": "no data",
    }
    with pytest.raises(ValueError, match="finished"):
        metrics.write_status(tmp_path, "finished")


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("{}\nnot json\n{}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: not JSON"):
        metrics.read_jsonl(path)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("ppo.gold.open", "gold"),
        ("reward.pair_accuracy", "pairs"),
        ("reward_common.w1_open_closed", "Wasserstein"),
        ("validation.loss", "held-out"),
        ("reward.mean", "proxy"),
        ("ppo.kl", "nats"),
        ("reward.w1.closed.open", "Wasserstein"),
        ("validation.ks.closed.open", "Kolmogorov"),
        ("reward.train.r_star_distance.open", "best rewards"),
        ("reward.train.pair_accuracy", "training pairs"),
        ("reward.bayes.label_log_loss", "nats per held-out verdict; expected of one who knows"),
        ("validation.bayes.pair_accuracy", "right order; expected of one who knows"),
        ("reward.gold_accuracy", "order of gold"),
        ("reward.pair_accuracy.sums", "pairs"),
        ("loss.wrong_city", "cross-entropy"),
        ("dpo.implicit.chosen", "implicit reward"),
        ("validation.nll", "nats per token"),
    ],
)
def test_unit_of_finds_summary_names(name, word):
    assert word in metrics.unit_of(name)


@pytest.mark.parametrize(
    ("name", "stage", "unit"),
    [
        ("sft.loss", "", "nats per token"),
        ("loss", "sft", "nats per token"),
        ("validation.loss", "ppo", "surrogate + value loss per token"),
        ("reward.train.loss", "", metrics.LOSSES["reward"]),
        ("segments.loss.wrong_city", "", "cross-entropy in nats per response; by kind: per part"),
        ("reward.pair_accuracy", "", "share of non-tied held-out pairs in the right order"),
        ("pair_accuracy", "reward", "share of non-tied pairs of the batch in the right order"),
        ("loss", "stage_of_a_test", metrics.UNITS["loss"]),
        ("kl_loss", "ppo", metrics.UNITS["kl_loss"]),
    ],
)
def test_the_unit_of_a_stage_is_its_own(name, stage, unit):
    assert metrics.unit_of(name, stage) == unit
    assert len(metrics.unit_of(name, stage)) < 150 or stage == "stage_of_a_test"


def test_every_stage_has_a_loss():
    assert metrics.LOSSES.keys() == set(STAGES)


def test_unit_of_an_unknown_name_is_empty():
    assert metrics.unit_of("ppo.colour") == ""
    assert metrics.unit_of("reward.bayes.colour") == ""


def test_a_write_that_the_system_takes_a_part_of_goes_on(tmp_path):
    """On a disk that is nearly full it takes what there is room for; only the next write is an error."""

    class Full(io.FileIO):
        room = 20

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken = super().write(bytes(data)[: self.room])
            self.room -= taken
            return taken

    with Full(tmp_path / "rows", "a") as file:
        metrics._append(file, b"twelve bytes")
        with pytest.raises(OSError, match=rf"No space left on device: .*{tmp_path}/rows"):
            metrics._append(file, b"twelve bytes")
    assert (tmp_path / "rows").read_bytes() == b"twelve bytestwelve b"


def test_rows_of_skipped_steps_are_written_like_all_others(tmp_path, monkeypatch):
    """Whole, where the system takes a part at a time, or with an error that names the file."""
    write, taken = io.FileIO.write, []

    class Slow(io.FileIO):
        def write(self, data):
            if len(taken) == 99:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken.append(write(self, bytes(data)[:7]))
            return taken[-1]

    monkeypatch.setattr("builtins.open", lambda path, mode, buffering: Slow(path, mode[0]))
    path = metrics.write_skipped(tmp_path, "sft", {"step": 7, "batch": 7})
    assert path.read_bytes() == b'{"stage": "sft", "step": 7, "batch": 7}\n'
    taken.extend([0] * (99 - len(taken)))
    with pytest.raises(OSError, match=rf"No space left on device: .*{path}"):
        metrics.write_skipped(tmp_path, "sft", {"step": 8, "batch": 8})


@pytest.mark.parametrize("name", ["STATUS.json", "summary.json"])
@pytest.mark.parametrize("text", ["[]", "null", '{"state": "do', "[" * 100_000, '{"a": []}', None])
def test_what_a_stranger_left_of_a_run_is_read_or_refused(tmp_path, name, text):
    """A pipe would never end."""
    path, read = tmp_path / name, metrics.read_status if name == "STATUS.json" else metrics.read_summary
    if text is None:
        os.mkfifo(path)
    else:
        path.write_text(text)
    if text == '{"a": []}' and name == "STATUS.json":
        assert metrics.read_status(tmp_path) == ""
        return
    with pytest.raises(UserError, match=rf"^{path}: "):
        read(tmp_path)


def test_alarms_of_steps_that_are_made_again_are_forgotten(tmp_path):
    alarms = {"ppo.alarm.gap": 4, "ppo.alarm.kl": 6, "sft.alarm.gap": 9, "sft.loss": 9}
    metrics.update_summary(tmp_path, alarms)
    metrics.rewind_alarms(tmp_path, "ppo", 4)
    assert metrics.read_summary(tmp_path) == {"ppo.alarm.gap": 4, "sft.alarm.gap": 9, "sft.loss": 9}


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    metrics.write_status(tmp_path, "running", stage="sft", step=4)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"{tmp_path}/STATUS.json"):
        metrics.write_status(tmp_path, "done")
    assert metrics.read_status(tmp_path) == "running"
    assert [path.name for path in tmp_path.iterdir()] == ["STATUS.json"]


def test_a_disk_that_fails_under_tensorboard_is_an_error_and_no_run_waits_for_its_thread(tmp_path, monkeypatch):
    with metrics.MetricWriter(tmp_path) as writer:
        writer.write("sft", 1, {"loss": 1.0})

        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            for step in range(2, 40):
                with pytest.raises(OSError, match="No space left"):
                    writer.write("sft", step, {"loss": 1.0})
    assert len(metrics.read_metrics(tmp_path)) == 39
