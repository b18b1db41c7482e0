"""Defines ``densespec train``."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from densespec.backends import LaunchableBackend
from densespec.cli.record_options import options_of
from densespec.cli.shared import json_option, optional_spec_argument, print_json
from densespec.cli.sizes import parse_sizes
from densespec.errors import shown
from densespec.recipes.recipe import DTYPES
from densespec.training import RunOptions, RunResult, TrainingPlan, carry_out, plan_of
from densespec.training.folder import check_free
from densespec.training.launch import launch

COURSE = (
    *("epochs", "learning_rate", "milestones", "gamma", "schedule", "rate_per"),
    *("warmup_epochs", "warmup_steps", "warmup_start", "final_rate"),
)
"""These fields of a recipe state its course of the learning rate."""
_SGD, _ADAM = ("momentum", "nesterov"), ("beta1", "beta2", "epsilon")
OTHER_OPTIMIZERS = {"sgd": _ADAM, "adam": _SGD, "adamw": _SGD}
"""These fields of a recipe have no meaning with an optimizer."""


ENDPOINT = re.compile(r"([\w.-]+|\[[\da-fA-F:]+\]):(\d{1,5})")


def _endpoint(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Check the address of a machine.

    Raises:
        BadParameter: It is none.
    """
    found = None if text is None else ENDPOINT.fullmatch(text)
    if text is not None and not (found and 0 < int(found[2]) < 2**16):
        raise click.BadParameter(f"{shown(text)} should be HOST:PORT, such as 10.0.0.1:29400")
    return text


@click.command("train")
@optional_spec_argument
@click.option("--out", type=Path, metavar="DIR", help="Folder of the new run.")
@click.option("--resume", type=Path, metavar="DIR", help="Go on with the run in this folder.")
@options_of(
    RunOptions, leave_out=("spec", "out", "resume", "changes", "progress"), size=parse_sizes
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field of the recipe; may be given again.",
)
@click.option("--dtype", type=click.Choice(DTYPES), help="The same as --set dtype=...")
@click.option(
    "--nodes", type=click.IntRange(min=1), default=1, help="Machines with so many devices each."
)
@click.option(
    "--endpoint",
    callback=_endpoint,
    metavar="HOST:PORT",
    help="The address of the first machine, for --nodes.",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and check it; write nothing."
)
@json_option
def train_command(
    *,
    out: Path | None,
    resume: Path | None,
    changes: Sequence[str],
    dtype: str | None,
    nodes: int,
    endpoint: str | None,
    dry_run: bool,
    as_json: bool,
    **said: Any,
) -> None:
    """Train a network, or go on with a run that was stopped.

    The folder of a run holds its checkpoints, its log and its curve, and is whole at every moment:
    Ctrl-C saves and says how to go on, and of a process that is killed no more is lost than what
    followed its last checkpoint. A run goes on in any backend.

    Of a SPEC that is a variant's name, classes, channels and dimensions are the data's. --devices
    starts PyTorch's launcher for torch.nn; the other backends train on several devices themselves.

    \b
    Examples:
      densespec train densenet-40-12 --backend torch.nn --out runs/digits
      densespec train densenet-bc-100-12 --recipe cifar+ --data cifar10 --backend jax --out runs/c
      densespec train --resume runs/digits --backend jax --epochs 40
      densespec train densenet169 --weights densenet169.pth --head 1024 --trainable-from head
        --data folder:photos --size 224x224 --recipe digits --set batch_size=32 --backend torch.nn
        --out runs/photos
      densespec train --weights unet.pth --prefix encoder. --data cifar10 --recipe cifar+
        --backend torch.nn --out runs/encoder
    """
    folder = out or resume
    if folder is None or None not in (out, resume):
        raise click.UsageError("give --out for a new run, or --resume to go on with one")
    if nodes > 1:
        said["devices"] = (said["devices"] or 1) * nodes
    plan = plan_of(
        **said | {"out": folder, "resume": resume is not None, "progress": True},
        changes=dict(map(_change, changes)) | ({"dtype": dtype} if dtype else {}),
    )
    if nodes > 1 and not isinstance(plan.engine, LaunchableBackend):
        raise click.UsageError(f"--nodes: {plan.backend} trains on one machine")
    if (nodes > 1) != (endpoint is not None):
        raise click.UsageError("--nodes of several machines and --endpoint go together: give both")
    if dry_run:
        if resume is None:
            check_free(folder)
        _say_plan(plan, as_json)
        return
    if plan.devices > 1 and isinstance(plan.engine, LaunchableBackend) and not plan.launched:
        devices = plan.devices // nodes
        launcher = plan.engine.launcher(devices=devices, nodes=nodes, endpoint=endpoint)
        if launcher is not None:
            command = [*launcher, "-m", "densespec", *sys.argv[1:]]
            raise SystemExit(launch(command, folder, devices))
    done = carry_out(plan)
    if plan.rank == 0:
        _say_result(done, as_json)
    if plan.launched and isinstance(plan.engine, LaunchableBackend):
        plan.engine.leave()
    if done.signal is not None and not done.finished:
        raise SystemExit(128 + done.signal)


def _change(text: str) -> tuple[str, Any]:
    """Split a change into a field and its value, which is TOML or else a text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text!r} should be FIELD=VALUE, such as learning_rate=0.05")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _plan_record(plan: TrainingPlan) -> dict[str, Any]:
    recipe, counts = plan.run.recipe, plan.graph.parameters
    return {
        "folder": str(plan.folder),
        "resumes": plan.start is None,
        "network": plan.run.network,
        "parameters": counts.total,
        "trainable": counts.trainable,
        "trainable_from": plan.run.trainable_from,
        "data": plan.dataset.name,
        "classes": len(plan.dataset.classes),
        "training_images": len(plan.dataset.train),
        "test_images": len(plan.dataset.test),
        "input": [plan.dataset.channels, *plan.run.size],
        "backend": plan.backend,
        "devices": plan.devices,
        "epochs": recipe.epochs,
        "steps_per_epoch": plan.course.steps_per_epoch,
        "step": plan.step,
        "steps": plan.course.steps,
        "learning_rates": {str(e + 1): rate for e, rate in recipe.learning_rates().items()}
        if recipe.holds_rates
        else None,
        "caches_features": plan.caches,
        "recipe": recipe.to_dict(),
        "notes": list(plan.notes),
    }


def _say_plan(plan: TrainingPlan, as_json: bool) -> None:
    record = _plan_record(plan)
    if as_json:
        print_json(record)
        return
    where = "goes on with" if record["resumes"] else "makes"
    shape = "x".join(map(str, record["input"]))
    others = (*COURSE, *OTHER_OPTIMIZERS[plan.run.recipe.optimizer])
    rows = {
        "folder": f"{where} {record['folder']}",
        "network": f"{record['network']}, {record['parameters']:,} values, "
        f"{record['trainable']:,} trainable",
        "data": f"{record['data']}: {record['training_images']:,} images to train on, "
        f"{record['test_images']:,} to test on, {shape}, {record['classes']} classes",
        "backend": f"{record['backend']}, {record['devices']} device"
        f"{'s' if record['devices'] > 1 else ''}",
        "steps": f"{record['steps'] - record['step']:,} of {record['steps']:,}: "
        f"{record['epochs']} epochs of {record['steps_per_epoch']:,}",
        "learning rate": plan.run.recipe.course(),
        "recipe": ", ".join(f"{n} {v}" for n, v in record["recipe"].items() if n not in others),
    }
    for name, text in rows.items():
        click.echo(f"{name:14} {text}")
    for note in record["notes"]:
        click.echo(f"note: {note}")


def _say_result(done: RunResult, as_json: bool) -> None:
    if as_json:
        record = {
            "folder": str(done.folder),
            "finished": done.finished,
            "step": done.step,
            "checkpoint": str(done.checkpoint),
            "best": None if done.best is None else str(done.best),
            "last_epoch": done.epochs[-1] if done.epochs else None,
            "best_epoch": done.best_epoch,
        }
        print_json(record)
        return
    best = done.best_epoch
    if done.accuracy is not None and best is not None:
        click.echo(
            f"test accuracy {done.accuracy:.2%} after epoch {done.epochs[-1]['epoch']}, at best "
            f"{best['validation_accuracy']:.2%} after epoch {best['epoch']}"
        )
    elif best is not None:
        click.echo(
            f"test loss {done.epochs[-1]['validation_loss']:.4f} after epoch "
            f"{done.epochs[-1]['epoch']}, best by {done.judged_by} after epoch {best['epoch']}"
        )
    click.echo(f"weights {done.checkpoint}" + (f", best {done.best}" if done.best else ""))
    if not done.finished:
        click.echo(f"stopped after step {done.step}, and saved; go on with:")
        click.echo(f"  {_command(done)}")


def _command(done: RunResult) -> str:
    return f"densespec train --resume {shlex.quote(str(done.folder))}"
