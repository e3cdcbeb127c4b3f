"""How fast tokens become codes, or are rounded under coded scales, beside a copy on the same device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from quantcore.matmul.products import rounded, token_codes
from quantcore.numbers.qtensor import qparams_for
from quantcore.scheme.scheme import Scheme
from quantcore.studies.clock import Clock, calling


@dataclass(frozen=True)
class CodesSpeed:
    """Tokens to codes: milliseconds, and the share of a device copy's bandwidth; bytes read and written are counted."""

    spec: str
    tokens: int
    width: int
    ms: float
    bytes_moved: int
    copy_ms: float
    copy_bytes: int

    @property
    def share_of_copy(self) -> float:
        return (self.bytes_moved / self.ms) / (self.copy_bytes / self.copy_ms)


def measure_codes(tokens: int, width: int, specs: Iterable[str], device: str) -> list[CodesSpeed]:
    """How fast bf16 x (tokens, width) becomes codes under each activation spec, `int8/token/dynamic` and the like;
    under coded scales, which no product takes as codes, how fast it is rounded to what the codes stand for."""
    clock = Clock(torch.device(device))
    count = clock.copies(tokens * width * 2)
    xs = [torch.randn(tokens, width, device=device).to(torch.bfloat16) for _ in range(count)]
    target = torch.empty_like(xs[0])
    copy_ms = clock.ms([calling(target.copy_, x) for x in xs])
    results = []
    for text in specs:
        spec = Scheme.parse(f"a:{text}").activations
        assert spec is not None
        static = qparams_for(xs[0], spec) if spec.static else None
        if spec.scales.is_coded:
            ms = clock.ms([calling(rounded, x, None, spec, static) for x in xs])
            results.append(CodesSpeed(text, tokens, width, ms, 2 * xs[0].nbytes, copy_ms, 2 * xs[0].nbytes))
            continue
        ms = clock.ms([calling(token_codes, x, spec, static) for x in xs])
        codes = token_codes(xs[0], spec, static)
        moved = xs[0].nbytes + codes.codes.nbytes + codes.scale.nbytes
        results.append(CodesSpeed(text, tokens, width, ms, moved, copy_ms, 2 * xs[0].nbytes))
    return results
