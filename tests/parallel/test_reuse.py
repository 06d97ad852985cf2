"""Two functions share a program exactly if they are made of the same code and the same constants."""

import dataclasses
import enum
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.objectives.utilities import make_utility
from rlhf_jax.parallel import MeshExecutor, reuse
from rlhf_jax.parallel.reuse import ReusingExecutor, fingerprint


@dataclasses.dataclass(frozen=True)
class Spec:
    width: int
    values: tuple[float, ...] = ()


@dataclasses.dataclass
class Loose:
    width: int


class Traced:
    """What was traced, in order; one object, whatever it holds."""

    def __init__(self) -> None:
        self.gammas: list[float] = []


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def scaled(by: Any) -> Callable[..., Any]:
    def function(x: Any, axis_name: str | None) -> tuple[Any]:
        return (x * (by if not callable(by) else by()),)

    return function


def default(by: Any) -> Callable[..., Any]:
    def function(x: Any, times: Any = by) -> Any:
        return x * times

    return function


def counting_down() -> Callable[[int], int]:
    def function(n: int) -> int:
        return function(n - 1) if n else 0

    return function


SAME_AND_OTHER = [
    (lambda: 0.5, lambda: 0.25),
    (lambda: 1, lambda: True),
    (lambda: 1, lambda: 1.0),
    (lambda: 0.0, lambda: -0.0),
    (lambda: float("nan"), lambda: 1.0),
    (lambda: "a", lambda: b"a"),
    (lambda: (1, 2), lambda: [1, 2]),
    (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),  # the order of keys is one of arguments
    (lambda: Colour.RED, lambda: Colour.BLUE),
    (lambda: Spec(1, (0.5,)), lambda: Spec(1, (0.25,))),
    (lambda: np.arange(3), lambda: np.arange(3.0)),
    (lambda: np.zeros((2, 3)), lambda: np.zeros((3, 2))),
    (lambda: jnp.arange(3), lambda: jnp.arange(1, 4)),
    (lambda: jnp.asarray(2.0), lambda: jnp.array(2.0, jnp.float32)),  # the first takes the type of what it meets
    (lambda: jax.random.key(0), lambda: jax.random.key(1)),
    (lambda: jax.random.key(0), lambda: jax.random.key_data(jax.random.key(0))),
    (lambda: scaled(0.5), lambda: scaled(0.25)),
    (lambda: default(1), lambda: default(2)),
    (lambda: partial(scaled(0.5), 1), lambda: partial(scaled(0.5), 2)),
    (lambda: partial(scaled(0.5), x=1), lambda: partial(scaled(0.5), x=2)),
    (lambda: Spec(1).__eq__, lambda: Spec(2).__eq__),
    (counting_down, lambda: default(1)),
    (lambda: jnp.float32, lambda: jnp.bfloat16),
    (lambda: optax.adam(0.1), lambda: optax.adam(0.2)),
    (lambda: optax.chain(optax.clip(1.0), optax.sgd(0.1)), lambda: optax.chain(optax.clip(2.0), optax.sgd(0.1))),
    (lambda: make_utility("power", gamma=0.5), lambda: make_utility("power", gamma=0.25)),
    (lambda: make_utility("power", gamma=0.5).raw, lambda: make_utility("negative_power", gamma=0.5).raw),
    (
        lambda: make_optimizer(OptimizerSpec(steps=10, learning_rate=0.1)),
        lambda: make_optimizer(OptimizerSpec(steps=10, learning_rate=0.2)),
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME_AND_OTHER)
def test_what_is_made_twice_is_the_same_and_another_is_not(one: Callable[[], Any], other: Callable[[], Any]) -> None:
    assert fingerprint(one()) == fingerprint(one())
    assert hash(fingerprint(one())) == hash(fingerprint(one()))
    assert fingerprint(one()) != fingerprint(other())
    for make in (scaled, partial(partial, scaled(1))):
        assert fingerprint(make(one())) == fingerprint(make(one()))
        assert fingerprint(make(one())) != fingerprint(make(other()))


def test_what_could_change_is_equal_to_itself_alone() -> None:
    loose = Loose(1)
    assert fingerprint(loose) == fingerprint(loose)
    assert fingerprint(Loose(1)) != fingerprint(Loose(1))
    assert fingerprint(scaled(loose)) == fingerprint(scaled(loose))
    assert fingerprint(scaled(Loose(1))) != fingerprint(scaled(Loose(1)))


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """The events by which jax tells that it has compiled something."""
    found: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_an_executor_compiles_no_function_twice_and_never_takes_one_for_another() -> None:
    executor = ReusingExecutor(MeshExecutor(jax.devices()[:1]))
    traced = Traced()

    def slope(gamma: float) -> Callable[..., Any]:
        utility = make_utility("power", gamma=gamma)

        def function(x: Any, axis_name: str | None) -> tuple[Any]:
            traced.gammas.append(gamma)
            return (jax.vmap(jax.grad(utility.raw))(x),)

        return function

    x = executor.place(jnp.array([0.25, 1.0]), "replicated")
    for gamma in (0.5, 0.25, 0.5, 0.25):
        (found,) = executor.compile(slope(gamma), ("replicated",), ("replicated",))(x)
        np.testing.assert_allclose(found, gamma * np.array([0.25, 1.0]) ** (gamma - 1), rtol=1e-6)
    assert traced.gammas == [0.5, 0.25]
    executor.compile(slope(0.5), ("rows",), ("rows",))(x)
    assert traced.gammas == [0.5, 0.25, 0.5]


def test_only_the_programs_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "KEPT", 2)
    executor = ReusingExecutor(MeshExecutor(jax.devices()[:1]))

    def program(by: float) -> Callable[..., Any]:
        return executor.compile(scaled(by), ("rows",), ("rows",))

    one, two = program(1.0), program(2.0)
    assert program(1.0) is one
    program(3.0)  # of one and two, two was not used for longer
    assert program(1.0) is one
    assert program(2.0) is not two


def test_a_state_is_made_by_the_program_that_made_the_first(compilations: list[str]) -> None:
    executor = ReusingExecutor(MeshExecutor(jax.devices()[:1]))

    def fresh(width: int) -> Callable[[jax.Array], jax.Array]:
        return lambda key: jax.random.normal(key, (width, width))

    keys = [jax.random.key(seed) for seed in range(3)]
    first = executor.make(fresh(3), keys[0])
    compilations.clear()
    others = [executor.make(fresh(3), key) for key in keys[1:]]
    assert compilations == []
    np.testing.assert_array_equal(others[1], jax.jit(fresh(3))(keys[2]))
    assert not np.array_equal(first, others[0])
    assert executor.make(fresh(4), keys[0]).shape == (4, 4)
