-- What outsiders read: schema `reporting`. Columns are only ever added, at the end.
--
-- Views run with their owner's rights, so that readers need none in schema `outdial`. A callee's number is masked as
-- in the logs (the last two digits) for everyone but the owner, members of outdial_reader_pii and superusers.

create schema if not exists reporting;      -- made beforehand where the owner may not (deploy/postgres/roles.sql)

-- Roles belong to the cluster: another database, or a migration beside this one, may have made them. Where this user
-- may not make roles, `outdial migrate` prints what somebody else has to run.
do $$
declare
    v_role text;
begin
    foreach v_role in array array['outdial_reader', 'outdial_reader_pii'] loop
        if not exists (select from pg_roles where rolname = v_role) then
            begin
                execute format('create role %I nologin', v_role);
            exception when insufficient_privilege or duplicate_object or unique_violation then null;
            end;
        end if;
    end loop;
end $$;

-- Asked once a query, not once a row: `(select reporting.sees_phones())`.
create function reporting.sees_phones() returns boolean language sql stable as $$
    select coalesce(bool_or(pg_has_role(current_user, r.oid, 'usage')), false)
    from pg_roles r
    where r.rolname = 'outdial_reader_pii'
       or r.oid = (select nspowner from pg_namespace where nspname = 'reporting')
$$;

create function reporting.shown(p_phone text, p_whole boolean) returns text language sql immutable as $$
    select case when p_whole then p_phone else '+' || repeat('*', length(p_phone) - 3) || right(p_phone, 2) end
$$;

-- A waiting job's reason and date are its class's, unless it has a true date of its own: dispatch speaks of classes.
create view reporting.jobs as
select j.job_id, j.campaign_id, coalesce(j.brand, c.brand) as brand, a.account,
       coalesce(j.model_id, c.model_id) as model_id,
       reporting.shown(j.phone, (select reporting.sees_phones())) as phone, j.region, j.priority, j.state,
       case when j.state = 'waiting' and w.job_no is not null and w.ready_at is null then k.reason else j.reason end as reason,
       case when j.state <> 'waiting' then j.due_at
            when r.job_no is not null then r.slot
            when w.ready_at is null then k.due_at
            -- Its own date; null: until somebody changes something, whenever it is looked at again.
            else j.due_at end as due_at,
       j.attempts, j.received_at, j.finished_at, j.metadata
from outdial.jobs j
left join outdial.campaigns c on c.campaign_id = j.campaign_id
left join outdial.agents a on a.model_id = coalesce(j.model_id, c.model_id)
left join outdial.work w on w.job_no = j.job_no
left join outdial.reservations r on r.job_no = j.job_no
left join outdial.classes k on k.class_no = w.class_no;

create view reporting.calls as
select j.job_id, a.attempt_no, a.attempt_id, a.campaign_id, a.brand, a.account, a.model_id,
       reporting.shown(a.phone, (select reporting.sees_phones())) as phone, a.region, a.from_phone_number,
       a.routing_version, a.rule, a.state, a.disposition, a.reason, a.call_id, a.http_status, a.provider_status, a.end_reason,
       a.provider_error, a.from_phone_number_reported, a.caller_id_verified, a.submitted_at, a.placed_at, a.ended_at,
       a.duration_s, a.recording_url, a.decision
from outdial.attempts a
left join outdial.jobs j on j.job_no = a.job_no;

-- Jobs that are over and answers are counted since the campaign began, whatever records are kept. The last minute is exact; of the
-- hour the first minute may be missing, of the day the first twenty.
-- `expected_finish_at`: what waits, at the pace of the last hour; null where nothing moved in it.
create view reporting.campaigns as
select c.campaign_id, c.brand, c.state,
       coalesce(w.waiting, 0) as waiting, coalesce(l.dialing, 0) as dialing, coalesce(l.placed, 0) as placed,
       coalesce(j.done, 0) as done, coalesce(j.refused, 0) as refused, coalesce(j.expired, 0) as expired,
       coalesce(j.canceled, 0) as canceled, coalesce(l.review, 0) as review,
       coalesce(j.answered, 0) as answered,
       round(coalesce(j.answered, 0)::numeric / nullif(j.ended, 0), 4) as answer_rate,
       coalesce(a.placed_last_minute, 0) as placed_last_minute, coalesce(a.placed_last_hour, 0) as placed_last_hour,
       coalesce(a.placed_last_day, 0) as placed_last_day,
       c.first_received_at, j.last_placed_at,
       case when w.waiting > 0 and a.placed_last_hour > 0
            then now() + make_interval(secs => 3600.0 * w.waiting / a.placed_last_hour) end as expected_finish_at
from outdial.campaigns c
left join (
    -- A job waits in `work`, or has a slot.
    select w.campaign_id, sum(w.jobs)::bigint as waiting
    from (select k.campaign_id, q.jobs from (select class_no, count(*) as jobs from outdial.work group by class_no) q
          join outdial.classes k on k.class_no = q.class_no
          union all select r.campaign_id, count(*) from outdial.reservations r group by r.campaign_id) w
    group by w.campaign_id
) w on w.campaign_id = c.campaign_id
left join (
    -- A job stands as its call does, and needn't be looked up, unless another call of it was learned of late.
    select d.campaign_id, count(*) filter (where d.state in ('submitting', 'unknown', 'dialing')) as dialing,
           count(*) filter (where d.state = 'placed') as placed, count(*) filter (where d.state = 'review') as review
    from (select campaign_id, state from outdial.live where job_no not in (select job_no from outdial.live where late)
          union all select j.campaign_id, j.state from outdial.jobs j
          where j.job_no = any (array(select l.job_no from outdial.live l where l.late))) d
    group by d.campaign_id
) l on l.campaign_id = c.campaign_id
left join (
    select k.campaign_id,
           sum(k.n) filter (where k.what = 'done')::bigint as done, sum(k.n) filter (where k.what = 'refused')::bigint as refused,
           sum(k.n) filter (where k.what = 'expired')::bigint as expired, sum(k.n) filter (where k.what = 'canceled')::bigint as canceled,
           sum(k.n) filter (where k.what = 'answered')::bigint as answered, sum(k.n) filter (where k.what = 'ended')::bigint as ended,
           max(k.last_at) filter (where k.what = 'calls') as last_placed_at
    from (select campaign_id, what, n, last_at from outdial.campaign_counts
          union all select campaign_id, what, n, at from outdial.campaign_news) k
    group by k.campaign_id
) j on j.campaign_id = c.campaign_id
left join (
    select p.campaign_id,
           sum(p.calls) filter (where p.at > now() - interval '1 minute') as placed_last_minute,
           sum(p.calls) filter (where p.at > now() - interval '1 hour') as placed_last_hour,
           sum(p.calls) as placed_last_day
    from (select campaign_id, at, calls from outdial.campaign_pace
          union all select campaign_id, at, n from outdial.campaign_news where what = 'calls') p
    where p.at > now() - interval '1 day'
    group by p.campaign_id
) a on a.campaign_id = c.campaign_id;

-- `used_…`: calls let through in the window that ends now, slots of the next second among them: what the limit is
-- held against. Null limit: unlimited. `placed_last_day`, `answer_rate`: of calls submitted in the last 24 hours, give or take half
-- of one.
create view reporting.numbers as
select n.number, n.state, n.state_reason, n.brand, n.region,
       coalesce((select array_agg(p.model_id order by p.model_id) from outdial.pool p where p.number = n.number and p.attached), '{}') as agents,
       coalesce(l.last_ordinal - s.before, d.calls, 0) as used_second, l.per_second as limit_second,
       coalesce(l.last_ordinal - m.before, d.calls, 0) as used_minute, l.per_minute as limit_minute,
       coalesce(l.last_ordinal - h.before, d.calls, 0) as used_hour, l.per_hour as limit_hour,
       coalesce(d.calls, 0) as used_day, l.per_day as limit_day,
       coalesce(l.in_use, 0)::bigint as used_concurrent, l.concurrent as limit_concurrent,
       coalesce(a.ended, 0) + coalesce(o.calls, 0) as placed_last_day,
       round(a.answered::numeric / nullif(a.ended, 0), 4) as answer_rate,
       least(l.last_slot, now()) as last_call_at
from outdial.numbers n
left join outdial.limits l on l.kind = 3 and l.key = n.number
-- A log's slots rise with its ordinals, and little in it is older than a day: each window by where it begins. Written with `+ '0'`,
-- so that nobody reckons from statistics how rare such a slot is, and sorts all of a log to find one.
left join lateral (select l.last_ordinal - g.ordinal + 1 as calls from outdial.grants g
                   where g.thing_no = l.thing_no and g.slot + '0' > now() - interval '1 day' order by g.ordinal limit 1) d on true
left join lateral (select g.ordinal as before from outdial.grants g
                   where g.thing_no = l.thing_no and g.slot + '0' <= now() - interval '1 hour' order by g.ordinal desc limit 1) h on true
left join lateral (select g.ordinal as before from outdial.grants g
                   where g.thing_no = l.thing_no and g.slot + '0' <= now() - interval '1 minute' order by g.ordinal desc limit 1) m on true
left join lateral (select g.ordinal as before from outdial.grants g
                   where g.thing_no = l.thing_no and g.slot + '0' <= now() - interval '1 second' order by g.ordinal desc limit 1) s on true
left join (
    select p.number, sum(p.ended) as ended, sum(p.answered) as answered
    from (select * from outdial.number_pace union all select * from outdial.number_news) p
    where p.hour > now() - interval '24.5 hours'
    group by p.number
) a on a.number = n.number
left join (
    select o.number, count(*) as calls from outdial.live o
    where o.state = 'placed' and o.slot > now() - interval '24.5 hours' group by o.number
) o on o.number = n.number;

-- Job numbers rise with receipt, so the smallest tells the oldest. Those that have a slot already count as queued.
create view reporting.waiting as
select w.campaign_id, w.reason, sum(w.jobs)::bigint as jobs, min(j.received_at) as oldest_received_at, min(w.next_due_at) as next_due_at
from (
    select k.campaign_id, k.reason, q.jobs, q.oldest, k.due_at as next_due_at
    from (select class_no, count(*) as jobs, min(job_no) as oldest from outdial.work where ready_at is null group by class_no) q
    join outdial.classes k on k.class_no = q.class_no
    union all
    select d.campaign_id, d.reason, count(*), min(d.job_no), min(d.due_at)
    from outdial.work w join outdial.jobs d on d.job_no = w.job_no
    where w.ready_at is not null group by d.campaign_id, d.reason
    union all
    select campaign_id, 'queued', count(*), min(job_no), min(slot) from outdial.reservations group by campaign_id
) w
left join outdial.jobs j on j.job_no = w.oldest
group by w.campaign_id, w.reason;

-- As printed by `outdial migrate` where the roles came later: see src/store/roles.rs.
do $$
declare
    v_role text;
begin
    for v_role in select rolname from pg_roles where rolname in ('outdial_reader', 'outdial_reader_pii') loop
        execute format('grant usage on schema reporting to %I', v_role);
        execute format('grant select on all tables in schema reporting to %I', v_role);
    end loop;
end $$;
