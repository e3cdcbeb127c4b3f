"""A disk that takes no more in the middle of the work: one sentence, nothing half written, what was there stays.

The child's files may have no more than a few kilobytes (RLIMIT_FSIZE), so each write breaks off as on a full disk."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import resource, sys
from quantcore.cli.command import main
out, model = sys.argv[1:]
loaded = ["--model", model, "--device", "cpu"]
read = [*loaded, "--max-tokens", "64", "--window", "12"]

def limited(most, *words):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    print("code", main([*words]), file=sys.stderr)

limited(40_000, "quantize", "--scheme", "w:int8/channel", "--out", f"{out}/new", *loaded)
limited(40_000, "quantize", "--scheme", "w:int4/group32", "--out", f"{out}/old", "--force", "--stream", *loaded)
limited(40_000, "compare", "--schemes", "w:int4/channel", "--out", f"{out}/report.html", *read)
limited(2_000, "compare", "--schemes", "w:int4/channel", *read)
"""


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder, hidden ones too, and the hash of its bytes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.skipif(sys.platform != "linux", reason="what a write beyond the limit does is Linux's")
def test_a_disk_that_fills_up_in_the_middle(tmp_path: Path, tiny_model_dir: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_model_dir, out / "old")
    before = contents(out)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(out), str(tiny_model_dir)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "QUANT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith(("quantcore:", "code"))]
    assert [re.sub(r"'/\S+/", "'", line) for line in said] == [  # long places are cut
        "quantcore: cannot write 'new' (File too large); nothing was kept; choose another folder",
        "code 2",
        "quantcore: cannot write 'old' (File too large); nothing was kept; choose another folder",
        "code 2",
        "quantcore: cannot write 'report.html' (File too large); choose another place",
        "code 2",
        "code 0",  # a result that cannot be kept is told all the same
    ]
    assert "results of this run are not kept" in json.loads(done.stdout)["notice"]
    assert contents(out) == before
    assert [path.name for path in out.iterdir()] == ["old"]
