#!/usr/bin/env bash
# Put uv into .venvs/uv, with nothing but python3.11 (on Debian, its venv module comes in a package of its own).
set -euo pipefail
cd "$(dirname "$0")/.."
home=.venvs/uv
[ -x "$home/bin/uv" ] && exit 0
mkdir -p .venvs
if ! python3.11 -m venv "$home" >/dev/null 2>&1; then
    echo "python3.11 cannot make a virtual environment; installing Debian's python3.11-venv"
    apt-get update -qq
    apt-get install -y -qq python3.11-venv >/dev/null
    rm -rf "$home"
    python3.11 -m venv "$home"
fi
"$home/bin/pip" install --quiet --disable-pip-version-check -c constraints/airflow.txt uv
