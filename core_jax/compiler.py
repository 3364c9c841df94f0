"""What the compiler of a chip does only if asked, or unless asked."""
import functools
import os
from collections.abc import Callable

import jax

from core_jax.mesh import chip


def options(device: jax.Device | jax.sharding.AbstractDevice) -> dict[str, bool | int]:
    """For programs on chips of this kind.

    TPU:
    - All-to-alls run beside compute. Google's recipes for training on v5p and tpu7x ask for them; on 8×8 and 16×16 chips of v5e (a "TPU v5
      lite") the compiler knows none.
    - Weights that lie in pieces are gathered whole, beside compute. The compiler would multiply by one piece after the other as it comes, and
      add products up in HBM: by its own cycles, on 16 chips of v5e, a step of `1.07b` takes half as long again then, and sampling three times.

    CPU: LLVM optimises at its first level, unless XLA_FLAGS say at which. At XLA's own, the third, the programs of a run of `tiny` take 1.7 times
    as long to compile, for the same bits at the same speed; but random bits take 1.7 times as long at the first.
    """
    if device.platform == "cpu" and "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
        return {"xla_backend_optimization_level": 1}
    if device.platform != "tpu":
        return {}
    pieces = {f"xla_tpu_enable_windowed_einsum_for_{name}": False for name in ("all_gather", "reduce_scatter")}
    return pieces if "v5 lite" in device.device_kind else pieces | {"xla_tpu_enable_async_all_to_all": True}


def jit(function: Callable, **settings) -> Callable:
    """`jax.jit` with these options, for the chips that there are when it is called or lowered; `on` gives jax's function for one of them.

    Called where another program is traced it is a part of that one, whose options count: jax takes none there.
    """
    on = functools.cache(lambda device: jax.jit(function, compiler_options=options(device), **settings))
    part = jax.jit(function, **settings)

    @functools.wraps(function)
    def call(*args, **named):
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, named)))
        return (part if traced else on(chip()))(*args, **named)

    call.on, call.lower = on, lambda *args, **named: on(chip()).lower(*args, **named)
    return call
