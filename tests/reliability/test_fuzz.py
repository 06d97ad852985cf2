"""Random bytes and random JSON into everything that reads files: a result or one line of ``UserError``, in time and in
memory. The inputs are torn out of valid ones, to get past the first check; ``tests/fuzz`` has such targets for a fuzzer
that is led by coverage.
"""

import json
import pathlib
import random
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from safetensors.numpy import save

from rlhf_jax.config import default_config, from_json, to_json, validate
from rlhf_jax.data import prepared
from rlhf_jax.data.chat.process import renderer
from rlhf_jax.data.readers import FORMATS, read_file
from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError
from rlhf_jax.flags import parse
from rlhf_jax.models.hf.storage import INDEX, WEIGHTS, stored_tensors
from tests.data.published import FIXTURES
from tests.reliability.rows import FORMS

ROOT = pathlib.Path(__file__).parents[2]
MEMORY = 2**31  # bytes
# What readers have stumbled over, here or elsewhere.
PIECES = [
    *(
        b"null",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1",
        b"true",
        b'""',
        b"[]",
        b"{}",
        b"[[[[",
        b'{"a":',
        b'"\\ud800"',
        b"\\u0000",
    ),
    *(
        b"\xff",
        b"\xef\xbb\xbf",
        b"\0",
        b"\r",
        b"\n",
        b"\x1f\x8b",
        b"PAR1",
        b"../",
        b"{{",
        b"{%",
        b"9" * 5000,
        b"[" * 3000,
    ),
    *(
        b'"role": "tool"',
        b'"rank"',
        b'"label"',
        b"Assistant:",
        b"\n\nHuman:",
        b'"../x.safetensors"',
        b'"\\u0000.safetensors"',
        b'"\\ud800.safetensors"',
    ),
]


def torn(random: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds with a few of its bytes changed, lost, doubled or mixed with another's."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(data))
        end = min(len(data), at + random.choice((1, 2, 5, 20, 100)))
        kind = random.randint(0, 5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random.randint(0, 7)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            data[at:end] = random.choice(PIECES)
        elif kind == 4:
            data[at:at] = random.choice(PIECES)
        else:
            other = random.choice(seeds)
            data[at:end] = other[random.randint(0, len(other)) :][: random.randint(0, 60)]
    return bytes(data)


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1])


def fuzzed(tally, seeds: list[bytes], target: Callable[[bytes], object], key: str, count: int) -> None:
    """``count`` tries of a target, the same ones every time."""
    source, before = random.Random(key), peak()
    for _ in range(count):
        data = torn(source, seeds)
        with tally.one(f"{key}: {data[:200]!r}", within=5):
            quiet(target, data)
    assert peak() - before <= MEMORY


def quiet(target: Callable[[bytes], object], data: bytes) -> None:
    try:
        target(data)
    except UserError as error:
        said = str(error)
    else:
        return
    assert said.count("\n") == 0
    assert ": " in said


def checked(path: pathlib.Path, data_format: str) -> None:
    """Read a file; what was read can be written and read again."""
    for record in read_file(path, data_format).records:
        assert prepared.record_from_json(prepared.record_to_json(record)) == record


@pytest.mark.reliability("R27", tries=500 * len(FORMATS), torture=10_000 * len(FORMATS))
def test_bytes_for_readers(tally, tmp_path) -> None:
    """Files of every format, read as that and as whatever they are."""
    path = tmp_path / "f.jsonl"

    def target(data: bytes, data_format: str) -> None:
        path.write_bytes(data)
        checked(path, data_format)

    for name in FORMATS:
        seeds = [json.dumps(form.row).encode() for form in FORMS.values() if name in ("auto", form.format)]
        seeds += [one + b"\n" + one for one in seeds]
        count = len(tally.tries) // len(FORMATS)
        fuzzed(tally, seeds, lambda data, name=name: target(data, name), name, count)


WORDS = sorted({word for form in FORMS.values() for word in re.findall(r'"([\w ./-]+)":', json.dumps(form.row))})
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["user", "left"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.reliability("R27", tries=20 * len(FORMATS), torture=500 * len(FORMATS))
def test_json_for_readers(tally, tmp_path) -> None:
    """Objects of the formats' own words, put together at random, in lines and in an array."""
    lines, array = tmp_path / "f.jsonl", tmp_path / "f.json"

    @how(
        max_examples=len(tally.tries) // len(FORMATS),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.dictionaries(st.sampled_from(WORDS), JUNK, max_size=6), min_size=1, max_size=3))
    def tried(rows: list) -> None:
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
        array.write_text(json.dumps(rows))
        for name in FORMATS:
            with tally.one(f"{name}: {ascii(rows)[:200]}", within=5):
                quiet(lambda _, name=name: checked(lines, name), b"")
                quiet(lambda _, name=name: checked(array, name), b"")

    tried()


@pytest.mark.reliability("R27", tries=500, torture=10_000)
def test_exports_of_label_studio(tally, tmp_path) -> None:
    """An export is one JSON array of tasks."""
    path = tmp_path / "f.json"
    seeds = [json.dumps(list(one.rows)).encode() for one in FIXTURES.values() if one.format == "label_studio"]

    def target(data: bytes) -> None:
        path.write_bytes(data)
        checked(path, "label_studio")

    fuzzed(tally, seeds, target, "label_studio", len(tally.tries))


@pytest.mark.reliability("R27", tries=500, torture=10_000)
def test_weights(tally, tmp_path) -> None:
    """The index of a folder of weights, and the header of a file of tensors; nothing is opened beside the folder."""
    whole = save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)})
    index = {"metadata": {"total_size": 32}, "weight_map": dict.fromkeys("ab", "model-1.safetensors")}
    indexed, single = tmp_path / "indexed", tmp_path / "single"
    for folder in (indexed, single):
        folder.mkdir()
    (indexed / "model-1.safetensors").write_bytes(whole)

    def opened(folder: pathlib.Path) -> None:
        for tensor in stored_tensors(folder).values():
            assert tensor.file.parent == folder
            assert not tensor.readable or tensor.open().shape == tensor.shape

    def as_index(data: bytes) -> None:
        (indexed / INDEX).write_bytes(data)
        opened(indexed)

    def as_tensors(data: bytes) -> None:
        (single / WEIGHTS).write_bytes(data)
        opened(single)

    seeds = [json.dumps(index).replace("model-1", name).encode() for name in ("model-1", "\\ud800", "\\u0000", "../x")]
    fuzzed(tally, seeds, as_index, "index", len(tally.tries) // 2)
    fuzzed(tally, [whole], as_tensors, "tensors", len(tally.tries) // 2)


@pytest.mark.reliability("R27", tries=300, torture=3000)
def test_fingerprints(tally, tmp_path) -> None:
    """What a prepared folder says of itself."""
    text = prepared.Fingerprint("f", "0" * 64, "lists", "{prompt}", 0.0, "overall", 1, 0, 0, 0, 1)
    seed = json.dumps({field: getattr(text, field) for field in text.__dataclass_fields__}, indent=2).encode()

    def target(data: bytes) -> None:
        (tmp_path / prepared.FINGERPRINT).write_bytes(data)
        prepared.read_fingerprint(tmp_path)

    fuzzed(tally, [seed], target, "fingerprint", len(tally.tries))


def _sections() -> Iterator[bytes]:
    for name, value in json.loads(to_json(default_config())).items():
        yield json.dumps({name: value}).encode()


@pytest.mark.reliability("R27", tries=300, torture=3000)
def test_configurations(tally, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations as JSON, and the words of a command line."""
    monkeypatch.chdir(ROOT)

    def as_json(data: bytes) -> None:
        validate(from_json(data.decode(errors="surrogateescape")))

    def as_words(data: bytes) -> None:
        words = [word.decode(errors="surrogateescape") for word in data.split(b"|") if b"help" not in word]
        parse(["--config=configs/sft.py", "--dry_run", *words])

    half = len(tally.tries) // 2
    fuzzed(tally, [*_sections(), b'{"reward": {"utility_by_type": {"open": {}}}}'], as_json, "config", half)
    words = [
        b"--config.sft.steps=3|--workdir=a",
        b"--noconfig.log.tensorboard|--config.seed|4",
        b"--config.stages=sft,ppo",
    ]
    words += [b"--config.reward.utility_by_type.open.gamma=0.5", b"--config.reward.annotator_weights.a=1|--dry_run"]
    fuzzed(tally, words, as_words, "words", half)


TEMPLATES = [
    b"{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    b"{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    b"{%- set ns = namespace(found=false) -%}{{ bos_token }}{% for m in messages if m.role != 'tool' %}[INST] "
    b"{{ m.content + ' ' * 3 }}{% set ns.found = loop.last %}{% else %}{{ raise_exception('none') }}{% endfor %}",
]


@pytest.mark.reliability("R27", tries=12, torture=100)
def test_templates(tally) -> None:
    """Chat templates, each compiled and used in the process with limits that runs give it."""

    def target(data: bytes) -> None:
        text = data.decode(errors="replace")
        with renderer(text, {"bos_token": "<s>"}, "a folder") as process:
            for said, why in process.render([([Message("user", "Hi"), Message("assistant", "Ho")], False)] * 2):
                assert (said is None) == bool(why)

    fuzzed(tally, TEMPLATES, target, "template", len(tally.tries))
