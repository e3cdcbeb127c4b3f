"""What papers found of treatments and methods, and what this lab measured on two models, side by side.

KL to the float model in nats on the bundled evaluation text, calibrated on as many tokens of the calibration text:
4,096 of the reference model, 16,384 of SmolLM2-135M (W8A8: 8,192), whose width takes groups of 64 in place of 128. They
are those of `benchmarks/results/treatments.json`, which has paired intervals; a test compares them.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Finding(NamedTuple):
    """setting     a contest of benchmarks.treatments
    published   the ordering that a paper gives, best last; source: where
    ours        schemes as the contest has them, and their KL on the reference model, in the published order
    remark      where ours differ, and why
    second      the same of SmolLM2-135M; none where it was not measured
    there       its contest, where it is another: its width takes other blocks"""

    setting: str
    published: str
    source: str
    ours: dict[str, float]
    remark: str
    second: dict[str, float]
    there: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether each is below the one before it on the reference model."""
        return _falls(self.ours)

    @property
    def row(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "published, best last": self.published,
            "source": self.source,
            "reference model, KL": _listed(self.ours),
            "agrees": _said(self.ours),
            "SmolLM2-135M, KL": _listed(self.second),
            "agrees there": _said(self.second),
            "remark": self.remark,
        }


def _falls(found: dict[str, float]) -> bool:
    values = list(found.values())
    return all(later < earlier for earlier, later in zip(values, values[1:], strict=False))


def _listed(found: dict[str, float]) -> str:
    return (" > " if _falls(found) else "; ").join(f"{name} {kl:.3g}" for name, kl in found.items())


def _said(found: dict[str, float]) -> str:
    return "not measured" if not found else "yes" if _falls(found) else "no"


FINDINGS = (
    Finding(
        "W8A8 static",
        "no smoothing > smooth=0.5",
        "SmoothQuant, arXiv:2211.10438",
        {
            "w:int8/channel,a:int8/tensor/static": 0.52804,
            "w:int8/channel,a:int8/tensor/static,smooth=0.5": 0.4853,
            "w:int8/channel,a:int8/tensor/static,smooth=0.85/all": 0.01269,
        },
        "Norms alone, as in the paper, gain little: these models' outliers enter down_proj, which /all reaches.",
        {
            "w:int8/channel,a:int8/tensor/static": 0.92739,
            "w:int8/channel,a:int8/tensor/static,smooth=0.5": 0.79699,
            "w:int8/channel,a:int8/tensor/static,smooth=0.85/all": 0.03467,
        },
    ),
    Finding(
        "W4A4",
        "no rotation > R1, R2 > R3, R4 beside them",
        "SpinQuant, arXiv:2405.16406",
        {"W4A4": 1.6437, "W4A4,rotate=hadamard": 0.69349, "W4A4,rotate=hadamard/r4": 0.2946},
        "R4 turns what enters down_proj, where the outliers are: 5.6 and 3.3 times less KL; R3 is about a coded cache.",
        {"W4A4": 5.5333, "W4A4,rotate=hadamard": 3.38003, "W4A4,rotate=hadamard/r4": 1.6643},
    ),
    Finding(
        "W4A4",
        "Hadamard > WUSH",
        "WUSH, arXiv:2512.00956",
        {"W4A4,quip=hadamard/128": 0.30463, "W4A4,wush=128": 0.18834},
        "In blocks of the scales' groups, 128 and 64.",
        {"W4A4,quip=hadamard/64": 1.1665, "W4A4,wush=64": 0.45227},
        "W4A4, blocks of 64",
    ),
    Finding(
        "MXFP4",
        "Hadamard > WUSH",
        "WUSH, arXiv:2512.00956",
        {"MXFP4": 0.27587, "MXFP4,quip=hadamard/32": 0.25025, "MXFP4,wush=32": 0.14856},
        "Groups of 32 hold an outlier to few neighbours, so that a Hadamard matrix of 32 gains little.",
        {},
    ),
    Finding(
        "W4 g128",
        "RTN > GPTQ > AWQ",
        "AWQ, arXiv:2306.00978",
        {"W4A16": 0.11217, "W4A16,gptq": 0.08965, "W4A16,awq": 0.09121},
        "awq and gptq differ by less than chance on the reference; together (awq,gptq) they beat both on each model.",
        {"W4A16": 0.43147, "W4A16,gptq": 0.3813, "W4A16,awq": 0.26823},
    ),
    Finding(
        "W3 g128",
        "RTN > GPTQ > AWQ",
        "AWQ, arXiv:2306.00978",
        {"W3A16": 0.56118, "W3A16,gptq": 0.46398, "W3A16,awq": 0.4927},
        "gptq is below awq on the reference, beyond chance; on SmolLM2 they differ by less. Together (awq,gptq: 0.398, "
        "1.09) they beat both on each model.",
        {"W3A16": 2.00832, "W3A16,gptq": 1.79786, "W3A16,awq": 1.78389},
    ),
    Finding(
        "W3 g128",
        "GPTQ > Qronos",
        "Qronos, arXiv:2505.11695",
        {"W3A16,gptq": 0.46398, "W3A16,qronos": 0.38888},
        "With half of its first step, held by a ridge, the default: beyond chance on both. The whole step overfits "
        "4,096 tokens where no ridge holds it (0.671; with the ridge 0.393).",
        {"W3A16,gptq": 1.79786, "W3A16,qronos": 1.50568},
    ),
    Finding(
        "W4 g128",
        "GPTQ > GPTAQ",
        "GPTAQ, arXiv:2504.02692",
        {"W4A16,gptq": 0.08965, "W4A16,gptaq": 0.08014},
        "Beyond chance on both. Qronos: 0.074, below GPTAQ on the reference; 0.279 on SmolLM2, within chance of it.",
        {"W4A16,gptq": 0.3813, "W4A16,gptaq": 0.27161},
    ),
)
