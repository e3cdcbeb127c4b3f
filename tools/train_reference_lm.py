"""Train the bundled reference language model, from raw text to a directory that `from_pretrained` loads.

The lab needs one model that everybody has: small enough to ship and to quantize in a browser session, good enough
that a lost bit shows in its perplexity, and trained by us, so that nothing about it is unknown. This program makes it.
It does what large pre-training runs do, with less than a millionth of their arithmetic:

1.  Learn a byte-level BPE vocabulary of 8,192 tokens from the training text, and encode the text with it. Documents
    follow one another in one long stream, each closed by the token `<|endoftext|>` (id 0).
2.  Cut the stream into windows. Every epoch shifts the cuts and shuffles the windows, so no two epochs show the same
    sequences. The first token of each window is replaced by `<|endoftext|>`: every sequence starts the same way. Models
    trained like this park unneeded attention on that token, and a few channels grow enormous activations there. These
    are the natural outliers that make activation quantization hard; nothing here plants, encourages or removes them.
3.  Train a Llama-style decoder with AdamW: bf16 arithmetic, fp32 master weights, a compiled forward and backward pass.
    The learning rate warms up, stays flat, and falls linearly to zero over the last quarter. The same last quarter uses
    windows of twice the length, so that all positions up to 1,024 are trained.
4.  Export bf16 weights, then load the export back and measure that: bits per byte on the held-out text, and the
    largest activation of every channel that enters a linear layer. Both go to `training.json` with all that made them.

A run may be cut in pieces: `--stop-after` ends a call early with a checkpoint in `--work`, and the next call with the
same arguments goes on. Batches are a pure function of (seed, step) and the model has no dropout, so weights, optimizer
state and step number are the whole state. With `--seconds` the first steps measure the speed and fix the number of
steps; `--steps` gives it directly.

    python tools/train_reference_lm.py --data DIR --work DIR --out DIR --seconds 960
    python tools/train_reference_lm.py --data DIR --work DIR --out DIR --steps 60 --tiny     # rehearsal on a CPU

`--data` holds `train/*.txt.xz` and `eval/heldout-*.txt` (or `.txt.xz`), each document followed by a line
`<|endoftext|>`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import math
import platform
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
END_ID = 0
STARTED = time.perf_counter()
SYNC_EVERY = 50  # steps taken between two waits for the device
UNPLANNED = 1_000_000_000  # stands for the number of steps while the speed is still being measured
LICENCES = {
    "wikipedia-en": "CC BY-SA 3.0",
    "wikipedia-simple": "CC BY-SA 3.0 / GFDL",
    "fiction-standardebooks": "CC0 1.0 and public domain",
    "fiction-novels": "public domain; CC BY 4.0",
    "stories-children": "CDLA-Sharing-1.0; CC BY",
    "textbooks-openstax": "CC BY 4.0",
    "techdocs": "PSF-2.0; public domain/CC0; CC BY 4.0; MIT OR Apache-2.0; Apache-2.0; CC BY-SA 4.0",
    "gov-posts": "public domain / CC0 1.0",
    "speeches-factbook": "public domain; CC0 1.0",
    "instructions-math-recipes": "MIT; Unlicense",
    "dialogue-assistant": "CC BY-SA 4.0; CC BY 4.0",
    "code": "MIT; MIT OR Unlicense; BSD-3-Clause; Apache-2.0",
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, apart from the data and the number of steps."""

    seed: int = 2026
    vocab: int = 8192
    hidden: int = 384
    layers: int = 8
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 1024
    window: int = 512
    long_window: int = 1024
    batch_tokens: int = 65_536
    peak_lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0
    warmup: int = 500
    final: float = 0.25  # the share of the steps with long windows and a falling learning rate
    text_limit: int | None = None  # characters read from each file; None reads all


TINY = Recipe(vocab=512, hidden=64, layers=2, heads=2, kv_heads=1, ffn=128, window=64, long_window=128,
              batch_tokens=1024, warmup=10, text_limit=200_000)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Text to tokens


def read_text(path: Path, limit: int | None) -> str:
    """Return the text of one corpus file, or its beginning."""
    raw = path.read_bytes()
    return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()[:limit]


def split_documents(text: str) -> list[str]:
    """Return the documents of a text; the newlines around a separator belong to the separator."""
    return [document for document in text.removesuffix(f"\n{END}\n").split(f"\n{END}\n") if document]


def train_tokenizer(documents: Iterable[str], vocab: int) -> Tokenizer:
    """Learn a byte-level BPE: any text can be encoded, and each token stands for a known number of bytes.

    Called plainly, the tokenizer begins a text with `<|endoftext|>`, the first token of every sequence in training.
    """
    tokenizer = Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, END_ID)]
    )
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Encode a text on all cores into one stream of tokens, with `<|endoftext|>` after each document."""
    documents = split_documents(text)
    parts: list[np.ndarray] = []
    for start in range(0, len(documents), 1024):
        some = documents[start : start + 1024]
        for encoding in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            parts.append(np.array([*encoding.ids, END_ID], dtype=np.int16))
    return np.concatenate(parts)


def bytes_per_token(tokenizer: Tokenizer) -> Tensor:
    """Return the bytes each token stands for; `<|endoftext|>` is no text and counts 0."""
    tokens = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    return torch.tensor([0 if token == END else len(token) for token in tokens])


def prepare(data: Path, work: Path, recipe: Recipe) -> tuple[Tokenizer, np.ndarray, list[dict[str, Any]]]:
    """Return the tokenizer, the token stream and the list of sources, made once and then read from `work`."""
    if not (work / "sources.json").exists():
        paths = sorted((data / "train").glob("*.txt.xz"))
        with ThreadPoolExecutor() as pool:
            texts = list(pool.map(lambda path: read_text(path, recipe.text_limit), paths))
        if not (work / "tokenizer.json").exists():
            documents = (document for text in texts for document in split_documents(text))
            train_tokenizer(documents, recipe.vocab).save(str(work / "tokenizer.json"))
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        streams = [encode(tokenizer, text) for text in texts]
        np.save(work / "tokens.npy", np.concatenate(streams))
        sources = [describe(*source) for source in zip(paths, texts, streams, strict=True)]
        (work / "sources.json").write_text(json.dumps(sources))
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    return tokenizer, np.load(work / "tokens.npy"), json.loads((work / "sources.json").read_text())


def describe(path: Path, text: str, stream: np.ndarray) -> dict[str, Any]:
    """Return one source's entry in the training log; bytes and hash are those of the uncompressed text."""
    name = path.name.removesuffix(".xz")
    raw = text.encode()
    return {
        "file": name,
        "licence": LICENCES.get(name.removesuffix(".txt"), "not stated"),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "bytes": len(raw),
        "documents": int((stream == END_ID).sum()),
        "tokens": len(stream),
    }


def read_heldout(data: Path, tokenizer: Tokenizer, limit: int | None) -> dict[str, Tensor]:
    """Return the held-out token streams by name: `heldout-code.txt` is "code"."""
    streams = {}
    for path in sorted((data / "eval").glob("heldout-*.txt*")):
        name = path.name.removeprefix("heldout-").split(".")[0]
        streams[name] = torch.from_numpy(encode(tokenizer, read_text(path, limit)))
    return streams


@dataclass
class Batches:
    """Draws batches from the stream: batch number `step` depends on the seed and on nothing that came before."""

    stream: Tensor
    recipe: Recipe

    def __post_init__(self) -> None:
        self.starts = lru_cache(maxsize=1)(self._starts)

    def _starts(self, epoch: int, window: int) -> Tensor:
        """Return an epoch's window starts: the stream cut at a random phase, in random order."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        phase = torch.randint(window, (1,), generator=generator)
        order = torch.randperm(len(self.stream) // window - 1, generator=generator)
        return (phase + order * window).to(self.stream.device)

    def __call__(self, step: int, window: int) -> tuple[Tensor, Tensor]:
        """Return inputs that start with `<|endoftext|>` and, for every position, the token that follows."""
        rows = self.recipe.batch_tokens // window
        epoch, index = divmod(step, (len(self.stream) // window - 1) // rows)
        starts = self.starts(epoch, window)[index * rows : (index + 1) * rows]
        tokens = self.stream[starts[:, None] + torch.arange(window + 1, device=starts.device)].long()
        targets = tokens[:, 1:].contiguous()
        inputs = tokens[:, :-1].contiguous()
        inputs[:, 0] = END_ID
        return inputs, targets


# ---------------------------------------------------------------------------------------------------------------------
# Model, schedule, optimizer


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    """Return a freshly initialized model: normal weights of std 0.02, smaller where a layer adds to the residual."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocab,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        intermediate_size=recipe.ffn,
        max_position_embeddings=recipe.long_window,
        initializer_range=0.02,
        tie_word_embeddings=True,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.div_(math.sqrt(2 * recipe.layers))
            layer.mlp.down_proj.weight.div_(math.sqrt(2 * recipe.layers))
    return model


def training_loss(model: LlamaForCausalLM, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats per token.

    The layers are called one by one without a mask: each then runs plain causal attention, and the whole function
    compiles into one graph.
    """
    decoder = model.model
    hidden = decoder.embed_tokens(inputs)
    positions = torch.arange(inputs.shape[1], device=inputs.device)[None]
    rope = decoder.rotary_emb(hidden, positions)
    for layer in decoder.layers:
        hidden = layer(hidden, attention_mask=None, position_embeddings=rope)
    logits = model.lm_head(decoder.norm(hidden))
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Return the rate of one step: linear warm-up, flat, linear to zero over the final part."""
    rising = (step + 1) / recipe.warmup
    falling = (total - step) / (total * recipe.final)
    return recipe.peak_lr * min(1.0, rising, falling)


def window_at(step: int, total: int, recipe: Recipe) -> int:
    """Return the window length of one step: long ones in the final part."""
    return recipe.long_window if step >= total * (1 - recipe.final) else recipe.window


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices and none on the norms' gains."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True)


# ---------------------------------------------------------------------------------------------------------------------
# Training


KEPT = ("total", "step", "seconds", "curve")  # of a run, beside its tensors


@dataclass
class Run:
    """A training run between its first and its last step, in memory or in a checkpoint."""

    model: LlamaForCausalLM
    optimizer: torch.optim.AdamW
    total: int | None  # None until the speed is known
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.step == self.total

    def save(self, path: Path) -> None:
        """Write the run so that a crash while writing leaves the last checkpoint whole."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": one.detach() for name, one in self.model.named_parameters()}
        for number, kept in optimizer["state"].items():
            tensors |= {f"optimizer.{number}.{name}": one for name, one in kept.items()}
        words = {name: getattr(self, name) for name in KEPT} | {"groups": optimizer["param_groups"]}
        save_file(tensors, path.with_suffix(".part"), {"run": json.dumps(words)})
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[int, dict[str, Tensor]] = {}
        with safe_open(path, "pt") as file, torch.no_grad():
            words = json.loads(file.metadata()["run"])
            for name, one in self.model.named_parameters():
                one.copy_(file.get_tensor(f"model.{name}"))
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                if (place := name.split("."))[0] == "optimizer":
                    state.setdefault(int(place[1]), {})[place[2]] = file.get_tensor(name)
        self.optimizer.load_state_dict({"state": state, "param_groups": words.pop("groups")})
        vars(self).update(words)


def train(run: Run, batches: Batches, heldout: Heldout, args: argparse.Namespace) -> None:
    """Train until the last step or until this call's time is up."""
    recipe = batches.recipe
    loss_of = training_loss if args.eager else torch.compile(training_loss, dynamic=False, fullgraph=True)
    first = run.step
    while not run.finished and not (args.stop_after and time.perf_counter() - STARTED > args.stop_after):
        before, started = run.step, time.perf_counter()
        loss = train_some(run, batches, loss_of)
        elapsed = time.perf_counter() - started
        run.seconds += elapsed
        steps_per_second = (run.step - before) / elapsed
        if run.total is None and run.step - first >= 4 * SYNC_EVERY:  # the first steps compile and warm up
            run.total = run.step + int((args.seconds - run.seconds) * steps_per_second)
            print(f"{run.total} steps will fill {args.seconds:.0f} s", flush=True)
        if run.step % args.log_every == 0 or run.finished:
            point: dict[str, Any] = {
                "step": run.step,
                "seconds": round(run.seconds, 1),
                "tokens_per_second": round(steps_per_second * recipe.batch_tokens),
                "train_nats_per_token": round(loss, 4),
            }
            if run.step % (5 * args.log_every) == 0 or run.finished:
                point["heldout_bits_per_byte"] = heldout.bits_per_byte(run.model, recipe.window, bf16=True)
            run.curve.append(point)
            print(json.dumps(point), flush=True)


def train_some(run: Run, batches: Batches, loss_of: Callable[..., Tensor]) -> float:
    """Take up to SYNC_EVERY steps without waiting for the device; wait once, and return their mean loss."""
    recipe, device = batches.recipe, batches.stream.device
    loss_sum = torch.zeros((), device=device)
    before, total = run.step, run.total or UNPLANNED
    end = min(total, before - before % SYNC_EVERY + SYNC_EVERY)
    while run.step < end:
        inputs, targets = batches(run.step, window_at(run.step, total, recipe))
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(run.model, inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip)
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, total, recipe)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        loss_sum += loss.detach()
        run.step += 1
    return float(loss_sum) / (end - before)


# ---------------------------------------------------------------------------------------------------------------------
# Measurements


@dataclass
class Heldout:
    """The held-out token streams and what bits per byte needs to know of the vocabulary."""

    streams: dict[str, Tensor]
    token_bytes: Tensor

    def windows(self, name: str, window: int) -> Tensor:
        """Return one stream as whole windows side by side, each starting with `<|endoftext|>`; the rest is left out."""
        stream = self.streams[name]
        rows = stream[: len(stream) // window * window].view(-1, window).long()
        rows[:, 0] = END_ID
        return rows

    @torch.no_grad()
    def bits_per_byte(self, model: LlamaForCausalLM, window: int, bf16: bool = False) -> dict[str, float]:
        """Return, by name, the bits the model needs for each byte of the text that it predicts.

        Every token of a window but the first is predicted. Predicting `<|endoftext|>` costs bits and gains no bytes.
        """
        result = {}
        for name in self.streams:
            nats = bytes_ = 0.0
            for rows in torch.split(self.windows(name, window), 16):
                with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                    logits = model(rows.to(model.device), use_cache=False).logits[:, :-1].float()
                targets = rows[:, 1:].to(model.device)
                nats += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
                bytes_ += float(self.token_bytes[rows[:, 1:]].sum())
            result[name] = round(nats / math.log(2) / bytes_, 4)
        return result


@torch.no_grad()
def measure_outliers(model: LlamaForCausalLM, rows: Tensor) -> list[dict[str, Any]]:
    """Return, for the input of every linear layer, the largest channel against the median one, worst first.

    A channel's size is the largest magnitude that it takes on the held-out text; `position` says at which token of a
    window the largest of all was seen.
    """
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest = inputs[0].abs().amax(0)  # position x channel
            seen[name] = torch.maximum(seen[name], largest) if name in seen else largest

        return hook

    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in linears]
    for some in torch.split(rows, 16):
        model(some.to(model.device), use_cache=False)
    for handle in handles:
        handle.remove()
    figures = [outlier_figures(name, sizes) for name, sizes in seen.items()]
    return sorted(figures, key=lambda figure: -figure["ratio"])


def outlier_figures(name: str, sizes: Tensor) -> dict[str, Any]:
    """Sum up one linear layer's input sizes, given by position and channel."""
    channels = sizes.amax(0)
    largest, median = float(channels.max()), float(channels.median())
    return {
        "layer": name,
        "largest": round(largest, 3),
        "median": round(median, 3),
        "ratio": round(largest / median, 1),
        "channel": int(channels.argmax()),
        "position": int(sizes.amax(1).argmax()),
        "largest_after_position_0": round(float(sizes[1:].max()), 3),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Export


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write what `from_pretrained` reads: configuration, tokenizer, and bf16 weights in one file.

    The shipped tokenizer puts `<|endoftext|>` before a text by itself, as every training window had it."""
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, END_ID)]
    )
    shipped = LlamaForCausalLM(model.config).to(torch.bfloat16)
    shipped.load_state_dict(model.state_dict())
    shipped.generation_config.pad_token_id = END_ID
    shipped.save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)


def measure_export(out: Path, heldout: Heldout, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Load the exported weights as a user would and measure them in fp32 arithmetic."""
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).to(device)
    rows = heldout.windows("encyclopedia", recipe.window)
    return {
        "heldout_bits_per_byte": {
            f"window_{window}": heldout.bits_per_byte(model, window) for window in (recipe.window, recipe.long_window)
        },
        "outliers": measure_outliers(model, rows),
    }


def training_log(run: Run, recipe: Recipe, sources: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Return how the model came about, for `training.json`."""
    return {
        "date": date.today().isoformat(),
        "finished": run.finished,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "recipe": asdict(recipe),
        "optimizer": "AdamW",
        "steps": run.step,
        "steps_planned": run.total,
        "tokens": run.step * recipe.batch_tokens,
        "epochs": round(run.step * recipe.batch_tokens / sum(source["tokens"] for source in sources), 1),
        "minutes": round(run.seconds / 60, 2),
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: str(module.__version__) for module in (torch, transformers, tokenizers, np)},
        },
        "sources": sources,
        "curve": run.curve,
    }


# ---------------------------------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and eval/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the token stream and the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for the exported model and training.json")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float, help="training time of all calls together")
    length.add_argument("--steps", type=int, help="number of steps of all calls together")
    parser.add_argument("--stop-after", type=float, help="end this call's training after so many seconds")
    parser.add_argument("--log-every", type=int, default=500, help="steps between points of the curve")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--tiny", action="store_true", help="rehearse with a tiny model and a little of the text")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    recipe = TINY if args.tiny else Recipe()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)

    tokenizer, stream, sources = prepare(args.data, args.work, recipe)
    heldout = Heldout(read_heldout(args.data, tokenizer, recipe.text_limit), bytes_per_token(tokenizer))
    print(f"{len(stream):,} tokens ready after {time.perf_counter() - STARTED:.0f} s", flush=True)

    model = build_model(recipe).to(device)
    run = Run(model, build_optimizer(model, recipe), args.steps)
    checkpoint = args.work / "checkpoint.safetensors"
    if checkpoint.exists():
        run.load(checkpoint)
    train(run, Batches(torch.from_numpy(stream).to(device), recipe), heldout, args)
    run.save(checkpoint)

    export(model, tokenizer, args.out)
    log = training_log(run, recipe, sources, device) | measure_export(args.out, heldout, recipe, device)
    (args.out / "training.json").write_text(json.dumps(log, indent=1) + "\n")
    print(json.dumps(log["heldout_bits_per_byte"], indent=1), json.dumps(log["outliers"][:5], indent=1))


if __name__ == "__main__":
    main()
