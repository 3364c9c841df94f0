"""`python -m scaling_jax.sweep`: every trial is the run that `train` makes alone, a stopped sweep goes on, and plans list runs."""
import csv
import dataclasses
import functools
import itertools
import json
import shlex
import signal
import time

import jax
import numpy as np
import pytest
from etils import epath

from core_jax import cli, loop, mesh
from core_jax.state import TrainState
from core_jax.weights import named
from scaling_jax import clips, fit, plan_runs, sweep, trials
from scaling_jax.flops import parameters
from scaling_jax.grid import SweepConfig
from scaling_jax.rows import COLUMNS, Rows
from scaling_jax.sizes import member
from tests.hosts import environments
from tests.videodit import small
from videodit_jax import train
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.data import encoder, open_sources
from videodit_jax.data.loader import epoch, loader
from videodit_jax.data.shapes import Shapes
from videodit_jax.evaluate.loss import Evaluation, loss_at_times

B, K, WINDOWS = 2, 4, 2
LRS, KS = [1e-3, 2e-3, 2e-3, 1e-3], [1, 1, 2, 4]


@pytest.fixture(scope="module")
def together():
    """Four trials on two devices, two windows: (states, sums of the last window)."""
    config = dataclasses.replace(small.CONFIG, batch=B)
    on = mesh.build(devices=jax.devices()[:2])
    source, _ = open_sources(config)
    batches = loader(source, encoder(config, statistics(source)), seed=0, batch=K * B)
    zeros = np.zeros(4, np.int32)
    made = trials.Trials(np.float32(LRS), np.int32(KS), zeros, zeros, np.ones(4, bool))
    states, advance = trials.init(config, made, on), trials.advance(config, on)
    for _ in range(WINDOWS):
        window = jax.tree.map(lambda x: np.concatenate([x, x[:B]])[None], next(batches))  # what fills it up does not count
        states, sums = advance(states, made, window, np.int32(K))
    return jax.device_get(states), jax.device_get(sums)


@pytest.fixture
def one_device(monkeypatch):
    build = mesh.build
    monkeypatch.setattr(mesh, "build", lambda config=mesh.MeshConfig(): build(config, jax.devices()[:1]))


def statistics(source) -> ScoreStatistics:
    """As a run keeps them, in the model's order of scores."""
    known = source.scores()
    return ScoreStatistics.of({name: known[name] for name in small.MODEL.scores})


def held_out_losses(model) -> np.ndarray:
    """At each time of the flow, of eight clips."""
    config = dataclasses.replace(small.CONFIG, batch=8)
    source, held_out = open_sources(config)
    batch = next(epoch(held_out, encoder(config, statistics(source)), batch=8, limit=8))
    return np.asarray(jax.jit(loss_at_times(config))(model, batch, jax.random.key(7)))


@pytest.mark.parametrize("trial", [1, 3])
def test_a_trial_is_the_run_that_train_makes_alone(trial, together, one_device, tmp_path, monkeypatch):
    steps, optimizer = WINDOWS * K // KS[trial], dataclasses.replace(small.CONFIG.optimizer, learning_rate=LRS[trial], accumulate=KS[trial])
    monkeypatch.setattr(loop.StopSignal, "reached", lambda self, step: step >= steps)
    alone = train.train(small.config(tmp_path / "run", batch=B * KS[trial], steps=1000, optimizer=optimizer))
    states, sums = together
    mine = jax.tree.map(lambda x: x[trial], states)
    for name, value in named(alone).items():  # Adam makes steps of full length out of gradients that are zero but for rounding
        np.testing.assert_allclose(named(mine)[name], value, atol=1e-5 if ".mu." in name else 1e-3, err_msg=name)
    assert held_out_losses(mine.ema) == pytest.approx(held_out_losses(alone.ema), rel=1e-5)
    assert states.step[trial] == steps and sums["steps"][trial] == K // KS[trial]


def test_the_noise_of_the_gradient():
    """|g|² = |𝒢|² + S/b, by construction."""
    true, S, b, k = 4.0, 30.0, 8, np.array([1, 2, 4])
    scale = trials.noise_scale(np.full(3, true + S / b), true + S / (b * k), k, b)
    assert np.isnan(scale[0]) and scale[1:] == pytest.approx(S / true)


FLAGS = "--sizes 1 --budgets 7e7 1.4e8 --lrs 1e-3 1e30 --batches 2 4 --eval-examples 8".split()


def table(out) -> list[dict]:
    with (out / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Rows of the sweep of one device that nothing stops; the sweeps of this process share their programs."""
    out, on = tmp_path_factory.mktemp("whole"), mesh.build(devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("advance", "evaluate"):
            patch.setattr(trials, name, functools.cache(getattr(trials, name)))
        with patch.context() as inner:
            inner.setattr(mesh, "build", lambda: on)
            sweep.main([*FLAGS, "--out", str(out)])
        yield table(out)


def test_every_batch_of_a_budget_sees_the_same_tokens_and_misses_it_by_less_than_half_a_step(tmp_path):
    flags = "--sizes 3 4 --budgets 1.1e9 1.5e9 4e9 --lrs 1e-3 --batches 2 8".split()
    config = cli.parse(SweepConfig, flags, "scaling_jax.sweep")
    for layers in config.sizes:
        size = sweep.Size(config, layers, mesh.build(devices=jax.devices()[:1]))
        one = 8 * size.n * size.token_flops
        miss = [size.tokens(rung) * size.token_flops - C for rung, C in zip(size.rungs, config.budgets)]
        assert max(map(abs, miss)) <= one / 2 and max(np.diff(size.steps)) == size.most > min(np.diff(size.steps))
        seen = [int(count) * 2 for _, count in itertools.islice(size.windows(0), len(size.steps) - 1)]
        assert sum(seen) == size.clips(len(size.steps) - 1)
    T = {(C, one.steps * one.batch) for C, one in plan_runs.runs_of(config) if one.model.layers == 3}
    assert len(T) == 3, "and so do separate runs"


def test_two_hosts_make_the_same_sweep(whole, tmp_path):
    hosts = [small.start("scaling_jax.sweep", *FLAGS, "--out", str(tmp_path), **who) for who in environments(2)]
    said = [host.communicate() for host in hosts]
    print(*(text for host in said for text in host), sep="\n")  # whole, where an assertion's message is cut
    assert [host.returncode for host in hosts] == [0, 0]
    assert "6 rows" in said[0][0] and "rows" not in said[1][0], "the first host alone speaks"
    ours = table(tmp_path)
    for name in ("T", "batch", "lr", "diverged", "loss", "noise_scale"):
        assert [float(row[name] or 0) for row in ours] == pytest.approx([float(row[name] or 0) for row in whole], rel=1e-4), name


def test_a_sweep_stopped_and_resumed_is_the_same(whole, one_device, tmp_path, monkeypatch, capsys, fails):
    rows, parts = whole, tmp_path / "parts"
    assert len(rows) == 6 and {row["layers"] for row in rows} == {"1"}
    assert all((row["loss"] == "") == (row["diverged"] == "1") for row in rows)
    assert {float(row["lr"]) for row in rows if row["diverged"] == "0"} == {1e-3}, "a learning rate of 1e30 diverges, and hurts nobody else"
    losses = {(row["T"], row["batch"]): float(row["loss"]) for row in rows if row["loss"]}
    assert len(losses) == 4 and len(set(losses.values())) == 4

    arm = loop.StopSignal.arm
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(loop.StopSignal, "arm", lambda stop: (arm(stop), signal.raise_signal(signal.SIGTERM)))
        sweep.main([*FLAGS, "--out", str(parts), "--stopped-status", "143"])
    assert left.value.code == 143 and "stopped and saved" in capsys.readouterr().out and not (parts / "runs.csv").exists()
    sweep.main([*FLAGS, "--out", str(parts)])
    said = capsys.readouterr().out
    assert "resuming at" in said and "6 rows; next: python -m scaling_jax.fit" in " ".join(said.split()) and said.rstrip().endswith("--skip-diverged")
    assert any(row["noise_scale"] for row in rows) and table(parts) == rows
    sweep.main([*FLAGS, "--out", str(parts)])
    assert "done before" in capsys.readouterr().out
    assert "budgets was [70000000.0, 140000000.0], now [1000000000.0]" in fails(sweep.main, ["--sizes", "1", "--budgets", "1e9", *FLAGS[5:], "--out", str(parts)])
    held = (parts / "sweep.json").read_text()
    (parts / "sweep.json").write_text(held.replace(json.loads(held)["fingerprint"], "other clips"))
    assert "fingerprint was 'other clips'" in fails(sweep.main, [*FLAGS, "--out", str(parts)])
    advised = shlex.split(said.split("scaling_jax.fit ")[1])
    assert "losses are no positive number" in fails(fit.main, advised[:-1])
    assert "cannot determine" in fails(fit.main, [*advised, "--law", "loss"]), "so few tokens are taken as the counts that they are"


def test_ctrl_c_does_not_wait_for_all_that_is_to_be_drawn(monkeypatch):
    def held(config, parts, pool):
        list(map(pool.submit, [time.sleep] * 100, [0.1] * 100))
        raise KeyboardInterrupt

    monkeypatch.setattr(clips, "_held", held)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        clips.hold(small.CONFIG, (0,), 1)
    assert time.monotonic() - begun < 5


def test_the_papers_runs(tmp_path, capsys):
    sweep.main(["--scale", "paper", "--dry-run", "--json", str(tmp_path / "plan.json")])
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert len(plan["runs"]) == 30 and plan["compute"] == pytest.approx(6 * (3e17 + 6e17 + 1e18 + 3e18 + 6e18))
    smallest = plan["runs"][0]
    assert smallest["N"] == 16777216 and smallest["T"] == pytest.approx(3e17 / (0.75 * 16777216 * (7 + 1024 / 512)), rel=1e-3)
    assert "next: --jobs FILE writes the commands\n" in capsys.readouterr().out, "without --dry-run --scale paper is refused"


def test_a_sweep_as_commands_for_a_cluster(tmp_path):
    sweep.main([*FLAGS, "--jobs", str(tmp_path / "jobs.txt"), "--out", "runs/x"])
    lines = (tmp_path / "jobs.txt").read_text().splitlines()
    assert len(lines) == 8
    configs = [train.parse(shlex.split(line)[3:]) for line in lines]
    assert len({config.out for config in configs}) == 8 and {config.batch for config in configs} == {2, 4}
    assert {parameters(config.model) for config in configs} == {16 * 16**2} and {config.optimizer.warmup for config in configs} == {20}
    sweep.main([*FLAGS, "--data", "clips", "--jobs", str(tmp_path / "clips.txt")])
    configs = [train.parse(shlex.split(line)[3:]) for line in (tmp_path / "clips.txt").read_text().splitlines()]
    assert {config.model for config in configs} == {member("tiny", 1).model}, "on other data too the model that the sweep trains"
    sweep.main([*FLAGS, "--tokens", "0", "4e3", "--jobs", str(tmp_path / "few.txt")])
    assert len((tmp_path / "few.txt").read_text().splitlines()) == 4, "the larger budget takes more than 4,000 tokens"


def test_the_papers_batches_on_a_slice_are_what_its_devices_divide(tmp_path, fails):
    def written(*more):
        sweep.main(["--scale", "paper", "--data", "gs://mine", "--jobs", str(tmp_path / "jobs.txt"), *more])
        return [train.parse(shlex.split(line)[3:]) for line in (tmp_path / "jobs.txt").read_text().splitlines()]

    config = cli.parse(SweepConfig, ["--scale", "paper", "--dry-run", "--topology", "v5p-128"], "scaling_jax.sweep")
    bare, made = written(), [one for _, one in plan_runs.runs_of(config)]
    assert {one.data for one in bare} == {"gs://mine"}
    assert any(one.batch % 64 for one in bare) and all(one.batch % 64 == 0 for one in made)
    for one, other in zip(bare, made, strict=True):
        assert abs(other.batch - one.batch) <= 32 or other.batch == 64
        assert other.steps * other.batch == pytest.approx(one.steps * one.batch, rel=0.01)
    assert "--batches 2: the 4 devices of v5e-4 take multiples of 4" in fails(sweep.main, [*FLAGS, "--dry-run", "--topology", "v5e-4"])


@pytest.mark.usefixtures("hasty")
def test_hours_on_a_slice(tmp_path):
    pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")
    sweep.main([*FLAGS, "--batches", "4", "8", "--dry-run", "--topology", "v5e-4", "--json", str(tmp_path / "plan.json")])
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["plans"]["4096"]["fits"] and 0 < plan["hours"] == pytest.approx(sum(row["hours"] for row in plan["runs"]), rel=1e-6)


@pytest.mark.parametrize(
    "args, said",
    [
        ("--batches 8 12", "--batches 8: must divide the largest, 12"),
        ("--lrs 1e-3 1e-3", "different positive numbers are wanted"),
        ("--scale paper", "--scale paper takes TPU pods"),
        ("--sizes 0", "--sizes 0"),
        ("--preset narrow", "--flops cross-dit counts families by depth, whose width follows from N; narrow is one by width"),
        ("--preset narrow --budgets 1e3 2e3", "--flops cross-dit counts families by depth"),
        ("--seeds 4294967296", "--seeds 4294967296: a number from 0 to 4294967295"),
        ("--budgets inf", "--budgets inf: a positive number"),
        ("--eval-examples 0", "--eval-examples 0"),
        ("--jobs .", "--jobs . is a folder, and a file is wanted"),
        ("--topology v5e-4", "give --dry-run or --jobs FILE with it"),
        ("--tokens 1e12 inf", "no budget takes so many of size 2"),
        ("--sizes 1 --budgets 1e3 2e3", "so these are 0, 0 steps"),
        ("--data /nowhere", "there is no file or folder /nowhere"),
        (f"--out {__file__}/run", "test_sweep.py is no folder"),
        ("--out OUT/[3]", "[3] could not be read again, for [ in a path means a pattern"),
    ],
)
def test_bad_input(args, said, tmp_path, fails):
    out = str(tmp_path / "out")
    assert said in " ".join(fails(sweep.main, ["--out", out, *args.replace("OUT", out).split()]).replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_trial_has_its_seed_where_that_fills_32_bits():
    config = SweepConfig(sizes=(1,), budgets=(1e11,), batches=(8,), lrs=(1e-3,), seeds=(2**32 - 1,))
    assert sweep.Size(config, 1, mesh.build()).trials().seed.tolist() == [2**32 - 1] * 8


def test_clips_that_memory_has_no_room_for_are_not_held(tmp_path, monkeypatch, capsys):
    config = SweepConfig(out=str(tmp_path), sizes=(1,), budgets=(1e8,), batches=(4,))
    size = sweep.Size(config, 1, mesh.build())
    monkeypatch.setattr(clips, "memory", lambda: 1000)
    sweep.hold([size], sweep.Console())
    assert not size.held and "are not held" in capsys.readouterr().out
    one = next(size.windows(0))
    monkeypatch.undo()
    sweep.hold([size], sweep.Console())
    jax.tree.map(np.testing.assert_array_equal, one, next(size.windows(0)))
    assert list(size.held) == [0]


def test_a_size_whose_trials_all_diverged_is_not_trained_again(tmp_path, monkeypatch):
    made = []

    def diverging(states, trials, window, count):
        made.append(count)
        zeros = np.zeros(len(trials.lr))
        return dataclasses.replace(states, skipped_in_row=states.skipped_in_row + 100), dict(micro=zeros, whole=zeros, steps=zeros)

    monkeypatch.setattr(trials, "advance", lambda config, on: diverging)
    monkeypatch.setattr(sweep.Size, "evaluation", lambda self: lambda states, made: np.full(len(made.lr), np.nan))
    flags = "--sizes 1 --budgets 1e8 2e8 --lrs 1e-3 --batches 4".split()
    sweep.main([*flags, "--out", str(tmp_path)])
    assert made and [row["diverged"] for row in table(tmp_path)] == ["1"]
    made.clear()
    monkeypatch.delattr(clips, "hold")  # nor are clips drawn for it
    sweep.main([*flags, "--out", str(tmp_path)])
    assert not made


@pytest.mark.parametrize("flag, rows", [("--prune", [3, 3, 2]), ("--no-prune", [3, 3, 3])])
def test_a_trial_that_is_dropped_has_no_further_row_and_is_not_trained_on(flag, rows, tmp_path, monkeypatch):
    losses, trained = iter(np.array([[1.0, 1.1, 2.0], [0.9, 0.99, 1.98], [0.8, 0.88, 1.97]])), []

    def advance(states, made, window, count):
        trained.append(np.array(made.alive)[:3])
        zeros = np.zeros(len(made.lr))
        return states, dict(micro=zeros, whole=zeros, steps=zeros)

    monkeypatch.setattr(trials, "init", lambda config, made, on: TrainState(*[np.zeros(len(made.lr), int)] * 3, (), (), ()))
    monkeypatch.setattr(trials, "advance", lambda config, on: advance)
    monkeypatch.setattr(sweep.Size, "evaluation", lambda self: lambda states, made: np.resize(next(losses), len(made.lr)))
    monkeypatch.setattr(clips, "hold", lambda *_: {})
    sweep.main(["--sizes", "1", "--budgets", "1e8", "2e8", "4e8", "--lrs", "1e-3", "2e-3", "4e-3", "--batches", "4", flag, "--out", str(tmp_path)])
    found = table(tmp_path)
    assert [sum(float(row["lr"]) == lr for row in found) for lr in (1e-3, 2e-3, 4e-3)] == rows
    assert trained[0].all() and trained[-1].tolist() == [number == 3 for number in rows]


def test_a_sweep_goes_on_on_another_number_of_devices(tmp_path, monkeypatch):
    """Five trials fill six places on three devices, eight on four."""
    along, build, seen = jax.sharding.NamedSharding, mesh.build, []

    def init(config, made, on):
        number = jax.device_put(np.arange(len(made.lr)), along(on, trials.ALONG))
        return TrainState(number, number, 0 * number, (), (), ())

    def advance(states, made, window, count):
        seen.append(jax.device_get(states.step))
        return dataclasses.replace(states, step=states.step + 10), trials.no_sums(made, seen_on[-1])

    seen_on = []
    monkeypatch.setattr(trials, "init", init)
    monkeypatch.setattr(trials, "advance", lambda config, on: seen_on.append(on) or advance)
    monkeypatch.setattr(sweep.Size, "evaluation", lambda self: lambda states, made: np.ones(len(made.lr)))
    monkeypatch.setattr(clips, "hold", lambda *_: {})
    flags = ["--sizes", "1", "--budgets", "1e9", "--lrs", *"1e-3 2e-3 3e-3 4e-3 5e-3".split(), "--batches", "4", "--out", str(tmp_path)]
    for devices, last in ((3, 2), (4, 10**9)):
        monkeypatch.setattr(mesh, "build", lambda config=mesh.MeshConfig(): build(config, jax.devices()[:devices]))
        monkeypatch.setattr(loop.StopSignal, "reached", lambda self, step: step == last)
        sweep.main(flags)
    assert seen[0].tolist() == [0, 1, 2, 3, 4, 5] and seen[2].tolist() == [20, 21, 22, 23, 24, 24, 24, 24], "the last is repeated to fill the devices"
    assert len(table(tmp_path)) == 5


def test_a_rows_noise_is_that_since_the_budget_before_in_tokens(tmp_path, monkeypatch):
    """|g|² = |𝒢|² + S/b, S falling after the first budget; a batch of one microbatch tells no noise."""
    true, S, read = 4.0, [60.0, 30.0], []

    def advance(states, made, window, count):
        steps = count // made.k
        micro, whole = (steps * k * (true + S[len(read)] / (2 * n)) for k, n in ((made.k, 1), (1, made.k)))
        return states, dict(micro=micro, whole=whole, steps=steps)

    monkeypatch.setattr(trials, "init", lambda config, made, on: TrainState(*[np.zeros(len(made.lr), int)] * 3, (), (), ()))
    monkeypatch.setattr(trials, "advance", lambda config, on: advance)
    monkeypatch.setattr(sweep.Size, "evaluation", lambda self: lambda states, made: read.append(1) or np.ones(len(made.lr)))
    monkeypatch.setattr(clips, "hold", lambda *_: {})
    sweep.main("--sizes 1 --budgets 1e8 2e8 --lrs 1e-3 --batches 2 4 --out".split() + [str(tmp_path)])
    rows = table(tmp_path)
    n = int(rows[0]["batch"]) / 2
    assert [float(row["noise_scale"] or 0) for row in rows] == pytest.approx([0, S[0] / true * n, 0, S[1] / true * n], rel=1e-3)


def test_all_trials_are_measured_on_the_same_noise_over_the_clips_there_are(tmp_path, monkeypatch):
    asked = []

    def measure(states, made, batch, key):
        asked.append(key)
        return np.ones((len(made.lr), 5)) * batch["weight"].sum()

    monkeypatch.setattr(Shapes, "__len__", lambda self: 6)
    monkeypatch.setattr(trials, "evaluate", lambda config, on: measure)
    config = SweepConfig(out=str(tmp_path), sizes=(1,), budgets=(1e8,), batches=(4,), seeds=(9, 5), eval_examples=8)
    size = sweep.Size(config, 1, mesh.build())
    made = size.trials()
    assert size.evaluation()(None, made) == pytest.approx(1) and asked == [jax.random.key(1)]
    assert [size.sources[i][0] for i in made.source] == made.seed.tolist() and set(made.seed.tolist()) == {5, 9}
    assert size.config.optimizer.warmup == config.warmup != member("tiny", 1).optimizer.warmup


def test_a_trial_of_another_seed_has_the_held_out_loss_of_the_run_that_train_makes(tmp_path, one_device):
    config = SweepConfig(out=str(tmp_path), sizes=(1,), budgets=(1e8,), batches=(4,), seeds=(9, 5), eval_examples=8)
    size, on = sweep.Size(config, 1, mesh.build()), mesh.build()
    made = size.trials()
    states = trials.init(size.config, made, on)
    states = dataclasses.replace(states, ema=small.shaken(states.ema))
    found, alone = size.evaluation()(states, made), dataclasses.replace(size.config, seed=9)
    source, held_out = open_sources(alone)
    known = source.scores()
    evaluation = Evaluation(alone, held_out, ScoreStatistics.of({name: known[name] for name in alone.model.scores}), on)
    with jax.set_mesh(on):
        assert evaluation(jax.tree.map(lambda x: x[0], states.ema)).mean() == pytest.approx(found[0], rel=1e-5)
    np.testing.assert_array_equal(held_out[3]["video"], size.sources[0][2][3]["video"], err_msg="losses of all seeds are of the same clips")


def test_a_table_that_was_cut_off_is_refused(tmp_path):
    path = epath.Path(tmp_path) / "runs.csv"
    rows = Rows(path)
    rows.add([dict.fromkeys(COLUMNS, number) for number in (1, 2)])
    rows.write()
    assert len(Rows(path)) == 2
    path.write_text(path.read_text()[: -len(",2,2,2\n")])
    with pytest.raises(ValueError, match="runs.csv, row 2 ends before its steps: the table was cut off"):
        Rows(path)
