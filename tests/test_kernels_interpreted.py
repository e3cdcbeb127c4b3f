"""The Triton kernels compute what they should, without a GPU: in a process with Triton's interpreter on."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from tests.browser_fixtures import ROOT

FILES = ["tests/interpreted_kernels.py"]
if not torch.cuda.is_available():  # else the GPU runs GPTQ's own (tests/methods/test_gptq_kernel.py)
    FILES.append("tests/interpreted_gptq.py")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_in_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout
