"""A session of asking, judging and writing down, without the page around it.

Blind: which of two answers stands on which side is drawn at random, and what the reward model thinks of them is told
when the choice has been written down.
"""

import dataclasses
import datetime
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.choices import Choice, ChoiceFile, choice_row
from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError

TRIES = 8  # pairs drawn until two answers differ


class Answers(Protocol):
    """What a speaker made of one prompt: n texts, their rewards by M members, whether the prompt was cut."""

    @property
    def texts(self) -> list[str]: ...
    @property
    def rewards(self) -> Float[np.ndarray, "n M"]: ...
    @property
    def cut(self) -> bool: ...


# (turns, number of answers, seed, number of the draw) to answers.
Answer = Callable[[Sequence[Message], int, int, int], Answers]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two answers to ``turns`` in the order shown, A and B. ``sides`` are their numbers among the two sampled in
    ``draw``; ``rewards`` are by member, and not for the eyes of who chooses."""

    turns: tuple[Message, ...]
    texts: tuple[str, str]
    rewards: tuple[tuple[float, ...], tuple[float, ...]]
    sides: tuple[int, int]
    draw: int
    cut: bool


@dataclasses.dataclass(frozen=True)
class Talk:
    """What one page holds: the dialogue so far, which ends with an answer, and the two answers to be judged."""

    turns: tuple[Message, ...] = ()
    pair: Pair | None = None


class Session:
    """One annotator's judgements of one model. Pages of the same session (``Talk``) share its file and its draws."""

    def __init__(
        self, answer: Answer, file: ChoiceFile, *, annotator: str, model: str, seed: int, settings: dict[str, Any]
    ) -> None:
        """``model`` names what answers, ``settings`` are written beside every judgement.

        Draws go on after those that the file has of this seed, so that no answers come twice.
        """
        self._answer, self._file = answer, file
        self._annotator, self._model, self._seed, self._settings = annotator, model, seed, settings
        # Another writer's row may say anything.
        draws = [row["draw"] for row in file.rows if row.get("seed") == seed and isinstance(row.get("draw"), int)]
        self._next = max(draws, default=-1) + 1
        self._open: set[int] = set()  # draws shown and not judged
        self._lock = threading.Lock()
        self.judged = 0

    def ask(self, talk: Talk, text: str, *, go_on: bool = False) -> Talk:
        """Two answers to a question, or (``go_on``) to the dialogue so far and a question.

        Raises:
          UserError: there is no question, or no two answers that differ.
        """
        if not text.strip():
            raise UserError("chat: nothing was asked")
        return self.ask_turns((*(talk.turns if go_on else ()), Message("user", text)))

    def ask_turns(self, turns: tuple[Message, ...]) -> Talk:
        """The same for a whole dialogue, which does not end with the assistant's turn."""
        with self._lock:
            for _ in range(TRIES):
                draw, self._next = self._next, self._next + 1
                found = self._answer(turns, 2, self._seed, draw)
                if all(text.strip() for text in found.texts) and found.texts[0] != found.texts[1]:
                    break
            else:
                raise UserError(f"chat: {TRIES} pairs of answers were equal or empty; raise --temperature")
            self._open.add(draw)
        a, b = (int(side) for side in np.random.default_rng((self._seed, draw)).permutation(2))
        rewards = [tuple(float(value) for value in own) for own in found.rewards]
        return Talk(
            turns[:-1], Pair(turns, (found.texts[a], found.texts[b]), (rewards[a], rewards[b]), (a, b), draw, found.cut)
        )

    def choose(self, talk: Talk, choice: Choice) -> tuple[Talk, str]:
        """Write a judgement down; the dialogue goes on after the better answer (A of a tie). Also what was thought of
        the two, in words.

        Raises:
          UserError: there is nothing to judge (a second click), or it could not be written.
        """
        pair = self._close(talk)
        about = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": self._seed,
            "draw": pair.draw,
            "sides": list(pair.sides),
            **self._settings,
        }
        try:
            row = choice_row(
                pair.turns, pair.texts, choice, pair.rewards, annotator=self._annotator, model=self._model, about=about
            )
            with self._lock:
                self._file.add(row)
                self.judged += 1
        except UserError:
            self._open.add(pair.draw)  # it may be tried again
            raise
        kept = pair.texts[choice == "B"]
        return Talk((*pair.turns, Message("assistant", kept))), told(pair, choice)

    def skip(self, talk: Talk) -> Talk:
        """Leave two answers unjudged; nothing is written, and the dialogue is as it was before the question."""
        pair = self._close(talk)
        return Talk(pair.turns[:-1])

    def _close(self, talk: Talk) -> Pair:
        with self._lock:
            if talk.pair is None or talk.pair.draw not in self._open:
                raise UserError("chat: nothing to judge; ask something first")
            self._open.remove(talk.pair.draw)
        return talk.pair


def told(pair: Pair, choice: Choice) -> str:
    """What the reward model thought of two answers: mean over members, and the population standard deviation."""
    if not pair.rewards[0]:
        return f"kept: {choice} (no reward model)"
    means = [float(np.mean(own)) for own in pair.rewards]
    deviations = [float(np.std(own)) for own in pair.rewards]
    parts = [
        f"{side} {mean:.3f}" + (f" ± {deviation:.3f}" if len(own) > 1 else "")
        for side, own, mean, deviation in zip("AB", pair.rewards, means, deviations, strict=True)
    ]
    liked = "neither" if means[0] == means[1] else "AB"[means[1] > means[0]]
    members = len(pair.rewards[0])
    of = f" (mean ± standard deviation of {members} members)" if members > 1 else ""
    return f"kept: {choice}. Reward: {', '.join(parts)}{of}; the reward model prefers {liked}"


def transcript(turns: Sequence[Message]) -> str:
    """A dialogue for people to read."""
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
