"""How queries, keys and values become mixed values: plainly, or by a platform's kernel that never holds all scores.

All compute softmax(scale * q k + what may be seen) v, each for what it can: ``plain`` everything, on every platform.
``cudnn`` is cuDNN's fused attention (Nvidia, 16-bit floats), ``splash`` JAX's own for TPUs, ``blockwise`` ours for
CPUs.
"""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.mesh import ROWS, mesh_in_use, platform
from rlhf_jax.models.blockwise import mix_in_blocks
from rlhf_jax.models.masks import UNSEEN
from rlhf_jax.models.precision import wide_einsum
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import SEQUENCE, TENSOR

# Queries (B, T, H, C), keys and values (B, G, S, C), of which each serves H / G heads of queries, to (B, T, H, C).
Attend: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

LANES = 128  # of a TPU: lengths of rows are filled up to a multiple of it
BLOCKS = (512, 256, LANES)  # tokens that a TPU works on at a time, the largest that divides a row


def kernel_of(spec: DecoderSpec) -> str:
    """The kernel that the decoder's attention is computed by, where ``attention`` is auto the platform's if it can."""
    if spec.attention != "auto":
        return spec.attention
    fused = {"gpu": "cudnn", "cuda": "cudnn", "tpu": "splash", "cpu": "blockwise"}.get(platform(), "plain")
    mesh = mesh_in_use()
    cannot = unable(fused, spec, platform(), mesh.shape if mesh else {})
    return "plain" if cannot or (fused == "cudnn" and not _is_ampere()) else fused


def _is_ampere() -> bool:
    """Whether this machine's GPU, if it has one, is an Nvidia of compute capability 8 at least, as cuDNN asks."""
    device = jax.local_devices()[0]
    if device.platform != "gpu":  # what is traced here is for another machine
        return True
    return "cuda" in device.client.platform_version and float(device.compute_capability) >= 8


def unable(kernel: str, spec: DecoderSpec, here: str, mesh: Mapping[str, int]) -> str | None:
    """Why a kernel cannot compute this decoder's attention on the platform ``here`` over a ``mesh`` of axes of these
    sizes; None if it can."""
    if kernel in ("cudnn", "blockwise") and mesh.get(SEQUENCE, 1) > 1:
        return f"cannot be split over config.parallel.{SEQUENCE}={mesh[SEQUENCE]}"
    if kernel == "cudnn":
        if here not in ("gpu", "cuda"):
            return f"needs an Nvidia GPU, and this is a {here}"
        if spec.dtype != "bfloat16":
            return f"computes in bfloat16, and the model in {spec.dtype}"
        if spec.head_dim % 8 or spec.head_dim > 128:
            return f"takes heads of a multiple of 8 channels up to 128, and these have {spec.head_dim}"
        if spec.attention_softcap:
            return "has no caps of scores"
        if spec.kv_heads % mesh.get(TENSOR, 1):
            return f"cannot split {spec.kv_heads} key-value heads over config.parallel.{TENSOR}={mesh[TENSOR]}"
    if kernel == "splash" and here == "tpu" and spec.head_dim % 64:
        return f"takes heads of a multiple of 64 channels, and these have {spec.head_dim}"
    return None


def plain(spec: DecoderSpec, mask: Bool[Array, "B T S"]) -> Attend:
    """``mask[b, t, s]``: may token t look at slot s."""

    def attend(
        query: Float[Array, "B T H C"], key: Float[Array, "B G S C"], value: Float[Array, "B G S C"]
    ) -> Float[Array, "B T H C"]:
        rows, length, heads, size = query.shape
        grouped = query.reshape(rows, length, key.shape[1], heads // key.shape[1], size)
        scores = wide_einsum("btkgc,bksc->bkgts", grouped, key) * spec.attention_scale
        if spec.attention_softcap:
            scores = spec.attention_softcap * jnp.tanh(scores / spec.attention_softcap)
        scores = jnp.where(mask[:, None, None], scores, UNSEEN)
        weights = jax.nn.softmax(scores, axis=-1).astype(spec.compute_dtype)
        mix = _mix_by_query if _is_decoding(length, heads // key.shape[1], size) else _mix
        return mix(weights, value).reshape(query.shape)

    return attend


def _mix(weights: Float[Array, "B G N T S"], value: Float[Array, "B G S C"]) -> Float[Array, "B T G N C"]:
    return jnp.einsum("bkgts,bksc->btkgc", weights, value)


def _mix_by_query(weights: Float[Array, "B G N T S"], value: Float[Array, "B G S C"]) -> Float[Array, "B T G N C"]:
    """``_mix`` by a product for each of the N queries that share values."""
    own = [_mix(weights[:, :, one : one + 1], value) for one in range(weights.shape[2])]
    return jnp.concatenate(own, axis=3)


def _is_decoding(length: int, sharing: int, size: int) -> bool:
    """Whether there is one token in each row, of so few queries to a head of values that XLA's product of a CPU for
    all at once takes two to four times as long as one for each (docs/LOG.md, 2026-11-30)."""
    return platform() == "cpu" and length == 1 and sharing * size <= 512


def shared_prefix(
    spec: DecoderSpec,
    among_prompts: Attend,
    of_prompt: Bool[Array, "W S #R P"],
    own: Bool[Array, "W S R R"],
    owner: Int[Array, "W S"] | None,
) -> Attend:
    """Rows of prompts, then of responses to them: T = J P + S R tokens, whose prompts attend by ``among_prompts``.

    A token r of response s looks at the tokens of its prompt that ``of_prompt[w, s, r]`` names and at those of its own
    response that ``own[w, s, r]`` does, under one softmax; no two responses ever meet. ``owner`` is the prompt of each,
    None where the row has but one. The keys of a prompt then meet the queries of all its responses in one product.
    """
    prompts = "wgpc" if owner is None else "wgspc"

    def attend(
        query: Float[Array, "W T H C"], key: Float[Array, "W G T C"], value: Float[Array, "W G T C"]
    ) -> Float[Array, "W T H C"]:
        rows, total, heads, size = query.shape
        groups, (slots, length, prompt) = key.shape[1], (*own.shape[1:3], of_prompt.shape[3])
        first = total - slots * length  # slots of prompts

        def of_rows(x: Float[Array, "W G T C"]) -> Float[Array, "WJ G P C"]:
            each = x[:, :, :first].reshape(rows, groups, -1, prompt, size)
            return each.swapaxes(1, 2).reshape(-1, groups, prompt, size)

        def of_owners(x: Float[Array, "W G T C"]) -> Float[Array, "W G *S P C"]:
            if owner is None:
                return x[:, :, :first]
            each = x[:, :, :first].reshape(rows, groups, -1, prompt, size)
            return jnp.take_along_axis(each, owner[:, None, :, None, None], axis=2)

        def of_responses(x: Float[Array, "W G T C"]) -> Float[Array, "W G S R C"]:
            return x[:, :, first:].reshape(rows, groups, slots, length, size)

        def scores(how: str, keys: jax.Array, mask: Bool[Array, "W S #R N"]) -> Float[Array, "W G S R H N"]:
            found = wide_einsum(how, asked, keys) * spec.attention_scale
            if spec.attention_softcap:
                found = spec.attention_softcap * jnp.tanh(found / spec.attention_softcap)
            return jnp.where(mask[:, None, :, :, None], found, UNSEEN)

        mixed = among_prompts(query[:, :first].reshape(-1, prompt, heads, size), of_rows(key), of_rows(value))
        asked = query[:, first:].reshape(rows, slots, length, groups, heads // groups, size)
        before = scores(f"wsrghc,{prompts}->wgsrhp", of_owners(key), of_prompt)
        since = scores("wsrghc,wgskc->wgsrhk", of_responses(key), own)
        # One softmax over both: less a common number, the sum of all exponentials below.
        most = jax.lax.stop_gradient(jnp.maximum(before.max(-1, keepdims=True), since.max(-1, keepdims=True)))
        before, since = jnp.exp(before - most), jnp.exp(since - most)
        weight = before.sum(-1, keepdims=True) + since.sum(-1, keepdims=True)
        found = wide_einsum(f"wgsrhp,{prompts}->wgsrhc", before.astype(value.dtype), of_owners(value))
        found += wide_einsum("wgsrhk,wgskc->wgsrhc", since.astype(value.dtype), of_responses(value))
        found = (found / weight).astype(query.dtype).transpose(0, 2, 3, 1, 4, 5)
        pair = mixed.reshape(rows, first, heads, size), found.reshape(rows, slots * length, heads, size)
        return jnp.concatenate(pair, axis=1)

    return attend


def blockwise(spec: DecoderSpec, mask: Bool[Array, "B T T"]) -> Attend:
    """``mask`` as above, of tokens that see themselves and earlier ones alone."""

    def attend(
        query: Float[Array, "B T H C"], key: Float[Array, "B G T C"], value: Float[Array, "B G T C"]
    ) -> Float[Array, "B T H C"]:
        rows, length, heads, size = query.shape
        grouped = query.reshape(rows, length, key.shape[1], heads // key.shape[1], size)
        return mix_in_blocks(spec, grouped, key, value, mask).reshape(query.shape)

    return attend


def cudnn(spec: DecoderSpec, mask: Bool[Array, "B T S"], implementation: Literal["cudnn", "xla"] = "cudnn") -> Attend:
    """JAX's own entry to cuDNN; ``xla`` computes the same from the same arguments on every platform."""

    def attend(
        query: Float[Array, "B T H C"], key: Float[Array, "B G S C"], value: Float[Array, "B G S C"]
    ) -> Float[Array, "B T H C"]:
        odd = query.shape[1] % 2  # gradients are made of even lengths alone; the token more is seen by nobody
        rows = ((0, 0), (0, odd), (0, 0), (0, 0))
        mixed = jax.nn.dot_product_attention(
            jnp.pad(query, rows),
            jnp.pad(key.swapaxes(1, 2), rows),
            jnp.pad(value.swapaxes(1, 2), rows),
            mask=jnp.pad(mask, rows[:1] + ((0, odd),) * 2)[:, None],
            scale=spec.attention_scale,
            implementation=implementation,
        )
        return mixed[:, : query.shape[1]]

    return attend


def splash(spec: DecoderSpec, segments: Int[Array, "B T"], window: int) -> Attend:
    """Tokens see the earlier ones of their segment, the last ``window`` of them if that is not 0.

    The tokens of a segment stand side by side, so that a window of slots is one of tokens. Off TPUs the kernel is
    interpreted, slowly.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention  # here, for it takes a second to import

    length = segments.shape[1]
    mesh = mesh_in_use()
    head_shards, token_shards = (mesh.shape[TENSOR], mesh.shape[SEQUENCE]) if mesh else (1, 1)
    full = -(-length // (LANES * token_shards)) * LANES * token_shards
    block = next(size for size in BLOCKS if full // token_shards % size == 0)
    seen = (
        splash_attention.LocalMask((full, full), (window - 1, 0), 0, token_shards)
        if window
        else splash_attention.CausalMask((full, full), 0, token_shards)
    )
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([seen] * spec.heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        attn_logits_soft_cap=spec.attention_softcap or None,
        head_shards=head_shards,
        q_seq_shards=token_shards,
        residual_checkpoint_name="attention",
        interpret=platform() != "tpu",
    )

    def rows(kernel: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
        def one(query: jax.Array, key: jax.Array, value: jax.Array, own: jax.Array, others: jax.Array) -> jax.Array:
            return kernel(query, key, value, splash_attention.SegmentIds(own, others))

        return jax.vmap(one)(*arrays)

    if mesh is not None:
        here = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(TENSOR, SEQUENCE)))
        queries, others = PartitionSpec(ROWS, TENSOR, SEQUENCE), PartitionSpec(ROWS, TENSOR)
        rows = jax.shard_map(
            rows,
            mesh=mesh,
            in_specs=(here, queries, others, others, PartitionSpec(ROWS, SEQUENCE), PartitionSpec(ROWS)),
            out_specs=queries,
            check_vma=False,  # a kernel does not say what it varies over
        )

    def fill(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, full - length), (0, 0)])

    def attend(
        query: Float[Array, "B T H C"], key: Float[Array, "B G S C"], value: Float[Array, "B G S C"]
    ) -> Float[Array, "B T H C"]:
        own = jnp.pad(segments, [(0, 0), (0, full - length)])
        if key.shape[1] % head_shards:  # a copy of a head for each of the devices that share it
            key, value = (jnp.repeat(one, head_shards // key.shape[1], axis=1) for one in (key, value))
        scaled = (query * spec.attention_scale).swapaxes(1, 2)
        mixed = rows(kernel, fill(scaled), fill(key), fill(value), own, own)
        return mixed[:, :, :length].swapaxes(1, 2)

    return attend
