"""Configurations as JSON, as a run keeps them."""

import atheris

with atheris.instrument_imports(include=["rlhf_jax.config"]):
    from rlhf_jax.config import default_config, from_json, to_json, validate

from tests.fuzz.harness import fuzz


def target(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    validate(from_json(text))


if __name__ == "__main__":
    parts = '{"reward": {"utility_by_type": {"open": {"gamma": 0.5}}, "annotator_weights": {"a": 1}}, "seed": 3}'
    fuzz(
        target,
        [parts.encode(), b'{"stages": ["sft"], "data": {"template": "{prompt}"}}', to_json(default_config()).encode()],
    )
