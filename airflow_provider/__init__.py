"""
Airflow provider: a Transactionlink workflow execution as one step of a DAG.

Importing this package does nothing; take operators, sensors, triggers and hooks from their modules.
"""
