"""PPO that leaves padding out: the figures of a run that does not, few programs, and where its time went."""

import math
import pathlib

import pytest

import rlhf_jax.build.ppo
import rlhf_jax.build.ppo_rollout
from rlhf_jax.build import rooms
from rlhf_jax.metrics import read_jsonl
from tests.end_to_end import tiny
from tests.end_to_end.conftest import Run


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_run_without_padding_has_the_figures_of_one_with_it(
    quickstart: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = [f"--config.parents.{name}={quickstart.workdir}" for name in ("sft", "reward")]
    words = [f"--config={tiny.ROOT / 'configs' / 'ppo.py'}", *tiny.PIPELINE, *parents, "--config.log.tensorboard=False"]
    words += ["--config.ppo.iterations=2", "--config.ppo.minibatches=1", "--config.data.max_prompt=24"]
    made = []

    def within(program, room):
        made.append((program.name, room))
        return rooms.within(program, room)

    for module in (rlhf_jax.build.ppo, rlhf_jax.build.ppo_rollout):
        monkeypatch.setattr(module, "within", within)
    for unpad in ("no", "yes"):
        made.clear()
        tiny.launch(*words, f"--config.ppo.unpad={unpad}", f"--workdir={tmp_path / unpad}", report=False)
        if unpad == "no":
            assert {room for _, room in made} == {rooms.ALL}
    assert len(made) == len(set(made))  # none is compiled twice
    assert 2 <= len(made) <= 2 * (math.prod(rooms.SIZES) + rooms.OF_RESPONSES)
    assert any(room.tokens and name == "ppo.update" for name, room in made)
    plain, found = (tiny.rows_of(tmp_path / unpad) for unpad in ("no", "yes"))
    assert len(plain) == len(found)
    for one, other in zip(plain, found, strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], rel=5e-3, abs=5e-3)
    for row in read_jsonl(tmp_path / "yes" / "metrics.jsonl")[:2]:
        found = {name: share for name, share in row["metrics"].items() if name.startswith("time.")}
        assert found.keys() == {*tiny.SHARES, "time.input"}
        assert sum(found[name] for name in tiny.SHARES) == pytest.approx(1.0)
        assert 0 <= found["time.input"] < 1
