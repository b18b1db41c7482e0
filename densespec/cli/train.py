"""Commands that train."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densespec.cli.shared import parse_sizes

if TYPE_CHECKING:
    from densespec.recipes.recipe import TrainingRecipe
    from densespec.training import Plan, RunResult

TORCH = "torch.nn"
DTYPES = ("float32", "float64", "mixed_bfloat16", "mixed_float16")


def register(group: click.Group) -> None:
    """Add these commands to the command line."""
    for command in (train_command, recipes_command):
        group.add_command(command)


@click.command("recipes", short_help="List the named recipes, or print one as TOML.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
def recipes_command(name: str | None, as_json: bool) -> None:
    """List the named recipes, or print one as TOML, to edit and give to --recipe.

    \b
    Examples:
      densespec recipes
      densespec recipes cifar+ > mine.toml
    """
    from densespec.network.files import to_json, to_toml
    from densespec.recipes.presets import get_recipe, presets

    if name is not None:
        recipe = get_recipe(name)
        click.echo(to_json(recipe) if as_json else to_toml(recipe), nl=False)
    elif as_json:
        rows = [
            {"name": p.name, "about": p.about, "source": p.source, "recipe": p.recipe.to_dict()}
            for p in presets().values()
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        for preset in presets().values():
            click.echo(f"{preset.name:20} {preset.about}")


@click.command("train")
@click.argument("spec", required=False)
@click.option("--recipe", metavar="NAME|FILE", help="A named recipe, or a recipe file.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field of the recipe; may be given again.",
)
@click.option(
    "--data", metavar="DATA", help="A data set's name, folder or file.  [default: digits]"
)
@click.option(
    "--backend",
    help="numpy, torch.nn, tensorflow, torch, jax, or another; with +fast or +efficient behind it, "
    "it trains faster or in less memory.",
)
@click.option("--out", type=Path, metavar="DIR", help="Folder of the new run.")
@click.option("--resume", type=Path, metavar="DIR", help="Go on with the run in this folder.")
@click.option("--epochs", type=click.IntRange(min=1), help="Replaces the recipe's number.")
@click.option("--weights", metavar="FILE", help="Start from this weight file, of any layout.")
@click.option(
    "--trainable-from",
    metavar="PART",
    help="Freeze everything before block4, classifier, ...; head is what follows the global pool.",
)
@click.option(
    "--head",
    "head_units",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="UNITS",
    help="A dense layer with ReLU before the classifier; may be given again.",
)
@click.option("--classes", type=click.IntRange(min=1), help="Replaces the spec's classes.")
@click.option("--size", callback=parse_sizes, metavar="HxW", help="Bring images to this size.")
@click.option("--dtype", type=click.Choice(DTYPES), help="The same as --set dtype=...")
@click.option("--devices", type=click.IntRange(min=1), help="Split each batch among so many.")
@click.option(
    "--nodes", type=click.IntRange(min=1), default=1, help="Machines with so many devices each."
)
@click.option("--endpoint", metavar="HOST:PORT", help="Of the first machine, for --nodes.")
@click.option(
    "--cache-features/--no-cache-features",
    default=None,
    help="Run what is frozen once over the data.  [default: where it is small]",
)
@click.option(
    "--dropout",
    type=click.Choice(["exact", "framework"]),
    help="Masks that are the same everywhere, or those the framework draws.  [default: exact]",
)
@click.option("--keep", type=click.IntRange(min=0), help="Keep the checkpoints of N last epochs.")
@click.option("--log-every", type=click.IntRange(min=1), help="Steps between lines of the log.")
@click.option("--no-validation", is_flag=True, help="Leave out the test after each epoch.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and check it; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def train_command(
    changes: Sequence[str],
    recipe: str | None,
    dtype: str | None,
    out: Path | None,
    resume: Path | None,
    nodes: int,
    endpoint: str | None,
    cache_features: bool | None,
    no_validation: bool,
    head_units: tuple[int, ...],
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network, or go on with a run that was stopped.

    The folder of a run holds its checkpoints, its log and its curve, and is whole at every moment:
    Ctrl-C saves and says how to go on, and of a process that is killed no more is lost than what
    followed its last checkpoint. A run goes on in any backend.

    Of a SPEC that is a variant's name, channels and classes are those of the data. --devices
    starts PyTorch's launcher for torch.nn; the other backends train on several devices themselves.

    \b
    Examples:
      densespec train densenet-40-12 --backend torch.nn --out runs/digits
      densespec train densenet-bc-100-12 --recipe cifar+ --data cifar10 --backend jax --out runs/c
      densespec train --resume runs/digits --backend jax --epochs 40
      densespec train densenet169 --weights densenet169.pth --head 1024 --trainable-from head
        --data folder:photos --size 224x224 --recipe digits --set batch_size=32 --backend torch.nn
        --out runs/photos
    """
    from densespec.backends import split_mode
    from densespec.training import Options, follow, is_first, launched, plan_of

    if (out is None) == (resume is None):
        raise click.UsageError("give --out for a new run, or --resume to go on with one")
    folder = resume or out
    assert folder is not None, "one of them is given"
    devices = options["devices"]
    if nodes > 1:
        options["devices"] = (devices or 1) * nodes
    plan = plan_of(
        Options(
            out=folder,
            resume=resume is not None,
            recipe=_recipe(recipe, changes, dtype, options["data"], resume),
            head_units=head_units or None,
            cache_features="auto" if cache_features is None else cache_features,
            validate=False if no_validation else None,
            **options,
        )
    )
    if dry_run:
        _say_plan(plan, as_json)
        return
    in_torch = split_mode(plan.backend)[0] == TORCH
    if nodes > 1 and not in_torch:
        raise click.UsageError(f"--nodes is for {TORCH}; {plan.backend} trains on one machine")
    if plan.devices > 1 and in_torch and not launched():
        raise SystemExit(_launch(folder, devices or plan.devices, nodes, endpoint))
    done = follow(plan, progress=True)
    if is_first():
        _say_result(done, as_json)
    if launched():
        _leave_launcher()
    if done.signal is not None and not done.finished:
        raise SystemExit(128 + done.signal)


def _leave_launcher() -> None:
    """End this process, which the launcher started, when all are done.

    Not by way of the interpreter's end: threads of PyTorch's process group may still run then, and
    now and again the process aborts (seen with 2.13 and Gloo), although all has been written.
    """
    from densespec_torch import distributed

    distributed.barrier()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def _recipe(
    given: str | None,
    changes: Sequence[str],
    dtype: str | None,
    data: str | None,
    resume: Path | None,
) -> TrainingRecipe | None:
    """The recipe with the changes put in; None where nothing is said of it."""
    from densespec.recipes.presets import get_recipe
    from densespec.training import read_run
    from densespec.training.plan import DIGITS

    fields = dict(_change(text) for text in changes)
    if dtype is not None:
        fields["dtype"] = dtype
    if given is None and not fields:
        return None
    if given is not None:
        recipe = get_recipe(given)
    elif resume is not None:
        recipe = read_run(resume).recipe
    elif data in (None, DIGITS):
        recipe = get_recipe(DIGITS)
    else:
        raise click.UsageError("give the --recipe that --set changes")
    return recipe.replace(**fields)


def _change(text: str) -> tuple[str, Any]:
    """A field and its value, which is TOML or else a text."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text!r} should be FIELD=VALUE, such as learning_rate=0.05")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _launch(folder: Path, devices: int, nodes: int, endpoint: str | None) -> int:
    """Start this command once for each device by PyTorch's launcher; gives the exit status."""
    from densespec.training.launch import launch
    from densespec_torch import distributed

    command = distributed.launcher(devices=devices, nodes=nodes, endpoint=endpoint)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    return launch([*command, "-m", "densespec", *sys.argv[1:]], folder)


def _plan_record(plan: Plan) -> dict[str, Any]:
    recipe, counts = plan.run.recipe, plan.graph.parameters
    rates = [recipe.learning_rate_at(epoch) for epoch in range(recipe.epochs)]
    drops = {e + 1: rates[e] for e in range(recipe.epochs) if e == 0 or rates[e] != rates[e - 1]}
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
        "steps_per_epoch": len(plan.batches),
        "step": plan.step,
        "steps": plan.steps,
        "learning_rates": {str(epoch): rate for epoch, rate in drops.items()},
        "caches_features": plan.caches,
        "recipe": recipe.to_dict(),
        "notes": list(plan.notes),
    }


def _say_plan(plan: Plan, as_json: bool) -> None:
    record = _plan_record(plan)
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    where = "goes on with" if record["resumes"] else "makes"
    shape = "x".join(map(str, record["input"]))
    rates = ", ".join(f"{rate:g} from epoch {e}" for e, rate in record["learning_rates"].items())
    others = ("epochs", "learning_rate", "milestones", "gamma")
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
        "learning rate": rates,
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
        click.echo(json.dumps(record, indent=2))
        return
    if done.epochs and done.accuracy is not None:
        best = done.best_epoch
        assert best is not None, "an epoch was validated"
        click.echo(
            f"test accuracy {done.accuracy:.2%} after epoch {done.epochs[-1]['epoch']}, at best "
            f"{best['validation_accuracy']:.2%} after epoch {best['epoch']}"
        )
    click.echo(f"weights {done.checkpoint}" + (f", best {done.best}" if done.best else ""))
    if not done.finished:
        click.echo(f"stopped after step {done.step}, and saved; go on with:")
        click.echo(f"  {_command(done)}")


def _command(done: RunResult) -> str:
    return f"densespec train --resume {shlex.quote(str(done.folder))}"
