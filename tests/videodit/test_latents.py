"""Videos become latents once, training reads these, and samples are decoded again."""
import dataclasses
import weakref

import jax
import numpy as np
import pytest
from PIL import Image

from core_jax import cli, mesh
from core_jax.video import VideoError
from tests.core.video_files import make
from tests.videodit import small, small_autoencoder
from videodit_jax import latents, maker, sample, train
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.conditioning import with_further
from videodit_jax.config import Dtype, refuse_other_run
from videodit_jax.data import open_sources
from videodit_jax.data.clips import datasets
from videodit_jax.data.folder import Folder
from videodit_jax.data.records import open_splits
from videodit_jax.presets import PRESETS, preset
from videodit_jax.run import Run, to_sample

SIZE = ["--frames", "5", "--size", "16x16"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with the videos, the autoencoder and the dataset of latents."""
    root = tmp_path_factory.mktemp("latents")
    (root / "videos").mkdir()
    for name in "abc":
        make(root / "videos" / f"{name}.mp4", 12)
    (root / "videos" / "table.csv").write_text("file,caption,motion,flicker\na.mp4,seven,1.5,0.25\n")
    (root / "videos" / "d.mp4").write_text("no video")
    small_autoencoder.write(root / "vae")
    with pytest.MonkeyPatch.context() as patch:
        alone(patch)
        latents.main(flags(root))
    return root


def alone(patch):
    """One device, so that clips go one by one."""
    patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])


def flags(root, out="set"):
    return ["--data", str(root / "videos"), "--autoencoder", str(root / "vae"), "--out", str(root / out), *SIZE, "--scores", "flicker"]


def config(root, *more):
    return train.parse(["--preset", "tiny", "--autoencoder", str(root / "vae"), "--data", str(root / "set"), *SIZE, *more])


def test_the_dataset_holds_the_latents_of_every_clip(there):
    halves = open_splits(there / "set", config(there).stored, scores=("motion", "flicker"))
    clips = [half[i] for half in halves for i in range(len(half))]
    assert len(clips) == 6 and sorted(clip["caption"] for clip in clips)[-2:] == ["seven", "seven"]
    assert all(clip["scores"] == {"motion": 1.5, "flicker": 0.25} for clip in clips if clip["caption"])
    codec = Codec(there / "vae", mesh.build(), Dtype.FLOAT32.jax)
    folder = [half for half in latents.open_splits(there / "videos", (5, 16, 16)) if any(video.file == "a.mp4" for video in half.videos)][0]
    mine = [i for i in range(len(folder)) if folder[i]["caption"]]
    want = codec.encode(np.stack([folder[i]["video"] for i in mine]))
    np.testing.assert_allclose([clip["video"] for clip in clips if clip["caption"]], want, atol=2e-3)
    assert not (there / "set.parts").exists()


def test_a_rerun_encodes_only_what_is_missing(there, monkeypatch, capsys):
    calls = []
    encode = Codec.encode

    def counted(self, videos):
        calls.append(len(videos))
        if sum(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, videos)

    monkeypatch.setattr(Codec, "encode", counted)
    alone(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        latents.main(flags(there, "again"))
    assert not (there / "again").exists() and len(list((there / "again.parts").iterdir())) == 3
    calls.clear()
    monkeypatch.setattr(cli, "SAY_SECONDS", 0)
    latents.main(flags(there, "again"))
    said = capsys.readouterr().out
    assert len(calls) == 3 and "6 clips" in said and "1 of 3 clips, " in said
    wanted = config(there).stored
    for one, other in zip(open_splits(there / "set", wanted), open_splits(there / "again", wanted)):
        assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("broken, said", [("training", "of 4 clips to train on none decodes"), ("all", "of 6 clips none decodes")])
def test_clips_that_leave_nothing_to_train_on_are_refused(broken, said, there, monkeypatch, fails):
    read, training = Folder.read, latents.open_splits(there / "videos", (5, 16, 16), scores=with_further(("flicker",)))[0].fingerprint

    def reads(self, clip):
        if broken == "all" or self.fingerprint == training:
            raise VideoError("a.mp4", "is broken inside")
        return read(self, clip)

    monkeypatch.setattr(Folder, "read", reads)
    alone(monkeypatch)
    assert said in fails(latents.main, flags(there, "none"))
    assert not list(there.glob("none*"))


def test_each_of_two_hosts_encodes_its_clips_and_both_are_one_dataset(there, monkeypatch, capsys):
    alone(monkeypatch)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("videodit_jax.data.probe.exchanged", lambda path, mine: [mine])
    monkeypatch.setattr(latents, "the_same", lambda data, opened: opened())
    monkeypatch.setattr(latents.multihost_utils, "sync_global_devices", lambda name: None)
    monkeypatch.setattr(latents, "gathered", lambda there: [there, there and host == 2])
    for host in (0, 0, 1, 2):  # the second time the first one has finished, as it may have where the same command goes on; the last one, both
        monkeypatch.setattr(jax, "process_index", lambda: min(host, 1))
        if host == 1:
            with pytest.raises(ValueError, match="parts of a dataset that 2 hosts make, and not one of each: host_0000_of_0002"):
                datasets(there / "both")
        if host == 2:
            with pytest.raises(ValueError, match="both exists already"):
                latents.main(flags(there, "both"))
        else:
            latents.main(flags(there, "both"))
    assert capsys.readouterr().out.count("_of_0002, 3 clips; next: ") == 2
    monkeypatch.undo()
    assert sorted(path.name for path in (there / "both").iterdir()) == ["host_0000_of_0002", "host_0001_of_0002"]
    read = []
    for name in ("set", "both"):
        halves = open_sources(dataclasses.replace(config(there), data=str(there / name)))
        read.append([sorted(half[i]["video"].tobytes() for i in range(len(half))) for half in halves])
    assert read[0] == read[1] and list(map(len, read[0])) == [4, 2]
    second = there / "both" / "host_0001_of_0002" / "features.json"
    second.write_text(second.read_text().replace('"16"', '"8"'))
    with pytest.raises(ValueError, match="both holds parts of unlike features: host_0001_of_0002 has not those of host_0000_of_0002"):
        open_splits(there / "both", config(there).stored)


def test_a_run_on_latents_trains_and_samples(there, tmp_path, monkeypatch):
    small.use(1, monkeypatch)
    shape = "--model.patch 1 1 1 --model.channels 16 --model.given".split()
    run = ["--autoencoder", str(there / "vae"), "--data", str(there / "set"), "--out", str(tmp_path / "run"), "--steps", "2"]
    args = ["--preset", "tiny", *small.FLAGS, *SIZE, *shape, *run]
    train.main(args)
    assert {"step_000002.gif", "step_000002.png"} <= {path.name for path in (tmp_path / "run" / "samples").iterdir()}
    videos, models, beside = [], [], []
    monkeypatch.setattr(sample, "write_samples", lambda stem, made, *rest: videos.append(made) or [])
    load, decode = maker.load_model, sample.Codec.decode

    def loaded(*args):
        model = load(*args)
        models.append(weakref.ref(model))
        return model

    def decoded(codec, latents):
        beside.extend(model() for model in models)
        return decode(codec, latents)

    monkeypatch.setattr(maker, "load_model", loaded)
    monkeypatch.setattr(sample.Codec, "decode", decoded)
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "first.png")
    sample.main(["--run", str(tmp_path / "run"), "--n", "8", "--image", str(tmp_path / "first.png"), "--out", str(tmp_path / "x.mp4")])
    assert beside == [None]  # decoding takes much memory, and has what the model took
    assert videos[0].shape == (8, 5, 16, 16, 3) and videos[0].dtype == np.uint8
    codec = Codec(there / "vae", mesh.build(), Dtype.FLOAT32.jax)
    first = codec.decode(codec.encode(np.full((1, 1, 16, 16, 3), 200, np.uint8)))
    assert np.abs(videos[0][0, 0].astype(int) - first[0, 0]).max() <= 1
    begun = Run.read(tmp_path / "run").config
    refuse_other_run(begun, dataclasses.replace(begun, autoencoder=str(tmp_path)))
    with pytest.raises(ValueError, match="was begun on latents: give --autoencoder, or"):
        refuse_other_run(begun, small.config(tmp_path / "run"))


def test_who_trains_without_the_autoencoder_is_told_to_give_it_to_sample():
    run = preset("tiny", autoencoder="wan2.1")
    assert to_sample("runs/a b", run) == "python -m videodit_jax.sample --run 'runs/a b' --autoencoder DIR"
    read = preset("tiny", autoencoder="wan2.1", text_encoder="umt5-xxl")
    assert to_sample("runs/tiny", read) == "python -m videodit_jax.sample --run runs/tiny --autoencoder DIR --text-encoder DIR"
    assert "--autoencoder DIR" in to_sample("runs/tiny", preset("tiny", autoencoder="wan2.2"))
    for other in (preset("tiny"), dataclasses.replace(run, autoencoder="vae")):
        assert to_sample("runs/tiny", other) == "python -m videodit_jax.sample --run runs/tiny"


def test_presets_on_latents_have_as_many_tokens_and_wan_has_its_own():
    for name in PRESETS:
        pixels, latent, later = preset(name), preset(name, autoencoder="wan2.1"), preset(name, autoencoder="wan2.2")
        tokens = np.prod(latent.model.grid(latent.clip))
        if min(pixels.video[1:]) > 64:
            more = 1 + 4 / pixels.frames  # a latent frame more
            assert tokens == round(more * np.prod(pixels.model.grid(pixels.clip)))
        assert later.stored.shape[-1] == 48 and tokens / 4.1 < np.prod(later.model.grid(later.clip)) <= tokens / 4
    assert tokens == 75_600  # 81 frames of 720×1280, as Wan 2.1 14B has
    five = preset("5b", autoencoder="wan2.2")
    assert five.video == (121, 704, 1280) and np.prod(five.model.grid(five.clip)) == 27_280
    assert preset("14b", autoencoder="wan2.2").size == "704x1280"  # 45 latent rows cannot be cut by two


def test_bad_input_is_one_sentence(there, tmp_path):
    def fails(main, args):
        with pytest.raises(ValueError) as error:
            main(args)
        return str(error.value)

    good = flags(there, "other")
    assert "set exists already" in fails(latents.main, flags(there))
    for wrong, says in (
        ({"autoencoder": "wan2.1"}, "a directory of its weights is wanted"), ({"autoencoder": "wan2.2"}, "wan2.2: a directory of"), ({"workers": 0}, "at least 1 is needed"), ({"fps": 0}, "--fps 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            latents.LatentsConfig(**{"data": "", "autoencoder": "", "out": "", "frames": 5, "size": "16x16"} | wrong)
    later = small_autoencoder.write(tmp_path / "wan2.2", small_autoencoder.autoencoder(small_autoencoder.WAN22))
    assert "a video of 4 frames, 16×16 has no latents of 16 channels: 4n + 1 frames" in fails(latents.main, [*good, "--frames", "4"])
    assert "16×20 has no latents of 16 channels" in fails(latents.main, [*good, "--size", "16x20"])
    assert "16×24 has no latents of 48 channels: 4n + 1 frames, and multiples of 16 rows" in fails(latents.main, [*good, "--size", "16x24", "--autoencoder", str(later)])
    assert "is written on this machine" in fails(latents.main, [*good, "--out", "gs://bucket/set"])
    (tmp_path / "file").touch()
    assert "--out " + str(tmp_path / "file" / "set") in fails(latents.main, [*good, "--out", str(tmp_path / "file" / "set")]), "and no folder that only we know"
    assert "holds no autoencoder" in fails(latents.main, [*good, "--autoencoder", str(tmp_path)])
    assert not (there / "other").exists() and not (there / "other.parts").exists()
    run = ["--preset", "tiny", "--out", str(tmp_path / "run"), "--autoencoder", str(there / "vae"), *SIZE]
    assert "--data shapes holds no latents" in fails(train.main, [*run, "--data", "shapes"])
    assert "holds float16 [2, 2, 2, 16], but uint8 [5, 16, 16, 3] are asked for: latents go with --autoencoder" in fails(train.main, [*run[:4], *SIZE, "--model.patch", "1", "4", "4", "--data", str(there / "set")])
    long = fails(train.main, [*run, "--data", str(there / "set"), "--frames", "9"])
    assert long.endswith("holds float16 [2, 2, 2, 16], but float16 [3, 2, 2, 16] are asked for")
    for autoencoder, channels, says in (
        (None, 16, "pixels, without --autoencoder, have 3"), ("wan2.1", 48, "latents of --autoencoder wan2.1 have 16"),
        ("wan2.2", 16, "latents of --autoencoder wan2.2 have 48"), ("vae", 3, "latents of --autoencoder vae have 16 or 48"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"--model.channels {channels}: {says}"):
            model = dataclasses.replace(preset("tiny").model, channels=channels)
            dataclasses.replace(preset("tiny"), frames=9, model=model, autoencoder=autoencoder)
    other = small_autoencoder.write(tmp_path / "vae", small_autoencoder.autoencoder(seed=1))
    assert "there is no file or folder" in fails(train.parse, [*run[:4], "--autoencoder", str(tmp_path / "none")])
    assert "set was made by another model than --autoencoder now names" in fails(train.main, [*run, "--data", str(there / "set"), "--autoencoder", str(other)])
    assert "makes pixels itself" in fails(sample.main, ["--autoencoder", str(there / "vae")])
    assert not (tmp_path / "run").exists()
