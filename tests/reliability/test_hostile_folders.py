"""R22: model folders, tokenizers and runs that a stranger made to do harm."""

import functools
import hashlib
import json
import os
import pathlib
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import pytest

from rlhf_jax.data.prepared import FINGERPRINT, FORMAT_VERSION, RECORDS, PreparedRecords
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models import DecoderSpec, hf, init_decoder
from tests.reliability.hostile import SECONDS, code, one_line, pickled, watched

SPEC = DecoderSpec(
    vocab_size=300,
    width=16,
    depth=1,
    heads=2,
    kv_heads=1,
    mlp_width=32,
    max_positions=64,
    rope_theta=10000.0,
    tied=False,
)
PRIVATE = "private-words-of-the-user"


@functools.cache
def good() -> dict[str, bytes]:
    """A model folder that is what it should be, by file names."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        hf.save(folder, SPEC, init_decoder(SPEC, jax.random.key(0)), pad_id=256, eos_id=257)
        save_tokenizer(build_tokenizer("byte"), folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def weights(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of any header, which may say anything of its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensors(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The good weights under a header that has been changed."""
    whole = good()["model.safetensors"]
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    change(header)
    return weights(header, whole[8 + length :])


def entry(header: dict[str, Any], **changes: Any) -> None:
    header["model.norm.weight"].update(changes)


def twice() -> bytes:
    whole = good()["model.safetensors"]
    (length,) = struct.unpack("<Q", whole[:8])
    text = whole[8 : 8 + length].rstrip()
    (end,) = [json.loads(text)["model.norm.weight"]]
    again = text[:-1] + b',"model.norm.weight":' + json.dumps(end).encode() + b"}"
    return weights(again, whole[8 + length :])


def config(**changes: Any) -> str:
    return json.dumps(json.loads(good()["config.json"]) | changes)


def raw_config(key: str, text: str) -> str:
    """The configuration with a value that no serialiser would write."""
    return config(**{key: "THERE"}).replace('"THERE"', text)


def tokenizer(**changes: Any) -> str:
    return json.dumps(json.loads(good()["tokenizer.json"]) | changes)


def tokenizer_config(**changes: Any) -> str:
    return json.dumps(json.loads(good()["tokenizer_config.json"]) | changes)


def index(place: str) -> dict[str, str | bytes | None]:
    return {
        "model.safetensors": None,
        "model.safetensors.index.json": json.dumps({"weight_map": {"model.norm.weight": place}}),
    }


def deep(times: int = 200_000) -> str:
    return '{"a":' * times + "1" + "}" * times


class Sparse(int):
    """A file of so many bytes, all of them 0."""


class Link(str):
    """A symbolic link to there."""


FIFO, FOLDER, UNREADABLE = object(), object(), object()
# What is put in the place of which file (None: nothing), and a part of the error; "" where the folder is read all the
# same, and nothing has run. Names in capitals are replaced by paths.
CASES: dict[str, tuple[Callable[[pathlib.Path], dict[str, Any]], str]] = {
    "pickle alone": (
        lambda c: {"model.safetensors": None, "pytorch_model.bin": pickled(c)},
        "weights come from safetensors alone",
    ),
    "torch alone": (lambda c: {"model.safetensors": None, "model.pt": pickled(c)}, "from safetensors alone"),
    "pkl alone": (lambda c: {"model.safetensors": None, "model.pkl": pickled(c)}, "from safetensors alone"),
    "pickle as safetensors": (lambda c: {"model.safetensors": pickled(c)}, "model.safetensors: "),
    "pickles beside": (
        lambda c: dict.fromkeys(("pytorch_model.bin", "training_args.bin", "optimizer.pt", "vocab.pkl"), pickled(c)),
        "",
    ),
    "auto_map": (
        lambda c: {"config.json": config(auto_map={"AutoConfig": "evil.C"}), "evil.py": code(c)},
        "auto_map: names code of the folder's own",
    ),
    "auto_map of another repository": (
        lambda c: {"config.json": config(auto_map={"AutoModel": "some/body--evil.C"})},
        "auto_map: names code",
    ),
    "trust_remote_code": (lambda c: {"config.json": config(trust_remote_code=True), "m.py": code(c)}, "trust_remote_c"),
    "modules beside": (
        lambda c: dict.fromkeys(
            (
                "modeling_llama.py",
                "configuration_llama.py",
                "tokenization_llama.py",
                "conftest.py",
                "sitecustomize.py",
                "__init__.py",
                "json.py",
                "safetensors.py",
            ),
            code(c),
        ),
        "",
    ),
    "class of its own": (
        lambda c: {"config.json": config(architectures=["Evil"], model_type="evil"), "modeling_evil.py": code(c)},
        "model_type: 'evil' is not one of",
    ),
    "index upwards": (lambda c: index("../model.safetensors"), "not the name of a safetensors file beside it"),
    "index absolute": (lambda c: index("/etc/x.safetensors"), "not the name of a safetensors file beside it"),
    "index into a folder": (lambda c: index("a/b.safetensors"), "not the name of a safetensors file beside it"),
    "index by backslashes": (lambda c: index("..\\b.safetensors"), "No such file"),
    "index with a null": (lambda c: index("a\0.safetensors"), "is not the name of a safetensors file"),
    "index to a pickle": (lambda c: index("evil.bin") | {"evil.bin": pickled(c)}, "not the name of a safetensors"),
    "link to a text": (lambda c: {"model.safetensors": Link("PRIVATE")}, "model.safetensors: "),
    "link as configuration": (lambda c: {"config.json": Link("PRIVATE")}, "config.json: "),
    "link to itself": (lambda c: {"config.json": Link("config.json")}, "config.json: "),
    "link to endless zeros": (lambda c: {"config.json": Link("/dev/zero")}, "config.json: not a file"),
    "weights without end": (lambda c: {"model.safetensors": Link("/dev/zero")}, "model.safetensors: not a file"),
    "pipe as configuration": (lambda c: {"config.json": FIFO}, "config.json: not a file"),
    "pipe as weights": (lambda c: {"model.safetensors": FIFO}, "model.safetensors: not a file"),
    "pipe as tokenizer": (lambda c: {"tokenizer.json": FIFO}, "tokenizer.json: not a file"),
    "pipe as template": (lambda c: {"chat_template.jinja": FIFO}, "chat_template.jinja: not a file"),
    "folder as configuration": (lambda c: {"config.json": FOLDER}, "config.json: not a file"),
    "unreadable weights": (lambda c: {"model.safetensors": UNREADABLE}, "model.safetensors: Permission denied"),
    "header beyond the file": (lambda c: {"model.safetensors": weights({}, length=10_000)}, "model.safetensors: "),
    "header without bounds": (lambda c: {"model.safetensors": weights({}, length=2**64 - 1)}, "a header of 18,446,744"),
    "header of 100 MB": (lambda c: {"model.safetensors": Sparse(10**8)}, "model.safetensors: "),
    "header of 90 MB": (
        lambda c: {"model.safetensors": weights(b'{"a":' + b" " * 9 * 10**7 + b"1}")},
        "a header of 90,000,007 bytes; no more than 16,777,216",
    ),
    "header in depth": (lambda c: {"model.safetensors": weights(deep(20_000).encode())}, "model.safetensors: "),
    "header that is a list": (lambda c: {"model.safetensors": weights([1, 2])}, "model.safetensors: "),
    "negative place": (
        lambda c: {"model.safetensors": tensors(lambda h: entry(h, data_offsets=[-64, 0]))},
        "model.safetensors: ",
    ),
    "overlap": (
        lambda c: {"model.safetensors": tensors(lambda h: entry(h, data_offsets=[0, 64]))},
        "model.safetensors: ",
    ),
    "cut short": (lambda c: {"model.safetensors": good()["model.safetensors"][:-1]}, "model.safetensors: "),
    "same name twice": (lambda c: {"model.safetensors": twice()}, "the header names something twice"),
    "shape that overflows": (
        lambda c: {"model.safetensors": tensors(lambda h: entry(h, shape=[2**62, 4]))},
        "model.safetensors: ",
    ),
    "shape of petabytes": (
        lambda c: {
            "model.safetensors": tensors(lambda h: entry(h, shape=[10**6, 10**9], data_offsets=[0, 4 * 10**15]))
        },
        "model.safetensors: ",
    ),
    "negative shape": (
        lambda c: {"model.safetensors": tensors(lambda h: entry(h, shape=[-16]))},
        "model.safetensors: ",
    ),
    "type unheard of": (
        lambda c: {"model.safetensors": tensors(lambda h: entry(h, dtype="OBJ"))},
        "model.safetensors: ",
    ),
    "type of whole numbers": (
        lambda c: {"model.safetensors": tensors(lambda h: entry(h, dtype="I32"))},
        "model.norm.weight: I32 is not read",
    ),
    "vocabulary of 10^12": (lambda c: {"config.json": config(vocab_size=10**12)}, "vocab_size: 1000000000000 is not"),
    "vocabulary of 2^31": (lambda c: {"config.json": config(vocab_size=2**31 - 1)}, "but config.json says (2147483647"),
    "10^9 layers": (lambda c: {"config.json": config(num_hidden_layers=10**9)}, "more than anybody has"),
    "9,999 layers": (lambda c: {"config.json": config(num_hidden_layers=9_999)}, "model.layers.1.input_layernorm"),
    "width of 2^31": (
        lambda c: {"config.json": config(hidden_size=2**31 - 2, intermediate_size=2**31 - 1, head_dim=2**30)},
        "but config.json says (300, 2147483646)",
    ),
    "negative width": (lambda c: {"config.json": config(hidden_size=-16)}, "hidden_size: -16 is not a count"),
    "width that is none": (lambda c: {"config.json": raw_config("hidden_size", "NaN")}, "hidden_size: nan is not a co"),
    "infinite epsilon": (lambda c: {"config.json": raw_config("rms_norm_eps", "1e999")}, "rms_norm_eps: inf is not a"),
    "number of 10,000 digits": (
        lambda c: {"config.json": raw_config("vocab_size", "1" * 10_000)},
        "config.json: not J",
    ),
    "configuration of 100 MB": (lambda c: {"config.json": Sparse(10**8)}, "config.json: 100,000,000 bytes"),
    "configuration of 2^50": (lambda c: {"config.json": Sparse(2**40)}, "config.json: 1,099,511,627,776 bytes"),
    "configuration in depth": (lambda c: {"config.json": deep()}, "config.json: not JSON"),
    "configuration in no encoding": (lambda c: {"config.json": b"\xff\xfe{}"}, "config.json: not JSON"),
    "tokenizer's code": (
        lambda c: {
            "tokenizer_config.json": tokenizer_config(
                auto_map={"AutoTokenizer": ["evil.T", None]}, tokenizer_class="T"
            ),
            "evil.py": code(c, "class T: pass\n"),
        },
        "tokenizer.path: no tokenizer in",
    ),
    "tokenizer's code of another repository": (
        lambda c: {
            "tokenizer_config.json": tokenizer_config(
                auto_map={"AutoTokenizer": ["some/body--evil.T", None]}, tokenizer_class="T"
            )
        },
        "tokenizer.path: no tokenizer in",
    ),
    "tokenizer class of the system": (
        lambda c: {"tokenizer_config.json": tokenizer_config(tokenizer_class="os.system")},
        "",
    ),
    "tokenizer in depth": (lambda c: {"tokenizer.json": deep()}, "tokenizer.path: no tokenizer in"),
    "tokenizer of 2 GB": (lambda c: {"tokenizer.json": Sparse(2**31)}, "tokenizer.json: 2,147,483,648 bytes"),
    "template of 1 GB": (lambda c: {"chat_template.jinja": Sparse(2**30)}, "chat_template.jinja: 1,073,741,824 bytes"),
    "tokenizer of nonsense": (
        lambda c: {"tokenizer.json": tokenizer(model={"type": "Evil"})},
        "tokenizer.path: no tok",
    ),
    "tokenizer with a stranger's regex": (
        lambda c: {
            "tokenizer.json": tokenizer(normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""})
        },
        "tokenizer.path: no tokenizer in",
    ),
    "id of 4 * 10^9": (
        lambda c: {
            "tokenizer.json": tokenizer(
                model=json.loads(good()["tokenizer.json"])["model"]
                | {"vocab": json.loads(good()["tokenizer.json"])["model"]["vocab"] | {"bomb": 2**32 - 1}}
            )
        },
        "tokenizer: ids up to 4,294,967,295",
    ),
    "added token of 10^12": (
        lambda c: {"tokenizer_config.json": tokenizer_config(added_tokens_decoder={str(10**12): {"content": "bomb"}})},
        "",
    ),
    "tokenizer in a file elsewhere": (
        lambda c: {"tokenizer_config.json": tokenizer_config(tokenizer_file="PRIVATE", vocab_file="PRIVATE")},
        "",
    ),
}


def put(folder: pathlib.Path, changes: dict[str, Any], private: pathlib.Path) -> None:
    folder.mkdir()
    for name, content in {**good(), **changes}.items():
        path = folder / name
        if content is FIFO:
            os.mkfifo(path)
        elif content is FOLDER:
            path.mkdir()
        elif content is UNREADABLE:
            path.write_bytes(b"")
            path.chmod(0)
        elif isinstance(content, Sparse):
            with path.open("wb") as file:
                file.truncate(content)
        elif isinstance(content, Link):
            path.symlink_to(content.replace("PRIVATE", str(private)))
        elif content is not None:
            data = content.encode() if isinstance(content, str) else content
            path.write_bytes(data.replace(b"PRIVATE", str(private).encode()))


def read(folder: pathlib.Path) -> None:
    """All that a run takes from a folder."""
    hf.read_spec(folder)
    build_tokenizer("pretrained", path=str(folder)).encode("some text")
    hf.load(folder)


@pytest.mark.reliability("R22", tries=len(CASES))
def test_a_model_folder_of_a_stranger_runs_nothing(tally, tmp_path, monkeypatch) -> None:
    """Held to: a file that any unpickling, import or command of the folder would make is never there; no file is
    written or changed, in the folder or beside it; at most 2 s and 1 GiB; and the error is one line that names the file
    and says the right thing of it."""
    private = tmp_path / "private.json"
    private.write_text(json.dumps({"words": PRIVATE}))
    monkeypatch.setattr("builtins.input", lambda _: "y")  # and whoever is asked agrees to everything
    build_tokenizer("byte")  # what is loaded once is nobody's time
    put(tmp_path / "good", {}, private)
    read(tmp_path / "good")
    for name, (changes, wanted) in CASES.items():
        canary, folder = tmp_path / f"canary {name}", tmp_path / name
        put(folder, changes(canary), private)
        if name == "unreadable weights" and os.access(folder / "model.safetensors", os.R_OK):
            wanted = "model.safetensors: "  # nothing is unreadable to root
        with tally.one(name, within=SECONDS), watched(tmp_path, canary):
            if not wanted:
                read(folder)
                continue
            with pytest.raises(UserError) as refused:
                read(folder)
            assert wanted in one_line(refused.value, PRIVATE), refused.value


@pytest.mark.reliability("R22", tries=3)
def test_an_archive_is_not_unpacked(tally, tmp_path) -> None:
    """Held to: the folder around it is as it was, and the error says that it is no folder."""
    inside = tmp_path / "inside"
    inside.write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.write(inside, "../../out")
    with tarfile.open(tmp_path / "model.tar", "w") as archive:
        archive.add(inside, "../../out")
    os.mkfifo(tmp_path / "model.pipe")
    for name in ("model.zip", "model.tar", "model.pipe"):
        with tally.one(name, within=SECONDS), watched(tmp_path, tmp_path / "canary"):
            with pytest.raises(UserError, match=r"not a folder; archives are not unpacked"):
                build_tokenizer("pretrained", path=str(tmp_path / name))
            with pytest.raises(UserError, match=r"No|Not a directory|not a file"):
                hf.read_spec(tmp_path / name)


def prepared(**changes: Any) -> str:
    """A fingerprint of no records, which lies where it is told to."""
    empty = {"source": "", "source_sha256": "", "format": "lists", "template": "{prompt}", "tie_margin": 0.0}
    counts = dict.fromkeys(("rows", "rejected", "duplicates", "skipped", "records", "size"), 0)
    rest = {"annotators": "each", "tokenizer_sha256": "", "chat": "", "sha256": "", "format_version": FORMAT_VERSION}
    return json.dumps({**empty, **counts, **rest, **changes})


@pytest.mark.reliability("R22", tries=9)
def test_data_of_a_stranger_run_nothing(tally, tmp_path) -> None:
    """Held to: the same watch over prepared folders and files of feedback, among them exports of Label Studio."""
    canary = tmp_path / "canary"
    unpickled = {"size": len(pickled(canary)), "sha256": hashlib.sha256(pickled(canary)).hexdigest(), "records": 1}
    for name, files in {
        "pickled records": {FINGERPRINT: prepared(**unpickled), RECORDS: pickled(canary)},
        "records as a pipe": {FINGERPRINT: prepared(sha256=hashlib.sha256().hexdigest()), RECORDS: FIFO},
        "fingerprint as a pipe": {FINGERPRINT: FIFO, RECORDS: b""},
        "fingerprint in depth": {FINGERPRINT: deep(), RECORDS: b""},
        "fingerprint of 1 GB": {FINGERPRINT: Sparse(2**30), RECORDS: b""},
    }.items():
        put(tmp_path / name, {**dict.fromkeys(good()), **files}, tmp_path)
        with tally.one(name, within=SECONDS), watched(tmp_path, canary):
            with pytest.raises(UserError) as refused:
                list(PreparedRecords(tmp_path / name))
            one_line(refused.value)
    for name, (content, read_as) in {
        "a pickle as rows": (pickled(canary), "auto"),
        "a pipe as rows": (FIFO, "lists"),
        "an export in depth": (deep(), "label_studio"),
        "a link to endless zeros": (Link("/dev/zero"), "label_studio"),
    }.items():
        put(tmp_path / name, {**dict.fromkeys(good()), "rows.json": content}, tmp_path)
        with tally.one(name, within=SECONDS), watched(tmp_path, canary):
            with pytest.raises(UserError) as refused:
                read_file(tmp_path / name / "rows.json", read_as)
            one_line(refused.value)
