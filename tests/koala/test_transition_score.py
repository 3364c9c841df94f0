"""The scorer: by hand, and laws."""
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from koala_jax.transitions import Detection, Transition, Type
from koala_jax.transitions.score import Known, Span, Truth, as_json, read, score, type_of

TRUTH = Truth("v.mp4", 100, [Known(19, 20, "cut"), Known(49, 60, "dissolve")], [Span(80, 85, "flash")], [(5, 6)])


def detection(*spans, clips=()):
    return Detection([Transition(a, b, Type.UNKNOWN, 1.0) for a, b in spans], list(clips), {})


def test_what_is_right_is_right():
    figures = score(detection((20, 20), (50, 60), clips=[(0, 20), (20, 50), (60, 100)]), TRUTH).figures()
    assert figures["f1"] == figures["kept"] == 100 and figures["dirty"] == 0
    assert figures["fooled by"] == {"flash": [0, 1]}


def test_each_error_is_counted_once():
    found = score(detection((5, 5), (23, 23), (48, 48), (55, 55), (70, 70), (82, 82), (84, 84), clips=[(0, 48), (62, 100)]), TRUTH)
    assert found.found == {"dissolve": 1}  # 23 is three frames late; 55 only repeats 48
    assert found.false == {"elsewhere": 2, "flash": 2} and found.fooled == {"flash": 1}
    assert (found.clean, found.dirty, found.kept, found.pure) == (1, 1, 38, 90)


def test_one_report_over_two_transitions_finds_both():
    assert score(detection((18, 55)), TRUTH).found.total() == 2


def test_a_false_report_counts_against_the_type_that_it_was_given():
    reports = [Transition(20, 20, Type.CUT, 1.0), Transition(70, 70, Type.CUT, 1.0), Transition(82, 84, Type.FADE, 1.0)]
    named, unnamed = score(Detection(reports, [], {}), TRUTH), score(detection((20, 20)), TRUTH)
    assert (named + unnamed).figures()["by type"].keys() == named.figures()["by type"].keys()
    assert named.figures()["by type"] == {
        "cut": {"precision": 50, "recall": 100, "f1": 200 / 3},
        "dissolve": {"precision": None, "recall": 0, "f1": 0},
        "fade": {"precision": 0, "recall": None, "f1": 0},
    }
    assert unnamed.figures()["by type"] == {}, "who names no types has no precision by type"


def test_labels_that_say_more_than_a_detector_knows_have_its_types():
    labels = "cut", "cut_jump", "fadeblack", "shape", "noise", "blocky"
    assert [type_of(label).value for label in labels] == ["cut", "cut", "fade", "wipe", "dissolve", "unknown"]


@given(st.sets(st.integers(2, 95), max_size=8))
def test_the_truth_scores_full_marks(cuts):
    truth = Truth("v", 100, [Known(c - 1, c, "cut") for c in sorted(cuts)])
    bounds = [0, *sorted(cuts), 100]
    result = score(detection(*((c, c) for c in cuts), clips=list(zip(bounds, bounds[1:]))), truth, tolerance=0)
    assert result.false.total() == 0 and result.found.total() == len(cuts) and result.dirty == 0 and result.kept == 100


def test_scores_add_up_and_labels_are_read_back(tmp_path):
    one = score(detection((20, 20), clips=[(0, 20)]), TRUTH)
    assert (one + one).kept == 2 * one.kept and (one + one).there["cut"] == 2
    import json

    (tmp_path / "labels.json").write_text(json.dumps(as_json([TRUTH])))
    (again,) = read(tmp_path / "labels.json")
    assert again == TRUTH and np.array_equal(again.shot_of(), TRUTH.shot_of())
