"""Orbax checkpoints of a training run: the state and the data position together, restored onto any mesh."""
import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from core_jax.files import clear, refuse_unwritable, remote
from core_jax.lock import hold, release
from core_jax.sharding import placed, shardings
from core_jax.weights import named, renamed


SLICE = 2**20
"""bytes from which on the devices that hold copies of an array each write a part of it; every shape of slice is a compilation"""


def newest(run: epath.PathLike) -> int:
    """The step of a run's newest whole checkpoint, by the names in its folder alone; 0 if there is none."""
    last = "commit_success.txt" if remote(run) else ""  # a store has no renames: Orbax writes this object behind all others
    folder = epath.Path(run) / "checkpoints"
    paths = folder.iterdir() if folder.is_dir() else ()
    return max((int(path.name) for path in paths if path.name.isdigit() and (path / last).exists()), default=0)


def refuse_place(out: epath.PathLike) -> None:
    """Raises ValueError where a run could not be written, or its checkpoints not be read again. Trainers ask before they open anything."""
    refuse_unwritable("--out", epath.Path(out) / "config.json")
    refuse_pattern(out)


def refuse_pattern(folder: epath.PathLike) -> None:
    """Raises ValueError where Orbax, which looks for what it has written by a pattern, would not find it."""
    path = str(folder if remote(folder) else epath.Path(folder).absolute())
    if wild := {"*", "?", "["} & set(path):
        raise ValueError(f"checkpoints in {folder} could not be read again, for {' '.join(sorted(wild))} in a path means a pattern: name another folder")


class Checkpoints:
    """The folder `checkpoints/` of a run. Saving is asynchronous: the arrays are copied out, then written in the background."""

    def __init__(self, folder: epath.PathLike, keep: int | None = None, every: int = 0):
        """Args:
        keep: newest checkpoints that stay; None for one who reads only and leaves alone what a trainer is about to write.
        every: those of multiples of so many steps stay too; 0: none.

        Raises:
          ValueError: see `refuse_pattern`, of a path to save to; or another process saves to it.
        """
        self.folder, self.saves = epath.Path(folder), keep is not None
        path = folder if remote(folder) else self.folder.absolute()  # Orbax wants it absolute
        if self.saves:
            refuse_pattern(folder)
            if jax.process_index() == 0:  # before Orbax clears away what it takes for left behind
                hold(self.folder, f"another process is training into {self.folder.parent}: wait for its end, or stop it")
                for folder in (self.folder.parent, self.folder.parent / "samples"):
                    clear(folder)
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep), *[policies.EveryNSteps(every)] * bool(every)]
        context = ocp.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = SLICE
        context.pytree.loading.partial_load = True
        self._orbax = ocp.training.Checkpointer(
            path,
            context=context,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(kept) if self.saves else None,
            cleanup_tmp_directories=self.saves,
        )
        self._saving = None

    @property
    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        return self._orbax.latest.step if self._orbax.latest else None

    def save(self, step: int, state: PyTree, position: int) -> None:
        """Starts saving; a second save waits for the first.

        Args:
          position: examples of the global stream that the state has seen; the next batch starts there.

        Raises:
          ValueError: the folder holds that step or a later one, behind which Orbax would write nothing and say nothing.
        """
        self.wait()
        if self.latest is not None and step <= self.latest:
            raise ValueError(f"{self.folder} holds the checkpoint of step {self.latest}: only later ones can be saved, not step {step}")
        self._saving = self._orbax.save_checkpointables_async(step, {"state": named(state), "data": {"position": position}})

    def restore(self, abstract: PyTree, mesh: Mesh) -> tuple[PyTree, int]:
        """(state, position) of the newest, laid out on this mesh whatever mesh it was saved from.

        Args:
          abstract: shapes of the state (`jax.eval_shape`); where they say a place, an array comes there and not where its dims say.

        Raises:
          ValueError: the checkpoint holds another model, or is damaged.
        """
        renamed(abstract, self._saved())
        want = placed(abstract, shardings(abstract, mesh))
        loaded = self._orbax.load_checkpointables(abstract_checkpointables={"state": named(want), "data": {"position": 0}})
        return renamed(abstract, loaded["state"]), int(loaded["data"]["position"])

    def restore_part(self, part: str, abstract: PyTree, mesh: Mesh) -> PyTree:
        """As `restore`, of one field of the state alone: nothing else is read or takes memory."""
        inside = f"{part}."
        renamed(abstract, {name.removeprefix(inside): x for name, x in self._saved().items() if name.startswith(inside)})
        want = {inside + name: x for name, x in named(placed(abstract, shardings(abstract, mesh))).items()}
        loaded = self._orbax.load_checkpointables(abstract_checkpointables={"state": want})["state"]
        return renamed(abstract, {name.removeprefix(inside): x for name, x in loaded.items()})

    def _saved(self) -> dict:
        saved = self._orbax.checkpointables_metadata().metadata["state"]
        if saved is None:  # Orbax logs why
            path = self.folder / str(self.latest)
            raise ValueError(f"the checkpoint {path} cannot be read; if it is damaged, the same command goes on from the one before once it is removed")
        return saved

    def wait(self) -> None:
        """Until everything that was saved lies on disk; raises what went wrong with it."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()  # which ends its thread and closes three files, as nothing else does
        self._orbax.wait()

    def close(self) -> None:
        """Waits and lets go of the folder."""
        self.wait()
        self._orbax.close()
        if self.saves:
            release(self.folder)
