"""What is read from a compiled program, on programs made on the spot whose answers are known."""
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from core_jax import layers as layers_of
from core_jax.attention.kernel import planned
from core_jax.chips import CHIPS
from core_jax.compiler import jit
from core_jax.layers import Linear, rotary_angles, rotate
from core_jax.mesh import MeshConfig, build
from core_jax.pod import compiled, hlo
from core_jax.pod.collectives import Collective, alike, axes_of, collectives, groups
from core_jax.pod.estimate import SCHEDULED, STEP, estimate, grid_steps, kernel_calls, line, seconds, share
from core_jax.pod.topology import parse
from core_jax.rngs import Rngs
from core_jax.state import compile_step

pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")

MB = 2**20
DOCS = Path(__file__).parents[2] / "docs"


@functools.cache
def mesh(name: str = "v5e:2x4", **axes: int) -> Mesh:
    return build(MeshConfig(**axes), parse(name).devices())


def shaped(on: Mesh, shape, spec=P(), dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(on, spec))


@functools.cache
def layers(accumulate: int = 1) -> tuple[Mesh, compiled.Compiled]:
    """Five layers of a 1,024² product and their gradient, weights cut over fsdp 4, rows over data 2, the whole `accumulate` times."""
    on = mesh(data=2, fsdp=4)

    def layer(x, w):
        x = jax.lax.with_sharding_constraint(x @ w, P(("data", "fsdp")))
        return jnp.tanh(x), None

    def loss(w, x):
        return jax.lax.scan(jax.checkpoint(layer), x, w)[0].astype(jnp.float32).sum()

    def step(w, x):
        if accumulate == 1:
            return jax.grad(loss)(w, x)
        pieces = x.reshape(accumulate, -1, 1024)
        add = lambda total, piece: (total + jax.grad(loss)(w, jax.lax.with_sharding_constraint(piece, P(("data", "fsdp")))), None)
        return jax.lax.scan(add, jnp.zeros_like(w), pieces)[0]

    with jax.set_mesh(on):
        w, x = shaped(on, (5, 1024, 1024), P(None, "fsdp")), shaped(on, (4096 * accumulate, 1024), P(("data", "fsdp")))
        lowered = jax.jit(step, out_shardings=w.sharding).lower(w, x)
        return on, compiled.compile(lowered, f"v5e:2x4 {dict(on.shape)}")


def test_loops_turn_as_often_as_they_were_written():
    for accumulate in (1, 3):
        _, program = layers(accumulate)
        program = hlo.parse(program.text)
        turns = sorted(program.trips(p.instruction, p.home) for p in program.places() if p.instruction.opcode == "while" and "/while" in p.instruction.op_name)
        assert turns.count(5) >= 2 and (accumulate == 1 or 3 in turns)
        products = [p for p in program.places() if p.instruction.opcode in ("convolution", "dot")]
        assert max(p.times for p in products) % (5 * accumulate) == 0


def test_collectives_of_a_sharded_scan():
    on, program = layers()
    found = collectives(hlo.parse(program.text), on)
    weight = 1024 * 1024 * 2
    moved = sum(one.total_bytes for one in found if one.axes == ("fsdp",) and one.kind in ("all-gather", "collective-permute"))
    assert moved >= 2 * 5 * weight * 3 / 4, "forward and backward each fetch every weight once"
    assert any("data" in one.axes and one.kind in ("all-reduce", "reduce-scatter") for one in found), "gradients are summed over data"
    assert all(one.times in (1, 5, 10, 15, 20) for one in found)


def test_what_a_scan_keeps():
    _, program = layers()
    activations, gradients = compiled.stacked(hlo.parse(program.text))
    assert activations == 5 * 512 * 1024 * 2, "the input of each layer, bf16, one device's rows"
    assert gradients in (5 * 256 * 1024 * 2, 5 * 256 * 1024 * 4)


def test_a_start_and_an_end_with_compute_between_them_overlap():
    body = """
ENTRY %main (a: f32[8,128], b: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %s = (f32[8,128]{1,0}, f32[32,128]{1,0}) all-gather-start(%a), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  FUSION
  %d = f32[32,128]{1,0} all-gather-done(%s)
  %r1 = f32[8,128]{1,0} all-reduce(%b), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  FUSION2
  ROOT %r = f32[8,128]{1,0} all-reduce(%r1), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
}
"""
    work = '%f = f32[8,128]{1,0} fusion(%b), kind=kLoop, calls=%c, backend_config={"estimated_cycles":"77"}'
    on = mesh(data=2, fsdp=4)
    body = body.replace("FUSION2", work.replace("%f", "%f2"))
    for text, overlapped in ((body.replace("FUSION", work), True), (body.replace("FUSION", ""), False)):
        text = "%c (p: f32[8,128]) -> f32[8,128] {\n  ROOT %p = f32[8,128]{1,0} parameter(0)\n}\n" + text
        gather, reduce, other = collectives(hlo.parse(text), on)
        assert gather == Collective("all-gather", ("fsdp",), 4 * 8 * 128 * 4, 1, overlapped)
        assert reduce == other == Collective("all-reduce", ("data",), 8 * 128 * 4, 1, False), "one channel does not make them one"
    assert [one.count for one in alike([reduce, gather, other])] == [1, 2]


def test_a_wrapped_collective_flies_until_the_end_of_its_updates():
    body = """
%sent (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  ROOT %x = f32[8,128]{1,0} all-to-all(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
}
%c (p: f32[8,128]) -> f32[8,128] {
  ROOT %p = f32[8,128]{1,0} parameter(0)
}
ENTRY %main (a: f32[8,128], b: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %s = ((f32[8,128]{1,0}), f32[8,128]{1,0}, u32[]) async-start(%a), calls=%sent
  BEFORE
  %u = ((f32[8,128]{1,0}), f32[8,128]{1,0}, u32[]) async-update(%s), calls=%sent
  BEHIND
  ROOT %d = f32[8,128]{1,0} async-done(%u), calls=%sent
}
"""
    work = '%f = f32[8,128]{1,0} fusion(%b), kind=kLoop, calls=%c, backend_config={"estimated_cycles":"77"}'
    for where in ("BEFORE", "BEHIND", "NOWHERE"):
        text = body.replace(where, work).replace("BEFORE\n", "\n").replace("BEHIND\n", "\n")
        (one,) = collectives(hlo.parse(text), mesh(data=2, fsdp=4))
        assert one == Collective("all-to-all", ("fsdp",), 8 * 128 * 4, 1, where != "NOWHERE")


@pytest.mark.parametrize(
    "written, first, axes",
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", [0, 1], ("tensor",)),
        ("replica_groups=[4,2]<=[8]", [0, 1], ("tensor",)),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", [0, 2], ("context",)),
        ("replica_groups=[2,4]<=[2,4]T(1,0)", None, None),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [0, 1, 4, 5], ("fsdp", "tensor")),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", [0, 4], ("fsdp",)),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", [0, 1, 2, 3], ("context", "tensor")),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=(0,2,4,6,1,3,5,7) {'a'}", [0, 1], ("tensor",)),
        ("replica_groups=mesh['a'=8] {'a'}", list(range(8)), ("fsdp", "context", "tensor")),
        ("source_target_pairs={{0,4},{4,0},{1,5},{5,1},{2,6},{6,2},{3,7},{7,3}}", [0, 4], ("fsdp",)),
    ],
)  # fmt: skip
def test_replica_groups_name_axes(written, first, axes):
    on = mesh(data=1, fsdp=2, context=2, tensor=2)
    ids = groups(f"channel_id=3, {written}, use_global_device_ids=true")
    if first is not None:
        assert ids[0].tolist() == first and axes_of(ids, on) == axes


def test_replica_groups_of_another_form_are_refused():
    with pytest.raises(ValueError, match="not known: replica_groups=circle"):
        groups("replica_groups=circle(8)")


def test_an_element_of_a_tuple_may_stand_for_itself():
    text = """ENTRY %main (p: (s32[], (f32[2,3], f32[4]))) -> f32[4] {
  %p = (s32[], /*index=1*/(f32[2,3]{1,0}, f32[4]{0})) parameter(0)
  ROOT %r = f32[4]{0} add(%p#0, /*index=1*/%p#1)
}"""
    main = hlo.parse(text).computations["main"]
    assert main["r"].operands == ("p#0", "p#1")
    assert [hlo.shapes(main[name].type) for name in main["r"].operands] == [[("s32", ())], [("f32", (2, 3)), ("f32", (4,))]]
    assert main["p#1"].opcode == "get-tuple-element" and hlo._tuple_index(main, "p#1") == 1


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("module of nothing")


def test_bytes_of_types():
    assert hlo.size("(bf16[16,1024]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[3]{0}, pred[4]{0}, s32[]{:T(128)})") == 32768 + 12 + 4 + 4
    assert hlo.size("token[]") == 0 and hlo.size("f8e4m3fn[5]{0}") == 5


@pytest.mark.parametrize(
    "name, axes, along, bandwidth",
    [
        ("v5p:4x4x4", dict(data=1, fsdp=16, context=4), ("context",), 200e9),  # one closed dim: two links
        ("v5p:4x4x4", dict(data=1, fsdp=16, context=4), ("fsdp",), 400e9),
        ("v5p:2x2x1", dict(data=1, fsdp=4), ("fsdp",), 200e9),  # two open dims: a link each
        ("v5e:16x16", dict(data=1, fsdp=16, tensor=16), ("tensor",), 100e9),
        ("2*v5e:2x4", dict(data=2, fsdp=8), ("data",), 3.125e9),
        ("tpu7x:2x2x1", dict(data=1, fsdp=4, tensor=2), ("tensor",), 1200e9),  # the two devices of a chip
    ],
)  # fmt: skip
def test_bandwidth_of_a_mesh_axis(name, axes, along, bandwidth):
    assert line(parse(name), mesh(name, **axes), along).bandwidth == pytest.approx(bandwidth)


def test_seconds_of_collectives():
    on = mesh(data=1, fsdp=8)
    along = line(parse("v5e:2x4"), on, ("fsdp",))
    assert (along.devices, along.dims, along.longest, along.bandwidth) == (8, 2, 4, 100e9)
    took = lambda kind: seconds(Collective(kind, ("fsdp",), 10**9, 1, False), along)
    assert took("all-gather") == took("reduce-scatter") == pytest.approx(7 / 8 * 0.01)
    assert took("all-reduce") == 2 * took("all-gather") and took("collective-permute") == pytest.approx(0.01)
    assert took("all-to-all") == pytest.approx(0.01 * 4 / 4 * 2)


def test_attention_kernels_are_counted():
    from core_jax.attention import attention

    on = mesh(data=1, fsdp=8)
    q = shaped(on, (8, 512, 2, 64), P(("data", "fsdp")))

    def loss(q, k, v):
        out = jax.lax.scan(lambda x, _: (attention(x, k, v), None), q, None, length=3)[0]
        return out.astype(jnp.float32).sum()

    with jax.set_mesh(on):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, q, q)
        result = compiled.compile(lowered, "v5e:2x4 kernels")
        calls, unknown = kernel_calls(hlo.parse(result.text))
    pair, heads = 3 * 2 * 2 * 512 * 512 * 64.0, 3 * 2
    assert calls == {("attention_forward", 64): (2 * pair, heads), ("attention_backward", 64): (5 * pair, heads)} and not unknown


def test_steps_of_our_grids_are_whole_chunks_of_tiles():
    """75,600 tokens on a v5e: 74 tiles of queries with 37 of keys, backward 74 of keys with 74 of queries; 512 keys are one tile."""
    with jax.set_mesh(mesh(data=8)):
        tiles = planned(*[jax.ShapeDtypeStruct((1, 75_600, 1, 128), jnp.bfloat16)] * 2)
        assert (tiles.key_chunk, tiles.query_chunk) == (16, 16)
        assert grid_steps(75_600, 75_600, 128, jnp.bfloat16) == (74 * 3, 74 * 5) and grid_steps(75_600, 512, 128, jnp.bfloat16) == (74, 5)


@pytest.mark.parametrize(
    "name, made, operands, products",
    [
        ("attention_forward", "(bf16[2,3,512,128]{3,2,1,0}, f32[2,3,1,512]{3,2,1,0})", ("bf16[2,3,512,128]{3,2,1,0}", "bf16[2,3,2048,128]{3,2,1,0}"), 2),
        ("attention_backward", "(bf16[2,3,512,72]{3,2,1,0}, bf16[2,3,2048,72]{3,2,1,0})", ("bf16[2,3,1024,72]{3,2,1,0}", "bf16[2,3,2048,72]{3,2,1,0}"), 5),
        ("attention_backward", "(bf16[2,3,640,72]{3,2,1,0}, bf16[2,3,2048,72]{3,2,1,0})", ("bf16[2,3,1024,72]{3,2,1,0}", "bf16[2,3,2048,72]{3,2,1,0}"), 5),
        ("splash_mha_fwd_segmented", "bf16[6,512,128]{2,1,0}", ("s8[1,4,4]{2,1,0}", "bf16[6,512,128]{2,1,0}", "bf16[6,2048,128]{2,1,0}"), 2),
        ("splash_mha_dkv_segmented", "bf16[6,2048,128]{2,1,0}", ("bf16[6,512,128]{2,1,0}", "bf16[6,2048,128]{2,1,0}"), 4),
        ("splash_mha_dkv_fused", "(bf16[4,6,512,128]{3,2,1,0}, bf16[6,2048,128]{2,1,0})", ("bf16[6,512,128]{2,1,0}", "bf16[6,2048,128]{2,1,0}"), 5),
        ("splash_mha_dq", "bf16[6,512,128]{2,1,0}", ("bf16[6,512,128]{2,1,0}", "bf16[6,2048,128]{2,1,0}"), 3),
    ],
)
def test_flops_of_a_kernel_are_those_of_its_own_queries(name, made, operands, products):
    """Our backward kernel is called with all queries and makes dq of a block of them, the last of which may be half empty: of 1,024 queries half
    each, whether a block has 512 or 640. A head dim of 72 is multiplied as 128."""
    given = "\n".join(f"  %p{i} = {type_} parameter({i})" for i, type_ in enumerate(operands))
    called = ", ".join(f"%p{i}" for i in range(len(operands)))
    text = f"""ENTRY %main () -> f32[] {{
{given}
  ROOT %{name}.1 = {made} custom-call({called}), custom_call_target="tpu_custom_call"
}}"""
    (((_, dim), calls),) = kernel_calls(hlo.parse(text))[0].items()
    assert (dim, calls.flops) == (128, products * 2.0 * 6 * 512 * 2048 * 128)
    assert bool(calls.steps) is name.startswith("attention")


def test_a_kernel_takes_what_its_schedule_leaves():
    """By docs/kernel.md, which says the share of peak for each chip, head dim and pass."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (DOCS / "kernel.md").read_text().splitlines() if row.startswith("|")]
    at = next(row for row in rows if row[0] == "chip").index("peak")
    said = {(row[0], int(row[2]), row[3]): int(row[at].rstrip("%")) / 100 for row in rows if row[1] == "75,600" and row[4] == "ours"}
    assert len(said) == 24 and set(SCHEDULED) == {chip.name for chip in CHIPS}
    for (chip, dim, name), found in said.items():
        assert share(next(one for one in CHIPS if one.name == chip), f"attention_{name}", dim) == found
    v6e = next(one for one in CHIPS if one.name == "v6e")
    assert share(v6e, "attention_forward", 512) == share(v6e, "attention_forward", 256) and share(v6e, "splash_mha_fwd", 128) == 1


def test_the_estimate_of_a_kernel_is_by_its_flops_that_share_and_its_steps():
    text = """ENTRY %main () -> f32[] {
  %p = bf16[2,3,512,128]{3,2,1,0} parameter(0)
  ROOT %attention_forward.1 = (bf16[2,3,512,128]{3,2,1,0}, f32[2,3,1,512]{3,2,1,0}) custom-call(%p, %p), custom_call_target="tpu_custom_call"
}"""
    which = parse("v6e:2x4")
    made = estimate(hlo.parse(text), [], which, mesh(data=8), flops=0.0, hbm_bytes=0)
    assert made.attention == pytest.approx(2 * 2 * 6 * 512 * 512 * 128 / (0.6 * which.chip.peak) + 6 * STEP) and made.step == made.attention, "a step a head"


def test_the_estimate_adds_up():
    on, program = layers()
    program = hlo.parse(program.text)
    found = collectives(program, on)
    made = estimate(program, found, parse("v5e:2x4"), on, flops=197e12 * 8, hbm_bytes=819 * 10**6)
    assert made.floors["matmul"] == pytest.approx(1) and made.floors["hbm"] == pytest.approx(1e-3) and made.binds == "matmul"
    assert made.attention == 0 and made.step == made.fusions + made.exposed
    floor = 5 * 4 * 2 * 512 * 1024 * 1024 / 197e12  # forward, again, and two products backward
    assert floor < made.fusions < 4 * floor


def test_a_copy_whose_cycles_are_not_told_takes_the_time_of_its_bytes():
    """2^63 − 1 is how the compiler for tpu7x says that it does not know."""
    text = """HloModule m

ENTRY %main (p: f32[1024,1024]) -> f32[1024,1024] {
  %p = f32[1024,1024]{1,0} parameter(0)
  %a = f32[1024,1024]{0,1} copy(%p), backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %b = f32[1024,1024]{1,0} copy(%a), backend_config={"estimated_cycles":"1000"}
}
"""
    found = estimate(hlo.parse(text), [], parse("tpu7x:2x2x1"), mesh(data=8), flops=0.0, hbm_bytes=0)
    chip = parse("tpu7x:2x2x1").chip
    assert found.step == pytest.approx(1000 / chip.clock + 2 * 4 * MB / chip.hbm_bandwidth)


def test_a_misfit_says_by_how_much():
    on = mesh(data=1, fsdp=8)
    with jax.set_mesh(on):
        lowered = jax.jit(lambda x: x + 1).lower(shaped(on, (20 * 1024, 1024, 1024), P(), jnp.uint8))
        misfit = compiled.compile(lowered, "v5e:2x4 misfit")
    assert misfit.available == pytest.approx(15.75 * 2**30, rel=1e-3) and misfit.needed == pytest.approx(40 * 2**30, rel=1e-2)
    assert str(misfit) == "needs 40.00 GiB a device, 24.25 GiB more than the 15.75 GiB there are"


def test_what_the_compiler_accepts_is_not_said_to_need_more_than_there_is():
    def step(x, w):
        turns = jax.lax.scan(lambda h, _: (h @ w, h), x, None, length=8)[1]
        return jnp.sum(jnp.cumsum(turns, 1) * turns[::-1])

    on = mesh(data=1, fsdp=8)
    with jax.set_mesh(on):
        lowered = jax.jit(step).lower(shaped(on, (2**17, 1024), dtype=jnp.float32), shaped(on, (1024, 1024), dtype=jnp.float32))
        program = compiled.compile(lowered, "v5e:2x4 holes")
    turns = 8 * 2**17 * 1024 * 4
    assert program.arguments + 2 * turns < program.allocated and program.bytes < 15.75 * 2**30


def test_other_words_of_the_compiler():
    assert compiled.Misfit.read("Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.") == compiled.Misfit(22011707392, 16911433728)
    assert compiled.Misfit.read("something else") is None


@pytest.fixture
def cache(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_compiler_that_writes_otherwise_is_one_sentence(monkeypatch):
    on = mesh(data=1, fsdp=8)
    monkeypatch.setattr(compiled, "_largest", lambda folder, kind: "")
    with jax.set_mesh(on), pytest.raises(RuntimeError, match=r"libtpu [\d.]+ does not write what it compiled in a form that is known here; 0.0.42"):
        compiled.compile(jax.jit(lambda x: x * 3).lower(shaped(on, (8, 128), P("fsdp"))), "here")


def test_a_result_is_kept(cache, monkeypatch):
    on = mesh(data=1, fsdp=8)
    with jax.set_mesh(on):
        lowered = jax.jit(lambda x: x * 2).lower(shaped(on, (8, 128), P("fsdp")))
        first = compiled.compile(lowered, "here")
        monkeypatch.setattr(compiled, "_compile", lambda _: pytest.fail("compiled again"))
        assert compiled.compile(lowered, "here") == first
        with pytest.raises(pytest.fail.Exception):
            compiled.compile(lowered, "elsewhere")


def test_a_step_gathers_weights_whole():
    """Multiplied by piece after piece, as the compiler would, products are summed in HBM."""
    on = mesh(fsdp=8, data=1)
    weights, x = shaped(on, (1024, 4096), P("fsdp"), jnp.float32), shaped(on, (8192, 1024), P("fsdp"))
    step = lambda w, x: (w, ((x @ w.astype(x.dtype)).astype(jnp.float32) ** 2).mean())  # noqa: E731
    with jax.set_mesh(on):
        plain, *asked = (jitted.lower(weights, x).compile().as_text() for jitted in (jax.jit(step), compile_step(step, weights), jit(step)))
    assert all("all-gather" in text and "collective-permute" not in text for text in asked)
    assert "collective-permute" in plain, "else nothing need be asked"


def test_what_a_tpu_does_otherwise_takes_it_fewer_cycles(monkeypatch):
    """Positions turned by a product, queries, keys and values by a product each; what others do is slower there."""
    on = mesh(fsdp=8, data=1)
    angles = rotary_angles((4, 16, 16), 128)[None, :, None]

    def turned(layer, x):
        q, k, v = layer.parts(x)
        turn = lambda y: rotate(y, jnp.cos(angles), jnp.sin(angles)).swapaxes(1, 2)
        return turn(q), turn(k), v.swapaxes(1, 2)

    def cycles() -> float:
        layer = jax.eval_shape(lambda: Linear((512,), (3, 4, 128), "E n K D", rngs=Rngs(0)))
        layer = jax.tree.map(lambda x: shaped(on, x.shape, dtype=x.dtype), layer)
        program = compiled.compile(jax.jit(lambda *given: turned(*given)).lower(layer, shaped(on, (8 * 8, 1024, 512), P("fsdp"))), "here")
        return sum(place.cycles(parse("v5e:2x4").chip) or 0 for place in hlo.parse(program.text).places())

    with jax.set_mesh(on):
        own = cycles()
        monkeypatch.setattr(layers_of, "platform", lambda: "gpu")
        assert own < 0.7 * cycles()
