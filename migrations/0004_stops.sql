-- Stops and their ends, by a person or by the worker itself: one statement each. They hold the stop lock alone, so
-- that once they have committed nothing is authorised that they forbid; the epoch tells the workers at once.

-- Something stands otherwise than before: listeners hear of it, and the workers look again. p_field: its name in the event.
create function outdial.tell_state(p_type text, p_field text, p_subject text, p_sequence bigint, p_state text, p_was text,
    p_reason text, p_events text[]) returns void language plpgsql as $$
begin
    insert into outdial.outbox (type, subject, sequence, data)
    select p_type, p_subject, p_sequence,
           jsonb_strip_nulls(jsonb_build_object(p_field, p_subject, 'state', p_state, 'was', p_was, 'reason', p_reason))
    where outdial.wants(p_events, p_type);
    perform outdial.raise_epoch();
end $$;

-- Sets a campaign's state. Answers what it was; null: there is no such campaign; `canceled`: it stays so, for its jobs are over.
create function outdial.set_campaign(p_campaign text, p_state text, p_reason text, p_events text[]) returns text
language plpgsql as $$
declare
    v_was text;
    v_seq bigint;
begin
    perform outdial.stop_lock();
    select state into v_was from outdial.campaigns where campaign_id = p_campaign for update;
    if v_was is null or v_was in (p_state, 'canceled') then return v_was; end if;
    update outdial.campaigns
    set state = p_state, state_reason = p_reason, state_since = clock_timestamp(), event_seq = event_seq + 1,
        refused_in_a_row = case when p_state = 'active' then 0 else refused_in_a_row end
    where campaign_id = p_campaign returning event_seq into v_seq;
    perform outdial.tell_state('campaign.state_changed', 'campaign_id', p_campaign, v_seq, p_state, v_was, p_reason, p_events);
    return v_was;
end $$;

-- Sets a number's state. Answers what it was; null: nobody knows the number.
create function outdial.set_number(p_number text, p_state text, p_reason text, p_events text[]) returns text
language plpgsql as $$
declare
    v_was text;
    v_seq bigint;
begin
    perform outdial.stop_lock();
    select state into v_was from outdial.numbers where number = p_number for update;
    if v_was is null or v_was = p_state then return v_was; end if;
    update outdial.numbers set state = p_state, state_reason = p_reason, state_since = clock_timestamp(), event_seq = event_seq + 1
    where number = p_number returning event_seq into v_seq;
    perform outdial.tell_state('number.state_changed', 'number', p_number, v_seq, p_state, v_was, p_reason, p_events);
    return v_was;
end $$;

-- Stops everything, or lets it go on. Answers how it was.
create function outdial.set_kill_switch(p_on boolean) returns boolean language plpgsql as $$
declare
    v_was boolean;
begin
    perform outdial.stop_lock();
    select kill_switch into v_was from outdial.control for update;
    if v_was <> p_on then
        update outdial.control set kill_switch = p_on;
        perform outdial.raise_epoch();
    end if;
    return v_was;
end $$;

-- Sets an account's state. Answers what it was. An account that no worker has seen yet is made: its name stands in
-- the configuration.
create function outdial.set_account(p_account text, p_state text, p_reason text, p_events text[]) returns text
language plpgsql as $$
declare
    v_was text;
    v_seq bigint;
begin
    perform outdial.stop_lock();
    insert into outdial.accounts (name) values (p_account) on conflict (name) do nothing;
    select state into v_was from outdial.accounts where name = p_account for update;
    if v_was = p_state then return v_was; end if;
    update outdial.accounts
    set state = p_state, state_reason = p_reason, state_since = clock_timestamp(), event_seq = event_seq + 1
    where name = p_account returning event_seq into v_seq;
    -- What workers had found of its key is asked afresh.
    if p_state = 'active' then delete from outdial.worker_keys where account = p_account; end if;
    perform outdial.tell_state('account.state_changed', 'account', p_account, v_seq, p_state, v_was, p_reason, p_events);
    return v_was;
end $$;
