"""The attention kernels that `python -m videodit_jax.kernel` compares, each as a program that the TPU compiler can be given.

flash: `jax.experimental.pallas.ops.tpu.flash_attention`, forward and two backward kernels. splash: `…tpu.splash_attention` with a
full mask and its fused backward kernel. Neither takes a length that its tiles do not divide: they get it padded to whole tiles, with
segment ids that hide the padding.
"""
import dataclasses
import enum
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.experimental.pallas.ops.tpu import flash_attention as flash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from core_jax.attention import Implementation, attention
from core_jax.attention.implementation import platform
from core_jax.attention.kernel import planned
from core_jax.attention.sharded import current_split, map_over_mesh
from core_jax.attention.tiles import Tile, Tiles
from core_jax.chips import CHIPS
from core_jax.pod import hlo
from videodit_jax.schedule import TENSOR_CORES


class Kernel(enum.Enum):
    """Whose kernel."""

    OURS = "ours"
    FLASH = "flash"
    SPLASH = "splash"


@dataclasses.dataclass(frozen=True)
class Splash:
    """How jax's splash attention cuts its work, forward and backward alike."""

    q: int
    k: int
    part: int
    """keys of a tile that are multiplied at once"""
    fused: bool = True
    """one backward kernel, rather than one for keys and values and one for queries"""

    def sizes(self) -> splash.BlockSizes:
        backward = {} if self.fused else dict(block_q_dq=self.q, block_kv_dq=self.k)
        return splash.BlockSizes(
            block_q=self.q, block_kv=self.k, block_kv_compute=self.part, block_q_dkv=self.q, block_kv_dkv=self.k, block_kv_dkv_compute=self.part,
            use_fused_bwd_kernel=self.fused, **backward,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Call:
    """Self-attention of one head over `seq` tokens in bf16, forward and backward, on one chip."""

    chip: str
    seq: int
    dim: int
    kernel: Kernel
    tile: Tile | None = None
    """of a peer; ours chooses its own"""
    blocks: Splash | None = None
    """of splash, whose tile these are cut from; by default 1,024 keys at once, and one backward kernel"""

    @property
    def padded(self) -> int:
        """The next length that both sides of a peer's tile divide."""
        side = math.lcm(self.tile.q, self.tile.k)
        return -(-self.seq // side) * side


def compile_call(call: Call) -> tuple[Tiles, dict[str, float]]:
    """Compiles the call and its gradients. Returns its tiles, and the cycles that the compiler estimates for what surrounds the kernels
    (copies that pad, scale, transpose or sum up), by pass."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TENSOR_CORES[call.chip].topology).devices
    axes = ("data", "fsdp", "context", "tensor")
    mesh = Mesh(np.array(devices[:1]).reshape(1, 1, 1, 1), axes, axis_types=(AxisType.Auto,) * 4)
    x = jax.ShapeDtypeStruct((1, call.seq, 1, call.dim), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec()))
    function = {Kernel.OURS: _ours, Kernel.FLASH: _flash, Kernel.SPLASH: _splash}[call.kernel](call)

    def step(q, k, v, d_out):
        out, vjp = jax.vjp(function, q, k, v)
        return out, vjp(d_out)

    with jax.set_mesh(mesh):
        tiles = planned(x, x) if call.tile is None else Tiles(call.tile, call.tile, call.tile, 1, 1)
        text = jax.jit(step).lower(x, x, x, x).compile().as_text()
    cycles = {"forward": 0.0, "backward": 0.0}
    chip = next(chip for chip in CHIPS if chip.name == call.chip)
    program = hlo.parse(text)
    for place in program.places():
        cycles["backward" if is_backward(place.instruction, program.computations[place.home]) else "forward"] += place.cycles(chip)
    return tiles, cycles


def is_backward(instruction: hlo.Instruction, home: hlo.Computation) -> bool:
    """By its name; a copy that the compiler added has none and goes with what it copies."""
    while not instruction.op_name and instruction.operands and instruction.operands[0] in home:
        instruction = home[instruction.operands[0]]
    return "transpose(jvp" in instruction.op_name


def _ours(call: Call):
    return lambda q, k, v: attention(q, k, v, implementation=Implementation.PALLAS)


def _flash(call: Call):
    q, k = call.tile.q, call.tile.k
    blocks = flash.BlockSizes(q, k, k, 1, q, k, k, q, k, k, q)

    def function(*x):
        x = [_padded(call, part) for part in x]
        ids = _segments(call)
        ids = None if ids is None else flash.SegmentIds(ids[None], ids[None])
        out = flash.flash_attention(*x, segment_ids=ids, sm_scale=call.dim**-0.5, block_sizes=blocks)
        return out[:, :, : call.seq].swapaxes(1, 2)

    return function


def _splash(call: Call):
    blocks, n = call.blocks or Splash(call.tile.q, call.tile.k, min(call.tile.k, 1024)), call.padded
    mask = splash_mask.MultiHeadMask([splash_mask.FullMask((n, n))])

    def function(*x):
        x = [_padded(call, part)[0] for part in x]
        ids = _segments(call)
        ids = None if ids is None else splash.SegmentIds(ids, ids)
        kernel = splash.make_splash_mha_single_device(mask, block_sizes=blocks.sizes())
        out = kernel(x[0] * call.dim**-0.5, *x[1:], segment_ids=ids)
        return out[None, :, : call.seq].swapaxes(1, 2)

    return function


def _padded(call: Call, x):
    """[1 S 1 D] to [1 1 S D], S in whole tiles."""
    return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, call.padded - call.seq), (0, 0)))


def _segments(call: Call):
    return (jnp.arange(call.padded) >= call.seq).astype(jnp.int32) if call.padded > call.seq else None


def splash_in_a_model(blocks: Splash):
    """jax's splash attention in the place of `core_jax.attention.attention` where a model calls it on long sequences, as maxdiffusion
    does: each device keeps its queries, keys are gathered. Text stays with our own attention."""
    q_tile, k_tile = blocks.q, blocks.k

    def local(q, k, v):
        (_, rows, heads, dim), columns = q.shape, k.shape[1]

        def by_head(x, tile):
            return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % tile), (0, 0)))

        q, k, v = by_head(q * dim**-0.5, q_tile), by_head(k, k_tile), by_head(v, k_tile)
        ids = splash.SegmentIds(jnp.zeros(q.shape[2], jnp.int32), (jnp.arange(k.shape[2]) >= columns).astype(jnp.int32))
        mask = splash_mask.MultiHeadMask([splash_mask.FullMask((q.shape[2], k.shape[2]))] * heads)
        kernel = splash.make_splash_mha_single_device(mask, block_sizes=blocks.sizes(), residual_checkpoint_name="attention_out", interpret=platform() != "tpu")
        return jax.vmap(kernel, (0, 0, 0, None))(q, k, v, ids)[:, :, :rows].swapaxes(1, 2)

    def function(q, k, v, **rest):
        if k.shape[1] < q.shape[1]:
            return attention(q, k, v, **rest)
        split = current_split(*q.shape[:3], k.shape[2], 1)
        return map_over_mesh(split, local, (split.by_query, split.by_key, split.by_key), split.by_query)(q, k, v)

    return function
