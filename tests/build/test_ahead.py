"""The plan's programs are the run's: the same text, lowered from shapes as from the arrays of a run's first step."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from rlhf_jax import flags
from rlhf_jax.build import ahead, context, programs, tasks
from rlhf_jax.models import init_decoder, init_reward_model
from tests.end_to_end import tiny

# A plan is of the longest responses that there may be, a run of the longest that there are: here both are 16 tokens.
LONGEST = "--config.data.max_response=16"
SIZE = (f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}", *tiny.SIZE, LONGEST, "--dry_run")
HEADS = ("--config.reward.ensemble.members=2", "--config.reward.ensemble.kind=heads")
GROUPS = ("--config.ppo.advantage=rloo", "--config.ppo.samples_per_prompt=2")
MESH = ("--config.parallel.fsdp=2", "--config.parallel.tensor=2")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_jax.build.context.load_data", tiny.load)
    monkeypatch.setattr("rlhf_jax.build.ahead.load_data", tiny.load)
    monkeypatch.setattr("rlhf_jax.build.programs.donated", lambda platform: (0,))


def _fresh(own: context.Context, stage: str, spec: Any) -> Any:
    """In the place of a parent's checkpoint."""
    form = context.stage_ensemble(own.config, stage)
    init = init_decoder if stage == "sft" else functools.partial(init_reward_model, ensemble=form)
    return own.executor.place(init(spec, jax.random.key(1)), "state")


def _texts_of_a_run(
    config: ConfigDict, stage: str, workdir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """What each program of a stage is lowered to when its first step is made; it is not compiled, and gives zeros."""
    texts: dict[str, str] = {}
    compile_ = programs.Program.compile

    def recorded(self: programs.Program, executor: Any) -> Callable[..., Any]:
        function: Any = compile_(self, executor)

        def call(*args: Any) -> Any:
            lowered = function.lower(*args)
            texts.setdefault(self.name, lowered.as_text())
            made = tuple(
                jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), out)
                if kind == "rows"
                else args[0]
                if kind == "state"
                else {"loss": jnp.zeros(())}
                for out, kind in zip(lowered.out_info, self.outputs, strict=True)
            )
            return tuple(executor.place(one, kind) for one, kind in zip(made, self.outputs, strict=True))

        return call

    monkeypatch.setattr(programs.Program, "compile", recorded)
    for module in ("answers", "dpo", "online", "ppo_models", "reward"):
        monkeypatch.setattr(f"rlhf_jax.build.{module}.load_parent", _fresh)
    monkeypatch.setattr("rlhf_jax.build.dpo.reference_logprobs", lambda *_: None)
    made = tasks.make_task(context.make_context(config, workdir), stage)
    made.step(made.state, next(made.batches))
    monkeypatch.setattr(programs.Program, "compile", compile_)
    return texts


def _texts_of_the_plan(config: ConfigDict, stage: str) -> dict[str, str]:
    own = ahead.plan_context(config, jax.devices())
    texts = {}
    for one in ahead.planned(own, stage):
        function: Any = one.program.compile(own.executor)
        texts[one.program.name] = function.lower(*one.arguments).as_text()
    return texts


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("stage", "words", "seen"),
    [
        pytest.param("sft", (), {"sft.update"}, marks=SLOW),
        pytest.param("sft", ("--config.lora.rank=2", "--config.lora.stages=sft"), {"sft.update"}, marks=SLOW),
        pytest.param("reward", (), {"reward.update"}, marks=SLOW),
        pytest.param("reward", HEADS, {"reward.update"}, marks=SLOW),
        pytest.param("ppo", (), {"ppo.sample", "ppo.score", "ppo.update"}, marks=SLOW),
        pytest.param("ppo", GROUPS, {"ppo.sample", "ppo.score", "ppo.update"}, marks=SLOW),
        pytest.param("dpo", ("--config.dpo.reference=on_the_fly",), {"dpo.reference", "dpo.update"}, marks=SLOW),
        pytest.param("online", (), {"online.sample", "online.update"}, marks=SLOW),
    ],
)
def test_the_plan_compiles_what_the_run_compiles(
    stage: str, words: tuple[str, ...], seen: set[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = flags.parse(
        [*SIZE, *MESH, *words, f"--config.stages={','.join(dict.fromkeys(('sft', 'reward', stage)))}"]
    ).config
    planned = _texts_of_the_plan(config, stage)
    ran = _texts_of_a_run(config, stage, tmp_path, monkeypatch)
    assert ran.keys() == seen
    for name in seen:
        assert len(ran[name]) > 10_000
        assert planned[name] == ran[name], name
    assert "jax.buffer_donor" in planned[f"{stage}.update"] or "tf.aliasing_output" in planned[f"{stage}.update"]


def test_programs_without_gradients_say_so() -> None:
    """Sampling and scoring; the reference of direct methods keeps bits that no number of cores moves."""
    config = flags.parse([*SIZE, "--config.stages=sft,reward,ppo,dpo"]).config
    own = ahead.plan_context(config, jax.devices()[:1])
    found = {one.program.name: one.program.inference for stage in config.stages for one in ahead.planned(own, stage)}
    inference = {name for name, value in found.items() if value}
    assert inference == {"sft.sample", "ppo.sample", "ppo.score"}
    assert {"sft.update", "ppo.update"} < found.keys()
