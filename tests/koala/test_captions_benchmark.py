"""`python -m koala_jax.captions.benchmark`: what its flags refuse, and what its file holds."""
import json

import pytest

from koala_jax.captions import benchmark


@pytest.mark.parametrize(
    "flags, words",
    [("--width 100", "--width 100: 64, 128, 192 or a multiple of 256"), ("--vocabulary 1001", "--vocabulary 1001: at least 1002"), ("--batches 1 0", "--batches 1 0: at least 1"),
     ("--rounds 0", "--rounds 0: at least 1")],
)  # fmt: skip
def test_bad_flags(flags, words, fails):
    assert words in " ".join(fails(benchmark.main, flags.split()).replace("│", "").split())


def test_the_file_says_of_what_the_figures_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "measure", lambda config: [{"batch": 1, "tokens a second": 9.5}])
    benchmark.main(["--layers", "3", "--most", "7", "--json", str(tmp_path / "figures.json")])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["layers"], found["width"], found["most"]) == (3, 512, 7) and found["batches"] == [{"batch": 1, "tokens a second": 9.5}]
    assert f"wrote {tmp_path / 'figures.json'}" in capsys.readouterr().out
