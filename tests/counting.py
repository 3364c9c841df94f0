"""FLOPs of any function, counted in its jaxpr: the slow twin of the closed forms."""
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, jaxprs_in_params


def counted(function: Callable, *args: Any) -> int:
    """FLOPs of all matrix products in a function's jaxpr, 2 a multiply-add; loops count every turn, a branch its dearest arm.

    Args:
      args: arrays or `jax.ShapeDtypeStruct`s; nothing is computed.

    Raises:
      ValueError: the function loops an unknown number of times.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    inner = [_count(part) for part in jaxprs_in_params(params)]
    if name == "while" and any(inner):
        raise ValueError("the FLOPs of a loop with an unknown number of turns cannot be counted")
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)
