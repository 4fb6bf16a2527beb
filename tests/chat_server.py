"""A real HTTP server on loopback that speaks /v1/chat/completions, with faults on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """A well-formed completion."""

    text: Any
    refusal: str | None = None
    finish: str = "stop"
    usage: Mapping[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10})
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the message."""


@dataclass(frozen=True)
class Status:
    """An HTTP error."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "as the test wants it"})


@dataclass(frozen=True)
class Raw:
    """Any bytes with status 200."""

    body: str
    kind: str = "application/json"


@dataclass(frozen=True)
class Hang:
    """No answer for so long; then none at all."""

    seconds: float


@dataclass(frozen=True)
class Drop:
    """The connection closes in the middle of the answer."""


@dataclass(frozen=True)
class Drip:
    """An answer without an end: so many bytes, a pause, so many bytes."""

    size: int = 1
    pause: float = 0.05
    head: bool = False
    """Header lines without an end, in place of a body."""


Action = Say | Status | Raw | Hang | Drop | Drip
Script = Callable[[dict[str, Any], int], Action]


def prompt_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def answers_in(body: dict[str, Any]) -> tuple[str, str]:
    """The two answers in a prompt made of judge/prompt.txt."""
    prompt = prompt_of(body)
    first = prompt.split("<answer_1>\n")[1].split("\n</answer_1>")[0]
    second = prompt.split("<answer_2>\n")[1].split("\n</answer_2>")[0]
    return first, second


def rate(body: dict[str, Any], number: int) -> Action:
    """A judge that gives what the answer names ("worth 7"), plus one for standing first."""
    first, second = (int(answer.split("worth ")[1].split()[0]) for answer in answers_in(body))
    return Say(json.dumps({"first": first + 1, "second": second, "reason": "It says so."}))


class ChatServer:
    """What came in, what goes out."""

    def __init__(self, script: Script, host: str = "127.0.0.1") -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.busy = self.most_busy = self.completed = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.requests)
                    server.requests.append({**body, "path": self.path})
                    server.keys.append(self.headers.get("Authorization"))
                    server.times.append(time.monotonic())
                    server.busy += 1
                    server.most_busy = max(server.most_busy, server.busy)
                try:
                    self._act(server.script(body, number), body)
                finally:
                    with server._lock:
                        server.busy -= 1

            def _act(self, action: Action, body: dict[str, Any]) -> None:
                match action:
                    case Say():
                        server.completed += 1
                        self._send(200, json.dumps(_completion(action, body)))
                    case Status():
                        self._send(action.code, json.dumps({"error": dict(action.error)}), action.headers)
                    case Raw():
                        self._send(200, action.body, kind=action.kind)
                    case Hang():
                        time.sleep(action.seconds)
                        self.close_connection = True
                    case Drop():
                        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"choices": [')
                        self.wfile.flush()
                        self.connection.shutdown(socket.SHUT_RDWR)
                        self.close_connection = True
                    case Drip():
                        self._drip(action)

            def _drip(self, drip: Drip) -> None:
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                self.wfile.write(head if drip.head else head + b"\r\n")
                self.close_connection = True
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(b"X-A: b\r\n" if drip.head else b" " * drip.size)
                        time.sleep(drip.pause)

            def _send(
                self, code: int, body: str, headers: Mapping[str, str] | None = None, kind: str = "application/json"
            ) -> None:
                self.send_response(code)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(body.encode()))}.items():
                    self.send_header(name, value)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:
                """The test's output stays clean."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that went away is what some tests are about."""

        self._http = Quiet((host, 0), Handler)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._http.server_address[1]}/v1"

    def start(self) -> None:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def _completion(said: Say, body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": said.text, "refusal": said.refusal, **said.more}
    content = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": said.finish}],
    }
    return content if said.usage is None else content | {"usage": dict(said.usage)}


@contextlib.contextmanager
def serving(script: Script = rate, host: str = "127.0.0.1") -> Iterator[ChatServer]:
    server = ChatServer(script, host)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def after(*actions: Action, then: Script = rate) -> Script:
    """These actions for the first requests, in turn; then another script."""
    return lambda body, number: actions[number] if number < len(actions) else then(body, number)
