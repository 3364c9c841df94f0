"""Attention that scans blocks of keys with an online softmax: memory linear in the keys, on any platform.

Forward, over key blocks j, with running maximum m, sum l and weighted values a (Milakov & Gimelshein 2018,
arXiv 1805.02867; Rabe & Staats 2021, arXiv 2112.05682):

    m' = max(m, max_j s)    l' = l·e^(m−m') + Σ_j e^(s−m')    a' = a·e^(m−m') + e^(s−m') v_j

Backward, by recomputing each block from the log-sum-exp (Dao et al. 2022, arXiv 2205.14135, with lse's own gradient):

    p = e^(s−lse)    ds = p ∘ (do vᵀ − Δ)    Δ = Σ_D do∘out − dlse
    dv = pᵀ do       dq = scale · ds k       dk = scale · dsᵀ q
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from core_jax.attention.mask import Mask
from core_jax.attention.softmax import gradient_offset, named

KEY_BLOCK = 512
"""Keys in a block: the scores of one block are all that exists of the scores at a time."""

LOWEST = -1e30
"""Where a running maximum starts: finite, so that a block whose keys are all hidden leaves exp(−inf − m) = 0."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def blockwise_attention(
    q: Float[Array, "B S K D"],
    k: Float[Array, "B Skv Kkv D"],
    v: Float[Array, "B Skv Kkv D"],
    bias: Float[Array, "G K S Skv"] | None,
    mask: Mask,
    scale: float,
    block: int = KEY_BLOCK,
) -> tuple[Float[Array, "B S K D"], Float[Array, "B K S"]]:
    """Attention over blocks of `block` keys. Products are in q's dtype with fp32 sums, the rest is fp32."""
    return _forward(q, k, v, bias, mask, scale, block)[0]


def _forward(q, k, v, bias, mask, scale, block):
    out, lse = run_forward(q, k, v, bias, mask, scale, block)
    out, lse = named(out, lse, k.shape[1])
    return (out, lse), (q, k, v, bias, mask, out, lse)


def _backward(scale, block, residuals, cotangents):
    q, k, v, bias, mask, out, lse = residuals
    delta = gradient_offset(out, lse, *cotangents)
    return *run_backward(q, k, v, bias, mask, lse, delta, cotangents[0], scale, k.dtype, block), None


blockwise_attention.defvjp(_forward, _backward)


def run_forward(q, k, v, bias, mask: Mask, scale: float, block: int = KEY_BLOCK):
    """out and lse, without a rule for their gradients."""
    queries = _by_kv_head(q, k.shape[2])

    def step(carry, xs):
        m, l, a = carry
        j, k_j, v_j = xs
        scores = _scores(queries, k_j, bias, mask, scale, j * block, k.shape[1])
        m_next = jnp.maximum(m, scores.max(axis=-1, keepdims=True))
        p, shrink = jnp.exp(scores - m_next), jnp.exp(m - m_next)
        a = a * shrink + _product("bkrst,bktd->bkrsd", p.astype(v.dtype), v_j)
        return (m_next, l * shrink + p.sum(axis=-1, keepdims=True), a), None

    like = queries.astype(jnp.float32)  # cut over the axes of a caller's mesh or shard_map as the queries are
    start = jnp.full_like(like[..., :1], LOWEST), jnp.zeros_like(like[..., :1]), jnp.zeros_like(like)
    (m, l, a), _ = jax.lax.scan(step, start, _blocks(k, v, block))
    out = _by_token(a / jnp.where(l == 0, 1, l)).astype(q.dtype)
    lse = jnp.where(l == 0, -jnp.inf, m + jnp.log(l)).reshape(q.shape[0], q.shape[2], q.shape[1])
    return out, lse


def run_backward(q, k, v, bias, mask: Mask, lse, delta, d_out, scale: float, sum_dtype, block: int = KEY_BLOCK):
    """dq, dk, dv and dbias (None without a bias) from lse and Δ over all keys; dk and dv come in sum_dtype."""
    queries, d_out = (_by_kv_head(x, k.shape[2]) for x in (q, d_out))
    lse, delta = (x.reshape(*queries.shape[:-1], 1) for x in (lse, delta))
    blind = jnp.isneginf(lse)
    lse = jnp.where(blind, jnp.inf, lse)  # so that p is 0 there
    d_out = jnp.where(blind, 0, d_out)

    def step(dq, xs):
        j, k_j, v_j = xs
        scores = _scores(queries, k_j, bias, mask, scale, j * block, k.shape[1])
        p = jnp.exp(scores - lse)
        ds = p * (_product("bkrsd,bktd->bkrst", d_out, v_j) - delta)
        dv_j = _product("bkrst,bkrsd->bktd", p.astype(v.dtype), d_out)
        dbias_j = None if bias is None else _over_batch(ds, bias)
        ds = ds.astype(k.dtype)
        dk_j = _product("bkrst,bkrsd->bktd", ds, queries) * scale
        dq = dq + _product("bkrst,bktd->bkrsd", ds, k_j)
        return dq, (dk_j.astype(sum_dtype), dv_j.astype(sum_dtype), dbias_j)

    dq, (dk, dv, dbias) = jax.lax.scan(step, jnp.zeros_like(queries, jnp.float32), _blocks(k, v, block))
    dq = _by_token(dq * scale).astype(q.dtype)
    dk, dv = (jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1, x.shape[4]) for x in (dk, dv))
    dk, dv = (x[:, :, : k.shape[1]].swapaxes(1, 2) for x in (dk, dv))
    if bias is not None:
        dbias = jnp.moveaxis(dbias, 0, 3).reshape(*bias.shape[:3], -1)[..., : k.shape[1]].astype(bias.dtype)
    return dq, dk, dv, dbias


def _by_kv_head(x: Float[Array, "B S K D"], kv_heads: int) -> Float[Array, "B Kkv R S D"]:
    """Heads in front of tokens, the R query heads of one key-value head together."""
    return x.swapaxes(1, 2).reshape(x.shape[0], kv_heads, -1, x.shape[1], x.shape[3])


def _by_token(x: Float[Array, "B Kkv R S D"]) -> Float[Array, "B S K D"]:
    return x.reshape(x.shape[0], -1, *x.shape[3:]).swapaxes(1, 2)


def _blocks(k, v, block: int) -> tuple[Int[Array, "N"], Float[Array, "N B Kkv T D"], Float[Array, "N B Kkv T D"]]:
    """Number, keys and values of each block; the last one is filled up with zeros, which no query sees."""
    count = -(-k.shape[1] // block)

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, count * block - x.shape[1]), (0, 0), (0, 0)))
        return x.reshape(x.shape[0], count, block, *x.shape[2:]).transpose(1, 0, 3, 2, 4)

    return jnp.arange(count), split(k), split(v)


def _scores(queries, k_j, bias, mask: Mask, scale: float, start, keys: int) -> Float[Array, "B Kkv R S T"]:
    """Scores of all queries over one block of keys, −inf where a query does not see a key."""
    scores = _product("bkrsd,bktd->bkrst", queries, k_j) * scale
    batch, kv_heads, repeats, rows, block = scores.shape
    columns = start + jnp.arange(block)
    if bias is not None:
        block_bias = jnp.take(bias, columns, axis=3, mode="clip").astype(jnp.float32)
        scores += jnp.tile(block_bias.reshape(-1, *scores.shape[1:]), (batch // bias.shape[0], 1, 1, 1, 1))
    visible = mask.visible(rows, columns)
    if keys % block:
        inside = (columns < keys)[None, None, None]
        visible = inside if visible is None else visible & inside
    return scores if visible is None else jnp.where(visible[:, :, None], scores, -jnp.inf)


def _over_batch(ds: Float[Array, "B Kkv R S T"], bias: Float[Array, "G K S Skv"]) -> Float[Array, "G K S T"]:
    """The gradient of one block of the bias: the sum over the batch elements that share a group."""
    return ds.reshape(-1, *bias.shape[:3], ds.shape[-1]).sum(axis=0)


def _product(subscripts: str, x: Array, y: Array) -> Float[Array, "..."]:
    precision = "highest" if x.dtype == jnp.float32 else None
    return jnp.einsum(subscripts, x, y, precision=precision, preferred_element_type=jnp.float32)
