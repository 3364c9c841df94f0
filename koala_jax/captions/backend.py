"""Who answers: the interface, and the one enum by which a command line chooses."""
import dataclasses
import enum
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from koala_jax.captions.clips import Clip
from koala_jax.captions.schema import Part


class Backend(enum.Enum):
    """Where captions come from."""

    MODEL = "model"
    """a vision-language model of core_jax.lmm"""
    ENDPOINT = "endpoint"
    """a server that speaks OpenAI's chat completions: a local vLLM, or a hosted model"""
    TEMPLATE = "template"
    """sentences about the table's metrics, and nothing else"""
    GIVEN = "given"
    """the table's own columns"""

    @property
    def looks(self) -> bool:
        """Whether it is shown frames; what the others say costs nothing."""
        return self in (Backend.MODEL, Backend.ENDPOINT)


@dataclasses.dataclass(frozen=True)
class Request:
    """One part of one clip's caption."""

    clip: Clip
    frames: UInt8[np.ndarray, "T H W 3"] | None
    """None for a backend that looks at none"""
    part: Part
    attempt: int = 0
    """earlier answers that failed the checks"""


@dataclasses.dataclass(frozen=True)
class Failure:
    """No answer, and why."""

    reason: str


class Answers(Protocol):
    """What a backend is."""

    def __call__(self, requests: list[Request]) -> list[str | Failure]:
        """An answer to each request; one that fails does not keep the others from theirs."""
