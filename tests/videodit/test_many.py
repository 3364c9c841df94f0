"""What opening a million clips would make slow or large, counted on a few."""
import hashlib
import json

import pytest
from etils import epath

from videodit_jax import data
from videodit_jax.config import TrainConfig
from videodit_jax.data import folder
from videodit_jax.data.clips import SetAside
from videodit_jax.text import TextConfig

VIDEO = (4, 12, 16)


@pytest.fixture
def halves() -> tuple[folder.Folder, folder.Folder]:
    """Of videos that are nowhere."""
    videos = [folder.Video(f"{k}.mp4", 100 + k, 0.0, 25.0, 2, f"{k}: " + "a word " * 20, {"motion": k / 3}) for k in range(10)]
    return tuple(folder.Folder(epath.Path("nowhere"), some, VIDEO, None, SetAside()) for some in (videos[:8], videos[8:]))


def test_the_fingerprint_is_of_the_json_of_all_videos_without_holding_it(halves, monkeypatch):
    train, whole, made = halves[0], json.dumps, []
    said = whole([VIDEO[0], [list(vars(video).values()) for video in train.videos]])
    monkeypatch.setattr(json, "dumps", lambda value: made.append(whole(value)) or made[-1])
    assert train.fingerprint == hashlib.sha256(said.encode()).hexdigest()[:32]
    assert len(made) == 8 and max(map(len, made)) < len(said) / 4


@pytest.mark.parametrize(("counted", "said"), [(100, "10 of 10 captions are"), (3, "3 of 3 captions looked at are")])
def test_of_many_captions_some_tell_whether_they_are_cut(halves, counted, said, tmp_path, monkeypatch, caplog):
    looked, pieces = [], TextConfig.pieces
    monkeypatch.setattr(TextConfig, "pieces", lambda text, caption: looked.append(caption) or pieces(text, caption))
    monkeypatch.setattr(folder, "open_splits", lambda *_, **__: halves)
    monkeypatch.setattr(data, "COUNTED", counted, raising=False)
    data.open_sources(TrainConfig(data=str(tmp_path), frames=VIDEO[0], size="12x16"))
    assert len(looked) == min(counted, 10) and f"{said} longer than the 16 words and marks that are read" in caplog.text
