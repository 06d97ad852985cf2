"""Direct preference losses in PyTorch, written from the papers pair by pair, give our losses and gradients.

Run by ``make parity``.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners.preference import PreferenceSpec, loss_of_logprobs
from rlhf_jax.objectives.divergences import make_divergence
from tests.learners import tiny

torch = pytest.importorskip("torch", reason="needs PyTorch, which is in the extra `parity`: run `make parity`")

RANDOM = np.random.default_rng(0)
ROWS, SIZE = 2 * tiny.ROWS, tiny.LIST_SIZE
LOGPROBS = -RANDOM.uniform(2.0, 9.0, (ROWS, SIZE))
REFERENCE = LOGPROBS + RANDOM.normal(0.0, 1.5, (ROWS, SIZE))
SPEC = PreferenceSpec(tiny.decoder_spec())


def logsig(x):
    return torch.nn.functional.logsigmoid(x)


def of_pairs(rewards_of, term):
    """Each list the mean of ``term(r_w - r_l)`` over its pairs."""

    def loss(row):
        rewards = rewards_of(row)
        return torch.stack([term(rewards[i] - rewards[j]) for i, j in row.pairs]).mean()

    return loss


def winners(row):
    """The responses that nothing beats."""
    lost = {j for _, j in row.pairs}
    return [i for i in range(SIZE) if i not in lost and any(i == one for one, _ in row.pairs)]


def plackett_luce(row):
    """Of a full order: log of the sum of what is left, less the chosen one, mean over the choices."""
    rewards, terms = 0.1 * row.ratio, []
    for i in range(SIZE):
        beaten = [j for one, j in row.pairs if one == i]
        if beaten:
            terms.append(torch.logsumexp(rewards[[i, *beaten]], 0) - rewards[i])
    return torch.stack(terms).mean()


def odds(row):
    p = torch.exp(row.logprobs / row.lengths)
    return torch.log(p / (1 - p))


def orpo(row):
    best = winners(row)
    nll = -(row.logprobs / row.lengths)[best].mean()
    return nll + 0.2 * of_pairs(odds, lambda g: -logsig(g))(row)


def rpo(row):
    return of_pairs(lambda r: 0.1 * r.ratio, lambda g: -logsig(g))(row) - 0.3 * row.logprobs[winners(row)].mean()


def slope(of_ratio):
    return of_pairs(lambda row: 0.1 * of_ratio(torch.exp(row.ratio)), lambda g: -logsig(g))


DIRECT = {
    "dpo": ({}, of_pairs(lambda r: 0.1 * r.ratio, lambda g: -logsig(g))),
    "cdpo": (
        {"label_smoothing": 0.1},
        of_pairs(lambda r: 0.1 * r.ratio, lambda g: -0.9 * logsig(g) - 0.1 * logsig(-g)),
    ),
    "rdpo": (
        {"loss": "rdpo", "label_smoothing": 0.1},
        of_pairs(lambda r: 0.1 * r.ratio, lambda g: (-0.9 * logsig(g) + 0.1 * logsig(-g)) / 0.8),
    ),
    "ipo": ({"loss": "ipo"}, of_pairs(lambda r: r.ratio, lambda g: (g - 5.0) ** 2)),
    "ipo_mean": (
        {"loss": "ipo", "length_normalized": True},
        of_pairs(lambda r: r.ratio / r.lengths, lambda g: (g - 5.0) ** 2),
    ),
    "hinge": ({"loss": "hinge"}, of_pairs(lambda r: 0.1 * r.ratio, lambda g: torch.relu(1 - g))),
    "simpo": (
        {"loss": "simpo", "beta": 2.0, "gamma": 0.5},
        of_pairs(lambda r: 2.0 * r.logprobs / r.lengths, lambda g: -logsig(g - 0.5)),
    ),
    "chi_po": (
        {"loss": "chi_po", "clip": 0.2},
        of_pairs(lambda r: 0.1 * (torch.exp(r.ratio) + r.ratio), lambda g: -logsig(torch.clamp(g, -0.4, 0.4))),
    ),
    "orpo": ({"loss": "orpo", "lambda_": 0.2}, orpo),
    "rpo": ({"nll": 0.3}, rpo),
    "plackett_luce": ({"lists": "plackett_luce"}, plackett_luce),
    "reverse_kl": ({"loss": "f_dpo", "divergence": make_divergence("reverse_kl")}, slope(torch.log)),
    "forward_kl": ({"loss": "f_dpo", "divergence": make_divergence("forward_kl")}, slope(lambda u: -1 / u)),
    "jensen_shannon": (
        {"loss": "f_dpo", "divergence": make_divergence("jensen_shannon")},
        slope(lambda u: torch.log(2 * u / (1 + u))),
    ),
    "alpha": (
        {"loss": "f_dpo", "divergence": make_divergence("alpha", 0.3)},
        slope(lambda u: (1 - u**-0.3) / 0.3),
    ),
    "hellinger": ({"loss": "f_dpo", "divergence": make_divergence("hellinger")}, slope(lambda u: 1 - u**-0.5)),
    "unclipped_chi": ({"loss": "f_dpo", "divergence": make_divergence("chi_po")}, slope(lambda u: u + torch.log(u))),
}


@dataclasses.dataclass
class Row:
    logprobs: "torch.Tensor"
    ratio: "torch.Tensor"
    lengths: "torch.Tensor"
    pairs: list


def kto(rows, logprobs, reference, batch):
    """The last column of every list is the response to another prompt; each pair is a good and a bad response."""
    z = 0.1 * torch.clamp((logprobs - reference)[rows, -1].mean(), min=0).detach()
    total = 0.0
    for row in rows:
        own = 0.1 * (logprobs - reference)[row]
        pairs = np.argwhere(batch.lists.better[row])
        terms = [1.3 * (1 - torch.sigmoid(own[i] - z)) + 0.7 * (1 - torch.sigmoid(z - own[j])) for i, j in pairs]
        total = total + (torch.stack(terms).mean() / 2 if terms else 0.0)
    return total


def ours(changes, batch):
    spec = dataclasses.replace(SPEC, **changes)
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(logprobs):
        sums = loss_of_logprobs(spec, logprobs, batch)
        return sums.numerator, sums.weight

    (value, weight), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.array(LOGPROBS))
    return float(value), float(weight), np.asarray(gradient)


@pytest.mark.parametrize("name", DIRECT)
def test_loss_and_gradient(name):
    changes, formula = DIRECT[name]
    with jax.enable_x64(True):
        batch = dataclasses.replace(tiny.preference_batch(0), ref_logprobs=REFERENCE)
        value, weight, gradient = ours(changes, batch)
        lengths = torch.tensor(batch.lists.mask.sum(axis=2), dtype=torch.float64).clamp(min=1)
        logprobs = torch.tensor(LOGPROBS, requires_grad=True)
        rows = [row for row in range(ROWS) if batch.lists.better[row].any()]
        total = sum(
            formula(
                Row(
                    logprobs[row],
                    logprobs[row] - torch.tensor(REFERENCE[row]),
                    lengths[row],
                    np.argwhere(batch.lists.better[row]).tolist(),
                )
            )
            for row in rows
        )
        total.backward()
    assert weight == len(rows) > 8
    assert value == pytest.approx(float(total.detach()), rel=1e-10)
    np.testing.assert_allclose(gradient, logprobs.grad.numpy(), rtol=1e-9, atol=1e-12)
    assert np.abs(gradient).max() > 1e-4


def test_loss_and_gradient_of_kto():
    with jax.enable_x64(True):
        batch = dataclasses.replace(tiny.preference_batch(0, mismatched=True), ref_logprobs=REFERENCE)
        value, _, gradient = ours({"loss": "kto", "desirable": 1.3, "undesirable": 0.7}, batch)
        logprobs = torch.tensor(LOGPROBS, requires_grad=True)
        rows = [row for row in range(ROWS) if batch.lists.mask[row, -1].any()]
        total = kto(rows, logprobs, torch.tensor(REFERENCE), batch)
        total.backward()
    assert value == pytest.approx(float(total.detach()), rel=1e-10)
    np.testing.assert_allclose(gradient, logprobs.grad.numpy(), rtol=1e-9, atol=1e-12)
