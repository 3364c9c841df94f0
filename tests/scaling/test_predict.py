"""`python -m scaling_jax.predict`: the paper's values and contradictions, laws from a fit, limits, and commands that run."""
import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scaling_jax import cost, fit, jobs, loss_fit, predict
from scaling_jax.flops import cross_dit_flops, parameters, tokens
from scaling_jax.grid import SweepConfig
from scaling_jax.laws import PowerLaw
from scaling_jax.published import VIDEO
from scaling_jax.rows import COLUMNS, Rows
from scaling_jax.sizes import family_of, family_size, member, size_of
from tests.scaling import runs
from videodit_jax import train


def predicted(tmp_path, *args: str) -> dict:
    predict.main([*args, "--json", str(tmp_path / "run.json")])
    return json.loads((tmp_path / "run.json").read_text())


def test_the_papers_recommendation(tmp_path, capsys):
    found = predicted(tmp_path, "--compute", "1e22")
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"│ {what} │" in said for what in ("parameters N", "tokens T", "batch, tokens", "learning rate"))
    assert found["N"]["value"] == pytest.approx(2.09e9, rel=5e-3)
    assert found["N"]["interval"][0] < 2.09e9 and found["N"]["interval"][1] > 3.58e9, "Eq. 14, Eq. 18 and the loss law's minimum"
    assert [round(one["value"] / 1e9, 2) for one in found["ways"].values()] == [2.09, 2.44, 3.58]
    assert "no confidence interval" in found["N"]["interval_is"]
    assert "39.9% fewer; it prints 39.9%" in said and "39.2% less" in said and "40.1%" in said and "definition is not known" in said
    assert "open inconsistency" in said and "1.67e+03 times above the largest" in said
    assert found["T"]["value"] * predict.TokenFlops()(found["N"]["value"]) == pytest.approx(1e22)
    for name in ("T", "batch", "lr", "loss"):
        assert found[name]["interval"][0] < found[name]["value"] < found[name]["interval"][1]
    valley = found["valley"]
    assert valley["N"][0] < 1.5e9 and valley["N"][-1] > 8e9 and max(valley["loss"]) <= 1.001 * min(valley["loss"]) * 1.0000001


def test_what_other_models_laws_say_is_told_where_it_is_asked_for(tmp_path, capsys):
    assert "others" not in predicted(tmp_path, "--compute", "1e22") and "arXiv 2203.15556" not in capsys.readouterr().out
    found, said = predicted(tmp_path, "--compute", "1e22", "--others"), capsys.readouterr().out
    assert len(found["others"]) == 4 and all(source.split("arXiv ")[1][:10] in said for source in found["others"])
    (step,) = (one for source, one in found["others"].items() if source.startswith("Step Law"))
    assert step["batch"] == pytest.approx(0.58 * found["T"]["value"] ** 0.571), "at the N and T that are recommended"


def test_inside_the_fitted_range_nothing_is_warned_of(tmp_path):
    assert predicted(tmp_path, "--compute", "1e18")["warnings"] == []


def test_inference_takes_its_share_of_the_budget_and_makes_the_model_smaller_by_how_much_there_is(tmp_path):
    free, one, some, much = (predicted(tmp_path, "--compute", "1e22", "--inference-tokens", n) for n in ("0", "1", "1e11", "1e12"))
    assert one["N"]["value"] == pytest.approx(free["N"]["value"], rel=0.01), "one token changes nothing"
    assert free["N"]["value"] > some["N"]["value"] > 1.1 * much["N"]["value"] and free["loss"]["value"] < some["loss"]["value"] < much["loss"]["value"]
    C_token = predict.TokenFlops()(much["N"]["value"])
    assert much["inference"] == pytest.approx(C_token / 3 * 1e12, rel=1e-6) and much["training"] == pytest.approx(C_token * much["T"]["value"], rel=1e-6)
    assert much["training"] + much["inference"] == pytest.approx(1e22)
    smaller = much["N"]["value"] / free["N"]["value"]
    assert much["N"]["interval"] == pytest.approx([smaller * end for end in free["N"]["interval"]], rel=1e-6)
    laws = dataclasses.replace(VIDEO, batch=dataclasses.replace(VIDEO.batch, law=PowerLaw(2.0, C=0.25), draws=PowerLaw(np.full(9, 2.0), C=np.full(9, 0.25))))
    by_compute = predict.recommend(dataclasses.replace(predict.paper(), laws=laws), predict.PredictConfig(compute=1e22, inference_tokens=1e12))
    assert by_compute["batch"]["value"] == pytest.approx(2 * by_compute["training"] ** 0.25), "a law of C is one of what is trained with"
    run = predicted(tmp_path, "--compute", "1e18", "--inference-tokens", "1e10", "--write-config", str(tmp_path / "run.sh"))
    config = train.parse(shlex.split((tmp_path / "run.sh").read_text().splitlines()[-1])[4:-1])
    took = cross_dit_flops(parameters(config.model), tokens(config), config.model.width) * config.steps * config.batch * tokens(config)
    assert took == pytest.approx(run["training"], rel=0.01) and took < 0.99e18
    valley = {name: np.array(column) for name, column in much["valley"].items()}
    nearby = VIDEO.loss.law(valley["N"], (1e22 - valley["inference"]) / predict.TokenFlops()(valley["N"]))
    np.testing.assert_allclose(valley["loss"], nearby, rtol=1e-6)
    with pytest.raises(ValueError, match="--inference-tokens 1e\\+30 take more than --compute 1e\\+22 at any size"):
        predicted(tmp_path, "--compute", "1e22", "--inference-tokens", "1e30")


def test_a_size_that_the_loss_law_holds_for_bad_is_warned_of():
    said = {tokens: predict.recommend(predict.paper(), predict.PredictConfig(compute=1e22, inference_tokens=tokens)) for tokens in (0, 1e14)}
    assert not any("more than 0.1% above the least" in line for line in said[0]["warnings"])
    N, valley = said[1e14]["N"]["value"], said[1e14]["valley"]["N"]
    assert N < min(valley) and any(f"the loss law says of N = {N:.3g} a loss more than 0.1% above" in line for line in said[1e14]["warnings"])
    asked = predict.recommend(predict.paper(), predict.PredictConfig(compute=1e22, size=1e7))
    assert not any("above the least" in line for line in asked["warnings"]), "who names a size knows"


def test_a_limit_makes_it_smaller(tmp_path):
    found = predicted(tmp_path, "--compute", "1e22", "--max-params", "1.6e9")
    assert found["N"]["value"] == 1.6e9 and 1.3e9 < max(found["valley"]["N"]) <= 1.6e9
    below = predicted(tmp_path, "--compute", "1e22", "--max-params", "5e8")
    assert below["N"]["value"] == 5e8 and "valley" not in below, "the valley lies above"


def test_a_size_of_ones_own(tmp_path):
    found = predicted(tmp_path, "--compute", "1e22", "--size", "1e9")
    T = 1e22 / predict.TokenFlops()(1e9)
    assert found["N"]["interval"] == [1e9, 1e9] and found["T"]["value"] == pytest.approx(T)
    assert found["loss"]["value"] == pytest.approx(VIDEO.loss.law(1e9, T)) and found["batch"]["value"] == pytest.approx(VIDEO.batch.law(N=1e9, T=T))


@pytest.fixture(scope="module")
def laws(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws")
    fit.main([str(runs.write(folder / "runs.csv", runs.grid())), "--json", str(folder / "laws.json"), "--bootstraps", "200"])
    return folder / "laws.json"


def test_fitted_laws_predict_what_the_true_ones_do(laws, tmp_path):
    found, true = (predicted(tmp_path, "--compute", "1e19", *more) for more in (["--laws", str(laws)], []))
    assert found["loss"]["interval"][0] < found["loss"]["value"] < found["loss"]["interval"][1]
    assert found["loss"]["value"] == pytest.approx(true["loss"]["value"], rel=1e-3)
    low, high = found["N"]["interval"]
    assert low < found["N"]["value"] < high and low < true["ways"]["minimum of the loss law"]["value"] < high
    assert "headline" not in found and "inconsistency" not in found and "1.67 times above" in found["warnings"][0]
    T = [one for one in predicted(tmp_path, "--compute", "6e18", "--laws", str(laws), "--size", "2e7")["warnings"] if "flagged" not in one]
    assert len(T) == 1 and T[0].startswith("T = ") and "times above the largest" in T[0], "batch and lr go by it"


def test_what_fit_flagged_is_warned_of(laws, tmp_path, capsys):
    held = json.loads(laws.read_text())
    for name in ("loss", "hyper", "size"):
        held[name]["flags"] = [f"flag of {name}"]
    (tmp_path / "laws.json").write_text(json.dumps(held | {"flags": ["flag of the table"]}))
    found = predicted(tmp_path, "--compute", "1e18", "--laws", str(tmp_path / "laws.json"))["warnings"]
    told = ["flag of the table", "loss: flag of loss", "batch and lr: flag of hyper", "size: flag of size"]
    assert [one for one in found if "flagged" in one] == [f"flagged by fit: {flag}" for flag in told]
    said = " ".join(capsys.readouterr().out.split())
    assert all(flag in said for flag in told)


def test_the_written_command_is_the_recommended_run(tmp_path):
    script = tmp_path / "run.sh"
    found = predicted(tmp_path, "--compute", "1e18", "--write-config", str(script))
    line = script.read_text().splitlines()[-1]
    words = shlex.split(line)
    assert words[:4] == ["exec", "${PYTHON:-python}", "-m", "videodit_jax.train"]
    assert words.pop() == "$@"
    config = train.parse(words[4:])
    assert parameters(config.model) == pytest.approx(found["N"]["value"], rel=0.5)
    N, n, T = parameters(config.model), tokens(config), config.steps * config.batch * tokens(config)
    assert cross_dit_flops(N, n, config.model.width) * T == pytest.approx(1e18, rel=0.01), "this size and clip spend the budget"
    assert config.batch * n == pytest.approx(VIDEO.batch.law(N=N, T=T), rel=0.1)
    assert config.optimizer.learning_rate == pytest.approx(VIDEO.lr.law(N=N, T=T), rel=1e-3)
    assert found["run"] == pytest.approx(jobs.figures(config), rel=1e-5), "what is said of the run stands in the file"
    more = ["--out", "my-runs/a"]
    said = subprocess.run(["sh", script, *more], env=os.environ | {"PYTHON": "echo"}, capture_output=True, text=True).stdout
    assert said.split() == [*words[2:], *more]
    assert train.parse([*words[4:], *more]) == dataclasses.replace(config, out="my-runs/a")


def test_names_are_said_as_they_are(tmp_path, capsys):
    script, figures = (f"{tmp_path}/a :x: [/b] [c]/{name}" for name in ("run.sh", "run.json"))
    predict.main(["--compute", "1e22", "--write-config", script, "--json", figures])
    said = capsys.readouterr().out
    assert f"next: sh {shlex.quote(script)} --data FOLDER\n" in said and "".join(said.split()).endswith("".join(f"wrote {figures}".split())), "lines break where they may"


def test_on_a_slice_the_run_that_is_planned_is_written_and_its_devices_divide_the_batch(tmp_path, monkeypatch, capsys):
    planned = []

    def plan(config, which):
        planned.append(config)
        return SimpleNamespace(misfit="a test compiles nothing")

    monkeypatch.setattr(jobs, "plan", plan)
    for C, clips in (("1e19", 128), ("1e20", 384), ("1e21", 1536), ("1e22", 5760)):  # 111, 407, 1504 and 5756 by the laws
        predicted(tmp_path, "--compute", C, "--topology", "v5p-128", "--write-config", str(tmp_path / "run.sh"))
        assert shlex.split((tmp_path / "run.sh").read_text().splitlines()[-1])[2:-1] == jobs.words(planned[-1])
        assert planned[-1].batch == clips and "v5p-128 share a multiple of 64" in " ".join(capsys.readouterr().out.split())


def test_without_a_law_of_batch_and_lr_the_nearest_best_run_says_them():
    bare = dataclasses.replace(predict.paper().laws, batch=None, lr=None)
    best = tuple(dict(N=N, T=T, batch=batch, lr=lr) for N, T, batch, lr in ((1e8, 1e10, 1e5, 1e-3), (2e9, 1e12, 2e6, 2e-4), (2e9, 1e10, 3e5, 4e-4)))
    found = predict.recommend(dataclasses.replace(predict.paper(), laws=bare, best=best), predict.PredictConfig(compute=1e22))
    assert (found["batch"]["value"], found["lr"]["value"]) == (2e6, 2e-4) and "no law" in found["lr"]["interval_is"]
    run = jobs.recommended(dataclasses.replace(predict.paper(), laws=bare, best=best), 1e8, 6e18, "0.26b", None, np.inf)
    assert run.data == "videos", "a model for real video is not trained on drawn shapes unless that is asked for"
    assert run.optimizer.learning_rate == 1e-3 and run.batch * tokens(run) == pytest.approx(1e5, rel=0.05), "so does the run that is written"
    without = dataclasses.replace(predict.paper(), laws=dataclasses.replace(bare, loss=None))
    said = predict.recommend(without, predict.PredictConfig(compute=1e22, inference_tokens=1e12))["warnings"]
    assert any("--inference-tokens lessened T alone" in line for line in said)
    assert not any("--inference" in line for line in predict.recommend(predict.paper(), predict.PredictConfig(compute=1e22, inference_tokens=1e12))["warnings"])
    assert "lr" not in predict.recommend(dataclasses.replace(predict.paper(), laws=bare), predict.PredictConfig(compute=1e22))


def test_runs_that_tell_no_law_of_batch_and_lr_still_give_a_run(tmp_path):
    """A coarse grid of few sizes, as of the tour."""
    table = runs.grid(fixed=True)
    some = np.isin(table["lr"], np.unique(table["lr"])[[2, 4]]) & np.isin(table["batch"], np.unique(table["batch"])[[3]])
    path = runs.write(tmp_path / "runs.csv", {name: column[some] for name, column in table.items()})
    laws, script = tmp_path / "laws.json", tmp_path / "run.sh"
    fit.main([str(path), "--bootstraps", "100", "--json", str(laws)])
    assert "give none a surface" in json.loads(laws.read_text())["hyper"]["flags"][0]
    predict.main(["--laws", str(laws), "--compute", "6e18", "--preset", "0.26b", "--write-config", str(script)])
    words = shlex.split(script.read_text().splitlines()[-1])
    assert float(words[words.index("--optimizer.learning-rate") + 1]) in (1.5e-4, 6e-4), "as a run had it"


def test_tables_laws_and_sweeps_may_lie_in_a_bucket(bucket):
    fit.main([str(runs.write(bucket / "table.csv", runs.grid())), "--law", "size", "--bootstraps", "100", "--json", f"{bucket}/laws.json"])
    predict.main(["--compute", "1e19", "--laws", f"{bucket}/laws.json", "--json", f"{bucket}/run.json"])
    assert json.loads((bucket / "run.json").read_text())["N"]["value"] > 1e8
    SweepConfig().claim(bucket / "sweep", "these clips")
    rows = Rows(bucket / "sweep" / "runs.csv")
    rows.add([{name: 1 for name in COLUMNS}])
    rows.write()
    assert len(Rows(bucket / "sweep" / "runs.csv")) == 1
    with pytest.raises(ValueError, match="fingerprint was 'these clips', now 'others'"):
        SweepConfig().claim(bucket / "sweep", "others")
    (bucket / "sweep" / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match="sweep.json does not hold a sweep's settings"):
        SweepConfig().claim(bucket / "sweep", "these clips")


@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("name, N", [("tiny", lambda s: 16 * 16**2 * s**3), ("stories", lambda s: 16 * 16**2 * s**3), ("0.26b", lambda s: 16 * 128**2 * s**3), ("narrow", lambda s: 512 * s**2)])
def test_a_family(name, N, size):
    one, N = member(name, size), N(size)
    assert parameters(one.model) == N
    assert size_of(N, name) == size and family_size(N * 1.02, name) == N and family_of(one) == name
    assert cost.TokenFlops(cost.FlopsModel.WHOLE, preset=name)(N) == pytest.approx(cost.of(one, cost.FlopsModel.WHOLE))


def test_the_members_are_the_presets():
    for name, layers in (("0.017b", 4), ("1.07b", 16)):
        assert member("0.017b", layers).model == train.preset(name).model


@pytest.mark.parametrize(
    "args, said",
    [
        ("--compute -1", "--compute -1: a positive number is wanted"),
        ("--compute inf", "--compute inf: a positive number is wanted"),
        ("--compute 1e-300", "--compute 1e-300: one clip through the smallest model of 0.017b's family takes 3,019,898,880 FLOPs"),
        ("--compute 1e300", "parameters, and sizes of 100 to 1e+14 are looked at"),
        ("--compute 1e20 --size 0", "--size 0: a positive number is wanted"),
        ("--compute 1e20 --size 1e15", "as --size says: 1e+15 parameters, and sizes of 100 to 1e+14 are looked at"),
        ("--compute 1e15 --size 1e13", "--compute 1e+15: a model of 1e+13 parameters would see"),
        ("--compute 1e20 --size 2e9 --max-params 1e9", "--size 2e+09 is more than --max-params 1e+09 allows"),
        ("--compute 1e20 --max-params 1", "no more than --max-params 1: 1 parameters, and sizes of 100 to"),
        ("--compute 1e20 --preset nope", "no preset named 'nope'; there are tiny, stories, narrow, 0.017b"),
        ("--compute 1e20 --inference-tokens -3", "--inference-tokens -3"),
        ("--compute 1e20 --laws LAWS", "is no file of laws"),
        ("--compute 1e20 --laws LAWS --json LAWS", "laws.json would be written over: write to another file"),
        ("--compute 1e20 --write-config .", "--write-config . is a folder, and a file is wanted"),
        ("--compute 1e20 --max-params 1e5 --write-config X", "less than the smallest model"),
        ("--compute 1e20 --topology v9-3", "no TPU slice named 'v9-3'"),
    ],
)
def test_bad_input(args, said, tmp_path, fails, capsys):
    (tmp_path / "laws.json").write_text("[]")
    capsys.readouterr()
    words = args.replace("LAWS", str(tmp_path / "laws.json")).replace("X", str(tmp_path / "x.sh")).split()
    assert said in (told := " ".join(fails(predict.main, words).replace("│", " ").split())) and "Error(" not in told
    assert "recommended" not in capsys.readouterr().out or "--write-config X" in args, "what is refused is not recommended first"
    assert not (tmp_path / "x.sh").exists()


def test_fitted_laws_that_exclude_each_other_are_told():
    fitted = dataclasses.replace(predict.paper(), laws=dataclasses.replace(VIDEO, size=dataclasses.replace(VIDEO.size)))
    found = predict.recommend(fitted, predict.PredictConfig(compute=1e22))
    assert "N by the minimum of the loss law, 3.58e+09, and by the size law, 2.09e+09, exclude each other" in found["warnings"][-1]


def test_a_loss_law_without_a_minimum_gives_no_size():
    known = VIDEO.loss
    with_law = lambda **other: dataclasses.replace(
        predict.paper(), laws=dataclasses.replace(VIDEO, size=None, loss=dataclasses.replace(known, law=dataclasses.replace(known.law, **other)))
    )
    for rising in ({"alpha": -0.03}, {"beta": -0.03}):
        with pytest.raises(ValueError, match="neither a size law nor a loss law that falls with N and T"):
            predict.recommend(with_law(**rising), predict.PredictConfig(compute=1e19))
    with pytest.raises(ValueError, match="the minimum of the loss law asks for 10 parameters, and sizes of 100 to 1e\\+14 are looked at"):
        predict.recommend(with_law(A=1e-9), predict.PredictConfig(compute=1e19))


def test_the_valley_is_flat_around_its_middle():
    flat = predict.valley(predict.paper(), 1e20)
    i = flat["loss"].argmin()
    assert 0 < i < len(flat["N"]) - 1 and np.allclose(flat["training"], 1e20)
    N = np.array([0.99, 1.01])[:, None] * flat["N"][[0, -1]]
    loss = VIDEO.loss.law(N, 1e20 / predict.TokenFlops()(N)) / flat["loss"].min() - 1
    assert loss[0, 0] > predict.FLAT > loss[1, 0] and loss[1, 1] > predict.FLAT > loss[0, 1], "it ends where more is lost"


def test_a_fit_is_the_cpus_work(monkeypatch):
    """A TPU solves no equations in float64, and the devices may be another command's."""
    used, search, before = [], loss_fit.search, jax.config.jax_platforms
    monkeypatch.setattr(loss_fit, "search", lambda G, *args: used.extend(G.devices()) or search(G, *args))
    with jax.default_device(jax.devices()[1]):
        loss_fit.fit(np.arange(1.0, 9)[:, None] * 1e6, np.linspace(3, 2, 8), profiled=False)
    assert used == jax.devices("cpu")[:1]
    try:
        for main, args in ((predict.main, ["--compute", "1e20"]), (fit.main, ["nowhere.csv"])):
            jax.config.update("jax_platforms", "tpu")
            with contextlib.suppress(ValueError):
                main(args)
            assert jax.config.jax_platforms == "cpu"
    finally:
        jax.config.update("jax_platforms", before)
