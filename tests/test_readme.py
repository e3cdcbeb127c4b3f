"""The README's example runs as it stands, and its files and commands exist."""

import re

import pytest

from tests.browser_fixtures import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    """But on an eighth of its calibration text and a quarter of the other, whose lengths it says once each."""
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    for limit, fewer in (("limit=1024", "limit=256"), ("limit=4096", "limit=512")):
        assert code.count(limit) == 1
        code = code.replace(limit, fewer)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    perplexities = {
        line.split()[0]: float(re.split(r"-> |, KL", line)[1]) for line in said.splitlines() if "->" in line
    }
    assert list(perplexities) == ["W8A8", "FP8", "W4A16", "w:int3/group128/asym", "w:int4/tensor"]
    assert perplexities["W8A8"] < perplexities["W4A16"] < perplexities["w:int4/tensor"]


def test_the_tree_names_what_exists() -> None:
    tree = re.findall(r"```\n(app\.py.*?)```", README, re.DOTALL)[0]
    for line in tree.splitlines():
        for name in re.split(r"\s{2,}", line)[0].split(", "):
            folder = ROOT / line.split("/")[0] if "/" in line and "/" not in name else ROOT
            assert (folder / name).exists() or (ROOT / name).exists(), f"{name} of the README's tree is not there"


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"run", "test", "check", "bench"} <= targets
