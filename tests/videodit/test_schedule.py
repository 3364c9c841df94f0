"""The reader of compiled TPU programs: on text written by hand, and on a kernel whose matrix products can be counted."""
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from videodit_jax.schedule import TENSOR_CORES, Counts, Program, compile_and_read, parse

needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, the TPU compiler")

# A loop over a grid of 3 steps: bundle 3 multiplies; 5 starts an accumulator if branch 4 lets it; 7 waits for a copy; an inner loop of 4
# trips over bundle 9; bundle 12 multiplies where branch 11 lets it.
BUNDLES = """
LB: loop body

     0   :  { %s1_s0 = smov.u32 0 } /* Start region 1 */
   0x1 LB: > { %s2_s0 = sphi %s1_s0, %s3_s0 } /* Start region 2 */
   0x2   : > { %s3_s0 = sadd.s32 1, %s2_s0 }
   0x3   : > { %9 = vmatmul.bf16.gmra.mxu0 %v1_v0  ;;  %10 = vmatmul.bf16.gmra.mxu1 %v1_v0 }
   0x4   : > { %11 = sbr.rel (%p1_p0) target = $region5 }
   0x5   : > { %12 = vst [vmem:[#allocation2]] /*a comment
over two lines*/ }
   0x6 PF: > { %13 = sbr.rel (%p1_p0) target = $region6 } /* Start/End empty region 5 */
   0x7   : > { %14 = dma.done.wait [#allocation3], 7 }
   0x8 PF: > { %s5_s1 = sphi %s4_s1, %s6_s1 } /* Start/End empty region 6 */
   0x9 LB: >> { %s6_s1 = sadd.s32 2, %s5_s1  ;;  %p3_p1 = scmp.ge.s32.totalorder %s6_s1, 8 /* loop exit test */ } /* Start region 7 */
   0xa   : >> { %15 = sbr.rel (!%p3_p1) target = $region7 }
   0xb   : > { %16 = sbr.rel (%p1_p0) target = $region8 }
   0xc   : > { %17 = vmatmul.bf16.gmra.mxu0 %v1_v0 }
   0xd PF: > { %p4_p1 = scmp.ge.s32.totalorder %s3_s0, 3 /* loop exit test */ } /* Start/End empty region 8 */
   0xe   : > { %18 = sbr.rel (!%p4_p1) target = $region2 }
   0xf   :  { %19 = vsyncpa [#allocation7], 1 }
"""
UTILIZATION = "== CAPACITY:\nMATMUL, VLOAD, VLOAD:FILL, VSTORE:SPILL\n4 3 3 1\n== UTILIZATION:\n" + "\n".join(
    ["0 0 0 0"] * 3 + ["2 1 1 2"] + ["0 1 0 0"] * 5 + ["0 2 1 0"] + ["0 0 0 0"] * 6
)


def test_a_step_counts_what_runs():
    program = Program(parse(BUNDLES, UTILIZATION, delay=0), 0)
    (loop,) = program.whole.inner
    assert (loop.trips, loop.start, loop.stop) == (3, 1, 15)
    always = 7 + 2 * 4  # bundles 1 2 3 4 6 8 11, 13 and 14 in the loop; 9 and 10 four times
    assert program.step() == Counts(bundles=always + 2 + 1 + 1 + 1, matmuls=3, spills=3 + 4)
    assert program.step((4,), (0.5,)) == Counts(bundles=always + 2 + 1 / 4 + 1 + 0.5, matmuls=2.5, spills=7)


def test_a_branch_out_of_the_kernel_jumps_over_nothing():
    """On chips of two cores the other one may have nothing to do."""
    leaving = BUNDLES.replace("%s1_s0 = smov.u32 0 }", "%s1_s0 = smov.u32 0  ;;  %0 = sbr.rel (%p0_p0) target = $region10 }")
    leaving = leaving.replace("[#allocation7], 1 }", "[#allocation7], 1 } /* End region 0 :: End region 9 */")
    assert Program(parse(leaving, UTILIZATION, delay=0), 0).step() == Program(parse(BUNDLES, UTILIZATION, delay=0), 0).step()


def test_a_copy_that_ends_as_it_runs_counts_once():
    copying = BUNDLES.replace("%s6_s1, 8", "%s6_s1, %s8_s1")
    assert Program(parse(copying, UTILIZATION, delay=0), 0).step().bundles == Program(parse(BUNDLES, UTILIZATION, delay=0), 0).step().bundles - 2 * 3


def test_a_loop_that_multiplies_counts_as_often_as_the_caller_says():
    """The inner loop, with a product in it and an end that is known only as it runs; the accumulator is then the one of a later sweep."""
    multiplying = BUNDLES.replace("0x9 LB: >> { ", "0x9 LB: >> { %18 = vmatmul.bf16.gmra.mxu0 %v1_v0  ;;  ").replace("%s6_s1, 8", "%s6_s1, %s8_s1")
    program = Program(parse(multiplying, UTILIZATION, delay=0), 0)
    assert program.step((4,), (2.5, 0.5)) == Counts(bundles=7 + 2 * 2.5 + 2 + 1 / 4 + 1 + 0.5, matmuls=2 + 2.5 + 0.5, spills=3 + 2.5)
    with pytest.raises(ValueError, match="a loop of 2 bundles .* no constant number of trips"):
        program.step()


def test_accumulators_have_sweeps_of_their_own():
    """Bundle 12 no longer multiplies: 5 and 12 start or end an accumulator; 7 waits for a copy."""
    plain = BUNDLES.replace("%17 = vmatmul.bf16.gmra.mxu0 %v1_v0", "%17 = vst [vmem:[#allocation2]]")
    program = Program(parse(plain, UTILIZATION, delay=0), 0)
    assert program.step((4, 10)).bundles - program.step((4, 20)).bundles == pytest.approx(1 / 10 - 1 / 20)
    assert program.step((4, 10)).bundles - program.step((8, 10)).bundles == pytest.approx(1 / 4 - 1 / 8)


@pytest.mark.parametrize(
    ("bundles", "words"),
    [
        (BUNDLES.replace("region6 }", "region66 }"), "branches to region 66"),
        (BUNDLES[: BUNDLES.index("   0xf")], "15 bundles, but the slots of 16"),
    ],
)
def test_a_dump_that_does_not_add_up(bundles, words):
    with pytest.raises(ValueError, match=words):
        parse(bundles, UTILIZATION, delay=0)


def test_floor():
    """Where a unit is 256 wide, 128 contracted take as long as 256, and a result of 128 columns can be streamed instead."""
    assert TENSOR_CORES["v5e"].floor(1024, 1024, 128) == TENSOR_CORES["v5e"].floor(1024, 128, 1024) == 2048
    assert (TENSOR_CORES["v6e"].floor(1024, 1024, 128), TENSOR_CORES["v6e"].floor(1024, 128, 1024)) == (1024, 512)
    for chip in TENSOR_CORES.values():
        assert chip.floor(1024, 1024, 256) == 2 * 1024 * 1024 * 256 / chip.flops


def products(chip: str, rows: int, grid: int):
    """Compiles `grid` products [256 128] × [128 128], of the first of `rows` that lie in VMEM."""

    def kernel(x, y, out):
        out[:256] = jnp.dot(x[:256], y[...], preferred_element_type=jnp.float32)

    devices = topologies.get_topology_desc(platform="tpu", topology_name=TENSOR_CORES[chip].topology).devices
    here = NamedSharding(Mesh(np.array(devices[:1]), "x"), PartitionSpec())
    spec = pl.BlockSpec((rows, 128), lambda i: (i, 0))
    call = pl.pallas_call(
        kernel,
        grid=(grid,),
        in_specs=[spec, pl.BlockSpec((128, 128), lambda i: (0, 0))],
        out_specs=spec,
        out_shape=jax.ShapeDtypeStruct((rows * grid, 128), jnp.float32),
        name="products",
    )
    x, y = (jax.ShapeDtypeStruct((n, 128), jnp.bfloat16, sharding=here) for n in (rows * grid, 128))
    return jax.jit(call).lower(x, y).compile().as_text().count("tpu_custom_call")


@needs_compiler
def test_a_kernel_compiled_here():
    programs, result = compile_and_read(products, "v5e", 256, 5, chip=TENSOR_CORES["v5e"])
    assert result == 1 and set(programs) == {"products"}
    (program,) = programs["products"]
    (loop,) = program.whole.inner
    assert loop.trips == 5 + 2  # the first and the last only copy
    assert program.step().matmuls == 256 / 16
    assert 256 / 16 * 16 / 4 <= program.step().bundles < 1000
    assert program.vmem_bytes >= 2 * 256 * 128 * (2 + 4)


@needs_compiler
def test_the_compiler_s_reason():
    with pytest.raises(ValueError, match="the TPU compiler refuses"):
        compile_and_read(products, "v5e", 2**17, 1, chip=TENSOR_CORES["v5e"])
