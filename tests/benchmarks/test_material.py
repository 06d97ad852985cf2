"""Weights whose responses end at a rate of one's choice, and ids that a text and its reader agree on."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from benchmarks.harness import material
from benchmarks.harness.shapes import MODELS, Shape
from rlhf_jax.data.readers import split_records
from rlhf_jax.data.records import Record
from rlhf_jax.models import apply_decoder, hf, output_logits

SHAPES = {
    llama: Shape(vocabulary=300, width=32, depth=2, heads=2, mlp_width=64, llama=llama) for llama in (True, False)
}


@pytest.mark.parametrize("llama", SHAPES)
@pytest.mark.parametrize("stop", [0.0, 1 / 32])
def test_responses_end_as_often_as_asked(llama: bool, stop: float) -> None:
    spec = material.spec_of(SHAPES[llama], 128)
    params = material.weights(spec, stop)
    ids = jax.random.randint(jax.random.key(7), (8, 48), 0, 298)  # other texts than it was set on
    positions = jnp.broadcast_to(jnp.arange(48), ids.shape)
    hidden = apply_decoder(spec, params, ids, positions, jnp.ones(ids.shape, bool))
    law = jax.nn.softmax(output_logits(spec, params, hidden), axis=-1)
    assert float(law[..., 299].mean()) == pytest.approx(stop, rel=0.2, abs=1e-9)
    assert float(law[..., 298].max()) < 1e-9  # padding
    assert float(jnp.exp(jnp.log(law[..., :298]).mean())) > 0.5 / 298  # the others stay alike


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_hugging_face_form(name: str) -> None:
    assert hf.family_of(material.spec_of(MODELS[name], 512)).name == ("GPT2" if name == "gpt2" else "Llama")


def test_texts_are_their_ids_and_split_as_a_run_splits_them(tmp_path: Path) -> None:
    found = material.records({"prompt": [2, 5], "response": [3, 6], "responses": 2, "records": 5}, 50)
    assert (len(found["train"]), len(found["held_out"])) == (5, 2)
    material.tokenizer(tmp_path, 50)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (read.pad_token_id, read.eos_token_id, len(read)) == (48, 49, 50)
    for one in found["train"] + found["held_out"]:
        row = json.loads(json.dumps(material.row(one)))
        assert read.encode(row["prompt"]) == one["prompt"]
        assert 2 <= len(one["prompt"]) <= 5
        for text, response in zip(row["responses"], one["responses"], strict=True):
            assert [*read.encode(text["text"]), 49] == response
            assert 3 <= len(response) <= 6
    prompts = [Record("", material.words(one["prompt"]), ()) for part in found.values() for one in part]
    train, held_out = split_records(prompts, 0.1, 0)
    assert [len(train), len(held_out)] == [5, 2]
    assert np.all([record in prompts[:5] for record in train])
