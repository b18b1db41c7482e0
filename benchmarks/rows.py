"""What is measured, and what each figure is held against: a group a process, a row a ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Tier = Literal["quick", "full", "gpu"]
"""What is measured on processors, little or much, and what on a GPU."""


@dataclass(frozen=True)
class Row:
    """One ratio.

    Attributes:
        work: of ours.
        ours: the side of the group that is ours.
        against: what theirs is called.
        theirs: sides of the group; the best of them counts.
        at_most: what the ratio is meant to be at most; None where it is only told.
    """

    work: str
    ours: str
    against: str
    theirs: tuple[str, ...]
    at_most: float | None = None


@dataclass(frozen=True)
class Group:
    """Figures that are taken in turn, in one run.

    Attributes:
        function: ``module:function`` of this folder; it gets the rounds and ``arguments``.
        rounds: by tier; a tier without any leaves the group out.
        unit: ``ms`` or ``MB``.
        page: the page of the documentation that shows the rows.
    """

    name: str
    function: str
    rows: tuple[Row, ...]
    rounds: Mapping[Tier, int]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "ms"
    page: str = "speed.md"


TORCHVISION = ("torchvision", "torchvision channels_last")
THRIFTY = ("torchvision memory_efficient", "torchvision memory_efficient channels_last")
APPLICATIONS = ("keras.applications",)
CONVOLUTIONS = "its convolutions alone"
ALL_FUSED = "every block fused"
OUR_ONNX = ("our ONNX in OpenVINO", "our ONNX in ONNX Runtime")


def _inference(variant: str, batch: int, goals: Mapping[str, float]) -> Group:
    """Make the group of native PyTorch's answers; ``goals`` are by what a row is against."""
    work, ours = f"{variant} inference, batch {batch}", "inference"
    half = f"{ours} bfloat16"
    against = {
        "torchvision": TORCHVISION[:1],
        "torchvision channels_last": TORCHVISION[1:],
        **{name: (name,) for name in ("OpenVINO", *OUR_ONNX, CONVOLUTIONS)},
    }
    in_half = {
        "float32": (ours,),
        "OpenVINO in bfloat16": ("OpenVINO bfloat16",),
        f"{CONVOLUTIONS} in bfloat16": (f"{CONVOLUTIONS} bfloat16",),
    }
    return Group(
        f"torch.nn {work}",
        "native:inference",
        (
            *(Row(work, ours, name, sides, goals.get(name)) for name, sides in against.items()),
            Row(f"{work}, mode layers", "layers", "torchvision", TORCHVISION[:1]),
            *(
                Row(f"{work}, bfloat16", half, name, sides, goals.get(name))
                for name, sides in in_half.items()
            ),
        ),
        {"quick": 9, "full": 31},
        {"variant": variant, "batch": batch},
    )


def _throughput(variant: str, images: int) -> Group:
    work = f"{images} answers of {variant}, one by one"
    return Group(
        f"torch.nn {variant} inference, many by one",
        "native:throughput",
        tuple(
            Row(f"{work}{of}", f"inference{half}", f"OpenVINO{of}", (f"OpenVINO{half}",), 1.0)
            for of, half in (("", ""), (", bfloat16", " bfloat16"))
        ),
        {"quick": 5, "full": 15},
        {"variant": variant, "images": images},
    )


def _sizes(variant: str, sizes: tuple[tuple[int, int], ...]) -> Group:
    shown = [f"{height}x{width}" for height, width in sizes]
    return Group(
        f"torch.nn {variant} inference, other sizes",
        "native:sizes",
        tuple(
            Row(
                f"{variant} at {size}, first called at 224x224",
                f"first called at 224, {size}",
                f"first called at {size}",
                (f"first called so, {size}",),
                1.05,
            )
            for size in shown
        ),
        {"quick": 15, "full": 31},
        {"variant": variant, "batch": 1, "asked": sizes},
    )


def _training(
    variant: str,
    batch: int,
    size: int,
    goals: tuple[float, float | None],
    peers: tuple[str, ...] = TORCHVISION,
    autocast: bool = False,
) -> Group:
    """Make the group of training steps; goals are against the peers and the convolutions alone."""
    at = "" if size == 224 else f", {size}x{size}"
    work = f"{variant} training step, batch {batch}{at}" + (", autocast" if autocast else "")
    best = "torchvision's best" if peers == TORCHVISION else "mode layers at its best"
    layers = ("layers", "layers channels_last")
    rows = [
        Row(work, "fast", best, peers, goals[0]),
        Row(work, "fast", f"{CONVOLUTIONS}, both ways", (CONVOLUTIONS,), goals[1]),
    ]
    if peers == TORCHVISION:
        rows.append(Row(work, "fast", "mode layers at its best", layers, 1.03))
    ours = ["fast"]
    if not autocast:  # under autocast none is
        ours.append(ALL_FUSED)
        rows.append(Row(work, "fast", ALL_FUSED, (ALL_FUSED,)))
    return Group(
        f"torch.nn {work}: time",
        "native:training",
        tuple(rows),
        {"quick": 3, "full": 9},
        {
            "variant": variant,
            "batch": batch,
            "size": size,
            "autocast": autocast,
            "sides": tuple(dict.fromkeys((*peers, *layers, *ours, CONVOLUTIONS))),
        },
    )


def _cold(variant: str) -> tuple[Group, Group]:
    """Make the groups of a process that reads a file, answers once and ends."""

    def rows(goal: float | None) -> tuple[Row, ...]:
        work = f"first answer of {variant} from a file"
        return (
            Row(work, "torch.nn", "torchvision", ("torchvision",), goal),
            Row(work, "torch.nn", "our ONNX in ONNX Runtime", ("ONNX Runtime",)),
        )

    rounds: Mapping[Tier, int] = {"quick": 3, "full": 9}
    told = {"variant": variant}
    return (
        Group(f"cold start {variant}: time", "startup:answering", rows(0.65), rounds, told),
        Group(
            f"cold start {variant}: memory",
            "startup:answering_memory",
            rows(None),
            rounds,
            told,
            "MB",
        ),
    )


def _engine(engine: str, inference: float, native: float, training: float) -> tuple[Group, ...]:
    """Make the groups of an engine; ``native`` is against torch.nn in mode inference."""
    arguments = {"engine": engine, "variant": "densenet121", "batch": 8}
    name = f"Keras on {engine}"
    infer, train = "densenet121 inference, batch 8", "densenet121 training step, batch 8"
    return (
        Group(
            f"{name} {infer}",
            "engines:inference",
            (
                Row(infer, "inference", *_applications(), inference),
                Row(infer, "inference", "torch.nn in mode inference", ("torch.nn",), native),
                Row(f"{infer}, mode layers", "layers", *_applications()),
            ),
            {"quick": 7, "full": 21, "gpu": 21},
            arguments,
        ),
        Group(
            f"{name} {train}",
            "engines:training",
            (Row(train, "fast", *_applications(), training),),
            {"quick": 5, "full": 15, "gpu": 15},
            arguments,
        ),
    )


def _thrifty_engine(engine: str) -> tuple[Group, ...]:
    arguments = {"engine": engine, "variant": "densenet121", "batch": 8}
    work = "densenet121 training in little memory, batch 8"
    return (
        Group(
            f"Keras on {engine} {work}: memory",
            "engines:training_memory",
            (Row(work, "efficient", "mode layers", ("layers",), 0.6),),
            {"full": 1},
            arguments,
            "MB",
        ),
        Group(
            f"Keras on {engine} {work}: time",
            "engines:training",
            (
                Row(work, "efficient", "mode layers", ("layers",), 1.25),
                Row(work, "efficient", *_applications()),
            ),
            {"full": 7},
            {**arguments, "modes": ("layers", "efficient")},
        ),
    )


def _applications() -> tuple[str, tuple[str, ...]]:
    return "keras.applications", APPLICATIONS


PLAIN = "plain nnx"


def _flax(variant: str, batch: int, tier: Mapping[Tier, int]) -> tuple[Group, ...]:
    infer, train = (f"{variant} {work}, batch {batch}" for work in ("inference", "training step"))
    arguments = {"variant": variant, "batch": batch}
    plain = ("a network written by hand", (PLAIN,))
    return (
        Group(
            f"flax.nnx {infer}",
            "jax_native:inference",
            (
                Row(infer, "inference", *plain),
                Row(infer, "inference", "Keras on JAX", ("Keras on jax, inference",), 1.0),
                Row(f"{infer}, mode layers", "layers", *plain),
            ),
            tier,
            arguments,
        ),
        Group(
            f"flax.nnx {train}",
            "jax_native:training",
            (
                Row(train, "fast", *plain, 0.75),
                Row(train, "fast", "Keras on JAX", ("Keras on jax, fast",), 1.0),
                Row(
                    f"{train}, mode layers",
                    "layers",
                    "Keras on JAX",
                    ("Keras on jax, layers",),
                    1.0,
                ),
                Row(f"{train}, mode layers", "layers", *plain),
                Row(f"{train}, in little memory", "efficient", *plain),
            ),
            tier,
            arguments,
        ),
    )


def _accelerator(variant: str, batch: int) -> tuple[Group, Group, Group]:
    """Make the groups of native PyTorch on a GPU; each row in float32 and in bfloat16."""
    infer, train = (f"{variant} {work}, batch {batch}" for work in ("inference", "training step"))
    thrifty = ("torchvision memory_efficient channels_last",)
    last = "torchvision channels_last"

    def rows(*given: tuple[str, str, str, tuple[str, ...]]) -> tuple[Row, ...]:
        return tuple(
            Row(
                f"{work}{half and f',{half}'}",
                f"{ours}{half}",
                what,
                tuple(s + half for s in their),
            )
            for half in ("", " bfloat16")
            for work, ours, what, their in given
        )

    return (
        Group(
            f"torch.nn on a GPU {infer}",
            "accelerator:inference",
            rows(
                (infer, "inference", "torchvision's best", TORCHVISION),
                (f"{infer}, mode layers", "layers", "torchvision", TORCHVISION[:1]),
            ),
            {"gpu": 31},
            {"variant": variant, "batch": batch},
        ),
        Group(
            f"torch.nn on a GPU {train}: time",
            "accelerator:training",
            rows(
                (train, "fast", "torchvision's best", TORCHVISION),
                (f"{train}, mode layers", "layers channels_last", last, (last,)),
                (f"{train}, in little memory", "efficient", *thrifty, thrifty),
            ),
            {"gpu": 15},
            {"variant": variant, "batch": batch},
        ),
        Group(
            f"torch.nn on a GPU {train}: memory",
            "accelerator:training_memory",
            rows(
                (train, "fast", last, (last,)),
                (f"{train}, mode layers", "layers channels_last", last, (last,)),
                (f"{train}, in little memory", "efficient", *thrifty, thrifty),
            ),
            {"gpu": 1},
            {"variant": variant, "batch": batch},
            "MB",
        ),
    )


DEPLOYED = {
    "torch.nn+inference": "`densespec.optimize`, PyTorch",
    "torch-export": "`.pt2`, PyTorch",
    "onnx": "`.onnx`, ONNX Runtime",
    "openvino": "`.xml`, OpenVINO",
    "litert": "`.tflite`, LiteRT",
    "saved-model": "SavedModel, TensorFlow",
    "jax-export": "`.stablehlo`, JAX",
    "onnx int8": "`.onnx` in int8, ONNX Runtime",
    "openvino int8": "`.xml` in int8, OpenVINO",
    "litert int8": "`.tflite` in int8, LiteRT",
}
"""What is deployed, by the name of its side."""


def _deployed(variant: str, batches: tuple[int, ...], size: tuple[int, ...]) -> Group:
    return Group(
        f"deployed {variant} inference",
        "deployed:inference",
        tuple(
            Row(f"{what}, batch {batch}", f"{name}, batch {batch}", against, (f"torch.nn, {at}",))
            for name, what in DEPLOYED.items()
            for batch in batches
            for against, at in [("PyTorch, mode layers", f"batch {batch}")]
        ),
        {"quick": 7, "full": 21},
        {"variant": variant, "batches": batches, "size": size},
        page="deploy.md",
    )


DEPTHS = (40, 76, 148)

GROUPS: tuple[Group, ...] = (
    Group(
        "data: batches of 32 photographs, 2 workers",
        "loading:batches",
        (
            Row(
                "20 batches, decoded, cut, resized, normalised",
                "ours",
                "PyTorch's DataLoader",
                ("DataLoader",),
                1.1,
            ),
        ),
        {"quick": 7, "full": 15},
        {"workers": 2},
    ),
    Group(
        "torch.nn densenet-40-12 training, batch 64: the loop",
        "loop:steps",
        (
            Row(
                "step of a run of densenet-40-12, batch 64",
                "run",
                "PyTorch's optimizer alone",
                ("PyTorch",),
                1.03,
            ),
        ),
        {"quick": 2, "full": 5},
        {"variant": "densenet-40-12"},
    ),
    _inference(
        "densenet121",
        8,
        {
            "torchvision": 0.58,
            "torchvision channels_last": 0.78,
            CONVOLUTIONS: 1.08,
            "float32": 0.5,
            "OpenVINO in bfloat16": 1.0,
        },
    ),
    *(
        _inference(
            variant,
            1,
            {
                "torchvision channels_last": 0.75,
                CONVOLUTIONS: 1.2,
                **dict.fromkeys(("OpenVINO", *OUR_ONNX, "OpenVINO in bfloat16"), 1.0),
            },
        )
        for variant in ("densenet121", "densenet169")
    ),
    _throughput("densenet121", 32),
    _sizes("densenet121", ((32, 32), (256, 256), (320, 240))),
    *_cold("densenet121"),
    _training("densenet121", 8, 224, (0.80, 1.2)),
    _training("densenet121", 32, 64, (0.85, 1.35)),
    _training("densenet-bc-100-12", 64, 32, (0.75, 1.35), ("layers", "layers channels_last")),
    _training("densenet121", 8, 224, (0.80, None), autocast=True),
    Group(
        "torch.nn densenet121 training in little memory, batch 8: time",
        "native:training",
        (
            Row(
                "densenet121 training in little memory, batch 8",
                "efficient",
                "torchvision memory_efficient",
                THRIFTY,
                1.0,
            ),
        ),
        {"quick": 3, "full": 9},
        {"variant": "densenet121", "batch": 8, "sides": ("efficient", *THRIFTY)},
    ),
    Group(
        "torch.nn densenet121 training, batch 8: memory",
        "native:training_memory",
        (
            Row(
                "densenet121 training in little memory, batch 8",
                "efficient",
                "torchvision memory_efficient",
                THRIFTY,
                0.7,
            ),
            Row("densenet121 training step, batch 8", "fast", "torchvision", TORCHVISION[1:]),
        ),
        {"quick": 1, "full": 3},
        {"variant": "densenet121", "batch": 8},
        "MB",
    ),
    Group(
        "torch.nn densenet121 training, batch 8: compiled",
        "native:training",
        (
            Row(
                "densenet121 training step, both compiled, batch 8",
                "fast",
                "torchvision's best",
                TORCHVISION,
                0.80,
            ),
        ),
        {"full": 5},
        {
            "variant": "densenet121",
            "batch": 8,
            "compiled": True,
            "sides": ("fast", *TORCHVISION),
        },
    ),
    Group(
        "torch.nn densenets of 40 to 148 layers: memory",
        "native:depth_memory",
        (
            *(
                Row(
                    f"densenet-{depth}-12 training in little memory, batch 64",
                    f"efficient {depth}",
                    "mode layers",
                    (f"layers {depth}",),
                )
                for depth in DEPTHS
            ),
            Row(
                "148 layers against 76 in little memory",
                f"efficient {DEPTHS[2]}",
                "76 layers",
                (f"efficient {DEPTHS[1]}",),
                2.2,
            ),
        ),
        {"quick": 1, "full": 3},
        {"layers": DEPTHS, "batch": 64},
        "MB",
    ),
    _accelerator("densenet121", 1)[0],
    *_accelerator("densenet121", 64),
    *_engine("torch", 0.60, 1.05, 0.75),
    *_engine("tensorflow", 0.85, 1.2, 0.90),
    *_engine("jax", 0.85, 1.3, 0.90),
    *_thrifty_engine("jax"),
    *_thrifty_engine("tensorflow"),
    Group(
        "Keras on jax densenet169, building",
        "engines:building",
        (
            Row("building densenet169", "layers", *_applications(), 0.35),
            Row("building densenet169, mode fast", "fast", *_applications(), 0.35),
        ),
        {"quick": 2, "full": 5},
        {"engine": "jax", "variant": "densenet169"},
    ),
    Group(
        "Keras on jax densenet121, first training step",
        "engines:first_step",
        (
            Row("densenet121 first training step, batch 8", "fast", *_applications(), 0.7),
            Row("densenet121 first training step, mode layers", "layers", *_applications()),
        ),
        {"quick": 1, "full": 3},
        {"engine": "jax", "variant": "densenet121", "batch": 8},
    ),
    *_flax("densenet121", 8, {"quick": 5, "full": 15, "gpu": 15}),
    *_flax("densenet169", 1, {"full": 15}),
    Group(
        "flax.nnx densenet121, first training step",
        "jax_native:first_step",
        (
            Row(
                "densenet121 first training step, batch 8",
                "fast",
                "a network written by hand",
                (PLAIN,),
                0.8,
            ),
            Row(
                "densenet121 first training step, mode layers",
                "layers",
                "a network written by hand",
                (PLAIN,),
            ),
        ),
        {"quick": 1, "full": 3},
        {"variant": "densenet121", "batch": 8},
    ),
    Group(
        "flax.nnx densenet121 training in little memory, batch 8: memory",
        "jax_native:training_memory",
        (
            Row(
                "densenet121 training in little memory, batch 8",
                "efficient",
                "mode layers",
                ("layers",),
                0.5,
            ),
            Row(
                "densenet121 training in little memory, batch 8",
                "efficient",
                "a network written by hand",
                (PLAIN,),
            ),
        ),
        {"quick": 1, "full": 3},
        {"variant": "densenet121", "batch": 8},
        "MB",
    ),
    Group(
        "import densespec",
        "startup:importing",
        (
            Row(
                "import densespec", "densespec", "import numpy and 50 ms", ("numpy and 50 ms",), 1.0
            ),
        ),
        {"quick": 9, "full": 31},
    ),
    *(
        Group(
            f"ONNX Runtime densenet121 inference, batch {batch}",
            "exported:inference",
            (
                Row(
                    f"densenet121 inference, batch {batch}",
                    "inference",
                    "torchvision's own export",
                    ("torchvision's own export",),
                    0.95,
                ),
            ),
            {"quick": 9, "full": 31},
            {"variant": "densenet121", "batch": batch},
        )
        for batch in (1, 8)
    ),
    _deployed("densenet121", (1, 8), (224, 224)),
)
