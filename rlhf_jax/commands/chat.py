"""``rlhf-jax chat``: talk to a checkpoint on a page of this machine, and judge pairs of its answers.

A mistake on the command line is told before JAX is loaded.
"""

import dataclasses
import getpass
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.commands.options import read_options
from rlhf_jax.config import did_you_mean
from rlhf_jax.console import say
from rlhf_jax.errors import UserError
from rlhf_jax.foreign import check_run

POLICIES = ("sft", "ppo", "dpo", "online")
LOOPBACK = "127.0.0.1"
_DEFAULTS = {
    "stage": "",
    "reward": "",
    "out": "labels.jsonl",
    "prompts": "",
    "annotator": "",
    "seed": "0",
    "temperature": "1.0",
    "top_p": "1.0",
    "host": LOOPBACK,
    "port": "",
}
_HELP = """Talk to a run's policy, pick the better of two answers, and see then what the reward model thinks of them.

usage: rlhf-jax chat RUN [--stage=sft|ppo|dpo|online] [--reward=RUN] [--out=labels.jsonl] [--prompts=FILE]
                         [--annotator=NAME] [--seed=S] [--temperature=T] [--top_p=P] [--host=ADDRESS] [--port=N]

Needs pip install 'rlhf_jax[chat]'. Judgements are ranked lists of two, one JSON object a line, for --config.data.path.

  RUN               a run directory with a policy; a reward model is its own, its parents', another run's, or none
  --stage=STAGE     the policy of this stage: sft, ppo, dpo or online (the last of them that the run has)
  --reward=RUN      the reward model of another run with the same tokenizer
  --out=FILE        judgements are added to it (labels.jsonl); one session writes at a time
  --prompts=FILE    a file of prompts, {"prompt": ...} a line, proposed one after the other; those judged are left out
  --annotator=NAME  who judges (the login name)
  --seed=S          of sampling, and of the sides on which answers are shown (0)
  --temperature=T   above 0 (1)
  --top_p=P         most probable tokens of this total probability are sampled from, in (0, 1] (1)
  --host=ADDRESS    where to listen; whoever reaches another address than 127.0.0.1 can ask and judge (127.0.0.1)
  --port=N          the first that is free from 7860 on, if not given

example:
  rlhf-jax chat runs/quickstart --stage=ppo --out=labels/alex.jsonl --annotator=alex"""


@dataclasses.dataclass(frozen=True)
class Order:
    """What the command line asked for; ``stage`` "" is the last policy that the run has."""

    run: Path
    stage: str
    reward: str
    out: Path
    prompts: str
    annotator: str
    seed: int
    temperature: float
    top_p: float
    host: str
    port: int | None


def main(words: Sequence[str]) -> None:
    """Serve the page that the words after ``chat`` ask for, until control-C.

    Raises:
      UserError: one line, for anything that cannot be done.
    """
    if "--help" in words:
        print(_HELP)
        return
    order = read_order(words)
    check_run(order.run)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("chat: the page needs gradio; pip install 'rlhf_jax[chat]'")
    from rlhf_jax.build.chat import Speaker  # here: it loads JAX
    from rlhf_jax.commands.chat_page import make_page, serve
    from rlhf_jax.commands.chat_session import Session
    from rlhf_jax.data.choices import ChoiceFile, prompt_field
    from rlhf_jax.generation import SamplingSpec

    with ChoiceFile(order.out) as file:
        if file.note:
            say(file.note)
        stage = order.stage or _last_policy(order.run)
        speaker = Speaker(
            order.run, stage, order.reward, SamplingSpec(temperature=order.temperature, top_p=order.top_p)
        )
        judged = [row.get("prompt") for row in file.rows]
        prompts = speaker.prompts(order.prompts) if order.prompts else []
        session = Session(
            speaker.answer,
            file,
            annotator=order.annotator,
            model=f"{order.run}:{stage}",
            seed=order.seed,
            settings={"temperature": order.temperature, "top_p": order.top_p, "reward_model": order.reward},
        )
        waiting = [turns for turns in prompts if prompt_field(turns) not in judged]
        page = make_page(session, waiting, go_on=speaker.in_chat)
        url = serve(page, order.host, order.port)
        scored = "scored by its reward model" if speaker.judged else "without a reward model"
        say(f"{url}  {order.run}, {stage}, {scored}; {len(waiting)} prompts wait; control-C ends it")
        if order.host != LOOPBACK:
            print(f"anybody who reaches {order.host} can ask and judge", flush=True)
        page.block_thread()
        say(f"{order.out}: {session.judged} judgements added, {len(file.rows) + session.judged} in all")


def read_order(words: Sequence[str]) -> Order:
    """The words as an order. Raises UserError for one that cannot be."""
    values = _DEFAULTS | {
        name: str(value)
        for name, value in read_options("chat", words, tuple(_DEFAULTS), place=("run", "run directory")).items()
    }
    if "run" not in values:
        raise UserError("chat: name a run directory; see rlhf-jax chat --help")
    stage = values["stage"]
    if stage and stage not in POLICIES:
        raise UserError(f"chat: --stage: {stage!r} is not one of {', '.join(POLICIES)}{did_you_mean(stage, POLICIES)}")
    temperature, top_p = (_number(name, values[name]) for name in ("temperature", "top_p"))
    if not temperature > 0:
        raise UserError("chat: --temperature: must be above 0, or both answers would be the same")
    if not 0 < top_p <= 1:
        raise UserError(f"chat: --top_p: {values['top_p']} is not in (0, 1]")
    port = _whole("port", values["port"], 65535) if values["port"] else None
    return Order(
        Path(values["run"]),
        stage,
        values["reward"],
        Path(values["out"]),
        values["prompts"],
        values["annotator"] or _login(),
        _whole("seed", values["seed"], 2**31 - 1),
        temperature,
        top_p,
        values["host"],
        port,
    )


def _last_policy(run: Path) -> str:
    return next((name for name in reversed(POLICIES) if (run / "checkpoints" / name).is_dir()), "sft")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return ""


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"chat: --{name}: {text!r} is not a number")
    return value


def _whole(name: str, text: str, most: int) -> int:
    if not text.isdecimal() or int(text) > most:
        raise UserError(f"chat: --{name}: {text!r} is not a whole number from 0 to {most}")
    return int(text)
