"""A rollout: sample responses, then score them under the reference, reward and value models."""

import dataclasses
import functools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.generation.decode import Completions, generate
from rlhf_jax.generation.sampling import SamplingSpec
from rlhf_jax.models import (
    ONE_MODEL,
    DecoderSpec,
    EnsembleSpec,
    apply_unpadded,
    at_last,
    last_hidden,
    output_logits,
    read_members,
    read_values,
    rewards_by_members,
)
from rlhf_jax.objectives.advantages import one_more
from rlhf_jax.objectives.aggregation import Aggregation, aggregate, spread
from rlhf_jax.objectives.divergences import Divergence
from rlhf_jax.objectives.exact_divergence import chunked_divergence
from rlhf_jax.objectives.likelihood import chunked_logprobs
from rlhf_jax.objectives.ppo import missing_eos_scores
from rlhf_jax.types import Params, PromptBatch, Rollout
from rlhf_jax.unpadding import ALL, Line, Room, line_of


@dataclasses.dataclass(frozen=True)
class RolloutSpec:
    """What is frozen during a run of PPO, apart from parameters. Lengths in tokens.

    The members of ``ensemble`` give one reward by ``aggregate`` with its ``uncertainty_penalty``. A response is
    ``fixed`` to max_response tokens, or ends with the end of sequence. It is read up to the first token ``stop_id`` at
    or after slot ``stop_after`` (None: up to its end of sequence), and one without is unfinished: its score becomes
    ``missing_eos_score`` (None: nothing happens), or has it added (``missing_eos_added``).

    ``keeps_finished`` wants to know which ones those are, whatever the rule.

    ``value`` is the decoder of the value model, None where it is the reward model's; with ``shared`` it is the policy
    itself. ``value_after`` wants the value after the last token too. ``divergence`` is summed over the vocabulary
    before each token, if given. With ``one_trunk`` the decoder of the reward model is the reference, of which it needs
    no copy: both are read from one forward pass. ``samples`` rows are expected to have the same prompt, which then is
    read once when they are sampled.
    """

    policy: DecoderSpec
    reward: DecoderSpec
    reward_bounded: bool
    max_response: int
    eos_id: int
    pad_id: int
    sampling: SamplingSpec
    missing_eos_score: float | None
    ensemble: EnsembleSpec = ONE_MODEL
    aggregate: Aggregation = "mean"
    uncertainty_penalty: float = 1.0
    fixed: bool = False
    stop_id: int | None = None
    stop_after: int = 0
    missing_eos_added: bool = False
    keeps_finished: bool = False
    value: DecoderSpec | None = None
    shared: bool = False
    value_after: bool = False
    divergence: Divergence | None = None
    one_trunk: bool = False
    samples: int = 1

    @property
    def cuts(self) -> bool:
        """Whether what is read of a response may be less than what was sampled."""
        return self.fixed or self.stop_id is not None


class Sampled(NamedTuple):
    """Responses, the tokens of each that are read, and whether it came to its end.

    Past what is read is padding, but for a fixed episode.
    """

    completions: Completions
    read: Bool[Array, "B R"]
    finished: Bool[Array, "B"]


def complete(spec: RolloutSpec, policy: Params, prompts: PromptBatch, key: jax.Array) -> Completions:
    """Sampled responses to ``prompts``, as they are read; row b draws from fold_in(key, prompts.row[b])."""
    sampled = sample(spec, policy, prompts, key)
    return cut(sampled, read_part(spec, sampled)[0], spec.pad_id) if spec.cuts else sampled


def sample(spec: RolloutSpec, policy: Params, prompts: PromptBatch, key: jax.Array) -> Completions:
    """All tokens that the policy draws, those past the cut too."""
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, prompts.row)
    return generate(
        spec.policy,
        policy,
        prompts.ids,
        prompts.mask,
        row_keys,
        max_new_tokens=spec.max_response,
        sampling=spec.sampling,
        eos_id=-1 if spec.fixed else spec.eos_id,
        pad_id=spec.pad_id,
        samples=spec.samples,
    )


def episodes(spec: RolloutSpec, policy: Params, prompts: PromptBatch, key: jax.Array) -> Sampled:
    """The responses of a rollout before they are scored."""
    sampled = sample(spec, policy, prompts, key)
    read, finished = read_part(spec, sampled)
    return Sampled(cut(sampled, read, spec.pad_id) if spec.cuts and not spec.fixed else sampled, read, finished)


def read_part(spec: RolloutSpec, sampled: Completions) -> tuple[Bool[Array, "B R"], Bool[Array, "B"]]:
    """(the tokens that are read, whether the response came to its end); without an end all tokens are read."""
    slots = jnp.arange(sampled.ids.shape[1])
    if spec.stop_id is None:
        ends = sampled.ids == spec.eos_id
    else:
        ends = (sampled.ids == spec.stop_id) & (slots >= spec.stop_after)
    ends &= sampled.mask
    finished = jnp.any(ends, axis=1)
    last = jnp.where(finished, jnp.argmax(ends, axis=1), slots[-1])
    return sampled.mask & (slots <= last[:, None]), finished


def cut(sampled: Completions, read: Bool[Array, "B R"], pad_id: int) -> Completions:
    """The completions with padding past what is read."""
    return Completions(jnp.where(read, sampled.ids, pad_id), read, jnp.where(read, sampled.logprobs, 0.0))


def ended(rollout: Rollout, eos_id: int) -> Bool[Array, "N"]:
    """Which responses came to an end: by the rule of the rollout, or by the end of sequence."""
    if rollout.finished is not None:
        return rollout.finished
    return jnp.any((rollout.response_ids == eos_id) & rollout.response_mask, axis=1)


def response_logprobs(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    response_length: int,
    temperature: float,
) -> Float[Array, "B R"]:
    """log p of the last ``response_length`` tokens of each row given the tokens before them, in nats."""
    hidden = apply_unpadded(spec, params, ids, mask, response_length)
    return _logprobs(spec, params, hidden, ids, response_length, temperature)


def _logprobs(
    spec: DecoderSpec,
    params: Params,
    hidden: Float[Array, "B N D"],
    ids: Int[Array, "B T"],
    response_length: int,
    temperature: float,
    line: Line | None = None,
) -> Float[Array, "B R"]:
    # Logits only where a response token is predicted: from the last prompt token on, the last token left out.
    return chunked_logprobs(
        hidden[:, -response_length - 1 : -1],
        ids[:, -response_length:],
        partial(output_logits, spec, params),
        temperature=temperature,
        line=line,
    )


def response_values(spec: RolloutSpec, value: Params, hidden: Float[Array, "B N D"]) -> Float[Array, "B R"]:
    """The value before each response slot, read from the final hidden states of the value model's own decoder."""
    return read_values(value["head"], hidden)[:, -spec.max_response - 1 : -1]


def response_divergences(
    spec: RolloutSpec,
    policy: Params,
    reference: Params,
    hidden: Float[Array, "B N D"],
    ref_hidden: Float[Array, "B N D"],
    line: Line | None = None,
) -> Float[Array, "B R"]:
    """The divergence of the policy's law of the next token from the reference's before each response slot, or those of
    ``line``, from the final hidden states of both.

    Raises:
      ValueError: the rollout asks for none.
    """
    if spec.divergence is None:
        raise ValueError("no divergence is asked for")
    own, other = (states[:, -spec.max_response - 1 : -1] for states in (hidden, ref_hidden))
    logits_of, other_logits_of = (partial(output_logits, spec.policy, params) for params in (policy, reference))
    temperature = spec.sampling.temperature or 1.0
    return chunked_divergence(
        spec.divergence, own, other, logits_of, other_logits_of, temperature=temperature, line=line
    )


def sample_rollout(
    spec: RolloutSpec,
    policy: Params,
    value: Params | None,
    reference: Params,
    reward: Params,
    prompts: PromptBatch,
    key: jax.Array,
    *,
    reward_bias: Float[Array, ""],
    reward_gain: Float[Array, ""],
) -> Rollout:
    """Responses of ``policy`` with all that an update needs, in one program: ``episodes``, then ``score``."""
    sampled = episodes(spec, policy, prompts, key)
    return score(
        spec,
        policy,
        value,
        reference,
        reward,
        prompts,
        sampled,
        reward_bias=reward_bias,
        reward_gain=reward_gain,
    )


def score(
    spec: RolloutSpec,
    policy: Params,
    value: Params | None,
    reference: Params,
    reward: Params,
    prompts: PromptBatch,
    sampled: Sampled,
    *,
    reward_bias: Float[Array, ""],
    reward_gain: Float[Array, ""],
    room: Room = ALL,
) -> Rollout:
    """What reference, value and reward models make of responses; scores are gain * r + bias, before the EOS rule.

    The order of the arguments is that of the roles: what samples, what is trained beside it (None: no value model),
    what is frozen. There is ``room`` for the tokens of all rows.
    """
    completions, read, has_eos = sampled
    ids = jnp.concatenate([prompts.ids, completions.ids], axis=1)
    mask = jnp.concatenate([prompts.mask, completions.mask], axis=1)
    line = line_of(completions.mask, room.responses)

    def read_rows(decoder: DecoderSpec, params: Params) -> Float[Array, "B N D"]:
        return apply_unpadded(decoder, params, ids, mask, spec.max_response, room)

    ref_hidden = read_rows(spec.policy, reference)
    ref_logprobs = _logprobs(
        spec.policy, reference, ref_hidden, ids, spec.max_response, spec.sampling.temperature or 1.0, line
    )

    @functools.cache
    def own_hidden() -> Float[Array, "B N D"]:
        return read_rows(spec.policy, policy)

    values = divergences = None
    if value is not None:
        hidden = own_hidden() if spec.shared else read_rows(spec.value or spec.reward, value["decoder"])
        slots = one_more(completions.mask) if spec.value_after else completions.mask
        values = jnp.where(slots, response_values(spec, value, hidden), 0.0)
    if spec.divergence is not None:
        divergences = response_divergences(spec, policy, reference, own_hidden(), ref_hidden, line)
    read_mask = jnp.concatenate([prompts.mask, read], axis=1) if spec.fixed else mask
    bounded = spec.reward_bounded
    # Hidden states do not know what comes after them, hence not where reading ends.
    if spec.one_trunk:
        last = at_last(ref_hidden, read_mask[:, -spec.max_response - 1 :])
        members = read_members(spec.ensemble, reward["head"], last, bounded=bounded)
    else:

        def last_of(decoder: Params) -> Float[Array, "B D"]:
            return last_hidden(spec.reward, decoder, ids, mask, read_mask, room)

        members = rewards_by_members(spec.reward, spec.ensemble, reward, last_of, bounded=bounded)
    alone = spec.ensemble.members == 1
    raw = members[0] if alone else aggregate(members, spec.aggregate, spec.uncertainty_penalty)
    scores = reward_gain * raw + reward_bias
    return Rollout(
        prompt_ids=prompts.ids,
        prompt_mask=prompts.mask,
        response_ids=completions.ids,
        response_mask=completions.mask,
        logprobs=completions.logprobs,
        ref_logprobs=jnp.where(completions.mask, ref_logprobs, 0.0),
        values=values,
        scores=missing_eos_scores(scores, has_eos, spec.missing_eos_score, added=spec.missing_eos_added),
        raw_scores=raw,
        index=prompts.index,
        spread=None if alone else spread(members),
        read_mask=read if spec.fixed else None,
        finished=has_eos if spec.cuts or spec.keeps_finished else None,
        divergences=divergences,
    )
