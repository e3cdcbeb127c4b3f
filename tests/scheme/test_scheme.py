"""The language of schemes: every text comes back, every impossible one is refused in a sentence."""

import itertools

import pytest

from quantcore.methods.options import Gptq
from quantcore.numbers.formats import FORMATS
from quantcore.numbers.granularity import PerBlock, PerChannel, PerGroup, PerTensor, PerToken
from quantcore.numbers.spec import MinMax, MovingAverage, Mse, Percentile, QuantSpec
from quantcore.scheme.scheme import PRESETS, Scheme

WEIGHT_GRAINS = [PerTensor(), PerChannel(), PerGroup(128), PerBlock(128, 64)]
ACTIVATION_GRAINS = [PerTensor(), PerToken(), PerGroup(32)]


def all_specs(grains, observers, dynamic):
    for fmt, grain, symmetric, observer in itertools.product(FORMATS.values(), grains, (True, False), observers):
        if symmetric or not (fmt.is_float or fmt.name.endswith("_narrow")):
            yield QuantSpec(fmt, grain, symmetric, dynamic, observer)


def test_parse_is_the_inverse_of_str_for_every_weight_spec() -> None:
    for spec in all_specs(WEIGHT_GRAINS, [MinMax(), Mse(), Percentile(99.5)], dynamic=False):
        scheme = Scheme(spec)
        assert Scheme.parse(str(scheme)) == scheme


def test_parse_is_the_inverse_of_str_for_every_activation_spec() -> None:
    dynamic = all_specs(ACTIVATION_GRAINS, [MinMax(), Mse(), Percentile(99.99)], dynamic=True)
    static = all_specs([PerTensor()], [MinMax(), MovingAverage(), MovingAverage(0.1), Mse(), Percentile(90)], False)
    for spec in itertools.chain(dynamic, static):
        scheme = Scheme(None, spec, skip=("lm_head", "layers.0"))
        assert Scheme.parse(str(scheme)) == scheme


@pytest.mark.parametrize("name", PRESETS)
def test_presets_parse_by_name_and_by_text(name: str) -> None:
    assert Scheme.parse(name) == Scheme.parse(name.lower()) == Scheme.parse(str(PRESETS[name]))
    assert Scheme.parse(name).label == name


def test_texts_by_hand() -> None:
    assert str(Scheme()) == "float"
    assert Scheme.parse("float") == Scheme()
    assert str(Scheme.parse("W8A8")) == "w:int8/channel,a:int8/token/dynamic"
    assert Scheme.parse("W4A16,rtn") == PRESETS["W4A16"]
    assert Scheme.parse("W4A16,skip=none").skip == ()
    assert Scheme.parse("w:int4/tensor,skip=lm_head,skip=mlp").skip == ("lm_head", "mlp")


@pytest.mark.parametrize("order", ["", "/actorder=weight", "/actorder=group", "/actorder=group/moving"])
@pytest.mark.parametrize("rest", ["", "/damp=0.05", "/damp=1e-06/block=64"])
def test_gptq_texts_come_back(order: str, rest: str) -> None:
    scheme = Scheme.parse(f"W4A16,gptq{order}{rest}")
    assert isinstance(scheme.method, Gptq)
    assert Scheme.parse(str(scheme)) == scheme
    assert scheme.method.actorder == (order.split("=")[1].split("/")[0] if order else None)
    assert scheme.method.static_groups == ("moving" not in order)
    assert scheme.method.damp == {"": 0.01, "/damp=0.05": 0.05}.get(rest, 1e-6)
    assert str(scheme) != "w:int4/group128"


def test_texts_need_no_quoting() -> None:
    texts = [str(preset) for preset in PRESETS.values()] + [str(Scheme.parse("w:int3/block32x32/asym/p99.9,skip=none"))]
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789:/,=._") for text in texts)


def test_skip_matches_whole_parts_of_a_name() -> None:
    scheme = Scheme.parse("W4A16,skip=layers.1,skip=down_proj")
    assert scheme.skips("model.layers.1.mlp.up_proj")
    assert scheme.skips("model.layers.7.mlp.down_proj")
    assert not scheme.skips("model.layers.11.mlp.up_proj")
    assert not scheme.skips("lm_head")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the scheme text is empty; try w:int4/group128, or W4A16"),
        (
            "W4A17",
            "awq, quip=hadamard, wush=32, rtn, gptq, clip, refine, qronos, gptaq, experts=all, kv:... and skip=..., or",
        ),
        ("w:int4", "'int4' lacks its granularity; write format/granularity"),
        ("w:int9/tensor", "no number format is called 'int9'"),
        ("w:int4/rows", "no granularity is called 'rows'"),
        ("w:int4/tensor,w:int4/tensor", "says 'w' twice"),
        ("w:int4/token", "weights have no tokens"),
        ("w:int4/tensor/dynamic", "cannot read 'dynamic'"),
        ("w:int4/tensor/ema", "weights are seen once"),
        ("w:int4/tensor/mse/p99", "'p99' is one observer too many"),
        ("w:int4/tensor/p40", r"percentile 40 is outside \(50, 100\]"),
        ("w:fp8_e4m3/tensor/asym", "fp8_e4m3 has a sign and no zero point, so it cannot be asymmetric"),
        ("w:int4_narrow/tensor/asym", "int4_narrow drops a code to be symmetric"),
        ("a:int8/tensor", "must say when their range is known; add /dynamic or /static"),
        ("a:int8/token/static", "static per-token activations cannot be"),
        ("a:int8/group32/static", "static per-group32 activations cannot be"),
        ("a:int8/channel/dynamic", "activations cannot be quantized per channel"),
        ("a:int8/token/dynamic/ema", "a moving average needs earlier steps"),
        ("a:int8/tensor/static/ema0", r"momentum=0 is outside \(0, 1\]"),
        ("W4A16,skip=a*b", "is no module name"),
        ("W4A16,gptq/order=weight", "cannot read 'order=weight'; the methods are rtn, and gptq with /actorder=weight"),
        ("W4A16,rtn/damp=1", "cannot read 'rtn/damp=1'"),
        ("W4A16,gptq/damp=0", "damp=0 keeps no Hessian"),
        ("W4A16,gptq/block=0", "block_size=0"),
        ("W4A16,gptq/moving/moving", "says 'moving' twice"),
        ("W4A16,experts=all", "reads no text; leave it out, or add gptq"),
        ("W4A16,gptq,experts=some", "cannot read 'experts=some'; write experts=all"),
        ("W4A16,gptq,experts=all,experts=all", "says 'experts' twice"),
        ("W4A16,gptq,rtn", "says 'method' twice"),
        ("W4A16,gptq/actorder=weight/moving", "static_groups=True"),
        ("a:int8/token/dynamic,gptq", "gptq places the codes of weights, and these stay float"),
        ("w:" + "x" * 4000, "a scheme text of 4002 characters is too long; the limit is 4000"),
    ],
)
def test_refusals_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme.parse(text)


@pytest.mark.parametrize(
    "text", ["w:\x00/tensor", "w:int4/group99999999999999999999", "a:", ",,,", "w:/", "skip=", "\u00e9"]
)
def test_garbage_never_raises_anything_else(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        Scheme.parse(text)


@pytest.mark.parametrize(
    ("text", "ranges", "hessian", "g_idx"),
    [
        ("float", False, False, False),
        ("W8A8", False, False, False),
        ("FP8", True, False, False),
        ("a:int8/tensor/static", True, False, False),
        ("W4A16,gptq", False, True, False),
        ("FP8,gptq/actorder=weight", True, True, False),
        ("W4A16,gptq/actorder=group", False, True, True),
        ("w:int4/channel,gptq/actorder=group", False, True, False),  # all columns of a row are one group
    ],
)
def test_a_scheme_says_what_it_needs(text: str, ranges: bool, hessian: bool, g_idx: bool) -> None:
    scheme = Scheme.parse(text)
    assert (scheme.needs_ranges, scheme.needs_hessian, scheme.keeps_g_idx) == (ranges, hessian, g_idx)
    assert scheme.needs_text == (ranges or hessian)
    assert scheme.is_float == (text == "float")


def test_transforms_are_said_once_for_the_model() -> None:
    scheme = Scheme.parse("W8A8,smooth=0.8/all")
    assert str(scheme) == "w:int8/channel,a:int8/token/dynamic,smooth=0.8/all"
    assert scheme.label == "W8A8,smooth=0.8/all"
    assert scheme.needs_text
    assert scheme.plain == Scheme.parse("W8A8")
    assert Scheme.parse("W8A8,smooth=0") == Scheme.parse("W8A8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float,smooth=0.5", "nothing is quantized; add w:int8/channel"),
        ("W8A8,smooth=1.5", "outside 0 to 1; try smooth=0.5"),
        ("W8A8,smooth", "write smooth=0.5"),
        ("W4A16,smooth=0.5,awq", "smooth=0.5 and awq both choose the scale of the same channels"),
        ("W4A16,awq/clip", "write awq, which has no options"),
        ("W4A4,rotate=half", "rotate=half is none of hadamard, random"),
        ("W8A8,smooth=0.5,smooth=0.6", "says 'smooth' twice"),
    ],
)
def test_transforms_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme.parse(text)


def test_an_exception_has_no_transform() -> None:
    from quantcore.scheme.plan import Plan

    with pytest.raises(ValueError, match="done to the whole model; write it once, before the first @"):
        Plan.parse("W8A8@down_proj=W4A16,smooth=0.5")
