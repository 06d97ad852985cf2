"""Whatever ends a run, STATUS.json says so, and nothing that is wrong with the words takes the error's place."""

import errno
import json
import os
import pathlib

import pytest

from rlhf_jax import run
from rlhf_jax.config import default_config, to_json
from rlhf_jax.errors import DiskError, UserError
from rlhf_jax.owner import Owner


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "state", "reason", "code"),
    [
        (UserError("mend it"), "failed", "UserError: mend it", 2),
        (DiskError("a disk", 75), "interrupted", "DiskError: a disk", 75),
        (DiskError("full", 2), "interrupted", "DiskError: full", 2),
        (KeyError("x"), "failed", "KeyError: 'x'", 1),
        (ValueError("two\nlines \udcff"), "failed", "ValueError: two\nlines \udcff", 1),
        (Speechless(), "failed", "Speechless", 1),
    ],
)
def test_the_status_has_the_reason_and_the_code(
    tmp_path: pathlib.Path, error: Exception, state: str, reason: str, code: int
) -> None:
    (tmp_path / "metrics.jsonl").write_text("no row\n")  # which would be an error of its own
    run._fail(tmp_path, error)
    found = json.loads((tmp_path / "STATUS.json").read_text())
    wanted = reason.replace("\udcff", "\\udcff")
    assert (found["state"], found["reason"], found["exit_code"]) == (state, wanted, code)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 2), (errno.ESTALE, 75), (errno.ENOTDIR, None)])
def test_a_directory_that_a_disk_refuses_is_the_disks_fault(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int | None
) -> None:
    """So that a trial of a sweep has not failed by it."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run, "write_text_atomically", refuse)
    with Owner(tmp_path, lambda: None) as owner, pytest.raises(UserError) as told:
        run.open_run(tmp_path, default_config(), owner)
    assert str(told.value) == f"--workdir: {tmp_path}: {os.strerror(number)}"
    assert (told.value.code if isinstance(told.value, DiskError) else None) == code


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
