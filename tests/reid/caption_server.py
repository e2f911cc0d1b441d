"""A stand-in for a multimodal model behind OpenAI's protocol, which answers well or as badly as it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

GOOD = {
    "identity": (
        "A young woman of slim build with long brown hair and fair skin.",
        "An elderly man of heavy build with a gray beard and short hair.",
        "A tall middle-aged man with short black hair and an athletic build.",
    ),
    "clothing": (
        "The person wears a fuchsia red jacket over blue jeans and white sneakers.",
        "The person wears a black coat with gray trousers and carries a brown bag.",
        "The person is dressed in a striped green shirt, beige shorts and black sandals.",
    ),
}
FAULTY = {
    "identity": "The image shows a man in a red jacket and blue jeans with white sneakers and a hat.",
    "clothing": "A tall young woman with long hair and a slim build walks by in the street.",
}


class Call(NamedTuple):
    """What came, and when by the clock."""

    image: str
    """Digest of the image in it."""
    part: str
    messages: list[dict[str, Any]]
    key: str
    time: float


def good(image: str, part: str) -> str:
    """The text that is answered for an image."""
    return GOOD[part][int(image, 16) % len(GOOD[part])]


class CaptionServer:
    """Answers calls by `behave`, which is given the call and how often its image and part came before, and names what
    to do: "good", "uncounted" (good, with tokens that are no numbers), "faulty", "cut", "no json",
    "not openai", "nested", "429", "500", "401", "hang up", "half", "slow", "silent".
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[Call] = []
        self.answered: list[Call] = []
        """Those to which a whole answer was sent, about to be received."""
        self.behave: Callable[[Call, int], str] = lambda call, before: "good"
        self.delay = 0.0
        """Seconds before each answer."""
        self.retry_after = "0"

    def counted(self) -> Counter[tuple[str, str]]:
        """How often each text of each image was asked for."""
        return Counter((call.image, call.part) for call in self.calls)


@contextmanager
def caption_server() -> Iterator[CaptionServer]:
    """A server on a free port of this machine."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    http.state = CaptionServer(f"http://127.0.0.1:{http.server_port}/v1")  # type: ignore[attr-defined]
    http.lock = threading.Lock()  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield http.state  # type: ignore[attr-defined]
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        content = body["messages"][1]["content"]
        assert body["response_format"]["json_schema"]["strict"] and self.path == "/v1/chat/completions"
        state: CaptionServer = self.server.state  # type: ignore[attr-defined]
        image = hashlib.sha256(content[1]["image_url"]["url"].encode()).hexdigest()
        part = "identity" if "Describe the person's identity" in content[0]["text"] else "clothing"
        call = Call(image, part, body["messages"], self.headers["authorization"] or "", time.monotonic())
        with self.server.lock:  # type: ignore[attr-defined]
            before = state.counted()[image, part]
            state.calls.append(call)
        behaviour = state.behave(call, before)
        time.sleep(state.delay)
        try:
            self._do(behaviour, call, state)
        except OSError:  # the client has hung up
            self.close_connection = True

    def _do(self, behaviour: str, call: Call, state: CaptionServer) -> None:
        if behaviour.isdigit():
            error = {"error": {"message": f"\x1b[31mas asked, {behaviour}", "type": "test"}}
            self._send(int(behaviour), json.dumps(error), {"retry-after": state.retry_after})
        elif behaviour == "hang up":
            self.close_connection = True
            self.connection.close()
        elif behaviour == "half":
            self._head(200, 1000)
            self.wfile.write(b'{"choices": [{"mess')
            self.close_connection = True
        elif behaviour == "slow":
            # A byte now and then, for ever: no single read takes long.
            self._head(200, 100_000)
            for _ in range(1000):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)
        elif behaviour == "silent":
            time.sleep(5)
            self.close_connection = True
        elif behaviour == "not openai":
            self._send(200, '{"detail": "welcome"}')
        elif behaviour == "nested":
            self._send(200, "[" * 100_000)
        else:
            right = good(call.image, call.part)
            texts = {"good": right, "uncounted": right, "faulty": FAULTY[call.part]}
            answer = json.dumps({"description": texts[behaviour]}) if behaviour in texts else "Sure! Here you are"
            answer = "" if behaviour == "cut" else answer
            message = {"role": "assistant", "content": answer}
            choice = {"index": 0, "finish_reason": "length" if behaviour == "cut" else "stop", "message": message}
            usage = {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320}
            if behaviour == "uncounted":
                usage = {"prompt_tokens": "many", "completion_tokens": None}  # type: ignore[dict-item]
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "stand-in-1", "usage": usage}
            state.answered.append(call)
            self._send(200, json.dumps({**reply, "choices": [choice]}))

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(length))
        self.end_headers()

    def _send(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body.encode()), headers)
        self.wfile.write(body.encode())
        self.wfile.flush()
