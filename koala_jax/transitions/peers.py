"""Other detectors, run on the same files: PySceneDetect's, and TransNetV2 where it is installed.

Each is given a path and decodes as it pleases; what comes back is compared as ours is. Their cuts are points, their clips lie between.
"""
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

from koala_jax.transitions import Detection, Transition, Type

Peer = Callable[[Path], Detection]


def _between(cuts: list[tuple[int, int]], frames: int) -> Detection:
    """Transitions from (first, last) mixed or new frames, clips from what lies between."""
    transitions = [Transition(a, b, Type.UNKNOWN, 1.0) for a, b in cuts]
    starts, stops = [0] + [b if a == b else b + 1 for a, b in cuts], [a for a, _ in cuts] + [frames]
    return Detection(transitions, [(a, b) for a, b in zip(starts, stops) if b > a], {})


def scenedetect(name: str) -> Peer:
    """One of PySceneDetect's detectors with its default settings."""

    def detect(path: Path) -> Detection:
        import scenedetect

        stream = scenedetect.open_video(str(path))
        manager = scenedetect.SceneManager()
        manager.add_detector(getattr(scenedetect, name)())
        manager.detect_scenes(stream)
        scenes = [(a.frame_num, b.frame_num) for a, b in manager.get_scene_list(start_in_scene=True)]
        return _between([(a, a) for a, _ in scenes[1:]], scenes[-1][1] if scenes else stream.frame_number)

    return detect


def scenedetect_frames(path: Path) -> None:
    """Decodes as PySceneDetect does, and looks at nothing."""
    import scenedetect

    stream = scenedetect.open_video(str(path))
    while stream.read() is not False:
        pass


def transnetv2() -> Peer:
    """TransNetV2 with the weights of its package, at its threshold of 0.5."""
    from transnetv2 import TransNetV2

    model = TransNetV2()

    def detect(path: Path) -> Detection:
        frames, single, _ = model.predict_video(str(path))
        scenes = [(int(a), int(b)) for a, b in model.predictions_to_scenes(single)]
        return _between([(end + 1, max(end + 1, start)) for (_, end), (start, _) in zip(scenes, scenes[1:])], len(frames))

    return detect


def available() -> tuple[dict[str, Peer], list[str]]:
    """The peers that are installed, by name, and a sentence for each that is not."""
    peers: dict[str, Peer] = {}
    missing = []
    if importlib.util.find_spec("scenedetect"):
        logging.getLogger("pyscenedetect").setLevel(logging.WARNING)
        peers |= {f"PySceneDetect {kind}": scenedetect(f"{kind}Detector") for kind in ("Content", "Adaptive", "Hash", "Histogram")}
    else:
        missing.append("PySceneDetect is left out: pip install scenedetect")
    if importlib.util.find_spec("transnetv2"):
        try:
            peers["TransNetV2"] = transnetv2()
        except (OSError, ValueError, ImportError) as error:
            missing.append(f"TransNetV2 is left out: its weights cannot be loaded ({type(error).__name__})")
    else:
        missing.append("TransNetV2 is left out: its package is not installed")
    return peers, missing
