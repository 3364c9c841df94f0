"""What the sibling packages share: mesh, sharding, attention, layers, checkpoints, the training loop, video decoding."""
from flax import nnx

# Modules are plain pytrees here: they go straight through jax.jit, jax.grad, jax.lax.scan and optax.
nnx.set_graph_mode(False)
nnx.set_graph_updates(False)
