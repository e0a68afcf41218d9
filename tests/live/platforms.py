"""Other programs, as far as adapters see them: scripted servers over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Asked = tuple[str, str, dict[str, str], bytes]
"""Method, path with its query, headers, body."""


@contextmanager
def answering(answer: Callable[[Asked], tuple[int, Any]]) -> Iterator[tuple[str, list[Asked]]]:
    """A server that answers by a function, and what it was asked."""
    asked: list[Asked] = []

    class Answers(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            one = (self.command, self.path, {key.lower(): value for key, value in self.headers.items()}, body)
            asked.append(one)
            status, content = answer(one)
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class GrowthBookServer:
    """GrowthBook's REST API v1, as far as it is used here: it checks what its OpenAPI forms require."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.experiments: dict[str, dict[str, Any]] = {}
        self.features: dict[str, dict[str, Any]] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def __call__(self, asked: Asked) -> tuple[int, Any]:
        """Answer one request."""
        method, path, headers, body = asked
        if headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"message": "Invalid API key"}
        parts = urlsplit(path)
        match (method, *parts.path.removeprefix("/api/v1/").split("/")):
            case ("POST", "experiments"):
                return self._experiment(json.loads(body))
            case ("POST", "features"):
                return self._feature(json.loads(body))
            case ("GET", "experiments"):
                wanted = parse_qs(parts.query)["trackingKey"][0]
                return 200, {"experiments": [one for one in self.experiments.values() if one["trackingKey"] == wanted]}
            case ("GET", "experiments", name, "results"):
                return 200, {"result": self.results[name]} if name in self.results else {}
            case ("GET", "features", name) if name in self.features:
                return 200, {"feature": self.features[name]}
        return 404, {"message": "Could not find it"}

    def _experiment(self, said: dict[str, Any]) -> tuple[int, Any]:
        if missing := {"name", "variations", "trackingKey", "assignmentQueryId"} - said.keys():
            return 400, {"message": f"Request body: [{min(missing)}] Required"}
        if len(said["variations"]) < 2 or not all({"key", "name"} <= one.keys() for one in said["variations"]):
            return 400, {"message": "Request body: [variations] two with key and name"}
        name = f"exp_{len(self.experiments)}"
        variations = [{**one, "variationId": f"var_{name}_{n}"} for n, one in enumerate(said["variations"])]
        self.experiments[name] = {**said, "id": name, "variations": variations}
        return 200, {"experiment": self.experiments[name]}

    def _feature(self, said: dict[str, Any]) -> tuple[int, Any]:
        if missing := {"id", "owner", "valueType", "defaultValue"} - said.keys():
            return 400, {"message": f"Request body: [{min(missing)}] Required"}
        self.features[said["id"]] = said
        return 200, {"feature": said}
