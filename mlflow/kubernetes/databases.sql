-- Run once, when Postgres is empty: users and permissions beside the database of the runs.
CREATE DATABASE mlflow_auth OWNER mlflow;
