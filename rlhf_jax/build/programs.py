"""The compiled functions of a stage, apart from any array: what a run compiles, and what ``rlhf-jax plan`` measures."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import Part
from rlhf_jax.models import trained
from rlhf_jax.parallel import Executor, Kind


@dataclasses.dataclass(frozen=True)
class Program:
    """One function for ``Executor.compile``. With ``gives_up_state`` the memory of its first argument, a train state,
    goes over to its first result. With ``inference`` there is no gradient in it.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[Kind, ...]
    outputs: tuple[Kind, ...]
    gives_up_state: bool = False
    inference: bool = False

    def compile(self, executor: Executor) -> Callable[..., Any]:
        """The compiled function, for the devices of ``executor``."""
        donates = donated(executor.mesh.devices.flat[0].platform) if self.gives_up_state else ()
        return executor.compile(self.function, self.inputs, self.outputs, donates, inference=self.inference)


def donated(platform: str) -> tuple[int, ...]:
    """Hand the old state's memory to the new one, but not on CPUs: there a save may still be reading it."""
    return () if platform == "cpu" else (0,)


@dataclasses.dataclass(frozen=True)
class Learning:
    """The update of a learner, and what its state is made with: the optimizer, of that ``part`` which learns.

    ``update`` takes (state, rows).
    """

    update: Program
    optimizer: optax.GradientTransformation
    schedule: OptimizerSpec
    part: Part = trained


def learning(
    stage: str,
    update: Callable[..., Any],
    spec: OptimizerSpec,
    make: Callable[[OptimizerSpec], optax.GradientTransformation] = make_optimizer,
    part: Part = trained,
) -> Learning:
    """Of a learner's step ``update(optimizer, state, batch, axis_name=...)``; ``make`` makes its optimizer."""
    optimizer = make(spec)

    def function(state: Any, batch: Any, axis_name: str | None) -> Any:
        return update(optimizer, state, batch, axis_name=axis_name)

    program = Program(f"{stage}.update", function, ("state", "rows"), ("state", "replicated"), gives_up_state=True)
    return Learning(program, optimizer, spec, part)
