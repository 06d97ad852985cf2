"""How a dialogue becomes token ids by the chat template that a tokenizer brings along.

1. The template renders the dialogue, in a process with limits (``process``, ``child``), as transformers would.
2. Special tokens that the template wrote, ``<|im_start|>`` say, are told from those that somebody spelled in a turn:
   in a second rendering the latter are replaced by stand-ins, single made-up words of private-use characters. What has
   no stand-in there is the template's. Both renderings must be the same text once stand-ins are put back.
3. The template's special tokens are replaced by stand-ins of their own, tokens of a copy of the tokenizer, and the text
   is encoded with special tokens read as text. The ids of the stand-ins are those of the tokens they stand for.

So the ids are those of transformers' ``apply_chat_template`` unless a turn spells a special token, and then the
spelling is text. As a last check, the template must have written the special tokens that it writes around one plain
word for each turn: it may not make them out of what people say.

The prompt is what the template makes of the turns up to the question, with the beginning of the assistant's turn. The
response is what it puts there for the answer, up to the first special token: the one that ends the assistant's turns,
which ends a response in training and in sampling. A template without one leaves this to the end-of-sequence token.
"""

import dataclasses
import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_jax.data.chat.process import Process, Rendered, Request, renderer
from rlhf_jax.data.records import Message, Prompt
from rlhf_jax.errors import UserError

# What to encode: a prompt, and the answers to it.
Dialogue = tuple[Prompt, Sequence[str]]
WORD = "40704"  # a turn of which templates can make nothing else: no letters, no white space, the same from both ends
_QUESTION = (Message("user", WORD),)
AT_ONCE = 256  # dialogues whose renderings are in memory


@dataclasses.dataclass(frozen=True)
class Texts:
    """A dialogue as the template has it, stand-ins in the place of its special tokens: the prompt, what of it comes
    after its last special token (all of it, if there is none), and each response without what ends it."""

    prompt: str
    tail: str
    responses: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Frame:
    """What the template writes around plain words for the same speakers.

    ``marks`` are the special tokens of the prompt; ``whole`` those of the prompt and an answer, of which number ``end``
    is the first after the answer (None: there is none); ``after`` is the text behind the answer.
    """

    marks: tuple[str, ...]
    whole: tuple[str, ...]
    end: int | None
    after: str

    @property
    def ending(self) -> str | None:
        """The special token that ends an answer."""
        return None if self.end is None else self.whole[self.end]


class Chat:
    """A tokenizer's chat template: from dialogues to ids, and which of these ends an answer."""

    def __init__(self, backend: Any, eos_id: int, pad_id: int, named: str) -> None:
        """``backend`` is a transformers tokenizer, ``named`` where it is from.

        Raises:
          UserError: it has no template, or none by which prompt and answer could be told apart; or its special tokens
            cannot be told from text.
        """
        self.named = named
        self.template = _template(backend, named)
        special = {i: token for i, token in backend.added_tokens_decoder.items() if token.special}
        self._ids = {token.content: i for i, token in special.items()}
        self._variables = dict(backend.special_tokens_map)
        # What the template writes depends on these, too.
        self.sha256 = hashlib.sha256(json.dumps([self.template, self._variables], sort_keys=True).encode()).hexdigest()
        self._special = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))))
        # Nobody can have written what was drawn a moment ago.
        nonce = "".join(chr(0xE000 + secrets.randbelow(0x1900)) for _ in range(8))
        self._spelled, self._marks = (
            {word: f"{nonce}{chr(plane + place)}" for place, word in enumerate(self._ids)}
            for plane in (0xF0000, 0x100000)
        )
        self._mark = re.compile(f"{nonce}[\U00100000-\U0010fffd]")
        self._back = {stand_in: word for table in (self._spelled, self._marks) for word, stand_in in table.items()}
        self._stand_in = re.compile(f"{nonce}.", re.DOTALL)
        self._tokenizer, self._stand_in_ids = _with_stand_ins(backend, special, self._marks)
        self._frames: dict[tuple[str, ...], Frame | str] = {}
        self._text_ids = set(self._ids.values()) - {backend.unk_token_id}
        self.end_id = self._checked(backend, eos_id, pad_id)

    # ---------------------------------------------------------------------------------------------- ids

    def encode(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Ids of each prompt and of its answers, these without what ends them, in order.

        Raises:
          UserError: the template refuses a dialogue.
        """
        for (prompt, _), texts in zip(dialogues, self.render(dialogues), strict=True):
            if isinstance(texts, str):
                raise UserError(f"data.chat: {texts}; the dialogue is {_shown(prompt)}")
            yield self._encoded(texts.prompt), self._response_ids(texts)

    def refusals(self, dialogues: Sequence[Dialogue]) -> list[str]:
        """For each dialogue why the template refuses it, "" if it does not."""
        return [texts if isinstance(texts, str) else "" for texts in self.render(dialogues)]

    def _response_ids(self, texts: Texts) -> list[list[int]]:
        """Of each answer as it stands behind its prompt. Its ids must follow those of the prompt, which a policy is
        given to answer: where characters would merge across the border, it is encoded behind some that do not."""
        mark = next(iter(self._marks.values()))
        before = {front: self._encoded(front) for front in (texts.tail, f"{mark}\n", f"{mark}a", mark)}

        def behind(body: str) -> list[int]:
            for front, own in before.items():
                whole = self._encoded(front + body)
                if whole[: len(own)] == own or front == mark:  # nothing merges with a special token
                    break
            return whole[len(own) :]

        return [behind(body) for body in texts.responses]

    def _encoded(self, text: str) -> list[int]:
        found = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._text_ids.isdisjoint(found):
            raise UserError(f"tokenizer.path: the tokenizer of {self.named} reads special tokens out of plain text")
        return [self._stand_in_ids.get(i, i) for i in found]

    # ---------------------------------------------------------------------------------------------- texts

    def render(self, dialogues: Sequence[Dialogue]) -> list[Texts | str]:
        """What the template makes of each dialogue, or in a line why there is nothing to be made of it."""
        found: list[Texts | str] = []
        if not dialogues:
            return found
        with renderer(self.template, self._variables, self.named) as process:
            for start in range(0, len(dialogues), AT_ONCE):
                part = [(_turns(prompt), answers) for prompt, answers in dialogues[start : start + AT_ONCE]]
                self._learn_frames(process, {_roles(turns) for turns, _ in part})
                requests: list[Request] = []
                for turns, answers in part:
                    requests.append((turns, True))
                    requests += [((*turns, Message("assistant", answer)), False) for answer in answers]
                rendered = iter(self._marked(process, requests))
                for turns, answers in part:
                    whole = [next(rendered) for _ in range(1 + len(answers))]
                    found.append(self._texts(self._frames[_roles(turns)], whole))
        return found

    def _marked(self, process: Process, requests: Sequence[Request]) -> list[Rendered]:
        """Each dialogue rendered, with stand-ins for the special tokens that the template wrote."""
        plain = process.render(requests)
        hostile = [place for place, (turns, _) in enumerate(requests) if any(map(self._spells, turns))]
        shielded = [
            ([dataclasses.replace(turn, content=self._replaced(turn.content, self._spelled)) for turn in turns], more)
            for turns, more in (requests[place] for place in hostile)
        ]
        again = dict(zip(hostile, process.render(shielded), strict=True))
        found: list[Rendered] = []
        for place, (text, why) in enumerate(plain):
            shield, shield_why = again.get(place, (text, why))
            if text is None or shield is None:
                found.append((None, why or shield_why))
            elif self._restored(shield) != text:
                found.append((None, "the chat template changes what is said where it spells a special token"))
            else:
                own = self._replaced(shield, self._marks)
                found.append((self._stand_in.sub(self._unspelled, own), ""))
        return found

    def _texts(self, frame: Frame | str, parts: Sequence[Rendered]) -> Texts | str:
        refused = next((why for text, why in parts if text is None), "")
        if refused or isinstance(frame, str):
            return f"messages: {refused or frame}"
        prompt, *wholes = [text or "" for text, _ in parts]
        marks = [self._mark.findall(whole) for whole in (prompt, *wholes)]
        wanted = [frame.marks, *[frame.whole] * len(wholes)]
        if any(tuple(found) != expected for found, expected in zip(marks, wanted, strict=True)):
            return "messages: the chat template writes special tokens that depend on what is said"
        last = frame.marks[-1] if frame.marks else ""
        tail = prompt.rpartition(last)[2] if last else prompt
        responses = []
        for whole in wholes:
            body = self._response(frame, whole, last + tail)
            if body is None:
                return "messages: the chat template does not put an answer where it begins one"
            responses.append(body)
        return Texts(prompt, last + tail, tuple(responses))

    def _response(self, frame: Frame, whole: str, opening: str) -> str | None:
        """What comes behind ``opening``, the end of the prompt, up to what ends the answer; None if it is not there."""
        if frame.end is not None:
            ends = list(self._mark.finditer(whole))
            start = ends[frame.end - 1].start() if frame.end else 0
            part = whole[start : ends[frame.end].start()]
        else:
            start = whole.rindex(frame.whole[-1]) if frame.whole else 0
            part = whole[start:]
            if not part.endswith(frame.after):
                return None
            part = part[: len(part) - len(frame.after)]
        return part[len(opening) :] if part.startswith(opening) else None

    def _learn_frames(self, process: Process, speakers: set[tuple[str, ...]]) -> None:
        """Render plain words for the sequences of speakers that are new."""
        new = sorted(speakers - self._frames.keys())
        requests: list[Request] = []
        for roles in new:
            turns = [Message(role, WORD) for role in roles]
            requests += [(turns, True), ([*turns, Message("assistant", WORD)], False)]
        rendered = process.render(requests)
        for roles, prompt, whole in zip(new, rendered[::2], rendered[1::2], strict=True):
            frame = self._frame(prompt, whole)
            usual = self._frames.get(_roles(_QUESTION))  # learnt first of all; ``end_id`` is of it
            if isinstance(frame, Frame) and isinstance(usual, Frame) and frame.ending != usual.ending:
                frame = f"the chat template ends an answer to {', '.join(roles)} otherwise than one to a question alone"
            self._frames[roles] = frame

    def _frame(self, prompt: Rendered, whole: Rendered) -> Frame | str:
        if prompt[0] is None or whole[0] is None:
            return prompt[1] or whole[1]
        asked, answered = (self._replaced(text, self._marks) for text in (prompt[0], whole[0]))
        before, word, after = answered.rpartition(WORD)
        if not word:
            return "the chat template leaves out what the assistant said"
        marks = tuple(self._mark.findall(answered))
        count = len(self._mark.findall(before))
        return Frame(tuple(self._mark.findall(asked)), marks, count if count < len(marks) else None, after)

    # ---------------------------------------------------------------------------------------------- stand-ins

    def _spells(self, turn: Message) -> bool:
        return self._special.search(turn.content) is not None

    def _replaced(self, text: str, table: Mapping[str, str]) -> str:
        return self._special.sub(lambda match: table[match[0]], text)

    def _unspelled(self, match: re.Match[str]) -> str:
        """Stand-ins of what was spelled back to text; those of the template stay."""
        return match[0] if self._mark.fullmatch(match[0]) else self._back.get(match[0], match[0])

    def _restored(self, text: str) -> str:
        return self._stand_in.sub(lambda match: self._back.get(match[0], match[0]), text)

    def _checked(self, backend: Any, eos_id: int, pad_id: int) -> int:
        """The id that ends an answer, after a trial on plain words and on every special token as text."""
        (trial,) = self.render([(_QUESTION, [WORD])])
        frame = self._frames[_roles(_QUESTION)]
        if isinstance(trial, str) or isinstance(frame, str):
            raise UserError(f"data.chat: the chat template of {self.named} cannot be used: {trial}")
        self._encoded(" ".join(["a", *self._ids, "b"]))
        text = self._restored(trial.prompt)
        if self._encoded(trial.prompt) != backend(text, add_special_tokens=False, split_special_tokens=False).input_ids:
            what = "reads the special tokens of its chat template in a way of its own"
            raise UserError(f"tokenizer.path: the tokenizer of {self.named} {what}")
        end = eos_id if frame.ending is None else self._ids[self._back[frame.ending]]
        if end == pad_id:
            raise UserError(f"tokenizer.path: the chat template of {self.named} ends an answer by the padding token")
        return end


def _template(backend: Any, named: str) -> str:
    if not backend.is_fast:
        raise UserError(f"data.chat: the tokenizer of {named} is none of the tokenizers library")
    try:
        return str(backend.get_chat_template())
    except ValueError:
        raise UserError(f"data.chat: the tokenizer of {named} has no chat template") from None


def _with_stand_ins(backend: Any, special: Mapping[int, Any], marks: Mapping[str, str]) -> tuple[Any, dict[int, int]]:
    """A copy of the tokenizer that reads special tokens as text and ``marks`` as tokens; and what these stand for."""
    import tokenizers

    copy = tokenizers.Tokenizer.from_str(backend.backend_tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    copy.encode_special_tokens = True
    copy.add_tokens(
        [
            tokenizers.AddedToken(
                marks[token.content],
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=False,
            )
            for token in special.values()
        ]
    )
    ids = copy.get_added_tokens_decoder()
    real = {marks[token.content]: i for i, token in special.items()}
    return copy, {i: real[token.content] for i, token in ids.items() if token.content in real}


def _roles(turns: Sequence[Message]) -> tuple[str, ...]:
    return tuple(turn.role for turn in turns)


def _turns(prompt: Prompt) -> tuple[Message, ...]:
    """A text is what the user said."""
    return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)


def _shown(prompt: Prompt) -> str:
    return repr(_turns(prompt)[-1].content)[:60]
