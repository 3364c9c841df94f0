"""What `koala_jax.split` takes for the videos that it is given."""
import os
from pathlib import Path

from etils import epath

from koala_jax import split
from koala_jax.shots import inputs


def test_inputs_are_files_folders_and_globs(tmp_path, monkeypatch):
    for name in ("a/x.mp4", "a/b/x.MKV", "a/notes.txt", "c/y.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    out = tmp_path / "clips"
    found, failed = inputs.find([str(tmp_path / "a"), str(tmp_path / "a/x.mp4"), str(tmp_path / "?/y.*")], out)
    assert [Path(source.path).name for source in found] == ["x.MKV", "x.mp4", "y.bin"] and not failed
    assert len({source.name for source in found}) == 3 and found[0].name != found[1].name
    deep = str(tmp_path / "**/*.mp4")
    assert inputs.find([deep], out) == ([], {deep: "** is not taken: give the folder, which is searched with all that lie in it, or a * for each level"})
    (tmp_path / "c/link.MTS").symlink_to(tmp_path / "a/x.mp4")
    monkeypatch.chdir(tmp_path)
    for given, wanted in ((["a", "c", str(tmp_path / "a"), "c/../a/x.mp4"], {"a/x.mp4", "a/b/x.MKV"}), (["c"], {"c/link.MTS"})):
        assert {source.path for source in inputs.find(given, out)[0]} == {str(tmp_path / name) for name in wanted}, "each file once, however often and by whatever name it was given"
    long = inputs.Source(f"/a/{'漢' * 83}.mp4", 1, 1).name
    assert len(f".{long}.parquet.01234567.part".encode()) <= 255 and long.startswith("漢")

    def forbidden(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)
    assert inputs.find([str(tmp_path / "a")], out) == ([], {str(tmp_path / "a"): "cannot be read: Permission denied"})


def test_where_no_video_is_given_nothing_is_written(tmp_path, fails):
    """A mistyped name made a folder of empty tables, with a row for it that stayed there whatever was split into it later."""
    (tmp_path / "notes.txt").touch()
    said = fails(split.main, [str(tmp_path / "nothere"), str(tmp_path / "x*"), "--out", str(tmp_path / "shots")])
    assert said.startswith(f"there is no video to split: {tmp_path / 'nothere'} cannot be read: No such file or directory; ")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_where_a_folder_leads_is_asked_once_and_not_for_each_of_its_videos(tmp_path, monkeypatch):
    for k in range(20):
        (tmp_path / f"{k}.mp4").touch()
    (tmp_path / "again.mp4").symlink_to(tmp_path / "0.mp4")
    asked, realpath = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(path) or realpath(path))
    found = inputs.find([str(tmp_path)], tmp_path / "out", [str(tmp_path / "again.mp4")])[0]
    assert {Path(source.path).name for source in found} == {"again.mp4", *(f"{k}.mp4" for k in range(1, 20))} and len(asked) < 10


def test_what_was_cut_is_no_input(tmp_path, monkeypatch):
    """OUT may lie among the videos: the same command again must not split its own clips."""
    for name in ("x.mp4", "shots/clips/x-0/0000.mp4", "shots/a/b/clips.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    for given in ([".", str(tmp_path / "shots")], ["*.mp4", "*/*/*/*.mp4"]):
        found, failed = inputs.find(given, epath.Path("shots") / "clips")
        assert {Path(source.path).name for source in found} == {"x.mp4", "clips.mp4"} and not failed


def test_a_name_that_is_not_utf8_costs_itself_alone(tmp_path):
    bad = os.fsdecode(b"caf\xe9.mp4")
    for name in ("x.mp4", bad):
        (tmp_path / name).write_bytes(b"x")
    for given in ([str(tmp_path / "x.mp4"), str(tmp_path / bad)], [f"{tmp_path}/*.mp4"]):
        found, failed = inputs.find(given, tmp_path / "out")
        assert [Path(source.path).name for source in found] == ["x.mp4"]
        assert failed == {ascii(str(tmp_path / bad)): "its name is not UTF-8, which no table can hold"}


def test_what_failed_is_told_from_the_root_on_and_so_is_what_comes_in_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = epath.Path(tmp_path / "out")
    (tmp_path / "folder").mkdir()
    (tmp_path / "t.csv").touch()
    known = inputs.find(["a.mp4", "folder", "t.csv", "*.mkv", "b/**"], out)[1]
    assert list(known) == [f"{tmp_path}/{name}" for name in ("a.mp4", "folder", "t.csv", "*.mkv", "b/**")]
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert [source.path for source in inputs.find(["a.mp4"], out, known)[0]] == [f"{tmp_path}/a.mp4"]
