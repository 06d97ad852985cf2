"""Completions of the same prompts side by side: before, at each checkpoint and at the end; and of several runs.

A row of ``samples/STAGE/STEP.jsonl`` may say under "rewards" what the parts of its response were paid, as
``[start, end, reward]`` in characters; see ``docs/run_directory.md``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf_jax.reports.headline import number, taking_turns
from rlhf_jax.reports.records import Row, Run
from rlhf_jax.reports.sections import Answer, Completions, Piece

PROMPTS = 12
CHECKPOINTS = 6  # of more, so many spread over the stage, the first and the last among them
TEXT_LIMIT = 10_000  # characters of one completion
SCORES = ("proxy", "gold")


def of_run(run: Run) -> Completions | None:
    """The last stage that stored any: the SFT policy's answer, then those of the stage's evaluations.

    Prompts of the last evaluation, types taking turns; "–" where an evaluation did not show the prompt.
    """
    stages = [stage for stage, steps in run.samples.items() if any(steps.values())]
    if not stages:
        return None
    stage = stages[-1]
    steps = _spread([step for step, rows in run.samples[stage].items() if rows])
    by_step = {step: _by_prompt(run.samples[stage][step]) for step in steps}
    last = by_step[steps[-1]]
    prompts = list(_in_turns(last)[:PROMPTS])
    before = any(last[prompt].get("before") is not None for prompt in prompts)
    scale = _scale(row for rows in by_step.values() for row in rows.values())
    columns, rows = ["before (SFT)"] * before + [f"{stage}, step {step}" for step in steps], []
    for prompt in prompts:
        row = last[prompt]
        answers: list[Answer | None] = []
        if before:
            answers.append(None if row.get("before") is None else Answer([Piece(_text(row["before"]))]))
        answers += [answer_of(by_step[step].get(prompt), scale) for step in steps]
        rows.append((str(row.get("prompt_type") or ""), _text(row.get("prompt")), answers))
    return Completions(columns, rows)


def of_runs(runs: Mapping[str, Run]) -> Completions | None:
    """The last answers of several runs to the prompts that most of them answered."""
    last: dict[str, dict[str, Row]] = {}
    for name, run in runs.items():
        stored = [rows for steps in run.samples.values() for rows in list(steps.values())[-1:] if rows]
        if stored:
            last[name] = _by_prompt(stored[-1])
    shared: dict[str, int] = {}
    for rows in last.values():
        for prompt in _in_turns(rows):
            shared[prompt] = shared.get(prompt, 0) + 1
    prompts = sorted((p for p, count in shared.items() if count > 1), key=lambda p: -shared[p])[:PROMPTS]
    if not prompts:
        return None
    scale = _scale(row for rows in last.values() for row in rows.values())
    table = []
    for prompt in prompts:
        known = next(rows[prompt] for rows in last.values() if prompt in rows)
        answers = [answer_of(rows.get(prompt), scale) for rows in last.values()]
        table.append((str(known.get("prompt_type") or ""), _text(prompt), answers))
    return Completions(list(last), table)


def answer_of(row: Row | None, scale: float) -> Answer | None:
    """The response of a row, cut into what was paid; shades go from -1 to 1 as rewards go from -scale to scale."""
    if row is None:
        return None
    scores = [(name, number(float(row[name]))) for name in SCORES if row.get(name) is not None]
    if row.get("critique"):
        scores.append(("critique:", _text(row["critique"])))
    text = "" if row.get("response") is None else str(row["response"])
    return Answer(list(_pieces(text, row.get("rewards") or (), scale)), scores)


def _pieces(text: str, rewards: Sequence[Sequence[float]], scale: float) -> Iterable[Piece]:
    if not rewards:
        yield Piece(_text(text))
        return
    done = 0
    for start, end, reward in rewards:
        start, end = max(int(start), done), min(int(end), TEXT_LIMIT)
        start += len(text[start:end]) - len(text[start:end].lstrip())  # the space between two parts stays white
        if start > done:
            yield Piece(text[done:start])
        yield Piece(text[start:end], float(reward), float(reward) / scale)
        done = max(done, end)
    if done < len(text):
        yield Piece(_text(text)[done:])


def _scale(rows: Iterable[Row]) -> float:
    """The largest reward of a part, in absolute value; 1 where there is none."""
    return max((abs(float(part[2])) for row in rows for part in row.get("rewards") or ()), default=0.0) or 1.0


def _by_prompt(rows: Sequence[Row]) -> dict[str, Row]:
    return {str(row.get("prompt") or ""): row for row in rows}


def _in_turns(rows: Mapping[str, Row]) -> list[str]:
    return [str(row.get("prompt") or "") for row in taking_turns(list(rows.values()))]


def _spread(steps: list[int]) -> list[int]:
    if len(steps) <= CHECKPOINTS:
        return steps
    return [steps[round(place * (len(steps) - 1) / (CHECKPOINTS - 1))] for place in range(CHECKPOINTS)]


def _text(value: Any) -> str:
    text = "" if value is None else str(value)
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[:TEXT_LIMIT]}… ({len(text) - TEXT_LIMIT:,} more characters)"
