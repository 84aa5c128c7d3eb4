//! The check must be able to fail: a ledger without fault, and one with a fault of each kind.

use super::super::jobs;
use super::super::plan::Area;
use super::*;

/// Every line ended as it must, calls 100 ms apart and 50 ms long.
fn faultless() -> Evidence {
    let mut found = Evidence { lines: jobs::lines(100), ..Evidence::default() };
    let mut rivals = BTreeSet::new();
    for (n, line) in found.lines.iter().enumerate() {
        let called = match line.ends {
            Ends::Called => true,
            Ends::CalledOrConflict => rivals.insert(line.job_id.clone()),
            _ => false,
        };
        if called {
            let at_us = n as u64 * 100_000;
            found.posts.push(Post {
                at_us,
                ended_us: Some(at_us + 50_000),
                job_id: line.job_id.clone(),
                attempt_id: format!("attempt-{n}"),
                model_id: line.campaign.model_id.to_owned(),
                phone: line.phone.clone(),
                from: line.caller_ids()[0].to_owned(),
            });
            continue;
        }
        let reason = match line.ends {
            Ends::Dead(reason) => reason,
            Ends::CalledOrConflict => "conflict",
            Ends::Recorded(state, reason) => {
                let record = Record { state: state.to_owned(), reason: reason.to_owned() };
                found.records.insert(line.job_id.clone(), record);
                continue;
            }
            _ => continue,
        };
        let (job_id, phone) = (line.job_id.clone(), line.written.clone());
        found.dead.push(Dead { reason: reason.to_owned(), job_id, phone });
    }
    found
}

/// The lines wrong of each kind: dialed twice, wrong caller ID, lost.
fn wrong(found: &Evidence) -> [usize; 3] {
    [found.dialed_twice().len(), found.wrong_caller_id().len(), found.lost().len()]
}

fn post_of(found: &mut Evidence, which: impl Fn(&Line) -> bool) -> usize {
    let line =
        found.lines.iter().find(|line| line.ends == Ends::Called && which(line)).map(|l| l.job_id.clone());
    found.posts.iter().position(|post| Some(&post.job_id) == line.as_ref()).unwrap_or(usize::MAX)
}

#[test]
fn nothing_is_wrong_with_a_faultless_ledger() {
    assert_eq!(wrong(&faultless()), [0, 0, 0], "{:?}", faultless().lost());
}

#[test]
fn a_second_call_of_a_job_is_seen() {
    let mut found = faultless();
    let mut again = found.posts[3].clone();
    again.attempt_id = "another".to_owned();
    found.posts.push(again);
    assert_eq!(wrong(&found), [1, 0, 0]);
}

#[test]
fn a_second_post_of_an_attempt_is_seen_though_only_one_made_a_call() {
    let mut found = faultless();
    let again = Post { ended_us: None, ..found.posts[3].clone() };
    found.posts.push(again);
    assert_eq!(wrong(&found), [1, 0, 0]);
}

#[test]
fn another_attempt_after_one_that_made_no_call_is_right() {
    let mut found = faultless();
    let refused = Post { ended_us: None, attempt_id: "refused".to_owned(), ..found.posts[3].clone() };
    found.posts.insert(0, refused);
    assert_eq!(wrong(&found), [0, 0, 0]);
}

#[test]
fn a_number_that_the_rules_dont_name_is_seen() {
    let mut found = faultless();
    for (which, from) in [(Area::States, "+16285550101"), (Area::Canada, "+12125550103"), (Area::Britain, "")]
    {
        let at = post_of(&mut found, |line| line.area == which && line.from.is_none());
        found.posts[at].from = from.to_owned();
    }
    let pinned = post_of(&mut found, |line| line.from.is_some());
    found.posts[pinned].from = "+14165550106".to_owned();
    assert_eq!(wrong(&found), [0, 4, 0]);
}

#[test]
fn a_sticky_callee_who_saw_two_numbers_is_seen() {
    let mut found = faultless();
    let at = found.posts.iter().position(|post| {
        post.phone.starts_with("+44") && found.posts.iter().filter(|p| p.phone == post.phone).count() == 2
    });
    let at = at.unwrap_or(usize::MAX);
    found.posts[at].from = "+441614960109".to_owned();
    assert_eq!(wrong(&found), [0, 1, 0]);
}

#[test]
fn a_call_that_nobody_asked_for_is_seen_and_one_by_another_agent() {
    let mut found = faultless();
    let stranger = Post { job_id: "stranger".into(), attempt_id: "s".into(), ..found.posts[0].clone() };
    found.posts.push(stranger);
    found.posts[1].model_id = "another".to_owned();
    assert_eq!(wrong(&found), [0, 2, 0]);
    // A job that had to be refused.
    let line = found.lines.iter().find(|l| matches!(l.ends, Ends::Recorded("refused", _))).cloned();
    let Some(line) = line else { unreachable!("there is one") };
    let forbidden =
        Post { job_id: line.job_id, phone: line.phone, attempt_id: "f".into(), ..found.posts[0].clone() };
    found.posts.push(forbidden);
    assert_eq!(wrong(&found), [0, 3, 0]);
}

#[test]
fn whatever_is_missing_is_lost() {
    let mut found = faultless();
    found.posts.remove(5);
    assert_eq!(wrong(&found), [0, 0, 1]);
    // No call was made of it.
    found.posts[7].ended_us = None;
    assert_eq!(wrong(&found), [0, 0, 2]);
    found.dead.retain(|dead| dead.reason != "unknown_field");
    let unknown = found.lines.iter().filter(|l| l.ends == Ends::Dead("unknown_field")).count();
    assert_eq!(wrong(&found), [0, 0, 2 + unknown]);
    found.records.clear();
    let recorded = found.lines.iter().filter(|l| matches!(l.ends, Ends::Recorded(..))).count();
    assert_eq!(wrong(&found), [0, 0, 2 + unknown + recorded]);
}

#[test]
fn a_job_whose_every_rival_was_buried_is_lost() {
    let mut found = faultless();
    let Some(rival) = found.lines.iter().find(|line| line.ends == Ends::CalledOrConflict).cloned() else {
        unreachable!("there is one")
    };
    let of_it = |line: &&Line| line.job_id == rival.job_id;
    found.posts.retain(|post| post.job_id != rival.job_id);
    found.dead.retain(|dead| dead.job_id != rival.job_id);
    assert_eq!(wrong(&found), [0, 0, 2]);
    for line in found.lines.iter().filter(of_it) {
        let (job_id, phone) = (line.job_id.clone(), line.written.clone());
        found.dead.push(Dead { reason: "conflict".to_owned(), job_id, phone });
    }
    assert_eq!(wrong(&found), [0, 0, 2]);
}

#[test]
fn a_dead_letter_for_another_reason_is_not_where_it_belongs() {
    let mut found = faultless();
    found.dead[0].reason = "malformed".to_owned();
    assert_eq!(wrong(&found), [0, 0, 1]);
}

fn usage(at_us: &[u64], length_us: u64, limit: Most) -> Usage {
    let posts: Vec<Post> = at_us
        .iter()
        .map(|&at_us| Post { at_us, ended_us: Some(at_us + length_us), ..Post::default() })
        .collect();
    Usage::of("x", limit, &posts.iter().collect::<Vec<_>>())
}

#[test]
fn every_sliding_window_counts() {
    let three = Most { second: Some(3), minute: Some(5), at_once: Some(2) };
    // The fourth comes exactly a second after the first.
    let fits = usage(&[900_000, 1_000_000, 1_100_000, 1_900_000, 60_000_000], 100_000, three);
    assert_eq!((fits.second, fits.minute, fits.at_once), (3, 5, 1));
    assert!(fits.above().is_empty());
    // A microsecond sooner, over the border of a calendar second.
    let above = usage(&[900_000, 1_000_000, 1_100_000, 1_899_999], 100_000, three);
    assert_eq!((above.second, above.above().len()), (4, 1));
    let above = usage(&[0, 10_000_000, 20_000_000, 30_000_000, 40_000_000, 59_999_999], 1, three);
    assert_eq!((above.minute, above.above().len()), (6, 1));
    let fits = usage(&[0, 10_000_000, 20_000_000, 30_000_000, 40_000_000, 60_000_000], 1, three);
    assert_eq!((fits.minute, fits.above().len()), (5, 0));
}

#[test]
fn calls_at_once_count_until_their_end() {
    let two = Most { second: None, minute: None, at_once: Some(2) };
    assert!(usage(&[0, 500, 1_000, 1_500], 1_000, two).above().is_empty());
    let above = usage(&[0, 500, 999, 1_500], 1_000, two);
    assert_eq!((above.at_once, above.above().len()), (3, 1));
}

#[test]
fn a_post_that_was_refused_counts_in_windows_and_not_as_a_call() {
    let posts = [0, 1, 2].map(|at_us| Post { at_us, ended_us: None, ..Post::default() });
    let used = Usage::of("x", Most { second: Some(2), ..Most::default() }, &posts.iter().collect::<Vec<_>>());
    assert_eq!((used.second, used.calls, used.above().len()), (3, 0, 1));
}

#[test]
fn usage_is_told_of_the_account_each_campaign_and_each_number() {
    let found = faultless();
    let usage = found.usage();
    assert_eq!(usage.len(), 1 + plan::CAMPAIGNS.len() + plan::NUMBERS.len());
    let calls = u32::try_from(found.posts.len()).unwrap_or(0);
    assert_eq!(usage[0].calls, calls);
    assert_eq!(usage[1..4].iter().map(|u| u.calls).sum::<u32>(), calls);
    assert_eq!(usage[4..].iter().map(|u| u.calls).sum::<u32>(), calls);
}
