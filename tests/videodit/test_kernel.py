"""The report of kernel schedules."""
import importlib.util
import json

import jax
import pytest

from core_jax.attention.tiles import Tile, Tiles
from core_jax.pod import hlo
from videodit_jax import kernel, peers
from videodit_jax.peers import Call, Kernel
from videodit_jax.schedule import TENSOR_CORES, Counts, Program, Region

def test_a_peer_is_padded_to_what_both_sides_of_its_tile_divide():
    lengths = {Call("v6e", 75_600, 128, Kernel.SPLASH, Tile(*tile)).padded for tile in ((512, 512), (1024, 2048), (3072, 2048))}
    assert lengths == {75_776, 79_872}


needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, the TPU compiler")


def test_floors():
    """Four fifths of a v5p's products are whole; a v6e's units are half empty where 128 are contracted, so that its ceiling is two thirds."""
    assert kernel.floors(TENSOR_CORES["v5p"], 128) == {"forward": 4096, "backward": 10240}
    assert kernel.floors(TENSOR_CORES["v6e"], 128) == {"forward": 1536, "backward": 3584}
    assert kernel.floors(TENSOR_CORES["tpu7x"], 256) == {"forward": 2048, "backward": 5120}


def test_a_copy_without_a_name_belongs_to_the_pass_whose_result_it_copies():
    text = """ENTRY %main () -> f32[8] {
  %p = f32[8] parameter(0), metadata={op_name="q"}
  %early = f32[8] copy(%p)
  %dq = f32[8] negate(%early), metadata={op_name="jit(step)/transpose(jvp())/neg"}
  %turned = f32[8] bitcast(%dq)
  ROOT %late = f32[8] copy(%turned)
}"""
    home = hlo.parse(text).computations["main"]
    assert [name for name, one in home.items() if peers.is_backward(one, home)] == ["dq", "turned", "late"]


@needs_compiler
def test_figures_of_our_kernel():
    found = kernel.figures(Call("v5e", 300, 128, Kernel.OURS))
    assert found["forward"]["tiles"] == found["backward"]["tiles"] == [384, 384]
    padding = (384 / 300) ** 2
    executed = kernel.floors(TENSOR_CORES["v5e"], 128, scored=304 / 384)  # 16 rows at a time
    for name, floor in kernel.floors(TENSOR_CORES["v5e"], 128).items():
        figure = found[name]
        assert figure["mxu_busy"] * figure["bundles"] == pytest.approx(executed[name] * padding)
        assert figure["peak_share"] * figure["bundles"] == pytest.approx(floor)  # at head dim 128 a v5e's units are full
        assert figure["spills"] >= 0 and 0 < figure["vmem_bytes"] < 2**27


def test_a_program_with_fewer_products_than_needed_is_refused(monkeypatch):
    """As one whose loops were counted wrongly."""
    program, tile = Program(Region(0, 10, None, own=Counts(10, 1, 0)), 0), Tile(384, 384)
    read = {f"attention_{name}": [program] for name in ("forward", "backward")}, (Tiles(tile, tile, tile, 1, 1), {"forward": 0.0, "backward": 0.0})
    monkeypatch.setattr(kernel, "compile_and_read", lambda *_, **__: read)
    with pytest.raises(ValueError, match="forward: .* cycles of products were found in the program, and .* are needed"):
        kernel._figures(Call("v5e", 300, 128, Kernel.OURS))


def test_report(monkeypatch, tmp_path, capsys):
    """A refused tile is skipped, the best one reported, in the file and on the screen."""

    def figures(call):
        if call.tile and call.tile.k == 2048:
            raise ValueError("too large")
        one = {"bundles": 8000.0 if call.tile else 4400.0, "around": 2000.0 if call.tile else 1100.0, "mxu_busy": 0.9, "peak_share": 0.9, "spills": 0, "vmem_bytes": 2**20}
        return {name: one | {"tiles": [call.tile.q, call.tile.k] if call.tile else [1024, 1024]} for name in ("forward", "backward")}

    monkeypatch.setattr(kernel, "figures", figures)
    kernel.main(["--chip", "v5p", "--seq", "4096", "--json", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["forward"]["floor"] == 4096
    assert result["forward"]["ratio_to_best_peer"] == pytest.approx(0.55)
    assert result["forward"]["ratio_to_floor"] == pytest.approx(4400 / 4096)
    assert result["backward"]["flash"]["tiles"] == [1024, 1024]
    said = capsys.readouterr().out
    assert "out.json" in said and "v5p, 4,096 tokens, head dim 128: splash, tile" in said, "minutes of compiling are told in a log too"
    kernel.main(["--table", str(tmp_path / "kernel.md")])
    lines = [line for line in (tmp_path / "kernel.md").read_text().splitlines() if line.startswith("| ")]
    legend, figures = lines[: 1 + len(kernel.COLUMNS)], lines[1 + len(kernel.COLUMNS) :]
    assert [line.split(" | ")[0].strip("| ") for line in legend[1:]] == figures[0].strip("| ").split(" | ")[5:]
    assert len(figures) == 1 + 4 * 3 * 3 * 2 * 4  # chips, lengths, head dims, passes; three kernels and the floor


def test_figures_are_kept(monkeypatch, tmp_path):
    """A refusal too; another call is made."""
    made = []

    def figures(call):
        made.append(call)
        if call.dim == 64:
            raise ValueError("too small")
        return {"forward": call.dim}

    monkeypatch.setattr(kernel, "_figures", figures)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        for dim in (128, 128, 256):
            assert kernel.figures(Call("v5e", 300, dim, Kernel.OURS)) == {"forward": dim}
        for _ in range(2):
            with pytest.raises(ValueError, match="too small"):
                kernel.figures(Call("v5e", 300, 64, Kernel.OURS))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert [call.dim for call in made] == [128, 256, 64]


@pytest.mark.parametrize(("args", "words"), [(["--chip", "v3"], "known are v5e, v5p, v6e, tpu7x"), (["--seq", "0"], "at least 1")])
def test_bad_input(fails, args, words):
    assert words in fails(kernel.main, args)


def test_a_table_that_cannot_be_written_is_refused_before_it_is_made(fails, monkeypatch):
    monkeypatch.setattr(kernel, "compare", lambda *_: pytest.fail("hours have begun"))
    assert "test_kernel.py is no folder" in fails(kernel.main, ["--table", f"{__file__}/t.md"])
