//! The work list: what waits, who may go, and slots for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;

use super::ledger::{Ledger, interval, ledger_error, unreadable};
use super::place::no_leave;
use crate::core::decide::Class;
use crate::core::ids::{
    AccountName, AttemptId, Brand, CampaignId, ClassNo, JobId, JobNo, ModelId, RoutingVersion,
};
use crate::core::job::Content;
use crate::core::ledger::{
    Ask, Authorised, Cap, ClassEnd, ClassHead, ClassStatus, Intent, NoSlot, Park, ParkedUntil, Reserved,
    Settlement, SlotAnswer, SlotAnswers, SlotTerms, StickyKey, Waiting,
};
use crate::core::phone::E164;
use crate::core::states::Reason;
use crate::core::suppression::Scope;
use crate::core::usage::Used;
use crate::engine::ledger::{DispatchLedger, LedgerError, PlaceLedger};
use crate::failpoint::{self, Point};

type Answer<T> = Result<T, LedgerError>;

/// Numbers whose use is read in one statement.
const USED_MAX: usize = 500;

impl DispatchLedger for Ledger {
    async fn heads(&self) -> Answer<Vec<ClassHead>> {
        let rows = sqlx::query("select class_no, rank, job_no from outdial.heads()")
            .fetch_all(&self.on.dispatch)
            .await
            .map_err(ledger_error)?;
        Ok(rows
            .iter()
            .map(|row| ClassHead {
                class_no: ClassNo(row.get(0)),
                rank: row.get(1),
                job_no: JobNo(row.get(2)),
            })
            .collect())
    }

    async fn classes(&self, numbers: &[ClassNo]) -> Answer<Vec<(ClassNo, Class)>> {
        let numbers: Vec<i32> = numbers.iter().map(|n| n.0).collect();
        let rows = sqlx::query(
            "select class_no, campaign_id, model_id, brand, region, country, area, pinned, sticky
             from outdial.classes where class_no = any ($1)",
        )
        .bind(numbers)
        .fetch_all(&self.on.dispatch)
        .await
        .map_err(ledger_error)?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let number = ClassNo(row.get(0));
                class(row)
                    .inspect_err(
                        |error| tracing::error!(error = %error, class.no = number.0, "class.unreadable"),
                    )
                    .ok()
                    .map(|class| (number, class))
            })
            .collect())
    }

    async fn class_numbers(&self, classes: &[Class]) -> Answer<Vec<ClassNo>> {
        self.class_numbers_of(classes).await
    }

    async fn candidates(&self, classes: &[(ClassNo, usize)], (nth, of): (u32, u32)) -> Answer<Vec<Waiting>> {
        let (classes, each): (Vec<i32>, Vec<i64>) =
            classes.iter().map(|(class, each)| (class.0, i64::try_from(*each).unwrap_or(i64::MAX))).unzip();
        let rows = sqlx::query(
            "select job_no, class_no, rank, phone, lead_timezone, consented, suppressed from outdial.candidates($1, $2, $3, $4)",
        )
        .bind(classes)
        .bind(each)
        .bind(i64::from(nth))
        .bind(i64::from(of.max(1)))
        .fetch_all(&self.on.dispatch)
        .await
        .map_err(ledger_error)?;
        rows.iter()
            .map(|row| {
                Ok(Waiting {
                    job_no: JobNo(row.get(0)),
                    class_no: ClassNo(row.get(1)),
                    rank: row.get(2),
                    phone: number(row.get(3))?,
                    lead_timezone: row.get(4),
                    consented: row.get(5),
                    suppressed: row
                        .get::<Vec<String>, _>(6)
                        .iter()
                        .map(|s| scope(s))
                        .collect::<Answer<_>>()?,
                })
            })
            .collect()
    }

    async fn sticky(&self, keys: &[StickyKey]) -> Answer<Vec<Option<E164>>> {
        let models: Vec<&str> = keys.iter().map(|k| k.model.as_str()).collect();
        let brands: Vec<&str> = keys.iter().map(|k| k.brand.as_ref().map_or("", Brand::as_str)).collect();
        let phones: Vec<&str> = keys.iter().map(|k| k.phone.as_str()).collect();
        let rows = sqlx::query(
            "select s.number from unnest($1::text[], $2::text[], $3::text[]) with ordinality k(model, brand, phone, ord)
             left join outdial.sticky s on s.model_id = k.model and s.brand = k.brand and s.phone = k.phone
                and s.until > clock_timestamp()
             order by k.ord",
        )
        .bind(models)
        .bind(brands)
        .bind(phones)
        .fetch_all(&self.on.dispatch)
        .await
        .map_err(ledger_error)?;
        rows.iter().map(|row| row.get::<Option<&str>, _>(0).map(number).transpose()).collect()
    }

    async fn used(&self, numbers: &[E164], slack: Duration) -> Answer<Vec<Used>> {
        let mut all = Vec::with_capacity(numbers.len());
        // In pieces: a statement has two seconds.
        for piece in numbers.chunks(USED_MAX) {
            let rows = sqlx::query(
                "select number, used_second, used_minute, used_hour, used_day, in_use, next_at, last_slot
                 from outdial.used_numbers($1, $2)",
            )
            .bind(piece.iter().map(E164::as_str).collect::<Vec<_>>())
            .bind(interval(slack))
            .fetch_all(&self.on.rest)
            .await
            .map_err(ledger_error)?;
            for row in &rows {
                all.push(used(row)?);
            }
        }
        Ok(all)
    }

    async fn reserve(
        &self,
        version: RoutingVersion,
        terms: SlotTerms,
        asks: &[Ask],
        intents: &[Intent],
    ) -> Answer<SlotAnswers> {
        let jobs: Vec<i64> = asks.iter().map(|a| a.job_no.0).collect();
        let campaigns: Vec<&str> = asks.iter().map(|a| a.campaign.as_str()).collect();
        let accounts: Vec<&str> = asks.iter().map(|a| a.account.as_str()).collect();
        let numbers: Vec<Option<&str>> = asks.iter().map(|a| a.number.as_ref().map(E164::as_str)).collect();
        let sticky = asks.iter().map(|a| a.sticky.as_ref());
        let models: Vec<Option<&str>> = sticky.clone().map(|s| s.map(|s| s.model.as_str())).collect();
        let brands: Vec<Option<&str>> =
            sticky.clone().map(|s| s.map(|s| s.brand.as_ref().map_or("", Brand::as_str))).collect();
        let was: Vec<Option<&str>> =
            sticky.map(|s| s.and_then(|s| s.gives_way.as_ref()).map(E164::as_str)).collect();
        let callers: Vec<Option<String>> =
            asks.iter().map(|a| a.recipient.as_ref().map(|r| r.caller.as_text().into_owned())).collect();
        let caps: Vec<(i32, Cap)> = (1..)
            .zip(asks)
            .flat_map(|(place, ask)| {
                ask.recipient.iter().flat_map(move |r| r.caps.iter().map(move |&cap| (place, cap)))
            })
            .collect();
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let rows = sqlx::query(
            "select job_no, slot, refused, next_at, job_id, phone, name, content, traceparent, received_at, said, attempt_no, verdict
             from outdial.dispatch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                                   $21, $22, $23, $24, $25, $26)",
        )
        .bind(self.asks())
        .bind(self.askings.fetch_add(1, Ordering::AcqRel) + 1)
        .bind(version.0)
        .bind(interval(terms.lead))
        .bind(interval(terms.horizon))
        .bind(interval(terms.slack))
        .bind(interval(terms.soon))
        .bind(jobs)
        .bind(campaigns)
        .bind(accounts)
        .bind(numbers)
        .bind(models)
        .bind(brands)
        .bind(was)
        .bind(callers)
        .bind(caps.iter().map(|(place, _)| *place).collect::<Vec<i32>>())
        .bind(caps.iter().map(|(_, cap)| number(cap.calls)).collect::<Vec<i32>>())
        .bind(caps.iter().map(|(_, cap)| number(cap.seconds)).collect::<Vec<i32>>())
        .bind(intents.iter().map(|i| i.attempt.0).collect::<Vec<_>>())
        .bind(intents.iter().map(|i| i.model.as_str()).collect::<Vec<_>>())
        .bind(intents.iter().map(|i| i.brand.as_ref().map(Brand::as_str)).collect::<Vec<_>>())
        .bind(intents.iter().map(|i| i.region.as_ref().map(|r| r.as_str())).collect::<Vec<_>>())
        .bind(intents.iter().map(|i| i.rule.as_deref()).collect::<Vec<_>>())
        .bind(intents.iter().map(|i| Json(&i.decision)).collect::<Vec<_>>())
        .bind(intents.iter().map(|i| i.window_until).collect::<Vec<_>>())
        .bind(self.dry_run)
        .fetch_all(&self.on.dispatch)
        .await
        .map_err(ledger_error)?;
        let said = rows.first().map(|row| row.get(10));
        let answers = rows.iter().map(slot_answer).collect::<Answer<Vec<_>>>()?;
        let leaves = || answers.iter().filter_map(SlotAnswer::granted).map(|reserved| reserved.leave);
        if leaves().any(|leave| leave.is_none()) {
            failpoint::at(Point::AfterReserve).await?;
        }
        if leaves().any(|leave| leave.is_some()) {
            failpoint::at(Point::AfterAuthorise).await?;
        }
        Ok(SlotAnswers { said, answers })
    }

    async fn undo(&self, slack: Duration, unheard: &[(JobNo, AttemptId)]) -> Answer<()> {
        // The server may be at it still, or hear of it only now.
        sqlx::query("select outdial.call_off($1, $2)")
            .bind(self.asked_as.load(Ordering::Acquire))
            .bind(self.askings.load(Ordering::Acquire))
            .execute(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        // As whoever asked: this process may have been taken for dead since, and have another number.
        sqlx::query("select outdial.release($1, $2)")
            .bind(self.asked_as.load(Ordering::Acquire))
            .bind(unheard.iter().map(|(job_no, _)| job_no.0).collect::<Vec<_>>())
            .execute(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        let unsent: Vec<_> = unheard.iter().map(|(_, attempt)| Settlement::nothing_sent(*attempt)).collect();
        self.settle(slack, &unsent).await.map(drop)
    }

    async fn park(&self, version: RoutingVersion, jobs: &[Park]) -> Answer<()> {
        let numbers: Vec<i64> = jobs.iter().map(|p| p.job_no.0).collect();
        let reasons: Vec<&str> = jobs.iter().map(|p| p.reason.as_str()).collect();
        let dates: Vec<Option<DateTime<Utc>>> = jobs
            .iter()
            .map(|p| match p.until {
                ParkedUntil::Date(date) | ParkedUntil::Look(date) => Some(date),
                ParkedUntil::Now | ParkedUntil::Change => None,
            })
            .collect();
        let held: Vec<bool> =
            jobs.iter().map(|p| matches!(p.until, ParkedUntil::Change | ParkedUntil::Look(_))).collect();
        let classes: Vec<Option<i32>> = jobs.iter().map(|p| p.class_no.map(|c| c.0)).collect();
        sqlx::query("select outdial.park($1, $2, $3, $4, $5, $6, $7)")
            .bind(version.0)
            .bind(numbers)
            .bind(reasons)
            .bind(dates)
            .bind(held)
            .bind(classes)
            .bind(self.events())
            .execute(&self.on.dispatch)
            .await
            .map(drop)
            .map_err(ledger_error)
    }

    async fn end_class(
        &self,
        version: RoutingVersion,
        class: ClassNo,
        end: ClassEnd,
        limit: usize,
    ) -> Answer<usize> {
        let (state, reason) = words_of(end);
        let ended: i32 = sqlx::query_scalar("select outdial.end_class($1, $2, $3, $4, $5, $6)")
            .bind(version.0)
            .bind(class.0)
            .bind(state)
            .bind(reason.as_str())
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(self.events())
            .fetch_one(&self.on.dispatch)
            .await
            .map_err(ledger_error)?;
        Ok(usize::try_from(ended).unwrap_or(0))
    }

    async fn end_jobs(&self, version: RoutingVersion, jobs: &[JobNo], end: ClassEnd) -> Answer<()> {
        let (state, reason) = words_of(end);
        sqlx::query("select outdial.end_jobs($1, $2, $3, $4, $5)")
            .bind(version.0)
            .bind(jobs.iter().map(|j| j.0).collect::<Vec<_>>())
            .bind(state)
            .bind(reason.as_str())
            .bind(self.events())
            .execute(&self.on.dispatch)
            .await
            .map(drop)
            .map_err(ledger_error)
    }

    async fn note(&self, classes: &[ClassStatus]) -> Answer<()> {
        let numbers: Vec<i32> = classes.iter().map(|c| c.class_no.0).collect();
        let reasons: Vec<&str> = classes.iter().map(|c| c.reason.as_str()).collect();
        let dates: Vec<Option<DateTime<Utc>>> = classes.iter().map(|c| c.due_at).collect();
        sqlx::query("select outdial.note_classes($1, $2, $3)")
            .bind(numbers)
            .bind(reasons)
            .bind(dates)
            .execute(&self.on.dispatch)
            .await
            .map(drop)
            .map_err(ledger_error)
    }

    async fn share(&self) -> Answer<(u32, u32)> {
        let row = sqlx::query(
            "select count(*) filter (where worker_no < $1), greatest(count(*), 1) from outdial.workers
             where ended_at is null and lease_until > clock_timestamp()",
        )
        .bind(self.worker_no())
        .fetch_one(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        let (nth, of): (i64, i64) = (row.get(0), row.get(1));
        let of = u32::try_from(of).unwrap_or(1);
        Ok((u32::try_from(nth).unwrap_or(0) % of, of))
    }

    async fn want_pool(&self, model: &ModelId, account: &AccountName) -> Answer<()> {
        super::pool::want_agent(&self.on.dispatch, model, account).await
    }
}

impl Ledger {
    /// The numbers of classes, in order; made where they are new.
    pub(super) async fn class_numbers_of(&self, classes: &[Class]) -> Answer<Vec<ClassNo>> {
        let text = |pick: &dyn Fn(&Class) -> Option<String>| classes.iter().map(pick).collect::<Vec<_>>();
        let rows = sqlx::query("select outdial.class_numbers($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(classes.iter().map(|c| c.campaign.as_str()).collect::<Vec<_>>())
            .bind(text(&|c| c.model.as_ref().map(|m| m.as_str().to_owned())))
            .bind(text(&|c| c.brand.as_ref().map(|b| b.as_str().to_owned())))
            .bind(text(&|c| c.region.as_ref().map(|r| r.as_str().to_owned())))
            .bind(text(&|c| c.country.as_ref().map(|c| c.as_str().to_owned())))
            .bind(text(&|c| c.area.as_ref().map(|a| a.to_string())))
            .bind(text(&|c| c.pinned.as_ref().map(|p| p.as_str().to_owned())))
            .bind(text(&|c| c.sticky.as_ref().map(|s| s.as_str().to_owned())))
            .fetch_all(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(rows.iter().map(|row| ClassNo(row.get(0))).collect())
    }
}

fn words_of(end: ClassEnd) -> (&'static str, Reason) {
    match end {
        ClassEnd::Refused(reason) => ("refused", reason),
        ClassEnd::Canceled => ("canceled", Reason::Canceled),
    }
}

fn class(row: &PgRow) -> Answer<Class> {
    let bad = || unreadable("a class");
    let text = |i: usize| row.get::<Option<&str>, _>(i);
    Ok(Class {
        campaign: CampaignId::parse(row.get(1)).map_err(|_| bad())?,
        model: text(2).map(ModelId::parse).transpose().map_err(|_| bad())?,
        brand: text(3).map(Brand::parse).transpose().map_err(|_| bad())?,
        region: text(4).map(|t| t.parse().map_err(|_| bad())).transpose()?,
        country: text(5).map(|t| t.parse().map_err(|_| bad())).transpose()?,
        area: text(6).map(|t| t.parse().map_err(|_| bad())).transpose()?,
        pinned: text(7).map(number).transpose()?,
        sticky: text(8).map(number).transpose()?,
    })
}

fn scope(text: &str) -> Answer<Scope> {
    Scope::parse(text).ok_or_else(|| unreadable("the scope of a suppression"))
}

pub(super) fn number(text: &str) -> Answer<E164> {
    E164::from_canonical(text).ok_or_else(|| unreadable("a phone number"))
}

fn used(row: &PgRow) -> Answer<Used> {
    let count = |i: usize| u32::try_from(row.get::<i64, _>(i)).unwrap_or(u32::MAX);
    Ok(Used {
        number: number(row.get(0))?,
        second: count(1),
        minute: count(2),
        hour: count(3),
        day: count(4),
        concurrent: count(5),
        next_at: row.get(6),
        last_call: row.get(7),
    })
}

fn slot_answer(row: &PgRow) -> Answer<SlotAnswer> {
    let job_no = JobNo(row.get(0));
    if let Some(word) = row.get::<Option<&str>, _>(2) {
        return Ok(SlotAnswer::None { job_no, why: no_slot(word)?, next_at: row.get(3) });
    }
    let content: Json<Content> = row.try_get(7).map_err(|_| unreadable("a job's content"))?;
    Ok(SlotAnswer::Granted(Box::new(Reserved {
        job_no,
        slot: row.get(1),
        job_id: JobId::parse(row.get(4)).map_err(|_| unreadable("a job id"))?,
        phone: number(row.get(5))?,
        name: row.get(6),
        content: content.0,
        traceparent: row.get(8),
        leave: match (row.get::<Option<i16>, _>(11), row.get::<Option<&str>, _>(12)) {
            (Some(attempt_no), _) => Some(Authorised::Go { attempt_no }),
            (None, Some(word)) => Some(Authorised::No(no_leave(word)?)),
            (None, None) => None,
        },
        received_at: row.get(9),
    })))
}

fn no_slot(word: &str) -> Answer<NoSlot> {
    Ok(match word {
        "stale" => NoSlot::Stale,
        "no_limits" => NoSlot::NoLimits,
        "expired" => NoSlot::Expired,
        "account_paused" => NoSlot::AccountPaused,
        "provider_unavailable" => NoSlot::ProviderUnavailable,
        "sticky" => NoSlot::Sticky,
        "number_limit" => NoSlot::NumberLimit,
        "campaign_limit" => NoSlot::CampaignLimit,
        "account_limit" => NoSlot::AccountLimit,
        "recipient_limit" => NoSlot::RecipientLimit,
        "recipient_busy" => NoSlot::RecipientBusy,
        _ => return Err(unreadable("a reason")),
    })
}
