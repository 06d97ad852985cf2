"""Lists read in two levels are rows read one by one, values and gradients, whatever a decoder is made of."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.lists import ListSizes, fitted
from rlhf_jax.models import (
    DecoderSpec,
    apply_decoder,
    hf,
    init_decoder,
    lists,
    of_responses,
    output_logits,
    positions_of,
    read_lists,
    shares_prompts,
)
from rlhf_jax.parallel import MeshExecutor
from rlhf_jax.types import ListTokens
from tests.learners.tiny import rows_of
from tests.models.seeded import batch, sample, write_folder

BASE = DecoderSpec(vocab_size=33, width=16, depth=2, heads=4, kv_heads=2, mlp_width=24)
DECODERS = {
    "learned": dataclasses.replace(
        BASE, kv_heads=4, positions="learned", norm="layer", activation="gelu", qkv_bias=True, out_bias=True
    ),
    "windows": dataclasses.replace(
        BASE,
        kv_heads=1,
        local=(True, False),
        window=4,
        local_rope_theta=100.0,
        qk_norm=True,
        post_norms=True,
        query_scale=0.7,
        attention_softcap=3.0,
    ),
    "near": dataclasses.replace(BASE, depth=1, local=(True,), window=3, rotary_fraction=0.5, parallel=True),
}
PROMPT, LENGTH, COLUMNS = 5, 6, 4
TOLD, COUNTS = np.array([5, 1, 3, 4, 0, 2]), np.array([3, 1, 2, 0, 3, 1])  # tokens of prompts; responses
EACH = ListSizes((PROMPT,), (LENGTH,), COLUMNS)
FORMS = {"own": EACH, "shared": dataclasses.replace(EACH, groups=2), "alone": dataclasses.replace(EACH, groups=6)}


def tokens(columns: int = COLUMNS, counts: np.ndarray = COUNTS) -> ListTokens:
    """Six lists: prompts with padding, one without any token; none, one or more responses, of 1 to 6 tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, LENGTH + 1, (len(TOLD), columns))
    exists = np.arange(columns) < counts[:, None]
    return ListTokens(
        prompt_ids=random.integers(2, 33, (len(TOLD), PROMPT)).astype(np.int32),
        prompt_mask=np.arange(PROMPT) >= PROMPT - TOLD[:, None],
        ids=random.integers(2, 33, (len(TOLD), columns, LENGTH)).astype(np.int32),
        mask=(np.arange(LENGTH) < lengths[..., None]) & exists[..., None],
    )


def form(name: str) -> ListTokens:
    return jax.tree.map(jnp.asarray, fitted(tokens(), FORMS[name]))


@functools.cache
def params_of(spec: DecoderSpec) -> Any:
    params = jax.jit(functools.partial(init_decoder, spec))(jax.random.key(0))
    return {**params, "embedding": 25.0 * params["embedding"]}


WEIGHT = np.random.default_rng(1).normal(size=(len(TOLD), COLUMNS, 1 + LENGTH, 16)).astype(np.float32)


def states(spec: DecoderSpec, params: Any, given: ListTokens) -> jax.Array:
    """(B, K, 1 + R, D): before a response and at its tokens, 0 where it does not exist."""
    found = read_lists(spec, params, given)
    found = jnp.where(jnp.pad(given.mask, ((0, 0), (0, 0), (1, 0)), constant_values=True)[..., None], found, 0.0)
    return jnp.moveaxis(of_responses(given, jnp.moveaxis(found, (0, 1), (-2, -1))), (-2, -1), (0, 1))


def separately(spec: DecoderSpec, params: Any, given: ListTokens) -> jax.Array:
    """The same by rows of one prompt and one response each, which a decoder reads as any other rows."""
    ids, mask = map(jnp.asarray, rows_of(given))
    flat = mask.reshape(-1, mask.shape[2])
    hidden = apply_decoder(spec, params, ids.reshape(flat.shape), positions_of(flat), flat)
    return hidden.reshape(*ids.shape, -1)[:, :, PROMPT - 1 :]


def value_and_gradient(read: Any, spec: DecoderSpec, params: Any, given: ListTokens, real: Any) -> Any:
    def total(params: Any) -> tuple[jax.Array, jax.Array]:
        found = jnp.where(real[..., None], read(spec, params, given), 0.0)
        return jnp.sum(found * WEIGHT[:, : found.shape[1]]), found

    return jax.value_and_grad(total, has_aux=True)(params)


@pytest.mark.parametrize("name", DECODERS)
def test_two_levels_are_rows_of_their_own(name: str) -> None:
    """Every list with slots of its own, and lists that share them."""
    spec, given = DECODERS[name], tokens()
    real = np.concatenate([given.mask.any(axis=2, keepdims=True) & (TOLD > 0)[:, None, None], given.mask], axis=2)

    @jax.jit
    def every(params: Any) -> list[Any]:
        forms = [value_and_gradient(states, spec, params, form(name), real) for name in ("own", "shared")]
        return [value_and_gradient(separately, spec, params, given, real), *forms]

    ((_, wanted), slope), *found = every(params_of(spec))
    assert np.std(wanted) > 0.1
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(slope))
    for (_, own), gradient in found:
        np.testing.assert_allclose(own, wanted, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6 * scale), gradient, slope)


def test_a_list_by_itself_with_less_room_than_the_longest() -> None:
    given, spec = tokens(), dataclasses.replace(BASE, depth=1, remat="full")
    real = given.mask.any(axis=2) & (TOLD > 0)[:, None]
    found = jax.jit(functools.partial(states, spec))(params_of(spec), form("alone"))
    wanted = jax.jit(lambda params: separately(spec, params, given))(params_of(spec))
    np.testing.assert_allclose(np.asarray(found)[real][:, 0], np.asarray(wanted)[real][:, 0], atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(found)[:, :, 1:][given.mask], np.asarray(wanted)[:, :, 1:][given.mask], atol=1e-5
    )


@pytest.mark.parametrize("name", ["own", "shared", "alone"])
@pytest.mark.parametrize("attention", ["auto", "cudnn"])  # the latter by name: each behind a copy of its prompt
def test_the_last_token_of_each_response_is_that_of_all_its_tokens(
    name: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_jax.models.decoder.kernel_of", lambda spec: "blockwise")
    spec, given = dataclasses.replace(BASE, attention=attention), form(name)
    real = given.mask.any(axis=2)

    def by_all(params: Any) -> jax.Array:
        hidden = read_lists(spec, params, given)[:, :, 1:]
        last = jnp.maximum(jnp.sum(given.mask, axis=2) - 1, 0)
        return jnp.take_along_axis(hidden, last[:, :, None, None], axis=2)[:, :, 0]

    def found(read: Any) -> Any:
        weight = WEIGHT.reshape(-1)[: real.size * spec.width].reshape(*real.shape, spec.width)

        def total(params: Any) -> tuple[jax.Array, jax.Array]:
            states = jnp.where(real[..., None], read(params), 0.0)
            return jnp.sum(states * weight), states

        return jax.jit(jax.value_and_grad(total, has_aux=True))(params_of(BASE))

    ((_, wanted), slope), ((_, own), gradient) = map(
        found, (by_all, functools.partial(lists.read_last, spec, lists=given))
    )
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(own, wanted, atol=1e-5)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(slope))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6 * scale), gradient, slope)


@pytest.mark.parametrize("name", ["own", "shared"])
def test_rewards_leave_out_what_nobody_reads_of_the_last_layer(name: str) -> None:
    """What the compiler counts: its output of attention and feed-forward network, of all tokens but the last ones."""
    given = form(name)
    params = {"decoder": params_of(BASE), "head": {"kernel": jnp.ones(BASE.width)}}

    def flops(read: Any) -> float:
        return jax.jit(read).lower(params).compile().cost_analysis()["flops"]

    whole = flops(lambda params: read_lists(BASE, params["decoder"], given))
    rewards = flops(lambda params: lists.apply_reward_lists(BASE, params, given, bounded=False))
    slots = given.mask.shape[0] * given.mask.shape[1]
    left_out = slots * LENGTH  # of a slot all but one of what comes before it and its tokens
    assert whole - rewards > 0.9 * 2 * left_out * (BASE.width**2 + 3 * BASE.width * BASE.mlp_width)


def test_the_forms_are_what_they_are_called() -> None:
    own, shared, alone = (fitted(tokens(), sizes) for sizes in FORMS.values())
    assert (own.slot, own.owner) == (None, None)
    assert shared.ids.shape == (2, 6, LENGTH)  # of two times 12 slots: 6 and 4 responses
    np.testing.assert_array_equal(shared.owner, [[0, 0, 0, 1, 2, 2], [1, 1, 1, 2, 0, 0]])
    slots = [[0, 1, 2, -1], [3, -1, -1, -1], [4, 5, -1, -1], [-1] * 4, [0, 1, 2, -1], [3, -1, -1, -1]]
    np.testing.assert_array_equal(shared.slot, slots)
    assert alone.ids.shape == (6, 3, LENGTH)
    assert alone.owner is None


def test_lists_of_one_response_are_rows() -> None:
    """By the platform's kernel: nothing is saved by two levels."""
    given, seen = jax.tree.map(jnp.asarray, tokens(1, np.minimum(COUNTS, 1))), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "read", lambda *_, **__: seen.append(0))
        found, wanted = jax.jit(lambda params: [read(BASE, params, given) for read in (states, separately)])(
            params_of(BASE)
        )
    assert not seen
    real = np.concatenate([given.mask.any(axis=2)[..., None] & (TOLD > 0)[:, None, None], given.mask], axis=2)
    np.testing.assert_allclose(found[real], wanted[real], atol=1e-5)


def test_where_two_levels_are_not_for() -> None:
    assert shares_prompts(BASE, 2, 1)
    assert not shares_prompts(BASE, 1, 1)
    assert not shares_prompts(BASE, 2, 2)
    assert not shares_prompts(dataclasses.replace(BASE, attention="splash"), 2, 1)


@pytest.mark.parametrize("name", ["own", "shared"])
def test_tokens_on_different_devices_are_read_behind_copies_of_their_prompt(name: str) -> None:
    given, spec = form(name), dataclasses.replace(DECODERS["windows"], attention_softcap=0.0)
    params = params_of(spec)
    wanted = jax.jit(functools.partial(states, spec))(params, given)
    exists = np.asarray(tokens().mask.any(axis=2) & (TOLD > 0)[:, None])
    executor = MeshExecutor(jax.devices()[:4], sequence=2)
    compiled = executor.compile(
        lambda params, given, axis_name: (states(spec, params, given),), ("state", "rows"), ("rows",)
    )
    split = compiled(executor.place(params, "state"), executor.place(given, "rows"))[0]
    np.testing.assert_allclose(np.asarray(split)[exists], np.asarray(wanted)[exists], atol=1e-5)


GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden_logits.json").read_text())["cases"]


@pytest.mark.parametrize("name", GOLDEN)
def test_two_levels_give_the_logits_of_transformers(name: str, tmp_path: pathlib.Path) -> None:
    """Rows that were computed in PyTorch, the first tokens as a prompt and the rest, twice, as responses to it."""
    case = GOLDEN[name]
    write_folder(tmp_path, case["config"], case["tensors"])
    spec, params = hf.load(tmp_path)
    ids, mask = (np.asarray(leaf) for leaf in batch())
    cut = ids.shape[1] // 3
    twice = (np.repeat(leaf[:, None, cut:], 2, axis=1) for leaf in (ids, mask))

    @jax.jit
    def logits_of(given: ListTokens) -> jax.Array:
        return output_logits(spec, params, read_lists(spec, params, given)[:, :, 1:])

    found = logits_of(ListTokens(ids[:, :cut], mask[:, :cut], *twice))
    for column in range(2):
        of_rows = np.pad(found[:, column], ((0, 0), (cut, 0), (0, 0)))
        np.testing.assert_allclose(sample(of_rows).ravel(), case["logits"], atol=1e-4, rtol=0)
