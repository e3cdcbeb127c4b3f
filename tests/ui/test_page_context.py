"""The page Context lens: a job along the context, drawn as it is; bytes against a GPU; lines that are no cache."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest
from transformers import MambaConfig, MambaForCausalLM

from quantcore.studies import retrieval
from quantcore.studies.context_lens import FLOAT, RECALLED, ContextLens
from tests.apptest_helpers import figure_of, figures_of, lab_of, new_server, said, settle, values
from tests.apptest_helpers import page as open_page
from tests.tiny import VOCAB, tiny_tokenizer
from ui.components.palette import INK
from ui.figures import context as figures
from ui.words import context as words

ASKED = {"window": 128}


@pytest.fixture
def page(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    return open_page("13_Context_lens", model=tiny_model_dir, **ASKED)


def test_it_opens_on_caches_that_the_model_takes(page: AppTest) -> None:
    settle(page)
    assert not page.error
    assert [shown["key"] for shown in figures_of(page)] == ["along", "flips", "recall", "growth"]
    lines = page.text_area(key="caches").value.splitlines()
    assert lines == ["kv:fp8_e4m3/tensor", "kv:int8/token", "kv:int4/group16"]  # head_dim is 16
    caches = ("kv:fp8_e4m3/tensor/static", "kv:int8/token/dynamic", "kv:int4/group16/dynamic")
    found = lab_of(page).context_lens(caches, "evaluation/all|5x128")
    assert words.headline(found) in said(page)
    drawn = {one["name"]: values(one["y"]) for one in figure_of(page, "along")["figure"]["data"] if "name" in one}
    means = [one.value for one in found.along(found.kl[caches[2]])]
    assert drawn[caches[2]].tolist() == pytest.approx(means)
    bars = figure_of(page, "recall")["figure"]["data"]
    assert [bar["x"] for bar in bars] == [[FLOAT], *([name] for name in caches)]
    rows = page.table[0].value
    assert f"{found.held[caches[2]]:,}" in rows.to_string()


def test_a_line_that_is_no_cache_is_said(page: AppTest) -> None:
    page.query_params["caches"] = "kv:int8/token\nW8A8"
    settle(page)
    assert any("must speak of the cache alone" in one.value for one in page.error)


def test_a_model_without_attention_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "home"))
    new_server()
    config = MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, state_size=4, bos_token_id=0)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tiny_tokenizer().save_pretrained(tmp_path / "mamba")
    at = settle(open_page("13_Context_lens", model=tmp_path / "mamba"))
    assert [one.value for one in at.error] == [
        "this mamba has no attention, so it keeps no keys and values; name a model that does"
    ]


def test_facts_are_asked_for_with_a_button(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUESTION", "\n{}:")  # its tokenizer takes a token for almost each letter
    page.query_params["window"] = "256"
    page.query_params["caches"] = "kv:int8/token"
    settle(page)
    assert "facts" not in [shown["key"] for shown in figures_of(page)]
    next(button for button in page.button if button.label == "Ask for facts placed early").click()
    settle(page)
    assert not page.error
    found = lab_of(page).retrieval(("kv:int8/token/dynamic",), "evaluation/all|5x256")
    assert words.facts(found) in said(page)
    assert figure_of(page, "facts")["figure"]["data"][1]["name"] == "kv:int8/token/dynamic"


def test_bytes_follow_the_sequences(page: AppTest) -> None:
    settle(page)
    before = figure_of(page, "growth")["figure"]["data"]
    page.select_slider(key="at_once").set_value(16).run()
    after = figure_of(page, "growth")["figure"]["data"]
    lab = lab_of(page)
    one, two = (lab.footprint("loaded", FLOAT, 131072, count) for count in (8, 16))
    assert values(before[0]["y"])[-1] == pytest.approx(one.total_bytes / 1e9)
    assert values(after[0]["y"])[-1] == pytest.approx(two.total_bytes / 1e9)


def lens(kl: torch.Tensor, gain: float) -> ContextLens:
    once = torch.zeros(len(kl), kl.shape[1] + RECALLED - 1)
    said = {FLOAT: once.clone(), "kv:int8/token": once.clone()}
    said[FLOAT][:, -RECALLED + 1 :] = gain + torch.arange(len(kl))[:, None] * 0.01
    said["kv:int8/token"][:, -RECALLED + 1 :] = 0.5 * gain
    return ContextLens({"kv:int8/token": kl}, {"kv:int8/token": kl > 0}, said, {FLOAT: 400, "kv:int8/token": 100})


def test_what_is_said_by_hand() -> None:
    kl = torch.full((6, 64), 0.1)
    found = lens(kl, 2.0)
    assert words.headline(found) == (
        "`kv:int8/token` loses **0.1** nats a token; the loss hardly depends on the position (1.00 times as much in "
        "the second half)."
    )
    kl[:, 32:] = 0.4
    assert "grows along the context: 4.0 times as much in the second half" in words.headline(lens(kl, 2.0))
    assert "shrinks along the context: 4.0 times" in words.headline(lens(kl.flip(1), 2.0))
    assert "`kv:int8/token` keeps **49%**" in words.recalled(found)
    assert "nothing can be lost of it" in words.recalled(lens(kl, -1.0))
    assert words.recalled(lens(kl[:2], 2.0)) == (
        "2 windows are too few to say: in them the first tokens of a window are 2.00 nats likelier at its end."
    )
    assert "not told apart from 100%" not in words.recalled(found)
    found.said["kv:int8/token"][:, -RECALLED + 1 :] = found.said[FLOAT][:, -RECALLED + 1 :]
    assert "`kv:int8/token` keeps **100%**, not told apart from 100%." in words.recalled(found)
    more = {"kv:int4/token": 0.2 * found.said["kv:int8/token"]}
    both = replace(found, kl={**found.kl, "kv:int4/token": kl}, said={**found.said, **more})
    assert words.recalled(both).endswith(
        "`kv:int8/token` keeps **100%** (not told apart from 100%), `kv:int4/token` keeps **20%**."
    )
    same = replace(both, said={**both.said, "kv:int4/token": both.said[FLOAT]})
    assert words.recalled(same).endswith("keeps **100%**; on these windows none of these is told apart from 100%.")
    (row,) = words.rows(found, 32)  # 100 of 400 bytes; 16 bits a number would take 200
    assert (row["of a 16-bit cache"], row["next tokens that change"]) == ("50.0%", "100.0%")
    assert words.rows(found, 16)[0]["of a 16-bit cache"] == "25.0%"


def test_two_caches_are_named_as_least_and_most() -> None:
    found = lens(torch.full((6, 64), 0.1), 2.0)
    more = {"kv:int2/token": torch.full((6, 64), 0.4)}
    both = replace(found, kl={**found.kl, **more}, flips={**found.flips, "kv:int2/token": more["kv:int2/token"] > 0})
    said = words.headline(both)
    assert said.startswith(
        "`kv:int8/token` loses least, **0.1** nats a token, `kv:int2/token` most, **0.4**; of the lat"
    )


def test_keys_or_values_are_blamed_where_both_are_coded_alone() -> None:
    found = lens(torch.full((6, 64), 0.1), 2.0)
    assert words.blame(found) == ""
    sides = {"k:int4/token": torch.full((6, 64), 0.6), "v:int4/token": torch.full((6, 64), 0.1)}
    assert words.blame(replace(found, kl=sides)) == "Coded alone, **keys** lose **6** times as much as values."
    turned = dict(zip(sides, reversed(sides.values()), strict=True))
    assert words.blame(replace(found, kl=turned)) == "Coded alone, **values** lose **6** times as much as keys."
    assert (
        words.blame(replace(found, kl={"k:int4/token": sides["k:int4/token"], "v:int8/token": sides["v:int4/token"]}))
        == ""
    )


def test_a_band_that_holds_0_is_drawn_down_to_the_axis() -> None:
    few = torch.full((6, 64), 0.1)
    few[:, :4] = torch.tensor([0.6, 0.0, 0.0, 0.0, 0.0, 0.0])[:, None]  # one window alone: a mean of 0.1 +- 0.1
    found = lens(few, 2.0)
    first = found.along(few)[0]
    assert first.lo < 0 < first.hi
    band, line = figures.along(found).data
    assert (band.x[0], band.x[-1], len(band.x)) == (2.0, 2.0, 2 * len(line.x))
    assert band.y[0] == pytest.approx(first.hi)
    assert band.y[-1] == pytest.approx(0.1 / 5)  # the floor: the least mean over 5
    fig = figures.along(found)
    assert fig.layout.title.text == "KL along the context (95% bands; some go below the axis)"
    assert 10 ** fig.layout.yaxis.range[0] == pytest.approx(0.1 / 5)
    one = figures.along(lens(few[:1], 2.0))
    assert ([trace.fill for trace in one.data], one.layout.title.text) == ([None], "KL along the context")


def test_whiskers_are_seen_in_the_dark() -> None:
    assert {bar.error_y.color for bar in figures.recall(lens(torch.full((6, 64), 0.1), 2.0)).data} == {INK}


def test_the_words_of_the_weights_stand_where_every_cache_has_left_them() -> None:
    """At the left all caches begin on the weights; at the right even one sequence of the finest has grown."""
    contexts = (1024, 131072)
    drawn = figures.growth(contexts, {FLOAT: [17, 33], "kv:int4/token": [16, 20]}, 16, "H100 SXM", 80.0)
    words_at = {trace.text[place]: place for trace in drawn.data if trace.text for place in (0, 1) if trace.text[place]}
    assert words_at == {"H100 SXM is full": 0, "weights alone": 1}


def test_the_whole_memory_is_named() -> None:
    assert "`float` **any**" in words.reach({FLOAT: None}, 8, "H100 SXM", 80)
    said = words.reach({FLOAT: 60829}, 8, "H100 SXM", 80)
    assert "all 80 GB of the H100 SXM hold so many tokens for each of 8 sequences: `float` **60,829**" in said
    assert "keeps to 90% of the memory" in said
