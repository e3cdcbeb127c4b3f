"""A decode step of a Llama-like model in few launches: what stands between the products is fused, and layers that read
one input are one product.

    norm [-> codes] | q, k, v | rotate, keep in the cache | attend | o | add, norm [-> codes] | gate, up | gate * up
    [-> codes] | down

A step of a few tokens reads the weights once; beside that, each launch costs microseconds in which nothing is read. By
`transformers` a block takes some 40 launches, so here: 9. The arithmetic is that of `transformers` with attention in
float32 sums: hidden states are rounded where it rounds them.

Layers that become one product share one tensor with it where the product keeps the weight's rows as they are (16-bit
floats, 8-bit codes); codes of fewer bits are held once more, in the product's own layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantcore.matmul import w4a8
from quantcore.matmul.codes import Coding, TokenCodes
from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.paths import DEQUANTIZE, Path, open_paths
from quantcore.matmul.why_not import REAL_TYPES, why_no_kernels
from quantcore.model.config_file import head_dim_of
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerTensor
from quantcore.numbers.qtensor import QTensor
from quantcore.numbers.spec import QuantSpec

KINDS = ("llama", "mistral", "qwen2")  # whose blocks are computed as above
STEADY = ("default", "linear", "llama3", "yarn")  # ways to turn that do not depend on how long the text is


def why_not_fused(model: Any) -> str | None:
    """Why this model takes its steps by `transformers`; None where the fused step can be taken."""
    config = model.config
    if config.model_type not in KINDS:
        return f"its blocks are {config.model_type}'s; fused steps know {', '.join(KINDS)}"
    if (rope := (config.rope_parameters or {}).get("rope_type", "default")) not in STEADY:
        return f"its positions are turned in the way {rope!r}, which changes with the length of the text"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return f"its attention looks back {config.sliding_window} tokens only"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, and silu is what is fused"
    size = head_dim_of(config)
    if size & (size - 1) or size < 16:
        return f"its heads have {size} channels, and a power of two from 16 on is what the kernel takes"
    weight = next(model.parameters())
    if weight.dtype not in REAL_TYPES:
        return f"its weights are {weight.dtype}"
    if (reason := why_no_kernels(weight)) is not None:
        return reason
    for name, module in model.model.layers.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name} has hooks, which a fused step would pass by"
    for layers in _readers(model.model.layers[0]):
        for layer in layers:
            if type(layer) not in (nn.Linear, QuantLinear):
                return f"its layers are {type(layer).__name__}, and Linear is what is fused"
    return None


def _readers(block: Any) -> tuple[tuple[nn.Module, ...], ...]:
    attention, mlp = block.self_attn, block.mlp
    return (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )


class FusedStep:
    """One token of each of `sequences`, all at the same position, through a model that `why_not_fused` allows.

    cache   a StaticCache that has been filled by a forward pass of the same number of sequences; written to"""

    def __init__(self, model: Any, cache: Any) -> None:
        from quantcore.matmul.kernels.attend import Attention

        config, decoder = model.config, model.model
        first = cache.layers[0].keys
        self.embed, self.head = decoder.embed_tokens, model.lm_head
        self.norm = decoder.norm
        self.queries = int(config.num_attention_heads)
        sequences, heads, length, size = first.shape
        self.attention = Attention(sequences, self.queries, heads, size, length, first.device)
        places = torch.arange(first.shape[2], device=first.device)[None]
        cos, sin = decoder.rotary_emb(first, position_ids=places)
        self.cos, self.sin = cos[0].contiguous(), sin[0].contiguous()
        self.blocks = [_Block(block, layer, first) for block, layer in zip(decoder.layers, cache.layers, strict=True)]

    def __call__(self, tokens: Tensor, place: Tensor) -> Tensor:
        """Logits (N, 1, V) of tokens (N, 1) at `place` (1,); their keys and values go into the cache."""
        from quantcore.matmul.kernels.attend import rotate_and_keep
        from quantcore.matmul.kernels.decode_rows import gate_rows, norm_rows

        h = self.embed(tokens[:, 0])
        more = None
        for block in self.blocks:
            x = norm_rows(h, more, block.norm.weight, block.norm.variance_epsilon, block.qkv.leaves)
            rows = block.qkv(x)
            rotate_and_keep(rows, self.cos, self.sin, place, block.keys, block.values, self.queries)
            more = block.o(self.attention.attend(rows, block.keys, block.values, place, block.scale))
            x = norm_rows(h, more, block.after.weight, block.after.variance_epsilon, block.gate_up.leaves)
            more = block.down(gate_rows(block.gate_up(x), block.down.leaves))
        x = norm_rows(h, more, self.norm.weight, self.norm.variance_epsilon)
        return cast(Tensor, self.head(x)[:, None])


class _Block:
    def __init__(self, block: Any, kept: Any, like: Tensor) -> None:
        self.norm, self.after = block.input_layernorm, block.post_attention_layernorm
        self.keys, self.values = kept.keys, kept.values
        self.scale = float(block.self_attn.scaling)
        self.qkv, self.o, self.gate_up, self.down = (product(layers, like) for layers in _readers(block))


class Product:
    """Linears that read one input, as one product: y (N, sum of their outputs).

    `x` is as many tokens as will come; `leaves` says how they can come as codes already, where they can
    (`kernels.decode_rows`)."""

    def __init__(
        self,
        path: Path,
        weight: Any,
        spec: QuantSpec | None,
        static: QParams | None,
        bias: Tensor | None,
        x: Tensor,
    ) -> None:
        from quantcore.matmul.kernels.decode_rows import codes_leave

        self.path, self.weight, self.spec, self.static, self.bias = path, weight, spec, static, bias
        self.dtype = x.dtype
        coded = path.name.startswith(("int8", "fp8")) and getattr(weight, "zero_point", None) is None
        plain = coded or (path.name == "w4a8" and weight.order is None)
        self.leaves: Coding | None = None
        if spec is not None and plain and codes_leave(spec):
            self.leaves = Coding(spec, spec.fmt.storage if coded else w4a8.codes_type(x, weight, spec))

    def __call__(self, x: Tensor | TokenCodes) -> Tensor:
        if isinstance(x, TokenCodes):
            return self.path.product(x, self.weight, self.bias, self.dtype)
        return self.path.multiply(x, self.weight, self.spec, self.static, self.bias)


class Floats:
    """The same of float weights."""

    leaves = None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor | TokenCodes) -> Tensor:
        assert isinstance(x, Tensor)
        return nn.functional.linear(x, self.weight, self.bias)


class Apart:
    """Layers that cannot become one product, one behind the other."""

    leaves = None

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = layers

    def __call__(self, x: Tensor | TokenCodes) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], 1)


def product(layers: Sequence[Any], like: Tensor) -> Product | Floats | Apart:
    """The layers' common product for as many tokens, of such a type and device, as `like` has."""
    if len({layer.bias is None for layer in layers}) > 1:
        return Apart(layers)
    if all(type(layer) is nn.Linear for layer in layers):
        weight = _stacked([layer.weight for layer in layers])
        for layer, part in zip(layers, weight.split_with_sizes([layer.out_features for layer in layers]), strict=True):
            layer.weight.data = part
        return Floats(weight, _bias(layers))
    if not all(isinstance(layer, QuantLinear) for layer in layers):
        return Apart(layers)
    weights = [layer.qweight for layer in layers]
    if any(one is None for one in weights) or not _stack(layers, weights):
        return Apart(layers)
    whole = _one_weight(weights)
    spec, static = layers[0].activation_spec, layers[0].static_qparams
    path = open_paths(like, whole, spec)[0]
    if path is DEQUANTIZE:
        return Apart(layers)
    if len(layers) > 1 and layers[0].codes.dtype == whole.q.dtype:  # a byte a code: rows of one tensor
        for layer, part in zip(layers, whole.q.split_with_sizes([layer.out_features for layer in layers]), strict=True):
            layer.codes = part
            layer._ready = None
    x = like.new_empty(len(like), layers[0].in_features)
    return Product(path, path.prepare(whole, spec), spec, static, _bias(layers), x)


def _stack(layers: Sequence[QuantLinear], weights: Sequence[QTensor]) -> bool:
    """Whether the scales of these layers can stand below one another, and x's codes serve all of them."""
    first, one = layers[0], weights[0]
    if len(layers) == 1:
        return True
    return (
        not isinstance(one.spec.granularity, PerTensor)
        and all(layer.weight_spec == first.weight_spec for layer in layers)
        and all(layer.activation_spec == first.activation_spec for layer in layers)
        and all(_same(layer.input_scale, first.input_scale) for layer in layers)
        and all(_same(layer.input_zero_point, first.input_zero_point) for layer in layers)
        and all(_same(layer.input_global_scale, first.input_global_scale) for layer in layers)
        and all(_same(weight.g_idx, one.g_idx) for weight in weights)
        and all(_same(weight.global_scale, one.global_scale) for weight in weights)
        and all(weight.q.shape[0] % weight.scale.shape[0] == 0 for weight in weights)
    )


def _same(a: Any, b: Any) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _one_weight(weights: Sequence[QTensor]) -> QTensor:
    one = weights[0]
    if len(weights) == 1:
        return one
    zeros = [weight.zero_point for weight in weights if weight.zero_point is not None]
    return QTensor(
        _stacked([weight.q for weight in weights]), _stacked([weight.scale for weight in weights]),
        _stacked(zeros) if zeros else None, one.spec, one.g_idx, one.global_scale,
    )  # fmt: skip


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Below one another; fp8, which torch cannot put together, by its bytes."""
    if len(parts) == 1:
        return parts[0].detach()
    bytes_each = parts[0].dtype.itemsize == 1
    whole = torch.cat([part.detach().view(torch.uint8) if bytes_each else part.detach() for part in parts])
    return whole.view(parts[0].dtype)


def _bias(layers: Sequence[Any]) -> Tensor | None:
    """One behind the other; all layers have one, or none has."""
    return None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
