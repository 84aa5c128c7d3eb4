-- What workers do to the ledger: each function is one autocommitted statement of theirs. Inside, a first step takes
-- the locks (in the order written in 0001) and the next one, with a snapshot taken after, reads what they guard.
-- How they are planned, and so written, is said in 0008.

-- Of the last hour, of the last day, the last hundred: most that is asked of attempts.
create index attempts_by_time on outdial.attempts (submitted_at);

-- Which account keys worked for which worker: an account is paused when no living worker has one that does.
create table outdial.worker_keys (
    worker_no bigint not null,
    account text not null,
    works boolean not null,
    checked_at timestamptz not null default now(),
    primary key (worker_no, account)
);

create function outdial.wants(p_events text[], p_type text) returns boolean language sql immutable as
$$ select p_events is null or p_type = any (p_events) $$;

-- The first sight of campaigns: they get their defaults.
create function outdial.see_campaigns(p_campaign text[]) returns void language plpgsql as $$
begin
    insert into outdial.limits (kind, key)
    select 2, c from unnest(p_campaign) c order by c
    on conflict (kind, key) do nothing;
    insert into outdial.campaigns (campaign_id, first_received_at)
    select c, clock_timestamp() from unnest(p_campaign) c order by c
    on conflict (campaign_id) do update set first_received_at = excluded.first_received_at
    where campaigns.first_received_at is null;
end $$;

-- Jobs from the broker, in order of receipt. Answers in the same order: new, duplicate or conflict.
-- Running it again with the same jobs changes nothing, so a commit whose outcome got lost is simply repeated.
create function outdial.accept(
    p_id_digest uuid[], p_content_digest uuid[], p_job_id text[], p_campaign text[], p_class int[], p_phone text[],
    p_name text[], p_region text[], p_brand text[], p_model text[], p_from text[], p_content jsonb[], p_metadata jsonb[],
    p_priority smallint[], p_not_before timestamptz[], p_expires timestamptz[], p_received timestamptz[],
    p_traceparent text[], p_events text[]
) returns table (receipt text) language plpgsql as $$
#variable_conflict use_column
declare
    v_fresh bigint[];
    v_no bigint[] := array(select nextval('outdial.job_no') from generate_series(1, cardinality(p_job_id)));
    v_now timestamptz := clock_timestamp();
begin
    with sent as materialized (
        select * from unnest(v_no, p_id_digest, p_content_digest, p_job_id, p_campaign, p_class, p_phone, p_name, p_region,
                             p_brand, p_model, p_from, p_content, p_metadata, p_priority, p_not_before, p_expires, p_received, p_traceparent)
            as s(job_no, id_digest, content_digest, job_id, campaign_id, class_no, phone, name, region,
                 brand, model_id, from_phone_number, content, metadata, priority, not_before, expires_at, received_at, traceparent)
    ), fresh as (
        -- Sorted, so that two batches with keys in common don't wait for each other in a ring.
        insert into outdial.job_keys (id_digest, content_digest, job_no)
        select id_digest, content_digest, job_no from sent order by id_digest
        on conflict (id_digest) do nothing
        returning job_no
    ), judged as (
        select s.*, case when s.expires_at <= v_now then 'expired' else 'waiting' end as state,
               case when s.expires_at <= v_now then 'expired' when s.not_before > v_now then 'not_before' else 'queued' end as reason
        from sent s join fresh f using (job_no)
    ), recorded as (
        insert into outdial.jobs (job_no, job_id, campaign_id, class_no, phone, name, region, brand, model_id, from_phone_number,
                                  content, metadata, priority, not_before, expires_at, received_at, traceparent,
                                  state, reason, due_at, finished_at, event_seq)
        select job_no, job_id, campaign_id, class_no, phone, name, region, brand, model_id, from_phone_number,
               coalesce(content, '{}'), metadata, priority, not_before, expires_at, received_at, traceparent,
               state, reason, case when reason = 'not_before' then not_before end,
               case when state = 'expired' then v_now end, 2
        from judged order by job_no
    ), listed as (
        insert into outdial.work (job_no, class_no, rank, ready_at, expires_at)
        select job_no, class_no, 9 - priority, case when reason = 'not_before' then not_before end, expires_at
        from judged where state = 'waiting' order by job_no
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        select e.type, j.job_id, e.sequence,
               jsonb_strip_nulls(jsonb_build_object('job_id', j.job_id, 'campaign_id', j.campaign_id, 'reason', e.reason,
                                                    'due_at', e.due_at, 'metadata', j.metadata)), j.traceparent
        from judged j cross join lateral (
            values ('job.accepted', 1, null::text, null::timestamptz),
                   (case j.reason when 'expired' then 'job.expired' when 'not_before' then 'job.waiting' end, 2, j.reason,
                    case when j.reason = 'not_before' then j.not_before end)
        ) e(type, sequence, reason, due_at)
        where e.type is not null and outdial.wants(p_events, e.type)
        order by j.job_no, e.sequence
    )
    select array_agg(job_no) into v_fresh from fresh;

    return query
    with sent as materialized (
        select s.*, f is not null as is_new
        from unnest(v_no, p_id_digest, p_content_digest) with ordinality s(job_no, id_digest, content_digest, ord)
        left join unnest(v_fresh) f on f = s.job_no
    )
    select case when s.is_new then 'new' when k.content_digest = s.content_digest then 'duplicate' else 'conflict' end
    from sent s left join outdial.job_keys k on k.id_digest = s.id_digest
                     and k.id_digest = any (array(select id_digest from sent where not is_new))
    where s.is_new or k.id_digest is not null
    order by s.ord;
end $$;

-- A worker has proven that this server's clock went ahead by so much.
create function outdial.note_step(p_witness bigint, p_ahead interval) returns void language sql as $$
    insert into outdial.clock_steps (minute, witness_no, noted_at, ahead)
    values (date_trunc('minute', clock_timestamp()), p_witness, clock_timestamp(), p_ahead)
    on conflict (minute, witness_no) do update set ahead = clock_steps.ahead + excluded.ahead, noted_at = excluded.noted_at
$$;

-- By how much less time has passed since a slot than the clock says: the steps noted since. Of those of one minute several
-- workers tell the same. A slot is made at most a second ahead, so one up to a second after the note may be older.
create function outdial.stepped(p_slot timestamptz) returns interval language sql stable as $$
    select coalesce(sum(m.ahead), interval '0')
    from (select max(c.ahead) ahead from outdial.clock_steps c where c.noted_at + interval '1 second' > p_slot group by c.minute) m
$$;

-- Slots for jobs, in the order given (best first), each with the number chosen for it.
--
-- A slot is at most p_horizon after p_lead from now; a job that can't have one gets the reason and, where it is known,
-- when there is room. Within one statement at most n grants are made to a thing with a window of n calls: so each
-- slot depends only on grants that stand in the log already, and the batch is computed as a whole. Jobs are ranked
-- within their number, those that have a slot there within their campaign, then within their account, each time in order
-- of the slot so far; so the slots of every log rise with its ordinals, and the r-th of a log is never earlier than the
-- windows allow its r-th to be.
create function outdial.reserve(
    p_worker bigint, p_version bigint, p_lead interval, p_horizon interval, p_slack interval,
    p_job bigint[], p_campaign text[], p_account text[], p_number text[],
    p_sticky_model text[], p_sticky_brand text[], p_sticky_was text[],
    p_recipient text[] default '{}', p_cap_place int[] default '{}', p_cap_calls int[] default '{}', p_cap_seconds int[] default '{}'
) returns table (
    job_no bigint, slot timestamptz, refused text, next_at timestamptz,
    job_id text, phone text, name text, content jsonb, traceparent text, waited text, received_at timestamptz,
    said timestamptz
) language plpgsql as $$
#variable_conflict use_column
declare
    v_now timestamptz;
    -- Of the batch: for records in one range no other range's are looked at.
    v_lo bigint := (select min(j) from unnest(p_job) j);
    v_hi bigint := (select max(j) from unnest(p_job) j);
    v_furthest timestamptz;
    v_from timestamptz;
    v_until timestamptz;
    v_things int[];
    v_probe text[];
    v_sticky boolean := exists (select 1 from unnest(p_sticky_model) m where m is not null);
    v_recipients boolean := exists (select 1 from unnest(p_recipient) r where r is not null);
    v_callees text[];
    v_stepped boolean;
    -- The windows' lengths. What a slot keeps its distance from is read by its ordinal, one key a window.
    v_second interval := interval '1 second' + p_slack;
    v_minute interval := interval '1 minute' + p_slack;
    v_hour interval := interval '1 hour' + p_slack;
    v_day interval := interval '1 day' + p_slack;
    v_none interval := interval '0';
begin
    if not exists (select 1 from outdial.control c where c.routing_version = p_version and not c.kill_switch)
       or not exists (select 1 from outdial.workers w
                      where w.worker_no = p_worker and w.ended_at is null and w.lease_until > clock_timestamp()) then
        return query select j, null::timestamptz, 'stale', null::timestamptz, null::text, null::text, null::text,
                            null::jsonb, null::text, null::text, null::timestamptz, clock_timestamp() from unnest(p_job) j;
        return;
    end if;

    v_things := array(
        select l.thing_no from outdial.limits l where l.kind = 1 and l.key = any (p_account)
        union all select l.thing_no from outdial.limits l where l.kind = 2 and l.key = any (p_campaign)
        union all select l.thing_no from outdial.limits l where l.kind = 3 and l.key = any (p_number));
    perform 1 from outdial.limits l where l.thing_no = any (v_things) order by l.thing_no for update;

    if v_recipients or v_sticky then
        v_callees := array(select j.phone from outdial.jobs j where j.job_no = any (p_job) and j.job_no between v_lo and v_hi);
    end if;
    if v_recipients then
        perform outdial.lock_recipients(array_agg(substr(j.phone, 2)::bigint), array_agg(a.recipient), true)
        from unnest(p_job, p_recipient) a(job, recipient) join outdial.jobs j on j.job_no = a.job and j.job_no = any (p_job) and j.job_no between v_lo and v_hi
        where a.recipient is not null;
    end if;

    v_now := clock_timestamp();
    v_stepped := exists (select 1 from outdial.clock_steps);
    -- Whatever stands in a log for a time up to a second after a step is from before it.
    v_from := greatest(v_now + p_lead, (select max(c.noted_at) + interval '1 second' from outdial.clock_steps c));
    v_furthest := v_now + interval '2 seconds';
    v_until := v_now + interval '90 days';

    if v_sticky then
        -- A number that the decision found no longer eligible gives way; otherwise who came first keeps it.
        delete from outdial.sticky s
        using unnest(p_sticky_model, p_sticky_brand, p_sticky_was, p_number, p_job) a(model, brand, was, number, job)
        join outdial.jobs j on j.job_no = a.job and j.job_no = any (p_job) and j.job_no between v_lo and v_hi
        where s.phone = any (v_callees) and s.model_id = a.model and s.brand = a.brand and s.phone = j.phone
          and ((s.number = a.was and a.was <> a.number) or s.until < v_now);
        insert into outdial.sticky (model_id, brand, phone, number, until, job_no)
        select distinct on (a.model, a.brand, j.phone) a.model, a.brand, j.phone, a.number, v_until, a.job
        from unnest(p_sticky_model, p_sticky_brand, p_number, p_job) with ordinality a(model, brand, number, job, ord)
        join outdial.jobs j on j.job_no = a.job and j.job_no = any (p_job) and j.job_no between v_lo and v_hi
        where a.model is not null and a.number is not null
        order by a.model, a.brand, j.phone, a.ord
        on conflict (model_id, brand, phone) do nothing;
    end if;

    -- The breaker's time is over: the first job of the account that can have a slot is let through, and no other while
    -- nobody knows what becomes of it.
    v_probe := array(select a.name from outdial.accounts a
                     where a.name = any (p_account) and a.unknown_in_a_row >= 5 and a.breaker_until <= v_now
                       and not exists (select 1 from outdial.reservations r where r.account = a.name)
                       and not exists (select 1 from outdial.live l where l.account = a.name and l.state = 'submitting'));

    return query
    with taken as materialized (
        select w.* from outdial.work w
        -- Written so that the index of what is ready isn't read for it.
        where w.job_no = any (p_job) and coalesce(w.ready_at, '-infinity') = '-infinity' order by w.job_no for update skip locked
    ), callees as materialized (
        -- Of several jobs for one callee the first is looked at.
        select a.ord, k.phone, k.scope, k.slots, row_number() over (partition by k.phone, k.scope order by a.ord) as nth
        from unnest(p_job, p_recipient) with ordinality a(job, recipient, ord)
        join taken t on t.job_no = a.job
        join outdial.jobs j on j.job_no = a.job and j.job_no = any (p_job) and j.job_no between v_lo and v_hi
        join outdial.recipients k on k.phone = substr(j.phone, 2)::bigint and k.scope = a.recipient
             and k.phone = any (array(select substr(c, 2)::bigint from unnest(v_callees) c))
        where v_recipients
    ), capped as (
        -- When the callee may be called again, as far as caps say.
        select e.ord, max(s.slot + make_interval(secs => c.seconds) + case when v_stepped then outdial.stepped(s.slot) else interval '0' end)
                      + p_slack + outdial.recipient_margin() as again
        from callees e join unnest(p_cap_place, p_cap_calls, p_cap_seconds) c(place, calls, seconds) on c.place = e.ord
        cross join lateral (select e.slots[cardinality(e.slots) + 1 - c.calls] slot) s
        group by e.ord
    ), called as materialized (
        select e.ord, e.phone, e.scope recipient, e.nth, c.again,
               -- Of a call that may still come to nothing.
               e.slots[cardinality(e.slots)] > v_now - interval '10 seconds' as unsure
        from callees e left join capped c using (ord)
    ), cand as materialized (
        select a.ord, a.job, t.class_no, t.rank, t.expires_at, a.campaign, a.account, a.number,
               n.thing_no n_no, n.last_ordinal n_last, n.last_slot n_slot0, n.concurrent - n.in_use n_room,
               n.per_second n1, n.per_minute n2, n.per_hour n3, n.per_day n4,
               c.thing_no c_no, c.last_ordinal c_last, c.last_slot c_slot0, c.concurrent - c.in_use c_room,
               c.per_second c1, c.per_minute c2, c.per_hour c3, c.per_day c4,
               x.thing_no x_no, x.last_ordinal x_last, x.last_slot x_slot0, x.concurrent - x.in_use x_room,
               x.per_second x1, x.per_minute x2, x.per_hour x3, x.per_day x4,
               case when c.thing_no is null or x.thing_no is null or acc.name is null
                         or (a.number is not null and n.thing_no is null) then 'no_limits'
                    when t.expires_at <= v_now then 'expired'
                    when acc.state <> 'active' then 'account_paused'
                    when acc.backoff_until > v_now then 'account_limit'
                    when acc.unknown_in_a_row >= 5 and acc.name <> all (v_probe) then 'provider_unavailable'
                    when a.sticky_model is not null and s.number is distinct from a.number then 'sticky'
                    when k.nth > 1 or k.again > v_now then case when k.unsure then 'recipient_busy' else 'recipient_limit' end
               end as barred,
               k.phone, k.recipient,
               case when acc.backoff_until > v_now then acc.backoff_until
                    when acc.unknown_in_a_row >= 5 and acc.name <> all (v_probe) then acc.breaker_until
                    when k.again > v_now then k.again end as barred_until
        from unnest(p_job, p_campaign, p_account, p_number, p_sticky_model, p_sticky_brand) with ordinality
             a(job, campaign, account, number, sticky_model, sticky_brand, ord)
        join taken t on t.job_no = a.job
        left join outdial.limits n on n.kind = 3 and n.key = a.number and n.key = any (p_number)
        left join outdial.limits c on c.kind = 2 and c.key = a.campaign and c.key = any (p_campaign)
        left join outdial.limits x on x.kind = 1 and x.key = a.account and x.key = any (p_account)
        left join outdial.accounts acc on acc.name = a.account and acc.name = any (p_account)
        left join outdial.jobs sj on a.sticky_model is not null and sj.job_no = a.job and sj.job_no = any (case when v_sticky then p_job end)
             and sj.job_no between v_lo and v_hi
        left join outdial.sticky s on s.model_id = a.sticky_model and s.brand = a.sticky_brand and s.phone = sj.phone
             and s.phone = any (v_callees)
        left join called k on k.ord = a.ord
    ), by_number as materialized (
        select r.*, case when r.n_no is null then v_from else greatest(v_from, r.n_slot0,
                   (select g.slot + v_second + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.n_no and g.ordinal = r.n_last + r.place - r.n1),
                   (select g.slot + v_minute + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.n_no and g.ordinal = r.n_last + r.place - r.n2),
                   (select g.slot + v_hour + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.n_no and g.ordinal = r.n_last + r.place - r.n3),
                   (select g.slot + v_day + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.n_no and g.ordinal = r.n_last + r.place - r.n4)) end as at,
               r.n_no is not null and (r.place > least(r.n1, r.n2, r.n3, r.n4) or r.place > r.n_room) as over
        from (select cand.*, row_number() over (partition by n_no order by ord) as place from cand where barred is null) r
    ), by_campaign as materialized (
        select r.ord, r.place, greatest(r.at, r.c_slot0,
                   (select g.slot + v_second + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.c_no and g.ordinal = r.c_last + r.place - r.c1),
                   (select g.slot + v_minute + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.c_no and g.ordinal = r.c_last + r.place - r.c2),
                   (select g.slot + v_hour + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.c_no and g.ordinal = r.c_last + r.place - r.c3),
                   (select g.slot + v_day + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.c_no and g.ordinal = r.c_last + r.place - r.c4)) as at,
               coalesce(r.place > least(r.c1, r.c2, r.c3, r.c4), false) or coalesce(r.place > r.c_room, false) as over,
               greatest(r.n_slot0, r.c_slot0) as floor,
               r.x_no, r.x_last, r.x_slot0, r.x_room, r.x1, r.x2, r.x3, r.x4
        from (select b.ord, b.at, b.n_slot0, b.c_no, b.c_last, b.c_slot0, b.c_room, b.c1, b.c2, b.c3, b.c4,
                     b.x_no, b.x_last, b.x_slot0, b.x_room, b.x1, b.x2, b.x3, b.x4,
                     row_number() over (partition by c_no order by at, ord) as place
              from by_number b
              -- A slot is near also where only the log's order puts it off: another worker looks further ahead. Not further than a
              -- slot can be, which a log from before a step of the clock back is.
              where not coalesce(over, false) and (at <= v_now + p_lead + p_horizon or (at <= n_slot0 and at <= v_furthest))) r
    ), by_account as materialized (
        select r.ord, greatest(r.at, r.x_slot0,
                   (select g.slot + v_second + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.x_no and g.ordinal = r.x_last + r.place - r.x1),
                   (select g.slot + v_minute + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.x_no and g.ordinal = r.x_last + r.place - r.x2),
                   (select g.slot + v_hour + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.x_no and g.ordinal = r.x_last + r.place - r.x3),
                   (select g.slot + v_day + case when v_stepped then outdial.stepped(g.slot) else v_none end
                    from outdial.grants g where g.thing_no = r.x_no and g.ordinal = r.x_last + r.place - r.x4)) as at,
               coalesce(r.place > least(r.x1, r.x2, r.x3, r.x4), false) or coalesce(r.place > r.x_room, false) as over,
               greatest(r.floor, r.x_slot0) as floor
        from (select b.*, row_number() over (partition by x_no order by at, ord) as place2
              from by_campaign b where not over and (at <= v_now + p_lead + p_horizon or (at <= floor and at <= v_furthest))) q
        cross join lateral (select q.ord, q.at, q.floor, q.x_no, q.x_last, q.x_slot0, q.x_room, q.x1, q.x2, q.x3, q.x4, q.place2 as place) r
    ), granted as materialized (
        select * from (
            select c.*, b.at, row_number() over (partition by c.account order by b.at, c.ord) as place
            from by_account b join cand c using (ord)
            where not b.over and (b.at <= v_now + p_lead + p_horizon or (b.at <= b.floor and b.at <= v_furthest))) c
        where c.place = 1 or c.account <> all (v_probe)
    ), gone as (
        delete from outdial.work w where w.job_no = any (array(select job from granted))
    ), reserved as (
        insert into outdial.reservations (job_no, worker_no, class_no, rank, expires_at, campaign_id, account, number,
                                          number_thing, campaign_thing, account_thing, slot, routing_version, recipient)
        select job, p_worker, class_no, rank, expires_at, campaign, account, number, n_no, c_no, x_no, at, p_version, recipient
        from granted order by job
    ), kept as (
        update outdial.recipients k set slots = array(
            select s from (select s from unnest(k.slots || g.at) s where s > v_now - interval '31 days' order by s desc limit 100) l order by s)
        from granted g where k.phone = g.phone and k.scope = g.recipient and k.phone = any (array(select phone from granted))
    ), entries as materialized (
        select n_no thing_no, n_last + row_number() over (partition by n_no order by at, ord) ordinal, at, true as logged
        from granted where n_no is not null
        union all
        select c_no, c_last + row_number() over (partition by c_no order by at, ord), at, coalesce(c1, c2, c3, c4) is not null from granted
        union all
        select x_no, x_last + row_number() over (partition by x_no order by at, ord), at, coalesce(x1, x2, x3, x4) is not null from granted
    ), logged as (
        insert into outdial.grants (thing_no, ordinal, slot) select thing_no, ordinal, at from entries where logged
    ), heads as (
        update outdial.limits l set in_use = l.in_use + e.n, last_ordinal = l.last_ordinal + e.n_logged,
                                    last_slot = greatest(l.last_slot, e.last_slot)
        from (select thing_no, count(*) n, count(*) filter (where logged) n_logged, max(at) filter (where logged) last_slot
              from entries group by thing_no) e
        where l.thing_no = e.thing_no and l.thing_no = any (array(select thing_no from entries))
    )
    select c.job, g.at,
           case when g.job is not null then null
                when c.barred is not null then c.barred
                when bc.ord is null then 'number_limit'
                when ba.ord is null then 'campaign_limit'
                when c.account = any (v_probe) then 'provider_unavailable'
                else 'account_limit' end,
           case when g.job is not null then null
                when c.barred is not null then c.barred_until
                when bc.ord is null then case when not coalesce(bn.over, false) then bn.at end
                when ba.ord is null then case when not bc.over then bc.at end
                else case when not ba.over then ba.at end end,
           j.job_id, j.phone, j.name, j.content, j.traceparent, j.reason, j.received_at, v_now
    from cand c
    left join by_number bn using (ord)
    left join by_campaign bc using (ord)
    left join by_account ba using (ord)
    left join granted g on g.job = c.job
    left join outdial.jobs j on j.job_no = g.job and j.job_no = any (p_job) and j.job_no between v_lo and v_hi
    order by c.ord;

    if v_sticky then
        -- Claims of jobs that got no slot are given back, so that nobody sticks to a full number while another is free.
        delete from outdial.sticky s
        using unnest(p_sticky_model, p_sticky_brand, p_job) a(model, brand, job)
        join outdial.jobs j on j.job_no = a.job and j.job_no = any (p_job) and j.job_no between v_lo and v_hi
        where s.phone = any (v_callees) and s.model_id = a.model and s.brand = a.brand and s.phone = j.phone and s.job_no = a.job and s.until = v_until
          and not exists (select 1 from outdial.reservations r where r.job_no = a.job and r.job_no = any (p_job));
        update outdial.sticky s set until = v_until
        from unnest(p_sticky_model, p_sticky_brand, p_number, p_job) a(model, brand, number, job)
        join outdial.reservations r on r.job_no = a.job and r.job_no = any (p_job) and r.worker_no + 0 = p_worker
        join outdial.jobs j on j.job_no = a.job and j.job_no = any (p_job) and j.job_no between v_lo and v_hi
        where s.phone = any (v_callees) and s.model_id = a.model and s.brand = a.brand and s.phone = j.phone and s.number = a.number;
    end if;
end $$;

-- Mends the logs. A grant without a new slot is taken out, as if it had never been made: only for calls of which nothing
-- was sent. One with a new slot is moved there: for calls that arrived, or may have arrived, later than their slot said.
-- Under the locks of the things.
create function outdial.mend_grants(p_thing int[], p_slot timestamptz[], p_new timestamptz[]) returns void language plpgsql as $$
declare
    r record;
    v_from bigint;
    v_keep timestamptz[];
begin
    for r in select thing, array_agg(slot order by slot) slots, array_agg(new order by new) filter (where new is not null) news
             from unnest(p_thing, p_slot, p_new) d(thing, slot, new) where thing is not null group by thing order by thing loop
        -- The first that is no earlier, among the last ten thousand: logs are in order and without gaps.
        select l.last_ordinal + 1 - outdial.granted_since(r.thing, l.last_ordinal, 10000, r.slots[1] - interval '1 microsecond')
        into v_from from outdial.limits l where l.thing_no = r.thing;
        -- Not logged: the thing has no windows, or it was long ago.
        continue when not exists (select 1 from outdial.grants g where g.thing_no = r.thing and g.ordinal = v_from);
        v_keep := array(
            select s from (
                select t.slot s from (select slot, row_number() over (partition by slot) as nth
                                      from outdial.grants where thing_no = r.thing and ordinal >= v_from) t
                where t.nth > (select count(*) from unnest(r.slots) x where x = t.slot)
                union all
                select n from unnest(r.news) n) u
            order by s);
        delete from outdial.grants where thing_no = r.thing and ordinal >= v_from;
        insert into outdial.grants (thing_no, ordinal, slot)
        select r.thing, v_from + k.ord - 1, k.slot from unnest(v_keep) with ordinality k(slot, ord);
        update outdial.limits set last_ordinal = v_from - 1 + cardinality(v_keep),
               mended_at = case when r.news is null then mended_at else clock_timestamp() end,
               last_slot = (select slot from outdial.grants where thing_no = r.thing order by ordinal desc limit 1)
        where thing_no = r.thing;
    end loop;
end $$;

-- Hands reservations back: the jobs wait again, their grants are dropped. p_worker null: whoever holds them.
create function outdial.release(p_worker bigint, p_job bigint[]) returns int language plpgsql as $$
declare
    v_job bigint[];
    v_worker bigint[];
    v_made timestamptz[];
    v_things int[];
    v_phone bigint[];
    v_scope text[];
    v_slot timestamptz[];
    v_drop_thing int[];
    v_drop_slot timestamptz[];
    v_n int;
begin
    select array_agg(r.job_no), array_agg(r.worker_no), array_agg(r.slot),
           array_agg(r.number_thing) || array_agg(r.campaign_thing) || array_agg(r.account_thing),
           array_agg(substr(j.phone, 2)::bigint) filter (where r.recipient is not null),
           array_agg(r.recipient) filter (where r.recipient is not null)
    into v_job, v_worker, v_made, v_things, v_phone, v_scope
    from outdial.reservations r left join outdial.jobs j on r.recipient is not null and j.job_no = r.job_no
    where r.job_no = any (p_job) and (p_worker is null or r.worker_no = p_worker);
    if v_job is null then return 0; end if;
    perform 1 from outdial.limits l where l.thing_no = any (v_things) order by l.thing_no for update;
    if v_phone is not null then perform outdial.lock_recipients(v_phone, v_scope, false); end if;

    with gone as (
        -- Those that were meant, and no others: while the locks were waited for, a job may have come to wait again and have got
        -- another slot, of a number whose log isn't locked here.
        delete from outdial.reservations r
        using unnest(v_job, v_worker, v_made) m(job, worker, made)
        where r.job_no = m.job and r.worker_no = m.worker and r.slot = m.made and r.job_no = any (v_job)
          and (r.number_thing is null or r.number_thing = any (v_things))
          and r.campaign_thing = any (v_things) and r.account_thing = any (v_things)
        returning r.*
    ), called as (
        select substr(j.phone, 2)::bigint phone, g.recipient, g.slot from gone g join outdial.jobs j using (job_no) where g.recipient is not null
    ), back as (
        insert into outdial.work (job_no, class_no, rank, expires_at)
        select job_no, class_no, rank, expires_at from gone order by job_no
    ), things as (
        select v.t thing_no, gone.slot from gone
        cross join lateral (values (number_thing), (campaign_thing), (account_thing)) v(t) where v.t is not null
    ), freed as (
        update outdial.limits l set in_use = l.in_use - f.n
        from (select thing_no, count(*) n from things group by thing_no) f where l.thing_no = f.thing_no
    )
    select array_agg(thing_no), array_agg(slot), (select count(*) from gone), (select array_agg(phone) from called),
           (select array_agg(recipient) from called), (select array_agg(slot) from called)
    into v_drop_thing, v_drop_slot, v_n, v_phone, v_scope, v_slot from things;
    -- Others were faster: authorised, canceled or taken over meanwhile.
    if v_drop_thing is null then return 0; end if;
    if v_phone is not null then perform outdial.mend_slots(v_phone, v_scope, v_slot, array_fill(null::timestamptz, array[cardinality(v_slot)])); end if;
    perform outdial.mend_grants(v_drop_thing, v_drop_slot, array_fill(null::timestamptz, array[cardinality(v_drop_slot)]));
    return v_n;
end $$;

-- The last word before a call is sent: what may have changed since the reservation is looked at again, and the attempt
-- is committed as `submitting`. A verdict says why not; the reservation then still stands and is to be released.
-- A leave is for the slot it was asked for: one that is heard late, when its job has been given back and reserved again, takes
-- nothing of the new slot.
create function outdial.authorise(
    p_worker bigint, p_slack interval, p_job bigint[], p_slot timestamptz[], p_attempt uuid[], p_model text[], p_brand text[],
    p_region text[], p_rule text[], p_decision jsonb[], p_window_until timestamptz[], p_dry_run boolean
) returns table (job_no bigint, attempt_no smallint, verdict text) language plpgsql as $$
#variable_conflict use_column
declare
    v_now timestamptz;
    v_lo bigint := (select min(j) from unnest(p_job) j);
    v_hi bigint := (select max(j) from unnest(p_job) j);
    v_stop text;
    v_version bigint;
    v_prefixes boolean;
begin
    perform outdial.go_lock();
    v_now := clock_timestamp();
    select case when c.kill_switch then 'kill_switch'
                when not exists (select 1 from outdial.workers w where w.worker_no = p_worker and w.ended_at is null and w.lease_until > v_now)
                    then 'fenced' end, c.routing_version
    into v_stop, v_version from outdial.control c;
    v_prefixes := exists (select 1 from outdial.suppressed_prefixes);

    return query
    with held as materialized (
        select r.* from outdial.reservations r
        -- Written so that not all that the worker holds is read for it.
        where r.job_no = any (p_job) and r.worker_no + 0 = p_worker order by r.job_no for update
    ), mended as materialized (
        select l.*, l.last_ordinal - outdial.granted_since(l.thing_no, l.last_ordinal, 1000000,
                                                           (select min(h.slot) from held h) - interval '1 microsecond') as before
        from outdial.limits l
        where l.thing_no = any (array(select unnest(array[number_thing, campaign_thing, account_thing]) from held))
          and l.mended_at > v_now - interval '5 seconds'
    ), recent as materialized (
        -- The end of those logs, from the first of these slots on; one beyond the bound counts as moved, and its job gets another.
        select m.thing_no, g.slot, max(g.ordinal) as ordinal from mended m
        cross join lateral (select g.ordinal, g.slot from outdial.grants g
                            where g.thing_no = m.thing_no and g.ordinal > m.before order by g.ordinal limit 10000) g
        group by m.thing_no, g.slot
    ), granted as materialized (
        -- A slot that doesn't stand there any more was put to another time when the clock had gone back: nothing is kept free for it.
        select h.job_no, h.slot, l.*, r.ordinal as mine
        from held h cross join lateral unnest(array[h.number_thing, h.campaign_thing, h.account_thing]) t(thing)
        join mended l on l.thing_no = t.thing
        left join recent r on r.thing_no = l.thing_no and r.slot = h.slot
    ), crowded as materialized (
        -- Slots made before a log was mended may be too early now.
        select distinct m.job_no from granted m
        where (m.mine is null and coalesce(m.per_second, m.per_minute, m.per_hour, m.per_day) is not null)
           or greatest(
                  (select g.slot + interval '1 second' + outdial.stepped(g.slot)
                   from outdial.grants g where g.thing_no = m.thing_no and g.ordinal = m.mine - m.per_second),
                  (select g.slot + interval '1 minute' + outdial.stepped(g.slot)
                   from outdial.grants g where g.thing_no = m.thing_no and g.ordinal = m.mine - m.per_minute),
                  (select g.slot + interval '1 hour' + outdial.stepped(g.slot)
                   from outdial.grants g where g.thing_no = m.thing_no and g.ordinal = m.mine - m.per_hour),
                  (select g.slot + interval '1 day' + outdial.stepped(g.slot)
                   from outdial.grants g where g.thing_no = m.thing_no and g.ordinal = m.mine - m.per_day))
              + p_slack > m.slot
    ), judged as materialized (
        select a.job, a.attempt, a.model, a.brand, a.region, a.rule,
               -- What it waited for last.
               case when j.reason is null then a.decision else a.decision || jsonb_build_object('waited', j.reason) end as decision,
               h.class_no, h.rank, h.expires_at, h.campaign_id, h.account, h.number, h.number_thing, h.campaign_thing,
               h.account_thing, h.slot, h.routing_version, h.recipient,
               case when h.job_no is null then 'gone'
                    when v_stop is not null then v_stop
                    when h.routing_version <> v_version then 'stale'
                    when c.state = 'paused' then 'campaign_paused'
                    when c.state = 'canceled' then 'canceled'
                    when acc.state <> 'active' then 'account_paused'
                    when ag.state = 'unavailable' then 'agent_unavailable'
                    when h.number is not null and not coalesce(p.attached, false) then 'no_eligible_number'
                    when h.number is not null and coalesce(n.state, 'active') not in ('active', 'warming') then 'no_eligible_number'
                    when h.expires_at <= v_now then 'expired'
                    when exists (select 1 from outdial.suppressions s where s.phone = substr(j.phone, 2)::bigint
                                 and s.scope in ('', 'campaign:' || h.campaign_id, 'brand:' || a.brand))
                         or v_prefixes and exists (select 1 from outdial.suppressed_prefixes s where s.prefix = any (outdial.beginnings(j.phone))
                                                   and s.scope in ('', 'campaign:' || h.campaign_id, 'brand:' || a.brand)) then 'suppressed'
                    when a.window_until <= h.slot then 'outside_window'
                    when v_now > h.slot + p_slack or h.job_no in (select c.job_no from crowded c) then 'late'
               end as verdict
        from unnest(p_job, p_slot, p_attempt, p_model, p_brand, p_region, p_rule, p_decision, p_window_until)
             a(job, asked, attempt, model, brand, region, rule, decision, window_until)
        left join held h on h.job_no = a.job and h.slot = a.asked
        left join outdial.jobs j on j.job_no = h.job_no and j.job_no = any (p_job) and j.job_no between v_lo and v_hi
        left join outdial.campaigns c on c.campaign_id = h.campaign_id and c.campaign_id = any (array(select campaign_id from held))
        left join outdial.accounts acc on acc.name = h.account and acc.name = any (array(select account from held))
        left join outdial.agents ag on ag.model_id = a.model and ag.model_id = any (p_model)
        left join outdial.pool p on p.model_id = a.model and p.number = h.number
             and p.model_id = any (p_model) and p.number = any (array(select number from held))
        left join outdial.numbers n on n.number = h.number and n.number = any (array(select number from held))
    ), dialing as (
        update outdial.jobs j set state = 'dialing', reason = null, due_at = null, attempts = j.attempts + 1
        where j.job_no = any (array(select job from judged where verdict is null)) and j.job_no between v_lo and v_hi
        returning j.job_no, j.attempts, j.phone
    ), gone as (
        delete from outdial.reservations r where r.job_no = any (array(select job from judged where verdict is null))
    ), tried as (
        insert into outdial.attempts (job_no, attempt_no, attempt_id, worker_no, campaign_id, account, model_id, brand, phone,
                                      region, from_phone_number, routing_version, rule, decision, state, dry_run, slot, submitted_at)
        select a.job, d.attempts, a.attempt, p_worker, a.campaign_id, a.account, a.model, a.brand, d.phone,
               a.region, a.number, a.routing_version, a.rule, a.decision, 'submitting', p_dry_run, a.slot, v_now
        from judged a join dialing d on d.job_no = a.job order by a.job
    ), living as (
        insert into outdial.live (attempt_id, job_no, attempt_no, worker_no, state, account, model_id, class_no, rank, expires_at,
                                  campaign_id, number, number_thing, campaign_thing, account_thing, slot, since, recipient)
        select a.attempt, a.job, d.attempts, p_worker, 'submitting', a.account, a.model, a.class_no, a.rank, a.expires_at,
               a.campaign_id, a.number, a.number_thing, a.campaign_thing, a.account_thing, a.slot, v_now, a.recipient
        from judged a join dialing d on d.job_no = a.job order by a.job
    )
    select a.job, d.attempts, a.verdict from judged a left join dialing d on d.job_no = a.job;
end $$;

-- Slots, and leave at once for those that begin within p_soon after p_lead: it would be asked for as soon as the answer is
-- heard. Parameters and answer are those of `reserve` and `authorise`; of a job that leave was asked for, either attempt_no or
-- verdict is set, and where it is the verdict its reservation still stands.
-- p_asking: the worker's how-manieth; `call_off` sees to it that one whose answer got lost comes to nothing more.
create function outdial.dispatch(
    p_worker bigint, p_asking bigint, p_version bigint, p_lead interval, p_horizon interval, p_slack interval, p_soon interval,
    p_job bigint[], p_campaign text[], p_account text[], p_number text[],
    p_sticky_model text[], p_sticky_brand text[], p_sticky_was text[],
    p_recipient text[], p_cap_place int[], p_cap_calls int[], p_cap_seconds int[],
    p_attempt uuid[], p_model text[], p_brand text[], p_region text[], p_rule text[], p_decision jsonb[], p_window_until timestamptz[],
    p_dry_run boolean
) returns table (
    job_no bigint, slot timestamptz, refused text, next_at timestamptz,
    job_id text, phone text, name text, content jsonb, traceparent text, waited text, received_at timestamptz,
    said timestamptz, attempt_no smallint, verdict text
) language plpgsql as $$
#variable_conflict use_column
begin
    -- Before the limits' locks, as everywhere.
    perform outdial.go_lock();
    perform 1 from outdial.workers w where w.worker_no = p_worker and w.called_off < p_asking for key share;
    if not found then
        return query select j, null::timestamptz, 'stale', null::timestamptz, null::text, null::text, null::text, null::jsonb, null::text,
                            null::text, null::timestamptz, clock_timestamp(), null::smallint, null::text from unnest(p_job) j;
        return;
    end if;
    return query
    with got as materialized (
        select * from outdial.reserve(p_worker, p_version, p_lead, p_horizon, p_slack, p_job, p_campaign, p_account, p_number,
                                      p_sticky_model, p_sticky_brand, p_sticky_was, p_recipient, p_cap_place, p_cap_calls, p_cap_seconds)
    ), soon as materialized (
        select array_agg(g.job_no) job, array_agg(g.slot) slot, array_agg(a.attempt) attempt, array_agg(a.model) model,
               array_agg(a.brand) brand, array_agg(a.region) region, array_agg(a.rule) rule, array_agg(a.decision) decision,
               array_agg(a.window_until) window_until
        from unnest(p_job, p_attempt, p_model, p_brand, p_region, p_rule, p_decision, p_window_until)
             a(job, attempt, model, brand, region, rule, decision, window_until)
        join got g on g.job_no = a.job
        where g.slot <= g.said + p_lead + p_soon
    ), left_for as materialized (
        select v.* from soon cross join lateral outdial.authorise(
            p_worker, p_slack, soon.job, soon.slot, soon.attempt, soon.model, soon.brand, soon.region, soon.rule, soon.decision,
            soon.window_until, p_dry_run) v
        where soon.job is not null
    )
    select g.*, l.attempt_no, l.verdict from got g left join left_for l on l.job_no = g.job_no;
end $$;

-- Waits for a worker's askings up to this one that are still under way, and lets none that comes later do anything.
create function outdial.call_off(p_worker bigint, p_asking bigint) returns void language plpgsql as $$
begin
    perform 1 from outdial.workers w where w.worker_no = p_worker for update;
    update outdial.workers w set called_off = greatest(w.called_off, p_asking) where w.worker_no = p_worker;
end $$;

-- What became of POSTs. Outcomes: placed; unknown; refused (the provider will not place it); retry (known not placed,
-- the job waits until p_ready); unsent (authorised, but no byte was sent: the attempt is taken back).
-- Signals, of the account: ok (it answered), busy (429), unknown or unreachable, null (says nothing).
-- p_arrived: the call may have arrived as late as then, which is later than its slot and the slack allow; its grants are
-- moved, so that the next calls keep their distance from when it was really made.
-- Answers the campaigns that five refusals in a row have reached. Running it again changes nothing.
create function outdial.settle(
    p_attempt uuid[], p_outcome text[], p_call_id text[], p_http_status smallint[], p_error text[], p_reason text[],
    p_ready timestamptz[], p_signal text[], p_backoff_ms int[], p_arrived timestamptz[], p_slack interval, p_events text[],
    p_answer text[] default null
) returns table (campaign_id text, refused_in_a_row int) language plpgsql as $$
#variable_conflict use_column
declare
    v_now timestamptz;
    v_lo bigint;
    v_hi bigint;
    v_things int[];
    v_mend_thing int[];
    v_mend_slot timestamptz[];
    v_mend_new timestamptz[];
    v_mine uuid[];
    v_account text[];
    v_campaign text[];
    v_phone bigint[];
    v_scope text[];
    v_slot timestamptz[];
    v_moved timestamptz[];
begin
    select array_agg(distinct v.t), min(l.job_no), max(l.job_no) into v_things, v_lo, v_hi
    from unnest(p_attempt, p_outcome, p_arrived) o(attempt, outcome, arrived)
    join outdial.live l on l.attempt_id = o.attempt and l.attempt_id = any (p_attempt)
    -- An unknown one may be in review by the time that its row is locked.
    left join lateral (values (l.number_thing), (l.campaign_thing), (l.account_thing)) v(t)
         on (o.outcome in ('retry', 'refused', 'unsent') or o.arrived is not null or l.state in ('unknown', 'review')) and v.t is not null;
    if v_things is not null then
        perform 1 from outdial.limits l where l.thing_no = any (v_things) order by l.thing_no for update;
    end if;
    select array_agg(substr(j.phone, 2)::bigint), array_agg(l.recipient) into v_phone, v_scope
    from unnest(p_attempt, p_outcome, p_arrived) o(attempt, outcome, arrived)
    join outdial.live l on l.attempt_id = o.attempt and l.attempt_id = any (p_attempt)
    join outdial.jobs j on j.job_no = l.job_no and j.job_no = any (array(
         select l.job_no from outdial.live l where l.attempt_id = any (p_attempt) and l.recipient is not null)) and j.job_no between v_lo and v_hi
    where (o.outcome in ('unsent', 'retry', 'refused') or o.arrived is not null) and l.recipient is not null;
    if v_phone is not null then perform outdial.lock_recipients(v_phone, v_scope, false); end if;
    v_now := clock_timestamp();

    with said as (
        select * from unnest(p_attempt, p_outcome, p_call_id, p_http_status, p_error, p_reason, p_ready, p_arrived, p_answer)
            o(attempt, outcome, call_id, http_status, error, reason, ready, arrived, answer)
    ), mine as materialized (
        select l.*, s.outcome, s.call_id said_call_id, s.http_status, s.error, s.reason, s.ready, s.arrived, s.answer,
               -- Another attempt was learned of meanwhile to have been placed: the job isn't dialed again.
               case when l.attempt_no > 1 and s.outcome in ('retry', 'refused', 'unsent') then (
                   select case when bool_or(o.state = 'placed') then 'placed' else 'done' end from outdial.attempts o
                   where o.job_no = l.job_no and o.attempt_no <> l.attempt_no and o.state in ('placed', 'ended')
                     and o.learned_at > l.slot - interval '2 seconds' having count(*) > 0) end as rung
        from outdial.live l join said s on s.attempt = l.attempt_id and l.attempt_id = any (p_attempt)
        where (l.state = 'submitting' or (l.state in ('unknown', 'review') and s.outcome <> 'unknown'))
          -- One that has come to life since is none of these.
          and l.job_no between v_lo and v_hi
        order by l.job_no for update of l
    ), tried as (
        update outdial.attempts a set
            state = case m.outcome when 'placed' then 'placed' when 'unknown' then 'unknown' else 'not_placed' end,
            call_id = coalesce(a.call_id, m.said_call_id), http_status = coalesce(m.http_status, a.http_status),
            provider_error = coalesce(m.error, a.provider_error), provider_answer = coalesce(m.answer, a.provider_answer),
            reason = m.reason,
            -- A look-up tells later that it was.
            placed_at = case when m.outcome = 'placed' then case m.state when 'submitting' then v_now else a.submitted_at end end
        from mine m where a.job_no = m.job_no and a.attempt_no = m.attempt_no and a.job_no = any (array(select job_no from mine)) and a.job_no between v_lo and v_hi
        returning a.job_no, a.attempt_no, a.call_id, a.from_phone_number
    ), jobs as (
        update outdial.jobs j set
            state = coalesce(m.rung, case m.outcome when 'placed' then 'placed' when 'unknown' then 'dialing' when 'refused' then 'refused' else 'waiting' end),
            -- What was never sent waits as before: no news, so that nobody is told of its reason twice.
            reason = case when m.outcome = 'placed' or m.rung is not null then null when m.outcome = 'unknown' then 'unconfirmed'
                          when m.outcome = 'unsent' and m.reason = 'queued' then coalesce((
                              select a.decision ->> 'waited' from outdial.attempts a
                              where a.job_no = m.job_no and a.attempt_no = m.attempt_no), m.reason)
                          else m.reason end,
            due_at = case when m.outcome in ('retry', 'unsent') and m.rung is null then m.ready end,
            placed = j.placed + (m.outcome = 'placed')::int, attempts = j.attempts - (m.outcome = 'unsent')::int,
            finished_at = case when coalesce(m.rung, m.outcome) in ('refused', 'done') then v_now end,
            event_seq = j.event_seq + 1
        from mine m where j.job_no = m.job_no and j.job_no = any (array(select job_no from mine)) and j.job_no between v_lo and v_hi
        returning j.job_no, j.job_id, j.event_seq, j.reason, j.due_at, j.metadata, j.traceparent
    ), listed as (
        insert into outdial.work (job_no, class_no, rank, ready_at, expires_at)
        select job_no, class_no, rank, ready, expires_at from mine where outcome in ('retry', 'unsent') and rung is null order by job_no
    ), still as (
        update outdial.live l set state = m.outcome, call_id = m.said_call_id, since = v_now,
                                  called_at = case when m.arrived > m.slot + p_slack then m.arrived - p_slack else l.called_at end
        from mine m where l.attempt_id = m.attempt_id and l.attempt_id = any (p_attempt) and m.outcome in ('placed', 'unknown')
    ), over as (
        delete from outdial.live l
        where l.attempt_id = any (array(select attempt_id from mine where outcome in ('retry', 'refused', 'unsent')))
    ), called as (
        -- Who was not rung has not been called.
        select substr(t.phone, 2)::bigint phone, m.recipient, coalesce(m.called_at, m.slot) slot,
               case when m.outcome in ('placed', 'unknown') then m.arrived - p_slack end as moved
        from mine m join outdial.jobs t on t.job_no = m.job_no and t.job_no = any (array(select job_no from mine where recipient is not null)) and t.job_no between v_lo and v_hi
        where m.recipient is not null and (m.outcome not in ('placed', 'unknown') or m.arrived > m.slot + p_slack)
    ), things as (
        select v.t thing_no, m.slot, m.outcome, m.arrived, m.state = 'review' as in_review from mine m
        cross join lateral (values (number_thing), (campaign_thing), (account_thing)) v(t) where v.t is not null
    ), freed as (
        -- In review it held no place: what was placed after all takes one.
        update outdial.limits l set in_use = l.in_use - f.n
        from (select thing_no, sum(case when not in_review then 1 when outcome = 'placed' then -1 else 0 end) n
              from things where in_review or outcome in ('retry', 'refused', 'unsent') group by thing_no) f
        where l.thing_no = f.thing_no and l.thing_no = any (array(select thing_no from things)) and f.n <> 0
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        select e.type, j.job_id, j.event_seq,
               jsonb_strip_nulls(jsonb_build_object('job_id', j.job_id, 'campaign_id', m.campaign_id, 'attempt_no', m.attempt_no,
                   'attempt_id', m.attempt_id, 'call_id', t.call_id, 'from_phone_number', t.from_phone_number, 'reason', j.reason,
                   'due_at', j.due_at, 'http_status', m.http_status, 'metadata', j.metadata)), j.traceparent
        from mine m join jobs j using (job_no) join tried t on t.job_no = m.job_no and t.attempt_no = m.attempt_no
        cross join lateral (select case coalesce(m.rung || ' already', m.outcome) when 'placed already' then null when 'done already' then 'job.done' when 'placed' then 'call.placed' when 'unknown' then 'call.unknown'
                                   when 'refused' then 'job.refused' else 'job.waiting' end) e(type)
        where e.type is not null and outdial.wants(p_events, e.type)
          and not (m.outcome = 'unsent' and m.reason = 'queued' and m.rung is null) order by m.job_no
    )
    select array_agg(thing_no), array_agg(slot), array_agg(case when outcome <> 'unsent' then arrived - p_slack end),
           (select array_agg(attempt_id) from mine), (select array_agg(account) from mine), (select array_agg(campaign_id) from mine),
           (select array_agg(phone) from called), (select array_agg(recipient) from called), (select array_agg(slot) from called),
           (select array_agg(moved) from called)
    into v_mend_thing, v_mend_slot, v_mend_new, v_mine, v_account, v_campaign, v_phone, v_scope, v_slot, v_moved
    from things where outcome = 'unsent' or arrived > slot + p_slack;
    if v_mend_thing is not null then
        perform outdial.mend_grants(v_mend_thing, v_mend_slot, v_mend_new);
    end if;
    if v_phone is not null then perform outdial.mend_slots(v_phone, v_scope, v_slot, v_moved); end if;

    if coalesce(cardinality(v_mine), 0) < cardinality(p_attempt) then
        -- The provider was heard elsewhere first: only what is missing is added.
        update outdial.attempts a set call_id = coalesce(a.call_id, o.call_id), http_status = coalesce(a.http_status, o.http_status)
        from unnest(p_attempt, p_outcome, p_call_id, p_http_status) o(attempt, outcome, call_id, http_status)
        where a.attempt_id = o.attempt and a.attempt_id = any (p_attempt) and o.attempt <> all (coalesce(v_mine, '{}'))
          and o.outcome = 'placed' and (a.call_id is null or a.http_status is null) and a.state not in ('not_placed', 'closed');
        -- A worker's own answer that comes after the attempt was given up: it was placed all the same.
        perform outdial.placed_after_all(a.account, array_agg(o.attempt), array_agg(o.call_id), p_events)
        from unnest(p_attempt, p_outcome, p_call_id) o(attempt, outcome, call_id)
        join outdial.attempts a on a.attempt_id = o.attempt and a.attempt_id = any (p_attempt)
        where o.outcome = 'placed' and o.call_id is not null and a.state in ('not_placed', 'closed') group by a.account;
    end if;

    -- The account's health: what it said last counts; of a burst of 429s only the first doubles the wait.
    with heard as (
        select a.account, o.signal, o.backoff_ms, o.ord,
               coalesce(max(o.ord) filter (where o.signal <> 'unknown') over (partition by a.account), 0) as answered
        from unnest(p_attempt, p_signal, p_backoff_ms) with ordinality o(attempt, signal, backoff_ms, ord)
        join unnest(v_mine, v_account) a(attempt, account) using (attempt) where o.signal is not null
    ), per_account as (
        select h.account, bool_or(signal = 'ok') ok, bool_or(signal = 'busy') busy, max(backoff_ms) backoff_ms,
               count(*) filter (where signal = 'unknown' and h.ord > h.answered) unknown,
               bool_or(signal <> 'unknown') answered
        from heard h group by h.account
    )
    update outdial.accounts a set
        busy_in_a_row = case when p.busy and coalesce(a.backoff_until, v_now) <= v_now then a.busy_in_a_row + 1
                             when p.ok and not p.busy then 0 else a.busy_in_a_row end,
        backoff_until = case when p.busy and coalesce(a.backoff_until, v_now) <= v_now
                             then v_now + make_interval(secs => greatest(coalesce(p.backoff_ms, 0) / 1000.0,
                                                                         least(60, 2 ^ least(a.busy_in_a_row, 6)) * (0.75 + random() / 2)))
                             else a.backoff_until end,
        unknown_in_a_row = p.unknown + case when p.answered then 0 else a.unknown_in_a_row end,
        breaker_until = case when p.unknown + case when p.answered then 0 else a.unknown_in_a_row end >= 5
                             then v_now + make_interval(secs => 5 + random()) end
    from per_account p
    where a.name = p.account and a.name = any (v_account) and (p.busy or p.unknown > 0 or (p.answered and a.unknown_in_a_row > 0) or (p.ok and a.busy_in_a_row > 0));

    -- What was never sent was never tried.
    if 'unsent' = any (p_outcome) then
        delete from outdial.attempts a
        where a.attempt_id = any (array(select attempt from unnest(p_attempt, p_outcome) o(attempt, outcome) where o.outcome = 'unsent'))
          and a.state = 'not_placed';
    end if;

    return query
    with last as (
        select a.campaign_id, count(*) filter (where o.outcome = 'refused') refused, bool_or(o.outcome = 'placed') placed
        from unnest(p_attempt, p_outcome) o(attempt, outcome) join unnest(v_mine, v_campaign) a(attempt, campaign_id) using (attempt)
        where o.outcome in ('refused', 'placed') group by a.campaign_id
    )
    update outdial.campaigns c set refused_in_a_row = case when l.placed then 0 else c.refused_in_a_row + l.refused end
    from last l where c.campaign_id = l.campaign_id and c.campaign_id = any (v_campaign) and c.state = 'active' and (l.refused > 0 or c.refused_in_a_row > 0)
    returning c.campaign_id, c.refused_in_a_row;
end $$;

-- How calls ended whose places were given back before anybody could tell (`end_unknown`): their records say it, and nothing
-- else changes.
create function outdial.finish_late(
    p_attempt uuid[], p_call_id text[], p_disposition text[], p_provider_status text[], p_end_reason text[], p_error text[],
    p_from_reported text[], p_ended_at timestamptz[], p_duration_s int[], p_recording_url text[], p_events text[]
) returns void language sql as $$
    with said as (
        select distinct on (attempt) *
        from unnest(p_attempt, p_call_id, p_disposition, p_provider_status, p_end_reason, p_error, p_from_reported, p_ended_at,
                    p_duration_s, p_recording_url)
            o(attempt, call_id, disposition, provider_status, end_reason, error, from_reported, ended_at, duration_s, recording_url)
        where disposition is not null
    ), tried as (
        update outdial.attempts a set
            disposition = s.disposition, reason = null, provider_status = s.provider_status, end_reason = s.end_reason,
            provider_error = coalesce(case when a.phone is not null then s.error end, a.provider_error),
            from_phone_number = coalesce(a.from_phone_number, s.from_reported), from_phone_number_reported = s.from_reported,
            caller_id_verified = case when s.from_reported is not null and a.from_phone_number is not null
                                      then s.from_reported = a.from_phone_number end,
            ended_at = coalesce(s.ended_at, a.ended_at), duration_s = s.duration_s,
            -- Who was erased stays so.
            recording_url = case when a.phone is not null then s.recording_url end
        from said s
        where a.attempt_id = s.attempt and a.call_id = s.call_id and a.state = 'ended' and a.reason = 'end_unknown'
        returning a.*
    ), mistaken as (
        insert into outdial.mismatches (attempt_id, number)
        select attempt_id, from_phone_number from tried where caller_id_verified = false order by attempt_id
        on conflict do nothing
    ), numbered as (
        -- Two events an attempt: its numbers among those of the job end so far before the last.
        select t.*, 2 * (row_number() over (partition by t.job_no order by t.attempt_no desc) - 1) as back from tried t
    ), jobs as (
        update outdial.jobs j set reason = case when j.reason = 'end_unknown' then null else j.reason end, event_seq = j.event_seq + 2 * t.n
        from (select job_no, count(*)::int n from tried group by job_no) t where j.job_no = t.job_no
        returning j.job_no, j.job_id, j.event_seq, j.metadata, j.traceparent
    )
    insert into outdial.outbox (type, subject, sequence, data, traceparent)
    select e.type, j.job_id, j.event_seq - e.back - t.back,
           jsonb_strip_nulls(jsonb_build_object('job_id', j.job_id, 'campaign_id', t.campaign_id, 'attempt_no', t.attempt_no,
               'attempt_id', t.attempt_id, 'call_id', t.call_id, 'from_phone_number', t.from_phone_number,
               'from_phone_number_reported', t.from_phone_number_reported, 'disposition', t.disposition,
               'duration_s', t.duration_s, 'metadata', j.metadata)), j.traceparent
    from numbered t join jobs j using (job_no)
    cross join (values ('call.ended', 1), ('call.caller_id_mismatch', 0)) e(type, back)
    where outdial.wants(p_events, e.type) and (e.type <> 'call.caller_id_mismatch' or t.caller_id_verified = false)
    order by t.job_no, t.back desc, e.back desc
$$;

-- The ends of calls, as the provider's records tell them. Gives the attempts of which that was news.
-- p_call_id: of the call that the record is of; another call than the attempt's own tells nothing of it. Null: whichever.
create function outdial.finish(
    p_attempt uuid[], p_call_id text[], p_disposition text[], p_reason text[], p_provider_status text[], p_end_reason text[], p_error text[],
    p_from_reported text[], p_ended_at timestamptz[], p_duration_s int[], p_recording_url text[], p_events text[]
) returns uuid[] language plpgsql as $$
declare
    v_now timestamptz;
    v_lo bigint;
    v_hi bigint;
    v_things int[];
    v_news uuid[];
begin
    select array_agg(distinct t), min(l.job_no), max(l.job_no) into v_things, v_lo, v_hi
    from outdial.live l cross join lateral (values (l.number_thing), (l.campaign_thing), (l.account_thing)) v(t)
    where l.attempt_id = any (p_attempt) and t is not null;
    if v_things is null then
        perform outdial.finish_late(p_attempt, p_call_id, p_disposition, p_provider_status, p_end_reason, p_error, p_from_reported,
                                    p_ended_at, p_duration_s, p_recording_url, p_events);
        return '{}';
    end if;
    perform 1 from outdial.limits l where l.thing_no = any (v_things) order by l.thing_no for update;
    v_now := clock_timestamp();

    with said as (
        select * from unnest(p_attempt, p_call_id, p_disposition, p_reason, p_provider_status, p_end_reason, p_error, p_from_reported,
                             p_ended_at, p_duration_s, p_recording_url)
            o(attempt, said_call_id, disposition, reason, provider_status, end_reason, error, from_reported, ended_at, duration_s, recording_url)
    ), mine as materialized (
        select l.*, s.* from outdial.live l join said s on s.attempt = l.attempt_id and l.attempt_id = any (p_attempt)
        where (s.said_call_id is null or s.said_call_id = l.call_id) and l.job_no between v_lo and v_hi order by l.job_no for update of l
    ), over as (
        delete from outdial.live l where l.attempt_id = any (array(select attempt_id from mine))
    ), tried as (
        update outdial.attempts a set
            state = 'ended', disposition = m.disposition, reason = m.reason, provider_status = m.provider_status,
            end_reason = m.end_reason,
            -- Who was erased stays so.
            provider_error = coalesce(case when a.phone is not null then m.error end, a.provider_error),
            recording_url = case when a.phone is not null then m.recording_url end,
            -- Where the agent chose by itself, only the provider knows the number.
            from_phone_number = coalesce(a.from_phone_number, m.from_reported), from_phone_number_reported = m.from_reported,
            caller_id_verified = case when m.from_reported is not null and a.from_phone_number is not null
                                      then m.from_reported = a.from_phone_number end,
            placed_at = coalesce(a.placed_at, v_now), ended_at = coalesce(m.ended_at, v_now),
            duration_s = m.duration_s
        from mine m where a.job_no = m.job_no and a.attempt_no = m.attempt_no and a.job_no = any (array(select job_no from mine)) and a.job_no between v_lo and v_hi
        returning a.job_no, a.attempt_id, a.attempt_no, a.call_id, a.from_phone_number, a.from_phone_number_reported, a.disposition,
                  a.caller_id_verified, a.duration_s, a.campaign_id
    ), mistaken as (
        insert into outdial.mismatches (attempt_id, number)
        select attempt_id, from_phone_number from tried where caller_id_verified = false order by attempt_id
        on conflict do nothing
    ), sums as (
        select m.job_no, count(*)::int as n, max(m.reason) as reason, count(*) filter (where m.state <> 'placed') as unheard,
               -- A call that was learned of late may not be the job's last.
               bool_and(jj.state in ('dialing', 'placed', 'review'))
               and not exists (select 1 from outdial.attempts o where o.job_no = m.job_no and o.attempt_id <> all (array_agg(m.attempt_id))
                               and o.state in ('submitting', 'placed', 'unknown', 'review')) as over,
               (array_agg(m.disposition order by m.attempt_no desc))[1] as disposition,
               array_agg(m.attempt_id) as attempts, array_agg(m.disposition) as dispositions,
               min(m.class_no) as class_no, min(m.rank) as rank, min(m.expires_at) as expires_at
        from mine m join outdial.jobs jj on jj.job_no = m.job_no and jj.job_no = any (array(select job_no from mine)) and jj.job_no between v_lo and v_hi group by m.job_no
    ), judged as materialized (
        -- The policy's next try, unless it would be too late.
        select s.*, case when s.over and p.again < s.expires_at then p.again end as again
        from sums s join outdial.jobs jj on jj.job_no = s.job_no and jj.job_no = any (array(select job_no from mine)) and jj.job_no between v_lo and v_hi
        left join lateral (
            select v_now + make_interval(secs => (c.retry -> 'on' ->> s.disposition)::int) as again
            from outdial.campaigns c
            where c.campaign_id = jj.campaign_id and c.state <> 'canceled'
              and jj.placed + s.unheard < (c.retry ->> 'max_attempts')::int
              -- Who has answered any of its calls, also one that was learned of late, is not called again.
              and not exists (select 1 from unnest(s.dispositions) d where d is null or not c.retry -> 'on' ? d)
              and not exists (select 1 from outdial.attempts o
                              where o.job_no = s.job_no and o.learned_at is not null and o.attempt_id <> all (s.attempts)
                                and not coalesce(c.retry -> 'on' ? o.disposition, false))) p on true
    ), jobs as (
        update outdial.jobs j set
            state = case when not o.over then j.state when o.again is null then 'done' else 'waiting' end,
            reason = case when not o.over then j.reason when o.again is null then o.reason else 'retry' end,
            due_at = case when o.over then o.again else j.due_at end,
            finished_at = case when o.over and o.again is null then v_now else j.finished_at end,
            event_seq = j.event_seq + 2 * o.n + 1, placed = j.placed + o.unheard
        from judged o where j.job_no = o.job_no and j.job_no = any (array(select job_no from mine)) and j.job_no between v_lo and v_hi
        returning j.job_no, j.job_id, j.event_seq, j.reason, j.due_at, j.metadata, j.traceparent, o.over, o.again
    ), listed as (
        insert into outdial.work (job_no, class_no, rank, ready_at, expires_at)
        select job_no, class_no, rank, again, expires_at from judged where again is not null order by job_no
    ), freed as (
        update outdial.limits l set in_use = l.in_use - f.n
        from (select v.t thing_no, count(*) n from mine cross join lateral (values (number_thing), (campaign_thing), (account_thing)) v(t)
              where v.t is not null and mine.state <> 'review' group by v.t) f
        where l.thing_no = f.thing_no
          and l.thing_no = any (array(select unnest(array[number_thing, campaign_thing, account_thing]) from mine))
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        select e.type, j.job_id, j.event_seq - e.back - case when e.back > 0 then m.back else 0 end,
               jsonb_strip_nulls(jsonb_build_object('job_id', j.job_id, 'campaign_id', t.campaign_id, 'attempt_no', t.attempt_no,
                   'attempt_id', t.attempt_id, 'call_id', t.call_id, 'from_phone_number', t.from_phone_number,
                   'from_phone_number_reported', t.from_phone_number_reported, 'disposition', t.disposition,
                   'reason', case when e.type = 'job.waiting' then j.reason else m.reason end,
                   'due_at', case when e.type = 'job.waiting' then j.due_at end,
                   'duration_s', t.duration_s, 'metadata', j.metadata)), j.traceparent
        from (select i.*, 2 * (row_number() over (partition by i.job_no order by i.attempt_no desc) - 1) as back from mine i) m
        join jobs j using (job_no) join tried t on t.attempt_id = m.attempt_id
        cross join (values ('call.ended', 2), ('call.caller_id_mismatch', 1), ('job.done', 0), ('job.waiting', 0)) e(type, back)
        where outdial.wants(p_events, e.type) and (e.type <> 'call.caller_id_mismatch' or t.caller_id_verified = false)
          and (e.back > 0 or m.back = 0)
          and (e.type <> 'job.done' or j.over and j.again is null) and (e.type <> 'job.waiting' or j.again is not null)
        order by m.job_no, m.back desc, e.back desc
    )
    select array_agg(attempt_id) into v_news from mine;
    if coalesce(cardinality(v_news), 0) < cardinality(p_attempt) then
        perform outdial.finish_late(p_attempt, p_call_id, p_disposition, p_provider_status, p_end_reason, p_error, p_from_reported,
                                    p_ended_at, p_duration_s, p_recording_url, p_events);
    end if;
    return coalesce(v_news, '{}');
end $$;

-- Dates that have come: the jobs are ready.
create function outdial.wake(p_limit int) returns int language plpgsql set enable_seqscan = off as $$
declare
    v_due bigint[];
begin
    -- Read into a list first, and never by reading whole tables, here and below: the plan may have been made when they
    -- were empty, and the planner can't know how few of their rows are meant.
    v_due := array(select job_no from outdial.work where ready_at <= statement_timestamp()
                   order by ready_at limit p_limit for update skip locked);
    update outdial.work set ready_at = null, windowed = false where job_no = any (v_due);
    update outdial.jobs set reason = 'queued', due_at = null
    where job_no = any (v_due) and job_no between (select min(d) from unnest(v_due) d) and (select max(d) from unnest(v_due) d);
    return cardinality(v_due);
end $$;

-- Ends waiting jobs for a reason that is no try at calling: expired, canceled, refused.
create function outdial.end_waiting(p_job bigint[], p_state text, p_reason text, p_events text[])
returns int language sql as $$
    with gone as (
        delete from outdial.work w
        where w.job_no in (select job_no from outdial.work where job_no = any (p_job) order by job_no for update skip locked)
        returning w.job_no
    ), ended as (
        update outdial.jobs j set
            -- A job that was rung has been done, whatever ended its waiting for another try.
            state = case when p_state = 'expired' and j.placed > 0 then 'done' else p_state end,
            reason = p_reason, due_at = null, finished_at = clock_timestamp(), event_seq = j.event_seq + 1
        from gone where j.job_no = gone.job_no
        returning j.job_no, j.job_id, j.campaign_id, j.state, j.reason, j.event_seq, j.metadata, j.traceparent
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        select 'job.' || state, job_id, event_seq,
               jsonb_strip_nulls(jsonb_build_object('job_id', job_id, 'campaign_id', campaign_id, 'reason', reason, 'metadata', metadata)), traceparent
        from ended where outdial.wants(p_events, 'job.' || state) order by job_no
    )
    select count(*)::int from ended
$$;

-- Ends the first ready jobs of a class, as dispatch decided it under the rules of p_version; nothing once others hold.
create function outdial.end_class(p_version bigint, p_class int, p_state text, p_reason text, p_limit int, p_events text[])
returns int language sql as $$
    select outdial.go_lock();
    select outdial.end_waiting(
        array(select job_no from outdial.work
              where class_no = p_class and ready_at is null
                and exists (select 1 from outdial.control c where c.routing_version = p_version)
              order by class_no, rank, job_no limit p_limit),
        p_state, p_reason, p_events)
$$;

-- Ends single jobs, as dispatch decided it under the rules of p_version; nothing once others hold.
create function outdial.end_jobs(p_version bigint, p_job bigint[], p_state text, p_reason text, p_events text[])
returns int language sql as $$
    select outdial.go_lock();
    select outdial.end_waiting(
        case when exists (select 1 from outdial.control c where c.routing_version = p_version) then p_job else '{}' end,
        p_state, p_reason, p_events)
$$;

create function outdial.expire(p_limit int, p_events text[]) returns int language sql as $$
    select outdial.end_waiting(
        array(select job_no from outdial.work where expires_at <= statement_timestamp() order by expires_at limit p_limit),
        'expired', 'expired', p_events)
$$;

-- Cancels those jobs that have no attempt in flight; answers the ids it canceled. A job may move between the work list and
-- a reservation while this looks: it is looked for again.
create function outdial.cancel(p_job_id text[], p_events text[]) returns table (job_id text) language plpgsql as $$
#variable_conflict use_column
declare
    v_job bigint[];
begin
    select array_agg(j.job_no) into v_job from outdial.jobs j where j.job_id = any (p_job_id) and j.state = 'waiting';
    for i in 1..4 loop
        perform outdial.release(null, v_job);
        perform 1 from outdial.work w where w.job_no = any (v_job) order by w.job_no for update;
        perform outdial.end_waiting(v_job, 'canceled', 'canceled', p_events);
        exit when not exists (select 1 from outdial.work w where w.job_no = any (v_job))
              and not exists (select 1 from outdial.reservations r where r.job_no = any (v_job));
    end loop;
    return query select j.job_id from outdial.jobs j where j.job_no = any (v_job) and j.state = 'canceled';
end $$;

-- Parks single jobs: until a true date; or (p_held) until the rules change, or p_ready to look again, which is no date that anybody
-- is told; or moves them into another class.
-- Nothing under rules that hold no longer: who applies new ones holds the stop lock, and all that was parked before is
-- judged anew.
create function outdial.park(p_version bigint, p_job bigint[], p_reason text[], p_ready timestamptz[], p_held boolean[], p_class int[], p_events text[])
returns int language sql as $$
    select outdial.go_lock();
    with asked as (
        select a.* from unnest(p_job, p_reason, p_ready, p_held, p_class) a(job, reason, ready, held, class_no)
        where exists (select 1 from outdial.control c where c.routing_version = p_version)
    ), free as materialized (
        select w.job_no from outdial.work w where w.job_no in (select job from asked) order by w.job_no for update skip locked
    ), parked as (
        update outdial.work w set ready_at = case when a.held then coalesce(a.ready, 'infinity') else a.ready end, class_no = coalesce(a.class_no, w.class_no),
                                  windowed = a.reason in ('outside_window', 'timezone_unknown', 'recipient_limit')
        from asked a join free f on f.job_no = a.job where w.job_no = a.job
        returning w.job_no
    ), noted as (
        update outdial.jobs j set reason = a.reason, due_at = case when not a.held then a.ready end,
                                  class_no = coalesce(a.class_no, j.class_no), event_seq = j.event_seq + 1
        from asked a join parked p on p.job_no = a.job
        where j.job_no = a.job and (j.reason is distinct from a.reason or a.class_no <> j.class_no
                                    or j.due_at is distinct from case when not a.held then a.ready end)
        returning j.job_no, j.job_id, j.campaign_id, j.reason, j.due_at, j.event_seq, j.metadata, j.traceparent, a.class_no
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        select 'job.waiting', job_id, event_seq,
               jsonb_strip_nulls(jsonb_build_object('job_id', job_id, 'campaign_id', campaign_id, 'reason', reason, 'due_at', due_at, 'metadata', metadata)), traceparent
        from noted where class_no is null and outdial.wants(p_events, 'job.waiting') order by job_no
    )
    select count(*)::int from parked
$$;

-- New rules may open a window: jobs that wait for one are looked at again, p_limit at a time from p_after on.
-- Answers how far it came (null: to the end) and how many are ready. One walk meets each job once, although those that
-- still have to wait are parked again meanwhile.
create function outdial.rejudge(p_after bigint, p_limit int) returns table (upto bigint, ready int) language plpgsql set enable_seqscan = off as $$
declare
    v_due bigint[];
begin
    v_due := array(select w.job_no from outdial.work w where w.windowed and w.job_no > p_after
                   order by w.job_no limit p_limit for update skip locked);
    update outdial.work w set ready_at = null, windowed = false where w.job_no = any (v_due);
    update outdial.jobs j set reason = 'queued', due_at = null
    where j.job_no = any (v_due) and j.job_no between v_due[1] and v_due[cardinality(v_due)];
    return query select case when cardinality(v_due) = p_limit then v_due[p_limit] end, cardinality(v_due);
end $$;

-- The first ready job of every class that has one: an index probe a class, however many jobs it has.
create function outdial.heads() returns table (class_no int, rank smallint, job_no bigint) language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
#variable_conflict use_column
begin
    return query
    with recursive head as (
        (select w.class_no, w.rank, w.job_no from outdial.work w where w.ready_at is null
         order by w.class_no, w.rank, w.job_no limit 1)
        union all
        select n.* from head h cross join lateral (
            select w.class_no, w.rank, w.job_no from outdial.work w
            where w.ready_at is null and w.class_no > h.class_no order by w.class_no, w.rank, w.job_no limit 1) n
    ) select * from head;
end $$;

-- The first waiting jobs of classes, so many of each, of the p_nth of p_of shares; with the scopes for which their phones are
-- suppressed. Planned so that nothing is read but by keys, whatever the tables hold.
create function outdial.candidates(p_class int[], p_each bigint[], p_nth bigint, p_of bigint) returns table (
    job_no bigint, class_no int, rank smallint, phone text, lead_timezone text, consented boolean, suppressed text[]
) language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    select w.job_no, w.class_no, w.rank, j.phone, j.content ->> 'lead_timezone', j.content ? 'consent',
           array(select s.scope from outdial.suppressions s where s.phone = substr(j.phone, 2)::bigint)
           || case when exists (select 1 from outdial.suppressed_prefixes) then array(
               select s.scope from outdial.suppressed_prefixes s where s.prefix = any (outdial.beginnings(j.phone))) end
    from unnest(p_class, p_each) c(class_no, each)
    cross join lateral (
        select w.job_no, w.class_no, w.rank from outdial.work w
        where w.class_no = c.class_no and w.ready_at is null and (w.job_no / 64) % p_of = p_nth
        order by w.class_no, w.rank, w.job_no limit c.each) w
    join outdial.jobs j on j.job_no = w.job_no;
end $$;

-- What dispatch says of classes: why their jobs wait, and until when as far as that is known.
create function outdial.note_classes(p_class int[], p_reason text[], p_due timestamptz[]) returns void language plpgsql as $$
begin
    perform 1 from outdial.classes c where c.class_no = any (p_class) order by c.class_no for update;
    update outdial.classes c set reason = n.reason, due_at = n.due,
           decided_at = case when c.reason = n.reason then c.decided_at else clock_timestamp() end
    from unnest(p_class, p_reason, p_due) n(class_no, reason, due)
    where c.class_no = n.class_no
      and (c.reason <> n.reason or c.decided_at is null or (c.due_at is distinct from n.due
           and coalesce(abs(extract(epoch from c.due_at - n.due)) > 1, true)));
end $$;

-- Writes what holds a class, once it has held for a second, into the records of its waiting jobs: walks over the work
-- list from p_after on, p_limit jobs at a time. Answers how far it came (null: to the end) and how many it wrote.
create function outdial.relabel(p_after bigint, p_limit int, p_events text[]) returns table (upto bigint, written int)
language plpgsql set enable_seqscan = off as $$
#variable_conflict use_column
declare
    v_chunk bigint[];
    v_n int;
begin
    v_chunk := array(select w.job_no from outdial.work w where w.job_no > p_after and w.ready_at is null
                     order by w.job_no limit p_limit);
    with stale as materialized (
        select w.job_no, c.reason
        from outdial.work w join outdial.classes c using (class_no) join outdial.jobs j using (job_no)
        where w.job_no > p_after and w.job_no <= v_chunk[cardinality(v_chunk)] and w.ready_at is null
          and j.reason is distinct from c.reason and c.decided_at < clock_timestamp() - interval '1 second'
        order by w.job_no for update of w skip locked
    ), noted as (
        update outdial.jobs j set reason = s.reason, due_at = null, event_seq = j.event_seq + 1
        from stale s where j.job_no = s.job_no and j.state = 'waiting'
        returning j.job_no, j.job_id, j.campaign_id, j.reason, j.event_seq, j.metadata, j.traceparent
    ), told as (
        insert into outdial.outbox (type, subject, sequence, data, traceparent)
        select 'job.waiting', job_id, event_seq,
               jsonb_strip_nulls(jsonb_build_object('job_id', job_id, 'campaign_id', campaign_id, 'reason', reason, 'metadata', metadata)), traceparent
        from noted where outdial.wants(p_events, 'job.waiting') order by job_no
    )
    select count(*) into v_n from noted;
    return query select case when cardinality(v_chunk) = p_limit then v_chunk[p_limit] end, v_n;
end $$;

-- How many of the last n grants of a thing are later than a moment: by halving, for windows too large to be counted.
create function outdial.granted_since(p_thing int, p_last bigint, p_n int, p_since timestamptz) returns bigint language plpgsql stable as $$
declare
    v_low bigint := greatest(p_last - p_n, 0);      -- not later, or before the log
    v_high bigint := p_last + 1;                    -- later, or after it
    v_mid bigint;
begin
    if p_n is null then return 0; end if;
    while v_high - v_low > 1 loop
        v_mid := (v_low + v_high) / 2;
        -- What is pruned is old.
        if coalesce((select g.slot > p_since from outdial.grants g where g.thing_no = p_thing and g.ordinal = v_mid), false)
        then v_high := v_mid; else v_low := v_mid; end if;
    end loop;
    return p_last - v_high + 1;
end $$;

-- How far numbers are used, in each window as it slides, and when the next slot is. A window can hold no more than its n:
-- counting goes no further back. The last hundred calls are counted one by one, which for most numbers is all.
create function outdial.used_numbers(p_number text[], p_slack interval) returns table (
    number text, used_second bigint, used_minute bigint, used_hour bigint, used_day bigint, in_use bigint,
    next_at timestamptz, last_slot timestamptz
) language sql stable as $$
    select l.key,
           case when u.s = 100 and l.per_second > 100 then outdial.granted_since(l.thing_no, l.last_ordinal, l.per_second, t.now - interval '1 second' - p_slack) else u.s end,
           case when u.m = 100 and l.per_minute > 100 then outdial.granted_since(l.thing_no, l.last_ordinal, l.per_minute, t.now - interval '1 minute' - p_slack) else u.m end,
           case when u.h = 100 and l.per_hour > 100 then outdial.granted_since(l.thing_no, l.last_ordinal, l.per_hour, t.now - interval '1 hour' - p_slack) else u.h end,
           case when u.d = 100 and l.per_day > 100 then outdial.granted_since(l.thing_no, l.last_ordinal, l.per_day, t.now - interval '1 day' - p_slack) else u.d end,
           l.in_use::bigint,
           (select max(g.slot + w.span + p_slack + outdial.stepped(g.slot))
            from (values (l.per_second, interval '1 second'), (l.per_minute, interval '1 minute'),
                         (l.per_hour, interval '1 hour'), (l.per_day, interval '1 day')) w(n, span)
            join outdial.grants g on g.thing_no = l.thing_no and g.ordinal = l.last_ordinal + 1 - w.n),
           l.last_slot
    from (select clock_timestamp() as now) t
    cross join outdial.limits l
    cross join lateral (
        select count(*) filter (where g.slot > t.now - interval '1 second' - p_slack) s,
               count(*) filter (where g.slot > t.now - interval '1 minute' - p_slack) m,
               count(*) filter (where g.slot > t.now - interval '1 hour' - p_slack) h,
               count(*) filter (where g.slot > t.now - interval '1 day' - p_slack) d
        from outdial.grants g
        where g.thing_no = l.thing_no
          and g.ordinal > l.last_ordinal - least(greatest(l.per_second, l.per_minute, l.per_hour, l.per_day, 1), 100)) u
    where l.kind = 3 and l.key = any (p_number)
$$;

-- The numbers of classes, in the order asked; made where they are new.
create function outdial.class_numbers(p_campaign text[], p_model text[], p_brand text[], p_region text[], p_country text[],
    p_area text[], p_pinned text[], p_sticky text[]) returns setof int language plpgsql as $$
begin
    insert into outdial.classes (campaign_id, model_id, brand, region, country, area, pinned, sticky)
    select distinct * from unnest(p_campaign, p_model, p_brand, p_region, p_country, p_area, p_pinned, p_sticky) order by 1, 2, 3, 4, 5, 6, 7, 8
    on conflict do nothing;
    return query
    select c.class_no
    from unnest(p_campaign, p_model, p_brand, p_region, p_country, p_area, p_pinned, p_sticky) with ordinality
         a(campaign_id, model_id, brand, region, country, area, pinned, sticky, ord)
    join outdial.classes c on c.campaign_id = a.campaign_id and coalesce(c.model_id, '') = coalesce(a.model_id, '')
        and coalesce(c.brand, '') = coalesce(a.brand, '') and coalesce(c.region, '') = coalesce(a.region, '')
        and coalesce(c.country, '') = coalesce(a.country, '') and coalesce(c.area, '') = coalesce(a.area, '')
        and coalesce(c.pinned, '') = coalesce(a.pinned, '') and coalesce(c.sticky, '') = coalesce(a.sticky, '')
    order by a.ord;
end $$;

-- This server's clock went back: dates that were near are as far off as the step was. What stands in the logs for later than a
-- slot can be was made by now, and would keep its things shut until then. Reservations of that time are given back, for
-- whoever holds one would send it when the clock comes there again. Leases and duties end as if they had just been
-- renewed. At most p_limit things at once; answers how many there were.
create function outdial.mend_future(p_lease interval, p_limit int) returns int language plpgsql as $$
declare
    v_now timestamptz := clock_timestamp();
    v_things int[] := array(select l.thing_no from outdial.limits l where l.last_slot > v_now + interval '2 seconds'
                            order by l.thing_no limit p_limit);
    v_from bigint;
    v_thing int;
begin
    update outdial.clock_steps c set noted_at = v_now where c.noted_at > v_now + interval '2 seconds';
    update outdial.workers w set lease_until = v_now + greatest(p_lease, interval '10 seconds') where w.ended_at is null and w.lease_until > v_now + 2 * p_lease + interval '10 seconds';
    update outdial.live l set looked_at = v_now, clear_since = null, clear_until = null where l.looked_at > v_now + interval '2 seconds';
    update outdial.live l set since = v_now where l.since > v_now + interval '2 seconds';
    update outdial.duties d set until = v_now where d.until > v_now + interval '1 minute';
    update outdial.accounts a set breaker_until = v_now where a.breaker_until > v_now + interval '10 seconds';
    -- Also where no log is ahead any more: one may have been made while the log was waited for.
    perform outdial.release(null, array(select r.job_no from outdial.reservations r where r.slot > v_now + interval '2 seconds'));
    if cardinality(v_things) = 0 then return 0; end if;
    perform 1 from outdial.limits l where l.thing_no = any (v_things) order by l.thing_no for update;
    -- Others may have done it while the locks were waited for, and granted since: what is near now isn't touched.
    v_now := clock_timestamp();
    foreach v_thing in array v_things loop
        continue when not exists (select from outdial.limits l where l.thing_no = v_thing and l.last_slot > v_now + interval '2 seconds');
        select min(t.ordinal) into v_from
        from (select g.ordinal, g.slot from outdial.grants g where g.thing_no = v_thing order by g.ordinal desc limit 100000) t
        where t.slot > v_now + interval '1 second';
        update outdial.grants g set slot = v_now + interval '1 second' where g.thing_no = v_thing and g.ordinal >= v_from;
        update outdial.limits l set last_slot = v_now + interval '1 second', mended_at = v_now where l.thing_no = v_thing;
    end loop;
    return cardinality(v_things);
end $$;

-- Takes over what workers left: those whose lease has run out, those that have ended, and (whoever it was) what is overdue:
-- a reservation long after its slot, a POST long after its time-out. Reservations wait again, POSTs in flight are unknown.
-- A database that has just come back gives everyone a lease's time first; but not where its clock says that it will come
-- back only later: it went back by more than any pause could be.
create function outdial.take_over(p_lease interval, p_events text[]) returns table (released int, unknown int)
language plpgsql as $$
declare
    v_now timestamptz;
    v_released int;
    v_attempts uuid[];
    v_n int;
begin
    if pg_postmaster_start_time() between clock_timestamp() - p_lease and clock_timestamp() + interval '1 minute' then
        return query select 0, 0;
        return;
    end if;
    -- Searching all that is under way is for a clock that went back since it was last looked at, and for a while after: a
    -- statement has two seconds, and may have read the clock before. One that goes back once more meanwhile is seen to at
    -- the next call.
    v_now := clock_timestamp();
    if not exists (select 1 from outdial.clock c where c.seen > v_now or c.mend_until > v_now) then
        update outdial.clock c set seen = v_now where c.seen < v_now;
    elsif outdial.mend_future(p_lease, 1000) < 1000 then
        update outdial.clock c set mend_until = case when c.seen > v_now then v_now + interval '5 seconds' else c.mend_until end, seen = v_now;
    end if;
    update outdial.workers w set ended_at = clock_timestamp() where w.ended_at is null and w.lease_until < clock_timestamp();
    v_released := outdial.release(null, array(
        select r.job_no from outdial.reservations r join outdial.workers w using (worker_no)
        where w.ended_at is not null or r.slot < clock_timestamp() - interval '10 seconds' limit 1000));
    v_attempts := array(
        select l.attempt_id from outdial.live l join outdial.workers w using (worker_no)
        where l.state = 'submitting' and (w.ended_at is not null or l.since < clock_timestamp() - interval '2 minutes') limit 1000);
    v_n := cardinality(v_attempts);
    if v_n > 0 then
        perform outdial.settle(v_attempts, array_fill('unknown'::text, array[v_n]), array_fill(null::text, array[v_n]),
                               array_fill(null::smallint, array[v_n]), array_fill('nobody wrote down what the provider answered'::text, array[v_n]),
                               array_fill('unconfirmed'::text, array[v_n]), array_fill(null::timestamptz, array[v_n]),
                               array_fill(null::text, array[v_n]), array_fill(null::int, array[v_n]),
                               array_fill(null::timestamptz, array[v_n]), interval '0', p_events);
    end if;
    return query select v_released, v_n;
end $$;

-- Callees whose number is no longer kept for them.
create function outdial.prune_sticky(p_limit int) returns int language sql as $$
    with old as (
        delete from outdial.sticky s using (
            select model_id, brand, phone from outdial.sticky where until < statement_timestamp() order by until limit p_limit
            for update skip locked) o
        where s.model_id = o.model_id and s.brand = o.brand and s.phone = o.phone returning 1
    ) select count(*)::int from old
$$;

-- Adds up what was written beside the records, p_limit rows at a time; answers how many it took. What was placed in the last minute
-- stays as it is, so that views are exact there.
create function outdial.count_up_campaigns(p_limit int) returns int language sql as $$
    with taken as (
        delete from outdial.campaign_news w where w.ctid = any (array(
            select n.ctid from outdial.campaign_news n where n.what <> 'calls' or n.at < now() - interval '1 minute'
            limit p_limit for update skip locked))
        returning w.*
    ), paced as (
        insert into outdial.campaign_pace as p (campaign_id, at, calls)
        select t.campaign_id, date_trunc('minute', t.at), sum(t.n) from taken t where t.what = 'calls' group by 1, 2 order by 1, 2
        on conflict (campaign_id, at) do update set calls = p.calls + excluded.calls
    ), counted as (
        insert into outdial.campaign_counts as c (campaign_id, what, n, last_at)
        select t.campaign_id, t.what, sum(t.n), max(t.at) from taken t group by 1, 2 order by 1, 2
        on conflict (campaign_id, what) do update set n = c.n + excluded.n, last_at = greatest(c.last_at, excluded.last_at)
    )
    select count(*)::int from taken
$$;

create function outdial.count_up_numbers(p_limit int) returns int language sql as $$
    with taken as (
        delete from outdial.number_news w where w.ctid = any (array(
            select n.ctid from outdial.number_news n limit p_limit for update skip locked))
        returning w.*
    ), paced as (
        insert into outdial.number_pace as p (number, hour, ended, answered)
        select t.number, t.hour, sum(t.ended), sum(t.answered) from taken t group by 1, 2 order by 1, 2
        on conflict (number, hour) do update set ended = p.ended + excluded.ended, answered = p.answered + excluded.answered
    )
    select count(*)::int from taken
$$;

-- Makes the pace coarser as it grows old, and forgets what no view looks at any more; p_limit rows of each at a time. Answers how
-- many it took of the one it took more of. Where the clock is known to have gone ahead, pace is kept by that longer: it comes into sight again.
create function outdial.coarsen_pace(p_limit int) returns int language plpgsql as $$
declare
    v_now timestamptz := now() - outdial.stepped('-infinity');
    v_numbers int;
    v_campaigns int;
begin
    delete from outdial.number_pace p where p.ctid = any (array(
        select o.ctid from outdial.number_pace o where o.hour < v_now - interval '25 hours' limit p_limit for update skip locked));
    get diagnostics v_numbers = row_count;
    with taken as (
        delete from outdial.campaign_pace p where p.ctid = any (array(
            select o.ctid from outdial.campaign_pace o
            where o.at < v_now - interval '25 hours'
               or (o.at < v_now - interval '90 minutes' and extract(epoch from o.at)::bigint % 1200 <> 0)
            limit p_limit for update skip locked))
        returning p.*
    ), coarse as (
        insert into outdial.campaign_pace as p (campaign_id, at, calls)
        select t.campaign_id, to_timestamp(extract(epoch from t.at)::bigint / 1200 * 1200), sum(t.calls)
        from taken t where t.at >= v_now - interval '25 hours' group by 1, 2 order by 1, 2
        on conflict (campaign_id, at) do update set calls = p.calls + excluded.calls
    )
    select count(*) into v_campaigns from taken;
    return greatest(v_numbers, v_campaigns);
end $$;

-- Old grants that no window looks at any more.
-- Looks at p_things things from p_after on, and answers how far it came (null: to the end) and how many grants went.
create function outdial.prune_grants(p_after int, p_things int, p_each int) returns table (upto int, pruned int) language plpgsql as $$
declare
    r record;
    v_n int;
    v_last int;
    v_seen int := 0;
    v_all int := 0;
    v_stepped interval := outdial.stepped('-infinity');
begin
    delete from outdial.clock_steps c where c.noted_at < clock_timestamp() - v_stepped - interval '25 hours';
    for r in select thing_no from outdial.limits where thing_no > p_after order by thing_no limit p_things loop
        -- The windows are read by the statement that deletes: whoever lengthens one writes the log anew (`fill_log`), and one
        -- statement sees either both or neither.
        delete from outdial.grants g where g.thing_no = r.thing_no and g.ordinal in (
            select o.ordinal from (select ordinal, slot from outdial.grants where thing_no = r.thing_no order by ordinal limit p_each) o
            join outdial.limits l on l.thing_no = r.thing_no
            where o.slot < clock_timestamp() - v_stepped
                           - case when l.kind = 3 or l.per_day is not null then interval '25 hours'
                                  when l.per_hour is not null then interval '65 minutes' else interval '5 minutes' end);
        get diagnostics v_n = row_count;
        v_all := v_all + v_n;
        v_seen := v_seen + 1;
        v_last := r.thing_no;
        -- A statement has two seconds: a long log takes several.
        if v_all >= p_each then return query select v_last - (v_n >= p_each)::int, v_all; return; end if;
    end loop;
    return query select case when v_seen = p_things then v_last end, v_all;
end $$;

-- Rebuilds a thing's log from the records of the last day: for windows that are new to it. Under the row's lock. Whatever
-- became of an attempt, it was sent or may have been: what surely wasn't has no record.
create function outdial.fill_log(p_thing int) returns void language plpgsql as $$
declare
    t outdial.limits;
    v_slots timestamptz[];
begin
    select * into t from outdial.limits where thing_no = p_thing for update;
    v_slots := array(
        select s from (
            select a.slot s from outdial.attempts a
            where a.submitted_at > now() - interval '25 hours'
              and case t.kind when 1 then a.account when 2 then a.campaign_id else a.from_phone_number end = t.key
            union all
            select r.slot from outdial.reservations r
            where case t.kind when 1 then r.account when 2 then r.campaign_id else r.number end = t.key) u
        order by s);
    delete from outdial.grants where thing_no = p_thing;
    insert into outdial.grants (thing_no, ordinal, slot) select p_thing, o, s from unnest(v_slots) with ordinality u(s, o);
    update outdial.limits set last_ordinal = cardinality(v_slots), last_slot = v_slots[cardinality(v_slots)] where thing_no = p_thing;
end $$;
