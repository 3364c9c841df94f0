"""A scorer on disk: NAME.safetensors with the weights, NAME.json with everything else that a score needs."""
import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float

from core_jax.files import existing, sha256, write_json
from core_jax.rngs import Rngs
from core_jax.settings import from_json
from core_jax.sharding import shardings
from core_jax.tensors import load_file, save_file
from koala_jax.tsa.fragments import FragmentConfig
from koala_jax.tsa.model import SuitabilityConfig, SuitabilityScorer, VideoScorer, VideoScorerConfig
from koala_jax.tsa.scale import Scale

PACKAGED = str(pathlib.Path(__file__).parent / "weights" / "quality.safetensors")
"""the scorer that comes with the package; quality.card.json beside it says what it is made of, knows and does not"""
UNBOUNDED = {
    "motion": 0.1, "camera_motion": 0.1, "subject_motion": 0.5, "shake": 0.1, "warp_error": 0.5, "change": 0.3, "jump": 0.3, "flicker": 0.5,
    "noise": 5.0, "colourfulness": 5.0,
}  # fmt: skip
"""sub-metrics without an upper end, with what is about as good as nothing; all others are shares, from 0 to 1"""
FORMAT = 1
"""of what NAME.json says and of how it is read: another number wherever the same file would give another score"""
FLOOR = 0.02
"""the share that is about as good as nothing"""
FLOORS = UNBOUNDED | {"lettering": 0.1, "faint_lettering": 0.1}
"""where it is another: much texture counts as some lettering"""


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the label branch gets: its columns, each made even and normalised.

        z = (y − mean) / std,   y = log(x + floor)                              of an unbounded column
                                y = log(x + floor) − log(1 − x + floor)         of a share

    Twice the motion, or half the sharp detail, is one step, wherever a clip starts from. Otherwise what is usual within a calm clip
    vanishes beside a lively one: a score must rank both kinds.
    """

    names: tuple[str, ...]
    unbounded: tuple[str, ...]
    floors: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], x: Float[np.ndarray, "n M"]) -> "Labels":
        """With the statistics of these rows; NaN is unknown."""
        unbounded = tuple(name for name in names if name in UNBOUNDED)
        floors = tuple(FLOORS.get(name, FLOOR) for name in names)
        y = _even(names, unbounded, floors, np.asarray(x, float))
        means, stds = np.nan_to_num(np.nanmean(y, 0)), np.nan_to_num(np.nanstd(y, 0))
        return cls(names, unbounded, floors, tuple(means.tolist()), tuple(np.where(stds > 1e-6, stds, 1.0).tolist()))

    def vectors(self, x: Float[np.ndarray, "n M"]) -> Float[np.ndarray, "n M"]:
        """2·arsinh(z/2) of each row, which is z near 0 and its logarithm far away; what is unknown counts as the mean."""
        return 2 * np.arcsinh(np.nan_to_num((_even(self.names, self.unbounded, self.floors, x) - self.means) / self.stds) / 2)

    def vector(self, columns: dict[str, float | None]) -> Float[np.ndarray, "M"]:
        """The same of one clip, by name."""
        return self.vectors(np.array([[np.nan if columns[name] is None else columns[name] for name in self.names]], float))[0]


def _even(names: tuple[str, ...], unbounded: tuple[str, ...], floors: tuple[float, ...], x: Float[np.ndarray, "n M"]) -> Float[np.ndarray, "n M"]:
    share = np.array([name not in unbounded for name in names])
    rest = np.where(share, np.log(np.maximum(1 - x, 0) + floors), 0)
    return np.log(np.maximum(x, 0) + floors) - rest


@functools.partial(jax.jit, static_argnums=0)
def new(network: VideoScorerConfig | SuitabilityConfig) -> VideoScorer | SuitabilityScorer:
    """A network before its training."""
    return network.build(rngs=Rngs(0))


@dataclasses.dataclass(frozen=True)
class ScorerConfig:
    """All that a network needs to score a video, but for its weights."""

    network: VideoScorerConfig | SuitabilityConfig = VideoScorerConfig()
    fragments: FragmentConfig = FragmentConfig()
    labels: Labels | None = None
    """of the three-branch network alone"""
    column: str = "vtss"
    """the name of the score: only weights that were trained on suitability labels make a vtss"""
    scale: Scale | None = None
    """from raw scores to 1–5; without it a vtss takes the clips of its table for the corpus"""

    def abstract(self) -> VideoScorer | SuitabilityScorer:
        """The network's shapes."""
        return new.eval_shape(self.network)  # traced once, however often it is asked for

    def write(self, weights: epath.PathLike) -> None:
        """Beside the weights."""
        kind = "three-branch" if isinstance(self.network, SuitabilityConfig) else "video"
        write_json(beside(weights), {"format": FORMAT, "kind": kind, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, weights: epath.PathLike) -> "ScorerConfig":
        """Raises ValueError where there is none beside the weights, it is not one, or one of another format."""
        path = beside(existing(weights))
        try:
            table = json.loads(path.read_text())
            if (found := table.get("format")) == FORMAT:
                network = from_json(SuitabilityConfig if table["kind"] == "three-branch" else VideoScorerConfig, table["network"])
                labels, scale = (table[name] and from_json(kind, table[name]) for name, kind in (("labels", Labels), ("scale", Scale)))
                return cls(network, from_json(FragmentConfig, table["fragments"]), labels, table["column"], scale)
        except OSError as error:
            raise ValueError(f"{weights} needs {path.name} beside it, which python -m koala_jax.tsa.convert writes: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} does not describe a scorer: {error}") from error
        raise ValueError(f"{path} is of format {found}, and {FORMAT} is read: train the scorer anew, or convert it anew")


def beside(weights: epath.PathLike) -> epath.Path:
    """NAME.json of NAME.safetensors."""
    return epath.Path(weights).with_suffix(".json")


def save(weights: epath.PathLike, config: ScorerConfig, model: nnx.Module) -> None:
    """Writes both files, the weights first."""
    save_file(weights, model)
    config.write(weights)


def load(weights: epath.PathLike, mesh: Mesh) -> tuple[ScorerConfig, nnx.Module]:
    """A scorer on a mesh, every device with all of it.

    Raises:
      ValueError: no scorer, or weights that do not fit it, named.
    """
    config = ScorerConfig.read(weights)
    abstract = config.abstract()
    model = load_file(weights, abstract)
    return config, jax.device_put(model, shardings(abstract, mesh))


def fingerprint(weights: epath.PathLike) -> str:
    """Of both files: what a score depends on."""
    return "".join(sha256(path)[:16] for path in (weights, beside(weights)))
