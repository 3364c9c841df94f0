"""Attention: every implementation against the twin, and the twin against loops of numpy."""

from __future__ import annotations

import ast
import dataclasses
import functools
import logging
import pathlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import Primitive
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AxisType

from core_jax import remat
from core_jax.attention import Implementation, attention
from core_jax.attention.blockwise import blockwise_attention
from core_jax.attention.implementation import choose
from core_jax.attention.kernel import pallas_attention
from core_jax.attention.mask import Mask
from core_jax.attention.reference import reference_attention
from core_jax.attention.tiles import Tile, Tiles
from core_jax.attention.xla import xla_attention

ROOT = pathlib.Path(__file__).parents[2]
TINY = Tiles(Tile(24, 16), Tile(16, 32), Tile(16, 8), 2, 2)  # 40 queries and 50 keys then span several ragged tiles, of several parts
STRICT = pltpu.InterpretParams(uninitialized_memory="nan", out_of_bounds_reads="raise")
RACES = dataclasses.replace(STRICT, detect_races=True)  # and half of the time more, for what no test reads twice


@dataclasses.dataclass(frozen=True)
class Case:
    """One call: its shape, dtype, number of bias groups (0: no bias) and mask."""

    mask: Mask = Mask()
    batch: int = 1
    rows: int = 40
    columns: int = 50
    heads: int = 2
    kv_heads: int = 1
    dim: int = 16
    dtype: type = jnp.float32
    groups: int = 0

    def inputs(self) -> tuple:
        """q, k, v, bias, and the cotangents of out and lse."""
        rng = np.random.default_rng(7)
        tokens, lse = (self.batch, self.rows, self.heads, self.dim), (self.batch, self.heads, self.rows)
        kv = self.batch, self.columns, self.kv_heads, self.dim
        q, k, v, d_out = (rng.normal(size=shape).astype(self.dtype) for shape in (tokens, kv, kv, tokens))
        bias = rng.normal(size=(self.groups, *lse[1:], self.columns)).astype(np.float32) if self.groups else None
        return q, k, v, bias, d_out, rng.normal(size=lse).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("function", "scale", "causal"))
def run(function, scale, causal, inputs, parts, cotangents):
    """out, lse and gradients; `parts` are a mask's fields but `causal`, and None stands for a plain Mask's."""
    mask = Mask(causal=causal, **{name: x for name, x in parts.items() if x is not None})
    (out, lse), vjp = jax.vjp(lambda *inputs: function(*inputs, mask, scale), *inputs)
    return out, lse, *vjp((cotangents[0], None if lse is None else cotangents[1]))


def values_and_gradients(function, case: Case) -> dict[str, np.ndarray]:
    """out, lse (where there is one) and the gradients of q, k, v and bias, all as fp32."""
    *inputs, d_out, d_lse = case.inputs()
    parts = {field.name: getattr(case.mask, field.name) for field in dataclasses.fields(Mask)}
    parts["q_offset"] = None if isinstance(parts["q_offset"], int) and parts["q_offset"] == 0 else parts["q_offset"]
    results = run(function, case.dim**-0.5, parts.pop("causal"), inputs, parts, (d_out, d_lse))
    named = zip(("out", "lse", "dq", "dk", "dv", "dbias"), results)
    return {name: np.asarray(x, np.float32) for name, x in named if x is not None}


def assert_alike(got: dict, right: dict, tolerance: float) -> None:
    assert set(got) == set(right)
    for name, x in got.items():
        np.testing.assert_allclose(x, right[name], rtol=tolerance, atol=tolerance * 2, err_msg=name)


def assert_like_twin(function, case: Case, twin=reference_attention) -> None:
    tolerance = 1e-5 if case.dtype == jnp.float32 else 2e-2
    assert_alike(values_and_gradients(function, case), values_and_gradients(twin, case), tolerance)


def segment_ids(batch: int, length: int, size: int, first: int = 0) -> np.ndarray:
    """Ids that change every `size` tokens, one more in each further batch element."""
    return np.arange(length)[None] // size + np.arange(batch)[:, None] + first


def blocks_of_4(*inputs):
    return blockwise_attention(*inputs, 4)


def tiny_tiles(*inputs):
    return pallas_attention(*inputs, TINY)


# ---- The twin -------------------------------------------------------------------------------------------------------


def test_twin_is_the_definition():
    """Against loops in float64, with every part of a mask at once."""
    ids = segment_ids(4, 6, 3), segment_ids(4, 7, 4)
    mask = Mask(jnp.array([6, 4, 0, 6]), jnp.array([7, 7, 5, 0]), *ids, q_offset=-1, causal=True)
    case = Case(mask, batch=4, rows=6, columns=7, heads=4, kv_heads=2, dim=5, groups=2)
    q, k, v, bias, *_ = (x if x is None else np.asarray(x, np.float64) for x in case.inputs())
    out, lse = reference_attention(*case.inputs()[:4], mask, 0.3)
    for b, h, i in np.ndindex(4, 4, 6):
        sees = [
            j
            for j in range(7)
            if i < mask.lengths[b] and j < mask.kv_lengths[b] and ids[0][b, i] == ids[1][b, j] and j <= i - 1
        ]
        scores = np.array([0.3 * q[b, i, h] @ k[b, j, h // 2] + bias[b % 2, h, i, j] for j in sees])
        total = np.exp(scores).sum()
        want = sum((e * v[b, j, h // 2] for e, j in zip(np.exp(scores), sees)), np.zeros(5)) / (total or 1)
        np.testing.assert_allclose(out[b, i, h], want, atol=1e-6)
        np.testing.assert_allclose(lse[b, h, i], np.log(total) if sees else -np.inf, atol=1e-6)


@pytest.mark.parametrize("function", [reference_attention, blocks_of_4])
def test_query_without_keys(function):
    """Output 0, log-sum-exp −∞, zero gradients: by definition, not by agreement with the twin."""
    mask = Mask(kv_lengths=jnp.array([0, 6]), segments=jnp.full((2, 4), 3), kv_segments=jnp.full((2, 6), 4))
    got = values_and_gradients(function, Case(mask, batch=2, rows=4, columns=6, groups=1))
    assert np.all(np.isneginf(got.pop("lse")))
    for name, x in got.items():
        np.testing.assert_array_equal(x, 0, err_msg=name)


# ---- The implementations against the twin ---------------------------------------------------------------------------

CASES = {
    "whole": Case(rows=20, dim=64, heads=4, kv_heads=2),
    "lengths": Case(Mask(jnp.array([0, 25]), jnp.array([50, 17])), 2, heads=1, dim=80, dtype=jnp.bfloat16),
    "no keys": Case(Mask(kv_lengths=jnp.array([0, 33])), 2, heads=1, dim=128, groups=2),
    "causal": Case(Mask(q_offset=-7, causal=True), dim=128),
    "causal later": Case(Mask(jnp.array([39]), q_offset=jnp.int32(20), causal=True), dim=256, dtype=jnp.bfloat16),
    "segments": Case(Mask(None, None, segment_ids(1, 40, 9), segment_ids(1, 50, 20, first=1))),
    "everything": Case(
        Mask(jnp.array([40, 31]), jnp.array([50, 29]), segment_ids(2, 40, 14), segment_ids(2, 50, 14), -3, True),
        batch=2,
        heads=1,
        groups=1,
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_case
def test_kernel_like_twin(case, capfd):
    with pltpu.force_tpu_interpret_mode(RACES):
        assert_like_twin(tiny_tiles, case)
    assert "RACE DETECTED" not in capfd.readouterr().out


@pytest.mark.parametrize("case", [Case(dim=64), CASES["everything"]], ids=["whole", "everything"])
def test_two_cores_backward_in_several_goes_and_turned_scores(case, monkeypatch):
    """As on a v5p, forward in two runs of two tiles, as where the gradients of all queries do not fit vector memory: two goes of two
    tiles, the second only half full, and as on a v6e, whose scores are turned before the matrix units take them in."""
    monkeypatch.setattr("core_jax.attention.kernel._cores", lambda: 2)
    monkeypatch.setattr("core_jax.attention.kernel.query_block", lambda *_: 2)
    with pltpu.force_tpu_interpret_mode(STRICT):
        assert_like_twin(lambda *inputs: pallas_attention(*inputs, dataclasses.replace(TINY, forward=Tile(10, 16), turned=True)), case)


@pytest.mark.parametrize(("columns", "dtype"), [(8, jnp.float32), (40, jnp.bfloat16), (72, jnp.float32), (96, jnp.bfloat16)])
def test_keys_past_the_last_make_no_scores(columns, dtype):
    """Of a last tile that is a quarter full only the first half is multiplied, whether it is the first too, or not."""
    tiles = dataclasses.replace(TINY, forward=Tile(24, 32))
    with pltpu.force_tpu_interpret_mode(STRICT):
        assert_like_twin(lambda *inputs: pallas_attention(*inputs, tiles), Case(rows=20, columns=columns, heads=1, dtype=dtype))


def test_turned_scores_are_transposed_in_the_kernel():
    """p and ds; values are the same either way."""
    x = jnp.zeros((1, 40, 1, 64))

    def transposes(turned: bool) -> int:
        tiles = dataclasses.replace(TINY, turned=turned)
        loss = lambda q: pallas_attention(q, x, x, None, Mask(), 1.0, tiles)[0].sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(x)).count("= transpose[")

    loops = 2  # over tiles within, and on the border
    assert transposes(True) == transposes(False) + 2 * loops


@each_case
def test_blockwise_like_twin(case):
    assert_like_twin(lambda *inputs: blockwise_attention(*inputs, 16), case)


def test_race_detection_is_awake(capfd):
    """A copy that is read before it has been waited for: the check above would see it."""

    def kernel(x, out, copied, done):
        copy = pltpu.make_async_copy(x, copied, done)
        copy.start()
        out[...] = copied[...]
        copy.wait()

    scratch = [pltpu.VMEM((8, 128), jnp.float32), pltpu.SemaphoreType.DMA]
    raised = ""
    with pltpu.force_tpu_interpret_mode(dataclasses.replace(RACES, dma_execution_mode="eager")):
        call = pl.pallas_call(
            kernel,
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)],
            out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
            scratch_shapes=scratch,
        )
        try:
            jax.block_until_ready(call(jnp.ones((8, 128))))
        except jax.errors.JaxRuntimeError as error:  # jax 0.12 raises where 0.10 prints
            raised = str(error)
    assert "RACE DETECTED" in capfd.readouterr().out + raised
    pltpu.reset_tpu_interpret_mode_state()


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
def test_kernel_on_mesh():
    """Batch, queries and heads split over eight devices: values and gradients of the twin on one."""
    mask = Mask(jnp.array([40, 13]), jnp.array([45, 50]), q_offset=5, causal=True)
    case = Case(mask, batch=2, heads=4, kv_heads=2, groups=1)
    right = values_and_gradients(reference_attention, case)
    mesh = jax.make_mesh((2, 1, 2, 2), ("data", "fsdp", "context", "tensor"), axis_types=(AxisType.Auto,) * 4)
    one_tile = Tiles(Tile(24, 64), Tile(24, 64), Tile(24, 64), 1, 1, turned=True)
    with jax.set_mesh(mesh), pltpu.force_tpu_interpret_mode():
        got = values_and_gradients(lambda *inputs: pallas_attention(*inputs, one_tile), case)
        with pytest.raises(ValueError, match="bias of 2 groups"):
            values_and_gradients(pallas_attention, dataclasses.replace(case, groups=2))
    assert_alike(got, right, 1e-5)


@st.composite
def any_mask(draw, case: Case, *, only_lengths: bool = False) -> Case:
    """`case` with a mask of drawn lengths and, unless `only_lengths`, drawn runs of segment ids and query offset."""
    batch, rows, columns = case.batch, case.rows, case.columns
    lengths, kv_lengths = (
        np.array(draw(st.lists(st.integers(-2, most + 1), min_size=batch, max_size=batch))) for most in (rows, columns)
    )
    if only_lengths:
        return dataclasses.replace(case, mask=Mask(lengths, kv_lengths, causal=draw(st.booleans())))
    ids = (segment_ids(batch, n, draw(st.integers(1, n)), draw(st.integers(0, 2))) for n in (rows, columns))
    mask = Mask(lengths, kv_lengths, *ids, np.int32(draw(st.integers(-rows, columns))), causal=True)
    return dataclasses.replace(case, mask=mask)


SMALL = [Case(None, 2, 7, 12, 2, 1, 8, groups=2), Case(None, 1, 9, 3, 3, 3, 5), Case(None, 4, 4, 8, 4, 2, 4, groups=1)]


@hypothesis.given(st.data(), st.sampled_from(SMALL))
def test_blockwise_like_twin_under_any_mask(data, case):
    assert_like_twin(blocks_of_4, data.draw(any_mask(case)))


def twin_without_lse(*inputs):
    return reference_attention(*inputs)[0], None


@hypothesis.given(st.data(), st.sampled_from(SMALL[1:]))
def test_xla_like_twin_under_any_lengths(data, case):
    assert_like_twin(xla_attention, data.draw(any_mask(case, only_lengths=True)), twin_without_lse)


def test_cudnns_attention_is_known_by_its_name():
    """jax gives it no public handle; where the name changes, its forward pass would run twice."""
    names = {x.name for x in vars(fused_attention_stablehlo).values() if isinstance(x, Primitive) and "fp8" not in x.name}
    assert {"dot_product_attention_fwd_wrapper", "dot_product_attention_bwd_wrapper"} <= names
    for keeps, keys in ((remat.keeps_attention, 513), (remat.keeps_products, 512)):
        operands = [jax.ShapeDtypeStruct((1, n, 1, 64), jnp.bfloat16) for n in (1024, keys, keys)]
        assert {name for name in names if keeps(Primitive(name), *operands)} == {name for name in names if "fwd" in name}
        operands[1] = jax.ShapeDtypeStruct((1, 512, 1, 64), jnp.bfloat16)
    assert not any(remat.keeps_attention(Primitive(name), *operands) for name in names)


# ---- Memory ---------------------------------------------------------------------------------------------------------


def largest_array(jaxpr) -> int:
    """Elements of the largest array that any equation makes, those inside scans and kernels too."""
    inner = 0
    for equation in jaxpr.eqns:
        inner = max([inner, *(getattr(x.aval, "size", 0) for x in equation.outvars)])
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            parameter = getattr(parameter, "jaxpr", parameter)
            if hasattr(parameter, "eqns"):
                inner = max(inner, largest_array(parameter))
    return inner


def training_step(implementation: Implementation):
    def loss(q, segments):
        out = attention(q, q, q, segments=segments, causal=True, implementation=implementation)
        return out.astype(jnp.float32).sum()

    return jax.grad(loss)


LONG = jax.ShapeDtypeStruct((1, 8192, 1, 64), jnp.bfloat16), jax.ShapeDtypeStruct((1, 8192), jnp.int32)


@pytest.mark.parametrize("implementation", [Implementation.PALLAS, Implementation.BLOCKWISE])
def test_no_array_of_queries_by_keys(implementation):
    """Forward and backward, with segment ids; the twin shows that the measure sees such an array."""
    assert largest_array(jax.make_jaxpr(training_step(implementation))(*LONG).jaxpr) <= 8192 * 1024
    assert largest_array(jax.make_jaxpr(training_step(Implementation.REFERENCE))(*LONG).jaxpr) >= 8192**2


def test_blockwise_compiles_to_little_memory():
    memory = jax.jit(training_step(Implementation.BLOCKWISE)).lower(*LONG).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 8192**2


# ---- Choice, errors -------------------------------------------------------------------------------------------------


def test_choice(monkeypatch, caplog):
    q, long = jnp.zeros((1, 4, 1, 8), jnp.bfloat16), jnp.zeros((1, 4096, 1, 8), jnp.bfloat16)
    segmented = Mask(segments=jnp.zeros((1, 4), int), kv_segments=jnp.zeros((1, 4), int))
    place = "core_jax.attention.implementation.platform"
    for platform, keys, mask, want in [
        ("cpu", q, Mask(), Implementation.REFERENCE),
        ("cpu", long, Mask(), Implementation.BLOCKWISE),
        ("gpu", q, Mask(), Implementation.XLA),
        ("gpu", q, segmented, Implementation.REFERENCE),
        ("tpu", q, segmented, Implementation.PALLAS),
    ]:
        monkeypatch.setattr(place, lambda platform=platform: platform)
        assert choose(q, keys, None, mask, return_lse=False) is want, platform
    monkeypatch.undo()
    with caplog.at_level(logging.DEBUG, "core_jax.attention"):
        for _ in range(2):
            attention(*[jnp.zeros((1, 3, 1, 9))] * 3)
    assert [record.getMessage() for record in caplog.records] == [
        "attention of q[1, 3, 1, 9] over k[1, 3, 1, 9] in float32: REFERENCE"
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(k=jnp.zeros((2, 5, 3, 8)), v=jnp.zeros((2, 5, 3, 8))), "3 key-value heads must divide the 4"),
        (dict(v=jnp.zeros((2, 5, 2, 9))), r"k and v must both be \[2 Skv Kkv 8\]"),
        (dict(q=jnp.zeros((2, 3, 4, 8), jnp.bfloat16)), "one floating dtype, got bfloat16, float32"),
        (dict(bias=jnp.zeros((1, 4, 3, 6))), r"bias must be \[G 4 3 5\]"),
        (dict(lengths=jnp.zeros(3, int)), r"lengths must be integers of shape \(2,\)"),
        (dict(segments=jnp.zeros((2, 3), int)), "segments and kv_segments go together"),
        (dict(implementation=Implementation.XLA, return_lse=True), "no log-sum-exp"),
        (dict(implementation=Implementation.XLA, causal=True, q_offset=1), "no query offset"),
    ],
)
def test_bad_calls(change, words):
    call = dict(q=jnp.zeros((2, 3, 4, 8)), k=jnp.zeros((2, 5, 2, 8)), v=jnp.zeros((2, 5, 2, 8))) | change
    with pytest.raises(ValueError, match=words):
        attention(call.pop("q"), call.pop("k"), call.pop("v"), **call)


def test_no_other_file_computes_attention():
    """One function for the workspace: no softmax and no library attention is called outside it."""
    forbidden = {"softmax", "dot_product_attention", "MultiHeadAttention", "MultiHeadDotProductAttention"}
    found = []
    for package in ("core_jax", "koala_jax", "videodit_jax", "scaling_jax", "owl_jax"):
        for file in sorted((ROOT / package).rglob("*.py")):
            if file.parent == ROOT / "core_jax" / "attention":
                continue
            calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
            for call in calls:
                name = getattr(call, "attr", getattr(call, "id", ""))
                found += [f"{file.relative_to(ROOT)}:{call.lineno} calls {name}"] if name in forbidden else []
    assert not found, found

