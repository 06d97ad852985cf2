"""Which point comes next, and which trial is not worth going on with: Optuna's answers, asked anew each time.

The study lives in memory and is made from the folders of the trials whenever it is asked, so that there is no store
that could be torn, locked or behind. A sampler sees points, with the mean over their seeds; a pruner sees trials.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.diagnostics.ranking import Objective
from rlhf_jax.errors import UserError
from rlhf_jax.sweeps.folder import Trial, Value
from rlhf_jax.sweeps.results import Point, points_of
from rlhf_jax.sweeps.space import Space, asking, draw, optuna, stream
from rlhf_jax.sweeps.spec import SweepSpec

_WAYS = {"max": "maximize", "min": "minimize"}


def suggest(spec: SweepSpec, space: Space, point: int, trials: Sequence[Trial]) -> dict[str, Value]:
    """The parameters that the sweep's sampler gives a point, after all that the trials have found so far."""
    if spec.sampler == "random":
        return draw(space, spec.sampler_seed, point)
    library = optuna()
    sampler = library.samplers.TPESampler(seed=stream(spec.sampler_seed, point), constant_liar=True)
    study = library.create_study(directions=[_WAYS[one.direction] for one in spec.objectives], sampler=sampler)
    for one in points_of(trials):
        study.add_trial(_as_trial(spec, space, one))
    return asking(space, study.ask()).parameters


def _as_trial(spec: SweepSpec, space: Space, point: Point) -> Any:
    """A point as Optuna's trial: complete when the last of its seeds has ended."""
    library = optuna()
    state, told = library.trial.TrialState.RUNNING, dict[str, Any]()
    if point.pruned and len(spec.objectives) > 1:  # by an earlier command, for one objective: Optuna cannot say so
        state = library.trial.TrialState.FAIL
    elif point.pruned:
        state = library.trial.TrialState.PRUNED
        curve = next(one for one in point.trials if one.state == "pruned").curve(spec.objectives[0].metric)
        told = {"intermediate_values": curve}
    elif len(point.trials) == len(spec.seeds) and all(one.ended for one in point.trials):
        means = [point.mean(one) for one in spec.objectives]
        if point.failed or None in means:
            state = library.trial.TrialState.FAIL
        else:
            state, told = library.trial.TrialState.COMPLETE, {"values": means}
    asked = asking(space, None, point.parameters)
    try:
        return library.trial.create_trial(state=state, params=asked.values, distributions=asked.distributions, **told)
    except ValueError as error:
        raise UserError(f"{point.trials[0].folder / 'trial.json'}: not a point of the space: {error}") from None


def worth_pruning(
    pruner: str,
    objective: Objective,
    others: Sequence[tuple[Mapping[int, float], float | None]],
    own: Mapping[int, float],
) -> bool:
    """Whether a trial should end early, after ``own`` (step -> value, the newest step the one to judge at).

    Of each other trial, in order: the same, and its final value, None where it has none yet.
    """
    library = optuna()
    study = library.create_study(
        direction=_WAYS[objective.direction],
        sampler=library.samplers.RandomSampler(seed=0),
        pruner=_pruner(pruner, own),
    )
    for curve, value in others:
        trial = study.ask()
        _replay(trial, curve)
        if value is not None:
            study.tell(trial, value)
    return _replay(study.ask(), own)


def _replay(trial: Any, curve: Mapping[int, float]) -> bool:
    """Tell a trial's values in order, and what the pruner says to the last: successive halving keeps book of each."""
    verdict = False
    for step, value in sorted(curve.items()):
        trial.report(value, step)
        verdict = trial.should_prune()
    return verdict


def _pruner(name: str, own: Mapping[int, float]) -> Any:
    pruners = optuna().pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=4)
    # Its first rung is the first evaluation; the best third of each rung goes on to thrice as many steps.
    return pruners.SuccessiveHalvingPruner(min_resource=min(own), reduction_factor=3)
