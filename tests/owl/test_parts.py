"""The clips of a film in the making, on the disk."""
import numpy as np
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
