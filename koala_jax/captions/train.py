"""`python -m koala_jax.captions.train`: fine-tunes a captioner on six-part captions, one's own or a teacher's."""
import contextlib
import dataclasses
import enum
import functools

import jax
import jax.numpy as jnp
import optax
from etils import epath
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from core_jax import cli, loop, mesh
from core_jax.checkpoint import Checkpoints, newest
from core_jax.files import whole, write_json
from core_jax.lmm.config import LMMConfig, read_config
from core_jax.lmm.flops import decoder_flops, vision_flops
from core_jax.lmm.load import load
from core_jax.lmm.model import LMM
from core_jax.lmm.save import save
from core_jax.lmm.tokenizer import Tokenizer, load_tokenizer
from core_jax.lora import LoRAConfig, add_lora, combine, is_lora, merge_lora, partition
from core_jax.mesh import MeshConfig
from core_jax.numbers import COUNT, FROM_0, SEED, SHARE, refuse
from core_jax.remat import Remat
from core_jax.report import Report, ReportConfig
from core_jax.rngs import Rngs
from core_jax.sharding import batch_sharding, distribute, refuse_undivided, shardings
from core_jax.state import TrainState, adamw, begin, compile_step, init, make_step, telling
from core_jax.weights import count
from core_jax.words import counted
from koala_jax.begun import refuse_other, settings_of
from koala_jax.captions import accuracy
from koala_jax.captions.clips import Clip, open_clips
from koala_jax.captions.endpoint import Endpoint, EndpointConfig
from koala_jax.captions.examples import Batch, Examples, split
from koala_jax.captions.report import text
from koala_jax.captions.run import Captioned, caption_clips, journaled
from koala_jax.journal import Journal


MAY_CHANGE = {"data", "out", "json", "mesh", "remat", "checkpoint_every", "judged"}
"""settings that a run may be resumed with; the captions in `data` must be the same"""


class Method(enum.Enum):
    """Which parameters learn."""

    FULL = "full"
    LORA = "lora"
    """thin products beside the decoder's linear maps, the projector, and the tower if it trains"""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Fine-tune a captioner. It learns parts of captions as answers to the questions that koala_jax.caption asks."""

    data: str
    """a table of clips with a column for each part, as koala_jax.caption writes it beside the clips, or, with --teacher, a folder"""
    init: str
    """directory of a LLaVA-OneVision to start from"""
    out: str = "runs/captioner"
    """folder of the run; the same command goes on from its last checkpoint. OUT/model is what koala_jax.caption takes"""
    method: Method = Method.FULL
    """full: every weight learns; lora: thin products beside the decoder's linear maps, and the projector; the tower with --tower alone"""
    lora: LoRAConfig = LoRAConfig()
    tower: bool = True
    """train the vision tower too, which the paper found better"""
    images: float = 0.3
    """share of examples shown as one frame instead of a video; the paper found it better to mix"""
    teacher: str | None = None
    """address of an endpoint that first writes captions for the first --seed-set clips"""
    seed_set: int = 100
    """clips that the teacher is asked about"""
    endpoint: EndpointConfig = EndpointConfig()
    """how the teacher is asked; its address is --teacher's"""
    frames: int = 4
    """frames that are shown of a clip, at equal distances"""
    side: int = 384
    """pixels of a frame's longer side, before the model's own preprocessing"""
    steps: int = 1000
    """updates of the weights"""
    batch: int = 16
    """examples a step, over all devices"""
    learning_rate: float = 1e-3
    """peak learning rate, reached after a twentieth of the steps; then a cosine to a hundredth of it"""
    checkpoint_every: int = 500
    """steps between checkpoints; the last step is always saved"""
    judged: int = 64
    """held-out clips whose answers are compared with the truth; of a single video those that it was trained on"""
    seed: int = 0
    """seed of the order, of what is shown as one frame, and of new weights"""
    half: bool = False
    """compute in bf16; trained weights, the loss and the optimizer stay fp32"""
    remat: Remat = Remat.NONE
    """what the backward pass of a layer recomputes, to save memory"""
    mesh: MeshConfig = MeshConfig()
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        refuse(self, {COUNT: "steps batch frames side seed_set checkpoint_every judged", SHARE: "images", FROM_0: "learning_rate", SEED: "seed"})
        if self.endpoint.url != EndpointConfig.url:
            raise ValueError(f"--endpoint.url {self.endpoint.url}: the teacher's address is given as --teacher")

    def trains(self, name: str) -> bool:
        """Whether the parameter of this name learns."""
        if name.startswith("vision.tower."):
            return self.tower
        return self.method is Method.FULL or is_lora(name) or name.startswith("vision.")


def loss(
    trained: PyTree, batch: Batch, key: PRNGKeyArray, rest: PyTree = None, remat: Remat = Remat.NONE, dtype: jnp.dtype = jnp.float32
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean cross-entropy of the answers' tokens, and the share of them that would be chosen."""
    model = combine(trained, rest)
    x = jnp.take_along_axis(model.features(batch.inputs, dtype, remat), batch.places[..., None], axis=1)
    logits, counts = model.decoder.logits(x), batch.targets >= 0
    target = jnp.maximum(batch.targets, 0)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    mean = lambda values: (values * counts).sum() / counts.sum()
    return mean(each), {"right tokens": mean(logits.argmax(-1) == target)}


def flops(config: TrainConfig, lmm: LMMConfig, batch: Batch) -> float:
    """Model FLOPs of an example of a batch of these shapes, forward and backward. LoRA's own products, about a hundredth, are left out: weights that
    stay take no gradient, but what stands before them does. Before a tower nothing learns."""
    decoder = decoder_flops(lmm.decoder, batch.inputs.tokens.shape[1], logits=batch.places.shape[1])
    vision = vision_flops(lmm.tower, lmm.decoder.width, batch.inputs.tiles.shape[1])
    return (3 if config.method is Method.FULL else 2) * decoder.products + 3 * decoder.attention + (3 if config.tower else 1) * vision.forward


def labelled(config: TrainConfig, out: epath.Path, begun: bool = False) -> list[Clip]:
    """The clips with their parts: from the table, or from the teacher, whose answers stay in OUT/teacher.parquet.parts, wherever the clips
    lie: a clip is known by its name, size and time.

    Args:
      begun: nothing is asked any more: the position in the data points into the parts that there are.
    """
    clips = open_clips(config.data)
    if config.teacher is None:
        return clips
    endpoint = Endpoint(dataclasses.replace(config.endpoint, url=config.teacher))
    asked = {"teacher": config.teacher, "model": config.endpoint.model, "most": config.endpoint.most}
    journal = Journal(out / "teacher.parquet", asked | {"frames": config.frames, "side": config.side})
    kept = journal.rows()
    done = {clip.name: Captioned.of(clip, kept.get(clip.moving_key)) for clip in clips[: config.seed_set]}
    todo = [] if begun else [one for one in done.values() if not one.caption.text]
    groups = caption_clips(todo, endpoint, frames=config.frames, side=config.side, attempts=3, group=8)
    try:
        with cli.progress("captions", len(todo), cli.console()) as made:
            for one in journaled(groups, journal, lambda clip: clip.moving_key):
                done[one.clip.name] = one
                made()
    finally:  # who stops has spent it too
        if endpoint.calls:
            print(f"the teacher: {', '.join(f'{name} {text(value)}' for name, value in endpoint.spent.items())}", flush=True)
    return [dataclasses.replace(one.clip, row=one.row()) for one in done.values()]


def open_model(config: TrainConfig, on: jax.sharding.Mesh) -> tuple[LMM, Tokenizer]:
    """What training starts from, each device with its share. What learns lies in fp32; beside LoRA what does not lies in bf16.

    Raises:
      ValueError: a model that frames enter as codes, which could not be written in the end.
    """
    if read_config(config.init).codes:
        raise ValueError(f"--init {config.init} reads frames as codes; a captioner is fine-tuned from LLaVA-OneVision's arrangement alone")
    model = load(config.init, on, jnp.float32 if config.method is Method.FULL else jnp.bfloat16, exact=config.trains)
    return model, load_tokenizer(config.init, model.config)


def train(config: TrainConfig) -> dict:
    """Trains, or goes on; returns the accuracy of each part on held-out clips, or, where one video is all there is, on those that it was trained on."""
    mesh.start(config, alone="a captioner is trained")
    on, out = mesh.build(config.mesh), epath.Path(config.out)
    refuse_undivided("--batch", config.batch, on)
    start, settings = newest(out), _settings(config)
    refuse_other(out, settings)
    clips, held_out = split(labelled(config, out, begun=start > 0))
    model, tokenizer = open_model(config, on)
    if config.method is Method.LORA:
        model = add_lora(model, config.lora, rngs=Rngs(config.seed))
    tx = optax.chain(optax.clip_by_global_norm(1.0), adamw(config.learning_rate, config.steps))
    with jax.set_mesh(on), contextlib.ExitStack() as opened:
        trained, rest = partition(model, config.trains)
        rest = jax.device_put(rest, shardings(rest, on))
        source = Examples(clips, rest, tokenizer, config.frames, config.side, config.images, config.seed)
        settings |= {"captions": f"{len(source.parts)} parts, sha256 {source.fingerprint[:16]}"}  # the position in the data points into them
        refuse_other(out, settings)
        source[0]  # of clips none of which can be read nothing is written
        write_json(out / "config.json", settings)
        checkpoints = Checkpoints(out / "checkpoints", 2)
        learning, size = count(trained), count(model)
        if start:
            state, position = checkpoints.restore(jax.eval_shape(lambda model: init(lambda: model, tx), trained), on)
        else:
            state, position = begin(trained, tx, on), 0
        del model, trained  # the state has copies
        of = lambda metrics: metrics["flops"]
        report = opened.enter_context(Report(out, ReportConfig(), start=start, steps=config.steps, batch=config.batch, flops=of))
        report.say(
            f"{learning / 1e6:.2f}M of {size / 1e6:.2f}M parameters learn from {counted(len(source.parts), 'part')} of "
            f"{counted(len(clips), 'clip')}; held out: {counted(len(held_out), 'clip')}" + (f"; resuming at step {start}" if start else "")
        )
        objective = functools.partial(loss, remat=config.remat, dtype=jnp.bfloat16 if config.half else jnp.float32)
        step = telling(compile_step(make_step(objective, tx, seed=config.seed, ema_decay=0.99), state), report.pause)

        def advance(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
            state, metrics = step(state, batch, rest)
            return state, metrics | {"flops": flops(config, source.model.config, batch)}

        batches = (distribute(batch, batch_sharding(on)) for batch in source.batches(config.batch, position))
        state, done = loop.run(
            advance, state, batches, start=start, steps=config.steps, batch=config.batch,
            checkpoints=checkpoints, checkpoint_every=config.checkpoint_every, report=report,
        )  # fmt: skip
        checkpoints.close()
        if done < config.steps:
            return {}
        best = combine(state.ema, rest)
        best = merge_lora(best) if config.method is Method.LORA else best
        save(out / "model", best, tokenizer, config.init)
        shown = dataclasses.replace(source, clips=held_out or clips, model=best, images=0.0)
        figures = accuracy.judge(shown, config.judged, batch=config.batch)
        report.say(accuracy.table(figures, "held-out clips" if held_out else "clips that it was trained on"))
        report.say(f"wrote {out / 'model'}; next: {cli.command('koala_jax.caption', 'CLIPS', '--model.directory', out / 'model')}")
    return figures


def _settings(config: TrainConfig) -> dict:
    """What binds a rerun, from wherever it is called."""
    found = settings_of(config, MAY_CHANGE) | {"init": str(whole(config.init))}
    return found | {"endpoint": {name: found["endpoint"][name] for name in ("model", "most")}}  # the rest changes no answer


def main(args: list[str]) -> None:
    config = cli.parse(TrainConfig, args, "koala_jax.captions.train")
    figures = train(config)
    if figures:
        cli.console().save(config.json, figures)


if __name__ == "__main__":
    cli.run(main)
