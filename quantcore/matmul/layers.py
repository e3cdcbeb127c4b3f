"""A QuantLinear is a Linear that holds codes instead of weights.

    y = x_hat @ W_hat^T + bias        W_hat = dequantize(codes)        x_hat = fake_quantize(x) where activations are

How it multiplies is a path of `matmul`: the best that is open for the device and dtype of x, or the one that `path`
names. The codes are kept packed (`packing`), the scales in float32. A path may keep the weight once more in its own
form, made at the first call and dropped when the path or the device changes: `prepared_bytes` counts what that holds
beyond the codes. `dequantize` keeps nothing, rebuilds W_hat at each call, and says what every other path must
reproduce.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.matmul.paths import DEQUANTIZE, Path, open_paths, path_named
from quantcore.matmul.products import rounded
from quantcore.numbers.affine import QParams
from quantcore.numbers.packing import codes_per_byte, pack, unpack
from quantcore.numbers.qtensor import QTensor, dequantize
from quantcore.numbers.spec import QuantSpec


class _Ready(NamedTuple):
    """A path, its form of the weight and the static qparams, for x of one device and dtype."""

    device: torch.device
    dtype: torch.dtype
    path: Path
    weight: Any
    static: QParams | None


class QuantLinear(nn.Module):
    """`weight` (None: stays float, then `float_weight` is shared, not copied), `activations` and its frozen qparams.

    Shapes: codes (O, K), bias (O,) or None, x (..., K), y (..., O). `static` is needed exactly when activations are
    static: scale and zero point of shape (1, 1).

    On a GPU the programs that share a tile of a product are counted beside the weight, so a layer multiplies on one
    CUDA stream at a time."""

    def __init__(
        self,
        weight: QTensor | None,
        bias: Tensor | None,
        activations: QuantSpec | None = None,
        static: QParams | None = None,
        float_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        if (weight is None) == (float_weight is None):
            raise ValueError("a QuantLinear holds either codes or a float weight; give exactly one of them")
        if (static is None) == (activations is not None and activations.static):
            raise ValueError("static activations need the range recorded in calibration, others must have none")
        self.weight_spec = None if weight is None else weight.spec
        self.activation_spec = activations
        shape = cast(Tensor, float_weight if weight is None else weight.q).shape
        self.out_features, self.in_features = int(shape[0]), int(shape[1])
        self.register_buffer("float_weight", float_weight)
        self.register_buffer("codes", None if weight is None else _to_bytes(weight))
        self.register_buffer("scale", None if weight is None else weight.scale)
        self.register_buffer("zero_point", _as_int8(None if weight is None else weight.zero_point))
        self.register_buffer("g_idx", None if weight is None else weight.g_idx)
        self.register_buffer("global_scale", None if weight is None else weight.global_scale)
        self.register_buffer("input_scale", None if static is None else static.scale)
        self.register_buffer("input_zero_point", _as_int8(None if static is None else static.zero_point))
        self.register_buffer("input_global_scale", None if static is None else static.global_scale)
        self.register_buffer("bias", bias)
        self._wanted: Path | None = None
        self._ready: _Ready | None = None

    @property
    def path(self) -> str | None:
        """The path that every call takes, by name; None (at first): the best that is open. Setting it drops what the
        old path kept. Raises: ValueError for a name that no path has; the call raises where the path is closed."""
        return None if self._wanted is None else self._wanted.name

    @path.setter
    def path(self, name: str | None) -> None:
        self._wanted = None if name is None else path_named(name)
        self._ready = None

    def path_for(self, x: Tensor) -> Path:
        """The path that a call with x takes. Raises: ValueError, why, if the path that was set is closed to it."""
        qweight = self.qweight
        if qweight is None:
            if self._wanted not in (None, DEQUANTIZE):
                raise ValueError(
                    f"the path {self.path!r} multiplies codes and this weight stays float; use 'dequantize'"
                )
            return DEQUANTIZE
        if self._wanted is None:
            return open_paths(x, qweight, self.activation_spec)[0]
        if (reason := self._wanted.why_not(x, qweight, self.activation_spec)) is not None:
            raise ValueError(f"the path {self.path!r} is closed here: {reason}")
        return self._wanted

    @property
    def prepared_bytes(self) -> int:
        """Bytes that the path in use holds beyond the layer's own tensors; 0 before the first call."""
        if self._ready is None or self._ready.weight is None:
            return 0
        own = {buffer.untyped_storage().data_ptr() for buffer in self.buffers()}
        kept = (part for part in self._ready.weight if isinstance(part, Tensor))
        return sum(part.nbytes for part in kept if part.untyped_storage().data_ptr() not in own)

    @property
    def qweight(self) -> QTensor | None:
        """The weight's codes, unpacked, with their scales; None where the weight stays float."""
        if self.weight_spec is None:
            return None
        fmt, codes = self.weight_spec.fmt, cast(Tensor, self.codes)
        if codes.dtype == torch.uint8:
            codes = unpack(codes, fmt.bits, self.in_features)
        g_idx, global_scale = cast("Tensor | None", self.g_idx), cast("Tensor | None", self.global_scale)
        scale, zero_point = cast(Tensor, self.scale), _as_float(self.zero_point)
        return QTensor(codes, scale, zero_point, self.weight_spec, g_idx, global_scale)

    @property
    def static_qparams(self) -> QParams | None:
        if self.input_scale is None:
            return None
        global_scale = cast("Tensor | None", self.input_global_scale)
        return QParams(cast(Tensor, self.input_scale), _as_float(self.input_zero_point), global_scale)

    def weight_hat(self) -> Tensor:
        """The weight that the layer computes with, (O, K): dequantized codes, or the float weight."""
        qweight = self.qweight
        return cast(Tensor, self.float_weight) if qweight is None else dequantize(qweight)

    def forward(self, x: Tensor) -> Tensor:
        ready = self._ready
        if ready is None or ready.dtype != x.dtype or ready.device != x.device:
            ready = self._ready = self._prepare(x)
        bias = cast("Tensor | None", self.bias)
        if ready.path is DEQUANTIZE or x.numel() == 0:
            x_hat = rounded(x, None, self.activation_spec, ready.static)
            return F.linear(x_hat, self.weight_hat().to(x.dtype), bias)
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} features and the layer takes {self.in_features}; check the shapes")
        rows = x.reshape(-1, self.in_features)
        y = ready.path.multiply(rows, ready.weight, self.activation_spec, ready.static, bias)
        return y.view(*x.shape[:-1], self.out_features)

    def _prepare(self, x: Tensor) -> _Ready:
        path, qweight = self.path_for(x), self.qweight
        kept = None if path is DEQUANTIZE or qweight is None else path.prepare(qweight, self.activation_spec)
        return _Ready(x.device, x.dtype, path, kept, self.static_qparams)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}  # made anew where it is needed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantLinear:
        self._ready = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._ready = None
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, w={self.weight_spec}, a={self.activation_spec}"


def _to_bytes(weight: QTensor) -> Tensor:
    fmt = weight.spec.fmt
    if fmt.storage.is_floating_point or codes_per_byte(fmt.bits) == 1:
        return weight.q
    return pack(weight.q, fmt.bits)


def _as_int8(zero_point: Tensor | None) -> Tensor | None:
    return None if zero_point is None else zero_point.to(torch.int8)


def _as_float(zero_point: Tensor | nn.Module | None) -> Tensor | None:
    return None if zero_point is None else cast(Tensor, zero_point).float()
