"""An export that is killed between any two changes that it makes on disk."""

import pathlib
import random
import shutil
import signal
from functools import partial

import pytest

from tests.end_to_end import tiny
from tests.reliability import interrupted
from tests.reliability.conftest import Tally


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.reliability("R30", tries=2, torture=20)
def test_an_export_that_is_killed_leaves_nothing_half_done_under_its_name(tmp_path: pathlib.Path, tally: Tally) -> None:
    """Held to an export that was left alone, byte for byte: weights, tokenizer, card. With --overwrite the earlier one
    stays whole until the new one takes its place.
    """
    command = (
        f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
        *interrupted.MORE,
        "--config.stages=reward",
        "--config.reward.init=scratch",
        "--config.reward.steps=2",
        f"--workdir={tmp_path / 'run'}",
    )
    assert interrupted.finish(tmp_path / "said", *command).process.exitcode == 0
    words = ("export", str(tmp_path / "run"), "--stage=reward")

    def export(folder: pathlib.Path, number: int, count: str, *more: str) -> int | None:
        hook = partial(interrupted.killed_at_change, str(folder), number, str(tmp_path / f"{count}.count"))
        child = interrupted.finish(tmp_path / "said", *words, f"--out={folder / 'out'}", *more, hook=hook)
        return child.process.exitcode

    changes = {}
    for name, more in (("fresh", ()), ("over", ("--overwrite",))):
        if more:
            shutil.copytree(tmp_path / "fresh", tmp_path / "over")
        assert export(tmp_path / name, 0, name, *more) == 0, (tmp_path / "said.err").read_text()
        changes[name] = int((tmp_path / f"{name}.count").read_text())
    wanted = contents(tmp_path / "fresh" / "out")
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= wanted.keys()
    assert contents(tmp_path / "over" / "out") == wanted

    for number in tally.tries:
        over = number % 2 == 1
        folder, name, more = tmp_path / str(number), "over" if over else "fresh", ("--overwrite",) if over else ()
        folder.mkdir()
        if over:
            shutil.copytree(tmp_path / "fresh" / "out", folder / "out")
            (folder / "out" / "earlier").write_text("export")
        # Half of the tries are of the last third, where the folder gets its name.
        first = 1 if number % 4 > 1 else 2 * changes[name] // 3
        at = random.Random(number).randrange(first, changes[name] + 1)
        with tally.one(f"{name}: killed before change {at} of {changes[name]}"):
            assert export(folder, at, "killed", *more) == -signal.SIGKILL
            if (folder / "out").exists():
                assert contents(folder / "out") in (wanted, wanted | {"earlier": b"export"})
            assert export(folder, 0, "again", "--overwrite") == 0
            assert contents(folder / "out") == wanted
            assert [path.name for path in folder.iterdir()] == ["out"], "what was left is removed"
