"""What a training was begun with binds a rerun."""
import json

import pytest

from koala_jax.begun import refuse_other

SETTINGS = {"steps": 5, "seed": 0}


def test_only_a_checkpoint_binds_and_what_cannot_be_read_is_named(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"steps": 5, "seed": 1}))
    refuse_other(tmp_path, SETTINGS)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(ValueError, match="seed was 1, now 0"):
        refuse_other(tmp_path, SETTINGS)
    config.write_text("{")
    with pytest.raises(ValueError, match="config.json does not hold a training's settings"):
        refuse_other(tmp_path, SETTINGS)
    config.write_text(json.dumps(SETTINGS))
    refuse_other(tmp_path, SETTINGS)
