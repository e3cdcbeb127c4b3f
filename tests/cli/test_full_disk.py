"""A disk that takes no more in the middle of the work: one sentence, nothing half written, what was there stays.

The child's files may have no more than a few kilobytes (RLIMIT_FSIZE), so each write breaks off as on a full disk."""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests import forked

CHILD = """
import contextlib, io, resource, sys
from quantcore.cli.command import main
out, model = sys.argv[1:]
loaded = ["--model", model, "--device", "cpu"]
read = [*loaded, "--max-tokens", "64", "--window", "12"]
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

def limited(bytes, *words):
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, most))
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as told:
        code = main([*words])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # what it said goes into files too
    print(told.getvalue(), end="")
    print(err.getvalue() + f"code {code}", file=sys.stderr)

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
    env = {**os.environ, "QUANT_HOME": str(tmp_path / "home")}
    done = forked.run("-c", CHILD, str(out), str(tiny_model_dir), env=env)
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
