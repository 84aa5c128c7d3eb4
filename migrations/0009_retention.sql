-- How records and keys that are kept long enough go: records by whole ranges (`partitions` in 0001), or one by one where a job
-- that isn't over keeps its range or where a range takes long to fill; keys of ranges whose records have gone.
-- Locks are taken in the order written in 0001. Who waits for nobody skips what is locked: it will be there the next time.

-- What was over by then has been kept for so long. Where the clock is known to have gone ahead, within a day before, it may be
-- wrong, and nothing comes back that goes too soon: the step doesn't count as time that has passed.
create function outdial.kept_since(p_kept interval) returns timestamptz language sql stable as
$$ select clock_timestamp() - outdial.stepped('-infinity') - p_kept $$;

-- What is younger is needed: logs of limits are made anew from the attempts of the last 25 hours.
create function outdial.demand_old(p_before timestamptz) returns void language plpgsql as $$
begin
    if p_before is null or p_before > clock_timestamp() - interval '26 hours' then
        raise exception 'records of the last 26 hours are needed' using errcode = '22023';
    end if;
end $$;

-- Notes how far the jobs of full ranges are over, p_limit jobs of a range at a time; true: there is more to look at now. Nobody
-- else need look at them again: the end of a job that is over doesn't change, whatever is learned of its calls.
create function outdial.note_ended(p_limit int) returns boolean language plpgsql set enable_seqscan = off as $$
declare
    r record;
    v_n int;
    v_last bigint;
    v_open bigint;
    v_end timestamptz;
    v_more boolean := false;
begin
    for r in select p.first_no, p.end_no, coalesce(p.over_upto, p.first_no) as from_no from outdial.partitions p
             -- Whoever drew the last numbers has written them by now, or failed.
             where p.records_gone_at is null and p.filled_at < clock_timestamp() - interval '1 minute'
               and coalesce(p.over_upto, p.first_no) < p.end_no
             order by p.first_no loop
        -- Where it stands still it costs one look.
        continue when exists (select 1 from outdial.jobs j where j.job_no = r.from_no and j.finished_at is null);
        select count(*), max(s.job_no), min(s.job_no) filter (where s.finished_at is null), max(s.finished_at) into v_n, v_last, v_open, v_end
        from (select j.job_no, j.finished_at from outdial.jobs j
              where j.job_no >= r.from_no and j.job_no < r.end_no order by j.job_no limit p_limit) s;
        v_last := coalesce(v_open, case when v_n = p_limit then v_last + 1 else r.end_no end);
        update outdial.partitions p set over_upto = greatest(p.over_upto, v_last), last_end = greatest(p.last_end, v_end)
        where p.first_no = r.first_no;
        v_more := v_more or (v_open is null and v_last < r.end_no);
    end loop;
    return v_more;
end $$;

-- Whether anything else than the records speaks of jobs of a range: also of those that are over a call may have been learned of late.
create function outdial.range_in_use(p_first bigint, p_end bigint) returns boolean language sql stable as $$
    select exists (select 1 from outdial.work w where w.job_no >= p_first and w.job_no < p_end)
        or exists (select 1 from outdial.reservations r where r.job_no >= p_first and r.job_no < p_end)
        or exists (select 1 from outdial.live l where l.job_no >= p_first and l.job_no < p_end)
        or exists (select 1 from outdial.mismatches m join outdial.attempts a on a.attempt_id = m.attempt_id
                   where a.job_no >= p_first and a.job_no < p_end)
$$;

-- Drops the records of the oldest range whose jobs were all over before p_before, if there is one. Outcomes: `dropped`; `later`,
-- where somebody has a lock on the records for longer than others can be kept waiting behind this one, or the range has just
-- come into use; no row: there is none. A worker may call it, who may not drop tables.
create function outdial.drop_records(p_before timestamptz) returns table (outcome text, first_no bigint, end_no bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    r record;
begin
    perform outdial.demand_old(p_before);
    for r in select p.first_no, p.end_no from outdial.partitions p
             where p.records_gone_at is null and p.over_upto >= p.end_no and coalesce(p.last_end, '-infinity') < p_before
             order by p.first_no for update skip locked loop
        continue when outdial.range_in_use(r.first_no, r.end_no);
        begin
            lock table only outdial.jobs, only outdial.attempts in access exclusive mode;
            -- What was learned while the locks were waited for.
            if outdial.range_in_use(r.first_no, r.end_no) then
                return query select 'later', r.first_no, r.end_no;
                return;
            end if;
            execute format('drop table %s, %s', outdial.partition_of('jobs', r.first_no), outdial.partition_of('attempts', r.first_no));
        exception when lock_not_available or deadlock_detected then
            return query select 'later', r.first_no, r.end_no;
            return;
        end;
        update outdial.partitions p set records_gone_at = clock_timestamp() where p.first_no = r.first_no;
        return query select 'dropped', r.first_no, r.end_no;
        return;
    end loop;
end $$;
revoke execute on function outdial.drop_records(timestamptz) from public;

-- Forgets single jobs that were over before p_before, with their attempts: walks over the records from p_after on, p_limit jobs
-- at a time. Answers how far it came (null: to the end, or to where jobs are younger) and how many it forgot.
create function outdial.forget_records(p_before timestamptz, p_after bigint, p_limit int) returns table (upto bigint, forgotten int)
language plpgsql set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    v_chunk bigint[];
    v_old bigint[];
    v_last bigint;
    v_is_young boolean;
    v_tried bigint[];
    v_n int;
begin
    perform outdial.demand_old(p_before);
    select array_agg(s.job_no order by s.job_no), array_agg(s.job_no order by s.job_no) filter (where s.finished_at < p_before),
           bool_and(s.received_at >= p_before)
    into v_chunk, v_old, v_is_young
    from (select j.job_no, j.received_at, j.finished_at from outdial.jobs j where j.job_no > p_after order by j.job_no limit p_limit) s;
    if v_chunk is null or v_is_young then return query select null::bigint, 0; return; end if;
    v_last := v_chunk[cardinality(v_chunk)];

    v_old := array(select j.job_no from outdial.jobs j
                   where j.job_no > p_after and j.job_no <= v_last and j.job_no = any (v_old) order by j.job_no for update skip locked);
    -- Who writes down a late end holds an attempt, and waits for its job.
    v_tried := array(select a.job_no from outdial.attempts a
                     where a.job_no > p_after and a.job_no <= v_last and a.job_no = any (v_old)
                     order by a.job_no, a.attempt_no for update skip locked);
    -- Under their locks: whoever learns of a call makes it live while it holds the job.
    v_old := array(
        select o.job_no from unnest(v_old) o(job_no)
        left join (select t.job_no, count(*) n from unnest(v_tried) t(job_no) group by t.job_no) t on t.job_no = o.job_no
        left join (select a.job_no, count(*) n from outdial.attempts a
                   where a.job_no > p_after and a.job_no <= v_last and a.job_no = any (v_old) group by a.job_no) a on a.job_no = o.job_no
        where coalesce(t.n, 0) = coalesce(a.n, 0)
          and o.job_no not in (select w.job_no from outdial.work w where w.job_no = any (v_old))
          and o.job_no not in (select r.job_no from outdial.reservations r where r.job_no = any (v_old))
          and o.job_no not in (select l.job_no from outdial.live l)
          and o.job_no not in (select a.job_no from outdial.mismatches m join outdial.attempts a on a.attempt_id = m.attempt_id)
        order by o.job_no);
    delete from outdial.attempts a where a.job_no > p_after and a.job_no <= v_last and a.job_no = any (v_old);
    with gone as (
        delete from outdial.jobs j where j.job_no > p_after and j.job_no <= v_last and j.job_no = any (v_old)
        returning j.job_no, j.finished_at
    ), noted as (
        -- Their keys are kept from then on.
        update outdial.partitions p set last_end = greatest(p.last_end, g.last_end)
        from (select p.first_no, max(g.finished_at) last_end from gone g join outdial.partitions p on g.job_no >= p.first_no and g.job_no < p.end_no
              group by p.first_no) g
        where p.first_no = g.first_no
    )
    select count(*) into v_n from gone;
    return query select case when cardinality(v_chunk) = p_limit then v_last end, v_n;
end $$;

-- Ranges whose keys have been kept long enough: their records have gone, and the last of their jobs was over before p_before.
create function outdial.old_keys(p_before timestamptz) returns table (first_no bigint, end_no bigint) language sql stable as $$
    select p.first_no, p.end_no from outdial.partitions p
    where p.records_gone_at is not null and p.keys_gone_at is null and coalesce(p.last_end, '-infinity') < p_before
    order by p.first_no
$$;

-- Drops the keys of those ranges: walks over all keys from p_after on, p_limit at a time. Answers how far it came (null: to the end,
-- which is noted of the ranges) and how many it dropped. A job that is sent again after that is a new one.
create function outdial.drop_keys(p_first bigint[], p_after uuid, p_limit int) returns table (upto uuid, dropped int)
language plpgsql set enable_seqscan = off as $$
declare
    v_seen int;
    v_last uuid;
    v_n int;
begin
    with chunk as materialized (
        select k.id_digest, k.job_no from outdial.job_keys k
        where k.id_digest > coalesce(p_after, '00000000-0000-0000-0000-000000000000') order by k.id_digest limit p_limit
    ), gone as (
        delete from outdial.job_keys k
        where k.id_digest = any (array(
            select c.id_digest from chunk c join outdial.partitions p on c.job_no >= p.first_no and c.job_no < p.end_no
            where p.first_no = any (p_first) and p.records_gone_at is not null))
        returning 1
    )
    select (select count(*) from chunk), (select c.id_digest from chunk c order by c.id_digest desc limit 1), (select count(*) from gone)
    into v_seen, v_last, v_n;
    if v_seen < p_limit then
        update outdial.partitions p set keys_gone_at = clock_timestamp() where p.first_no = any (p_first) and p.keys_gone_at is null;
        v_last := null;
    end if;
    return query select v_last, v_n;
end $$;
