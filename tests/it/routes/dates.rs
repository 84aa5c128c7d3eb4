//! True dates: windows in the callee's time, `not_before`, expiry; and the order by priority.

use chrono::{DateTime, Duration, DurationRound, TimeDelta, Timelike, Utc};
use chrono_tz::America::Phoenix;
use outdial::clock::wall;
use serde_json::json;

use super::{PATIENT, rule_for, to, with};
use crate::support::stage::{LONG, Stage, job, numbers, sandbox_config};

/// A callee in Arizona, where clocks are never set forward or back.
const ARIZONA: &str = "+16025550101";
const ALL_DAYS: &str = "[\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"]";

/// A campaign that may call between two times of day, given in hours from now as clocks in Arizona show it.
fn campaign(id: &str, now: DateTime<Utc>, from: i64, to: i64) -> String {
    let clock =
        |hours: i64| (now + Duration::hours(hours)).with_timezone(&Phoenix).format("%H:%M").to_string();
    let (from, to) = (clock(from), clock(to));
    format!("[[campaign]]\nid = {id:?}\nwindow = {{ days = {ALL_DAYS}, from = {from:?}, to = {to:?} }}\n")
}

#[tokio::test]
async fn a_window_is_the_callees_and_may_be_opened_by_new_rules() {
    let stage = Stage::new(sandbox_config(&numbers(1))).await;
    let now = wall();
    let rule = "[[rule]]\nname = \"any\"\n";
    // Russian mobile numbers may be in any of eleven zones: an hour that suits them all there never is.
    let shut = campaign("shut", now, 2, 3) + "destinations = [\"US\", \"RU\"]\n";
    stage.route("", &(campaign("open", now, -1, 1) + &shut + rule)).await;
    let _worker = stage.worker(&[]).await;
    stage.publish(&to("open", [ARIZONA])).await;
    stage.called(ARIZONA).await;

    let tokyo = json!({ "lead_timezone": "Asia/Tokyo" });
    stage
        .publish(&[
            job("later", "shut", "+16025550102"),
            // Sixteen hours ahead: its window opens that much earlier.
            with(job("tokyo", "open", "+16025550103"), tokyo.clone()),
            job("nowhere", "shut", "+79161234567"),
        ])
        .await;
    let opens = (now + TimeDelta::hours(2)).duration_trunc(TimeDelta::minutes(1)).unwrap();
    assert_eq!(stage.stands("later", "waiting", Some("outside_window")).await, Some(opens));
    let opens = (now + TimeDelta::hours(7)).duration_trunc(TimeDelta::minutes(1)).unwrap();
    assert_eq!(stage.stands("tokyo", "waiting", Some("outside_window")).await, Some(opens));
    assert_eq!(stage.stands("nowhere", "waiting", Some("outside_window")).await, None, "no date is made up");
    assert_eq!(stage.posts().len(), 1);

    let all_day = format!(
        "[[campaign]]\nid = \"shut\"\nwindow = {{ days = {ALL_DAYS}, from = \"00:00\", to = \"24:00\" }}\n"
    ) + "destinations = [\"US\", \"RU\"]\n";
    stage.route("", &(campaign("open", now, 14, 18) + &all_day + rule)).await;
    for phone in ["+16025550102", "+16025550103", "+79161234567"] {
        stage.called(phone).await;
    }
    // And shut again.
    stage.publish(&to("open", ["+16025550104"])).await;
    stage.stands("open-16025550104", "waiting", Some("outside_window")).await;
    assert_eq!(stage.posts().len(), 4);
}

#[tokio::test]
async fn days_name_the_start_of_a_window_that_spans_midnight() {
    let stage = Stage::new(sandbox_config(&numbers(1))).await;
    // A zone where it is noon, so that neither midnight is near.
    let ahead = 12 - i64::from(wall().hour());
    let zone = format!("Etc/GMT{:+}", -ahead);
    let local = wall() + TimeDelta::hours(ahead);
    let window = |id: &str, days_ago: i64| {
        // As long as can be: from an hour from now to a minute before that, a day later.
        let day = (local - TimeDelta::days(days_ago)).format("%a").to_string().to_lowercase();
        let (from, to) = (local + TimeDelta::hours(1), local + TimeDelta::minutes(59));
        let (from, to) = (from.format("%H:%M"), to.format("%H:%M"));
        format!(
            "[[campaign]]\nid = {id:?}\nwindow = {{ days = [{day:?}], from = \"{from}\", to = \"{to}\" }}\n"
        )
    };
    let rules = window("begun", 1) + &window("not-begun", 0);
    stage.route("", &(rules + "[[rule]]\nname = \"any\"\n")).await;
    let _worker = stage.worker(&[]).await;
    let there = |id: &str, phone: &str| with(job(id, id, phone), json!({ "lead_timezone": zone }));
    stage.publish(&[there("begun", ARIZONA), there("not-begun", "+16025550102")]).await;
    stage.called(ARIZONA).await;
    let opens = (local + TimeDelta::hours(1 - ahead)).duration_trunc(TimeDelta::minutes(1)).unwrap();
    assert_eq!(stage.stands("not-begun", "waiting", Some("outside_window")).await, Some(opens));
}

#[tokio::test]
async fn jobs_start_at_their_date_and_expire_at_theirs() {
    let stage = Stage::new(sandbox_config(&numbers(1))).await;
    let brief = "[[campaign]]\nid = \"brief\"\nexpires_after = \"5m\"\n";
    stage.route("", &(brief.to_owned() + &rule_for("brief", &["+16286661000"], ""))).await;
    let _worker = stage.worker(&[]).await;
    // Of a date of its own: it must be seen waiting before that.
    let soon = (wall() + TimeDelta::seconds(5)).to_rfc3339();
    stage.publish(&[with(job("short", "stray", "+14155550104"), json!({ "expires_at": soon }))]).await;
    stage.stands("short", "waiting", Some("no_route")).await;
    let now = wall();
    let date = |seconds: i64| (now + TimeDelta::seconds(seconds)).to_rfc3339();
    stage
        .publish(&[
            with(job("later", "brief", "+14155550101"), json!({ "not_before": date(4) })),
            with(
                job("much-later", "brief", "+14155550102"),
                json!({ "not_before": date(4_000), "expires_at": date(8_000) }),
            ),
            with(job("past", "brief", "+14155550103"), json!({ "expires_at": date(-1) })),
            with(
                job("neither", "brief", "+14155550105"),
                json!({ "not_before": date(3), "expires_at": date(3_600) }),
            ),
            job("usual", "stray", "+14155550106"),
        ])
        .await;
    let due_at = stage.stands("much-later", "waiting", Some("not_before")).await.unwrap();
    assert!((due_at - now - TimeDelta::seconds(4_000)).abs() < TimeDelta::seconds(1));
    stage.stands("past", "expired", Some("expired")).await;
    for (phone, after) in [("+14155550101", 4), ("+14155550105", 3)] {
        let arrived = DateTime::from_timestamp_micros(stage.called(phone).await.at_us).unwrap();
        assert!(arrived >= now + TimeDelta::seconds(after), "{phone} at {arrived}, published at {now}");
    }
    stage.stands("short", "expired", Some("expired")).await;
    let kept =
        "select extract(epoch from expires_at - received_at)::bigint from outdial.jobs where job_id = ";
    assert_eq!(stage.count(&format!("{kept}'later'")).await, 300);
    assert_eq!(stage.count(&format!("{kept}'usual'")).await, 7 * 86_400);
    stage.stands("later", "done", None).await;
    assert_eq!(stage.posts().len(), 2);
}

#[tokio::test]
async fn within_a_campaign_priority_goes_first_then_receipt() {
    let stage = Stage::new(sandbox_config(&numbers(1))).await;
    let _worker = stage.worker(&[PATIENT]).await;
    let jobs: Vec<_> = [4, 0, 9, 4, 7, 9]
        .into_iter()
        .enumerate()
        .map(|(n, priority)| {
            let job = job(&n.to_string(), "ordered", &format!("+1415555010{n}"));
            if priority == 4 { job } else { with(job, json!({ "priority": priority })) }
        })
        .collect();
    stage.publish(&jobs).await;
    stage.jobs("waiting", Some("no_route"), 6, LONG).await;
    stage.route("per_second = 1", "[[rule]]\nname = \"any\"\n").await;
    let posts = stage.posted(6, LONG).await;
    let order: String =
        posts.iter().map(|post| post.phone.as_ref().unwrap().chars().last().unwrap()).collect();
    assert_eq!(order, "254031");
}
