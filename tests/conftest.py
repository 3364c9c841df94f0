"""What every test stands on: eight host devices, one cache of compiled programs for all workers, no silent broadcasting."""
import gc
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# small programs run once or twice: compiling them fast matters more than running them fast
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")
FAST = " --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):  # takes two to three times as long to compile without these; later ones do not know the first
    FAST += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = os.environ["TESTS_XLA_FLAGS"] = FLAGS + FAST
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"videogen_jax_tests_{os.getuid()}"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from etils import epath  # noqa: E402
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

from core_jax import cli  # noqa: E402

cli.collect_rarely()
jax.devices()  # has read the flags
os.environ["XLA_FLAGS"] = FLAGS  # libtpu reads them too and ends the process over one that it does not know
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("steady")


LONG = [f"{name}.py" for name in "videodit/test_hosts videodit/test_train videodit/test_buckets scaling/test_sweep owl/test_train videodit/test_plan core/test_lmm_parts".split()]


def pytest_collection_modifyitems(items):
    """The longest files first: begun last, they would leave the other workers with nothing to do."""
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


@pytest.fixture(autouse=True, scope="module")
def forget():
    """Programs of one file that no other file runs: kept by all of them, a worker grows to 9 GB."""
    yield
    jax.clear_caches()
    gc.collect()


class ObjectStore(MemoryFileSystem):
    """Behind gs:// in a test: as on Google's, an object is read or written whole, never renamed or appended to."""

    cachable, store, pseudo_dirs = False, {}, [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("gs://"))

    def _open(self, path, mode="rb", **options):
        if mode not in ("rb", "wb"):
            raise ValueError(f"an object cannot be opened in mode {mode}")
        return super()._open(path, mode, **options)

    def mv(self, *_, **__):
        raise OSError("an object cannot be renamed")

    def mkdir(self, *_, **__):
        raise OSError("an object store has no folders")

    makedirs = mkdir


@pytest.fixture
def bucket(monkeypatch) -> epath.Path:
    """An empty gs:// folder, held in memory."""
    monkeypatch.setattr(ObjectStore, "store", {})
    monkeypatch.setattr(epath.backend.fsspec_backend, "fs", lambda path: ObjectStore())
    return epath.Path("gs://bucket/run")


@pytest.fixture
def hasty():
    """The TPU compiler takes about half the time, for tests that do not ask how well it does its work."""
    jax.config.update("jax_optimization_level", "O0")
    yield
    jax.config.update("jax_optimization_level", "UNKNOWN")


@pytest.fixture
def fails(capsys):
    """fails(main, args): the one sentence with which a command refuses its arguments, whether it raises or exits."""

    def call(main, args: list[str]) -> str:
        with pytest.raises((ValueError, OSError, RuntimeError, SystemExit)) as caught:
            main(args)
        if caught.type is not SystemExit:
            return str(caught.value)
        assert caught.value.code not in (0, None)
        return capsys.readouterr().err

    return call
