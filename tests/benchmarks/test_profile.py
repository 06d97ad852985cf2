"""Of a profile: an operation's own time, and what an operation is for."""

import pytest

from benchmarks.profile import LAYERS, REST, idle_share, operations, own_times

# As XLA prints a program: tables of places in the source, then computations.
TEXT = """HloModule jit_constrained
FileNames
1 "/x/rlhf_jax/models/decoder.py"
2 "/x/rlhf_jax/models/blockwise.py"
3 "/x/optax/transforms/_adam.py"
FunctionNames
1 "Block.__call__"
2 "attend"
FileLocations
1 {file_name_id=1 function_name_id=1 line=1}
2 {file_name_id=2 function_name_id=2 line=9}
3 {file_name_id=3 function_name_id=2 line=9}
StackFrames
1 {file_location_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=3 parent_frame_id=1}

%inner (p: f32[2,2]) -> f32[2,2] {
  ROOT %dot.7 = f32[2,2]{1,0} dot(%p, %p), metadata={op_name="a" stack_frame_id=1}
}

ENTRY %main (p: f32[2,2]) -> f32[2,2] {
  %fused = f32[2,2]{1,0} fusion(%p), kind=kLoop, calls=%inner, metadata={op_name="b" stack_frame_id=1}
  %dot.8 = f32[2,2]{1,0} dot(%p, %p), metadata={op_name="c" stack_frame_id=2}
  %add.1 = f32[2,2]{1,0} add(%p, %p), metadata={op_name="d" stack_frame_id=1}
  %mul.1 = f32[2,2]{1,0} multiply(%p, %p), metadata={op_name="e" stack_frame_id=3}
  ROOT %copy.1 = f32[2,2]{1,0} copy(%p)
}
"""


def test_what_an_operation_is_for() -> None:
    found = {name: one.kind for name, one in operations(TEXT).items()}
    assert found == {
        "dot.7": LAYERS,
        "fused": LAYERS,  # it calls a product
        "dot.8": "attention",  # the innermost call decides
        "add.1": "between products of layers",
        "mul.1": "optimizer",
        "copy.1": REST,
    }


def test_time_is_an_operations_own() -> None:
    """A loop of 100 with a call of 40 in it, of which 10 are a product; and 5 more of the product afterwards."""
    events = [(0.0, 100.0, "loop"), (10.0, 40.0, "call"), (20.0, 10.0, "dot"), (100.0, 5.0, "dot")]
    assert own_times(events) == pytest.approx({"loop": 60, "call": 30, "dot": 15})


def test_idle_is_what_no_operation_covers() -> None:
    """From 10 to 30: busy 10 to 16 by two that overlap and one within, 20 to 22, and 29 to 30."""
    events = [(29.0, 1.0), (10.0, 4.0), (12.0, 4.0), (13.0, 1.0), (20.0, 2.0)]
    assert idle_share(events) == pytest.approx(11 / 20)
