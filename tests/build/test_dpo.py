"""What the reference makes of the lists is the same however it comes to the loss, and is found once."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rlhf_jax.build import reference
from rlhf_jax.build.context import make_context
from rlhf_jax.build.dpo import dpo_task
from rlhf_jax.build.feedback import check_judgements
from rlhf_jax.build.specs import decoder_spec
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import default_config, to_json
from rlhf_jax.data.lists import ListSizes
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import init_decoder
from tests.end_to_end import tiny


@pytest.fixture
def config(tmp_path: pathlib.Path) -> ConfigDict:
    """A run of dpo on the embedded world, from a policy far from where decoders start."""
    config = default_config()
    config.stages = ("dpo",)
    config.model.update({"width": 16, "depth": 1, "heads": 2, "kv_heads": 1, "mlp_width": 32})
    config.dpo.steps, config.dpo.batch_size, config.data.list_size = 3, 8, 3
    folder = tmp_path / "parent"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config))
    tokenizer = build_tokenizer("word")
    save_tokenizer(tokenizer, folder / "tokenizer")
    params = init_decoder(decoder_spec(config.model, tokenizer.vocab_size), jax.random.key(0))
    params["embedding"] = 5.0 * params["embedding"]
    with Checkpoints(folder / "checkpoints" / "sft") as checkpoints:
        checkpoints.save(init_state(params, optax.identity(), jax.random.key(0)), {})
    config.parents.sft = str(folder)
    return config


def test_the_reference_is_the_same_before_the_first_step_and_at_each(
    config: ConfigDict, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_jax.build.context.load_data", tiny.load)
    seen = {}
    for how in ("precomputed", "on_the_fly", "none"):
        config.dpo.reference = how
        (tmp_path / how).mkdir()
        task = dpo_task(make_context(config, tmp_path / how))
        state, rows = task.state, []
        for _ in range(3):
            state, out = task.step(state, next(task.batches))
            rows.append(task.finish(out))
        seen[how] = (state.params, rows)
        assert (tmp_path / how / "reference" / "dpo.npz").is_file() == (how == "precomputed")
        assert ("log_ratio" in rows[0]) == (how != "none")
    first, other = seen["precomputed"], seen["on_the_fly"]
    assert [row["loss"] for row in first[1]] == pytest.approx([row["loss"] for row in other[1]], rel=1e-5)
    for a, b in zip(jax.tree.leaves(first[0]), jax.tree.leaves(other[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert first[1][0]["loss"] == pytest.approx(np.log(2), rel=1e-4)  # the policy is the reference
    assert seen["none"][1][0]["loss"] != pytest.approx(np.log(2), rel=1e-2)
    assert first[1][0]["log_ratio"] == pytest.approx(0.0, abs=1e-4)


def test_it_is_read_again_only_for_other_lists_or_another_policy(
    config: ConfigDict, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_jax.build.context.load_data", tiny.load)
    context = make_context(config, tmp_path)
    shape = reference.PreferenceShape(ListSizes((2,), (2,), 3), context.tokenizer.pad_id)
    prompt, responses = np.array([5, 6], np.int32), (np.array([7, 1], np.int32), np.array([8, 1], np.int32))
    lists = [reference.ListExample(prompt, responses, (0, 1), "", number) for number in range(3)]
    calls, params = [], {"a": jnp.ones(3), "b": jnp.zeros(4)}

    def reader(_, batch):
        calls.append(len(batch.lists.index))
        return jnp.arange(2.0 * 3).reshape(2, 3)

    for _ in range(2):
        found = reference.reference_logprobs(context, reader, params, lists, shape, 2, "dpo")
        np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5], [0, 1, 2]])
    assert calls == [2, 2]
    changed = [dataclasses.replace(lists[0], responses=responses[::-1]), *lists[1:]]
    reference.reference_logprobs(context, reader, params, changed, shape, 2, "dpo")
    assert len(calls) == 4
    trained = {**params, "b": params["b"].at[2].add(1e-3)}  # the checkpoint of another run in the same place
    reference.reference_logprobs(context, reader, trained, changed, shape, 2, "dpo")
    assert len(calls) == 6


@pytest.mark.parametrize(
    ("loss", "margin", "record", "key"),
    [
        ("dpo", 0.0, Record("a", "p", (Response("x", label=1.0),)), "dpo.loss: dpo learns from comparisons"),
        ("kto", 0.0, Record("a", "p", (Response("x", score=1.0),)), "dpo.loss: kto"),
        ("dpo", 0.0, Record("a", "p", (Response("x", rank=0), Response("y", rank=0))), "dpo.loss: dpo"),
        ("dpo", 1.0, Record("a", "p", (Response("x", rank=0), Response("y", rank=1))), "dpo.margin: 1.0"),
        ("kto", 0.0, Record("a", "p", (Response("x", label=1.0),)), ""),
        ("dpo", 0.0, Record("a", "p", (Response("x", rank=0), Response("y", rank=1))), ""),
    ],
)
def test_judgements_that_nothing_could_be_learned_from(loss: str, margin: float, record: Record, key: str) -> None:
    config = default_config()
    config.stages, config.dpo.loss, config.dpo.margin = ("sft", "dpo"), loss, margin
    if not key:
        check_judgements(config, [record])
        return
    with pytest.raises(UserError, match=f"config.{key}"):
        check_judgements(config, [record])
