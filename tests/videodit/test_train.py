"""Training end to end: the same run on every mesh, stopped and resumed, killed, on many hosts, and with numbers that break."""
import dataclasses
import functools
import re
import shutil
import signal
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from core_jax import loop, mesh
from core_jax.attention import Context
from core_jax.checkpoint import Checkpoints, newest
from core_jax.mesh import MeshConfig
from core_jax.weights import digest, named
from tests.videodit import small
from videodit_jax import export, step, train
from videodit_jax.config import Method
from videodit_jax.run import Run, abstract_state, load_model, maps_in

STEPS = 10
MUON = dataclasses.replace(small.CONFIG.optimizer, method=Method.MUON)
config = functools.partial(small.config, size="16x16", optimizer=MUON)
"""32 tokens, which four devices divide; by Muon, and by AdamW what it leaves"""


@pytest.fixture(scope="module")
def run():
    """run(config, until, devices): `train.train` on the first so many devices, stopped after step `until` as if by SIGTERM."""
    with pytest.MonkeyPatch.context() as patch:
        build = mesh.build
        small.share_steps(patch, stopped_status=0, eval_every=1, sample_every=1)

        def call(config, until: int = STEPS, devices: int = 8):
            patch.setattr(mesh, "build", lambda shape: build(shape, jax.devices()[:devices]))
            patch.setattr(loop.StopSignal, "reached", lambda self, step: step >= until)
            return train.train(dataclasses.replace(config, steps=1000))

        yield call


@pytest.fixture(scope="module")
def begun(run, tmp_path_factory) -> Path:
    """A run of two steps on one device, from which the others go on: on every mesh these steps are made again from one state.

    It ends with the exit status that it is told, which the others may have otherwise.
    """
    out = tmp_path_factory.mktemp("begun")
    with pytest.raises(SystemExit, match="^143$"):
        run(config(out, stopped_status=143), until=2, devices=1)
    return out


@pytest.fixture(scope="module")
def straight(run, begun, tmp_path_factory) -> tuple[list[float], str]:
    """Losses and digest of the run that never left its one device: two steps, then the rest."""
    out = tmp_path_factory.mktemp("straight")
    state = run(config(out), devices=1)
    return small.losses(out), digest(state)


def resumed(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def test_stopped_and_resumed_on_one_device_is_bit_for_bit_the_same(run, begun, straight, tmp_path):
    out = resumed(begun, tmp_path)
    state = run(config(out), devices=1)
    assert small.losses(out) == straight[0] and digest(state) == straight[1]


def test_a_run_starts_from_the_weights_of_another_once(run, begun, tmp_path, monkeypatch):
    """The optimizer and the average are new, and the learning rate rises from zero; resumed, it goes on from what it has made."""
    from_it = config(tmp_path / "run", init=str(begun))
    on = mesh.build(MeshConfig())
    source = digest(load_model(begun, Run.read(begun), on))
    state = run(from_it, until=1, devices=1)
    assert digest(state.model) == digest(state.ema) == source
    assert {int(x) for name, x in named(state).items() if name.endswith("count")} == {1}
    monkeypatch.setattr(train, "initial", lambda *_: pytest.fail("started again"))
    run(from_it, until=2, devices=1)
    with pytest.raises(ValueError, match="holds another run: init was .*, now None"):
        run(dataclasses.replace(from_it, init=None), devices=1)


def test_a_run_that_has_ended_says_so_and_does_nothing(run, begun, tmp_path, capsys):
    out = resumed(begun, tmp_path)
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "state_digest": "x"}\n')
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "config.json"}
    state = train.train(dataclasses.replace(config(out), steps=2))
    assert "run has made all its 2 steps; next: python -m videodit_jax.sample --run" in capsys.readouterr().out
    assert int(state.step) == 2 and {path: path.stat().st_mtime_ns for path in files} == files


def test_exported_are_the_averaged_weights(begun, tmp_path, capsys):
    export.main(["--run", str(begun), "--out", str(tmp_path)])
    assert "wrote" in capsys.readouterr().out and Run.read(tmp_path).config.out == str(tmp_path)
    on = mesh.build(MeshConfig())
    ours, theirs = (digest(load_model(folder, Run.read(folder), on)) for folder in (tmp_path, begun))
    state, _ = Checkpoints(begun / "checkpoints").restore(abstract_state(Run.read(begun).config), on)
    assert ours == theirs == digest(state.ema) != digest(state.model)
    thin = (digest(load_model(folder, Run.read(folder), on, jnp.bfloat16)) for folder in (tmp_path, begun))
    assert {*thin} == {digest(maps_in(jnp.bfloat16, state.ema))}


def test_what_is_measured_and_shown_is_the_average(run, begun, tmp_path, monkeypatch):
    out, seen = resumed(begun, tmp_path), []
    looks = lambda result: lambda *_: lambda model, *_, **__: seen.append(digest(model)) or result
    monkeypatch.setattr(train.loss, "Evaluation", looks(np.ones(5)))
    monkeypatch.setattr(train, "Sampler", lambda *_, batch: looks(np.zeros((batch, 4, 16, 16, 3), np.uint8))())
    state = run(config(out, eval_every=3, sample_every=3), until=3, devices=1)
    assert seen == [digest(state.ema)] * 2 and digest(state.model) not in seen


def test_how_often_and_how_much_of_a_run_is_kept_and_shown_is_as_it_is_told(tmp_path, monkeypatch):
    asked, opened = {}, train.Checkpoints

    def looped(*_, **how):
        asked.update(how)
        raise InterruptedError

    monkeypatch.setattr(loop, "run", looped)
    monkeypatch.setattr(train, "Checkpoints", lambda folder, keep, every: asked.update(keep=keep) or opened(folder, keep, every))
    flags = "--steps 9 --keep 5 --checkpoint-every 3 --eval-every 2 --sample-every 4 --optimizer.max-skipped 6"
    with pytest.raises(InterruptedError):
        train.main(["--preset", "tiny", *small.FLAGS, *flags.split(), "--out", str(tmp_path)])
    assert [hook.every for hook in asked["hooks"]] == [2, 4]
    told = {name: asked[name] for name in ("start", "steps", "batch", "keep", "checkpoint_every", "max_skipped")}
    assert told == dict(start=0, steps=9, batch=8, keep=5, checkpoint_every=3, max_skipped=6)


def test_a_run_ends_with_losses_beside_simple_ones_a_picture_and_how_far_it_is_controlled(begun, tmp_path, monkeypatch, capsys):
    """Here one that was killed behind its last step, whose results are made of its checkpoint."""
    out, seen, told = resumed(begun, tmp_path), [], []

    def looks(result):
        return type("Looks", (), {"clips": 8, "__call__": lambda self, model, *_, **__: seen.append(digest(model)) or result})()

    monkeypatch.setattr(train.loss, "Evaluation", lambda *_: looks(np.full(5, 0.25)))
    monkeypatch.setattr(train, "Sampler", lambda *_, batch=1: looks(np.zeros((batch, 4, 16, 16, 3), np.uint8)))
    monkeypatch.setattr(train.control, "measure", lambda sampler, model: (sampler(model), "videos"))
    monkeypatch.setattr(train.control, "report", lambda figures, videos, folder, console: told.append((videos, folder)))
    state = train.train(dataclasses.replace(config(out), steps=2))
    assert seen == [digest(state.ema)] * 3 and told == [("videos", epath.Path(out))]
    said = [line.replace("│", "").split() for line in capsys.readouterr().out.splitlines()]
    assert ["model", *["0.2500"] * 5] in said and {"linear", "constant"} <= {words[0] for words in said if len(words) == 6}
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"step_000002.{kind}" for kind in ("gif", "mp4", "png")]
    assert small.digest(out) == digest(state) and len(small.losses(out)) == 2


CUT = MeshConfig(data=2, context=4)
CHAINS = {
    "data 8": [(MeshConfig(), Context.AUTO)],
    "fsdp 8": [(MeshConfig(data=1, fsdp=8), Context.AUTO)],
    "fsdp 4 × tensor 2, then tokens cut in four, by a ring and by all-to-all": [
        (MeshConfig(data=1, fsdp=4, tensor=2), Context.AUTO), (CUT, Context.RING), (CUT, Context.ALL_TO_ALL),
    ],
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_every_mesh_gives_the_losses_of_one_device(chain, run, begun, straight, tmp_path):
    out = resumed(begun, tmp_path)
    stops = np.linspace(2, STEPS, len(chain) + 1).astype(int)[1:]
    for (shape, context), until in zip(chain, stops):
        model = dataclasses.replace(small.MODEL, context=context)
        state = run(config(out, mesh=shape, model=model), until=int(until))
        pieces = shape.fsdp * shape.tensor
        for name in ("model.blocks.mlp.up.w", "ema.blocks.mlp.up.w", "opt_state.1.inner_states.muon.inner_state.0.trace.blocks.mlp.up.w"):
            weight = named(state)[name]
            assert weight.addressable_shards[0].data.size * pieces == weight.size
    np.testing.assert_allclose(small.losses(out), straight[0], rtol=1e-5)


def test_a_run_starts_on_a_mesh_as_it_starts_on_one_device(run, straight, tmp_path):
    """On one of those above, whose program is compiled."""
    run(config(tmp_path, mesh=MeshConfig(data=1, fsdp=4, tensor=2)), until=3)
    np.testing.assert_allclose(small.losses(tmp_path), straight[0][:3], rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--mesh.context 4 --model.context ring", "dim S has size 18, which mesh axes .*context.* of 4 devices do not divide"),
        ("--mesh.context 2 --model.context all-to-all --model.heads 1", "2 devices of the mesh axis context divide, got 1 heads"),
    ],
)
def test_a_context_axis_that_does_not_divide_is_refused_at_once(flags, words, tmp_path, fails):
    said = fails(train.main, ["--preset", "tiny", *small.FLAGS, *flags.split(), "--out", str(tmp_path / "run")])
    assert re.search(words, said) and not (tmp_path / "run").exists()


def test_a_run_that_breaks_stops_with_its_checkpoint(run, begun, tmp_path, monkeypatch):
    broken = step.loss_fn

    def loss_fn(config):
        loss = broken(config)
        return lambda model, batch, key: (loss(model, batch, key)[0] * np.nan, {})

    monkeypatch.setattr(step, "loss_fn", loss_fn)
    out = resumed(begun, tmp_path)
    with pytest.raises(loop.Diverged, match="11 updates in a row up to step 13 .* the checkpoint of step 2 stays: take a lower"):
        run(config(out), until=20, devices=1)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["2"]
    assert [row["loss"] for row in small.log(out)][2:] == [None] * 11


def test_a_run_that_breaks_within_its_last_steps_does_not_end_well(tmp_path, fails, capsys):
    """It has said at the start what it could not be steered by."""
    args = [*"--preset tiny --steps 2".split(), *small.FLAGS, *"--optimizer.learning-rate 1e30 --optimizer.warmup 0 --model.scores vtss clarity".split(), "--out", str(tmp_path)]
    assert "the held-out loss after step 2 is not finite: take a lower learning rate" in fails(train.main, args)
    assert "steer by: vtss" in capsys.readouterr().out


def test_a_further_score_that_no_clip_has_is_refused(tmp_path, fails):
    args = [*"--preset tiny --steps 2".split(), *small.FLAGS, "--model.scores", "clarity", "flicker", "--out", str(tmp_path / "out")]
    assert fails(train.main, args) == "--model.scores flicker: no clip of --data shapes has such a score" and not (tmp_path / "out").exists()


def test_terminated_and_killed_and_resumed_ends_bit_for_bit_as_if_never_stopped(run, tmp_path, monkeypatch):
    """Stopped and killed as processes of their own."""
    flags = [*"--preset tiny --steps 1000 --checkpoint-every 20 --seed 3 --model.scores clarity".split(), *small.FLAGS]

    def begin(out: Path) -> subprocess.Popen:
        return small.start("videodit_jax.train", *flags, "--out", str(out))

    stopped, never = tmp_path / "stopped", tmp_path / "never"
    process = begin(stopped)
    small.wait_for(lambda: small.steps(stopped) >= 5, process)
    process.terminate()
    assert process.wait() == 0, process.communicate()[1]
    first = newest(stopped)
    assert 5 <= first == len(small.losses(stopped)) < 80

    process = begin(stopped)
    small.wait_for(lambda: newest(stopped) > first, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert first < newest(stopped) <= small.steps(stopped) < 80

    made = run(train.parse([*flags, "--out", str(stopped)]), until=80, devices=1)
    asked, batches = {}, train.global_batches
    monkeypatch.setattr(train, "global_batches", lambda *args, **how: asked.update(how) or batches(*args, **how))
    state = run(train.parse([*flags, "--out", str(never)]), until=80, devices=1)
    assert (asked["seed"], asked["start"]) == (3, 0)
    assert len(small.losses(never)) == 80
    assert small.losses(stopped) == small.losses(never)
    assert digest(made) == digest(state)
