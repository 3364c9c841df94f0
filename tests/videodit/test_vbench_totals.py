"""VBench's totals: what was published follows from its cells."""
import csv
import os
from collections import defaultdict
from pathlib import Path

import pytest

from videodit_jax.evaluate import totals
from videodit_jax.evaluate.totals import I2V, I2V_OWL_1, LONG, OWL_1_I2V, OWL_1_LONG, Dimension as D

CRAFTER = dict(zip(I2V_OWL_1.dimensions, (0.9817, 0.9860, 0.9569, 0.9738, 0.9738, 0.4740, 0.6646, 0.6934, 0.9763)))
KLING = dict(zip(OWL_1_LONG, (0.9833, 0.9760, 0.9940, 0.4694, 0.6121, 0.6562, 0.9930))) | dict(
    zip(totals.SEMANTIC, (0.8724, 0.6805, 0.9340, 0.8990, 0.7303, 0.5086, 0.1962, 0.2417, 0.2642))
)


@pytest.mark.parametrize(
    ("form", "cells", "total"),
    [(I2V_OWL_1, CRAFTER, 90.25), (I2V_OWL_1, OWL_1_I2V, 89.15), (LONG, KLING, 81.85), (LONG, OWL_1_LONG, 79.65)],
    ids=["DynamiCrafter-1024", "Owl-1", "Kling", "Owl-1 long"],
)
def test_published_totals_follow_from_their_cells(form, cells, total):
    assert 100 * form(cells) == pytest.approx(total, abs=0.01)


@pytest.mark.skipif("VIDEOGEN_TEST_DATA" not in os.environ, reason="VIDEOGEN_TEST_DATA names no folder with ../papers/owl-1-vbench-tables.csv")
@pytest.mark.parametrize(("table", "form", "rows"), [("vbench_i2v", I2V_OWL_1, 8), ("vbench_long", LONG, 10)])
def test_every_published_total(table, form, rows):
    cells = defaultdict(dict)
    with (Path(os.environ["VIDEOGEN_TEST_DATA"]).parent / "papers" / "owl-1-vbench-tables.csv").open() as file:
        for row in csv.DictReader(file):
            if row["table"] == table:
                cells[row["method"]][row["metric"]] = float(row["value"])
    assert len(cells) == rows
    for method, row in cells.items():
        assert 100 * form({D(name): value / 100 for name, value in row.items() if name != "total"}) == pytest.approx(row["total"], abs=0.01), method
    stated = OWL_1_I2V if form is I2V_OWL_1 else OWL_1_LONG
    assert {d.value: pytest.approx(100 * value) for d, value in stated.items()} == {k: v for k, v in cells["Owl-1"].items() if k != "total"}


def test_todays_form_has_camera_motion_and_no_flickering():
    assert set(I2V.dimensions) - set(I2V_OWL_1.dimensions) == {D.CAMERA_MOTION}
    assert set(I2V_OWL_1.dimensions) - set(I2V.dimensions) == {D.TEMPORAL_FLICKERING}
    with pytest.raises(ValueError, match="wants camera_motion too"):
        I2V(OWL_1_I2V)
    cells = OWL_1_I2V | {D.CAMERA_MOTION: 0.3}
    gain = 0.1 * (0.8 - 0.3) / 2.1 / 2
    assert I2V(cells | {D.CAMERA_MOTION: 0.8}) - I2V(cells) == pytest.approx(gain)


def test_a_total_over_fewer_dimensions_is_a_mean_of_those():
    some = LONG.over([D.TEMPORAL_FLICKERING, D.DYNAMIC_DEGREE])
    assert some({D.TEMPORAL_FLICKERING: 1.0, D.DYNAMIC_DEGREE: 0.0}) == pytest.approx(1 / 1.5)
    assert LONG.over(D)(OWL_1_LONG) == LONG(OWL_1_LONG)
    with pytest.raises(ValueError, match="over` those that there are"):
        LONG.over([])({})


def test_weights_sum_as_vbench_says():
    assert sum(totals.QUALITY.values()) == 5.5 and len(totals.SEMANTIC) == 9 and len(LONG.dimensions) == 16
