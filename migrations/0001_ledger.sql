-- The ledger: what outdial knows. Everything inside schema `outdial` is free to change; outsiders read schema `reporting`.
--
-- Locks are always taken in this order, so that no two statements wait for each other:
--   1. the stop lock (advisory, see outdial.stop_lock), then a worker's own row, 2. limits by thing_no, 3. recipients by phone and scope, 4. rows of
--   jobs by job_no (work, reservations, live, attempts, jobs), 5. accounts, campaigns, agents, numbers, pool, classes.
-- Every step of a worker is one autocommitted statement: a stopped worker can't sit on a lock.
-- Whole tables are locked, jobs before attempts, only to add a range of records or to drop one, and waited for a moment only.

create schema if not exists outdial;    -- the list of applied steps stands there already

-- One row that every worker polls: what it holds tells whether what the worker knows is still current.
create table outdial.control (
    only_row boolean primary key default true check (only_row),
    routing_version bigint not null default 0,      -- rises with each `routing apply`; 0: none yet
    epoch bigint not null default 0,                -- rises with each change of a state, pool, pause or version
    kill_switch boolean not null default false,
    -- Some rule caps the calls to one phone: slots are kept by recipient.
    keeps_recipients boolean not null default false,
    -- A number is quarantined when the provider has shown another in its place.
    quarantines_mismatched boolean not null default false,
    -- How many job numbers a range of records has, of those that are made from now on.
    partition_size bigint not null default 10000000 check (partition_size > 0),
    changed_at timestamptz not null default now()
);
insert into outdial.control default values;

-- The file as it was applied, and what was understood of it.
create table outdial.routing_versions (
    version bigint primary key,
    applied_at timestamptz not null default now(),
    applied_by text not null,
    digest text not null,
    source text not null,
    settings jsonb not null
);

create table outdial.accounts (
    name text primary key,
    state text not null default 'active' check (state in ('active', 'paused')),
    state_reason text,
    state_since timestamptz not null default now(),
    -- 429: nothing is sent before this; doubled by each 429 in a row.
    backoff_until timestamptz,
    busy_in_a_row int not null default 0,
    -- Five unknowns in a row open the breaker; when its time is over one job is let through and the door shut behind it.
    unknown_in_a_row int not null default 0,
    breaker_until timestamptz,
    event_seq bigint not null default 0
);

create table outdial.campaigns (
    campaign_id text primary key,
    state text not null default 'active' check (state in ('active', 'paused', 'canceled')),
    state_reason text,
    state_since timestamptz not null default now(),
    brand text,                                     -- as the routing has it, for those who read
    model_id text,                                  -- likewise
    retry jsonb,                                    -- likewise: {max_attempts, on: {disposition: seconds}}; null: no retry
    first_received_at timestamptz,
    refused_in_a_row int not null default 0,        -- by the provider; five pause the campaign
    event_seq bigint not null default 0
);

create table outdial.agents (
    model_id text primary key,
    account text not null,
    name text,
    state text not null default 'active' check (state in ('active', 'unavailable')),    -- unavailable: the provider answered 404
    state_reason text,
    pool_read_at timestamptz,                       -- the last good reading; null: never
    pool_tried_at timestamptz,
    pool_error text,
    pool_shrunk jsonb,                              -- a reading that would drop more than half, waiting for a second that agrees
    sync_wanted boolean not null default true
);

create table outdial.numbers (
    number text primary key,
    state text not null default 'active' check (state in ('active', 'warming', 'resting', 'quarantined', 'retired')),
    state_reason text,
    state_since timestamptz not null default now(),
    brand text,
    region text,
    tags text[] not null default '{}',
    event_seq bigint not null default 0
);

create table outdial.pool (
    model_id text not null,
    number text not null,
    slug text,
    sid text,
    attached boolean not null default true,
    changed_at timestamptz not null default now(),
    primary key (model_id, number)
);
create index pool_by_number on outdial.pool (number);

-- A limited thing: an account (1), a campaign (2), a number (3). Null: unlimited.
-- `grants` is its log: the ordinal-th call let through may arrive at the provider from `slot` on, for `slack`.
-- The next slot is the latest, over its windows of n calls in w, of: slot of the n-th last grant + w + slack.
create table outdial.limits (
    thing_no int generated always as identity primary key,
    kind smallint not null check (kind in (1, 2, 3)),
    key text not null,
    per_second int check (per_second > 0),
    per_minute int check (per_minute > 0),
    per_hour int check (per_hour > 0),
    per_day int check (per_day > 0),
    concurrent int check (concurrent > 0),
    last_ordinal bigint not null default 0,
    last_slot timestamptz,
    in_use int not null default 0,                  -- reservations and live calls
    mended_at timestamptz,                          -- grants were moved: to when their calls had really arrived, or off the future
    unique (kind, key)
) with (fillfactor = 60);

create table outdial.grants (
    thing_no int not null,
    ordinal bigint not null,
    slot timestamptz not null,
    primary key (thing_no, ordinal)
);

-- Steps of this server's clock ahead, as workers have proven them: a grant made before one was made later than its slot says
-- now, and windows are wider by that until they have passed (see outdial.stepped). A process counts by its first number.
create table outdial.clock_steps (
    minute timestamptz not null,
    witness_no bigint not null,
    noted_at timestamptz not null,
    ahead interval not null check (ahead > interval '0'),
    primary key (minute, witness_no)
);

-- The latest that this server's clock has said to `take_over`: when it says less it went back.
create table outdial.clock (
    only_row boolean primary key default true check (only_row),
    seen timestamptz not null default '-infinity',
    mend_until timestamptz not null default '-infinity'     -- it went back: a statement that was under way then may end after a look
);
insert into outdial.clock default values;

-- A worker process. A number is never given twice: it is the epoch that fences a worker that was taken for dead.
create table outdial.workers (
    worker_no bigint generated always as identity primary key,
    host text not null,
    pid int not null,
    version text not null,
    started_at timestamptz not null default now(),
    lease_until timestamptz not null,
    called_off bigint not null default 0,           -- its askings for slots up to this one come to nothing
    ended_at timestamptz
);

-- Work of which one worker at a time is enough (outbox, polling, pools, upkeep). Correctness never rests on it.
create table outdial.duties (
    name text primary key,
    worker_no bigint not null,
    until timestamptz not null
);

-- Idempotency keys outlive the records: digests of the job id and of its content.
create table outdial.job_keys (
    id_digest uuid not null primary key,
    content_digest uuid not null,
    job_no bigint not null
) partition by hash (id_digest);
do $$ begin
    for i in 0..7 loop
        execute format('create table outdial.job_keys_%s partition of outdial.job_keys for values with (modulus 8, remainder %s)', i, i);
    end loop;
end $$;

-- The inputs of a routing decision: jobs of one class are decided alike, under whatever rules hold at the time,
-- so that a change of rules, pool or states touches no job.
create table outdial.classes (
    class_no int generated always as identity primary key,
    campaign_id text not null,
    model_id text,                                  -- as the publisher gave it; null: the campaign's
    brand text,                                     -- likewise
    region text,
    country text,
    area text,
    pinned text,                                    -- the publisher's own from_phone_number
    sticky text,                                    -- jobs parked on the number that their callee knows
    -- What dispatch last said of it.
    reason text not null default 'queued',
    due_at timestamptz,
    decided_at timestamptz
) with (fillfactor = 70);

-- Absent is a value here as any other.
create unique index classes_alike on outdial.classes (campaign_id, coalesce(model_id, ''), coalesce(brand, ''), coalesce(region, ''),
    coalesce(country, ''), coalesce(area, ''), coalesce(pinned, ''), coalesce(sticky, ''));

create sequence outdial.job_no;

-- Records lie in ranges of job numbers, each a table of jobs and one of attempts, so that what is old goes without a search.
-- Ranges follow each other without a gap, and their rows stay when records and keys have gone.
create table outdial.partitions (
    first_no bigint primary key,
    end_no bigint not null check (end_no > first_no),   -- the first number that isn't in it
    opened_at timestamptz not null default clock_timestamp(),    -- ahead of its first job
    filled_at timestamptz,                          -- all its numbers were drawn by then
    -- What was found since: jobs below are over, and the last end among them.
    over_upto bigint,
    last_end timestamptz,
    records_gone_at timestamptz,
    keys_gone_at timestamptz
);

create table outdial.jobs (
    job_no bigint primary key,
    job_id text not null,
    campaign_id text not null,
    class_no int not null,
    phone text,                                     -- null, and so the name: erased
    name text,
    region text,
    brand text,
    model_id text,
    from_phone_number text,
    content jsonb not null default '{}',            -- custom_variables, prompt, greeting, lead_email, lead_timezone, consent
    metadata jsonb,
    priority smallint not null,
    not_before timestamptz,
    expires_at timestamptz not null,
    received_at timestamptz not null,
    traceparent text,
    state text not null,
    reason text,
    due_at timestamptz,
    attempts smallint not null default 0,           -- tries begun
    placed smallint not null default 0,             -- tries that the provider accepted
    finished_at timestamptz,
    event_seq int not null default 0
) partition by range (job_no);
create index jobs_by_id on outdial.jobs (job_id);
-- Nothing that changes is indexed: where a page has room an update touches no index.
create index jobs_by_campaign on outdial.jobs (campaign_id, job_no);
create index jobs_by_receipt on outdial.jobs (campaign_id, received_at);     -- a campaign's last jobs, for those who read

-- The work list: jobs that wait, apart from their records. A job stands in exactly one of
-- work (waiting), reservations (has a slot), live (has an attempt that hasn't ended), or is over.
create table outdial.work (
    job_no bigint primary key,
    class_no int not null,
    rank smallint not null,                         -- 9 - priority: the smallest goes first
    ready_at timestamptz,                           -- null: now. Only true dates stand here, never a guess at capacity
    windowed boolean not null default false,        -- it waits for a window or a cap: new rules may open it
    expires_at timestamptz not null
);
create index work_ready on outdial.work (class_no, rank, job_no) where ready_at is null;
create index work_dated on outdial.work (ready_at) where ready_at is not null;
create index work_expiry on outdial.work (expires_at);
create index work_windowed on outdial.work (job_no) where windowed;

-- A slot in time, at most the horizon ahead, made for one job by one worker under one routing version.
create table outdial.reservations (
    job_no bigint primary key,
    worker_no bigint not null,
    class_no int not null,
    rank smallint not null,
    expires_at timestamptz not null,
    campaign_id text not null,
    account text not null,
    number text,                                    -- null: the agent's own default
    number_thing int,
    campaign_thing int not null,
    account_thing int not null,
    slot timestamptz not null,
    routing_version bigint not null,
    recipient text                                  -- the scope of its row in `recipients`; null: none is kept
);
create index reservations_by_worker on outdial.reservations (worker_no);

create table outdial.attempts (
    job_no bigint not null,
    attempt_no smallint not null,
    attempt_id uuid not null,
    worker_no bigint not null,
    campaign_id text not null,
    account text not null,
    model_id text not null,
    brand text,
    phone text,                                     -- null: erased
    region text,
    from_phone_number text,
    routing_version bigint not null,
    rule text,
    decision jsonb not null,
    state text not null,
    disposition text,
    reason text,
    call_id text,
    http_status smallint,
    provider_status text,
    end_reason text,
    provider_error text,
    provider_answer text,                           -- of anything but a plain success, as it came: may hold phone numbers
    from_phone_number_reported text,
    caller_id_verified boolean,
    dry_run boolean not null default false,
    slot timestamptz not null,
    learned_at timestamptz,                         -- given up before, and found to have been placed after all
    submitted_at timestamptz not null,
    placed_at timestamptz,
    ended_at timestamptz,
    duration_s int,
    recording_url text,
    primary key (job_no, attempt_no)
) partition by range (job_no);
create index attempts_by_id on outdial.attempts (attempt_id);

-- Counts beside the records, for those who read: nobody counts ten million of them. Jobs that aren't over and calls that haven't
-- ended are counted where they stand (`work`, `reservations`, `live`); of the others what a statement changes goes into `news` with
-- it, in rows of its own, so that no worker waits for another; `count_up_…` add them up. Counts stay when records go. They wait for
-- nobody: news are only inserted, and who adds them up skips what another has in hand and takes no other lock. Nor do they for vacuum:
-- giving pages back locks a table that every settling of calls writes into. Where many were left empty, the runbook says what to do.
--
-- What is counted of a campaign: jobs by the state in which they are over; `calls`, that were placed; of those `ended` and `answered`.
create table outdial.campaign_news (
    campaign_id text not null,
    what text not null,
    n int not null,
    at timestamptz not null                         -- of calls: when they were placed
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, vacuum_truncate = off);
create table outdial.campaign_counts (
    campaign_id text not null,
    what text not null,
    n bigint not null,
    last_at timestamptz not null,                   -- of calls: when the last was placed
    primary key (campaign_id, what)
) with (fillfactor = 50);
-- Calls that were placed lately: by the minute, and after an hour and a half by twenty.
create table outdial.campaign_pace (
    campaign_id text not null,
    at timestamptz not null,                        -- when the minutes began
    calls int not null,
    primary key (campaign_id, at)
) with (fillfactor = 70);
-- Of a number: calls that have ended, by the hour in which they were submitted.
create table outdial.number_news (
    number text not null,
    hour timestamptz not null,
    ended int not null,
    answered int not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, vacuum_truncate = off);
create table outdial.number_pace (
    number text not null,
    hour timestamptz not null,
    ended int not null,
    answered int not null,
    primary key (number, hour)
) with (fillfactor = 70);

-- Hardly a job is over when it is made: looked at one by one, and by no others.
create function outdial.count_new_job() returns trigger language plpgsql as $$
begin
    insert into outdial.campaign_news (campaign_id, what, n, at) values (new.campaign_id, new.state, 1, now());
    return null;
end $$;
create trigger counted after insert on outdial.jobs
for each row when (new.state in ('done', 'refused', 'expired', 'canceled')) execute function outdial.count_new_job();

create function outdial.count_jobs() returns trigger language plpgsql as $$
begin
    insert into outdial.campaign_news (campaign_id, what, n, at)
    select j.campaign_id, j.state, sum(j.n), now()
    from (select f.campaign_id, f.state, 1 n from fresh f where f.state in ('done', 'refused', 'expired', 'canceled')
          union all
          select s.campaign_id, s.state, -1 from stale s where s.state in ('done', 'refused', 'expired', 'canceled')) j
    group by j.campaign_id, j.state having sum(j.n) <> 0;
    return null;
end $$;
create trigger recounted after update on outdial.jobs referencing old table as stale new table as fresh
for each statement execute function outdial.count_jobs();

-- An attempt is made before it can be placed: one that is new, or taken back, counts nowhere.
create function outdial.count_calls() returns trigger language plpgsql as $$
begin
    insert into outdial.campaign_news (campaign_id, what, n, at)
    select c.campaign_id, 'calls', sum(c.n), c.placed_at
    from (select f.campaign_id, f.placed_at, 1 n from fresh f where f.placed_at is not null
          union all
          select s.campaign_id, s.placed_at, -1 from stale s where s.placed_at is not null) c
    group by c.campaign_id, c.placed_at having sum(c.n) <> 0;
    if not exists (select from fresh f where f.state = 'ended') and not exists (select from stale s where s.state = 'ended') then
        return null;
    end if;

    with ended as materialized (
        select f.campaign_id, f.from_phone_number number, f.submitted_at, coalesce(f.disposition = 'answered', false) answered, 1 n
        from fresh f where f.state = 'ended'
        union all
        select s.campaign_id, s.from_phone_number, s.submitted_at, coalesce(s.disposition = 'answered', false), -1
        from stale s where s.state = 'ended'
    ), numbers as (
        insert into outdial.number_news (number, hour, ended, answered)
        select e.number, date_trunc('hour', e.submitted_at, 'UTC'), sum(e.n), sum(e.n * e.answered::int)
        from ended e where e.number is not null
        group by 1, 2 having sum(e.n) <> 0 or sum(e.n * e.answered::int) <> 0
    )
    insert into outdial.campaign_news (campaign_id, what, n, at)
    select e.campaign_id, 'ended', sum(e.n), now() from ended e group by e.campaign_id having sum(e.n) <> 0
    union all
    select e.campaign_id, 'answered', sum(e.n), now() from ended e where e.answered group by e.campaign_id having sum(e.n) <> 0;
    return null;
end $$;
create trigger recounted after update on outdial.attempts referencing old table as stale new table as fresh
for each statement execute function outdial.count_calls();

-- The table that holds a range's records.
create function outdial.partition_of(p_table text, p_first bigint) returns text language sql immutable as
$$ select format('outdial.%I', p_table || '_' || lpad(p_first::text, greatest(length(p_first::text), 12), '0')) $$;

-- Makes the ranges up to the one that holds p_upto, 64 at most; answers how many it made. A worker may call it, who may not make
-- tables. A table that is attached keeps nobody from reading and writing the others; one that is made as a partition would.
create function outdial.make_partitions(p_upto bigint) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $$
declare
    v_first bigint;
    v_end bigint;
    v_table text;
    v_made int := 0;
begin
    if exists (select 1 from outdial.partitions p where p.end_no > p_upto) then return 0; end if;
    perform pg_advisory_xact_lock(1869968484, 2);
    loop
        -- Those that another has made while the lock was waited for among them.
        v_first := coalesce((select max(p.end_no) from outdial.partitions p), 0);
        exit when v_first > p_upto or v_made = 64;
        v_end := v_first + (select c.partition_size from outdial.control c);
        foreach v_table in array array['jobs', 'attempts'] loop
            -- With room on each page: see jobs_by_campaign.
            execute format('create table %s (like outdial.%I including all) with (fillfactor = 45)',
                           outdial.partition_of(v_table, v_first), v_table);
            execute format('alter table outdial.%I attach partition %s for values from (%s) to (%s)',
                           v_table, outdial.partition_of(v_table, v_first), v_first, v_end);
        end loop;
        insert into outdial.partitions (first_no, end_no) values (v_first, v_end);
        v_made := v_made + 1;
    end loop;
    return v_made;
end $$;

-- Makes room for so many numbers beyond the last that was drawn, and a whole range more. Answers how many ranges are new.
create function outdial.make_room(p_numbers bigint) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_last bigint := (select s.last_value from outdial.job_no s);
begin
    update outdial.partitions p set filled_at = clock_timestamp() where p.filled_at is null and p.end_no <= v_last;
    return outdial.make_partitions(v_last + p_numbers + (select c.partition_size from outdial.control c));
end $$;

-- They make tables: not for whoever may look into this schema. The roles of deploy/postgres have a right of their own.
revoke execute on function outdial.make_partitions(bigint), outdial.make_room(bigint) from public;
select outdial.make_room(0);

-- Attempts that haven't ended: small, so that polling, take-over and evidence don't search the records. Those in `review`
-- hold no places of the limits any more: nobody knows that there is a call.
create table outdial.live (
    attempt_id uuid primary key,
    job_no bigint not null,
    attempt_no smallint not null,
    worker_no bigint not null,
    state text not null check (state in ('submitting', 'placed', 'unknown', 'review')),
    call_id text,
    account text not null,
    model_id text not null,
    class_no int not null,
    rank smallint not null,
    expires_at timestamptz not null,
    campaign_id text not null,
    number text,
    number_thing int,
    campaign_thing int not null,
    account_thing int not null,
    slot timestamptz not null,
    since timestamptz not null,                     -- of the state
    recipient text,                                 -- as in `reservations`
    called_at timestamptz,                          -- where it stands in `recipients`, if that isn't its slot
    late boolean not null default false,            -- learned of after all: its job may stand otherwise
    -- Of an unknown one: how often it was looked for; the first and the last complete look of an unbroken row, all in vain.
    looks int not null default 0,
    looked_at timestamptz,
    clear_since timestamptz,
    clear_until timestamptz
) with (fillfactor = 45);
create index live_by_account on outdial.live (account, slot);
create index live_by_worker on outdial.live (worker_no) where state = 'submitting';
create index live_unknown on outdial.live (account, slot) where state = 'unknown';
create index live_review on outdial.live (campaign_id, slot) where state = 'review';

-- Calls that the provider has placed from another number than was chosen, until somebody has looked at it.
create table outdial.mismatches (
    attempt_id uuid primary key,
    number text not null                            -- the one that was chosen
);

-- The number that a callee knows: per (model_id, brand, phone), 90 days from its last use.
create table outdial.sticky (
    model_id text not null,
    brand text not null,                            -- '' for none
    phone text not null,
    number text not null,
    until timestamptz not null,
    job_no bigint not null,                         -- the job it was made for
    primary key (phone, model_id, brand)
);
create index sticky_until on outdial.sticky (until);

-- Events to be published; a row goes when the broker has confirmed it. Ids are drawn under the subject's row lock,
-- so that their order is the order of what happened to the subject.
create table outdial.outbox (
    id bigint generated always as identity primary key,
    type text not null,
    subject text not null,
    sequence bigint not null,
    time timestamptz not null default clock_timestamp(),
    data jsonb not null,
    traceparent text
);

-- Who stops something (pause, detach, rest, kill switch, new rules) holds this lock alone while it commits;
-- who authorises a call holds it in common. So nothing is authorised after a stop has committed.
create function outdial.stop_lock() returns void language sql as
$$ select pg_advisory_xact_lock(1869968484, 1) $$;
create function outdial.go_lock() returns void language sql as
$$ select pg_advisory_xact_lock_shared(1869968484, 1) $$;

-- To be called under the stop lock, in the transaction that changes something workers must know.
create function outdial.raise_epoch() returns bigint language sql as
$$ update outdial.control set epoch = epoch + 1, changed_at = clock_timestamp() returning epoch $$;
