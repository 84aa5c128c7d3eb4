#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]
use super::*;
use crate::core::ids::CampaignId;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn phone(n: u32) -> E164 {
    E164::from_canonical(&format!("+1415555{n:04}")).unwrap()
}

fn attempt(n: u128) -> AttemptId {
    AttemptId(uuid::Uuid::from_u128(n))
}

fn unknown(n: u32, second: i64) -> Unknown {
    Unknown {
        attempt: attempt(n.into()),
        campaign: CampaignId::parse("c").unwrap(),
        phone: phone(n),
        slot: at(second),
        since: at(second + 30),
        looks: 0,
        looked_at: None,
        clear_for: None,
        redialed: false,
    }
}

fn model() -> ModelId {
    ModelId::parse("agent").unwrap()
}

fn record(id: &str, to: Option<u32>, carries: Option<u128>) -> CallRecord {
    let variable = |n: u128| (ATTEMPT_VARIABLE.to_owned(), attempt(n).to_string());
    CallRecord {
        call_id: CallId::parse(id).unwrap(),
        model_id: None,
        status: Some("in-progress".to_owned()),
        end_reason: None,
        error_message: None,
        from: None,
        to: to.map(phone),
        duration_s: None,
        start_time: None,
        recording_url: None,
        prompt_variables: carries.map(variable).into_iter().collect(),
    }
}

/// It has variables, and none of ours.
fn of_others(id: &str, to: Option<u32>) -> CallRecord {
    let prompt_variables = [("greeting".to_owned(), "hello".to_owned())].into();
    CallRecord { prompt_variables, ..record(id, to, None) }
}

fn page(calls: Vec<CallRecord>, total: u64) -> CallPage {
    CallPage { calls, unreadable: 0, total: Some(total) }
}

/// One look for all of them.
fn look(sought: Vec<Unknown>) -> Look {
    let mut looks = windows(&model(), sought, at(31));
    assert_eq!(looks.len(), 1);
    looks.remove(0)
}

/// What is asked where one thing is asked at a time.
fn next(look: &Look) -> Option<Step> {
    look.next(1).pop()
}

/// That is what the next page tells.
fn listed(look: &mut Look, page: &CallPage, known: &HashSet<CallId>) {
    let asked = list_of(next(look));
    look.listed(&asked, page, known);
}

/// That is what is told of the next candidate.
fn told(look: &mut Look, answer: &Result<CallRecord, ProviderError>, now: DateTime<Utc>) -> Told {
    let asked = CallId::parse(&get_of(next(look))).unwrap();
    look.told(&asked, answer, now)
}

fn list_of(step: Option<Step>) -> ListCalls {
    match step {
        Some(Step::List(list)) => list,
        other => panic!("{other:?} is no list"),
    }
}

fn get_of(step: Option<Step>) -> String {
    match step {
        Some(Step::Get(call_id)) => call_id.as_str().to_owned(),
        other => panic!("{other:?} is no look-up"),
    }
}

const MINUTES: Patience = Patience { quarantine: Duration::from_secs(1_800) };

#[test]
fn a_call_is_found_by_our_id_among_those_to_the_same_callee() {
    let mut look = look(vec![unknown(1, 0)]);
    let list = list_of(next(&look));
    assert_eq!((list.from, list.to), (Some(at(-300)), Some(at(600))));
    let calls =
        vec![record("other", Some(9), None), record("twin", Some(1), None), record("ours", Some(1), None)];
    listed(&mut look, &page(calls, 3), &HashSet::new());

    assert_eq!(get_of(next(&look)), "twin", "a call to somebody else is not looked up");
    assert_eq!(told(&mut look, &Ok(record("twin", Some(1), Some(77))), at(40)), {
        // Another attempt's: told all the same, for it may be news.
        Told::Found(Found { attempt: attempt(77), call_id: CallId::parse("twin").unwrap(), end: None })
    });
    assert_eq!(get_of(next(&look)), "ours");
    let told = told(&mut look, &Ok(record("ours", Some(1), Some(1))), at(40));
    assert!(matches!(told, Told::Found(found) if found.attempt == attempt(1)));
    assert_eq!(next(&look), None, "nothing is left to look for");
    assert_eq!(look.in_vain(), (vec![], true));
}

#[test]
fn where_callees_are_redacted_every_call_of_the_window_that_is_not_known_is_looked_up() {
    let mut look = look(vec![unknown(1, 0)]);
    let calls = vec![record("a", None, None), record("known", None, None), record("b", None, None)];
    listed(&mut look, &page(calls, 200), &HashSet::from([CallId::parse("known").unwrap()]));
    for expected in ["a", "b"] {
        assert_eq!(get_of(next(&look)), expected);
        assert_eq!(
            told(&mut look, &Ok(record(expected, None, None)), at(10)),
            Told::Nothing,
            "too fresh to be sure"
        );
    }
    let list = list_of(next(&look));
    assert_eq!(
        (list.offset, list.lead_phone_number),
        (3, None),
        "the window is read on, not filtered by callee"
    );
}

#[test]
fn a_long_list_that_shows_callees_gives_way_to_one_for_each() {
    let mut look = look(vec![unknown(1, 0), unknown(2, 10)]);
    let calls = (0..100).map(|n| record(&format!("c{n}"), Some(900 + n), None)).collect();
    listed(&mut look, &page(calls, 10_000), &HashSet::new());
    for n in [1, 2] {
        let list = list_of(next(&look));
        assert_eq!((list.lead_phone_number, list.offset), (Some(phone(n)), 0));
        listed(&mut look, &page(vec![], 0), &HashSet::new());
    }
    assert_eq!(next(&look), None, "the agent was seen to have calls");
    assert_eq!(look.in_vain(), (vec![attempt(1), attempt(2)], true));
}

#[test]
fn a_short_list_is_read_to_its_end() {
    let mut look = look((1..=9).map(|n| unknown(n, 0)).collect());
    let calls = (0..100).map(|n| record(&format!("c{n}"), Some(900 + n), None)).collect();
    listed(&mut look, &page(calls, 250), &HashSet::new());
    assert_eq!(list_of(next(&look)).offset, 100, "two more pages are fewer than nine lists");
}

#[test]
fn a_look_with_a_hole_in_it_proves_nothing() {
    let unreadable = CallPage { calls: vec![], unreadable: 1, total: Some(1) };
    let mut one = look(vec![unknown(1, 0)]);
    listed(&mut one, &unreadable, &HashSet::new());
    assert_eq!((next(&one), one.in_vain()), (None, (vec![attempt(1)], false)));

    let mut two = look(vec![unknown(1, 0)]);
    listed(&mut two, &page(vec![record("fresh", Some(1), None)], 1), &HashSet::new());
    assert_eq!(told(&mut two, &Err(ProviderError::NotFound { text: None }), at(40)), Told::Nothing);
    assert_eq!((next(&two), two.in_vain()), (None, (vec![attempt(1)], false)));

    let broken_off = look(vec![unknown(1, 0)]);
    assert!(!broken_off.in_vain().1);
}

#[test]
fn an_empty_list_counts_only_of_an_agent_that_is_there() {
    for known in [true, false] {
        let mut look = look(vec![unknown(1, 0)]);
        listed(&mut look, &page(vec![], 0), &HashSet::new());
        assert_eq!(next(&look), Some(Step::Agent));
        look.agent(known);
        assert_eq!(next(&look), None);
        assert_eq!(look.in_vain(), (vec![attempt(1)], known));
    }
}

#[test]
fn a_call_without_our_id_is_looked_up_again_only_while_it_is_fresh() {
    for (now, expected) in [(59, Told::Nothing), (61, Told::Anothers(CallId::parse("x").unwrap()))] {
        let mut look = look(vec![unknown(1, 0)]);
        listed(&mut look, &page(vec![record("x", Some(1), None)], 1), &HashSet::new());
        assert_eq!(told(&mut look, &Ok(of_others("x", Some(1))), at(now)), expected);
    }
}

#[test]
fn a_call_to_the_callee_that_does_not_tell_whose_it_is_may_be_the_one() {
    let mut look = look(vec![unknown(1, 0)]);
    listed(&mut look, &page(vec![record("x", Some(1), None)], 1), &HashSet::new());
    assert_eq!(told(&mut look, &Ok(record("x", Some(1), None)), at(3_000)), Told::Nothing);
    assert_eq!(next(&look), None);
    assert_eq!(look.in_vain(), (vec![attempt(1)], false), "such a look proves nothing");
}

#[test]
fn an_empty_page_before_the_end_that_was_told_is_not_the_whole_list() {
    let looked = |pages: Vec<CallPage>| {
        let mut look = look(vec![unknown(1, 0)]);
        for page in &pages {
            listed(&mut look, page, &HashSet::new());
        }
        if next(&look) == Some(Step::Agent) {
            look.agent(true);
        }
        assert_eq!(next(&look), None);
        look.in_vain().1
    };
    let full = || page((0..100).map(|n| of_others(&format!("x{n}"), Some(9))).collect(), 150);
    assert!(!looked(vec![full(), page(Vec::new(), 150)]), "fifty were never shown");
    assert!(!looked(vec![page(Vec::new(), 12)]));
    assert!(looked(vec![page(Vec::new(), 0)]));
    assert!(looked(vec![CallPage { total: None, ..page(Vec::new(), 0) }]));
}

#[test]
fn a_fresh_call_without_a_word_of_whose_it_is_may_be_the_one() {
    let told = |to: Option<u32>, start: i64, now: i64, carries: bool| {
        let mut look = look(vec![unknown(1, 0)]);
        let start_time = Some(at(start));
        let one = if carries { of_others("one", to) } else { record("one", to, None) };
        let one = CallRecord { start_time, ..one };
        listed(&mut look, &page(vec![one.clone()], 1), &HashSet::new());
        let told = told(&mut look, &Ok(one), at(now));
        (told, look.in_vain().1)
    };
    let others = || Told::Anothers(CallId::parse("one").unwrap());
    assert_eq!(told(None, 990, 1_000, false), (Told::Nothing, false), "seconds old, its callee hidden");
    assert_eq!(told(None, 0, 1_000, false), (others(), true), "an old one would tell");
    assert_eq!(told(Some(1), 0, 1_000, false), (Told::Nothing, false), "to the one who is sought");
    assert_eq!(told(None, 990, 1_000, true), (others(), true), "it says whose it is");
}

#[test]
fn attempts_far_apart_in_time_are_looked_for_apart() {
    let looks = windows(
        &model(),
        vec![unknown(3, 4_000), unknown(1, 0), unknown(2, 299), unknown(4, 4_001)],
        at(4_500),
    );
    let windows: Vec<_> = looks.iter().map(Look::window).collect();
    assert_eq!(
        windows,
        [(at(-300), at(4_500)), (at(3_700), at(4_601))],
        "up to now, or where it may still come"
    );
    assert!(super::windows(&model(), vec![], at(0)).is_empty());
}

#[test]
fn looks_come_soon_and_then_ever_less_often() {
    let mut sought = unknown(1, 0);
    assert!(!MINUTES.is_due(&sought, at(30)));
    assert!(MINUTES.is_due(&sought, at(31)));
    sought.looked_at = Some(at(31));
    for (looks, wait) in [(1, 2), (3, 8), (10, 60), (4_000, 60)] {
        sought.looks = looks;
        assert!(!MINUTES.is_due(&sought, at(31 + wait - 1)), "look {looks}");
        assert!(MINUTES.is_due(&sought, at(31 + wait)), "look {looks}");
    }
    let hasty = Patience { quarantine: Duration::from_secs(2) };
    assert!(hasty.is_due(&sought, at(32)), "a short quarantine is looked over often");
}

#[test]
fn only_complete_looks_over_the_whole_quarantine_give_up() {
    let hour = Duration::from_secs(3_600);
    let mut sought = unknown(1, 0);
    assert_eq!(MINUTES.verdict(&sought, None, at(30 + 3_600)), None, "nobody has looked");
    sought.clear_for = Some(Duration::from_secs(1_799));
    assert_eq!(MINUTES.verdict(&sought, None, at(3_600)), None);
    sought.clear_for = Some(Duration::from_secs(1_800));
    let review = GiveUp::Review { clear_for: Some(MINUTES.quarantine) };
    assert_eq!(MINUTES.verdict(&sought, None, at(3_600)), Some(review));
    assert_eq!(MINUTES.verdict(&sought, Some(hour), at(3_600)), None, "its campaign waits longer");
    sought.clear_for = Some(hour);
    assert_eq!(MINUTES.verdict(&sought, Some(hour), at(3_600)), Some(GiveUp::Redial { clear_for: hour }));
}

#[test]
fn what_can_not_be_looked_for_goes_to_a_person_and_is_never_redialed() {
    let sought = unknown(1, 0);
    let after_a_day = at(30 + 86_400);
    let given_up = Some(GiveUp::Review { clear_for: None });
    assert_eq!(MINUTES.verdict(&sought, None, after_a_day), given_up);
    assert_eq!(MINUTES.verdict(&sought, Some(Duration::from_secs(60)), after_a_day), given_up);
    assert_eq!(MINUTES.verdict(&sought, None, after_a_day - TimeDelta::seconds(1)), None);
}

/// A provider that hides callees, its calls newest first by second, of which one more comes with every page.
struct Provider {
    /// By begin.
    calls: Vec<(String, DateTime<Utc>)>,
}

impl Provider {
    fn page(&self, filter: &ListCalls) -> CallPage {
        let within = |at: DateTime<Utc>| {
            filter.from.is_none_or(|from| at >= from) && filter.to.is_none_or(|to| at < to)
        };
        let all: Vec<_> = self.calls.iter().rev().filter(|(_, at)| within(*at)).collect();
        let shown = all.iter().skip(filter.offset as usize).take(filter.limit as usize);
        page(shown.map(|(id, _)| record(id, None, None)).collect(), all.len() as u64)
    }
}

#[test]
fn what_was_there_when_a_look_began_is_seen_in_whatever_order_pages_come() {
    let ms = |ms: i64| at(-250) + TimeDelta::milliseconds(ms);
    // Most of them in the last few seconds.
    let begins = (0..1_000).map(|n| ms(n * 250)).chain((0..4_000).map(|n| ms(275_000 + n)));
    let calls = begins.enumerate().map(|(n, at)| (format!("c{n}"), at)).collect();
    let mut provider = Provider { calls };
    let there: HashSet<String> = provider.calls.iter().map(|(id, _)| id.clone()).collect();
    let mut look = look(vec![unknown(1, 0)]);
    let (mut seen, mut pages) = (HashSet::new(), 0);
    for turn in 0.. {
        let mut steps = look.next(8);
        if steps.is_empty() {
            break;
        }
        let first = turn % steps.len();
        steps.rotate_left(first);
        for step in steps {
            match step {
                Step::List(asked) => {
                    look.listed(&asked, &provider.page(&asked), &seen);
                    pages += 1;
                    // At the end of the window: all others move on in its list.
                    provider.calls.push((format!("new{pages}"), at(30)));
                }
                Step::Get(id) => {
                    // It says that it is another's.
                    look.told(&id, &Ok(of_others(id.as_str(), None)), at(200));
                    seen.insert(id);
                }
                Step::Agent => panic!("its calls were shown"),
            }
        }
    }
    let seen: HashSet<String> = seen.iter().map(|id| id.as_str().to_owned()).collect();
    assert_eq!(there.difference(&seen).count(), 0);
    assert!(pages < 140, "{pages} pages; the calls fill a hundred of them, the new ones some more");
    assert_eq!(look.in_vain(), (vec![attempt(1)], true));
}

#[test]
fn the_parts_of_a_list_are_all_of_it_and_those_of_the_posts_come_first() {
    let mut look = look(vec![unknown(1, 0)]);
    let calls = (0..100).map(|n| record(&format!("x{n}"), None, None)).collect();
    let known = (0..100).map(|n| CallId::parse(&format!("x{n}")).unwrap()).collect();
    listed(&mut look, &page(calls, 3_000), &known);
    let mut parts: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::new();
    for step in look.next(100) {
        let part = list_of(Some(step));
        assert_eq!(part.offset, 0);
        parts.push((part.from.unwrap(), part.to.unwrap()));
    }
    assert_eq!(parts.len(), 8);
    assert!(parts[0].0 <= at(0) && at(0) < parts[0].1, "{:?}", parts[0]);
    parts.sort();
    assert_eq!((parts[0].0, parts[7].1), look.window());
    assert!(parts.windows(2).all(|pair| pair[0].1 == pair[1].0));
    assert!(parts[7].0 < at(31), "there are no calls from later than now");
}

#[test]
fn what_got_no_answer_holds_up_nothing_else() {
    let mut look = look((1..=9).map(|n| unknown(n, 0)).collect());
    let fill = |n: u32| record(&format!("x{n}"), Some(900 + n), None);
    let calls =
        [record("a", Some(1), None), record("b", Some(2), None)].into_iter().chain((2..100).map(fill));
    listed(&mut look, &page(calls.collect(), 250), &HashSet::new());
    let (a, b) = (CallId::parse("a").unwrap(), CallId::parse("b").unwrap());
    look.put_off(&Step::Get(a.clone()));
    assert_eq!(look.next(2), [Step::Get(b.clone()), Step::Get(a.clone())]);
    look.told(&b, &Ok(of_others("b", Some(2))), at(10));
    let both = look.next(16);
    assert_eq!((&both[0], list_of(both.last().cloned()).offset), (&Step::Get(a), 100), "the list is read on");
}

#[test]
fn what_somebody_learned_of_meanwhile_is_sought_no_more() {
    let mut look = look(vec![unknown(1, 0), unknown(2, 0)]);
    look.only(&HashSet::from([attempt(2), attempt(3)]));
    assert_eq!(look.in_vain().0, [attempt(2)]);
    look.only(&HashSet::new());
    assert_eq!(next(&look), None);
}

#[test]
fn a_call_that_tells_nothing_is_anothers_for_good_only_when_it_is_old_by_any_clock() {
    let told = |age: i64| {
        let mut look = look(vec![unknown(1, 0)]);
        let one = CallRecord { start_time: Some(at(1_000 - age)), ..record("one", None, None) };
        listed(&mut look, &page(vec![one.clone()], 1), &HashSet::new());
        told(&mut look, &Ok(one), at(1_000))
    };
    // The provider's clock may be minutes behind, and the call as fresh as can be.
    assert_eq!(told(120), Told::Nothing);
    assert_eq!(told(361), Told::Anothers(CallId::parse("one").unwrap()));
}
