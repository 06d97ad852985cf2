"""Padded rows read without their padding: products with parameters see real tokens alone, attention sees rows.

A layer's products cost what its tokens cost, those of a decoder nearly everything; attention, which is little of it,
stays as it is, by whatever kernel. How many tokens there is room for is a constant of the program.
"""

from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.attention import Pick
from rlhf_jax.models.decoder import apply_decoder, attends, read
from rlhf_jax.models.heads import apply_to_last, at_last
from rlhf_jax.models.kernels import Attend
from rlhf_jax.models.masks import positions_of
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params
from rlhf_jax.unpadding import ALL, Line, Room, line_of


def apply_unpadded(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    response_length: int,
    room: Room = ALL,
) -> Float[Array, "B N D"]:
    """``apply_decoder`` of rows that hold one text each, by its real tokens, for which there is ``room``: the hidden
    states of the last N = 1 + ``response_length`` slots, from which responses are predicted and judged.

    Hidden states of padding are 0. Without ``room`` padding is worked on too.
    """
    if room.tokens is None:
        return apply_decoder(spec, params, ids, positions_of(mask), mask, lambda x: x[:, -response_length - 1 :])
    whole, read = line_of(mask, room.tokens), mask[:, -response_length - 1 :]
    most = read.size if room.responses is None else room.responses + len(mask)
    ends = line_of(read, min(room.tokens, most))

    def pick(x: Float[Array, "1 M *D"]) -> Float[Array, "1 E *D"]:
        return ends.collect(whole.spread(x[0])[:, -response_length - 1 :])[None]

    hidden = _read_line(spec, params, ids, mask, whole, pick)
    return ends.spread(hidden[0])


def last_hidden(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    ends: Bool[Array, "B T"],
    room: Room = ALL,
) -> Float[Array, "B D"]:
    """As ``apply_unpadded``, the hidden state of the last token of each row that ``ends`` marks."""
    if room.tokens is None:
        return apply_to_last(spec, params, ids, mask, ends)
    line = line_of(mask, room.tokens)
    return _read_line(spec, params, ids, mask, line, lambda x: at_last(line.spread(x[0]), ends)[None])[0]


def _read_line(
    spec: DecoderSpec, params: Params, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], line: Line, pick: Pick
) -> Float[Array, "1 N D"]:
    attend = attends(spec, mask.astype("int32"))
    tokens = line.collect(ids)[None], line.collect(positions_of(mask))[None]
    return read(spec, params, *tokens, lambda local: _in_rows(line, attend(local)), pick, keep=False)[0]


def _in_rows(line: Line, attend: Attend) -> Attend:
    """The attention of rows to the tokens of a line, all of which are the only row of these arrays."""

    def heads_first(x: Float[Array, "1 G M C"]) -> Float[Array, "B G T C"]:
        return line.spread(x[0].swapaxes(0, 1)).swapaxes(1, 2)

    def of_line(
        query: Float[Array, "1 M H C"], key: Float[Array, "1 G M C"], value: Float[Array, "1 G M C"]
    ) -> Float[Array, "1 M H C"]:
        mixed: Float[Array, "B T H C"] = attend(line.spread(query[0]), heads_first(key), heads_first(value))
        return line.collect(mixed)[None]

    return of_line
