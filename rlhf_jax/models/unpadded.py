"""Padded rows read without their padding: products with parameters see real tokens alone, attention sees rows.

A layer's products cost what its tokens cost, those of a decoder nearly everything; attention, which is little of it,
stays as it is, by whatever kernel. How many tokens there is room for is a constant of the program.
"""

from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.decoder import apply_decoder, attends, read
from rlhf_jax.models.kernels import Attend
from rlhf_jax.models.masks import positions_of
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params
from rlhf_jax.unpadding import Line, line_of


def apply_unpadded(
    spec: DecoderSpec, params: Params, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], room: int | None = None
) -> Float[Array, "B T D"]:
    """``apply_decoder`` of rows that hold one text each, by its real tokens, of which there are at most ``room``.

    Hidden states of padding are 0. Without ``room`` padding is worked on too.
    """
    positions, line = positions_of(mask), line_of(mask, room)
    if line is None:
        return apply_decoder(spec, params, ids, positions, mask)
    attend = attends(spec, mask.astype("int32"))
    tokens = line.collect(ids)[None], line.collect(positions)[None]
    hidden = read(spec, params, *tokens, lambda local: _in_rows(line, attend(local)), keep=False)[0]
    return line.spread(hidden[0])


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
