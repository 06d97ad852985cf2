"""A run directory has one owner: by the kernel's lock, and by what is written where there are no locks."""

import errno
import fcntl
import json
import os
import pathlib
import socket

import pytest

from rlhf_jax import owner
from rlhf_jax.owner import Owned, Owner, is_held


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "PATIENCE", 0.05)


def owner_of(folder: pathlib.Path, lost: list[str] | None = None) -> Owner:
    def told() -> None:
        assert lost is not None, "the directory was lost"
        lost.append("lost")

    return Owner(folder, told)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def write(folder: pathlib.Path, **changes: object) -> None:
    known = {**owner.me(), "host": "there", "since": "2026-11-29", "command": "train"}
    (folder / owner.NAME).write_text(json.dumps(known | changes))


def test_the_second_is_told_who_the_first_is_and_comes_in_after_it(tmp_path: pathlib.Path) -> None:
    with owner_of(tmp_path) as first, owner_of(tmp_path) as second:
        assert first.take() == ""
        assert is_held(tmp_path)
        with pytest.raises(Owned) as refused:
            second.take()
        assert not second.owns
        first.check()
    told = str(refused.value)
    assert f"{tmp_path}: process {os.getpid()} on {socket.gethostname()} trains here since 2" in told
    assert "\n" not in told
    assert not is_held(tmp_path)
    with owner_of(tmp_path) as third:
        assert third.take() == ""


def test_what_the_dead_left_written_is_no_lock(tmp_path: pathlib.Path) -> None:
    write(tmp_path)  # as after SIGKILL, this process's own number given to it since
    assert not is_held(tmp_path)
    with owner_of(tmp_path) as mine:
        assert mine.take() == ""
        assert json.loads((tmp_path / owner.NAME).read_text())["host"] == socket.gethostname()


def test_an_owner_that_has_not_written_yet_is_one(tmp_path: pathlib.Path) -> None:
    with open(tmp_path / owner.NAME, "w") as file, owner_of(tmp_path) as mine:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write('{"pid": 1')
        file.flush()
        with pytest.raises(Owned, match="another process trains here; end it"):
            mine.take()


@pytest.mark.usefixtures("no_locks")
def test_an_owner_that_slept_sees_that_another_has_come_and_gone(tmp_path: pathlib.Path) -> None:
    lost: list[str] = []
    with owner_of(tmp_path, lost) as mine:
        mine.take()
        (tmp_path / owner.NAME).write_text("")  # as an owner leaves it that ended
        mine.check()
        assert lost == ["lost"]


def test_an_owner_sees_at_its_next_step_that_another_has_come(tmp_path: pathlib.Path) -> None:
    lost: list[str] = []
    with owner_of(tmp_path, lost) as mine:
        mine.take()
        mine.check()
        assert lost == []
        write(tmp_path, machine="another")
        mine.check()
        assert lost == ["lost"]
    assert (tmp_path / owner.NAME).read_text()  # what the other wrote is left as it is
    (tmp_path / owner.NAME).unlink()
    mine.check()  # owns nothing any more


@pytest.mark.usefixtures("no_locks")
def test_without_locks_what_is_written_decides(tmp_path: pathlib.Path) -> None:
    """Of this machine it is asked for; of another, which cannot be asked, it is taken for gone, and that is told."""
    assert not is_held(tmp_path)
    write(tmp_path)
    with owner_of(tmp_path) as mine:
        with pytest.raises(Owned, match=f"process {os.getpid()} on there trains here"):
            mine.take()
        write(tmp_path, born="1")
        assert "no locks on this file system (No locks available)" in mine.take()
        mine.check()
    assert (tmp_path / owner.NAME).read_text() == ""
    write(tmp_path, machine="another", pid=7)
    with owner_of(tmp_path) as mine:
        assert mine.take().endswith("process 7 on there is taken for gone")


@pytest.mark.usefixtures("no_locks")
def test_without_locks_of_two_at_once_the_one_that_wrote_last_is_the_owner(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner.time, "sleep", lambda _: write(tmp_path, machine="another"))
    with owner_of(tmp_path) as mine, pytest.raises(Owned):
        mine.take()


def test_any_other_error_of_the_lock_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with owner_of(tmp_path) as mine, pytest.raises(OSError, match="Input/output error"):
        mine.take()
