"""How much of a figure's variance over a sweep each parameter explains: functional ANOVA by Optuna.

Hutter, Hoos and Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance": random forests are
fitted to the values, and the variance that each parameter explains alone is set against the whole.
"""

import math
from collections.abc import Sequence
from typing import Any

from rlhf_jax.diagnostics.ranking import Objective
from rlhf_jax.reports.fields import is_number
from rlhf_jax.reports.trials import Sweep

LEAST = 8  # trials; a forest on fewer says nothing
LOGARITHMIC = 20.0  # a positive parameter that spreads over more than this factor is looked at by its logarithm


def importances(sweep: Sweep, objective: Objective) -> dict[str, float]:
    """Parameter → share of the variance in [0, 1], the largest first; of the parameters that all points have.

    Empty for fewer than ``LEAST`` trials with a value, values that do not vary, or no parameter that does.

    Raises:
      ImportError: optuna or scikit-learn is missing.
    """
    import optuna  # an extra, and slow to import
    import sklearn  # noqa: F401, optuna imports it later and then raises in its own way

    rows = [
        (point.parameters, trial.value(objective.metric))
        for point in sweep.points
        for trial in point.trials
        if math.isfinite(trial.value(objective.metric))
    ]
    if len(rows) < LEAST or len({value for _, value in rows}) < 2:
        return {}
    columns: dict[str, list[Any]] = {}
    for name in sweep.parameters:
        values: list[Any] = [parameters.get(name) for parameters, _ in rows]
        if all(name in parameters for parameters, _ in rows) and len({repr(value) for value in values}) > 1:
            # Logarithms are taken here: the evaluator would weigh the region by its plain extent.
            columns[name] = [math.log(v) for v in values] if is_logarithmic(values) else values
    if not columns:
        return {}
    distributions = {name: _distribution(values) for name, values in columns.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for row, (_, value) in enumerate(rows):
        chosen = {name: _choice(values[row], distributions[name]) for name, values in columns.items()}
        study.add_trial(optuna.trial.create_trial(params=chosen, distributions=distributions, value=value))
    return dict(optuna.importance.FanovaImportanceEvaluator(seed=0).evaluate(study))


def is_logarithmic(values: Sequence[Any]) -> bool:
    """Whether the values of a parameter are better looked at by their logarithms."""
    return numeric(values) and min(values) > 0 and max(values) / min(values) > LOGARITHMIC


def numeric(values: Sequence[Any]) -> bool:
    """Whether all values are numbers (true and false are none)."""
    return all(is_number(value) for value in values)


def _distribution(values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if numeric(values):
        return FloatDistribution(float(min(values)), float(max(values)))
    return CategoricalDistribution(tuple(dict.fromkeys(map(repr, values))))


def _choice(value: Any, distribution: Any) -> Any:
    return repr(value) if hasattr(distribution, "choices") else float(value)
