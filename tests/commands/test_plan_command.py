"""The command line of ``rlhf-jax plan``, and a plan of a tiny run from end to end."""

import json
import os
import pathlib

import pytest

from rlhf_jax.commands import plan
from rlhf_jax.errors import UserError
from rlhf_jax.main import main
from tests.end_to_end import tiny

CONFIG = f"--config={tiny.ROOT / 'configs' / 'sft.py'}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((CONFIG, "--topolgy=v5e:2x4"), "--topolgy=v5e:2x4: no such option; did you mean --topology?"),
        ((CONFIG, "--topology"), "--topology: no value given"),
        ((CONFIG, "--topology=v5e:2x4", "--devices=8"), "two answers to one question"),
        ((CONFIG, "--devices=0"), "--devices: '0' is not a whole number from 1 to 4096"),
        ((CONFIG, "--json=/no/such/folder/plan.json"), "--json: no such folder: /no/such/folder"),
        ((CONFIG, "--config.model.widht=8"), "config.model.widht: no such key; did you mean config.model.width?"),
        ((), "--config: missing"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError) as error:
        plan.main(words)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--help"])
    assert "--topology=NAME" in capsys.readouterr().out


def test_jax_is_told_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8"})
    plan._tell_jax({"devices": "5"})
    assert os.environ["XLA_FLAGS"] == "--a=1 --xla_force_host_platform_device_count=5"
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setattr(os, "environ", {"JAX_PLATFORMS": "cuda"})
    plan._tell_jax({})
    assert os.environ == {"JAX_PLATFORMS": "cuda"}
    plan._tell_jax({"topology": "v5e:2x4"})
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    assert "XLA_FLAGS" not in os.environ


def test_devices_that_do_not_fill_the_mesh_and_a_mode_that_is_not_planned() -> None:
    with pytest.raises(UserError, match=r"^config\.parallel: fsdp 3 .* = 3 does not divide the number of devices, 8$"):
        plan.main((CONFIG, "--config.parallel.fsdp=3"))
    with pytest.raises(UserError, match=r"^config\.parallel\.mode: pmap is not planned"):
        plan.main((CONFIG, "--config.parallel.mode=pmap"))


@pytest.mark.slow
def test_a_plan_of_a_tiny_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlhf_jax.build.ahead.load_data", tiny.load)
    path = tmp_path / "plan.json"
    words = ("plan", CONFIG, *tiny.SIZE, "--config.parallel.fsdp=2", "--config.parallel.tensor=2", f"--json={path}")
    main(words)
    printed = capsys.readouterr()
    assert "8 devices of kind cpu: data 2 x fsdp 2" in printed.out
    assert "parameters, MiB" in printed.out
    assert "compiling sft.update" in printed.err
    found = json.loads(path.read_text())
    assert found["mesh"] == {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    update, sample = found["programs"]
    assert (update["program"], sample["program"]) == ("sft.update", "sft.sample")
    memory = update["memory"]
    assert memory["total"] == update["used"] == sum(size for name, size in memory.items() if name != "total")
    # Adam has two moments and two counts.
    assert 2 * memory["parameters"] <= memory["optimizer"] <= 2 * memory["parameters"] + 64
    assert update["fits"]
    assert sample["memory"]["cache"] > 0
    axes = {axis for one in update["collectives"] for axis in one["axes"]}
    assert axes == {"data", "fsdp", "tensor"}
    # What the mathematics asks for is what was compiled, but for the last token of a row, which predicts nothing.
    assert 0.9 < update["flops"] / update["model_flops"] < 1.1
