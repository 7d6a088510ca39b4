"""Stand-ins for programs and servers that are not here: HTTP servers with scripted answers, scripts, archives."""

import io
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

NOWHERE = "http://127.0.0.1:1"
GENUINE = "#!/bin/sh\necho toxiproxy-server version 2.12.0\n"


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve every request with `answer`; yields the URL."""

    class _Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_DELETE = do_GET  # noqa: N815 - as the standard library looks them up

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, length_bytes: int | None = None) -> None:
    """Answer with a body; `length_bytes` is what the header says, if that is not true."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length_bytes is None else length_bytes))
    request.end_headers()
    request.wfile.write(body)


def serving(status: int, body: bytes) -> AbstractContextManager[str]:
    """A server that gives everybody the same answer."""
    return http_server(lambda request: reply(request, status, body))


def waiting_for(over: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer that does not come before `over` is set."""

    def answer(_: BaseHTTPRequestHandler) -> None:
        over.wait(30)

    return answer


@contextmanager
def silent_server() -> Iterator[str]:
    """Accept requests and never answer them."""
    with ExitStack() as stack:
        over = threading.Event()
        url = stack.enter_context(http_server(waiting_for(over)))
        stack.callback(over.set)
        yield url


def executable(path: Path, text: str) -> Path:
    """Write a script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def archive_of(members: dict[str, str]) -> bytes:
    """A release archive with these members, each with its text."""
    return tar_of({name: text.encode() for name, text in members.items()}, "w:gz")


def tar_of(members: Mapping[str, bytes], mode: Literal["w", "w:gz"]) -> bytes:
    """An archive with these members, each with its content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


_IMAGE_TARGET = """
schema = 1
name = "NAME"
[container]
image = "IMAGE"
port = 3000
volumes = { "/data" = "{folder}" }
[protocol]
event = "chat message"
[store]
kind = "sqlite"
location = "{folder}/chat.db"
rows = "SELECT id, client_offset, content FROM messages ORDER BY id"
"""


def image_target(name: str, image: str) -> str:
    """A description of an image as others have theirs: it is told no port, and has its store in a place of its own."""
    return _IMAGE_TARGET.replace("NAME", name).replace("IMAGE", image)
