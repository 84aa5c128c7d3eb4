//! Jobs from the broker into the ledger.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::ledger::{Ledger, ledger_error, unreadable};
use crate::core::decide::Class;
use crate::core::ids::{Brand, CampaignId, ClassNo, JobId, ModelId};
use crate::core::job::Job;
use crate::core::phone::E164;
use crate::engine::ports::{IntakeLedger, LedgerError, NewJob, Receipt};
use crate::failpoint::{self, Point};

/// More classes than this aren't remembered at once; they are looked up again.
const CLASSES_REMEMBERED_MAX: usize = 200_000;

/// The most of jobs' contents in one statement.
const STATEMENT_BYTES_MAX: usize = 2 << 20;

/// What needn't be asked again: classes keep their numbers, campaigns are first seen once.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    classes: Mutex<HashMap<Class, ClassNo>>,
    campaigns: Mutex<HashSet<CampaignId>>,
}

impl IntakeLedger for Ledger {
    async fn accept(&self, batch: &[NewJob]) -> Result<Vec<Receipt>, LedgerError> {
        failpoint::at(Point::BeforeAccept).await?;
        // Only the insert is refused for what a job holds; whatever else goes wrong must not cost a job.
        self.see_campaigns(batch).await.map_err(not_the_jobs)?;
        let classes = self.classes_of(batch).await.map_err(not_the_jobs)?;
        let mut receipts = Vec::with_capacity(batch.len());
        // Statement by statement: what is written already is a duplicate, should a later one fail and all be repeated.
        while receipts.len() < batch.len() {
            let from = receipts.len();
            let upto = from + fitting(&batch[from..]);
            for word in self.insert(&batch[from..upto], &classes[from..upto]).await? {
                receipts.push(receipt(&word).map_err(not_the_jobs)?);
            }
        }
        failpoint::at(Point::AfterAccept).await?;
        Ok(receipts)
    }

    async fn cancel(&self, ids: &[JobId]) -> Result<u64, LedgerError> {
        let ids: Vec<&str> = ids.iter().map(JobId::as_str).collect();
        sqlx::query("select job_id from outdial.cancel($1, $2)")
            .bind(ids)
            .bind(self.events())
            .fetch_all(&self.on.rest)
            .await
            .map(|canceled| canceled.len() as u64)
            .map_err(ledger_error)
    }

    async fn waiting(&self) -> Result<u64, LedgerError> {
        // The planner's estimate is free; a small table's is counted, for there it may be far off.
        let count: i64 = sqlx::query_scalar(
            "select case when c.reltuples > 100000 then c.reltuples::bigint
                         else (select count(*) from (select 1 from outdial.work limit 200000) w) end
             from pg_class c where c.oid = 'outdial.work'::regclass",
        )
        .fetch_one(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

impl Ledger {
    async fn see_campaigns(&self, batch: &[NewJob]) -> Result<(), LedgerError> {
        let new: Vec<CampaignId> = {
            let seen = self.remembered.campaigns.lock().unwrap_or_else(PoisonError::into_inner);
            let new: HashSet<&CampaignId> =
                batch.iter().map(|n| &n.job.campaign_id).filter(|c| !seen.contains(*c)).collect();
            new.into_iter().cloned().collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        sqlx::query("select outdial.see_campaigns($1)")
            .bind(new.iter().map(CampaignId::as_str).collect::<Vec<_>>())
            .execute(&self.on.intake)
            .await
            .map_err(ledger_error)?;
        self.remembered.campaigns.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
        Ok(())
    }

    async fn classes_of(&self, batch: &[NewJob]) -> Result<Vec<ClassNo>, LedgerError> {
        let wanted: Vec<Class> = batch.iter().map(|n| Class::of_job(&n.job)).collect();
        let unknown: Vec<Class> = {
            let known = self.remembered.classes.lock().unwrap_or_else(PoisonError::into_inner);
            let unknown: HashSet<&Class> = wanted.iter().filter(|c| !known.contains_key(*c)).collect();
            unknown.into_iter().cloned().collect()
        };
        let made = if unknown.is_empty() { Vec::new() } else { self.class_numbers_of(&unknown).await? };
        let mut known = self.remembered.classes.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + made.len() > CLASSES_REMEMBERED_MAX {
            known.retain(|class, _| wanted.contains(class));
        }
        known.extend(unknown.into_iter().zip(made));
        wanted.iter().map(|c| known.get(c).copied().ok_or_else(|| unreadable("a class"))).collect()
    }

    async fn insert(&self, batch: &[NewJob], classes: &[ClassNo]) -> Result<Vec<String>, LedgerError> {
        let rows = match self.try_insert(batch, classes).await {
            // Upkeep makes room ahead; a flood may be faster.
            Err(error) if is_out_of_room(&error) => {
                super::retention::make_partitions(&self.on.intake, batch.len())
                    .await
                    .map_err(not_the_jobs)?;
                self.try_insert(batch, classes).await
            }
            done => done,
        };
        let rows = rows.map_err(insert_error)?;
        if rows.len() != batch.len() {
            return Err(not_the_jobs(unreadable("a job key")));
        }
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn try_insert(&self, batch: &[NewJob], classes: &[ClassNo]) -> Result<Vec<PgRow>, sqlx::Error> {
        let jobs = || batch.iter().map(|new| &new.job);
        sqlx::query(
            "select receipt from outdial.accept($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        )
        .bind(jobs().map(|j| Uuid::from_bytes(j.id_digest())).collect::<Vec<_>>())
        .bind(jobs().map(|j| Uuid::from_bytes(j.content_digest())).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.job_id.as_str()).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.campaign_id.as_str()).collect::<Vec<_>>())
        .bind(classes.iter().map(|c| c.0).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.phone.number.as_str()).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.name.as_str()).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.region().map(|r| r.as_str().to_owned())).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.brand.as_ref().map(Brand::as_str)).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.model_id.as_ref().map(ModelId::as_str)).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.from_phone_number.as_ref().map(E164::as_str)).collect::<Vec<_>>())
        .bind(jobs().map(|j| serde_json::to_value(&j.content).ok()).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.metadata.as_ref().map(|m| serde_json::Value::Object(m.as_map().clone()))).collect::<Vec<_>>())
        .bind(jobs().map(|j| i16::from(j.priority.get())).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.not_before).collect::<Vec<Option<DateTime<Utc>>>>())
        .bind(batch.iter().map(|n| n.expires_at).collect::<Vec<_>>())
        .bind(jobs().map(|j| j.received_at).collect::<Vec<_>>())
        .bind(batch.iter().map(|n| n.traceparent.as_deref()).collect::<Vec<_>>())
        .bind(self.events())
        .fetch_all(&self.on.intake)
        .await
    }
}

/// No range of records has these numbers.
fn is_out_of_room(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(db)
             if db.code().as_deref() == Some("23514") && db.constraint().is_none())
}

/// Intake buries the job that a refusal comes down to, so only faults of the data are one: not a missing privilege, a
/// statement that doesn't fit the schema, or an answer that can't be read.
fn insert_error(error: sqlx::Error) -> LedgerError {
    let of_the_data = match &error {
        error if is_out_of_room(error) => false,
        // 22: data exception; 23: integrity constraint.
        sqlx::Error::Database(db) => db.code().is_some_and(|code| matches!(code.get(..2), Some("22" | "23"))),
        sqlx::Error::Encode(_) => true,
        _ => false,
    };
    let error = ledger_error(error);
    if of_the_data { error } else { not_the_jobs(error) }
}

fn not_the_jobs(error: LedgerError) -> LedgerError {
    match error {
        LedgerError::Refused(why) => LedgerError::Unavailable(why),
        unavailable => unavailable,
    }
}

/// How many of the jobs fit into one statement, which has two seconds; at least one.
fn fitting(batch: &[NewJob]) -> usize {
    let mut bytes = 0;
    let fits = |new: &&NewJob| {
        bytes += size_of_job(&new.job);
        bytes <= STATEMENT_BYTES_MAX
    };
    batch.iter().take_while(fits).count().max(1)
}

/// What of a job may be large.
fn size_of_job(job: &Job) -> usize {
    let content = &job.content;
    let variables: usize = content.custom_variables.iter().map(|(key, value)| key.len() + value.len()).sum();
    let texts = [&content.prompt, &content.greeting, &content.lead_email].into_iter().flatten();
    let metadata = job.metadata.as_ref().map_or(0, |metadata| metadata.to_json().len());
    512 + variables + texts.map(String::len).sum::<usize>() + metadata
}

fn receipt(word: &str) -> Result<Receipt, LedgerError> {
    Ok(match word {
        "new" => Receipt::New,
        "duplicate" => Receipt::Duplicate,
        "conflict" => Receipt::Conflict,
        _ => return Err(unreadable("a receipt")),
    })
}
