"""`python -m videodit_jax.evaluate`: figures of files, what is left out, the manifest, going on where it stopped."""
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from core_jax.video_out import write_video
from koala_jax.aesthetic import predictor
from koala_jax.aesthetic.clip import CLIPConfig
from tests.core.video_files import make
from tests.videodit.test_vbench import sliding
from videodit_jax.evaluate import __main__ as command
from videodit_jax.evaluate import clips, measure
from videodit_jax.evaluate import report as reports
from videodit_jax.evaluate.__main__ import main
from videodit_jax.evaluate.measure import Judges
from videodit_jax.evaluate.totals import OWL_1_LONG, Dimension

SIZES = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=224)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos of 2 s, one of 5 s, and one that is none; an image of the first frame of each."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "images").mkdir()
    for i, (speed, frames) in enumerate(((0, 16), (1, 16), (3, 16), (1, 40))):
        video = sliding(speed, frames)
        write_video(folder / f"{i}.mp4", video, 8)
        Image.fromarray(video[0]).save(folder / "images" / f"{i}.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def run(*args):
    main([*map(str, args)])
    out = args[args.index("--json") + 1]
    return json.loads(out.read_text())


def test_figures_of_a_folder(videos, tmp_path, capsys):
    result = run(videos, "--json", tmp_path / "a.json")
    shown = capsys.readouterr().out
    assert "4 videos, 1 left out" in shown and "broken.mp4: FFmpeg says" in shown and "pixels" in shown
    assert f"manifest {result['manifest'][:16]}" in shown and "a.json" in shown and "no total" in shown
    assert result["dimensions"]["dynamic_degree"]["mean"] == 0.25 and result["dimensions"]["subject_consistency"]["videos"] == 4
    assert result["dimensions"]["subject_slow"]["videos"] == 1, "one of the four is long"
    assert len(result["videos"]) == 4 and list(result["left_out"].values()) and not result["totals"]
    still = result["videos"][str(videos / "0.mp4")]
    assert still["subject_consistency"] > 0.9999 and still["dynamic_degree"] == 0 and still["motion_smoothness"] > 0.999
    low, mean, high = (result["dimensions"]["temporal_flickering"][name] for name in ("low", "mean", "high"))
    assert low < mean < high


def test_a_link_to_nowhere_costs_itself_alone(videos, tmp_path):
    shutil.copy(videos / "1.mp4", tmp_path / "b.mp4")
    (tmp_path / "a.mp4").symlink_to("nowhere.mp4")
    result = run(tmp_path, "--json", tmp_path / "figures.json")
    assert list(result["videos"]) == [str(tmp_path / "b.mp4")]
    assert result["left_out"] == {str(tmp_path / "a.mp4"): "cannot be read: No such file or directory"}


def test_who_measures_the_same_gets_the_same_manifest_and_repeats_nothing(videos, tmp_path, monkeypatch):
    first = run(videos / "1.mp4", videos / "2.mp4", "--json", tmp_path / "a.json")
    for name in ("1.mp4", "2.mp4"):
        shutil.copy(videos / name, tmp_path / f"renamed {name}")
    renamed = run(tmp_path / "renamed 2.mp4", tmp_path / "renamed 1.mp4", "--json", tmp_path / "b.json")
    assert renamed["manifest"] == first["manifest"] and list(renamed["videos"].values()) == list(first["videos"].values())[::-1]
    measured, add = [], measure.Measurement.add
    monkeypatch.setattr(measure.Measurement, "add", lambda self, clip: measured.append(1) or add(self, clip))
    more = run(videos / "1.mp4", videos / "2.mp4", videos / "0.mp4", "--json", tmp_path / "a.json")
    assert len(measured) == 1 and more["manifest"] != first["manifest"]
    assert {name: more["videos"][name] for name in first["videos"]} == first["videos"]
    monkeypatch.setattr(clips, "CLIP_SECONDS", 1)
    assert reports.manifest(Judges.load().settings(), []) != reports.manifest(first["settings"], [])


def test_hosts_take_the_videos_in_turn_and_the_first_says_what_all_found(videos, tmp_path, monkeypatch, fails):
    host, told = 1, {0: [], 1: []}

    class Waits(Exception):
        """For the first host."""

    def gathered(value):
        told[host].append(value)
        if host == 1 and len(told[1]) == 2:
            raise Waits
        return [value, told[1][len(told[host]) - 1]]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: host)
    monkeypatch.setattr(command, "gathered", gathered)
    config = command.EvaluateConfig((str(videos),))
    with pytest.raises(Waits):
        command.evaluate(config, Console(quiet=True))
    host = 0
    found = command.evaluate(config, Console(quiet=True))
    (ours, reasons), (theirs, _) = (told[i][1] for i in (0, 1))
    assert len(ours) == len(theirs) == 2 and not ours.keys() & theirs.keys() and len(reasons) == 1
    assert list(found[2]["videos"]) == [str(videos / f"{i}.mp4") for i in range(4)] and "broken" in str(found[2]["left_out"])
    monkeypatch.setattr(command, "evaluate", lambda *_: found)
    for host in (1, 0):
        main([str(videos), "--json", str(tmp_path / f"{host}.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]
    monkeypatch.undo()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(command, "gathered", lambda value: [value, "other"])
    assert "has to see the same videos" in fails(main, [str(videos)])


def test_with_images_models_and_totals(videos, tmp_path, monkeypatch):
    torch.manual_seed(0)
    ViTModel(ViTConfig(**SIZES, patch_size=56)).save_pretrained(tmp_path / "dino")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, patch_size=56, projection_dim=8)).save_pretrained(tmp_path / "clip")
    large = CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, patch_size=56, projection_dim=768))
    save_file({name: x.contiguous() for name, x in large.state_dict().items()}, tmp_path / "large.safetensors")
    torch.save(torch.nn.Linear(768, 1).state_dict(), tmp_path / "head.pth")
    small = CLIPConfig(224, 56, 16, 1, 2, 24, 768)
    monkeypatch.setattr(measure, "load_clip", lambda path: predictor.load_clip(path, small))
    monkeypatch.setattr(Judges, "comparable", True)  # these are smaller than VBench's
    result = run(
        videos / "1.mp4", videos / "3.mp4", "--images", videos / "images", "--subject", tmp_path / "dino", "--background", tmp_path / "clip",
        "--aesthetic", tmp_path / "large.safetensors", tmp_path / "head.pth", "--json", tmp_path / "a.json",
    )  # fmt: skip
    rows = result["dimensions"]
    assert rows["i2v_subject"]["by"].startswith("dino 16×1/56") and rows["i2v_background"]["by"].startswith("clip 16×1/56")
    assert "background_fast" in rows and "CLIP ViT-L/14" in rows["aesthetic_quality"]["by"]
    today = result["totals"]["VBench-I2V"]
    assert today["without"] == ["camera_motion", "imaging_quality"] and today["dimensions"] == 7
    assert set(result["totals"]) == {"VBench-I2V", "VBench-I2V as Owl-1 has it"}
    assert today["by_other_means"] == ["i2v_background", "subject_consistency", "background_consistency", "motion_smoothness", "dynamic_degree"]


def test_bad_input_is_one_sentence(videos, tmp_path, fails):
    assert "there is no file or folder" in fails(main, [str(tmp_path / "none.mp4")])
    (tmp_path / "empty").mkdir()
    assert "no video in" in fails(main, [str(tmp_path / "empty")])
    assert "none of 1 videos can be judged" in fails(main, [str(videos / "broken.mp4")])
    assert "has no image for 1 of 1 videos, such as broken.mp4, which wants broken.png" in fails(
        main, [str(videos / "broken.mp4"), "--images", str(videos / "images")]
    )
    (tmp_path / "1.png").write_bytes(b"no image")
    assert "1.png: cannot be read as an image" in fails(main, [str(videos / "1.mp4"), "--images", str(tmp_path)])
    shutil.copy(videos / "images" / "2.png", tmp_path)
    some = run(videos / "1.mp4", videos / "2.mp4", "--images", tmp_path, "--json", tmp_path / "some.json")
    assert list(some["videos"]) == [str(videos / "2.mp4")] and "1.png: cannot be read" in some["left_out"][str(videos / "1.mp4")]
    write_video(tmp_path / "short.mp4", sliding(1, 2), 8)
    assert "short.mp4: has 2 frames, and at least 3 are needed" in fails(main, [str(tmp_path / "short.mp4")])
    whole = make(tmp_path / "whole.mkv", 20, codec="mpeg4").read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    assert "half.mkv: ends after 0." in (said := fails(main, [str(tmp_path / "half.mkv")])) and "0.8 s are declared" in said
    assert "--workers 0" in fails(main, [str(videos), "--workers", "0"])


def test_who_stops_is_told_from_where_it_goes_on(monkeypatch):
    monkeypatch.setattr(command, "evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for args, said in (["--json", "x.json"], r"goes on from what is measured in x.json.parts"), ([], "without --json nothing is kept"):
        with pytest.raises(SystemExit, match=f"^stopped: .*{said}"):
            main(["clip.mp4", *args])


def test_without_images_there_is_the_quality_part_of_the_long_total():
    judges = SimpleNamespace(comparable=True)
    rows = {d: {"mean": value} for d, value in OWL_1_LONG.items() if d in (Dimension.TEMPORAL_FLICKERING, Dimension.DYNAMIC_DEGREE)}
    total = reports.totals_of(rows, judges)["VBench-Long"]
    assert total["total"] == total["owl_1_published"] and total["dimensions"] == 2 and len(total["without"]) == 14
    assert set(total["by_other_means"]) == {"temporal_flickering", "dynamic_degree"}
    assert reports.totals_of(rows, SimpleNamespace(comparable=False)) == {}


def test_totals_take_models_of_vbenchs_sizes():
    dino, clip, small = (SimpleNamespace(name=f"{name} (0123abcd)") for name in ("dino 768×12/16", "clip 768×12/32", "dino 384×12/16"))
    assert Judges(dino, clip, None, None).comparable and not Judges(small, clip, None, None).comparable and not Judges(dino, None, None, None).comparable


def test_intervals_are_of_means_over_videos():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = reports.interval(values)
    assert values.mean() - low == pytest.approx(1.96 * 0.1 / 20, rel=0.15) and high - values.mean() == pytest.approx(1.96 * 0.1 / 20, rel=0.15)
    assert reports.interval(values[:1]) == (None, None)
    rows = reports.summary([{Dimension.CLARITY: 0.2}, {Dimension.CLARITY: 0.4, Dimension.DYNAMIC_DEGREE: 1.0}])
    assert rows[Dimension.CLARITY]["mean"] == pytest.approx(0.3) and rows[Dimension.DYNAMIC_DEGREE]["videos"] == 1
