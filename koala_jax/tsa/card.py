"""The card of a scorer that was trained on pairs it made itself: NAME.card.json, what it is made of, what it knows and what it does not."""
import csv
from collections.abc import Iterable

from etils import epath

from core_jax.files import read_kept
from koala_jax.tsa.config import TrainConfig

WHAT = "quality scorer of koala_jax.tsa, trained on known ranks of degraded clips; it is no Training Suitability Score (VTSS) of Koala-36M"
KNOWS = "which of two versions of one clip is less degraded, in the ways listed under degradations, as far as the figures below say"
KNOWS_NOT = (
    "content, composition, taste, naturalness, cuts, and any way to be bad that is not listed. A picture that is still, fast, dark, "
    "bright or rich in fine lettering by intent scores as if it had been made so. Its scale is its own: compare scores of one scorer alone."
)


def licences(manifest: str | None) -> dict[str, str]:
    """Name of a file → its licence, of a CSV with columns `file` and `license`.

    Raises:
      ValueError: no such table.
    """
    if manifest is None:
        return {}
    try:
        with epath.Path(manifest).open("r") as file:
            return {epath.Path(row["file"]).name: row["license"] for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise ValueError(f"--manifest {manifest} must be a CSV table with columns file and license: {error}") from error


def seen(card: epath.PathLike, key: str, videos: Iterable[str]) -> list[str]:
    """Of these videos, those that weights were trained on by what their card lists under `key`: told by the names of files. None where no card lies."""
    known = {epath.Path(name).name for name in read_kept(card).get(key, ())}
    return sorted(known & {epath.Path(name).name for name in videos})


def card(config: TrainConfig, settings: dict, known: dict[str, str], trained: set[str], judged: set[str], figures: dict) -> dict:
    """The facts of a run, as JSON; `known` are licences, `trained` and `judged` sources of samples."""
    settings = {name: value for name, value in settings.items() if name not in ("clips", "judge", "start")}  # but where files lay
    named = lambda sources: {name: known.get(epath.Path(name).name, "as its owner says") for name in sorted(sources)}  # noqa: E731
    return {
        "what": WHAT, "knows": KNOWS, "knows not": KNOWS_NOT, "degradations": [kind.value for kind in config.kinds],
        "trained on": named(name for name in trained if not name.startswith("drawn ")), "drawn procedurally": config.drawn,
        "judged on, never trained on": named(judged), "settings": settings, "SRCC within a clip across levels": figures,
    }  # fmt: skip
