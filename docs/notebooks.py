"""Runs the notebooks of ``docs/tutorials/`` and writes their pages: ``python docs/notebooks.py``.

A notebook is a script in jupytext's percent format, ``five_frameworks.py``. It runs in a kernel and
a folder of its own; what it prints and draws goes into its page, ``five-frameworks.md``, with the
figures in ``docs/images/tutorials/``. A cell that draws says in its head what is to be seen:
``# %% figure="..."``. A cell of ``# %% language="bash"`` is shown as commands.
"""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from densespec.atomic import atomic_path

DOCS = Path(__file__).parent
NOTEBOOKS = {path.stem.replace("_", "-"): path for path in sorted(DOCS.glob("tutorials/*.py"))}
"""The script of each page, by the page's name."""
FIGURES = Path("images") / "tutorials"
SHELL = "%%bash\n"
CELL_LIMIT = 1800
"""Seconds after which a cell is taken to hang."""
QUIET = {
    "COLUMNS": "100",
    "NO_COLOR": "1",
    "TTY_COMPATIBLE": "0",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
}
"""The environment in which what is printed is text for a page."""

Outcome = Any
"""What a cell printed or drew, as nbformat keeps it."""


def signature(source: Path) -> str:
    """Give the line by which a page says which source it was made from."""
    digest = hashlib.sha256(source.read_text(encoding="utf-8").encode()).hexdigest()
    return f"<!-- made of {source.name}, SHA-256 {digest} -->"


def executed(source: Path) -> Any:
    """Run a notebook in an empty folder, and give it with what its cells printed and drew.

    Raises:
        click.ClickException: A cell failed.
    """
    import jupytext
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = jupytext.read(source, fmt="py:percent")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as settings:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        os.environ.update(QUIET, PATH=path, IPYTHONDIR=settings, JUPYTER_RUNTIME_DIR=settings)
        try:
            NotebookClient(
                notebook,
                timeout=CELL_LIMIT,
                kernel_name="python3",
                resources={"metadata": {"path": folder}},
            ).execute()
        except CellExecutionError as error:
            raise click.ClickException(f"{source.name}: {error}") from None
    return notebook


class Rendering:
    """A page in the making.

    Attributes:
        figures: The PNG files of the page, by their paths from ``docs/``.
    """

    def __init__(self, page: str) -> None:
        self.page = page
        self.figures: dict[Path, bytes] = {}

    def text(self, notebook: Any, source: Path) -> str:
        """Write a notebook that was run as Markdown."""
        parts = [part for cell in notebook.cells for part in self._cell(cell)]
        parts.append(
            f"*This page was made by running [{source.name}]({source.name}), which Jupyter with "
            "jupytext, VS Code and others open as a notebook.*"
        )
        return "\n\n".join(parts) + "\n"

    def _cell(self, cell: Any) -> Iterator[str]:
        if cell.cell_type == "markdown":
            yield cell.source
            return
        commands = cell.source.startswith(SHELL)
        yield _fenced("console" if commands else "python", cell.source.removeprefix(SHELL))
        printed = _printed(cell.outputs, {"stdout", "stderr"} if commands else {"stdout"})
        if printed:
            yield _fenced("text", printed)
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                yield self._figure(output.data["image/png"], cell.metadata["figure"])

    def _figure(self, data: str, says: str) -> str:
        path = FIGURES / f"{self.page}-{len(self.figures) + 1}.png"
        self.figures[path] = base64.b64decode(data)
        return f"![{says}](../{path.as_posix()})"


def _printed(outputs: list[Outcome], streams: set[str]) -> str:
    """Join what was printed to some streams; values that a cell ends with are not printed."""
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name in streams)


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def write(page: str, text: str, figures: dict[Path, bytes]) -> None:
    """Write a page and its figures, and delete figures that it had before."""
    (DOCS / FIGURES).mkdir(exist_ok=True)
    for old in (DOCS / FIGURES).glob(f"{page}-[0-9]*.png"):
        if old.relative_to(DOCS) not in figures:
            old.unlink()
    for path, data in figures.items():
        with atomic_path(DOCS / path) as temporary:
            temporary.write_bytes(data)
    with atomic_path(DOCS / "tutorials" / f"{page}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


@click.command()
@click.argument("pages", nargs=-1, type=click.Choice(list(NOTEBOOKS)))
@click.option("--check", is_flag=True, help="Run them, and write nothing.")
def main(pages: tuple[str, ...], check: bool) -> None:
    """Run notebooks, or all of them, and write their pages."""
    for page in pages or NOTEBOOKS:
        start = time.perf_counter()
        rendering, source = Rendering(page), NOTEBOOKS[page]
        mark = signature(source)
        text = rendering.text(executed(source), source)
        if not check:
            write(page, f"{text}\n{mark}\n", rendering.figures)
        click.echo(f"{page}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
