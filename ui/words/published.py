"""What papers found of treatments and methods, and what this lab measured on its reference model, side by side.

KL to the float model in nats on 4,096 tokens of the bundled evaluation text, calibrated on as many of the calibration
text: `benchmarks/results/treatments.json`, with paired intervals. A test compares the two.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Finding(NamedTuple):
    """setting     a contest of benchmarks.treatments
    published   the ordering that a paper gives, best last; source: where
    ours        schemes as the contest has them, and their KL, in the published order
    remark      where ours differ, and why"""

    setting: str
    published: str
    source: str
    ours: dict[str, float]
    remark: str

    @property
    def agrees(self) -> bool:
        """Whether each is below the one before it."""
        found = list(self.ours.values())
        return all(later < earlier for earlier, later in zip(found, found[1:], strict=False))

    @property
    def row(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "published, best last": self.published,
            "source": self.source,
            "measured here, KL": " > ".join(f"{name} {kl:.3g}" for name, kl in self.ours.items()),
            "agrees": "yes" if self.agrees else "no",
            "remark": self.remark,
        }


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
        "Norms alone, as in the paper, gain little: this model's outliers enter down_proj, which /all reaches.",
    ),
    Finding(
        "W4A4",
        "no rotation > R1, R2 > R3, R4 beside them",
        "SpinQuant, arXiv:2405.16406",
        {"W4A4": 1.6437, "W4A4,rotate=hadamard": 0.69349, "W4A4,rotate=hadamard/r4": 0.2946},
        "R4 turns what enters down_proj, where this model's outliers are; R3 is about a coded cache.",
    ),
    Finding(
        "W4A4",
        "Hadamard > WUSH",
        "WUSH, arXiv:2512.00956",
        {"W4A4,quip=hadamard/128": 0.30463, "W4A4,wush=128": 0.18834},
        "In blocks of 128, which are the groups of the scales.",
    ),
    Finding(
        "MXFP4",
        "Hadamard > WUSH",
        "WUSH, arXiv:2512.00956",
        {"MXFP4": 0.27587, "MXFP4,quip=hadamard/32": 0.25025, "MXFP4,wush=32": 0.14856},
        "Groups of 32 hold an outlier to few neighbours, so that a Hadamard matrix of 32 gains little.",
    ),
    Finding(
        "W4 g128",
        "RTN > GPTQ > AWQ",
        "AWQ, arXiv:2306.00978",
        {"W4A16": 0.11217, "W4A16,gptq": 0.08965, "W4A16,awq": 0.09121},
        "awq and gptq differ by less than chance here; together (awq,gptq) they beat both.",
    ),
    Finding(
        "W3 g128",
        "RTN > GPTQ > AWQ",
        "AWQ, arXiv:2306.00978",
        {"W3A16": 0.56118, "W3A16,gptq": 0.46398, "W3A16,awq": 0.4927},
        "gptq is below awq here, beyond chance at 3 bits; together (awq,gptq: 0.398) they beat both.",
    ),
    Finding(
        "W3 g128",
        "GPTQ > Qronos",
        "Qronos, arXiv:2505.11695",
        {"W3A16,gptq": 0.46398, "W3A16,qronos": 0.38495},
        "With half of its first step; the paper's whole step (share=1: 0.671) overfits 4,096 tokens.",
    ),
    Finding(
        "W4 g128",
        "GPTQ > GPTAQ",
        "GPTAQ, arXiv:2504.02692",
        {"W4A16,gptq": 0.08965, "W4A16,gptaq": 0.08014},
        "Beyond chance; between GPTAQ and Qronos there is none (0.078).",
    ),
)
