"""
What an Airflow on this machine needs before it starts: settings, keys, a migrated database.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def environment_root(python: Path) -> Path:
    """
    The virtual environment of an interpreter (links are not followed: they lead out of it).
    """
    return python.absolute().parent.parent


def airflow_version(python: Path) -> str:
    """
    Of the Airflow installed in the environment of this interpreter.
    """
    found = sorted(environment_root(python).glob("lib/python3*/site-packages/apache_airflow_core-*.dist-info"))
    if not found:
        raise FileNotFoundError(f"No Airflow in {environment_root(python)}.")
    return found[-1].name.removeprefix("apache_airflow_core-").removesuffix(".dist-info")


def settings(
    python: Path,
    home: Path,
    dags_folder: Path,
    port: int,
    connections: Mapping[str, str],
    database_url: str | None = None,
) -> dict[str, str]:
    """
    The environment of every Airflow process: everything on the loopback interface, no log in, quick to react.

    Settings of the caller's own Airflow do not leak in; the other variables are passed on.

    Args:
        connections: Connection id to JSON or URI.
        database_url: Of Airflow's own database; default: an SQLite file in ``home``.
    """
    url = f"http://127.0.0.1:{port}"
    keys = _keys(home)
    # Without compiled files every process would spend seconds of a core on compiling Airflow again.
    # What the caller's shell says of Airflow, or of Transactionlink, is not about this Airflow.
    foreign = ("AIRFLOW_", "_AIRFLOW_", "TRANSACTIONLINK_", "PYTHONDONTWRITEBYTECODE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    direct = ",".join(filter(None, [env.get("NO_PROXY") or env.get("no_proxy"), "127.0.0.1,localhost"]))
    env |= {
        "AIRFLOW_HOME": str(home),
        "PATH": os.pathsep.join([str(python.absolute().parent), env.get("PATH", os.defpath)]),
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",  # the default forks 32 workers
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url or f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": keys["session"],
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        # A supervisor can sleep through the end of a failed task until its next heartbeat: by default 5 seconds.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # Both would write several lines a second.
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "http.access=WARNING airflow.dag_processing.manager=WARNING",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # A DAG file is seen about a second after it was written or changed: a new one when the bundle is
        # refreshed, a changed one by its modification time. The others are read again only now and then.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    }
    return env | {f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()}


def prepare_database(python: Path, home: Path, env: Mapping[str, str]) -> None:
    """
    Give ``home`` a database of this Airflow version: its own one, migrated if need be, or a copy of a migrated one that
    is kept in the virtual environment, so that it goes when the environment goes.
    """
    version = airflow_version(python)
    database, marker = home / "airflow.db", home / "airflow.db.version"
    if not database.exists():
        template = environment_root(python) / "share" / f"airflow-template-{version}.db"
        if not template.exists():
            build_template(python, template, env)
        shutil.copyfile(template, database)
    elif not marker.exists() or marker.read_text() != version:
        migrate(python, env)
    marker.write_text(version)


def build_template(python: Path, template: Path, env: Mapping[str, str]) -> None:
    """
    Migrate an empty database; the file appears complete or not at all.
    """
    template.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="airflow-template-") as folder:
        fresh = Path(folder, "airflow.db")
        migrate(
            python,
            {**env, "AIRFLOW_HOME": folder, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{fresh}"},
        )
        with tempfile.NamedTemporaryFile(dir=template.parent, delete=False) as copy:
            try:
                with (
                    contextlib.closing(sqlite3.connect(fresh)) as source,
                    contextlib.closing(sqlite3.connect(copy.name)) as target,
                ):
                    source.backup(target)
                Path(copy.name).replace(template)
            except BaseException:
                Path(copy.name).unlink(missing_ok=True)
                raise


def migrate(python: Path, env: Mapping[str, str]) -> None:
    """
    Bring the database that ``env`` names to this Airflow's version.
    """
    command = [str(python), "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise RuntimeError(f"`airflow db migrate` failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


def _keys(home: Path) -> dict[str, str]:
    """
    Keys of this home; kept beside the database, which they encrypt.
    """
    path = home / "keys.json"
    if not path.exists():
        keys = {
            "jwt": secrets.token_hex(32),
            "session": secrets.token_hex(16),
            "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(keys))
    loaded: dict[str, str] = json.loads(path.read_text())
    return loaded
