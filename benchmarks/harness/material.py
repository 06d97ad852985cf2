"""Weights, tokenizer and data of a benchmark, made once, for all sides to read.

    python -m benchmarks.harness.material FOLDER CASE

``FOLDER/model`` is a Hugging Face folder, ``FOLDER/train.jsonl`` is what rlhf_jax reads, ``FOLDER/ids.json`` the same
as token ids, split as rlhf_jax splits it, for the sides that take ids. Words are ``w0``, ``w1``, ... so that a text and
its ids are one and the same.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.shapes import MODELS, Shape
from rlhf_jax.data.readers import split_records
from rlhf_jax.data.records import Record
from rlhf_jax.models import DecoderSpec, apply_decoder, hf, init_decoder, output_logits

HELD_OUT = 0.1
CHANNEL = 4.0  # of a channel of the residual stream that is the same for every token


def spec_of(shape: Shape, longest: int) -> DecoderSpec:
    """The decoder of a shape."""
    sizes = {"vocab_size": shape.vocabulary, "width": shape.width, "depth": shape.depth, "heads": shape.heads}
    sizes |= {"kv_heads": shape.heads, "mlp_width": shape.mlp_width, "max_positions": max(longest, 1024)}
    if shape.llama:
        return DecoderSpec(**sizes)
    styles = {"norm": "layer", "positions": "learned", "activation": "gelu", "norm_epsilon": 1e-5}
    return DecoderSpec(**sizes, **styles, qkv_bias=True, out_bias=True, mlp_bias=True)


def weights(spec: DecoderSpec, stop: float) -> dict[str, Any]:
    """Random weights under which a response ends at each token with probability ``stop``, on average over contexts.

    One channel is the same for every token and no layer writes to it, so that the embedding of the end of sequence
    sets its logit by that channel alone. Padding is never sampled, and with ``stop`` 0 no response ends.
    """
    params = init_decoder(spec, jax.random.key(0))
    layers = params["layers"]
    layers["attention"]["o"] = jax.tree.map(lambda leaf: leaf.at[..., 0].set(0.0), layers["attention"]["o"])
    layers["down"] = jax.tree.map(lambda leaf: leaf.at[..., 0].set(0.0), layers["down"])
    if "position_embedding" in params:
        params["position_embedding"] = params["position_embedding"].at[:, 0].set(0.0)
    pad, eos = spec.vocab_size - 2, spec.vocab_size - 1
    special = jnp.zeros((2, spec.width), jnp.float32)
    params["embedding"] = params["embedding"].at[:, 0].set(CHANNEL).at[pad:].set(special)
    ids = jax.random.randint(jax.random.key(1), (16, 64), 0, pad)
    read = jax.jit(partial(apply_decoder, spec))
    positions, mask = jnp.broadcast_to(jnp.arange(64), ids.shape), jnp.ones(ids.shape, bool)
    hidden = read(params, ids, positions, mask)
    others = jax.nn.logsumexp(output_logits(spec, params, hidden)[..., :pad], axis=-1)
    channel = np.asarray(hidden[..., 0], np.float64)
    never = float(np.mean(others) - 30.0) / channel.mean()

    def ends(value: float) -> float:
        return float(np.mean(1.0 / (1.0 + np.exp(np.asarray(others) - value * channel))))

    low, high = never, never + 60.0 / channel.mean()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if ends(middle) < stop else (low, middle)
    params["embedding"] = params["embedding"].at[pad, 0].set(never).at[eos, 0].set(high if stop else never)
    return params


def records(case: dict[str, Any], vocabulary: int) -> dict[str, list[dict[str, Any]]]:
    """Prompts of random words with so many ``responses`` each, as ids: ``records`` to train on, a few ``held_out``.

    Lengths are uniform in ``prompt`` and ``response``, which counts the end of sequence.
    """
    drawn = np.random.default_rng(0)

    def some(lengths: list[int]) -> list[int]:
        return drawn.integers(0, vocabulary - 2, drawn.integers(lengths[0], lengths[1] + 1)).tolist()

    def responses() -> list[list[int]]:
        return [[*some(case["response"])[1:], vocabulary - 1] for _ in range(case["responses"])]

    pool = {words(ids): ids for ids in (some(case["prompt"]) for _ in range(2 * case["records"] + 80))}
    train, held_out = split_records([Record("", prompt, ()) for prompt in pool], HELD_OUT, 0)
    return {
        name: [{"prompt": pool[record.prompt], "responses": responses()} for record in part[:count]]
        for name, part, count in (("train", train, case["records"]), ("held_out", held_out, 2))
    }


def words(ids: list[int]) -> str:
    """The text of ids; the end of sequence, which a reader adds, is left out."""
    return " ".join(f"w{i}" for i in ids)


def row(record: dict[str, Any]) -> dict[str, Any]:
    """A record as rlhf_jax reads it: a demonstration, or a list from best to worst."""
    texts = [words(response[:-1]) for response in record["responses"]]
    if len(texts) == 1:
        return {"prompt": words(record["prompt"]), "completion": texts[0]}
    ranked = [{"text": text, "rank": rank} for rank, text in enumerate(texts)]
    return {"prompt": words(record["prompt"]), "responses": ranked}


def tokenizer(folder: Path, vocabulary: int) -> None:
    """Words by their numbers, split at white space; the last two ids are padding and the end of sequence."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({f"w{i}": i for i in range(vocabulary - 2)}, unk_token="w0"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.add_special_tokens(["<pad>", "<eos>"])  # in the order of their ids
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    ).save_pretrained(str(folder))


def main() -> None:
    """Make what the command line asks for."""
    folder, case = Path(sys.argv[1]), json.loads(sys.argv[2])
    shape, model = MODELS[case["model"]], folder / "model"
    model.mkdir(parents=True)
    spec = spec_of(shape, case["prompt"][1] + case["response"][1])
    params = weights(spec, case.get("stop", 0.0))
    hf.save(model, spec, params, pad_id=shape.vocabulary - 2, eos_id=shape.vocabulary - 1)
    tokenizer(model, shape.vocabulary)
    found = records(case, shape.vocabulary)
    (folder / "ids.json").write_text(json.dumps(found))
    lines = [json.dumps(row(record)) for part in found.values() for record in part]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
