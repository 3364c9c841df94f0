"""What a chip can do: one table, for the trainer's MFU and for the planner's floors. The source stands beside each number.

Sources: [v5e], [v5p], [v6e], [tpu7x]: the pages docs.cloud.google.com/tpu/docs/v5e and so on, "Key specifications";
[v4]: Jouppi et al. 2023, arXiv 2304.01433, table 4; [cycle]: matrix units × 128² (v6e, tpu7x: 256²) × 2, for all TensorCores of one jax
device, which the compiler's cycle counts of large products agree with; [nvidia]: the data sheets of H100 SXM and H200 SXM, dense.
The pages give the interconnect of a chip as the sum over all links of both directions: a link's direction is that over 4 links
(2-D torus) or 6 (3-D), over 2.
"""
import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of TPU. Figures are those of one jax device unless they say "a chip"."""

    name: str
    """as slices are called"""
    kinds: tuple[str, ...]
    """`device_kind` of its jax devices"""
    peak: float
    """bf16 FLOP/s"""
    cycle: int
    """bf16 FLOPs of the matrix units in one cycle"""
    hbm: int
    """bytes that a program may have: what the compiler (libtpu 0.0.52) says is available when it refuses a program"""
    hbm_bandwidth: float
    """bytes/s"""
    torus: int
    """dims of the interconnect"""
    link: float
    """bytes/s of one link in one direction, of a chip"""
    network: float | None
    """bytes/s of a chip to other slices, over the data centre's network; None where it is not published"""
    largest: int
    """chips of the largest slice"""
    devices: int = 1
    """jax devices a chip"""
    counted: int = 1
    """by which a name like v5p-128 counts a chip: its TensorCores, or 1"""
    config: str | None = None
    """the compiler's chip_config_name; v4 shows its two TensorCores as one device only with "megacore" """

    @property
    def clock(self) -> float:
        """Cycles a second, from the peak."""
        return self.peak / self.cycle


CHIPS = (
    Chip(
        "v4", ("TPU v4",), peak=275e12, cycle=2**18, hbm=int(30.75 * GIB), hbm_bandwidth=1200e9, torus=3, link=50e9,  # [v4]
        network=None, largest=4096, counted=2, config="megacore",
    ),
    Chip(
        "v5e", ("TPU v5 lite", "TPU v5e"), peak=197e12, cycle=2**17, hbm=int(15.75 * GIB), hbm_bandwidth=819e9, torus=2,  # [v5e]
        link=400e9 / 4 / 2, network=6.4e12 / 8 / 256, largest=256,  # [v5e], the network's figure being that of a pod
    ),
    Chip(
        "v5p", ("TPU v5", "TPU v5p"), peak=459e12, cycle=2**18, hbm=int(95.73 * GIB), hbm_bandwidth=2765e9, torus=3,  # [v5p]
        link=1200e9 / 6 / 2, network=50e9 / 8, largest=6144, counted=2,  # [v5p]
    ),
    Chip(
        "v6e", ("TPU v6 lite", "TPU v6e"), peak=918e12, cycle=2**19, hbm=int(31.24 * GIB), hbm_bandwidth=1638e9, torus=2,  # [v6e]
        link=800e9 / 4 / 2, network=100e9 / 8, largest=256,  # [v6e]
    ),
    Chip(
        "tpu7x", ("TPU7x",), peak=2307e12 / 2, cycle=2**19, hbm=int(94.74 * GIB), hbm_bandwidth=7380e9 / 2, torus=3,  # [tpu7x], 2 devices a chip
        link=1200e9 / 6 / 2, network=100e9 / 8, largest=9216, devices=2, counted=2,  # [tpu7x]
    ),
)

PEAK_BF16 = {kind: chip.peak for chip in CHIPS for kind in chip.kinds} | {
    "NVIDIA H100 80GB HBM3": 989e12,  # [nvidia]
    "NVIDIA H200": 989e12,  # [nvidia]
}
"""FLOP/s of one jax device, dense bf16, by `device_kind`"""
