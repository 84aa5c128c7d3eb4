-- What is kept of callees: who must not be called, and when each was called.

-- Opt-outs, and every other phone that must not be called. Whoever adds one holds the stop lock as it commits: nothing is
-- authorised to that phone after it. Kept as numbers, for there may be tens of millions.
create table outdial.suppressions (
    phone bigint not null,                          -- E.164 without its +
    scope text not null default '',                 -- '': whoever calls; 'brand:X'; 'campaign:X'
    added_at timestamptz not null default clock_timestamp(),
    source_no int not null,
    primary key (phone, scope)
);

-- Whole ranges, by how their numbers begin. Few.
create table outdial.suppressed_prefixes (
    prefix text not null check (prefix ~ '^\+[1-9][0-9]{0,14}$'),
    scope text not null default '',
    added_at timestamptz not null default clock_timestamp(),
    source_no int not null,
    primary key (prefix, scope)
);

-- Where they come from, as whoever added them said.
create table outdial.suppression_sources (
    source_no int generated always as identity primary key,
    source text not null unique
);

-- How a number may begin: +1, +14, +141, …
create function outdial.beginnings(p_phone text) returns text[] language sql immutable as
$$ select array_agg(left(p_phone, n)) from generate_series(2, length(p_phone)) n $$;

create function outdial.source_no(p_source text) returns int language plpgsql as $$
declare
    v_no int;
begin
    select source_no into v_no from outdial.suppression_sources where source = p_source;
    if v_no is null then
        insert into outdial.suppression_sources (source) values (p_source) on conflict do nothing;
        select source_no into v_no from outdial.suppression_sources where source = p_source;
    end if;
    return v_no;
end $$;

-- Answers how many are new. The lock is taken last: a large import must not keep calls waiting while it writes, and nobody
-- who holds the lock ever wants a row of these tables.
create function outdial.suppress(p_phone bigint[], p_scope text[], p_source text) returns int language plpgsql as $$
declare
    v_source int := outdial.source_no(p_source);
    v_n int;
begin
    insert into outdial.suppressions (phone, scope, source_no)
    select distinct a.phone, a.scope, v_source from unnest(p_phone, p_scope) a(phone, scope) order by 1, 2
    on conflict do nothing;
    get diagnostics v_n = row_count;
    perform outdial.stop_lock();
    return v_n;
end $$;

create function outdial.suppress_prefixes(p_prefix text[], p_scope text[], p_source text) returns int language plpgsql as $$
declare
    v_source int := outdial.source_no(p_source);
    v_n int;
begin
    insert into outdial.suppressed_prefixes (prefix, scope, source_no)
    select distinct a.prefix, a.scope, v_source from unnest(p_prefix, p_scope) a(prefix, scope) order by 1, 2
    on conflict do nothing;
    get diagnostics v_n = row_count;
    perform outdial.stop_lock();
    return v_n;
end $$;

-- When phones were called, by whom: kept while some rule caps that. The slots of POSTs that were sent or may have been, and of
-- those about to be, oldest first; of the last 31 days, 100 at most.
create table outdial.recipients (
    phone bigint not null,                          -- E.164 without its +
    scope text not null,                            -- 'brand:X'; without a brand 'campaign:X'
    slots timestamptz[] not null,
    primary key (phone, scope)
) with (fillfactor = 70);

-- Windows of caps are judged this much wider than they are: a POST whose answer is waited for may arrive as late as this.
-- They are hours long.
create function outdial.recipient_margin() returns interval language sql immutable as $$ select interval '35 seconds' $$;

-- Locks the rows of callees, made where they are new, in the order of all locks.
create function outdial.lock_recipients(p_phone bigint[], p_scope text[], p_make boolean) returns void
language plpgsql set enable_seqscan = off as $$
begin
    for i in 1..5 loop
        if p_make then
            insert into outdial.recipients (phone, scope, slots)
            select distinct a.phone, a.scope, '{}'::timestamptz[] from unnest(p_phone, p_scope) a(phone, scope) order by 1, 2
            on conflict do nothing;
        end if;
        perform 1 from outdial.recipients r
        where (r.phone, r.scope) in (select a.phone, a.scope from unnest(p_phone, p_scope) a(phone, scope))
        order by r.phone, r.scope for update;
        -- One that stood there may have been dropped before it was locked.
        if not p_make or not exists (
            select 1 from unnest(p_phone, p_scope) a(phone, scope)
            where not exists (select 1 from outdial.recipients r where r.phone = a.phone and r.scope = a.scope)) then
            return;
        end if;
    end loop;
    raise exception 'rows of callees vanish as they are made' using errcode = '40001';
end $$;

-- When a callee may be called again, as far as caps say; null: now.
create function outdial.called_again_at(p_phone text, p_scope text, p_calls int[], p_seconds int[], p_slack interval) returns timestamptz
language sql stable as $$
    select max(s.slot + make_interval(secs => c.seconds) + outdial.stepped(s.slot)) + p_slack + outdial.recipient_margin()
    from outdial.recipients k cross join unnest(p_calls, p_seconds) c(calls, seconds)
    cross join lateral (select k.slots[cardinality(k.slots) + 1 - c.calls] slot) s
    where k.phone = substr(p_phone, 2)::bigint and k.scope = p_scope
$$;

-- Takes slots out again, of calls that were never placed, or puts others in their place: of calls that came later. Under
-- their locks.
create function outdial.mend_slots(p_phone bigint[], p_scope text[], p_slot timestamptz[], p_new timestamptz[]) returns void language sql as $$
    update outdial.recipients r set slots = array(
        select u.s from (
            select k.s from (select s, row_number() over (partition by s) nth from unnest(r.slots) s) k
            where k.nth > (select count(*) from unnest(g.slots) x where x = k.s)
            union all
            select n from unnest(g.news) n) u
        order by u.s)
    from (select phone, scope, array_agg(slot) slots, array_agg(new) filter (where new is not null) news
          from unnest(p_phone, p_scope, p_slot, p_new) u(phone, scope, slot, new) group by phone, scope) g
    where r.phone = g.phone and r.scope = g.scope
$$;

-- As whom a campaign calls.
create function outdial.caller(p_brand text, p_campaign text) returns text language sql immutable as
$$ select coalesce('brand:' || p_brand, 'campaign:' || p_campaign) $$;

-- Attempts of the last 31 days that rang their callee or may have, and when that counts. What was redialed because nobody could
-- tell is one.
create function outdial.recently_called() returns table (job_no bigint, campaign_id text, brand text, phone bigint, called_at timestamptz)
language sql stable as $$
    select a.job_no, a.campaign_id, a.brand, substr(a.phone, 2)::bigint, coalesce(l.called_at, a.slot)
    from outdial.attempts a left join outdial.live l on l.attempt_id = a.attempt_id
    where a.submitted_at > statement_timestamp() - interval '31 days' and a.phone is not null
      and (a.state <> 'not_placed' or a.reason = 'unconfirmed')
$$;

-- Keeps slots by recipient from now on, those of the last 31 days from the records; or no more.
create function outdial.keep_recipients(p_keep boolean) returns void language plpgsql as $$
begin
    if p_keep = (select keeps_recipients from outdial.control) then return; end if;
    update outdial.control set keeps_recipients = p_keep;
    delete from outdial.recipients;
    if not p_keep then return; end if;
    insert into outdial.recipients (phone, scope, slots)
    select a.phone, outdial.caller(a.brand, a.campaign_id), (array_agg(a.called_at order by a.called_at desc))[1:100]
    from outdial.recently_called() a group by 1, 2;
    update outdial.recipients r set slots = array(select s from unnest(r.slots) s order by s) where cardinality(r.slots) > 1;
    perform outdial.rename_callers(array(select campaign_id from outdial.campaigns));
end $$;

-- Campaigns that call in another name than before: their calls so far count in the new one as well, so that a new name gives
-- nobody more of them.
create function outdial.rename_callers(p_campaign text[]) returns void language sql as $$
    insert into outdial.recipients (phone, scope, slots)
    select a.phone, outdial.caller(c.brand, c.campaign_id), array_agg(a.called_at order by a.called_at)
    from outdial.recently_called() a join outdial.campaigns c using (campaign_id) join outdial.jobs j using (job_no)
    where a.campaign_id = any (p_campaign) and j.brand is null and a.brand is distinct from c.brand
    group by 1, 2
    on conflict (phone, scope) do update set slots = array(
        select l.s from (select distinct s from unnest(recipients.slots || excluded.slots) s order by s desc limit 100) l order by l.s)
$$;

-- Drops what no cap looks at any more, of p_limit rows from p_after on; answers how far it came (null: to the end).
create function outdial.prune_recipients(p_after bigint, p_limit int) returns bigint language plpgsql as $$
declare
    v_phones bigint[] := array(select r.phone from outdial.recipients r where r.phone > p_after order by r.phone limit p_limit);
begin
    delete from outdial.recipients r using (
        select k.phone, k.scope from outdial.recipients k
        where k.phone = any (v_phones) and coalesce(k.slots[cardinality(k.slots)], '-infinity') < clock_timestamp() - interval '31 days'
        order by k.phone, k.scope for update skip locked) o
    where r.phone = o.phone and r.scope = o.scope;
    return case when cardinality(v_phones) = p_limit then v_phones[p_limit] end;
end $$;

-- Numbers that were chosen and not shown: quarantined where the rules say so. A statement of its own: who stops a number takes
-- other locks first than who writes an end.
create function outdial.mismatched(p_events text[]) returns table (number text, calls int, quarantined boolean)
language plpgsql as $$
#variable_conflict use_column
declare
    r record;
    v_quarantines boolean;
begin
    if not exists (select 1 from outdial.mismatches) then return; end if;
    v_quarantines := (select quarantines_mismatched from outdial.control);
    -- Rules that are applied meanwhile hold for the next.
    if v_quarantines then perform outdial.stop_lock(); end if;
    for r in
        with judged as (delete from outdial.mismatches returning number)
        select j.number, count(*)::int as calls, coalesce(bool_or(n.state in ('active', 'warming')), false) as is_used
        from judged j left join outdial.numbers n using (number) group by j.number order by j.number
    loop
        if v_quarantines and r.is_used then
            perform outdial.set_number(r.number, 'quarantined', 'caller_id_mismatch', p_events);
        end if;
        return query select r.number, r.calls, v_quarantines;
    end loop;
end $$;

-- Erases what is kept of persons in the records of jobs that are over, and in what waits to be published of them. Keys, states,
-- times, our own numbers and the provider's ids stay. Answers how many; those that still wait, are dialed or looked for are
-- left as they are.
create function outdial.erase(p_job bigint[]) returns int language plpgsql as $$
declare
    v_mine bigint[];
begin
    v_mine := array(
        select j.job_no from outdial.jobs j
        where j.job_no = any (p_job) and j.state in ('done', 'refused', 'expired', 'canceled')
          and not exists (select 1 from outdial.live l where l.job_no = j.job_no)
        order by j.job_no for update);
    update outdial.attempts a set phone = null, provider_answer = null, provider_error = null, recording_url = null
    where a.job_no = any (v_mine);
    update outdial.outbox o set data = o.data - 'metadata'
    from outdial.jobs j where j.job_no = any (v_mine) and o.subject = j.job_id and o.data ? 'job_id';
    update outdial.jobs j set phone = null, name = null, content = '{}', metadata = null where j.job_no = any (v_mine);
    return cardinality(v_mine);
end $$;
