"""``rlhf-jax evaluate``: how far can a reward model be trusted, on lists and pairs that people judged?

JAX is loaded only where a reward model has to score.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlhf_jax.commands.collapse import read_scores
from rlhf_jax.commands.options import read_options
from rlhf_jax.config import DATA_FORMATS, STAGES, did_you_mean
from rlhf_jax.console import clean_text, say
from rlhf_jax.diagnostics.reward_model import as_plain, measure_reward_model
from rlhf_jax.diagnostics.rewardbench import Item, score_rewardbench, score_rewardbench_2
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import read_jsonl, write_text_atomically
from rlhf_jax.reports import write_report
from rlhf_jax.reports.fields import Fields, check_fields, is_number
from rlhf_jax.reports.records import lists_by_type
from rlhf_jax.reports.reward_model import reading_of, reading_table, rewardbench_table, robustness_table, shown

if TYPE_CHECKING:
    from rlhf_jax.data.records import Record
    from rlhf_jax.evaluation.scoring import ScoredLists

ROBUSTNESS_LISTS = 256  # lists whose responses are changed and scored again, prompt types taking turns
_HELP = """How far can a reward model be trusted: order, calibration, length bias, robustness; RewardBench's own scores.

usage: rlhf-jax evaluate RUN [--data=FILE] [--format=FORMAT] [--stage=reward|reward_common] [--temperature=T]
                              [--json] [--out=DIR]
       rlhf-jax evaluate --scores=FILE.jsonl --out=DIR [--temperature=T] [--json]

  RUN               a run directory: its newest reward model scores what the run held out
  --data=FILE       instead: ranked lists or pairs, in any format that runs are trained on
  --format=FORMAT   {formats}
  --stage=STAGE     reward or reward_common (reward, or the only one there is)
  --scores=FILE     instead: scores of any model, one response a line, as for rlhf-jax collapse:
                    {{"prompt_type": "open", "list": 17, "rank": 0, "reward": 0.93, "length": 41}}
                    length, in tokens, is optional
  --temperature=T   pair probabilities are sigma(reward gap / T); above 0 (1). The best T is reported beside it
  --json            print one JSON object and nothing else
  --out=DIR         where evaluation/NAME.json and the page go (RUN)

Every key, with its formula, unit and range, is in docs/evaluation.md.

examples:
  rlhf-jax evaluate runs/lists
  rlhf-jax evaluate runs/lists --data=reward-bench-2.jsonl --json
  rlhf-jax evaluate --scores=scores.jsonl --out=runs/their_model"""


@dataclasses.dataclass(frozen=True)
class _Options:
    """What the command line asked for; "" where it said nothing."""

    run: str = ""
    data: str = ""
    format: str = "auto"
    stage: str = ""
    scores: str = ""
    temperature: float = 1.0
    json: bool = False
    out: str = ""


def main(words: Sequence[str]) -> None:
    """Answer the words after ``evaluate``.

    Raises:
      UserError: one line, for anything that cannot be answered.
    """
    if "--help" in words or not words:
        print(_HELP.format(formats=", ".join(DATA_FORMATS)))
        return
    options = _options(words)
    reading = _of_scores(options) if options.scores else _of_run(options)
    out = Path(options.out or options.run)
    path = out / "evaluation" / f"{reading['name']}.json"
    try:
        write_text_atomically(path, json.dumps(reading, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        page = write_report(out)
    except OSError as error:
        raise UserError(f"evaluate: --out: {out}: {error.strerror}") from None
    if options.json:
        print(json.dumps(reading, ensure_ascii=False, allow_nan=False))
        return
    _print(reading)
    say(f"written: {path} and {page}")


# ------------------------------------------------------------------------- words to options


def _options(words: Sequence[str]) -> _Options:
    names = [field.name for field in dataclasses.fields(_Options)][1:]
    names.remove("json")
    values: dict[str, Any] = read_options("evaluate", words, names, place=("run", "run directory"), switches=("json",))
    _check_choices(values)
    return _Options(**values)


def _check_choices(values: dict[str, Any]) -> None:
    if ("run" in values) == ("scores" in values):
        raise UserError("evaluate: name a run directory or --scores=FILE, one of them; see rlhf-jax evaluate --help")
    for name in ("data", "format", "stage"):
        if "scores" in values and name in values:
            raise UserError(f"evaluate: --{name}: goes with a run directory, not with --scores")
    if "scores" in values and "out" not in values:
        raise UserError("evaluate: --scores: say with --out=DIR where the result goes")
    if "format" in values and "data" not in values:
        raise UserError("evaluate: --format: goes with --data=FILE")
    stages = [stage for stage in STAGES if stage.startswith("reward")]
    for name, options in (("format", DATA_FORMATS), ("stage", stages)):
        if values.get(name, options[0]) not in options:
            hint = did_you_mean(values[name], options) or f"; one of {', '.join(options)}"
            raise UserError(f"evaluate: --{name}: no {name} {values[name]!r}{hint}")
    if "temperature" in values:
        try:
            values["temperature"] = float(values["temperature"])
        except ValueError:
            raise UserError(f"evaluate: --temperature: {values['temperature']!r} is not a number") from None
        if not 0 < values["temperature"] < math.inf:
            raise UserError(f"evaluate: --temperature: {values['temperature']} is not a number above 0")


# ------------------------------------------------------------------------- scores to a reading

_LENGTH: Fields = {"length": (lambda value: is_number(value) and value >= 0, "a number from 0")}


def _of_scores(options: _Options) -> dict[str, Any]:
    path = Path(options.scores)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    check_fields(path, read_jsonl(path, torn=False), {}, _LENGTH)
    reading = reading_of(lists_by_type(read_scores(path)), options.temperature)
    if not reading["pairs"]:
        raise UserError(f"{path}: no list with two responses of different rank")
    origin = {"name": path.stem, "source": str(path), "format": "scores", "run": None, "stage": None, "step": None}
    return origin | reading | {"robustness": {}, "rewardbench": None, "notes": []}


def _of_run(options: _Options) -> dict[str, Any]:
    # Imported here: scores need no JAX, and a mistake on the command line is told at once.
    from rlhf_jax.build.evaluate import load_reward_model, read_source
    from rlhf_jax.data.examples import list_examples, types_in_turn
    from rlhf_jax.data.perturb import PERTURBATIONS, WORLD_PERTURBATIONS
    from rlhf_jax.evaluation.scoring import comparable, measure_robustness, score_records

    model = load_reward_model(Path(options.run), options.stage)
    source = read_source(model, options.data, options.format)
    records = comparable(source.records)
    if not records:
        raise UserError(f"{source.name}: no list in which a response was judged better than another")
    notes = list(source.notes)
    if len(records) < len(source.records):
        notes.append(f"{len(source.records) - len(records)} of {len(source.records)} records compare nothing: left out")
    examples, counts = list_examples(
        records, model.reader.tokenizer, model.reader.max_prompt, model.reader.max_response
    )
    if counts.prompts or counts.responses:
        cut = f"{counts.prompts} of {counts.total_prompts} prompts and {counts.responses} of {counts.total_responses}"
        notes.append(f"cut {cut} responses to what the model reads")
    scored = score_records(model.score, model.reader, records)
    reading = measure_reward_model(
        scored.rewards,
        scored.ranks,
        scored.mask,
        scored.types,
        better=scored.better,
        lengths=scored.lengths,
        temperature=options.temperature,
    )
    some = [records[example.index] for example in types_in_turn(examples, ROBUSTNESS_LISTS)]
    before = scored if len(some) == len(records) and some == records else score_records(model.score, model.reader, some)
    changes = WORLD_PERTURBATIONS if source.format == "world" else PERTURBATIONS
    found = measure_robustness(model.score, model.reader, some, before, changes)
    if len(some) < len(records):
        notes.append(f"robustness: {len(some)} of the {len(records)} lists")
    name = f"{model.stage}-{_stem(options.data)}" if options.data else model.stage
    return {
        "name": name,
        "source": source.name,
        "format": source.format,
        "run": options.run,
        "stage": model.stage,
        "step": model.step,
        **as_plain(reading),
        "robustness": as_plain(found),
        "rewardbench": as_plain(_rewardbench(source.format, records, scored)),
        "notes": notes,
    }


def _rewardbench(data_format: str, records: Sequence["Record"], scored: "ScoredLists") -> Any:
    score = {"rewardbench": score_rewardbench, "rewardbench2": score_rewardbench_2}.get(data_format)
    if score is None:
        return None
    items = []
    for record, rewards, ranks, mask in zip(records, scored.rewards, scored.ranks, scored.mask, strict=True):
        chosen, rejected = (rewards[mask & (ranks == rank)].tolist() for rank in (0, 1))
        items.append(Item(record.id, record.prompt_type, chosen, rejected))
    try:
        return score(items)
    except ValueError as error:
        raise UserError(f"evaluate: --data: {error}") from None


def _stem(path: str) -> str:
    """The name of a file or of a data set in a hub, without its endings, for the name of another file."""
    name = Path(path).name
    for ending in (".gz", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(ending)
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


# ------------------------------------------------------------------------- what is shown


def _print(reading: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    readings = {reading["name"]: reading}
    (row,) = reading_table(readings)
    table = _table(f"{reading['name']}: {reading['source']}", ("figure", "value", "unit"))
    length, raw = reading["length"] or {}, reading["raw"]
    for name, value, unit in (
        ("lists, responses, pairs", f"{reading['lists']:,}, {reading['responses']:,}, {row['pairs']}", ""),
        ("accuracy", row["accuracy"], "share of pairs in order"),
        ("Kendall tau-b", row["tau"], "mean over lists"),
        ("NDCG", row["ndcg"], "mean over lists"),
        (f"log-loss at T = {shown(raw['temperature'])}", row["log_loss"], "nats per pair; 0.693 knows nothing"),
        ("  Brier, ECE, MCE", _joined(raw["brier"], raw["reliability"]["ece"], raw["reliability"]["mce"]), ""),
        (f"log-loss at the best T, {row['temperature']}", row["log_loss_calibrated"], "nats per pair"),
        (
            "  Brier, ECE, MCE",
            _joined(reading["calibrated"]["brier"], *(reading["calibrated"]["reliability"][k] for k in ("ece", "mce"))),
            "",
        ),
        ("length: correlation, within lists", _joined(length.get("correlation"), length.get("within")), "Spearman"),
        (
            "length: longer wins, is better",
            _joined(length.get("longer_wins"), length.get("longer_is_better")),
            "share of pairs of different length",
        ),
    ):
        table.add_row(escape(clean_text(name)), value, unit)
    console.print(table)
    table = _table("accuracy in parts", ("pairs", "accuracy", "how many"))
    parts = [(f"type {kind or '(none)'}", one) for kind, one in reading["by_type"].items()]
    parts += [(f"lists of {size}", one) for size, one in reading["by_size"].items()]
    parts += [(f"{distance} ranks apart", one) for distance, one in reading["by_distance"].items()]
    parts += [
        (name, length.get(key))
        for name, key in (
            ("better one shorter", "better_shorter"),
            ("about as long", "matched"),
            ("better one longer", "better_longer"),
        )
    ]
    for name, one in parts:
        if one:
            table.add_row(escape(clean_text(name)), shown(one["accuracy"]), f"{one['pairs']:,}")
    console.print(table)
    for title, columns, rows in (
        ("robustness", ("change", "shift", "drift", "flips"), robustness_table(readings)),
        ("RewardBench", ("part", "score"), rewardbench_table(readings)),
    ):
        if rows:
            table = _table(title, columns)
            for found in rows:
                table.add_row(*(escape(clean_text(found[column])) for column in columns))
            console.print(table)
    for note in reading["notes"]:
        console.print(clean_text(note), markup=False, soft_wrap=True)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=escape(clean_text(title)), title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place == 1 or column in ("drift", "flips", "how many") else "left")
    return table


def _joined(*values: float | None) -> str:
    return ", ".join(shown(value) for value in values)
