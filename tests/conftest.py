"""A tiny random language model for every test: a real folder, a real tokenizer, outliers planted where they belong.

tiny_model_dir   the folder: config, safetensors, tokenizer; load it with load_model(str(tiny_model_dir))
tiny_lm          the model loaded from it

With `-n 2` two processes share the tests (tests/sharing.py), the longest begin first.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.threads  # noqa: F401  # isort: skip  (before torch, which looks once)

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quantcore.model.loading import LoadedModel, load_model

pytest_plugins = ["tests.browser_fixtures"]
if importlib.util.find_spec("xdist"):  # a GPU's machine may lack it
    pytest_plugins += ["tests.sharing"]

BROWSER = "/test_browser"  # how the files begin whose tests drive a browser
LONGEST = (
    BROWSER, "test_server", "test_torchrun", "test_streaming", "test_course", "test_end_to_end",
    "test_kernels_interpreted", "test_matmul", "test_notebook", "test_second_model", "test_broken_models",
)  # fmt: skip

END = "<|endoftext|>"
VOCAB = 300  # 256 bytes, the end mark, 43 merges
HIDDEN, BLOCKS, CONTEXT = 64, 2, 256
LOUD_CHANNEL, LOUD_GAIN = 7, 12.0  # of the activations, in every block
LARGE_WEIGHT = (3, 40, 1.5)  # row, column, value in the last down_proj, whose other weights stay below 0.3
SENTENCES = [
    "The lighthouse keeper climbed the stairs and lit the lamp before the storm came in.",
    "A model keeps its weights as numbers, and a number can be kept with fewer bits.",
    "for row in rows: print(row.name, row.value)",
    "Where did you put the key? I left it on the table, next to the letter.",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("browser") and BROWSER not in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} drives a browser; put it into a file named test_browser_*.py")
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks (hidden 64, FFN 128, 4 heads, 2 of them for keys and values), in the hub's format."""
    folder = tmp_path_factory.mktemp("tiny-lm")
    tiny_tokenizer().save_pretrained(folder)
    tiny_llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tiny_model_dir: Path) -> LoadedModel:
    """The tiny model on the CPU in float32. Shared by all tests: quantize copies, never edit it."""
    return load_model(str(tiny_model_dir), "cpu")


@pytest.fixture(autouse=True, scope="session")
def _own_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the results that this machine's user keeps, nor does a server that a test starts; which
    measures nothing ahead either, for that is minutes of work and no test looks at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANT_HOME", str(tmp_path_factory.mktemp("results")))
        patch.setenv("QUANT_AHEAD", "off")
        yield


@pytest.fixture(autouse=True)
def _same_random_numbers() -> Iterator[None]:
    """Every test draws from the same seed and leaves no mark on the next one's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def tiny_llama() -> LlamaForCausalLM:
    """Random weights from a fixed seed; one loud activation channel in every block and one large weight."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.05,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for block in model.model.layers:
            block.input_layernorm.weight[LOUD_CHANNEL] = LOUD_GAIN
            block.post_attention_layernorm.weight[LOUD_CHANNEL] = LOUD_GAIN
        row, col, value = LARGE_WEIGHT
        model.model.layers[-1].mlp.down_proj.weight[row, col] = value
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE learned from SENTENCES: any text can be encoded; a text begins with the end mark, as bos."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END], initial_alphabet=alphabet, show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False
    )
