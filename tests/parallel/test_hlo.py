"""Programs written by hand, and what they must be read as: bytes, axes, turns and FLOPs counted on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlhf_jax.parallel.hlo import (
    Array,
    Loop,
    arrays_of,
    axes_of,
    carried_like,
    groups_of,
    read_program,
    sent_in_a_ring,
)

AXES = {"data": 1, "fsdp": 2, "sequence": 1, "tensor": 4}  # devices 0 to 3 are the first of fsdp

ALONG, ACROSS = "replica_groups=[2,4]<=[8]", "replica_groups=[4,2]<=[2,4]T(1,0)"
LISTED, PAIRS = "replica_groups={{0,1,2,3},{4,5,6,7}}", "source_target_pairs={{0,4},{4,0}}"


def _program(*lines: str, before: str = "") -> str:
    return (
        f"HloModule m\n\n{before}\nENTRY %main (p: f32[8]) -> f32[8] {{\n"
        + "\n".join(f"  {x}" for x in lines)
        + "\n}\n"
    )


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups={}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=[4,2]<=[2,2,2]T(1,0,2)", [[0, 1], [4, 5], [2, 3], [6, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh[a=4,b=2], device_ids=(0,2,4,6,1,3,5,7) {b}", [[0, 2], [4, 6], [1, 3], [5, 7]]),
        ("replica_groups=@mesh[a=2,b=2,c=2] {a,c}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("source_target_pairs={{0,1},{1,0}}, metadata={}", [[0, 1], [1, 0]]),
    ],
)
def test_groups_in_every_form_that_xla_writes(written: str, groups: list[list[int]]) -> None:
    assert groups_of(f", channel_id=1, {written}, dimensions={{0}}", 8).tolist() == groups


def test_axes_of_groups() -> None:
    assert axes_of(np.array([[0, 1, 2, 3], [4, 5, 6, 7]]), AXES) == ("tensor",)
    assert axes_of(np.array([[0, 4], [1, 5]]), AXES) == ("fsdp",)
    assert axes_of(np.arange(8)[None], AXES) == ("fsdp", "tensor")
    assert axes_of(np.array([[0, 2], [1, 3]]), AXES) == ("tensor",)  # a part of an axis is of that axis


def test_shapes_and_their_bytes() -> None:
    written = "(f32[2,3]{1,0:T(8,128)S(1)}, /*index=1*/bf16[5]{0}, pred[7], s4[4]{0:T(8)}, u32[], token[])"
    assert [array.bytes for array in arrays_of(written)[:5]] == [24, 10, 7, 2, 4]


def test_what_a_ring_sends() -> None:
    """Of 4 devices with results of 8 bytes on each. All-gather passes on 3 of 4 parts; a reduction is a scatter of
    parts, each passed on 3 times, and a gather.
    """
    sent = [sent_in_a_ring(kind, 8, 4) for kind in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all")]
    assert sent == [6, 24, 12, 6]
    assert sent_in_a_ring("collective-permute", 8, 2) == 8


def test_collectives_with_their_bytes_and_axes_plain_or_asynchronous() -> None:
    found = read_program(
        _program(
            "%p = f32[8]{0} parameter(0)",
            f'%g = f32[16]{{0}} all-gather(%p), channel_id=1, {ACROSS}, dimensions={{0}}, metadata={{op_name="a/b"}}',
            f"%r = (f32[8]{{0}}, bf16[2,4]{{1,0}}) all-reduce(%p, %q), channel_id=2, {LISTED}, to_apply=%add",
            f"%s = (f32[8]{{0}}, f32[32]{{0}}) all-gather-start(%p), channel_id=3, {ALONG}, dimensions={{0}}",
            "%d = f32[32]{0} all-gather-done(%s)",
            f"%c = (f32[8]{{0}}, f32[8]{{0}}, u32[], u32[]) collective-permute-start(%p), channel_id=4, {PAIRS}",
            "%e = f32[8]{0} collective-permute-done(%c)",
            f"%h = ((f32[32]{{0}}), f32[8]{{0}}) reduce-scatter-start(%x), channel_id=7, {ALONG}, dimensions={{0}}",
            "%i = f32[8]{0} reduce-scatter-done(%h)",
            f"%j = ((f32[8], f32[8]), (f32[8], f32[8])) all-to-all-start(%p, %q), channel_id=8, {ALONG}",
            "%alone = f32[8]{0} all-reduce(%p), channel_id=5, replica_groups=[8,1]<=[8], to_apply=%add",
            f"ROOT %t = f32[2]{{0}} reduce-scatter(%p), channel_id=6, {ALONG}, dimensions={{0}}, to_apply=%add",
        ),
        AXES,
    )
    assert [(one.kind, one.axes, one.times, one.bytes, one.sent) for one in found.collectives] == [
        ("all-gather", ("fsdp",), 1, 64, 32),
        ("all-reduce", ("tensor",), 1, 32 + 16, 72),
        ("all-gather", ("tensor",), 1, 128, 96),
        ("collective-permute", ("fsdp",), 1, 32, 32),
        ("reduce-scatter", ("tensor",), 1, 32, 96),
        ("all-to-all", ("tensor",), 1, 64, 48),
        ("reduce-scatter", ("tensor",), 1, 8, 24),
    ]
    assert found.collectives[0].source == "a/b"


BODY = """
%body (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%c), index=1
  %g = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={}, rhs_contracting_dims={}
  %k = f32[8]{0} custom-call(%g), custom_call_target="tpu_custom_call"
  %i = s32[] get-tuple-element(%c), index=0
  %one = s32[] constant(1)
  %n = s32[] fusion(%i, %one), kind=kLoop, calls=%next
  ROOT %t = (s32[], f32[8]{0}) tuple(%n, %k)
}

%next (a: s32[], b: s32[]) -> s32[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %sum = s32[] add(%a, %b)
}

%unrolled (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%c), index=1
  %g = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={}, rhs_contracting_dims={}
  %i = s32[] get-tuple-element(%c), index=0
  %three = s32[] constant(3)
  %n = s32[] add(%i, %three)
  ROOT %t = (s32[], f32[8]{0}) tuple(%n, %g)
}

%stands (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%c), index=1
  %g = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={}, rhs_contracting_dims={}
  ROOT %t = (s32[], f32[8]{0}) tuple(%other, %g)
}

%condition (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %bound = s32[] constant(12)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%early (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %bound = s32[] constant(12)
  %gt = pred[] compare(%bound, %i), direction=GT
  ROOT %both = pred[] and(%gt, %other)
}

%nobody (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  ROOT %p = pred[] custom-call(%c), custom_call_target="f"
}

%inner (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}

%wrapped (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %bound = s32[] constant(12)
  ROOT %f = pred[] fusion(%i, %bound), kind=kLoop, calls=%inner
}
"""


@pytest.mark.parametrize(
    ("condition", "body", "attributes", "turns", "exact"),
    [
        ("condition", "body", "", 10, True),  # from 2 up to 12
        ("condition", "unrolled", "", 4, True),  # at 2, 5, 8 and 11
        ("wrapped", "body", "", 10, True),
        ("early", "body", "", 10, False),
        ("nobody", "body", "", None, False),
        ("condition", "stands", "", None, False),
        ("nobody", "body", ', backend_config={"known_trip_count":{"n":"7"},"other":{"n":"1"}}', 7, True),
    ],
)
def test_what_a_loop_does_counts_as_often_as_it_turns(
    condition: str, body: str, attributes: str, turns: int | None, exact: bool
) -> None:
    found = read_program(
        _program(
            "%first = s32[] constant(2)",
            "%moved = s32[] copy(%first)",
            "%init = (s32[], f32[8]{0}) tuple(%moved, %p)",
            f"%w = (s32[], f32[8]{{0}}) while(%init), condition=%{condition}, body=%{body}{attributes}",
            before=BODY,
        ),
        AXES,
    )
    (loop,), (one,) = found.loops, found.collectives
    assert (loop.turns, loop.exact) == (turns, exact)
    assert (one.times, one.exact) == (turns or 1, exact)
    assert found.flops == (turns or 1) * 2 * 64
    assert found.kernels == ((turns or 1) if body == "body" else 0)


@pytest.mark.parametrize(
    ("condition", "turns", "exact"), [("condition", 10, True), ("early", 10, False), ("nobody", None, False)]
)
def test_a_loop_goes_on_where_the_one_before_it_ends_at_most(condition: str, turns: int | None, exact: bool) -> None:
    """From 2 up to 12, then up to 20, and once more up to 12, which is nothing; one that has no bound tells nothing."""
    further = """
%further (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %bound = s32[] constant(20)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}
"""

    def loop(number: int, condition: str) -> list[str]:
        return [
            f"%w{number} = (s32[], f32[8]{{0}}) while(%init{number}), condition=%{condition}, body=%body",
            f"%i{number} = s32[] get-tuple-element(%w{number}), index=0",
            f"%x{number} = f32[8]{{0}} get-tuple-element(%w{number}), index=1",
            f"%moved{number} = s32[] copy(%i{number})",
            f"%init{number + 1} = (s32[], f32[8]{{0}}) tuple(%moved{number}, %x{number})",
        ]

    first = "%first = s32[] constant(2)", "%init1 = (s32[], f32[8]{0}) tuple(%first, %p)"
    lines = *first, *loop(1, condition), *loop(2, "further"), *loop(3, "condition")
    found = read_program(_program(*lines, before=BODY + further), AXES)
    expected = [(turns, exact), (turns and 8, exact), (turns and 0, exact)]
    assert [(one.turns, one.exact) for one in found.loops] == expected
    assert found.flops == (18 if turns else 3) * 2 * 64


def test_of_the_branches_of_a_choice_the_largest_counts() -> None:
    branches = """
%small (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %k = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call"
}

%large (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={}, rhs_contracting_dims={}
  %g = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %k = f32[8]{0} custom-call(%g), custom_call_target="tpu_custom_call"
}
"""
    chosen = "%c = f32[8]{0} conditional(%which, %p, %p), true_computation=%small, false_computation=%large"
    found = read_program(_program(chosen, before=branches), AXES)
    assert (found.flops, found.kernels) == (2 * 64, 1)
    assert [(one.kind, one.exact) for one in found.collectives] == [("all-reduce", False)]


FUSED = """
%start (a: f32[8]) -> f32[32] {
  %a = f32[8]{0} parameter(0)
  ROOT %g1 = f32[32]{0} all-gather(%a), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
}

%end (a: f32[8]) -> f32[32] {
  %a = f32[8]{0} parameter(0)
  ROOT %g2 = f32[32]{0} all-gather(%a), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
}

%all-reduce-scatter.1 (a: f32[8]) -> f32[2] {
  %a = f32[8]{0} parameter(0)
  %r = f32[8]{0} all-reduce(%a), channel_id=10, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %own = f32[2]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={2}
}
"""


def test_a_tpus_fusions_one_collective_in_several_and_a_reduction_of_which_a_part_is_kept() -> None:
    found = read_program(
        _program(
            "%one = f32[32]{0} fusion(%p), kind=kCustom, calls=%start",
            "%two = f32[32]{0} fusion(%p), kind=kCustom, calls=%end",
            "ROOT %three = f32[2]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1",
            before=FUSED,
        ),
        AXES,
    )
    assert [(one.kind, one.bytes, one.sent) for one in found.collectives] == [
        ("all-gather", 128, 96),
        ("reduce-scatter", 8, 24),
    ]


def test_flops_of_products_and_of_the_convolutions_that_stand_for_them() -> None:
    def flops(*lines: str) -> float:
        return read_program(_program(*lines), AXES).flops

    left, right = "%a = f32[3,4,5]{2,1,0} parameter(0)", "%b = f32[3,5,6]{2,1,0} parameter(1)"
    dims = "lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}"
    assert flops(left, right, f"%d = f32[3,4,6]{{2,1,0}} dot(%a, %b), {dims}") == 2 * 3 * 4 * 5 * 6
    two = "%a = f32[4,5]{1,0} parameter(0)", "%b = f32[5,6]{1,0} parameter(1)"
    assert flops(*two, "%c = f32[4,6]{1,0} convolution(%a, %b), dim_labels=bf_io->bf") == 2 * 4 * 5 * 6
    # A batch of 3 products, written as a dilated spatial dimension: every output place meets one element.
    window = "window={size=3 stride=2 lhs_dilate=3}, dim_labels=0bf_0io->0bf"
    assert flops(left, right, f"%c = f32[3,4,6]{{2,1,0}} convolution(%a, %b), {window}") == 2 * 3 * 4 * 5 * 6
    # A filter of 3 over 4 places with a border of padding, of 1 channel in and out: the 2 border products are not made.
    row, filter_ = "%a = f32[1,4,1]{2,1,0} parameter(0)", "%b = f32[3,1,1]{2,1,0} parameter(1)"
    window = "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"
    assert flops(row, filter_, f"%c = f32[1,4,1]{{2,1,0}} convolution(%a, %b), {window}") == 2 * (4 * 3 - 2)
    gemm = 'custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":'
    gemm += '{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}'
    assert flops(*two, f"%c = (f32[4,6]{{1,0}}, s8[64]{{0}}) custom-call(%a, %b), {gemm}") == 2 * 4 * 5 * 6


def test_a_cache_is_found_among_what_a_loop_carries() -> None:
    whole = (8, 4, 32, 16)  # rows, heads, slots, channels
    cached, other = Array("bf16", (2, 2, 32, 16)), Array("bf16", (2, 2, 16, 32))
    loops = (Loop(3, True, (Array("s32", ()),)), Loop(3, True, (cached, other, cached)))
    assert carried_like(loops, whole, 32) == (cached, cached)
    assert carried_like(loops[:1], whole, 32) == ()


def test_a_compiled_program_of_eight_devices() -> None:
    """Six layers, split over rows and columns, and their gradient: FLOPs by hand, gathers on both axes."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("fsdp", "tensor"))

    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0])

    def shape(*sizes: int, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(mesh, spec))

    weights = shape(6, 64, 64, spec=PartitionSpec(None, "fsdp", "tensor"))
    compiled = jax.jit(jax.grad(loss)).lower(weights, shape(32, 64, spec=PartitionSpec("fsdp"))).compile()
    found = read_program(compiled.as_text(), dict(mesh.shape))
    assert found.flops == 3 * 6 * 2 * 32 * 64 * 64 / 8
    assert compiled.cost_analysis()["flops"] < found.flops / 3  # XLA's own count takes a loop's body once
    gathered = {one.axes for one in found.collectives if one.kind == "all-gather" and one.times == 6}
    assert ("fsdp",) in gathered
    assert ("tensor",) in gathered
