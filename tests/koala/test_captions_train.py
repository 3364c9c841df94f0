"""Fine-tuning a captioner: what counts in the loss, that it learns, resumes, and leaves alone what it shall."""
import dataclasses
import functools
import json
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from pyarrow import parquet

from core_jax import mesh
from core_jax.lmm.load import load
from core_jax.lmm.model import Inputs
from core_jax.lmm.save import save
from core_jax.lora import LoRAConfig, add_lora, partition
from core_jax.rngs import Rngs
from core_jax.weights import named
from koala_jax.captions import accuracy, examples, train
from koala_jax.captions.checks import problems
from koala_jax.captions.clips import Clip, open_clips
from koala_jax.captions.endpoint import EndpointConfig
from koala_jax.captions.examples import Batch, Examples, split
from koala_jax.captions.schema import Part
from koala_jax.shots import inputs
from tests import captioner
from tests.counting import counted
from tests.koala.caption_server import GOOD, Mood, serving
from tests.koala.six_part_shapes import write


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shapes"), 12)


@pytest.fixture(scope="module")
def init(table, tmp_path_factory):
    """The directory of a captioner that has learned nothing."""
    folder = tmp_path_factory.mktemp("init")
    save(folder, *captioner.fresh_captioner([clip.row[part.value] for clip in open_clips(table) for part in Part], 0))
    return folder


def test_what_the_tiny_captioner_does_is_headed_by_short_lines_also_in_a_log(tmp_path, monkeypatch, capsys):
    for name, gives in (("clips", "table"), ("seeing_captioner", "folder"), ("trained", {})):
        monkeypatch.setattr(captioner, name, lambda *_, gives=gives, **__: gives)
    captioner.run(captioner.CaptionerConfig(out=tmp_path, only=1))
    assert capsys.readouterr().out.splitlines() == ["seeing", "listing what is seen", "images and video, tower trained"]


FLAGS = ["--frames=2", "--batch=4", "--judged=1", "--checkpoint-every=2", "--images=0"]


def run(table, out, init, *flags: str) -> dict:
    """The figures of a run on one of the host's devices: what is compared here is not how they share the work."""
    with mock.patch.object(train.mesh, "build", functools.partial(mesh.build, devices=jax.devices()[:1])):
        train.main([f"--data={table}", f"--out={out}", f"--init={init}", f"--json={out}.json", *FLAGS, *flags])
    return json.loads(out.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def trained(table, init, tmp_path_factory):
    """(folder, figures) of a run of four steps."""
    out = tmp_path_factory.mktemp("run") / "whole"
    return out, run(table, out, init, "--steps=4")


@pytest.mark.parametrize("judged", [0, -1])
def test_a_number_of_clips_to_judge_that_would_leave_no_figures_is_refused_before_training(judged):
    with pytest.raises(ValueError, match="--judged .*at least 1 is needed"):
        train.TrainConfig("clips", "model", judged=judged)


def test_the_teachers_address_is_given_once():
    with pytest.raises(ValueError, match="--endpoint.url http://b: the teacher's address is given as --teacher"):
        train.TrainConfig("clips", "model", teacher="http://a", endpoint=EndpointConfig(url="http://b"))


def test_the_truth_about_a_clip_passes_the_checks(table):
    clips = open_clips(table)
    assert all(not problems(part, clip.row[part.value]) for clip in clips for part in Part)


def test_the_loss_counts_the_answers_tokens_alone(table):
    clips = open_clips(table)
    model, tokenizer = captioner.fresh_captioner([clip.row[part.value] for clip in clips for part in Part], 0)
    source = Examples(clips, model, tokenizer, 2, 48, 0.5, 0)
    examples = [source[i] for i in range(3)]
    assert any(len(e[0].tiles) == 2 for e in examples), "a video among them"
    batch = source.batch(examples)
    value, metrics = jax.jit(train.loss)(model, batch, jax.random.key(0))
    want, chosen, read = [], 0, jax.jit(lambda model, inputs: model(inputs))
    for question, answer in examples:
        assert tokenizer.decode(answer) in {text for clip in clips for text in clip.row.values() if isinstance(text, str)}
        one = source.batch([(question, answer)])
        likely = jax.nn.log_softmax(read(model, one.inputs)[0])
        at = len(question) - 1 + np.arange(len(answer))
        want += [-float(likely[p, t]) for p, t in zip(at, answer)]
        chosen += int((likely[at].argmax(-1) == jnp.asarray(answer)).sum())
    assert float(value) == pytest.approx(np.mean(want), rel=1e-4)
    assert float(metrics["right tokens"]) == pytest.approx(chosen / len(want), abs=1e-6)
    half = jax.make_jaxpr(functools.partial(train.loss, dtype=jnp.bfloat16))(model, batch, None)
    large = {v.aval.dtype for eqn in half.eqns if eqn.primitive.name == "scan" for v in eqn.outvars if v.aval.ndim == 3}
    assert large == {jnp.dtype(jnp.bfloat16)} and half.out_avals[0].dtype == jnp.float32


@pytest.mark.parametrize("tower", [True, False])
@pytest.mark.parametrize("method", list(train.Method))
def test_a_steps_flops_are_what_it_multiplies(method, tower):
    model, _ = captioner.fresh_captioner(["a"], 0)
    S, d, side = 96, model.config.decoder, model.config.tower.tile
    like = lambda *shape: jax.ShapeDtypeStruct((1, *shape), np.float32)
    whole = lambda *shape: jax.ShapeDtypeStruct((1, *shape), np.int32)
    batch = Batch(Inputs(whole(S), jax.ShapeDtypeStruct((1, S), bool), like(4, side, side, 3), whole(S, 4), like(S, 4)), whole(8), whole(8))
    config = train.TrainConfig("clips", "model", method=method, tower=tower, lora=LoRAConfig(rank=1))
    trained, rest = partition(add_lora(model, config.lora, rngs=Rngs(0)) if method is train.Method.LORA else model, config.trains)
    multiplied = counted(jax.grad(lambda trained, batch, rest: train.loss(trained, batch, None, rest)[0]), trained, batch, rest)
    unseen = 3 * 4 * d.layers * d.heads * d.head_dim * S * (S - 1) / 2  # scores of what comes later count for nothing, but are computed on a CPU
    assert multiplied == pytest.approx(train.flops(config, model.config, batch) + unseen, rel=0.07), "but for projector and LoRA, large in so small a model"


def test_an_epoch_takes_each_part_of_each_clip_once(table):
    clips = open_clips(table)
    model, tokenizer = captioner.fresh_captioner(["a"], 0)
    source = Examples(clips, model, tokenizer, 2, 48, 0.0, 0)
    answers = sorted(tuple(source[i][1]) for i in range(72, 144))
    assert answers == sorted((*tokenizer.inner.encode(clip.row[part.value]).ids, 0) for clip in clips for part in Part)


@pytest.mark.parametrize("longer", [False, True])
def test_an_answer_may_be_as_long_as_its_reference_and_as_the_context(table, longer, monkeypatch):
    clip = open_clips(table)[0]
    model, tokenizer = captioner.fresh_captioner(["a"], 0)
    one = lambda words: dataclasses.replace(clip, row={"subject": "z" * words})
    question = len(Examples([one(1)], model, tokenizer, 2, 48, 0.0, 0)[0][0])
    room = model.config.decoder.context - question
    tokens = room if longer else 100
    source = Examples([one(tokens)], model, tokenizer, 2, 48, 0.0, 0)
    assert len(source[0][1]) == tokens + 1, "it is trained on"

    def knowing(model, questions, *, most):
        assert max(map(len, questions)) + most <= model.config.decoder.context
        return [np.array(tokenizer.plain("z" * tokens)[:most], np.int32) for _ in questions]

    monkeypatch.setattr(accuracy, "generate", knowing)
    assert accuracy.judge(source, 1, batch=2)["subject"]["right"] == 1


def test_clips_of_one_video_are_held_out_together_and_only_clips_with_a_caption():
    names = [inputs.Source(f"{i // 3}.mp4", 0, 0).name for i in range(90)]
    for files in ([f"{i // 3}.mp4" for i in range(90)], [f"clips/{name}/{i % 3:04}.mp4" for i, name in enumerate(names)]):  # as koala_jax.split cuts
        clips = [Clip(file, file, row={"subject": "A dog."}) for file in files]
        bare = [Clip(f"b{i}.mp4", f"b{i}.mp4", row={"subject": None}) for i in range(90)]
        trains, held_out = split(bare + clips)
        videos = [{inputs.video_of(clip.file) for clip in half} for half in (trains, held_out)]
        assert len(held_out) == 9 and len(trains) == 81 and not videos[0] & videos[1]
    with pytest.raises(ValueError, match="of 90 clips none has a caption"):
        split(bare)


def test_in_the_place_of_an_unreadable_clip_stands_the_next_and_it_is_said_once(table, tmp_path, caplog):
    good, bad = open_clips(table)[0], Clip(str(tmp_path / "bad.mp4"), "bad.mp4", row={"subject": "No video."})
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    model, tokenizer = captioner.fresh_captioner(["a"], 0)
    source = Examples([bad, good], model, tokenizer, 2, 48, 0.0, 0)
    answers = [tokenizer.decode(answer) for _, answer in map(source.__getitem__, range(14))]
    assert len(source.parts) == 7 and "No video." not in answers
    assert set(answers) == {good.row[part.value] for part in Part}
    assert [record.getMessage().split(" is left out")[0] for record in caplog.records] == ["bad.mp4"]
    assert source._decoded.cache_info().misses == 2, "what was decoded is kept, and what cannot be is not tried again"
    with mock.patch.object(examples, "KEPT", 2 * 3 * 2 * 48**2):
        source = Examples(open_clips(table), model, tokenizer, 2, 48, 0.0, 0)
    for i in range(72):
        source[i]
    assert source._decoded.cache_info().currsize == 2, "no more frames are kept than are allowed"
    with pytest.raises(ValueError, match="of 1 clip none can be read"):
        Examples([bad], model, tokenizer, 2, 48, 0.0, 0)[0]
    caplog.clear()
    long = dataclasses.replace(good, row=good.row | {"subject": "z" * 2000})
    source = Examples([long], model, tokenizer, 2, 48, 0.0, 0)
    assert max(len(question) + len(answer) for question, answer in map(source.__getitem__, range(12))) <= 1025
    (record,) = caplog.records
    assert ", subject is left out: " in record.getMessage() and "tokens do not fit in the model's 1024" in record.getMessage()
    other = dataclasses.replace(bad, row={"subject": "A video."})
    told = [Examples(clips, model, tokenizer, 2, 48, 0.0, 0).fingerprint for clips in ([bad, good], [bad, good], [good, bad], [good], [other, good])]
    assert told[0] == told[1] and len(set(told)) == 4


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(table, init, trained, tmp_path, fails):
    whole, figures = trained
    assert figures.keys() == {part.value for part in Part}
    cut = shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(cut / "model")
    shutil.rmtree(max((path for path in (cut / "checkpoints").iterdir() if path.name.isdigit()), key=lambda path: int(path.name)))
    run(f"{table.parent}/./{table.name}", cut, init, "--steps=4")  # however it is spelled
    losses = [[json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()] for out in (whole, cut)]
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1])
    assert "holds another run: steps was 4, now 5; batch was 4, now 8; take" in fails(train.main, [f"--data={table}", f"--out={cut}", f"--init={init}", "--steps=5", *FLAGS, "--batch=8"])
    few = tmp_path / "few.parquet"
    parquet.write_table(parquet.read_table(table).slice(1), few)
    with pytest.raises(ValueError, match="holds another run: captions was '66 parts, sha256 .*', now '60 parts, sha256 .*'"):
        run(few, cut, init, "--steps=4")


def test_lora_and_a_frozen_tower_leave_the_rest_alone(table, trained, tmp_path, capsys):
    model, one = trained[0] / "model", table.parent / "one.parquet"
    parquet.write_table(parquet.read_table(table).slice(0, 1), one)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    with mock.patch.object(train, "loss", wraps=train.loss) as loss:
        run(one, tmp_path / "second", model, "--steps=2", "--method=lora", "--no-tower", "--half")
    assert "clips that it was trained on, answers" in " ".join(capsys.readouterr().out.split()), "of one video none is held out"
    assert loss.call_args.kwargs["dtype"] == jnp.bfloat16
    config = train.TrainConfig("", str(model), method=train.Method.LORA, tower=False)
    before = named(train.open_model(config, mesh.build())[0])
    after = named(load(tmp_path / "second" / "model"))
    assert {name for name, array in before.items() if array.dtype == jnp.float32} == {name for name in before if config.trains(name)}
    assert all(len(array.sharding.device_set) == 8 for array in before.values()) and all(after[name].dtype == before[name].dtype for name in before)
    assert (tmp_path / "second" / "model" / "chat_template.jinja").read_text() == "{{ messages }}", "what belongs to the model goes along"
    moved = {name for name in before if (np.asarray(before[name]) != np.asarray(after[name])).any()}
    assert {"decoder.layers.attention.q.w", "vision.up.w"} <= moved
    assert not any(name.startswith("vision.tower.") or "norm" in name or name == "decoder.embedding" for name in moved)


def test_a_teacher_labels_a_seed_set_first(table, tmp_path, capsys):
    config = train.TrainConfig(str(table.parent), "model", teacher="", seed_set=3, frames=2, endpoint=EndpointConfig(price_out=1000.0))
    with serving(Mood.WELL) as server:
        config = dataclasses.replace(config, teacher=server.url)
        clips = train.labelled(config, epath.Path(tmp_path))
        again = train.labelled(dataclasses.replace(config, data=f"{table.parent}/."), epath.Path(tmp_path))
        assert [clip.row for clip in again] == [clip.row for clip in clips]
    assert capsys.readouterr().out.count("the teacher: calls 18, tokens in 18000, tokens out 900, cost 0.9\n") == 1
    assert len(server.parts) == 18 and len(clips) == 3, "asked once, then kept"
    assert clips[0].row["subject"] == GOOD[Part.SUBJECT]
    with serving(Mood.WELL, GOOD | {Part.ACTIONS: "It runs."}) as server:
        config = dataclasses.replace(config, teacher=server.url, seed_set=2)
        assert not any(clip.row["subject"] for clip in train.labelled(config, epath.Path(tmp_path), begun=True)), "no longer asked"
        clips = train.labelled(config, epath.Path(tmp_path))
        assert clips[0].row["problems"] and train.labelled(config, epath.Path(tmp_path)) == clips
    assert len(server.parts) == 2 * (5 + 3), "a part that stays marked is not asked about again"


def test_bad_input_is_one_sentence(table, init, tmp_path, fails):
    assert "--init" in fails(train.main, [f"--data={table}", f"--out={tmp_path / 'out'}"]) and not (tmp_path / "out").exists(), "nobody means to start from nothing"
    assert "--batch 4 is not divided by the 8 devices" in fails(train.main, [f"--data={table}", f"--init={init}", "--batch=4", f"--out={tmp_path / 'out'}"])
    assert "for [ in a path means a pattern" in fails(train.main, [f"--data={table}", f"--init={init}", "--batch=8", f"--out={tmp_path / '[3]'}"])
    assert not (tmp_path / "[3]").exists()
    with mock.patch.object(train, "labelled", side_effect=AssertionError("opened")):
        assert f"{table.name} is no folder" in fails(train.main, [f"--data={table}", f"--init={init}", "--batch=8", f"--out={table / 'run'}"])
    assert "--images 2: a number from 0 to 1" in fails(train.main, [f"--data={table}", f"--init={init}", "--images=2"])
    with mock.patch.object(jax, "process_count", lambda: 2):
        assert "trained on one host, and this job has 2" in fails(train.main, [f"--data={table}", f"--init={init}", f"--out={tmp_path / 'out'}"])
    (tmp_path / "clips.csv").write_text("file\na.mp4\nb.mp4\n")
    said = fails(train.main, [f"--data={tmp_path / 'clips.csv'}", f"--init={init}", f"--out={tmp_path / 'out'}"])
    assert "has a caption in parts: the table needs the columns subject, actions" in said
    said = fails(train.main, [f"--data={table}", "--batch=8", f"--out={tmp_path / 'out'}", f"--init={tmp_path / 'nothing'}"])
    assert "there is no file or folder" in said and not (tmp_path / "out").exists(), "what did not begin leaves nothing, and binds nobody"
    with mock.patch.object(train, "read_config", lambda directory: mock.Mock(codes=True)):
        said = fails(train.main, [f"--data={table}", f"--out={tmp_path / 'codes'}", "--batch=8", f"--init={tmp_path}"])
    assert "reads frames as codes" in said, "before it is trained, not after"
