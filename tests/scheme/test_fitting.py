"""One group for a whole model: the largest usual one that divides every layer, and what is said where none does."""

import pytest

from quantcore.numbers.granularity import PerChannel, PerGroup
from quantcore.scheme.fitting import fitting_grain, plan_for, require_fits, sorted_out, why_grain
from quantcore.scheme.scheme import PRESETS, Scheme

SMOL = {"layers.0.q_proj": (576, 576), "layers.0.down_proj": (576, 1536), "lm_head": (49152, 576)}
WIDE = {"layers.0.q_proj": (384, 384), "layers.0.down_proj": (384, 1024)}
NARROW = {"h.0.c_fc": (384, 96), "h.0.c_proj": (96, 384)}
ODD = {"layers.0.q_proj": (100, 100)}
OF_FIXED_SIZE = ("FP8_BLOCK", *(name for name in PRESETS if name.startswith(("NV", "MX"))))


@pytest.mark.parametrize(
    ("shapes", "grain", "why"),
    [
        (WIDE, PerGroup(128), "groups of 128"),
        (SMOL, PerGroup(64), "groups of 64, because 576 / 128 is no whole number"),
        (NARROW, PerGroup(32), "groups of 32, because 96 / 64 is no whole number"),
        (ODD, PerChannel(), "one scale a row, because no group of 128, 64, 32 divides every layer's inputs"),
    ],
)
def test_the_largest_group_that_divides_every_layer(shapes, grain, why) -> None:
    assert fitting_grain(shapes) == grain
    assert why_grain(shapes) == why


def test_what_stays_float_by_default_has_no_say() -> None:
    assert fitting_grain({**WIDE, "lm_head": (1000, 100)}) == PerGroup(128)


@pytest.mark.parametrize("shapes", [WIDE, SMOL, NARROW, ODD])
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in OF_FIXED_SIZE])
def test_every_preset_fits_every_model(name: str, shapes) -> None:
    require_fits(plan_for(name, shapes), shapes)


@pytest.mark.parametrize("shapes", [WIDE, SMOL, NARROW])
def test_formats_with_coded_scales_keep_their_groups(shapes) -> None:
    for name in ("NVFP4", "MXFP4", "MXFP6A8", "MXFP8"):
        require_fits(plan_for(name, shapes), shapes)
        assert plan_for(name, shapes).default == PRESETS[name]
    with pytest.raises(ValueError, match="group16 does not divide layers.0.q_proj, 100 x 100"):
        require_fits(plan_for("NVFP4", ODD), ODD)


def test_presets_have_the_models_own_group_wherever_their_names_stand() -> None:
    assert str(plan_for("W4A16,gptq", SMOL)) == "w:int4/group64,gptq"
    assert str(plan_for("W4A16@down_proj=W8A8", SMOL)) == "w:int4/group64@down_proj=w:int8/channel,a:int8/token/dynamic"
    assert str(plan_for("W3A16", ODD)) == "w:int3/channel"
    assert str(plan_for("w:int4/group128", SMOL)) == "w:int4/group128"  # said in full it is what was said
    assert str(Scheme.parse("W4A16")) == "w:int4/group128"  # of no model


@pytest.mark.parametrize(
    ("text", "shapes", "sentence"),
    [
        (
            "W4A16@q_proj=w:int4/group128",
            SMOL,
            r"^group128 does not divide layers.0.q_proj, 576 x 576 \(output x input\); try group64, which",
        ),
        ("w:int4/group96", ODD, "group96 does not divide layers.0.q_proj, 100 x 100 .* try channel$"),
        ("w:int8/channel,a:int8/group128/dynamic", SMOL, r"group128 does not divide layers\.0\.q_proj.*; try token$"),
        ("FP8_BLOCK", SMOL, "block128x128 does not divide layers.0.q_proj"),
    ],
)
def test_what_does_not_fit_is_said_in_the_schemes_language(text: str, shapes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        require_fits(plan_for(text, shapes), shapes)


def test_a_bad_line_has_its_reason_and_the_others_their_texts() -> None:
    able, refused = sorted_out(["W4A16", "w:int4/group128", "nonsense", "w:int4/group64"], SMOL)
    assert able == {"W4A16": "w:int4/group64"}  # the last line says the same
    assert list(refused) == ["w:int4/group128", "nonsense"]
    assert all("PerChannel" not in reason and "group_size" not in reason for reason in refused.values())


def test_a_way_out_is_looked_for_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads all layers: asked of each of a mixture's thousands, it would take longer than their codes."""
    plan, wrong, asked = plan_for("W4A16", SMOL), plan_for("w:int4/group96", ODD), list[str]()
    monkeypatch.setattr("quantcore.scheme.fitting.fitting_grain", lambda _: asked.append("") or PerChannel())
    require_fits(plan, SMOL)
    assert asked == []
    with pytest.raises(ValueError, match="try channel"):
        require_fits(wrong, ODD)
    assert asked == [""]
