"""Rows that are named, not pointed to: a prepared TFDS data set, or one of the Hugging Face Hub."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.foreign import said

TFDS, HUB = "tfds:", "hub:"


def tfds_rows(name: str) -> Iterator[Mapping[str, Any]]:
    """The rows of ``tfds:NAME[/CONFIG][:VERSION]:SPLIT``, prepared before as ArrayRecord; TensorFlow is not loaded.

    Where they are is TFDS_DATA_DIR, else ~/tensorflow_datasets. Raises UserError if they are not there.
    """
    import tensorflow_datasets as tfds

    data_set, _, split = name.removeprefix(TFDS).rpartition(":")
    if not data_set or not split:
        raise UserError(f"{name}: expected tfds:NAME[/CONFIG]:SPLIT")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder = tfds.builder(data_set)
            source = builder.as_data_source(split=split)
    except Exception as error:  # the library raises whatever its layers do, from KeyError to its own
        hint = "prepare it with tfds build --file_format=array_record"
        raise UserError(f"{name}: file: cannot be read ({said(error)}); {hint}") from error
    try:
        for row in source:
            yield _plain(builder.info.features, row)
    except Exception as error:  # a damaged record
        raise UserError(f"{name}: file: cannot be read ({said(error)})") from error


def hub_rows(name: str) -> Iterator[Mapping[str, Any]]:
    """The rows of ``hub:OWNER/NAME[:CONFIG][:SPLIT]``, split "train" if none is named; no code of the data set runs.

    Raises UserError if the library ``datasets`` or the data set is missing.
    """
    repository, *rest = name.removeprefix(HUB).split(":")
    if not repository or len(rest) > 2 or not all(rest):
        raise UserError(f"{name}: expected hub:OWNER/NAME[:CONFIG][:SPLIT]")
    config = rest[0] if len(rest) == 2 else None
    split = rest[-1] if rest else "train"
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name}: needs the package datasets: pip install 'rlhf_jax[hub]'") from None
    try:
        yield from datasets.load_dataset(repository, config, split=split)
    except Exception as error:  # network, names, splits, damaged rows: each has errors of its own
        raise UserError(f"{name}: file: cannot be read ({said(error)})") from error


def _plain(feature: Any, value: Any) -> Any:
    """A value of TFDS as plain Python: texts decoded, sequences of objects as lists of objects."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict) and isinstance(value, Mapping):
            columns = {key: _plain(tfds.features.Sequence(inner[key]), column) for key, column in value.items()}
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [_plain(inner, item) for item in value]
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _plain(feature[key], item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
