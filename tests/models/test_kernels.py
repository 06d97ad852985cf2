"""Attention by fused kernels is attention by the plain one, gradients too; and the decoder around them."""

import dataclasses
import re
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from rlhf_jax.models import (
    DecoderSpec,
    EnsembleSpec,
    apply_decoder,
    apply_reward_members,
    init_decoder,
    init_reward_model,
    positions_of,
)
from rlhf_jax.models.kernels import blockwise, cudnn, kernel_of, plain, shared_prefix, splash, unable
from rlhf_jax.models.masks import segment_mask, window_mask
from rlhf_jax.parallel import MeshExecutor
from tests.programs import traced

SPEC = DecoderSpec(vocab_size=11, width=64, depth=2, heads=4, kv_heads=2, mlp_width=32)
ROWS, LENGTH = 2, 130  # no multiple of what a TPU works on at a time
_SEGMENTS = np.zeros((ROWS, LENGTH), np.int32)
_SEGMENTS[0, :60], _SEGMENTS[0, 60:120], _SEGMENTS[1, 9:] = 1, 2, 1  # packed with padding behind; padding in front
SEGMENTS, REAL = jnp.asarray(_SEGMENTS), _SEGMENTS > 0


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


QUERY, WEIGHT = normal(0, ROWS, LENGTH, 4, 16), normal(3, ROWS, LENGTH, 4, 16) * REAL[:, :, None, None]
KEY, VALUE = normal(1, ROWS, 2, LENGTH, 16), normal(2, ROWS, 2, LENGTH, 16)


def test_one_token_sees_what_it_sees_among_others():
    """Of one token values are mixed query by query, of many all at once."""
    mask = segment_mask(SEGMENTS)
    many = plain(SPEC, mask)(QUERY, KEY, VALUE)[:, -1:]
    one = jax.jit(lambda *arrays: plain(SPEC, mask[:, -1:])(*arrays))
    assert one.lower(QUERY[:, -1:], KEY, VALUE).as_text().count("dot_general") == 1 + 4 // 2
    np.testing.assert_allclose(one(QUERY[:, -1:], KEY, VALUE), many, atol=1e-6)


def value_and_gradients(attend, query, key, value, weight):
    """Of a weighted sum over what real tokens mix."""
    return jax.value_and_grad(lambda *arrays: jnp.sum(attend(*arrays) * weight), (0, 1, 2))(query, key, value)


def run(attend):
    return jax.jit(partial(value_and_gradients, attend))(QUERY, KEY, VALUE, WEIGHT)


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("window", [0, 5])
def test_splash_is_plain_attention(window):
    spec = dataclasses.replace(SPEC, attention_softcap=3.0, query_scale=0.4)
    mask = segment_mask(SEGMENTS)
    expected = run(plain(spec, window_mask(mask, window) if window else mask))
    assert_close(run(splash(spec, SEGMENTS, window)), expected)


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("size", [16, 50, 200])
def test_blocks_are_plain_attention(monkeypatch, size, window):
    """Also where the last block has to be filled up, and where there is but one."""
    monkeypatch.setattr("rlhf_jax.models.blockwise.BLOCK", size)
    spec = dataclasses.replace(SPEC, attention_softcap=3.0, query_scale=0.4)
    mask = segment_mask(SEGMENTS)
    seen = window_mask(mask, window) if window else mask
    assert_close(run(blockwise(spec, seen)), run(plain(spec, seen)))


def test_blocks_of_longer_rows_are_more_turns_of_the_same_program():
    """Forward and backward, of 1,024 and of 4,096 tokens: as many operations, and no more scores than of a block."""

    def made(length):
        heads, keys = ((1, length, 4, 16), (1, 2, length, 16))
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (heads, keys, keys, heads)]
        mask = jax.ShapeDtypeStruct((1, length, length), bool)
        return list(traced(lambda mask, *arrays: value_and_gradients(blockwise(SPEC, mask), *arrays), mask, *arrays))

    few, many = made(1024), made(4096)
    assert [one.primitive for one in few] == [one.primitive for one in many]
    floats = [x.aval.size for one in many for x in one.outvars if jnp.issubdtype(x.aval.dtype, jnp.floating)]
    assert max(floats) == 4096 * 4 * 16  # as many as queries have


def test_blocks_in_double_precision_are_the_softmax_of_numpy():
    """One row, one head of keys for two of queries, worked out query by query."""
    with jax.enable_x64(True):
        spec = dataclasses.replace(SPEC, dtype="float64", heads=2, kv_heads=1, query_scale=0.7)
        draw = np.random.default_rng(7)
        query, key, value = (draw.normal(size=shape) for shape in ((1, 150, 2, 4), (1, 1, 150, 4), (1, 1, 150, 4)))
        segments = np.repeat([[1, 2]], 75, axis=1)
        found = blockwise(spec, segment_mask(jnp.asarray(segments)))(*map(jnp.asarray, (query, key, value)))
        for token, head in ((0, 0), (74, 1), (75, 0), (149, 1)):
            own = np.arange(150)[(segments[0] == segments[0, token]) & (np.arange(150) <= token)]
            weights = np.exp(0.7 * key[0, 0, own] @ query[0, token, head])
            expected = weights @ value[0, 0, own] / weights.sum()
            np.testing.assert_allclose(np.asarray(found[0, token, head]), expected, rtol=1e-12)


def test_no_block_is_computed_that_nobody_sees(monkeypatch):
    """Neither later blocks nor those of another text of the row: numbers in them that are none reach no sum."""
    monkeypatch.setattr("rlhf_jax.models.blockwise.BLOCK", 16)
    mask = segment_mask(jnp.repeat(jnp.array([[1, 2]]), 32, axis=1))
    draw = np.random.default_rng(8)
    query, key, value = (draw.normal(size=shape) for shape in ((1, 64, 4, 16), (1, 2, 64, 16), (1, 2, 64, 16)))

    def of_rest(slots, *arrays):
        return jnp.sum(blockwise(SPEC, mask)(*map(jnp.asarray, arrays))[:, slots])

    for broken, rest in ((slice(16), slice(32, None)), (slice(48, None), slice(48))):
        key[:, :, broken] = value[:, :, broken] = np.nan
        found, of_query = jax.value_and_grad(partial(of_rest, rest))(query, key, value)
        assert np.isfinite(found)
        assert np.isfinite(of_query[:, rest]).all()
        key[:, :, broken] = value[:, :, broken] = 1.0


@pytest.mark.parametrize("axes", [{"fsdp": 2, "tensor": 2, "sequence": 2}, {"fsdp": 2, "tensor": 4}], ids=str)
def test_splash_with_rows_heads_and_tokens_on_different_devices(axes):
    """Also where more devices share the heads than there are heads of keys."""
    executor = MeshExecutor(jax.devices()[:8], **axes)

    def function(segments, *arrays, axis_name):
        return value_and_gradients(splash(SPEC, segments, 0), *arrays)

    arrays = (executor.place(one, "rows") for one in (SEGMENTS, QUERY, KEY, VALUE, WEIGHT))
    found = executor.compile(function, ("rows",) * 5, ("replicated", "rows"))(*arrays)
    assert_close(found, run(plain(SPEC, segment_mask(SEGMENTS))))


@pytest.mark.parametrize("length", [LENGTH, LENGTH - 1])
def test_what_is_handed_to_cudnn_is_plain_attention(length):
    """By the computation that JAX has for the same arguments on other platforms."""
    mask, scaled = segment_mask(SEGMENTS[:, :length]), dataclasses.replace(SPEC, query_scale=0.4)
    query, weight = QUERY[:, :length], WEIGHT[:, :length]
    found, expected = (
        jax.jit(partial(value_and_gradients, attend))(query, KEY[:, :, :length], VALUE[:, :, :length], weight)
        for attend in (cudnn(scaled, mask, "xla"), plain(scaled, mask))
    )
    assert_close(found, expected)


@pytest.fixture
def cuda(monkeypatch):
    """Programs are made for a machine with cuDNN."""
    from jax._src.cudnn import fused_attention_stablehlo as private

    monkeypatch.setattr(private, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(private, "check_compute_capability", lambda _: True)
    for module in ("kernels", "decoder"):
        monkeypatch.setattr(f"rlhf_jax.models.{module}.platform", lambda: "cuda")

    def lowered(function, *arrays):
        return jax.jit(function).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()

    return lowered


@pytest.mark.parametrize("length", [LENGTH, LENGTH - 1])
def test_a_program_for_nvidia_has_cudnns_kernel_both_ways(cuda, length):
    spec = dataclasses.replace(SPEC, dtype="bfloat16")
    heads, keys = (ROWS, length, 4, 16), (ROWS, 2, length, 16)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (heads, keys, keys, heads)]
    text = cuda(partial(value_and_gradients, cudnn(spec, segment_mask(SEGMENTS[:, :length]))), *arrays)
    assert "__cudnn$fmha" in text
    assert "SoftmaxBackward" in text


def test_an_ensemble_for_nvidia_calls_the_kernel_with_the_rows_of_one_model(cuda):
    """Its rule for a batch of batches would put the rows of all models under the mask of one."""
    spec, form = dataclasses.replace(SPEC, dtype="bfloat16"), EnsembleSpec(3, "models")
    params = jax.eval_shape(partial(init_reward_model, spec, ensemble=form), jax.random.key(0))
    ids = jax.ShapeDtypeStruct((ROWS, 8), jnp.int32)

    def total(params, ids):
        rewards = apply_reward_members(spec, form, params, ids, jnp.ones(ids.shape, bool), bounded=True)
        assert rewards.shape == (3, ROWS)
        return jnp.sum(rewards)

    text = cuda(jax.value_and_grad(total), params, ids)
    calls = re.findall(r"__cudnn\$fmha.*?: \(([^)]*)\)", text)
    assert len(calls) == 2  # forward and backward
    assert all(one.startswith(f"tensor<{ROWS}x8x4x16xbf16>") for one in calls)


def test_auto_takes_the_kernel_of_the_platform_where_it_can(monkeypatch):
    half = dataclasses.replace(SPEC, dtype="bfloat16")
    wide = dataclasses.replace(half, head_size=64)
    expected = {
        "cpu": ("blockwise",) * 4,
        "gpu": ("plain", "cudnn", "cudnn", "plain"),
        "tpu": ("plain", "plain", "splash", "splash"),
    }
    for here, kernels in expected.items():
        monkeypatch.setattr("rlhf_jax.models.kernels.platform", lambda here=here: here)
        specs = (SPEC, half, wide, dataclasses.replace(wide, attention_softcap=2.0))
        assert tuple(map(kernel_of, specs)) == kernels
    assert kernel_of(dataclasses.replace(SPEC, attention="plain")) == "plain"
    assert unable("cudnn", half, "cpu", {}) == "needs an Nvidia GPU, and this is a cpu"
    assert unable("cudnn", half, "gpu", {"tensor": 2, "sequence": 1}) is None
    assert unable("blockwise", SPEC, "cpu", {"tensor": 4, "sequence": 2}) == (
        "cannot be split over config.parallel.sequence=2"
    )
    for axis, why in (
        ("tensor", "cannot split 2 key-value heads over config.parallel.tensor=4"),
        ("sequence", "cannot be split over config.parallel.sequence=4"),
    ):
        assert unable("cudnn", half, "gpu", {axis: 4}) == why


def test_auto_leaves_cudnn_to_the_gpus_that_have_it(monkeypatch):
    half = dataclasses.replace(SPEC, dtype="bfloat16")
    monkeypatch.setattr("rlhf_jax.models.kernels.platform", lambda: "gpu")
    for version, capability, kernel in (
        ("cuda 12080", "9.0", "cudnn"),
        ("cuda 12080", "7.5", "plain"),
        ("rocm 6", "gfx90a", "plain"),
    ):
        client = types.SimpleNamespace(platform_version=version)
        device = types.SimpleNamespace(platform="gpu", client=client, compute_capability=capability)
        monkeypatch.setattr(jax, "local_devices", lambda device=device: [device])
        assert kernel_of(half) == kernel


def test_scores_are_not_rounded_to_the_type_of_queries():
    """256 and 257 are one number in bfloat16; the weights of scores a unit apart are 0.269 and 0.731."""
    spec = DecoderSpec(
        vocab_size=2, width=2, depth=1, heads=1, kv_heads=1, mlp_width=2, dtype="bfloat16", query_scale=1.0
    )
    query = jnp.asarray([[[[16.0, 1.0]]]], jnp.bfloat16)
    key = jnp.asarray([[[[16.0, 0.0], [16.0, 1.0]]]], jnp.bfloat16)
    value = jnp.asarray([[[[1.0, 0.0], [0.0, 1.0]]]], jnp.bfloat16)
    mixed = jax.jit(plain(spec, jnp.ones((1, 1, 2), bool)))(query, key, value)
    np.testing.assert_allclose(np.asarray(mixed[0, 0, 0], np.float32), [0.2689, 0.7311], rtol=4e-3)


def test_what_a_response_finds_in_two_levels_is_rounded_once():
    """In bfloat16 both sums were rounded, and theirs again: 1.3 times the error that the last rounding makes."""
    spec = dataclasses.replace(SPEC, dtype="bfloat16")
    slots, length, prompt = 3, 24, 40
    total = prompt + slots * length
    query, key, value = (
        normal(*shape).astype(jnp.bfloat16)
        for shape in ((0, 1, total, 4, 16), (1, 1, 2, total, 16), (2, 1, 2, total, 16))
    )
    query, value = query * 1.5, value + 1  # attention to some tokens more than to others; sums far from 0
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (1, slots, length, length))
    attend = shared_prefix(spec, lambda query, *_: query, jnp.ones((1, slots, 1, prompt), bool), causal, None)
    found = np.asarray(jax.jit(attend)(query, key, value), np.float64)[0, prompt:]

    q, k, v = (np.asarray(x[0], np.float64) for x in (query, key, value))
    expected = np.empty_like(found)
    for token in range(slots * length):
        seen = [*range(prompt), *range(prompt + token // length * length, prompt + token + 1)]
        for head in range(4):
            weights = np.exp(k[head // 2, seen] @ q[prompt + token, head] * spec.attention_scale)
            expected[token, head] = weights @ v[head // 2, seen] / weights.sum()
    least = expected - np.asarray(jnp.asarray(expected, jnp.bfloat16), np.float64)
    assert np.std(found - expected) < 1.2 * np.std(least)


# ------------------------------------------------------------------------- the decoder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dots_keeps_what_the_products_of_a_layer_give(dtype, capsys):
    spec = dataclasses.replace(
        SPEC, depth=1, dtype=dtype, remat="dots", vocab_size=7, heads=4, kv_heads=4, mlp_width=48
    )
    params = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))

    def small(params):
        segments = jnp.ones((1, 3), jnp.int32)
        return jnp.sum(apply_decoder(spec, params, segments, segments, segments))

    print_saved_residuals(small, params)
    kept = re.findall(rf"{'bf16' if dtype == 'bfloat16' else 'f32'}\[1,1,3,(\d+)\]", capsys.readouterr().out)
    # The layer's input; queries, keys, values, what attention gives; the hidden units, twice.
    assert sorted(kept) == ["48"] * 2 + ["64"] * 5


IDS = jnp.asarray(np.random.default_rng(4).integers(0, 11, (ROWS, LENGTH)), jnp.int32)


@pytest.fixture(scope="module")
def params():
    return init_decoder(SPEC, jax.random.key(0))


def loss(spec, params):
    hidden = apply_decoder(spec, params, IDS, positions_of(SEGMENTS > 0), SEGMENTS)
    return jnp.sum(jnp.where(REAL[:, :, None], hidden, 0.0) ** 2 * normal(5, SPEC.width))


def test_a_decoder_with_layers_of_two_kinds_by_splash(params):
    spec = dataclasses.replace(SPEC, local=(True, False), window=7)
    one, other = (
        jax.jit(jax.value_and_grad(partial(loss, dataclasses.replace(spec, attention=kernel))))(params)
        for kernel in ("plain", "splash")
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * float(jnp.max(jnp.abs(a))))


def test_few_layers_are_written_out_on_cpus(monkeypatch):
    def rounds(spec):
        params = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
        scans = [one for one in traced(partial(loss, spec), params) if one.primitive.name == "scan"]
        return [one.params["length"] // one.params["unroll"] for one in scans if one.params["length"] == spec.depth]

    deep = dataclasses.replace(SPEC, depth=16, attention="plain")
    assert rounds(deep) == [1]
    assert rounds(dataclasses.replace(deep, depth=17)) == [17]
    assert rounds(dataclasses.replace(deep, remat="dots")) == [16]
    monkeypatch.setattr("rlhf_jax.models.decoder.platform", lambda: "gpu")
    assert rounds(deep) == [16]


def test_layers_computed_again_give_the_same_gradient_and_keep_less():
    deep = dataclasses.replace(SPEC, depth=8)
    params = jax.jit(partial(init_decoder, deep))(jax.random.key(0))
    found, kept = {}, {}
    for remat in ("none", "dots", "full"):
        program = jax.jit(jax.grad(partial(loss, dataclasses.replace(deep, remat=remat)))).lower(params).compile()
        found[remat], kept[remat] = program(params), program.memory_analysis().temp_size_in_bytes
    for remat in ("dots", "full"):
        for a, b in zip(jax.tree.leaves(found["none"]), jax.tree.leaves(found[remat]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(a))))
    # Eight layers of 2 x 4 x 130 x 130 attention weights are 4.3 MB; the inputs alone, 2 x 130 x 64 each, 0.5 MB.
    assert kept["full"] < kept["dots"] < kept["none"] - 4e6
