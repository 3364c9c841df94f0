"""Vript (github.com/mutonix/Vript): 12,000 videos, each cut into its scenes, each scene with a caption of about 145 words.

    vript_captions/…/<id>_caption.json           {"meta": {"video_title": …}, "data": {"<id>-Scene-001": {"caption": {"content": …, …}}, …}}
    vript_long_videos_clips/…/<id>_cut_meta.json {"clips": [{"clip_id": "<id>-Scene-001…", start, end}, …]}
    vript_long_videos/…/<id>.mp4                 the videos that were not cut

in any subfolders, zip files unpacked. Of a caption `content` is taken; shot type, camera movement and scene title are left. A scene may
lack its caption (`"integrity": false` says so of a video). When a scene begins and ends stands in the cut_meta files, of which the
documentation names the content but not the keys: `start_time` or `start`, `end_time` or `end` are read, as seconds or as h:mm:ss.

Licence: academic use only, no distribution. A tenth of the videos, by a hash of their names, is held out: Vript has no split.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from etils import epath

from owl_jax.data.films import LongVideo, by_stem, finite, runs
from videodit_jax.data.clips import HELD_OUT
from videodit_jax.data.shapes import Split

log = logging.getLogger(__name__)

CAPTIONS = "_caption.json"
CUTS = "_cut_meta.json"


def here(files: list[epath.Path]) -> bool:
    return any(path.name.endswith(CAPTIONS) for path in files)


def long_videos(files: list[epath.Path], clip_s: float, split: Split) -> Iterator[LongVideo]:
    """Those whose video and the times of its scenes are there; how many lack the times is said, and which files are not in this layout.

    Raises:
      ValueError: no file is in this layout, or no video has the times of its scenes.
    """
    there = by_stem(files)
    cuts = {path.name.removesuffix(CUTS): path for path in files if path.name.endswith(CUTS)}
    told = {path.name.removesuffix(CAPTIONS): path for path in files if path.name.endswith(CAPTIONS)}
    mine = [name for name in told if name in there and split_of(name) is split]
    if lacking := [name for name in mine if name not in cuts]:
        said = f"when the scenes of {len(lacking)} of {len(mine)} videos begin is not known, for there is no {lacking[0]}{CUTS}"
        if len(lacking) == len(mine):
            raise ValueError(f"{told[lacking[0]]}: {said}")
        log.warning("left out: %s", said)
    timed, failed = [name for name in mine if name in cuts], []
    for name, path in ((name, told[name]) for name in timed):
        try:
            content = json.loads(path.read_text())
            title, scenes = (content["meta"]["video_title"] or "").strip(), content["data"]
            times = _times(cuts[name])
            texts = {scene: entry["caption"]["content"] for scene, entry in scenes.items() if entry.get("caption")}
            captions = [(*times[scene], (text or "").strip()) for scene, text in texts.items() if scene in times]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            failed.append(f"{path}, {cuts[name].name}: not in the layout of Vript ({type(error).__name__}: {error})")
            continue
        if captions:
            yield from runs(there[name], title, captions, max(end for _, end in times.values()), clip_s)
    if failed and len(failed) == len(timed):
        raise ValueError(failed[0])
    for said in failed:
        log.warning("left out: %s", said)


def split_of(name: str) -> Split:
    """Of the video <id>; stays when others come or go."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
    return Split.HELD_OUT if place < HELD_OUT else Split.TRAIN


def _times(path: epath.Path) -> dict[str, tuple[float, float]]:
    """scene → (start_s, end_s)."""
    clips = json.loads(path.read_text())["clips"]
    return {clip["clip_id"].removesuffix(".mp4"): (_seconds(clip, "start"), _seconds(clip, "end")) for clip in clips}


def _seconds(clip: dict[str, Any], key: str) -> float:
    value = clip.get(f"{key}_time", clip.get(key))
    if value is None:
        raise ValueError(f"a scene has {', '.join(clip)}, but neither {key}_time nor {key}")
    return sum(finite(part) * 60**power for power, part in enumerate(reversed(str(value).split(":"))))
