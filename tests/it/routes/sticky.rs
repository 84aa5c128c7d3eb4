//! Sticky rules: a callee knows a number, and is called from it as long as that can be.

use std::collections::{BTreeMap, BTreeSet};

use super::{entry, rule_for};
use crate::support::stage::{AGENT, LONG, Stage, callees, job, numbers, sandbox_config};

const KNOWN: &str = "+14155550101";

#[tokio::test]
async fn a_callee_is_called_from_the_number_it_knows_until_that_is_gone() {
    let pool = numbers(4);
    let uses: Vec<&str> = pool.iter().map(String::as_str).collect();
    let stage = Stage::new(sandbox_config(&pool)).await;
    let rules = entry(&pool[0], "limits = { per_day = 2 }") + &rule_for("sticky", &uses, "sticky = true");
    stage.route("per_day = 50", &rules).await;
    let _worker = stage.worker(&[]).await;
    let publish = async |id: &str, phone: &str| stage.publish(&[job(id, "sticky", phone)]).await;
    let known = async |times: usize| {
        let calls = stage.called_times(KNOWN, times).await;
        calls.into_iter().map(|call| call.from_phone_number.unwrap()).next_back().unwrap()
    };
    // Nobody has called yet: the first by its digits, which half its day's calls are used of at once.
    publish("first", KNOWN).await;
    assert_eq!(known(1).await, pool[0]);
    publish("second", KNOWN).await;
    assert_eq!(known(2).await, pool[0], "although every other is less used");

    // It has had its two calls of the day: its callee waits for it, and nobody else does.
    publish("third", KNOWN).await;
    let due_at = stage.stands("third", "waiting", Some("number_limit")).await.unwrap();
    let wait = due_at - outdial::clock::wall();
    assert!(wait > chrono::TimeDelta::hours(23), "{wait}");
    let mut others = BTreeSet::new();
    for (n, phone) in callees(3).enumerate() {
        publish(&format!("other-{n}"), &phone).await;
        others.insert(stage.called(&phone).await.from_phone_number.unwrap());
    }
    assert_eq!(others, pool[1..].iter().cloned().collect());
    stage.stands("third", "waiting", Some("number_limit")).await;

    // Detached, it can't be waited for.
    let slug = &pool[0][1..];
    stage.run(&["pool", "detach", AGENT, "--slug", slug]).await;
    let next = known(3).await;
    assert_ne!(next, pool[0]);
    publish("fourth", KNOWN).await;
    assert_eq!(known(4).await, next, "the new one is remembered");

    // Neither can one at rest.
    stage.rest(&next).await;
    publish("fifth", KNOWN).await;
    let last = known(5).await;
    assert!(last != next && last != pool[0]);
    stage.jobs("done", None, 8, LONG).await;
}

#[tokio::test]
async fn another_brand_or_agent_is_another_acquaintance() {
    let pool = numbers(2);
    let stage = Stage::new(sandbox_config(&pool)).await;
    stage.route("per_day = 50", "[[rule]]\nname = \"any\"\nsticky = true\n").await;
    let _worker = stage.worker(&[]).await;
    let mut from = BTreeMap::new();
    for (n, brand) in ["acme", "zeta", "acme", "zeta", "acme"].into_iter().enumerate() {
        let job = super::with(job(&n.to_string(), "c", KNOWN), serde_json::json!({ "brand": brand }));
        stage.publish(&[job]).await;
        let call = stage.called_times(KNOWN, n + 1).await.pop().unwrap();
        from.entry(brand).or_insert_with(BTreeSet::new).insert(call.from_phone_number.unwrap());
    }
    assert!(from.values().all(|numbers| numbers.len() == 1), "{from:?}");
    assert_ne!(from["acme"], from["zeta"], "the second brand took the number that was less used");
}

#[tokio::test]
async fn jobs_of_one_callee_at_the_same_time_over_two_workers_go_from_one_number() {
    let pool = numbers(8);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let _workers = (stage.worker(&[]).await, stage.worker(&[]).await);
    let phones: Vec<String> = callees(400).collect();
    // Those of one callee in a row, so that they are asked for together.
    let jobs = |phones: &[String]| -> Vec<_> {
        phones
            .iter()
            .flat_map(|phone| (0..3).map(move |n| job(&format!("{}-{n}", &phone[1..]), "c", phone)))
            .collect()
    };
    let mut by_callee: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // All of the first forty are there when both workers may begin. One of them may be done with them before the other
    // has begun: then more callees, until both had their part.
    for (round, phones) in phones.chunks(40).enumerate() {
        stage.publish(&jobs(phones)).await;
        if round == 0 {
            stage.jobs("waiting", Some("no_route"), 120, LONG).await;
            stage
                .route(
                    "per_second = 10",
                    "[[rule]]\nname = \"any\"\nstrategy = \"weighted\"\nsticky = true\n",
                )
                .await;
        }
        for post in stage.posted(120 * (round + 1), LONG).await {
            by_callee.entry(post.phone.unwrap()).or_default().insert(post.from_phone_number.unwrap());
        }
        assert_eq!(by_callee.len(), 40 * (round + 1));
        for (phone, from) in &by_callee {
            assert_eq!(from.len(), 1, "{phone} was called from {from:?}");
        }
        if stage.count("select count(distinct worker_no) from outdial.attempts").await == 2 {
            return;
        }
    }
    panic!("one worker had all of four hundred callees");
}
