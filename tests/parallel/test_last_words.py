"""Whatever ends a run, STATUS.json says so, and nothing that is wrong with the words takes the error's place."""

import errno
import json
import os
import pathlib

import pytest

from rlhf_jax import run
from rlhf_jax.config import default_config, to_json
from rlhf_jax.errors import DiskError, UserError


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (UserError("mend it"), "UserError: mend it", 2),
        (DiskError("a disk", 75), "DiskError: a disk", 75),
        (KeyError("x"), "KeyError: 'x'", 1),
        (ValueError("two\nlines \udcff"), "ValueError: two\nlines \udcff", 1),
        (Speechless(), "Speechless", 1),
    ],
)
def test_the_status_has_the_reason_and_the_code(
    tmp_path: pathlib.Path, error: Exception, reason: str, code: int
) -> None:
    (tmp_path / "metrics.jsonl").write_text("no row\n")  # which would be an error of its own
    run._fail(tmp_path, error)
    found = json.loads((tmp_path / "STATUS.json").read_text())
    wanted = reason.replace("\udcff", "\\udcff")
    assert (found["state"], found["reason"], found["exit_code"]) == ("failed", wanted, code)


def test_where_even_that_cannot_be_written_the_error_is_told_all_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    run._fail(tmp_path, ValueError("a bug"))
    assert not list(tmp_path.iterdir())


def test_what_could_not_be_saved_makes_room_for_the_status(tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints" / "sft" / "4.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (tmp_path / "checkpoints" / "sft" / "2").mkdir()
    run._fail(tmp_path, ValueError("a bug"))
    assert len(list((tmp_path / "checkpoints" / "sft").iterdir())) == 2
    run._fail(tmp_path, DiskError("full", 2))
    assert [path.name for path in (tmp_path / "checkpoints" / "sft").iterdir()] == ["2"]


def test_what_saves_memory_may_be_changed_in_a_run_that_has_begun(tmp_path: pathlib.Path) -> None:
    """As is proposed where memory runs out; a batch is another run's."""
    old, new = default_config(), default_config()
    (tmp_path / "config.json").write_text(to_json(old))
    new.model.remat, new.ppo.rollout_rows, new.parallel.fsdp = "full", 8, 2
    for stage in ("sft", "reward", "dpo", "ppo"):
        new[stage].accumulate = 2
    run._same_configuration(tmp_path / "config.json", new)
    new.sft.batch_size = 1
    with pytest.raises(UserError, match=r"config\.sft\.batch_size: 16 -> 1; name another --workdir"):
        run._same_configuration(tmp_path / "config.json", new)
