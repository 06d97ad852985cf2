"""Random tiny models of every family by transformers' own PyTorch code, read, run and written. ``make parity``."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation.decode import generate
from rlhf_jax.generation.sampling import SamplingSpec
from rlhf_jax.models import apply_decoder, hf, output_logits, positions_of
from tests.models.seeded import EOS, PAD, batch
from tests.parity.families import CASES, FAMILIES

torch = pytest.importorskip("torch", reason="needs PyTorch, which is in the extra `parity`: run `make parity`")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4


def build(name):
    """The model with parameters of which every one matters: no zero bias, no unit scale, attention far from uniform."""
    kind, settings = CASES[name]
    config = getattr(transformers, f"{kind}Config")(**settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    rng = np.random.default_rng(3)
    for key, leaf in model.named_parameters():
        shape = tuple(leaf.shape)
        if len(shape) == 1:
            centre = 0.0 if key.endswith("bias") or kind.startswith("Gemma") else 1.0
            values = centre + 0.3 * rng.normal(size=shape)
        else:
            values = rng.normal(size=shape) * (0.4 if "emb" in key or "wte" in key or "wpe" in key else 0.25)
        leaf.data = torch.tensor(values, dtype=torch.float32)
    return model.eval()


def theirs(model, ids, mask):
    given = {"input_ids": torch.tensor(ids, dtype=torch.long), "attention_mask": torch.tensor(mask, dtype=torch.long)}
    given["position_ids"] = torch.tensor(np.array(positions_of(jnp.asarray(mask))), dtype=torch.long)
    with torch.no_grad():
        return model(**given).logits.numpy()


@functools.partial(jax.jit, static_argnums=0)
def ours(spec, params, ids, mask):
    return output_logits(spec, params, apply_decoder(spec, params, ids, positions_of(mask), mask))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_theirs_both_ways(name, tmp_path):
    model = build(name)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ids, mask = batch()
    expected = theirs(model, ids, mask)[mask]
    assert expected.std() > 0.3
    spec, params = hf.load(tmp_path / "theirs")
    found = np.asarray(ours(spec, params, ids, mask))[mask]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    (tmp_path / "ours").mkdir()
    hf.save(tmp_path / "ours", spec, params, pad_id=PAD, eos_id=EOS)
    back, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    written = theirs(back.eval(), ids, mask)[mask]
    np.testing.assert_allclose(written, found, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_are_theirs(name, tmp_path):
    """Left-padded prompts, and answers that go on until the window has left the prompt behind."""
    model = build(name)
    model.save_pretrained(tmp_path)
    spec, params = hf.load(tmp_path)
    ids, mask = (array[:, :8].copy() for array in batch())
    ids[1:3], mask[1:3] = np.where(ids[1:3] == PAD, 7, ids[1:3]), True
    new = 10
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            do_sample=False,
            max_new_tokens=new,
            pad_token_id=PAD,
            eos_token_id=EOS,
        ).numpy()[:, 8:]
    keys = jax.random.split(jax.random.key(0), 4)
    greedy = functools.partial(
        generate, spec, max_new_tokens=new, sampling=SamplingSpec(temperature=0.0), eos_id=EOS, pad_id=PAD
    )
    found = np.asarray(jax.jit(greedy)(params, ids, mask, keys).ids)
    assert len(np.unique(found)) > 3
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert np.all(found[:, expected.shape[1] :] == PAD)
