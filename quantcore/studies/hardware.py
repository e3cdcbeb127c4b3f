"""What hardware promises: the rates of the machine at hand, and the bound that a scheme meets on a machine.

    predict("W8A8", (14336, 4096), 16, GPUS["H100 SXM"]).seconds

Roofline: a product of N tokens does 2 N O K operations and moves so many bytes; it can take no less time than either

    seconds >= encode_bytes / bandwidth + max(operations / rate, product_bytes / bandwidth)

encode_bytes are the pass from x to codes (a dynamic per-tensor range reads x twice; reordered groups gather x), the
product reads codes, weights with their scales, and writes y in 16 bits. intensity = operations / all bytes.

Rates of named GPUs: `gpus`. Source: Williams et al. 2009, doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.matmul.paths import path_named
from quantcore.matmul.products import scaled_mm, token_codes
from quantcore.model.machine import device_name
from quantcore.numbers.bits import weight_size
from quantcore.numbers.granularity import PerGroup, PerTensor
from quantcore.numbers.qtensor import quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme
from quantcore.studies.clock import Call, Clock
from quantcore.studies.gpus import FLOAT, Machine
from quantcore.studies.speed import REORDERED, SpeedReport, scheme_of

SCALE_BYTES = 4
ROUNDS = 2
FP4_GROUPS = (16, 32)  # columns that share a scale inside Blackwell's tensor cores: NVFP4, MXFP4


BEGINS = {"fp8": "fp8 tensor cores begin with Ada (8.9)", "fp4": "fp4 tensor cores begin with Blackwell (10.0)"}


@dataclass(frozen=True)
class Run:
    """How a scheme runs on a machine: the arithmetic of its product, whether that is the scheme's own, why."""

    arithmetic: str
    native: bool
    weights_only: bool
    why: str


def arithmetic_of(scheme: Scheme) -> str:
    """What a scheme's product multiplies where the hardware can: its codes on both sides, else bf16."""
    weights, activations = scheme.weights, scheme.activations
    if weights is None or activations is None:
        return FLOAT
    bits = max(weights.fmt.bits, activations.fmt.bits)
    if not weights.fmt.is_float and not activations.fmt.is_float:
        return "int4" if bits <= 4 else "int8"
    if activations.fmt.is_float and activations.fmt.bits == 8:
        return "fp8" if weights.fmt.is_float or weights.fmt.bits <= 4 else FLOAT
    return "fp4" if weights.fmt.is_float and activations.fmt.is_float and bits == 4 else FLOAT


def how_it_runs(scheme: Scheme, machine: Machine) -> Run:
    """The product that a machine gives a scheme, in words. What it cannot multiply runs one size larger, or in bf16
    with codes only in memory."""
    wanted = arithmetic_of(scheme)
    if scheme.weights is None and scheme.activations is None:
        return Run(FLOAT, True, True, "nothing is quantized: the bf16 product")
    if wanted == FLOAT:
        why = "codes are unpacked to bf16 as they arrive, then multiplied in bf16: fewer bytes, the same arithmetic"
        return Run(FLOAT, scheme.activations is None, True, why)
    if wanted == "fp4" and not _fp4_groups(scheme):
        why = f"fp4 tensor cores scale {' or '.join(map(str, FP4_GROUPS))} columns at a time; this runs as weights only"
        return Run(FLOAT, False, True, why)
    if wanted in machine.rates:
        rate = f"{machine.rates[wanted] / machine.rates[FLOAT]:.2g}x the bf16 rate"
        return Run(wanted, True, False, f"{wanted} products at {rate}{_inner_scales(scheme)}")
    if wanted == "int4" and "int8" in machine.rates:
        return Run("int8", False, False, f"{_why_no(wanted, machine)}; the codes are unpacked to int8")
    return Run(FLOAT, False, True, f"{_why_no(wanted, machine)}; it runs as weights only, in bf16")


def _why_no(wanted: str, machine: Machine) -> str:
    if machine.measured:
        return f"this device was not seen to multiply {wanted}"
    return BEGINS.get(wanted, f"its vendor names no {wanted} rate")


def _fp4_groups(scheme: Scheme) -> bool:
    return all(
        spec is not None and isinstance(spec.granularity, PerGroup) and spec.granularity.group_size in FP4_GROUPS
        for spec in (scheme.weights, scheme.activations)
    )


def _inner_scales(scheme: Scheme) -> str:
    """What scales inside the sum cost: words, or nothing where they leave it."""
    assert scheme.weights is not None
    if scheme.weights.fmt.name.startswith("fp4"):
        return ", scales inside the tensor core"
    columns = scheme.weights.granularity.tile((2**16, 2**16))[1]
    return "" if columns == 2**16 else f"; the sum must be scaled every {columns} columns, which the kernel pays for"


@dataclass(frozen=True)
class Work:
    """One product's operations and bytes. Shapes: weight (O, K), N tokens."""

    flops: float
    encode_bytes: float
    product_bytes: float

    @property
    def bytes_moved(self) -> float:
        return self.encode_bytes + self.product_bytes

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes_moved


def work_of(scheme: str, shape: tuple[int, int], tokens: int) -> Work:
    """What N tokens through a layer (O, K) cost under a scheme's text, `float` and `W4A16+g_idx` among them."""
    return _work(scheme_of(scheme), shape, tokens, REORDERED in scheme)


def _work(scheme: Scheme, shape: tuple[int, int], tokens: int, reordered: bool) -> Work:
    out, width = shape
    x = 2.0 * tokens * width
    weight = 2.0 * out * width if scheme.weights is None else weight_size(scheme.weights, shape, reordered).bits / 8
    spec, encode = scheme.activations, 2 * x if reordered else 0.0
    if spec is not None and scheme.weights is not None:
        codes = tokens * width * spec.fmt.bits / 8 + SCALE_BYTES * _scales(spec, tokens, width)
        encode += (2 if spec.dynamic and isinstance(spec.granularity, PerTensor) else 1) * x + codes
        x = codes
    return Work(2 * tokens * out * width, encode, x + weight + 2 * tokens * out)


def _scales(spec: QuantSpec, tokens: int, width: int) -> float:
    rows, columns = spec.granularity.tile((tokens, width))
    return tokens * width / (rows * columns)


@dataclass(frozen=True)
class Prediction:
    """The least time that a machine can take, and what sets it: `memory` or `arithmetic`."""

    work: Work
    run: Run
    seconds: float
    limit: str


def predict(scheme: str, shape: tuple[int, int], tokens: int, machine: Machine) -> Prediction:
    """The bound of a scheme's text on a machine, for a layer (O, K) and N tokens.

    Raises: ValueError for a tile that does not divide the shape."""
    parsed = scheme_of(scheme)
    run = how_it_runs(parsed, machine)
    kept = replace(parsed, activations=None) if run.weights_only else parsed
    work = _work(kept, shape, tokens, REORDERED in scheme)
    compute_s = work.flops / (1e12 * machine.rates[run.arithmetic])
    memory_s = work.product_bytes / (1e9 * machine.bandwidth_gb_s)
    encode_s = work.encode_bytes / (1e9 * machine.bandwidth_gb_s)
    limit = "arithmetic" if compute_s > memory_s + encode_s else "memory"
    return Prediction(work, run, encode_s + max(compute_s, memory_s), limit)


def gain_bound(scheme: str, shape: tuple[int, int], tokens: int, machine: Machine) -> float:
    """How many times as fast as bf16's bound a scheme's bound is."""
    return predict("float", shape, tokens, machine).seconds / predict(scheme, shape, tokens, machine).seconds


def measure_machine(device: str) -> Machine:
    """Bandwidth of a copy (bytes read and written) and rates of torch's own square products, on a device at hand; each
    the best of ROUNDS, because what disturbs a measurement only makes it slower."""
    clock = Clock(torch.device(device))
    size, elements = (8192, 2**28) if clock.on_gpu else (1024, 2**24)
    source, target = torch.ones(elements, device=device), torch.ones(elements, device=device)
    copy_ms = _best_ms(clock, lambda: target.copy_(source))
    x = torch.randn(size, size, device=device).to(torch.bfloat16)
    products: dict[str, Call] = {FLOAT: lambda: F.linear(x, x)}
    for name in ("fp8", "int8"):
        product = _product(x, name)
        if product is not None:
            products[name] = product
    return Machine(
        device_name(torch.device(device)),
        "at hand",
        None,
        8e-6 * elements / copy_ms,
        {name: 2e-9 * size**3 / _best_ms(clock, product) for name, product in products.items()},
        f"measured: a copy of {4 * elements / 2**20:.0f} MiB, torch's products of {size} x {size}",
        measured=True,
    )


def best_machine(machines: Sequence[Machine], report: SpeedReport) -> Machine:
    """Of measurements of one machine, the largest bandwidth and rates; a product of the report that was quicker
    than the square ones counts too."""
    rates = {name: max(one.rates[name] for one in machines) for name in machines[0].rates}
    for row in report.rows:
        gflop = 2e-9 * row.tokens * report.shape[0] * report.shape[1]
        own = arithmetic_of(scheme_of(row.scheme))
        for name, milliseconds in ((FLOAT, row.float_ms), (own, row.product_ms)):
            if name in rates:
                rates[name] = max(rates[name], gflop / milliseconds)
    return replace(machines[0], bandwidth_gb_s=max(one.bandwidth_gb_s for one in machines), rates=rates)


def _best_ms(clock: Clock, call: Call) -> float:
    return min(clock.ms([call]) for _ in range(ROUNDS))


def _product(x: Tensor, name: str) -> Call | None:
    """torch's product of two square matrices of codes; None where this device has none."""
    fmt = {"fp8": "fp8_e4m3", "int8": "int8"}[name]
    scheme = Scheme.parse(f"w:{fmt}/channel,a:{fmt}/token/dynamic")
    assert scheme.weights is not None
    assert scheme.activations is not None
    qweight, path = quantize(x.float(), scheme.weights), path_named(f"{name}_torch")
    if path.why_not(x, qweight, scheme.activations) is not None:
        return None
    weight, codes = path.prepare(qweight, scheme.activations), token_codes(x, scheme.activations)
    if name == "fp8":
        return lambda: scaled_mm(codes, weight, None, x.dtype)
    return lambda: torch._int_mm(codes.codes, weight.codes.t())
