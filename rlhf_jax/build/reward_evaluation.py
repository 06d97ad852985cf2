"""What an evaluation of a reward stage measures: rewards of the held-out lists, and of training lists if asked for."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from rlhf_jax.build.best import Table, best_of_lists, optimum_record, w1_between_types
from rlhf_jax.build.common import floats, list_sizes
from rlhf_jax.build.context import Context
from rlhf_jax.build.specs import utility_table
from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.loader import rank_eval_batches
from rlhf_jax.diagnostics.spread import measure_spread, spread_metrics
from rlhf_jax.evaluation.reward import RewardEvaluation, evaluate_reward_model
from rlhf_jax.evaluation.verdicts import bayes_optimal, gold_accuracy, rewards_of_responses, verdict_metrics
from rlhf_jax.learners.reward import RewardSpec
from rlhf_jax.loop import Evaluation
from rlhf_jax.parallel import to_host
from rlhf_jax.types import Params, RankBatch, TrainState

# Parameters and a batch to ((loss numerator, weight), rewards (B, K, M) by member), compiled.
Scorer = Callable[[Params, RankBatch], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class RewardEvaluator:
    """The lists of a stage with all that their evaluation needs; ``members`` of the reward model, ``table`` its
    utilities.
    """

    context: Context
    spec: RewardSpec
    members: int
    table: Table
    held_out: Sequence[ListExample]
    seen: Sequence[ListExample]
    scorer: Scorer

    def evaluate(self, state: TrainState, final: bool) -> Evaluation:
        """The held-out lists, in detail at the end, and the training lists; with the best figures the data allow."""
        found = self._score(state, self.held_out, "validation", detailed=final)
        metrics, rows = found.metrics, found.rows
        data = self.context.data
        rewards = rewards_of_responses(rows, self.held_out, self.context.config.data.list_size)
        metrics |= verdict_metrics(self.held_out, rewards, self.spec.feedback, bounded=self.spec.bounded)
        metrics |= self._bayes
        if data.gold and data.annotators:
            metrics |= gold_accuracy(data.lists_validation, rewards, data.gold)
        if self.seen:
            trained = self._score(state, self.seen, "train", detailed=False)
            metrics |= {f"train.{name}": value for name, value in trained.metrics.items()}
            rows += trained.rows
        return Evaluation(floats(metrics), rewards=rows, warnings=found.warnings)

    @cached_property
    def optimum(self) -> dict[str, Any]:
        """The record of what the utilities ask for; empty where nothing bounds the rewards, or no utility trains."""
        if not self._has_best:
            return {}
        return optimum_record(self.held_out, self._best["validation"], self.table, self._wanted, self._apart)

    @property
    def _has_best(self) -> bool:
        """Best rewards need an end to the scale."""
        return self.spec.bounded and self.spec.feedback.loss == "utility"

    @property
    def _wanted(self) -> Table:
        """Types should lie as far apart as the prompt-aware utilities ask for, in the stage with one utility for all as
        well: that it cannot do so is the finding.
        """
        return utility_table(self.context.config.reward, prompt_aware=True)

    @cached_property
    def _best(self) -> dict[str, list[Float[np.ndarray, "_"] | None]]:
        lists, size = {"train": self.seen, "validation": self.held_out}, self.context.config.data.list_size
        return {
            split: best_of_lists(own, self.table, size) if self._has_best else [None] * len(own)
            for split, own in lists.items()
        }

    @cached_property
    def _apart(self) -> dict[tuple[str, str], float]:
        if not self._has_best:
            return {}
        wanted = best_of_lists(self.held_out, self._wanted, self.context.config.data.list_size)
        return w1_between_types(self.held_out, wanted)

    @cached_property
    def _bayes(self) -> dict[str, float]:
        data = self.context.data
        if data.gold is None or data.annotators is None:
            return {}
        return bayes_optimal(data.lists_validation, data.annotators, data.gold)

    def _score(
        self, state: TrainState, examples: Sequence[ListExample], split: str, *, detailed: bool
    ) -> RewardEvaluation:
        config, data = self.context.config, self.context.data
        members: list[np.ndarray] = []
        batches: list[RankBatch] = []

        def loss_and_rewards(batch: RankBatch) -> tuple[float, float, np.ndarray]:
            placed = self.context.executor.place(batch, "rows")
            (loss, weight), rewards = to_host(self.scorer(state.params, placed))
            members.append(rewards)
            batches.append(batch)
            return float(loss), float(weight), rewards.mean(axis=-1)

        records = data.lists if split == "train" else data.lists_validation
        gold = [
            [one.score if data.gold is None else data.gold(record.prompt, one.text) for one in record.responses]
            for record in (records[example.index] for example in examples)
        ]
        found = evaluate_reward_model(
            loss_and_rewards,
            rank_eval_batches(
                examples,
                self.table[1],
                config.reward.batch_size,
                list_sizes(self.context, examples, config.data.max_response),
                self.context.tokenizer.pad_id,
            ),
            examples,
            gold,
            best=self._best[split],
            apart=self._apart,
            split=split,
            detailed=detailed,
        )
        if self.members == 1 or not detailed:
            return found
        apart_by = measure_spread(
            np.concatenate(members).astype(float),
            np.concatenate([batch.better for batch in batches]),
            np.concatenate([batch.response_mask for batch in batches]),
        )
        return dataclasses.replace(found, metrics=found.metrics | spread_metrics(apart_by))
