"""What all tests share: a tiny random language model (tests/tiny.py), its own home and random numbers for each.

tiny_model_dir   the folder: config, safetensors, tokenizer; load it with load_model(str(tiny_model_dir))
tiny_lm          the model loaded from it

Where several processes share the tests (tests/sharing.py) the longest begin first. The process that hands them out
imports this file too, and no more than it needs: fixtures import the rest.
"""

import gc
import importlib.util
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from quantcore.model.loading import LoadedModel

pytest_plugins = ["tests.browser_fixtures"]
if importlib.util.find_spec("xdist") and importlib.util.find_spec("streamlit"):  # a GPU's machine may lack them
    pytest_plugins += ["tests.sharing"]

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as quantcore/__init__.py; servers and commands that tests start inherit it
BROWSER = "/test_browser"  # how the files begin whose tests drive a browser
LONGEST = (
    BROWSER, "test_server", "test_torchrun", "test_streaming", "test_course", "test_end_to_end",
    "test_kernels_interpreted", "test_matmul", "test_notebook", "test_second_model", "test_broken_models",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("browser") and BROWSER not in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} drives a browser; put it into a file named test_browser_*.py")
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


def pytest_collection_finish() -> None:
    """Modules and tests stay: no search for garbage goes through them, which is a twentieth of the time else."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks (hidden 64, FFN 128, 4 heads, 2 of them for keys and values), in the hub's format."""
    from tests.tiny import tiny_llama, tiny_tokenizer

    folder = tmp_path_factory.mktemp("tiny-lm")
    tiny_tokenizer().save_pretrained(folder)
    tiny_llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tiny_model_dir: Path) -> "LoadedModel":
    """The tiny model on the CPU in float32. Shared by all tests: quantize copies, never edit it."""
    from quantcore.model.loading import load_model

    return load_model(str(tiny_model_dir), "cpu")


@pytest.fixture(autouse=True, scope="session")
def _own_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the results that this machine's user keeps, nor does a server that a test starts; which
    measures nothing ahead either, for that is minutes of work and no test looks at it."""
    from quantcore.studies import clock

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANT_HOME", str(tmp_path_factory.mktemp("results")))
        patch.setenv("QUANT_AHEAD", "off")
        patch.setattr(clock, "CPU_SECONDS", 0.0)  # no test looks at how long a product takes: three of each are enough
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_model_at_a_time() -> Iterator[None]:
    """Tests make models as the package does (quantcore.model.making): threads of a page that was tried before may still
    load one, and two at once leave no model of the process with tied weights."""
    from transformers import PreTrainedModel

    from quantcore.model.making import making

    def alone(name: str) -> Any:
        make = inspect.getattr_static(PreTrainedModel, name).__func__

        def made(kind: type, *args: Any, **options: Any) -> Any:
            with making():
                return make(kind, *args, **options)

        return classmethod(made)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("from_pretrained", "_from_config"):
            patch.setattr(PreTrainedModel, name, alone(name))
        yield


@pytest.fixture(autouse=True)
def _same_random_numbers() -> Iterator[None]:
    """Every test draws from the same seed and leaves no mark on the next one's."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
