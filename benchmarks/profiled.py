"""Where native PyTorch spends the time of a network, operator by operator.

    python benchmarks/profiled.py densenet121 --threads 1
    python benchmarks/profiled.py densenet121 --mode fast --training --batch 8

Prints a table as it stands in docs/speed.md: operators by the time that they take themselves,
without those that they call.
"""

from __future__ import annotations

import click
import torch
from native import stepping
from torch.profiler import ProfilerActivity, profile

import densespec

CALLS = 5
SHOWN = 10


def table(variant: str, mode: str, batch: int, size: int, training: bool) -> str:
    """The operators that take most of a call, as a table in Markdown."""
    model = densespec.build(variant, backend="torch.nn", mode=mode)
    if training:
        call = stepping(model, False, batch, size)
    else:
        x = torch.randn(batch, 3, size, size)
        call = torch.inference_mode()(lambda: model.eval()(x))
    for _ in range(CALLS):
        call()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(CALLS):
            call()
    found = sorted(seen.key_averages(), key=lambda op: -op.self_cpu_time_total)
    whole = sum(op.self_cpu_time_total for op in found)
    lines = ["| operator | calls | time | share |", "| --- | ---: | ---: | ---: |"]
    for op in found[:SHOWN]:
        taken = op.self_cpu_time_total
        figures = f"{op.count // CALLS} | {taken / CALLS / 1e3:.2f} ms | {taken / whole:.1%}"
        lines.append(f"| `{op.key}` | {figures} |")
    return "\n".join([*lines, f"| all | | {whole / CALLS / 1e3:.2f} ms | |"])


@click.command()
@click.argument("variant")
@click.option("--mode", default="inference", show_default=True, help="The mode of the network.")
@click.option("--training", is_flag=True, help="Training steps instead of inference.")
@click.option("--batch", default=1, show_default=True, help="Images at a time.")
@click.option("--size", default=224, show_default=True, help="Height and width of images.")
@click.option("--threads", default=1, show_default=True, help="Threads of an operator.")
def main(variant: str, mode: str, training: bool, batch: int, size: int, threads: int) -> None:
    """Print which operators take the time of VARIANT."""
    torch.set_num_threads(threads)
    click.echo(table(variant, mode, batch, size, training))


if __name__ == "__main__":
    main()
