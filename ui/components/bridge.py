"""How a component's JavaScript reaches the browser: as plain files, served by the app itself.

A st.components.v2 component carries its JavaScript inside every message. Ours carries a four-line loader instead, which
imports the module from the app's server, so that a slider move sends data only and the files can share code:

    message -> loader -> <app>/component/ui.components.bridge.web-<hash>/chart.js
                         <app>/component/ui.components.bridge.plotly-<version>/plotly.min.js   (by chart.js, once)

The two folders are announced with `declare_component`, Streamlit's public way to serve a folder. It works the same
under `streamlit run serve.py`, a page of its own and AppTest, needs neither a copy of plotly.js nor the internet,
and the hash in the folder's name lets a browser keep the files for ever.

The data goes over as JSON bytes, encoded once: a dict would be encoded by Streamlit twice, a second time for its hash.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import plotly
import streamlit as st
from plotly.offline import get_plotlyjs_version
from streamlit.components.v1 import declare_component
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ui.components.palette import SERIES

WEB = Path(__file__).parent / "web"
PLOTLY = Path(plotly.__file__).parent / "package_data"

LOADER = """
// Streamlit's own script lies in <app>/static/js/, wherever a proxy or a page's path may have put us.
const app = new URL("../../", document.querySelector('script[type="module"][src*="static/js/"]').src);
const options = OPTIONS;
export default (component) => import(new URL(options.module, app))
  .then((module) => module.default(component, { ...options, plotly: new URL(options.plotly, app).href }))
  .catch((error) => { component.parentElement.textContent = `This picture could not be loaded: ${error.message}.`; });
"""


def _version(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:10]


WEB_FOLDER = f"web-{_version(WEB)}"
PLOTLY_FOLDER = f"plotly-{get_plotlyjs_version()}"


def served_folders() -> dict[str, Path]:
    """The two folders by the name under which the server has them."""
    return {f"{__name__}.{WEB_FOLDER}": WEB, f"{__name__}.{PLOTLY_FOLDER}": PLOTLY}


@cache
def _serve_folders() -> None:
    """Announce both folders to the running server; needs a script run, so it happens at the first mount."""
    declare_component(WEB_FOLDER, path=WEB)
    declare_component(PLOTLY_FOLDER, path=PLOTLY)


def component(name: str) -> Callable[..., Any]:
    """The mounting function of the component in web/<name>.js and web/<name>.css."""
    options = {
        "module": f"component/{__name__}.{WEB_FOLDER}/{name}.js",
        "plotly": f"component/{__name__}.{PLOTLY_FOLDER}/plotly.min.js",
        "palette": SERIES,
    }
    renderer = st.components.v2.component(
        f"lab_{name}",
        css=(WEB / f"{name}.css").read_text(encoding="utf-8"),
        js=LOADER.replace("OPTIONS", json.dumps(options)),
        isolate_styles=False,
    )

    def mount(payload: bytes, *, key: str, **mounting: Any) -> Any:
        if get_script_run_ctx(suppress_warning=True) is not None:
            _serve_folders()
        return renderer(key=key, data=payload, **mounting)

    return mount


def encode(payload: dict[str, Any]) -> bytes:
    """Compact JSON; numpy arrays that are neither base64-packed nor plain numbers become lists."""
    return orjson.dumps(payload, default=_as_list, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)


def _as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be sent to the browser: {value!r}")
