"""Checkpoints on disk: ``store`` writes and reads them by Orbax, ``digest`` knows whether a bit of them has changed,
``identity`` whose they are.
"""

from rlhf_jax.checkpoints.digest import fingerprint
from rlhf_jax.checkpoints.identity import differences, refuse
from rlhf_jax.checkpoints.store import FORMAT, Checkpoints, Damaged, Restored, remove_unfinished

__all__ = [
    "FORMAT",
    "Checkpoints",
    "Damaged",
    "Restored",
    "differences",
    "fingerprint",
    "refuse",
    "remove_unfinished",
]
