"""The settings of optimizers: what is refused, in every stage's section, and by which key."""

import pytest

from rlhf_jax.build.specs import optimizer_spec
from rlhf_jax.config import default_config, from_json, to_json, validate
from rlhf_jax.config.rules import leaves
from rlhf_jax.errors import UserError
from rlhf_jax.learners.optimizer import OptimizerSpec

SECTIONS = ("sft", "reward", "critique", "segments", "ppo", "dpo", "online")


def refusal(section: str, **values: object) -> str:
    config = default_config()
    config[section].optimizer.update(values)
    with pytest.raises(UserError) as caught:
        validate(config)
    return str(caught.value)


def test_every_stage_may_have_any_and_adamw_is_what_it_was() -> None:
    config = default_config()
    assert {key.split(".")[0] for key, _ in leaves(config) if key.endswith(".optimizer.name")} == set(SECTIONS)
    for section in SECTIONS:
        usual = optimizer_spec(config[section].optimizer, 7)
        assert usual == OptimizerSpec(usual.learning_rate, 7, usual.warmup)
        for name in ("adafactor", "muon", "adamw"):
            config[section].optimizer.name = name
            validate(config)
            assert optimizer_spec(config[section].optimizer, 7).name == name
        config[section].optimizer.name = "muon"
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "adam"}, "name: 'adam' is not allowed, must be one of adamw, adafactor, muon; did you mean adamw?"),
        ({"name": "muon", "momentum": 1.0}, "momentum: 1.0 is not allowed, must be in [0, 1)"),
        ({"name": "muon", "update_rms": 0.0}, "update_rms: 0.0 is not allowed, must be above 0"),
        ({"name": "adafactor", "factored_from": 0}, "factored_from: 0 is not allowed, must be at least 1"),
        ({"momentum": 0.9}, "momentum: 0.9 would go unused: config.{}.optimizer.name is adamw"),
        ({"scale_parameter": True}, "scale_parameter: True would go unused: config.{}.optimizer.name is adamw"),
        ({"name": "adafactor", "beta1": 0.8}, "beta1: 0.8 would go unused: config.{}.optimizer.name is adafactor"),
        ({"name": "adafactor", "beta2": 0.9}, "beta2: 0.9 would go unused"),
        ({"name": "adafactor", "epsilon": 1e-6}, "epsilon: 1e-06 would go unused"),
        ({"name": "adafactor", "update_rms": 0.1}, "update_rms: 0.1 would go unused"),
        ({"name": "muon", "factored_from": 64}, "factored_from: 64 would go unused: config.{}.optimizer.name is muon"),
    ],
)
def test_what_no_run_could_honour_is_refused(values: dict[str, object], says: str) -> None:
    for section in ("sft", "online"):
        assert refusal(section, **values).startswith(f"config.{section}.optimizer.{says.format(section)}")


def test_muon_reads_what_its_adamw_reads() -> None:
    config = default_config()
    config.sft.optimizer.update({"name": "muon", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "update_rms": 0.3})
    validate(config)
