"""Sets frameworks up in a target's process, and says what it computes with."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

ALLOW_TF32 = "DENSESPEC_TF32"
"""If this environment variable is 1, TF32 is left as the frameworks have it.

Its mantissa has 10 bits, and some use it for float32 on GPUs unless told otherwise.
"""

# Read by frameworks when they are imported: less chatter, float64 where it is asked for, and no
# more of a GPU's memory than is used, as several processes may share it.
DEFAULTS = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "JAX_ENABLE_X64": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
FULL_FLOAT32 = {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}

MAPPINGS, LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")

DISTRIBUTIONS = {
    "keras": ("keras",),
    "torch": ("torch",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "jax": ("jax",),
    "flax": ("flax",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "monai": ("monai",),
    "keras_hub": ("keras-hub",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
"""States the distributions of packages whose versions are reported, by module."""


def set_defaults(threads: int) -> None:
    """Set what frameworks read when they are imported; what the user has set stays."""
    settings = DEFAULTS | {"OMP_NUM_THREADS": str(threads)}
    for name, value in (settings if allows_tf32() else settings | FULL_FLOAT32).items():
        os.environ.setdefault(name, value)


def allows_tf32() -> bool:
    return os.environ.get(ALLOW_TF32) == "1"


def _torch_in_full(torch: Any) -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def _tensorflow_in_full(tf: Any) -> None:
    tf.config.experimental.enable_tensor_float_32_execution(False)


def _torch_on_accelerator(torch: Any) -> None:
    if torch.accelerator.is_available():
        torch.set_default_device(torch.accelerator.current_accelerator())


_IN_FULL: dict[str, Callable[[Any], None]] = {
    "torch": _torch_in_full,
    "tensorflow": _tensorflow_in_full,
}
_ON_ACCELERATOR: dict[str, Callable[[Any], None]] = {"torch": _torch_on_accelerator}


def settle() -> None:
    """Have the frameworks that are imported by now compute float32 in float32, and PyTorch on the
    accelerator where there is one, as Keras and JAX do by themselves.

    This is done in processes of targets only: elsewhere it is not for the suite to set frameworks
    up.
    """
    if multiprocessing.parent_process() is None:
        return
    for settings in (_ON_ACCELERATOR, {} if allows_tf32() else _IN_FULL):
        for name, apply in settings.items():
            if name in sys.modules:
                apply(sys.modules[name])


def forget_programs(share: float = 0.5) -> None:
    """Free the programs that JAX has compiled, if the process has many mappings of memory.

    Each program takes some, and Linux ends a process that asks for more than it may have.

    Args:
        share: Programs are freed from this share of the mappings on that the system allows.
    """
    jax = sys.modules.get("jax")
    if jax is None or not LIMIT.exists():
        return
    with MAPPINGS.open("rb") as lines:
        many = sum(1 for _ in lines) >= share * int(LIMIT.read_text())
    if many:
        jax.clear_caches()
        gc.collect()


def versions() -> dict[str, str]:
    """Return the versions of the packages that this process has imported."""
    found = {"Python": platform.python_version(), "numpy": metadata.version("numpy")}
    for module, names in DISTRIBUTIONS.items():
        if module in sys.modules:
            found |= {name: version for name in names if (version := _version(name))}
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def device() -> str:
    """Name what the imported framework computes on unless told otherwise."""
    names = [name for find in _DEVICES.values() for name in find()]
    return names[0] if names else f"CPU ({platform.machine()})"


def _keras_runs_elsewhere(engine: str) -> bool:
    """Tell whether Keras runs, and on another engine: then that engine's device is the one that
    counts."""
    keras = sys.modules.get("keras")
    return keras is not None and keras.config.backend() != engine


def _torch_devices() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or _keras_runs_elsewhere("torch") or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _tensorflow_devices() -> list[str]:
    tf = sys.modules.get("tensorflow")
    if tf is None or _keras_runs_elsewhere("tensorflow"):
        return []
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [str(detail.get("device_name", "GPU")) for detail in details]


def _jax_devices() -> list[str]:
    jax = sys.modules.get("jax")
    if jax is None or _keras_runs_elsewhere("jax"):
        return []
    return [one.device_kind for one in jax.devices() if one.platform != "cpu"]


_DEVICES: dict[str, Callable[[], list[str]]] = {
    "torch": _torch_devices,
    "tensorflow": _tensorflow_devices,
    "jax": _jax_devices,
}


def threads() -> int | None:
    """Count the threads of the kernels, as the framework says, or as OpenMP was told."""
    torch = sys.modules.get("torch")
    if torch is not None and not _keras_runs_elsewhere("torch"):
        return int(torch.get_num_threads())
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else None


OUT_OF_MEMORY = (
    *("not enough memory", "can't allocate memory", "cannot allocate memory"),
    *("out of memory", "resource_exhausted", "bad_alloc"),
)
"""Frameworks say one of these, in lower case, if memory is short."""

MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError", "ResourceExhaustedError")
"""Exceptions with these names mean nothing else."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory is short, whichever framework raised it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not kinds.isdisjoint(MEMORY_ERRORS):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(say in text for say in OUT_OF_MEMORY)
