"""What a forked command finds imported (tests/forked.py): all that the command line and the pages import, but serve.py
and what switches on Triton's interpreter."""

import gc
import importlib
import os
import pkgutil

gc.disable()  # what imports make stays, so nobody need look for garbage in it, now or in a forked process

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # as quantcore/__main__.py, which comes too late here

import ui  # noqa: E402

for _name in ("quantcore.cli.command", "streamlit.web.cli", "transformers.models.llama.modeling_llama"):
    importlib.import_module(_name)
for _module in pkgutil.walk_packages(ui.__path__, "ui."):
    importlib.import_module(_module.name)
ui.server.scripts.LEVEL = 1  # a server compresses for a second of the processor else, and no Wi-Fi waits for it here
gc.freeze()
gc.enable()
