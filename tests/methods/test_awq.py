"""AWQ: means by hand, the laws of the search, and the same choice as llm-compressor's on the same inputs."""

import pytest
import torch
from torch import Tensor, nn

from quantcore.measure.evaluate import compare
from quantcore.methods.transforms.awq import RATIOS, candidates, weight_means
from quantcore.methods.transforms.options import Awq
from quantcore.model.held import held
from quantcore.model.loading import LoadedModel
from quantcore.model.wiring import Link
from quantcore.numbers.qtensor import fake_quantize
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.search import Searching, module_of
from quantcore.pipeline.treated import treated, treated_model
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme


def test_means_of_a_weight_by_hand() -> None:
    """Groups of 2: row 0 is (1/2, 2/2 | 4/4, 1/4), row 1 (3/3, 0/3 | 1/1, 1/1)."""
    spec = Scheme.parse("w:int4/group2").weights
    assert spec is not None
    found = weight_means([(torch.tensor([[1.0, -2.0, 4.0, 1.0], [3.0, 0.0, -1.0, 1.0]]), spec)])
    assert found.tolist() == pytest.approx([0.75, 0.5, 1.0, 0.625], abs=1e-5)


def test_two_weights_count_by_their_rows() -> None:
    spec = Scheme.parse("w:int4/channel").weights
    assert spec is not None
    one, two = torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 2.0], [0.0, 1.0], [0.0, 1.0]])
    assert weight_means([(one, spec), (two, spec)]).tolist() == pytest.approx([1.25 / 4, 1.0], abs=1e-5)


def test_candidates_are_centred_and_none_is_among_them() -> None:
    found = candidates(torch.tensor([1.0, 16.0]), torch.tensor([0.5, 0.5]).double())
    assert found.shape == (1 + RATIOS, 2)
    assert found[0].tolist() == [1, 1]
    assert found[-1].tolist() == pytest.approx([0.25, 4.0])  # r = 1: (1, 16) / sqrt(16)
    assert (found.amax(1) * found.amin(1)).tolist() == pytest.approx([1.0] * (1 + RATIOS))
    assert found.dtype == torch.float64


def test_the_part_that_holds_all_readers() -> None:
    assert module_of(["self_attn.q_proj", "self_attn.k_proj"]) == "self_attn"
    assert module_of(["mlp.down_proj"]) == "mlp.down_proj"
    assert module_of(["q_proj", "mlp.fc1"]) == ""


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(3, 250, (4, 32), generator=torch.Generator().manual_seed(2))


def test_the_float_model_says_what_it_said(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    model = treated(held(tiny_lm), Plan.parse("w:int3/group32,awq"), tokens)
    with torch.inference_mode():
        before, after = tiny_lm.model(tokens).logits, treated_model(model)(tokens).logits
    assert (after - before).abs().max() < 1e-4 * before.abs().max()


def test_it_loses_less_than_rounding(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    texts = ["w:int3/group32", "w:int3/group32,awq"]
    copies = {text: quantize_model(tiny_lm.model, text, calibration=tokens)[0] for text in texts}
    plain, awq = (one.kl for one in compare(tiny_lm.model, copies, tokens).reports.values())
    assert awq < 0.9 * plain


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(32, 48, bias=False), nn.Linear(32, 48, bias=False), nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(32), _Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))  # type: ignore[no-any-return]


class _OneBlock(BlockWalk):
    """A walk over one module and given hidden states."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def advance(self, block: nn.Module) -> None:
        block(self._x)


def _chosen(block: _Block, x: Tensor, scheme: str) -> dict[str, Tensor]:
    same = torch.arange(32)
    found = [
        Link("norm", {"mlp.gate": same, "mlp.up": same}, 32, 0),
        Link("mlp.up", {"mlp.down": torch.arange(48)}, 48, None),
    ]
    names = ("mlp.gate", "mlp.up", "mlp.down")
    schemes = dict.fromkeys(names, Scheme.parse(scheme))
    return {link.source: s for link, s in Searching(Awq()).scales(block, found, schemes, _OneBlock(x))}


def _one_case(seed: int) -> tuple[_Block, Tensor]:
    torch.manual_seed(seed)
    block, x = _Block().eval(), torch.randn(2, 40, 32)
    block.norm.weight.data = torch.logspace(-0.5, 0.9, 32)[torch.randperm(32)]
    block.mlp.up.weight.data *= torch.logspace(-1, 1, 48)[torch.randperm(48), None]
    return block, x


def test_the_choice_is_the_best_of_all_tried() -> None:
    """down alone: its loss is that of its own outputs, worked out here for every candidate."""
    block, x = _one_case(0)
    with torch.inference_mode():
        found = _chosen(block, x, "w:int3/group16")["mlp.up"]
        entering = nn.functional.silu(block.mlp.gate(block.norm(x))) * block.mlp.up(block.norm(x))
        spec = Scheme.parse("w:int3/group16").weights
        assert spec is not None
        weight = block.mlp.down.weight
        tried = candidates(entering.abs().flatten(0, 1).mean(0), weight_means([(weight, spec)]))
        lost = [
            ((fake_quantize((weight * s).float(), spec) / s.float() - weight) @ entering.flatten(0, 1).T).square().sum()
            for s in tried
        ]
        assert torch.allclose(found, tried[int(torch.stack(lost).argmin())].float(), rtol=1e-4)
        assert not torch.allclose(found, torch.ones(48))


@pytest.mark.parity
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_llm_compressor_chooses_the_same(seed: int) -> None:
    """Its own AWQModifier on the same block and inputs; skipped where it is not installed."""
    base = pytest.importorskip("llmcompressor.modifiers.transform.awq.base")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    cache = pytest.importorskip("llmcompressor.pipelines.cache")
    mappings = pytest.importorskip("llmcompressor.modifiers.transform.awq.mappings")
    session = pytest.importorskip("llmcompressor.core")
    block, x = _one_case(seed)
    with torch.inference_mode():
        ours = _chosen(block, x, "w:int4/group16")
    arguments = quantization.QuantizationArgs(num_bits=4, strategy="group", group_size=16, observer="memoryless_minmax")
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    for layer in (block.mlp.gate, block.mlp.up, block.mlp.down):
        quantization.initialize_module_for_quantization(layer, scheme)
        quantization.disable_quantization(layer)  # as while it calibrates
    modifier = base.AWQModifier()
    with torch.no_grad(), session.create_session():
        for norm, name, readers, part, names in (
            (block.norm, "norm", [block.mlp.gate, block.mlp.up], block.mlp, ["mlp.gate", "mlp.up"]),
            (block.mlp.up, "mlp.up", [block.mlp.down], block.mlp.down, ["mlp.down"]),
        ):
            entering = block.norm(x)
            if part is block.mlp.down:
                entering = nn.functional.silu(block.mlp.gate(entering)) * block.mlp.up(entering)
            kept = cache.IntermediatesCache(None, None)
            kept.append({"x" if part is block.mlp else "input": entering})
            modifier._parent_args_cache[part] = kept
            rows = entering.flatten(0, 1).abs()
            modifier._smooth_activation_stats[name] = [rows.sum(0), torch.tensor(len(rows))]
            mapping = mappings.ResolvedMapping(
                name, norm, readers, balance_names=names, parent=part, parent_name="part", activation_hook_target=None
            )
            weights = {one: one.weight.clone() for one in readers}
            theirs = modifier._compute_best_scale(mapping, modifier._run_samples(part), weights)
            for one, weight in weights.items():
                one.weight.data = weight
            assert torch.allclose(ours[name].double(), theirs.view(-1).double(), rtol=1e-3), name
