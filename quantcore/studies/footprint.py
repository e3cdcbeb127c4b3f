"""Will it fit? Bytes of a model under a scheme: weights, KV cache, activations; and what GPTQ itself needs.

    shape = LLAMA_3_8B               or ModelShape.of(model), or ModelShape.parse("32,4096,32,8,14336,128256")
    footprint(shape, "W4A16", context=8192, batch=1, kv_bits=8).total_bytes

    weights       codes, 16-bit scales, zero points of every quantized Linear; 16 bits for every other parameter
    KV cache      2 * layers * kv_heads * head_dim * context * batch * kv_bits / 8
                  (at 8 bits with one scale a tensor, which takes no room); under a plan with kv: its codes and scales;
                  of a block with a sliding window the window's tokens alone, of latents and states their numbers
    activations   at_once tokens * (2 hidden + the widest pair of outputs inside a block) * 2
                  + batch * vocabulary * 4 for the logits
    GPTQ          one block in 16 bits, the Hessians of its inputs in float32, the calibration text's hidden states, and
                  the work on its widest layer

GB are 10^9 bytes. What a runtime takes for itself (CUDA's context, fragments) comes on top and is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from quantcore.model.config_file import head_dim_of
from quantcore.model.inputs import shared_inputs
from quantcore.model.layer_names import expert_of, place_of
from quantcore.model.linears import linear_shapes, linears
from quantcore.model.mixture import chosen_of, experts_of, idle_numbers
from quantcore.model.token_cache import Cache, caches_of
from quantcore.numbers.bits import FLOAT_BITS, Size, cache_size, layer_size
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.fitting import plan_for
from quantcore.scheme.plan import Plan

GB = 1e9
BUDGETS_GB = (8, 16, 24, 48, 80)
FLOAT_BYTES = FLOAT_BITS // 8
AT_ONCE = 2048  # tokens that a server reads at once: a longer prompt goes through in pieces


@dataclass(frozen=True)
class ModelShape:
    """What a model's memory depends on. `caches`: what each block keeps of a token. `linears` maps a dotted name to
    (out_features, in_features), `inputs` to the first Linear that reads the same tensor; `others` counts the
    parameters outside of Linears (embeddings, norms). `tied`: the Linear `lm_head` is the embedding table, which is
    counted once, among the others. `chosen`: of a mixture's experts, how many a token passes and of how many; None
    without a mixture."""

    name: str
    hidden: int
    caches: tuple[Cache, ...]
    head_dim: int
    vocabulary: int
    linears: Mapping[str, tuple[int, int]]
    inputs: Mapping[str, str]
    others: int
    tied: bool = False
    chosen: tuple[int, int] | None = None

    @staticmethod
    def llama(
        name: str, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocabulary: int, tied: bool = False
    ) -> ModelShape:
        """A Llama: q, k, v, o; gate, up, down; two norms a block and one at the end; embeddings and a head.

        Raises: ValueError for a number below 1, heads that do not divide hidden, kv_heads that do not divide heads."""
        if min(layers, hidden, heads, kv_heads, ffn, vocabulary) < 1:
            raise ValueError(
                f"a model of {layers} layers, hidden {hidden}, heads {heads}/{kv_heads}, FFN {ffn}, vocabulary "
                f"{vocabulary} has nothing in it; every number is at least 1"
            )
        if hidden % heads or heads % kv_heads:
            raise ValueError(
                f"hidden={hidden}, heads={heads}, kv_heads={kv_heads}: heads must divide hidden and kv_heads must "
                "divide heads; Llama-3-8B has 4096, 32 and 8"
            )
        head_dim = hidden // heads
        block = {  # inside a block: its shape, and the first that reads the same input
            "self_attn.q_proj": ((hidden, hidden), "self_attn.q_proj"),
            "self_attn.k_proj": ((kv_heads * head_dim, hidden), "self_attn.q_proj"),
            "self_attn.v_proj": ((kv_heads * head_dim, hidden), "self_attn.q_proj"),
            "self_attn.o_proj": ((hidden, hidden), "self_attn.o_proj"),
            "mlp.gate_proj": ((ffn, hidden), "mlp.gate_proj"),
            "mlp.up_proj": ((ffn, hidden), "mlp.gate_proj"),
            "mlp.down_proj": ((hidden, ffn), "mlp.down_proj"),
        }
        named, inputs = {"lm_head": (vocabulary, hidden)}, {"lm_head": "lm_head"}
        for place in range(layers):
            for inside, (size, first) in block.items():
                named[f"model.layers.{place}.{inside}"] = size
                inputs[f"model.layers.{place}.{inside}"] = f"model.layers.{place}.{first}"
        others = vocabulary * hidden + (2 * layers + 1) * hidden
        caches = (Cache(2 * kv_heads * head_dim),) * layers
        return ModelShape(name, hidden, caches, head_dim, vocabulary, named, inputs, others, tied)

    @staticmethod
    def parse(text: str) -> ModelShape:
        """`layers,hidden,heads,kv_heads,ffn,vocabulary`. Raises: ValueError for anything else."""
        words = [word.strip() for word in text.split(",")]
        if len(words) != 6 or not all(word.isdecimal() and len(word) <= 9 for word in words):
            raise ValueError(
                f"{text[:80]!r} is not six whole numbers: layers, hidden, heads, kv heads, FFN, vocabulary; "
                "try 32,4096,32,8,14336,128256"
            )
        layers, hidden, heads, kv_heads, ffn, vocabulary = map(int, words)
        if layers > 1000:
            raise ValueError(f"{layers} layers are more than any model has; try 32,4096,32,8,14336,128256")
        return ModelShape.llama(text, layers, hidden, heads, kv_heads, ffn, vocabulary)

    @staticmethod
    def of(model: nn.Module, name: str) -> ModelShape:
        """The shape of a loaded model, counted on its modules; heads from its config, who reads what from a run.

        Raises: ValueError where its config does not say what a token leaves in the cache."""
        config: Any = model.config
        config = config.get_text_config()
        found = linears(model)
        inside = {layer.weight.data_ptr() for layer in found.values()}  # a Conv1D's weight is a view, turned
        tied = bool(getattr(config, "tie_word_embeddings", False)) and "lm_head" in found
        if tied:
            inside.discard(found["lm_head"].weight.data_ptr())
        return ModelShape(
            name,
            int(config.hidden_size),
            caches_of(name, model),
            head_dim_of(config),
            int(config.vocab_size),
            linear_shapes(model),
            shared_inputs(model, found),
            sum(parameter.numel() for parameter in model.parameters() if parameter.data_ptr() not in inside),
            tied,
            (chosen_of(config), experts_of(config)) if any(map(expert_of, found)) else None,
        )

    def used(self, name: str) -> float:
        """The share of a Linear's numbers that one token passes, on average over a block's experts."""
        return self.chosen[0] / self.chosen[1] if self.chosen and expert_of(name) else 1.0

    @cached_property
    def active(self) -> int:
        """Parameters that one token passes: all but the experts that are not chosen, and the table of embeddings."""
        idle = idle_numbers(self.linears, *self.chosen) if self.chosen else 0
        table = 0 if self.tied else self.vocabulary * self.hidden
        return self.parameters - idle - table

    @cached_property
    def parameters(self) -> int:
        own = {name: size for name, size in self.linears.items() if not (self.tied and name == "lm_head")}
        return self.others + sum(out * width for out, width in own.values())

    @cached_property
    def block(self) -> dict[str, tuple[int, int]]:
        """The Linears of the block that holds most numbers."""
        blocks: dict[int, dict[str, tuple[int, int]]] = {}
        for name, size in self.linears.items():
            number, _ = place_of(name)
            if number is not None:
                blocks.setdefault(number, {})[name] = size
        if not blocks:
            raise ValueError(
                f"{self.name} has no numbered blocks, and GPTQ goes block by block; type its shape instead"
            )
        return max(blocks.values(), key=lambda block: sum(out * width for out, width in block.values()))


LLAMA_3_8B = ModelShape.llama("Llama-3-8B", 32, 4096, 32, 8, 14336, 128256)
LLAMA_3_70B = ModelShape.llama("Llama-3-70B", 80, 8192, 64, 8, 28672, 128256)
PRESET_SHAPES = {shape.name: shape for shape in (LLAMA_3_8B, LLAMA_3_70B)}


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model that runs under a scheme; bits a weight costs in its quantized Linears, None where none is.
    `read_bytes`: of the weights, what a sequence reads for one token: chosen experts alone, no table of embeddings.
    `windowed`: what of `kv_bytes_per_token` ends, and after how many tokens; `state_bytes`: of each of `batch`
    sequences."""

    scheme: str
    weights_bytes: int
    kv_bytes: int
    activation_bytes: int
    kv_bytes_per_token: int
    bits_per_weight: float | None
    read_bytes: int = 0
    windowed: tuple[tuple[int, int], ...] = ()
    state_bytes: int = 0
    batch: int = 1

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.activation_bytes

    def budget_gb(self) -> int | None:
        """The smallest of BUDGETS_GB that holds everything, None if none does."""
        return next((budget for budget in BUDGETS_GB if self.total_bytes <= budget * GB), None)

    def tokens_within(self, budget_gb: float) -> int | None:
        """How many tokens of KV cache, over all sequences, fit beside weights and activations; None: any number, as
        each block lets go of old ones."""
        free = (budget_gb * GB - self.weights_bytes - self.activation_bytes) / self.batch - self.state_bytes
        tokens, each = 0, self.kv_bytes_per_token
        for window, ends in sorted(self.windowed):
            if free < each * (window - tokens):
                break
            free -= each * (window - tokens)
            tokens, each = window, each - ends
        if each == 0:
            return None if free >= 0 else 0
        return max(0, self.batch * (tokens + int(free // each)))


def footprint(
    shape: ModelShape, scheme: str, context: int, batch: int = 1, kv_bits: int = 16, at_once: int = AT_ONCE
) -> Footprint:
    """What a model takes under `scheme` (a plan's text) with `batch` sequences of `context` tokens in its cache.

    Raises: ValueError for a tile that does not divide a layer, kv_bits other than 16 or 8 or beside kv:, context or
    batch below 1."""
    if kv_bits not in (8, 16):
        raise ValueError(f"a KV cache of {kv_bits} bits is not counted here; use 16 or 8")
    if context < 1 or batch < 1:
        raise ValueError(f"context={context} and batch={batch} must be at least 1")
    plan = plan_for(scheme, shape.linears)
    weights = _weights(shape, plan)
    if plan.kv is not None and kv_bits != FLOAT_BITS:
        raise ValueError(
            f"{plan.kv} says what the cache holds, and kv_bits={kv_bits} says it again; leave one of them out"
        )
    kept = [(one.window, _kept_bytes(shape, one, plan.kv, kv_bits, 1)) for one in shape.caches]
    state = FLOAT_BYTES * sum(one.state for one in shape.caches)
    cache_bytes = batch * (state + sum(_kept_bytes(shape, one, plan.kv, kv_bits, context) for one in shape.caches))
    tokens = min(at_once, context * batch)
    widths = sorted((out for out, _ in shape.block.values()), reverse=True)[:2]
    activations = tokens * (2 * shape.hidden + sum(widths)) * FLOAT_BYTES + batch * shape.vocabulary * 4
    bits = weights.bits_per_weight if weights.numbers else None
    idle = sum((1 - shape.used(name)) * _weights_of(shape, plan, name).bytes for name in shape.linears)
    table = 0 if shape.tied else FLOAT_BYTES * shape.vocabulary * shape.hidden
    read = weights.bytes - round(idle) - table
    windowed = tuple((window, each) for window, each in kept if window)
    per_token = sum(each for _, each in kept)
    return Footprint(scheme, weights.bytes, cache_bytes, activations, per_token, bits, read, windowed, state, batch)


def _kept_bytes(shape: ModelShape, one: Cache, kv: CacheSpec | None, kv_bits: int, tokens: int) -> int:
    """What a block keeps of a sequence of so many tokens; of codes their scales too (`bits.cache_size`).

    Raises: ValueError for codes of what is neither keys nor values."""
    tokens = min(tokens, one.window or tokens)
    if kv is None:
        return one.numbers * tokens * kv_bits // 8
    heads, rest = divmod(one.numbers, 2 * shape.head_dim)
    if rest:
        raise ValueError(
            f"{shape.name} keeps {one.numbers} numbers a token in a block, no keys and values of {shape.head_dim} "
            f"each, and {kv} speaks of those; leave kv: out"
        )
    return sum(cache_size(side, heads, tokens, shape.head_dim).bytes for side in kv.sides) if heads else 0


def _weights(shape: ModelShape, plan: Plan) -> Size:
    plan.require_layers(shape.linears)
    size = Size(floats=FLOAT_BITS * shape.others)
    for name in shape.linears:
        size += _weights_of(shape, plan, name)
    return size


def _weights_of(shape: ModelShape, plan: Plan, name: str) -> Size:
    """Of one Linear."""
    out, width = shape.linears[name]
    found = plan.scheme_for(name)
    coded = None if found is None else found.coded((out, width))
    try:
        if coded is not None:
            return layer_size(coded)
    except ValueError as error:
        raise ValueError(f"{name} of {shape.name}: {error}") from error
    return Size(floats=0 if shape.tied and name == "lm_head" else FLOAT_BITS * out * width)


@dataclass(frozen=True)
class GptqMemory:
    """Bytes that GPTQ needs for one block, the model itself left elsewhere. `widest` is (out_features, in_features)."""

    block_bytes: int
    hessian_bytes: int
    hidden_bytes: int
    work_bytes: int
    hessians: tuple[int, ...]
    widest: tuple[int, int]

    @property
    def total_bytes(self) -> int:
        return self.block_bytes + self.hessian_bytes + self.hidden_bytes + self.work_bytes


def gptq_memory(shape: ModelShape, calibration_tokens: int) -> GptqMemory:
    """One block and its Hessians, K^2 float32 for each different input (q, k and v read one tensor, so do gate and up).

    hidden   the calibration text's states between two blocks, tokens * hidden in 16 bits
    work     on the layer that takes most, what `gptq.gptq_quantize` holds at its peak on a GPU: the pull (4 K^2 bytes),
             its bf16 halves and the product's factor of them (10 K^2), the weight (4 O K), the errors' halves (6 O K),
             the codes' values (1 O K)"""
    inputs = {shape.inputs[name]: width for name, (_, width) in shape.block.items()}

    def work(size: tuple[int, int]) -> int:
        return 14 * size[1] ** 2 + 11 * size[0] * size[1]

    widest = max(shape.block.values(), key=work)
    return GptqMemory(
        FLOAT_BYTES * sum(out * width for out, width in shape.block.values()),
        4 * sum(width**2 for width in inputs.values()),
        calibration_tokens * shape.hidden * FLOAT_BYTES,
        work(widest),
        tuple(sorted(inputs.values())),
        widest,
    )
