-- What is learned of the provider beside the answers to calls: pools, agents that are gone, keys that don't work.
-- Locks are taken in the order written in 0001.

-- Takes a duty for a while, or keeps it; false: another worker has it.
create function outdial.hold_duty(p_name text, p_worker bigint, p_lease interval) returns boolean language sql as $$
    with held as (
        insert into outdial.duties as d (name, worker_no, until) values (p_name, p_worker, clock_timestamp() + p_lease)
        on conflict (name) do update set worker_no = excluded.worker_no, until = excluded.until
        where d.worker_no = excluded.worker_no or d.until < clock_timestamp()
        returning 1
    )
    select exists (select 1 from held)
$$;

-- Asks for an agent's pool to be read.
create function outdial.want_agent(p_model text, p_account text) returns void language sql as $$
    insert into outdial.agents as a (model_id, account) values (p_model, p_account)
    on conflict (model_id) do update set account = excluded.account, sync_wanted = true
    where not a.sync_wanted or a.account <> excluded.account
$$;

-- Writes a reading of a pool that counts. p_seen: pool_tried_at as it was when the reading began; p_attach: objects of
-- number, slug, sid, brand, region, tags and limits as the rules of p_version have them.
-- Answers written, overtaken (somebody else wrote a reading meanwhile) or rules (those of p_version hold no longer):
-- then the pool is to be read again; and how many numbers have come and gone.
create function outdial.adopt_pool(
    p_model text, p_seen timestamptz, p_version bigint, p_attach jsonb, p_detach text[], p_name text, p_note text,
    p_events text[]
) returns table (outcome text, attached int, detached int) language plpgsql as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_tell boolean;
    v_first boolean;
    v_new text[];
    v_gone text[];
begin
    select a.pool_read_at is null, jsonb_array_length(p_attach) > 0 or cardinality(p_detach) > 0 or a.state <> 'active' or a.pool_read_at is null
    into v_first, v_tell from outdial.agents a where a.model_id = p_model;
    if v_tell is null then return query select 'overtaken', 0, 0; return; end if;

    if v_tell then
        perform outdial.stop_lock();
        -- Rules are applied under the same lock: limits of new numbers are those that hold.
        if not exists (select 1 from outdial.control c where c.routing_version = p_version) then
            return query select 'rules', 0, 0;
            return;
        end if;
        insert into outdial.limits (kind, key, per_second, per_minute, per_hour, per_day, concurrent)
        select 3, n.number, n.per_second, n.per_minute, n.per_hour, n.per_day, n.concurrent
        from jsonb_to_recordset(p_attach) n(number text, per_second int, per_minute int, per_hour int, per_day int, concurrent int)
        order by n.number
        on conflict (kind, key) do nothing;
    end if;

    update outdial.agents a set
        state = 'active', state_reason = null, name = coalesce(a.name, p_name), pool_read_at = v_now, pool_tried_at = v_now,
        pool_error = p_note, pool_shrunk = null
    where a.model_id = p_model and a.pool_tried_at is not distinct from p_seen;
    if not found then return query select 'overtaken', 0, 0; return; end if;
    if not v_tell then return query select 'written', 0, 0; return; end if;

    insert into outdial.numbers (number, brand, region, tags)
    select n.number, n.brand, n.region, coalesce(n.tags, '{}')
    from jsonb_to_recordset(p_attach) n(number text, brand text, region text, tags text[])
    order by n.number
    on conflict (number) do nothing;
    v_new := array(select n.number from jsonb_to_recordset(p_attach) n(number text)
                   where not exists (select 1 from outdial.pool p where p.model_id = p_model and p.number = n.number and p.attached));
    v_gone := array(select p.number from outdial.pool p where p.model_id = p_model and p.number = any (p_detach) and p.attached);
    insert into outdial.pool as p (model_id, number, slug, sid)
    select p_model, n.number, n.slug, n.sid from jsonb_to_recordset(p_attach) n(number text, slug text, sid text) order by n.number
    on conflict (model_id, number) do update
    set slug = excluded.slug, sid = excluded.sid, attached = true, changed_at = v_now;
    update outdial.pool p set attached = false, changed_at = v_now
    where p.model_id = p_model and p.number = any (v_gone);
    -- What an agent begins with is no change.
    if not v_first then
        with moved as (
            update outdial.numbers n set event_seq = n.event_seq + 1
            from (select unnest(v_new) number, 'attached' reason union all select unnest(v_gone), 'detached') m
            where n.number = m.number returning n.number, n.event_seq, n.state, m.reason
        )
        insert into outdial.outbox (type, subject, sequence, data)
        select 'number.state_changed', number, event_seq,
               jsonb_build_object('number', number, 'state', state, 'was', state, 'reason', reason, 'model_id', p_model)
        from moved where outdial.wants(p_events, 'number.state_changed') order by number;
    end if;
    perform outdial.raise_epoch();
    return query select 'written', cardinality(v_new), cardinality(v_gone);
end $$;

-- The provider doesn't know an agent: it is held until a reading of its pool succeeds.
create function outdial.agent_unavailable(p_model text, p_account text, p_why text) returns void language plpgsql as $$
begin
    perform outdial.stop_lock();
    insert into outdial.agents as a (model_id, account, state, state_reason, pool_tried_at, pool_error, sync_wanted)
    values (p_model, p_account, 'unavailable', p_why, clock_timestamp(), p_why, false)
    on conflict (model_id) do update
    set state = 'unavailable', state_reason = p_why, pool_tried_at = excluded.pool_tried_at, pool_error = p_why
    where a.state <> 'unavailable';
    if found then
        perform outdial.raise_epoch();
    else
        update outdial.agents a set pool_tried_at = clock_timestamp() where a.model_id = p_model;
    end if;
end $$;

-- An account's row and limits, as a worker's configuration has them.
create function outdial.ensure_account(p_name text, p_per_second int, p_concurrent int) returns void language plpgsql as $$
declare
    v_was outdial.limits;
begin
    insert into outdial.limits (kind, key, per_second, concurrent) values (1, p_name, p_per_second, p_concurrent)
    on conflict (kind, key) do nothing;
    select * into v_was from outdial.limits where kind = 1 and key = p_name for update;
    if (v_was.per_second, v_was.concurrent) is distinct from (p_per_second, p_concurrent) then
        update outdial.limits set per_second = p_per_second, concurrent = p_concurrent where thing_no = v_was.thing_no;
        -- Calls are logged only where there is a window: a new one is filled from the records.
        if v_was.per_second is null and p_per_second is not null then
            perform outdial.fill_log(v_was.thing_no);
        end if;
    end if;
    insert into outdial.accounts (name) values (p_name) on conflict (name) do nothing;
end $$;

-- Whether a worker's key of an account works. The account is paused when no living worker has one that does, and
-- resumed when one does again, if that was why it was paused. Answers the account's state.
create function outdial.key_result(p_worker bigint, p_account text, p_works boolean, p_events text[]) returns text
language plpgsql as $$
declare
    v_was outdial.accounts;
begin
    -- The usual case waits for nobody: it works, and nobody said otherwise.
    if not p_works or exists (select 1 from outdial.accounts a where a.name = p_account and a.state <> 'active') then
        perform outdial.stop_lock();
    end if;
    insert into outdial.worker_keys as k (worker_no, account, works) values (p_worker, p_account, p_works)
    on conflict (worker_no, account) do update set works = excluded.works, checked_at = clock_timestamp();
    select * into v_was from outdial.accounts a where a.name = p_account;
    if p_works and v_was.state = 'paused' and v_was.state_reason = 'unauthorized' then
        perform outdial.set_account(p_account, 'active', null, p_events);
        insert into outdial.worker_keys (worker_no, account, works) values (p_worker, p_account, true)
        on conflict (worker_no, account) do update set works = true;
        return 'active';
    end if;
    if not p_works and v_was.state = 'active' and not exists (
        select 1 from outdial.worker_keys k join outdial.workers w using (worker_no)
        where k.account = p_account and k.works and w.ended_at is null and w.lease_until > clock_timestamp()
    ) then
        perform outdial.set_account(p_account, 'paused', 'unauthorized', p_events);
        return 'paused';
    end if;
    return v_was.state;
end $$;
