"""Kept results: found again, told apart by everything they depend on, shared by two processes, never fatal."""

import sqlite3
import sys
from dataclasses import make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quantcore.measure.store import Question, Store, home, model_hash, shape_of, tokens_hash
from quantcore.model.loading import LoadedModel
from tests import forked

QUESTION = Question("evaluation", "w:int4/group128", "reference", "abc", "def", "cpu", {"torch": "2.13.0"})
ARRAYS = {"kl": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_an_answer_comes_back(tmp_path: Path) -> None:
    Store(tmp_path).put(QUESTION, {"kl": 0.1, "lo": -np.inf}, ARRAYS)
    found = Store(tmp_path).get(QUESTION)
    assert found is not None
    assert found.figures == {"kl": 0.1, "lo": -np.inf}
    assert np.array_equal(found.arrays["kl"], ARRAYS["kl"])
    assert found.made.startswith("20")


@pytest.mark.parametrize("part", ["kind", "scheme", "model_hash", "text_hash", "device"])
def test_another_question_is_another_row(tmp_path: Path, part: str) -> None:
    store = Store(tmp_path)
    store.put(QUESTION, {"kl": 1}, {})
    assert store.get(replace(QUESTION, **{part: "other"})) is None
    assert store.get(replace(QUESTION, versions={"torch": "3"})) is None
    store.put(QUESTION, {"kl": 2}, {})
    assert store.count() == 1
    assert store.kept([replace(QUESTION, **{part: "other"}), QUESTION]) == [False, True]
    found = store.get(QUESTION)
    assert found is not None
    assert found.figures == {"kl": 2}


@pytest.mark.parametrize("spoil", ["not a database", "half"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, spoil: str) -> None:
    store = Store(tmp_path)
    for row in range(40):
        store.put(replace(QUESTION, scheme=str(row)), {"kl": row}, {"x": np.random.default_rng(row).random(500)})
    whole = store.path.read_bytes()
    middle = len(whole) // 2
    store.path.write_bytes(b"no database" * 500 if spoil != "half" else whole[:4096] + b"\xff" * middle)
    fresh = Store(tmp_path)
    fresh.put(QUESTION, {"kl": 3}, {})
    found = fresh.get(QUESTION)
    assert found is not None
    assert found.figures == {"kl": 3}
    assert fresh.notice is not None
    assert "was damaged" in fresh.notice
    assert len(list(tmp_path.glob("damaged-*.sqlite"))) == 1


def test_who_sees_the_damage_second_leaves_the_new_file(tmp_path: Path) -> None:
    """Two servers meet the damage at once: the one that is late must not set aside what the other has begun."""
    early, late = Store(tmp_path), Store(tmp_path)
    tmp_path.joinpath("results.sqlite").write_bytes(b"no database" * 500)
    early.put(QUESTION, {"kl": 1}, {})
    late._set_aside(sqlite3.DatabaseError("file is not a database"))
    assert len(list(tmp_path.glob("damaged-*.sqlite"))) == 1
    assert late.get(QUESTION) is not None


@pytest.mark.parametrize("left", [0, 10, 100, 5000, 9000])
def test_a_file_cut_short_is_never_fatal(tmp_path: Path, left: int) -> None:
    store = Store(tmp_path)
    for row in range(20):
        store.put(replace(QUESTION, scheme=str(row)), {"kl": row}, {"x": np.random.default_rng(row).random(500)})
    store.path.write_bytes(store.path.read_bytes()[:left])
    fresh = Store(tmp_path)
    assert fresh.get(QUESTION) is None
    fresh.put(QUESTION, {"kl": 3}, {})
    found = fresh.get(QUESTION)
    assert found is not None
    assert found.figures == {"kl": 3}
    assert (fresh.notice is None) == (left == 0)  # an empty file is a new one


def test_a_damaged_row_is_measured_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(QUESTION, {"kl": 1}, ARRAYS)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE results SET arrays = ?", (b"half",))
    connection.close()
    assert store.get(QUESTION) is None
    store.put(QUESTION, {"kl": 1}, ARRAYS)
    assert store.get(QUESTION) is not None


def test_a_row_of_another_shape_is_let_go(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(QUESTION, {"kl": 1}, ARRAYS)
    assert store.get(QUESTION, lambda answer: answer.figures["kl"]) is not None
    assert store.get(QUESTION, lambda answer: answer.figures["perplexity"]) is None
    assert store.kept([QUESTION]) == [False]
    assert store.get(QUESTION) is None


def test_a_question_is_another_where_its_records_have_other_fields() -> None:
    def made(*names: str) -> type:
        return make_dataclass("Report", [(name, float) for name in names])

    assert shape_of(made("kl", "bytes")) == shape_of(made("kl", "bytes"))
    others = [made("kl"), made("bytes", "kl"), make_dataclass("Report", [("kl", float), ("bytes", int)])]
    assert len({shape_of(made("kl", "bytes")), *map(shape_of, others)}) == 4


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file")
    store.put(QUESTION, {}, {})
    assert store.get(QUESTION) is None
    assert store.notice is not None
    assert "set QUANT_HOME" in store.notice


def test_two_processes_share_the_file(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, numpy as np\n"
        "from quantcore.measure.store import Store, Question\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "for n in range(30):\n"
        "    store.put(Question('k', f'{sys.argv[2]}{n}', 'm', 'h', 't', 'd', {}), {'n': n}, {'x': np.ones(1000)})\n"
        "assert store.notice is None, store.notice\n"
    )
    log = tmp_path / "said"
    running = [forked.start("-c", program, str(tmp_path), who, out=log, err=log) for who in "ab"]
    assert [process.wait(60) for process in running] == [0, 0], log.read_text()
    assert Store(tmp_path).count() == 60


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    assert home() == tmp_path
    assert Store().path == tmp_path / "results.sqlite"
    monkeypatch.delenv("QUANT_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert home() == tmp_path / "data" / "quantization-lab"


def test_hashes_see_one_changed_number(tiny_lm: LoadedModel) -> None:
    linear = torch.nn.Linear(300, 40, bias=False)
    before = model_hash(linear)
    assert model_hash(linear) == before
    with torch.no_grad():
        linear.weight[17, 200] += 1e-4
    assert model_hash(linear) != before
    assert len(model_hash(tiny_lm.model)) == 16
    tokens = torch.arange(12).view(3, 4)
    assert tokens_hash(tokens) == tokens_hash(tokens.clone())
    assert len({tokens_hash(tokens), tokens_hash(tokens.view(4, 3)), tokens_hash(tokens, tokens)}) == 3
