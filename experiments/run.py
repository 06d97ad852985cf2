"""Run every setting of an experiment, one after the other, and then its analysis: ``make reproduce EXP=name``.

All settings run in one process, so that they share compiled programs. What has ended is not run again; what was
stopped goes on from its last checkpoint.
"""

import importlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.errors import USER_ERROR, UserError
from rlhf_jax.metrics import write_text_atomically

HERE = Path(__file__).resolve().parent
ROOT = Path("runs/reproduce")
FINISHED = "finished.json"  # in a setting's folder once it has ended: the setting, and its wall time in seconds


def names() -> list[str]:
    """The experiments: the folders that have a sweep."""
    return sorted(path.parent.name for path in HERE.glob("*/sweep.py"))


def folder_of(setting: str, root: Path) -> Path:
    """Where a setting's records are; its id begins with the name of the experiment."""
    return root.joinpath(*setting.split("/"))


def has_ended(folder: Path, value: Any) -> bool:
    """Whether the folder holds the finished records of this very setting."""
    path = folder / FINISHED
    return path.is_file() and json.loads(path.read_text())["setting"] == repr(value)


def reproduce(name: str, root: Path = ROOT) -> Path:
    """Run what has not ended yet of an experiment, then analyse it; returns the folder of tables and figures.

    Raises:
      UserError: there is no such experiment.
    """
    if name not in names():
        raise UserError(f"EXP: no experiment {name!r}; there are {', '.join(names())}")
    sweep = importlib.import_module(f"experiments.{name}.sweep")
    experiment = importlib.import_module(f"experiments.{name}.experiment")
    for place, (setting, value) in enumerate(sweep.SETTINGS.items(), start=1):
        folder = folder_of(setting, root)
        if has_ended(folder, value):
            continue
        if (folder / FINISHED).exists():  # of a setting that has since changed
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"== {setting} ({place} of {len(sweep.SETTINGS)})", flush=True)
        start = time.monotonic()
        experiment.run(setting, folder)
        seconds = round(time.monotonic() - start, 1)
        write_text_atomically(folder / FINISHED, json.dumps({"setting": repr(value), "seconds": seconds}) + "\n")
    importlib.import_module(f"experiments.{name}.analysis").main(root / name)
    return root / name


def main(argv: Sequence[str]) -> None:
    """``python -m experiments.run NAME``."""
    try:
        if len(argv) != 1:
            raise UserError(f"EXP: name one experiment of {', '.join(names())}")
        start = time.monotonic()
        found = reproduce(argv[0])
    except UserError as error:
        print(f"experiments: error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    print(f"\n{(found / 'table.md').read_text()}\n{(found / 'verdict.json').read_text()}")
    print(f"tables and figures: {found} (this command took {time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main(sys.argv[1:])
