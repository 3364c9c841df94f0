"""The two scorers of Koala-36M (arXiv 2410.08260): the one that was released, and the paper's own with three branches.

Released (FAST-VQA-B): score = mean over tokens of Linear(GELU(Linear(Swin3D(fragments)))).

Paper (weight cross-gating): d, s, l are features of fragments, of one frame and of the sub-metrics, each of width 400;

  u = W₁v + b₁,  g = GELU_tanh(Wₓ(W₀l + b₀) + bₓ),  v′ = W_y(u ∘ g) + b_y + u      for v = d and v = s, with weights of their own
  w = W_f[d′; s′] + b_f,   score = Dense(w₁d′ + w₂s′)

Neither output is on a fixed scale: scale.py makes 1 to 5 of it.
"""
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.layers import Linear
from core_jax.rngs import Rngs
from koala_jax.tsa.convnext import ConvNeXt, ConvNeXtConfig
from koala_jax.tsa.layers import Dense, dropout, fold, gelu
from koala_jax.tsa.swin import Swin3D, SwinConfig


START = 3.0
"""the three-branch network's score before training: its last GELU passes gradients on there, and none to speak of below zero"""


@dataclasses.dataclass(frozen=True)
class VideoScorerConfig:
    """The released network; the defaults are its sizes."""

    dynamic: SwinConfig = SwinConfig()
    hidden: int = 64

    def build(self, *, rngs: Rngs) -> "VideoScorer":
        return VideoScorer(self, rngs=rngs)


class VideoScorer(nnx.Module):
    """A score of a clip from its fragments alone."""

    def __init__(self, config: VideoScorerConfig, *, rngs: Rngs):
        self.dynamic = Swin3D(config.dynamic, rngs=rngs)
        self.hidden = Linear((config.dynamic.out,), (config.hidden,), "E F", rngs=rngs)
        self.last = Linear((config.hidden,), (1,), "F n", rngs=rngs)

    def __call__(
        self, fragments: Float[Array, "B T H W 3"], image: None = None, labels: None = None, key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B"]:
        """Raw scores, fp32. A key switches dropout and stochastic depth on; `image` and `labels` are the other scorer's."""
        x = dropout(self.dynamic(fragments, fold(key, 0)), 0.5, fold(key, 1))
        x = dropout(gelu(self.hidden(x)), 0.5, fold(key, 2))
        return self.last(x).astype(jnp.float32).mean((1, 2, 3, 4))


@dataclasses.dataclass(frozen=True)
class SuitabilityConfig:
    """The paper's network; the defaults are its sizes."""

    dynamic: SwinConfig = SwinConfig()
    static: ConvNeXtConfig = ConvNeXtConfig()
    labels: int = 15
    """M sub-metrics"""
    width: int = 400
    """of the features that are fused"""
    label_hidden: tuple[int, ...] = (64, 128, 256)
    static_hidden: int = 512
    final_hidden: tuple[int, ...] = (512, 256, 64)

    def build(self, *, rngs: Rngs) -> "SuitabilityScorer":
        return SuitabilityScorer(self, rngs=rngs)


class CrossGate(nnx.Module):
    """v′ of the first line at the top."""

    def __init__(self, width: int, *, rngs: Rngs):
        self.label_in, self.visual_in, self.gate, self.out = (Linear((width,), (width,), "E E", rngs=rngs) for _ in range(4))

    def __call__(self, label: Float[Array, "B E"], visual: Float[Array, "B E"]) -> Float[Array, "B E"]:
        u = self.visual_in(visual)
        g = jax.nn.gelu(self.gate(self.label_in(label)), approximate=True)
        return self.out(u * g) + u


class SuitabilityScorer(nnx.Module):
    """A score of a clip from its fragments, one whole frame and its sub-metrics."""

    def __init__(self, config: SuitabilityConfig, *, rngs: Rngs):
        E = config.width
        self.dynamic = Swin3D(config.dynamic, rngs=rngs)
        self.dynamic_head = Linear((config.dynamic.out,), (E,), "C E", scale=0, rngs=rngs)
        self.static = ConvNeXt(config.static, rngs=rngs)
        self.static_head = Dense(config.static.classes, config.static_hidden, E, rngs=rngs)
        self.static_head.layers[-1].w[...] *= 0
        for head in (self.dynamic_head, self.static_head.layers[-1]):  # before training every clip looks alike: a score is of the sub-metrics alone
            head.b[...] += 1.0
        self.labels = Dense(config.labels, *config.label_hidden, E, rngs=rngs)
        self.dynamic_gate, self.static_gate = CrossGate(E, rngs=rngs), CrossGate(E, rngs=rngs)
        self.fusion = Linear((2 * E,), (2,), "E n", rngs=rngs)
        self.final = Dense(E, *config.final_hidden, 1, rngs=rngs)
        self.final.layers[-1].b[...] += START
        # The official modules score each branch alone too and throw the result away: kept, so that weights convert both ways.
        self.static_alone, self.labels_alone = (Linear((E,), (1,), "E n", rngs=rngs) for _ in range(2))

    def __call__(
        self, fragments: Float[Array, "B T H W 3"], image: Float[Array, "B h w 3"], labels: Float[Array, "B M"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B"]:
        """Raw scores, fp32, above −0.17. A key switches dropout and stochastic depth on."""
        d = self.dynamic(fragments, fold(key, 0))
        d = self.dynamic_head(dropout(d, 0.5, fold(key, 1)).mean((1, 2, 3)))
        s = self.static_head(self.static(image), fold(key, 2))
        return self.fused(d, s, labels, key)

    def fused(
        self, d: Float[Array, "B E"], s: Float[Array, "B E"], labels: Float[Array, "B M"], key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B"]:
        """The score, from features of the visual branches and the sub-metrics; in fp32, as it is little work."""
        d, s, labels = (x.astype(jnp.float32) for x in (d, s, labels))
        label = self.labels(labels, fold(key, 3))
        d, s = self.dynamic_gate(label, d), self.static_gate(label, s)
        w = self.fusion(jnp.concatenate([d, s], -1))
        return self.final(w[:, :1] * d + w[:, 1:] * s, fold(key, 4))[:, 0]
