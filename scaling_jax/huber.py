"""Fits y ≈ log ‖(exp G_k·θ)_k‖_p by Huber's loss: power laws with offsets, whose terms are log-linear, in one Newton method.

  (1) r_i(θ) = 1/p·log Σ_k exp(p·G_ik·θ) − y_i               G_ik the features of term k at run i; p = 1, a sum, or fitted too
  (2) ρ(θ)   = Σ_i w_i·h(r_i)                                 h(r) = r²/2 up to |r| = δ, δ·(|r| − δ/2) beyond (Huber 1964)
  (3) g = Σ w ψ J      H = Σ w ψ' J Jᵀ + w ψ ∇²r              ψ = h', J_i = Σ_k s_ik G_ik, s the softmax of the terms times p,
      M = Σ w min(1, δ/|r|) J Jᵀ                              ∇²r_i = p·(Σ_k s_ik G_ik G_ikᵀ − J_i J_iᵀ)
  (4) θ ← θ − (H + λM)⁻¹ g,  λ up where ρ rises, down where it falls
  (5) a parameter c·θ lies where  min {ρ(θ') : c·θ' = c·θ} − ρ(θ̂) ≤ ½·t²·κ,   κ = Σψ²/(n − p) / mean ψ'

Far from a minimum, (4) is a short step of reweighted least squares; near it, Newton's. It does not depend on the units of θ. With a
combination c·θ held, the same step is taken within that plane. (5) is the profile-likelihood interval, ρ/κ standing for a log
likelihood as in robust regression (Huber 1981, chapter 7), t the quantile of Student's law. Where θ is one longer than G its last entry
is log p: in (3) each G_ik then ends with log(s_ik)/p, and ∂²r/∂(log p)² is by −J's last entry more. All of it wants float64.
"""
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DELTA = 1e-3
"""δ of the loss in log loss, as Hoffmann et al. 2022 chose it"""
ITERATIONS = 200
FARTHEST = 1e3
"""an interval's end this many times beyond its first guess is none: the data do not bound the parameter"""
HALVINGS = 14
"""of the last step towards an interval's end"""

Features = Float[Array, "n K P"]
Weights = Float[Array, "n"]
Theta = Float[Array, "P"]


def _terms(theta: Theta, G: Features) -> tuple[Float[Array, "n K"], Float[Array, ""], bool]:
    """p·G_k·θ, p, and whether p is fitted too."""
    free = len(theta) > G.shape[-1]
    p = jnp.exp(theta[-1]) if free else jnp.ones(())
    return p * (G @ theta[: G.shape[-1]]), p, free


def residuals(theta: Theta, G: Features, y: Float[Array, "n"] | float) -> Float[Array, "n"]:
    """(1)."""
    terms, p, _ = _terms(theta, G)
    return jax.nn.logsumexp(terms, axis=1) / p - y


def huber(r: Float[Array, "n"]) -> Float[Array, "n"]:
    """h of (2)."""
    size = jnp.abs(r)
    return jnp.where(size <= DELTA, r * r / 2, DELTA * (size - DELTA / 2))


def scale(r: Float[Array, "n"], parameters: int) -> Float[Array, ""]:
    """κ of (5)."""
    psi = jnp.clip(r, -DELTA, DELTA)
    return psi @ psi / max(len(r) - parameters, 1) / jnp.maximum((jnp.abs(r) <= DELTA).mean(), 1 / len(r))


def expand(theta: Theta, G: Features, y: Float[Array, "n"], w: Weights):
    """ρ of (2) and g, H, M of (3)."""
    terms, p, free = _terms(theta, G)
    total = jax.nn.logsumexp(terms, axis=1)
    log_s, r = terms - total[:, None], total / p - y
    s = jnp.exp(log_s)
    if free:
        G = jnp.concatenate([G, log_s[..., None] / p], -1)
    J = (s[..., None] * G).sum(1)
    psi = w * jnp.clip(r, -DELTA, DELTA)
    flat = w * (jnp.abs(r) <= DELTA)
    steep = w * DELTA / jnp.maximum(jnp.abs(r), DELTA)
    rows = G.reshape(-1, G.shape[-1])
    H = (J * (flat - p * psi)[:, None]).T @ J + (rows * (p * psi[:, None] * s).reshape(-1, 1)).T @ rows
    if free:
        H = H.at[-1, -1].add(-psi @ J[:, -1])
    return w @ huber(r), (psi @ J, H, (J * steep[:, None]).T @ J)


def _step(g: Array, H: Array, line: Array | None) -> Array:
    """−H⁻¹g, or the same within line·step = 0."""
    scale = 1 / jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(H)), 1e-300))
    g, H = g * scale, H * scale[:, None] * scale[None]
    if line is None:
        return -scale * jnp.linalg.solve(H, g)
    line = line * scale
    bordered = jnp.block([[H, line[:, None]], [line[None], jnp.zeros((1, 1))]])
    return -scale * jnp.linalg.solve(bordered, jnp.append(g, 0.0))[:-1]


@functools.partial(jax.jit, static_argnames="iterations")
def minimise(
    theta: Theta, G: Features, y: Float[Array, "n"], w: Weights, line: Float[Array, "P"] | None = None,
    iterations: int = ITERATIONS,
) -> tuple[Float[Array, "P"], Float[Array, ""]]:
    """The minimum of (2) that (4) reaches from θ, and its ρ.

    Args:
      line: c of a held combination; the result has the c·θ of the start.
    """

    def unfinished(carry):
        *_, damping, small, i = carry
        return (i < iterations) & (small < 2) & (damping < 1e9)

    def step(carry):
        theta, best, (g, H, M), damping, small, i = carry
        moved = theta + _step(g, H + damping * M, line)
        value, derivatives = expand(moved, G, y, w)
        better = value <= best  # NaN is not
        small = jnp.where(better, jnp.where(best - value <= 1e-12 * best, small + 1, 0), small)
        damping = jnp.where(better, jnp.maximum(damping / 8, 1e-9), jnp.maximum(damping * 4, 1e-3))
        old, new = (theta, best, (g, H, M)), (moved, value, derivatives)
        return *jax.tree.map(lambda a, b: jnp.where(better, b, a), old, new), damping, small, i + 1

    start = theta, *expand(theta, G, y, w), jnp.ones(()), jnp.zeros((), int), jnp.zeros((), int)
    theta, best, *_ = jax.lax.while_loop(unfinished, step, start)
    return theta, best


def profile_end(
    theta: Theta, best: Float[Array, ""], G: Features, y: Float[Array, "n"], w: Weights, line: Theta, rise: Float[Array, ""], sign: Float[Array, ""]
) -> Float[Array, ""]:
    """The end of the interval (5) of line·θ on one side, infinite where ρ does not rise enough.

    Args:
      theta, best: the minimum and its ρ; θ₀ is the log of a constant term.
      rise: ½·t²·κ.
      sign: −1 for the lower end, 1 for the upper.

    Walks along the valley of minima in steps that double until ρ has risen enough, then halves the last step. Each minimum starts from
    the one before it: from far away the search may end above the valley, and an interval that goes by it is too narrow.
    """

    def along(at: Theta) -> Theta:
        M = expand(at, G, y, w)[1][2]
        direction = jnp.linalg.solve(M + 1e-12 * jnp.trace(M) * jnp.eye(len(at)), line)
        return direction / (line @ direction)

    def move(at: Theta, far: Array) -> tuple[Theta, Array]:
        at = at + sign * far * along(at)
        revived = jnp.where(line[0] == 0, at.at[0].set(y.mean() - 1), at)  # a constant term that has vanished does not come back by itself
        ends, values = jax.vmap(lambda start: minimise(start, G, y, w, line))(jnp.stack([at, revived]))
        chosen = jnp.nanargmin(values)
        return ends[chosen], values[chosen] - best

    def step(carry):
        far, stride, at, walking, halvings = carry
        there, risen = move(at, stride)
        inside = risen < rise
        walking = walking & inside
        stride, far = jnp.where(walking, 2 * stride, stride / 2), jnp.where(inside, far + stride, far)
        return far, stride, jnp.where(inside, there, at), walking, jnp.where(walking, 0, halvings + 1)

    guess = jnp.fmin(jnp.sqrt(2 * rise * (line @ jnp.linalg.solve(expand(theta, G, y, w)[1][2], line))), 1.0)  # of a vanished constant: any
    start = 0.0 * guess, guess / 4, theta, jnp.array(True), jnp.array(0)
    far, *_ = jax.lax.while_loop(lambda carry: (carry[4] < HALVINGS) & (carry[0] < FARTHEST * guess), step, start)
    return jnp.where(far < FARTHEST * guess, line @ theta + sign * far, sign * jnp.inf)
