"""Which reward models are a head on the reference."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.build import ppo_models
from rlhf_jax.build.context import Context
from rlhf_jax.build.ppo import biases
from rlhf_jax.config import default_config
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.models import DecoderSpec, EnsembleSpec, init_decoder, init_reward_model, value_from_reward, with_decoder

SPEC = DecoderSpec(vocab_size=9, width=8, depth=1, heads=2, kv_heads=1, mlp_width=8)


def numbers(init: Any) -> Any:
    """Parameters of the shapes that ``init`` would make, of random numbers."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)


def networks(monkeypatch: pytest.MonkeyPatch, form: EnsembleSpec, nudge: float, judge: DecoderSpec = SPEC) -> Any:
    """Networks of an SFT policy and a reward model on the same decoder, one number of which is moved by ``nudge``."""
    context = object.__new__(Context)
    object.__setattr__(context, "config", default_config())
    object.__setattr__(context, "tokenizer", build_tokenizer("byte"))
    context.config.reward.ensemble.members, context.config.reward.ensemble.kind = form.members, form.kind
    reference = numbers(partial(init_decoder, SPEC))
    moved = jax.tree.map(np.copy, reference)
    moved["embedding"][3, 2] += nudge
    reward = numbers(partial(init_reward_model, judge, ensemble=form))
    parents = {"sft": reference, "reward": jax.tree.map(jnp.asarray, with_decoder(reward, moved, form))}
    monkeypatch.setattr(ppo_models, "load_parent", lambda context, stage, spec: parents[stage])
    monkeypatch.setattr(ppo_models, "stage_decoder", lambda context, stage: judge if stage == "reward" else SPEC)
    return ppo_models.load_networks(context, (), jax.random.key(2))


@pytest.mark.parametrize("form", [EnsembleSpec(), EnsembleSpec(3, "heads")], ids=["one", "heads"])
def test_a_head_on_the_reference_needs_no_decoder(monkeypatch: pytest.MonkeyPatch, form: EnsembleSpec) -> None:
    found = networks(monkeypatch, form, 0.0)
    assert found.forms.rolling.one_trunk
    assert set(found.reward) == {"head"}
    assert set(found.start["value"]) == {"decoder", "head"}


@pytest.mark.parametrize(
    ("form", "nudge", "judge"),
    [
        (EnsembleSpec(), 1e-6, SPEC),  # trained, however little
        (EnsembleSpec(3, "models"), 0.0, SPEC),
        (EnsembleSpec(), 0.0, dataclasses.replace(SPEC, norm_epsilon=1e-5)),  # the same numbers, computed otherwise
    ],
)
def test_any_other_reward_model_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch, form: EnsembleSpec, nudge: float, judge: DecoderSpec
) -> None:
    found = networks(monkeypatch, form, nudge, judge)
    assert not found.forms.rolling.one_trunk
    assert set(found.reward) == {"decoder", "head"}


@pytest.mark.parametrize("bounded", [False, True])
def test_a_started_value_model_says_scores(bounded: bool) -> None:
    """score = gain x reward + bias: of logits z, gain z + bias; of bounded rewards gain (1/2 + z/4) + bias."""
    reward = numbers(partial(init_reward_model, SPEC))
    started = value_from_reward(reward, bounded=bounded)
    head = ppo_models.in_units_of_scores(started, 2.5, -0.75)["head"]
    states = np.random.default_rng(1).normal(size=(7, SPEC.width)).astype(np.float32)
    logits = states @ reward["head"]["kernel"]
    expected = 2.5 * (0.5 + logits / 4 if bounded else logits) - 0.75
    np.testing.assert_allclose(states @ head["kernel"] + head["bias"], expected, rtol=1e-5, atol=1e-5)
    same = ppo_models.in_units_of_scores(started, 1.0, 0.0)
    assert jax.tree.all(jax.tree.map(np.array_equal, same, started))
    assert jax.tree.map(lambda leaf: leaf.dtype, same) == jax.tree.map(lambda leaf: leaf.dtype, started)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ""),
        ({"top_k": 5}, "cut law"),
        ({"top_p": 0.9}, "cut law"),
        ({"gamma": 0.9}, "discounts the price"),
        ({"rewards.whiten": True}, "rewards length"),
        ({"rewards.whiten": True, "episode": "fixed"}, ""),
        ({"advantage": "grpo", "kl.placement": "both", "kl.estimator": "k3"}, "deviation of each group"),
        ({"advantage": "grpo", "kl.divergence": "forward_kl"}, "deviation of each group"),
        ({"advantage": "grpo"}, ""),
        ({"kl.placement": "loss", "kl.estimator": "k3"}, "forward KL"),
    ],
    ids=str,
)
def test_what_has_another_gradient_is_said(settings: dict[str, Any], said: str) -> None:
    config = default_config()
    config.ppo.update_from_flattened_dict(settings)
    notes = biases(config.ppo)
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)
