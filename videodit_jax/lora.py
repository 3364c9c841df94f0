"""Files of LoRA: what a run learned, in diffusers' names, and what others did, in diffusers', Wan's own or musubi-tuner's.

  W ← W + s·(α / r)·B·A,   A: r × inputs, B: outputs × r

Of one of our arrays that holds several of Wan's matrices each has its own A and B, so that nothing is lost either way.
"""
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from etils import epath

from core_jax.files import existing
from core_jax.sharding import distribute
from core_jax.tensors import END, Tensors, metadata, save_file
from core_jax.weights import fetch, named, rename, renamed
from videodit_jax.config import TrainConfig
from videodit_jax.model import ModelConfig, VideoDiT, abstract_model
from videodit_jax.names import halves, is_rotated, neighbours, theirs, torch_shape, turned
from videodit_jax.run import abstract_parts

FILE = "pytorch_lora_weights.safetensors"
"""the name that diffusers looks for in a folder"""
STATED = "lora_adapter_metadata"
"""where diffusers' files state rank and alpha, as JSON"""
ORIGINAL = {
    r"^condition_embedder\.(text|time)_embedder\.linear_1$": r"\1_embedding.0",
    r"^condition_embedder\.(text|time)_embedder\.linear_2$": r"\1_embedding.2",
    r"^condition_embedder\.image_embedder\.norm1$": "img_emb.proj.0",
    r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj$": "img_emb.proj.1",
    r"^condition_embedder\.image_embedder\.ff\.net\.2$": "img_emb.proj.3",
    r"^condition_embedder\.image_embedder\.norm2$": "img_emb.proj.4",
    r"^condition_embedder\.time_proj$": "time_projection.1",
    r"^proj_out$": "head.head",
    r"^scale_shift_table$": "head.modulation",
    r"\.scale_shift_table$": ".modulation",
    r"\.attn1\.": ".self_attn.",
    r"\.attn2\.": ".cross_attn.",
    r"\.to_(q|k|v)$": r".\1",
    r"\.add_(k|v)_proj$": r".\1_img",
    r"\.norm_added_k$": ".norm_k_img",
    r"\.to_out\.0$": ".o",
    r"\.norm2$": ".norm3",
    r"\.ffn\.net\.0\.proj$": ".ffn.0",
    r"\.ffn\.net\.2$": ".ffn.2",
}
"""diffusers' names of modules in Wan's own"""
ROLES = {
    "lora_A.weight": "down", "lora_down.weight": "down", "lora_B.weight": "up", "lora_up.weight": "up", "alpha": "alpha",
    "diff": "weight", "diff_b": "bias",
}  # fmt: skip
"""what a tensor of a file is to its module; a difference of all of a weight, as few-step LoRAs have of norms and biases, is added as it is"""
KEY = re.compile(rf"(?:(?:transformer|diffusion_model)\.)?(.+)\.({'|'.join(map(re.escape, ROLES))})")

Changes = Mapping[str, Callable[[], np.ndarray]]
"""what is added to diffusers' tensors, by their names, each made when it is asked for"""


def arrays(model: VideoDiT) -> dict[str, list[list[str]]]:
    """diffusers' names of the tensors in each of our arrays, layer by layer."""
    return {ours: [[part.format(i) for part in theirs(ours)] for i in range(len(x) if ours.startswith("blocks.") else 1)] for ours, x in named(model).items()}


def read(path: epath.PathLike, scale: float, like: VideoDiT) -> Changes:
    """What a file adds to a model of these shapes.

    Args:
      scale: how much of it, s in the equation.

    Raises:
      ValueError: it is no safetensors file, or holds what is of no weight of the model, has another shape or no partner.
    """
    tensors, found, shapes, stated = _opened("--lora", path, like)
    return {target: _change(f"--lora {path}", tensors, target, keys, shapes[target], scale, stated) for target, keys in found.items()}


def _opened(flag: str, path: epath.PathLike, like: VideoDiT) -> tuple[Tensors, dict[str, dict[str, str]], dict[str, tuple[int, ...]], float | None]:
    """A file's tensors; for each of diffusers' tensors that it is about, which of them are of what role; the shapes of diffusers' tensors; and the alpha
    that is stated. Raises ValueError as `read`."""
    path = epath.Path(path)
    if path.suffix != END:
        raise ValueError(f"{flag} {path}: a file of the kind *{END} is wanted")
    tensors, shapes = Tensors(existing(path).parent, path.stem), {}
    for (ours, x), layers in zip(named(like).items(), arrays(like).values()):
        shapes |= dict.fromkeys(sum(layers, []), torch_shape(like.config, ours, x.shape[1:] if ours.startswith("blocks.") else x.shape))
    known = {}
    for module in dict.fromkeys(re.sub(r"\.(weight|bias)$", "", name) for name in shapes):
        wans = rename(module, ORIGINAL)
        known |= dict.fromkeys((module, wans, "lora_unet_" + wans.replace(".", "_")), module)
    found, strange = {}, []
    for key in tensors:
        match = KEY.fullmatch(key)
        module, role = (known.get(match[1]), ROLES[match[2]]) if match else (None, None)
        target = module if module in shapes else f"{module}.{'bias' if role == 'bias' else 'weight'}"
        if target in shapes:
            found.setdefault(target, {})[role] = key
        else:
            strange.append(key)
    if strange or not found:
        which = f"{strange[0]} and {len(strange) - 1} more are" if len(strange) > 1 else f"{(strange or ['nothing in it'])[0]} is"
        raise ValueError(f"{flag} {path} does not fit the model: {which} of {'none' if strange else 'any'} of its weights")
    return tensors, found, shapes, _stated(flag, path)


def _stated(flag: str, path: epath.Path) -> float | None:
    """The alpha that a file of diffusers states for all its modules; None: none, which means each module's rank."""
    held = json.loads(metadata(path).get(STATED, "{}"))
    held = {name.removeprefix("transformer."): value for name, value in held.items()}
    if other := [name for name in ("use_rslora", "use_dora", "alpha_pattern") if held.get(name)]:
        raise ValueError(f"{flag} {path} states {other[0]}, and one alpha for all of its plain products is wanted")
    return held.get("lora_alpha")


def _change(
    file: str, tensors: Tensors, target: str, keys: dict[str, str], shape: tuple[int, ...], scale: float, stated: float | None
) -> Callable[[], np.ndarray]:
    """What is added to one tensor. Raises ValueError: its parts do not belong together, or to the tensor."""
    whole = keys.keys() & {"weight", "bias"}
    if whole and len(keys) == 1:
        (role,) = whole
        read = lambda: np.asarray(tensors[keys[role]], np.float32)
        if (size := read().size) != np.prod(shape):
            raise ValueError(f"{file}: {keys[role]} has {size:,} numbers, and the model's {target} {np.prod(shape):,}")
        return lambda: scale * read().reshape(shape)
    down, up, factor = _factors(file, tensors, target, keys, shape, stated)
    return lambda: scale * factor * (up() @ down())


def _factors(
    file: str, tensors: Tensors, target: str, keys: dict[str, str], shape: tuple[int, ...], stated: float | None
) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray], float]:
    """A, B, each read when it is asked for, and α / r of one tensor. Raises ValueError as `_change`."""
    read = lambda role: np.asarray(tensors[keys[role]], np.float32)
    flat = lambda role: (lambda x: x.reshape(len(x), -1))(read(role))
    if keys.keys() & {"weight", "bias"} or not {"down", "up"} <= keys.keys():
        raise ValueError(f"{file}: {next(iter(keys.values()))} needs a partner, a down (A) or an up (B) of the same map, and nothing else")
    down, up = flat("down").shape, flat("up").shape
    if (up[0], down[1]) != shape or up[1] != down[0]:
        raise ValueError(f"{file}: {keys['down']} and {keys['up']} are {down} and {up}, and the model's {target} is {shape}")
    alpha = float(read("alpha").reshape(())) if "alpha" in keys else stated
    return functools.partial(flat, "down"), functools.partial(flat, "up"), 1.0 if alpha is None else alpha / down[0]


def started(config: TrainConfig) -> Callable[[VideoDiT], VideoDiT]:
    """What puts the products of `config.lora.start` into what LoRA learns, which may have a larger rank and another alpha. Where the file has none for a
    map, there is none at first.

    Raises:
      ValueError: what `read` refuses; or it changes what has no product beside it here, or has a larger rank.
    """
    file, rank = f"--lora.start {config.lora.start}", config.lora.rank
    tensors, found, shapes, stated = _opened("--lora.start", config.lora.start, abstract_model(config.model))
    names = [name.removesuffix(".a.w") for name in named(abstract_parts(config)[0]) if name.endswith(".a.w")]
    places = {target.format(i): (name, i, part) for name in names for part, target in enumerate(theirs(f"{name}.w")) for i in range(config.model.layers)}
    if other := [next(iter(keys.values())) for target, keys in found.items() if target not in places or keys.keys() & {"weight", "bias"}]:
        raise ValueError(f"{file} changes what LoRA does not learn here, {other[0]}: merge it, or see --lora.where")
    factors = {target: _factors(file, tensors, target, keys, shapes[target], stated) for target, keys in found.items()}
    if (most := max(len(down()) for down, _, _ in factors.values())) > rank:
        raise ValueError(f"{file} has rank {most}: --lora.rank {rank} cannot hold it")

    def start(learned: VideoDiT) -> VideoDiT:
        table = named(learned)
        arrays = {name: np.array(fetch(x), np.float32) for name, x in table.items()}
        for target, (down, up, factor) in factors.items():
            name, i, part = places[target]
            number, a, b = len(theirs(f"{name}.w")), down(), factor * rank / config.lora.beside.alpha * up()
            b = halves(config.model.heads, b) if is_rotated(name, part) else b
            arrays[f"{name}.a.w"][i].reshape(number, -1, rank)[part, :, : len(a)] = a.T
            arrays[f"{name}.b.w"][i].reshape(number, rank, -1)[part, : len(a)] = b.T
        return renamed(learned, {name: distribute(arrays[name], x.sharding) for name, x in table.items()})

    return start


def merge(model: VideoDiT, config: ModelConfig, files: Sequence[Changes]) -> VideoDiT:
    """The model with what the files add; beside it a host holds no more than one of our arrays."""
    table = named(model)
    for ours, layers in arrays(model).items():
        if not any(name in changes for changes in files for names in layers for name in names):
            continue
        array = table[ours]
        stack = array if ours.startswith("blocks.") else array[None]
        total, nothing = np.empty(stack.shape, np.float32), np.zeros(torch_shape(config, ours, stack.shape[1:]), np.float32)
        for place, names in zip(total, layers):
            place[...] = turned(config, ours, [sum((changes[name]() for changes in files if name in changes), nothing) for name in names], place.shape)
        total = total.reshape(array.shape)
        change = jax.make_array_from_callback(array.shape, array.sharding, functools.partial(np.ndarray.__getitem__, total))
        table[ours] = (array + change).astype(array.dtype)
    return renamed(model, table)


def write(path: epath.Path, config: TrainConfig, learned: VideoDiT, dtype: np.dtype) -> None:
    """Writes what LoRA learned as diffusers reads it, scaled so that alpha is the rank: whoever knows no alpha does right too. All hosts must ask."""
    table = {name: np.asarray(fetch(x), np.float32) for name, x in named(learned).items()}
    tensors, lora = {}, config.lora.beside
    for name in [name.removesuffix(".a.w") for name in table if name.endswith(".a.w")]:
        modules = [part.removesuffix(".weight") for part in theirs(f"{name}.w")]
        down, up = table[f"{name}.a.w"], table[f"{name}.b.w"]
        for i in range(len(down)):
            for part, module in enumerate(modules):
                a, b = down[i].reshape(len(modules), -1, lora.rank)[part].T, up[i].reshape(len(modules), lora.rank, -1)[part].T
                b = neighbours(config.model.heads, b) if is_rotated(name, part) else b
                place = f"transformer.{module.format(i)}"
                tensors |= {f"{place}.lora_A.weight": a.astype(dtype), f"{place}.lora_B.weight": (lora.alpha / lora.rank * b).astype(dtype)}
    targets = sorted({name.split(".", 1)[1].rsplit(".", 2)[0] for name in tensors})
    stated = {"r": lora.rank, "lora_alpha": lora.rank, "target_modules": targets}
    save_file(path, tensors, metadata={"format": "pt", STATED: json.dumps({f"transformer.{name}": value for name, value in stated.items()})})
