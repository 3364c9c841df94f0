"""The networks that can be trained, each with what it sees of a video."""
import enum

from koala_jax.tsa.convnext import ConvNeXtConfig
from koala_jax.tsa.fragments import FragmentConfig
from koala_jax.tsa.model import SuitabilityConfig, VideoScorerConfig
from koala_jax.tsa.scorer import ScorerConfig
from koala_jax.tsa.swin import SwinConfig

SMALL_SWIN = SwinConfig(width=24, depths=(2, 2, 2), heads=(1, 2, 4))
SMALL_FRAGMENTS = FragmentConfig(frames=16, interval=1, clips=2, grid=2, patch=32)


class Network(enum.Enum):
    """Which network."""

    RELEASED = "released"
    """Koala-36M's released scorer: 28.1M parameters, 4 clips of 32×224×224 a video"""
    THREE_BRANCH = "three-branch"
    """the paper's: 59.5M parameters, one clip, one frame and the sub-metrics"""
    SMALL = "small"
    """three branches small enough for a laptop's CPU: 2 clips of 8×64×64"""
    SMALL_DYNAMIC = "small-dynamic"
    """the dynamic branch of it alone"""

    def config(self, labels: int) -> ScorerConfig:
        """The network for so many sub-metrics."""
        if self is Network.RELEASED:
            return ScorerConfig(VideoScorerConfig())
        if self is Network.THREE_BRANCH:
            return ScorerConfig(SuitabilityConfig(labels=labels), FragmentConfig(clips=1))
        if self is Network.SMALL_DYNAMIC:
            return ScorerConfig(VideoScorerConfig(SMALL_SWIN, hidden=32), SMALL_FRAGMENTS)
        static = ConvNeXtConfig(width=16, depths=(1, 1, 2, 1), classes=64)
        small = SuitabilityConfig(SMALL_SWIN, static, labels, 64, (32, 48, 64), 64, (64, 48, 32))
        return ScorerConfig(small, SMALL_FRAGMENTS)
