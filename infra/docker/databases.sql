-- Run once, when PostgreSQL's volume is new. The database of Prefect is made by the image.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
