"""A plan gives each layer its scheme: one for all, then exceptions by layer name; mixed precision as one line of text.

    w:int4/group128                                      a scheme's text is a plan without exceptions
    w:int4/group128@down_proj=w:int8/channel             every down_proj in int8
    W4A16@layers.0,layers.15=float@0.mlp.up_proj=W8A16   blocks 0 and 15 stay float, but one layer of block 0

`@` begins an exception: one or more patterns, `=`, the scheme. A pattern is a layer's name, a run of whole parts of its
dotted name, or a regular expression behind re:, as in skip= (`patterns`). The last exception that fits a layer decides;
where none fits, the default does, with its skip=. `@` is used because neither a shell nor a URL's query gives it a
meaning (`;` ends a shell's command, `+` is a space in a query). `Plan.parse(str(plan)) == plan`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from quantcore.methods.transforms.options import Transform
from quantcore.numbers.granularity import Granularity
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.patterns import fits, is_pattern, require_quick
from quantcore.scheme.scheme import HEAD, PRESET_GRAIN, Scheme

LONGEST_TEXT = 8000
MARK = "@"


@dataclass(frozen=True)
class Plan:
    """`default` for every layer that no exception fits; `overrides` are (pattern, scheme), the last that fits decides.

    An override's own skip says nothing and stays as it is by default: a layer stays float by `=float`."""

    default: Scheme
    overrides: tuple[tuple[str, Scheme], ...] = ()

    def __post_init__(self) -> None:
        for pattern, scheme in self.overrides:
            require_quick(pattern)
            if not is_pattern(pattern):
                raise ValueError(
                    f"{pattern!r} is no layer name; use letters, digits, _ and ., as in @layers.0=w:int8/channel"
                )
            if scheme.transforms:
                words = ",".join(map(str, scheme.transforms))
                raise ValueError(
                    f"the exception for {pattern!r} says {words}, which is done to the whole model; write it once, "
                    "before the first @"
                )
            if scheme.kv is not None:
                raise ValueError(
                    f"the exception for {pattern!r} says {scheme.kv}, and the cache is the whole model's; write it "
                    "once, before the first @"
                )
            if scheme.skip != Scheme().skip:
                raise ValueError(
                    f"the exception for {pattern!r} says skip=, which only the default may; write @{pattern}=float "
                    "for layers that stay float"
                )

    def __str__(self) -> str:
        parts = [str(self.default)]
        for text, same in groupby(self.overrides, key=lambda override: str(override[1])):
            parts.append(f"{','.join(pattern for pattern, _ in same)}={text}")
        return MARK.join(parts)

    @staticmethod
    def parse(text: str, grain: Granularity = PRESET_GRAIN) -> Plan:
        """The plan that a text says; `grain` as `Scheme.parse`. Raises: ValueError with what, where and the way out."""
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"a plan's text of {len(text)} characters is too long; the limit is {LONGEST_TEXT}")
        first, *rest = text.split(MARK)
        overrides: list[tuple[str, Scheme]] = []
        for part in rest:
            patterns, equals, scheme = part.partition("=")
            if not equals or not patterns.strip() or not scheme.strip():
                raise ValueError(f"cannot read the exception {part!r}; write @layer=scheme, as in @down_proj=W8A16")
            wanted = Scheme.parse(scheme.strip(), grain)
            overrides += [(pattern.strip(), wanted) for pattern in patterns.split(",")]
        return Plan(Scheme.parse(first.strip(), grain), tuple(overrides))

    @staticmethod
    def of(value: Plan | Scheme | str) -> Plan:
        """A plan from whatever says one."""
        if isinstance(value, str):
            return Plan.parse(value)
        return Plan(value) if isinstance(value, Scheme) else value

    @property
    def label(self) -> str:
        """The default's preset name or text, and the exceptions after it."""
        return MARK.join([self.default.label, *str(self).split(MARK)[1:]])

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme that the plan names, each once, the default first."""
        return tuple(dict.fromkeys([self.default, *(scheme for _, scheme in self.overrides)]))

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """What is done to the model before any layer is coded."""
        return self.default.transforms

    @property
    def kv(self) -> CacheSpec | None:
        """What the model's KV cache holds; None: floats."""
        return self.default.kv

    @property
    def of_layers(self) -> Plan:
        """The plan without what it says of the cache."""
        return self if self.kv is None else replace(self, default=self.default.of_layers)

    @property
    def is_float(self) -> bool:
        """Whether no scheme of the plan quantizes a Linear; the cache may be quantized all the same."""
        return all(one.is_float for one in self.schemes)

    @property
    def needs_ranges(self) -> bool:
        """As `Scheme.needs_ranges`, of any scheme."""
        return any(one.needs_ranges for one in self.schemes)

    @property
    def needs_hessian(self) -> bool:
        """As `Scheme.needs_hessian`, of any scheme."""
        return any(one.needs_hessian for one in self.schemes)

    @property
    def needs_text(self) -> bool:
        """As `Scheme.needs_text`, of any scheme."""
        return any(one.needs_text for one in self.schemes)

    def scheme_for(self, name: str, head: str | None = None) -> Scheme | None:
        """The scheme of the layer `name`; None: it stays float. `head`: what the model calls its output head, which a
        plan may call HEAD whatever its name is."""
        known = (name, HEAD) if name == head else (name,)
        fitting = [scheme for pattern, scheme in self.overrides if any(fits(pattern, one) for one in known)]
        if not fitting and any(map(self.default.skips, known)):
            return None
        scheme = fitting[-1] if fitting else self.default
        return None if scheme.is_float else scheme.of_layers

    def schemes_of(self, names: Iterable[str], head: str | None = None) -> dict[str, Scheme]:
        """The scheme of every layer of `names`, a model's Linears, that does not stay float; `head` as in `scheme_for`.

        Raises: ValueError for a plan that does not fit them: a pattern that fits none, or all skipped."""
        known = list(names)
        self.require_layers([*known, *([HEAD] if head in known else [])])
        found = {name: scheme for name in known if (scheme := self.scheme_for(name, head)) is not None}
        if not found and not self.is_float:
            raise ValueError(f"{self} skips every Linear of the model; shorten skip=")
        return found

    def require_layers(self, names: Iterable[str]) -> None:
        """Raises: ValueError for the first pattern that fits none of a model's layers, so that no typo goes unseen."""
        known = list(names)
        for pattern, _ in self.overrides:
            if not any(fits(pattern, name) for name in known):
                some = ", ".join(known[:3])
                raise ValueError(f"no layer fits {pattern!r}; this model has {len(known)}, such as {some}")
