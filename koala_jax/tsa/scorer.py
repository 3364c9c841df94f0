"""A scorer on disk: NAME.safetensors with the weights, NAME.json with everything else that a score needs."""
import dataclasses
import hashlib
import json

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float

from core_jax.files import write_json
from core_jax.sharding import shardings
from core_jax.weights import load_file, save_file
from koala_jax.tsa.convnext import ConvNeXtConfig
from koala_jax.tsa.fragments import FragmentConfig
from koala_jax.tsa.model import SuitabilityConfig, SuitabilityScorer, VideoScorer, VideoScorerConfig
from koala_jax.tsa.scale import Scale
from koala_jax.tsa.swin import SwinConfig


@dataclasses.dataclass(frozen=True)
class Labels:
    """The sub-metrics of the label branch: their columns, and the mean and spread that each is normalised by."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def vector(self, columns: dict[str, float | None]) -> Float[np.ndarray, "M"]:
        """(x − mean) / std of each, at most 4 from 0; one that is unknown counts as the mean."""
        x = np.array([np.nan if columns[name] is None else columns[name] for name in self.names], float)
        return np.clip(np.nan_to_num((x - self.means) / self.stds), -4, 4)


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
        return jax.eval_shape(lambda: self.network.build(rngs=nnx.Rngs(0)))

    def write(self, weights: epath.PathLike) -> None:
        """Beside the weights."""
        kind = "three-branch" if isinstance(self.network, SuitabilityConfig) else "video"
        write_json(beside(weights), {"kind": kind, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, weights: epath.PathLike) -> "ScorerConfig":
        """Raises ValueError where there is none beside the weights, or it is not one."""
        path = beside(weights)
        try:
            table = json.loads(path.read_text())
            read = _three_branches if table.pop("kind") == "three-branch" else _video
            network, fragments = read(table.pop("network")), FragmentConfig(**table.pop("fragments"))
            labels, scale = table.pop("labels"), table.pop("scale")
            labels = Labels(**{name: tuple(value) for name, value in labels.items()}) if labels else None
            return cls(network, fragments, labels, table.pop("column"), Scale(**scale) if scale else None)
        except OSError as error:
            raise ValueError(f"{weights} needs {path.name} beside it, which python -m koala_jax.tsa.convert writes: {error}") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not describe a scorer: {error}") from error


def beside(weights: epath.PathLike) -> epath.Path:
    """NAME.json of NAME.safetensors."""
    return epath.Path(weights).with_suffix(".json")


def _swin(table: dict) -> SwinConfig:
    return SwinConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()})


def _video(table: dict) -> VideoScorerConfig:
    return VideoScorerConfig(_swin(table["dynamic"]), table["hidden"])


def _three_branches(table: dict) -> SuitabilityConfig:
    static = {**table["static"], "depths": tuple(table["static"]["depths"])}
    rest = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items() if name not in ("dynamic", "static")}
    return SuitabilityConfig(_swin(table["dynamic"]), ConvNeXtConfig(**static), **rest)


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
    return digest(weights) + digest(beside(weights))


def digest(path: epath.PathLike) -> str:
    """Of a file's content."""
    with epath.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
