"""Processes that share the tests share the cores too: more threads than cores wait for each other.

Imported before torch, which looks at these variables once; servers and commands that tests start inherit them."""

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as quantcore/__init__.py
if _processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // _processes))
