"""``rlhf-jax report``: the page of a run, of several compared, or of the runs below a folder. JAX is not loaded."""

from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.commands.options import read_options
from rlhf_jax.errors import UserError
from rlhf_jax.reports.page import is_page
from rlhf_jax.reports.report import write_comparison, write_report, write_sweep_report
from rlhf_jax.reports.trials import is_run, is_sweep

_HELP = """A page that opens from disk, with figures to explore and the same for papers beside it.

usage: rlhf-jax report RUN [--out=DIR]
       rlhf-jax report RUN RUN [RUN ...] [--out=DIR]
       rlhf-jax report FOLDER [--metric=NAME[:max|:min]] [--out=DIR]

  RUN               a run directory: its page anew; several: one page that compares them
  FOLDER            the folder of a sweep or of an experiment, or any other with runs below it: one page of them all
  --metric=NAME     a name of summary.json to rank the runs of FOLDER by; :max or :min says which way is better
                    (what sweep.json says, else a figure that most of the runs have)
  --out=DIR         the folder of the page (RUN/report, FOLDER/report; of several runs the folder comparison beside the
                    first)

examples:
  rlhf-jax report runs/quickstart
  rlhf-jax report runs/a runs/b --out=runs/a_and_b
  rlhf-jax report runs/reproduce/objectives --metric=ppo.gold.open"""


def main(words: Sequence[str]) -> None:
    """Answer the words after ``report``.

    Raises:
      UserError: one line, for anything that cannot be answered.
    """
    if "--help" in words or not words:
        print(_HELP)
        return
    options = read_options("report", [w for w in words if w.startswith("--")], ("out", "metric"), place=("run", "run"))
    folders = [Path(word) for word in words if not word.startswith("--")]
    if not folders:
        raise UserError("report: name a run directory, or a folder with runs; see rlhf-jax report --help")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"report: {folder}: no such directory")
        if not (is_run(folder) or (len(folders) == 1 and is_sweep(folder))):
            raise UserError(
                f"report: {folder}: no run directory" + (", and no run below it" if len(folders) == 1 else "")
            )
    out = Path(str(options["out"])) if "out" in options else None
    if out and out.is_dir() and any(out.iterdir()) and not is_page(out):
        raise UserError(f"report: --out: {out}: holds something else than a report; name another folder")
    metric = str(options.get("metric", ""))
    if metric and is_run(folders[0]):
        raise UserError("report: --metric: goes with a folder of runs")
    if metric.partition(":")[2] not in ("", "max", "min"):
        raise UserError(f"report: --metric: {metric}: after the colon must be max or min")
    try:
        if len(folders) > 1:
            page = write_comparison(folders, out or folders[0].parent / "comparison")
        elif is_run(folders[0]):
            page = write_report(folders[0], out)
        else:
            page = write_sweep_report(folders[0], out, metric)
    except OSError as error:
        raise UserError(f"report: {error.filename}: {error.strerror}") from None
    print(f"report: {page}")
