-- Two logins of least privilege. Run once by a superuser, in the database that outdial is to have:
--
--   psql -d outdial -v ON_ERROR_STOP=1 -f roles.sql
--   psql -d outdial -c "alter role outdial_owner password '…'" -c "alter role outdial_worker password '…'"
--
--   outdial_owner    owns the schemas: for `outdial migrate` alone
--   outdial_worker   reads and writes rows, and can neither make nor drop anything: for workers and every other command. Tables
--                    for records to come, and the end of those that were kept long enough, are functions of the owner
--
-- Dashboards: `create role grafana login; grant outdial_reader to grafana;` (masked), or outdial_reader_pii.

do $$
declare
    v_role text;
begin
    foreach v_role in array array['outdial_owner', 'outdial_worker'] loop
        if not exists (select from pg_roles where rolname = v_role) then
            execute format('create role %I login', v_role);
        end if;
    end loop;
    foreach v_role in array array['outdial_reader', 'outdial_reader_pii'] loop
        if not exists (select from pg_roles where rolname = v_role) then
            execute format('create role %I nologin', v_role);
        end if;
    end loop;
    execute format('revoke all on database %I from public', current_database());
    execute format('grant connect, create on database %I to outdial_owner', current_database());
    execute format('grant connect on database %I to outdial_worker, outdial_reader, outdial_reader_pii', current_database());
end $$;

revoke all on schema public from public;

-- The owner makes the schemas, and everything in them is the worker's to use from the moment it is made.
create schema if not exists outdial authorization outdial_owner;
create schema if not exists reporting authorization outdial_owner;
grant usage on schema outdial, reporting to outdial_worker;
alter default privileges for role outdial_owner in schema outdial grant select, insert, update, delete on tables to outdial_worker;
alter default privileges for role outdial_owner in schema outdial grant usage on sequences to outdial_worker;
alter default privileges for role outdial_owner in schema outdial grant execute on functions to outdial_worker;
alter default privileges for role outdial_owner in schema reporting grant select on tables to outdial_worker;

-- Where the tables are there already.
grant select, insert, update, delete on all tables in schema outdial to outdial_worker;
grant usage on all sequences in schema outdial to outdial_worker;
grant execute on all functions in schema outdial to outdial_worker;
grant select on all tables in schema reporting to outdial_worker;

-- A worker calls people: it sees their numbers in the views, too.
grant outdial_reader_pii to outdial_worker;
