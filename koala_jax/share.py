"""Which clips are this process's: every N-th one, so that several hosts do a folder together and none waits for another."""
import re

from core_jax import mesh


def parse(text: str) -> tuple[int, int]:
    """(K - 1, N) of "K/N". Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--share {text}: K/N is wanted, with K from 1 to N, as 1/8 … 8/8 on eight hosts")
    return int(match[1]) - 1, int(match[2])


def start(config: object) -> tuple[int, int]:
    """Starts jax, and says (number from 0, of how many) of this process's share: what `config.share` gives, or else its place among the hosts of its job."""
    number, shares = parse(config.share) if config.share else mesh.hosts(config)
    mesh.start(config, join=False)
    return number, shares
