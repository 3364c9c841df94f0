"""Fine-tuning a captioner: what counts in the loss, that it learns, resumes, and leaves alone what it shall."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.lmm.load import load
from core_jax.weights import named
from koala_jax.captions import train
from koala_jax.captions.checks import problems
from koala_jax.captions.clips import open_clips
from koala_jax.captions.examples import Examples, split
from koala_jax.captions.fresh import fresh
from koala_jax.captions.schema import Part
from tests.koala.caption_server import GOOD, Mood, serving
from tests.koala.six_part_shapes import write


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shapes"), 12)


def run(table, out, *flags: str) -> dict:
    train.main([f"--data={table}", f"--out={out}", f"--json={out}.json", "--frames=2", "--batch=8", "--judged=1", *flags])
    return json.loads(out.with_suffix(".json").read_text()) if out.with_suffix(".json").exists() else {}


def test_the_truth_about_a_clip_passes_the_checks(table):
    clips = open_clips(table)
    assert all(not problems(part, clip.row[part.value]) for clip in clips for part in Part)


def test_the_loss_counts_the_answers_tokens_alone(table):
    clips = open_clips(table)
    model, tokenizer = fresh([clip.row[part.value] for clip in clips for part in Part], seed=0)
    source = Examples(clips, model, tokenizer, 2, 48, 0.5, 0)
    examples = [source[i] for i in range(3)]
    assert any(len(e[0].tiles) == 2 for e in examples), "a video among them"
    batch = source.batch(examples)
    value, metrics = jax.jit(train.loss)(model, (batch, jax.tree.map(lambda _: None, model)), jax.random.key(0))
    want, chosen = [], 0
    for question, answer in examples:
        assert tokenizer.decode(answer) in {text for clip in clips for text in clip.row.values() if isinstance(text, str)}
        one = source.batch([(question, answer)])
        likely = jax.nn.log_softmax(jax.jit(lambda m, x: m(x))(model, one.inputs)[0])
        at = len(question) - 1 + np.arange(len(answer))
        want += [-float(likely[p, t]) for p, t in zip(at, answer)]
        chosen += int((likely[at].argmax(-1) == jnp.asarray(answer)).sum())
    assert float(value) == pytest.approx(np.mean(want), rel=1e-4)
    assert float(metrics["right tokens"]) == pytest.approx(chosen / len(want), abs=1e-6)


def test_an_epoch_takes_each_part_of_each_clip_once(table):
    clips = open_clips(table)
    model, tokenizer = fresh(["a"], seed=0)
    source = Examples(clips, model, tokenizer, 2, 48, 0.0, 0)
    answers = sorted(tuple(source[i][1]) for i in range(72, 144))
    assert answers == sorted((*tokenizer.inner.encode(clip.row[part.value]).ids, 0) for clip in clips for part in Part)


def test_clips_of_one_file_are_held_out_together():
    class Named:
        def __init__(self, file):
            self.file = file

    clips = [Named(f"{i // 3}.mp4") for i in range(90)]
    trains, held_out = split(clips)
    assert len(held_out) == 9 and not {c.file for c in trains} & {c.file for c in held_out}


def test_a_run_trains_stops_and_goes_on_and_a_changed_setting_is_refused(table, tmp_path, fails):
    figures = run(table, tmp_path / "whole", "--steps=4", "--checkpoint-every=2")
    assert figures.keys() == {part.value for part in Part}
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(max((tmp_path / "cut" / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else -1))
    run(table, tmp_path / "cut", "--steps=4", "--checkpoint-every=2")
    again = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in log])
    flags = [f"--data={table}", f"--out={tmp_path / 'cut'}", "--steps=5", "--frames=2", "--batch=8", "--judged=1", "--checkpoint-every=2"]
    assert "steps 4, and now it is 5" in fails(train.main, flags)


def test_lora_and_a_frozen_tower_leave_the_rest_alone(table, tmp_path):
    run(table, tmp_path / "first", "--steps=1")
    run(table, tmp_path / "second", "--steps=2", f"--init={tmp_path / 'first' / 'model'}", "--method=lora", "--no-tower")
    before, after = (named(load(tmp_path / name / "model")) for name in ("first", "second"))
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert {"decoder.layers.0.attention.q.w", "vision.up.w"} <= moved
    assert not any(name.startswith("vision.tower.") or "norm" in name or name == "decoder.embedding" for name in moved)


def test_a_teacher_labels_a_seed_set_first(table, tmp_path):
    with serving(Mood.WELL) as server:
        run(table.parent, tmp_path / "taught", "--steps=1", f"--teacher={server.url}", "--seed-set=3")
    assert len(server.parts) == 18
    rows = [json.loads(line)["row"] for line in (tmp_path / "taught" / "teacher.parquet.jsonl").read_text().splitlines()[1:]]
    assert len(rows) == 3 and rows[0]["subject"] == GOOD[Part.SUBJECT]


def test_bad_input_is_one_sentence(table, tmp_path, fails):
    assert "--batch 4 is not divided by the 8 devices" in fails(train.main, [f"--data={table}", "--batch=4", f"--out={tmp_path / 'out'}"])
    assert "a share" in fails(train.main, [f"--data={table}", "--images=2"])
    (tmp_path / "clips.csv").write_text("file\na.mp4\nb.mp4\n")
    said = fails(train.main, [f"--data={tmp_path / 'clips.csv'}", f"--out={tmp_path / 'out'}"])
    assert "has a caption in parts: the table needs the columns subject, actions" in said
