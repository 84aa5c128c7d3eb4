//! Configuration: flag > environment > file > default, typed and checked once, at start.
//!
//! Nothing is ignored: an unknown key, a bad value, a missing secret or a key that this version can't honour yet
//! stops the program with every fault at once. `config/outdial.toml` lists every key; tests hold it and this
//! file equal, and write `deploy/docs/configuration.md` from both.

mod accounts;
pub mod fault;
pub mod given;
mod layers;
mod reader;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

pub use accounts::{Account, HOSTS};
pub use fault::{Fault, Faults, Origin};
pub use layers::Sources;

use crate::core::events::{EventType, EventTypes};
use crate::core::ids::AccountName;
use crate::core::job::UnknownFields;
use crate::core::phone::PhoneCheck;
use given::{Bad, Given, Reading};
use layers::Layers;
use reader::{Reader, seconds};

/// Read where neither `--config` nor `OUTDIAL_CONFIG` names another; it need not exist.
pub const DEFAULT_PATH: &str = "config/outdial.toml";

/// Names that other programs use for the same thing; they win over `OUTDIAL__SECTION__KEY`. Each secret among
/// them also as `NAME_FILE`, the path of a file that holds it.
pub const CONVENTIONAL: &[(&str, &str)] = &[
    ("DATABASE_URL", "database.url"),
    ("AMQP_URL", "amqp.url"),
    ("SYNTHFLOW_API_KEY", "accounts.default.api_key"),
    ("SYNTHFLOW_BASE_URL", "accounts.default.base_url"),
    ("SYNTHFLOW_WEBHOOK_SECRET", "accounts.default.webhook_secret"),
    ("OUTDIAL_API_TOKEN", "http.api_token"),
    ("OUTDIAL_API_READ_TOKEN", "http.api_read_token"),
    ("RUST_LOG", "log.filter"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
];

/// Whether a key's value must never be shown.
pub fn is_secret(key: &str) -> bool {
    matches!(key, "database.url" | "amqp.url" | "http.api_token" | "http.api_read_token")
        || (key.starts_with("accounts.") && (key.ends_with(".api_key") || key.ends_with(".webhook_secret")))
}

/// What a command can't do without, beyond a configuration free of faults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs {
    /// `database.url`
    pub database: bool,
    /// `amqp.url`
    pub broker: bool,
    /// An API key for every account, and at least one account.
    pub provider: bool,
    /// An address to serve HTTP on, with tokens where it is reachable from outside.
    pub http: bool,
}

impl Needs {
    pub const NOTHING: Self = Self { database: false, broker: false, provider: false, http: false };
    pub const DATABASE: Self = Self { database: true, ..Self::NOTHING };
    pub const BROKER: Self = Self { broker: true, ..Self::NOTHING };
    pub const PROVIDER: Self = Self { provider: true, database: true, ..Self::NOTHING };
    pub const WORKER: Self = Self { database: true, broker: true, provider: true, http: true };
}

#[derive(Debug)]
pub struct Config {
    pub database: Database,
    pub amqp: Amqp,
    pub accounts: BTreeMap<AccountName, Account>,
    pub limits: Limits,
    pub intake: Intake,
    pub pool: Pool,
    pub calls: Calls,
    pub reconcile: Reconcile,
    pub retention: Retention,
    pub worker: Worker,
    pub http: Http,
    pub events: EventTypes,
    pub log: Log,
    pub telemetry: Telemetry,
}

#[derive(Debug)]
pub struct Database {
    url: Option<SecretString>,
    /// Connections that one process may hold.
    pub connections_max: u32,
}

#[derive(Debug)]
pub struct Amqp {
    url: Option<SecretString>,
    /// False: the topology is only checked (least privilege).
    pub declare: bool,
    /// Messages delivered and not yet acked: about twice the rate times the commit time.
    pub prefetch: u16,
}

#[derive(Debug)]
pub struct Limits {
    /// Delay between the decision and the arrival at the provider that a limit allows for.
    pub slack: Duration,
}

#[derive(Debug)]
pub struct Intake {
    /// Waiting jobs above which no more is consumed.
    pub max_waiting: u64,
    pub unknown_fields: UnknownFields,
    pub phone_check: PhoneCheck,
}

#[derive(Debug)]
pub struct Pool {
    pub refresh: Duration,
    /// A pool older than this refuses nothing: jobs wait `pool_unknown`.
    pub max_age: Duration,
}

#[derive(Debug)]
pub struct Calls {
    /// A call whose end nobody has learned gives its concurrency back after this.
    pub live_max: Duration,
    /// Between two looks at the provider's list of calls.
    pub poll: Duration,
    /// Requests a second to one account for anything but placing calls.
    pub reads_per_second: NonZeroU32,
}

#[derive(Debug)]
pub struct Reconcile {
    /// How long a call of which nobody knows is looked for in vain before a person decides.
    pub quarantine: Duration,
}

/// `None`: for ever.
#[derive(Debug)]
pub struct Retention {
    /// How long the records of a job and its calls are kept at least, from its end on.
    pub records: Option<Duration>,
    /// How long a job's id counts as known, from its end on; never shorter than `records`.
    pub keys: Option<Duration>,
}

#[derive(Debug)]
pub struct Worker {
    /// A worker not heard of for this long loses its reservations to the others.
    pub lease: Duration,
    /// POSTs under way at once.
    pub max_inflight: u32,
    /// How long a stopping worker waits for POSTs under way and results unwritten.
    pub drain: Duration,
}

#[derive(Debug)]
pub struct Http {
    pub listen: SocketAddr,
    pub api_token: Option<SecretString>,
    pub api_read_token: Option<SecretString>,
    /// Webhooks come here and not to `listen`; it needs no token, for they are signed.
    pub webhook_listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

#[derive(Debug)]
pub struct Log {
    pub format: LogFormat,
    /// As `RUST_LOG`: `info`, `outdial=debug,warn`, …
    pub filter: String,
}

#[derive(Debug)]
pub struct Telemetry {
    /// Where spans go by OTLP/HTTP, without a slash at its end; `None`: nowhere. Given, it stops a build that
    /// can't send them.
    pub otlp_endpoint: Option<String>,
}

impl Database {
    /// # Errors
    /// Where it isn't set; a command that states its [`Needs`] never sees it.
    pub fn url(&self) -> Result<&SecretString, Faults> {
        self.url.as_ref().ok_or_else(|| missing("database.url", "DATABASE_URL", DATABASE_URL))
    }
}

impl Amqp {
    /// # Errors
    /// Where it isn't set; a command that states its [`Needs`] never sees it.
    pub fn url(&self) -> Result<&SecretString, Faults> {
        self.url.as_ref().ok_or_else(|| missing("amqp.url", "AMQP_URL", AMQP_URL))
    }
}

const DATABASE_URL: &str = "postgres://USER:PASSWORD@HOST:5432/NAME";
const AMQP_URL: &str = "amqp://USER:PASSWORD@HOST:5672/VHOST, amqps:// for TLS";

fn missing(key: &str, variable: &str, takes: &str) -> Faults {
    let (what, mend) = ("is missing".to_owned(), how_to_set(variable, takes));
    Faults(vec![Fault { key: key.to_owned(), origin: Origin::Nowhere, what, mend }])
}

fn how_to_set(variable: &str, takes: &str) -> String {
    format!("set {variable} (or {variable}_FILE) to {takes}")
}

impl Config {
    /// # Errors
    /// Every fault that there is, and every missing thing that `needs` names.
    pub fn load(sources: &Sources, needs: Needs) -> Result<Self, Faults> {
        let (config, faults, _) = Self::read(Layers::gather(sources), needs);
        if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
    }

    /// The configuration as far as it can be read, its faults, and the keys that exist.
    fn read(layers: Layers, needs: Needs) -> (Self, Vec<Fault>, BTreeSet<String>) {
        let mut r = Reader::new(layers);
        let config = Self {
            database: Database::read(&mut r, needs.database),
            amqp: Amqp::read(&mut r, needs.broker),
            accounts: accounts::read(&mut r, needs.provider),
            limits: Limits {
                slack: Duration::from_millis(r.or("limits.slack_ms", 100, |v| v.whole(0..=10_000))),
            },
            intake: Intake::read(&mut r),
            pool: Pool::read(&mut r),
            calls: Calls::read(&mut r),
            reconcile: Reconcile::read(&mut r),
            retention: Retention::read(&mut r),
            worker: Worker::read(&mut r),
            http: Http::read(&mut r, needs.http),
            events: r.or("events.types", EventTypes::all(), event_types),
            log: Log::read(&mut r),
            telemetry: Telemetry::read(&mut r),
        };
        let (faults, known) = r.finish();
        (config, faults, known)
    }
}

impl Database {
    fn read(r: &mut Reader, needed: bool) -> Self {
        let url = r.secret("database.url", |v| scheme(v, &["postgres", "postgresql"], DATABASE_URL));
        if needed && url.is_none() {
            r.demand("database.url", &how_to_set("DATABASE_URL", DATABASE_URL));
        }
        Self { url, connections_max: r.or("database.connections_max", 12, |v| v.whole_u32(4..=200)) }
    }
}

impl Amqp {
    fn read(r: &mut Reader, needed: bool) -> Self {
        let url = r.secret("amqp.url", |v| scheme(v, &["amqp", "amqps"], AMQP_URL));
        if needed && url.is_none() {
            r.demand("amqp.url", &how_to_set("AMQP_URL", AMQP_URL));
        }
        let prefetch = r.or("amqp.prefetch", 500, |v| v.whole_u32(1..=10_000));
        Self {
            url,
            declare: r.or("amqp.declare", true, Given::boolean),
            prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX),
        }
    }
}

impl Intake {
    fn read(r: &mut Reader) -> Self {
        let unknown = [("reject", UnknownFields::Reject), ("ignore", UnknownFields::Ignore)];
        let check = [("valid", PhoneCheck::Valid), ("possible", PhoneCheck::Possible)];
        Self {
            max_waiting: r.or("intake.max_waiting", 1_000_000, |v| v.whole(1..=1_000_000_000)),
            unknown_fields: r.or("intake.unknown_fields", UnknownFields::Reject, |v| v.word(&unknown)),
            phone_check: r.or("intake.phone_check", PhoneCheck::Valid, |v| v.word(&check)),
        }
    }
}

impl Pool {
    fn read(r: &mut Reader) -> Self {
        let origin = r.origin_of("pool.max_age");
        let refresh = r.or("pool.refresh", Duration::from_secs(300), |v| v.duration(seconds(1, 86_400)));
        let max_age = r.or("pool.max_age", Duration::from_secs(3_600), |v| v.duration(seconds(2, 604_800)));
        if max_age <= refresh {
            let what =
                "is not longer than pool.refresh: every pool would be too old to use before it is read again";
            r.fault("pool.max_age", origin, Bad::new(what, "make it several times pool.refresh"));
        }
        Self { refresh, max_age }
    }
}

impl Calls {
    fn read(r: &mut Reader) -> Self {
        Self {
            live_max: r
                .or("calls.live_max", Duration::from_secs(7_200), |v| v.duration(seconds(10, 604_800))),
            poll: r.or("calls.poll", Duration::from_secs(5), |v| {
                v.duration(Duration::from_millis(100)..=Duration::from_secs(600))
            }),
            reads_per_second: r.or("calls.reads_per_second", READS_PER_SECOND, |v| {
                Ok(NonZeroU32::new(v.whole_u32(1..=1_000)?).unwrap_or(NonZeroU32::MIN))
            }),
        }
    }
}

/// Requests a second to one account, where the configuration doesn't say otherwise.
const READS_PER_SECOND: NonZeroU32 = NonZeroU32::new(5).unwrap();

impl Reconcile {
    fn read(r: &mut Reader) -> Self {
        let half_an_hour = Duration::from_secs(1_800);
        Self { quarantine: r.or("reconcile.quarantine", half_an_hour, |v| v.duration(seconds(1, 604_800))) }
    }
}

/// Logs of limits are made anew from the records of the last 25 hours. A year of humantime has 365.25 days.
const KEPT: std::ops::RangeInclusive<Duration> = seconds(2 * 86_400, 10 * 31_557_600);

impl Retention {
    fn read(r: &mut Reader) -> Self {
        let (records_from, keys_from) = (r.origin_of("retention.records"), r.origin_of("retention.keys"));
        let records = r.optional("retention.records", |v| v.duration_or_forever(KEPT));
        let keys = r.optional("retention.keys", |v| v.duration_or_forever(KEPT));
        // Of one that can't be read nobody knows how it stands to the other.
        let both_read = (records.is_some() || records_from == Origin::Nowhere)
            && (keys.is_some() || keys_from == Origin::Nowhere);
        let retention = Self { records: records.flatten(), keys: keys.flatten() };
        let bad = match (retention.records, retention.keys) {
            _ if !both_read => None,
            (None, Some(_)) => Some(Bad::new(
                "is a length of time, but records are kept for ever, and a job's key outlives its record",
                "set retention.records, too, or leave it at \"forever\"",
            )),
            (Some(records), Some(keys)) if keys < records => Some(Bad::new(
                "is shorter than retention.records: a job that is sent again would be dialed again while its record still stands",
                "make it at least as long as retention.records",
            )),
            _ => None,
        };
        if let Some(bad) = bad {
            r.fault("retention.keys", keys_from, bad);
        }
        retention
    }
}

impl Worker {
    fn read(r: &mut Reader) -> Self {
        Self {
            lease: r.or("worker.lease", Duration::from_secs(10), |v| v.duration(seconds(3, 300))),
            max_inflight: r.or("worker.max_inflight", 512, |v| v.whole_u32(1..=10_000)),
            drain: r.or("worker.drain", Duration::from_secs(35), |v| v.duration(seconds(1, 600))),
        }
    }
}

impl Http {
    fn read(r: &mut Reader, needed: bool) -> Self {
        let (origin, origin_of_read) = (r.origin_of("http.listen"), r.origin_of("http.api_read_token"));
        let listen = r.or("http.listen", SocketAddr::from(([127, 0, 0, 1], 8080)), Given::socket);
        let http = Self {
            listen,
            api_token: r.secret("http.api_token", token),
            api_read_token: r.secret("http.api_read_token", token),
            webhook_listen: r.optional("webhook.listen", Given::socket),
        };
        // Whoever only reads would control.
        if let (Some(control), Some(read)) = (&http.api_token, &http.api_read_token)
            && control.expose_secret() == read.expose_secret()
        {
            let bad = Bad::new("it is the token that controls", "give OUTDIAL_API_READ_TOKEN another one");
            r.fault("http.api_read_token", origin_of_read, bad);
        }
        if needed && !http.may_listen() {
            let what = format!("{listen} can be reached from other machines, and no token is set");
            let mend = "set OUTDIAL_API_TOKEN (or OUTDIAL_API_TOKEN_FILE), or listen on 127.0.0.1";
            r.fault("http.listen", origin, Bad::new(what, mend));
        }
        http
    }

    /// Beyond loopback only with a token.
    pub fn may_listen(&self) -> bool {
        self.listen.ip().is_loopback() || self.api_token.is_some()
    }
}

impl Log {
    fn read(r: &mut Reader) -> Self {
        let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
        Self {
            format: r.or("log.format", LogFormat::Auto, |v| v.word(&formats)),
            filter: r.or("log.filter", "info".to_owned(), |v| {
                let takes = "a level (error, warn, info, debug, trace), or target=level,…";
                let filter = v.text(takes)?;
                match tracing_subscriber::EnvFilter::builder().parse(filter) {
                    Ok(_) => Ok(filter.to_owned()),
                    Err(_) => Err(Bad::new(format!("{filter:?} is not a log filter"), takes)),
                }
            }),
        }
    }
}

impl Telemetry {
    fn read(r: &mut Reader) -> Self {
        let key = "telemetry.otlp_endpoint";
        let takes = "an address that begins with http:// or https://, such as http://localhost:4318";
        let origin = r.origin_of(key);
        let otlp_endpoint = r.optional(key, |v| Ok(v.web_address(takes)?.trim_end_matches('/').to_owned()));
        // Without a word, whoever set it would wait for spans that never come.
        if otlp_endpoint.is_some() && !cfg!(feature = "otlp") {
            let what = "not_supported: this build has no OTLP in it";
            let mend =
                "take a build with it (cargo build --features otlp), as the release image is, or remove it";
            r.fault(key, origin, Bad::new(what, mend));
        }
        Self { otlp_endpoint }
    }
}

fn event_types(given: &Given) -> Reading<EventTypes> {
    let known: Vec<&str> = EventType::ALL.iter().map(|t| t.as_str()).collect();
    let takes = format!("[\"*\"] for all, or some of: {}", known.join(", "));
    let words = given.list(&takes)?;
    if words == ["*"] {
        return Ok(EventTypes::all());
    }
    let mut types = Vec::with_capacity(words.len());
    for word in words {
        let bad = || Bad::new(format!("{word:?} is no event"), takes.as_str());
        types.push(EventType::parse(&word).ok_or_else(bad)?);
    }
    Ok(EventTypes::only(types))
}

/// Says nothing of the rest of the address: it holds a password.
fn scheme<'a>(given: &'a Given, schemes: &[&str], takes: &str) -> Reading<&'a str> {
    let url = given.text(takes)?;
    match url.split_once("://") {
        Some((scheme, rest)) if schemes.contains(&scheme) && !rest.is_empty() => Ok(url),
        _ => Err(Bad::new(format!("doesn't begin with {}://", schemes.join(":// or ")), takes)),
    }
}

fn token(given: &Given) -> Reading<&str> {
    const BYTES_MIN: usize = 16;
    let takes = format!("{BYTES_MIN} or more visible characters; make them with: openssl rand -hex 32");
    let text = given.text(&takes)?;
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    if visible && text.len() >= BYTES_MIN {
        return Ok(text);
    }
    let what = format!("is shorter than {BYTES_MIN} characters, or has some that a header can't carry");
    Err(Bad::new(what, takes))
}
