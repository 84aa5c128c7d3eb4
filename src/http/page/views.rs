//! What is shown.

use axum::extract::{Form, Path, Query};
use axum::http::HeaderMap;
use axum::response::{Html, Redirect};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::parts::{
    as_of, count, facts, figure, grouped, key, meter, moment, shade, share, stack, state, text, told,
    told_twice,
};
use super::session::Session;
use super::{Guest, Proof, Trouble, is_ours};
use crate::clock;
use crate::core::ids::{CampaignId, JobId};
use crate::core::phone::E164;
use crate::core::text::mask_digits;
use crate::engine::explained::ExplainError;
use crate::http::reports::OneCampaign;
use crate::http::segment;
use crate::store::pages::{self, CallsWanted, From, JobsWanted};
use crate::store::{Ledger, reporting};

type Page = Result<Html<String>, Trouble>;

/// Rows of a list; more are for the API.
const ROWS: u32 = 200;
const WINDOWS: [(&str, &str); 5] =
    [("second", "second"), ("minute", "minute"), ("hour", "hour"), ("day", "day"), ("concurrent", "at once")];
/// How a campaign's jobs stand: class, name, field of the view.
const STATES: [(&str, &str, &[&str]); 5] = [
    ("done", "done", &["done"]),
    ("placed", "placed", &["placed"]),
    ("dialing", "dialing", &["dialing"]),
    ("waiting", "waiting", &["waiting"]),
    ("lost", "not dialed or in review", &["refused", "expired", "canceled", "review"]),
];

fn first<K>() -> From<K> {
    From { after: None, limit: ROWS, scanned_max: pages::SCANNED_MAX }
}

fn now_of(standing: &Value) -> DateTime<Utc> {
    text(standing, "now").parse().unwrap_or_else(|_| clock::wall())
}

fn progress(campaign: &Value) -> Markup {
    let parts: Vec<(&str, &str, i64)> = STATES
        .iter()
        .map(|(class, name, fields)| (*class, *name, fields.iter().map(|field| count(campaign, field)).sum()))
        .collect();
    stack(&parts)
}

/// Callees' numbers, for whoever may see them.
fn callee(session: &Session, row: &Value) -> String {
    let phone = text(row, "phone");
    if session.controls() {
        return phone.to_owned();
    }
    if phone.is_empty() {
        String::new()
    } else {
        E164::from_canonical(phone).map_or("***".to_owned(), |number| number.masked())
    }
}

pub(super) async fn overview(guest: Guest) -> Page {
    let reads = &guest.ledger.reads;
    let standing = guest.standing().await?;
    let (now, asked) = (now_of(&standing), clock::uptime());
    let report = guest.ledger.reports.overview(count(&standing, "epoch"), ROWS).await;
    let now = now + clock::uptime().saturating_sub(asked);
    // What stops everything stands on this page: it is there whether or not the jobs can be counted.
    let counted = report.inspect_err(|error| tracing::warn!(%error, "page.failed")).ok();
    let age = counted.as_ref().map(|report| report.age);
    let report = counted.map(|report| report.what).unwrap_or_default();
    let campaigns = &report.campaigns;
    let reasons = &report.waiting;
    let accounts = reporting::accounts(reads).await.map_err(Trouble::of_database)?;
    let sum = |field: &str| campaigns.rows.iter().map(|row| count(row, field)).sum::<i64>();
    let session = &guest.session;
    let most = reasons.iter().map(|row| count(row, "jobs")).max().unwrap_or(0);
    let on = standing["kill_switch"] == Value::Bool(true);
    let body = html! {
        @match age {
            Some(age) => (as_of(now, age)),
            None => p.note.bad role="alert" { "The jobs can't be counted just now: the figures below are none. What can be told to workers can be." },
        }
        div id="figures" data-live {
            dl.figures {
                (figure("Placed, last minute", &grouped(sum("placed_last_minute"))))
                (figure("Placed, last hour", &grouped(sum("placed_last_hour"))))
                (figure("Placed, last day", &grouped(sum("placed_last_day"))))
                (figure("Waiting", &grouped(sum("waiting"))))
                (figure("Calls under way", &grouped(sum("dialing") + sum("placed"))))
                (figure("In review", &grouped(count(&standing, "review"))))
                (figure("Not known yet", &grouped(count(&standing, "unknown"))))
                (figure("Workers", &grouped(count(&standing, "workers"))))
                (figure("Rules, version", &grouped(count(&standing, "routing_version"))))
            }
        }
        h2 { "Campaigns" }
        (key(&STATES.map(|(class, name, _)| (class, name))))
        div.scroll id="campaigns" data-live tabindex="0" role="region" aria-label="Campaigns" {
            table {
                thead { tr {
                    th { "Campaign" } th { "State" } th { "Jobs" } th.n { "Waiting" } th.n { "Done" } th.n { "Answered" }
                    th.n { "Last hour" } th { "Finished" } th { span.unseen { "Actions" } }
                } }
                tbody {
                    @for row in &campaigns.rows {
                        tr {
                            td { a href={ "/campaigns/" (segment::of(text(row, "campaign_id"))) } { (text(row, "campaign_id")) } br; span.dim { (text(row, "brand")) } }
                            td { (state(text(row, "state"))) }
                            td { (progress(row)) }
                            td.n { (grouped(count(row, "waiting"))) }
                            td.n { (grouped(count(row, "done"))) }
                            td.n { (rate(row)) }
                            td.n { (grouped(count(row, "placed_last_hour"))) }
                            td { (moment(&row["expected_finish_at"], now)) }
                            td { @if session.controls() { (switch(session, row)) } }
                        }
                    }
                    @if campaigns.rows.is_empty() { tr { td colspan="9" { "No job has come yet." } } }
                }
            }
        }
        @if campaigns.next.is_some() { p.dim { "More than " (ROWS) " campaigns: the others are at /api/v1/campaigns." } }
        h2 { "Why jobs wait" }
        div.scroll id="waiting" data-live tabindex="0" role="region" aria-label="Why jobs wait" {
            table {
                thead { tr { th { "Reason" } th.n { "Jobs" } th { span.unseen { "Share" } } } }
                tbody {
                    @for row in reasons {
                        @let (reason, jobs) = (text(row, "reason"), count(row, "jobs"));
                        tr {
                            td { (reason.replace('_', " ")) }
                            td.n { (grouped(jobs)) }
                            td { (stack(&[("waiting", reason, jobs), ("", "", most - jobs)])) }
                        }
                    }
                    @if reasons.is_empty() { tr { td colspan="3" { "None waits." } } }
                }
            }
        }
        h2 { "Why jobs were not called" }
        (uncalled_table(&report.uncalled, reporting::LAST_JOBS))
        p.dim { "What could be no job is with the broker: " code { "outdial dead list" } "." }
        h2 { "Accounts" }
        div.scroll id="accounts" data-live tabindex="0" role="region" aria-label="Accounts" {
            table {
                thead { tr { th { "Account" } th { "State" } th { "Calls at once" } th.n { "Calls a second" } th { "Held until" } th { span.unseen { "Actions" } } } }
                tbody {
                    @for row in &accounts {
                        tr {
                            td { (text(row, "account")) br; span.dim { (text(row, "reason")) } }
                            td { (state(text(row, "state"))) }
                            td { (meter("calls at once", count(row, "in_use"), row["concurrent_calls"].as_i64())) }
                            td.n { @match row["calls_per_second"].as_i64() { Some(n) => (grouped(n)), None => span.dim { "no limit" } } }
                            td { (moment(if row["backoff_until"].is_null() { &row["breaker_until"] } else { &row["backoff_until"] }, now)) }
                            td { @if session.controls() {
                                @let path = format!("/do/accounts/{}", segment::of(text(row, "account")));
                                @if text(row, "state") == "active" { (told(&format!("{path}/pause"), session, html! { button { "Pause" } })) }
                                @else { (told(&format!("{path}/resume"), session, html! { button { "Resume" } })) }
                            } }
                        }
                    }
                }
            }
        }
        @if session.controls() {
            h2 { "Everything" }
            div.sheet {
                @if on { (told("/do/kill-switch/off", session, html! { button { "Switch the kill switch off" } })) }
                @else { (told_twice("/do/kill-switch/on", session, "Kill switch", "Stops every call of every account at once. Calls under way go on; no job is lost.")) }
            }
        }
    };
    guest.page("Overview", "Overview", &body).await
}

fn rate(row: &Value) -> Markup {
    match row["answer_rate"].as_f64() {
        Some(rate) => html! { (format!("{:.0} %", 100.0 * rate)) },
        None => html! { span.dim { "–" } },
    }
}

/// Of the last `limit` jobs those that are over and were not called.
fn uncalled_table(rows: &[Value], limit: u32) -> Markup {
    html! {
        div.scroll id="uncalled" data-live tabindex="0" role="region" aria-label="Why jobs were not called" {
            table {
                thead { tr { th { "State" } th { "Reason" } th.n { "Jobs" } } }
                tbody {
                    @for row in rows {
                        tr {
                            td { (state(text(row, "state"))) }
                            td { (text(row, "reason").replace('_', " ")) }
                            td.n { (grouped(count(row, "jobs"))) }
                        }
                    }
                    @if rows.is_empty() { tr { td colspan="3" { "None." } } }
                }
            }
        }
        p.dim { "Of the last " (grouped(limit.into())) " jobs received." }
    }
}

/// Pause or resume, whichever is to be had.
fn switch(session: &Session, campaign: &Value) -> Markup {
    let path = format!("/do/campaigns/{}", segment::of(text(campaign, "campaign_id")));
    match text(campaign, "state") {
        "active" => told(&format!("{path}/pause"), session, html! { button { "Pause" } }),
        "paused" => told(&format!("{path}/resume"), session, html! { button { "Resume" } }),
        _ => html! {},
    }
}

pub(super) async fn campaign(guest: Guest, Path(id): Path<String>) -> Page {
    let campaign = CampaignId::parse(segment::id(&id))
        .map_err(|why| Trouble::Bad(format!("The campaign's id {why}")))?;
    let reads = &guest.ledger.reads;
    let standing = guest.standing().await?;
    let (now, asked) = (now_of(&standing), clock::uptime());
    let report = guest.ledger.reports.campaign(count(&standing, "epoch"), campaign.clone()).await;
    let now = now + clock::uptime().saturating_sub(asked);
    let report = report.map_err(Trouble::of_database)?;
    let missing = || Trouble::Missing(format!("There is no campaign {campaign}"));
    let OneCampaign { row, waiting, uncalled } = Option::as_ref(&report.what).ok_or_else(missing)?;
    let wanted = JobsWanted { campaign: Some(&campaign), state: None };
    let jobs =
        pages::jobs(reads, wanted, From { limit: 50, ..first() }).await.map_err(Trouble::of_database)?;
    let session = &guest.session;
    let body = html! {
        (as_of(now, report.age))
        div id="campaign" data-live {
            div.bar { (state(text(row, "state"))) @if session.controls() { (switch(session, row)) } }
            (key(&STATES.map(|(class, name, _)| (class, name))))
            (progress(row))
            dl.figures {
                @for name in ["waiting", "dialing", "placed", "done", "refused", "expired", "canceled", "review", "answered"] {
                    (figure(name, &grouped(count(row, name))))
                }
                (figure("placed, last hour", &grouped(count(row, "placed_last_hour"))))
            }
            p { "Expected to be finished: " (moment(&row["expected_finish_at"], now)) " · last call: " (moment(&row["last_placed_at"], now)) }
        }
        h2 { "Why its jobs wait" }
        div.scroll id="reasons" data-live tabindex="0" role="region" aria-label="Why its jobs wait" {
            table {
                thead { tr { th { "Reason" } th.n { "Jobs" } th { "Oldest" } th { "Next" } } }
                tbody {
                    @for row in waiting {
                        tr {
                            td { (row["reason"].as_str().unwrap_or("queued").replace('_', " ")) }
                            td.n { (grouped(count(row, "jobs"))) }
                            td { (moment(&row["oldest_received_at"], now)) }
                            td { (moment(&row["next_due_at"], now)) }
                        }
                    }
                    @if waiting.is_empty() { tr { td colspan="4" { "None waits." } } }
                }
            }
        }
        h2 { "Why its jobs were not called" }
        (uncalled_table(uncalled, reporting::LAST_JOBS_OF_ONE))
        h2 { "Its last jobs" }
        div.scroll id="jobs" data-live tabindex="0" role="region" aria-label="Its last jobs" {
            table {
                thead { tr { th { "Job" } th { "Callee" } th { "State" } th { "Reason" } th { "Received" } th { "Due" } } }
                tbody {
                    @for row in &jobs.rows {
                        tr {
                            td { a href={ "/jobs/" (segment::of(text(row, "job_id"))) } { (text(row, "job_id")) } }
                            td { (callee(session, row)) }
                            td { (state(text(row, "state"))) }
                            td { (text(row, "reason").replace('_', " ")) }
                            td { (moment(&row["received_at"], now)) }
                            td { (moment(&row["due_at"], now)) }
                        }
                    }
                }
            }
        }
        @if session.controls() && text(row, "state") != "canceled" {
            h2 { "For good" }
            @let path = format!("/do/campaigns/{}/cancel", segment::of(campaign.as_str()));
            div.sheet { (told_twice(&path, session, "Cancel the campaign",
                "Cancels its waiting jobs, and those that are still to come. It can't be taken back. Calls under way go on.")) }
        }
    };
    guest.page(&format!("Campaign {campaign}"), "", &body).await
}

/// The fullest of its limits, in percent.
fn fullest(number: &Value) -> i64 {
    let of = |(window, _): &(&str, &str)| {
        let limit = number[format!("limit_{window}")].as_i64()?;
        Some(share(count(number, &format!("used_{window}")), limit))
    };
    WINDOWS.iter().filter_map(of).max().unwrap_or(0)
}

#[derive(Deserialize)]
pub(super) struct After {
    after: Option<String>,
}

pub(super) async fn numbers(guest: Guest, Query(asked): Query<After>) -> Page {
    let standing = guest.standing().await?;
    let (now, began) = (now_of(&standing), clock::uptime());
    let after = asked.after.as_deref().and_then(E164::from_canonical);
    let reports = &guest.ledger.reports;
    let report = reports.numbers(count(&standing, "epoch"), None, None, From { after, ..first() }).await;
    let now = now + clock::uptime().saturating_sub(began);
    let report = report.map_err(Trouble::of_database)?;
    let page = &report.what;
    let mut fullest_first: Vec<&Value> = page.rows.iter().collect();
    fullest_first.sort_by_key(|row| std::cmp::Reverse(fullest(row)));
    let body = html! {
        (as_of(now, report.age))
        p.dim { "Each box is a number; it fills as the fullest of its limits does. Dashed: not called from." }
        (key(&[("good", "below 80 %"), ("warn", "80 % and more"), ("bad", "at its limit")]))
        ul.grid id="grid" data-live aria-label="Numbers and the fullest of their limits" {
            @for row in &page.rows {
                @let percent = fullest(row);
                @let number = text(row, "number");
                @let off = !matches!(text(row, "state"), "active" | "warming");
                li { a href={ "/numbers/" (number) } class=[off.then_some("off")] title={ (number) " · " (text(row, "state")) " · " (percent) " %" } {
                    svg viewBox="0 0 10 100" preserveAspectRatio="none" aria-hidden="true" {
                        rect class=(shade(percent)) y=(100 - percent) width="10" height=(percent) {}
                    }
                    @let (before, last) = number.split_at(number.len().saturating_sub(4));
                    span { span.unseen { (before) } (last) span.unseen { ", " (text(row, "state")) ", " (percent) " percent of its fullest limit" } }
                } }
            }
        }
        h2 { "The fullest first" }
        div.scroll id="numbers" data-live tabindex="0" role="region" aria-label="Numbers" {
            table {
                thead { tr {
                    th { "Number" } th { "State" }
                    @for (_, name) in WINDOWS { th { (name) } }
                    th.n { "Placed, day" } th.n { "Answered" } th { "Last call" }
                } }
                tbody {
                    @for row in &fullest_first {
                        tr {
                            td { a href={ "/numbers/" (text(row, "number")) } { (text(row, "number")) } br;
                                span.dim { (text(row, "brand")) " " (text(row, "region")) } }
                            td { (state(text(row, "state"))) }
                            @for (window, name) in WINDOWS {
                                td { (meter(name, count(row, &format!("used_{window}")), row[format!("limit_{window}")].as_i64())) }
                            }
                            td.n { (grouped(count(row, "placed_last_day"))) }
                            td.n { (rate(row)) }
                            td { (moment(&row["last_call_at"], now)) }
                        }
                    }
                    @if page.rows.is_empty() { tr { td colspan="10" { "No agent's numbers have been read yet." } } }
                }
            }
        }
        @if let Some(next) = &page.next { p { a href={ "/numbers?after=" (next.replace('+', "%2B")) } { "The next " (ROWS) } } }
    };
    guest.page("Numbers", "Numbers", &body).await
}

pub(super) async fn number(guest: Guest, Path(id): Path<String>) -> Page {
    let number =
        E164::from_canonical(&id).ok_or_else(|| Trouble::Bad("That is no number in E.164.".to_owned()))?;
    let reads = &guest.ledger.reads;
    let standing = guest.standing().await?;
    let now = now_of(&standing);
    let row = reporting::number(reads, &number).await.map_err(Trouble::of_database)?;
    let row = row.ok_or_else(|| Trouble::Missing(format!("Nobody knows the number {}", number.as_str())))?;
    let wanted = CallsWanted { number: Some(&number), ..CallsWanted::default() };
    let calls =
        pages::calls(reads, wanted, From { limit: 50, ..first() }).await.map_err(Trouble::of_database)?;
    let session = &guest.session;
    let path = format!("/do/numbers/{}", number.as_str());
    let body = html! {
        div id="number" data-live {
            div.bar {
                (state(text(&row, "state"))) span.dim { (text(&row, "state_reason")) }
                @if session.controls() {
                    @if matches!(text(&row, "state"), "active" | "warming") { (told(&format!("{path}/rest"), session, html! { button { "Rest" } })) }
                    @else { (told(&format!("{path}/activate"), session, html! { button { "Activate" } })) }
                }
            }
            div.scroll { table { tbody {
                @for (window, name) in WINDOWS {
                    tr { th { (name) } td { (meter(name, count(&row, &format!("used_{window}")), row[format!("limit_{window}")].as_i64())) } }
                }
            } } }
            p { "Last call: " (moment(&row["last_call_at"], now)) " · placed in a day: " (grouped(count(&row, "placed_last_day"))) " · answered: " (rate(&row)) }
        }
        h2 { "About it" }
        div.sheet { (facts(&row, &["number", "state", "state_reason"])) }
        h2 { "Calls from it, among the last ten thousand" }
        (calls_table(session, &calls.rows, now))
    };
    guest.page(&format!("Number {}", number.as_str()), "", &body).await
}

fn calls_table(session: &Session, calls: &[Value], now: DateTime<Utc>) -> Markup {
    html! {
        div.scroll id="calls" data-live tabindex="0" role="region" aria-label="Calls" {
            table {
                thead { tr { th { "Job" } th { "Callee" } th { "State" } th { "Ended" } th { "Rule" } th { "Submitted" } th.n { "Seconds" } } }
                tbody {
                    @for row in calls {
                        tr {
                            td { a href={ "/jobs/" (segment::of(text(row, "job_id"))) } { (text(row, "job_id")) } }
                            td { (callee(session, row)) }
                            td { (state(text(row, "state"))) }
                            td { (text(row, "disposition").replace('_', " ")) }
                            td { (text(row, "rule")) }
                            td { (moment(&row["submitted_at"], now)) }
                            td.n { @if let Some(seconds) = row["duration_s"].as_i64() { (grouped(seconds)) } }
                        }
                    }
                    @if calls.is_empty() { tr { td colspan="7" { "None." } } }
                }
            }
        }
    }
}

pub(super) async fn review(guest: Guest) -> Page {
    let reads = &guest.ledger.reads;
    let standing = guest.standing().await?;
    let now = now_of(&standing);
    let page = pages::review(reads, None, first()).await.map_err(Trouble::of_database)?;
    let session = &guest.session;
    let body = html! {
        p { "The answer to these POSTs got lost, and the search at the provider found nothing that is surely theirs. Look at the provider's own list
             for the callee and the time, then say what became of each. Whoever says " em { "not placed" } " of a call that was placed has somebody rung twice." }
        @for row in &page.rows {
            @let path = format!("/do/review/{}", text(row, "attempt_id"));
            section.sheet aria-label={ "Job " (text(row, "job_id")) } {
                h2 { a href={ "/jobs/" (segment::of(text(row, "job_id"))) } { (text(row, "job_id")) } }
                dl.facts {
                    dt { "campaign" } dd { (text(row, "campaign_id")) }
                    dt { "callee" } dd { (callee(session, row)) }
                    dt { "from" } dd { (row["from_phone_number"].as_str().unwrap_or("the agent's default")) }
                    dt { "agent" } dd { (text(row, "model_id")) " (" (text(row, "account")) ")" }
                    dt { "sent" } dd { (moment(&row["submitted_at"], now)) " · " (text(row, "submitted_at")) }
                    dt { "answered" } dd { @match row["http_status"].as_i64() { Some(status) => { "HTTP " (status) }, None => "nothing" } " " (text(row, "provider_error")) }
                    dt { "looked for" } dd { (count(row, "looks")) " times; not found from " (moment(&row["not_found_from"], now)) " to " (moment(&row["not_found_until"], now)) }
                    dt { "attempt" } dd { (text(row, "attempt_id")) }
                }
                @if session.controls() {
                    div.bar {
                        (told(&format!("{path}/placed"), session, html! {
                            label { "call id " input name="call_id" maxlength="128" size="24" aria-label="The provider's id of the call, if known"; } " "
                            button { "It was placed" }
                        }))
                        (told(&format!("{path}/closed"), session, html! { button { "Nobody will know" } }))
                    }
                    (told_twice(&format!("{path}/not_placed"), session, "It was not placed: dial again", "The job is dialed again. Are you sure that nobody was rung?"))
                }
            }
        }
        @if page.rows.is_empty() { p.note.good { "Nothing is in review." } }
        @if page.next.is_some() { p.dim { "More than " (ROWS) ": the others follow when these are resolved." } }
    };
    guest.page("Review", "Review", &body).await
}

#[derive(Deserialize)]
pub(super) struct Find {
    id: String,
}

pub(super) async fn find_job(_: Guest, Query(asked): Query<Find>) -> Result<Redirect, Trouble> {
    let job = JobId::parse(asked.id.trim()).map_err(|why| Trouble::Bad(format!("A job's id {why}")))?;
    Ok(Redirect::to(&format!("/jobs/{}", segment::of(job.as_str()))))
}

pub(super) async fn job(guest: Guest, Path(id): Path<String>) -> Page {
    let job = JobId::parse(segment::id(&id)).map_err(|why| Trouble::Bad(format!("A job's id {why}")))?;
    let standing = guest.standing().await?;
    let now = now_of(&standing);
    let story = reporting::job_story(&guest.ledger.reads, &job).await.map_err(Trouble::of_database)?;
    let story = story.ok_or_else(|| {
        Trouble::Missing(format!("There is no job {job}. It may not be consumed yet, or be dead-lettered."))
    })?;
    let session = &guest.session;
    let row = &story.job;
    let masked = |row: &Value| {
        let mut row = row.clone();
        if !session.controls() {
            for field in ["end_reason", "provider_status"] {
                if let Some(said) = row[field].as_str() {
                    row[field] = mask_digits(said).into();
                }
            }
            row["recording_url"] = Value::Null;
        }
        row
    };
    let body = html! {
        div id="job" data-live {
            div.bar { (state(text(row, "state"))) span { (text(row, "reason").replace('_', " ")) }
                @if !row["due_at"].is_null() { span { "due " (moment(&row["due_at"], now)) } } }
            div.sheet {
                dl.facts { dt { "callee" } dd { (callee(session, row)) } }
                (facts(row, &["job_id", "phone", "state", "reason"]))
            }
            @if !story.waits.is_null() {
                h2 { "What holds it" }
                div.sheet { (facts(&story.waits, &[])) }
            }
            @for attempt in &story.attempts {
                h2 { "Attempt " (count(attempt, "attempt_no")) }
                div.sheet {
                    div.bar { (state(text(attempt, "state"))) span { (text(attempt, "disposition").replace('_', " ")) }
                        span { "sent " (moment(&attempt["submitted_at"], now)) } }
                    h3 { "Why this number" }
                    dl.facts { dt { "from" } dd { (attempt["from_phone_number"].as_str().unwrap_or("the agent's default")) } dt { "rule" } dd { (text(attempt, "rule")) } }
                    (facts(&attempt["decision"], &["rule"]))
                    h3 { "What became of it" }
                    (facts(&masked(attempt), &["job_id", "attempt_no", "campaign_id", "phone", "region", "decision", "rule", "from_phone_number", "state", "disposition", "brand"]))
                }
            }
            @if story.attempts.is_empty() { h2 { "Attempts" } p { "None yet." } }
        }
        p { a href={ "/campaigns/" (segment::of(text(row, "campaign_id"))) } { "Its campaign" } }
        @if session.controls() && text(row, "state") == "waiting" {
            @let path = format!("/do/jobs/{}/cancel", segment::of(job.as_str()));
            div.sheet { (told_twice(&path, session, "Cancel this job", "It is never dialed. It can't be taken back.")) }
        }
    };
    guest.page(&format!("Job {job}"), "", &body).await
}

#[derive(Deserialize)]
pub(super) struct Ask {
    #[serde(flatten)]
    proof: Proof,
    job: String,
}

const EXAMPLE: &str =
    "{\n  \"campaign_id\": \"spring-sale\",\n  \"phone\": \"+14155550123\",\n  \"name\": \"Ada\"\n}";

pub(super) async fn explain(guest: Guest) -> Page {
    let body = asking(&guest.session, EXAMPLE, &html! {});
    guest.page("Explain", "Explain", &body).await
}

fn asking(session: &Session, job: &str, answer: &Markup) -> Markup {
    html! {
        p { "What would become of a job now: the rule, every candidate, each exclusion. Nothing is written, nobody is called." }
        form method="post" action="/explain" {
            input type="hidden" name="csrf" value=(session.csrf);
            label for="job" { "The job, as a publisher would send it (JSON)" }
            textarea id="job" name="job" required spellcheck="false" { (job) }
            p { button { "Explain" } }
        }
        (answer)
    }
}

pub(super) async fn explained(guest: Guest, headers: HeaderMap, Form(asked): Form<Ask>) -> Page {
    is_ours(&guest.session, &headers, &asked.proof)?;
    let ledger = Ledger::onlooker(guest.ledger.reads.clone());
    let explained = guest.ledger.explainer.explain(&ledger, asked.job.as_bytes(), rand::random()).await;
    let answer = match explained {
        Ok(explanation) => html! {
            h2 { "Answer" }
            p.note role="status" { (state(explanation.outcome.as_str())) " "
                @if let Some(reason) = explanation.reason { (reason.as_str().replace('_', " ")) " " }
                @if let Some(from) = &explanation.from_phone_number { "from " strong { (from) } }
                @if let Some(at) = explanation.at { " at " (at.format("%Y-%m-%d %H:%M:%S UTC")) } }
            pre tabindex="0" { (explanation.to_string()) }
        },
        Err(ExplainError::NoJob(letter)) => html! {
            p.note.bad role="alert" { (ExplainError::NoJob(letter).to_string()) }
        },
        Err(ExplainError::Ledger(error)) => return Err(Trouble::of_database(error)),
    };
    let body = asking(&guest.session, &asked.job, &answer);
    guest.page("Explain", "Explain", &body).await
}
