//! Every strategy, and what comes of numbers that are at their limit or not there.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use outdial::clock::wall;
use outdial::synthflow::sandbox::LedgerEntry;

use super::{PATIENT, entry, rule_for, to};
use crate::support::stage::{LONG, Stage, callees, jobs, number, numbers, sandbox_config};

/// How many calls each number made to callees of a campaign.
fn made<'a>(posts: &'a [LedgerEntry], from: &[String]) -> BTreeMap<&'a str, usize> {
    let mut made = BTreeMap::new();
    for post in posts {
        let number = post.from_phone_number.as_deref().unwrap();
        if from.iter().any(|n| n == number) {
            *made.entry(number).or_default() += 1;
        }
    }
    made
}

#[tokio::test]
async fn least_used_goes_by_the_share_of_the_tightest_window() {
    let pool = numbers(2);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let rules = entry(&pool[0], "limits = { per_hour = 2 }")
        + &entry(&pool[1], "limits = { per_hour = 6, per_day = 100 }")
        + &rule_for("least", &[&pool[0], &pool[1]], "strategy = \"least_used\"");
    stage.route("", &rules).await;
    let _worker = stage.worker(&[PATIENT]).await;
    stage.publish(&jobs("least", 4)).await;
    assert_eq!(made(&stage.posted(4, LONG).await, &pool), [(&*pool[0], 1), (&*pool[1], 3)].into());
    let more: Vec<_> = jobs("least", 9).split_off(4);
    stage.publish(&more).await;
    assert_eq!(made(&stage.posted(8, LONG).await, &pool), [(&*pool[0], 2), (&*pool[1], 6)].into());
    // Which of the nine is left is the ledger's affair; it goes when the first call is an hour old.
    stage.jobs("waiting", Some("number_limit"), 1, LONG).await;
    let due_at: DateTime<Utc> =
        sqlx::query_scalar("select due_at from reporting.jobs where state = 'waiting'")
            .fetch_one(&stage.db)
            .await
            .unwrap();
    let wait = due_at - wall();
    assert!(wait > TimeDelta::minutes(55) && wait < TimeDelta::minutes(61), "{wait}");
    assert_eq!(stage.posts().len(), 8);
}

#[tokio::test]
async fn round_robin_takes_turns_in_a_burst_and_one_by_one() {
    let pool = numbers(3);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let uses: Vec<&str> = pool.iter().map(String::as_str).collect();
    stage.route("per_hour = 1000", &rule_for("robin", &uses, "strategy = \"round_robin\"")).await;
    let _worker = stage.worker(&[PATIENT]).await;
    stage.publish(&jobs("robin", 9)).await;
    let posts = stage.posted(9, LONG).await;
    assert_eq!(made(&posts, &pool), uses.iter().map(|n| (*n, 3)).collect());
    let mut order = Vec::new();
    for phone in callees(15).skip(9) {
        stage.publish(&to("robin", [phone.as_str()])).await;
        order.push(stage.called(&phone).await.from_phone_number.unwrap());
    }
    assert_eq!(order[..3], order[3..]);
    assert_eq!(order[..3].iter().collect::<std::collections::HashSet<_>>().len(), 3);
}

#[tokio::test]
async fn weighted_shares_out_by_weight() {
    let pool = numbers(2);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let rules =
        entry(&pool[1], "weight = 3") + &rule_for("heavy", &[&pool[0], &pool[1]], "strategy = \"weighted\"");
    stage.route("", &rules).await;
    let _worker = stage.worker(&[PATIENT]).await;
    stage.publish(&jobs("heavy", 400)).await;
    let posts = stage.posted(400, LONG).await;
    let heavy = made(&posts, &pool)[&*pool[1]];
    // 300 are expected, with a standard deviation of 8.7: five of them.
    assert!((257..=343).contains(&heavy), "{heavy} of 400");
}

#[tokio::test]
async fn local_presence_takes_the_nearest_that_is_free() {
    let [area, region, elsewhere, abroad] = ["+14157770001", "+16287770002", "+12127770003", "+442079460146"];
    let pool = [area, region, elsewhere, abroad].map(str::to_owned);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let near = "strategy = \"local_presence\"";
    let rules = entry(area, "limits = { per_day = 1 }")
        + &entry(region, "limits = { per_day = 2 }")
        + &rule_for("near", &[area, region, elsewhere, abroad], near)
        + "[[campaign]]\nid = \"near\"\ndestinations = [\"US\", \"GB\", \"FR\"]\n";
    stage.route("per_day = 100", &rules).await;
    let _worker = stage.worker(&[PATIENT]).await;
    // Each once the one before has taken its number's place. Across the bay there is no number of the area left to
    // prefer when the one of 415 has had its call of the day.
    let calls = [
        ("+14155550101", area),
        ("+14155550102", region),
        ("+12135550103", region),
        ("+12135550104", elsewhere),
        ("+16465550105", elsewhere),
        ("+442079460107", abroad),
    ];
    for (callee, expected) in calls {
        stage.publish(&to("near", [callee])).await;
        assert_eq!(stage.called(callee).await.from_phone_number.as_deref(), Some(expected), "{callee}");
    }
    // Nothing is near Paris.
    stage.publish(&to("near", ["+33142685300"])).await;
    let from = stage.called("+33142685300").await.from_phone_number.unwrap();
    assert!([elsewhere, abroad].contains(&from.as_str()), "{from}");
}

#[tokio::test]
async fn numbers_at_their_limit_wait_or_give_way_to_the_next_rule() {
    let pool = numbers(4);
    let n = |at: usize| pool[at].as_str();
    let stage = Stage::new(sandbox_config(&pool)).await;
    let mut rules = rule_for("patient", &[n(0)], "overflow = \"wait\"");
    rules += &rule_for("patient", &[n(3)], "").replacen("patient", "never reached", 1);
    rules += &rule_for("hasty", &[n(1)], "overflow = \"next\"");
    rules += &rule_for("hasty", &[n(2)], "overflow = \"next\"").replacen("hasty", "hasty, second", 1);
    // The last rule of the chain has no number: those of the first two are waited for all the same.
    rules += &rule_for("hasty", &[], "otherwise = \"refuse\"")
        .replace("numbers = []", "tags = [\"nobody has it\"]")
        .replacen("hasty", "hasty, third", 1);
    stage.route("per_day = 1", &rules).await;
    let _worker = stage.worker(&[PATIENT]).await;
    let expected = [
        ("patient", "+14155550101", Some(n(0))),
        ("patient", "+14155550102", None),
        ("hasty", "+14155550111", Some(n(1))),
        ("hasty", "+14155550112", Some(n(2))),
        ("hasty", "+14155550113", None),
    ];
    for (campaign, phone, number) in expected {
        stage.publish(&to(campaign, [phone])).await;
        match number {
            Some(number) => {
                assert_eq!(stage.called(phone).await.from_phone_number.as_deref(), Some(number));
            }
            None => {
                let id = format!("{campaign}-{}", &phone[1..]);
                stage.stands(&id, "waiting", Some("number_limit")).await;
            }
        }
    }
    let rules: Vec<String> = sqlx::query_scalar("select rule from reporting.calls order by submitted_at")
        .fetch_all(&stage.db)
        .await
        .unwrap();
    assert_eq!(rules, ["patient", "hasty", "hasty, second"]);
    assert_eq!(stage.posts().len(), 3);
}

#[tokio::test]
async fn without_an_eligible_number_a_rule_does_what_its_otherwise_says() {
    let pool = numbers(2);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let none = |campaign: &str, otherwise: &str| {
        rule_for(campaign, &[&number(77)], &format!("otherwise = \"{otherwise}\""))
    };
    let rules = none("next", "next")
        + &rule_for("next", &[&pool[1]], "").replacen("next", "the one after", 1)
        + &none("hold", "hold")
        + &none("refuse", "refuse")
        + &none("default", "agent_default");
    stage.route("", &rules).await;
    let _worker = stage.worker(&[PATIENT]).await;
    for campaign in ["next", "hold", "refuse", "default"] {
        stage.publish(&to(campaign, [callee_of(campaign)])).await;
    }
    assert_eq!(stage.called(callee_of("next")).await.from_phone_number.as_deref(), Some(&*pool[1]));
    stage.stands("hold-14155550102", "waiting", Some("no_eligible_number")).await;
    stage.stands("refuse-14155550103", "refused", Some("no_eligible_number")).await;
    let post = stage.called(callee_of("default")).await;
    assert_eq!(post.body.get("from_phone_number"), None, "the field is left out");
    // Null in the record until the provider tells; then what it says, which nothing of ours can be compared with.
    stage.stands("default-14155550104", "done", None).await;
    let row: (Option<String>, Option<String>, Option<bool>, String) = sqlx::query_as(
        "select from_phone_number, from_phone_number_reported, caller_id_verified, rule
         from reporting.calls where job_id = 'default-14155550104'",
    )
    .fetch_one(&stage.db)
    .await
    .unwrap();
    assert_eq!(row, (Some(pool[0].clone()), Some(pool[0].clone()), None, "default".to_owned()));
    assert_eq!(stage.posts().len(), 2);
}

fn callee_of(campaign: &str) -> &'static str {
    match campaign {
        "next" => "+14155550101",
        "hold" => "+14155550102",
        "refuse" => "+14155550103",
        _ => "+14155550104",
    }
}

#[tokio::test]
async fn without_a_rule_a_job_does_what_no_route_says() {
    let pool = numbers(1);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let _worker = stage.worker(&[PATIENT]).await;
    let job = |at: usize| to("stray", [["+14155550101", "+14155550102", "+14155550103"][at]]);
    let id = |at: usize| format!("stray-1415555010{}", at + 1);
    stage.publish(&job(0)).await;
    stage.stands(&id(0), "waiting", Some("no_route")).await;
    let other = rule_for("other", &[&pool[0]], "");
    stage.route_with("no_route = \"hold\"", &other).await;
    stage.publish(&job(1)).await;
    stage.stands(&id(1), "waiting", Some("no_route")).await;
    stage.route_with("no_route = \"refuse\"", &other).await;
    stage.stands(&id(0), "refused", Some("no_route")).await;
    stage.stands(&id(1), "refused", Some("no_route")).await;
    stage.route_with("no_route = \"agent_default\"", &other).await;
    stage.publish(&job(2)).await;
    assert_eq!(stage.called("+14155550103").await.from_phone_number, None);
    stage.stands(&id(2), "done", None).await;
    assert_eq!(stage.count("select count(*) from reporting.calls where rule = 'no_route'").await, 1);
    assert_eq!(stage.posts().len(), 1);
}
