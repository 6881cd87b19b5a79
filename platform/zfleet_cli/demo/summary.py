"""What the demo prints at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from zfleet_cli.demo.findings import findings
from zfleet_cli.tables import print_table


def print_summary(console: Console, report: dict[str, Any], out: Path) -> None:
    """The skills as a table, then what worked and what did not."""
    controls = {f"control: {name}": row | {"expert": row["accuracy"]} for name, row in report["controls"].items()}
    rows = [
        [
            name,
            f"{row['base']:.3f}",
            f"{row['clear_verb']:.3f}",
            f"{row['expert']:.3f}",
            "{:.3f}-{:.3f}".format(*row["ci95"]),
            f"{row['trained_parameters']:,}",
        ]
        for name, row in (report["skills"] | controls).items()
    ]
    names = ("skill", "base", "clear verb", "expert", "95 %", "numbers")
    title = f"held-out accuracy, engine {report['engine']}"
    print_table(console, title, names, [list(map(Text, row)) for row in rows])
    worked, failed = findings(report)
    for heading, sentences in (("What worked", worked), ("What did not, and what was not meant to", failed)):
        console.print(f"\n[bold]{heading}[/]")
        for sentence in sentences:
            console.print(f"  {sentence}", highlight=False, markup=False)
    console.print(f"\n{report['seconds']['total']:.0f} s in all. Report: {out / 'report.html'}", highlight=False)


def print_service(console: Console, url: str, base: str) -> None:
    """How to talk to the service that was left up."""
    curl = (
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f'  -d \'{{"model": "{base}:auto", "messages": [{{"role": "user", "content": "flip bca"}}]}}\''
    )
    python = (
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{url}/v1", api_key="not-needed")\n'
        f'answer = client.chat.completions.create(model="{base}:auto", '
        'messages=[{"role": "user", "content": "flip bca"}])\n'
        "print(answer.choices[0].message.content)"
    )
    for snippet in (f"\nThe service is up at {url}/v1. Ctrl-C stops it.\n", curl, "", python):
        console.print(snippet, highlight=False, markup=False, soft_wrap=True)
