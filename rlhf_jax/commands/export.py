"""``rlhf-jax export``: a stage of a run as a Hugging Face folder, for transformers, vLLM and whatever reads those."""

import dataclasses
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rlhf_jax import __version__
from rlhf_jax.build.context import init_scored, read_run
from rlhf_jax.build.data import in_chat
from rlhf_jax.build.lora import adapted, lora_spec
from rlhf_jax.build.specs import decoder_spec, trained_bounded
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import did_you_mean
from rlhf_jax.console import say
from rlhf_jax.data.chat import Chat
from rlhf_jax.data.prepared import sha256_of
from rlhf_jax.data.records import Message, Prompt
from rlhf_jax.data.tokenizers import Tokenizer, load_tokenizer
from rlhf_jax.data.world_builder import PreferenceWorld
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import read_json, read_summary
from rlhf_jax.models import DecoderSpec, LoRASpec, init_decoder, merge, without_adapters
from rlhf_jax.models.hf import CONFIG, model_config, policy_tensors, reward_tensors, write_model
from rlhf_jax.models.peft import adapter_config, adapter_tensors, write_adapter
from rlhf_jax.owner import gone, me
from rlhf_jax.reports.card import model_card
from rlhf_jax.types import Params

STAGES = ("reward", "reward_common", "sft", "ppo", "dpo", "online")  # those whose model has a counterpart
_OPTIONS = ("--stage", "--out", "--adapter", "--base", "--overwrite", "--help")
MARK = "rlhf_jax.json"  # in a folder that holds adapters alone: what ``config.json`` of a model keeps of the run
_HELP = """Write a trained model as a Hugging Face folder: config.json, model.safetensors, tokenizer, model card.

usage: rlhf-jax export RUN --stage=reward|reward_common|sft|ppo|dpo|online --out=DIR
       [--adapter | --base] [--overwrite]

  RUN               a run directory; the newest checkpoint of the stage is written
  --stage=STAGE     reward, reward_common: ...ForSequenceClassification, which returns the raw logit;
                    sft, ppo, dpo, online (their policies): ...ForCausalLM
  --out=DIR         the folder to make, all at once or not at all
  --adapter         of a stage that was trained by adapters (config.lora) these alone, as PEFT keeps them
  --base            of such a stage the model beneath the adapters; without either they are merged into it
  --overwrite       replace a folder that this command has written

A model with norm=rms, positions=rotary, activation=swiglu becomes Llama, one with norm=layer, positions=learned,
activation=gelu GPT-2, one that began with a folder (model.path) what the folder was; others have no counterpart.
docs/export.md has the conventions.

examples:
  rlhf-jax export runs/quickstart --stage=reward --out=exported/reward
  rlhf-jax export runs/quickstart --stage=ppo --out=exported/policy"""

# Of config.reward, what says how it was trained and not what it prefers.
_HOW = ("steps", "batch_size", "init", "optimizer", "eval_every", "eval_train")
# Of config.data, what decides the records of the embedded world.
_WORLD = ("task", "ties", "feedback", "noise", "judges", "list_size")
# Texts on which the tokenizer that was written has to agree with the run's own.
_PROBES = ("a b", " two  spaces\n\nlines\t", "Zürich, 東京 and 🙂", "0123456789 ... ?! ()", "")
# Dialogues on which its chat template has to agree, as far as it takes them.
_DIALOGUES: tuple[tuple[Prompt, tuple[str, ...]], ...] = (
    ("a b", ("c d",)),
    ((Message("user", "e"), Message("assistant", "f"), Message("user", "g")), ("h", "i")),
    ((Message("system", "j"), Message("user", "k")), ("l",)),
)


@dataclasses.dataclass(frozen=True)
class Order:
    """What the command line asked for."""

    run: Path
    stage: str
    out: Path
    overwrite: bool
    part: str = ""  # of a stage trained by adapters: --adapter or --base alone; "" all of it, merged


def main(words: Sequence[str]) -> None:
    """Do what the words after ``export`` ask for.

    Raises:
      UserError: one line, for anything that cannot be exported.
    """
    order = _order(words)
    if order is None:
        print(_HELP)
        return
    config, _ = read_run(order.run)
    tokenizer = in_chat(config, _tokenizer(order.run / "tokenizer"), str(order.run / "tokenizer"))
    spec = decoder_spec(config.model, tokenizer.vocab_size)
    reward = order.stage in ("reward", "reward_common")
    if reward and config.reward.ensemble.members > 1:
        raise UserError(
            f"{order.run}: config.reward.ensemble.members: {config.reward.ensemble.members}; a sequence classifier "
            "holds one reward model"
        )
    lora = lora_spec(config, order.stage)
    if order.part and lora is None:
        raise UserError(f"export: {order.part}: {order.run} did not train {order.stage} by adapters (config.lora)")
    # What cannot be exported is told before anything large is read.
    model_config(spec, reward=reward, pad_id=tokenizer.pad_id, eos_id=tokenizer.eos_id, about={})
    about = _about(config, order.stage)
    if lora is not None:
        about["adapters"] = {"--adapter": "alone", "--base": "left out"}.get(order.part, "merged")
    params, step = _params(order, config, spec)
    settings = model_config(
        spec, reward=reward, pad_id=tokenizer.pad_id, eos_id=tokenizer.eos_id, about={**about, "steps": step}
    )
    if lora is not None and order.part == "--adapter":
        _write_adapter(order, lora, spec, params, settings, tokenizer)
        return
    params = merge(without_adapters(params) if order.part == "--base" else params)
    tensors = (reward_tensors if reward else policy_tensors)(spec, params)
    size = sum(tensor.size for tensor in tensors.values())
    card = model_card(settings, config.to_dict(), read_summary(order.run), parameters=size)

    def fill(folder: Path) -> None:
        write_model(folder, settings, tensors)
        (folder / "README.md").write_text(card, encoding="utf-8")
        _write_tokenizer(tokenizer, folder, spec.max_positions, padding_side="right" if reward else "left")

    write_folder(order.out, fill, overwrite=order.overwrite)
    say(f"{order.out}: {settings['architectures'][0]}, {size:,} parameters, {order.stage} after {step} steps")


def _order(words: Sequence[str]) -> Order | None:
    """None: help was asked for."""
    runs: list[str] = []
    values = {"--stage": "", "--out": ""}
    overwrite, parts = False, []
    for word in words:
        name, equals, text = word.partition("=")
        if not word.startswith("--"):
            runs.append(word)
        elif name == "--help":
            return None
        elif name == "--overwrite" and not equals:
            overwrite = True
        elif name in ("--adapter", "--base") and not equals:
            parts.append(name)
        elif name in values and text:
            values[name] = text
        elif name in _OPTIONS:
            wanted = {"--stage": f"--stage={'|'.join(STAGES)}", "--out": "--out=DIR"}.get(name, name)
            raise UserError(f"export: {word}: must be {wanted}")
        else:
            hint = did_you_mean(name, _OPTIONS) or f"; the options are {', '.join(_OPTIONS)}"
            raise UserError(f"export: {word}: no such option{hint}")
    if len(runs) != 1:
        raise UserError(f"export: name one run directory, not {len(runs)}; see rlhf-jax export --help")
    for name, text in values.items():
        if not text:
            raise UserError(f"export: {name}: missing; see rlhf-jax export --help")
    if values["--stage"] not in STAGES:
        hint = did_you_mean(values["--stage"], STAGES)
        raise UserError(f"export: --stage: {values['--stage']!r} is not one of {', '.join(STAGES)}{hint}")
    if len(parts) > 1:
        raise UserError(f"export: {' and '.join(parts)}: name one of them, or neither for the merged model")
    return Order(Path(runs[0]), values["--stage"], Path(values["--out"]), overwrite, *parts)


# ------------------------------------------------------------------------- what a run holds


def _tokenizer(folder: Path) -> Tokenizer:
    """The run's tokenizer, whose padding must differ from its end of sequence as it was saved."""
    saved = read_json(folder / "tokenizer_config.json")
    pad, eos = (value.get("content") if isinstance(value, dict) else value for value in _special(saved))
    if saved and (pad is None or pad == eos):
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: pad_token: {pad!r}, eos_token: {eos!r}; they must differ, for a "
            "sequence classifier is read at the last token that is not padding"
        )
    return load_tokenizer(folder)


def _special(saved: dict[str, Any]) -> tuple[Any, Any]:
    return saved.get("pad_token"), saved.get("eos_token")


def _params(order: Order, config: ConfigDict, spec: DecoderSpec) -> tuple[Params, int]:
    """The parameters that the stage has come to, adapters apart, and after how many steps."""
    root = order.run / "checkpoints"
    directory = root / order.stage
    if not directory.is_dir():
        there = [stage for stage in STAGES if (root / stage).is_dir()]
        raise UserError(f"{order.run}: no checkpoints of stage {order.stage}; there are some of {there or 'none'}")
    with Checkpoints(directory, identity={"stage": order.stage}) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError(f"{directory}: no checkpoint yet")
        params = checkpoints.read_params(step)
    reward = order.stage.startswith("reward")
    params = params["policy"] if order.stage == "ppo" else params
    init = adapted(config, order.stage, partial(init_scored if reward else init_decoder, spec))
    like = jax.eval_shape(init, jax.random.key(0))
    found, wanted = (_shapes(tree) for tree in (params, like))
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"{directory / str(step)}: {name}: shape {found.get(name, 'none')}, but a decoder of the run's "
                f"config.model has {wanted.get(name, 'none')}"
            )
    return params, step


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}


def _about(config: ConfigDict, stage: str) -> dict[str, Any]:
    """What ``config.json`` keeps of the run."""
    about: dict[str, Any] = {"rlhf_jax_version": __version__, "stage": stage, "data": _fingerprint(config)}
    if stage in ("reward", "reward_common"):
        reward = config.reward.to_dict()
        about |= {name: value for name, value in reward.items() if name not in _HOW}
        about["bounded"] = trained_bounded(config.reward, prompt_aware=stage == "reward")
        if stage == "reward_common":
            about["utility_by_type"] = {}
    return about


def _fingerprint(config: ConfigDict) -> dict[str, Any]:
    """Where the data came from, and the SHA-256 of it as it is now: of a file its bytes, of a folder its files'."""
    source = config.data.path
    if not source:
        asked = {key: config.data[key] for key in _WORLD}
        return {"source": "embedded world", "version": str(PreferenceWorld.VERSION), **asked}
    path = Path(source)
    try:
        if path.is_dir():
            digest = hashlib.sha256()
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
            return {"source": source, "sha256": digest.hexdigest()}
        return {"source": source, "sha256": sha256_of(path)}
    except OSError:
        return {"source": source, "sha256": None}


# ------------------------------------------------------------------------- what is written


def _write_adapter(
    order: Order, lora: LoRASpec, spec: DecoderSpec, params: Params, settings: dict[str, Any], tokenizer: Tokenizer
) -> None:
    """The adapters of a stage and, of a reward model, its head; ``settings`` are those of the whole model."""
    reward, model_type = order.stage.startswith("reward"), str(settings["model_type"])
    config = adapter_config(model_type, lora, reward=reward)
    tensors = adapter_tensors(model_type, spec, params, reward=reward)

    def fill(folder: Path) -> None:
        write_adapter(folder, config, tensors)
        (folder / MARK).write_text(json.dumps(settings["rlhf_jax"], indent=2) + "\n", encoding="utf-8")
        _write_tokenizer(tokenizer, folder, spec.max_positions, padding_side="right" if reward else "left")

    write_folder(order.out, fill, overwrite=order.overwrite)
    size, step = sum(tensor.size for tensor in tensors.values()), settings["rlhf_jax"]["steps"]
    say(f"{order.out}: adapters of {model_type}, {size:,} parameters, {order.stage} after {step} steps")


def _write_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int, *, padding_side: str) -> None:
    """The tokenizer as ``AutoTokenizer`` reads it, giving the ids that ``Tokenizer.encode`` gives without being asked.

    That is, adding no beginning of sequence and reading special tokens that are spelled in a text as text. A chat
    template that the model has never seen is left behind; one that it was trained with is kept, what ends an answer
    there is the end of sequence, and special tokens are read as such, for ``apply_chat_template`` spells them.

    Raises:
      UserError: the tokenizer is not one of the tokenizers library, or reads other ids when it is back.
    """
    import tokenizers
    import transformers

    backend = getattr(tokenizer.backend, "backend_tokenizer", None)
    if backend is None:
        raise UserError("export: only tokenizers of the tokenizers library can be exported")
    # A copy: neither the padding nor the truncation of a call, nor anything that adds tokens, is to be kept.
    plain = tokenizers.Tokenizer.from_str(backend.to_str())
    plain.no_padding()
    plain.no_truncation()
    plain.post_processor = None
    chat = tokenizer.chat
    end = {} if chat is None else {"eos_token": tokenizer.backend.convert_ids_to_tokens(tokenizer.eos_id)}
    template = None if chat is None else chat.template
    if template and "eos_token" in template and end["eos_token"] != tokenizer.backend.eos_token:
        # What the template calls so stays what it was. The line after a block is not to be trimmed.
        template = f"{{% set eos_token = {json.dumps(tokenizer.backend.eos_token)} +%}}{template}"
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        **{**tokenizer.backend.special_tokens_map, **end},
        clean_up_tokenization_spaces=False,
        split_special_tokens=chat is None,
        model_max_length=longest,
        padding_side=padding_side,
    )
    made.chat_template = template
    made.save_pretrained(str(folder))
    back = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    spelled = () if chat is not None else (" ".join(["x", *back.all_special_tokens, "y"]),)
    for text in (*_PROBES, *spelled):
        if back(text)["input_ids"] != tokenizer.encode(text):
            raise UserError(
                f"export: the tokenizer as AutoTokenizer reads it has other ids for {text!r} than the run's"
            )
    if (back.pad_token_id, back.eos_token_id) != (tokenizer.pad_id, tokenizer.eos_id):
        raise UserError("export: the tokenizer as AutoTokenizer reads it has other special tokens than the run's")
    if chat is not None:
        read = Chat(back, back.eos_token_id, back.pad_token_id, str(folder))
        trial = [one for one, refused in zip(_DIALOGUES, chat.refusals(_DIALOGUES), strict=True) if not refused]
        if any(read.refusals(trial)) or list(read.encode(trial)) != list(chat.encode(trial)):
            raise UserError("export: the chat template as AutoTokenizer reads it gives other ids than the run's")


def write_folder(out: Path, fill: Callable[[Path], None], *, overwrite: bool) -> None:
    """Make a folder by ``fill``, all at once or not at all; with ``overwrite`` in the place of an earlier export.

    Raises:
      UserError: something else is there, or the disk will not have it.
    """
    final = Path(os.path.realpath(out))
    if final.exists():
        if not overwrite:
            raise UserError(f"--out: {out} exists; name another folder, or add --overwrite to replace an export")
        if not _replaceable(final):
            raise UserError(f"--out: {out} holds something other than an export; name another folder")
    beginning = f".{final.name}.{socket.gethostname()}."
    scratch, old = (final.with_name(f"{beginning}{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        fill(scratch)
        for path in (*scratch.iterdir(), scratch):
            _sync(path)
        if final.exists():
            final.rename(old)
        scratch.rename(final)
        _sync(final.parent)
        for path in final.parent.iterdir():
            if path.name.startswith(beginning) and _is_left(path.name.removeprefix(beginning)):
                shutil.rmtree(path, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--out: {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_left(name: str) -> bool:
    """Whether an export of this process or of one that was killed left the folder ``PID.tmp`` or ``PID.old``."""
    pid = int(name.partition(".")[0]) if name.partition(".")[0].isdecimal() else 0
    return pid == os.getpid() or (pid > 0 and gone({**me(), "pid": pid, "born": ""}))


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty or was written by this command."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return "rlhf_jax" in read_json(folder / CONFIG) or (folder / MARK).is_file()
    except UserError:
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
