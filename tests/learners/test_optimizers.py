"""Adafactor and Muon on stacked layers against NumPy, which takes one layer at a time, and what each leaves alone."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import ensemble, ppo
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.models import LoRASpec, add_adapters, trained
from tests.learners import tiny

RATE, DECAY, STEPS = 0.1, 0.3, 3
SPEC = OptimizerSpec(RATE, 10, schedule="constant", weight_decay=DECAY, clip_norm=0.0, factored_from=2, beta2=0.9)
ADAFACTOR, MUON = dataclasses.replace(SPEC, name="adafactor"), dataclasses.replace(SPEC, name="muon", momentum=0.9)
# Seven layers: more than a matrix has rows or columns, so that the axis of layers is the longest. 2 x 3, 3 x 2, square.
SHAPES = {"up": (7, 2, 3), "down": (7, 3, 2), "square": (7, 3, 3)}


@pytest.fixture(scope="module", autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def draw(seed: int, size: float = 1.0) -> dict[str, Any]:
    """Parameters, or gradients, of a decoder's paths; layers of very different sizes."""
    random = np.random.default_rng(seed)
    grow = np.geomspace(0.01, 100, 7)[:, None, None]
    layers = {name: {"kernel": size * grow * random.normal(size=shape)} for name, shape in SHAPES.items()}
    layers["norm"] = {"scale": random.normal(size=(7, 3))}
    tree = {"layers": layers, "embedding": random.normal(size=(4, 3)), "head": {"kernel": random.normal(size=3)}}
    return jax.tree.map(jnp.asarray, tree)


def run(spec: OptimizerSpec, params: Any, seeds: Any = range(1, STEPS + 1)) -> Any:
    optimizer = make_optimizer(spec)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for seed in seeds:
        updates, state = update(draw(seed), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """By path; a layer of a stack has a path of its own."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith("layers"):
            found |= {f"{name}/{layer}": np.asarray(leaf[layer]) for layer in range(7)}
        else:
            found[name] = np.asarray(leaf)
    return found


def adafactor_by_hand(x: np.ndarray, gradients: list[np.ndarray], *, relative: bool) -> np.ndarray:
    """Algorithms 4 and 5 of the paper, R and C as sums; the rate is given, the decay decoupled."""
    rows = columns = whole = 0.0
    for t, gradient in enumerate(gradients, start=1):
        forget, square = 1 - t**-0.8, gradient**2 + 1e-30
        rows, columns = (
            forget * old + (1 - forget) * square.sum(axis=axis) for old, axis in ((rows, -1), (columns, 0))
        )
        whole = forget * whole + (1 - forget) * square
        second = whole if x.ndim == 1 else np.outer(rows, columns) / rows.sum()
        step = gradient / np.sqrt(second)
        step = step / max(1.0, np.sqrt((step**2).mean()))
        scale = max(1e-3, np.sqrt((x**2).mean())) if relative else 1.0
        x = x - RATE * (scale * step + DECAY * x)
    return x


@pytest.mark.parametrize("relative", [False, True])
def test_adafactor_is_the_papers_layer_by_layer(relative: bool) -> None:
    start, gradients = draw(0, size=0.01), [leaves(draw(seed)) for seed in range(1, STEPS + 1)]
    found = leaves(run(dataclasses.replace(ADAFACTOR, scale_parameter=relative), start))
    for name, x in leaves(start).items():
        expected = adafactor_by_hand(x, [one[name] for one in gradients], relative=relative)
        # The decay of the second moment is computed in float32 by Optax.
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_adafactor_keeps_rows_and_columns_of_a_layer_and_small_matrices_whole() -> None:
    state = make_optimizer(ADAFACTOR).init(draw(0))[0][0]
    for name, shape in SHAPES.items():
        sizes = [getattr(state, part)["layers"][name]["kernel"].shape for part in ("v_row", "v_col", "v")]
        assert sorted(sizes[:2]) == sorted([(7, shape[1]), (7, shape[2])])
        assert sizes[2] == (7, 1)
    whole = make_optimizer(dataclasses.replace(ADAFACTOR, factored_from=4)).init(draw(0))[0][0]
    assert whole.v["layers"]["up"]["kernel"].shape == (7, 2, 3)


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Five steps of X -> a X + b (X X^T) X + c (X X^T)^2 X (Jordan et al. 2024), from norm 1."""
    if matrix.shape[0] > matrix.shape[1]:
        return newton_schulz(matrix.T).T
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def test_muon_turns_each_layer_into_an_orthogonal_step() -> None:
    start, gradients = draw(0), [leaves(draw(seed)) for seed in range(1, STEPS + 1)]
    found = leaves(run(MUON, start))
    for name, x in leaves(start).items():
        if "kernel/" not in name:
            continue
        mean = np.zeros_like(x)
        for t, gradient in enumerate((one[name] for one in gradients), start=1):
            mean = 0.9 * mean + 0.1 * gradient
            nesterov = 0.9 * mean / (1 - 0.9 ** (t + 1)) + 0.1 * gradient / (1 - 0.9**t)
            x = x - RATE * (0.2 * max(x.shape) ** 0.5 * newton_schulz(nesterov) + DECAY * x)
        # Optax takes the coefficients in float32.
        np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-7, err_msg=name)


def test_embeddings_norms_and_heads_move_as_under_adamw() -> None:
    start = draw(0)
    muon, adam = leaves(run(MUON, start)), leaves(run(SPEC, start))
    for name in muon:
        assert np.array_equal(muon[name], adam[name]) != ("kernel/" in name), name


@pytest.mark.parametrize("spec", [ADAFACTOR, MUON], ids=["adafactor", "muon"])
def test_every_member_of_an_ensemble_has_its_own(spec: OptimizerSpec) -> None:
    """Members are 1000 times apart, and each is clipped by its own norm."""
    spec = dataclasses.replace(spec, clip_norm=1.0)
    one, many = make_optimizer(spec), ensemble.per_member(make_optimizer(spec))
    params, gradients = ([draw(seed), draw(seed + 1)] for seed in (0, 5))
    gradients[1] = jax.tree.map(lambda leaf: 1000 * leaf, gradients[1])
    stacked = [jax.tree.map(lambda *x: jnp.stack(x), *pair) for pair in (params, gradients)]
    together = jax.jit(lambda x, g: many.update(g, many.init(x), x)[0])(*stacked)
    single = jax.jit(lambda x, g: one.update(g, one.init(x), x)[0])
    for member in range(2):
        alone = single(params[member], gradients[member])
        own = jax.tree.map(lambda leaf, m=member: leaf[m], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), own, alone)


@pytest.mark.parametrize("spec", [ADAFACTOR, MUON], ids=["adafactor", "muon"])
def test_adapters_and_heads_alone_have_a_state(spec: OptimizerSpec) -> None:
    lora = LoRASpec(rank=3, alpha=6.0, targets=("q", "down"))
    moving = trained(add_adapters(lora, tiny.scored_params("float32", 1), jax.random.key(5)))
    state = make_optimizer(dataclasses.replace(spec, factored_from=128)).init(moving)
    found = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if leaf.ndim > 1 and leaf.shape[-1] > 1
    ]
    assert len(found) == 4  # two adapters of two matrices
    assert all(name.endswith(("lora_a", "lora_b")) for name in found)
    if spec.name == "muon":
        assert all("/matrices/" in name for name in found)


@pytest.mark.parametrize("spec", [ADAFACTOR, MUON], ids=["adafactor", "muon"])
def test_policy_and_value_model_have_rates_of_their_own(spec: OptimizerSpec) -> None:
    """A policy under one rate, a value model of another depth under a tenth of it: steps are a tenth, decay too."""
    optimizer = ppo.make_ppo_optimizer(spec, dataclasses.replace(spec, learning_rate=RATE / 10))
    network = draw(0)
    params, gradients = ({"policy": tree, "value": tree} for tree in (network, draw(1)))
    updates = optimizer.update(gradients, optimizer.init(params), params)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 10 * b, rtol=1e-9), updates["policy"], updates["value"])
    alone = make_optimizer(spec)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        updates["policy"],
        alone.update(draw(1), alone.init(network), network)[0],
    )


def test_a_schedule_and_the_norm_of_all_gradients_count_for_all_of_them() -> None:
    """Muon's first step is half the second where the schedule rises so; gradients reach Adam's moments clipped."""
    spec = dataclasses.replace(MUON, warmup=2, weight_decay=0.0, clip_norm=1.0)
    optimizer, params, gradient = make_optimizer(spec), draw(0), draw(1)
    state = optimizer.init(params)
    first, state = optimizer.update(gradient, state, params)
    second, _ = optimizer.update(gradient, state, params)
    up = [np.asarray(step["layers"]["up"]["kernel"][-1]) for step in (first, second)]
    np.testing.assert_allclose(2 * up[0], up[1], rtol=1e-6)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    moment = state[1].inner_states["rest"].inner_state[0].mu["embedding"]
    np.testing.assert_allclose(moment, 0.1 * gradient["embedding"] / norm, rtol=1e-9)
