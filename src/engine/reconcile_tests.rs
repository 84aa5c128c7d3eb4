#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::num::NonZeroU32;
use std::sync::Mutex;

use uuid::Uuid;

use super::*;
use crate::core::call::Assistant;
use crate::core::ends::End;
use crate::core::ids::CampaignId;
use crate::core::phone::E164;
use crate::core::rules::Compiled;
use crate::engine::ends::Open as OpenEnds;

const GAP: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

async fn answer_after(contact: &mut Contact, wait: Duration, takes: Duration) {
    tokio::time::sleep(wait).await;
    let asked = clock::monotonic();
    tokio::time::sleep(takes).await;
    contact.answered(asked, clock::monotonic(), GAP);
}

#[tokio::test(start_paused = true)]
async fn many_slow_answers_are_no_silence_but_one_that_took_too_long_is() {
    let mut contact = Contact::default();
    answer_after(&mut contact, Duration::ZERO, SECOND).await;
    assert!(contact.lost_until.take().is_some(), "of the time before the first answer nobody knows anything");
    for _ in 0..20 {
        answer_after(&mut contact, SECOND, 4 * SECOND).await;
    }
    assert_eq!(contact.lost_until, None);
    answer_after(&mut contact, SECOND, 6 * SECOND).await;
    assert_eq!(contact.lost_until.take(), Some(clock::monotonic()));
    answer_after(&mut contact, 6 * SECOND, SECOND).await;
    assert_eq!(contact.lost_until.take(), Some(clock::monotonic()));
}

#[tokio::test(start_paused = true)]
async fn a_silence_breaks_every_row_that_began_before_its_end() {
    let mut search = Search::default();
    let (old, new) = (ModelId::parse("old").unwrap(), ModelId::parse("new").unwrap());
    search.agents.insert(old.clone(), Agent::default());
    answer_after(&mut search.contact, Duration::ZERO, 6 * GAP).await;
    let ended = clock::monotonic();
    tokio::time::sleep(GAP).await;
    search.agents.insert(new.clone(), Agent::default());
    search.heed_silence();
    assert_eq!(search.agents[&old].unbroken_since, ended);
    assert_eq!(search.agents[&new].unbroken_since, ended + GAP, "it came after the silence");
}

/// A provider that hides callees and has placed so many calls, of each of which the ledger knows; and a ledger of one
/// attempt that is not among them.
#[derive(Debug, Clone)]
struct Desert(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    calls: u32,
    takes: Duration,
    /// Seconds of tokio's clock in which nothing is answered.
    silent: std::ops::Range<u64>,
    /// More requests at once are too many.
    at_once_max: usize,
    /// So many looks can't be noted.
    unwritable: u32,
    pages: usize,
    refused: usize,
    under_way: usize,
    most_at_once: usize,
    /// For each look that was noted whether it was complete, and for how long looks may lie apart.
    looks: Vec<(bool, Duration)>,
}

const CALLS: u32 = 6_400;
const QUARANTINE: Duration = Duration::from_secs(100);

fn date(s: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + i64::try_from(s).unwrap(), 0).unwrap()
}

impl Inner {
    fn now_s(&self) -> u64 {
        (clock::monotonic() - self.start).as_secs()
    }
}

impl Desert {
    fn new(takes: Duration, silent: std::ops::Range<u64>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            start: clock::monotonic(),
            calls: CALLS,
            takes,
            silent,
            at_once_max: usize::MAX,
            unwritable: 0,
            pages: 0,
            refused: 0,
            under_way: 0,
            most_at_once: 0,
            looks: Vec::new(),
        })))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Until the first look was noted; gives after how many seconds.
    async fn first_look(&self) -> u64 {
        let account = AccountName::default_account();
        let world = World {
            version: crate::core::ids::RoutingVersion(1),
            rules: Arc::new(Compiled::default()),
            pools: HashMap::new(),
            numbers: HashMap::new(),
            campaigns: HashMap::new(),
            accounts: HashMap::new(),
            kill_switch: false,
        };
        let (_world, world) = watch::channel(Arc::new(world));
        let stage = ReconcileStage {
            keys: Arc::new(AccountKeys::new([account.clone()])),
            account,
            ledger: self.clone(),
            provider: self.clone(),
            duties: self.clone(),
            pace: Arc::new(Pace::of_looks(NonZeroU32::new(100).unwrap())),
            world,
            patience: Patience { quarantine: QUARANTINE },
            lease: Duration::from_secs(3),
            unconfirmed: Arc::new(Notify::new()),
        };
        let cancel = CancellationToken::new();
        let end = async {
            while self.inner().looks.is_empty() && self.inner().now_s() < 600 {
                tokio::time::sleep(SECOND).await;
            }
            cancel.cancel();
        };
        tokio::join!(stage.run(cancel.clone()), end);
        self.inner().now_s()
    }
}

impl ReadsCalls for Desert {
    async fn list_calls(&self, filter: &ListCalls) -> Result<CallPage, ProviderError> {
        let takes = {
            let mut inner = self.inner();
            if inner.under_way >= inner.at_once_max {
                return Err(ProviderError::RateLimited { retry_after: None });
            }
            inner.under_way += 1;
            inner.most_at_once = inner.most_at_once.max(inner.under_way);
            inner.takes
        };
        tokio::time::sleep(takes).await;
        let mut inner = self.inner();
        inner.under_way -= 1;
        if inner.silent.contains(&inner.now_s()) {
            inner.refused += 1;
            return Err(ProviderError::Unavailable("nobody is there".to_owned()));
        }
        inner.pages += 1;
        // Twenty-five a second, up to now.
        let start = |n: u32| date(0) - chrono::TimeDelta::milliseconds(40 * i64::from(n));
        let all = (0..inner.calls).filter(|n| {
            filter.from.is_none_or(|from| start(*n) >= from) && filter.to.is_none_or(|to| start(*n) < to)
        });
        let all: Vec<u32> = all.collect();
        let page = all.iter().skip(filter.offset as usize).take(filter.limit as usize);
        let record = |n: &u32| CallRecord {
            call_id: CallId::parse(&n.to_string()).unwrap(),
            model_id: None,
            status: None,
            end_reason: None,
            error_message: None,
            from: None,
            to: None,
            duration_s: None,
            start_time: Some(start(*n)),
            recording_url: None,
            prompt_variables: BTreeMap::new(),
        };
        Ok(CallPage { calls: page.map(record).collect(), unreadable: 0, total: Some(all.len() as u64) })
    }

    async fn get_call(&self, _: &CallId) -> Result<CallRecord, ProviderError> {
        Err(ProviderError::NotFound { text: None })
    }
}

impl ReadsPools for Desert {
    async fn assistant(&self, _: &ModelId) -> Result<Assistant, ProviderError> {
        Err(ProviderError::NotFound { text: None })
    }
}

impl EndsLedger for Desert {
    async fn open(&self, _: &AccountName, _: usize) -> Answer<OpenEnds> {
        Ok(OpenEnds { by_agent: BTreeMap::new(), now: date(0) })
    }

    async fn overdue(&self, _: Duration, _: usize) -> Answer<Vec<AttemptId>> {
        Ok(Vec::new())
    }

    async fn finish(&self, _: &[End]) -> Answer<Vec<AttemptId>> {
        Ok(Vec::new())
    }

    async fn mismatched(&self) -> Answer<usize> {
        Ok(0)
    }
}

impl EvidenceLedger for Desert {
    async fn unknown(&self, _: &AccountName, _: usize) -> Answer<Sought> {
        let inner = self.inner();
        let unknown = Unknown {
            attempt: AttemptId(Uuid::from_u128(1)),
            campaign: CampaignId::parse("c").unwrap(),
            phone: E164::from_canonical("+14155550100").unwrap(),
            slot: date(0),
            since: date(0),
            looks: 0,
            looked_at: None,
            clear_for: None,
            redialed: false,
        };
        let by_agent = [(ModelId::parse("agent").unwrap(), vec![unknown])].into();
        Ok(Sought { by_agent, now: date(inner.now_s()) })
    }

    async fn known_calls(
        &self,
        _: (DateTime<Utc>, DateTime<Utc>),
        calls: &[CallId],
    ) -> Answer<HashSet<CallId>> {
        Ok(calls.iter().cloned().collect())
    }

    async fn found(&self, _: &AccountName, _: &[(AttemptId, CallId)]) -> Answer<Heard> {
        Ok(Heard { news: 0, twice: 0 })
    }

    async fn looked(&self, _: &[AttemptId], complete: bool, _: DateTime<Utc>, gap: Duration) -> Answer<()> {
        let mut inner = self.inner();
        if inner.unwritable > 0 {
            inner.unwritable -= 1;
            return Err(LedgerError::Unavailable("it is away".to_owned()));
        }
        inner.looks.push((complete, gap));
        Ok(())
    }

    async fn give_up(&self, _: &[(AttemptId, GiveUp)]) -> Answer<usize> {
        Ok(0)
    }
}

impl Duties for Desert {
    async fn hold(&self, _: &str, _: Duration) -> Answer<bool> {
        Ok(true)
    }

    async fn leave(&self, _: &str) -> Answer<()> {
        Ok(())
    }
}

/// Of all calls, with what parting the list adds: a page that tells how many there are, and a last one of each part.
const PAGES_MAX: usize = CALLS as usize / 100 * 4 / 3 + 1;

#[tokio::test(start_paused = true)]
async fn a_look_makes_several_requests_at_once() {
    let desert = Desert::new(SECOND, 0..0);
    let took_s = desert.first_look().await;
    let inner = desert.inner();
    assert!(inner.looks[0].0, "it was complete");
    assert!((CALLS as usize / 100..PAGES_MAX).contains(&inner.pages), "{} pages", inner.pages);
    assert_eq!(inner.most_at_once, AT_ONCE);
    assert!(took_s < inner.pages as u64 / 2, "{} pages in {took_s} s", inner.pages);
}

#[tokio::test(start_paused = true)]
async fn a_look_goes_on_where_requests_got_no_answer() {
    let desert = Desert::new(SECOND, 5..8);
    desert.first_look().await;
    let inner = desert.inner();
    assert!(inner.refused > 0, "some got no answer");
    // It began with the first turn: of the time before nobody knows anything.
    assert_eq!(inner.looks[0], (true, Patience { quarantine: QUARANTINE }.gap()));
    assert!(inner.pages < PAGES_MAX, "{} pages: none was read twice", inner.pages);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_gets_no_answer_for_long_is_broken_off() {
    let desert = Desert::new(SECOND, 5..u64::MAX);
    desert.first_look().await;
    let inner = desert.inner();
    assert!(!inner.looks[0].0, "it proves nothing");
    let times = FAILURES_MAX as usize;
    assert!((AT_ONCE * (times - 1)..=AT_ONCE * times).contains(&inner.refused), "{} in vain", inner.refused);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_asked_too_much_at_once_is_asked_less_at_once() {
    let desert = Desert::new(SECOND, 0..0);
    desert.inner().at_once_max = 5;
    desert.first_look().await;
    let inner = desert.inner();
    assert!(inner.looks[0].0, "it was complete");
    assert!(inner.pages < PAGES_MAX, "{} pages: none was read twice", inner.pages);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_can_not_be_noted_is_noted_later() {
    let desert = Desert::new(SECOND, 0..0);
    desert.inner().unwritable = 2;
    desert.first_look().await;
    let inner = desert.inner();
    assert!(inner.looks[0].0, "it was complete");
    assert!(inner.pages < PAGES_MAX, "{} pages: it did not begin anew", inner.pages);
}
