"""The section of adapters: what is refused, and by which key."""

from typing import Any

import pytest

from rlhf_jax.config import default_config, from_json, to_json, validate
from rlhf_jax.errors import UserError


def refusal(**values: Any) -> str:
    config = default_config()
    config.lora.update({"rank": 4, "stages": ("reward",)})
    for name in ("activation", "mlp_width"):
        config.model[name] = values.pop(name, config.model[name])
    config.lora.update(values)
    with pytest.raises(UserError) as caught:
        validate(config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rank": -1}, "config.lora.rank: -1 is not allowed"),
        ({"rank": 65}, "config.lora.rank: 65 is more than config.model.width=64"),
        ({"alpha": 0.0}, "config.lora.alpha: 0.0 is not allowed"),
        ({"targets": ()}, "config.lora.targets: () is not allowed"),
        ({"targets": ("q", "q")}, "config.lora.targets: ('q', 'q') is not allowed"),
        ({"targets": ("query",)}, "config.lora.targets: ('query',) is not allowed, must be different ones of q, k"),
        ({"targets": ("gate",), "activation": "gelu"}, "config.lora.targets: gate, but a layer"),
        ({"stages": ()}, "config.lora.rank: 4 would go unused"),
        ({"stages": ("sft", "sft")}, "config.lora.stages: ('sft', 'sft') is not allowed"),
        ({"stages": ("rewards",)}, "config.lora.stages: 'rewards' is not one of sft, reward, "),
        ({"stages": ("reward_common",)}, "config.lora.stages: reward_common would go unused"),
        ({"rank": 0}, "config.lora.stages: ('reward',) would go unused: config.lora.rank is 0"),
        ({"rank": 0, "stages": (), "alpha": 8.0}, "config.lora.alpha: 8.0 would go unused"),
        ({"rank": 0, "stages": (), "targets": ("q",)}, "config.lora.targets: ('q',) would go unused"),
        ({"base": "int4"}, "config.lora.base: 'int4' is not allowed, must be one of float32, bfloat16, int8, nf4"),
        ({"rank": 0, "stages": (), "base": "int8"}, "config.lora.base: int8 would go unused: config.lora.rank is 0"),
        (
            {"base": "nf4", "mlp_width": 129},
            "config.lora.base: nf4 keeps two inputs in a byte, but config.model.mlp_width",
        ),
    ],
)
def test_what_no_stage_could_honour_is_refused(values: dict[str, Any], says: str) -> None:
    assert refusal(**values).startswith(says)


def test_a_near_miss_of_a_stage_is_named() -> None:
    assert refusal(stages=("reword",)).endswith("did you mean reward?")


def test_adapters_survive_the_journey_through_json() -> None:
    config = default_config()
    config.lora.update({"rank": 64, "alpha": 1.5, "targets": ("gate", "k"), "base": "nf4", "stages": ("sft", "ppo")})
    validate(config)
    assert from_json(to_json(config)).lora == config.lora
