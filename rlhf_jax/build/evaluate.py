"""A trained reward model, from its run directory to the rewards of any texts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from rlhf_jax.build.context import (
    Context,
    load_parent,
    read_run,
    stage_config,
    stage_decoder,
    stage_directory,
    stage_ensemble,
)
from rlhf_jax.build.data import Data, load_data, run_tokenizer
from rlhf_jax.build.specs import trained_bounded
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import did_you_mean
from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.lists import groups_of, sizes_of
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Record
from rlhf_jax.data.tokenizers import UNKNOWN, texts_of
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.scoring import Reader, ScoreLists
from rlhf_jax.models import ONE_MODEL, DecoderSpec, EnsembleSpec, apply_reward_lists
from rlhf_jax.objectives.aggregation import mean
from rlhf_jax.parallel import Executor, MeshExecutor
from rlhf_jax.types import Array, ListTokens, Params

ROWS = 64  # responses at once, rounded up to what the devices can share


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A reward model that can score: where it comes from (``step`` updates of ``stage``) and how it reads texts."""

    context: Context
    stage: str
    step: int
    reader: Reader
    score: ScoreLists


@dataclasses.dataclass(frozen=True)
class Source:
    """Records to evaluate on: their name, the format that they were read as, and what reading them found."""

    name: str
    format: str
    records: list[Record]
    notes: tuple[str, ...]


def load_reward_model(workdir: Path, stage: str = "") -> RewardModel:
    """The newest checkpoint of a reward stage, on all devices of this process.

    ``stage`` "" is "reward", or the only reward stage that the run has.

    Raises:
      UserError: the directory is not a run, has no such stage, or its checkpoint cannot be read.
    """
    config, _ = read_run(workdir)
    stages = [name for name in ("reward", "reward_common") if (workdir / "checkpoints" / name).is_dir()]
    if config.parents.reward and "reward" not in stages:
        stages.insert(0, "reward")
    if not stages:
        raise UserError(f"{workdir}: no checkpoints of a reward model in this run directory")
    chosen = stage or stages[0]
    if chosen not in stages:
        hint = did_you_mean(chosen, stages) or f"; it has {', '.join(stages)}"
        raise UserError(f"evaluate: --stage: {workdir} has no reward model {chosen!r}{hint}")
    tokenizer = run_tokenizer(config, workdir / "tokenizer")
    executor = MeshExecutor(jax.devices())
    context = Context(config, workdir, executor, _no_data(), tokenizer)
    decoder = stage_decoder(context, chosen)
    params = load_parent(context, chosen, decoder)
    with Checkpoints(stage_directory(context, chosen)) as checkpoints:
        step = checkpoints.latest() or 0
    bounded = trained_bounded(stage_config(config, chosen).reward, prompt_aware=chosen == "reward")
    form = stage_ensemble(config, chosen)
    score = make_scorer(executor, decoder, params, bounded=bounded, pad_id=tokenizer.pad_id, ensemble=form)
    return RewardModel(
        context, chosen, step, Reader(tokenizer, config.data.max_prompt, config.data.max_response), score
    )


def make_scorer(
    executor: Executor,
    decoder: DecoderSpec,
    params: Params,
    *,
    bounded: bool,
    pad_id: int,
    rows: int = ROWS,
    ensemble: EnsembleSpec = ONE_MODEL,
) -> ScoreLists:
    """Rewards of any number of responses, ``rows`` of them at once, each prompt read once for those that follow it.

    Those of an ensemble are the means over its members.
    """
    shards = executor.row_shards

    def batch(params: Params, lists: ListTokens, axis_name: str | None) -> tuple[Array]:
        return (mean(apply_reward_lists(decoder, params, lists, bounded=bounded, ensemble=ensemble)),)

    compiled = executor.compile(batch, ("state", "rows"), ("rows",))

    def score(lists: Sequence[ListExample]) -> np.ndarray:
        batches = groups_of(lists, sizes_of(lists, 0), -(-rows // shards), shards, pad_id)
        found = [(compiled(params, executor.place(tokens, "rows"))[0], filled) for tokens, filled in batches]
        parts = [np.asarray(part, np.float64).ravel()[:filled] for part, filled in jax.device_get(found)]
        return np.concatenate(parts)

    return score


def read_source(model: RewardModel, path: str, data_format: str) -> Source:
    """The records of a file, or with no path those that the run held out.

    Raises:
      UserError: a bad row, as ``file:line: field: reason``.
    """
    data = model.context.config.data
    if not path:
        held_out = load_data(model.context.config, tokenizer=model.reader.tokenizer)
        name = data.path or "the embedded world"
        return Source(f"held out of {name}", data.format if data.path else "world", [*held_out.lists_validation], ())
    found = read_file(
        path,
        data_format,
        data.template,
        data.tie_margin,
        data.on_bad_row,
        annotators=data.annotators,
        chat=model.reader.tokenizer.chat,
        setting="--format",
    )
    notes = [f"{len(found.rejected)} bad rows left out"] * bool(found.rejected)
    notes += [f"{found.skipped} judgements left out that their annotators skipped"] * bool(found.skipped)
    notes += [f"{found.duplicates} repeated responses left out"] * bool(found.duplicates)
    texts = list(texts_of(found.records))
    unknown = model.reader.tokenizer.backend.get_vocab().get(UNKNOWN)
    strange = 0 if unknown is None else sum(unknown in model.reader.tokenizer.encode(text) for text in texts)
    notes += [f"{strange} of {len(texts)} texts have words that the tokenizer does not know"] * bool(strange)
    return Source(path, found.format, list(found.records), tuple(notes))


def _no_data() -> Data:
    return Data((), (), (), (), (), (), None)
