"""What a line of the shell says of texts, as readings: --text, --max-tokens, --window, --seed, --chat, --calibrate-on.

A text is named by its file, or by a hub's data set. It is read here, before any model is, so that a wrong one is told
at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from quantcore.lab.lab import Lab
from quantcore.measure.store import tokens_hash
from quantcore.scheme.scheme import Scheme
from quantcore.text.files import named_text
from quantcore.text.reading import CALIBRATE, Reader, Reading, Texts
from quantcore.text.windows import TEXT_KINDS

LEAST_TOKENS = 2 * len(TEXT_KINDS)


@dataclass(frozen=True)
class TextOptions:
    """The options as they were given; None and False where they were not. `texts` keeps what was read."""

    text: str | None = None
    max_tokens: int | None = None
    window: int | None = None
    seed: int | None = None
    chat: bool = False
    calibrate_on: str | None = None
    texts: Texts = field(default_factory=Texts)

    def measured(self, usual: Reading) -> Reading:
        """What is measured on: `usual`, as far as the options do not say otherwise. Of two texts the template is for
        those that are the user's. Raises: ValueError for too few tokens, and what `named_text` refuses."""
        return self._reading(usual, self.text, self.max_tokens, self.chat and self.text is not None)

    def learned(self) -> Reading:
        """What static ranges and GPTQ learn from, where --calibrate-on names it."""
        return self._reading(CALIBRATE, self.calibrate_on, None, self.chat and self.calibrate_on is not None)

    def quantized_on(self) -> Reading:
        """The same where --text names it, as `quantize` has it."""
        return self._reading(CALIBRATE, self.text, self.max_tokens, self.chat)

    def facts(self, reading: Reading, tokens: Tensor) -> dict[str, Any]:
        """Where tokens are from, for the JSON."""
        own = self.texts[reading.source] if reading.own else None
        return {
            "reading": str(reading),
            "source": own.name if own else reading.words(self.texts),
            **({"text_hash": own.hash, "revision": own.revision, "chat": reading.chat} if own else {}),
            "tokens": tokens.numel(),
            "windows": len(tokens),
            "hash": tokens_hash(tokens),
            "seed": reading.seed,
        }

    def learned_facts(self, lab: Lab, schemes: Sequence[Scheme], reading: Reading) -> dict[str, Any] | None:
        """Where the calibration tokens are from, where a scheme needs some."""
        if not any(scheme.needs_text for scheme in schemes):
            return None
        return self.facts(reading, lab.tokens(str(reading)))

    def require_window(self, reader: Reader, *readings: Reading) -> None:
        """That the windows are as long as --window asks. Raises: ValueError, before any work, where the model or the
        text has shorter ones."""
        self.require_context(reader.context)
        if self.window is None:
            return
        for reading in readings:
            length = reading.tokens(reader, self.texts).shape[1]
            if length < self.window:
                raise ValueError(
                    f"--window {self.window} is longer than what is read of {reading.words(self.texts)} at a time, "
                    f"{length} tokens; give at most {length}, or more text, or a larger --max-tokens"
                )

    def require_context(self, context: int | None) -> None:
        """Raises: ValueError where --window is longer than what a model was made for; None: it has no such limit."""
        if self.window is not None and context is not None and context < self.window:
            raise ValueError(
                f"--window {self.window} is longer than the {context} tokens that this model was made for; give at "
                f"most {context}"
            )

    def line(self) -> list[str]:
        """The options as words of a shell's line."""
        said = {"--text": self.text, "--max-tokens": self.max_tokens, "--window": self.window, "--seed": self.seed}
        words = {**said, "--calibrate-on": self.calibrate_on}
        return [word for name, value in words.items() if value is not None for word in (name, str(value))] + [
            "--chat"
        ] * self.chat

    def _reading(self, usual: Reading, name: str | None, most: int | None, chat: bool) -> Reading:
        if self.max_tokens is not None and self.max_tokens < LEAST_TOKENS:
            raise ValueError(f"--max-tokens {self.max_tokens} is too few; give at least {LEAST_TOKENS}")
        if self.window is not None and self.window < 2:
            raise ValueError(
                f"--window {self.window} is too short: a model needs two tokens to predict one; give at least 2"
            )
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed {self.seed} is no seed; give a whole number of 0 to {2**63 - 1}")
        if self.chat and self.text is None and self.calibrate_on is None:
            raise ValueError("--chat is for a text of your own; name one with --text or --calibrate-on")
        found = replace(usual, seed=self.seed)
        if name is not None:
            found = replace(found, source=self.texts.keep(named_text(name)), chat=chat)
        return found.at_most(most or usual.windows * usual.length, self.window)
