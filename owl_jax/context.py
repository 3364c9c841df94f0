"""What stays in the key-value cache when it fills.

A world's past is a row of spans. The rule: the prefix [I, t] stays; the newest `window` triplets stay whole; of older triplets the
newest `memory` states stay, their observations and texts go (Forget.COMPRESS), or nothing does (Forget.DROP). Keys and values that
stay are not computed again: those of a state still hold what its queries read in clips that are gone. Positions close up: what stays is
numbered anew from 0, and its keys are turned to their new places (rotary positions add, so turning by the difference is exact). A
world's positions therefore never grow beyond the slots of prefix, window and memory, whatever the film's length; these may be more than it
was trained on, of which `generate` warns.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from core_jax.layers import rotate
from core_jax.lmm.config import DecoderConfig
from core_jax.lmm.cache import Cache
from core_jax.lmm.decoder import rotary
from owl_jax.config import ContextConfig
from owl_jax.sequence import Kind


@dataclasses.dataclass(frozen=True)
class Span:
    """Slots [start, stop) of the cache, of one clip; the prefix is clip −1."""

    kind: Kind
    clip: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Past:
    """The spans in the order of their slots."""

    spans: tuple[Span, ...] = ()

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self.spans[-1].stop if self.spans else 0

    def add(self, kind: Kind, clip: int, slots: int) -> "Past":
        return Past((*self.spans, Span(kind, clip, self.used, self.used + slots)))

    def forget(self, config: ContextConfig) -> tuple["Past", Int[np.ndarray, "n"]]:
        """What stays before another triplet comes, packed, and the old slot of each slot that stays."""
        clips = sorted({span.clip for span in self.spans if span.clip >= 0})
        older = clips[: max(len(clips) - config.window + 1, 0)]  # with the one to come, `window` are whole
        kept = older[max(len(older) - config.states, 0) :]
        stays = lambda span: span.clip not in older or (span.clip in kept and span.kind is Kind.STATE)
        past, places = Past(), []
        for span in filter(stays, self.spans):
            past = past.add(span.kind, span.clip, span.stop - span.start)
            places.append(np.arange(span.start, span.stop))
        return past, np.concatenate(places)


def compact(config: DecoderConfig, cache: Cache, places: Int[Array, "slots"], used: Int[Array, ""]) -> Cache:
    """The cache with slot i taken from slot places[i], for i < used; the others are empty."""
    valid = jnp.where(jnp.arange(len(places)) < used, cache.valid[:, places], 0)
    position = lambda valid: jnp.cumsum(valid, axis=1) - 1
    turn = rotary(config, position(valid) - position(cache.valid)[:, places])
    keys = lambda k: rotate(k[:, :, places].swapaxes(1, 2), *turn).swapaxes(1, 2)
    return Cache(jax.vmap(keys)(cache.keys), cache.values[:, :, :, places], valid, used)
