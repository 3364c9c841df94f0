"""`python -m koala_jax.tsa.rate CLIPS --rater ann`: one local page to rate clips by keyboard; labels.csv grows as you go.

Some clips come a second time, unannounced, which tells how far a rater agrees with themselves. Stop with Ctrl-C and start again to go on;
several raters write into one table, one after the other or at once, each at a --port. The page is served to this machine alone.
"""
import contextlib
import dataclasses
import hashlib
import json
import math
import mimetypes
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import tyro
from etils import epath
from rich.console import Console
from rich.table import Table

from core_jax import cli
from core_jax.files import nulled, refuse_unwritable
from core_jax.numbers import SHARE, refuse, within
from core_jax.words import counted
from koala_jax.shots.inputs import named
from koala_jax.tsa.playable import Playable
from koala_jax.tsa.ratings import ASPECTS, Rating, Ratings, order

PAGE = Path(__file__).with_name("rate.html")
CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class RateConfig:
    """Rate clips by keyboard on a local page. Start it again to go on."""

    clips: tyro.conf.Positional[str]
    """a folder of videos; those that browsers do not play (mkv, avi, HEVC, 10 bits) are shown as copies"""
    rater: str
    """name of the rater"""
    out: str = "labels.csv"
    """the labels, which koala_jax.tsa.train reads; all ratings are kept beside it"""
    repeats: float = 0.1
    """share of the clips that are shown a second time"""
    seed: int = 0
    """seed of the order"""
    port: int = 8321
    """port of the page, on this machine alone; 0 takes any that is free"""
    json: str | None = None
    """also write the agreement to this file, at the end"""

    def __post_init__(self):
        refuse(self, {SHARE: "repeats", within(0, 2**16 - 1): "port"})
        refuse_unwritable("--out", self.out, ".csv")
        if not self.rater.strip() or self.rater == "file":
            raise ValueError(f"--rater {self.rater!r}: a name is wanted, other than file")


class Session:
    """What one rater has to see, and has seen."""

    def __init__(self, config: RateConfig):
        self.config, self.ratings = config, Ratings(config.out)
        self.files = named(epath.Path(config.clips), self.ratings.labels)
        self.skipped: set[str] = set()
        self.looks = {self._name(*look): look for look in order(list(self.files), config.repeats, config.rater, config.seed)}

    def _name(self, file: str, repeat: int) -> str:
        """The same after a restart, whatever has come to the folder: a page that was left open must not rate another clip."""
        return hashlib.sha256(repr((self.config.rater, file, repeat)).encode()).hexdigest()[:16]

    def next(self) -> dict:
        """The next look, by a name from which the page does not learn which clip it is, nor whether it is a repeat."""
        seen = {(row.file, row.repeat) for row in self.ratings.rows if row.rater == self.config.rater}
        left = [name for name, look in self.looks.items() if look not in seen and look[0] not in self.skipped]
        if not left:
            return {"done": True}
        return {"done": False, "look": left[0], "place": len(self.looks) - len(left) + 1, "all": len(self.looks)}

    def rate(self, answer: dict) -> None:
        """Keeps what the page sends. Raises ValueError where it is no rating."""
        try:
            file, repeat = self._look(answer["look"])
            given = {aspect: answer[aspect] for aspect in ASPECTS}
        except (KeyError, TypeError) as error:
            raise ValueError(f"a rating has a look and {', '.join(ASPECTS)}: {error}") from error
        self.ratings.add(Rating(self.config.rater, file, repeat, **given))

    def skip(self, answer: dict) -> None:
        """Leaves out, until the command starts again, a clip that a browser does not play. Raises ValueError where there is no such look."""
        self.skipped.add(self._look(answer["look"] if isinstance(answer, dict) and isinstance(answer.get("look"), str) else "")[0])

    def clip(self, name: str) -> epath.Path:
        """The file of a look. Raises ValueError where there is no such look."""
        return self.files[self._look(name)[0]]

    def _look(self, name: str) -> tuple[str, int]:
        if name not in self.looks:
            raise ValueError(f"there is no look {name}: load the page again")
        return self.looks[name]


def handler(session: Session, playable: Playable) -> type[BaseHTTPRequestHandler]:
    """The five addresses: the page, next, clip/LOOK, rate, skip."""

    class Handler(BaseHTTPRequestHandler):
        def handle(self):
            with contextlib.suppress(ConnectionError):  # the browser has seen enough of a clip
                super().handle()

        def do_GET(self):
            try:
                if self.path == "/":
                    self._answer(200, PAGE.read_bytes(), "text/html; charset=utf-8")
                elif self.path == "/next":
                    self._answer(200, json.dumps(session.next()).encode(), "application/json")
                elif self.path.startswith("/clip/"):
                    self._send_file(playable(session.clip(self.path.removeprefix("/clip/"))))
                else:
                    self._answer(404, b"no such page", "text/plain")
            except ValueError as error:
                self._answer(400, str(error).encode(), "text/plain; charset=utf-8")
            except OSError as error:
                self._answer(500, cli.sentence(error).encode(), "text/plain; charset=utf-8")

        def do_POST(self):
            # another site's form cannot send JSON without asking first, and is not answered if it asks
            asked = {"/rate": session.rate, "/skip": session.skip}.get(self.path)
            if asked is None or self.headers.get("Content-Type") != "application/json":
                return self._answer(404, b"ratings go to /rate and what is not to be rated to /skip, as JSON", "text/plain")
            try:
                asked(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0)))))
                self._answer(200, b"{}", "application/json")
            except ValueError as error:
                self._answer(400, str(error).encode(), "text/plain; charset=utf-8")
            except OSError as error:
                self._answer(500, cli.sentence(error).encode(), "text/plain; charset=utf-8")

        def _send_file(self, path: epath.Path) -> None:
            size = path.stat().length
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if size else None
            start = min(int(asked[1]), size - 1) if asked else 0
            stop = min(int(asked[2]) + 1, size) if asked and asked[2] else size
            self.send_response(206 if asked else 200)
            self.send_header("Content-Type", mimetypes.guess_type(path.name)[0] or "video/mp4")
            self.send_header("Content-Length", str(max(stop - start, 0)))
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.end_headers()
            with path.open("rb") as file:
                file.seek(start)
                while chunk := file.read(min(CHUNK, max(stop - file.tell(), 0))):
                    self.wfile.write(chunk)

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    return Handler


def show(session: Session, console: Console) -> None:
    """The agreement so far."""
    table = Table("", "clips", "SRCC", "mean |difference|", title="agreement on overall")
    for name, row in session.ratings.agreement().items():
        unknown = "at least 2 clips are needed" if row["clips"] < 2 else "one side is all alike"
        srcc, difference = (f"{x:.2f}" if math.isfinite(x) else unknown for x in (row["SRCC"], row["mean |difference|"]))
        table.add_row(name, f"{row['clips']:.0f}", srcc, difference if row["clips"] else "")
    console.print(table)


def main(args: list[str]) -> None:
    config, console = cli.parse(RateConfig, args, "koala_jax.tsa.rate"), cli.console()
    session, playable = Session(config), Playable()
    try:
        server = ThreadingHTTPServer(("127.0.0.1", config.port), handler(session, playable))
    except OSError as error:
        raise ValueError(f"--port {config.port}: {error.strerror}; name another one") from error
    with server, playable:
        server.daemon_threads = True
        console.print(f"rate {counted(len(session.looks), 'clip')} at http://127.0.0.1:{server.server_port}/ and stop with Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    if session.skipped:
        console.print(f"left out, as a browser did not play them: {', '.join(sorted(session.skipped))}")
    if not epath.Path(config.out).exists():
        return console.print("nothing was rated")
    show(session, console)
    console.save(config.json, nulled(session.ratings.agreement()))
    console.print(f"wrote {config.out}; next: {cli.command('koala_jax.tsa.train', '--labels', config.out)}")


if __name__ == "__main__":
    cli.run(main)
