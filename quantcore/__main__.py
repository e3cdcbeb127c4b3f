"""The command `quantcore`, or `python -m quantcore`: what it can do stands in quantcore/cli/command.py.

Its parts take seconds to import, so they are imported here: Ctrl-C is one line from the first moment on.
"""

from __future__ import annotations

import os
import sys
import warnings


def run() -> int:
    """Quiet libraries, then the verb; the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")
    try:
        from quantcore.cli.command import main
    except KeyboardInterrupt:
        print("quantcore: stopped; nothing was kept", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)  # half-imported libraries have nothing to say at the end
    return main()


if __name__ == "__main__":
    sys.exit(run())
