"""Pictures: what is written can be read back and shows what it should."""
import numpy as np
import pytest
from etils import epath
from PIL import Image

from core_jax.video import frames
from videodit_jax import plain
from videodit_jax.data.folder import listed
from videodit_jax.media import contact_sheet, tile, write_gif, write_samples

VIDEOS = np.stack([np.full((6, 16, 24, 3), value, np.uint8) for value in (30, 120, 220)])


def test_tile_places_each_video_once():
    tiled = tile(VIDEOS)
    assert tiled.shape[0] == 6 and tiled.shape[1] >= 2 * 16 and tiled.shape[2] >= 2 * 24
    scale = tiled.shape[1] // (2 * 18)
    for value in (30, 120, 220):
        assert (tiled[0, :, :, 0] == value).sum() == 16 * 24 * scale**2


def test_contact_sheet_has_a_row_a_video_and_a_column_a_frame():
    video = np.stack([np.full((16, 24, 3), 40 * i, np.uint8) for i in range(6)])[None]
    sheet = np.asarray(contact_sheet(video, ["brightening"]))
    for i in range(6):
        assert (sheet == 40 * i).all(-1).any()
    assert np.asarray(contact_sheet(VIDEOS, ["a", "b", "c"])).shape[0] == 3 * np.asarray(contact_sheet(VIDEOS[:1], ["a"])).shape[0]


def test_samples_can_be_read_back(tmp_path):
    paths = write_samples(epath.Path(tmp_path) / "clips.v1", VIDEOS, ["a", "b", "c"], fps=8)
    assert sorted(p.name for p in epath.Path(tmp_path).iterdir()) == ["clips.v1.gif", "clips.v1.mp4", "clips.v1.png"]
    assert sorted(p.name for p in paths) == ["clips.v1.gif", "clips.v1.mp4", "clips.v1.png"]
    tiled = tile(VIDEOS)
    with Image.open(tmp_path / "clips.v1.gif") as gif:
        assert gif.n_frames >= 1 and gif.size == (tiled.shape[2], tiled.shape[1])
    decoded = [frame for _, _, frame in frames(str(tmp_path / "clips.v1.mp4"))]
    assert len(decoded) == 6
    error = np.abs(decoded[0][: tiled.shape[1], : tiled.shape[2]].astype(int) - tiled[0]).mean()
    assert error < 12, error


@pytest.mark.parametrize("size", [(16, 24), (80, 96)])
def test_one_video_alone_is_written_as_it_is(size, tmp_path):
    """Without a border and not enlarged."""
    write_samples(epath.Path(tmp_path) / "x", ramp(*size)[None], ["x"], fps=8)
    assert_plain(tmp_path / "x.mp4", ramp(*size))


def ramp(height: int, width: int) -> np.ndarray:
    return np.stack([np.add.outer(np.arange(height), np.arange(width)) + 10 * i for i in range(5)]).astype(np.uint8)[..., None].repeat(3, -1)


def assert_plain(path, video) -> None:
    decoded = np.stack([frame for _, _, frame in frames(str(path))])
    assert decoded.shape == video.shape and np.abs(decoded.astype(int) - video).max() <= 6


def test_a_folder_of_videos_takes_the_place_of_the_one_before_and_of_no_other(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path) / "x"
    rows = [{"file": f"{seed:04}.mp4", "caption": "a, b", "motion": motion, "seed": seed} for seed, motion in ((5, 0.5), (6, None), (7, 2.0))]
    videos = np.stack([ramp(16, 24) + i for i in range(3)])
    (tmp_path / ".x.part").mkdir()
    (tmp_path / ".x.part" / "half.mp4").touch()  # of a writer that was killed
    assert plain.replace(folder, videos, rows, 8) == [folder]
    assert sorted(path.name for path in folder.iterdir()) == ["0005.mp4", "0006.mp4", "0007.mp4", "videos.csv"]
    for row, video in zip(rows, videos):
        assert_plain(folder / row["file"], video)
    assert listed(folder)[2] == {row["file"]: ("a, b", pytest.approx({"motion": row["motion"] or np.nan, "aesthetic": np.nan, "clarity": np.nan, "vtss": np.nan}, nan_ok=True)) for row in rows}
    monkeypatch.setattr(plain, "write_video", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        plain.replace(folder, videos[:1], [rows[0] | {"file": "new.mp4"}], 8)
    assert not (folder / "new.mp4").exists()
    monkeypatch.undo()
    plain.refuse_others(folder)
    plain.replace(folder, videos[:2], rows[1:], 8)
    assert sorted(path.name for path in folder.iterdir()) == ["0006.mp4", "0007.mp4", "videos.csv"]
    (folder / "mine.txt").touch()
    with pytest.raises(ValueError, match="x, which holds something else: take another --out"):
        plain.refuse_others(folder)
    assert plain.replace(folder, [], [], 8) == [] and folder.exists()
    (folder / "mine.txt").unlink()
    assert plain.replace(folder, [], [], 8) == [] and not list(tmp_path.iterdir())
    folder.mkdir()
    for table in ("", "file;seed\na.mp4;1\n", "file,caption\na.mp4,a\n"):  # of somebody else
        (folder / "videos.csv").write_text(table)
        assert plain.replace(folder, [], [], 8) == [] and folder.exists()


def test_a_folder_of_videos_in_a_store(bucket):
    rows = [{"file": f"{seed:04}.mp4", "caption": "", "seed": seed} for seed in (1, 2)]
    plain.replace(bucket / "x", np.stack([ramp(16, 24)] * 2), rows, 8)
    plain.replace(bucket / "x", np.stack([ramp(16, 24)] * 2), [rows[1], rows[0] | {"file": "0003.mp4", "seed": 3}], 8)
    assert sorted(path.name for path in (bucket / "x").iterdir()) == ["0002.mp4", "0003.mp4", "videos.csv"]


@pytest.mark.parametrize("fps, milliseconds", [(8, 120), (15, 70), (24, 40), (60, 20), (1000, 20)])
def test_a_gif_shows_a_frame_for_as_near_its_time_as_it_can(fps, milliseconds, tmp_path):
    write_gif(tmp_path / "x.gif", (np.full((8, 8, 3), 40 * i, np.uint8) for i in range(2)), fps)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.info["duration"] == milliseconds


def test_a_gif_of_frames_one_after_the_other(tmp_path):
    write_gif(tmp_path / "x.gif", (np.full((8, 8, 3), 40 * i, np.uint8) for i in range(5)), 8)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 5 and gif.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
        gif.seek(4)
        assert gif.convert("RGB").getpixel((0, 0)) == (160, 160, 160)


def test_a_still_gif_keeps_its_frames_apart(tmp_path):
    moving = np.stack([np.full((1, 8, 8, 3), 40 * i, np.uint8) for i in range(5)], 1)
    write_samples(epath.Path(tmp_path) / "x", moving, ["x"], fps=8)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 5
