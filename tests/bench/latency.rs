//! From a job's publication to its POST's arrival, at a rate that asks little of anybody; beside a program that does only
//! what can't be avoided: the broker's hop, two commits, one request.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use outdial::clock;
use sqlx::postgres::PgPoolOptions;

use super::ground::{Ground, job};
use super::profile;
use super::provider::{StandIn, now_us};
use super::report::{Findings, percentile};
use super::stage::{NEVER, Size, Stage};

const QUEUE: &str = "bench.chain";
const BETWEEN: Duration = Duration::from_millis(10);
/// For each of the two, in turns: what else the machine does meets both.
const TURNS: usize = 4;
const JOBS_A_TURN: usize = 1_500;
/// The first of a turn find connections closed and caches cold, which isn't asked here.
const LEFT_OUT: usize = 100;

pub async fn findings(ground: &Ground) -> Result<Findings> {
    let stage = Stage::new(ground, "bench", Size::SMALL, NEVER, true, &[]).await?;
    let chain = Chain::new(ground, &stage).await?;
    let worker = stage.worker()?;
    if ground.profile {
        profile::begin(&stage.database).await?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let first = turn * JOBS_A_TURN;
        ours.extend(turn_of(ground, &stage.provider, "outdial.jobs", first, None).await?);
        theirs.extend(turn_of(ground, &stage.provider, QUEUE, first, Some(&chain)).await?);
    }
    if ground.profile {
        profile::tell(&stage.database, TURNS * JOBS_A_TURN).await?;
    }
    stage.stop(worker).await?;
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let mut found = Findings::default();
    for (part, name, most) in [(0.5, "p50", 2.0), (0.99, "p99", 4.0)] {
        let (our, their) = (percentile(&ours, part), percentile(&theirs, part));
        found.add(format!("outdial: {name}, ms"), our);
        found.add(format!("hop, two commits and request: {name}, ms"), their);
        found.at_most(format!("times that: {name}"), our / their, most);
    }
    Ok(found)
}

/// Publishes one job after the other and gives how long each took, in milliseconds.
async fn turn_of(
    ground: &Ground,
    provider: &StandIn,
    queue: &str,
    first: usize,
    chain: Option<&Chain>,
) -> Result<Vec<f64>> {
    provider.reset().await?;
    let publish = async {
        let mut publisher = ground.publisher().await?;
        let mut sent = HashMap::new();
        let mut ticks = tokio::time::interval(BETWEEN);
        for n in first..first + JOBS_A_TURN {
            ticks.tick().await;
            let job = job(n, n % Size::SMALL.campaigns);
            let callee: u64 = job["phone"].as_str().unwrap_or_default()[1..].parse()?;
            sent.insert(callee, (n, now_us()));
            publisher.publish(queue, &job).await?;
        }
        publisher.close().await?;
        anyhow::Ok(sent)
    };
    let serve = async {
        match chain {
            Some(chain) => chain.serve(ground, provider).await,
            None => Ok(()),
        }
    };
    let (sent, ()) = tokio::try_join!(publish, serve)?;
    let end = clock::monotonic() + Duration::from_secs(30);
    while provider.count().await?.posts < JOBS_A_TURN as u64 {
        ensure!(clock::monotonic() < end, "not every job's POST came");
        tokio::time::sleep(BETWEEN).await;
    }
    let mut took = Vec::new();
    for arrival in provider.arrivals().await? {
        if let Some((n, at)) = sent.get(&arrival.callee)
            && *n >= first + LEFT_OUT
        {
            took.push(arrival.us.saturating_sub(*at) as f64 / 1_000.0);
        }
    }
    Ok(took)
}

/// A program that takes one job after the other, commits twice, and asks.
#[derive(Debug)]
struct Chain {
    database: String,
}

impl Chain {
    async fn new(ground: &Ground, stage: &Stage<'_>) -> Result<Self> {
        let publisher = ground.publisher().await?;
        publisher.empty(QUEUE).await?;
        publisher.close().await?;
        let mut db = stage.records().await?;
        sqlx::query("create table public.chain (job_id text primary key, content jsonb, state text)")
            .execute(&mut db)
            .await?;
        Ok(Self { database: stage.database.clone() })
    }

    async fn serve(&self, ground: &Ground, provider: &StandIn) -> Result<()> {
        let publisher = ground.publisher().await?;
        publisher.channel.basic_qos(64, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer = publisher
            .channel
            .basic_consume(QUEUE.into(), "chain".into(), options, FieldTable::default())
            .await?;
        let db = PgPoolOptions::new().max_connections(8).min_connections(8).connect(&self.database).await?;
        let client = reqwest::Client::new();
        let url = format!("{}/calls", provider.url);
        let (db, client, url) = (&db, &client, url.as_str());
        // Side by side, so that none waits for the one before.
        let done = futures_util::stream::poll_fn(move |context| consumer.poll_next_unpin(context))
            .take(JOBS_A_TURN)
            .map(async |delivery| {
                let delivery = delivery?;
                let job: serde_json::Value = serde_json::from_slice(&delivery.data)?;
                sqlx::query("insert into public.chain values ($1, $2, 'waiting')")
                    .bind(job["job_id"].as_str())
                    .bind(&job)
                    .execute(db)
                    .await?;
                sqlx::query("update public.chain set state = 'submitting' where job_id = $1")
                    .bind(job["job_id"].as_str())
                    .execute(db)
                    .await?;
                client.post(url).bearer_auth("bench").json(&job).send().await?.bytes().await?;
                delivery.acker.ack(BasicAckOptions::default()).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(64);
        done.try_collect::<()>().await?;
        publisher.close().await
    }
}
