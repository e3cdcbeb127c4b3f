"""A mixture of experts from its folder to a written checkpoint: ours, and llm-compressor on the same files in one run.

    python -m benchmarks.experts                             2 blocks of Qwen3-30B-A3B's shapes, 128 x 2048 tokens
    python -m benchmarks.experts --blocks 8 --windows 512 --runs "ours streamed: W4A16,gptq"
    python -m benchmarks.experts --peer FOLDER               where llm-compressor is installed, apart from our packages
    python -m benchmarks.experts --tiny --device cpu         eight small experts, to see that all of it works

Runs and how they are counted are `end_to_end`'s; the weights are random, so the router spreads tokens evenly.
llm-compressor lets every token through every expert while it calibrates, unless it is told otherwise: the run `routed`,
and ours with experts=all, do the same work as the other side. Of several numbers of blocks the time of all 48 follows:
t(48) = t(2) + (t(8) - t(2)) / 6 x 46, since blocks are alike.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.end_to_end import TURNS, counted, in_process, line, why_not
from benchmarks.llama_files import drawn, save_blocks
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write

if TYPE_CHECKING:
    import torch

SCHEME = "W4A16,gptq"
RUNS = (
    f"ours streamed: {SCHEME}",
    f"ours streamed: {SCHEME},experts=all",
    f"llm-compressor: {SCHEME}",
    f"llm-compressor routed: {SCHEME}",
)
SMALL_SCHEME = "w:int4/group32,gptq"  # widths of the tiny model take no groups of 128


class Shape(NamedTuple):
    hidden: int
    expert: int
    experts: int
    chosen: int
    heads: int
    kv_heads: int
    head: int
    blocks: int
    vocabulary: int
    context: int = 2048


QWEN3_30B_A3B = Shape(2048, 768, 128, 8, 32, 4, 128, 48, 151936)
TINY = Shape(64, 32, 8, 2, 4, 2, 16, 2, 256, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=QWEN3_30B_A3B.vocabulary)
    parser.add_argument("--runs", nargs="+", default=None, metavar="CONTESTANT: SCHEME")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--peer", help="a folder with llm-compressor and its packages, before all others on its path")
    parser.add_argument("--once", action="store_true", help="each run once only, with the time of imports")
    parser.add_argument("--folder", help="where models and checkpoints go; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=RESULTS / "experts.json")
    chosen = parser.parse_args()
    shape = TINY if chosen.tiny else QWEN3_30B_A3B._replace(blocks=chosen.blocks, vocabulary=chosen.vocabulary)
    windows, length = (4, 64) if chosen.tiny else (chosen.windows, chosen.length)
    runs = chosen.runs or [run.replace(SCHEME, SMALL_SCHEME) if chosen.tiny else run for run in RUNS]
    found: dict[str, Any] = {
        "machine": describe(),
        "shape": shape._asdict(),
        "calibration": [windows, length],
        "runs": [],
    }
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        model = Path(folder) / "model"
        found["weights_gb"] = write_random_mixture(model, shape, chosen.device) / 1e9
        job = {"model": str(model), "device": chosen.device, "windows": windows, "length": length}
        turns = ("only",) if chosen.once else TURNS
        for number, run in enumerate(runs):
            contestant, _, scheme = (part.strip() for part in run.partition(":"))
            task = {**job, "vocabulary": shape.vocabulary, "scheme": scheme, "out": str(Path(folder) / f"out{number}")}
            reason = why_not(contestant, chosen.peer)
            row = {"not run": reason} if reason else in_process(contestant, task, chosen.peer, 1, turns)
            found["runs"].append({"run": run, **row})
            print(line(found["runs"][-1]), flush=True)
            write(chosen.out, found)
    print("\n".join(beside(found)))


def beside(found: dict[str, Any]) -> list[str]:
    """Each of ours as a multiple of each of theirs that does the same work."""
    timed = {row["run"]: its["seconds"] for row in found["runs"] if (its := counted(row)) is not None}
    lines = []
    for run, seconds in timed.items():
        if run.startswith("ours"):
            every = "experts=all" in run
            peer = next(
                (s for other, s in timed.items() if other.startswith("llm") and ("routed" in other) != every), None
            )
            lines.append(
                f"{run:44s} {seconds:.2f} s" + (f", {peer / seconds:.1f} times llm-compressor" if peer else "")
            )
    return lines


def write_random_mixture(folder: Path, shape: Shape, device: str = "cpu") -> int:
    """A Qwen3-MoE of random bf16 weights in the hub's form, an expert's matrices by themselves; returns their bytes."""
    import torch
    from transformers import Qwen3MoeConfig

    matrix = drawn(device)
    config = Qwen3MoeConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, moe_intermediate_size=shape.expert,
        intermediate_size=3 * shape.hidden, num_experts=shape.experts, num_experts_per_tok=shape.chosen,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head,
        num_hidden_layers=shape.blocks, max_position_embeddings=shape.context, norm_topk_prob=True,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, dtype="bfloat16",
        architectures=["Qwen3MoeForCausalLM"],
    )  # fmt: skip

    def block(index: int) -> dict[str, torch.Tensor]:
        at, ones = f"model.layers.{index}", torch.ones
        norms = {f"{name}_layernorm": shape.hidden for name in ("input", "post_attention")}
        norms |= {f"self_attn.{name}_norm": shape.head for name in ("q", "k")}
        wide, narrow = shape.heads * shape.head, shape.kv_heads * shape.head
        sizes = {name: (out, shape.hidden) for name, out in (("q", wide), ("k", narrow), ("v", narrow))}
        sizes["o"] = (shape.hidden, wide)
        found = {f"{at}.{name}.weight": ones(width, dtype=torch.bfloat16) for name, width in norms.items()}
        found |= {f"{at}.self_attn.{name}_proj.weight": matrix(*size) for name, size in sizes.items()}
        found[f"{at}.mlp.gate.weight"] = matrix(shape.experts, shape.hidden)
        for expert in range(shape.experts):
            for name in ("gate", "up"):
                found[f"{at}.mlp.experts.{expert}.{name}_proj.weight"] = matrix(shape.expert, shape.hidden)
            found[f"{at}.mlp.experts.{expert}.down_proj.weight"] = matrix(shape.hidden, shape.expert)
        return found

    return save_blocks(folder, config, block, matrix)


if __name__ == "__main__":
    main()
