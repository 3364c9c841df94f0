"""What defines a world model beside its two large parts. The paper's own values are defaults where it states them."""
import dataclasses
import enum

from core_jax.numbers import COUNT, FROM_0, refuse


class Caption(enum.Enum):
    """Which clip the text d_t tells of. Section 3.3 and equation (3) say the next one, the paper's figure 3 the one just seen."""

    NEXT = "next"
    THIS = "this"


class Queries(enum.Enum):
    """Whether one set of queries serves every state."""

    SHARED = "shared"
    NUMBERED = "numbered"
    """with a learned offset for each place in the film, the last of which serves all later ones"""


class Alignment(enum.Enum):
    """How Q states meet the N features of a text in (7)."""

    RESAMPLED = "resampled"
    """the text's features, interpolated at Q even places"""
    POOLED = "pooled"
    """the mean of both"""


class StateAttention(enum.Enum):
    """What the queries of one state see of each other."""

    CAUSAL = "causal"
    """those before them, as all tokens do"""
    BIDIRECTIONAL = "bidirectional"
    """all of them"""


class Forget(enum.Enum):
    """What becomes of the oldest triplet when the context is full. The prefix [I, t] always stays."""

    COMPRESS = "compress"
    """its state stays, its observation and its text go"""
    DROP = "drop"
    """all of it goes"""


@dataclasses.dataclass(frozen=True)
class OwlConfig:
    """Sizes and choices that are trained in."""

    queries: int = 128
    """Q, queries of a clip's state"""
    sharing: Queries = Queries.SHARED
    """shared: one set of queries for every state; numbered: with an offset for each place in the film"""
    numbers: int = 32
    """places with an offset of their own, with --owl.sharing numbered; the last serves all later ones"""
    attention: StateAttention = StateAttention.CAUSAL
    """what a state's queries see of each other: those before them (causal), or all"""
    key_frames: int = 2
    """key frames of a clip, which the language model sees"""
    words: int = 192
    """most tokens of a text; longer ones are cut in training and refused in generation"""
    marks: tuple[str, str] = ("<", ">")
    """marks before and after a text; each is one token"""
    caption: Caption = Caption.NEXT
    """which clip's text follows a state in training: next, or this"""
    align: Alignment = Alignment.RESAMPLED
    """how states meet a text's features in (7): resampled, at Q even places; pooled, the means"""
    width: int = 1024
    """width of the connector"""
    layers: int = 2
    """layers of the connector"""
    heads: int = 16
    """attention heads of the connector"""

    def __post_init__(self):
        refuse(self, {COUNT: "queries numbers key_frames words width heads", FROM_0: "layers"}, "owl")
        if self.width % self.heads:
            raise ValueError(f"--owl.heads {self.heads} must divide --owl.width {self.width}")


@dataclasses.dataclass(frozen=True)
class ContextConfig:
    """How much of its past a running world keeps. All sizes are fixed, so that a film of any length takes the same memory."""

    window: int = 12
    """newest triplets that are kept whole"""
    memory: int = 32
    """states that are kept of older triplets"""
    forget: Forget = Forget.COMPRESS
    """what happens to the oldest triplet when the window is full: compress keeps its state, drop nothing"""

    def __post_init__(self):
        refuse(self, {COUNT: "window", FROM_0: "memory"}, "context")

    @property
    def states(self) -> int:
        """States that are ever kept of triplets that are not whole."""
        return self.memory if self.forget is Forget.COMPRESS else 0
