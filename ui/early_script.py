"""Let the browser load plotly.js together with the page, not when the first chart asks for it.

A fresh server imports torch for two seconds before it can say what is on the page, and the browser waits. plotly.js
takes that browser a second to read; asked for by the first chart, the second comes on top. So the page itself names the
script, and this middleware answers for it until Streamlit serves the folder, which it does from the first chart on.
Under `streamlit run app.py` there is no middleware, and the first chart brings the script (chart.js).
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.components import plotly_js

# If it does not arrive it takes itself out, and the first chart tries again.
TAG = f'<script async data-early="plotly" src="./{plotly_js.PATH}" onerror="this.remove()"></script>'.encode()


class EarlyScript:
    """ASGI middleware: the tag in every HTML page, and the script itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
        elif scope["path"].endswith(f"/{plotly_js.PATH}"):
            await FileResponse(plotly_js.FILE, media_type="text/javascript")(scope, receive, send)
        else:
            await self.app(scope, receive, Tagged(send))


class Tagged:
    """An ASGI `send` that puts the tag before </head> of an HTML page, and leaves every other answer as it is."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.start: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            if headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers:
                self.start = message  # held back: its length changes
                return
        if self.start is None or message["type"] != "http.response.body":
            await self.send(message)
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self.body.replace(b"</head>", TAG + b"</head>", 1)
        headers = MutableHeaders(raw=list(self.start["headers"]))
        headers["content-length"] = str(len(body))
        await self.send({**self.start, "headers": headers.raw})
        await self.send({"type": "http.response.body", "body": body})
