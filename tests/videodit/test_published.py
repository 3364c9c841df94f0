"""The comparison with published steps, without compiling them."""
import dataclasses

import numpy as np
import pytest

from core_jax.pod.compiled import Misfit
from core_jax.pod.plan import Plan
from core_jax.pod.topology import parse
from videodit_jax import published
from videodit_jax.model import forward_flops


@pytest.mark.parametrize("one", published.PUBLISHED, ids=lambda one: one.name)
def test_each_step_is_the_published_size(one):
    config = one.config
    assert np.prod(config.model.grid(config.video)) == 75_600
    flops = forward_flops(config.model, config.video)
    assert 0.6 < flops.attention / (flops.train / 3) < 0.75, "attention is 72 % of theirs"
    which = parse(one.topology)
    assert np.prod(config.mesh.shape(which.chips * which.chip.devices)) == which.chips * which.chip.devices


@pytest.mark.parametrize("seconds, error, valid", [(36.0, 0.0, True), (44.0, 44 / 36 - 1, True), (20.0, 20 / 36 - 1, False), (None, None, False)])
def test_the_error_of_an_estimate(seconds, error, valid):
    one = published.PUBLISHED[0]
    misfit = Misfit(3 * 2**30, 2**30) if seconds is None else None
    made = None if misfit else dataclasses.make_dataclass("Made", ["step"])(seconds)
    figures = published.row(one, Plan(parse(one.topology), {"data": 1}, {}, 0.0, misfit, estimate=made))
    assert (figures["error"], figures["valid"]) == (error, valid)
    cells = published.cells(figures)
    assert len(cells) == len(published.HEAD) and ("2.00 GiB more" in cells[4]) == (seconds is None)


def test_a_program_that_cannot_be_read_is_a_row_too():
    figures = published.row(published.PUBLISHED[1], RuntimeError("cannot be read"))
    assert figures["error"] is None and not figures["valid"] and published.cells(figures)[4] == "cannot be read"
