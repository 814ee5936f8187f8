"""PTX on a processor: instructions by their definition, Triton's own operations, and faults."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")
pytest.importorskip("triton._utils")  # since 3.3
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

import triton.language as tl  # noqa: E402

from ptx.flow import meetings  # noqa: E402
from ptx.launches import running  # noqa: E402
from ptx.machine import Machine  # noqa: E402
from ptx.memory import FaultError, Memory, Region  # noqa: E402
from ptx.program import parse  # noqa: E402
from ptx.races import RaceError, Watch  # noqa: E402

NAN, INFINITY = float("nan"), float("inf")


def execute(body: str, *arrays: np.ndarray, lanes: int = 32, programs: int = 1, shared: int = 0):
    """Run PTX of one kernel on arrays, whose addresses are in %rd1, %rd2, ..."""
    loads = "".join(f"ld.param.u64 %rd{n + 1}, [p{n}];\n" for n in range(len(arrays)))
    text = f"""
    .visible .entry k({", ".join(f".param .u64 p{n}" for n in range(len(arrays)))})
    .reqntid {lanes}
    {{
    .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<99>; .reg .b64 %rd<99>;
    {loads}{body}
    ret;
    }}"""
    program = parse(text)
    program.meets = meetings(program)
    begins = [4096 * (n + 1) for n in range(len(arrays))]
    bytes_ = [array.view(np.uint8).reshape(-1) for array in arrays]
    regions = [Region(b, x, Watch(x.size, True)) for b, x in zip(begins, bytes_, strict=True)]
    arguments = {f"p{n}": np.array([b], np.uint64) for n, b in enumerate(begins)}
    grid = np.array([(n, 0, 0) for n in range(programs)])
    memory = Memory("global", regions)
    Machine(program, arguments, grid, (programs, 1, 1), memory, shared).run()


def computed(instruction: str, kind: str, *given) -> np.generic:
    """The one number that an instruction makes of these."""
    types = {
        "f32": "f4",
        "f64": "f8",
        "s32": "i4",
        "u32": "u4",
        "s64": "i8",
        "b32": "u4",
        "b64": "u8",
    }
    wide = "d" if kind.endswith("64") else ""
    names = [f"%r{'d' if k.endswith('64') else ''}{40 + n}" for n, (k, _) in enumerate(given)]
    out = np.zeros(1, types[kind])
    arrays = [np.array([value], types[k]) for k, value in given]
    body = "".join(
        f"ld.global.{k} {name}, [%rd{n + 2}];\n"
        for n, (name, (k, _)) in enumerate(zip(names, given, strict=True))
    )
    body += f"{instruction} %r{wide}30, {', '.join(names)};\nst.global.{kind} [%rd1], %r{wide}30;"
    execute(body, out, *arrays)
    return out[0]


@pytest.mark.parametrize(
    ("instruction", "kind", "given", "want"),
    [
        # Shifts by more than there are bits leave none, or the sign.
        ("shl.b32", "b32", [("b32", 3), ("u32", 33)], 0),
        ("shr.u32", "u32", [("u32", 2**31), ("u32", 40)], 0),
        ("shr.s32", "s32", [("s32", -8), ("u32", 1)], -4),
        ("shr.s32", "s32", [("s32", -8), ("u32", 99)], -1),
        # Division is towards zero, and the remainder has the sign of what is divided.
        ("div.s32", "s32", [("s32", -7), ("s32", 2)], -3),
        ("rem.s32", "s32", [("s32", -7), ("s32", 2)], -1),
        ("mul.wide.s32", "s64", [("s32", -(2**31)), ("s32", 2**31 - 1)], -(2**62) + 2**31),
        ("mul.wide.u32", "s64", [("u32", 2**31), ("u32", 4)], 2**33),
        ("mul.lo.s32", "s32", [("s32", 2**30), ("s32", 6)], -(2**31)),
        ("mad.lo.s32", "s32", [("s32", 3), ("s32", -4), ("s32", 5)], -7),
        ("mad.wide.s32", "s64", [("s32", -3), ("s32", 2**31 - 1), ("s64", 1)], -3 * 2**31 + 4),
        ("bfe.u32", "u32", [("u32", 0b11010110), ("u32", 2), ("u32", 4)], 0b0101),
        ("bfe.s32", "s32", [("s32", 0b11010110), ("u32", 1), ("u32", 3)], 3),
        ("bfe.s32", "s32", [("s32", 0b0100), ("u32", 1), ("u32", 2)], -2),
        ("prmt.b32", "b32", [("b32", 0x3210), ("b32", 0x76540000), ("b32", 0x7610)], 0x76543210),
        ("prmt.b32", "b32", [("b32", 0x00008000), ("b32", 0), ("b32", 0x0009)], 0x000000FF),
        ("popc.b32", "u32", [("b32", 0xF0F)], 8),
        # The number of two, where the other is none.
        ("max.f32", "f32", [("f32", NAN), ("f32", -2)], -2),
        ("min.f64", "f64", [("f64", 1), ("f64", NAN)], 1),
        ("max.f32", "f32", [("f32", -0.0), ("f32", 0.0)], 0.0),
        ("min.f32", "f32", [("f32", 0.0), ("f32", -0.0)], -0.0),
        ("max.NaN.f32", "f32", [("f32", NAN), ("f32", -2)], NAN),
        ("copysign.f64", "f64", [("f64", -1), ("f64", 3)], -3),
        ("ex2.approx.ftz.f32", "f32", [("f32", -3)], 0.125),
        ("ex2.approx.ftz.f32", "f32", [("f32", -130)], 0),  # what is denormal is flushed
        ("abs.ftz.f32", "f32", [("f32", -1e-40)], 0),
        # One rounding: the product alone is 1 + 2^-11 + 2^-24.
        ("fma.rn.f32", "f32", [("f32", 1 + 2**-12)] * 2 + [("f32", -1 - 2**-11)], 2**-24),
        # To integers: no more than there is, and of no number zero.
        ("cvt.rzi.s32.f32", "s32", [("f32", 1e10)], 2**31 - 1),
        ("cvt.rzi.s32.f32", "s32", [("f32", -INFINITY)], -(2**31)),
        ("cvt.rzi.s32.f32", "s32", [("f32", NAN)], 0),
        ("cvt.rzi.s64.f32", "s64", [("f32", NAN)], -(2**63)),
        ("cvt.rzi.s32.f64", "s32", [("f64", -2.9)], -2),
        ("cvt.rmi.f64.f64", "f64", [("f64", -2.1)], -3),
        ("cvt.rpi.ftz.f32.f32", "f32", [("f32", 2.1)], 3),
        ("cvt.rni.f32.f32", "f32", [("f32", 2.5)], 2),
        ("cvt.rn.f32.s32", "f32", [("s32", 2**24 + 3)], 2**24 + 4),
        ("cvt.s64.s32", "s64", [("s32", -5)], -5),
        ("cvt.u32.u64", "u32", [("b64", 2**40 + 7)], 7),
    ],
)  # fmt: skip
def test_instructions(instruction, kind, given, want):
    np.testing.assert_equal(computed(instruction, kind, *given), np.dtype("f8").type(want))


@pytest.mark.parametrize(
    ("comparison", "a", "b", "want"),
    [
        ("lt", 1, 2, True), ("ge", 1, 2, False), ("ne", 1, 2, True),
        ("ne", NAN, 2, False), ("neu", NAN, 2, True), ("ltu", NAN, 2, True),
        ("eq", NAN, NAN, False), ("num", 1, NAN, False), ("num", 1, 2, True), ("nan", NAN, 2, True),
    ],
)  # fmt: skip
def test_comparisons_of_what_is_no_number(comparison, a, b, want):
    out, given = np.zeros(1, np.int32), np.array([a, b], np.float32)
    body = f"""
    ld.global.f32 %r1, [%rd2]; ld.global.f32 %r2, [%rd2+4];
    setp.{comparison}.f32 %p1, %r1, %r2; selp.b32 %r3, 1, 0, %p1; st.global.b32 [%rd1], %r3;"""
    execute(body, out, given)
    assert out[0] == want


@pytest.mark.parametrize(
    ("shuffle", "want"),
    [
        ("bfly.b32 %r2, %r1, 5, 31", [lane ^ 5 for lane in range(32)]),
        ("up.b32 %r2, %r1, 3, 0", [max(lane - 3, 0) if lane >= 3 else lane for lane in range(32)]),
        ("down.b32 %r2, %r1, 3, 31", [lane + 3 if lane < 29 else lane for lane in range(32)]),
        ("idx.b32 %r2, %r1, 7, 31", [7] * 32),
        # In segments of eight: mask 24 in the upper bits.
        ("down.b32 %r2, %r1, 1, 6175", [lane + 1 if lane % 8 < 7 else lane for lane in range(32)]),
    ],
)
def test_shuffles(shuffle, want):
    out = np.zeros(32, np.int32)
    body = f"""
    mov.u32 %r1, %tid.x; shfl.sync.{shuffle}, -1;
    mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.b32 [%rd2], %r2;"""
    execute(body, out)
    assert out.tolist() == want


def test_a_vote_asks_every_lane():
    out = np.zeros(32, np.int32)
    body = """
    mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 4; setp.ne.b32 %p1, %r2, 0;
    vote.sync.ballot.b32 %r3, %p1, -1;
    mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.b32 [%rd2], %r3;"""
    execute(body, out)
    assert set(out.view(np.uint32).tolist()) == {0xF0F0F0F0}


def test_scopes_have_registers_of_their_own():
    out = np.array([7], np.int64)
    body = """
    ld.global.b64 %rd2, [%rd1];
    { .reg .b32 low; mov.b64 {low, %r1}, %rd2; add.s32 low, low, 1;
      mov.b64 %rd3, {low, %r1}; }
    st.global.b64 [%rd1], %rd3;"""
    execute(body, out)
    assert out[0] == 8


def test_lanes_part_and_meet_again():
    """A loop that each lane leaves when it is done, and a sum over all lanes behind it."""
    out = np.zeros(64, np.int32)
    body = """
    mov.u32 %r1, %tid.x; mov.b32 %r2, 0; mov.b32 %r3, 0;
    and.b32 %r4, %r1, 7;
$L_again:
    setp.ge.u32 %p1, %r3, %r4;
    @%p1 bra $L_done;
    add.s32 %r2, %r2, %r3; add.s32 %r3, %r3, 1;
    bra $L_again;
$L_done:
    redux.sync.add.s32 %r5, %r2, -1;
    mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.b32 [%rd2], %r5;"""
    execute(body, out, lanes=64)
    assert set(out.tolist()) == {4 * sum(k * (k - 1) // 2 for k in range(8))}


# Every lane of 64 writes its number to shared memory, and reads that of the lane 32 away.
EXCHANGE = """
    mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; xor.b32 %r3, %r2, 128;
    st.shared.b32 [%r2], %r1;
    {barrier}
    ld.shared.b32 %r4, [%r3];
    mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.b32 [%rd2], %r4;"""


def test_what_another_warp_writes_is_read_behind_a_barrier():
    out = np.zeros(64, np.int32)
    execute(EXCHANGE.format(barrier="bar.sync 0;"), out, lanes=64, shared=256)
    assert out.tolist() == [*range(32, 64), *range(32)]
    with pytest.raises(RaceError, match="warp 0 of program 0 reads a byte that warp 1 writes"):
        execute(EXCHANGE.format(barrier=""), out, lanes=64, shared=256)


def test_a_byte_that_is_read_is_not_written_before_a_barrier():
    body = """
    mov.u32 %r1, %tid.x; ld.global.b32 %r2, [%rd1];
    setp.eq.u32 %p1, %r1, 40; @%p1 st.global.b32 [%rd1], %r1;"""
    with pytest.raises(
        RaceError, match="warp 1 of program 0 writes a byte that several warps read"
    ):
        execute(body, np.zeros(1, np.int32), lanes=64)
    execute(body.replace("setp", "bar.sync 0; setp"), out := np.zeros(1, np.int32), lanes=64)
    assert out[0] == 40


def test_programs_do_not_wait_for_each_other():
    body = "mov.u32 %r1, %ctaid.x; bar.sync 0; st.global.b32 [%rd1], %r1; bar.sync 0;"
    with pytest.raises(FaultError, match="lanes write different numbers"):
        execute(body, np.zeros(1, np.int32), programs=2)
    body = """
    mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 0;
    @%p1 st.global.b32 [%rd1], 7; bar.sync 0; ld.global.b32 %r2, [%rd1];"""
    with pytest.raises(RaceError, match="program 1 reads a byte that warp 0 writes"):
        execute(body, np.zeros(1, np.int32), programs=2)
    # Each writes the same, and reads its own.
    execute(body.replace("@%p1 ", ""), np.zeros(1, np.int32), programs=2)


def test_additions_disturb_none_but_who_reads():
    count = np.zeros(1, np.int32)
    execute("atom.global.add.u32 %r1, [%rd1], 3;", count, lanes=64, programs=2)
    assert count[0] == 3 * 128
    with pytest.raises(RaceError, match="reads a byte"):
        execute("atom.global.add.u32 %r1, [%rd1], 3; ld.global.b32 %r2, [%rd1];", count, lanes=64)
    found = np.zeros(32, np.int32)
    body = """
    atom.global.add.u32 %r1, [%rd1], 2; mov.u32 %r2, %tid.x;
    mad.wide.u32 %rd3, %r2, 4, %rd2; st.global.b32 [%rd3], %r1;"""
    execute(body, np.zeros(1, np.int32), found)
    assert sorted(found.tolist()) == list(range(0, 64, 2))


FEW = "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 5; "


@pytest.mark.parametrize(
    ("body", "error", "match"),
    [
        ("ld.global.b32 %r1, [%rd1+8];", FaultError, "no tensor has 4 bytes at global"),
        ("ld.global.b32 %r1, [%rd1+2];", FaultError, "no multiple of the 4 bytes"),
        ("ld.global.v2.b32 {%r1, %r2}, [%rd1+4];", FaultError, "no multiple of the 8 bytes"),
        ("mov.b32 %r1, 32; st.shared.b32 [%r1], 0;", FaultError, "shared memory has 32 bytes"),
        ("tanh.approx.f32 %r1, %r2;", NotImplementedError, "tanh.approx.f32"),
        (FEW + "@%p1 bra $L_a; bar.sync 0;\n$L_a:",
         RuntimeError, "a barrier that some lanes do not reach"),
        (FEW + "@%p1 shfl.sync.idx.b32 %r2, %r1, 9, 31, 31;",
         RuntimeError, "reads a lane that does not run"),
    ],
)  # fmt: skip
def test_what_a_card_would_not_run(body, error, match):
    with pytest.raises(error, match=match):
        execute(body, np.zeros(2, np.int32), shared=32)


def test_text_without_a_kernel_is_refused():
    with pytest.raises(ValueError, match="no kernel"):
        parse(".version 9.0")


def test_what_is_copied_in_the_background_is_there_when_it_is_waited_for():
    body = """
    mov.b32 %r1, 0; st.shared.b32 [%r1], 0;
    cp.async.ca.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x4;
    cp.async.commit_group;
    {wait}
    ld.shared.b32 %r2, [%r1]; st.global.b32 [%rd2], %r2;"""
    for wait, want in (("cp.async.wait_group 0;", 5), ("cp.async.wait_group 1;", 0)):
        out = np.zeros(1, np.int32)
        execute(body.format(wait=wait), np.array([5], np.int32), out, shared=16)
        assert out[0] == want


# Triton's operations against PyTorch's.


@triton.jit
def elementwise(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(y + i, tl.exp(v) + tl.floor(v) / 3 - tl.log(tl.abs(v) + 1), mask=i < n)


@triton.jit
def reductions(x, y, ROWS: tl.constexpr, SIDE: tl.constexpr):
    row, column = tl.arange(0, ROWS), tl.arange(0, SIDE)
    v = tl.load(x + row[:, None] * SIDE + column[None, :])
    tl.store(y + row, tl.sum(v, 1))
    tl.store(y + ROWS + column, tl.max(v, 0))


@triton.jit
def running_sum(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.cumsum(tl.load(x + i), 0))


@triton.jit
def ordered(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.sort(tl.load(x + i)))


@triton.jit
def counted(x, y, BLOCK: tl.constexpr, BINS: tl.constexpr):
    tl.store(y + tl.arange(0, BINS), tl.histogram(tl.load(x + tl.arange(0, BLOCK)), BINS))


@triton.jit
def squared(x, y, SIDE: tl.constexpr):
    i = tl.arange(0, SIDE)
    at = i[:, None] * SIDE + i[None, :]
    a = tl.load(x + at)
    tl.store(y + at, tl.dot(a, tl.trans(a)))


@triton.jit
def neighbours(x, y, BLOCK: tl.constexpr, BARRIER: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i) + 1)
    if BARRIER:
        tl.debug_barrier()
    tl.store(y + BLOCK + i, tl.load(y + BLOCK - 1 - i))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_elementwise(dtype, capability):
    x, y = torch.randn(1000).to(dtype), torch.zeros(1000, dtype=dtype)
    with running(capability):
        elementwise[(4,)](x, y, 1000, 256)
    v = x.float()
    want = v.exp() + v.floor() / 3 - (v.abs() + 1).log()
    torch.testing.assert_close(
        y, want.to(dtype), rtol=2e-6 if dtype == torch.float32 else 1e-2, atol=2e-6
    )


def test_reductions_scans_sorts_and_counts():
    x = torch.randn(32, 64)
    with running() as ran:
        reductions[(1,)](x, y := torch.zeros(96), 32, 64)
        running_sum[(1,)](x, z := torch.zeros(2048), 2048)
        ordered[(1,)](x, s := torch.zeros(2048), 2048)
        digits = torch.randint(0, 64, (2048,), dtype=torch.int32)
        counted[(1,)](digits, counts := torch.zeros(64, dtype=torch.int32), 2048, 64)
    assert [r.name for r in ran] == ["reductions", "running_sum", "ordered", "counted"]
    torch.testing.assert_close(y, torch.cat([x.sum(1), x.max(0).values]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z, x.flatten().cumsum(0), rtol=1e-4, atol=1e-4)
    assert torch.equal(s, x.flatten().sort().values)
    assert torch.equal(counts, torch.bincount(digits, minlength=64).int())


def test_products_of_matrices():
    x, y = torch.randn(32, 32).half(), torch.zeros(32, 32)
    with running(80):
        squared[(1,)](x, y, 32)
    torch.testing.assert_close(y, x.float() @ x.float().T, rtol=1e-5, atol=1e-5)


def test_a_kernel_that_lacks_a_barrier_is_found():
    x, y = torch.randn(256), torch.zeros(512)
    with running():
        neighbours[(1,)](x, y, 256, True)
        assert torch.equal(y[256:], (x + 1).flip(0))
        with pytest.raises(RaceError, match="neighbours"):
            neighbours[(1,)](x, y.zero_(), 256, False)


def test_a_kernel_that_reads_too_far_is_found():
    with running(), pytest.raises(FaultError, match="elementwise"):
        elementwise[(1,)](torch.randn(100), torch.zeros(200), 200, 256)
