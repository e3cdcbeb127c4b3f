"""A name with an underscore is its module's own: no other module takes it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("quantcore", "ui", "pages", "benchmarks", "tools", "tests")
FILES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py")) + [ROOT / "app.py", ROOT / "serve.py"]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def taken(source: str) -> Iterator[str]:
    """Private names of our modules that a file imports, or reads off a module that it imported."""
    tree = ast.parse(source)
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            yield from (f"{node.module}.{alias.name}" for alias in node.names if private(alias.name))
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.islower()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            if private(node.attr):
                yield f"{node.value.id}.{node.attr}"


def test_it_sees_both_ways_of_taking_one() -> None:
    source = "from quantcore.methods.gptq import _one, two\nfrom ui import cached\ncached._store()\nself._x\ntwo.x"
    assert list(taken(source)) == ["quantcore.methods.gptq._one", "cached._store"]


def test_no_private_name_crosses_a_module() -> None:
    found = {str(path.relative_to(ROOT)): list(taken(path.read_text(encoding="utf-8"))) for path in FILES}
    assert len(found) > 600
    assert {path: names for path, names in found.items() if names} == {}
