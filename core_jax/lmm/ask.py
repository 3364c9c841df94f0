"""A question about an image, or about the frames of a clip, as a sequence to be answered."""
import jax
import numpy as np
from jaxtyping import Int, UInt8

from core_jax.lmm import codes, packing
from core_jax.lmm.model import LMM
from core_jax.lmm.sequence import Sequence, lay_out
from core_jax.lmm.tokenizer import Tokenizer


def ask(model: LMM, tokenizer: Tokenizer, frames: UInt8[np.ndarray, "T H W 3"], question: str) -> Sequence:
    """A user's turn. One frame is an image; several are a video, or, for a model that reads codes, as many images."""
    config = model.config
    if config.codes:
        visuals = list(image_codes(model, frames))
        placeholders = tokenizer.image * len(frames)
    elif len(frames) == 1:
        visuals, placeholders = [packing.single_image(frames[0], config.tower, config.packing)], tokenizer.image
    else:
        visuals, placeholders = [packing.video(frames, config.tower)], tokenizer.video
    return lay_out(config, tokenizer.question(question, placeholders), visuals)


def image_codes(model: LMM, images: UInt8[np.ndarray, "N H W 3"]) -> Int[np.ndarray, "N S"]:
    """Token ids of the codes of images, for a model that reads codes."""
    pixels = np.stack([codes.pixels(image, model.config.codes) for image in images])
    return np.asarray(_encode(model.codes, pixels))


_encode = jax.jit(codes.CodesEncoder.__call__)
