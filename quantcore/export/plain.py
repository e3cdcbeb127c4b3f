"""Any of our results as values that JSON knows."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from typing import Any


def plain(value: Any, path: str = "result") -> Any:
    """The value with JSON's types only: records as objects, infinities as "inf" and "-inf".

    Raises: ValueError for NaN, with its place."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), path)
    if isinstance(value, dict):
        return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError(f"{path} is NaN: the model's weights hold NaN or Inf, or overflow; repair them")
        return value if math.isfinite(value) else str(value)
    return value
