-- How the steps of each job are planned: once for a connection, and so that their cost grows with the batch and with nothing
-- else, whatever the statistics say. Work lists are empty in one minute and hold a million in the next; a plan that was good
-- for the one loops over loops, or reads whole tables, in the other. So there are no loops but over keys, and no scans but
-- by keys: each of their tables is read by an array of keys (`= any`), joins are by hash, and no condition is written so that
-- a partial index would do for it.
--
-- What they call in turn is planned as usual. Who replaces one of these functions says this again.
do $$
declare
    f regprocedure;
begin
    for f in select oid::regprocedure from pg_proc where pronamespace = 'outdial'::regnamespace
             and proname in ('accept', 'reserve', 'authorise', 'dispatch', 'settle', 'finish') loop
        execute format('alter function %s set enable_nestloop = off set enable_seqscan = off set enable_bitmapscan = off
                        set plan_cache_mode = force_generic_plan set jit = off', f);
    end loop;
    for f in select oid::regprocedure from pg_proc where pronamespace = 'outdial'::regnamespace
             and proname in ('lock_recipients', 'mend_slots', 'mend_grants', 'placed_after_all', 'finish_late') loop
        execute format('alter function %s set enable_nestloop = on set enable_bitmapscan = on set plan_cache_mode = auto', f);
    end loop;
end $$;
