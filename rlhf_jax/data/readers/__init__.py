"""Files of human feedback, in the formats in which they are published and exported, as ``Record``s."""

from rlhf_jax.data.readers.formats import FORMATS
from rlhf_jax.data.readers.ranking import tiers
from rlhf_jax.data.readers.read import ANNOTATORS, ReadResult, read_file
from rlhf_jax.data.readers.split import sft_pairs, split_records

__all__ = ["ANNOTATORS", "FORMATS", "ReadResult", "read_file", "sft_pairs", "split_records", "tiers"]
