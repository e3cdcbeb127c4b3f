"""What a scheme buys on this machine: one layer's product measured, path by path, against the 16-bit product.

    report = measure_paths((14336, 4096), [1, 16, 2048], ["W8A8", "W4A16"], "cuda")

    encode     x to codes and scales (0 where the path takes x as it is; the gather of columns where groups are
               reordered)
    product    codes to y
    total      both, as a layer runs them
    float      x @ W^T in `dtype` by torch
    library    the best product that torch itself offers for the same codes, without the step before it

`plain` is a total beside a cold cache; `float` on the CPU is one time for all rows (`clock`). All in milliseconds.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.matmul.codes import CodedWeight, TokenCodes
from quantcore.matmul.paths import Path, open_paths, path_named
from quantcore.matmul.products import scaled_mm
from quantcore.model.locate import Progress
from quantcore.model.machine import device_name
from quantcore.numbers.affine import QParams
from quantcore.numbers.qtensor import QTensor, qparams_for, quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme
from quantcore.studies.clock import Call, Clock, calling

REORDERED = "+g_idx"  # behind a scheme's text: the same weight, groups of columns that are no neighbours
HUMMING = "+humming"  # behind that: multiplied by vLLM's kernels


def scheme_of(text: str) -> Scheme:
    """The scheme of a timed product's text."""
    return Scheme.parse(text.removesuffix(HUMMING).removesuffix(REORDERED))


@dataclass(frozen=True)
class SpeedRow:
    """One scheme at one number of tokens, milliseconds. `library` names torch's product, None where it offers none."""

    scheme: str
    path: str
    tokens: int
    encode_ms: float
    product_ms: float
    total_ms: float
    plain_ms: float
    float_ms: float
    float_plain_ms: float
    library: str | None
    library_ms: float | None

    @property
    def gain(self) -> float:
        """How many times as fast as the float product, encoding counted."""
        return self.float_ms / self.total_ms


@dataclass(frozen=True)
class SpeedReport:
    """`shape` (O, K) of the weight; `weight_bytes` a scheme's weight as its path keeps it; `refused` why a scheme could
    not be measured."""

    shape: tuple[int, int]
    dtype: str
    device: str
    versions: dict[str, str]
    rows: tuple[SpeedRow, ...]
    weight_bytes: dict[str, int]
    refused: dict[str, str]

    @property
    def floats(self) -> dict[int, float]:
        """`float` at each number of tokens: the median of the rows'."""
        times: dict[int, list[float]] = {}
        for row in self.rows:
            times.setdefault(row.tokens, []).append(row.float_ms)
        return {tokens: statistics.median(ms) for tokens, ms in times.items()}


def measure_paths(
    shape: tuple[int, int],
    tokens: Sequence[int],
    schemes: Iterable[str],
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    path: str | None = None,
    progress: Progress | None = None,
) -> SpeedReport:
    """Time every scheme on a random layer of `shape` (O, K) at every number of tokens.

    schemes   texts; one with `+g_idx` behind it has its groups reordered, one with `+humming` takes vLLM's kernels
    path      take this path for all of them (None: the best that is open)"""
    out, width = shape
    texts = list(schemes)
    random = torch.Generator(device).manual_seed(0)
    weight = 0.02 * torch.randn(out, width, device=device, generator=random)
    inputs = {count: torch.randn(count, width, device=device, generator=random).to(dtype) for count in tokens}
    clock = Clock(torch.device(device))
    dense = weight.to(dtype)
    floats = [dense, *(dense.clone() for _ in range(clock.copies(dense.nbytes) - 1))]
    plain = {count: clock.plain_ms(calling(F.linear, x, dense)) for count, x in inputs.items()}
    rows: list[SpeedRow] = []
    sizes: dict[str, int] = {}
    refused: dict[str, str] = {}
    for done, text in enumerate(texts):
        try:
            subject = _Subject.make(text, weight, inputs[tokens[0]], path, clock)
            sizes[text] = subject.weight_bytes
            rows += [subject.measure(clock, inputs[count], floats, plain[count]) for count in tokens]
        except ValueError as error:
            refused[text] = str(error)
        if progress:
            progress((done + 1) / len(texts), text)
    return SpeedReport(
        shape,
        str(dtype).removeprefix("torch."),
        device_name(torch.device(device)),
        _versions(),
        tuple(rows),
        sizes,
        refused,
    )


def closed_paths(report: SpeedReport, device: str) -> dict[str, tuple[str, str]]:
    """Of each scheme that ran by dequantizing: the name of its own path, and why that is closed on this device."""
    found = {}
    for text in report.weight_bytes:
        if all(row.path != "dequantize" for row in report.rows if row.scheme == text):
            continue
        scheme = scheme_of(text)
        assert scheme.weights is not None
        x = torch.zeros(1, report.shape[1], device=device, dtype=torch.bfloat16)
        few = quantize(torch.zeros(128, report.shape[1], device=device), scheme.weights)
        name = _own_path(scheme)
        found[text] = name, path_named(name).why_not(x, few, scheme.activations) or "open by now"
    return found


def _own_path(scheme: Scheme) -> str:
    """The path that was made for such codes."""
    assert scheme.weights is not None
    if scheme.activations is None:
        return "low_bit"
    if scheme.weights.fmt.bits <= 4 and not scheme.weights.fmt.is_float:
        return "w4a8"
    return "fp8" if scheme.activations.fmt.is_float else "int8"


@dataclass(frozen=True)
class _Subject:
    """One scheme's weight on its path, with the copies that the clock turns over."""

    text: str
    path: Path
    activations: QuantSpec | None
    static: QParams | None
    qweight: QTensor
    weights: list[object]

    @staticmethod
    def make(text: str, weight: Tensor, x: Tensor, path: str | None, clock: Clock) -> _Subject:
        scheme = scheme_of(text)
        if scheme.weights is None:
            raise ValueError(
                f"{text!r} leaves the weight as it is, so there is no path to time; the float product is in every row"
            )
        qweight = quantize(weight, scheme.weights)
        if REORDERED in text:
            qweight = _reordered(qweight)
        activations = scheme.activations
        static = None if activations is None or not activations.static else qparams_for(x, activations)
        if text.endswith(HUMMING):
            path = "humming"
        chosen = open_paths(x, qweight, activations)[0] if path is None else path_named(path)
        if (reason := chosen.why_not(x, qweight, activations)) is not None:
            raise ValueError(reason)
        prepared = chosen.prepare(qweight, activations)
        weights = [prepared, *(_clone(prepared) for _ in range(clock.copies(_nbytes(prepared)) - 1))]
        if x.is_cuda:  # products read weights before the kernel before them has ended
            torch.cuda.synchronize(x.device)
        return _Subject(text, chosen, activations, static, qweight, weights)

    @property
    def weight_bytes(self) -> int:
        return _nbytes(self.weights[0])

    def measure(self, clock: Clock, x: Tensor, floats: Sequence[Tensor], float_plain_ms: float) -> SpeedRow:
        path, activations, static = self.path, self.activations, self.static
        encoded = path.encode(x, self.weights[0], activations, static)
        library, library_calls = self._library(clock, x, encoded)
        works = {
            "product": [calling(path.product, encoded, one, None, x.dtype) for one in self.weights],
            "total": [calling(path.multiply, x, one, activations, static, None) for one in self.weights],
        }
        if clock.on_gpu:
            works["float"] = [calling(F.linear, x, one) for one in floats]
        if encoded is not x:
            works["encode"] = [calling(path.encode, x, self.weights[0], activations, static)]
        if library_calls:
            works["library"] = library_calls
        ms = dict(zip(works, clock.each_ms(list(works.values())), strict=True))
        return SpeedRow(
            self.text,
            path.name,
            len(x),
            ms.get("encode", 0.0),
            ms["product"],
            ms["total"],
            clock.plain_ms(calling(path.multiply, x, self.weights[0], activations, static, None)),
            ms.get("float", float_plain_ms),
            float_plain_ms,
            library,
            ms.get("library"),
        )

    def _library(self, clock: Clock, x: Tensor, encoded: object) -> tuple[str | None, list[Call]]:
        """torch's own product for these codes: its name and a call for each weight, (None, []) where it has none."""
        if self.path.name in ("int8", "int8_torch") and isinstance(encoded, TokenCodes):
            codes = F.pad(encoded.codes, (0, 0, 0, max(0, 32 - len(x)))) if clock.on_gpu else encoded.codes
            weights = [one.codes.t() for one in self.weights if isinstance(one, CodedWeight)]
            return "torch._int_mm", [calling(torch._int_mm, codes, one) for one in weights]
        if self.path.name in ("fp8", "fp8_torch"):
            return "torch._scaled_mm", [calling(scaled_mm, encoded, one, None, x.dtype) for one in self.weights]
        fmt = self.qweight.spec.fmt
        if self.path.name == "low_bit" and fmt.bits == 4 and not fmt.is_float and x.dtype == torch.bfloat16:
            return _int4_of_torch(clock, x, self.qweight, len(self.weights))
        return None, []


def _int4_of_torch(clock: Clock, x: Tensor, qweight: QTensor, copies: int) -> tuple[str | None, list[Call]]:
    group = qweight.q.shape[1] // qweight.scale.shape[1]
    if not clock.on_gpu or group not in (32, 64, 128, 256) or qweight.zero_point is not None:
        return None, []
    unsigned = (qweight.q.to(torch.int32) + 8).to(torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack(unsigned[:, ::2] << 4 | unsigned[:, 1::2], 8)
    scales = qweight.scale.t().to(torch.bfloat16)
    both = torch.stack([scales, torch.zeros_like(scales)], dim=-1).contiguous()
    weights = [packed, *(packed.clone() for _ in range(copies - 1))]
    product = torch.ops.aten._weight_int4pack_mm
    return "torch._weight_int4pack_mm", [calling(product, x, one, group, both) for one in weights]


def _reordered(qweight: QTensor) -> QTensor:
    width, groups = qweight.q.shape[1], qweight.scale.shape[1]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(0))
    g_idx = (torch.arange(width) // (width // groups))[order].to(torch.int32)
    return replace(qweight, g_idx=g_idx.to(qweight.q.device))


def _parts(prepared: object) -> list[Tensor]:
    """The tensors of a prepared weight: a NamedTuple, or the QTensor itself."""
    values = prepared if isinstance(prepared, tuple) else vars(prepared).values()
    return [value for value in values if isinstance(value, Tensor)]


def _nbytes(prepared: object) -> int:
    return sum(part.nbytes for part in _parts(prepared))


def _clone(prepared: object) -> object:
    if isinstance(prepared, QTensor):
        return replace(prepared, q=prepared.q.clone())
    assert isinstance(prepared, tuple)
    return type(prepared)(*(part.clone() if isinstance(part, Tensor) else part for part in prepared))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton

        found["triton"] = str(triton.__version__)
    except ImportError:
        pass
    return found
