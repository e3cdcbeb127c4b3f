"""The page Speed and memory: measured here, recorded elsewhere, roofs, the card of memory; each alive on its own."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from transformers import GPT2Config, GPT2LMHeadModel

from quantcore.lab.lab import Lab
from quantcore.model.loading import LoadedModel
from quantcore.studies import hardware
from quantcore.studies.footprint import LLAMA_3_8B, ModelShape, footprint
from quantcore.studies.gpus import GPUS
from quantcore.studies.hardware import gain_bound
from quantcore.studies.speed import SpeedReport, SpeedRow
from tests.apptest_helpers import figure_of, figures_of, lab_of, new_server, settle, values
from tests.apptest_helpers import page as open_page
from ui import kept
from ui.answers import job_key
from ui.figures import speed as figures
from ui.sections.memory import cards_for
from ui.sections.times import schemes_for
from ui.words import speed as speed_words

H100 = "NVIDIA H100 80GB HBM3"
RUN = f"recorded: {H100}, matmul"
LIVE = ["W8A8 dynamic", "W8A8 static", "FP8_DYNAMIC", "FP8 static"]
LIVE += ["w:int4/group64", "w:int4/group64, reordered", "w:int8/group64"]


@pytest.fixture
def page(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "RECORDED", tmp_path)
    monkeypatch.setattr(hardware, "ROUNDS", 1)
    monkeypatch.setattr(speed_words, "disturbed", lambda _: [])  # other work beside the tests disturbs every clock
    new_server()
    return open_page("10_Speed_and_memory", model=tiny_model_dir, layer="model.layers.0.self_attn.q_proj")


def rows(scheme: str, path: str, *times: tuple[int, float, float]) -> list[SpeedRow]:
    return [SpeedRow(scheme, path, n, ms / 4, ms / 2, ms, ms, floats, floats, None, None) for n, ms, floats in times]


def record(folder: Path) -> SpeedReport:
    """W4A16 beats bf16 at one token (0.5 against 1 ms) and loses at 1024 (4 against 2); W8A8 the other way round."""
    found = SpeedReport(
        (14336, 4096),
        "bfloat16",
        H100,
        {"torch": "2.11"},
        tuple(
            rows("W4A16", "low_bit", (1, 0.5, 1.0), (1024, 4.0, 2.0))
            + rows("W8A8", "int8", (1, 2.0, 1.0), (1024, 1.0, 2.0))
        ),
        {},
        {"FP8_BLOCK": "for a reason"},
    )
    machine = {"gpu": H100, "date": "2026-11-25", "torch": "2.11.0"}
    content = {"machine": machine, "shapes": {"gate": asdict(found), "down": asdict(found)}}
    (folder / "matmul.json").write_text(json.dumps(content))
    return found


def said(at: AppTest) -> str:
    return "\n".join(one.value for one in [*at.markdown, *at.caption, *at.info, *at.warning])


def names(at: AppTest, key: str) -> list[str]:
    return [trace.get("name") for trace in figure_of(at, key)["figure"]["data"]]


def test_a_disturbed_measurement_is_no_result(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_words, "disturbed", lambda report: report.rows[:1])
    settle(page)
    assert "**Disturbed:** 1 of 21 times" in page.warning[0].value
    assert "times" not in [shown["key"] for shown in figures_of(page)]
    assert any(button.label == "Measure again" for button in page.button)


def test_without_a_gpu_it_opens_on_a_recorded_run(page: AppTest, tmp_path: Path) -> None:
    record(tmp_path)
    settle(page)
    assert page.selectbox(key="run").value == RUN
    assert "**Recorded**, not measured now" in said(page)
    assert "2026-11-25" in said(page)
    assert "times" in [shown["key"] for shown in figures_of(page)]


def test_alive_without_a_click(page: AppTest) -> None:
    settle(page)
    assert not page.error
    assert [shown["key"] for shown in figures_of(page)] == ["times", "split", "roofline", "bounds", "memory", "gptq"]
    assert names(page, "times") == ["bf16", *LIVE, "meets bf16"]
    shown = figure_of(page, "times")["figure"]["data"][1]
    assert list(values(shown["x"])) == [1, 16, 256]
    assert min(values(shown["y"])) > 0
    assert "the path `low_bit` is closed" in said(page)
    assert "Layer 64 x 64 (output x input)" in said(page)
    assert figure_of(page, "roofline")["figure"]["layout"]["title"]["text"].startswith("Roofline: ")
    assert all(len(element.proto.bytes) < 400_000 for element in page.get("bidi_component"))
    csv = page.dataframe[-1].value
    assert list(csv["scheme"].unique())[0] == "W8A8"
    assert len(csv) == 3 * len(LIVE)


def first_round(page: AppTest) -> str:
    """The job of the page's first measurement."""
    return job_key(lab_of(page), Lab.speed, (64, 64), (1, 16, 256), schemes_for(64))


def test_measured_again(page: AppTest) -> None:
    settle(page)
    key = first_round(page)
    before = kept.jobs().get(key)
    page.button(key="again").click().run()
    settle(page)
    after = kept.jobs().get(key)
    assert after is not None
    assert after is not before


def test_a_large_layer_waits_for_a_click_on_a_cpu(page: AppTest) -> None:
    page.query_params["shape"] = "Llama-3-8B gate"
    settle(page)
    assert not page.error
    assert "14336 x 4096 weights are much for a CPU: 16 tokens at most" in page.warning[0].value
    assert any(button.label == "Run it" for button in page.button)
    assert [shown["key"] for shown in figures_of(page)] == ["memory", "gptq"]
    assert "are being measured" in said(page)
    page.selectbox(key="gpu").set_value("H200").run()
    assert [shown["key"] for shown in figures_of(page)] == ["roofline", "bounds", "memory", "gptq"]


def test_a_recorded_run_says_so(page: AppTest, tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "matmul_h200.json").write_text("{}")
    page.query_params["run"] = RUN
    settle(page)
    assert not page.error
    assert f"**Recorded**, not measured now: {H100}, torch 2.11.0, 2026-11-25" in page.info[0].value
    assert "matmul_h200.json is no recorded run" in said(page)
    assert "1 token at once: faster than bf16 are W4A16 **2.00x**." in said(page)
    assert "1024 tokens at once: faster than bf16 are W8A8 dynamic **2.00x**." in said(page).replace(",", "")
    assert "**W4A16** loses beyond 32 tokens" in said(page)  # half way between 1 and 1024 on a log axis
    assert "`FP8_BLOCK` could not be measured: for a reason" in said(page)
    assert page.selectbox(key="gpu").value == "H100 SXM"
    star = figure_of(page, "times")["figure"]["data"][-1]
    assert values(star["x"]) == pytest.approx([32, 32])
    assert values(star["y"]) == pytest.approx([2**0.5, 2**0.5])  # bf16 goes from 1 to 2 ms
    split = figure_of(page, "split")["figure"]["data"]
    assert [trace["name"] for trace in split] == ["encode: x to codes", "product", "both in one call"]
    assert list(values(split[0]["x"])) == [1.0, 0.25]
    assert kept.jobs().get(first_round(page)) is None  # nothing ran here


def test_points_of_another_machine_are_hollow(page: AppTest, tmp_path: Path) -> None:
    record(tmp_path)
    page.query_params["run"] = RUN
    settle(page)

    def marks() -> list[str]:
        return [t["marker"]["symbol"] for t in figure_of(page, "roofline")["figure"]["data"] if "marker" in t]

    assert marks() == ["circle-open", "square", "circle"]
    page.selectbox(key="gpu").set_value("B200").run()
    assert marks() == ["circle-open", "square-open", "circle-open"]
    assert f"Hollow points: measured elsewhere, {H100}" in said(page)
    bounds = figure_of(page, "bounds")["figure"]["data"][0]
    assert values(bounds["y"])[0] == pytest.approx(gain_bound("W4A16", (14336, 4096), 1, GPUS["B200"]))


def test_from_a_live_run_to_a_recorded_one(page: AppTest, tmp_path: Path) -> None:
    record(tmp_path)
    settle(page)
    page.select_slider(key="at").set_value(16).run()
    page.selectbox(key="run").set_value(RUN).run()
    assert not page.exception
    assert not page.error
    assert figure_of(page, "split")["figure"]["layout"]["title"]["text"].endswith(("1 tokens", "1024 tokens"))


def test_the_card_is_the_footprint(page: AppTest, tiny_lm: LoadedModel, tmp_path: Path) -> None:
    record(tmp_path)
    page.query_params["run"] = RUN
    page.query_params.update({"context": "32768", "batch": "2", "kv": "8", "plans": "W4A16\nfloat"})
    settle(page)
    card = footprint(LLAMA_3_8B, "W4A16", 32768, 2, 8)
    weights = figure_of(page, "memory")["figure"]["data"][0]
    assert values(weights["x"])[0] == pytest.approx(card.weights_bytes / 1e9)
    assert f"({card.total_bytes / 1e9:.3g} GB)" in said(page)
    page.segmented_control(key="card").set_value("loaded").run()
    assert not page.error or "does not divide" in page.error[0].value
    page.text_area(key="plans").set_value("float\nw:int8/channel").run()
    own = footprint(ModelShape.of(tiny_lm.model, "tiny"), "w:int8/channel", 32768, 2, 8)
    assert values(figure_of(page, "memory")["figure"]["data"][0]["x"])[1] == pytest.approx(own.weights_bytes / 1e9)


def test_the_plan_that_the_card_opens_on_spares_the_models_own_first_block() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32))
    for shape, plan in ((ModelShape.of(model, "GPT-2"), "W4A16@h.0=W8A16"), (LLAMA_3_8B, "W4A16@layers.0=W8A16")):
        *_, spared = cards_for(shape)
        assert spared == plan
        assert footprint(shape, plan, 32, 1).weights_bytes > footprint(shape, "W4A16", 32, 1).weights_bytes


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"card": "typed", "typed": "32,4096"}, "is not six whole numbers"),
        ({"plans": "w:int4/grp"}, "no granularity is called 'grp'"),
        ({"plans": "\n".join(f"w:int4/group{2**n}" for n in range(2, 12))}, "takes one to 8"),
    ],
)
def test_a_wrong_card_leaves_the_rest_alive(
    page: AppTest, tmp_path: Path, state: dict[str, str], sentence: str
) -> None:
    record(tmp_path)
    page.query_params.update({"run": RUN, **state})
    settle(page)
    assert sentence in page.error[0].value
    assert [shown["key"] for shown in figures_of(page)] == ["times", "split", "roofline", "bounds"]
    assert len(page.table) == 3  # vLLM's kernels, what is native, and the rates


def test_the_table_names_what_is_native() -> None:
    table = speed_words.native_table().set_index("GPU")
    assert table.loc["A100 80GB", "FP8"] == "weights only"
    assert table.loc["H100 SXM", "FP8"] == "✓ fp8"
    assert table.loc["H100 SXM", "W4A4"] == "as int8"
    assert table.loc["B200", "fp4, groups of 16"] == "✓ fp4"
    assert set(table["W4A16, W8A16"]) == {"weights only"}
    assert list(speed_words.rates_table()["GPU"]) == list(GPUS)
    assert speed_words.reasons("FP8")[0].startswith("**T4, A10")
    assert "A100 80GB, RTX 3090**: fp8 tensor cores begin with Ada" in speed_words.reasons("FP8")[0]


def test_labels_tell_the_schemes_apart() -> None:
    texts = [
        "W8A8",
        "w:int8/channel,a:int8/tensor/static",
        "w:int8/channel,a:int8/tensor/dynamic",
        "FP8",
        "FP8_DYNAMIC",
    ]
    texts += ["w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/dynamic", "FP8_BLOCK", "W4A16", "W4A16_ASYM", "W4A16+g_idx", "W8A16"]
    assert len({figures.label(text) for text in texts}) == len(texts)
    assert len({figures.style(text) for text in texts}) == len(texts)
