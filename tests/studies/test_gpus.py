"""The table of GPUs: dense rates of one kind, a source and a date in every row, names that drivers give."""

import json
import re

import pytest

from quantcore.studies.gpus import FILE, GPUS, LOOKED_UP, Machine, gpu_named


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_rates_are_dense_and_of_one_kind(gpu: Machine) -> None:
    """Halving the bits doubles the rate; a sparse figure among dense ones would be twice too large."""
    geforce = gpu.name.startswith("RTX") and gpu.name not in ("RTX 6000 Ada", "RTX PRO 6000")  # bf16 at half its rate
    for name in {"fp8", "int8"} & set(gpu.rates):
        steps = 4 if geforce and name == "int8" else 2
        assert gpu.rates[name] / gpu.rates["bf16"] == pytest.approx(steps, rel=0.03) or "no int8" in gpu.note
    if "fp4" in gpu.rates:
        assert gpu.rates["fp4"] / gpu.rates["fp8"] == pytest.approx(4 if geforce else 2, rel=0.01) or gpu.name == "B300"
    assert (gpu.capability is None or gpu.capability >= (8, 9)) == ("fp8" in gpu.rates)
    assert ("fp4" in gpu.rates) == gpu.family.startswith("Blackwell")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_every_row_has_a_source_and_a_date(gpu: Machine) -> None:
    assert len(gpu.source) > 15
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", gpu.looked_up)
    assert gpu.looked_up <= LOOKED_UP
    assert gpu.memory_gb is not None
    assert not gpu.measured
    assert set(gpu.rates) <= {"bf16", "fp8", "int8", "int4", "fp4"}
    assert gpu.int32
    assert 0 < gpu.int32 < gpu.rates["bf16"]  # tensor cores are what is fast


def test_a_row_is_a_line() -> None:
    """A wrong row is one line to mend."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line.rstrip(","))["name"] for line in lines[1:-1]] == list(GPUS)


def test_capability() -> None:
    found = {name: GPUS[name].capability for name in ("T4", "RTX 3090", "L4", "H200", "B300", "RTX 5090", "MI300X")}
    assert list(found.values()) == [(7, 5), (8, 6), (8, 9), (9, 0), (10, 3), (12, 0), None]


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10G", "A10"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GB200", None),
        ("x86_64 CPU, 2 threads", None),
    ],
)
def test_a_drivers_name(device: str, name: str | None) -> None:
    found = gpu_named(device)
    assert (found and found.name) == name
