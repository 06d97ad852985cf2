"""Exported models in transformers' own PyTorch code give our rewards and logits. Run by ``make parity``."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rlhf_jax.data.examples import encode_prompt, encode_response
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.data.world_builder import load_world
from rlhf_jax.models import (
    DecoderSpec,
    apply_decoder,
    apply_reward_model,
    init_decoder,
    init_scalar_head,
    output_logits,
    positions_of,
)
from rlhf_jax.models.hf import model_config, policy_tensors, reward_tensors, write_model

torch = pytest.importorskip("torch", reason="needs PyTorch, which is in the extra `parity`: run `make parity`")
transformers = pytest.importorskip("transformers")

TEXTS, BATCH = 1000, 125
TOLERANCE = 1e-4
LLAMA = DecoderSpec(vocab_size=108, width=64, depth=2, heads=4, kv_heads=2, mlp_width=128, max_positions=64)
GPT2 = dataclasses.replace(LLAMA, norm="layer", positions="learned", activation="gelu")
SPECS = {
    "llama-grouped": LLAMA,
    "llama-untied": dataclasses.replace(LLAMA, width=32, depth=1, kv_heads=4, mlp_width=80, tied=False),
    "llama-deep": dataclasses.replace(
        LLAMA, width=96, depth=4, heads=6, kv_heads=1, norm_epsilon=1e-3, rope_theta=500.0
    ),
    "gpt2-grouped": GPT2,
    "gpt2-untied": dataclasses.replace(GPT2, width=32, depth=1, kv_heads=4, mlp_width=80, tied=False),
    "gpt2-deep": dataclasses.replace(GPT2, width=96, depth=4, heads=6, kv_heads=1, norm_epsilon=1e-3),
}
reward_model = jax.jit(apply_reward_model, static_argnums=0, static_argnames="bounded")


@cache
def tokenizer():
    return build_tokenizer("word")


@cache
def texts() -> tuple[tuple[int, ...], ...]:
    """The ids of the first thousand answers of the embedded world, each after its prompt and with its end."""
    found = []
    for record in load_world("total", "lists", list_size=8)[: TEXTS // 8]:
        prompt = encode_prompt(tokenizer(), record.prompt, 12)[0]
        for response in record.responses:
            found.append((*prompt.tolist(), *encode_response(tokenizer(), response.text, 20)[0].tolist()))
    assert len(found) == TEXTS
    assert len({len(ids) for ids in found}) > 3
    return tuple(found)


def padded(rows, side, length=0):
    """Ids and mask of rows of different lengths, filled up to the longest or to ``length``."""
    length = length or max(map(len, rows))
    ids = np.full((len(rows), length), tokenizer().pad_id, np.int32)
    mask = np.zeros(ids.shape, bool)
    for place, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(len(row))
        ids[place, where], mask[place, where] = row, True
    return ids, mask


def batches(side, length=0):
    return [padded(texts()[start : start + BATCH], side, length) for start in range(0, TEXTS, BATCH)]


def params_of(spec):
    """As at the start of training, but with norms that are not 1 and rewards that differ."""
    rng = np.random.default_rng(11)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        centre, scale = (
            (1.0, 0.2) if "scale" in name else (0.0, 0.2 if "bias" in name else 1.5 * leaf.shape[-2:][0] ** -0.5)
        )
        return jnp.asarray(centre + scale * rng.normal(size=leaf.shape), jnp.float32)

    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: {"decoder": init_decoder(spec, key), "head": init_scalar_head(spec, key)})
    return jax.tree_util.tree_map_with_path(draw, shapes)


def load(auto, folder):
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def arguments(spec, ids, mask):
    """What transformers is called with; learned positions of left-padded rows have to be told."""
    found = {"input_ids": torch.tensor(ids, dtype=torch.long), "attention_mask": torch.tensor(mask, dtype=torch.long)}
    if spec.positions == "learned" and not mask[:, 0].all():
        found["position_ids"] = torch.tensor(np.array(positions_of(jnp.asarray(mask))), dtype=torch.long)
    return found


def scores(model, spec, side):
    with torch.no_grad():
        return np.concatenate([model(**arguments(spec, *batch)).logits[:, 0].numpy() for batch in batches(side)])


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def write_reward(folder, spec):
    config = model_config(spec, reward=True, pad_id=tokenizer().pad_id, eos_id=tokenizer().eos_id, about={})
    write_model(folder, config, reward_tensors(spec, params_of(spec)))


def our_scores(spec):
    """All in one shape: what padding does to us is tested elsewhere."""
    params = params_of(spec)
    found = batches("right", 32)
    return np.concatenate([reward_model(spec, params, jnp.asarray(i), jnp.asarray(m), bounded=False) for i, m in found])


def test_a_thousand_rewards(spec, tmp_path):
    write_reward(tmp_path, spec)
    model = load(transformers.AutoModelForSequenceClassification, tmp_path)
    assert spec.vocab_size == tokenizer().vocab_size
    ours = our_scores(spec)
    assert ours.std() > 0.3
    for side in ("right", "left"):
        np.testing.assert_allclose(scores(model, spec, side), ours, atol=TOLERANCE, rtol=0)
    with torch.no_grad():
        alone = [model(torch.tensor([texts()[place]])).logits[0, 0].item() for place in range(0, TEXTS, 40)]
    np.testing.assert_allclose(alone, ours[::40], atol=TOLERANCE, rtol=0)


def test_next_token_logits(spec, tmp_path):
    params = params_of(spec)["decoder"]
    config = model_config(spec, reward=False, pad_id=tokenizer().pad_id, eos_id=tokenizer().eos_id, about={})
    write_model(tmp_path, config, policy_tensors(spec, params))
    model = load(transformers.AutoModelForCausalLM, tmp_path)

    @jax.jit
    def logits(ids, mask):
        hidden = apply_decoder(spec, params, ids, positions_of(mask), mask)
        return output_logits(spec, params, hidden)

    for side in ("right", "left"):
        ids, mask = batches(side)[0]
        with torch.no_grad():
            theirs = model(**arguments(spec, ids, mask)).logits.numpy()
        ours = np.asarray(logits(jnp.asarray(ids), jnp.asarray(mask)))
        assert ours[mask].std() > 0.3
        np.testing.assert_allclose(theirs[mask], ours[mask], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["llama-grouped", "gpt2-grouped"])
def test_every_tensor_matters(name, tmp_path):
    """Each weight that is changed by a tenth moves rewards by more than the tolerance: none is compared in vain."""
    spec = SPECS[name]
    write_reward(tmp_path, spec)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    ours = our_scores(spec)[:BATCH]
    ids, mask = batches("right")[0]
    for changed in tensors:
        other = tensors[changed] * np.float32(1.1)
        if not other.any():  # the biases of GPT-2's kernels; LayerNorm would take a constant out again
            other = np.linspace(-0.3, 0.3, other.size, dtype=np.float32)
        safetensors.numpy.save_file(tensors | {changed: other}, path, metadata={"format": "pt"})
        model = load(transformers.AutoModelForSequenceClassification, tmp_path)
        with torch.no_grad():
            theirs = model(**arguments(spec, ids, mask)).logits[:, 0].numpy()
        assert np.abs(theirs - ours).max() > 10 * TOLERANCE, changed
