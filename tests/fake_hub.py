"""A model hub on this machine: it serves folders as repositories, or refuses, and notes what it is asked."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPOSITORY = "someone/model"


class FakeHub:
    """`folder` is the model `REPOSITORY` at `commit`; every answer has `status` unless that is 200."""

    def __init__(self, folder: Path) -> None:
        """Serve nothing yet."""
        self.folder, self.commit, self.status = folder, "a" * 40, 200
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[bytes, dict[str, str]]:
        """The body and the headers for a path; FileNotFoundError if there is nothing."""
        names = sorted(file.name for file in self.folder.iterdir() if file.is_file())
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [{"type": "file", "path": n, "size": (self.folder / n).stat().st_size, "oid": n} for n in names]
            return json.dumps(tree).encode(), {}
        if path.startswith(f"/api/models/{REPOSITORY}"):
            revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
            if revision not in ("main", "v1") and len(revision) != 40:
                raise FileNotFoundError("RevisionNotFound")
            commit = revision if len(revision) == 40 else self.commit
            files = [{"rfilename": name} for name in names]
            return json.dumps({"id": REPOSITORY, "sha": commit, "siblings": files}).encode(), {}
        name = path.rpartition("/")[2]
        if path.startswith(f"/{REPOSITORY}/resolve/") and name in names:
            data = (self.folder / name).read_bytes()
            return data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": path.split("/")[4]}
        raise FileNotFoundError("RepoNotFound")


@contextmanager
def fake_hub(folder: Path, cache: Path) -> Iterator[FakeHub]:
    """Serve a folder, and let huggingface_hub take it for the hub, with a cache of its own."""
    hub = FakeHub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append(self.path)
            status, body, headers = hub.status, b"", dict[str, str]()
            if status == 200:
                try:
                    body, headers = hub.answer(self.path.partition("?")[0])
                except FileNotFoundError as error:
                    status, headers = 404, {"X-Error-Code": str(error)}
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "HF_HUB_OFFLINE": False,
                "ENDPOINT": url,
                "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
                "HF_HUB_CACHE": str(cache),
            }.items():
                patch.setattr(f"huggingface_hub.constants.{name}", value)
            patch.setenv("HF_HUB_CACHE", str(cache))
            yield hub
    finally:
        server.shutdown()
        server.server_close()
