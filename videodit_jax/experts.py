"""Who samples: a run, or two experts of which each was trained on some of the flow's times, as Wan 2.2's A14B has them; they sample one after another,
and only one is in memory."""
import dataclasses
import logging
from collections.abc import Sequence

from etils import epath

from core_jax.settings import replaced
from videodit_jax import flow
from videodit_jax.config import TrainConfig, differing
from videodit_jax.flow import Solver
from videodit_jax.run import EXPERTS, Run, refuse_untrained

log = logging.getLogger(__name__)

SHARED = (
    "model.channels", "model.patch", "model.given", "model.in_place", "model.gray", "model.picture", "model.text.words", "model.text.width",
    "model.text.reads",
)  # fmt: skip
"""settings in which two experts agree"""


@dataclasses.dataclass(frozen=True)
class Expert:
    """A run and the steps that it makes. Of two experts clips, times and solver are the first one's, guidance is each one's own."""

    name: str
    """of two one of EXPERTS, else none"""
    folder: epath.Path
    run: Run
    steps: range

    @property
    def config(self) -> TrainConfig:
        return self.run.config


def folders(given: Sequence[str]) -> list[epath.Path]:
    """Those of `--run`; a folder in which two experts are stands for both."""
    first = epath.Path(given[0])
    if len(given) == 1 and not (first / "config.json").exists() and (first / EXPERTS[0]).exists():
        return [first / name for name in EXPERTS]
    return [epath.Path(folder) for folder in given]


def read(
    given: Sequence[str], *, steps: int | None, solver: Solver | None, text_guidance: tuple[float, ...], score_guidance: float | None,
    frames: int | None, size: str | None,
) -> list[Expert]:
    """Who samples, with these settings in the place of their own; says so where one was not trained on the times of its steps.

    Raises:
      ValueError: a folder holds no trained run, or two are no experts that go together.
    """
    places = folders(given)
    names = f"--run {' '.join(map(str, places))}"
    if len(places) > len(EXPERTS):
        raise ValueError(f"{names}: one run is wanted, or two experts")
    if len(text_guidance) not in (0, 1, len(places)):
        raise ValueError(f"--text-guidance {' '.join(f'{scale:g}' for scale in text_guidance)}: one scale is wanted{', or one for each expert' * (len(places) > 1)}")
    runs = [Run.read(folder) for folder in places]
    for folder in places:
        refuse_untrained(folder)
    one, other = runs[0].config, runs[-1].config
    begin, end = one.flow.between[0], other.flow.between[0]
    if len(runs) > 1 and begin <= end:
        raise ValueError(f"{names}: two experts are wanted, that of noisier videos first, and their times begin at {begin:g} and {end:g}")
    if shown := differing(one, other, SHARED.__contains__):
        raise ValueError(f"{names} do not go together: {shown}")
    one = replaced(one, frames=frames, size=size, sampling=replaced(one.sampling, steps=steps, solver=solver))
    times = flow.grid(one.flow, one.sampling.steps)[:-1]
    switch = int((times >= begin).sum()) if len(runs) > 1 else len(times)
    scales = dict(zip(places, text_guidance * len(places) if len(text_guidance) == 1 else text_guidance))
    found = []
    for name, folder, run, part in zip(EXPERTS, places, runs, (range(switch), range(switch, len(times)))):
        guidance = replaced(run.config.sampling.guidance, text=scales.get(folder), scores=score_guidance)
        own, sampling = dataclasses.replace(run.config.flow, shift=one.flow.shift), dataclasses.replace(one.sampling, guidance=guidance)
        config = dataclasses.replace(run.config, frames=one.frames, size=one.size, flow=own, sampling=sampling)
        found.append(Expert(name * (len(runs) > 1), folder, dataclasses.replace(run, config=config), part))
        first, last = config.flow.between
        made = times[part.start : part.stop]
        if outside := int(((made < first) | (made > last)).sum()):
            more = "; --run takes two experts" * (len(runs) == 1)
            log.warning(f"warning: {folder} was trained on times {first:g} to {last:g} alone, and {outside} of its {len(part)} steps begin at others{more}")
    return [expert for expert in found if expert.steps]
