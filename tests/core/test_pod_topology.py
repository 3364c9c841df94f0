"""Names of slices."""
import math

import hypothesis
import pytest
from hypothesis import strategies as st

from core_jax.chips import CHIPS, PEAK_BF16
from core_jax.pod import topology
from core_jax.pod.topology import known, parse

CHIP = {chip.name: chip for chip in CHIPS}


@pytest.mark.parametrize(
    "name, shape",
    [
        ("v5p-8", (2, 2, 1)), ("v5p-128", (4, 4, 4)), ("v5p-256", (4, 4, 8)), ("v4-32", (2, 2, 4)), ("v4-64", (2, 4, 4)),
        ("v5e-8", (2, 4)), ("v5litepod-256", (16, 16)), ("v6e-1", (1, 1)), ("tpu7x-128", (4, 4, 4)), ("v5p:2x2x3", (2, 2, 3)),
    ],
)  # fmt: skip
def test_names_that_cloud_tpu_uses(name, shape):
    assert parse(name).shape == shape


def test_several_slices():
    which = parse("2*v5e:16x16")
    assert (which.slices, which.chips, str(which)) == (2, 512, "2*v5e:16x16")


@hypothesis.given(st.sampled_from([(chip, name) for chip in CHIPS for name in known(chip)]), st.integers(1, 4))
def test_a_number_and_its_shape_are_one_slice(named, slices):
    chip, name = named
    by_number = parse(f"{slices}*{name}")
    assert by_number == parse(str(by_number)) and by_number.chip is chip
    assert by_number.chips == slices * int(name.split("-")[1]) // chip.counted and math.prod(by_number.shape) <= chip.largest


@hypothesis.given(st.one_of(st.text(max_size=12), st.from_regex(r"(\d\*)?(v5p|v5e|v4|tpu7x|h100)[:-][0-9x]{1,9}", fullmatch=True)))
def test_any_text_is_a_slice_or_one_sentence(text):
    try:
        which = parse(text)
    except ValueError as error:
        assert "\n" not in str(error).replace(repr(text), "")
    else:
        assert parse(str(which)) == which and len(which.shape) == which.chip.torus


@pytest.mark.parametrize(
    "name, said",
    [
        ("h100-8", "no TPU slice named 'h100-8'; there are v4-2 … v4-8192; v5e-1"),
        ("", "no TPU slice named ''"),
        ("0*v5e-8", "no TPU slice named '0*v5e-8'"),
        ("v5p-24", "no slice 'v5p-24'; v5p counts TensorCores: v5p-2, v5p-8, v5p-16"),
        ("v5e-3", "v5e counts chips: v5e-1, v5e-4, v5e-8"),
        ("v5p:4x4", "a v5p slice has AxBxC chips, A and B even, 6144 at most in all, or is a single one"),
        ("v5e:3x2", "a v5e slice has AxB chips, A and B even, 256 at most"),
        ("v5e:0x0", "a v5e slice has"),
    ],
)
def test_names_of_nothing(name, said):
    with pytest.raises(ValueError) as caught:
        parse(name)
    assert said in str(caught.value)


def test_rings():
    assert parse("v5p:4x4x8").closed == (True,) * 3 and parse("v5p:2x4x4").closed == (False,) * 3
    assert parse("v5e:16x16").closed == (True, True) and parse("v5e:8x16").closed == (False, True)


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1", "2*v5e:2x4", "v5e:1x1", "tpu7x:1x1x1"])
def test_the_devices_are_those_of_the_table(name):
    pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")
    which = parse(name)
    devices = which.devices()
    assert len(devices) == which.chips * which.chip.devices
    assert devices[0].device_kind in which.chip.kinds and PEAK_BF16[devices[0].device_kind] == which.chip.peak
    assert len({getattr(device, "slice_index", 0) for device in devices}) == which.slices


def test_a_shape_that_the_compiler_does_not_know_is_one_sentence(monkeypatch):
    pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")
    from jax.experimental import topologies

    def broken(**_):
        raise NotImplementedError

    monkeypatch.setattr(topologies, "get_topology_desc", broken)
    topology._devices.cache_clear()
    with pytest.raises(ValueError, match="libtpu, which holds the TPU compiler, does not give v5e:4x4: NotImplementedError"):
        parse("v5e:4x4").devices()


@pytest.mark.parametrize("name", ["v4-3", "v5p-3", "v5p-9", "tpu7x-5"])
def test_half_a_chip_is_no_slice(name):
    """Where TensorCores are counted, two make a chip."""
    with pytest.raises(ValueError, match=f"no slice '{name}'; .* counts TensorCores"):
        parse(name)
