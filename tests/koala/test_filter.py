"""Rules, budgets and the report of what they drop."""
import json
import tracemalloc
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala_jax import rules
from koala_jax.filter import embeddings, main, overlap, values
from koala_jax.rules import Comparison, Rule, best, distinct

floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.sampled_from(["vtss", "a_b", "x1"]), st.sampled_from(Comparison), floats)
def test_a_rule_reads_what_it_prints(column, comparison, bound):
    rule = Rule(column, comparison, bound, False)
    assert Rule.parse(str(rule)) == rule


@pytest.mark.parametrize("text", ["vtss", "vtss = 2", "2 < vtss", "vtss > ", "vtss > p101", "vtss > two", "a b > 1"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ValueError, match="is not a rule|percentile lies"):
        Rule.parse(text)


@given(st.lists(st.one_of(floats, st.just(np.nan)), min_size=1, max_size=30), st.integers(0, 100))
def test_a_percentile_drops_that_share_of_the_known_and_all_the_unknown(values, percentile):
    x = np.array(values, float)
    known = np.isfinite(x)
    dropped = ~Rule.parse(f"x >= p{percentile}").keeps(x)
    assert dropped[~known].all()
    assert (dropped & known).sum() <= np.ceil(percentile / 100 * known.sum())


@pytest.mark.parametrize("rule, end, bound", [("x < p95", "lowest", 0), ("x > p5", "highest", 0), ("x < p0", "lowest", 0), ("x > p100", "highest", 2)])
def test_a_percentile_that_many_equal_values_have_is_refused_where_nothing_would_be_left(rule, end, bound):
    x = np.array([0.0] * 97 + [np.nan, bound])
    with pytest.raises(ValueError, match=f'^"{rule}" keeps no clip: [0-9]+ of 98 have the {end} value, {bound}; "{rule[:3]}= {rule[4:]}" keeps them$'):
        Rule.parse(rule).keeps(x)
    assert Rule.parse(f"{rule[:3]}= {rule[4:]}").keeps(x).any() and not Rule.parse("x < -1").keeps(x).any(), "a number may keep none"


@given(st.lists(st.one_of(floats, st.just(np.nan)), min_size=1, max_size=30), st.integers(1, 40), st.integers(0, 2**30))
def test_a_budget_keeps_the_highest(values, number, seed):
    x = np.array(values, float)
    among = np.random.default_rng(seed).random(len(x)) < 0.7
    kept = best(x, among, number)
    candidates = among & np.isfinite(x)
    assert kept.sum() == min(number, candidates.sum()) and not (kept & ~candidates).any()
    if kept.any() and (candidates & ~kept).any():
        assert x[kept].min() >= x[candidates & ~kept].max()


@given(st.integers(1, 20), st.floats(-0.5, 0.99), st.integers(0, 2**30), st.integers(1, 7), st.integers(1, 7))
def test_of_clips_that_look_alike_the_best_stays(n, cosine, seed, block, slab):
    with mock.patch.multiple(rules, BLOCK=block, SLAB=slab):
        _the_best_stays(n, cosine, np.random.default_rng(seed))


def _the_best_stays(n, cosine, rng):
    x, values, among = rng.standard_normal((n, 3)), rng.standard_normal(n), rng.random(n) < 0.8
    stays = distinct(x.copy(), among, values, cosine)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = (unit @ unit.T >= cosine) & ~np.eye(n, dtype=bool)
    assert not near[np.ix_(stays, stays)].any() and not (stays & ~among).any()
    for i in np.flatnonzero(among & ~stays):
        assert values[near[i] & stays].max() >= values[i], "what went was near to a better one that stayed"


def test_clips_without_an_embedding_or_a_value_are_not_lost():
    x = np.array([[1, 0], [1, 0], [np.nan, np.nan], [np.nan, np.nan]])
    assert distinct(x, np.ones(4, bool), np.array([np.nan, 1, 1, np.nan]), 0.9).tolist() == [False, True, True, True]


def test_embeddings_are_held_once():
    rows, size = 4000, 4000 * 768 * 4
    column = pa.chunked_array([pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).random(rows // 2 * 768, np.float32)), 768)] * 2)
    table = pa.table({"embedding": column.cast(pa.list_(pa.float32()))})
    tracemalloc.start()
    try:
        found = embeddings(table)
        stays = distinct(found, np.ones(rows, bool), np.arange(rows, dtype=float), 0.99)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stays.sum() == rows // 2 and peak < 2.2 * size, f"{peak / size:.1f} times their size"


def test_what_rules_share_by_hand():
    rules = [Rule.parse("a > 0"), Rule.parse("b > 0"), Rule.parse("c > 0")]
    dropped = [np.array(x, bool) for x in ([1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0])]
    a, b, c = overlap(rules, dropped)
    assert (a["drops"], a["alone"], a["shared"]) == (2, 1, {"b > 0": 1, "c > 0": 0})
    assert (b["alone"], c["drops"]) == (1, 0)


@pytest.fixture
def scores(tmp_path):
    table = pa.table({"file": ["a", "b", "c", "d"], "vtss": [4.0, 2.0, None, 3.0], "motion": [1.0, 5.0, 2.0, 0.1], "embedding": [[1.0, 0.0], [1.0, 0.1], None, [0.0, 1.0]]})
    pa.parquet.write_table(table, tmp_path / "scores.parquet")
    return tmp_path


def test_the_command_keeps_rows_and_writes_figures(scores, capsys):
    args = [str(scores / "scores.parquet"), "--keep", "vtss > 2.5", "motion > p20", "--out", str(scores / "kept.parquet")]
    main([*args, "--json", str(scores / "figures.json")])
    assert pa.parquet.read_table(scores / "kept.parquet").column("file").to_pylist() == ["a"]
    figures = json.loads((scores / "figures.json").read_text())
    said = capsys.readouterr().out
    assert "1 clip passed every rule, 1 kept" in said and "distinct" not in figures, "what was not asked is not said"
    assert f"wrote {scores / 'figures.json'}" in said
    assert (figures["pass"], [rule["drops"] for rule in figures["rules"]], figures["rules"][0]["unknown"]) == (1, [2, 1], 1)
    main([*args[:1], "--best", "2", "--out", str(scores / "two.parquet")])
    assert pa.parquet.read_table(scores / "two.parquet").column("file").to_pylist() == ["a", "d"]
    main([*args[:1], "--distinct", "0.95", "--out", str(scores / "distinct.parquet")])
    assert "4 clips passed every rule, 3 of them distinct, 3 kept" in capsys.readouterr().out
    assert pa.parquet.read_table(scores / "distinct.parquet").column("file").to_pylist() == ["a", "c", "d"]
    table = pa.parquet.read_table(scores / "scores.parquet").rename_columns(["file", "quality", "motion", "embedding"])
    pa.parquet.write_table(table, scores / "scores.parquet")  # as the package's own scorer writes it
    main([*args[:1], "--best", "1", "--out", str(scores / "one.parquet")])
    assert pa.parquet.read_table(scores / "one.parquet").column("file").to_pylist() == ["a"]


def test_a_clip_that_could_not_be_read_is_not_kept_and_one_with_figures_is(tmp_path, capsys):
    table = pa.table({"file": ["a", "b", "c"], "motion": [1.0, None, 2.0], "quality": [3.0, None, None], "embedding": [[1.0, 0.0], None, None],
                      "error": [None, "no video stream", "has 9 frames, and a score needs 64"]})  # fmt: skip
    pa.parquet.write_table(table, tmp_path / "scores.parquet")
    main([str(tmp_path / "scores.parquet"), "--distinct", "0.95", "--out", str(tmp_path / "kept.parquet")])
    assert "1 clip could not be read, 2 clips passed every rule, 2 of them distinct, 2 kept" in capsys.readouterr().out
    assert pa.parquet.read_table(tmp_path / "kept.parquet").column("file").to_pylist() == ["a", "c"]


@pytest.mark.parametrize(
    "args, sentence",
    [
        ([], "nothing to filter by"), (["--keep", "beauty > 1"], "no column of numbers 'beauty'; there are vtss, motion"),
        (["--keep", "file > 1"], "the column file holds text, and numbers are wanted"), (["--best", "0"], "--best 0: at least 1"),
        (["--distinct", "2"], "--distinct 2: a number from -1 to 1 is wanted"), (["--keep", "vtss > 2", "--by", "motion"], "--by motion: only --best and --distinct go by a column"),
    ],
)  # fmt: skip
def test_bad_filters_are_one_sentence(args, sentence, scores, fails):
    assert sentence in fails(main, [str(scores / "scores.parquet"), *args, "--out", str(scores / "kept.parquet")])
    assert not (scores / "kept.parquet").exists()


def test_the_scores_are_not_written_over(scores, fails):
    table = str(scores / "scores.parquet")
    said = " ".join(fails(main, [table, "--best", "1", "--out", table]).replace("│", " ").split())
    assert "scores.parquet would be written over: write to another file" in said


def test_clips_named_by_numbers_stay_texts_and_a_bound_without_end_is_no_figure(tmp_path):
    (tmp_path / "scores.csv").write_text("file,motion\n007,1\n12,3\n")
    main([str(tmp_path / "scores.csv"), "--keep", "motion < 1e999", "--out", str(tmp_path / "kept.parquet"), "--json", str(tmp_path / "figures.json")])
    assert pa.parquet.read_table(tmp_path / "kept.parquet").column("file").to_pylist() == ["007", "12"]
    assert json.loads((tmp_path / "figures.json").read_text())["rules"][0]["bound"] is None


def test_no_table_is_refused(tmp_path, fails, capsys):
    (tmp_path / "x.parquet").write_text("text")
    assert "cannot be read as a table" in fails(main, [str(tmp_path / "x.parquet"), "--best", "1"])
    assert fails(main, [str(tmp_path), "--best", "1"]) == f"{tmp_path} is a folder, and a table (CSV or Parquet) is wanted"
    for cells, said in (("a,1\nb,no\n", "the column motion holds text, and numbers are wanted"), ("", "fills it with --metrics motion; there are none")):
        (tmp_path / "z.csv").write_text(f"file,motion\n{cells}")
        assert said in fails(main, [str(tmp_path / "z.csv"), "--keep", "motion > 1"])
    pa.parquet.write_table(pa.table({"vtss": [1.0, 2.0]}), tmp_path / "y.parquet")
    said = fails(main, [str(tmp_path / "y.parquet"), "--best", "1"])
    assert "it has no column file" in said and not capsys.readouterr().out, "before any report"
    pa.parquet.write_table(pa.table({"file": [7], "vtss": [1.0]}), tmp_path / "w.parquet")
    said = fails(main, [str(tmp_path / "w.parquet"), "--best", "1", "--out", str(tmp_path / "k.parquet")])
    assert said == f"{tmp_path}/w.parquet gives row 1 the `file` 7, which is not text" and not (tmp_path / "k.parquet").exists()
    assert "--out k.csv must end in .parquet" in fails(main, [str(tmp_path / "y.parquet"), "--best", "1", "--out", "k.csv"])


def test_an_empty_column_says_what_fills_it(tmp_path, fails):
    empty = pa.nulls(2, pa.float64())
    table = pa.table({"file": ["a", "b"], "aesthetic": empty, "motion": [1.0, 2.0], "error": [None, "has 9 frames"]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    filtered = lambda *args: fails(main, [str(tmp_path / "t.parquet"), *args, "--out", str(tmp_path / "kept.parquet")])  # noqa: E731
    assert '"aesthetic > 5" would drop all: no clip has a value of aesthetic: koala_jax.score fills it with --aesthetic' in filtered("--keep", "aesthetic > 5")
    assert "--best 1 would drop all: no clip has a value of aesthetic: koala_jax.score fills it" in filtered("--best", "1", "--by", "aesthetic")
    assert "no column of numbers 'vtss': koala_jax.score fills it with --weights" in filtered("--keep", "vtss > 2")
    assert "'noise': koala_jax.score fills it with --metrics noise; there are aesthetic, motion" in filtered("--keep", "noise < 2")
    assert "no clip has one: koala_jax.score fills it with --aesthetic" in filtered("--distinct", "0.9")
    failed = table.set_column(3, "error", pa.array(["has 9 frames", "has 9 frames"])).set_column(2, "motion", empty)
    pa.parquet.write_table(failed, tmp_path / "t.parquet")
    assert "no clip has a value of motion: most rows say: has 9 frames" in filtered("--keep", "motion > 1")
    assert not (tmp_path / "kept.parquet").exists()


def test_columns_of_several_chunks_with_empty_cells():
    rows = [[1.0, 0.5], None, [], [None, 2.0]]
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)):
        these = [None if row == [] and pa.types.is_fixed_size_list(kind) else row for row in rows]
        table = pa.table({"embedding": pa.chunked_array([these[:2], these[2:], these[:1]], kind)}).slice(1)
        nan = np.nan
        np.testing.assert_array_equal(embeddings(table), [[nan, nan], [nan, nan], [nan, 2], [1, 0.5]])
    table = pa.table({"n": pa.chunked_array([[1, None], [3]]), "x": [0.5, None, np.nan], "h": pa.array([1, 2, None], pa.float16())})
    assert [values(table, name).tolist()[0] for name in "nxh"] == [1.0, 0.5, 1.0]
    np.testing.assert_array_equal(values(table, "n"), [1, np.nan, 3])
    with pytest.raises(ValueError, match="rows of 1 and of 2 numbers"):
        embeddings(pa.table({"embedding": [[1.0], [1.0, 2.0]]}))
