#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;

use uuid::Uuid;

use super::*;
use crate::core::call::CallPage;

/// A provider and a ledger in one: calls that began and end at given seconds of tokio's clock.
#[derive(Debug, Clone)]
struct World(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    calls: Vec<Call>,
    requests: Vec<Request>,
    /// Call ids that the list doesn't show.
    unlisted: Vec<usize>,
    list_answer: Option<ProviderError>,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    begins_s: u64,
    ends_s: u64,
    finished_s: Option<u64>,
    known: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Request {
    List(u32),
    Get(usize),
}

fn date(s: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + i64::try_from(s).unwrap(), 0).unwrap()
}

fn call_id(n: usize) -> CallId {
    CallId::parse(&n.to_string()).unwrap()
}

impl Inner {
    fn now_s(&self) -> u64 {
        (clock::monotonic() - self.start).as_secs()
    }

    fn record(&self, n: usize) -> CallRecord {
        let over = self.calls[n].ends_s <= self.now_s();
        CallRecord {
            call_id: call_id(n),
            model_id: None,
            status: Some(if over { "completed" } else { "in-progress" }.to_owned()),
            end_reason: None,
            error_message: None,
            from: None,
            to: None,
            duration_s: None,
            start_time: Some(date(self.calls[n].begins_s)),
            recording_url: None,
            prompt_variables: BTreeMap::new(),
        }
    }
}

impl World {
    fn new(calls: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let call = |(begins_s, ends_s)| Call { begins_s, ends_s, finished_s: None, known: true };
        let calls = calls.into_iter().map(call).collect();
        let (requests, unlisted) = (Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(Inner {
            start: clock::monotonic(),
            calls,
            requests,
            unlisted,
            list_answer: None,
        })))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn unfinished(&self) -> usize {
        self.inner().calls.iter().filter(|call| call.finished_s.is_none()).count()
    }

    fn requests(&self, of: impl Fn(&Request) -> bool) -> usize {
        self.inner().requests.iter().filter(|r| of(r)).count()
    }

    fn stage(&self) -> EndsStage<World, World, World> {
        let account = AccountName::default_account();
        EndsStage {
            keys: Arc::new(AccountKeys::new([account.clone()])),
            account,
            ledger: self.clone(),
            provider: self.clone(),
            duties: self.clone(),
            pace: Arc::new(Pace::of_looks(std::num::NonZeroU32::new(2).unwrap())),
            terms: EndsTerms {
                poll: Duration::from_secs(5),
                live_max: Duration::from_secs(7200),
                lease: Duration::from_secs(10),
            },
            placed: Arc::new(Notify::new()),
        }
    }

    /// Runs the stage for so many seconds of the paused clock.
    async fn run(&self, seconds: u64) {
        let cancel = CancellationToken::new();
        let end = async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            cancel.cancel();
        };
        tokio::join!(self.stage().run(cancel.clone()), end);
    }
}

impl ReadsCalls for World {
    async fn list_calls(&self, filter: &ListCalls) -> Result<CallPage, ProviderError> {
        let mut inner = self.inner();
        inner.requests.push(Request::List(filter.offset));
        if let Some(error) = &inner.list_answer {
            return Err(error.clone());
        }
        let now_s = inner.now_s();
        let listed = |n: &usize| {
            let begins_s = inner.calls[*n].begins_s;
            begins_s <= now_s
                && filter.from.is_none_or(|from| date(begins_s) >= from)
                && !inner.unlisted.contains(n)
        };
        // Newest first.
        let all: Vec<usize> = (0..inner.calls.len()).rev().filter(listed).collect();
        let page = all.iter().skip(filter.offset as usize).take(filter.limit as usize);
        let calls = page.map(|n| inner.record(*n)).collect();
        Ok(CallPage { calls, unreadable: 0, total: Some(all.len() as u64) })
    }

    async fn get_call(&self, id: &CallId) -> Result<CallRecord, ProviderError> {
        let mut inner = self.inner();
        let n: usize = id.as_str().parse().unwrap();
        inner.requests.push(Request::Get(n));
        if inner.calls[n].known { Ok(inner.record(n)) } else { Err(ProviderError::NotFound { text: None }) }
    }
}

impl EndsLedger for World {
    async fn open(&self, _: &AccountName, _: usize) -> Result<Open, LedgerError> {
        let inner = self.inner();
        let now_s = inner.now_s();
        let calls =
            inner.calls.iter().enumerate().filter(|(_, c)| c.finished_s.is_none() && c.begins_s <= now_s);
        let mut open: Vec<OpenCall> = calls
            .map(|(n, c)| OpenCall {
                attempt: AttemptId(Uuid::from_u128(n as u128)),
                call_id: Some(call_id(n)),
                began: date(c.begins_s),
            })
            .collect();
        open.sort_by_key(|call| call.began);
        let by_agent =
            if open.is_empty() { BTreeMap::new() } else { [(ModelId::parse("agent").unwrap(), open)].into() };
        Ok(Open { by_agent, now: date(now_s) })
    }

    async fn mismatched(&self) -> Result<usize, LedgerError> {
        Ok(0)
    }

    async fn overdue(&self, live_max: Duration, _: usize) -> Result<Vec<AttemptId>, LedgerError> {
        let inner = self.inner();
        let now_s = inner.now_s();
        let late = |c: &Call| c.finished_s.is_none() && c.begins_s + live_max.as_secs() < now_s;
        let late = inner.calls.iter().enumerate().filter(|(_, c)| late(c));
        Ok(late.map(|(n, _)| AttemptId(Uuid::from_u128(n as u128))).collect())
    }

    async fn finish(&self, ends: &[End]) -> Result<Vec<AttemptId>, LedgerError> {
        assert!(ends.len() <= BATCH_MAX);
        let mut inner = self.inner();
        let now_s = inner.now_s();
        for end in ends {
            let call = &mut inner.calls[end.attempt.0.as_u128() as usize];
            assert!(call.ends_s <= now_s || end.disposition.is_none(), "a call was ended before its end");
            call.finished_s.get_or_insert(now_s);
        }
        Ok(ends.iter().map(|end| end.attempt).collect())
    }
}

impl Duties for World {
    async fn hold(&self, _: &str, _: Duration) -> Result<bool, LedgerError> {
        Ok(true)
    }

    async fn leave(&self, _: &str) -> Result<(), LedgerError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_ends_of_five_hundred_calls_take_few_requests() {
    let world = World::new((0..500).map(|n| (n / 50, 30)));
    world.run(40).await;
    assert_eq!(world.unfinished(), 0);
    // Five pages a round at most, a round every five seconds.
    assert_eq!(world.requests(|r| matches!(r, Request::Get(_))), 0);
    let lists = world.requests(|_| true);
    assert!((5..=45).contains(&lists), "{lists} requests");
    let late = world.inner().calls.iter().filter_map(|c| c.finished_s).max().unwrap();
    assert!(late <= 37, "learned at {late} s, ended at 30 s");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_while_no_call_is_open() {
    let world = World::new([(100, 101)]);
    world.run(99).await;
    assert_eq!(world.requests(|_| true), 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_call_is_looked_up_and_does_not_drag_the_list_along() {
    // One call of an hour among short ones, two a second.
    let short = (0..4000u64).map(|n| (n / 2, n / 2 + 10));
    let world = World::new(std::iter::once((0, 1900)).chain(short));
    world.run(2100).await;
    assert_eq!(world.unfinished(), 0);
    let requests = world.requests(|_| true);
    assert!(requests < 2100 / 5 * 5, "{requests} requests");
    let worst = world.inner().calls.iter().map(|c| c.finished_s.unwrap() - c.ends_s).max().unwrap();
    assert!(worst <= 15, "an end was learned {worst} s late");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_list_lacks_is_looked_up() {
    let world = World::new([(0, 20), (0, 20), (0, 20)]);
    world.inner().unlisted = vec![1];
    world.run(60).await;
    assert_eq!(world.unfinished(), 0);
    assert_eq!(world.requests(|r| matches!(r, Request::Get(n) if *n != 1)), 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_a_list_has_its_calls_looked_up() {
    let world = World::new([(0, 20), (0, 20), (0, 20)]);
    world.inner().list_answer = Some(ProviderError::NotFound { text: None });
    world.run(60).await;
    assert_eq!(world.unfinished(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_429_it_asks_ever_less_often() {
    let world = World::new((0..300).map(|_| (0, 1)));
    world.inner().list_answer = Some(ProviderError::RateLimited { retry_after: None });
    world.run(600).await;
    let asked = world.requests(|_| true);
    assert!((5..=25).contains(&asked), "asked {asked} times in ten minutes");
    world.inner().list_answer = None;
    world.run(20).await;
    assert_eq!(world.unfinished(), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_knows_the_end_of_a_call_that_the_provider_forgot() {
    let world = World::new([(0, 10)]);
    world.inner().calls[0].known = false;
    world.inner().unlisted = vec![0];
    world.run(7190).await;
    assert_eq!(world.unfinished(), 1);
    world.run(30).await;
    assert_eq!(world.unfinished(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_quiet_time_a_short_call_is_learned_of_soon() {
    let world = World::new([(101, 102)]);
    let stage = world.stage();
    let (placed, cancel) = (stage.placed.clone(), CancellationToken::new());
    let calls = async {
        tokio::time::sleep(Duration::from_secs(101)).await;
        placed.notify_one();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cancel.cancel();
    };
    tokio::join!(stage.run(cancel.clone()), calls);
    assert_eq!(world.unfinished(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_stops_polling() {
    let world = World::new([(0, 1)]);
    world.inner().list_answer = Some(ProviderError::Unauthorized { status: 401, text: None });
    world.run(600).await;
    assert_eq!(world.requests(|_| true), 1);
}
