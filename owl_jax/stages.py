"""The settings of the trainer: three stages, one after the other, which differ in data, loss and what learns."""
import dataclasses
import enum

from core_jax.cores import cores
from core_jax.lmm.config import DecoderConfig, TowerConfig
from core_jax.lora import LoRAConfig
from core_jax.mesh import MeshConfig
from core_jax.numbers import COUNT, FROM_0, SEED, SHARE, STATUS, refuse
from core_jax.remat import Remat
from core_jax.report import ReportConfig
from owl_jax.config import OwlConfig


class Stage(enum.Enum):
    """In this order."""

    ALIGN = "align"
    """(7): the states learn to be what the film model's text features are; the film model stays as it is"""
    FILM = "film"
    """(8): states and film model learn together to film clips"""
    WORLD = "world"
    """(8) and next-token prediction of the dynamics, on whole films"""

    @property
    def before(self) -> "Stage | None":
        stages = list(Stage)
        return stages[stages.index(self) - 1] if self is not Stage.ALIGN else None


class Tuning(enum.Enum):
    """What learns of the language model."""

    FULL = "full"
    LORA = "lora"
    """thin products beside its linear maps; its weights stay"""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train one stage of a world model. Rerun with the same --out to go on from the stage's last checkpoint. (6) to (9) stand at the top of
    owl_jax/__init__.py."""

    stage: Stage
    """align, film, world, in this order: the states learn from text, then to film, then what happens next"""
    preset: str = "stories"
    """where all other defaults of a stage come from: stories, or 7b"""
    data: str = "stories"
    """"stories" (drawn on the fly); align, film: what --data of videodit_jax.train takes; world: a folder of Vript or ActivityNet Captions"""
    out: str = "runs/owl"
    """folder of all stages, each in a sub-folder"""
    film: str | None = None
    """run of videodit_jax.train with --model.given; without one, align first trains a small one on `stories`, in OUT/video"""
    lmm: str | None = None
    """directory of a LLaVA-OneVision or a Chameleon; without it a small model with random weights"""
    tuning: Tuning = Tuning.FULL
    """full: all of the language model learns; lora: low-rank products beside its linear maps"""
    lora: LoRAConfig = LoRAConfig(rank=8)
    remat: Remat = Remat.NONE
    """what the backward pass of the language model's layers recomputes; the film model has its own"""
    owl: OwlConfig = OwlConfig()
    clips: int = 1
    """clips of each film, in one sequence"""
    filmed: int = 1
    """how many of those clips the film model learns from in a step"""
    steps: int = 1000
    """updates of the weights"""
    batch: int = 32
    """films a step, over all devices"""
    learning_rate: float = 1e-4
    """peak learning rate of all but the film model, reached after a twentieth of the steps; then a cosine to a hundredth of it"""
    film_learning_rate: float = 1e-4
    """peak learning rate of the film model, likewise"""
    text_weight: float = 1.0
    """world: weight of next-token prediction beside (8)"""
    align_weight: float = 0.0
    """film, world: weight of (7) beside them, with the clips' full captions; the paper has (7) in its first stage alone"""
    state_dropout: float = 0.1
    """part of the clips filmed from the null state, from which guidance learns"""
    image_dropout: float = 0.1
    """part of the joined clips filmed without the frame before"""
    dynamics_dropout: float = 0.15
    """world: part of the films told without dynamics"""
    history_noise: float = 0.0
    """world: largest standard deviation of noise on what the language model sees of clips (normalised pixels); against drift"""
    own_history: float = 0.0
    """world: part of the films in which the language model sees clips of the past that the model made itself (history.py); against drift"""
    own_steps: int = 4
    """steps of the solver that makes them"""
    eval_every: int = 500
    """steps between evaluations on held-out films"""
    eval_films: int = 32
    """held-out films that an evaluation looks at"""
    checkpoint_every: int = 500
    """steps between checkpoints; the last step is always saved"""
    workers: int = cores()
    """decoding processes"""
    stopped_status: int = 0
    """exit status of a stage that a signal stopped before its last step; Kubernetes needs one that is not 0, such as 143"""
    seed: int = 0
    """seed of new weights, the order and the noise"""
    mesh: MeshConfig = MeshConfig()
    report: ReportConfig = ReportConfig()

    def __post_init__(self):
        may_be = {
            COUNT: "clips filmed steps batch eval_every eval_films checkpoint_every own_steps workers",
            SHARE: "state_dropout image_dropout dynamics_dropout own_history",
            FROM_0: "learning_rate film_learning_rate text_weight align_weight history_noise",
            SEED: "seed", STATUS: "stopped_status",
        }  # fmt: skip
        refuse(self, may_be)


SMALL_DECODER = DecoderConfig(vocabulary=512, width=128, layers=4, heads=4, kv_heads=4, mlp=384, context=1024, tied=True)
SMALL_TOWER = TowerConfig(tile=16, patch=4, width=96, layers=2, heads=4, mlp=192)
"""the language model of the preset `stories`"""


def stories(stage: Stage) -> TrainConfig:
    """On `stories`, two CPU cores in minutes: 8 queries, a language model of 1M parameters, clips of 9 frames of 16×16."""
    owl = OwlConfig(queries=8, words=16, width=128, layers=2, heads=4)
    base = TrainConfig(stage, owl=owl, learning_rate=1e-3, film_learning_rate=5e-4)
    return {
        Stage.ALIGN: dataclasses.replace(base, steps=300, clips=6, batch=16),
        Stage.FILM: dataclasses.replace(base, steps=400, clips=6, filmed=4, batch=8, align_weight=0.1),
        Stage.WORLD: dataclasses.replace(base, steps=1500, clips=12, filmed=4, batch=8, text_weight=0.03, align_weight=1.0),
    }[stage]


def seven_billion(stage: Stage) -> TrainConfig:
    """The paper's: LoRA of rank 8 on a 7B model (--lmm), 128 queries, 2 key frames; batch and learning rate, which it does not state, are guesses.

    Each stage fits v5p-16, film as the fullest of them with 81 of 96 GiB a device; there 100 steps of `film` or `world` are an estimated
    half an hour, which is what a slice that is taken away costs (docs/plan.md).
    """
    base = TrainConfig(
        stage, "7b", data="videos", film="runs/1.3b", lmm="models/7b", tuning=Tuning.LORA, steps=10_000, remat=Remat.FULL,
        mesh=MeshConfig(data=1, fsdp=-1),
    )  # fmt: skip
    return {
        Stage.ALIGN: dataclasses.replace(base, batch=64),
        Stage.FILM: dataclasses.replace(base, batch=32, checkpoint_every=100),
        Stage.WORLD: dataclasses.replace(base, steps=1000, batch=8, clips=4, filmed=4, checkpoint_every=100),
    }[stage]


PRESETS = {"stories": stories, "7b": seven_billion}
