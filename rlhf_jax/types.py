"""The structs that cross rooms, and the legend of axis letters.

Axis letters, the same everywhere: ``B`` rows of a batch, ``K`` responses in a ranked list, ``T`` tokens of a row,
``P`` prompt tokens, ``R`` response tokens, ``W`` groups of lists, ``S`` responses of a group, ``C`` critique tokens,
``N`` episodes of a rollout, ``V`` vocabulary, ``D`` width, ``L`` layers, ``A`` aspects of a fine-grained reward, ``M``
members of an ensemble.

Each struct is a pytree whose leaves are NumPy arrays when the data room makes it and JAX arrays on the device. The
annotations give the batched shapes of one global batch; inside a device-parallel step the leading axis is local.
"""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, dataclass_transform

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

# A field may hold either kind of array. Type checkers see Any: rooms that annotate one kind would refuse the other.
if TYPE_CHECKING:
    Array: TypeAlias = Any
else:
    Array = jax.Array | np.ndarray
Params: TypeAlias = dict[str, Any]

# The axes of a mesh: rows are split over data and fsdp, parameters over fsdp and tensor, tokens of a row over sequence.
DATA, FSDP, TENSOR, SEQUENCE = "data", "fsdp", "tensor", "sequence"

Struct = TypeVar("Struct")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def _struct(cls: type[Struct]) -> type[Struct]:
    """A frozen dataclass that is a pytree.

    Rebuilding one from its leaves passes ``__init__`` by, and with it the check of shapes: JAX fills structs with
    shardings, abstract shapes and much else on the way.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(made))  # type: ignore[arg-type]
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

    def values(struct: Struct) -> tuple[Any, ...]:
        return tuple(getattr(struct, name) for name in names)

    def rebuild(_: None, leaves: Iterable[Any]) -> Struct:
        struct = object.__new__(made)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(struct, name, leaf)
        return struct

    jax.tree_util.register_pytree_with_keys(
        made,
        lambda struct: (tuple(zip(keys, values(struct), strict=True)), None),
        rebuild,
        lambda struct: (values(struct), None),
    )
    return made


@_struct
class TokenBatch:
    """Packed rows for supervised fine-tuning; several examples may share a row.

    ``segments`` numbers the examples of a row from 1, 0 is padding; attention stays inside a segment. ``positions``
    restart at 0 in each segment. ``loss_mask[b, t]`` says that the token *at* t is a target (predicted from t - 1).
    ``index`` is the row's place among the packed rows, -1 for padding, None of rows that nobody counts.
    """

    ids: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"]
    loss_mask: Bool[Array, "B T"]
    index: Int[Array, "B"] | None = None


@_struct
class ListTokens:
    """K responses to each of B prompts; a prompt stands there once, whatever the number of its responses.

    ``prompt_mask`` and ``mask`` mark real tokens (of a missing response, none); prompts are left-padded, responses
    right-padded. As a rule response k of list b is ``ids[b, k]``, and W = B, S = K. Lists of unequal length may share
    their room: the B / W lists that stand side by side then fill the S slots of one of W groups, ``slot[b, k]`` is that
    of a response (-1 of a missing one) and ``owner[w, s]`` in [0, B / W) the list of the group that a slot is of.
    """

    prompt_ids: Int[Array, "B P"]
    prompt_mask: Bool[Array, "B P"]
    ids: Int[Array, "W S R"]
    mask: Bool[Array, "W S R"]
    slot: Int[Array, "B K"] | None = dataclasses.field(default=None, kw_only=True)
    owner: Int[Array, "W S"] | None = dataclasses.field(default=None, kw_only=True)


@_struct
class RankBatch(ListTokens):
    """Ranked lists: the tokens of K responses to each of B prompts, and what was said of them.

    ``ranks`` counts from 0 = best. ``response_mask`` marks the responses that exist; a list with none is padding.
    ``utility`` is the index of the utility that the list's prompt type is trained under. ``better[b, i, j]`` says that
    i was judged better than j, ``tied`` (symmetric) that they were judged equal; of a partial order most pairs are
    neither. ``margin`` is how much better the source says the better one is, on its own scale, ``weight`` what the list
    counts for (that of its annotator). ``labels`` in [0, 1] and ``scores`` are verdicts on single responses, NaN where
    there is none. ``index`` is the list's place in its split, -1 for padding.
    """

    ranks: Int[Array, "B K"]
    response_mask: Bool[Array, "B K"]
    utility: Int[Array, "B"]
    better: Bool[Array, "B K K"]
    tied: Bool[Array, "B K K"]
    margin: Float[Array, "B"]
    weight: Float[Array, "B"]
    labels: Float[Array, "B K"]
    scores: Float[Array, "B K"]
    index: Int[Array, "B"]


def without_tokens(lists: RankBatch) -> RankBatch:
    """What was said of each list, to be mapped over lists: tokens may not lie by list."""
    ids, mask = lists.prompt_ids[:, :0], lists.prompt_mask[:, :0]
    return dataclasses.replace(
        lists, prompt_ids=ids, prompt_mask=mask, ids=ids[:, None], mask=mask[:, None], slot=None, owner=None
    )


@_struct
class PreferenceBatch:
    """Ranked lists for the policy itself to be trained on.

    ``ref_logprobs`` are the summed natural logs of the responses' tokens, end of sequence included, under the reference
    policy, 0 where there is none. For KTO, and then alone, the last of the K columns holds a response to another
    prompt: its tokens exist, but not ``lists.response_mask``, and nobody judged it.
    """

    lists: RankBatch
    ref_logprobs: Float[Array, "B K"]


@_struct
class CritiqueBatch:
    """Ranked lists and what was said of each response in words.

    The responses of ``lists`` end with the separator. ``ids`` are the critiques, C tokens of room each, right-padded,
    end of sequence included if they ended; ``mask`` marks their tokens, all False where nothing was said.
    """

    lists: RankBatch
    ids: Int[Array, "B K C"]
    mask: Bool[Array, "B K C"]


@_struct
class SegmentBatch:
    """Single responses whose segments were judged, prompt and response in one row.

    ``labels[b, t, a]`` in [0, 1], 1 good, stands at the last token of each segment of aspect a, NaN elsewhere.
    ``index`` is the response's place among the judged ones, -1 for padding.
    """

    ids: Int[Array, "B T"]
    mask: Bool[Array, "B T"]
    labels: Float[Array, "B T A"]
    index: Int[Array, "B"] | None = None


@_struct
class PromptBatch:
    """Left-padded prompts to be answered. ``index`` is the prompt's place in its split, for the host to find the text.

    ``row`` is the global row index: every row draws from its own random stream, so that the samples do not depend on
    how rows are spread over devices.
    """

    ids: Int[Array, "B P"]
    mask: Bool[Array, "B P"]
    index: Int[Array, "B"]
    row: Int[Array, "B"]


@_struct
class Rollout:
    """N episodes: left-padded prompts followed by sampled responses, with what the update needs about each token.

    Response arrays have one entry per response slot, t in [0, R); ``response_mask`` is True up to and including the
    first end-of-sequence token. ``logprobs`` and ``ref_logprobs`` are natural logs under the sampling policy (at the
    sampling temperature) and the reference. ``values[t]`` estimates the return from before token t on. ``scores`` is
    the reward model's reward of the whole response, after the missing-EOS rule; ``raw_scores`` before it. ``spread`` is
    the standard deviation of that reward over the members of an ensemble, None of a single model.
    ``dense[t]`` is what fine-grained reward models pay for token t, None without any; ``raw_scores`` then is the sum of
    all rewards of a response. ``parts`` are the rewards of each source by name, weighted, where there are several.

    ``values`` is None without a value model. ``read_mask`` marks the tokens that the reward model read, a prefix, where
    those of the episode are more; ``finished`` says which responses came to an end that counts, where that is not the
    end of sequence alone. ``divergences[t]`` is the exact divergence of policy and reference before token t, where that
    is asked for.
    """

    prompt_ids: Int[Array, "N P"]
    prompt_mask: Bool[Array, "N P"]
    response_ids: Int[Array, "N R"]
    response_mask: Bool[Array, "N R"]
    logprobs: Float[Array, "N R"]
    ref_logprobs: Float[Array, "N R"]
    values: Float[Array, "N R"] | None
    scores: Float[Array, "N"]
    raw_scores: Float[Array, "N"]
    index: Int[Array, "N"]
    dense: Float[Array, "N R"] | None = None
    spread: Float[Array, "N"] | None = None
    read_mask: Bool[Array, "N R"] | None = None
    finished: Bool[Array, "N"] | None = None
    divergences: Float[Array, "N R"] | None = None
    parts: dict[str, Any] | None = None


@_struct
class TrainState:
    """All that a learner carries from step to step; ``key`` is never consumed, only folded with ``step``.

    ``extra`` holds a learner's own scalars (PPO: the KL coefficient, running moments), empty for the others.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    key: Any
    extra: dict[str, Any]


def places_of(batch: Any) -> dict[str, list[int]]:
    """Where the examples of a host-side batch stand in their data, each once, by the part of the batch; {} of one that
    does not say.
    """
    names = {TokenBatch: "rows", RankBatch: "lists", SegmentBatch: "responses", PromptBatch: "prompts"}
    known = tuple(names)
    found: dict[str, list[int]] = {}
    for part in jax.tree.leaves(batch, is_leaf=lambda node: isinstance(node, known)):
        index = getattr(part, "index", None) if isinstance(part, known) else None
        if index is not None:
            found[names[type(part)]] = [place for place in dict.fromkeys(np.asarray(index).tolist()) if place >= 0]
    return found
