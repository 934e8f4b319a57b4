#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""report.py RESULT.json: write the table and the chart of a result of bench.

With --save docs/performance.md gets them between its markers, and what is
outside of these stays as it is.
"""
import argparse
import datetime
import json
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import rows
from machines import KINDS, ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- bench begin -->", "<!-- bench end -->"
COLORS = {"lodge": "#1b7837", "tcg": "#b2182b", "tcg-sse2": "#ef8a62", "uml": "#4393c3",
          "bochs": "#8073ac"}


def about(settings):
    """The machine, the programs and the commit, in words."""
    def said(*command):
        try:
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  text=True, check=True, cwd=ROOT).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    found = {key: re.search(rf"^{key}\s*: (.*)$", cpuinfo, re.M)
             for key in ("model name", "cpu family", "model", "stepping", "flags")}
    text = {key: match[1] if match else "?" for key, match in found.items()}
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    changed = said("git", "status", "--porcelain", "--untracked-files=no", "--", "src")
    package = Path(settings.kernel).parent / "package"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": said("git", "rev-parse", "--short=12", "HEAD") + (" with changes"
                                                                   if changed else ""),
        "cpu": f"{text['model name']} (family {text['cpu family']}, model {text['model']}, "
               f"stepping {text['stepping']})",
        "virtual": "hypervisor" in text["flags"].split(),
        "cpus": os.cpu_count(),
        "memory": int(memory[1]) // 1024 if memory else 0,
        "host": platform.release(),
        "load": os.getloadavg()[0],
        "kernel": package.read_text().strip() if package.exists() else settings.kernel,
        "guest memory": settings.memory,
        "runs": settings.runs,
        "clock": settings.clock,
        "qemu": said("qemu-system-x86_64", "--version").split("\n")[0],
        "uml": said("linux.uml", "--version"),
    }


def ratios(result, row):
    """machine: slowdown against native."""
    got = result["values"].get(row.name, {})
    if not got.get("native"):
        return {}
    base = min(got["native"])
    return {name: min(values) / base for name, values in got.items() if name != "native"}


def mean(result, group, name):
    """Geometric mean of a group's ratios, if the machine has them all."""
    wanted = [row for row in rows.ROWS if row.group == group and ratios(result, row)]
    values = [ratios(result, row).get(name) for row in wanted]
    if not values or None in values:
        return None
    return math.exp(sum(map(math.log, values)) / len(values))


def number(value):
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def seconds(value):
    for unit, scale in (("s", 1), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if value >= scale * 0.9995 or unit == "ns":
            return f"{value / scale:.3g} {unit}"
    return ""


def goal(value, got, most=True):
    if value is None:
        return ""
    if got is None:
        return f"{value:g}"
    met = got <= value if most else got >= value
    return f"{value:g} {'met' if met else 'not met'}"


def table(result):
    """All of it as Markdown."""
    names = [name for name in result["machines"] if name != "native"]
    lines = ["| | native | " + " | ".join(KINDS[name].title for name in names) + " | goal |",
             "|---|---:|" + "---:|" * (len(names) + 1)]

    def add(title, base, values, aim):
        lines.append(f"| {title} | {base} | "
                     + " | ".join(number(values.get(name)) for name in names) + f" | {aim} |")

    boot = {name: min(got) for name, got in result["values"].get("boot", {}).items()}
    if boot:
        lines.append("| **boot to init** | | " + " | ".join(
            seconds(boot[name]) if name in boot else "-" for name in names) + " | |")
    if "tcg" in boot:
        share = {name: value / boot["tcg"] for name, value in boot.items()}
        add("... as a share of TCG's", "", share, goal(0.65, share.get("lodge")))
    for group in dict.fromkeys(row.group for row in rows.ROWS):
        members = [row for row in rows.ROWS if row.group == group and ratios(result, row)]
        if not members:
            continue
        lines.append(f"| **{group}** | |" + " |" * (len(names) + 1))
        for row in members:
            values = ratios(result, row)
            base = seconds(min(result["values"][row.name]["native"]))
            add(row.title, base, values, goal(row.goal, values.get("lodge")))
        if len(members) > 1:
            values = {name: mean(result, group, name) for name in names}
            add("*geometric mean*", "", values, goal(rows.MEANS.get(group), values.get("lodge")))
    scaled = [row for row in rows.SCALINGS if row.name in result["values"]]
    if scaled:
        lines.append("| **2 CPUs: work done against 1** | |" + " |" * (len(names) + 1))
    for row in scaled:
        values = {name: row.best(got) for name, got in result["values"][row.name].items()}
        add(row.title, number(values.get("native")), values,
            goal(1.8, values.get("lodge"), most=False))
    return "\n".join(lines)


def translator(result):
    """What Lodge's own counters say."""
    count = result["counters"]
    took = count.get("nanoseconds translating")
    instructions = count.get("guest instructions translated")
    if not took or not instructions:
        return ""
    source, code = (count.get(f"bytes of {which}", 0) for which in
                    ("guest code translated", "host code produced"))
    lines = [f"{instructions:,} guest instructions translated in {count['blocks translated']:,} "
             f"blocks; {took / instructions:,.0f} ns for each."]
    if source:
        lines.append(f"{source:,} bytes became {code:,}: code expansion {code / source:.1f}.")
    return "\n".join(lines)


def behind(result):
    """Rows on which another machine is ahead of Lodge."""
    text = []
    for name in result["machines"]:
        if name in ("native", "lodge"):
            continue
        rest = [row.title for row in rows.ROWS
                if {name, "lodge"} <= ratios(result, row).keys()
                and ratios(result, row)[name] < ratios(result, row)["lodge"]]
        text.append(f"{KINDS[name].title} is ahead of Lodge on: {', '.join(rest) or 'nothing'}.")
    return "\n".join(text)


def described(result):
    a = result["about"]
    busy = "" if a["clock"] == "wall" else " Processor time, not time by the clock."
    where = " (itself a virtual machine)" if a["virtual"] else ""
    others = ", ".join(filter(None, (a["qemu"], a["uml"] and f"User-Mode Linux {a['uml']}")))
    return (f"{a['date']}, commit {a['commit']}. {a['cpu']}, {a['cpus']} CPUs, {a['memory']} MiB, "
            f"Linux {a['host']}{where}. Guests: {a['kernel']}, {a['guest memory']}. {others}. "
            f"Minimum of {a['runs']} alternating runs; load of the host at the end "
            f"{a['load']:.1f}.{busy}\n\n"
            "The column *native* is the time of one, the others are slowdowns against it.")


def chart(result):
    """Bars on a logarithmic scale, as SVG."""
    names = [name for name in result["machines"]
             if name != "native" and not KINDS[name].boot_only]
    shown = [row for row in rows.ROWS if ratios(result, row)]
    left, right, bar, top = 150, 640, 9, 50
    step = bar * len(names) + 8
    height = top + step * len(shown) + 30
    most = max((value for row in shown for value in ratios(result, row).values()), default=10)
    decades = max(1, math.ceil(math.log10(most)))
    low = -0.3  # a little to the left of 1, where nothing is slower

    def x(value):
        return left + (right - left) * (max(math.log10(value), low) - low) / (decades - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{right + 60}" height="{height}" '
           'font-family="sans-serif" font-size="11">',
           f'<rect width="{right + 60}" height="{height}" fill="white"/>',
           f'<text x="{left}" y="16" font-size="13">Slowdown against native '
           '(logarithmic; shorter is better)</text>']
    for i, name in enumerate(names):
        at = left + i * 120
        out.append(f'<rect x="{at}" y="24" width="10" height="10" fill="{COLORS[name]}"/>'
                   f'<text x="{at + 14}" y="33">{KINDS[name].title}</text>')
    for power in range(decades + 1):
        for mult in ((1, 2, 5) if power < decades else (1,)):
            value = mult * 10 ** power
            out.append(f'<line x1="{x(value):.1f}" y1="{top - 6}" x2="{x(value):.1f}" '
                       f'y2="{height - 24}" stroke="{"#999" if value == 1 else "#ddd"}"/>'
                       f'<text x="{x(value):.1f}" y="{height - 10}" '
                       f'text-anchor="middle">{value}</text>')
    for n, row in enumerate(shown):
        y = top + n * step
        out.append(f'<text x="{left - 8}" y="{y + step / 2}" text-anchor="end">{row.title}</text>')
        for i, name in enumerate(names):
            value = ratios(result, row).get(name)
            if value is None:
                continue
            a, b = sorted((x(1), x(value)))
            out.append(f'<rect x="{a:.1f}" y="{y + i * bar}" width="{max(b - a, 1):.1f}" '
                       f'height="{bar - 1}" fill="{COLORS[name]}"/>'
                       f'<text x="{b + 3:.1f}" y="{y + i * bar + bar - 1}" '
                       f'font-size="8">{number(value)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def text(result, picture):
    parts = [described(result), table(result), behind(result), translator(result)]
    parts += [f"FAILED: {f['row']} on {f['machine']}: {f['why']}" for f in result["failures"]]
    if picture:
        parts.append(f"![Slowdown against native]({picture})")
    return "\n\n".join(filter(None, parts))


def write(result, folder, save):
    folder = Path(folder)
    (folder / "result.md").write_text(text(result, "performance.svg") + "\n")
    (folder / "performance.svg").write_text(chart(result))
    if not save:
        return
    (DOCUMENT.parent / "performance.svg").write_text(chart(result))
    (DOCUMENT.parent / "performance.json").write_text(json.dumps(result, indent=1) + "\n")
    old = DOCUMENT.read_text()
    if BEGIN not in old or END not in old:
        sys.exit(f"{DOCUMENT}: no {BEGIN} and {END}")
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text(result, 'performance.svg')}\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    with open(args.result, encoding="utf-8") as file:
        result = json.load(file)
    write(result, Path(args.result).parent, args.save)
    print(table(result))


if __name__ == "__main__":
    main()
