"""A KV cache that holds codes: transformers' own, layer by layer, with a coded layer where a float one was.

    cache = coded_cache(model.config, kv, scales)
    model(tokens[:, :512], cache=cache, use_cache=True)       prefill, in one piece or several
    model(next_token, cache=cache, use_cache=True)            decode

A layer gets keys and values as the model hands them to a cache: keys behind their rotary position, (B, heads, T,
head_dim). They are coded as they come, packed, and the codes alone are kept; attention reads all of them decoded, also
those of the tokens that have just come. So what a token sees does not depend on the pieces in which a text is read: a
window read at once is what prefill and decoding would have seen. Static scales come from `calibrate_cache`: what the
float model hands to its cache on the calibration text.

A layer with a sliding window keeps the last window - 1 tokens. What keeps something else than keys and values of each
token (a state, a latent that both are made of) is refused: see `why_no_cache`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from quantcore.methods.transforms.fwht import turned
from quantcore.model.config_file import head_dim_of
from quantcore.numbers.affine import QParams
from quantcore.numbers.packing import codes_per_byte, pack, unpack
from quantcore.numbers.qtensor import QTensor, dequantize, quantize
from quantcore.numbers.scales import from_codes, local_codes
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.cache import CacheSpec

Scales = Mapping[int, tuple[QParams | None, QParams | None]]
"""Frozen scales of keys and of values by the layer's place; None where nothing is frozen."""


class Coded:
    """Keys, or values, of one layer: codes and scales that grow token by token; floats where `spec` is None. `turn`:
    coded in turned coordinates, and read turned back."""

    def __init__(self, spec: QuantSpec | None, frozen: QParams | None = None, turn: bool = False) -> None:
        if spec is not None and spec.static and frozen is None:
            raise ValueError(f"{spec} freezes a range of the cache, and none was recorded; give calibration text")
        self.spec, self._frozen, self._turn = spec, frozen, turn
        self._width, self._type = 0, torch.float32
        self._parts: dict[str, Tensor] = {}

    def append(self, x: Tensor) -> None:
        """x (B, heads, T, head_dim), in the float type in which it will be read."""
        self._width, self._type = x.shape[-1], x.dtype
        new = {"floats": x} if self.spec is None else self._coded(turned_head(x) if self._turn else x, self.spec)
        self._parts = {
            name: torch.cat([self._parts[name], one], -2) if self._parts else one for name, one in new.items()
        }

    def read(self) -> Tensor:
        """All of it, decoded."""
        if self.spec is None:
            return self._parts["floats"]
        found = dequantize(self.codes())
        return (turned_head(found) if self._turn else found).to(self._type)

    def codes(self) -> QTensor:
        """All of it, as codes. Raises: ValueError where it is floats."""
        spec, parts = self.spec, self._parts
        if spec is None:
            raise ValueError("this side of the cache is floats and has no codes; give it a spec")
        q = parts["codes"]
        q = unpack(q, spec.fmt.bits, self._width) if codes_per_byte(spec.fmt.bits) > 1 else q.view(spec.fmt.storage)
        if self._frozen is not None and not spec.local:
            return QTensor(q, *self._frozen.map(lambda one: one.reshape((1,) * (4 - one.ndim) + one.shape))[:2], spec)
        top = None if self._frozen is None else self._frozen.global_scale
        scale = from_codes(parts["scales"], top) if spec.scales.is_coded else parts["scales"]
        zero_point = None if spec.symmetric else parts["zero_points"].float()
        return QTensor(q, scale, zero_point, spec, global_scale=top)

    def keep(self, change: Callable[[Tensor], Tensor]) -> None:
        """Everything that is kept token by token changed alike: sequences chosen, tokens let go."""
        self._parts = {name: change(one) for name, one in self._parts.items()}

    @property
    def held_bytes(self) -> int:
        """Bytes of what is kept; a frozen scale counts once."""
        frozen = 0
        if self._frozen is not None and self.spec is not None:
            mine = [self._frozen.global_scale] if self.spec.local else [self._frozen.scale]
            frozen = sum(one.nbytes for one in mine if one is not None)
            if self._frozen.zero_point is not None:
                frozen += self._frozen.zero_point.numel()
        return frozen + sum(one.nbytes for one in self._parts.values())

    def _coded(self, x: Tensor, spec: QuantSpec) -> dict[str, Tensor]:
        q = quantize(x, spec, None if self._frozen is None else self._frozen.to(x.device))
        shared = codes_per_byte(spec.fmt.bits) > 1
        found = {"codes": pack(q.q, spec.fmt.bits) if shared else q.q.contiguous().view(torch.uint8)}
        if spec.dynamic:
            coded = spec.scales.is_coded
            found["scales"] = local_codes(q.scale, q.global_scale).view(torch.uint8) if coded else q.scale
            if q.zero_point is not None:
                found["zero_points"] = q.zero_point.to(torch.int8)
        return found


class CodedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of a cache. `window`: how many tokens attention reaches back, its own with; None: all."""

    is_croppable = False

    def __init__(self, keys: Coded, values: Coded, window: int | None = None) -> None:
        super().__init__()
        self.sides, self.window, self._seen = (keys, values), window, 0
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.device, self.is_initialized = key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Code what came, and give all that attention may read, decoded."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._seen += key_states.shape[-2]
        for side, came in zip(self.sides, (key_states, value_states), strict=True):
            side.append(came)
        keys, values = (side.read() for side in self.sides)
        if (window := self.window) is not None:
            self._choose(lambda one: one[..., max(0, one.shape[-2] - window + 1) :, :])
        return keys, values

    def get_seq_length(self) -> int:
        return self._seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` will give."""
        kept = self._seen if self.window is None else min(self._seen, self.window - 1)
        return kept + query_length, self._seen - kept

    def get_max_length(self) -> int:
        return -1 if self.window is None else self.window

    def reset(self) -> None:
        self._choose(lambda one: one[..., :0, :])
        self._seen = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._choose(lambda one: one.index_select(0, beam_idx.to(one.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._choose(lambda one: one.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._choose(lambda one: one[indices])

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError("a coded cache takes no tokens back; decode without an assistant model")

    def offload(self) -> None:
        raise ValueError("a coded cache stays where the model is; leave offloading out")

    def _choose(self, change: Callable[[Tensor], Tensor]) -> None:
        for side in self.sides:
            side.keep(change)


class CodedCache(Cache):  # type: ignore[misc]
    """A cache of coded layers; it is transformers' in all else."""

    @property
    def held_bytes(self) -> int:
        """Bytes of all layers."""
        mine = [layer for layer in self.layers if isinstance(layer, CodedLayer)]
        return sum(side.held_bytes for layer in mine for side in layer.sides)


def coded_cache(config: Any, kv: CacheSpec | None, scales: Scales | None = None) -> CodedCache:
    """An empty cache for a model of this config; `kv` None: one that holds floats.

    Raises: ValueError for a model that `why_no_cache` refuses, and for static specs without their scales."""
    require_cache(config, kv)
    keys, values = (None, None) if kv is None else kv.sides
    frozen = scales or {}

    def layer(place: int, plain: Any) -> Any:
        if isinstance(plain, DummyLayer):
            return plain
        mine = frozen.get(place, (None, None))
        turn = kv is not None and kv.turned
        return CodedLayer(Coded(keys, mine[0], turn), Coded(values, mine[1]), getattr(plain, "sliding_window", None))

    return CodedCache(layers=[layer(place, plain) for place, plain in enumerate(plain_layers(config))])


def why_no_cache(config: Any) -> str | None:
    """Why the cache of a model of this config cannot hold codes, in a sentence; None where it can."""
    decoder = config.get_text_config(decoder=True)
    if getattr(decoder, "kv_lora_rank", None):
        return (
            f"its attention keeps one latent of {decoder.kv_lora_rank} numbers a token, of which keys and values are "
            "made, and kv: speaks of keys and values; leave kv: out"
        )
    try:
        plain = plain_layers(config)
    except (KeyError, AttributeError, TypeError) as error:
        return f"transformers has no cache of layers for it ({type(error).__name__}: {error}); leave kv: out"
    known = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
    other = [(place, type(one).__name__) for place, one in enumerate(plain) if type(one) not in known]
    if other:
        return (
            f"{len(other)} of its {len(plain)} layers keep a state or more than keys and values (layer {other[0][0]}: "
            f"transformers' {other[0][1]}), and kv: speaks of keys and values; leave kv: out"
        )
    return None


def require_cache(config: Any, kv: CacheSpec | None) -> None:
    """Raises: ValueError for a model whose cache cannot hold codes, and a group that does not divide its head_dim."""
    if (reason := why_no_cache(config)) is not None:
        raise ValueError(
            f"the cache of this {type(config).__name__.removesuffix('Config')} cannot hold codes: {reason}"
        )
    width = head_dim_of(config)
    for spec in () if kv is None else kv.sides:
        try:
            _ = spec and spec.granularity.tile((1, 1, 1, width))
        except ValueError as error:
            raise ValueError(
                f"{spec} does not divide head_dim={width} of the cache; write token, or a group that divides it"
            ) from error


def turned_head(x: Tensor) -> Tensor:
    """x (..., head_dim) turned by Hadamard's matrix, in blocks of the largest power of two in head_dim; it undoes
    itself."""
    return turned(x, x.shape[-1] & -x.shape[-1])


def with_cache(model: nn.Module, kv: CacheSpec, scales: Scales | None) -> nn.Module:
    """The model, changed: each of its runs goes through a coded cache, a new one where none is given; the layers of an
    empty DynamicCache, as `generate` makes, become coded ones. Its runs raise: ValueError for any other cache."""
    config: Any = model.config
    require_cache(config, kv)

    def given(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        cache = kwargs.get("cache")
        if cache is None:
            return args, {**kwargs, "cache": coded_cache(config, kv, scales), "use_cache": True}
        if not any(isinstance(layer, CodedLayer) for layer in cache.layers):
            if type(cache) is not DynamicCache or cache.get_seq_length():
                kind = type(cache).__name__
                raise ValueError(
                    f"this model reads a cache of codes ({kv}), no {kind} of floats; give none, or an empty one"
                )
            cache.layers, cache.layer_class_to_replicate = coded_cache(config, kv, scales).layers, None
        return args, kwargs

    model.register_forward_pre_hook(given, with_kwargs=True)
    return model


def plain_layers(config: Any) -> list[Any]:
    """The layers of transformers' own cache for a model of this config, empty; a DummyLayer keeps nothing."""
    return list(DynamicCache(config=config).layers)
