"""What every path of matmul must obey, on any device: the tests on the CPU, in Triton's interpreter and on a GPU share
it.

The reference is the product of the same codes in float64: x_hat and W_hat exactly as scale * (q - zero_point) says, no
rounding anywhere. The codes come from `quantize` on the CPU. Every case has a loud token, a loud channel and a large
weight.
"""

from dataclasses import replace

import torch
from torch import Tensor

from quantcore.matmul import w4a8
from quantcore.matmul.codes import CodedWeight, TokenCodes
from quantcore.matmul.paths import PATHS
from quantcore.matmul.products import FEW_TOKENS, fused_tokens, token_codes
from quantcore.methods.transforms.fwht import turned
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerGroup
from quantcore.numbers.qtensor import QTensor, fake_quantize, global_scale_of, qparams_for, quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme

# Of sum |x_hat| |w_hat|, what the sums themselves may lose. Hopper's fp8 tensor cores cut each of 32 products at 2^-13
# of the largest: 2^-8 at worst; the most seen on an H200, over these schemes, was 2^-9.7.
SUMS_LOSE = {"int8": 0.0, "int8_torch": 0.0, "fp8": 2**-9, "fp8_torch": 2**-9, "fp8_block": 2**-9, "low_bit": 2**-19}
SUMS_LOSE["w4a8"] = 2**-19
HOPPER_ROUNDS_BEYOND = 128  # tokens: a weight in groups, to bf16
SUMS_LOSE["humming"] = 2**-8 + 2**-9  # scales of weights in bfloat16, where they are multiplied in too, and fp8's sums
REFERENCE_LOSES = 2**-48  # of the same, the float64 reference itself
EPILOGUE = 4 * 2**-24  # to float32, times one scale, times the other, plus bias

INT8_SCHEMES = [
    "w:int8/channel,a:int8/token/dynamic",
    "w:int8/tensor,a:int8/tensor/dynamic",
    "w:int8/channel,a:int8/tensor/static",
    "w:int8/channel/asym,a:int8/token/dynamic",
    "w:int8/channel,a:int8/token/asym/dynamic",
    "w:int8/tensor/asym,a:int8/tensor/asym/static",
    "w:int8_narrow/channel,a:int8_narrow/token/dynamic",
    "w:int4/channel/asym,a:int8/tensor/asym/dynamic",
]
FP8_SCHEMES = [
    "w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/static",
    "w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/dynamic",
    "w:fp8_e4m3/channel,a:fp8_e4m3/token/dynamic",
    "w:fp8_e4m3/channel,a:fp8_e4m3/tensor/static",
    "w:fp8_e4m3/tensor,a:fp8_e4m3/token/dynamic",
]
LOW_BIT_SCHEMES = [
    "w:int4/group128",
    "w:int4/group128/asym",
    "w:int4/group64",
    "w:int4/group32/asym",
    "w:int4/channel",
    "w:int3/tensor/asym",
    "w:int8/group128",
    "w:int8/channel/asym",
    "w:int6/group32",
]
W4A8_SCHEMES = [
    "w:int4/group128,a:fp8_e4m3/token/dynamic",
    "w:int4/channel,a:int8/token/dynamic",
    "w:int4/group128/asym,a:int8/token/dynamic",
    "w:int3/group256,a:int8/tensor/static",
    "w:int4/group64/asym,a:int8/token/dynamic",
    "w:int4/channel/asym,a:fp8_e4m3/tensor/dynamic",
    "w:int3/tensor/asym,a:int6/token/dynamic",
]
SIZES = [1e-43, 1e-36, 1e-20, 3e36]  # of values whose scales are the least that there are, small, and the greatest
FLOAT_BIT_SCHEMES = [
    "NVFP4A16",
    "MXFP4A16",
    "MXFP8A16",
    "w:fp6_e2m3/group32/e8m0",
    "w:fp6_e3m2/group32",
    "w:fp4_e2m1/group64",
    "w:fp8_e4m3/channel",
]


def draw(tokens: int, out: int, width: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x (tokens, width), weight (out, width), bias (out,) on the CPU; outliers in all of them."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=random)
    weight = 0.05 * torch.randn(out, width, generator=random)
    x[tokens // 2] *= 20
    x[:, width // 3] += 30
    weight[out // 2, width // 4] = 2.0
    bias = torch.randn(out, generator=random)
    return x.to(dtype), weight, bias.to(dtype)


def exact(q: QTensor, sizes: bool = False) -> Tensor:
    """scale * (q - zero_point) in float64; with `sizes` scale * (|q| + |zero_point|), what rounding is measured by."""
    tile = q.spec.granularity.tile(q.q.shape)

    def wide(part: Tensor) -> Tensor:
        part = part.double().repeat_interleave(tile[0], 0)
        return part.repeat_interleave(tile[1], 1) if q.g_idx is None else part[:, q.g_idx.long()]

    values = q.spec.fmt.decode(q.q).double()
    zero_point = torch.zeros_like(values) if q.zero_point is None else wide(q.zero_point)
    return wide(q.scale) * (values.abs() + zero_point.abs() if sizes else values - zero_point)


def shuffled(q: QTensor, seed: int = 0) -> QTensor:
    """The same codes and scales, groups of columns that are no neighbours."""
    width, groups = q.q.shape[1], q.scale.shape[1]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    return replace(q, g_idx=(torch.arange(width) // (width // groups))[order].to(torch.int32))


def moved(q: QTensor, device: str) -> QTensor:
    parts = {name: getattr(q, name) for name in ("q", "scale", "zero_point", "g_idx", "global_scale")}
    return replace(q, **{name: part.to(device) for name, part in parts.items() if part is not None})


def static_for(x: Tensor, spec: QuantSpec | None) -> QParams | None:
    """A frozen range that clips: that of the first half of the tokens."""
    if spec is None or spec.dynamic:
        return None
    return qparams_for(x[: max(1, len(x) // 2)], spec)


def on(qparams: QParams | None, device: str) -> QParams | None:
    return None if qparams is None else qparams.to(torch.device(device))


def check_product(
    path: str,
    scheme_text: str,
    tokens: int,
    out: int,
    width: int,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    with_bias: bool = True,
    reorder: bool = False,
) -> None:
    """The path's result lies within its bound of the float64 reference, element by element."""
    x, weight, bias = draw(tokens, out, width, dtype)
    scheme = Scheme.parse(scheme_text)
    assert scheme.weights is not None
    qweight = quantize(weight, scheme.weights)
    if reorder:
        qweight = shuffled(qweight)
    static = static_for(x, scheme.activations)
    x_hat = x.double() if scheme.activations is None else exact(quantize(x, scheme.activations, static))
    w_hat = exact(qweight)
    expected = x_hat @ w_hat.T
    y = PATHS[path].run(
        x.to(device),
        moved(qweight, device),
        scheme.activations,
        on(static, device),
        bias.to(device) if with_bias else None,
    )
    assert y.shape == (tokens, out)
    assert y.dtype == dtype
    size = expected.abs()
    if with_bias:
        expected, size = expected + bias.double(), size + bias.double().abs()
    rounding = torch.finfo(dtype).eps / 2
    products = x_hat.abs() @ exact(qweight, sizes=True).T
    lost = SUMS_LOSE[path] + REFERENCE_LOSES
    on_gpu = device == "cuda"
    in_groups = isinstance(scheme.weights.granularity, PerGroup)
    hopper_rounds = on_gpu and in_groups and dtype == torch.bfloat16 and tokens > HOPPER_ROUNDS_BEYOND
    if path == "low_bit" and tokens > fused_tokens(out, not scheme.weights.fmt.is_float):
        lost += rounding  # the weight is unpacked to x's dtype
    elif path == "low_bit" and hopper_rounds:
        lost += rounding  # and so it is on Hopper
    if path == "low_bit" and on_gpu:
        lost += 2**-16  # by scales of 16 bits
    if path in ("fp8", "fp8_torch") and on_gpu and (tokens > FEW_TOKENS or path == "fp8_torch"):
        lost += width // 32 * 2**-14
    if path == "w4a8" and hopper_rounds:
        lost += rounding + 2**-16
    if path == "w4a8":
        assert scheme.activations is not None
        if "group64" in scheme_text:
            lost += 2 * rounding if tokens > w4a8.FEW_TOKENS else 0.0  # products of 16 bits
        elif scheme.activations.fmt.is_float and tokens > (8 if on_gpu else w4a8.FEW_TOKENS):
            lost += 2**-9 + (width // 32 * 2**-14 if on_gpu else 0.0)
    bound = rounding * expected.abs() + EPILOGUE * size + lost * products
    times = float(((y.cpu().double() - expected).abs() / bound).max())
    assert times <= 1.01, f"{path} {scheme_text} {tokens} x {width} -> {out}: {times:g} times the bound"


def check_codes(spec_text: str, tokens: int, width: int, dtype: torch.dtype, device: str, size: float = 1.0) -> None:
    """`token_codes` on the device gives the codes, scales and zero points of `quantize` on the CPU, bit for bit, of
    values of that size."""
    spec = Scheme.parse(f"a:{spec_text}").activations
    assert spec is not None
    x, _, _ = draw(tokens, 16, width, dtype)
    x *= size
    x[-1] = x[-1].abs()
    x[0] = 0  # a token of zeros gets scale 1
    static = static_for(x, spec)
    x = _near_ties(x, (static or qparams_for(x, spec)).scale)
    expected = quantize(x, spec, static)
    sums = not spec.fmt.is_float
    got = token_codes(x.to(device), spec, on(static, device), multiple=16, sums=sums)
    codes = got.codes.cpu()
    assert torch.equal(codes[:, :width].view(torch.uint8), expected.q.to(codes.dtype).view(torch.uint8))
    assert not codes[:, width:].view(torch.uint8).any()
    assert torch.equal(got.scale.cpu().flatten(), expected.scale.flatten())
    if spec.symmetric and dtype.itemsize == 2:
        wide = token_codes(x.to(device), spec, on(static, device), multiple=1, dtype=dtype).codes
        assert wide.dtype == dtype
        assert torch.equal(wide.cpu().float(), expected.q.float())
    if expected.zero_point is not None:
        assert got.zero_point is not None
        assert torch.equal(got.zero_point.cpu().float().flatten(), expected.zero_point.flatten())
    if sums:
        assert got.sums is not None
        shifted = expected.q.long() - (0 if expected.zero_point is None else expected.zero_point.long())
        assert torch.equal(got.sums.cpu().long(), shifted.sum(1))


def _near_ties(x: Tensor, scale: Tensor) -> Tensor:
    """x with half of what is no extreme of its token moved to where codes meet, or next to it; zeros are negative."""
    random = torch.Generator().manual_seed(2)

    def drawn(*numbers: float) -> Tensor:
        return torch.tensor(numbers)[torch.randint(len(numbers), x.shape, generator=random)]

    scale = scale.repeat_interleave(len(x) // len(scale), 0).repeat_interleave(x.shape[1] // scale.shape[1], 1)
    ties = (torch.randint(-128, 128, x.shape, generator=random) + 0.5) * drawn(1, 2, 2**-4, 0) * scale
    ties = torch.nextafter(ties, ties + drawn(-1, 0, 1)).to(x.dtype)
    lo, hi = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return torch.where((x > lo) & (x < hi) & (ties > lo) & (ties < hi) & (drawn(0, 1) > 0), ties, x)


def check_codes_of_what_is_not_finite(spec_text: str, device: str) -> None:
    """The scale of a token that holds NaN or Inf is NaN; other tokens do not see it. A static scale clips Inf."""
    spec = Scheme.parse(f"a:{spec_text}").activations
    assert spec is not None
    x, _, _ = draw(4, 16, 100, torch.float32)
    expected = quantize(x, spec)
    x[0, 7], x[1, 99], x[2, 0] = torch.nan, torch.inf, -torch.inf
    got = token_codes(x.to(device), spec, None)
    assert got.scale[:3].isnan().all()
    assert torch.equal(got.codes[3, :100].cpu(), expected.q[3])
    assert got.scale[3].item() == expected.scale[3].item()
    for place in range(3):
        whole = Scheme.parse(f"a:{spec_text.replace('token', 'tensor')}").activations
        assert token_codes(x[[place, 3]].to(device), whole, None).scale.isnan().all()
    static = Scheme.parse(f"a:{spec_text.replace('token', 'tensor').replace('dynamic', 'static')}").activations
    for scale in (1e-40, 1.0, 1e38):
        qparams = QParams(torch.tensor([[scale]]), None if spec.symmetric else torch.zeros(1, 1))
        clipped = token_codes(torch.tensor([[torch.inf, -torch.inf, 0.0]]).to(device), static, on(qparams, device))
        assert clipped.codes[0, :3].float().tolist() == [spec.fmt.qmax, spec.fmt.qmin, 0]


ROUNDED = [
    "fp4_e2m1/group16/e4m3/local",
    "fp4_e2m1/group32/e8m0/dynamic",
    "fp6_e2m3/group32/e8m0/dynamic",
    "fp6_e3m2/group32/e8m0/dynamic",
    "fp8_e4m3/group32/e8m0/dynamic",
    "int8/group64/e8m0/dynamic",
    "int4/group32/dynamic",
    "fp8_e4m3/group128/dynamic",
]


def check_rounded(spec_text: str, dtype: torch.dtype, device: str, tokens: int, width: int) -> None:
    """`round_groups` on the device gives the x_hat of `fake_quantize` on the CPU, bit for bit: outliers, a token of
    zeros, values so small that their scales are the least ones, ties, and NaN and Inf in a group of their own."""
    from quantcore.matmul.kernels.round_groups import round_groups, takes

    spec = Scheme.parse(f"a:{spec_text}").activations
    assert spec is not None
    x, _, _ = draw(tokens, 16, width, dtype)
    x[0] = 0
    x[1] = (x[1].float() * 1e-38).to(dtype)
    x[2, : width // 2] = 0.25 * torch.randint(-24, 25, (width // 2,)).to(dtype)
    static = None
    if spec.scales.has_global:
        static = QParams(torch.ones(1, 1), None, global_scale_of(x, spec))
    assert takes(spec, static)
    expected = fake_quantize(x, spec, static)
    got = round_groups(x.to(device), spec, on(static, device))
    assert got.dtype == dtype
    assert torch.equal(got.cpu(), expected)
    x[2, 0], x[2, -1] = torch.nan, torch.inf
    group = spec.granularity.tile(x.shape)[-1]
    got = round_groups(x.to(device), spec, on(static, device)).cpu()
    assert got[2, :group].isnan().all()
    assert got[2, -group:].isnan().all()
    assert torch.equal(got[3:], expected[3:])


def coded_case(tokens: int, out: int, width: int, device: str) -> tuple[TokenCodes, CodedWeight, Tensor]:
    """Random int8 codes with zero points on both sides, and the bare sums they must give, int64."""
    random = torch.Generator().manual_seed(1)

    def codes(*shape: int) -> Tensor:
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)

    xq, wq, zx, zw = codes(tokens, width), codes(out, width), codes(tokens).int(), codes(out).int()
    expected = (xq.long() - zx[:, None]) @ (wq.long() - zw[:, None]).T
    x_sums = (xq.long() - zx[:, None]).sum(1).int()
    x = TokenCodes(xq.to(device), torch.rand(tokens).to(device), zx.to(device), x_sums.to(device))
    scale, sums, turns = torch.rand(out), wq.sum(1, dtype=torch.int32), torch.zeros(out, dtype=torch.int32)
    w = CodedWeight(wq.to(device), scale.to(device), zw.to(device), sums.to(device), out, turns=turns.to(device))
    return x, w, expected


def check_fwht(width: int, dtype: torch.dtype, device: str) -> None:
    """Against additions in float64: two roundings of the row's type. A row that is one outlier becomes a plain. No
    number between the two products is larger than its row's norm, which may be almost the greatest float16."""
    from quantcore.methods.kernels.fwht import fwht

    x = torch.randn(5, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    x[3] = 0
    x[3, 7] = 64
    x[4] = 0
    x[4, ::32] = 60000 / (width / 32) ** 0.5
    found, wanted = fwht(x), turned(x.double(), width)
    assert found.dtype == dtype
    apart, size = (part.abs().amax(1) for part in (found.double() - wanted, wanted))
    assert (apart <= 2 * torch.finfo(dtype).eps * size).all()
    assert torch.equal(found[3].abs(), torch.full_like(found[3], 64 / width**0.5))
    assert fwht(x[:0]).shape == (0, width)
