"""Programs that share work count themselves as done, and whoever is last ends it.

Nobody waits for another program: it may not have begun. Each writes its part and counts; who finds all others done
reads all parts, past the first cache, in a fixed order, so that the result is always the same. What is written in
Triton's words here runs in Gluon's kernels, too.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def is_last(turns_ptr, parts):
    """Whether all other parts are written. The count begins anew: the next kernel looks at it when this one has
    ended."""
    tl.debug_barrier()  # all threads' numbers are written before one of them counts their program as done
    last = tl.atomic_add(turns_ptr, 1) == parts - 1
    if last:
        tl.store(turns_ptr, 0)
    return last
