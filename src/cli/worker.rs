//! `outdial worker`: the stages put together, started, and stopped in order.

mod accounts;
mod gauges;
mod meter;
mod metered;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Context, Failure, demand_schema, explainer, insist, job_options};
use crate::broker::{self, Consumer, Links};
use crate::clock;
use crate::config::{Config, Needs};
use crate::core::decide::World;
use crate::core::ids::CampaignId;
use crate::core::reconcile::Patience;
use crate::engine::dispatch::Dispatch;
use crate::engine::health::{Health, Link};
use crate::engine::intake::Intake;
use crate::engine::outbox;
use crate::engine::place::Place;
use crate::engine::ports::IntakeTerms;
use crate::engine::sending::Sending;
use crate::engine::tenure::Tenure;
use crate::engine::upkeep::Upkeep;
use crate::engine::upkeep::retention::{Kept, RetentionLedger};
use crate::engine::world::WorldKeeper;
use crate::http::Server;
use crate::store::{self, Connections, Ledger, Purpose};
#[cfg(feature = "otlp")]
use crate::synthflow;
use crate::telemetry::Metrics;
#[cfg(feature = "otlp")]
use crate::telemetry::otlp::{EXPORT_MAX, Spans};
use accounts::Accounts;
use gauges::Ringing;
use meter::Meter;
use metered::Metered;

/// Connections for those who read over HTTP, beside `database.connections_max`.
const API_READS: u32 = 2;
/// A slot is at most this much further ahead than leave takes to get; far less than the shortest window, so that nothing is lost by it, and
/// short enough that a job behind it hardly notices.
const HORIZON: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do everything but the POST, in records marked so
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let config = context.config(Needs::WORKER)?;
    let signals = Signals::new()?;
    let stop = CancellationToken::new();
    tokio::select! {
        started = Running::start(&config, args.dry_run, stop.clone()) => {
            let running = started?;
            let broken = running.broken.clone();
            tokio::select! {
                () = signals.wait() => {}
                () = broken.cancelled() => {}
            }
            running.stop(&config, stop).await?;
            if broken.is_cancelled() {
                return Err(Failure::new("a stage of the worker ended by itself").mend("see the log above; this is a fault of outdial"));
            }
            Ok(())
        }
        // Nothing has been taken yet: there is nothing to hand back.
        () = signals.wait() => Ok(()),
    }
}

struct Signals {
    stop: CancellationToken,
}

impl Signals {
    /// From the first signal on the worker stops in order; the second ends it at once.
    fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("signals can't be handled: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let stop = CancellationToken::new();
        let told = stop.clone();
        TaskTracker::new().spawn(async move {
            for again in [false, true] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if again {
                    tracing::warn!("worker.stopped.at_once");
                    std::process::exit(1);
                }
                told.cancel();
            }
        });
        Ok(Self { stop })
    }

    async fn wait(&self) {
        self.stop.cancelled().await;
    }
}

/// A worker at work.
struct Running {
    ledger: Arc<Ledger>,
    health: Health,
    /// Stages that end on `stop`.
    stages: TaskTracker,
    /// Those that must outlive them: leases, what is under way, events.
    keepers: TaskTracker,
    keepers_stop: CancellationToken,
    /// A stage ended before it was told to.
    broken: CancellationToken,
}

/// Tells when its stage ends by itself, be it by a panic: a worker without it would keep what others could do.
struct Watched {
    stage: &'static str,
    stop: CancellationToken,
    broken: CancellationToken,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            tracing::error!(stage = self.stage, "worker.stage.ended");
            self.broken.cancel();
        }
    }
}

impl Running {
    /// Runs a stage that ends on `stop` and not before.
    fn stage(
        &self,
        stage: &'static str,
        stop: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let watched = Watched { stage, stop: stop.clone(), broken: self.broken.clone() };
        self.stages.spawn(async move {
            work.await;
            drop(watched);
        });
    }

    async fn start(config: &Config, dry_run: bool, stop: CancellationToken) -> Result<Self, Failure> {
        let (health, metrics) = (Health::new(), Arc::new(Metrics::new()));
        let server = Server::bind(&config.http, health.clone(), Arc::clone(&metrics)).await?;
        let (webhooks, api) = (server.webhooks(), server.api());
        let keepers = TaskTracker::new();
        let keepers_stop = CancellationToken::new();
        let serve_stop = keepers_stop.clone();
        keepers.spawn(async move {
            if let Err(error) = server.serve(serve_stop).await {
                tracing::error!(error = %error, "http.failed");
            }
        });

        let (url, most) = (config.database.url()?, config.database.connections_max);
        let on = Connections::open(url, most, store::PATIENCE_AT_START).await?;
        let pool = on.rest().clone();
        demand_schema(&pool, store::PATIENCE_AT_START).await?;
        let reads = store::connect(url, Purpose::Reads, API_READS, store::PATIENCE_AT_START).await?;
        api.open(pool.clone(), reads, config.events, explainer(config));
        let target = broker::Target::parse(config.amqp.url()?)?;
        broker::prepare(&target, config.amqp.declare, store::PATIENCE_AT_START).await?;

        let lease = config.worker.lease;
        let register = || Ledger::register(on.clone(), lease, config.events, dry_run);
        let ledger = Arc::new(insist(store::PATIENCE_AT_START, register).await?);
        let accounts = Arc::new(Accounts::new(config, &ledger, &metrics, dry_run)?);
        insist(store::PATIENCE_AT_START, || accounts.ensure()).await?;
        // Jobs that come find a place.
        insist(store::PATIENCE_AT_START, || ledger.make_partitions()).await?;
        let tenure = Arc::new(Tenure::default());
        if ledger.in_company() {
            tenure.born_among_others();
        }
        insist(store::PATIENCE_AT_START, || tenure.probe(ledger.as_ref())).await?;
        insist(store::PATIENCE_AT_START, || tenure.renew(ledger.as_ref(), lease)).await?;
        let names = accounts.names();
        let (control, world) = insist(store::PATIENCE_AT_START, || {
            WorldKeeper::first(ledger.as_ref(), &names, config.pool.max_age)
        })
        .await?;
        health.database(Link::Up);
        health.routing(Some(world.version.0).filter(|v| *v > 0));
        let (world_tx, world) = watch::channel(Arc::new(world));
        let running = Self {
            ledger,
            health,
            stages: TaskTracker::new(),
            keepers,
            keepers_stop,
            broken: CancellationToken::new(),
        };
        let most = usize::try_from(config.worker.max_inflight).unwrap_or(usize::MAX);
        let sending = Arc::new(Sending::new(most, config.limits.slack));
        let meter = Arc::new(Meter {
            metrics: Arc::clone(&metrics),
            dry_run,
            #[cfg(feature = "otlp")]
            spans: running.spans(config, &metrics)?,
        });

        let keeper = WorldKeeper {
            ledger: Arc::clone(&running.ledger),
            accounts: names,
            pool_max_age: config.pool.max_age,
            world: world_tx,
            health: running.health.clone(),
        };
        running.keepers.spawn(keeper.keep(control, running.keepers_stop.clone()));
        running.keep_tenure(&tenure, lease);
        accounts.watch(config, &world, &running.stages, &stop).await;
        // From here on nothing is waited for: a signal during the start finds no call under way that it would cut off.
        running.place(config, &world, &tenure, &accounts, &meter, &sending, &stop);
        running.upkeep(config, &world, &sending, &stop);
        accounts.listen(config, &webhooks, &running.stages, &stop);
        gauges::start(&running.ledger, &metrics, &tenure, &running.keepers, &running.keepers_stop);
        let settings =
            broker::Settings { target, declare: config.amqp.declare, prefetch: config.amqp.prefetch };
        running.talk_to_broker(config, settings, &world, &tenure, &meter, &sending, &stop);
        tracing::info!(worker.no = running.ledger.worker_no(), dry_run, "worker.started");
        Ok(running)
    }

    /// The way to the collector of traces, where one is named.
    #[cfg(feature = "otlp")]
    fn spans(&self, config: &Config, metrics: &Metrics) -> Result<Option<Spans>, Failure> {
        let Some(endpoint) = &config.telemetry.otlp_endpoint else { return Ok(None) };
        let (worker_no, lost, stop) =
            (self.ledger.worker_no(), metrics.spans_lost.clone(), self.keepers_stop.clone());
        let failed =
            |why: String| Failure::new(format!("spans can't be sent to telemetry.otlp_endpoint: {why}"));
        let http = synthflow::other_service(endpoint, EXPORT_MAX).map_err(|why| failed(why.to_string()))?;
        Spans::start(http, endpoint, worker_no, lost, &self.keepers, stop).map(Some).map_err(failed)
    }

    fn keep_tenure(&self, tenure: &Arc<Tenure>, lease: Duration) {
        let (tenure, ledger, stop) =
            (Arc::clone(tenure), Arc::clone(&self.ledger), self.keepers_stop.clone());
        self.keepers.spawn(async move { tenure.keep(ledger.as_ref(), lease, stop).await });
    }

    #[expect(clippy::too_many_arguments, reason = "the parts that placing is put together from")]
    fn place(
        &self,
        config: &Config,
        world: &watch::Receiver<Arc<World>>,
        tenure: &Arc<Tenure>,
        accounts: &Arc<Accounts>,
        meter: &Arc<Meter>,
        sending: &Arc<Sending>,
        stop: &CancellationToken,
    ) {
        let inflight = usize::try_from(config.worker.max_inflight).unwrap_or(usize::MAX);
        let (placing, ready) = mpsc::channel(inflight.min(1024));
        let dispatch = Dispatch {
            ledger: Arc::clone(&self.ledger),
            meter: Arc::clone(meter) as _,
            world: world.clone(),
            tenure: Arc::clone(tenure),
            horizon: HORIZON,
            slack: config.limits.slack,
            accounts: accounts.limits(),
            accounts_here: Arc::clone(accounts) as _,
            inflight: Arc::new(Semaphore::new(inflight)),
            placing,
            sending: Arc::clone(sending),
        };
        self.stage("dispatch", stop, dispatch.run(Box::new(rand::random), stop.clone()));
        let place = Place {
            ledger: Arc::clone(&self.ledger),
            caller: Arc::clone(accounts),
            desk: Arc::clone(accounts),
            meter: Arc::clone(meter),
            world: world.clone(),
            tenure: Arc::clone(tenure),
            slack: config.limits.slack,
            sending: Arc::clone(sending),
        };
        self.stage("place", stop, place.run(ready, stop.clone()));
    }

    fn upkeep(
        &self,
        config: &Config,
        world: &watch::Receiver<Arc<World>>,
        sending: &Arc<Sending>,
        stop: &CancellationToken,
    ) {
        let upkeep = Upkeep {
            ledger: Arc::clone(&self.ledger),
            world: world.clone(),
            lease: config.worker.lease,
            in_vain: Patience { quarantine: config.reconcile.quarantine }.in_vain(),
            kept: Kept { records: config.retention.records, keys: config.retention.keys },
            sending: Arc::clone(sending),
        };
        self.stage("upkeep", stop, upkeep.run(stop.clone()));
    }

    #[expect(clippy::too_many_arguments, reason = "the parts that intake is put together from")]
    fn talk_to_broker(
        &self,
        config: &Config,
        settings: broker::Settings,
        world: &watch::Receiver<Arc<World>>,
        tenure: &Arc<Tenure>,
        meter: &Arc<Meter>,
        sending: &Arc<Sending>,
        stop: &CancellationToken,
    ) {
        let (gate, opened) = watch::channel(true);
        let intake = Intake {
            ledger: Arc::new(Ringing { ledger: Arc::clone(&self.ledger), sending: Arc::clone(sending) }),
            terms: Arc::new(Terms { world: world.clone(), tenure: Arc::clone(tenure) }),
            options: job_options(config),
            max_waiting: config.intake.max_waiting,
            gate,
            meter: Arc::clone(meter) as _,
        };
        // The consumer flushes its acks after intake has stopped.
        let void = meter.metrics.acks_void.clone();
        let (messages, consuming) =
            Consumer::start(settings.clone(), opened, void, &self.stages, stop.clone());
        let intake_stop = stop.clone();
        self.stage("intake", stop, async move { intake.run(messages, intake_stop).await });
        let events = broker::Publisher::start(settings, "events", &self.keepers, self.keepers_stop.clone());
        let links = Links { consuming, publishing: events.state() };
        let events = Metered { inner: events, metrics: Arc::clone(&meter.metrics) };
        self.keepers.spawn(links.inform(self.health.clone()));
        let (ledger, stop) = (Arc::clone(&self.ledger), self.keepers_stop.clone());
        self.keepers.spawn(async move {
            outbox::run(ledger.as_ref(), &events, Ledger::clone(&ledger), &stop).await;
        });
    }

    /// Stops in order: nothing new is taken, slots to come are handed back, POSTs in flight are waited for and written,
    /// acks flushed, events published as far as they are written.
    async fn stop(self, config: &Config, stop: CancellationToken) -> Result<(), Failure> {
        tracing::info!("worker.stopping");
        self.health.draining();
        stop.cancel();
        self.stages.close();
        let drained = tokio::time::timeout(config.worker.drain, self.stages.wait()).await.is_ok();
        if drained && let Err(error) = self.ledger.resign().await {
            tracing::warn!(error = %error, "worker.resign.failed");
        }
        self.keepers_stop.cancel();
        self.keepers.close();
        let kept = tokio::time::timeout(KEEPERS_STOP_MAX, self.keepers.wait()).await.is_ok();
        match (drained, kept) {
            (true, _) => {
                tracing::info!("worker.stopped");
                Ok(())
            }
            (false, _) => Err(Failure::new(format!(
                "not everything under way was settled within {}; what is left is taken over by the other workers as unknown",
                humantime::format_duration(config.worker.drain)
            ))
            .mend("raise worker.drain above the HTTP time-out")),
        }
    }
}

/// How long those that only serve others may take to stop.
const KEEPERS_STOP_MAX: Duration = Duration::from_secs(5);

/// What intake must know to date a job.
struct Terms {
    world: watch::Receiver<Arc<World>>,
    tenure: Arc<Tenure>,
}

impl IntakeTerms for Terms {
    fn now(&self) -> DateTime<Utc> {
        // Without a look at the database's clock nothing is accepted anyway: the database is away.
        self.tenure.now().map_or_else(clock::wall, |reading| reading.now)
    }

    fn expires_after(&self, campaign: &CampaignId) -> TimeDelta {
        let after = self.world.borrow().rules.expires_after(campaign);
        TimeDelta::from_std(after).unwrap_or(TimeDelta::MAX)
    }
}
