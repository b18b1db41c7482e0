"""Everything the project does to itself: ``nox -s demo``, ``nox -s tests conformance``, ...

Sessions that need the frameworks share one environment, ``.nox/frameworks``: it takes a minute and
3 GB to install, and nothing they do changes it. It is made anew when the requirements change.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
FRAMEWORKS = ROOT / ".nox" / "frameworks"
PEERS = (
    "torchvision==0.28.0",
    "timm==1.0.31",
    "openvino==2026.4.1",
    "nncf==3.4.0",
    "ai-edge-litert==2.3.0",
    "ai-edge-quantizer==0.10.0",
    "onnxscript==0.7.2",
    "monai==1.6.1",
    "keras-hub==0.32.0",
    "transformers==5.24.0",
    "torchxrayvision==1.5.7",
    "pytorchcv==0.0.74",
    "segmentation-models-pytorch==0.6.0",
    # What their imports need beyond the frameworks' own packages:
    "regex==2026.11.19",
    "tokenizers==0.23.3",
    "tqdm==4.70.1",
    "onnx-ir==1.1.0",
    "scikit-image==0.26.0",
    "pandas==3.1.1",
    "imageio==2.38.1",
    "lazy-loader==0.6",
    "tifffile==2026.3.3",
    "python-dateutil==4.0.0",
    "six==1.17.0",
    "tabulate==0.10.0",
    "pydot==4.0.1",
    "pyparsing==3.3.3",
    "networkx==3.6.1",
    "ninja==1.13.2",
    "psutil==7.2.2",
    "openvino-telemetry==2025.2.0",
    "backports.strenum==1.2.8",
    "immutabledict==4.3.1",
    "litert-lm-builder==0.18.1",
    "absl-py==2.5.1",
)
APART = {
    "monai-0.2.0": "monai==0.2.0",  # whose networks have other names
    "monai-0.3.0": "monai==0.3.0",
    "triton": "triton==3.7.1",  # TensorFlow ends a process that has loaded it
}
"""What is installed in folders of its own."""
BACKENDS = ("tensorflow", "torch", "jax", "torch.nn", "flax.nnx", "numpy")
MODES = tuple(
    f"{backend}+{mode}"
    for backend in ("torch.nn", "flax.nnx", "tensorflow", "torch", "jax")
    for mode in ("fast", "efficient", "inference")
)

nox.options.sessions = ["lint", "types", "tests", "conformance"]
nox.options.default_venv_backend = "virtualenv"


def frameworks(session: nox.Session) -> str:
    """Python of the shared environment, made on first use."""
    needs = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in needs)).hexdigest()
    python, mark = FRAMEWORKS / "bin" / "python", FRAMEWORKS / "made-from"
    if not mark.exists() or mark.read_text() != digest:
        shutil.rmtree(FRAMEWORKS, ignore_errors=True)
        session.run("python", "-m", "venv", str(FRAMEWORKS), external=True)
        session.run(
            *(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--constraint", "constraints.txt", "--editable", ".[all,dev]"),
            external=True,
        )
        mark.write_text(digest)
    return str(python)


def peers(session: nox.Session) -> dict[str, str]:
    """How the peers are found: installed apart from the shared environment, and without what they
    require, which would replace it. They are installed anew when the list changes."""
    folder = ROOT / ".nox" / "peers"
    mark, needs = folder / "made-from", "\n".join([*PEERS, *APART.values()])
    if not mark.exists() or mark.read_text() != needs:
        shutil.rmtree(folder, ignore_errors=True)
        apart = {folder / "apart" / name: (package,) for name, package in APART.items()}
        for target, packages in {folder: PEERS, **apart}.items():
            session.run(
                *(frameworks(session), "-m", "pip", "install", "--quiet", "--no-deps"),
                *("--disable-pip-version-check", "--target", str(target), *packages),
                external=True,
            )
        mark.write_text(needs)
    return {"PYTHONPATH": str(folder)}


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Train one small DenseNet on real images on every backend, and compare (a few minutes)."""
    session.run(frameworks(session), "examples/demo.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Unit tests, and the wrong backends that the conformance suite has to catch."""
    # Frameworks take memory: no more than four processes.
    side_by_side = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
    session.run(
        *(frameworks(session), "-m", "pytest", *side_by_side, *session.posargs), external=True
    )


@nox.session(venv_backend="none")
def conformance(session: nox.Session) -> None:
    """Compare every backend, in every mode, with the reference.

    ``nox -s conformance -- --tier full`` asks more of each.
    """
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    python = frameworks(session)
    session.run(
        *(python, "-m", "densespec_conformance", *BACKENDS, *MODES),
        *("--expect", "conformance/known_limits.toml"),
        *("--json", str(out / "conformance.json"), "--html", str(out / "conformance.html")),
        *session.posargs,
        external=True,
    )


@nox.session(venv_backend="none")
def full(session: nox.Session) -> None:
    """Everything that is proved: every test, every case, the peers, the packages (over an hour)."""
    session.notify("lint")
    session.notify("types")
    session.notify("tests", ["--full"])
    session.notify("conformance", ["--tier", "full"])
    session.notify("fuzz", ["--files", "5000"])
    session.notify("notebooks", ["--check"])
    for name in ("peers", "third_party", "build", "core"):
        session.notify(name, [])


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Read damaged and hostile weight files: ``nox -s fuzz -- --files 100000 --minutes 60``."""
    session.run(frameworks(session), "-m", "tests.fuzz", *session.posargs, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style, common mistakes, and which module may import which.

    ``nox -s lint -- --fix`` mends what can be mended.
    """
    python = frameworks(session)
    session.run(python, "-m", "ruff", "check", *session.posargs, external=True)
    check = () if session.posargs else ("--check",)
    session.run(python, "-m", "ruff", "format", *check, external=True)
    contracts = str(Path(python).with_name("lint-imports"))
    session.run(contracts, "--no-cache", "--no-logo", external=True)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Static types of the packages, and of what surrounds them."""
    python = frameworks(session)
    session.run(python, "-m", "mypy", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated parts of the documentation anew, and build the site into ``site/``.

    A broken link or a page that ``mkdocs.yml`` does not list fails it. ``nox -s docs -- serve``
    shows the site while pages are written. What builds the site reads modules as text, so it is
    installed apart from the frameworks.
    """
    session.run(frameworks(session), "docs/generate.py", external=True)
    session.install("--constraint", "constraints.txt", "--editable", ".[docs]")
    session.run("mkdocs", *(session.posargs or ("build", "--clean")))


@nox.session(venv_backend="none")
def notebooks(session: nox.Session) -> None:
    """Run the tutorials, and write what they print and draw into their pages (some minutes).

    ``nox -s notebooks -- five-frameworks`` runs one of them, ``-- --check`` writes nothing.
    """
    session.run(frameworks(session), "docs/notebooks.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def benchmarks(session: nox.Session) -> None:
    """Time densespec against each framework's own, interleaved: half an hour.

    ``nox -s benchmarks -- --tier full`` measures more and longer, ``-- -k torch.nn`` less.
    """
    python, env = frameworks(session), peers(session)
    session.run(python, "benchmarks/run.py", *session.posargs, env=env, external=True)
    session.run(python, "benchmarks/weights.py", external=True)


@nox.session(name="peers", venv_backend="none")
def peer_tests(session: nox.Session) -> None:
    """Compare with other implementations, themselves installed (a few minutes).

    ``nox -s peers -- --table`` measures them anew, for ``docs/peers.md`` and ``docs/status.md``.
    """
    python, env = frameworks(session), peers(session)
    if "--table" in session.posargs:
        session.run(python, "-m", "docs.peers_table", env=env, external=True)
        session.run(python, "-m", "docs.status", env=env, external=True)
    else:
        session.run(python, "-m", "pytest", "tests/peers", *session.posargs, env=env, external=True)
        pages = ("tests/test_documented_code.py", "--full", "-k", "coming-from")
        session.run(python, "-m", "pytest", *pages, env=env, external=True)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel from the source archive, check both, and use it outside the checkout."""
    session.install("build", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist", silent=True)
    session.run("twine", "check", "--strict", *map(str, (ROOT / "dist").iterdir()))
    (wheel,) = (ROOT / "dist").glob("*.whl")
    session.install("--constraint", "constraints.txt", f"{wheel}[conformance,draw]")
    session.chdir(session.create_tmp())
    session.run("densespec", "describe", "densenet169-bc")
    session.run("densespec", "draw", "densenet121", "-o", "densenet121.svg")
    session.run("python", "-m", "densespec_conformance", "numpy")


@nox.session
def third_party(session: nox.Session) -> None:
    """Use the suite as others do: a wheel, a fresh environment, and a project of their own.

    ``nox -s third_party -- -k ""`` runs every case, which takes minutes.
    """
    session.install("build")
    folder = Path(session.create_tmp()).absolute()
    for part in ("dist", "project"):
        shutil.rmtree(folder / part, ignore_errors=True)
    dist = str(folder / "dist")
    session.run("python", "-m", "build", "--wheel", "--outdir", dist, silent=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    project = shutil.copytree(ROOT / "examples" / "third_party", folder / "project")
    session.install("-c", "constraints.txt", f"{wheel}[conformance]", f"{project}[test]")
    shutil.rmtree(project / "plain_jax")  # what is tested is what was installed
    session.chdir(project)
    few = ("-k", "plain_jax.py or initial or torchvision-stem or learning-rate-drop")
    session.run("pytest", *(session.posargs or few))


@nox.session
def ray(session: nox.Session) -> None:
    """The example on Ray Data, on a cluster of this machine with two workers."""
    needs = ("--constraint", "constraints.txt", "--editable", ".[data,test]", "ray[data]")
    session.install(*needs)
    session.run("pytest", "tests/test_ray_example.py", *session.posargs)


@nox.session(python=["3.11", "3.12", "3.13"])
def core(session: nox.Session) -> None:
    """The core's tests on each Python, with no framework installed."""
    extras = "draw,data,dtypes,hdf5,msgpack,pretrained,test"
    session.install("--constraint", "constraints.txt", "--editable", f".[{extras}]")
    session.run("pytest", "tests", *session.posargs)


if os.environ.get("CI"):
    nox.options.error_on_missing_interpreters = False
