"""When a reward model's head may be trained alone."""

from typing import Any

import pytest

from rlhf_jax.config import default_config, validate
from rlhf_jax.errors import UserError


def changed(**values: Any) -> Any:
    config = default_config()
    config.reward.train = "head"
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def test_a_head_on_a_model_that_was_trained_before() -> None:
    assert default_config().reward.train == "all"
    validate(changed())
    validate(changed(reward__ensemble__members=3, reward__ensemble__kind="heads"))
    validate(changed(reward__init="reward", stages=("sft", "reward"), parents__reward_start="."))
    validate(changed(lora__rank=2, lora__stages=("sft",)))
    # A decoder that is read from a folder is not random.
    validate(changed(reward__init="scratch", model__path="a/model", tokenizer__kind="pretrained"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"reward__train": "heads"}, "did you mean head?"),
        ({"reward__init": "scratch"}, "stay random"),
        ({"reward__init": "scratch", "stages": ("sft", "reward_common")}, "stay random"),
        ({"reward__ensemble__members": 3}, "config.reward.ensemble.kind=heads"),
        ({"lora__rank": 2, "lora__stages": ("reward",)}, "config.lora.stages"),
    ],
)
def test_what_a_head_alone_cannot_be(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(**values))
    assert str(caught.value).startswith("config.reward.train: ")
    assert says in str(caught.value)
