"""PPO's early warnings of over-optimisation, from its configuration."""

from ml_collections import ConfigDict

from rlhf_jax.diagnostics.monitor import Alarm, Monitor

# Setting -> (the figure that it bounds, from which side, whether as a multiple of its first value).
_SIGNALS = {
    "kl": ("kl", "above", False),
    "length": ("length", "above", True),
    "entropy": ("entropy", "below", True),
    "spread": ("reward.spread", "above", True),
    "gap": ("validation.gap", "above", False),
}


def make_monitor(settings: ConfigDict) -> Monitor | None:
    """The monitor of ``config.ppo.monitor``, None without a bound."""
    alarms = [
        Alarm(signal, side, settings[name], relative, settings.patience)
        for name, (signal, side, relative) in _SIGNALS.items()
        if settings[name]
    ]
    return Monitor(alarms) if alarms else None
