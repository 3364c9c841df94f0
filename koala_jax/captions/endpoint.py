"""Captions by a server that speaks OpenAI's chat completions: bounded concurrency, backoff, and a count of what it costs."""
import contextlib
import dataclasses
import http.client
import json
import logging
import os
import random
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from core_jax.numbers import refuse, within
from core_jax.page import data_url
from koala_jax.captions.backend import Failure, Request
from koala_jax.captions.schema import prompt, whole_sentences

log = logging.getLogger(__name__)

MINUTE = 60.0
"""seconds that a server may ask us to wait, at most"""

MOST = 10**6
"""of any setting: seconds of eleven days, which a socket still takes"""

IN_A_ROW = 300
"""requests without an answer, those of 50 clips: no longer a few clips that it cannot read, but the server"""

LONGEST = 2**24
"""bytes of an answer, at most"""


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """A server, and how it is asked."""

    url: str = "http://localhost:8000/v1"
    """address of the server, up to and without /chat/completions"""
    model: str = "default"
    """name by which the server knows the model"""
    key_variable: str = "OPENAI_API_KEY"
    """environment variable that holds the key; a local server needs none"""
    concurrency: int = 8
    """requests at one time"""
    seconds: float = 60.0
    """seconds that an answer may take"""
    tries: int = 4
    """times that a request is tried if the server does not answer as it should"""
    backoff: float = 1.0
    """seconds before the second try; twice as long before each further one"""
    most: int = 400
    """longest answer, in tokens"""
    price_in: float = 0.0
    """price of a million tokens of questions, images included"""
    price_out: float = 0.0
    """price of a million tokens of answers"""

    def __post_init__(self):
        refuse(self, {within(1, MOST): "concurrency tries most", within(0.001, MOST): "seconds", within(0, MOST): "backoff price_in price_out"}, "endpoint")


class Refused(RuntimeError):
    """The server will refuse every request as it refused this one: the address, the key or the model's name is wrong; or there is no server."""


@dataclasses.dataclass(frozen=True)
class _Unreached(Failure):
    """No server took the request."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address would get the key, and a GET without the question."""

    def redirect_request(self, *_) -> None:
        return None


def _telling(kind: type[http.client.HTTPConnection], tell: Callable[[socket.socket], None]) -> type[http.client.HTTPConnection]:
    """Connections of a kind that tell of their socket once there is one."""

    class Telling(kind):
        def connect(self) -> None:
            super().connect()
            tell(self.sock)

    return Telling


class _Connections(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Tells of each socket that requests go through."""

    def __init__(self, tell: Callable[[socket.socket], None]):
        super().__init__()
        self._http, self._https = _telling(http.client.HTTPConnection, tell), _telling(http.client.HTTPSConnection, tell)

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._http, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._https, request)


class _NoAnswer(Exception):
    """This request got no answer; another try may help, after so many seconds if the server says how many."""

    def __init__(self, reason: str, *, after: float = 0.0, again: bool = True, reached: bool = True):
        super().__init__(reason)
        self.after, self.again, self.reached = after, again, reached


class Endpoint:
    """A backend (`Answers`)."""

    def __init__(self, config: EndpointConfig):
        if urllib.parse.urlsplit(config.url).scheme not in ("http", "https"):
            raise ValueError(f"the endpoint {config.url!r} must begin with http:// or https://")
        self.config, self._key = config, os.environ.get(config.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):  # else http.client refuses it in a sentence that holds it
            raise ValueError(f"the key in {config.key_variable} holds a character that no header can hold")
        self._opener, self._ended = urllib.request.build_opener(_NoRedirect, _Connections(self._connected)), threading.Event()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.tokens_in = self.tokens_out = self.calls = 0
        self._failed, self._words = 0, ""
        self._lock = threading.Lock()

    @property
    def spent(self) -> dict[str, float]:
        """What this process asked so far; the cost is in the unit of the prices."""
        cost = (self.tokens_in * self.config.price_in + self.tokens_out * self.config.price_out) / 1e6
        return {"calls": self.calls, "tokens in": self.tokens_in, "tokens out": self.tokens_out, "cost": cost}

    def __call__(self, requests: list[Request]) -> list[str | Failure]:
        threads = ThreadPoolExecutor(self.config.concurrency)
        try:
            answers = list(threads.map(self._answer, requests))
        except BaseException:  # refused or interrupted: what waits is not asked, and what is being asked not waited for
            self._end()
            raise
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        if answers and all(isinstance(answer, _Unreached) for answer in answers):
            raise Refused(f"{self.config.url}: {answers[0].reason}; once it answers the same command goes on")
        self._failed += len(answers)
        if not all(isinstance(answer, Failure) for answer in answers):
            self._failed, self._words = 0, ""
        if self._failed >= IN_A_ROW:
            raise Refused(f"{self.config.url} answered none of the last {self._failed} requests: {self._words or answers[-1].reason}; once it does the same command goes on")
        return answers

    def _connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
            if self._ended.is_set():
                raise ConnectionAbortedError

    def _end(self) -> None:
        """Ends threads that wait for an answer, or for a pause to pass: Python joins them when it exits."""
        with self._lock:
            self._ended.set()
            for connection in self._open:
                with contextlib.suppress(OSError):  # closed already
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of TLS, too, what lies below: its own forgets the state that a thread reads

    def _answer(self, request: Request) -> str | Failure:
        body, attempt = self._body(request), 0
        while True:
            try:
                return self._call(body)
            except _NoAnswer as failed:
                attempt += 1
                if not failed.again or attempt == self.config.tries or self._ended.is_set():
                    failure = Failure if failed.reached else _Unreached
                    return failure(f"{failed} ({attempt} {'try' if attempt == 1 else 'tries'})")
                wait = max(failed.after, self.config.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1))
                log.info("%s, %s: %s; again in %.1f s", request.clip.name, request.part.value, failed, wait)
                if self._ended.wait(wait):
                    return Failure("ended")

    def _body(self, request: Request) -> bytes:
        images = [{"type": "image_url", "image_url": {"url": data_url(Image.fromarray(frame).save, "jpeg", quality=90)}} for frame in request.frames]
        content = [*images, {"type": "text", "text": prompt(request.part)}]
        return json.dumps({
            "model": self.config.model, "messages": [{"role": "user", "content": content}], "max_tokens": self.config.most,
            "temperature": 0.7 if request.attempt else 0.0,
        }).encode()  # fmt: skip

    def _call(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        call = urllib.request.Request(f"{self.config.url.rstrip('/')}/chat/completions", body, headers)
        with self._lock:
            self.calls += 1
        try:
            with self._opener.open(call, timeout=self.config.seconds) as response:
                raw = self._whole(response)
        except urllib.error.HTTPError as error:
            said = self._said(error)
            if error.code in (401, 403, 404) or 300 <= error.code < 400:
                raise Refused(f"{self.config.url} refuses with status {error.code}: {said}") from error
            again = error.code >= 500 or error.code in (408, 409, 429)
            self._words = f"status {error.code}: {said}"
            reason = f"status {error.code}" if again else self._words
            raise _NoAnswer(reason, after=_retry_after(error.headers.get("Retry-After")), again=again) from error
        except TimeoutError as error:
            raise _NoAnswer(f"no answer in {self.config.seconds:g} s") from error
        except OSError as error:
            reason = getattr(error, "reason", error)  # urllib's own error has another in it
            reached = isinstance(reason, (ConnectionResetError, BrokenPipeError))  # taken and dropped: another request may do
            raise _NoAnswer(f"no connection: {getattr(reason, 'strerror', None) or reason}", reached=reached) from error
        except http.client.HTTPException as error:
            raise _NoAnswer("no connection: an answer that is no HTTP") from error
        return self._read(raw)

    def _whole(self, response: http.client.HTTPResponse) -> bytes:
        """All that comes, as long as it comes in time; a timeout of the socket begins anew with every byte."""
        raw, until = bytearray(), time.monotonic() + self.config.seconds
        while piece := response.read1(2**16):
            raw += piece
            if time.monotonic() > until:
                raise TimeoutError
            if len(raw) > LONGEST:
                raise _NoAnswer(f"an answer of more than {LONGEST} bytes")
        return bytes(raw)

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What a server gives as its reason, without the key, which some repeat."""
        try:
            said = " ".join(error.read1(2**12).decode(errors="replace").split())
        except (OSError, http.client.HTTPException):
            said = ""
        said = said or error.headers.get("Location") or str(error.reason)
        return (said.replace(self._key, "(the key)") if self._key else said)[:300]

    def _read(self, raw: bytes) -> str:
        try:
            answer = json.loads(raw)
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text = choice["message"]["content"]
            spent = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise _NoAnswer(f"an answer that is no chat completion: {raw[:60]!r}") from error
        with self._lock:
            self.tokens_in, self.tokens_out = self.tokens_in + spent[0], self.tokens_out + spent[1]
        text = text.encode(errors="replace").decode() if isinstance(text, str) else ""  # JSON can hold halves of characters, a table cannot
        return whole_sentences(text) if choice.get("finish_reason") == "length" else text


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header; a date in it is not worth reading."""
    return min(float(value), MINUTE) if value and value.isdecimal() else 0.0
