"""
For people who work on this project: real Airflow on one machine, the demonstration, standing services.

Not part of the wheel. Linux only: processes are read from ``/proc``.
"""
