"""The command line in a process whose second rank meets trouble at the second block; run by test_torchrun.py.

python -m tests.rank_in_trouble dies|refuses VERB ..."""

import os
import signal
import sys

from quantcore.cli.command import main
from quantcore.pipeline import road

if os.environ["RANK"] == "1":
    whole = road.quantize_sets

    def troubled(sets, ranges, weighed):  # type: ignore[no-untyped-def]
        members = [name for together, *_ in sets for name in together]
        if any(".layers.1." in name for name in members):
            if sys.argv[1] == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(f"{members[0]} cannot be solved here; try another machine")
        return whole(sets, ranges, weighed)

    road.quantize_sets = troubled  # type: ignore[assignment]

sys.exit(main(sys.argv[2:]))
