"""Two ranks under torchrun's own agent, as

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m MODULE ...

starts them, but forked from this process, which tests/forked.py has forked from one that has imported what they need.
"""

import os
import runpy
import sys
import uuid

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

TWO = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}


def be_rank(module: str, arguments: list[str]) -> None:
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        if end.code:
            os._exit(int(end.code))


if __name__ == "__main__":
    config = LaunchConfig(**TWO, run_id=str(uuid.uuid4()), max_restarts=0, start_method="fork")  # type: ignore[arg-type]
    elastic_launch(config, be_rank)(sys.argv[1], sys.argv[2:])
