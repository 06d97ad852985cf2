"""What a compiled program does, read off its optimized HLO text: collectives by mesh axis, FLOPs of products, caches.

The text is that of one device, so every shape is a device's own. A loop's body is written once: what it does counts as
often as the loop turns. Loops that may end early count at their bound, one that goes on where such a loop ended from
that bound on, and loops without a known bound once; of the branches of a choice, the largest counts.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Int

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "c64": 8, "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1}
_ARRAY = re.compile(r"\b([a-z]+[a-z0-9]*)\[([0-9,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLS = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_MESH = re.compile(r"replica_groups=@?mesh\[([^\]]*)\]\s*(?:,\s*device_ids=\(([^)]*\)?)\))?\s*\{([^}]*)\}")
_KERNEL = re.compile(r'custom_call_target="(tpu_custom_call|__cudnn\$fmha|__gpu\$xla\.gpu\.triton)')
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a program: XLA's name of its type, and its dimensions."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        width = _BYTES.get(self.dtype)
        bits = re.search(r"\d+", self.dtype)
        return math.ceil(math.prod(self.shape) * (width if width is not None else int(bits[0]) / 8 if bits else 0))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: what it is called, what it makes, from what, and the rest of the line."""

    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result, those of a tuple one after the other."""
        return arrays_of(self.result)

    def attribute(self, pattern: str) -> str:
        """The first group of ``pattern`` among the attributes, "" without it."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of a program: how often it turns at most, None where that is not to be told; ``exact`` if never less."""

    turns: int | None
    exact: bool
    carried: tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective: between which axes of the mesh, how often, and bytes per device each time.

    ``bytes`` are those of the result; ``sent`` what a device sends in a ring. ``times`` is at most, unless ``exact``.
    ``source`` is the operation of the traced program that it was made for.
    """

    kind: str
    axes: tuple[str, ...]
    devices: int
    times: int
    exact: bool
    bytes: int
    sent: int
    source: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """What ``read_program`` finds. ``flops`` are of one device: multiplications and additions of matrix products.

    ``kernels`` counts calls of fused kernels, into which the text does not go.
    """

    collectives: tuple[Collective, ...]
    flops: float
    loops: tuple[Loop, ...]
    kernels: int = 0


def arrays_of(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape in HLO's words, layouts left aside."""
    plain = re.sub(r"\{[^}]*\}", "", re.sub(r"/\*.*?\*/", "", shape))
    return tuple(
        Array(dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in _ARRAY.findall(plain)
    )


# ------------------------------------------------------------------------- text to instructions


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """(the instructions of each computation by name, the name of the entry)."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, own = "", {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            own = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif found := _LINE.match(line):
            instruction = _instruction(line[found.end() :], found[2], bool(found[1]))
            if instruction:
                own[instruction.name] = instruction
    return computations, entry


def _instruction(rest: str, name: str, root: bool) -> Instruction | None:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        return None
    closing = _closing(rest, opcode.end() - 1)
    inside = re.sub(r"/\*.*?\*/|\{[^}]*\}", "", rest[opcode.end() : closing])
    operands = tuple(re.findall(r"%?([\w.\-]+)(?:,|$)", inside.replace(" ", "\n").replace("\n", " ").strip() + ","))
    if opcode[1] in ("constant", "parameter"):
        operands = (inside,)
    return Instruction(name, opcode[1], rest[:end], operands, rest[closing + 1 :], root)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at ``start`` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text) - 1


# ------------------------------------------------------------------------- a walk through what is executed


def read_program(text: str, axes: Mapping[str, int]) -> Reading:
    """Read an optimized program, compiled for a mesh of these ``axes`` (name to size, in the mesh's order)."""
    computations, entry = parse(text)
    walk = _Walk(computations, axes)
    walk.visit(entry, 1, True)
    return Reading(tuple(walk.collectives), walk.flops, tuple(walk.loops), walk.kernels)


class _Walk:
    def __init__(self, computations: dict[str, dict[str, Instruction]], axes: Mapping[str, int]) -> None:
        self.computations, self.axes = computations, axes
        self.collectives: list[Collective] = []
        self.loops: list[Loop] = []
        self.flops, self.kernels = 0.0, 0

    def visit(self, name: str, times: int, exact: bool) -> None:
        """All that one computation does, ``times`` over; fusions are parts of it."""
        # One collective that runs beside other work is written in the fusions where it starts, goes on and ends.
        channels: set[str] = set()
        for own, computation in self._fused(name):
            for instruction in own.values():
                opcode = instruction.opcode.removesuffix("-start")
                if opcode in COLLECTIVES:
                    channel = instruction.attribute(r"channel_id=(\d+)")
                    if channel not in channels:
                        self._collective(instruction, own, computation, times, exact)
                    channels |= {channel} - {""}
                elif instruction.opcode == "while":
                    loop = loop_of(instruction, own, self.computations)
                    self.loops.append(loop)
                    body = instruction.attribute(r"\bbody=%?([\w.\-]+)")
                    self.visit(body, times * (1 if loop.turns is None else loop.turns), exact and loop.exact)
                elif instruction.opcode == "call":
                    for called in _called(instruction):
                        self.visit(called, times, exact)
                elif instruction.opcode == "conditional":
                    self._one_of(_called(instruction), times)
                else:
                    self.flops += times * product_flops(instruction, own)
                    self.kernels += times * bool(_KERNEL.search(instruction.attributes))

    def _one_of(self, names: Sequence[str], times: int) -> None:
        """What the largest of some computations does, of which one is chosen when the program runs."""
        walks = [_Walk(self.computations, self.axes) for _ in names]
        for walk, name in zip(walks, names, strict=True):
            walk.visit(name, times, False)
            self.loops += walk.loops
        self.flops += max(walk.flops for walk in walks)
        self.kernels += max(walk.kernels for walk in walks)
        self.collectives += max(
            (walk.collectives for walk in walks), key=lambda own: sum(o.times * o.sent for o in own)
        )

    def _fused(self, name: str) -> Iterator[tuple[dict[str, Instruction], str]]:
        own = self.computations.get(name, {})
        yield own, name
        for instruction in own.values():
            if instruction.opcode in ("fusion", "async-start"):
                for called in _called(instruction):
                    yield from self._fused(called)

    def _collective(
        self, instruction: Instruction, own: dict[str, Instruction], computation: str, times: int, exact: bool
    ) -> None:
        kind = instruction.opcode.removesuffix("-start")
        result = _results(instruction)
        if kind == "all-reduce" and "all-reduce-scatter" in computation:  # of which each device keeps its part
            kind = "reduce-scatter"
            result = next(one.arrays for one in own.values() if one.root)
        size = sum(array.bytes for array in result)
        groups = groups_of(instruction.attributes, math.prod(self.axes.values()))
        members = len(groups[0]) if len(groups) else 1
        if members == 1 and kind != "collective-permute":
            return
        source = instruction.attribute(r'op_name="([^"]*)"')
        self.collectives.append(
            Collective(
                kind,
                axes_of(groups, self.axes),
                members,
                times,
                exact,
                size,
                sent_in_a_ring(kind, size, members),
                source,
            )
        )


def _called(instruction: Instruction) -> list[str]:
    branches = instruction.attribute(_BRANCHES.pattern)
    return _CALLS.findall(instruction.attributes) + re.findall(r"[\w.\-]+", branches)


def _results(instruction: Instruction) -> tuple[Array, ...]:
    """What comes of a collective; an asynchronous one is started with a tuple of operands, results and more."""
    arrays = instruction.arrays
    if instruction.opcode.endswith("-start") and instruction.result.startswith("(("):
        rest = instruction.result[_closing(instruction.result, 1) + 1 :].lstrip(", ")
        return arrays_of(rest[: _closing(rest, 0) + 1]) if rest.startswith("(") else arrays_of(rest)[:1]
    if instruction.opcode == "all-gather-start":
        return arrays[len(arrays) // 2 :]
    return arrays[1:2] if instruction.opcode == "collective-permute-start" else arrays


def sent_in_a_ring(kind: str, result: int, devices: int) -> int:
    """Bytes that each of ``devices`` sends for a ``result`` of so many bytes on each."""
    others = devices - 1
    return {
        "all-gather": result * others // devices,
        "reduce-scatter": result * others,
        "all-reduce": 2 * result * others // devices,
        "all-to-all": result * others // devices,
        "collective-permute": result,
    }[kind]


# ------------------------------------------------------------------------- loops


def loop_of(
    instruction: Instruction, own: Mapping[str, Instruction], computations: dict[str, dict[str, Instruction]]
) -> Loop:
    """How often a ``while`` turns: as XLA says, or by the one comparison of a counter with a bound in its condition.

    Where a counter starts and what it goes up by (loops are unrolled, too) must be written as constants, or it starts
    where that of an earlier loop ends.
    """
    said = instruction.attribute(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
    if said:
        return Loop(int(said), True, instruction.arrays)
    turns, exact = _Counting(instruction, own, computations).turns()
    return Loop(turns, exact, instruction.arrays)


@dataclasses.dataclass(frozen=True)
class _Frame:
    """A computation; of a fusion's inside, also the fusion and where that stands."""

    own: Mapping[str, Instruction]
    call: Instruction | None = None
    outer: "_Frame | None" = None


# What hands a number on as it is.
_SAME = ("copy", "copy-start", "copy-done", "bitcast", "convert", "reshape")


class _Counting:
    """The counter of one loop."""

    def __init__(
        self, loop: Instruction, own: Mapping[str, Instruction], computations: dict[str, dict[str, Instruction]]
    ) -> None:
        self.computations, self.around = computations, _Frame(own)
        self.condition, self.body = (
            _Frame(computations.get(loop.attribute(rf"\b{name}=%?([\w.\-]+)"), {})) for name in ("condition", "body")
        )
        self.first = self._look(self.around, loop.operands[0])  # a tuple of what is carried at first

    def turns(self) -> tuple[int | None, bool]:
        """(how often at most, whether never less); None where that is not to be told."""
        found = [bound for bound in self._bounds(self.condition) if bound is not None]
        if len(found) != 1:
            return None, False
        place, limit, whole = found[0]
        (start, never_later), step = self._start(place), self._step(place)
        if start is None or not step:
            return None, False
        return max(-(-(limit - start) // step), 0), whole and never_later

    def _bounds(self, frame: _Frame) -> Iterator[tuple[int, int, bool] | None]:
        """(place of the counter in what is carried, its bound, whether nothing else ends the loop)."""
        for one in frame.own.values():
            direction = one.attribute(r"direction=(\w+)")
            if one.opcode == "compare" and direction in ("LT", "GT"):
                counter, limit = one.operands if direction == "LT" else one.operands[::-1]
                place, bound = self._place(self._look(frame, counter)), self._number(self._look(frame, limit))
                if place is not None and bound is not None:
                    yield place, bound, one.root and (frame.call is None or frame.call.root)
            if one.opcode == "fusion":
                for called in _called(one):
                    yield from self._bounds(_Frame(self.computations.get(called, {}), one, frame))

    def _step(self, place: int) -> int | None:
        root = next((name for name, one in self.body.own.items() if one.root), "")
        last = self._look(self.body, root)
        after = None if last is None or last[1].opcode != "tuple" else self._look(last[0], last[1].operands[place])
        if after is None or after[1].opcode != "add":
            return None
        sides = [self._look(after[0], operand) for operand in after[1].operands]
        others = [side for side in sides if self._place(side) != place]
        return self._number(others[0]) if len(others) == 1 else None

    def _look(self, frame: _Frame, name: str) -> tuple[_Frame, Instruction] | None:
        """What makes a value, past what hands it on and into the fusions that make it."""
        one = frame.own.get(name)
        if one is None:
            return None
        if one.opcode in _SAME:
            return self._look(frame, one.operands[0])
        if one.opcode == "parameter" and frame.call is not None and frame.outer is not None:
            return self._look(frame.outer, frame.call.operands[int(one.operands[0])])
        if one.opcode == "fusion":
            inner = _Frame(self.computations.get(_called(one)[0], {}), one, frame)
            return self._look(inner, next((key for key, each in inner.own.items() if each.root), ""))
        if one.opcode == "get-tuple-element":
            made = self._look(frame, one.operands[0])
            if made is not None and made[1].opcode == "tuple":
                return self._look(made[0], made[1].operands[int(one.attribute(r"index=(\d+)"))])
        return frame, one

    def _place(self, found: tuple[_Frame, Instruction] | None) -> int | None:
        """Where in what is carried a value stands."""
        if found is None or found[1].opcode != "get-tuple-element":
            return None
        made = self._look(found[0], found[1].operands[0])
        return int(found[1].attribute(r"index=(\d+)")) if made and made[1].opcode == "parameter" else None

    def _number(self, found: tuple[_Frame, Instruction] | None) -> int | None:
        """A constant, or one that is carried."""
        place = self._place(found)
        if place is not None:
            return self._at_first(place)
        if found is None or found[1].opcode != "constant" or not re.fullmatch(r"-?\d+", found[1].operands[0]):
            return None
        return int(found[1].operands[0])

    def _first_of(self, place: int) -> tuple[_Frame, Instruction] | None:
        """What makes that which is carried there into the first turn."""
        if self.first is None or self.first[1].opcode != "tuple":
            return None
        return self._look(self.first[0], self.first[1].operands[place])

    def _at_first(self, place: int) -> int | None:
        """What is carried there into the first turn, if it is a constant."""
        found = self._first_of(place)
        return None if found is None or found[1].opcode != "constant" else self._number(found)

    def _start(self, place: int) -> tuple[int | None, bool]:
        """(where a counter starts, whether never elsewhere): at a constant, or where that of an earlier loop ends."""
        found = self._first_of(place)
        made = None
        if found is not None and found[1].opcode == "get-tuple-element":
            made = self._look(found[0], found[1].operands[0])
        if found is None or made is None or made[1].opcode != "while":
            return self._at_first(place), True
        earlier, its = _Counting(made[1], made[0].own, self.computations), int(found[1].attribute(r"index=(\d+)"))
        loop = loop_of(made[1], made[0].own, self.computations)
        start, step = earlier._start(its)[0], earlier._step(its)
        if loop.turns is None or start is None or step is None:
            return None, False
        return start + loop.turns * step, loop.exact


# ------------------------------------------------------------------------- groups of devices


def groups_of(attributes: str, devices: int) -> Int[np.ndarray, "G M"]:
    """The groups of devices of a collective, in any of the forms that XLA writes; of a permutation, its pairs."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
    if pairs:
        return np.array([[int(n) for n in pair.split(",")] for pair in re.findall(r"\{(\d+,\d+)", pairs[0])])
    mesh = re.search(
        r"replica_groups=@?mesh\[([^\]]*)\]\s*(?:,\s*device_ids=\(([^)]*\)?)\))?\s*\{([^}]*)\}", attributes
    )
    if mesh:
        return _mesh_groups(mesh[1], mesh[2] or "", mesh[3])
    iota = re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", attributes)
    if iota:
        return _iota(iota[1])
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", attributes)
    if listed:
        return np.array([[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[0])])
    return np.arange(devices)[None]  # {}: all in one group


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _iota(text: str) -> Int[np.ndarray, "G M"]:
    """``[2,4]<=[4,2]T(1,0)``: counted in the shape on the right, transposed, and cut into the shape on the left."""
    groups, _, counted = text.partition("<=")
    sizes, _, order = counted.partition("T")
    ids = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return (ids.transpose(_numbers(order)) if order else ids).reshape(_numbers(groups))


def _mesh_groups(axes: str, device_ids: str, grouped: str) -> Int[np.ndarray, "G M"]:
    """``mesh['a'=2,'b'=4] {'b'}``: the devices that differ along these axes alone are one group.

    ``'b':(2)2`` is the part of an axis of that size whose steps have 2 sizes before them.
    """
    sizes = {name: int(size) for name, size in re.findall(r"([\w.\-]+)'?=(\d+)", axes)}
    ids = _device_ids(device_ids, math.prod(sizes.values()))
    parts = {
        name: (int(before), int(size)) for name, before, size in re.findall(r"([\w.\-]+)'?:\((\d+)\)(\d+)", grouped)
    }
    whole = set(re.findall(r"[\w.\-]+", re.sub(r":\(\d+\)\d+", "", grouped))) - parts.keys()
    # Every axis as three, of which the middle one may be of the groups.
    shape: list[int] = []
    for name, size in sizes.items():
        before, own = parts.get(name, (1, size))
        shape += [before, own, size // (before * own)]
    chosen = [3 * place + 1 for place, name in enumerate(sizes) if name in whole or name in parts]
    order = [axis for axis in range(len(shape)) if axis not in chosen] + chosen
    return ids.reshape(shape).transpose(order).reshape(-1, math.prod(shape[axis] for axis in chosen))


def _device_ids(text: str, count: int) -> Int[np.ndarray, "N"]:
    """In which order a mesh has its devices: counted up, counted and transposed, or one by one."""
    if not text:
        return np.arange(count)
    return _iota(f"[{count},1]<={text}")[:, 0] if "[" in text else np.array(_numbers(text))


def axes_of(groups: Int[np.ndarray, "G M"], axes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a mesh along which devices of one group differ; numbers count the mesh's devices in its order."""
    places = np.stack(np.unravel_index(groups, tuple(axes.values())))
    varies = np.any(places != places[:, :, :1], axis=(1, 2))
    return tuple(name for name, differs in zip(axes, varies, strict=True) if differs)


# ------------------------------------------------------------------------- products


def product_flops(instruction: Instruction, own: Mapping[str, Instruction]) -> float:
    """Multiplications and additions of a product or a convolution, 0 of anything else."""
    if instruction.opcode == "dot":
        return _dot_flops(instruction, own, r"lhs_contracting_dims=\{([\d,]*)\}")
    if instruction.opcode == "custom-call" and "gemm" in instruction.attributes:  # a library's, on GPUs
        return _dot_flops(instruction, own, r'"lhs_contracting_dimensions":\[([^\]]*)\]')
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, own)
    return 0.0


def _operand(instruction: Instruction, place: int, own: Mapping[str, Instruction]) -> tuple[int, ...]:
    return own[instruction.operands[place]].arrays[0].shape


def _dot_flops(instruction: Instruction, own: Mapping[str, Instruction], contracted: str) -> float:
    left = _operand(instruction, 0, own)
    summed = math.prod(left[axis] for axis in _numbers(instruction.attribute(contracted)))
    return 2.0 * math.prod(instruction.arrays[0].shape) * summed


def _convolution_flops(instruction: Instruction, own: Mapping[str, Instruction]) -> float:
    """Products that fall on padding or between the elements of a dilated operand are not made, and not counted."""
    left, kernel, out = re.split(r"_|->", instruction.attribute(r"dim_labels=(\w+->\w+)"))
    sizes, weights, result = (
        dict(zip(labels, shape, strict=True))
        for labels, shape in (
            (left, _operand(instruction, 0, own)),
            (kernel, _operand(instruction, 1, own)),
            (out, instruction.arrays[0].shape),
        )
    )
    flops = 2.0 * result["b"] * result["f"] * weights["i"]
    batches = instruction.attribute(r"batch_group_count=(\d+)")
    spatial = sorted(label for label in left if label.isdigit())
    for place, label in enumerate(spatial):
        flops *= _meetings(instruction, place, sizes[label], weights[label], result[label])
    return flops / int(batches or 1)


def _meetings(instruction: Instruction, place: int, size: int, kernel: int, out: int) -> int:
    """Pairs of an output and a kernel place that meet an element of the operand, along one spatial dimension."""
    window = instruction.attribute(r"window=\{([^}]*)\}")

    def values(name: str, usual: str) -> str:
        found = re.search(rf"\b{name}=([\d_x\-]+)", window)
        return found[1].split("x")[place] if found else usual

    stride, left_dilation, right_dilation = (int(values(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    low = int(values("pad", "0_0").split("_")[0])
    places = np.arange(out)[:, None] * stride - low + np.arange(kernel)[None] * right_dilation
    inside = (places >= 0) & (places < (size - 1) * left_dilation + 1) & (places % left_dilation == 0)
    return int(np.sum(inside))


def carried_like(loops: Sequence[Loop], shape: tuple[int, ...], slots: int) -> tuple[Array, ...]:
    """Of the loop that carries most of them, the arrays that may be parts of an array of this ``shape``: as many axes,
    each whole or a divisor, the one of ``slots`` whole."""
    place = len(shape) - 1 - shape[::-1].index(slots)

    def fits(array: Array) -> bool:
        return (
            len(array.shape) == len(shape)
            and array.shape[place] == slots
            and all(own and whole % own == 0 for own, whole in zip(array.shape, shape, strict=True))
        )

    found = [tuple(array for array in loop.carried if fits(array)) for loop in loops]
    return max(found, key=lambda arrays: sum(array.bytes for array in arrays), default=())
