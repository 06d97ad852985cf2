"""Pieces that several tasks are made of."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlhf_jax.build.context import Context
from rlhf_jax.build.programs import Learning
from rlhf_jax.data.examples import ListExample, TruncationCounts
from rlhf_jax.data.lists import ListSizes, sizes_of
from rlhf_jax.data.records import Record
from rlhf_jax.learners.optimizer import OptimizerSpec, make_schedule
from rlhf_jax.learners.step import init_state
from rlhf_jax.parallel import Executor
from rlhf_jax.types import SEQUENCE, Params, PromptBatch, TrainState

Answers = TypeVar("Answers")
Finish = Callable[[dict[str, Any]], dict[str, float]]


def evaluation_stream(key: jax.Array) -> jax.Array:
    """The random stream in which a stage answers held-out prompts: the same at every evaluation, and no step's own."""
    return jax.random.fold_in(key, 2**32 - 1)


def task_parts(
    executor: Executor, learner: Learning, init: Callable[[], Params], key: jax.Array
) -> tuple[TrainState, Callable[..., Any], Finish]:
    """(initial state, compiled step, finish) of a learner that makes one step a batch."""
    state = executor.place(init_state(init(), learner.optimizer, key, part=learner.part), "state")
    compiled = learner.update.compile(executor)

    rate = _rate(learner.schedule)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    updates = next(place for place, path in enumerate(paths) if path.endswith("count"))

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        state, metrics = compiled(state, executor.place(batch, "rows"))
        # A copy: the state itself is given up to the next step before anybody reads this.
        return state, (metrics, jnp.copy(jax.tree.leaves(state.opt_state)[updates]))

    def finish(out: Any) -> dict[str, float]:
        metrics, counts = jax.device_get(out)
        # The optimizer counts the updates that were made; each member of an ensemble has one that does.
        made = int(np.ravel(counts)[0])
        return floats(metrics) | {"learning_rate": float(rate(max(made - 1, 0)))}

    return state, step, finish


@cache
def _rate(spec: OptimizerSpec) -> Callable[[int], Any]:
    """The learning rate of an update, in one program for all stages; operation by operation it would be a dozen."""
    return jax.jit(make_schedule(spec))


def by_rows(answer: Callable[[PromptBatch], Answers], prompts: PromptBatch, rows: int) -> Answers:
    """``answer`` of so many prompts at a time (0: of all at once), the answers put together again.

    Every row has its own random stream, hence the answers do not depend on ``rows``.
    """
    total = len(prompts.ids)
    if not 0 < rows < total:
        return answer(prompts)
    parts = [
        answer(jax.tree.map(lambda leaf, start=start: leaf[start : start + rows], prompts))
        for start in range(0, total, rows)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def list_sizes(context: Context, lists: Sequence[ListExample], longest: int, *, parts: int | None = 1) -> ListSizes:
    """The sizes of batches of these lists, whose responses have up to ``longest`` tokens.

    Lists share their room on each device, in each of the ``parts`` that a batch is worked on in (None: they do not).
    Where tokens are split over devices, all batches have the rows that ``check_lengths`` has seen divide.
    """
    data, executor = context.config.data, context.executor
    if context.config.parallel[SEQUENCE] > 1:
        return ListSizes((data.max_prompt,), (longest,), data.list_size)
    return sizes_of(lists, data.list_size, groups=0 if parts is None else parts * executor.row_shards)


def flags(out: Any) -> tuple[Any, Any]:
    """(what was not finite, loss) of a step whose ``out`` begins with its metrics, on the device."""
    return out[0]["not_finite"], out[0]["loss"]


def floats(metrics: dict[str, Any]) -> dict[str, float]:
    """Device scalars as floats; ``not_finite`` is no figure, but for the loop."""
    return {name: float(value) for name, value in jax.device_get(metrics).items() if name != "not_finite"}


def truncation_metrics(counts: TruncationCounts) -> dict[str, float]:
    """Shares of prompts and of responses that were cut."""
    return {
        "truncated.prompts": counts.prompts / max(counts.total_prompts, 1),
        "truncated.responses": counts.responses / max(counts.total_responses, 1),
    }


def truncation_note(counts: TruncationCounts) -> str:
    """The same in words."""
    return (
        f"cut {counts.prompts} of {counts.total_prompts} prompts (their beginning) and "
        f"{counts.responses} of {counts.total_responses} responses (their end)"
    )


def samples_shown(config: ConfigDict, final: bool) -> int:
    """Of how many prompts an evaluation shows completions: always of the same ones, so that they can be compared."""
    return max(config.log.samples, 10) if final or config.log.samples else 0


def sample_rows(
    prompts: Sequence[Record],
    responses: Sequence[str],
    gold: Callable[[str, str], float] | None,
    count: int,
    proxies: Sequence[float] | np.ndarray | None = None,
    before: Sequence[str] | None = None,
    rewards: Callable[[int], list[tuple[int, int, float]]] | None = None,
) -> list[dict[str, Any]]:
    """Rows for the table of samples: ``count`` prompts evenly spaced over all, so that every type is seen.

    ``rewards`` gives the parts of the response to a prompt: first character, the one after the last, what was paid.
    """
    places = np.unique(np.linspace(0, len(prompts) - 1, min(count, len(prompts))).astype(int))
    return [
        {
            "prompt": prompts[i].prompt,
            "prompt_type": prompts[i].prompt_type,
            "response": responses[i],
            "proxy": None if proxies is None else float(proxies[i]),
            "gold": None if gold is None else gold(prompts[i].prompt, responses[i]),
            "before": None if before is None else before[i],
        }
        | ({} if rewards is None else {"rewards": rewards(i)})
        for i in places
    ]
