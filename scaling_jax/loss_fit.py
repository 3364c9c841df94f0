"""Fits L^p = E^p + Σ_v (A_v·X_v^−α_v)^p to runs: the loss law (X = N, T), and the simpler laws that it must beat (X = T, or none).

p is 1 in the form `SUM`, and fitted too in the form `NORM`. Search by variable projection: at given exponents and p, L^p is linear in
(E^p, A^p), which weighted least squares solves exactly, so only these are searched, on a grid; the best grid points start Newton's
method on Huber's loss of log L (huber.py).
"""
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import t as student

from scaling_jax import huber
from scaling_jax.laws import Form, LossLaw

GRID = np.array([0.03, 0.08, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5])
"""exponents to start from"""
POWERS = {Form.SUM: np.array([1.0]), Form.NORM: np.array([0.5, 1.0, 2.0, 4.0])}
"""p to start from"""
CONSTANTS = {Form.SUM: 5, Form.NORM: 6}
"""of the loss law"""
STARTS = 12
"""grid points that Newton's method goes on from"""
LEVEL = 0.95
MANY = 100
"""runs from which on the bootstrap gives the intervals, and below which the profile does: 1,000 simulated tables of 24 runs were covered
by the profile in 94 to 95 % and by the bootstrap in 91 to 97 %; the profile takes all runs to err alike, the bootstrap does not"""


def features(X: Float[np.ndarray, "n V"], at: Float[np.ndarray, "m V"] | None = None) -> Float[np.ndarray, "m 1+V 1+2V"]:
    """G of θ = (log E, log A·X̄^−α, α), X̄ the geometric mean of X, at X or at other points: around X̄ a factor and its exponent hardly depend on each other."""
    relative = np.log(X).mean(0) - np.log(X if at is None else at)
    m, V = relative.shape
    G = np.zeros((m, 1 + V, 1 + 2 * V))
    G[:, 0, 0] = 1
    for v in range(V):
        G[:, 1 + v, 1 + v] = 1
        G[:, 1 + v, 1 + V + v] = relative[:, v]
    return G


def lines_of(X: Float[np.ndarray, "n V"], form: Form) -> Float[np.ndarray, "P P"]:
    """lines·θ = (log E, log A, α), and log p in the form `NORM`."""
    V = X.shape[1]
    lines = np.eye(1 + 2 * V + (form is Form.NORM))
    lines[range(1, 1 + V), range(1 + V, 1 + 2 * V)] = np.log(X).mean(0)
    return lines


def constants_of(values: Float[np.ndarray, "*d P"]) -> Float[np.ndarray, "*d P"]:
    """(E, A, α), and p, of lines·θ; infinite where no float holds one."""
    V, at = (values.shape[-1] - 1) // 2, np.arange(values.shape[-1])
    with np.errstate(over="ignore"):
        return np.where((at <= V) | (at > 2 * V), np.exp(values), values)


def starts(G: Array, y: Float[Array, "n"], V: int, form: Form) -> Float[Array, "s P"]:
    """θ at each point of the grid of exponents and p, E and A by least squares of the relative error of L^p, kept positive."""
    grid = jnp.asarray(list(itertools.product(POWERS[form], *[GRID] * V)))

    def project(point: Float[Array, "1+V"]) -> Float[Array, "P"]:
        p, exponents = point[0], point[1:]
        log_columns = G[:, :, 1 + V :] @ exponents
        columns = jnp.exp(p * (log_columns - y[:, None]))
        size = jnp.linalg.norm(columns, axis=0)
        unit = columns / size[None]
        coefficients = jnp.linalg.solve(unit.T @ unit + 1e-12 * jnp.eye(1 + V), unit.sum(0)) / size
        least = (1e-3 * jnp.exp(y.mean())) ** p
        return jnp.concatenate([jnp.log(jnp.maximum(coefficients, least)) / p, exponents, jnp.log(point[: form is Form.NORM])])

    return jax.vmap(project)(grid)


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """In float64, on this machine's CPU: a TPU solves no equations in it."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


@functools.partial(jax.jit, static_argnames=("V", "form"))
def search(G: Array, y: Float[Array, "n"], V: int, form: Form) -> tuple[Float[Array, "P"], Float[Array, ""]]:
    """θ̂ and ρ(θ̂)."""
    w, grid = jnp.ones(len(y)), starts(G, y, V, form)
    first, _ = jax.vmap(lambda theta: huber.expand(theta, G, y, w))(grid)
    chosen = grid[jnp.argsort(jnp.nan_to_num(first, nan=jnp.inf))[: min(STARTS, len(grid))]]
    theta, value = jax.vmap(lambda theta: huber.minimise(theta, G, y, w))(chosen)
    best = jnp.nanargmin(value)
    return theta[best], value[best]


@jax.jit
def profile(theta: Array, best: Array, G: Array, y: Array, lines: Array, t: float) -> Float[Array, "P 2"]:
    """The interval of each of lines·θ, by (5) of huber.py."""
    rise = t**2 / 2 * huber.scale(huber.residuals(theta, G, y), len(theta))
    ends = lambda sign: jax.vmap(lambda line: huber.profile_end(theta, best, G, y, jnp.ones(len(y)), line, rise, sign))(lines)
    return jnp.stack([ends(-1.0), ends(1.0)], 1)


@jax.jit
def bootstrap(theta: Array, G: Array, y: Array, counts: Float[Array, "d n"]) -> Float[Array, "d P"]:
    """θ̂ of resampled tables, each row of `counts` saying how often every run was drawn."""
    return jax.lax.map(lambda w: huber.minimise(theta, G, y, w, None, 100)[0], counts, batch_size=100)


@jax.jit
def refit(theta: Array, G: Array, ys: Float[Array, "d n"]) -> Float[Array, "d P"]:
    """θ̂ of tables that differ in their log losses."""
    return jax.lax.map(lambda y: huber.minimise(theta, G, y, jnp.ones(len(y)), None, 100)[0], ys, batch_size=100)


@dataclasses.dataclass(frozen=True)
class LossFit:
    """A fitted law; arrays are of (E, A_v …, α_v …), and p in the form `NORM`."""

    form: Form
    values: Float[np.ndarray, "P"]
    """with logarithms of all but α"""
    objective: float
    profile: Float[np.ndarray, "P 2"]
    """intervals by the profile; an end is 0 or infinite where the data do not bound it"""
    draws: Float[np.ndarray, "d P"]
    """of the bootstrap"""
    runs: int

    @property
    def constants(self) -> Float[np.ndarray, "P"]:
        return constants_of(self.values)

    @property
    def bootstrap(self) -> Float[np.ndarray, "P 2"]:
        """Intervals by the bootstrap."""
        return np.percentile(self.draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0).T

    def __call__(self, X: Float[np.ndarray, "n V"]) -> Float[np.ndarray, "n"]:
        V = X.shape[1]
        E, A, alpha, p = self.values[:1], self.values[1 : 1 + V], self.values[1 + V : 1 + 2 * V], np.exp(self.values[1 + 2 * V :].sum())
        terms = np.concatenate([np.broadcast_to(E, (len(X), 1)), A - alpha * np.log(X)], 1)
        return np.exp(np.logaddexp.reduce(p * terms, axis=1) / p)

    @staticmethod
    def law(constants: Float[np.ndarray, "*d P"]) -> LossLaw:
        """The loss law of constants in the order of a fit on X = (N, T)."""
        E, A, B, alpha, beta, *p = np.moveaxis(constants, -1, 0)
        return LossLaw(E, A, alpha, B, beta, *p)


def fit(
    X: Float[np.ndarray, "n V"], loss: Float[np.ndarray, "n"], form: Form = Form.SUM, draws: int = 0, seed: int = 0, profiled: bool = True,
    errors: Float[np.ndarray, "draws n"] | None = None,
) -> LossFit:
    """Fits the law to runs.

    Args:
      X: what the loss depends on, in counts.
      draws: resampled tables of the bootstrap, which takes runs to err by themselves.
      errors: of log losses, drawn as they err together: the laws fitted with these are then the bootstrap's.
    """
    G, lines, n = features(X), lines_of(X, form), len(loss)
    P = len(lines)
    with exactly():
        G64, y = jnp.asarray(G), jnp.log(jnp.asarray(loss, jnp.float64))
        theta, best = search(G64, y, X.shape[1], form)
        ends = np.full((P, 2), np.nan)
        if profiled:
            ends = np.array(profile(theta, best, G64, y, jnp.asarray(lines), student.ppf((1 + LEVEL) / 2, max(n - P, 1))))
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
        if errors is not None:
            resampled = np.array(refit(theta, G64, jnp.asarray(np.log(loss) + errors)))
        else:
            resampled = np.array(bootstrap(theta, G64, y, jnp.asarray(counts))) if draws else np.zeros((0, P))
        theta, best = np.array(theta), float(best)
    return LossFit(form, lines @ theta, best, constants_of(ends.T).T, constants_of(resampled @ lines.T), n)


def chance(
    law: LossFit, X: Float[np.ndarray, "n V"], errors: Float[np.ndarray, "d n"], held: Float[np.ndarray, "m V"], held_errors: Float[np.ndarray, "d m"]
) -> Float[np.ndarray, "d m"]:
    """Relative errors at `held` of laws fitted at X, if this law were the truth and log losses erred so: what noise alone does to a prediction."""
    theta = np.linalg.solve(lines_of(X, law.form), law.values)
    with exactly():
        found = refit(jnp.asarray(theta), jnp.asarray(features(X)), jnp.asarray(np.log(law(X)) + errors))
        predicted = jax.vmap(lambda theta: huber.residuals(theta, jnp.asarray(features(X, held)), 0.0))(found)
    return np.exp(np.array(predicted) - held_errors) / law(held) - 1


def refitted(law: LossFit, X: Float[np.ndarray, "n V"], log_loss: Float[np.ndarray, "d n"]) -> tuple[Float[np.ndarray, "d P"], Float[np.ndarray, "d n"]]:
    """(constants, predicted losses) of laws fitted to each row, from this law on."""
    theta, lines = np.linalg.solve(lines_of(X, law.form), law.values), lines_of(X, law.form)
    with exactly():
        found = refit(jnp.asarray(theta), jnp.asarray(features(X)), jnp.asarray(log_loss))
        predicted = jax.vmap(lambda theta: huber.residuals(theta, jnp.asarray(features(X)), 0.0))(found)
    return constants_of(np.array(found) @ lines.T), np.exp(np.array(predicted))
