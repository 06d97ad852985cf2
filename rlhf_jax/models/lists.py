"""Lists of responses read by a decoder: each prompt once, its responses after it in two levels.

A response looks at its prompt, of which there is one copy for all responses, and at itself (``kernels.shared_prefix``):
exactly what each would find read by itself after a prompt of its own, by fewer tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from rlhf_jax.mesh import shards_of
from rlhf_jax.models.attention import Pick
from rlhf_jax.models.decoder import apply_decoder, attends, choose, read
from rlhf_jax.models.ensemble import rewards_by_members
from rlhf_jax.models.heads import at_last
from rlhf_jax.models.kernels import Attend, shared_prefix
from rlhf_jax.models.masks import positions_of
from rlhf_jax.models.spec import ONE_MODEL, DecoderSpec, EnsembleSpec
from rlhf_jax.types import SEQUENCE, ListTokens, Params


def read_lists(spec: DecoderSpec, params: Params, lists: ListTokens) -> Float[Array, "W S N D"]:
    """N = 1 + R final hidden states of each response: the one before its first token, then those of its tokens.

    In two levels, on every platform, prompts by the platform's kernel. Where there is one response to each, where cuDNN
    or splash is asked for by name, or tokens are split over devices, each response is read behind a copy of its prompt.
    """
    return _read(spec, params, lists, lambda x: x)


def read_last(spec: DecoderSpec, params: Params, lists: ListTokens) -> Float[Array, "W S D"]:
    """The final hidden state of the last token of each response, as in ``read_lists``."""
    mask = jnp.pad(lists.mask.reshape(-1, lists.mask.shape[2]), ((0, 0), (1, 0)))
    return _read(spec, params, lists, lambda x: at_last(x, mask)[:, None])[:, :, 0]


def _read(spec: DecoderSpec, params: Params, lists: ListTokens, pick: Pick) -> Float[Array, "W S N D"]:
    """Final hidden states of the tokens that ``pick`` takes from slots (W S, 1 + R, D), each a response and what comes
    before it."""
    groups, slots = lists.ids.shape[:2]
    together = shares_prompts(spec, slots, shards_of(SEQUENCE))
    hidden = (_together if together else _separately)(spec, params, lists, pick)
    return hidden.reshape(groups, slots, -1, spec.width)


def shares_prompts(spec: DecoderSpec, slots: int, shards: int) -> bool:
    """Whether so many responses of a group are read in two levels, with tokens split over so many devices.

    Wherever they may be, pairs too: docs/devices.md says how long answers may grow before a fused kernel is faster.
    """
    return slots > 1 and spec.attention not in ("cudnn", "splash") and shards == 1


def of_responses(lists: ListTokens, values: Shaped[Array, "*M W S"]) -> Shaped[Array, "*M B K"]:
    """Values of slots by list and response; 0 of a missing one, where lists share their slots."""
    if lists.slot is None:
        return values
    groups, (rows, columns) = values.shape[-2], lists.slot.shape
    place = lists.slot.reshape(groups, rows // groups * columns)
    found = jnp.take_along_axis(values, place.reshape((1,) * (values.ndim - 2) + place.shape), axis=-1)
    return jnp.where(lists.slot >= 0, found.reshape(*values.shape[:-2], rows, columns), 0)


def apply_reward_lists(
    spec: DecoderSpec,
    params: Params,
    lists: ListTokens,
    *,
    bounded: bool,
    ensemble: EnsembleSpec = ONE_MODEL,
) -> Float[Array, "M B K"]:
    """The reward of each response by every member, read at its last token, as by ``apply_reward_members``."""

    def last_of(decoder: Params) -> Float[Array, "N D"]:
        return read_last(spec, decoder, lists).reshape(-1, spec.width)

    flat = rewards_by_members(spec, ensemble, params, last_of, bounded=bounded)
    return of_responses(lists, flat.reshape(-1, *lists.mask.shape[:2]))


def _together(spec: DecoderSpec, params: Params, lists: ListTokens, pick: Pick) -> Float[Array, "W M D"]:
    groups, slots, length = lists.ids.shape
    prompt = lists.prompt_ids.shape[1]
    places = positions_of(lists.prompt_mask)
    since = jnp.sum(lists.prompt_mask, axis=1, dtype=jnp.int32).reshape(groups, -1)  # where responses begin
    seen = lists.prompt_mask.reshape(groups, -1, prompt)
    own_since, own_seen, own_places = (_of_owners(lists, x) for x in (since, seen, places.reshape(seen.shape)))
    later = own_since[:, :, None] + positions_of(lists.mask.reshape(-1, length)).reshape(lists.mask.shape)

    def masks(window: int) -> tuple[Bool[Array, "W S #R P"], Bool[Array, "W S R R"]]:
        """(of the prompt, of the response itself): what each token of a response sees."""
        before = own_seen[:, :, None, :]
        since = lists.mask[:, :, None, :] & jnp.tril(jnp.ones((length, length), bool))
        if not window:
            return before, since
        first = later[:, :, :, None] - window  # the last position that is too far away
        return before & (own_places[:, :, None, :] > first), since & (later[:, :, None, :] > first)

    wide = masks(0)
    near = masks(spec.window) if spec.window else wide
    of_prompts = attends(spec, lists.prompt_mask.astype(jnp.int32))

    def attend(local: Any) -> Attend:
        of_prompt, own = (choose({False: a, True: b}, local) for a, b in zip(wide, near, strict=True))
        return shared_prefix(spec, of_prompts(local), of_prompt, own, lists.owner)

    def rows(first: jax.Array, then: jax.Array) -> jax.Array:
        return jnp.concatenate([first.reshape(groups, -1), then.reshape(groups, -1)], axis=1)

    def of_slots(x: Float[Array, "W T *D"]) -> Float[Array, "W M *D"]:
        prompts, responses = jnp.split(x, [seen.shape[1] * prompt], axis=1)
        before = _of_owners(lists, prompts.reshape(*seen.shape, -1)[:, :, -1:])
        states = jnp.concatenate([before, responses.reshape(groups, slots, length, -1)], axis=2)
        return pick(states.reshape(groups * slots, 1 + length, -1)).reshape(groups, -1, x.shape[-1])

    tokens, positions = rows(lists.prompt_ids, lists.ids), rows(places, later)
    return read(spec, params, tokens, positions, attend, of_slots, keep=False)[0]


def _separately(spec: DecoderSpec, params: Params, lists: ListTokens, pick: Pick) -> Float[Array, "N M D"]:
    groups, slots, length = lists.ids.shape
    prompt = lists.prompt_ids.shape[1]

    def rows(first: Shaped[Array, "B P"], then: Shaped[Array, "W S R"]) -> Shaped[Array, "N T"]:
        copies = _of_owners(lists, first.reshape(groups, -1, prompt))
        return jnp.concatenate([copies, then], axis=2).reshape(groups * slots, prompt + length)

    ids, mask = rows(lists.prompt_ids, lists.ids), rows(lists.prompt_mask, lists.mask)
    return apply_decoder(spec, params, ids, positions_of(mask), mask, lambda x: pick(x[:, prompt - 1 :]))


def _of_owners(lists: ListTokens, x: Shaped[Array, "W J *D"]) -> Shaped[Array, "W S *D"]:
    """To each slot what is its list's."""
    if lists.owner is None:
        return jnp.broadcast_to(x, (x.shape[0], lists.ids.shape[1], *x.shape[2:]))
    return jnp.take_along_axis(x, lists.owner.reshape(*lists.owner.shape, *[1] * (x.ndim - 2)), axis=1)
