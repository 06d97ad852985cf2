"""One self-contained HTML page about a run: it opens offline, runs no script and asks for nothing."""

import json
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rlhf_jax.console import clean_text
from rlhf_jax.metrics import write_text_atomically
from rlhf_jax.reports.collapse import collapse_warnings
from rlhf_jax.reports.figures import draw_pictures
from rlhf_jax.reports.headline import headline, reward_table, sample_rows, sentences
from rlhf_jax.reports.records import read_run
from rlhf_jax.reports.reward_model import (
    evaluation_readings,
    reading_table,
    rewardbench_table,
    robustness_table,
    stage_readings,
)

PAGE = "report.html"


def write_report(workdir: Path | str) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a run directory from its records; returns the page's path.

    Every record is optional, and the same records give the same bytes. Raises UserError if one cannot be read.
    """
    workdir = Path(workdir)
    run = read_run(workdir)
    pictures = draw_pictures(run)
    for picture in pictures:
        _write_bytes(workdir / "figures" / f"{picture.name}.png", picture.png)
    samples = sample_rows(run)
    html = _template().render(
        title=workdir.resolve().name,
        sentences=[*(f"Warning: {line}." for line in collapse_warnings(run)), *sentences(run.summary)],
        headline=headline(run.summary),
        status=run.status,
        subtitle=_subtitle(run.status),
        # Drawn here, with the names in them escaped by matplotlib.
        pictures=[{"picture": picture, "svg": Markup(picture.svg)} for picture in pictures],  # noqa: S704
        reward_table=reward_table(run),
        readings={
            "reward_model": reading_table(stage_readings(run)),
            "evaluation": reading_table(evaluation_readings(run)),
        },
        robustness=robustness_table(run.evaluations),
        rewardbench=rewardbench_table(run.evaluations),
        samples=samples,
        compared=any(sample["before"] for sample in samples),
        config=_pretty(run.config),
        environment={name: _line(value) for name, value in run.environment.items()},
        command=_command(workdir),
    )
    page = workdir / PAGE
    write_text_atomically(page, html)
    return page


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rlhf_jax.reports", "."),
        autoescape=True,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2")


def _clean(value: Any) -> Any:
    """What the page prints, without control characters; text that is markup already passes."""
    return clean_text(value) if type(value) is str else value


def _command(workdir: Path) -> str:
    """The command that runs the same configuration again, beside this run."""
    config = shlex.quote(f"--config={workdir / 'config.json'}")
    again = shlex.quote(f"--workdir={workdir}-again")
    return f"python -m rlhf_jax {config} {again}"


def _subtitle(status: Mapping[str, Any]) -> str:
    """Where the run stands, when that was written, and why it stopped if it failed."""
    parts = []
    if status.get("stage"):
        parts.append(f"{status['stage']}, step {status.get('step')}")
    if status.get("time") is not None:
        parts.append(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(status["time"])))
    if status.get("reason"):
        parts.append(str(status["reason"]))
    return " · ".join(parts)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else ""


def _line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
