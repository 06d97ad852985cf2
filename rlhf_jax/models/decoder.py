"""The decoder: pure ``init`` and ``apply`` around Linen blocks whose parameters are stacked over layers."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.mesh import platform
from rlhf_jax.models.attention import Attention, LayerCache, Pick
from rlhf_jax.models.kernels import Attend, blockwise, cudnn, kernel_of, plain, splash
from rlhf_jax.models.layout import place_hidden, place_keys
from rlhf_jax.models.lora import Dense
from rlhf_jax.models.masks import segment_mask, window_mask
from rlhf_jax.models.norms import make_norm, normed
from rlhf_jax.models.precision import product
from rlhf_jax.models.quantised import is_quantised
from rlhf_jax.models.rotary import Turns, frequencies, turns
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

Cache: TypeAlias = tuple[LayerCache, ...]
# From whether a layer is local, which may be known only when the program runs, to its attention.
AttendOf: TypeAlias = Callable[[Any], Attend]

# What a layer keeps for its backward pass, where that is not everything: full, nothing but its input; dots, also the
# results of its products with parameters (and what splash needs), but no attention weights.
_POLICIES: dict[str, Callable[..., Any] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("attention"),
    ),
}


# Layers that are written out one after the other on CPUs, where a loop would fill what it keeps for the backward pass
# with zeros first, and copy every layer's parameters out of the stack (docs/LOG.md, 2026-11-30).
_WRITTEN_OUT = 16


class Block(nn.Module):
    """One pre-norm layer: attention, then the feed-forward network."""

    spec: DecoderSpec

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        attend: Attend,
        turn: Turns | None,
        cache: LayerCache | None = None,
        slot: Int[Array, ""] | int = 0,
        pick: Pick | None = None,
    ) -> tuple[Float[Array, "B N D"], LayerCache]:
        spec = self.spec
        y = normed(make_norm(spec, "attention_norm"), x)
        mixed, seen = Attention(spec, name="attention")(y, attend, turn, cache, slot, pick)
        if pick is not None:
            x = pick(x)
        if spec.post_norms:
            mixed = normed(make_norm(spec, "attention_post_norm"), mixed)
        if spec.parallel:
            return x + mixed + self._feed_forward(normed(make_norm(spec, "mlp_norm"), x)), seen
        x = x + mixed
        y = self._feed_forward(normed(make_norm(spec, "mlp_norm"), x))
        if spec.post_norms:
            y = normed(make_norm(spec, "mlp_post_norm"), y)
        return x + y, seen

    def _feed_forward(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        spec = self.spec

        def dense(features: int, name: str) -> Dense:
            return Dense(
                features, use_bias=spec.mlp_bias, dtype=spec.compute_dtype, param_dtype=spec.param_dtype, name=name
            )

        if spec.activation in ("swiglu", "geglu"):
            squash = nn.silu if spec.activation == "swiglu" else nn.gelu
            hidden = squash(dense(spec.mlp_width, "gate")(x)) * dense(spec.mlp_width, "up")(x)
        else:
            hidden = nn.gelu(dense(spec.mlp_width, "up")(x), approximate=spec.activation == "gelu")
        return dense(spec.width, "down")(hidden)


def _turns(spec: DecoderSpec, positions: Int[Array, "B T"]) -> dict[bool, Turns | None]:
    """Of local layers (True) and of the others; None without rotary positions."""
    if spec.positions != "rotary":
        return {False: None, True: None}
    wide = jnp.promote_types(spec.compute_dtype, jnp.float32)
    gain = spec.rope_scaling.gain if spec.rope_scaling else 1.0
    every = turns(positions, frequencies(spec.rotary_dim, spec.rope_theta, spec.rope_scaling, wide), gain)
    if not spec.local_rope_theta:
        return {False: every, True: every}
    return {False: every, True: turns(positions, frequencies(spec.rotary_dim, spec.local_rope_theta, None, wide), gain)}


def init_decoder(spec: DecoderSpec, key: jax.Array) -> Params:
    """Fresh parameters, a plain nested dict; the leaves under ``layers`` have a leading axis of length depth."""
    key_embed, key_position, key_layers, key_head = jax.random.split(key, 4)
    dtype = spec.param_dtype
    x = jnp.zeros((1, 1, spec.width), spec.compute_dtype)
    position, attend = jnp.zeros((1, 1), jnp.int32), plain(spec, jnp.ones((1, 1, 1), bool))

    def init_layer(layer_key: jax.Array) -> Params:
        return Block(spec).init(layer_key, x, attend, _turns(spec, position)[False])["params"]

    def normal(some_key: jax.Array, *shape: int) -> jax.Array:
        return 0.02 * jax.random.normal(some_key, shape, dtype)

    params: Params = {
        "embedding": normal(key_embed, spec.vocab_size, spec.width),
        "layers": jax.vmap(init_layer)(jax.random.split(key_layers, spec.depth)),
        "final_norm": make_norm(spec, "final_norm").init(key_head, x)["params"],
    }
    if spec.positions == "learned":
        params["position_embedding"] = normal(key_position, spec.max_positions, spec.width)
    if not spec.tied:
        params["output"] = normal(key_head, spec.width, spec.vocab_size)
    return params


def apply_decoder(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"] | Bool[Array, "B T"],
    pick: Pick | None = None,
) -> Float[Array, "B N D"]:
    """Final hidden states of whole rows, or of the tokens of ``pick``. Each sees itself and the earlier tokens of its
    segment.

    ``segments`` numbers the texts of a row from 1 (or True); 0 is padding, whose hidden states mean nothing. The tokens
    of a segment stand side by side, and ``positions`` counts them from 0. Layers are scanned: one is compiled,
    whatever the depth (on CPUs every one, if they are few).
    """
    return read(spec, params, ids, positions, attends(spec, jnp.asarray(segments, jnp.int32)), pick, keep=False)[0]


def fill_cache(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"] | Bool[Array, "B T"],
    slots: int,
    pick: Pick | None = None,
) -> tuple[Float[Array, "B N D"], Cache]:
    """``apply_decoder``, and a cache of so many slots with the T tokens in the first of them.

    Per layer, keys and values of shape (B, kv_heads, slots, head_dim), in the compute dtype.
    """
    hidden, kept = read(spec, params, ids, positions, attends(spec, jnp.asarray(segments, jnp.int32)), pick, keep=True)
    room = [(0, 0), (0, 0), (0, slots - ids.shape[1]), (0, 0)]

    def layer(stacked: Float[Array, "L B G T C"], index: int) -> Float[Array, "B G S C"]:
        return place_keys(jnp.pad(stacked[index].astype(spec.compute_dtype), room))

    return hidden, tuple((layer(kept[0], index), layer(kept[1], index)) for index in range(spec.depth))


def read(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    attend: AttendOf,
    pick: Pick | None = None,
    *,
    keep: bool,
) -> tuple[Float[Array, "B N D"], Any]:
    """(final hidden states of the tokens of ``pick``, keys and values of all layers where they are to be kept).

    Where layers are written out the last one is worked on for those tokens alone, from its attention on.
    """
    block, kinds = Block(spec), spec.local or (False,) * spec.depth
    turn = _turns(spec, positions)

    def layer(
        x: Float[Array, "B T D"], layer_params: Params, local: bool | Bool[Array, ""], pick: Pick | None = None
    ) -> tuple[Float[Array, "B N D"], LayerCache | None]:
        applied: Any = block.apply({"params": layer_params}, x, attend(local), choose(turn, local), pick=pick)
        return place_hidden(applied[0]), applied[1] if keep else None

    if spec.remat != "none":
        layer = jax.checkpoint(layer, policy=_POLICIES[spec.remat], prevent_cse=False)
    x = _embed(spec, params, ids, positions)
    written_out, layers = _written_out(spec), params["layers"]
    apart = written_out and pick is not None
    if apart:
        layers, kinds = jax.tree.map(lambda leaf: leaf[:-1], layers), kinds[:-1]
    # A pattern is data of the scan: layers of both kinds are one compiled body.
    if len(set(kinds)) < 2:
        local = kinds[:1] == (True,)
        x, kept = jax.lax.scan(lambda x, one: layer(x, one, local), x, layers, unroll=written_out)
    else:
        x, kept = jax.lax.scan(lambda x, one: layer(x, *one), x, (layers, jnp.asarray(kinds)), unroll=written_out)
    if apart:
        x, last = layer(x, _layer(params["layers"], -1), spec.local[-1:] == (True,), pick)
        kept = jax.tree.map(lambda others, one: jnp.concatenate([others, one[None]]), kept, last)
    elif pick is not None:
        x = pick(x)
    return _final_norm(spec, params, x), kept


def _written_out(spec: DecoderSpec) -> bool:
    """Whether the loop over layers is. What is computed again needs the loop, or would be kept after all."""
    return platform() == "cpu" and spec.remat == "none" and spec.depth <= _WRITTEN_OUT


def extend_cache(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    mask: Bool[Array, "B T S"],
    cache: Cache,
    slot: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "B T D"], Cache]:
    """Final hidden states of T tokens, and the cache with them written at ``slot`` on.

    ``mask[b, t, s]``: may token t look at slot s of the S that the cache has. ``positions[b, t]`` counts the real
    tokens before it, from 0. Layers are unrolled, for a scan would copy the cache at every token.
    """
    x, block, turn = _embed(spec, params, ids, positions), Block(spec), _turns(spec, positions)
    attend = {kind: plain(spec, seen) for kind, seen in _masks(spec, mask).items()}
    kinds = spec.local or (False,) * spec.depth
    layers = []
    for index, layer_cache in enumerate(cache):
        own, local = _layer(params["layers"], index), kinds[index]
        applied: Any = block.apply({"params": own}, x, attend[local], turn[local], layer_cache, slot)
        x = applied[0]
        layers.append(applied[1])
    return _final_norm(spec, params, x), tuple(layers)


def for_a_loop(spec: DecoderSpec, params: Params) -> Params:
    """The parameters as a loop of ``extend_cache`` wants to find them: each layer's own, and on CPUs the output matrix
    of tied embeddings as products read it. In the loop they would be copied at every token.

    Codes of few bits stay stacked: they were kept for their size, and are made into kernels at every token anyway.
    """
    if not is_quantised(params["layers"]):
        params = {**params, "layers": tuple(_layer(params["layers"], index) for index in range(spec.depth))}
    if spec.tied and platform() == "cpu":
        params = {**params, "output": params["embedding"].T}
    # Or the compiler would move into the loop what is cheap in its eyes.
    ready: Params = jax.lax.optimization_barrier(params)
    return ready


def _layer(layers: Params | tuple[Params, ...], index: int) -> Params:
    """The parameters of one layer, from stacked ones or from layers by themselves."""
    if isinstance(layers, tuple):
        return layers[index]
    own: Params = jax.tree.map(lambda leaf: leaf[index], layers)
    return own


def _embed(
    spec: DecoderSpec, params: Params, ids: Int[Array, "B T"], positions: Int[Array, "B T"]
) -> Float[Array, "B T D"]:
    x = params["embedding"][ids].astype(spec.compute_dtype)
    if spec.scaled_embeddings:
        x = x * jnp.asarray(spec.width**0.5, spec.compute_dtype)
    if spec.positions == "learned":
        x = x + params["position_embedding"][positions].astype(spec.compute_dtype)
    return place_hidden(x)


def _final_norm(spec: DecoderSpec, params: Params, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    norm: Any = make_norm(spec, "final_norm").apply
    return normed(partial(norm, {"params": params["final_norm"]}), x)


def _masks(spec: DecoderSpec, mask: Bool[Array, "B T S"]) -> dict[bool, Bool[Array, "B T S"]]:
    return {False: mask, True: window_mask(mask, spec.window) if spec.window else mask}


def attends(spec: DecoderSpec, segments: Int[Array, "B T"]) -> AttendOf:
    """The attention of each token to itself and the earlier tokens of its segment."""
    kernel = kernel_of(spec)
    if kernel == "splash":
        own = {local: splash(spec, segments, spec.window if local else 0) for local in (False, True)}

        def either(local: Any) -> Attend:
            if isinstance(local, bool):
                return own[local]
            return lambda *arrays: jax.lax.cond(local, own[True], own[False], *arrays)

        return either
    masks, by = _masks(spec, segment_mask(segments)), {"plain": plain, "blockwise": blockwise, "cudnn": cudnn}[kernel]
    return lambda local: by(spec, choose(masks, local))


def output_head(spec: DecoderSpec, params: Params) -> Params:
    """Those of a decoder's parameters that ``output_logits`` reads."""
    name = "embedding" if spec.tied else "output"
    return {name: params[name]}


def output_logits(spec: DecoderSpec, params: Params, hidden: Float[Array, "*S D"]) -> Float[Array, "*S V"]:
    """Next-token logits of hidden states, in the compute dtype."""
    kernel = params["output"] if "output" in params else params["embedding"].T
    logits = product(hidden, kernel)
    return spec.logit_softcap * jnp.tanh(logits / spec.logit_softcap) if spec.logit_softcap else logits


def choose(of_kind: dict[bool, Any], local: Any) -> Any:
    """What layers of a kind take, where the kind may be known only when the program runs."""
    if isinstance(local, bool):
        return of_kind[local]
    if of_kind[True] is of_kind[False]:
        return of_kind[False]
    return jax.tree.map(partial(jnp.where, local), of_kind[True], of_kind[False])
