"""Tasks for people: what Label Studio imports, and how its page asks. The readers take the export back."""

import json
from collections.abc import Sequence
from typing import Any

from rlhf_jax.data.records import Message, Record

KINDS = ("pairwise", "ranking")
TURNS = "prompt_messages"  # unseen by the people asked
SIDES = ("answer1", "answer2")
_PROMPT = """  <View style="padding: 0.8em; border: 1px solid #ccc; white-space: pre-wrap">
    <Text name="prompt" value="$prompt"/>
  </View>
"""
_PAIRWISE = f"""<View>
  <Header value="Which answer is better?"/>
{_PROMPT}  <Pairwise name="choice" toName="{",".join(SIDES)}" leftClass="{SIDES[0]}" rightClass="{SIDES[1]}"/>
  <View style="display: grid; grid-template-columns: 1fr 1fr; column-gap: 1em; white-space: pre-wrap">
    <Text name="{SIDES[0]}" value="${SIDES[0]}"/>
    <Text name="{SIDES[1]}" value="${SIDES[1]}"/>
  </View>
</View>
"""
_RANKING = f"""<View>
  <Header value="Drag the answers into order, the best one first."/>
{_PROMPT}  <List name="answers" value="$items" title="Best first"/>
  <Ranker name="order" toName="answers"/>
</View>
"""


def labelling_config(kind: str) -> str:
    """The labelling configuration (XML) of a project of ``pairwise`` or ``ranking`` tasks."""
    return {"pairwise": _PAIRWISE, "ranking": _RANKING}[kind]


def task(kind: str, prompt: str, texts: Sequence[str], meta: dict[str, Any], prompt_type: str = "") -> dict[str, Any]:
    """One task about ``texts`` in the order in which they are shown: two of them for ``pairwise``.

    Nothing shown tells where a text came from; ``meta`` and the type of the prompt travel with the task unseen.
    """
    data: dict[str, Any] = {"prompt": prompt, **({"prompt_type": prompt_type} if prompt_type else {})}
    if kind == "pairwise":
        left, right = texts
        return {"data": {**data, SIDES[0]: left, SIDES[1]: right}, "meta": meta}
    items = [
        {"id": f"answer-{place}", "title": f"Answer {place + 1}", "body": text} for place, text in enumerate(texts)
    ]
    return {"data": {**data, "items": items}, "meta": meta}


def in_turns(data: dict[str, Any], turns: Sequence[Message]) -> None:
    """Keep the dialogue beside a prompt that is more than one question, so that the readers need not guess at it."""
    if len(turns) > 1:
        data[TURNS] = [{"role": turn.role, "content": turn.content} for turn in turns]


def unwrapped(prompt: str, template: str) -> str:
    """The prompt that ``template`` makes ``prompt`` of, or itself where there is none: what people are shown, and what
    becomes the same prompt when it is read back under the same template.
    """
    before, _, after = template.partition("{prompt}")
    inner = prompt[len(before) : len(prompt) - len(after)]
    return inner if inner.strip() and f"{before}{inner}{after}" == prompt else prompt


def lists_row(record: Record) -> str:
    """A record with an order as one line of a file in the ``lists`` format; the id is left to the reader."""
    turns = [{"role": turn.role, "content": turn.content} for turn in record.messages]
    row: dict[str, Any] = {"prompt": turns or record.prompt}
    if record.prompt_type:
        row["prompt_type"] = record.prompt_type
    if record.annotator:
        row["annotator"] = record.annotator
    row["responses"] = [
        {"text": response.text} | ({} if record.edges is not None else {"rank": response.rank})
        for response in record.responses
    ]
    if record.edges is not None:
        row["edges"] = record.edges
    return json.dumps(row, ensure_ascii=False) + "\n"
