"""PPO's figures on held-out prompts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rlhf_jax.build.common import evaluation_stream, floats, sample_rows, samples_shown
from rlhf_jax.build.context import Context
from rlhf_jax.data.examples import prompt_rows
from rlhf_jax.data.loader import prompt_eval_batches
from rlhf_jax.data.segments import paid_parts
from rlhf_jax.diagnostics.overoptimisation import reward_gap
from rlhf_jax.evaluation.policy import decode_responses, diversity_metrics, gold_metrics
from rlhf_jax.learners.ppo import PPOSpec
from rlhf_jax.learners.ppo_metrics import held_out_metrics
from rlhf_jax.loop import Evaluation
from rlhf_jax.parallel import to_host
from rlhf_jax.types import Params, PromptBatch, Rollout, TrainState

# Parameters, a state's extra, prompts and a key to their rollout, on the device.
Answer = Callable[[Params, dict[str, Any], PromptBatch, jax.Array], Rollout]

# Compiled once: evaluations go on for as long as a run.
_described = jax.jit(held_out_metrics, static_argnums=(0, 1))


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out prompts of a run, answered by a policy in training, ``rows`` at once."""

    context: Context
    spec: PPOSpec
    reference: Callable[[Params], Params]
    rows: int
    key: jax.Array
    start: list[tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=list)

    def answers(self, answer: Answer, params: Params, extra: dict[str, Any]) -> Rollout:
        """All held-out prompts answered once, as one host-side rollout in their order."""
        data, tokenizer = self.context.config.data, self.context.tokenizer
        prompts = prompt_rows(self.context.data.prompts_validation, tokenizer, data.max_prompt)[0]
        parts = []
        stream = evaluation_stream(self.key)
        for number, batch in enumerate(prompt_eval_batches(prompts, self.rows, data.max_prompt, tokenizer.pad_id)):
            found = to_host(answer(params, extra, batch, jax.random.fold_in(stream, number)))
            real = np.asarray(batch.index) >= 0
            parts.append(jax.tree.map(lambda leaf, kept=real: leaf[kept], found))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def evaluate(self, answer: Answer, state: TrainState, final: bool) -> Evaluation:
        """Figures and samples of the policy; at the end beside those of the policy that it started from."""
        data, gold = self.context.data, self.context.data.gold
        found = self.answers(answer, state.params, state.extra)
        texts = self.texts(found)
        kl = np.sum(np.where(found.response_mask, found.logprobs - found.ref_logprobs, 0.0), axis=1)
        tokens = found.response_mask.sum()
        metrics = floats(_described(self.spec, self.context.tokenizer.eos_id, found, state.extra)) | {
            "reward.mean": float(found.raw_scores.mean()),
            "kl": float(kl.mean()),
            "length": float(tokens / len(texts)),
            "entropy": float(-np.sum(found.logprobs, where=found.response_mask) / tokens),
        }
        if found.spread is not None:
            metrics["reward.spread"] = float(found.spread.mean())
        metrics |= diversity_metrics(texts) | gold_metrics(data.prompts_validation, texts, gold)
        if self.context.config.ppo.monitor.gap:
            metrics["gap"] = reward_gap(found.raw_scores, self.golds(texts), *self.started(answer, state))
        before = None
        if final:
            first = self.first(answer, state)
            before = self.texts(first)
            metrics["reward.mean.before"] = float(first.raw_scores.mean())
        count = samples_shown(self.context.config, final)
        rows = sample_rows(data.prompts_validation, texts, gold, count, found.raw_scores, before, self.paid(found))
        return Evaluation(metrics, rows)

    def first(self, answer: Answer, state: TrainState) -> Rollout:
        """What the policy answered that the one in training started from."""
        return self.answers(answer, {**state.params, "policy": self.reference(state.params)}, state.extra)

    def started(self, answer: Answer, state: TrainState) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and gold of those answers, computed once: neither changes."""
        if not self.start:
            first = self.first(answer, state)
            self.start.append((first.raw_scores, self.golds(self.texts(first))))
        return self.start[0]

    def golds(self, texts: Sequence[str]) -> np.ndarray:
        """The true reward of an answer to each held-out prompt."""
        data = self.context.data
        assert data.gold is not None  # noqa: S101  # by the rules of the configuration
        return np.array([data.gold(one.prompt, text) for one, text in zip(data.prompts_validation, texts, strict=True)])

    def texts(self, found: Rollout) -> list[str]:
        """What is read of each response."""
        return read_texts(self.context, found.response_ids, found.response_mask, found.read_mask)

    def paid(self, found: Rollout) -> Callable[[int], list[tuple[int, int, float]]] | None:
        """What each part of a response was paid, by its place, where fine-grained reward models pay."""
        mask, dense = found.response_mask if found.read_mask is None else found.read_mask, found.dense
        if dense is None:
            return None
        return lambda place: paid_parts(found.response_ids[place], mask[place], dense[place], self.context.tokenizer)


def read_texts(context: Context, ids: np.ndarray, mask: np.ndarray, read_mask: np.ndarray | None) -> list[str]:
    """The texts of responses, up to where they are read."""
    return decode_responses(context.tokenizer, ids, mask if read_mask is None else read_mask)
