"""`python -m koala_jax.filter scores.parquet --keep "vtss > 2.5" "motion > p10"`: which clips stay, and what each rule costs.

Every rule sees all clips. The report says of each how many it drops, how many no other rule would drop, and what it shares with the
others, so that a rule that only repeats another is seen. With --distinct, near-duplicates among what the rules keep
fall away, then with --best N all but the N highest of --by.
"""
import collections
import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute
import tyro
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table

from core_jax import cli
from core_jax.files import refuse_overwriting, refuse_unwritable
from core_jax.numbers import COUNT, refuse, within
from core_jax.tables import named_from, read_table, texts, write_parquet
from core_jax.words import counted
from koala_jax.metrics import Metric
from koala_jax.rules import Rule, best, distinct


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Keep the clips of a table that pass every rule."""

    scores: tyro.conf.Positional[str]
    """a table of koala_jax.score (.parquet, .csv)"""
    keep: tuple[str, ...] = ()
    """rules such as "vtss > 2.5" or "motion >= p20"; a clip without the value is dropped"""
    distinct: float | None = None
    """of clips that pass and whose embeddings have at least this cosine keep one, the highest of --by; near-duplicates lie above 0.95 or so. Takes hours from a million on"""
    best: int | None = None
    """of the clips that pass, keep this many, the highest of --by"""
    by: str | None = None
    """column that --best and --distinct go by; by default vtss, or quality in a table without it"""
    out: str = "kept.parquet"
    """table of the rows that are kept (.parquet)"""
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        refuse(self, {within(-1, 1): "distinct", COUNT: "best"})
        refuse_unwritable("--out", self.out, ".parquet")
        refuse_overwriting("SCORES", self.scores, [self.out])


GIVES = {
    "aesthetic": "--aesthetic CLIP HEAD", "embedding": "--aesthetic CLIP HEAD", "quality": "the package's scorer, or another one made by --clips",
    "vtss": "--weights of a scorer of suitability (koala_jax.tsa.convert, or koala_jax.tsa.train --labels)",
    **{column: f"--metrics {metric.value}" for metric in Metric for column in metric.columns},
}  # fmt: skip
"""which flag of koala_jax.score fills a column"""


def why_empty(table: pa.Table, column: str) -> str:
    """Why no clip has a value in a column, as the end of a sentence: the reason that most rows give, or the flag that fills it."""
    errors = [error for error in table["error"].to_pylist() if error] if "error" in table.column_names else []
    if table.num_rows and len(errors) == table.num_rows:
        return f": most rows say: {collections.Counter(errors).most_common(1)[0][0]}"
    return f": koala_jax.score fills it with {GIVES[column]}" if column in GIVES else ""


def numbers(table: pa.Table) -> list[str]:
    """The columns of numbers; a CSV's zeros are integers."""
    return [field.name for field in table.schema if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)]


def values(table: pa.Table, column: str) -> np.ndarray:
    """A column of numbers, NaN where empty.

    Raises:
      ValueError: no such column, or one of text.
    """
    if column in table.column_names and pa.types.is_string(table.schema.field(column).type):
        raise ValueError(f"the column {column} holds text, and numbers are wanted")
    if column not in (known := numbers(table)):
        raise ValueError(f"there is no column of numbers {column!r}{why_empty(table, column)}; there are {', '.join(known) or 'none'}")
    return np.asarray(table.column(column).cast(pa.float64(), safe=False).fill_null(np.nan))


def _some(table: pa.Table, column: str, what: str) -> np.ndarray:
    """As `values`. Raises ValueError too where all are empty, so that `what` goes by them would drop every clip."""
    found = values(table, column)
    if table.num_rows and np.isnan(found).all():
        raise ValueError(f"{what} would drop all: no clip has a value of {column}{why_empty(table, column)}")
    return found


def unread(table: pa.Table) -> Bool[np.ndarray, "n"]:
    """Clips that failed: they say why, and nothing of them was measured. What was cut short, or is too short for the scorer, has its figures."""
    errors = table["error"].to_pylist() if "error" in table.column_names else [None] * table.num_rows
    return np.all([np.array(errors, bool), *(np.isnan(values(table, column)) for column in numbers(table))], 0)


def embeddings(table: pa.Table) -> Float[np.ndarray, "n E"]:
    """The column `embedding`, NaN where empty.

    Raises:
      ValueError: there is none, or its rows are not of one length.
    """
    column = table.column("embedding") if "embedding" in table.column_names else pa.nulls(table.num_rows, pa.list_(pa.float32()))
    lengths = np.asarray(pa.compute.list_value_length(column).fill_null(0))
    if not lengths.any():
        raise ValueError(f"--distinct wants the column embedding, and no clip has one{why_empty(table, 'embedding')}")
    width = lengths.max()
    if (bad := lengths[(lengths != 0) & (lengths != width)]).size:
        raise ValueError(f"the column embedding holds rows of {bad[0]} and of {width} numbers")
    found, at = np.full((len(lengths), width), np.nan, np.float32), np.flatnonzero(lengths)
    for chunk in column.chunks:  # as Python's numbers they take 8 times the memory
        flat = np.asarray(chunk.flatten().cast(pa.float32()).fill_null(np.nan)).reshape(-1, width)
        here, at = at[: len(flat)], at[len(flat) :]
        found[here] = flat
    return found


def overlap(rules: list[Rule], dropped: list[Bool[np.ndarray, "n"]]) -> list[dict]:
    """Of each rule: what it drops, what it alone drops, and what it drops together with each other rule."""
    figures = []
    for i, (rule, mine) in enumerate(zip(rules, dropped)):
        others = [other for j, other in enumerate(dropped) if j != i]
        alone = mine & ~np.any(others, 0) if others else mine
        shared = {str(other): int((mine & theirs).sum()) for j, (other, theirs) in enumerate(zip(rules, dropped)) if j != i}
        figures.append({"rule": str(rule), "drops": int(mine.sum()), "alone": int(alone.sum()), "shared": shared})
    return figures


def apply(table: pa.Table, rules: list[Rule], cosine: float | None = None, number: int | None = None, by: str = "") -> tuple[Bool[np.ndarray, "n"], dict]:
    """Which rows stay, and the figures of the report.

    Args:
      cosine, number, by: --distinct, --best and --by.
    """
    by = by or ("vtss" if "vtss" in table.column_names else "quality")
    columns = [_some(table, rule.column, f'"{rule}"') for rule in rules]
    dropped = [~rule.keeps(column) for rule, column in zip(rules, columns)]
    figures = {"clips": table.num_rows, "rules": overlap(rules, dropped)}
    for row, rule, column in zip(figures["rules"], rules, columns):
        bound = rule.value(column)
        row |= {"bound": bound if np.isfinite(bound) else None, "unknown": int(np.isnan(column).sum())}
    failed = unread(table)
    kept = ~np.any([failed, *dropped], 0)
    figures |= {"unread": int(failed.sum()), "pass": int(kept.sum())}
    if cosine is not None:
        kept = distinct(embeddings(table), kept, values(table, by), cosine)
        figures["distinct"] = int(kept.sum())
    if number is not None:
        kept = best(_some(table, by, f"--best {number}"), kept, number)
    figures["kept"] = int(kept.sum())
    return kept, figures


def show(figures: dict, console: Console) -> None:
    """The report as a table."""
    shown = Table(title=counted(figures["clips"], "clip"))
    for heading in ("rule", "bound", "drops", "alone", "no value", "shares most with"):
        shown.add_column(heading, justify="left" if heading.startswith(("rule", "shares")) else "right")
    for row in figures["rules"]:
        most, number = max(row["shared"].items(), key=lambda item: item[1], default=("", 0))
        bound = "" if row["bound"] is None else f"{row['bound']:.4g}"
        shown.add_row(row["rule"], bound, str(row["drops"]), str(row["alone"]), str(row["unknown"]), f"{most}: {number}" if number else "")
    if figures["rules"]:
        console.print(shown)
    lost = f"{counted(figures['unread'], 'clip')} could not be read, " if figures["unread"] else ""
    alike = f", {figures['distinct']} of them distinct" if "distinct" in figures else ""
    console.print(f"{lost}{counted(figures['pass'], 'clip')} passed every rule{alike}, {figures['kept']} kept")


def main(args: list[str]) -> None:
    config, console = cli.parse(FilterConfig, args, "koala_jax.filter"), cli.console()
    if config.best is None and config.distinct is None:
        if not config.keep:
            raise ValueError('nothing to filter by: give --keep "vtss > 2.5", --distinct 0.95, --best N, or several of them')
        if config.by:
            raise ValueError(f"--by {config.by}: only --best and --distinct go by a column")
    table = read_table(config.scores, ("file",))
    if "file" not in table.column_names:
        raise ValueError(f"{config.scores} is no table of koala_jax.score: it has no column file")
    files = texts(table, "file", config.scores)
    kept, figures = apply(table, [Rule.parse(text) for text in config.keep], config.distinct, config.best, config.by or "")
    show(figures, console)
    table = table.filter(pa.array(kept))
    files = named_from(itertools.compress(files, kept), config.scores, config.out)
    write_parquet(config.out, table.set_column(table.column_names.index("file"), "file", pa.array(files, pa.string())))
    console.save(config.json, figures)
    caption = f"{cli.command('koala_jax.caption', config.out)} --model.directory DIR (or, without a model, --backend template)"
    following = f"{caption}, or {cli.command('videodit_jax.train', '--data', config.out)}" if figures["kept"] else "looser rules"
    console.print(f"wrote {config.out} ({counted(figures['kept'], 'row')}); next: {following}")


if __name__ == "__main__":
    cli.run(main)
