"""Rectified flow (Liu et al. 2022, Lipman et al. 2022; Esser et al. 2024 for the choice of times).

  (1) x_t = (1 − t)·x₀ + t·ε                     data at t = 0, noise at t = 1
  (2) v   = dx_t/dt = ε − x₀
  (3) loss = E_{t, x₀, ε} ‖model(x_t, t) − target‖², the target being v, ε or x₀
  (4) any target gives the others, at a known t:
        from x₀:  v = (x_t − x₀)/t        from ε:  v = (ε − x_t)/(1 − t)        x₀ = x_t − t·v        ε = x_t + (1 − t)·v
  (5) shift s moves times towards noise, s·t/(1 + (s − 1)·t): more tokens need more noise to hide the same structure, so of several shapes of
      clips each has its own, s·√(tokens / those of the run's samples) (Esser et al. 2024, section 5.3.2)
  (6) sampling integrates dx/dt = v from t = 1 to 0
  (7) guidance: v = v(∅, ∅) + w_text·[v(text, ∅) − v(∅, ∅)] + w_scores·[v(text, scores) − v(text, ∅)]
"""
import dataclasses
import enum
import math
from collections.abc import Callable
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from core_jax.numbers import FINITE, POSITIVE, SHARE, refuse
from videodit_jax import unipc

Time = Float[Array, "B"]
Video = Float[Array, "B *dims"]
"""a video whole, (T, H, W, C), or by tokens, (S, P)"""
State = tuple[Video, ...]
"""what a solver carries from step to step, x first"""


class Target(enum.Enum):
    """What the model predicts."""

    V = "v"
    EPS = "eps"
    X0 = "x0"


class Times(enum.Enum):
    """How training draws t before the shift."""

    UNIFORM = "uniform"
    LOGIT_NORMAL = "logit-normal"


class Solver(enum.Enum):
    """How (6) is integrated; Heun costs two evaluations a step, but for the last, the others one."""

    EULER = "euler"
    HEUN = "heun"
    UNIPC = "unipc"
    """of order 2, as diffusers samples Wan 2.1 (videodit_jax/unipc.py)"""


NEAREST = 0.02
"""converting divides by t or 1 − t, which is kept at least this far from 0"""

TARGET_OF: dict[Target, Callable[[Video, Video], Video]] = {
    Target.V: lambda x0, eps: eps - x0,
    Target.EPS: lambda x0, eps: eps,
    Target.X0: lambda x0, eps: x0,
}
V_OF: dict[Target, Callable[[Video, Video, Array], Video]] = {
    Target.V: lambda out, x, t: out,
    Target.EPS: lambda out, x, t: (out - x) / jnp.maximum(1 - t, NEAREST),
    Target.X0: lambda out, x, t: (x - out) / jnp.maximum(t, NEAREST),
}


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """The choices that training and sampling share; (3) and (5) stand at the top of videodit_jax/flow.py."""

    target: Target = Target.V
    """what the model predicts, see (3)"""
    times: Times = Times.LOGIT_NORMAL
    """distribution of t in training"""
    mean: float = 0.0
    """mean of logit t, for logit-normal times"""
    std: float = 1.0
    """standard deviation of logit t, for logit-normal times"""
    shift: float = 1.0
    """shift s of (5); Wan 2.1 uses 3 at 480p and 5 at 720p"""
    between: tuple[float, float] = (0.0, 1.0)
    """the times that are trained on, after the shift; by default all. Others are left to another expert, as in Wan 2.2's A14B"""

    def __post_init__(self):
        refuse(self, {POSITIVE: "std shift", FINITE: "mean", SHARE: "between"}, "flow")
        if self.between[0] >= self.between[1]:
            raise ValueError(f"--flow.between {self.between[0]:g} {self.between[1]:g}: two rising times are wanted")

    @property
    def expert(self) -> bool:
        """Whether it is one of some times alone."""
        return self.between != (0, 1)

    def of_tokens(self, times: float) -> "FlowConfig":
        """For clips of so many times the tokens, by (5)."""
        return dataclasses.replace(self, shift=self.shift * math.sqrt(times))

    def share(self, t: float) -> float:
        """Of the training times, were none left out, those below t."""
        t = float(_shift(t, 1 / self.shift))
        return NormalDist(self.mean, self.std).cdf(math.log(t / (1 - t))) if self.times is Times.LOGIT_NORMAL and 0 < t < 1 else t


def _shift(t, s: float):
    return s * t / (1 + (s - 1) * t)


def _per_example(t: Time, x: Video) -> Float[Array, "B *ones"]:
    return t.reshape(-1, *[1] * (x.ndim - 1))


def draw_times(config: FlowConfig, key: PRNGKeyArray, batch: int) -> Time:
    """Training times, shifted by (5). The batch shares one draw, spread evenly over the law's quantiles, so that its loss varies less (as in Kingma
    et al. 2021, but without their wrap-around): time i always lies in the i-th of as many equal parts of the law as there are clips, and all
    of them together follow it. Which clip stands at which place must therefore be chance, as the loader's shuffling makes it. Of an expert the law is
    that of all times, given that they lie among its own."""
    u = (jnp.arange(batch) + jax.random.uniform(key)) / batch
    below, above = map(config.share, config.between)
    u = below + (above - below) * u
    if config.times is Times.LOGIT_NORMAL:
        u = jax.nn.sigmoid(config.mean + config.std * jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6)))
    return jnp.clip(_shift(u, config.shift), *config.between)


def mix(x0: Video, eps: Video, t: Time) -> Video:
    """x_t of (1)."""
    t = _per_example(t, x0)
    return (1 - t) * x0 + t * eps


def losses(config: FlowConfig, out: Video, x0: Video, eps: Video, counts: Bool[Array, "B *dims"] | None = None) -> Float[Array, "B"]:
    """(3) for each example: mean squared error in fp32, of what counts."""
    error = out.astype(jnp.float32) - TARGET_OF[config.target](x0, eps).astype(jnp.float32)
    return jnp.mean(error * error, tuple(range(1, error.ndim)), where=counts)


def velocity(config: FlowConfig, out: Video, x: Video, t: Time) -> Video:
    """v of (4) from the model's output at x_t."""
    return V_OF[config.target](out, x, _per_example(t, x))


def grid(config: FlowConfig, steps: int) -> np.ndarray:
    """Times of a sampler, steps + 1 of them from 1 down to 0, even before the shift."""
    return _shift(np.linspace(1, 0, steps + 1), config.shift).astype(np.float32)


def begin(eps: Video, solver: Solver) -> State:
    """Before the first step: noise, x at t = 1."""
    return unipc.begin(eps) if solver is Solver.UNIPC else (eps,)


def advance(v: Callable[[Video, Array], Video], state: State, times: np.ndarray, solver: Solver, steps: range) -> State:
    """Integrates (6) over some of the steps.

    Args:
      v: the velocity at (x, t), t a scalar.
      state: what the steps before these came to.
      times: of all steps, as `grid` gives.
    """

    def euler(x, ts):
        t, s = ts
        return x + (s - t) * v(x, t), None

    def heun(x, ts):
        t, s = ts
        slope = v(x, t)
        end = v(x + (s - t) * slope, s)
        return x + (s - t) * (slope + end) / 2, None

    if solver is Solver.UNIPC:
        return unipc.advance(v, state, times, steps)
    pairs = jnp.stack([times[:-1], times[1:]], 1)[steps.start : steps.stop]
    if solver is Solver.EULER:
        return (jax.lax.scan(euler, *state, pairs)[0],)
    ends = bool(steps) and steps.stop == len(times) - 1
    x, _ = jax.lax.scan(heun, *state, pairs[:-1] if ends else pairs)
    return (euler(x, pairs[-1])[0] if ends else x,)


def sample(v: Callable[[Video, Array], Video], eps: Video, times: np.ndarray, solver: Solver = Solver.EULER) -> Video:
    """Integrates (6) from noise by all steps: x₀."""
    return advance(v, begin(eps, solver), times, solver, range(len(times) - 1))[0]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """The scales of guidance, (7) at the top of videodit_jax/flow.py; 1 is the plain condition, 0 drops it."""

    text: float = 1.0
    """how far the caption steers samples"""
    scores: float = 1.0
    """how far the scores steer samples"""

    def __post_init__(self):
        if not math.isfinite(self.text) or not math.isfinite(self.scores):  # each command has flags of its own for them
            raise ValueError(f"guidance of {self.text} by text and {self.scores} by scores: finite numbers are wanted")

    @property
    def weights(self) -> tuple[float, float, float]:
        """Of the velocity without text and scores, with text, with both, in (7)."""
        return 1 - self.text, self.text - self.scores, self.scores

    @property
    def evaluations(self) -> int:
        """Of the model, for one velocity."""
        return sum(weight != 0 for weight in self.weights)


def guided(
    v: Callable[[Video, Array, PyTree, Array], Video], text: PyTree, no_text: PyTree, scores: Float[Array, "B M"], guidance: Guidance
) -> Callable[[Video, Array], Video]:
    """The velocity of (7), its evaluations in one batch; scales of 1 need one evaluation, equal scales two.

    Args:
      v: velocity at (x, t, text, scores).
      text: what conditions each video, arrays with a first dim B; `no_text` is the same with the text, ∅ of (7), taken away.
    """
    unknown = jnp.full_like(scores, jnp.nan)
    terms = zip(guidance.weights, (no_text, text, text), (unknown, unknown, scores))
    terms = [term for term in terms if term[0] != 0]
    weights = [weight for weight, _, _ in terms]
    all_texts = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *(text for _, text, _ in terms))
    all_scores = jnp.concatenate([scores for _, _, scores in terms])

    def velocity_at(x: Video, t: Array) -> Video:
        parts = jnp.split(v(jnp.concatenate([x] * len(terms)), t, all_texts, all_scores), len(terms))
        return sum(weight * part for weight, part in zip(weights, parts))

    return velocity_at
