//! What a job is made of, each alone and as fast as the machine does it: fixed programs to measure outdial against.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use outdial::clock;
use sqlx::PgPool;

use super::ground::job;
use super::ledger;

pub const QUEUE: &str = "bench.part";
/// Jobs to a statement.
const BATCH: usize = 256;
/// Requests, and messages, under way at a time.
const AT_ONCE: usize = 256;
/// Connections that work side by side, as many as there are processors here.
const LANES: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Messages of a quorum queue, acked many at a time
    Consume,
    /// Jobs written down and listed, many to a statement
    Insert,
    /// A slot under four windows, leave, and what became of it: three statements for many jobs
    Steps,
    /// POSTs
    Post,
    /// Messages to a durable queue, confirmed
    Publish,
}

impl Part {
    pub const ALL: &[Self] = &[Self::Consume, Self::Insert, Self::Steps, Self::Post, Self::Publish];
}

/// Gives jobs a second.
pub async fn run(part: Part, amqp: &str, database: &str, provider: &str, jobs: usize) -> Result<f64> {
    let (done, took) = match part {
        Part::Consume => consume(amqp, jobs).await?,
        Part::Insert => insert(database, jobs).await?,
        Part::Steps => steps(database, jobs).await?,
        Part::Post => post(provider, jobs).await?,
        Part::Publish => publish(amqp, jobs).await?,
    };
    ensure!(done == jobs, "{done} of {jobs} were done");
    Ok(jobs as f64 / took.as_secs_f64())
}

type Done = (usize, Duration);

async fn consume(amqp: &str, jobs: usize) -> Result<Done> {
    let connection = Connection::connect(amqp, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(2_000, BasicQosOptions::default()).await?;
    let mut consumer = channel
        .basic_consume(QUEUE.into(), "part".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    let began = clock::monotonic();
    let mut done = 0;
    while done < jobs
        && let Some(delivery) = consumer.next().await
    {
        let delivery = delivery?;
        let _: serde_json::Value = serde_json::from_slice(&delivery.data)?;
        done += 1;
        if done.is_multiple_of(BATCH) || done == jobs {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    let took = began.elapsed();
    connection.close(200, "done".into()).await?;
    Ok((done, took))
}

async fn insert(database: &str, jobs: usize) -> Result<Done> {
    let pool = PgPool::connect(database).await?;
    let content = job(0, 0).to_string();
    let lane = async |lane: usize| {
        let mut done = 0;
        for first in (0..jobs).step_by(BATCH).skip(lane).step_by(LANES) {
            let upto = (first + BATCH).min(jobs);
            done += sqlx::query(
                "with n as (select generate_series($1::bigint, $2::bigint) n), listed as (
                     insert into outdial.work (job_no, class_no, rank, expires_at)
                     select 10000000 + n, 1, 5, now() + interval '1 hour' from n)
                 insert into outdial.jobs (job_no, job_id, campaign_id, class_no, phone, name, content, priority, expires_at, received_at, state)
                 select 10000000 + n, 'part-' || n, 'c0', 1, '+1415' || (2000000 + n), 'Ada', $3::jsonb, 4, now() + interval '1 hour', now(), 'waiting' from n",
            )
            .bind(first as i64)
            .bind(upto as i64 - 1)
            .bind(&content)
            .execute(&pool)
            .await?
            .rows_affected();
        }
        anyhow::Ok(done)
    };
    let began = clock::monotonic();
    let (one, two) = tokio::try_join!(lane(0), lane(1))?;
    Ok(((one + two) as usize, began.elapsed()))
}

/// Under windows that never bind.
async fn steps(database: &str, jobs: usize) -> Result<Done> {
    const NUMBERS: usize = 2_000;
    // As workers have it: compiling these statements costs more than it gives.
    let options: sqlx::postgres::PgConnectOptions = database.parse()?;
    let pool = PgPool::connect_with(options.options([("jit", "off")])).await?;
    let wide = ([Some(1_000), Some(100_000), Some(1_000_000), Some(10_000_000)], None);
    ledger::ground(&pool, ([None; 4], None), &[([None; 4], None)], &vec![wide; NUMBERS], jobs as i64).await;
    // Each lane with numbers of its own.
    let lane = async |lane: usize| {
        let theirs: Vec<i64> = (1..=jobs as i64).filter(|job| *job as usize % LANES == lane).collect();
        for some in theirs.chunks(BATCH) {
            let asks: Vec<(i64, usize, usize)> =
                some.iter().map(|&job| (job, 0, job as usize % NUMBERS)).collect();
            let slots = ledger::reserve(&pool, &asks).await;
            ensure!(slots.iter().all(|answer| answer.slot.is_some()), "a slot was refused");
            let leaves = ledger::leave(&pool, chrono::TimeDelta::hours(1), some).await;
            ensure!(leaves.iter().all(|(_, verdict)| verdict.is_none()), "leave was refused");
            let placed: Vec<_> = leaves.iter().map(|(attempt, _)| (*attempt, "placed", None)).collect();
            ledger::settle(&pool, &placed).await;
        }
        anyhow::Ok(())
    };
    let began = clock::monotonic();
    tokio::try_join!(lane(0), lane(1))?;
    let took = began.elapsed();
    let placed: i64 = sqlx::query_scalar("select count(*) from outdial.live where state = 'placed'")
        .fetch_one(&pool)
        .await?;
    Ok((usize::try_from(placed)?, took))
}

async fn post(provider: &str, jobs: usize) -> Result<Done> {
    let client = reqwest::Client::builder().pool_max_idle_per_host(AT_ONCE).build()?;
    let url = format!("{provider}/calls");
    let body = job(0, 0).to_string();
    let began = clock::monotonic();
    let done = futures_util::stream::iter(0..jobs)
        .map(|_| {
            let request = client.post(&url).bearer_auth("bench").body(body.clone());
            async move { request.send().await?.bytes().await }
        })
        .buffer_unordered(AT_ONCE)
        .filter(|answer| std::future::ready(answer.is_ok()))
        .count()
        .await;
    Ok((done, began.elapsed()))
}

async fn publish(amqp: &str, jobs: usize) -> Result<Done> {
    let connection = Connection::connect(amqp, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let body = job(0, 0).to_string();
    let mut confirms = VecDeque::new();
    let mut done = 0;
    let began = clock::monotonic();
    for n in 0..jobs + AT_ONCE {
        if n < jobs {
            let persistent = BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let key = "bench.events".into();
            confirms.push_back(
                channel.basic_publish("".into(), key, options, body.as_bytes(), persistent).await?,
            );
        }
        if n >= AT_ONCE
            && let Some(confirm) = confirms.pop_front()
        {
            done += usize::from(confirm.await?.is_ack());
        }
    }
    let took = began.elapsed();
    connection.close(200, "done".into()).await?;
    Ok((done, took))
}
