"""Batches and models that devices cannot share evenly are refused, with the nearest sizes that would do."""

import dataclasses
import re

import pytest
from ml_collections import ConfigDict

from rlhf_jax.build.sizes import check_lengths, check_model, check_rows, either, nearest, notes_on
from rlhf_jax.config import default_config
from rlhf_jax.errors import UserError
from rlhf_jax.models import DecoderSpec


def refused_rows(config: ConfigDict, devices: int = 8) -> str:
    with pytest.raises(UserError) as refused:
        check_rows(config, devices)
    return str(refused.value)


@pytest.mark.parametrize(
    ("stages", "key", "rows", "instead"),
    [
        (("sft",), "sft.batch_size", 12, "8 or 16"),
        (("sft",), "sft.batch_size", 3, "8"),
        (("reward",), "reward.batch_size", 12, "8 or 16"),
        (("reward_common",), "reward.batch_size", 12, "8 or 16"),
        (("critique",), "critique.batch_size", 12, "8 or 16"),
        (("segments",), "segments.batch_size", 20, "16 or 24"),
        (("ppo",), "ppo.prompts_per_iteration", 18, "16 or 24 prompts"),  # of 2 samples each, in 2 minibatches
        (("dpo",), "dpo.batch_size", 12, "8 or 16"),
        (("dpo",), "ppo.prompts_per_iteration", 18, "16 or 20 prompts"),
        (("online",), "online.prompts_per_iteration", 36, "32 or 48 prompts"),  # in 2 minibatches
        (("sft",), "ppo.prompts_per_iteration", 18, "16 or 20 prompts"),  # SFT answers held-out prompts by as many rows
    ],
)
def test_a_batch_must_be_shared_evenly_by_the_devices(
    stages: tuple[str, ...], key: str, rows: int, instead: str
) -> None:
    config = default_config()
    config.stages = stages
    config.ppo.minibatches, config.ppo.samples_per_prompt = 2, 2
    check_rows(config, 8)
    group, name = key.split(".")
    config[group][name] = rows
    told = rows * (config.ppo.samples_per_prompt if group == "ppo" else 1)
    text = f"config.{key}: {told} rows cannot be shared evenly by 8 devices; {instead} would"
    assert refused_rows(config) == text
    check_rows(config, 1)
    for number in re.findall(r"\d+", instead):  # what is told is true
        config[group][name] = int(number)
        check_rows(config, 8)


def test_what_would_do_may_be_worked_on_in_as_many_parts_too() -> None:
    config = default_config()
    config.stages, config.sft.batch_size, config.sft.accumulate = ("sft",), 24, 4
    assert refused_rows(config).endswith("4 does not divide the 3 rows of an update of each of 8 devices; 3 would")
    config.sft.batch_size = 28
    assert refused_rows(config).endswith("28 rows cannot be shared evenly by 8 devices; 32 would")


def test_stages_that_are_not_run_may_have_any_batch() -> None:
    config = default_config()
    config.stages = ("reward",)
    config.sft.batch_size = config.ppo.prompts_per_iteration = config.ppo.minibatches = 3
    check_rows(config, 8)


def test_a_minibatch_must_be_shared_evenly_too() -> None:
    config = default_config()
    config.ppo.prompts_per_iteration, config.ppo.samples_per_prompt, config.ppo.minibatches = 16, 3, 4
    text = "config.ppo.minibatches: 12 rows cannot be shared evenly by 8 devices; 3 or 6 minibatches would"
    assert refused_rows(config) == text
    config.stages, config.online.prompts_per_iteration, config.online.minibatches = ("online",), 48, 4
    text = "config.online.minibatches: 12 rows cannot be shared evenly by 8 devices; 3 or 6 minibatches would"
    assert refused_rows(config) == text


@pytest.mark.parametrize(
    ("stages", "section"), [(("sft",), "sft"), (("reward_common",), "reward"), (("sft", "reward", "ppo"), "ppo")]
)
def test_parts_of_an_update_must_divide_the_rows_of_each_device(stages: tuple[str, ...], section: str) -> None:
    """Of 24 rows eight devices have three each."""
    config = default_config()
    config.stages = stages
    config.sft.batch_size = config.reward.batch_size = config.ppo.prompts_per_iteration = 24
    config.ppo.samples_per_prompt, config.ppo.minibatches = 2, 2
    config[section].accumulate = 2
    text = f"config.{section}.accumulate: 2 does not divide the 3 rows of an update of each of 8 devices; 1 or 3 would"
    assert refused_rows(config) == text
    check_rows(config, 4)
    config[section].accumulate = 5
    text = f"config.{section}.accumulate: 5 does not divide the 24 rows of an update; 4 or 6 would"
    assert refused_rows(config, 1) == text
    config.stages = ("critique",)
    check_rows(config, 8)


def test_rows_sampled_at_once_must_be_shared_evenly_by_the_devices() -> None:
    config = default_config()
    config.ppo.rollout_rows = 4
    check_rows(config, 4)
    assert refused_rows(config) == "config.ppo.rollout_rows: 4 rows cannot be shared evenly by 8 devices; 8 would"


def test_demonstrations_of_an_update_must_be_shared_evenly_too() -> None:
    config = default_config()
    config.stages, config.ppo.pretraining.coefficient, config.ppo.accumulate = ("ppo",), 1.0, 2
    config.ppo.pretraining.rows = 20
    text = "config.ppo.pretraining.rows: 20 rows cannot be shared evenly by 8 devices; 16 or 32 would"
    assert refused_rows(config) == text
    config.ppo.pretraining.rows = 24
    assert refused_rows(config).endswith("does not divide the rows of each of 8 devices; 16 or 32 would")


def test_the_nearest_are_found_and_named() -> None:
    assert nearest(12, lambda n: n % 8 == 0) == [8, 16]
    assert nearest(7, lambda n: n % 8 == 0) == [8]
    assert nearest(9, lambda n: 12 % n == 0) == [6, 12]
    assert nearest(2, lambda n: False) == []
    assert [either([3]), either([1, 2]), either([1, 2, 1024])] == ["3", "1 or 2", "1, 2 or 1024"]


def test_rows_must_be_shared_evenly_by_the_sequence_axis() -> None:
    config = default_config()
    config.data.max_prompt, config.data.max_response, config.sft.row_length = 12, 20, 66
    check_lengths(config)
    config.parallel.sequence = 4
    with pytest.raises(UserError) as refused:
        check_lengths(config)
    text = "rows of 66 tokens cannot be shared evenly by config.parallel.sequence=4; 64 or 68 would"
    assert str(refused.value) == f"config.sft.row_length: 66: {text}"
    config.stages, config.data.max_prompt = ("reward",), 13
    with pytest.raises(UserError) as refused:
        check_lengths(config)
    text = "rows of 33 tokens cannot be shared evenly by config.parallel.sequence=4; 19 or 23 would"
    assert str(refused.value) == f"config.data.max_response: 20: {text}"


# ------------------------------------------------------------------------------------- models

# The sizes of GPT-2.
SPEC = DecoderSpec(vocab_size=50_257, width=768, depth=12, heads=12, kv_heads=12, mlp_width=3072, positions="learned")


def mesh(fsdp: int = 1, tensor: int = 1) -> ConfigDict:
    parallel = default_config().parallel
    parallel.fsdp, parallel.tensor = fsdp, tensor
    return parallel


@pytest.mark.parametrize(
    ("sizes", "parallel", "line"),
    [
        # 770 = 2 x 5 x 7 x 11; 12 heads need a multiple of 24.
        (
            {"width": 770},
            mesh(fsdp=8),
            "config.model.width: 770 cannot be split evenly over config.parallel.fsdp=8; fsdp 1 or 2 would, "
            "or width 768 or 792",
        ),
        (
            {},
            mesh(tensor=8),
            "config.model.heads: 12 cannot be split evenly over config.parallel.tensor=8; tensor 1, 2 or 4 would, "
            "or heads 24",
        ),
        (  # 24 heads would have a width of 3, which are no pairs to rotate
            {"width": 72, "heads": 18, "kv_heads": 2},
            mesh(tensor=4),
            "config.model.heads: 18 cannot be split evenly over config.parallel.tensor=4; tensor 1 or 2 would, "
            "or heads 12 or 36",
        ),
        (
            {"kv_heads": 3},
            mesh(tensor=4),
            "config.model.kv_heads: 3 cannot be split evenly over config.parallel.tensor=4; tensor 1 would, "
            "or kv_heads 2 or 4",
        ),
        (
            {"mlp_width": 3074},
            mesh(tensor=4),
            "config.model.mlp_width: 3074 cannot be split evenly over config.parallel.tensor=4; tensor 1 or 2 would, "
            "or mlp_width 3072 or 3076",
        ),
    ],
)
def test_a_model_that_the_mesh_does_not_divide_is_refused(
    sizes: dict[str, int], parallel: ConfigDict, line: str
) -> None:
    spec = dataclasses.replace(SPEC, **{"positions": "rotary", **sizes})
    with pytest.raises(UserError) as refused:
        check_model({"model": spec}, parallel, 8, fresh=True)
    assert str(refused.value) == line
    with pytest.raises(UserError) as refused:  # of a model that is there already only the mesh can be chosen
        check_model({"model": SPEC, "parents.reward": spec}, parallel, 8, fresh=False)
    assert ", or" not in str(refused.value)
    if sizes:
        size = line.split(":")[0].removeprefix("config.model.")
        assert str(refused.value).startswith(f"config.parents.reward: {size} {sizes[size]} cannot")


@pytest.mark.parametrize(
    ("fsdp", "tensor", "notes"), [(8, 1, []), (4, 1, []), (4, 2, ["110.2", "50,258"]), (2, 4, ["55.2"])]
)
def test_gpt_2_runs_on_any_mesh_of_eight_that_divides_its_heads(fsdp: int, tensor: int, notes: list[str]) -> None:
    """Its vocabulary is odd: over two parts of the tensor axis a device holds V x D x 4 bytes / fsdp / 2 more."""
    parallel = mesh(fsdp, tensor)
    check_model({"model": SPEC}, parallel, 8, fresh=False)
    told = " ".join(notes_on(SPEC, parallel))
    if tensor == 1:
        assert told == ""
        return
    more = 50_257 * 768 * 4 / fsdp * (1 - 1 / tensor) / 2**20
    assert (
        f"the vocabulary of 50,257, which is not split: of every copy of the parameters a device holds {more:.1f}"
        in told
    )
    untied = " ".join(notes_on(dataclasses.replace(SPEC, tied=False), parallel))
    assert f" {2 * more:.1f} MiB more than with {50_260 if tensor == 4 else 50_258:,} tokens" in untied


def test_more_parts_than_key_value_heads_are_told_of() -> None:
    spec = dataclasses.replace(SPEC, kv_heads=2, vocab_size=50_304)
    parallel = mesh(tensor=4)
    check_model({"model": spec}, parallel, 4, fresh=True)
    (note,) = notes_on(spec, parallel)
    assert note.startswith("config.parallel.tensor=4 is more than the 2 key-value heads: each is computed in 2 parts")
    assert notes_on(spec, mesh(fsdp=4)) == ()
    odd = dataclasses.replace(spec, head_size=63)
    with pytest.raises(UserError, match=r"^config\.model\.kv_heads: 2 cannot be split evenly over .*; tensor 1 or 2 "):
        check_model({"model": odd}, parallel, 4, fresh=False)
