"""What configs/gpu.sh measured, as report.json and report.md. usage: gpu_report.py FOLDER

Reads steps.tsv and the last JSON object that each step printed. MFU is flops_per_token * tokens_per_s over the peak
(PEAK_TFLOPS, 989 by default: dense bf16 of an H100 by its data sheet); beside it the same over the rate of a large matrix
product, measured in the same process. A figure that was not measured is an empty cell.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "box"))
from steps import last_json  # noqa: E402

PEAK = float(os.environ.get("PEAK_TFLOPS", "989")) * 1e12


def last_object(path):
    """What a step printed last: the object itself, or the first entry where it has one a batch size; {} without any."""
    value = last_json(path)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, dict) else {}


def utilization(found, ours):
    """(MFU, share of the measured matrix rate), each None where it cannot be told. A peer does the work of `ours`."""
    rate, flops = found.get("tokens_per_s"), found.get("flops_per_token", ours.get("flops_per_token"))
    if not rate or not flops:
        return None, None
    matmul = found.get("matmul_gflops", ours.get("matmul_gflops"))
    # of one of the GPUs where several share the steps
    each = rate * flops / found.get("processes", 1)
    return each / PEAK, each / (matmul * 1e9) if matmul else None


def cell(value, form="{:.0f}"):
    return "" if value is None else form.format(value)


def card():
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    return f"{len(lines)} x {lines[0]}" if lines else "no GPU"


def main():
    folder = Path(sys.argv[1])
    steps = []
    for line in (folder / "steps.tsv").read_text(encoding="utf-8").splitlines():
        step, status, seconds, command = (line.split("\t") + [""])[:4]
        found = last_object(folder / f"{step}.json") if status == "ok" else {}
        ours = next((s["found"] for s in steps if s["step"] == step.rpartition("-")[0]), {})
        mfu, of_matmul = utilization(found, ours)
        # a folder may have been filled on several days
        date = time.strftime("%Y-%m-%d", time.localtime((folder / f"{step}.json").stat().st_mtime)) if found else None
        steps.append(
            dict(
                step=step,
                status=status,
                date=date,
                seconds=int(seconds),
                command=command,
                mfu=mfu,
                of_matmul=of_matmul,
                found=found,
            )
        )
    doctor = next((s["found"] for s in steps if s["step"] == "doctor"), {})
    checks = {check["name"]: check["found"] for check in doctor.get("checks", [])}
    dates = sorted({s["date"] for s in steps if s["date"]}) or [time.strftime("%Y-%m-%d")]
    report = dict(date=dates[-1], card=card(), peak_tflops=PEAK / 1e12, checks=checks, steps=steps)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"Measured on {', '.join(dates)}: {report['card']}; libtorch {checks.get('libtorch', 'not known')}.",
        "",
        "| step | outcome | tokens/s | texts/s | ms/step | MFU | of the matrix rate | matrix rate, TFLOP/s | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in steps:
        found = s["found"]
        matmul = found.get("matmul_gflops")
        lines.append(
            f"| {s['step']} | {s['status']} | {cell(found.get('tokens_per_s'))} "
            f"| {cell(found.get('texts_per_s', found.get('sentences_per_s')), '{:.1f}')} "
            f"| {cell(found.get('ms_per_step'), '{:.1f}')} | {cell(s['mfu'], '{:.1%}')} | {cell(s['of_matmul'], '{:.1%}')} "
            f"| {cell(matmul and matmul / 1e3, '{:.1f}')} | {s['seconds']} |"
        )
    lines += ["", "Commands:", ""] + [f"- {s['step']}: `{s['command']}`" for s in steps if s["command"]]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines[:4 + len(steps)]))


main()
