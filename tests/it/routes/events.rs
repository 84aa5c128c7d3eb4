//! What a listener hears of one job that waits, is placed and ends.

use std::collections::HashSet;

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use super::{rule_for, with};
use crate::support::stage::{AGENT, LONG, Stage, job, numbers, sandbox_config};
use crate::support::{Listener, eventually};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_jobs_story_is_told_in_order() {
    let pool = numbers(1);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let worker = stage.worker(&[]).await;
    let mut listener = Listener::new(&stage.vhost.url).await;
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(TRACE.into()));
    let body = with(job("story", "tales", "+14155550101"), json!({ "metadata": { "order": 7 } }));
    stage.publish_with(headers, [body.to_string().into_bytes()]).await;
    let soon = super::with(
        job("brief", "none", "+14155550102"),
        json!({ "expires_at": outdial::clock::wall() + chrono::TimeDelta::seconds(2) }),
    );
    stage.publish(&[soon]).await;
    // The record says why it waits, and so has the listener heard.
    let record = "select count(*) from outdial.jobs where job_id = 'story' and reason = 'no_route'";
    eventually(LONG, async || (stage.count(record).await == 1).then_some(())).await;
    stage.route("", &rule_for("tales", &[&pool[0]], "")).await;
    stage.stands("story", "done", None).await;
    stage.stands("brief", "expired", Some("expired")).await;
    stage.run(&["campaign", "pause", "tales"]).await;

    let heard = listener
        .until(LONG, |heard| {
            let types: HashSet<&str> = heard.iter().map(|event| event["type"].as_str().unwrap()).collect();
            ["job.done", "job.expired", "campaign.state_changed"].iter().all(|t| types.contains(t))
        })
        .await;
    let of =
        |subject: &str| -> Vec<&Value> { heard.iter().filter(|event| event["subject"] == subject).collect() };
    let story = of("story");
    let types: Vec<&str> = story.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types[..2], ["job.accepted", "job.waiting"], "{heard:#?}");
    assert_eq!(types[types.len() - 3..], ["call.placed", "call.ended", "job.done"], "{types:?}");
    let waits = &story[1..story.len() - 3];
    assert!(waits.windows(2).all(|two| two[0]["data"]["reason"] != two[1]["data"]["reason"]), "{waits:#?}");
    assert_eq!(waits[0]["data"]["reason"], "no_route");
    let sequences: Vec<&str> = story.iter().map(|event| event["sequence"].as_str().unwrap()).collect();
    assert!(sequences.windows(2).all(|two| two[0] < two[1]), "{sequences:?}");
    for event in &story {
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["traceparent"], TRACE);
        assert_eq!(event["data"]["job_id"], "story");
        assert_eq!(event["data"]["campaign_id"], "tales");
        assert_eq!(event["data"]["metadata"], json!({ "order": 7 }));
    }
    let call = stage.called("+14155550101").await;
    for event in &story[story.len() - 3..] {
        assert_eq!(event["data"]["call_id"].as_str(), call.call_id.as_deref(), "{event}");
        assert_eq!(event["data"]["from_phone_number"].as_str(), Some(&*pool[0]), "{event}");
        assert_eq!(event["data"]["attempt_no"], 1, "{event}");
    }
    assert!(story[story.len() - 2]["data"]["disposition"].is_string());
    let brief: Vec<&str> = of("brief").iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(brief.last(), Some(&"job.expired"));
    assert!(of("brief").iter().all(|event| event.get("traceparent").is_none()));
    let paused = of("tales")[0];
    assert_eq!((&paused["data"]["state"], &paused["data"]["was"]), (&json!("paused"), &json!("active")));
    let ids: HashSet<&str> = heard.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), heard.len(), "an id is one event's");
    drop(worker);
}

#[tokio::test]
async fn only_the_types_that_are_asked_for_are_sent() {
    let pool = numbers(1);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let types = ("OUTDIAL__EVENTS__TYPES", "job.done,number.state_changed");
    stage.route("", "[[rule]]\nname = \"any\"\n").await;
    let _worker = stage.worker(&[types]).await;
    let mut listener = Listener::new(&stage.vhost.url).await;
    stage.publish(&[job("one", "c", "+14155550101"), job("two", "c", "+14155550102")]).await;
    let heard = listener.until(LONG, |heard| heard.len() >= 2).await;
    let subjects: HashSet<&str> = heard.iter().map(|event| event["subject"].as_str().unwrap()).collect();
    assert!(heard.iter().all(|event| event["type"] == "job.done"), "{heard:#?}");
    assert_eq!(subjects, HashSet::from(["one", "two"]));
    assert_eq!(heard[0]["data"]["campaign_id"], "c");
    assert_eq!(stage.count("select count(*) from outdial.outbox where type <> 'job.done'").await, 0);
    // What nobody asked for isn't even written.
    assert_eq!(stage.called("+14155550101").await.model_id.as_deref(), Some(AGENT));
}
