"""From folders to pages: one run, several runs compared, or all the runs below a folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_jax.errors import UserError
from rlhf_jax.reports.compare import compare_page
from rlhf_jax.reports.page import write_page
from rlhf_jax.reports.records import Run, read_run
from rlhf_jax.reports.run_page import run_page
from rlhf_jax.reports.sweep_page import sweep_page
from rlhf_jax.reports.trials import read_sweep

FOLDER = "report"  # in a run directory, or in the folder of a sweep


def write_report(workdir: Path | str, out: Path | None = None) -> Path:
    """Write the report of a run directory into ``out``, by default its folder ``report``; returns the page's path.

    Every record is optional, and the same records give the same bytes. Raises UserError if one cannot be read.
    """
    workdir = Path(workdir)
    return write_page(run_page(read_run(workdir)), out or workdir / FOLDER)


def write_sweep_report(folder: Path, out: Path | None = None, metric: str = "") -> Path:
    """The same of all the runs below a folder; ``metric`` as for ``read_sweep``."""
    out, sweep = out or folder / FOLDER, read_sweep(folder, metric)
    return write_page(sweep_page(sweep, _links({trial.name: trial.folder for trial in sweep.trials}, out)), out)


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """The same of several run directories, compared."""
    names = distinct_names(folders)
    runs: dict[str, Run] = {name: read_run(folder) for name, folder in zip(names, folders, strict=True)}
    links = _links(dict(zip(names, folders, strict=True)), out)
    return write_page(compare_page(runs, links, " · ".join(names)), out)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many of their parents' as it takes to tell them apart.

    Raises UserError if one folder is named twice.
    """
    whole = [folder.resolve() for folder in folders]
    if len(set(whole)) < len(whole):
        twice = next(folder for folder, path in zip(folders, whole, strict=True) if whole.count(path) > 1)
        raise UserError(f"report: {twice}: named twice")
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            break
    return names


def _links(folders: Mapping[str, Path], out: Path) -> dict[str, str]:
    """Where the page of each run is, from ``out``; of those that have one."""
    pages = {name: folder / FOLDER / "index.html" for name, folder in folders.items()}
    return {name: os.path.relpath(page, out) for name, page in pages.items() if page.is_file()}
