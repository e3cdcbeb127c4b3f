"""Rates and rooflines: bytes by hand, bounds that no scheme may beat, reasons in words."""

import pytest

from quantcore.scheme.scheme import Scheme
from quantcore.studies.gpus import GPUS, Machine
from quantcore.studies.hardware import (
    arithmetic_of,
    best_machine,
    gain_bound,
    how_it_runs,
    measure_machine,
    predict,
    work_of,
)
from quantcore.studies.speed import SpeedReport, SpeedRow

GATE = (14336, 4096)
FP4 = "w:fp4_e2m1/group16,a:fp4_e2m1/group16/dynamic"


def test_work_by_hand() -> None:
    """4 x 8 weights, 2 tokens: 2 * 2 * 4 * 8 = 128 operations; x 2 * 8 * 2 = 32 bytes, y 16, W 4 * 8 * 2 = 64."""
    work = work_of("float", (4, 8), 2)
    assert (work.flops, work.encode_bytes, work.product_bytes) == (128, 0, 112)
    assert work.intensity == pytest.approx(128 / 112)
    # codes of x 16 + 2 scales * 4 = 24; W 32 + 4 scales * 2 = 40; encode reads 32 and writes 24
    work = work_of("W8A8", (4, 8), 2)
    assert (work.encode_bytes, work.product_bytes) == (56, 24 + 40 + 16)


def test_a_dynamic_tensor_range_reads_x_twice() -> None:
    static, dynamic = (work_of(f"w:int8/channel,a:int8/tensor/{when}", (4, 8), 2) for when in ("static", "dynamic"))
    assert dynamic.encode_bytes - static.encode_bytes == 32
    assert dynamic.product_bytes == static.product_bytes


def test_reordered_groups_gather_x_and_name_columns() -> None:
    plain, reordered = work_of("w:int4/group4", (4, 8), 2), work_of("w:int4/group4+g_idx", (4, 8), 2)
    assert reordered.encode_bytes - plain.encode_bytes == 64  # read and write 32
    assert reordered.product_bytes - plain.product_bytes == 32  # a 32-bit group for each of 8 columns


def test_the_bound_is_the_slower_of_memory_and_arithmetic() -> None:
    slow_memory = Machine("toy", "", None, 1.0, {"bf16": 1.0}, "")
    found = predict("float", (4, 8), 2, slow_memory)
    assert (found.seconds, found.limit) == (pytest.approx(112e-9), "memory")
    slow_arithmetic = Machine("toy", "", None, 1.0, {"bf16": 1e-6}, "")
    found = predict("float", (4, 8), 2, slow_arithmetic)
    assert (found.seconds, found.limit) == (pytest.approx(128e-6), "arithmetic")
    both = Machine("toy", "", None, 1.0, {"bf16": 1e-6, "int8": 2e-6}, "")
    assert predict("W8A8", (4, 8), 2, both).seconds == pytest.approx(64e-6 + 56e-9)  # encoding comes before


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_few_weight_bytes_win_at_one_token_and_buy_nothing_at_many(gpu: Machine) -> None:
    assert gain_bound("W4A16", GATE, 1, gpu) == pytest.approx(16 / 4.125, rel=0.01)
    assert gain_bound("W4A16", GATE, 8192, gpu) == pytest.approx(1)
    assert gain_bound("W4A16+g_idx", GATE, 8192, gpu) < 1
    eight_bits, rate = gain_bound("W8A8", GATE, 8192, gpu), gpu.rates["int8"] / gpu.rates["bf16"]
    assert (1.7 < eight_bits < rate) if rate > 1 else eight_bits < 0.1  # the B300 all but gave int8 up


def test_without_fp8_tensor_cores_fp8_is_weights_only() -> None:
    a100 = GPUS["A100 80GB"]
    assert gain_bound("FP8_DYNAMIC", GATE, 8192, a100) == pytest.approx(1)
    assert gain_bound("FP8_DYNAMIC", GATE, 1, a100) == pytest.approx(2, rel=0.01)
    run = how_it_runs(Scheme.parse("FP8"), a100)
    assert (run.native, run.weights_only, run.arithmetic) == (False, True, "bf16")
    assert "begin with Ada (8.9)" in run.why


@pytest.mark.parametrize(
    ("scheme", "arithmetic"),
    [
        ("float", "bf16"),
        ("W4A16", "bf16"),
        ("W8A8", "int8"),
        ("W4A8", "int8"),
        ("W4A4", "int4"),
        ("FP8", "fp8"),
        ("W4AFP8", "fp8"),
        (FP4, "fp4"),
        ("w:fp8_e4m3/channel,a:int8/token/dynamic", "bf16"),
        ("a:int8/token/dynamic", "bf16"),
    ],
)
def test_what_a_scheme_multiplies(scheme: str, arithmetic: str) -> None:
    assert arithmetic_of(Scheme.parse(scheme)) == arithmetic


@pytest.mark.parametrize(
    ("scheme", "gpu", "arithmetic", "native", "word"),
    [
        ("W4A4", "A100 80GB", "int4", True, "4x the bf16 rate"),
        ("W4A4", "H100 SXM", "int8", False, "names no int4 rate"),
        (FP4, "H200", "bf16", False, "begin with Blackwell"),
        (FP4, "B200", "fp4", True, "4x the bf16 rate"),
        (FP4.replace("group16", "group128"), "B200", "bf16", False, "16 or 32 columns at a time"),
        ("FP8_BLOCK", "H100 SXM", "fp8", True, "scaled every 128 columns"),
        ("W4A16", "B200", "bf16", True, "unpacked"),
    ],
)
def test_how_it_runs(scheme: str, gpu: str, arithmetic: str, native: bool, word: str) -> None:
    run = how_it_runs(Scheme.parse(scheme), GPUS[gpu])
    assert (run.arithmetic, run.native) == (arithmetic, native)
    assert word in run.why


def test_the_machine_at_hand() -> None:
    machine = measure_machine("cpu")
    assert machine.measured
    assert {"bf16", "int8", "fp8"} == set(machine.rates)
    assert machine.bandwidth_gb_s > 0.1
    assert min(machine.rates.values()) > 0
    assert "not seen to multiply fp4" in how_it_runs(Scheme.parse(FP4), machine).why


def test_the_best_of_a_machine() -> None:
    """2 tokens, 1000 x 500: 2e6 operations; in 1e-3 ms that is 2 TFLOP/s, in 4e-3 ms half a one."""
    row = SpeedRow("W8A8", "int8", 2, 0.0, 1e-3, 2e-3, 2e-3, 4e-3, 4e-3, None, None)
    report = SpeedReport((1000, 500), "bfloat16", "toy", {}, (row,), {}, {})
    machines = [
        Machine("toy", "", None, speed, {"bf16": rate, "int8": 1.0}, "") for speed, rate in ((1, 3.0), (2, 0.1))
    ]
    best = best_machine(machines, report)
    assert (best.bandwidth_gb_s, best.rates) == (2, {"bf16": 3.0, "int8": pytest.approx(2.0)})


def test_a_tile_must_divide() -> None:
    with pytest.raises(ValueError, match="group128 does not divide in_features=100"):
        work_of("W4A16", (4, 100), 1)
