"""What computes in fp32 asks for fp32 products: asked for nothing, a TPU multiplies as bf16."""
import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Jaxpr, jaxprs_in_params

from core_jax import layers
from core_jax.lmm.codes import CodesEncoder
from core_jax.lmm.config import CodesConfig, DecoderConfig
from core_jax.lmm.decoder import Decoder
from core_jax.rngs import Rngs
from koala_jax.aesthetic import predictor
from koala_jax.aesthetic.clip import CLIPConfig, CLIPImage
from koala_jax.tsa.convnext import ConvNeXtConfig
from koala_jax.tsa.losses import Loss
from koala_jax.tsa.model import SuitabilityConfig
from koala_jax.tsa.swin import SwinConfig
from tests.videodit.small import MODEL
from videodit_jax.autoencoder import model as autoencoder
from videodit_jax.evaluate import embeddings, vit
from videodit_jax.model import VideoDiT
from videodit_jax.umt5.model import Umt5, Umt5Config

numbers = jax.ShapeDtypeStruct


def pixels(*shape: int) -> numbers:
    return numbers(shape, jnp.float32)


def whole(*shape: int) -> numbers:
    return numbers(shape, jnp.int32)


def of_model(make, call, *inputs):
    return (call, jax.eval_shape(lambda: make(Rngs(0))), *inputs)


DIT = dataclasses.replace(MODEL, wiener=True)
DECODER = DecoderConfig(vocabulary=32, width=16, layers=1, heads=2, kv_heads=1, mlp=16, context=16, tied=True)
SCORER = SuitabilityConfig(SwinConfig(6, (1, 1), (1, 3)), ConvNeXtConfig(4, (1, 1), 9), 3, 10, (5, 6, 7), 7, (8, 6, 4))
CODES = CodesConfig(16, 32, (1, 1), 1, 8, 8, tuple(range(8)))
CLIP = CLIPConfig(8, 4, 16, 1, 2, 16, 8)
TEXT = {"bytes": whole(1, 8, 12), "length": whole(1)}
CALLS = {
    "video dit": lambda: of_model(lambda rngs: VideoDiT(DIT, rngs=rngs), lambda m, *x: m(*x), pixels(1, 4, 12, 12, 3), pixels(1), TEXT, pixels(1, 3)),
    "autoencoder": lambda: of_model(
        lambda rngs: autoencoder.Autoencoder(autoencoder.AutoencoderConfig((4, 4)), rngs=rngs), lambda m, x: m.decode(m.encode(x)), pixels(1, 5, 16, 16, 3)
    ),
    "umt5": lambda: of_model(lambda rngs: Umt5(Umt5Config(32, 16, 1, 2, 8, 16), rngs=rngs), lambda m, *x: m(*x), whole(1, 8), whole(1)),
    "decoder": lambda: of_model(lambda rngs: Decoder(DECODER, rngs=rngs), lambda m, x: m.logits(m(m.embed(x))), whole(1, 8)),
    "codes": lambda: of_model(lambda rngs: CodesEncoder(CODES, rngs=rngs), lambda m, x: m(x), pixels(1, 16, 16, 3)),
    "scorer": lambda: of_model(lambda rngs: SCORER.build(rngs=rngs), lambda m, *x: m(*x), pixels(1, 8, 32, 32, 3), pixels(1, 32, 32, 3), pixels(1, 3)),
    "pairs": lambda: (Loss.PAIRS, pixels(4), pixels(4), whole(4), whole(4)),
    "aesthetic": lambda: of_model(
        lambda rngs: CLIPImage(CLIP, rngs=rngs), lambda m, x: predictor._score(m, x, (jnp.ones(8), 0.0)), numbers((1, 8, 8, 3), jnp.uint8)
    ),
    "vit": lambda: of_model(lambda rngs: vit.ViT(vit.ViTConfig(8, 4, 16, 1, 2, 16), rngs=rngs), lambda m, x: m(x), pixels(1, 8, 12, 3)),
    "pixels": lambda: (embeddings.pixel_features, pixels(2, 64, 64, 3)),
}  # fmt: skip


def products(jaxpr: Jaxpr):
    """All of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.parametrize("name", CALLS)
def test_products_in_fp32_are_asked_for(name, monkeypatch):
    for module in (layers, autoencoder):
        monkeypatch.setattr(module, "platform", lambda: "tpu")
    function, *inputs = CALLS[name]()
    found = list(products(jax.make_jaxpr(function)(*inputs).jaxpr))
    exact = [one for one in found if jnp.float32 in (x.aval.dtype for x in one.invars)]
    rounded = [one for one in exact if one.params["precision"] in (None, (jax.lax.Precision.DEFAULT,) * 2)]
    assert found and not rounded, rounded[0]
