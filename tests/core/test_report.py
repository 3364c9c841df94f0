import jax.numpy as jnp
import pytest
from etils import epath

from core_jax.report import Report, ReportConfig

METRICS = {"loss": 1.0, "skipped": 0.0}


@pytest.mark.parametrize("last", [2, 9])
def test_a_profile_is_written_at_its_last_step_or_where_the_run_ends(tmp_path, last, capsys):
    report = Report(epath.Path(tmp_path), ReportConfig(tensorboard=False, profile=(1, last)), start=0, steps=3, batch=1, flops=1.0)
    for number in range(1, 4):
        jnp.ones(number).block_until_ready()
        report.step(number, METRICS)
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (number >= last)
    report.close()
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert "wrote a profile" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [(0, 2), (3, 3), (5, 4)])
def test_a_profile_that_cannot_be_is_refused(steps):
    with pytest.raises(ValueError, match=f"--report.profile {steps[0]} {steps[1]}"):
        ReportConfig(profile=steps)
