"""A server on the loopback that stands in for Weights & Biases: it answers what a client must hear,
and keeps all that arrives."""

import base64
import gzip
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PROJECT = {
    "id": "p",
    "internalId": "p",
    "name": "clf",
    "entityName": "me",
    "entity": {"name": "me"},
}
LAST_PAGE = {"hasNextPage": False, "endCursor": None}


class StandIn:
    """What arrived, in order.

    Attributes:
        url: of the server
        queries: bodies of GraphQL requests, each with "query" and "variables"
        streams: bodies of what runs stream: rows of their history, system metrics
        uploads: bytes of files by the address that they were sent to
        answers: by a word of the query, the first that fits, what it gets: an answer, or a function
            of the query's variables; a test may add to them
        trouble: "refuse": every connection ends at once; "silent": no request gets an answer until
            this is None again; "500": each gets the answer 500; None: all is well
    """

    def __init__(self) -> None:
        self.url = ""
        self.trouble: str | None = None
        self.queries: list[dict[str, Any]] = []
        self.streams: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self._views: dict[str, dict[str, Any]] = {}  # workspaces and reports
        self.answers: dict[str, Any] = {
            "UpsertBucket": self._upsert_run,
            "CreateRunFiles": self._create_files,
            "RunResumeStatus": self._resume_status,
            "UpsertView2": self._upsert_view,
            "upsertView": self._upsert_view,
            "query View(": self._workspace,
            "SpecificReport": lambda said: {"view": self._views[said["reportId"]]},
            "ProjectInternalId": {"project": PROJECT},
            "GetProjects": lambda said: {"models": {"edges": [], "pageInfo": LAST_PAGE}},
            "UpsertModel": {
                "upsertModel": {"project": PROJECT, "model": PROJECT, "inserted": True}
            },
            "GetDefaultEntity": {"viewer": {"id": "u", "entity": "me"}},
            "Viewer": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}},
        }

    def _upsert_view(self, said: dict[str, Any]) -> dict[str, Any]:
        id = said.get("id") or base64.b64encode(b"view%02d" % len(self._views)).decode()
        kept = {name: said[name] for name in ("name", "displayName", "description", "spec", "type")}
        self._views[id] = {"id": id, "project": PROJECT, "updatedAt": "2026-01-02T03:04:05", **kept}
        return {"upsertView": {"view": self._views[id], "inserted": not said.get("id")}}

    def _workspace(self, said: dict[str, Any]) -> dict[str, Any]:
        views = self._views.values()
        found = [{"node": view} for view in views if view["name"] == said["viewName"]]
        return {"project": {"allViews": {"edges": found}}}

    @staticmethod
    def _upsert_run(said: dict[str, Any]) -> dict[str, Any]:
        name = said.get("name") or "one"
        run = {"id": "1", "name": name, "displayName": name, "project": PROJECT}
        return {"upsertBucket": {"bucket": run, "inserted": True}}

    def _resume_status(self, said: dict[str, Any]) -> dict[str, Any]:
        """What a run that goes on must know: how many rows there are."""
        rows = self.rows()
        if not rows:
            return {"model": None}
        bucket = {
            "id": "1",
            "name": said["name"],
            "summaryMetrics": "{}",
            "displayName": said["name"],
            "logLineCount": 0,
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(rows[-1])]),
            "eventsTail": "[]",
            "config": "{}",
            "tags": [],
            "wandbConfig": '{"t": 1}',
        }
        return {"model": {**PROJECT, "bucket": bucket}}

    def rows(self) -> list[dict[str, Any]]:
        """The history as the server holds it: each row at the place that it was sent for."""
        placed: dict[int, dict[str, Any]] = {}
        for stream in self.streams:
            part = stream.get("files", {}).get("wandb-history.jsonl", {})
            for place, row in enumerate(part.get("content", []), part.get("offset", 0)):
                placed[place] = json.loads(row)
        return [placed[place] for place in sorted(placed)]

    def _create_files(self, said: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in said["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def answer(self, path: str, said: bytes) -> dict[str, Any]:
        if "graphql" not in path and "file_stream" not in path:
            self.uploads[path] = said
            return {}
        body = json.loads(said)
        if "graphql" not in path:
            self.streams.append(body)
            return {}
        self.queries.append(body)
        fitting = (answer for word, answer in self.answers.items() if word in body["query"])
        found = next(fitting, {})
        return {"data": found(body.get("variables") or {}) if callable(found) else found}

    def views(self) -> list[dict[str, Any]]:
        """Variables of the requests that created or changed a workspace or a report."""
        return [said["variables"] for said in self.queries if "upsertView" in said["query"]]

    def lines(self, file: str) -> list[dict[str, Any]]:
        """The lines of a file of the streams, such as "wandb-history.jsonl"."""
        parts = [stream.get("files", {}).get(file, {}) for stream in self.streams]
        return [json.loads(line) for part in parts for line in part.get("content", [])]


@contextmanager
def serving() -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            said = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                said = gzip.decompress(said)
            while stand_in.trouble == "silent":
                time.sleep(0.05)
            if stand_in.trouble == "refuse":
                self.close_connection = True
                return
            code = 500 if stand_in.trouble == "500" else 200
            body = b"{}" if code == 500 else json.dumps(stand_in.answer(self.path, said)).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST

        def log_message(self, *args: Any) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None:
            """A client that was killed is no news."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stand_in.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield stand_in
        finally:
            stand_in.trouble = None
            server.shutdown()
    thread.join()
