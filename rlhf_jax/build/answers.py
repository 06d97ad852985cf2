"""What a policy answers to the held-out prompts, in the figures of PPO's evaluation: shared by dpo and online."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rlhf_jax.build.common import evaluation_stream, sample_rows, samples_shown
from rlhf_jax.build.context import Context, load_parent, stage_config, stage_decoder, stage_ensemble
from rlhf_jax.build.ppo_evaluation import read_texts
from rlhf_jax.build.programs import Program
from rlhf_jax.build.specs import rollout_spec, stop_token, trained_bounded
from rlhf_jax.data.examples import prompt_rows
from rlhf_jax.data.loader import prompt_eval_batches
from rlhf_jax.evaluation.policy import diversity_metrics, gold_metrics
from rlhf_jax.generation import sample_judged
from rlhf_jax.models import ONE_MODEL
from rlhf_jax.parallel import to_host
from rlhf_jax.types import Params, PromptBatch, Rollout


def has_judge(config: ConfigDict) -> bool:
    """Whether a run has a reward model, its own or a parent's."""
    return bool(config.parents.reward) or "reward" in config.stages


def answering(context: Context, stage: str) -> Program:
    """Answers of a policy, what a reference makes of them and their rewards: (policy, reference, reward model or None,
    prompts, key).
    """
    config, tokenizer = context.config, context.tokenizer
    judged = has_judge(config)
    policy = stage_decoder(context, "sft")
    judge = stage_decoder(context, "reward") if judged else policy
    spec = rollout_spec(
        config,
        policy,
        judge,
        bounded=judged and trained_bounded(stage_config(config, "reward").reward),
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        ensemble=stage_ensemble(config, "reward") if judged else ONE_MODEL,
        stop_id=stop_token(config, tokenizer),
        samples=config.online.samples_per_prompt if stage == "online" else 1,
    )
    # What an update of PPO would want to know besides.
    spec = dataclasses.replace(spec, divergence=None, keeps_finished=False, value_after=False)

    def sample(
        policy: Params, reference: Params, reward: Params | None, prompts: PromptBatch, key: Any, axis_name: Any
    ) -> tuple[Rollout]:
        return (sample_judged(spec, policy, reference, reward, prompts, key),)

    return Program(f"{stage}.sample", sample, ("state",) * 3 + ("rows", "replicated"), ("rows",), inference=True)


class Answerer:
    """Samples of a stage's policy, compared with the SFT policy and scored by the run's reward model, if it has one."""

    def __init__(self, context: Context, stage: str, reference: Callable[[Params], Params]) -> None:
        """``reference`` gives the parameters of the SFT policy to those of a policy in training."""
        self.context, self.reference = context, reference
        self.judged = has_judge(context.config)
        judge = stage_decoder(context, "reward") if self.judged else None
        self.reward = None if judge is None else load_parent(context, "reward", judge)
        self.key = context.stage_key(stage)
        self._compiled = answering(context, stage).compile(context.executor)
        prompts, longest = context.data.prompts_validation, context.config.data.max_prompt
        self._prompts = prompt_rows(prompts, context.tokenizer, longest)[0]

    def sample(self, policy: Params, reference: Params, prompts: PromptBatch, key: jax.Array) -> Rollout:
        """One answer to each row of prompts."""
        return self._compiled(policy, reference, self.reward, self.context.executor.place(prompts, "rows"), key)[0]

    def held_out(self, policy: Params) -> Rollout:
        """All held-out prompts answered once, as one host-side rollout in their order."""
        config, tokenizer = self.context.config, self.context.tokenizer
        # As many rows as a rollout of PPO has: what is sampled of one policy is the same in every stage.
        size = config.ppo.prompts_per_iteration * config.ppo.samples_per_prompt
        batches = prompt_eval_batches(self._prompts, size, config.data.max_prompt, tokenizer.pad_id)
        stream, reference, parts = evaluation_stream(self.key), self.reference(policy), []
        for number, batch in enumerate(batches):
            found = to_host(self.sample(policy, reference, batch, jax.random.fold_in(stream, number)))
            real = np.asarray(batch.index) >= 0
            parts.append(jax.tree.map(lambda leaf, kept=real: leaf[kept], found))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def evaluate(self, policy: Params, final: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """(metrics under PPO's names, rows for the table of samples)."""
        data, config = self.context.data, self.context.config
        found = self.held_out(policy)
        texts = self._texts(found)
        kl = np.sum(np.where(found.response_mask, found.logprobs - found.ref_logprobs, 0.0), axis=1)
        tokens = found.response_mask.sum()
        metrics = {
            "kl": float(kl.mean()),
            "length": float(tokens / len(texts)),
            "entropy": float(-np.sum(found.logprobs, where=found.response_mask) / tokens),
        }
        if self.judged:
            metrics["reward.mean"] = float(found.raw_scores.mean())
        if found.spread is not None:
            metrics["reward.spread"] = float(found.spread.mean())
        metrics |= diversity_metrics(texts) | gold_metrics(data.prompts_validation, texts, data.gold)
        before = None
        if final:
            first = self.held_out(self.reference(policy))
            before = self._texts(first)
            if self.judged:
                metrics["reward.mean.before"] = float(first.raw_scores.mean())
        count = samples_shown(config, final)
        proxies = found.raw_scores if self.judged else None
        return metrics, sample_rows(data.prompts_validation, texts, data.gold, count, proxies, before)

    def _texts(self, found: Rollout) -> list[str]:
        return read_texts(self.context, found.response_ids, found.response_mask, found.read_mask)
