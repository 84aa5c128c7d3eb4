#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn at(s: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + s, 0).unwrap()
}

fn id(n: usize) -> CallId {
    CallId::parse(&format!("call-{n}")).unwrap()
}

/// Calls that began at these seconds.
fn open(began: impl IntoIterator<Item = i64>) -> Vec<OpenCall> {
    let call = |(n, s)| OpenCall {
        attempt: AttemptId(Uuid::from_u128(n as u128)),
        call_id: Some(id(n)),
        began: at(s),
    };
    began.into_iter().enumerate().map(call).collect()
}

fn record(status: &str) -> CallRecord {
    CallRecord {
        call_id: id(0),
        model_id: None,
        status: Some(status.to_owned()),
        end_reason: None,
        error_message: None,
        from: None,
        to: None,
        duration_s: None,
        start_time: None,
        recording_url: None,
        prompt_variables: BTreeMap::new(),
    }
}

#[test]
fn many_calls_are_listed_and_none_is_looked_up() {
    let round = plan_round(&open((0..500).map(|n| n / 10)), 10.0, at(60));
    assert_eq!(round, Round { list_from: Some(at(0) - MARGIN), single: vec![] });
}

#[test]
fn an_old_straggler_does_not_lengthen_the_list() {
    // An hour at ten calls a second would be 360 pages.
    let round = plan_round(&open([0, 3590, 3591, 3592]), 10.0, at(3600));
    assert_eq!(round.single[0], id(0));
    assert!(round.list_from.is_none_or(|from| from >= at(3590) - MARGIN));
}

#[test]
fn a_few_calls_among_many_ended_ones_are_looked_up_one_by_one() {
    let round = plan_round(&open([0, 100]), 50.0, at(3600));
    assert_eq!(round, Round { list_from: None, single: vec![id(0), id(1)] });
}

#[test]
fn a_call_without_an_id_is_not_asked_for() {
    let mut calls = open([0]);
    calls[0].call_id = None;
    assert_eq!(plan_round(&calls, 1.0, at(10)), Round::default());
    assert_eq!(plan_round(&[], 1.0, at(10)), Round::default());
}

#[test]
fn a_walk_ends_when_all_are_seen_or_the_list_is() {
    let calls = open([0, 0, 0]);
    let mut walk = Walk::begin(at(-1), &calls);
    assert!(!walk.turn(&[id(0)], 100, Some(300)));
    assert!(!walk.turn(&[], 100, Some(300)), "two are still sought");
    assert!(walk.clone().turn(&[id(1), id(2)], 100, Some(900)), "all seen");
    assert!(walk.turn(&[id(1)], 100, Some(300)), "at the end");
    assert_eq!(walk.missed(at(60), Duration::from_secs(30)), [id(2)]);
    assert!(walk.missed(at(10), Duration::from_secs(30)).is_empty(), "lists lag");
}

#[test]
fn without_a_total_a_short_page_is_the_last() {
    let calls = open([0]);
    let mut walk = Walk::begin(at(-1), &calls);
    assert!(!walk.turn(&[], 100, None));
    assert!(walk.turn(&[], 99, None));
    assert!(
        Walk::begin(at(-1), &calls).turn(&[], 0, Some(1000)),
        "a list that says more than it gives has an end too"
    );
}

#[test]
fn a_record_tells_the_end_and_never_one_in_the_future() {
    let attempt = AttemptId(Uuid::nil());
    assert_eq!(End::of_record(attempt, &record("in-progress"), at(0)), None);
    let ended = CallRecord {
        duration_s: Some(12.6),
        start_time: Some(at(0)),
        error_message: Some("no route to +14155550123".to_owned()),
        ..record("completed")
    };
    let end = End::of_record(attempt, &ended, at(60)).unwrap();
    assert_eq!(end.disposition, Some(Disposition::Answered));
    assert_eq!((end.duration_s, end.ended_at), (Some(13), Some(at(0) + TimeDelta::milliseconds(12_600))));
    assert_eq!(end.error.as_deref(), Some("no route to +*********23"));
    assert_eq!(End::of_record(attempt, &ended, at(5)).unwrap().ended_at, None);
}

proptest! {
    /// Every call is asked for, one way or the other, at no higher price than the list alone.
    #[test]
    fn a_round_covers_every_call(mut began in prop::collection::vec(0i64..7200, 0..300), per_second in 0.0f64..50.0) {
        began.sort_unstable();
        let calls = open(began.iter().copied());
        let now = at(7200);
        let round = plan_round(&calls, per_second, now);
        for call in &calls {
            let listed = round.list_from.is_some_and(|from| from <= call.began - MARGIN);
            prop_assert!(listed || round.single.contains(call.call_id.as_ref().unwrap()));
        }
        let pages = |from: DateTime<Utc>| (((now - from).as_seconds_f64() * per_second) / 100.0).ceil() as usize;
        if let Some(first) = calls.first() {
            let alone = pages(first.began - MARGIN).max(calls.len().div_ceil(100));
            let price = round.single.len() + round.list_from.map_or(0, pages);
            prop_assert!(price <= alone, "{price} requests, {alone} for the list alone");
        }
    }

    /// Whatever order the provider lists in: a walk to its end sees every call that is listed.
    #[test]
    fn a_walk_sees_what_is_listed(order in Just((0..250usize).collect::<Vec<_>>()).prop_shuffle()) {
        let calls = open(std::iter::repeat_n(0, 250));
        let mut walk = Walk::begin(at(-1), &calls);
        let listed: Vec<CallId> = order.into_iter().map(id).collect();
        let mut turns = 0;
        loop {
            let page = listed.iter().skip(walk.offset as usize).take(100).collect::<Vec<_>>();
            turns += 1;
            let entries = page.len();
            if walk.turn(page, entries, Some(250)) { break }
        }
        prop_assert_eq!(turns, 3);
        prop_assert!(walk.unseen.is_empty());
    }
}
