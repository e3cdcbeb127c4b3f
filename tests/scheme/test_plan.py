"""A plan: text and back, which exception decides, what is refused."""

from urllib.parse import parse_qs

import pytest

from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

DOWN, UP, HEAD = "model.layers.3.mlp.down_proj", "model.layers.10.mlp.up_proj", "lm_head"


@pytest.mark.parametrize(
    "text",
    [
        "w:int4/group128",
        "float",
        "w:int4/group128@down_proj=w:int8/channel",
        "w:int4/group128,skip=none@layers.0,layers.3=float@3.mlp.down_proj=w:int8/channel,a:int8/token/dynamic",
        "float@down_proj=w:int2/group32/asym",
    ],
)
def test_text_and_back(text: str) -> None:
    plan = Plan.parse(text)
    assert str(plan) == text
    assert Plan.parse(str(plan)) == plan
    assert parse_qs(f"scheme={text}", strict_parsing=True)["scheme"] == [text]
    assert not set(text) & set(" ;+&|<>()$`'\"*?[]#~!\\")


def test_presets_and_spaces_are_read() -> None:
    plan = Plan.parse(" W4A16 @ down_proj , layers.0 = W8A8 ")
    assert str(plan) == "w:int4/group128@down_proj,layers.0=w:int8/channel,a:int8/token/dynamic"
    assert plan.label == "W4A16@down_proj,layers.0=w:int8/channel,a:int8/token/dynamic"
    assert plan.schemes == (Scheme.parse("W4A16"), Scheme.parse("W8A8"))


def test_a_scheme_is_a_plan() -> None:
    scheme = Scheme.parse("w:int4/group128,skip=lm_head,skip=down_proj")
    assert Plan.of(scheme) == Plan.of(str(scheme)) == Plan(scheme) == Plan.of(Plan(scheme))
    assert Plan(scheme).scheme_for(UP) == scheme
    assert Plan(scheme).scheme_for(DOWN) is None
    assert Plan(scheme).scheme_for(HEAD) is None


def test_the_last_exception_that_fits_decides() -> None:
    plan = Plan.parse("w:int4/channel@layers.3=float@down_proj=w:int8/channel@10.mlp=w:int2/channel")
    assert plan.scheme_for(DOWN) == Scheme.parse("w:int8/channel")
    assert plan.scheme_for("model.layers.3.mlp.up_proj") is None
    assert plan.scheme_for("model.layers.30.mlp.up_proj") == Scheme.parse("w:int4/channel")  # whole parts only
    assert plan.scheme_for("model.layers.10.mlp.down_proj") == Scheme.parse("w:int2/channel")


def test_an_exception_reaches_what_the_default_skips() -> None:
    plan = Plan.parse("w:int4/channel@lm_head=w:int8/channel")
    assert plan.scheme_for(HEAD) == Scheme.parse("w:int8/channel")
    assert Plan.parse("w:int4/channel").scheme_for(HEAD) is None


def test_an_exception_for_no_layer_is_told() -> None:
    plan = Plan.parse("w:int4/channel@down_proj=w:int8/channel@layers.99=float")
    with pytest.raises(ValueError, match=r"no layer fits 'layers.99'; this model has 2, such as model.layers.3"):
        plan.require_layers([DOWN, UP])
    Plan.parse("w:int4/channel@layers.10=float").require_layers([DOWN, UP])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the scheme text is empty"),
        ("w:int4/channel@", "cannot read the exception ''; write @layer=scheme"),
        ("w:int4/channel@down_proj", "cannot read the exception 'down_proj'"),
        ("w:int4/channel@=float", "cannot read the exception '=float'"),
        ("w:int4/channel@down*=float", r"'down\*' is no layer name"),
        ("w:int4/channel@a,=float", "'' is no layer name"),
        ("w:int4/channel@a=w:int4", "'int4' lacks its granularity"),
        ("w:int4/channel@a=w:int4/channel,skip=b", "the exception for 'a' says skip=, which only the default may"),
        ("w:int4/channel@" + "x" * 8000, "a plan's text of 8015 characters is too long"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Plan.parse(text)


def test_a_plan_needs_what_any_of_its_schemes_needs() -> None:
    plan = Plan.parse("W8A8@down_proj=FP8@up_proj=float")
    assert (plan.needs_ranges, plan.needs_hessian, plan.needs_text, plan.is_float) == (True, False, True, False)
    assert Plan.parse("float@down_proj=float").is_float
    assert not Plan.parse("float@down_proj=W4A16,gptq").is_float
    assert Plan.parse("float@down_proj=W4A16,gptq").needs_hessian


def test_the_schemes_of_a_models_layers() -> None:
    names = ["0.up_proj", "0.down_proj", "lm_head"]
    plan = Plan.parse("W8A8@down_proj=float")
    assert plan.schemes_of(names) == {"0.up_proj": Scheme.parse("W8A8")}
    assert Plan.parse("float").schemes_of(names) == {}
    with pytest.raises(ValueError, match="no layer fits 'gate_proj'"):
        Plan.parse("W8A8@gate_proj=float").schemes_of(names)
    with pytest.raises(ValueError, match="skips every Linear of the model; shorten skip="):
        Plan.parse("W8A8,skip=0,skip=lm_head").schemes_of(names)


def test_the_head_is_meant_whatever_the_model_calls_it() -> None:
    names = ["blocks.0.up", "head"]
    assert list(Plan.parse("W8A16").schemes_of(names, "head")) == ["blocks.0.up"]
    assert list(Plan.parse("W8A16").schemes_of(names)) == names
    assert list(Plan.parse("float@lm_head=W8A16").schemes_of(names, "head")) == ["head"]
    with pytest.raises(ValueError, match="no layer fits 'lm_head'"):
        Plan.parse("float@lm_head=W8A16").schemes_of(names)
