"""A small server that speaks OpenAI's chat completions, well or badly."""
import contextlib
import enum
import http.server
import json
import threading
import time

from koala_jax.captions.schema import ASKED, Part


class Mood(enum.Enum):
    """How it answers."""

    WELL = enum.auto()
    ERROR = enum.auto()
    ERROR_ONCE = enum.auto()
    SLOW = enum.auto()
    NONSENSE = enum.auto()
    REFUSAL_FIRST = enum.auto()
    WRONG_KEY = enum.auto()
    TOO_LONG = enum.auto()
    CUT = enum.auto()
    NO_HTTP = enum.auto()
    DRIPS = enum.auto()
    MOVED = enum.auto()
    WRONG_FOR_ONE = enum.auto()
    HALF_A_CHARACTER = enum.auto()
    ENDLESS = enum.auto()


GOOD = {
    Part.SUBJECT: "A brown dog with a red collar fills the middle of the picture.",
    Part.ACTIONS: "It runs from left to right, slows down and turns its head towards us.",
    Part.ENVIRONMENT: "It is a wide meadow of short grass under an overcast sky at noon.",
    Part.VISUAL_LANGUAGE: "Filmed footage with soft light and muted greens, the subject centred.",
    Part.CAMERA_LANGUAGE: "A medium shot at eye level that pans slowly with the animal.",
    Part.WORLD_KNOWLEDGE: "Nothing here can be recognised beyond the breed, a setter.",
}


class Server(http.server.ThreadingHTTPServer):
    """Remembers how many requests it got, for which parts, how many at one time, and their headers."""

    daemon_threads = True

    def __init__(self, mood: Mood, texts: dict[Part, str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mood, self.texts, self.lock = mood, texts, threading.Lock()
        self.parts, self.bodies, self.keys, self.now, self.most = [], [], [], 0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"][-1]["text"]
        part = next(part for part in Part if question.startswith(ASKED[part]))
        with server.lock:
            earlier = server.parts.count(part)
            server.parts.append(part)
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            self._answer(server.mood, body, part, earlier)
        except (BrokenPipeError, ConnectionResetError):
            pass  # who asked did not wait

    def _answer(self, mood: Mood, asked: dict, part: Part, earlier: int) -> None:
        if mood is Mood.ERROR or (mood is Mood.ERROR_ONCE and not earlier):
            return self._send(500, b"out of order", **{"Retry-After": "²"})
        if mood is Mood.WRONG_KEY:
            return self._send(401, b"no such key")
        if mood is Mood.TOO_LONG:
            return self._send(400, f"too many images [/INST] for {self.headers.get('Authorization')}".encode())
        if mood is Mood.NO_HTTP:
            return self.wfile.write(b"hello\r\n\r\n")
        if mood is Mood.MOVED:
            return self._send(302, b"", Location="http://localhost:1/v1/chat/completions")
        if mood is Mood.WRONG_FOR_ONE:
            time.sleep(0.2 if part is Part.SUBJECT else 0)
            return self._send(401 if part is Part.SUBJECT else 500, b"no such key")
        if mood is Mood.NONSENSE:
            return self._send(200, b"<html>hello</html>")
        time.sleep(1.5 if mood is Mood.SLOW else 0.02)
        text = "I'm sorry, but I can't help with that." if mood is Mood.REFUSAL_FIRST and not earlier else self.server.texts[part]
        text += "\ud83d" * (mood is Mood.HALF_A_CHARACTER)
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        if len(text.split()) > asked["max_tokens"]:
            choice = {"message": {"content": " ".join(text.split()[: asked["max_tokens"]])}, "finish_reason": "length"}
        answer = {"choices": [choice], "usage": {"prompt_tokens": float("inf") if mood is Mood.ENDLESS else 1000, "completion_tokens": 50}}
        body = json.dumps(answer).encode()
        self._send(200, body[:20] if mood in (Mood.CUT, Mood.DRIPS) else body, **{"Content-Length": len(body)})
        for byte in body[20:] if mood is Mood.DRIPS else b"":
            time.sleep(0.15)
            self.wfile.write(bytes([byte]))

    def _send(self, status: int, body: bytes, **headers) -> None:
        with self.server.lock:
            self.server.now -= 1  # before the answer: who has it may ask again at once
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(mood: Mood, texts: dict[Part, str] = GOOD):
    """A server in this mood that answers these texts, for as long as the block runs."""
    with Server(mood, texts) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
