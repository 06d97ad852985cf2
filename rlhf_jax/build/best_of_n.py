"""Best-of-n of a run's policy under its reward model: everything between a run directory and the scored answers."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rlhf_jax.build.context import (
    Context,
    load_parent,
    read_run,
    restore,
    stage_config,
    stage_decoder,
    stage_ensemble,
)
from rlhf_jax.build.data import load_data, run_tokenizer
from rlhf_jax.build.lora import adapted
from rlhf_jax.build.ppo_models import load_policy
from rlhf_jax.build.specs import rollout_spec, stop_token, trained_bounded
from rlhf_jax.data.examples import prompt_rows
from rlhf_jax.data.loader import prompt_eval_batches
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Record
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.policy import decode_responses
from rlhf_jax.generation.best_of_n import Candidates, sample_candidates, sample_scored
from rlhf_jax.models import DecoderSpec, init_decoder, merge
from rlhf_jax.parallel import MeshExecutor
from rlhf_jax.types import Params, PromptBatch

ROWS = 512  # responses at once, rounded up to what the devices can share


@dataclasses.dataclass(frozen=True)
class Answers:
    """n answers to each of P prompts; ``gold`` is their true reward where the world is known. ``unnamed`` is the
    ``FILE.py:FUNCTION`` by which the run told it and which nobody has named since."""

    records: list[Record]
    texts: list[list[str]]
    candidates: Candidates
    gold: Float[np.ndarray, "P n"] | None
    unnamed: str = ""


def answer_prompts(workdir: Path, *, policy: str, prompts: str, n: int, seed: int, gold: str = "") -> Answers:
    """Sample n answers a prompt from the ``sft`` or the ``ppo`` policy of a run, and score them by its reward model.

    ``prompts`` is a number of held-out prompts, the first ones, or a file of prompts; "" takes all held-out ones.
    ``gold`` is a gold of the user's own, as ``config.data.gold``; one that the run alone names is not run.

    Raises:
      UserError: the directory is no run, it lacks the policy or the reward model, or there are no such prompts.
    """
    config, code = read_run(workdir)
    if not config.parents.reward and not (workdir / "checkpoints" / "reward").is_dir():
        raise UserError(f"{workdir}: no checkpoints of a reward model (stage reward) in this run directory")
    config.data.gold = gold
    tokenizer = run_tokenizer(config, workdir / "tokenizer")
    data = load_data(config, tokenizer=tokenizer)
    context = Context(config, workdir, MeshExecutor(jax.devices()), data, tokenizer)
    records = _prompts(context, prompts)
    decoder, judge = stage_decoder(context, "sft"), stage_decoder(context, "reward")
    shards = context.executor.row_shards
    together = max(size for size in range(1, max(2, ROWS // shards + 1)) if n % size == 0)
    spec = rollout_spec(
        config,
        decoder,
        judge,
        bounded=trained_bounded(stage_config(config, "reward").reward),
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        ensemble=stage_ensemble(config, "reward"),
        stop_id=stop_token(config, tokenizer),
        samples=together,
    )
    reward = load_parent(context, "reward", judge)
    actor = stage_policy(context, policy, decoder, "best-of-n: --policy")
    executor = context.executor
    compiled = executor.compile(
        lambda actor, reward, batch, key, axis_name: sample_scored(spec, actor, reward, batch, key, together=together),
        ("state", "state", "rows", "replicated"),
        ("rows", "rows", "rows"),
        inference=True,
    )
    key = jax.random.key(seed)

    def sampler(batch: PromptBatch) -> tuple[Any, ...]:
        return compiled(actor, reward, executor.place(batch, "rows"), key)

    rows = prompt_rows(records, tokenizer, config.data.max_prompt)[0]
    (batch,) = prompt_eval_batches(rows, len(rows), config.data.max_prompt, tokenizer.pad_id)
    step = shards * together
    found = sample_candidates(sampler, batch, n, -(-min(ROWS, n * len(rows)) // step) * step, together)
    texts = [decode_responses(tokenizer, ids, mask) for ids, mask in zip(found.ids, found.mask, strict=True)]
    true, unnamed = None, "" if gold else code.get("data.gold", "")
    if data.gold is not None and not unnamed:
        true = np.array(
            [[data.gold(one.prompt, text) for text in own] for one, own in zip(records, texts, strict=True)]
        )
    return Answers(records, texts, found, true, unnamed)


def _prompts(context: Context, prompts: str) -> list[Record]:
    held_out = list(context.data.prompts_validation)
    if not prompts:
        return held_out
    if prompts.isdecimal():
        if not 1 <= int(prompts) <= len(held_out):
            raise UserError(f"best-of-n: --prompts: {prompts}, but the run held out {len(held_out)} prompts")
        return held_out[: int(prompts)]
    data = context.config.data
    return list(read_file(prompts, "prompt", data.template, chat=context.tokenizer.chat).records)


def stage_policy(context: Context, stage: str, decoder: DecoderSpec, named: str) -> Params:
    """The policy that a stage (sft, ppo, dpo or online) ended with, adapters merged.

    Raises:
      UserError: there is no checkpoint (begins with ``named``, what led there), or it has other shapes.
    """
    if stage == "sft":
        return load_parent(context, "sft", decoder)
    if stage in ("dpo", "online"):  # whose parameters are those of the policy alone
        init = adapted(context.config, stage, partial(init_decoder, decoder))
        return merge(restore(context, context.workdir / "checkpoints" / stage, named, init))
    return load_policy(context, context.workdir / "checkpoints" / stage, named, decoder)
