"""How good a clip looks: LAION's aesthetic predictor, a linear head on CLIP ViT-L/14, over four frames.

    aesthetic = mean over the frames of w·e/‖e‖ + b                github.com/LAION-AI/aesthetic-predictor

Both weights are the user's own copy: CLIP as Hugging Face has it (openai/clip-vit-large-patch14), the head as LAION has it
(sa_0_4_vit_l_14_linear.pth).
"""
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from core_jax.directory import stream
from core_jax.rngs import Rngs
from core_jax.sharding import batch_sharding, in_batches, shardings
from core_jax.tensors import Tensors
from core_jax.weights import rename
from koala_jax.aesthetic.clip import MEAN, NAMES, STD, CLIPConfig, CLIPImage
from koala_jax.tsa.convert import read_tensors
from koala_jax.tsa.fragments import normalised

Tower = TypeVar("Tower", bound=nnx.Module)


def load_clip(path: epath.PathLike, config: CLIPConfig = CLIPConfig()) -> CLIPImage:
    """The image tower of a CLIP file, which may hold the text tower too. Raises as `load_tower` does."""
    return load_tower(path, jax.eval_shape(lambda: CLIPImage(config, rngs=Rngs(0))), NAMES)


def load_tower(path: epath.PathLike, abstract: Tower, names: dict[str, str]) -> Tower:
    """A model of these shapes, of a file that may hold more. Raises ValueError: no weights, or a tensor that is missing or misshapen, named.

    Args:
      names: our names in the file's, one rule after the other; {} is the layer.
    """
    return stream(Tensors.of(path, read_tensors(path)), abstract, lambda ours: [rename(ours, names)], unused=".*", dtype=jnp.float32)


def load_head(path: epath.PathLike) -> tuple[Float[np.ndarray, "C"], float]:
    """w and b.

    Raises:
      ValueError: other tensors than the head's two.
    """
    tensors = read_tensors(path)
    if {name: x.shape for name, x in tensors.items()} != {"weight": (1, CLIPConfig.out), "bias": (1,)}:
        given = ", ".join(f"{name} {x.shape}" for name, x in list(tensors.items())[:4])
        raise ValueError(f"{path} is no aesthetic head for CLIP ViT-L/14: weight (1, {CLIPConfig.out}) and bias (1,) are wanted, not {given}")
    return tensors["weight"][0], float(tensors["bias"][0])


class Aesthetic:
    """Scores of pictures, in batches over every device of this host."""

    def __init__(self, tower: CLIPImage, head: tuple[Float[np.ndarray, "C"], float], mesh: Mesh):
        self.mesh, self.sharding, self.batch = mesh, batch_sharding(mesh), 4 * mesh.size
        self.tower = jax.device_put(tower, shardings(tower, mesh))
        self.head = head

    def __call__(self, pictures: UInt8[np.ndarray, "n 224 224 3"]) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n C"]]:
        """Scores, about 1 to 10, and CLIP's embeddings, of unit length."""
        with jax.set_mesh(self.mesh):
            return in_batches(lambda pictures: _score(self.tower, pictures, self.head), self.batch, self.sharding, pictures)


@jax.jit
def _score(tower: CLIPImage, pictures: Array, head: tuple[np.ndarray, float]) -> tuple[Float[Array, "n"], Float[Array, "n C"]]:
    e = tower(normalised(pictures, MEAN, STD))
    e = e / jnp.sqrt((e * e).sum(-1, keepdims=True))
    return jnp.matmul(e, jnp.asarray(head[0]), precision="highest") + head[1], e
