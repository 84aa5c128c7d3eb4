//! The pipeline of the textbooks, as well as it can be done: a task per message, 64 at once, pooled connections; a number is
//! chosen by a SELECT, the attempt INSERTed, the call POSTed, the record UPDATEd, the message acked. No limits, no rules.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use uuid::Uuid;

use super::provider::number;

pub const QUEUE: &str = "bench.textbook";
const AT_ONCE: u16 = 64;
const CONNECTIONS: u32 = 16;

/// A record as outdial keeps it, as far as this pipeline knows.
pub const SCHEMA: &str = "
    create table numbers (number text primary key, used bigint not null default 0);
    create table calls (
        job_id text primary key, campaign_id text not null, phone text not null, name text not null, model_id text not null,
        content jsonb not null, state text not null, attempt_id uuid not null, from_phone_number text not null, call_id text,
        http_status smallint, received_at timestamptz not null default now(), submitted_at timestamptz, placed_at timestamptz
    ) with (fillfactor = 75);
";

pub async fn fill(database: &str, numbers: usize) -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(1).connect(database).await?;
    sqlx::raw_sql(SCHEMA).execute(&pool).await?;
    let all: Vec<String> = (0..numbers).map(number).collect();
    sqlx::query("insert into numbers (number) select unnest($1::text[])").bind(all).execute(&pool).await?;
    pool.close().await;
    Ok(())
}

pub async fn run(amqp: &str, database: &str, provider: &str, jobs: usize) -> Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .min_connections(CONNECTIONS)
        .connect(database)
        .await?;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let url: Arc<str> = format!("{provider}/calls").into();
    let connection = Connection::connect(amqp, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(AT_ONCE, BasicQosOptions::default()).await?;
    let consumer = channel
        .basic_consume(QUEUE.into(), "textbook".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    consumer
        .take(jobs)
        .for_each_concurrent(usize::from(AT_ONCE), |delivery| {
            let (pool, client, url) = (pool.clone(), client.clone(), Arc::clone(&url));
            async move {
                let outcome = async move {
                    let delivery = delivery?;
                    one(&pool, &client, &url, &delivery.data).await?;
                    delivery.acker.ack(BasicAckOptions::default()).await?;
                    anyhow::Ok(())
                };
                if let Err(error) =
                    tokio::spawn(outcome).await.map_err(anyhow::Error::from).and_then(|done| done)
                {
                    eprintln!("textbook: {error:#}");
                }
            }
        })
        .await;
    connection.close(200, "done".into()).await?;
    // Whoever started it looks at what it has used, and ends it.
    std::future::pending().await
}

async fn one(pool: &PgPool, client: &reqwest::Client, url: &str, body: &[u8]) -> Result<()> {
    let job: Value = serde_json::from_slice(body)?;
    let text = |field: &str| job[field].as_str().context("a field of the job");
    let (id, phone, name, model) = (text("job_id")?, text("phone")?, text("name")?, text("model_id")?);
    let nth = id.rsplit('-').next().and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
    let from: String = sqlx::query_scalar("select number from numbers order by number offset $1 limit 1")
        .bind(nth % 20)
        .fetch_one(pool)
        .await?;
    let attempt = Uuid::now_v7();
    sqlx::query(
        "insert into calls (job_id, campaign_id, phone, name, model_id, content, state, attempt_id, from_phone_number, submitted_at)
         values ($1, $2, $3, $4, $5, $6, 'submitting', $7, $8, now())",
    )
    .bind(id)
    .bind(text("campaign_id")?)
    .bind(phone)
    .bind(name)
    .bind(model)
    .bind(&job)
    .bind(attempt)
    .bind(&from)
    .execute(pool)
    .await?;
    let asked = json!({
        "model_id": model, "phone": phone, "name": name, "from_phone_number": from,
        "custom_variables": [{ "key": "outdial_attempt_id", "value": attempt }],
    });
    let answer = client.post(url).bearer_auth("bench").json(&asked).send().await?;
    let status = answer.status();
    let said: Value = answer.json().await?;
    sqlx::query("update calls set state = 'placed', call_id = $2, http_status = $3, placed_at = now() where job_id = $1")
        .bind(id)
        .bind(said["response"]["call_id"].as_str())
        .bind(status.as_u16() as i16)
        .execute(pool)
        .await?;
    Ok(())
}
