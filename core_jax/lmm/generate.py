"""Generation: prefill, then one token after the other from the cache, all in one compiled program for each bucket of lengths."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from core_jax.compiler import jit
from core_jax.lmm.config import LMMConfig
from core_jax.lmm.model import LMM, Inputs
from core_jax.lmm.sequence import Sequence, stack
from core_jax.sharding import batch_sharding, distribute


def generate(
    model: LMM, sequences: list[Sequence], *, most: int, temperature: float = 0.0, key: PRNGKeyArray | None = None,
    dtype: jnp.dtype = jnp.float32,
) -> list[Int[np.ndarray, "S"]]:
    """Answers, each up to and without its stop token.

    Args:
      most: tokens of an answer.
      temperature: 0 takes the likeliest token, otherwise tokens are drawn from softmax(logits / temperature).
      key: of the draws; example i draws by fold_in(key, i), so that its answer does not depend on the others.

    Raises:
      ValueError: prompt and answer together are longer than the model's context.
    """
    config = model.config
    longest = max(map(len, sequences))
    if longest + most > config.decoder.context:
        raise ValueError(
            f"a prompt of {longest} tokens and an answer of {most} make {longest + most}, "
            f"and the model's context is {config.decoder.context}: fewer frames, or a shorter answer, fit"
        )
    inputs = stack(config, sequences)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0) if key is None else key, jnp.arange(len(sequences)))
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        inputs = distribute(inputs, batch_sharding(mesh))
    out = np.asarray(answers(model, inputs, keys, most=most, temperature=temperature, dtype=dtype))
    return [row[: np.argmax(ended) if (ended := np.isin(row, config.stop)).any() else most] for row in out]


@functools.partial(jit, static_argnames=("most", "temperature", "dtype"))
def answers(
    model: LMM, inputs: Inputs, keys: PRNGKeyArray, *, most: int, temperature: float, dtype: jnp.dtype
) -> Int[Array, "B most"]:
    """The program of `generate`, which a plan compiles too; behind an answer's stop token stand stop tokens."""
    decoder, config = model.decoder, model.config
    stop = jnp.asarray(config.stop or (-1,), jnp.int32)
    B, S = inputs.tokens.shape
    choose = lambda x, i: chosen(config, decoder.logits(x), temperature, keys, i)

    def step(carry):
        i, token, done, out, cache = carry
        x, cache = decoder.extend(decoder.embed(token[:, None], dtype), jnp.ones((B, 1), bool), cache)
        token = jnp.where(done, token, choose(x[:, 0], i))
        return i + 1, token, done | (token[:, None] == stop[None]).any(-1), out.at[:, i].set(token), cache

    x, cache = decoder.prefill(model.embed(inputs, dtype), inputs.valid, S + most)
    token = choose(x[:, 0], 0)
    done = (token[:, None] == stop[None]).any(-1)
    out = jnp.broadcast_to(stop[:1], (B, most)).at[:, 0].set(token)
    decoder = decoder.ready()
    carry = jnp.asarray(1), token, done, out, cache.apart() if decoder.is_apart else cache
    return jax.lax.while_loop(lambda c: (c[0] < most) & ~c[2].all(), step, carry)[3]


def chosen(config: LMMConfig, logits: Float[Array, "B V"], temperature: float, keys: PRNGKeyArray, i: Int[Array, ""] | int) -> Int[Array, "B"]:
    """The i-th token of each text: the likeliest at temperature 0, else drawn from softmax(logits / temperature). Never an image's code."""
    if config.codes:
        logits = logits.at[:, np.asarray(config.codes.vocabulary)].set(-jnp.inf)
    if temperature == 0:
        likeliest = logits == logits.max(-1, keepdims=True)  # argmax itself a CPU computes one number after the other
        return jnp.where(likeliest, jnp.arange(logits.shape[-1], dtype=jnp.int32)[None], logits.shape[-1] - 1).min(-1)
    draw = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, i), row / temperature))
    return draw(keys, logits).astype(jnp.int32)
