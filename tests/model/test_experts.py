"""Experts taken apart: the same model, with every expert a Linear of the hub's name over its slice."""

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from quantcore.matmul.grouped import grouped_product, stacked_weights, why_not_grouped
from quantcore.model.experts import Experts, every_token, taken_apart, weights_kept
from quantcore.model.fused_experts import fused_experts, layout_of
from quantcore.model.inputs import watch_inputs
from quantcore.model.linears import every_linear, linears, why_float
from quantcore.model.routes import Routes
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.layers import quantize_linear
from quantcore.scheme.scheme import Scheme
from tests.waits import Waits

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 128, "initializer_range": 0.1}
SIZES = SPECIAL | {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
KINDS: dict[str, dict[str, Any]] = {
    "Mixtral": SIZES | LOCAL,
    "Qwen2Moe": SIZES | MOE | {"shared_expert_intermediate_size": 4, "decoder_sparse_step": 1},
    "GptOss": SIZES | LOCAL,  # transposed, interleaved, with biases
    "GraniteMoe": {key: value for key, value in SIZES.items() if key != "head_dim"} | LOCAL,  # fused in the hub's files
    "Llama4Text": SIZES | {
        "num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 48,
    },
    "Dbrx": SPECIAL | {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "PhiMoE": SIZES | LOCAL,
    "NemotronH": SIZES | {  # no gate
        "layers_block_type": ["attention", "moe"], "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    },
}  # fmt: skip
GLU = {"gate_proj", "up_proj", "down_proj"}
NAMES = {"Mixtral": {"w1", "w2", "w3"}, "PhiMoE": {"w1", "w2", "w3"}, "NemotronH": {"up_proj", "down_proj"}}


def made(kind: str) -> Any:
    """A random model of a kind, as transformers keeps it."""
    config = getattr(transformers, f"{kind.replace('PhiMoE', 'Phimoe')}Config")(**KINDS[kind])
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("_bias") or name.endswith("router.bias"):
            parameter.normal_(0, 0.1)
    return model


def experts_of(model: nn.Module) -> dict[str, Experts]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Experts)}


def tokens(rows: int = 3, length: int = 20) -> Tensor:
    return torch.randint(3, 128, (rows, length))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_says_what_it_said(kind: str) -> None:
    model, text = made(kind), tokens()
    apart = taken_apart(model)
    assert fused_experts(model)  # and is itself left as it is
    assert not fused_experts(apart)
    torch.testing.assert_close(apart(text).logits, model(text).logits, rtol=1e-4, atol=1e-5)
    with every_token(apart):
        torch.testing.assert_close(apart(text).logits, model(text).logits, rtol=1e-4, atol=1e-5)
    found = {name for name in linears(apart) if ".experts." in name}
    assert {name.rpartition(".")[2] for name in found} == NAMES.get(kind, GLU)
    assert len(found) == len(experts_of(apart)) * 4 * len(NAMES.get(kind, GLU))
    numbers = {one.data_ptr() for name, one in apart.named_parameters() if ".experts." not in name}
    assert numbers <= {one.data_ptr() for one in model.parameters()}  # shared, not copied
    assert sum(p.numel() for p in apart.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "gate"),
    [("Qwen2Moe", "model.layers.0.mlp.shared_expert_gate"), ("Dbrx", "transformer.blocks.0.ffn.router.layer")],
)
def test_what_chooses_among_experts_stays_float(kind: str, gate: str) -> None:
    """The shared expert of this Qwen is as wide as there are experts: its Linears are quantized all the same."""
    apart = taken_apart(made(kind))
    assert gate in every_linear(apart)
    assert gate not in linears(apart)
    assert why_float(apart)[f"{gate}.weight"] == "it chooses among experts"
    shared = {name for name in linears(apart) if "shared_expert." in name}
    assert len(shared) == (6 if kind == "Qwen2Moe" else 0)


def test_an_expert_is_its_slice() -> None:
    """gate_up_proj[2] = [gate; up], down_proj[2] = down."""
    model = made("Mixtral")
    fused = model.model.layers[1].mlp.experts
    found = linears(taken_apart(model))
    for name, slice_ in (
        ("w1", fused.gate_up_proj[2, :48]),
        ("w3", fused.gate_up_proj[2, 48:]),
        ("w2", fused.down_proj[2]),
    ):
        weight = found[f"model.layers.1.mlp.experts.2.{name}"].weight
        assert torch.equal(weight, slice_)
        assert weight.data_ptr() == slice_.data_ptr()


def test_an_expert_of_a_transposed_and_interleaved_kind() -> None:
    """GPT-OSS: gate and up are the even and the odd columns of gate_up_proj[1], down is down_proj[1] turned."""
    model = made("GptOss")
    fused, found = model.model.layers[0].mlp.experts, linears(taken_apart(model))
    one = {part: found[f"model.layers.0.mlp.experts.1.{part}"] for part in GLU}
    assert torch.equal(one["gate_proj"].weight, fused.gate_up_proj[1, :, 0::2].T)
    assert torch.equal(one["up_proj"].weight, fused.gate_up_proj[1, :, 1::2].T)
    assert torch.equal(one["up_proj"].bias, fused.gate_up_proj_bias[1, 1::2])
    assert torch.equal(one["down_proj"].weight, fused.down_proj[1].T)
    assert torch.equal(one["down_proj"].bias, fused.down_proj_bias[1])


def test_tokens_go_where_the_router_sends_them() -> None:
    """Three tokens, two experts each of three: expert 0 gets tokens 0 and 2, expert 1 token 0, expert 2 tokens 1 and
    2; token 1's second choice, 3, is none of the three."""
    routes = Routes.of(torch.tensor([[0, 1], [2, 3], [2, 0]]), 3)
    assert routes.ends.tolist() == [2, 3, 5]
    assert routes.pairs.tolist() == [0, 5, 1, 2, 4, 3]
    assert routes.tokens.tolist() == [0, 2, 0, 1, 2, 1]
    assert routes.all_ends.tolist() == [2, 3, 6]
    assert Routes.of(torch.tensor([[2], [2]]), 3).ends.tolist() == [0, 0, 2]


def test_a_tokens_answers_are_weighed_and_summed() -> None:
    """The same three tokens; the answer of pair p is 10^p, weights 1 and 2: 1 + 20, 100 (the other is none's), 10000 +
    2 * 100000."""
    index = torch.tensor([[0, 1], [2, 3], [2, 0]])
    routes = Routes.of(index, 3)
    y = 10.0 ** routes.pairs[:, None]
    assert routes.summed(y, index, torch.tensor([[1.0, 2.0]] * 3)).tolist() == [[21.0], [100.0], [210000.0]]


def test_by_hand() -> None:
    """Two experts of one number each, y = down(silu(gate x) * up x). Expert 0 has gate 1, up 2, down 3, expert 1 has
    gate 0, so silu(0) = 0. With x = 1, silu(1) = 0.731059; expert 0 says 3 * 2 * 0.731059 = 4.386351, half of it
    counts."""
    fused = made("Mixtral").model.layers[0].mlp.experts
    fused.gate_up_proj = nn.Parameter(torch.tensor([[[1.0], [2.0]], [[0.0], [2.0]]]))
    fused.down_proj = nn.Parameter(torch.tensor([[[3.0]], [[3.0]]]))
    layout = layout_of(fused)
    assert layout is not None
    apart = Experts(fused, layout, {"gate": "w1", "up": "w3", "down": "w2"})
    said = apart(torch.ones(1, 1), torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]))
    assert said.item() == pytest.approx(2.193176, abs=1e-5)


@pytest.mark.parametrize("kind", ["Mixtral", "Llama4Text"])
def test_what_an_expert_sees(kind: str) -> None:
    """The tokens that the router gave it, each as it came; with `every_token` all of them, in this thread alone."""
    apart, text = taken_apart(made(kind)), tokens()
    (place, experts), *_ = experts_of(apart).items()
    first, seen, came = experts.names["up"], dict[str, int](), list[Any]()
    names = [f"{place}.{one}.{first}" for one in range(4)]
    handle = experts.register_forward_pre_hook(lambda _, inputs: came.append(inputs))
    with watch_inputs(apart, names, lambda name, x: seen.update({name: len(x)})):
        apart(text)
    handle.remove()
    if kind == "Mixtral":
        counts = torch.bincount(came[0][1].flatten(), minlength=4).tolist()
        assert sum(counts) == 2 * text.numel()
    else:
        counts = came[0][0].view(4, -1, 32).ne(0).any(-1).sum(-1).tolist()
        assert sum(counts) == text.numel()
    assert [seen.get(name, 0) for name in names] == counts
    with every_token(apart), watch_inputs(apart, names, lambda name, x: seen.update({name: len(x)})):
        apart(text)
    assert [seen[name] for name in names] == [text.numel()] * 4
    assert experts.every_token == set()
    with every_token(apart, wanted=False):
        assert experts.every_token == set()


@pytest.mark.parametrize(
    "scheme", ["w:int4/group16", "w:int4/group16/asym", "w:int8/channel,a:int8/token/dynamic", "float"]
)
@pytest.mark.parametrize("kind", ["Mixtral", "GptOss"])
def test_all_experts_in_one_product(kind: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does for many tokens says what the loop over experts says, up to bfloat16's rounding."""
    model = made(kind).to(torch.bfloat16)
    quantized, _ = quantize_model(model, scheme)
    experts = next(iter(experts_of(quantized).values()))
    x, chosen = torch.randn(64, 32).bfloat16(), torch.stack([torch.randperm(4)[:2] for _ in range(64)])
    weights = torch.rand(64, 2).bfloat16()
    expected = experts(x, chosen, weights)
    monkeypatch.setattr(Experts, "_goes_grouped", lambda *_: True)
    assert (experts(x, chosen, weights) - expected).abs().max() < 0.02 * expected.abs().max()
    with weights_kept(experts):
        kept = [experts(x, chosen, weights) for _ in range(2)]
        (held,) = experts.kept.values()
        assert {name: len(one) for name, one in held.items()} == dict.fromkeys(("gate", "up", "down"), 4)
        with Waits() as waits:
            experts(x, chosen, weights)
    if "a:" not in scheme:  # on a CPU inputs are rounded by a road that looks for NaN
        assert waits.found == []
    assert experts.kept == {}
    assert torch.equal(kept[0], experts(x, chosen, weights))
    assert torch.equal(kept[1], kept[0])


def test_weights_that_lie_one_behind_another_are_not_copied() -> None:
    fused = torch.randn(3, 32, 16).bfloat16()
    layers = [nn.Linear(16, 16, bias=False) for _ in range(3)]
    for one, whole in zip(layers, fused, strict=True):
        one.weight = nn.Parameter(whole[16:], requires_grad=False)
    stacked = stacked_weights(layers, torch.bfloat16)
    assert torch.equal(stacked, fused[:, 16:])
    assert stacked.data_ptr() == fused[0, 16:].data_ptr()
    layers[2].weight = nn.Parameter(fused[2, 16:].clone(), requires_grad=False)
    assert torch.equal(stacked_weights(layers, torch.bfloat16), stacked)
    layers[2].weight = nn.Parameter(fused[1, :16], requires_grad=False)  # of that memory, at another distance
    assert torch.equal(stacked_weights(layers, torch.bfloat16)[2], fused[1, :16])


def test_codes_are_joined_a_few_layers_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [quantize_linear(nn.Linear(32, 8), Scheme.parse("w:int4/group16/asym")) for _ in range(5)]
    monkeypatch.setattr("quantcore.matmul.grouped.CHUNK", 2 * 32 * 8)
    assert torch.equal(stacked_weights(layers, torch.float32), torch.stack([one.weight_hat() for one in layers]))


def test_when_one_product_is_none() -> None:
    layers = [nn.Linear(16, 8) for _ in range(2)]
    x = torch.randn(4, 16).bfloat16()
    assert why_not_grouped(x, layers) is None
    assert "takes bfloat16" in str(why_not_grouped(x.float(), layers))
    assert "that 8 divides, and the layers have [(8, 20)]" in str(why_not_grouped(x, [nn.Linear(20, 8)] * 2))
    four, eight = (quantize_linear(layers[0], Scheme.parse(f"w:int{bits}/channel")) for bits in (4, 8))
    assert "some of the layers" in str(why_not_grouped(x, [layers[0], four]))
    assert "different schemes" in str(why_not_grouped(x, [eight, four]))
    tensor = quantize_linear(layers[0], Scheme.parse("w:int8/tensor"))
    assert "cannot stand below" in str(why_not_grouped(x, [tensor, copy.deepcopy(tensor)]))
    y = grouped_product(x, torch.tensor([1, 4]), [one.bfloat16() for one in layers])
    torch.testing.assert_close(y[:1], layers[0](x[:1]), rtol=0.02, atol=0.02)
    torch.testing.assert_close(y[1:], layers[1](x[1:]), rtol=0.02, atol=0.02)


def test_a_layout_that_nobody_knows_stays_as_it_is() -> None:
    strange = nn.Module()
    strange.gate_up_proj, strange.down_proj = nn.Parameter(torch.ones(2, 4, 3)), nn.Parameter(torch.ones(2, 3, 2))
    assert layout_of(strange) is None
    holder = nn.ModuleDict({"experts": strange})
    assert taken_apart(holder) is holder
