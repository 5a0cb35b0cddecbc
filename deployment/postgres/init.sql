-- Run once by the image, for an empty volume, as the superuser on the local socket.
-- The services have a user of their own without further rights: a superuser could run programs.
\set password `cat /run/secrets/rossmann_database_password`
CREATE ROLE rossmann LOGIN PASSWORD :'password';
CREATE DATABASE rossmann OWNER rossmann;
CREATE DATABASE mlflow OWNER rossmann;
REVOKE ALL ON DATABASE rossmann, mlflow, postgres FROM PUBLIC;
