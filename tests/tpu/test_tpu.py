"""A tiny run compiled by the TPU compiler, for chips that are not there. Run by ``make tpu``."""

import json
from typing import Any

import pytest

from rlhf_jax.commands import plan
from rlhf_jax.errors import UserError
from tests.end_to_end import tiny

pytest.importorskip("libtpu", reason="needs libtpu, which is in the extra `tpu`: run `make tpu`")

CONFIG = f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    words = (CONFIG, *tiny.SIZE, "--config.stages=sft,reward,ppo", "--config.parallel.fsdp=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.ahead.load_data", tiny.load)
        plan.main((*words, "--config.parallel.tensor=2", "--topology=v5e:2x4", f"--json={path}"))
    return {one["program"]: one for one in json.loads(path.read_text())["programs"]}


def test_every_program_compiles_and_fits(found: dict[str, Any]) -> None:
    assert list(found) == ["sft.update", "sft.sample", "reward.update", "ppo.sample", "ppo.score", "ppo.update"]
    for one in found.values():
        assert one["fits"]
        assert one["devices"] == 8
        assert 0 < one["used"] < one["available"] == 16 * 2**30


def test_a_state_is_given_up_to_the_next(found: dict[str, Any]) -> None:
    for name in ("sft.update", "reward.update", "ppo.update"):
        memory = found[name]["memory"]
        assert memory["results"] < memory["parameters"] + memory["optimizer"], name  # metrics, a tile each


def test_what_is_sent_goes_along_the_axes_that_split_it(found: dict[str, Any]) -> None:
    """Parameters are gathered and gradients added up along fsdp, products of split layers along tensor."""
    for name in ("sft.update", "reward.update", "ppo.update"):
        axes = {axis for one in found[name]["collectives"] for axis in one["axes"]}
        assert axes == {"data", "fsdp", "tensor"}, name
        gathers = [one for one in found[name]["collectives"] if one["kind"] == "all-gather" and "fsdp" in one["axes"]]
        assert sum(one["times"] * one["bytes"] for one in gathers) > 0, name


def test_products_are_counted_as_often_as_they_are_made(found: dict[str, Any]) -> None:
    """Loops over layers, over updates and over tokens, where the compiler's own count takes each body once; but the
    product of one query with few keys it may write as a sum.
    """
    for name, one in found.items():
        assert 0.7 < one["flops"] / one["model_flops"] < 1.3, name
        assert one["open_loops"] == 0, name
    assert found["ppo.update"]["compiler_flops"] < found["ppo.update"]["flops"]


def test_no_such_topology() -> None:
    with pytest.raises(UserError, match=r"^--topology: 'v5q:2x4' is none; did you mean v5[ep]:2x4"):
        plan.main((CONFIG, "--topology=v5q:2x4"))
