"""How long estimating every layer's cost takes: all layers of a model of Llama-3-8B's shapes under eight schemes.

    python -m benchmarks.sensitivity                        32 blocks on a GPU
    python -m benchmarks.sensitivity --tiny --device cpu    two small blocks, to see that all of it works
    python -m benchmarks.sensitivity --model reference --device cpu

The model is made on the spot, of random weights, and so is the text of EACH_LAYER's windows: only the time is looked
at, and the memory. Two rounds, of which the second counts; kernels compile in the first. Writes a row to
`benchmarks/results/sensitivity.json`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.llama_files import LLAMA_3_8B, TINY, write_random_llama
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, put_row
from quantcore.measure.fisher import DRAWS, estimated_costs
from quantcore.model.linears import linears
from quantcore.model.loading import load_model
from quantcore.text.reading import EACH_LAYER

SCHEMES = ("W2A16", "W3A16", "W4A16", "w:int4/group32", "W8A16", "MXFP4A16", "NVFP4A16", "w:fp8_e4m3/channel")
TURNS = ("first", "second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="one that is there; else random weights")
    parser.add_argument("--blocks", type=int, default=LLAMA_3_8B.blocks)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", help="where the made model goes; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=RESULTS / "sensitivity.json")
    chosen = parser.parse_args()
    if chosen.model:
        put_row(chosen.out, "seconds", chosen.model, timed(chosen.model, chosen.device))
        return
    shape = TINY if chosen.tiny else LLAMA_3_8B._replace(blocks=chosen.blocks)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        made = Path(folder) / "model"
        write_random_llama(made, shape, device=chosen.device)
        name = f"{shape.blocks} blocks, hidden {shape.hidden}, ffn {shape.ffn}"
        put_row(chosen.out, "seconds", name, timed(str(made), chosen.device))


def timed(model: str, device: str) -> dict[str, Any]:
    """Seconds of each round, from the loaded model to the costs of all layers; the GPU's peak, GB."""
    loaded = load_model(model, device)
    windows = EACH_LAYER.windows, EACH_LAYER.length
    vocabulary = loaded.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    tokens = torch.randint(0, vocabulary, windows, generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"layers": len(linears(loaded.model)), "schemes": SCHEMES, "windows": windows}
    on_gpu = torch.device(device).type == "cuda"
    for turn in TURNS:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        estimated_costs(loaded.model, SCHEMES, tokens)  # its costs are numbers on the host: nothing is left to wait for
        found[f"{turn}_s"] = time.perf_counter() - started
        if on_gpu:
            found[f"{turn}_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        print(f"{turn}: {found[f'{turn}_s']:.1f} s", flush=True)
    return found | {"draws": DRAWS, "machine": describe()}


if __name__ == "__main__":
    main()
