"""``rlhf-jax labels``: from a policy to tasks for people in Label Studio, and from their export to records.

A mistake on the command line is told before JAX is loaded.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlhf_jax.config import did_you_mean
from rlhf_jax.console import clean_text, say
from rlhf_jax.data.label_studio import KINDS, in_turns, labelling_config, lists_row, unwrapped
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import write_text_atomically

ACTIONS = ("to-labelstudio", "from-labelstudio")
POLICIES = ("sft", "ppo", "dpo", "online")
_HELP = """Close the loop with people: what to ask them, and what they said.

usage: rlhf-jax labels to-labelstudio RUN --out=DIR [--kind=pairwise|ranking] [--tasks=100] [--responses=4]
                                      [--policy=sft|ppo|dpo|online] [--prompts=K|FILE] [--seed=0]
       rlhf-jax labels from-labelstudio EXPORT.json --out=FILE.jsonl

to-labelstudio samples responses to prompts and asks about those where the reward model of the run, or its ensemble,
is least certain which response is better. Into DIR go tasks.json (Import), labelling.xml (Settings, Labeling
Interface, Code) and selection.jsonl, which keeps what the model thought of each task away from the people asked.
  --kind=KIND       pairwise: two responses, which is better; ranking: all of them into order (pairwise)
  --tasks=N         how many prompts to ask about, the least certain ones (100)
  --responses=N     sampled for each prompt (4)
  --policy=STAGE    the policy of this stage: sft, ppo, dpo or online (sft)
  --prompts=K|FILE  the first K of the held-out prompts (all), or a JSONL file of rows {"prompt": "..."}
  --seed=S          of sampling, and of the sides on which responses are shown (0)

from-labelstudio turns an export (JSON) into ranked lists, a record for each annotator, for --config.data.path. Printed:
Krippendorff's alpha of all comparisons (1: all agree, 0: as by chance), the mean of Kendall's W of the sets that
several people ranked (1: one ranking), and for each annotator how often the others said the same.

examples:
  rlhf-jax labels to-labelstudio runs/quickstart --policy=ppo --kind=ranking --tasks=50 --out=labels
  rlhf-jax labels from-labelstudio export.json --out=labels/ranked.jsonl"""


@dataclasses.dataclass(frozen=True)
class _Order:
    """What the command line asked for; of ``from-labelstudio`` only ``source`` and ``out`` are read."""

    source: Path
    out: Path
    kind: str
    tasks: int
    responses: int
    policy: str
    prompts: str
    seed: int


def main(words: Sequence[str]) -> None:
    """Do what the words after ``labels`` ask for.

    Raises:
      UserError: one line, for anything that cannot be done.
    """
    if not words or "--help" in words:
        print(_HELP)
        return
    action, *rest = words
    if action not in ACTIONS:
        hint = did_you_mean(action, ACTIONS) or f"; one of {', '.join(ACTIONS)}"
        raise UserError(f"labels: {action}: no such action{hint}")
    order = _order(action, rest)
    (_ask if action == "to-labelstudio" else _collect)(order)


def _ask(order: _Order) -> None:
    if order.out.exists():
        raise UserError(f"labels: --out: {order.out} exists; tasks already given out are not overwritten")
    from rlhf_jax.build.best_of_n import answer_prompts  # here: they load JAX
    from rlhf_jax.build.context import read_run
    from rlhf_jax.evaluation.selection import choose_tasks

    found = answer_prompts(order.source, policy=order.policy, prompts=order.prompts, n=order.responses, seed=order.seed)
    template = read_run(order.source)[0].data.template
    prompts = [unwrapped(record.prompt, template) for record in found.records]
    chosen = choose_tasks(
        order.kind,
        prompts,
        [record.prompt_type for record in found.records],
        found.texts,
        found.candidates.members,
        count=order.tasks,
        seed=order.seed,
    )
    if not chosen:
        raise UserError(f"labels: {order.source}: no prompt got two different responses; raise --responses")
    for one in chosen:
        in_turns(one.task["data"], found.records[one.task["meta"]["prompt_index"]].messages)
    files = {
        "tasks.json": json.dumps([one.task for one in chosen], ensure_ascii=False, indent=1) + "\n",
        "labelling.xml": labelling_config(order.kind),
        "selection.jsonl": "".join(
            json.dumps(
                {"task": place, "uncertainty": one.uncertainty, "rewards": one.rewards.tolist(), **one.task["meta"]}
            )
            + "\n"
            for place, one in enumerate(chosen)
        ),
    }
    try:
        order.out.mkdir(parents=True)
        for name, text in files.items():
            write_text_atomically(order.out / name, text)
    except OSError as error:
        raise UserError(f"labels: --out: {order.out}: {error.strerror}") from error
    say(
        f"{order.out}: {len(chosen)} {order.kind} tasks of {len(prompts)} prompts; uncertainty "
        f"{chosen[0].uncertainty:.3f} to {chosen[-1].uncertainty:.3f} nats (at most 0.693)"
    )


def _collect(order: _Order) -> None:
    from rlhf_jax.data.readers import read_file
    from rlhf_jax.evaluation.annotators import measure_agreement

    if Path(order.source).resolve() == order.out.resolve():
        raise UserError(f"labels: --out: {order.out} is the export itself, which would be lost; name another file")
    found = read_file(order.source, "label_studio")
    records = list(found.records)
    try:
        write_text_atomically(order.out, "".join(lists_row(record) for record in records))
    except OSError as error:
        raise UserError(f"labels: --out: {order.out}: {error.strerror}") from error
    agreement = measure_agreement(records)
    say(f"{order.out}: {len(records)} records of {found.rows} tasks, {found.skipped} skipped by annotators")
    table = Table()
    for name in ("annotator", "records", "comparisons with others", "others said the same"):
        table.add_column(name, justify="left" if name == "annotator" else "right")
    for who, (count, same) in agreement.with_others.items():
        own = sum(record.annotator == who for record in records)
        table.add_row(escape(clean_text(who or "–")), str(own), str(count), f"{same:.2f}" if count else "–")
    Console(highlight=False).print(table)
    alpha, w = (f"{value:.3f}" if value is not None else "–" for value in (agreement.alpha, agreement.w))
    print(f"Krippendorff's alpha {alpha}; Kendall's W {w} (mean of {agreement.rankings} rankings)")


def _order(action: str, words: Sequence[str]) -> _Order:
    ask = action == "to-labelstudio"
    wanted = {"--out": "", **(_ASKED if ask else {})}
    places: list[str] = []
    for word in words:
        name, _, text = word.partition("=")
        if not word.startswith("--"):
            places.append(word)
        elif name not in wanted:
            hint = did_you_mean(name, wanted) or f"; the options are {', '.join(wanted)}"
            raise UserError(f"labels {action}: {word}: no such option{hint}")
        elif not text:
            raise UserError(f"labels {action}: {word}: must be {name}=VALUE")
        else:
            wanted[name] = text
    if len(places) != 1:
        what = "run directory" if ask else "export"
        raise UserError(f"labels {action}: name one {what}, not {len(places)}; see rlhf-jax labels --help")
    if not wanted["--out"]:
        raise UserError(f"labels {action}: --out: missing; see rlhf-jax labels --help")
    values = _ASKED | wanted
    for name, options in (("--kind", KINDS), ("--policy", POLICIES)):
        if values[name] not in options:
            hint = did_you_mean(values[name], options)
            raise UserError(f"labels {action}: {name}: {values[name]!r} is not one of {', '.join(options)}{hint}")
    least = {"--tasks": 1, "--responses": 2, "--seed": 0}
    numbers = {name: _whole(f"labels {action}: {name}", values[name], low) for name, low in least.items()}
    return _Order(
        Path(places[0]),
        Path(wanted["--out"]),
        values["--kind"],
        numbers["--tasks"],
        numbers["--responses"],
        values["--policy"],
        values["--prompts"],
        numbers["--seed"],
    )


_ASKED = {
    "--kind": "pairwise",
    "--tasks": "100",
    "--responses": "4",
    "--policy": "sft",
    "--prompts": "",
    "--seed": "0",
}


def _whole(name: str, text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**31:
        raise UserError(f"{name}: {text!r} is not a whole number from {least} to 2^31")
    return int(text)
