"""Triton's interpreter with less to do for each step. Imported for that where TRITON_INTERPRET is set.

Triton 3.7 puts its interpreted functions into `triton.language` anew for every call of a device function, after looking
through the whole module: a third of the time. Here they are put in once, and stay. And it does every sum of int32 again
in int64, a quarter of the rest: here numbers are compared at the end, where one that overflowed is wrong.

Private names are replaced because no public one does it: a launch's `sanitize_overflow` reaches the compiler alone, and
nothing says how long what was put in stays."""

import functools
import types
from dataclasses import replace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

SEES_BOTH = types.FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core})

interpreter._patch_lang(SEES_BOTH)
interpreter._patch_lang = lambda fn: interpreter._LangPatchScope()
interpreter.interpreter_builder.options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)

_np_dtype = interpreter._get_np_dtype
_of_scalar = functools.cache(_np_dtype)


def _quick_np_dtype(kind: Any) -> Any:
    kind = kind.element_ty if isinstance(kind, tl.block_type) else kind
    return _of_scalar(kind) if type(kind) is tl.dtype else _np_dtype(kind)


interpreter._get_np_dtype = _quick_np_dtype
