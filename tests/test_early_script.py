"""plotly.js comes with the page: the tag in HTML and nowhere else, the script itself, one download for a browser."""

import asyncio
from typing import Any

import pytest

from tests.browser_fixtures import wait_drawn
from ui.components import plotly_js
from ui.early_script import TAG, EarlyScript


def answer(kind: str, parts: list[bytes], path: str = "/Granularity", **start: Any) -> tuple[dict[bytes, bytes], bytes]:
    """Headers and body that a browser gets from an app that answers in `parts`."""
    sent: list[dict[str, Any]] = []

    async def app(scope: dict, receive: Any, send: Any) -> None:
        headers = [(b"content-type", kind.encode()), (b"content-length", str(sum(map(len, parts))).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers, **start})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": part is not parts[-1]})

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return await asyncio.get_running_loop().create_future()  # the browser stays

    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    asyncio.run(EarlyScript(app)(scope, receive, send))  # type: ignore[arg-type]
    return dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def test_every_page_gets_the_tag_and_its_new_length() -> None:
    headers, body = answer("text/html; charset=utf-8", [b"<head></he", b"ad><body></head></body>"])
    assert body == b"<head>" + TAG + b"</head><body></head></body>"
    assert headers[b"content-length"] == str(len(body)).encode()


def test_other_answers_pass_as_they_are() -> None:
    for kind in ("application/json", "text/javascript"):
        headers, body = answer(kind, [b"</head>", b"x"])
        assert body == b"</head>x"
        assert headers[b"content-length"] == b"8"


def test_the_script_is_there_before_streamlit_serves_it() -> None:
    headers, body = answer("text/plain", [b"not found"], f"/app/{plotly_js.PATH}")
    assert headers[b"content-type"].startswith(b"text/javascript")
    assert body == plotly_js.FILE.read_bytes()


@pytest.mark.browser
def test_a_browser_loads_it_once(page: Any, server_url: str) -> None:
    page.goto(server_url)
    wait_drawn(page, "row")
    scripts = page.evaluate("[...document.scripts].map(script => script.src)")
    assert [src for src in scripts if src.endswith("plotly.min.js")] == [f"{server_url}/{plotly_js.PATH}"]
    assert page.evaluate("Plotly.version") == plotly_js.FOLDER.removeprefix("plotly-")
