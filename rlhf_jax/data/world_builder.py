"""The embedded world as a TFDS data set, prepared once and read by random access, without TensorFlow."""

import contextlib
import hashlib
import io
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, overload

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging

from rlhf_jax.data import world
from rlhf_jax.data.records import Record, Response
from rlhf_jax.errors import UserError
from rlhf_jax.resources import cache_folder

WORLD_SEED = 20230520
LIST_SIZE = 8
SPLITS = {"sft": 8000, "lists": 2000, "lists_validation": 256, "prompts": 2000, "prompts_validation": 256}
FORMS = ("total", "tiers")


class PreferenceWorld(tfds.core.GeneratorBasedBuilder):
    """Ranked lists and prompts of the embedded world: forced total order ("total") or tiers of equals ("tiers").

    Both forms hold the same responses in the same order; only the ranks differ. Open and closed prompts alternate.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="total", description="Ties broken: shorter answers before longer ones."),
        tfds.core.BuilderConfig(name="tiers", description="Answers of equal quality share a rank."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "prompt": tfds.features.Text(),
            "prompt_type": tfds.features.Text(),
            "responses": tfds.features.Sequence(
                {
                    "text": tfds.features.Text(),
                    "rank": tfds.features.Scalar(np.int32),
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="An invented language with a known true reward.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        rng = np.random.default_rng([WORLD_SEED, list(SPLITS).index(split)])
        for number in range(SPLITS[split]):
            kind = "open" if number % 2 == 0 else "closed"
            prompt = world.sample_prompt(rng, kind, validation=split.endswith("_validation"))
            texts: list[str] = []
            if split == "sft":
                texts = [world.sft_answer(rng, prompt)]
            elif split.startswith("lists"):
                texts = world.sample_list(rng, prompt, LIST_SIZE)
            scores = [world.gold(prompt, text) for text in texts]
            if self.builder_config.name == "total":
                ranks = list(range(len(texts)))
            else:
                levels = sorted(set(scores), reverse=True)
                ranks = [levels.index(score) for score in scores]
            responses = {"text": texts, "rank": ranks}
            yield number, {"id": f"{split}-{number}", "prompt": prompt, "prompt_type": kind, "responses": responses}


class WorldSplit(Sequence[Record]):
    """One split by random access; lists are cut to ``list_size`` responses drawn per record, ranks made dense."""

    def __init__(self, source: Any, list_size: int) -> None:
        self._source = source
        self._list_size = list_size

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = self._source[index % len(self)]
        name, prompt, columns = row["id"].decode(), row["prompt"].decode(), row["responses"]
        kept = np.arange(len(columns["text"]))
        if len(kept) > self._list_size:
            rng = np.random.default_rng([WORLD_SEED, zlib.crc32(name.encode())])
            kept = np.sort(rng.choice(kept, self._list_size, replace=False))
        ranks = np.unique(np.asarray(columns["rank"], np.int64)[kept], return_inverse=True)[1]
        texts = [columns["text"][i].decode() for i in kept]
        # The score is not on disk: the format would round it to 32 bits, and ties are exact.
        responses = tuple(
            Response(text, int(rank), world.gold(prompt, text), "world")
            for text, rank in zip(texts, ranks, strict=True)
        )
        return Record(name, prompt, responses, row["prompt_type"].decode())


def load_world(form: str, split: str, list_size: int = LIST_SIZE, cache: str | None = None) -> WorldSplit:
    """The records of a split: "sft", "lists", "lists_validation", "prompts" or "prompts_validation".

    ``form`` is "total" or "tiers". The data are prepared on first use under ``cache`` (default: the environment
    variable RLHF_JAX_CACHE, else ~/.cache/rlhf_jax). Raises UserError on an unknown name, a list size outside 2..8 or
    a folder that cannot be written.
    """
    if form not in FORMS or split not in SPLITS:
        raise UserError(f"embedded world: no {form!r} / {split!r}; forms: {FORMS}, splits: {tuple(SPLITS)}")
    if not 2 <= list_size <= LIST_SIZE:
        raise UserError(f"data.list_size: {list_size} is outside 2..{LIST_SIZE}, the sizes of the embedded world")
    try:
        root = (pathlib.Path(cache).expanduser() if cache else cache_folder()[0]) / "tfds"
    except OSError as error:
        raise UserError(f"embedded world: no place for a cache ({error}); set RLHF_JAX_CACHE") from error
    # A changed world must not read what an older one prepared.
    sources = pathlib.Path(world.__file__).read_bytes() + pathlib.Path(__file__).read_bytes()
    root = root / hashlib.blake2b(sources, digest_size=6).hexdigest()
    with _quiet():
        try:
            _prepare(form, root)
        except OSError as error:
            raise UserError(f"embedded world: no cache in {root} ({error}); set RLHF_JAX_CACHE") from error
        builder = PreferenceWorld(config=form, data_dir=str(root), file_format="array_record")
        return WorldSplit(builder.as_data_source(split=split), list_size)


def _prepare(form: str, root: pathlib.Path) -> None:
    """Build beside the final folder and rename: readers see all or nothing, and of two racing processes one wins."""
    final = root / "preference_world" / form / str(PreferenceWorld.VERSION)
    if final.exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="preparing-", dir=root))
    try:
        builder = PreferenceWorld(config=form, data_dir=str(scratch), file_format="array_record")
        builder.download_and_prepare()
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(scratch / final.relative_to(root), final)
        except OSError:
            if not final.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's log lines, banners and progress bars off the user's terminal."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(before)
