"""Sampling on a mesh: parameters are gathered before the loop over tokens, not at each of them."""

import dataclasses
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.generation import SamplingSpec, decode
from rlhf_jax.models import init_decoder
from rlhf_jax.parallel import MeshExecutor
from tests.learners import tiny

SPEC = dataclasses.replace(tiny.decoder_spec("float32"), dtype="bfloat16", tied=False)


def sampler(params: Any, ids: jax.Array, mask: jax.Array, keys: jax.Array, axis_name: str | None) -> tuple[jax.Array]:
    rules = {"max_new_tokens": 3, "sampling": SamplingSpec(), "eos_id": 1, "pad_id": 0}
    return (decode.generate(SPEC, params, ids, mask, keys, **rules).ids,)


def program() -> str:
    executor = MeshExecutor(jax.devices(), fsdp=4, tensor=2)
    shapes = jax.eval_shape(partial(init_decoder, SPEC), jax.random.key(0))
    ids, keys = jax.ShapeDtypeStruct((8, 4), jnp.int32), jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8))
    arguments = [
        jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            tree,
            executor.shardings(tree, kind),
        )
        for tree, kind in (
            (shapes, "state"),
            (ids, "rows"),
            (jax.ShapeDtypeStruct((8, 4), bool), "rows"),
            (keys, "rows"),
        )
    ]
    return executor.compile(sampler, ("state", "rows", "rows", "rows"), ("rows",)).lower(*arguments).compile().as_text()


def gathers(text: str) -> tuple[int, int]:
    """Collectives that bring parameters together: before the loop, and in it. (Ids and sums of products are none.)"""
    found = re.findall(r" all-gather(?:-start)?\(.*op_name=\"([^\"]*)\"", text)
    inside = sum("while/body" in name for name in found)
    return len(found) - inside, inside


def test_no_token_waits_for_parameters_of_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    before, inside = gathers(program())
    assert before >= len(("q", "k", "v", "o", "gate", "up", "down"))
    assert inside == 0
    monkeypatch.setattr(decode, "gathered", lambda params, dtype: params)
    assert gathers(program())[1] > 0
