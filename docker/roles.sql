-- the proxy's role, walcrypt-ctl's (docs/switchover.md says what it needs), and an application's
CREATE ROLE proxy LOGIN REPLICATION;
GRANT pg_read_all_settings TO proxy;
CREATE ROLE operator LOGIN REPLICATION;
GRANT pg_monitor, pg_checkpoint TO operator;
GRANT EXECUTE ON FUNCTION pg_promote TO operator;
CREATE ROLE app LOGIN;
CREATE DATABASE app OWNER app;
