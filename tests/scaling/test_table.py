"""Tables of runs: what is read of them, and bad ones, which are one sentence."""
import warnings

import numpy as np
import pytest

from scaling_jax import fit, table
from tests.scaling import runs
from tests.scaling.runs import fitted


@pytest.mark.parametrize(
    "change, args, said",
    [
        (lambda t: t.pop("loss"), [], "no column loss; it has N, T"),
        (lambda t: t.pop("T"), [], "no column T (or C)"),
        (lambda t: t.update(T=t["T"] / 1e9), [], "these look like millions or billions of tokens, and counts are wanted; give --unit-T 1e6 for millions, 1e9"),
        (lambda t: t.update(N=t["N"] / 1e9), [], "give --unit-N 1e6 for millions, 1e9 for billions, 1 if they are counts"),
        (lambda t: t.update(N=t["N"] / 1e6), [], "column N ends at 262.144: these look like millions or billions of parameters"),
        (lambda t: t.update(T=t["T"] * 20 / 1e6), [], "half of the runs saw less than 0.00145 tokens a parameter, and 0.01 to 10000 are likely: if N or T is in"),
        (lambda t: t.update(N=t["N"] * 30 / 1e6), [], "give its unit, as --unit-N 1e6; if these are counts, --unit-N 1 --unit-T 1"),
        (lambda t: t.update(N=t["N"] * 30 / 1e6), ["--unit-T", "1"], "give its unit, as --unit-N 1e6; if these are counts, --unit-N 1"),
        (lambda t: t["loss"].__setitem__(2, np.nan), [], "1 of 24 losses are no positive number (runs 3); give --skip-diverged"),
        (lambda t: t["N"].__setitem__(4, -1), [], "run 5: N is -1, and a positive number is wanted"),
        (lambda t: t.update(batch=t["T"] * 2), [], "batch is in tokens a step"),
        (lambda t: t.update(C=np.tile([1e18, 2e18], 12)), ["--law", "size"], "2 budgets with at least 3 sizes each"),
        (lambda t: t.update(N=t["N"] * 0 + 1e8), ["--law", "loss"], "cannot determine the 5 constants"),
        (lambda t: None, ["--law", "hyper"], "no column batch and lr"),
        (lambda t: None, ["--columns", "size=N"], "--columns size: NAME=COLUMN is wanted"),
        (lambda t: None, ["--columns", "N=params"], "has the columns N, T, loss"),
        (lambda t: None, ["--drop-highest", "24"], "leaves none"),
        (lambda t: t["N"].__setitem__(slice(None), np.nan), [], "run 1: N is nan"),
        (lambda t: t.update(C=t.pop("T") * t["N"] * 6 / 1e12), ["--flops", "6n"], "run 1: C is 201327, which is 0.002 tokens by --flops 6n, and FLOPs are wanted"),
    ],
)
def test_bad_tables_are_one_sentence(change, args, said, tmp_path, fails):
    table = runs.simple()
    change(table)
    message = fails(fit.main, [str(runs.write(tmp_path / "runs.csv", table)), *args, "--json", str(tmp_path / "laws.json")])
    assert said in message and "\n" not in message and not (tmp_path / "laws.json").exists()


@pytest.mark.parametrize("flag", ["unit_N", "unit_T", "clip_tokens", "aspect"])
@pytest.mark.parametrize("value", [0.0, -5.0, np.inf, np.nan])
def test_what_a_table_is_counted_in_is_positive(flag, value):
    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} {value:g}: a positive number is wanted"):
        fit.TableConfig("runs.csv", **{flag: value})


def test_numbers_among_words_are_read():
    assert np.isnan(table.number("NaN")) and table.number("Inf") == np.inf and table.number("-inf") == -np.inf and table.number("1.5M") == 1.5e6


def test_no_table(tmp_path, fails):
    assert "there is no file or folder" in fails(fit.main, [str(tmp_path / "none.csv")])
    (tmp_path / "text.csv").write_text("N,T,loss\n1e8,many,0.5\n")
    assert "text.csv, column T: 'many' is not a number" in fails(fit.main, [str(tmp_path / "text.csv")])
    (tmp_path / "text.csv").write_text("N,T,loss,loss\n1e8,1e9,0.5,0.6\n")
    assert "more than one column loss" in fails(fit.main, [str(tmp_path / "text.csv")])
    (tmp_path / "header.csv").write_text("N,T,loss\n")
    with warnings.catch_warnings(action="error"):
        assert "header.csv holds no run" in fails(fit.main, [str(tmp_path / "header.csv")])


def test_unlikely_counts_are_read_where_they_are_said_to_be_counts(tmp_path):
    table = runs.simple()
    path = runs.write(tmp_path / "runs.csv", table | {"N": table["N"] * 30 / 1e6})
    assert fitted(path, "--unit-N", "1", "--unit-T", "1", "--law", "loss", "--bootstraps", "100")["fitted"]["T"] == [2e9, 12e9]


def test_a_unit_that_was_given_is_named_where_it_makes_counts_unlikely(tmp_path, fails):
    path = str(runs.write(tmp_path / "runs.csv", runs.simple()))
    said = fails(fit.main, [path, "--unit-T", "1e9"])
    assert "tokens a parameter by --unit-T 1e+09, and" in said and "if N is in millions or billions" in said
    assert " by --unit" not in fails(fit.main, [str(runs.write(tmp_path / "few.csv", runs.simple() | {"T": runs.simple()["T"] / 1e4}))])


def test_units_and_suffixes(tmp_path):
    table = runs.simple()
    text = "N,T,loss\n" + "".join(f"{n / 1e6}M,{t / 1e9},{loss}\n" for n, t, loss in zip(*table.values()))
    (tmp_path / "runs.csv").write_text(text)
    found = fitted(tmp_path / "runs.csv", "--unit-T", "1e9", "--law", "loss", "--bootstraps", "100")
    assert found["fitted"]["N"] == pytest.approx([16777216, 262144000]) and found["fitted"]["T"] == [2e9, 12e9]
