"""Settings that take an update or a rollout in parts."""

import pytest

from rlhf_jax.config import default_config, validate
from rlhf_jax.errors import UserError


@pytest.mark.parametrize("key", ["sft.accumulate", "reward.accumulate", "ppo.accumulate"])
def test_parts_are_counted_from_one(key: str) -> None:
    section, name = key.split(".")
    config = default_config()
    assert config[section][name] == 1
    config[section][name] = 4
    validate(config)
    config[section][name] = 0
    with pytest.raises(UserError, match=rf"^config\.{key}: 0 is not allowed"):
        validate(config)


def test_rows_at_once_divide_the_rollout() -> None:
    config = default_config()
    assert config.ppo.rollout_rows == 0
    config.ppo.prompts_per_iteration, config.ppo.samples_per_prompt = 12, 2
    for rows in (0, 1, 8, 24):
        config.ppo.rollout_rows = rows
        validate(config)
    for rows in (-1, 5, 48):
        config.ppo.rollout_rows = rows
        with pytest.raises(UserError, match=r"^config\.ppo\.rollout_rows: "):
            validate(config)
