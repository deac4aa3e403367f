"""
What a release consists of: wheel, source distribution, bill of materials of what the wheel brings along, and for each
orchestrator a list of everything to install with it, by version and hash.

``python -m dev.distribution`` writes them into ``dist/``. The same commit gives the same bytes, whenever and wherever.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["EXTRAS", "bill_of_materials", "build", "locked", "main"]

PROJECT = Path(__file__).parents[1]
#: What a host without an orchestrator would install; Airflow and Prefect publish bills of their own.
EXTRAS = "batch,cli,sql,webhooks"


def build(source: Path, out: Path, *, epoch: str) -> list[Path]:
    """
    Wheel and source distribution of a checkout.

    Args:
        source: The checkout.
        out: Where they go.
        epoch: Time that is written into them, in seconds since 1970; that of the commit, for a release.
    """
    environment = os.environ | {"SOURCE_DATE_EPOCH": epoch}
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return sorted(out.glob("tl_orchestration-*"))


def bill_of_materials(wheel: Path, out: Path, *, epoch: str) -> None:
    """
    CycloneDX: everything that is installed with the wheel and its extras, by name, version, hash and licence.
    """
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "env", "bin", "python")
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, python.parents[1]], check=True)
        pins = PROJECT / "constraints" / "airflow.txt"
        wanted = f"tl-orchestration[{EXTRAS}] @ {wheel.as_uri()}"
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, "-c", pins, wanted], check=True)
        # Where the wheel lay while this was made is nobody's business.
        for origin in python.parents[1].glob("lib/*/site-packages/tl_orchestration-*.dist-info/direct_url.json"):
            origin.unlink()
        cyclonedx = Path(sys.executable).with_name("cyclonedx-py")
        command = [str(cyclonedx), "environment", "--mc-type", "library", "--output-reproducible"]
        subprocess.run(
            [*command, "--pyproject", PROJECT / "pyproject.toml", "-o", out, python],
            check=True,
            env=os.environ | {"SOURCE_DATE_EPOCH": epoch},
        )


def locked(wheel: Path, out: Path, *, extra: str, pins: Path) -> None:
    """
    For ``pip install --no-deps --require-hashes``: an orchestrator, the wheel, and what they need, as tested.

    Args:
        extra: ``airflow`` or ``prefect``.
        pins: The versions that the tests ran with.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--python-version", "3.11", "--output-file", str(out)]
    for name in (extra, *EXTRAS.split(",")):
        command += ["--extra", name]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        # Prefect 3.9 asks for a certifi that not every index has yet; any recent one does.
        overrides.write("certifi>=2025\n" if extra == "prefect" else "")
        overrides.flush()
        command += ["-c", str(pins), "--override", overrides.name, str(PROJECT / "pyproject.toml")]
        subprocess.run(command, check=True)
    name, version = wheel.name.split("-")[:2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with out.open("a") as file:
        file.write(f"{name.replace('_', '-')}=={version} \\\n    --hash=sha256:{digest}\n")


def main() -> None:
    """
    Write all of them.
    """
    out = PROJECT / "dist"
    shutil.rmtree(out, ignore_errors=True)
    epoch = subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=PROJECT, text=True).strip()
    files = build(PROJECT, out, epoch=epoch)
    (wheel,) = [file for file in files if file.suffix == ".whl"]
    bill = wheel.with_suffix(".cdx.json")
    bill_of_materials(wheel, bill, epoch=epoch)
    lists = []
    for extra, pins in (("airflow", "airflow.txt"), ("prefect", "prefect-3.9.txt")):
        lists.append(out / f"requirements-{extra}.txt")
        locked(wheel, lists[-1], extra=extra, pins=PROJECT / "constraints" / pins)
    for file in [*files, bill, *lists]:
        print(f"{file.relative_to(PROJECT)}  {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
