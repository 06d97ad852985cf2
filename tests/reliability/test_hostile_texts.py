"""R25: hostile texts in what is written without a run: model cards, tables of sweeps, pages of several runs, lines."""

import contextlib
import csv
import io
import pathlib
import re

import pytest
from rich.console import Console as RichConsole

from rlhf_jax.config import default_config, utility
from rlhf_jax.console import Console, samples_table, say
from rlhf_jax.foreign import one_line
from rlhf_jax.main import main
from rlhf_jax.metrics import write_status
from rlhf_jax.reports.card import model_card
from rlhf_jax.reports.report import write_comparison, write_sweep_report
from tests.reliability.hostile import CONTROLS, TEXTS, see_page
from tests.reports.conftest import write_hostile_run
from tests.reports.sweeps import write_sweep

LONG = "x" * 10**6


def card(text: str) -> str:
    """The card of a reward model of which a stranger has written every word that is not a number."""
    config = default_config()
    config.reward.utility_by_type[text.replace(".", "")] = utility("log")
    about = {
        **config.reward.to_dict(), "stage": "reward", "bounded": True, "loss": "utility", "steps": 1,
        "rlhf_jax_version": "1", "compute_dtype": text, "data": {"source": text, "sha256": None},
    }  # fmt: skip
    about["utility"] = {"name": text}
    run = config.to_dict()
    run["data"]["template"] = text + "{prompt}"
    folder = {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama", "rlhf_jax": about}
    made = model_card(folder, run, {"reward.steps": 1.0, f"reward.pair_accuracy.{text}": 0.5}, parameters=1)
    other = {**about, "loss": text, "data": {"source": "embedded world", "version": "1", "task": text}}
    return made + model_card({**folder, "rlhf_jax": other}, run, {}, parameters=1)


def outside_code(markdown: str) -> str:
    """Markdown without its code, which is shown as it stands: fences, then spans of one back tick."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))


def terminal() -> tuple[RichConsole, io.StringIO]:
    """A terminal with colours and links, or nothing of them would be seen."""
    sink = io.StringIO()
    return RichConsole(file=sink, force_terminal=True, color_system="truecolor", width=100), sink


# What our own tables and bars send: colours and the like, the cursor, no commands to the terminal.
OWN = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\x1b\[\?25[lh]")


@pytest.mark.reliability("R25", tries=len(TEXTS) * 4 + 4)
def test_hostile_text_is_inert_in_all_that_is_written(tally, tmp_path: pathlib.Path) -> None:
    """Held to: in a card every word that is not ours is code in one line; on a terminal nothing is left that it obeys,
    and rich's markup is text; a cell of a table never begins a formula."""
    for place, text in enumerate(TEXTS):
        with tally.one(f"model card {place}"):
            made = card(text)
            rest = outside_code(made).replace("in [0, 1].", "")
            assert not (found := re.search(r"[<\[].*|evil\.example|javascript|=cmd", rest)), found
            assert not CONTROLS.search(made)
            assert all(len(re.split(r"(?<!\\)\|", line)) == 4 for line in made.splitlines() if line.startswith("|"))
        with tally.one(f"table of samples {place}"):
            rich, sink = terminal()
            samples_table([{"prompt": text, "response": LONG + text, "critique": text}], text, console=rich)
            shown = OWN.sub("", sink.getvalue())
            assert not CONTROLS.search(shown)
            assert "[red]" in shown or "[red]" not in text
            assert len(shown) < 5000
        with tally.one(f"bar and lines {place}"):
            rich, sink = terminal()
            with Console(2, "sft", console=rich) as console:
                console.log(1, {text: 0.5})
                console.print(text)
            shown = OWN.sub("", sink.getvalue()).replace("\r", "")
            assert not CONTROLS.search(shown)
        with tally.one(f"a plain line and an error {place}"):
            with contextlib.redirect_stdout(io.StringIO()) as plain:
                say(text)
            assert not CONTROLS.search(plain.getvalue())
            assert not CONTROLS.search(one_line(text))
            assert "\n" not in one_line(text)
    with tally.one("a line of 1 MB"):
        assert len(one_line(LONG)) < 1100
    points = [{"reward.utility.name": text, "sft.optimizer.learning_rate": -1e-3} for text in TEXTS]
    folder = write_sweep(tmp_path / "sweep", points, (0, 1), lambda *_: {"ppo.gold.open": -0.5}, failed=(0, 3))
    write_status(folder / "trials" / "0000", "failed", reason=TEXTS[3])
    with tally.one("results of a sweep"):
        with contextlib.redirect_stdout(io.StringIO()) as told:
            main(["sweep", str(folder), "--show"])
        assert not CONTROLS.search(told.getvalue())
        main(["sweep", str(folder), "--show", "--quiet"])
    with tally.one("the table of a sweep for spreadsheets"):
        from rlhf_jax.sweeps.folder import read_trials
        from rlhf_jax.sweeps.results import as_csv

        cells = [cell for row in csv.reader(io.StringIO(as_csv(read_trials(folder)))) for cell in row]
        assert "'" + TEXTS[3] in cells
        assert {"-0.001", "-0.5"} <= set(cells)  # numbers are numbers
        formulas = [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@"))]
        assert set(formulas) <= {"-0.001", "-0.5"}
        assert not any(CONTROLS.search(cell) for cell in cells)
    with tally.one("pages of a sweep and of several runs"):
        see_page(write_sweep_report(folder, tmp_path / "page"))
        runs = [write_hostile_run(tmp_path / name) for name in ("one", "two")]
        see_page(write_comparison(runs, tmp_path / "both"), "alert('x')")
