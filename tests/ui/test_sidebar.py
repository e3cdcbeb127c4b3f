"""The sidebar: which model, which text, how much of it; what is wrong with either is one sentence on the page."""

import io
import json
import os
import re
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

from quantcore.lab import bench
from quantcore.lab.house import default_device
from quantcore.model import loading as models
from quantcore.model.loading import LoadedModel
from quantcore.model.locate import Place
from quantcore.text.files import LoadedText
from quantcore.text.reading import Reading
from quantcore.text.windows import bundled_text, token_windows
from tests.apptest_helpers import errors, figures_of, lab_of, page
from tests.fake_hub import COMMIT
from tests.forked import run
from tests.text.test_texts import one_text_in_every_row
from ui import kept, sidebar
from ui.job import Job
from ui.markdown import code
from ui.sidebar import CATALOG, DATA_SET, OWN

RSS_UNIT = 1 if sys.platform == "linux" else 1024  # ru_maxrss is in kilobytes there, in bytes on macOS
LAYER = "model.layers.1.mlp.down_proj"
KEEPER = "The lighthouse keeper climbed the stairs and lit the lamp before the storm came in. " * 40


def captions(at: AppTest) -> str:
    return "\n".join(caption.value for caption in at.caption)


def test_the_first_screen_asks_nothing_of_models_and_texts() -> None:
    at = page("").run()
    assert errors(at) == []
    assert [button for button in at.button if str(button.key).startswith("try_")] == []
    assert "tokens**" not in captions(at)


def test_the_list_of_models_and_a_choice_from_it(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = page("", model=tiny_model_dir, layer=LAYER).run()
    monkeypatch.setattr(sidebar, "cached_models", lambda: ["owner/mine", "openai-community/gpt2"])
    at.session_state["models"] = True
    at.run()
    listed = [button.key for button in at.button if str(button.key).startswith("try_")]
    assert listed == [*(f"try_{entry.id}" for entry in CATALOG), "try_owner/mine"]
    assert "15.7 M: ships with the lab and needs no network" in captions(at)
    assert "in the hub's cache" in captions(at)
    at.button(key="try_reference").click().run()
    assert (at.text_input(key="model").value, at.session_state["models"]) == ("reference", False)


def test_counts_preview_and_what_pins_both(tiny_model_dir: Path, tiny_lm: LoadedModel) -> None:
    at = page("2_Granularity", model=tiny_model_dir, layer=LAYER, text=OWN, own=KEEPER).run()
    assert errors(at) == []
    count = len(tiny_lm.tokenizer(KEEPER, add_special_tokens=False)["input_ids"])
    assert f"1 document, **{count:,} tokens**; the pages read 2 sequences of 256. SHA-256 `" in captions(at)
    assert LoadedText("", (KEEPER,)).hash in captions(at)
    at.session_state["reading"] = True
    at.run()
    assert at.sidebar.code[0].value == KEEPER[:600]
    assert f"revision `{tiny_lm.revision}`" in captions(at)


def test_number_and_length_of_sequences_reach_the_page(tiny_model_dir: Path, tiny_lm: LoadedModel) -> None:
    at = page("2_Granularity", model=tiny_model_dir, layer=LAYER, sequences=4, length=64).run()
    assert errors(at) == []
    own = page("2_Granularity", model=tiny_model_dir, layer=LAYER).run()
    assert figures_of(at) != figures_of(own)
    text = bundled_text("evaluation", "encyclopedia")
    expected = token_windows(tiny_lm.tokenizer, text, 64, 256)
    assert lab_of(at).tokens("evaluation/encyclopedia|4x64").equal(expected)
    at.select_slider(key="length").set_value(512).run()
    at.select_slider(key="sequences").set_value(8).run()
    assert errors(at) == [
        "8 sequences of 512 tokens are 4,096, and the pages draw at most 2,048; take fewer or shorter ones"
    ]


def job_of(model: str) -> Job | None:
    """The job that loads a model."""
    return kept.jobs().get(kept.load_key(kept.shared_lab(model, default_device())))


def upload(at: AppTest, name: str, content: bytes) -> AppTest:
    at.file_uploader(key="upload").set_value((name, content, "application/octet-stream"))
    return at.run()


def test_uploads_are_read_and_refused_in_a_sentence(tiny_model_dir: Path) -> None:
    at = page("2_Granularity", model=tiny_model_dir, layer=LAYER, text=OWN).run()
    upload(at, "two.jsonl", b'{"text": "The key."}\n{"text": "The letter on the table."}\n')
    assert errors(at) == []
    assert "2 documents, **" in captions(at)
    assert "`two.jsonl` is read. It stays on the server for this session and is **not in the link**." in captions(at)
    table = io.BytesIO()
    pd.DataFrame({"prompt": ["x"]}).to_parquet(table)
    for name, content, sentence in (
        ("bad.jsonl", b'{"q": 1}', "'bad.jsonl', line 1, has no field 'text' or 'messages' (it has q); rename one"),
        ("empty.txt", b"", "'empty.txt' is empty, and a model needs a sentence to read; give one"),
        ("t.parquet", table.getvalue(), "'t.parquet' has no column 'text' or 'messages' (it has prompt); rename one"),
        ("big.txt", b"a" * 50_000_000, "the text has 50.0 MB, the limit is 20 MB; give a part of it"),
    ):
        assert errors(upload(at, name, content)) == [sentence]
    assert errors(upload(at, "good.txt", b"The key is on the table.")) == []


@pytest.mark.parametrize("key", ["upload", "learn_upload"])
def test_a_small_table_that_decodes_to_much_is_refused_and_the_next_text_is_read(
    tiny_model_dir: Path, key: str
) -> None:
    asked = {"text": OWN} if key == "upload" else {"learn_from": OWN}
    at = page("2_Granularity", model=tiny_model_dir, layer=LAYER, **asked).run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    at.file_uploader(key=key).set_value(("bomb.parquet", one_text_in_every_row(), "application/octet-stream")).run()
    assert errors(at) == ["'bomb.parquet' holds more than 20 MB of text; give a part of it"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000 * RSS_UNIT  # it decodes to 1.5 GB
    at.file_uploader(key=key).set_value(("good.txt", b"The key is on the table. " * 20, "text/plain")).run()
    assert errors(at) == []


@pytest.mark.parametrize(
    "name", ["../../x.txt", "n" * 300 + ".txt", "![x](http://evil.test/a.png).txt", "a`b``c.txt", " .txt", "\n# x.txt"]
)
def test_an_upload_by_any_name_is_a_text(tiny_model_dir: Path, name: str) -> None:
    at = page("2_Granularity", model=tiny_model_dir, layer=LAYER, text=OWN).run()
    upload(at, name, b"The key is on the table. " * 20)
    assert errors(at) == []
    assert f"{code(name)} is read. It stays on the server for this session and is **not in the link**." in captions(at)
    upload(at, name, b"\xff\xfe")
    (said,) = errors(at)
    assert re.search(r"is not UTF-8 text \(byte 0\); save it as UTF-8$", said)
    assert len(said) < 400


def test_a_chat_template_is_offered_where_there_is_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    own = {"layer": LAYER, "text": OWN, "own": "Where is the key?"}
    at = page("2_Granularity", model=tiny_model_dir, **own).run()
    assert "chat" not in [toggle.key for toggle in at.toggle]
    at = page("2_Granularity", model=tiny_model_dir, chat="true", **own).run()
    assert errors(at) == ["this model's tokenizer has no chat template, so 'your text' can only be read as it is"]
    folder = shutil.copytree(tiny_model_dir, tmp_path / "chats")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    at = page("2_Granularity", model=folder, **own).run()
    at.toggle(key="chat").set_value(True).run()
    assert errors(at) == []
    at.session_state["reading"] = True
    assert at.run().sidebar.code[0].value == "<user>Where is the key?"


def test_a_calibration_text_of_your_own_reaches_what_learns(
    tiny_model_dir: Path, tiny_lm: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[torch.Tensor] = []
    cut = Reading.tokens
    monkeypatch.setattr(Reading, "tokens", lambda *asked: read.append(cut(*asked)) or read[-1])
    link = {"learn_from": OWN, "learn_own": KEEPER, "learn_length": 64, "learn_sequences": 4}
    at = page("16_Take_it_with_you", model=tiny_model_dir, layer=LAYER, scheme="w:int4/group32,gptq", **link).run()
    assert errors(at) == []
    text = LoadedText("your text", (KEEPER,))
    expected = token_windows(tiny_lm.tokenizer, KEEPER, 64, 256)
    assert any(one.equal(expected) for one in read)
    assert f"the pages read 4 sequences of 64. SHA-256 `{text.hash}`" in captions(at)
    assert f"From 256 tokens of your text (SHA-256 {text.hash}): GPTQ's Hessians" in captions(at)
    command = next(one.value for one in at.code if one.value.startswith("python -m quantcore quantize"))
    assert command.endswith("--text your-text.txt --window 64 --max-tokens 256")
    at.session_state["calibrating"] = True
    assert KEEPER[:600] in [one.value for one in at.run().sidebar.code]
    table = io.BytesIO()
    pd.DataFrame({"text": ["The key is on the table.", "So is the letter."]}).to_parquet(table)
    at.file_uploader(key="learn_upload").set_value(("mine.parquet", table.getvalue(), "application/octet-stream"))
    assert "of mine.parquet (SHA-256 " in captions(at.run())
    at.button(key="reset").click().run()
    assert errors(at) == []
    assert "An equal share of each of the five kinds" in captions(at)


def test_page_4_offers_the_sidebars_calibration_text(tiny_model_dir: Path) -> None:
    at = page("4_Static_or_dynamic", model=tiny_model_dir, layer=LAYER, learn_from=OWN, learn_own=KEEPER)
    at.run()
    before = figures_of(at)
    at.selectbox(key="cal").set_value("the sidebar's").run()
    assert errors(at) == []
    assert figures_of(at) != before


def test_a_data_set_is_one_more_text(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def given(name: str) -> LoadedText:
        asked.append(name)
        if name == "owner/none":
            raise ValueError("could not load the data set 'owner/none': the hub has no such id")
        return LoadedText(name, ("A line.", "Another line."))

    monkeypatch.setattr(kept, "hub_text", given)
    kept.data_set.clear()
    at = page("2_Granularity", model=tiny_model_dir, layer=LAYER, text=DATA_SET).run()
    assert (errors(at), asked) == ([], ["wikitext-2"])
    assert "2 documents, **" in captions(at)
    at.text_input(key="dataset").set_value("owner/none").run()
    assert errors(at) == ["could not load the data set 'owner/none': the hub has no such id"]
    kept.data_set.clear()


def test_a_model_that_must_come_first_is_loaded_by_a_job(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any model counts as large here; the page shows nothing of it until the job is done, and then all."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "large")
    monkeypatch.setattr(kept, "LOAD_AT_ONCE_BYTES", 0)
    told: list[str] = []

    def load(*asked: Any) -> LoadedModel:
        return models.load_model(asked[0], asked[1], lambda share, doing: told.append(doing))

    monkeypatch.setattr(bench, "load_model", load)
    at = page("2_Granularity", model=folder, layer=LAYER).run()
    if not at.get("select_slider"):  # a busy machine: the job took longer than a page waits
        job = job_of(str(folder))
        assert job is None or job.ended.wait(60)
        at.run()
    assert errors(at) == []
    assert told[-1] == "reading tensor 21 of 21"
    assert len(figures_of(at)) > 0
    assert not kept.takes_long(lab_of(at))
    assert job_of(str(folder)) is None


def test_a_model_that_cannot_be_had_is_a_sentence_and_a_way_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*asked: Any) -> LoadedModel:
        if asked[0] == "owner/nothing":
            raise ValueError("could not load 'owner/nothing': the hub has no such id")
        return models.load_model(*asked)

    monkeypatch.setattr(bench, "load_model", load)
    at = page("", model="owner/nothing").run()
    job = job_of("owner/nothing")
    assert job is not None
    assert job.ended.wait(60)
    at.run()
    assert errors(at) == ["could not load 'owner/nothing': the hub has no such id"]
    assert "Run it again" in [button.label for button in at.button]
    at.text_input(key="model").set_value("reference").run()
    assert errors(at) == []


def test_a_model_too_large_for_the_memory_names_the_way_that_is_left(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "large")
    monkeypatch.setattr(kept, "LOAD_AT_ONCE_BYTES", 0)
    monkeypatch.setattr("quantcore.model.memory.free_memory", lambda _: (100_000, 2**30))
    at = page("", model=folder).run()
    job = job_of(str(folder))
    assert job is not None
    assert job.ended.wait(60)
    (sentence,) = errors(at.run())
    assert "needs 0.4 MiB of memory and this machine has 0.1 MiB of 1.00 GiB free; take a smaller model" in sentence
    assert sentence.endswith(f"stays in its files: `python -m quantcore quantize --model {folder} ...`")


def test_what_a_models_reader_should_know_stands_in_the_sidebar(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    folder = shutil.copytree(tiny_model_dir, tmp_path / "noticed")
    notice = "The weights of it.gguf were quantized before."
    monkeypatch.setattr(bench, "load_model", lambda *a: replace(models.load_model(*a), notices=(notice,)))
    at = page("2_Granularity", model=folder, layer=LAYER).run()
    assert [info.value for info in at.sidebar.info] == [notice]
    assert re.fullmatch(r"sha256:\w{16}", Place(folder).revision)


PAGE = """
import json, os, sys
from pathlib import Path
from tests.fake_hub import fake_hub

def shown():
    told = []
    bench.load_model = lambda name, device, tell: models.load_model(
        name, device, lambda share, doing: (told.append(doing.split(" ")[0]), tell(share, doing)))
    asked = {"text": DATA_SET, "learn_from": DATA_SET, "layer": "model.layers.1.mlp.down_proj"}
    at = page("2_Granularity", model="tiny/model", **asked)
    at.session_state["reading"] = True
    at.run()
    for job in kept.jobs().unfinished():
        job.ended.wait(100)
        at.run()
    captions = [one.value for one in at.caption]
    return {"errors": [one.value for one in at.error], "told": sorted(set(told)), "captions": captions}

model, texts = map(Path, sys.argv[1:])
with fake_hub({"tiny/model": model}, {"Salesforce/wikitext": texts}) as address:
    os.environ["HF_ENDPOINT"] = address
    from quantcore.lab import bench
    from quantcore.model import loading as models
    from tests.apptest_helpers import new_server, page
    from ui import kept
    from ui.sidebar import DATA_SET
    first = shown()
new_server()
print(json.dumps([first, shown()]))
"""


def test_a_model_and_a_data_set_of_the_hub_and_then_without_a_network(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The whole way, from a hub on this machine, in a process of its own, where the hub's address is read once; then
    the hub is gone and the server new."""
    table = tmp_path / "wikitext" / "wikitext-2-raw-v1" / "test-00000-of-00001.parquet"
    table.parent.mkdir(parents=True)
    pd.DataFrame({"text": [f"Lamp {k} was lit at {k} past nine.\n" for k in range(60)]}).to_parquet(table)
    home = {"HF_HOME": str(tmp_path / "hf"), "QUANT_HOME": str(tmp_path / "kept")}
    env = {**os.environ, **home, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = run("-c", PAGE, str(tiny_model_dir), str(tmp_path / "wikitext"), env=env, timeout=240)
    assert done.returncode == 0, done.stderr[-800:]
    first, again = json.loads(done.stdout.splitlines()[-1])
    assert first["errors"] == []
    assert first["told"] == ["asking", "building", "downloading", "reading"]
    assert f"Model `tiny/model`, revision `{COMMIT}`" in first["captions"]
    assert [one.startswith("Calibration: 60 documents, **") for one in first["captions"]].count(True) == 1
    assert (again["errors"], again["captions"]) == ([], first["captions"])
    assert again["told"] == ["building", "reading"]
