"""Start every host and lay all devices out on one mesh with axes data, fsdp, context, tensor."""
import contextlib
import ctypes
import dataclasses
import logging
import math
import os
import resource
import signal
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from core_jax import together
from core_jax.cores import cores
from core_jax.words import counted

AXES = ("data", "fsdp", "context", "tensor")

# glibc's malloc, told to keep what is freed: XLA's CPU backend takes one large buffer a step, and mapping it anew each time costs a
# quarter of the step in page faults (`tiny` on two cores: 100 ms a step before, 75 after). See also core_jax/__init__.py.
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; their product is the number of devices. At most one may be -1, which fills."""

    data: int = -1
    """copies of the model, each on its own examples"""
    fsdp: int = 1
    """parameters and optimizer state cut in this many pieces, gathered layer by layer"""
    context: int = 1
    """the tokens of one example cut in this many pieces"""
    tensor: int = 1
    """attention heads and MLP columns cut in this many pieces"""

    def shape(self, devices: int) -> tuple[int, ...]:
        """Sizes of AXES for this many devices.

        Raises:
          ValueError: a size below 1 (other than one -1), or a product that is not the number of devices.
        """
        sizes = [getattr(self, axis) for axis in AXES]
        given = ", ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes))
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"mesh ({given}): each axis takes a size of at least 1, and at most one takes -1 (fill)")
        fixed = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and devices % fixed == 0:
            sizes[sizes.index(-1)] = devices // fixed
        if math.prod(sizes) != devices:
            fix = f"the fixed axes take {fixed}" if -1 in sizes else f"its product is {fixed}"
            raise ValueError(f"mesh ({given}) does not fit {counted(devices, 'device')}: {fix}")
        return tuple(sizes)


def described(shape: Mapping[str, int]) -> str:
    """Sizes of mesh axes in words, without those of 1."""
    return ", ".join(f"{axis} {size}" for axis, size in shape.items() if size > 1) or "one device"


def start(config: object, *, saves: bool = False, alone: str = "", join: bool = True) -> None:
    """Joins this process with the other hosts of the job, if there are others; call it before anything touches a device.

    Args:
      config: the command's settings, which all hosts must share.
      saves: it runs `stop.StopSignal`, which jax's preemption service tells of a SIGTERM to any host. That service keeps the signal to
        itself, so that a command which does not ask it would be stopped by none.
      alone: what the command makes, if that is the work of one host.
      join: False where this process needs no other host, though there may be some (`hosts`).

    On a Cloud TPU VM (and under SLURM or Open MPI) jax finds the hosts by itself, even if there is only one. Elsewhere, for instance for a test on one
    machine, JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say who is who.

    Raises:
      RuntimeError: other hosts are expected and joining them failed, or JAX_PLATFORMS names what jax cannot reach.
      ValueError: they have other settings, or there should be none.
    """
    allow_files()
    if join and not jax.distributed.is_initialized() and several_hosts():
        jax.config.update("jax_enable_preemption_service", saves)
        _join()
        if jax.process_count() > 1:
            together.listen()
        if saves and jax.process_count() == 1:  # a TPU VM without others: StopSignal hears it by itself, and before that it shall end the process
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        backend = jax.default_backend()
    except AssertionError as error:  # all that jax says
        raise RuntimeError(f"JAX_PLATFORMS={jax.config.jax_platforms}: jax has no plugin for it here, which the extra `gpu` brings") from error
    if hasattr(libc := ctypes.CDLL(None), "mallopt") and backend == "cpu":
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    if alone and jax.process_count() > 1:
        raise ValueError(f"{alone} on one host, and this job has {jax.process_count()}: run it on a slice of one host, as v5e-8 is")
    together.refuse_unlike(config)


def hosts(config: object) -> tuple[int, int]:
    """(this host's number from 0, how many there are) of a job in which each does its share and needs no other; `start(config, join=False)` comes next.

    The hosts have left the job when this returns: jax would end them all where one is lost, or is done long before the others.

    Raises:
      RuntimeError: other hosts are expected and joining them failed.
      ValueError: they have other settings.
    """
    if not several_hosts():
        return 0, 1
    if not jax.distributed.is_initialized():
        jax.config.update("jax_enable_preemption_service", False)
        _join()
    job = together.job
    found = job.process_id, job.num_processes
    if job.num_processes > 1:
        together.listen()
        together.refuse_unlike(config)
        jax.distributed.shutdown()
        job.process_id, job.num_processes = 0, 1  # jax reads them when it starts the backend
    return found


def allow_files() -> None:
    """Lets this process keep as many files open as the system allows it: of a large dataset there are thousands, and 1,024 is what it begins with."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # macOS takes no "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def use_cores(most: int) -> None:
    """Makes each core of a CPU a device, up to so many, unless their number is given; call it before `start`. Where there is much to do at a
    time, a core for each part of it waits less than all cores for one part after another."""
    if jax.config.jax_num_cpu_devices >= 0 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # jax runs already, on the devices that its caller chose
        jax.config.update("jax_num_cpu_devices", min(cores(), most))


def _join() -> None:
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    explicit = {}
    if "JAX_NUM_PROCESSES" in os.environ:
        explicit = dict(
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]), process_id=int(os.environ.get("JAX_PROCESS_ID", -1))
        )
    try:
        jax.distributed.initialize(**explicit)
    except Exception as error:
        raise RuntimeError(f"this job has several hosts, and this one could not join them: {error}") from error


def several_hosts() -> bool:
    """Whether the environment names more than one host, or may: our variables, a TPU slice's, or a cluster scheduler's."""
    env = os.environ
    cpu = env.get("JAX_PLATFORMS", "").startswith("cpu")  # a command beside a slice's chips, whose variables do not concern it
    # On a plain TPU VM no variable says how many hosts the slice has; the metadata server does, which jax then asks. On being imported
    # jax sets the first of these on a TPU VM alone and the second where there is no chip; Kubernetes and notebooks set the third.
    ask = "TPU_ML_PLATFORM" in env and not {"TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES"} & set(env)
    slices = ask or len(env.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in env
    return (
        (slices and not cpu)
        or "JAX_COORDINATOR_ADDRESS" in env
        or "SLURM_STEP_NODELIST" in env and int(env.get("SLURM_NTASKS", 1)) > 1  # of srun: a batch script itself has the second too, and is one process
        or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    )


def chip() -> jax.Device | jax.sharding.AbstractDevice:
    """What the current mesh is made of, or else a device of the default backend."""
    return jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]


def platform() -> str:
    """Of `chip`: "cpu", "gpu" or "tpu"."""
    return chip().platform


def build(config: MeshConfig = MeshConfig(), devices: list | None = None) -> Mesh:
    """The mesh over all devices of the job (or over those given), axes in the order of AXES, all of type Auto.

    The last axes are the most talkative, so they get the nearest devices. Across TPU slices, which only a data-centre network joins, lies the
    data axis alone. (XLA calls each host of a GPU cluster a slice too; there the devices come host by host, and fsdp may lie across hosts.)

    Raises:
      ValueError: the config does not fit the devices, or its data axis cannot be divided over the slices.
    """
    given, devices = devices is not None, list(jax.devices() if devices is None else devices)
    shape = config.shape(len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"})
    if slices > 1:
        if shape[0] % slices:
            raise ValueError(f"the data axis has {shape[0]} places, which {slices} slices do not divide")
        inside = shape[0] // slices, *shape[1:]
        grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1, 1), devices=devices, allow_split_physical_axes=True)
    elif devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices).reshape(shape)
    if len(devices) > 1 and not given:  # a plan tries meshes of devices that are not there, and says which it took
        logging.getLogger(__name__).info("mesh: %s", dict(zip(AXES, shape)))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
