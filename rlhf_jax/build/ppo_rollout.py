"""Rollouts of PPO: what samples, and what scores by the room that the tokens of its rows need."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from rlhf_jax.build.common import by_rows
from rlhf_jax.build.context import Context
from rlhf_jax.build.ppo_models import Frozen
from rlhf_jax.build.programs import Program
from rlhf_jax.build.rooms import room_for, within
from rlhf_jax.parallel import to_host
from rlhf_jax.types import Params, PromptBatch, Rollout
from rlhf_jax.unpadding import ALL

# Told of a part of an iteration when it is handed over, and of an array that it makes.
Expect = Callable[[str, Any], None]


def _nobody_waits(part: str, result: Any) -> None:
    """Of an evaluation, which is no part of an iteration."""


class Rollouts:
    """Answers of a policy in training, ``config.ppo.rollout_rows`` at once, scored by the models of ``frozen``.

    ``slots`` are those of a row: of all its tokens, of its response.
    """

    def __init__(self, context: Context, frozen: Frozen, sample: Program, score: Program, *, unpadded: bool) -> None:
        data = context.config.data
        self._executor, self._rows = context.executor, context.config.ppo.rollout_rows
        self.slots = np.array([data.max_prompt + data.max_response, data.max_response])
        self._frozen, self._unpadded = frozen, unpadded
        self._sample = sample.compile(self._executor)
        self._score = functools.cache(lambda room: within(score, room).compile(self._executor))

    def __call__(
        self,
        params: Params,
        extra: dict[str, Any],
        prompts: PromptBatch,
        key: jax.Array,
        expect: Expect = _nobody_waits,
    ) -> tuple[Rollout, Int[np.ndarray, "N 2"]]:
        """(rollout, tokens of each episode and of its response: of none where padding is not left out)."""
        models = params["policy"], params.get("value"), *self._frozen(params)
        rewards = {name: extra[name] for name in ("reward_bias", "reward_gain")}
        lengths = [np.zeros((0, 2), int)]

        def answered(part: PromptBatch) -> Rollout:
            placed, room = self._executor.place(part, "rows"), ALL
            sampled = self._sample(params["policy"], placed, key)[0]
            if self._unpadded:
                prompt, response = (mask.sum(axis=1) for mask in to_host((part.mask, sampled.completions.mask)))
                lengths.append(np.stack([prompt + response, response], axis=1))
                room = room_for(lengths[-1].sum(axis=0), len(prompt) * self.slots)
            # Where lengths were waited for it is done, and what scoring takes is not in its time.
            expect("sampling", sampled.completions.mask)
            rollout: Rollout = self._score(room)(*models, placed, sampled, rewards)[0]
            expect("scoring", rollout.scores)
            return rollout

        rollout = by_rows(answered, prompts, self._rows)
        return self._executor.place(rollout, "rows") if self._rows else rollout, np.concatenate(lengths)
