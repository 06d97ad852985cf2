"""A run's policy to talk to, and its reward model or another run's: everything between a run directory and answers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rlhf_jax.build.best_of_n import stage_policy
from rlhf_jax.build.context import (
    Context,
    checked_run,
    load_parent,
    read_run,
    stage_config,
    stage_decoder,
    stage_directory,
    stage_ensemble,
)
from rlhf_jax.build.data import Data, run_tokenizer
from rlhf_jax.build.specs import rollout_spec, stop_token, trained_bounded
from rlhf_jax.data.examples import PromptRow, encoded
from rlhf_jax.data.loader import prompt_eval_batches
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.readers.dialogue import render
from rlhf_jax.data.records import Message, Prompt
from rlhf_jax.evaluation.policy import decode_responses
from rlhf_jax.generation import SamplingSpec
from rlhf_jax.generation.best_of_n import sample_scored
from rlhf_jax.generation.rollout import complete
from rlhf_jax.models import ONE_MODEL
from rlhf_jax.parallel import MeshExecutor
from rlhf_jax.types import PromptBatch

SHORTEST = 16  # tokens of the smallest program; each next one is for prompts of twice the length


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Answers to one prompt, and the reward of each by every one of M members (0 without a reward model). ``cut``: the
    prompt lost its beginning."""

    texts: list[str]
    rewards: Float[np.ndarray, "n M"]
    cut: bool


class Speaker:
    """The policy of a run on one device, with a reward model or without.

    A prompt is padded to one of few lengths, so that a session compiles few programs.
    """

    def __init__(self, run: Path, stage: str, reward: str, sampling: SamplingSpec) -> None:
        """``reward`` is a run whose reward model is taken instead of this one's; "" for its own.

        Raises:
          UserError: there is no such run, policy or reward model, or the two read text differently.
        """
        context = _context(run)
        config, tokenizer = context.config, context.tokenizer
        if reward:
            checked_run(context, Path(reward), "chat: --reward")
            config.parents.reward = reward
        self.judged = bool(config.parents.reward) or stage_directory(context, "reward").is_dir()
        self._context = context
        self._policy = stage_policy(context, stage, stage_decoder(context, "sft"), "chat: --stage")
        judge = stage_decoder(context, "reward" if self.judged else "sft")
        self._reward = load_parent(context, "reward", judge) if self.judged else None
        spec = rollout_spec(
            config,
            stage_decoder(context, "sft"),
            judge,
            bounded=self.judged and trained_bounded(stage_config(config, "reward").reward),
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            ensemble=stage_ensemble(config, "reward") if self.judged else ONE_MODEL,
            stop_id=stop_token(config, tokenizer),
        )
        self._spec = spec = dataclasses.replace(spec, sampling=sampling)

        def answer(policy: Any, reward: Any, prompts: PromptBatch, key: jax.Array, axis_name: Any) -> tuple[Any, ...]:
            if reward is not None:
                return sample_scored(spec, policy, reward, prompts, key)
            found = complete(spec, policy, prompts, key)
            return found.ids, found.mask, found.logprobs[:, :0]

        kinds = ("state", "state", "rows", "replicated")
        self._compiled = context.executor.compile(answer, kinds, ("rows",) * 3, inference=True)  # type: ignore[arg-type]

    @property
    def in_chat(self) -> bool:
        """Whether dialogues are rendered by a chat template; then their turns are what is encoded."""
        return self._context.tokenizer.chat is not None

    def answer(self, turns: Sequence[Message], n: int, seed: int, draw: int) -> Sampled:
        """n answers to a dialogue; number k draws from row k of the key that ``seed`` and ``draw`` make.

        Raises:
          UserError: the prompt has no tokens, or the chat template refuses it.
        """
        data, tokenizer = self._context.config.data, self._context.tokenizer
        prompt: Prompt = tuple(turns) if self.in_chat else render(turns, data.template)
        (((ids, cut), _),) = encoded(tokenizer, [(prompt, ())], data.max_prompt, 1)
        rows = [PromptRow(ids, number) for number in range(n)]
        (batch,) = prompt_eval_batches(rows, n, bucket(len(ids), data.max_prompt), tokenizer.pad_id)
        key = jax.random.fold_in(jax.random.key(seed), draw)
        batch = self._context.executor.place(batch, "rows")
        found, mask, rewards = jax.device_get(self._compiled(self._policy, self._reward, batch, key))
        return Sampled(decode_responses(tokenizer, found, mask), np.asarray(rewards), cut)

    def prompts(self, path: str) -> list[tuple[Message, ...]]:
        """The dialogues of a file of prompts, to be answered one after the other.

        Raises:
          UserError: a bad row, as ``file:line: field: reason``.
        """
        found = read_file(path, "prompt", chat=self._context.tokenizer.chat).records
        return [record.messages or (Message("user", record.prompt),) for record in found]


def bucket(length: int, longest: int) -> int:
    """The smallest of 16, 32, 64, ... tokens that holds ``length`` of them, at most ``longest``."""
    size = SHORTEST
    while size < length:
        size *= 2
    return min(size, longest)


def _context(run: Path) -> Context:
    """A run without its data, which may be elsewhere by now."""
    config, _ = read_run(run)
    tokenizer = run_tokenizer(config, run / "tokenizer")
    nothing = Data((), (), (), (), (), (), None)
    return Context(config, run, MeshExecutor(jax.devices()[:1]), nothing, tokenizer)
