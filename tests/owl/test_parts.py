"""The clips of a film in the making, on the disk."""
import numpy as np
import pytest
from etils import epath

from owl_jax.parts import Parts
from owl_jax.world import Turn


def test_a_clip_that_followed_another_text_goes_with_all_behind_it_in_any_folder(tmp_path):
    parts, clips = Parts(epath.Path(tmp_path) / ".film [1].clips", {"seed": 0}), np.zeros((1, 4, 8, 8, 3), np.uint8)
    parts.begin(clips[0, 0])
    for t, said in enumerate(("it comes", "it rests", "it leaves")):
        parts.write(t, Turn(clips + t, [said], np.array([True])))
    assert (parts.made(0, ["it comes"]) == 0).all() and (parts.made(2, ["it leaves"]) == 2).all()
    assert parts.made(1, ["it turns"]) is None
    assert [parts.said(t) for t in range(3)] == [["it comes"], None, None] and parts.first() is not None


@pytest.mark.parametrize("left", [0, 100])
def test_what_a_host_lost_as_it_went_down_is_as_if_it_had_not_been_made(left, tmp_path, caplog):
    parts, clips = Parts(epath.Path(tmp_path), {"seed": 0}), np.zeros((1, 4, 8, 8, 3), np.uint8)
    parts.begin(clips[0, 0])
    for t in range(3):
        parts.write(t, Turn(clips, ["it rests"], np.array([True])))
    for name in ("000001.npz", "first.npy"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:left])
    assert parts.first() is None and parts.said(1) is None and parts.said(2) == ["it rests"]
    assert parts.made(0, ["it rests"]) is not None and parts.made(1, ["it rests"]) is None
    assert "000001.npz is broken, and what it held is made again" in caplog.text
    assert [path.name for path in tmp_path.glob("*.npz")] == ["000000.npz"], "what was behind it followed it"


def test_settings_that_were_lost_are_not_taken_for_ones_own(tmp_path):
    (tmp_path / "film.json").touch()
    with pytest.raises(ValueError, match="holds the clips of another film"):
        Parts(epath.Path(tmp_path), {"seed": 0})


def test_what_tells_whose_the_clips_are_is_the_last_to_go(tmp_path, monkeypatch):
    parts, clips = Parts(epath.Path(tmp_path) / "clips", {"seed": 0}), np.zeros((1, 4, 8, 8, 3), np.uint8)
    parts.begin(clips[0, 0])
    parts.write(0, Turn(clips, [""], np.array([True])))
    with monkeypatch.context() as stopped:
        stopped.setattr(type(parts.folder), "rmtree", lambda folder: None)
        parts.remove()
    assert [path.name for path in parts.folder.iterdir()] == ["film.json"]
    parts.remove()
    assert not parts.folder.exists()
