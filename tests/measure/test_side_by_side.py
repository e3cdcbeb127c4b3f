"""Many plans in one walk along a model's blocks: the figures of each copy alone, and only a block of them at once."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quantcore import compare, quantize_model
from quantcore.matmul.layers import QuantLinear
from quantcore.measure.scores import Comparison
from quantcore.measure.side_by_side import compare_plans
from quantcore.model.loading import LoadedModel
from quantcore.model.streamed import StreamedModel
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.layers import LayerReport
from quantcore.scheme.plan import Plan

PLANS = {
    text: Plan.parse(text)
    for text in (
        "float",
        "w:int3/group32,gptq",
        "w:int4/group32,a:int8/tensor/static,skip=none",
        "a:int8/token/dynamic",
    )
}


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, 200, (24, 100))  # three batches of ten windows


@pytest.mark.parametrize("streamed", [False, True])
def test_figures_are_those_of_each_copy_alone(
    tiny_lm: LoadedModel, tiny_model_dir: Path, tokens: torch.Tensor, streamed: bool
) -> None:
    calibration = torch.randint(3, 200, (20, 256))
    source = StreamedModel(str(tiny_model_dir), "cpu") if streamed else tiny_lm
    found = compare_plans(source, PLANS, tokens, calibration, measured=tokens, likeliest=3)
    assert list(found.comparison.reports) == list(found.layers) == list(PLANS)
    for text in PLANS:
        copy, layers = quantize_model(tiny_lm.model, text, tokens, calibration=calibration)
        alone = compare(tiny_lm.model, {text: copy}, tokens, likeliest=3)
        assert replace(found.comparison.reports[text], seconds=0) == replace(alone.reports[text], seconds=0)
        assert torch.equal(found.comparison.scores[text].likeliest, alone.scores[text].likeliest)
        assert [replace(one, seconds=0) for one in found.layers[text]] == [replace(one, seconds=0) for one in layers]
    assert found.comparison.reports["float"].kl_max == 0
    assert found.comparison.reports["w:int3/group32,gptq"].kl > 1e-3


def test_a_block_s_copies_go_with_it(
    tiny_lm: LoadedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    seen: list[weakref.ref[QuantLinear]] = []
    advance = BlockWalk.advance

    def counted(walk: BlockWalk, block: torch.nn.Module) -> None:
        seen.extend(weakref.ref(one) for one in block.modules() if isinstance(one, QuantLinear))
        alive.append(len({id(one()) for one in seen if one() is not None}))
        advance(walk, block)

    monkeypatch.setattr(BlockWalk, "advance", counted)
    plans = {text: Plan.parse(text) for text in ("w:int3/channel", "w:int4/channel")}
    gc.disable()
    try:
        compare_plans(tiny_lm, plans, tokens)
    finally:
        gc.enable()
    assert (
        alive == [7, 14, 14] * 2
    )  # both plans', then the float block; nothing of the first block is left in the second


def test_what_is_known_on_the_way(tiny_lm: LoadedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantcore.measure.evaluate.SO_FAR_S", 0.0)
    looks: list[tuple[Comparison | None, list[str]]] = []
    steps: list[tuple[float, str]] = []

    def look(found: Comparison | None, layers: dict[str, tuple[LayerReport, ...]], _: dict[str, float]) -> None:
        looks.append((found, list(layers)))

    plans = {text: Plan.parse(text) for text in ("w:int3/channel", "w:int4/channel")}
    labels = dict(zip(plans, ("three", "four"), strict=True))
    whole = compare_plans(
        tiny_lm, plans, tokens, labels=labels, so_far=look, progress=lambda *step: steps.append(step)
    ).comparison
    assert [names for _, names in looks[:2]] == [list(plans)[:1], list(plans)]
    assert [found for found, _ in looks[:2]] == [None, None]
    first = looks[2][0]
    assert first is not None
    assert [found.reports["w:int3/channel"].tokens for found, _ in looks[2:] if found] == [1000, 2000]
    assert torch.equal(first.scores["w:int4/channel"].kl, whole.scores["w:int4/channel"].kl[:10])
    assert [share for share, _ in steps] == sorted(share for share, _ in steps)
    assert steps[0][1] == "three: quantizing model.layers.0.self_attn.q_proj"
    assert steps[-1] == (1.0, "four: reading the text")


def test_what_is_refused(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    def refused(sentence: str, work: Callable[[], object]) -> None:
        with pytest.raises(ValueError, match=sentence):
            work()

    refused("there is no plan to compare", lambda: compare_plans(tiny_lm, {}, tokens))
    refused("windows of 1 token", lambda: compare_plans(tiny_lm, PLANS, tokens[:, :1]))
    plans = {"a": Plan.parse("W4A16"), "b": Plan.parse("w:int8/channel")}
    refused(
        "^big: group128 does not divide model.layers.0.self_attn.q_proj",
        lambda: compare_plans(tiny_lm, plans, tokens, labels={"a": "big"}),
    )
