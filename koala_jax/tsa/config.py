"""Settings of `python -m koala_jax.tsa.train`."""
import dataclasses

from core_jax.cores import cores
from core_jax.files import whole
from core_jax.mesh import MeshConfig
from core_jax.numbers import COUNT, FROM_0, PART, SEED, SHARE, at_least, refuse
from core_jax.report import ReportConfig
from koala_jax import begun
from koala_jax.tsa.degrade import Degradation
from koala_jax.tsa.losses import Loss
from koala_jax.tsa.networks import Network


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a suitability scorer. Rerun with the same --out to go on."""

    clips: str | None = None
    """a folder of videos to make pairs from"""
    labels: str | None = None
    """a CSV of labels; its file names are relative to it"""
    columns: tuple[str, ...] = ()
    """columns of the raters, or of the mean score; by default every column but `file`"""
    out: str = "runs/tsa"
    """folder of the run"""
    network: Network = Network.SMALL
    """released: Koala-36M's (28.1M parameters); three-branch: its paper's (59.5M); small: three branches for a laptop's CPU; small-dynamic: one of these"""
    start: tuple[str, ...] = ()
    """weights of towers, as koala_jax.tsa.convert writes them, to start from"""
    loss: Loss | None = None
    """by default pairs for --clips and plcc+rank for --labels"""
    kinds: tuple[Degradation, ...] = tuple(Degradation)
    """ways to degrade the videos of --clips"""
    held_out: float = 0.2
    """share of the videos that is held out for evaluation"""
    judge: str | None = None
    """with --clips: a folder of other videos to evaluate on instead, one segment of each"""
    segments: int = 2
    """segments of each video of --clips"""
    drawn: int = 0
    """procedural shots to train on besides --clips, one segment each"""
    label_steps: int = 4000
    """with --clips: steps in which the label branch learns alone, before the whole network is trained; they take seconds"""
    steps: int = 400
    """updates of the weights"""
    batch: int = 40
    """samples a step, over all devices"""
    learning_rate: float = 1e-3
    """peak learning rate"""
    towers: float = 1.0
    """learning rate of the towers as a share of the rest's; Koala-36M's settings say 0.1, with pretrained towers"""
    warmup: int = 50
    """steps over which the learning rate rises, before it falls along a cosine"""
    weight_decay: float = 0.05
    """weight decay of AdamW"""
    ema: float = 0.999
    """decay of the running average of the weights"""
    draws: int = 1
    """random fragments of each sample"""
    seed: int = 0
    """seed of the network, the samples and the held-out split"""
    workers: int = cores()
    """decoding processes"""
    checkpoint_every: int = 200
    """steps between checkpoints; the last step is always saved"""
    mesh: MeshConfig = MeshConfig()
    report: ReportConfig = ReportConfig()
    half: bool = False
    """store the weights in float16, half the size; computation stays in float32"""
    manifest: str | None = None
    """with --clips: a CSV table with columns file and license, for the card"""
    json: str | None = None
    """also write the evaluation to this file"""

    def __post_init__(self):
        if self.judge and not self.clips:
            raise ValueError("--judge goes with --clips")
        if (self.clips is None) == (self.labels is None):
            raise ValueError("give either --clips, to make pairs, or --labels")
        if not self.kinds:
            raise ValueError(f"--kinds: at least one is needed of {', '.join(kind.value for kind in Degradation)}")
        may_be = {
            COUNT: "steps draws segments workers checkpoint_every", at_least(2): "batch",  # 2, as losses compare clips
            FROM_0: "drawn label_steps learning_rate towers warmup weight_decay", SHARE: "ema", PART: "held_out", SEED: "seed",
        }  # fmt: skip
        refuse(self, may_be)

    @property
    def chosen_loss(self) -> Loss:
        return self.loss or (Loss.PAIRS if self.clips else Loss.PLCC_RANK)


PATHS = ("clips", "labels", "judge")
"""kept whole: a run may go on from another folder"""
MAY_CHANGE = {"out", "workers", "checkpoint_every", "mesh", "report", "half", "manifest", "json"}
"""settings that a run may be resumed with"""


def settings_of(config: TrainConfig) -> dict:
    """What binds a rerun, from wherever it is called."""
    found = begun.settings_of(config, MAY_CHANGE) | {"start": [str(whole(path)) for path in config.start]}
    return found | {name: str(whole(found[name])) for name in PATHS if found[name]}
