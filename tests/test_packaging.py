"""What is installed is what the clone runs: one list of dependencies, and a wheel that holds all that it needs."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.browser_fixtures import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = re.compile(r"^([\w-]+)==([\w.]+)[^#\n]*#", re.MULTILINE)  # a pin whose purpose stands beside it is ours
ASKED = re.compile(r"^([\w-]+)>=([\w.]+)")
ON_THE_WAY = {"triton", "loguru"}  # come with torch's CUDA builds, and with compressed-tensors, which speaks through it
THEIRS = {"quantcore", "ui"}


def pins(file: str) -> dict[str, str]:
    return dict(OURS.findall((ROOT / file).read_text(encoding="utf-8")))


def asked(lines: list[str]) -> dict[str, str]:
    found = [ASKED.match(line) for line in lines if not line.startswith(PYPROJECT["name"])]
    return {one[1]: one[2] for one in found if one is not None}


def imported(*places: str) -> set[str]:
    """The distributions that the files import, besides Python's own."""
    files = [file for place in places for file in ([ROOT / place] if "." in place else (ROOT / place).rglob("*.py"))]
    names = {
        name
        for file in files
        for name in re.findall(r"^\s*(?:import|from) (\w+)[\w. ]*(?:import|$|,| as)", file.read_text("utf-8"), re.M)
    }
    known = packages_distributions()
    return {
        known[name][0].lower().replace("_", "-") for name in names - THEIRS - sys.stdlib_module_names if name in known
    }


def test_pins_and_dependencies_are_one_list() -> None:
    extras = PYPROJECT["optional-dependencies"]
    assert asked(PYPROJECT["dependencies"]) | asked(extras["app"]) == pins("requirements.txt")
    assert asked(extras["test"]) == pins("requirements-dev.txt")


def test_what_is_imported_is_asked_for() -> None:
    core = set(asked(PYPROJECT["dependencies"]))
    assert {"torch", "safetensors"} <= imported("quantcore") <= core | ON_THE_WAY
    app = set(asked(PYPROJECT["optional-dependencies"]["app"]))
    assert {"streamlit", "plotly"} <= imported("ui", "pages", "app.py", "serve.py") <= core | app


def test_the_readme_says_what_each_is_for() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What it stands on")[2]
    named = set(re.findall(r"[\w-]+", " ".join(line.split("|")[1] for line in table.splitlines() if line[:2] == "| ")))
    assert pins("requirements.txt").keys() | pins("requirements-dev.txt").keys() <= named


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which this clone's wheel has been unpacked."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    made = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]  # what pip asks of it
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=600)
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(made / "site")
    return made / "site"


def test_a_wheel_measures_in_another_folder(installed: Path, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); from quantcore.__main__ import run; "
        "import quantcore; print(quantcore, file=sys.stderr); sys.exit(run())"
    )
    command = [sys.executable, "-c", program, "evaluate", "--scheme", "W8A8", "--max-tokens", "512"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stderr
    assert 20 < float(re.search(r'"perplexity": ([\d.]+)', done.stdout)[1]) < 30


def test_a_wheel_holds_the_pages(installed: Path) -> None:
    home = installed / "quantization_lab"
    for folder in ("pages", "ui"):
        sent = {str(file.relative_to(home)) for file in (home / folder).rglob("*") if file.is_file()}
        here = {str(file.relative_to(ROOT)) for file in (ROOT / folder).rglob("*") if "__pycache__" not in file.parts}
        assert sent == {name for name in here if (ROOT / name).is_file()}
    for name in ("app.py", "serve.py", ".streamlit/config.toml", "benchmarks/results/matmul.json"):
        assert (home / name).read_bytes() == (ROOT / name).read_bytes()
    command = dict(re.findall(r"(\w+) = (\S+)", next(installed.glob("*/entry_points.txt")).read_text("utf-8")))
    assert command == {"quantcore": "quantcore.__main__:run"}
