"""Models worth a first look, and which models are on this machine already: what the picker shows.

Sizes are those that the models' authors give; why each is here is one fact that the lab can show on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantcore.model.locate import REFERENCE, locate


@dataclass(frozen=True)
class Entry:
    """A model of the list: what `load_model` takes, its size in the authors' words, and why it is instructive."""

    id: str
    size: str
    why: str


CATALOG = (
    Entry(REFERENCE, "15.7 M", "ships with the lab and needs no network; trained for it, with real outlier channels"),
    Entry(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "135 M",
        "30 narrow blocks; outliers thousands of times the median channel; has a chat template",
    ),
    Entry("HuggingFaceTB/SmolLM2-360M", "360 M", "the same recipe, wider: does size make 4 bits cheaper?"),
    Entry("Qwen/Qwen3-0.6B", "0.6 B", "grouped queries and normalized queries and keys; speaks by a chat template"),
    Entry(
        "meta-llama/Llama-3.2-1B",
        "1.2 B",
        "the small sister of the most quantized family; gated: accept its terms and log in first",
    ),
    Entry(
        "facebook/opt-125m",
        "125 M",
        "LayerNorm, biases, ReLU: the family of the first outlier papers; published as a pickle, so convert it first",
    ),
    Entry("openai-community/gpt2", "124 M", "LayerNorm and biases; its matrices are stored transposed (Conv1D)"),
    Entry("EleutherAI/pythia-160m", "160 M", "its training steps are published as revisions, such as @step1000"),
)


def on_this_machine(source: str) -> bool:
    """Whether the model loads without a network."""
    try:
        return locate(source) is not None
    except ValueError:
        return False


def cached_models() -> list[str]:
    """The ids in the hub's cache that can be loaded as they are, in order."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = sorted(Path(HF_HUB_CACHE).glob("models--*")) if Path(HF_HUB_CACHE).is_dir() else []
    ids = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
    return [one for one in ids if on_this_machine(one)]
