"""The whole path on real data: a task, an agent that writes Python, one error that it repairs, a plot, an answer.

make demo                    the model's replies come from a recording; the code runs live in the sandbox
make demo MODEL=gpt-4.1      the same with a live model (any that `codeact run --model` takes)
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from codeact.trajectory import load

TASK = (
    "Which origin's cars gained most in fuel economy (miles per gallon) between the first and the last model year? "
    "Plot the development and save it as fuel_economy.png."
)
HERE = Path(__file__).parent
RECORDING = HERE / "demo.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a live model instead of the recording")
    parser.add_argument("--sandbox", default="local", help="where the code runs (default: local)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="default: demo-output")
    options = parser.parse_args()

    from vega_datasets import data

    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    if options.model is None:
        print(f"The model's replies come from a recording ({RECORDING.name}); the code below runs live in the sandbox.")
        print("With a model of your own: make demo MODEL=name\n", flush=True)
    run = [sys.executable, "-m", "codeact", "run", TASK]
    run += ["--file", str(data.cars.filepath), "--model", options.model or f"replay:{RECORDING}"]
    run += ["--sandbox", options.sandbox, "--save", str(out / "run.jsonl"), "--out", str(out)]
    status = subprocess.run(run).returncode
    if not (out / "run.jsonl").exists():
        return status
    answer = next((e.answer for e in reversed(load(out / "run.jsonl").events) if e.type == "run_finished"), None)
    (out / "answer.md").write_text(f"{answer or 'No answer.'}\n")
    for name in ("run.ipynb", "run.html"):
        export = [sys.executable, "-m", "codeact", "export", str(out / "run.jsonl"), "-o", str(out / name)]
        status = subprocess.run(export).returncode or status
    print(f"\nIn {out}/: {', '.join(sorted(p.name for p in out.iterdir() if p.is_file()))}")
    return status


if __name__ == "__main__":
    sys.exit(main())
