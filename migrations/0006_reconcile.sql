-- What nobody knew and somebody learned: attempts whose POST got no answer are looked for at the provider, and end as
-- placed, or in review. Locks are taken in the order written in 0001.

-- A look at the provider's calls, begun then, has not found these. p_complete: it told all of them; complete looks further
-- apart than p_gap prove nothing of the time between them.
create function outdial.looked(p_attempt uuid[], p_complete boolean, p_began timestamptz, p_gap interval) returns void language plpgsql as $$
declare
    v_now timestamptz := clock_timestamp();
    -- This clock may have gone back since.
    v_began timestamptz := least(p_began, v_now);
begin
    perform 1 from outdial.live l where l.attempt_id = any (p_attempt) and l.state = 'unknown' order by l.job_no for update;
    -- What a look saw is as old as its beginning: nothing is known to be clear before the end of the first, nor after the
    -- beginning of the last.
    update outdial.live l set
        looks = l.looks + 1, looked_at = v_now,
        clear_since = case when p_complete and (l.clear_until is null or l.clear_until < v_began - p_gap) then v_now else l.clear_since end,
        clear_until = case when p_complete then greatest(l.clear_until, v_began) else l.clear_until end
    where l.attempt_id = any (p_attempt) and l.state = 'unknown';
end $$;

-- Calls of attempts that were taken for not placed, or closed by a person, and were placed after all: a job that waits to be
-- dialed again is not, and one that is being dialed again already is told in the record at least. Answers how many.
create function outdial.placed_after_all(p_account text, p_attempt uuid[], p_call_id text[], p_events text[]) returns int
language plpgsql as $$
declare
    v_late uuid[];
    v_jobs bigint[];
    v_things int[];
    v_phone bigint[];
    v_scope text[];
    v_slot timestamptz[];
    v_n int;
    v_now timestamptz;
begin
    select array_agg(a.attempt_id), array_agg(a.job_no) into v_late, v_jobs
    from outdial.attempts a
    where a.attempt_id = any (p_attempt) and a.account = p_account and a.state in ('not_placed', 'closed');
    if v_late is null then return 0; end if;

    select array_agg(distinct t) into v_things from (
        select l.thing_no t from outdial.attempts a
        join outdial.limits l on (l.kind, l.key) in ((1, a.account), (2, a.campaign_id), (3, a.from_phone_number))
        where a.attempt_id = any (v_late)
        union all
        select v.t from outdial.reservations r cross join lateral (values (r.number_thing), (r.campaign_thing), (r.account_thing)) v(t)
        where r.job_no = any (v_jobs) and v.t is not null) u;
    perform 1 from outdial.limits l where l.thing_no = any (v_things) order by l.thing_no for update;
    -- Who was taken for not called was: it counts again, also in the name that the campaign has taken since. What was dialed
    -- again because nobody could tell has gone on counting.
    if (select c.keeps_recipients from outdial.control c) then
        select array_agg(substr(a.phone, 2)::bigint), array_agg(v.scope), array_agg(a.slot) into v_phone, v_scope, v_slot
        from outdial.attempts a join outdial.jobs j using (job_no) join outdial.campaigns c on c.campaign_id = a.campaign_id
        cross join lateral (select outdial.caller(a.brand, a.campaign_id)
                            union select outdial.caller(c.brand, a.campaign_id) where j.brand is null) v(scope)
        where a.attempt_id = any (v_late) and a.state = 'not_placed' and a.reason is distinct from 'unconfirmed' and a.phone is not null;
        if v_phone is not null then
            perform outdial.lock_recipients(v_phone, v_scope, true);
            perform outdial.mend_slots(v_phone, v_scope, v_slot, v_slot);
        end if;
    end if;
    -- The slot that such a job may have for its next try is given back first, then its place in the work list.
    perform outdial.release(null, v_jobs);
    perform 1 from outdial.jobs j where j.job_no = any (v_jobs) order by j.job_no for update;
    v_now := clock_timestamp();

    with said as (
        select distinct on (attempt) * from unnest(p_attempt, p_call_id) u(attempt, call_id) where attempt = any (v_late)
    ), tried as (
        update outdial.attempts a set state = 'placed', reason = null, call_id = s.call_id, placed_at = a.submitted_at, ended_at = null,
                                     learned_at = v_now
        from said s where a.attempt_id = s.attempt and a.state in ('not_placed', 'closed')
        returning a.*
    ), unlisted as (
        delete from outdial.work w using tried t where w.job_no = t.job_no
    ), jobs as (
        update outdial.jobs j set
            state = case when j.state = 'waiting' then 'placed' else j.state end,
            reason = case when j.state = 'waiting' then null else j.reason end,
            due_at = case when j.state = 'waiting' then null else j.due_at end,
            placed = j.placed + 1, event_seq = j.event_seq + 1
        from tried t where j.job_no = t.job_no
        returning j.*
    ), living as (
        insert into outdial.live (attempt_id, job_no, attempt_no, worker_no, state, call_id, account, model_id, class_no, rank, expires_at,
                                  campaign_id, number, number_thing, campaign_thing, account_thing, slot, since, late)
        select t.attempt_id, t.job_no, t.attempt_no, t.worker_no, 'placed', t.call_id, t.account, t.model_id, j.class_no, 9 - j.priority,
               j.expires_at, t.campaign_id, t.from_phone_number, n.thing_no, c.thing_no, x.thing_no, t.slot, v_now, true
        from tried t join jobs j using (job_no)
        join outdial.limits c on c.kind = 2 and c.key = t.campaign_id
        join outdial.limits x on x.kind = 1 and x.key = t.account
        left join outdial.limits n on n.kind = 3 and n.key = t.from_phone_number
        returning *
    ), held as (
        update outdial.limits l set in_use = l.in_use + f.n
        from (select v.t thing_no, count(*) n from living cross join lateral (values (number_thing), (campaign_thing), (account_thing)) v(t)
              where v.t is not null group by v.t) f
        where l.thing_no = f.thing_no
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        select 'call.placed', j.job_id, j.event_seq,
               jsonb_strip_nulls(jsonb_build_object('job_id', j.job_id, 'campaign_id', t.campaign_id, 'attempt_no', t.attempt_no,
                   'attempt_id', t.attempt_id, 'call_id', t.call_id, 'from_phone_number', t.from_phone_number, 'metadata', j.metadata)), j.traceparent
        from tried t join jobs j using (job_no) where outdial.wants(p_events, 'call.placed') order by t.job_no
    )
    select count(*) into v_n from tried;
    return v_n;
end $$;

-- Calls that the provider has by our attempt ids, whatever was believed of them. Answers how many were news, and how many
-- are a second call of their attempt.
create function outdial.found(p_account text, p_attempt uuid[], p_call_id text[], p_events text[]) returns table (news int, twice int)
language plpgsql as $$
declare
    v_live uuid[];
    v_n int;
begin
    select array_agg(l.attempt_id) into v_live
    from outdial.live l where l.attempt_id = any (p_attempt) and l.account = p_account and l.state <> 'placed';
    v_n := coalesce(cardinality(v_live), 0);
    if v_n > 0 then
        perform outdial.settle(v_live, array_fill('placed'::text, array[v_n]),
                               array(select f.call_id from unnest(v_live) with ordinality l(attempt, ord)
                                     join (select distinct on (attempt) * from unnest(p_attempt, p_call_id) u(attempt, call_id)) f using (attempt)
                                     order by l.ord),
                               array_fill(null::smallint, array[v_n]), array_fill(null::text, array[v_n]), array_fill(null::text, array[v_n]),
                               array_fill(null::timestamptz, array[v_n]), array_fill(null::text, array[v_n]), array_fill(null::int, array[v_n]),
                               array_fill(null::timestamptz, array[v_n]), interval '0', p_events);
    end if;
    v_n := v_n + outdial.placed_after_all(p_account, p_attempt, p_call_id, p_events);
    -- Placed by a person's word, who didn't know its id.
    update outdial.attempts a set call_id = f.call_id
    from (select distinct on (attempt) * from unnest(p_attempt, p_call_id) u(attempt, call_id)) f
    where a.attempt_id = f.attempt and a.account = p_account and a.call_id is null and a.state = 'ended' and a.reason = 'end_unknown';
    return query
    select v_n, count(*)::int from unnest(p_attempt, p_call_id) f(attempt, call_id) join outdial.attempts a on a.attempt_id = f.attempt
    where a.account = p_account and a.call_id <> f.call_id;
end $$;

-- Ends the search for attempts that were not found. To `review`: a person decides; their places are given back. To
-- `redial`, where the campaign gave up "never twice": known not placed, as far as one can know, and the job waits again. Its
-- callee may have been rung all the same: caps go on counting it.
-- p_clear_for: how long looks must have found nothing; null: it is sought long enough, whatever the looks were.
-- What was found, or sent after all, in the meantime stays as it is.
create function outdial.give_up(p_attempt uuid[], p_to text[], p_clear_for interval[], p_events text[]) returns int
language plpgsql as $$
declare
    v_things int[];
    v_now timestamptz;
    v_n int;
begin
    select array_agg(distinct t) into v_things
    from outdial.live l cross join lateral (values (l.number_thing), (l.campaign_thing), (l.account_thing)) v(t)
    where l.attempt_id = any (p_attempt) and l.state = 'unknown' and t is not null;
    if v_things is null then return 0; end if;
    perform 1 from outdial.limits l where l.thing_no = any (v_things) order by l.thing_no for update;
    v_now := clock_timestamp();

    with mine as materialized (
        select l.*, s.what,
               -- Another attempt was learned of meanwhile to have been placed: the job isn't dialed again.
               case when s.what = 'redial' and l.attempt_no > 1 then (
                   select case when bool_or(o.state = 'placed') then 'placed' else 'done' end from outdial.attempts o
                   where o.job_no = l.job_no and o.attempt_no <> l.attempt_no and o.state in ('placed', 'ended')
                     and o.learned_at > l.slot - interval '2 seconds' having count(*) > 0) end as rung
        from outdial.live l
        join unnest(p_attempt, p_to, p_clear_for) s(attempt, what, clear_for) on s.attempt = l.attempt_id
        where l.state = 'unknown' and (s.clear_for is null or l.clear_until - l.clear_since - outdial.stepped(l.clear_since) >= s.clear_for)
        order by l.job_no for update of l
    ), kept as (
        update outdial.live l set state = 'review', since = v_now from mine m where l.attempt_id = m.attempt_id and m.what = 'review'
    ), gone as (
        delete from outdial.live l using mine m where l.attempt_id = m.attempt_id and m.what = 'redial'
    ), tried as (
        update outdial.attempts a set state = 'not_placed' from mine m
        where a.job_no = m.job_no and a.attempt_no = m.attempt_no and m.what = 'redial'
    ), listed as (
        insert into outdial.work (job_no, class_no, rank, expires_at)
        select job_no, class_no, rank, expires_at from mine where what = 'redial' and rung is null order by job_no
    ), jobs as (
        update outdial.jobs j set state = coalesce(m.rung, case m.what when 'review' then 'review' else 'waiting' end),
               reason = case when m.rung is not null then null when m.what = 'review' then 'unconfirmed' else 'queued' end,
               finished_at = case when m.rung = 'done' then v_now else j.finished_at end, event_seq = j.event_seq + 1
        from mine m where j.job_no = m.job_no
        returning j.job_no, j.job_id, j.campaign_id, j.state, j.reason, j.event_seq, j.metadata, j.traceparent
    ), freed as (
        update outdial.limits l set in_use = l.in_use - f.n
        from (select v.t thing_no, count(*) n from mine cross join lateral (values (number_thing), (campaign_thing), (account_thing)) v(t)
              where v.t is not null group by v.t) f
        where l.thing_no = f.thing_no
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        -- That a person is asked is the last that is told of an unknown attempt.
        select e.type, j.job_id, j.event_seq,
               jsonb_strip_nulls(jsonb_build_object('job_id', j.job_id, 'campaign_id', j.campaign_id, 'reason', j.reason, 'metadata', j.metadata)
                   || case j.state when 'review' then jsonb_build_object('state', 'review', 'attempt_no', m.attempt_no, 'attempt_id', m.attempt_id,
                                                                         'from_phone_number', m.number) else '{}' end), j.traceparent
        from jobs j join mine m using (job_no)
        cross join lateral (select case j.state when 'waiting' then 'job.waiting' when 'done' then 'job.done' when 'review' then 'call.unknown' end) e(type)
        where e.type is not null and outdial.wants(p_events, e.type) order by job_no
    )
    select count(*) into v_n from mine;
    return v_n;
end $$;

-- A person's word on attempts in review: placed (their end is polled for where the call's id is given), not_placed (the
-- jobs wait to be dialed again) or closed (they are done, and nobody ever knew). Answers which were in review.
create function outdial.resolve(p_attempt uuid[], p_outcome text, p_call_id text, p_events text[]) returns setof uuid
language plpgsql as $$
declare
    v_mine uuid[];
    v_nameless uuid[];
    v_n int;
begin
    v_mine := array(select l.attempt_id from outdial.live l where l.attempt_id = any (p_attempt) and l.state = 'review'
                    order by l.job_no);
    v_n := cardinality(v_mine);
    if v_n = 0 then return; end if;
    if p_outcome <> 'closed' then
        perform outdial.settle(v_mine, array_fill(case p_outcome when 'placed' then 'placed' else 'retry' end, array[v_n]),
                               array_fill(p_call_id, array[v_n]), array_fill(null::smallint, array[v_n]), array_fill(null::text, array[v_n]),
                               array_fill(case p_outcome when 'placed' then null else 'queued' end, array[v_n]),
                               array_fill(null::timestamptz, array[v_n]), array_fill(null::text, array[v_n]), array_fill(null::int, array[v_n]),
                               array_fill(null::timestamptz, array[v_n]), interval '0', p_events);
        -- Without its id nobody can learn of its end: it takes no place until then. What was found meanwhile has one.
        v_nameless := array(select l.attempt_id from outdial.live l
                            where l.attempt_id = any (v_mine) and l.state = 'placed' and l.call_id is null);
        v_n := cardinality(v_nameless);
        if v_n > 0 then
            perform outdial.finish(v_nameless, array_fill(null::text, array[v_n]), array_fill(null::text, array[v_n]),
                                   array_fill('end_unknown'::text, array[v_n]), array_fill(null::text, array[v_n]), array_fill(null::text, array[v_n]), array_fill(null::text, array[v_n]),
                                   array_fill(null::text, array[v_n]), array_fill(null::timestamptz, array[v_n]), array_fill(null::int, array[v_n]),
                                   array_fill(null::text, array[v_n]), p_events);
        end if;
        return query select unnest(v_mine);
        return;
    end if;
    return query
    with mine as materialized (
        select l.* from outdial.live l where l.attempt_id = any (v_mine) and l.state = 'review' order by l.job_no for update
    ), gone as (
        delete from outdial.live l using mine m where l.attempt_id = m.attempt_id
    ), tried as (
        update outdial.attempts a set state = 'closed', ended_at = clock_timestamp()
        from mine m where a.job_no = m.job_no and a.attempt_no = m.attempt_no
    ), jobs as (
        update outdial.jobs j set state = 'done', reason = 'unconfirmed', finished_at = clock_timestamp(), event_seq = j.event_seq + 1
        from mine m where j.job_no = m.job_no
        returning j.job_no, j.job_id, j.campaign_id, j.reason, j.event_seq, j.metadata, j.traceparent
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        select 'job.done', j.job_id, j.event_seq,
               jsonb_strip_nulls(jsonb_build_object('job_id', j.job_id, 'campaign_id', j.campaign_id, 'reason', j.reason, 'metadata', j.metadata)), j.traceparent
        from jobs j where outdial.wants(p_events, 'job.done') order by j.job_no
    )
    select m.attempt_id from mine m;
end $$;

-- Attempts that have been sought for so long that nobody will find them any more, of whatever account, with or without a
-- worker: a person decides. Answers how many.
create function outdial.give_up_in_vain(p_after interval, p_limit int, p_events text[]) returns int language sql as $$
    select outdial.give_up(array_agg(l.attempt_id), array_agg('review'::text), array_agg(null::interval), p_events)
    from (select attempt_id from outdial.live where state = 'unknown' and since < clock_timestamp() - p_after order by since limit p_limit) l
    having count(*) > 0
$$;

-- Things whose counter of places differs from what holds places. One snapshot, so it is exact beside running workers.
create function outdial.drifted() returns table (thing_no int, drift bigint) language sql as $$
    with holding as (
        select number_thing, campaign_thing, account_thing from outdial.reservations
        union all
        select number_thing, campaign_thing, account_thing from outdial.live where state <> 'review'
    ), counted as (
        select v.t as thing_no, count(*) n from holding
        cross join lateral (values (number_thing), (campaign_thing), (account_thing)) v(t) where v.t is not null group by v.t
    )
    select l.thing_no, l.in_use - coalesce(c.n, 0) from outdial.limits l left join counted c using (thing_no)
    where l.in_use <> coalesce(c.n, 0)
$$;

-- Recounts the places of those, and answers by how much they were wrong in all.
create function outdial.audit_places() returns bigint language plpgsql as $$
declare
    v_things int[] := array(select d.thing_no from outdial.drifted() d limit 1000);
    v_drift bigint;
begin
    if cardinality(v_things) = 0 then return 0; end if;
    perform 1 from outdial.limits l where l.thing_no = any (v_things) order by l.thing_no for update;
    with d as materialized (
        select * from outdial.drifted() where thing_no = any (v_things)
    ), mended as (
        update outdial.limits l set in_use = l.in_use - d.drift from d where l.thing_no = d.thing_no
    )
    select coalesce(sum(abs(drift)), 0) into v_drift from d;
    return v_drift;
end $$;
