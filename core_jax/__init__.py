"""What the sibling packages share: mesh, sharding, attention, layers, checkpoints, the training loop, video decoding."""
import ctypes

# One arena for all threads, as only the first of glibc's malloc can grow so large as a step's buffer (mesh.py). It asks once, when a second thread
# allocates, and pyarrow starts one when it is imported: by then this must be set, or a run now and then is a tenth slower.
M_ARENA_MAX = -8
if hasattr(libc := ctypes.CDLL(None), "mallopt"):
    libc.mallopt(M_ARENA_MAX, 1)
