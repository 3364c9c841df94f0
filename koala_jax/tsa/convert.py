"""`python -m koala_jax.tsa.convert infer.pth tsa.safetensors`: official weights into ours, ours back into official, starting points.

What is read is known by its tensor names:
- both official networks become NAME.safetensors and NAME.json, which `score` and `train` read;
- Kinetics Swin-T (torchvision, mmaction) and ImageNet ConvNeXt-T (timm, torchvision, its authors') become one tower, for
  `python -m koala_jax.tsa.train --start`;
- ours become a .pth with the key "state_dict", which the official code loads.
Of a pickle only tensors are read; one that holds code is refused, and nothing of it runs.
"""
import dataclasses
import io
import warnings

import jax.numpy as jnp
import numpy as np
import tyro
from etils import epath

from core_jax import cli
from core_jax.files import in_memory, write_bytes
from core_jax.tensors import load_table, save_file
from core_jax.weights import named, renamed
from koala_jax.tsa import names
from koala_jax.tsa.model import SuitabilityConfig, VideoScorerConfig
from koala_jax.tsa.scorer import Labels, ScorerConfig, beside, save as save_scorer

OFFICIAL_LABELS = 15


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert weights of a suitability scorer, in either direction."""

    source: tyro.conf.Positional[str]
    """weights to read, .pth or .safetensors"""
    target: tyro.conf.Positional[str]
    """file to write: .safetensors with our names, .pth with the official ones"""


def read_tensors(path: epath.PathLike) -> names.Tensors:
    """The tensors of a .pth (at the top, or under the key "state_dict" or "model") or .safetensors, fp32 where they are floating.

    Raises:
      ValueError: a pickle with anything but tensors in it, or no file of weights.
    """
    path = epath.Path(path)
    if path.suffix == ".safetensors":
        return load_table(path)
    import torch  # here, as where one is written: an extra brings it

    data = path.read_bytes()
    try:
        with warnings.catch_warnings(action="ignore"):  # a pickle by another program than PyTorch: what is wrong with it is said below
            table = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of a dozen kinds for bytes that are no pickle; the text of one advises to open it all the same
        raise ValueError(f"{path} is no whole PyTorch file, or holds more than tensors, and is not opened: a .pth of tensors alone or a .safetensors is wanted") from error
    for key in ("state_dict", "model"):
        table = table.get(key, table) if isinstance(table, dict) else table
    if not isinstance(table, dict) or not all(isinstance(x, torch.Tensor) for x in table.values()):
        raise ValueError(f"{path} is no table of tensors")
    floats = {name: x.float() if x.is_floating_point() else x for name, x in table.items()}
    return {name.removeprefix("module."): x.numpy() for name, x in floats.items()}


def network_of(tensors: names.Tensors) -> ScorerConfig:
    """The official network that these tensors, under whose names ever, belong to."""
    if any(name.startswith(("image_backbone.", "static.")) for name in tensors):
        unknown = tuple(f"label_{i}" for i in range(OFFICIAL_LABELS))
        return ScorerConfig(SuitabilityConfig(), labels=Labels(unknown, (), *((value,) * OFFICIAL_LABELS for value in (1.0, 0.0, 1.0))))
    return ScorerConfig(VideoScorerConfig())


def shapes(config: ScorerConfig) -> dict[str, tuple[int, ...]]:
    """Of every parameter, by our names."""
    return {name: tuple(leaf.shape) for name, leaf in named(config.abstract()).items()}


def tower(tensors: names.Tensors) -> names.Tensors:
    """A starting point under our names: of the dynamic tower all but the fragment tables, or the static tower."""
    whole = shapes(ScorerConfig(SuitabilityConfig()))
    which = "dynamic." if any(name.startswith("fragments_backbone.") for name in tensors) else "static."
    wanted = {name: shape for name, shape in whole.items() if name.startswith(which)}
    has_fragments = any(name.endswith("fragment_position_bias_table") for name in tensors)
    return names.from_official(tensors, {n: s for n, s in wanted.items() if has_fragments or not n.endswith(".fragment")})


def convert(source: epath.Path, target: epath.Path) -> str:
    """Does what the file's names ask for; returns what to do next.

    Raises:
      ValueError: weights that are none of those above, each wrong tensor named, or a target of another kind.
    """
    tensors = read_tensors(source)
    if target.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"{target} must end in .safetensors, for our names, or .pth, for the official ones")
    if any(name.startswith("dynamic.") for name in tensors):
        if target.suffix != ".pth":
            raise ValueError(f"{source} has our names already: give a target that ends in .pth for the official ones")
        import torch

        official = {name: torch.from_numpy(np.array(x)) for name, x in names.to_official(tensors).items()}
        write_bytes(target, in_memory(lambda file: torch.save({"state_dict": official}, file)))
        known = shapes(network_of(tensors))
        if other := [name for name in sorted(known.keys() | tensors.keys()) if name not in tensors or tensors[name].shape != known.get(name)]:
            return f"the official code loads it once its network is this one; {len(other)} tensors differ from those of its own, {other[0]} the first"
        return "load it with the official code, strict=True"
    if target.suffix == ".pth":
        raise ValueError(f"{source} has not our names, so {target} must end in .safetensors")
    config = network_of(tensors)
    try:
        start = names.starting_point(tensors)
        ours = names.from_official(tensors, shapes(config)) if start is None else tower(start)
    except ValueError as error:  # which names tensors
        raise ValueError(f"{source}: {error}") from error
    if start is not None:
        save_file(target, ours)
        return f"{cli.command('koala_jax.tsa.train', '--start', target)} --clips FOLDER"
    save_scorer(target, config, renamed(config.abstract(), {name: jnp.asarray(x) for name, x in ours.items()}))
    score = cli.command("koala_jax.score", "CLIPS", "--out", "scores.parquet", "--weights", target)
    known = f"name in {beside(target)} the sub-metrics that its {OFFICIAL_LABELS} labels are, which the weights do not say; then "
    return f"{known if config.labels else ''}{score}"


def main(args: list[str]) -> None:
    config = cli.parse(ConvertConfig, args, "koala_jax.tsa.convert")
    next_command = convert(epath.Path(config.source), epath.Path(config.target))
    print(f"wrote {config.target}; next: {next_command}")


if __name__ == "__main__":
    cli.run(main)
