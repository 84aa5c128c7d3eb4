//! Who goes first where not everybody can: campaigns by weight, jobs by priority, and what is said of those that wait.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;

use crate::support::stage::{ANY_NUMBER, Stage, job, jobs, number, numbers, sandbox_config};

const SOON: Duration = Duration::from_secs(60);
const CAPS: &str = "OUTDIAL__ACCOUNTS__DEFAULT__CALLS_PER_SECOND";

fn others(campaign: &str, n: usize) -> Vec<Value> {
    (0..n).map(|i| job(&format!("{campaign}-{i}"), campaign, &format!("+1213555{:04}", 1000 + i))).collect()
}

/// Campaigns of the POSTs, in the order of their slots.
async fn campaigns_in_order(stage: &Stage) -> Vec<String> {
    let query = "select campaign_id from outdial.attempts order by slot, submitted_at";
    sqlx::query_scalar(query).fetch_all(&stage.db).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_jobs_beside_five_thousand_dont_wait_for_them() {
    let stage = Stage::new(sandbox_config(&numbers(10))).await;
    stage.route("", ANY_NUMBER).await;
    let workers = [stage.worker(&[(CAPS, "10")]).await, stage.worker(&[(CAPS, "10")]).await];
    stage.publish(&jobs("large", 5_000)).await;
    let accepted = "select count(*) from outdial.jobs where campaign_id = 'large'";
    crate::support::eventually(SOON, async || (stage.count(accepted).await == 5_000).then_some(())).await;
    stage.publish(&others("small", 10)).await;
    let accepted = "select count(*) from outdial.jobs where campaign_id = 'small'";
    crate::support::eventually(SOON, async || (stage.count(accepted).await == 10).then_some(())).await;
    let since = stage.count("select (extract(epoch from clock_timestamp()) * 1000000)::bigint").await;
    let done = "select count(*) from outdial.attempts where campaign_id = 'small'";
    crate::support::eventually(SOON, async || (stage.count(done).await == 10).then_some(())).await;
    // Half of the account is theirs: alone they would have needed 20 calls' time. Each worker may have a burst of ten before it knows
    // of them.
    let beside = format!(
        "select count(*) from outdial.attempts where campaign_id = 'large'
         and extract(epoch from submitted_at) * 1000000 > {since}
         and slot <= (select max(slot) from outdial.attempts where campaign_id = 'small')"
    );
    let beside = stage.count(&beside).await;
    assert!(beside <= 40, "{beside} calls of the large campaign went meanwhile");
    let waiting = "select count(*) from reporting.jobs where campaign_id = 'large' and state = 'waiting'
        and reason = 'account_limit' and due_at < now() + interval '5 seconds'";
    crate::support::eventually(SOON, async || (stage.count(waiting).await > 4_000).then_some(())).await;
    drop(workers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scarce_account_is_shared_by_weight() {
    let stage = Stage::new(sandbox_config(&numbers(10))).await;
    let campaigns = "[[campaign]]\nid = \"heavy\"\nweight = 3\n[[campaign]]\nid = \"light\"\nweight = 1\n";
    stage.route("", &format!("{campaigns}{ANY_NUMBER}")).await;
    stage.paused(&["heavy", "light"]).await;
    let workers = [stage.worker(&[(CAPS, "9")]).await, stage.worker(&[(CAPS, "9")]).await];
    stage.publish(&jobs("heavy", 500)).await;
    stage.publish(&others("light", 500)).await;
    stage.jobs("waiting", Some("campaign_paused"), 1_000, SOON).await;
    stage.resume(&["light", "heavy"]).await;
    stage.posted(120, SOON).await;
    let order = campaigns_in_order(&stage).await;
    drop(workers);
    // The first burst went to who was resumed first.
    let heavy = order[20..120].iter().filter(|campaign| *campaign == "heavy").count();
    assert!(
        (70..=80).contains(&heavy),
        "{heavy} of 100 calls went to the campaign of weight 3 beside one of weight 1"
    );
}

/// Two campaigns share one number, a third has others: who shares the number takes turns all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scarce_number_is_shared_beside_a_campaign_that_has_others() {
    let pool = numbers(4);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let rules = format!(
        "[[number]]\nnumber = \"{0}\"\nlimits = {{ per_second = 1 }}\n\
         [[rule]]\nname = \"shared\"\nmatch = {{ campaign = [\"a\", \"b\"] }}\nuse = {{ numbers = [\"{0}\"] }}\n\
         [[rule]]\nname = \"others\"\nuse = {{ numbers = [\"{1}\", \"{2}\", \"{3}\"] }}\n",
        pool[0], pool[1], pool[2], pool[3]
    );
    stage.route("per_second = 5", &rules).await;
    let worker = stage.worker(&[]).await;
    stage.publish(&jobs("c", 500)).await;
    stage.publish(&others("a", 20)).await;
    stage
        .publish(
            &(0..20)
                .map(|i| job(&format!("b-{i}"), "b", &format!("+1212555{:04}", 1000 + i)))
                .collect::<Vec<_>>(),
        )
        .await;
    let gone = "select count(*) from outdial.attempts where campaign_id in ('a', 'b')";
    crate::support::eventually(SOON, async || (stage.count(gone).await >= 12).then_some(())).await;
    let order = campaigns_in_order(&stage).await;
    drop(worker);
    let of_b = order.iter().filter(|c| *c == "a" || *c == "b").take(12).filter(|c| *c == "b").count();
    assert!((4..=8).contains(&of_b), "{of_b} of 12 calls from the shared number went to b: {order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_a_campaign_priority_goes_first_and_then_receipt_over_all_classes() {
    let pool = numbers(1);
    let stage = Stage::new(sandbox_config(&pool)).await;
    // Rules that ask for the region make classes of the regions.
    let rules = "[[campaign]]\nid = \"mixed\"\ndestinations = [\"US\", \"CA\", \"GB\"]\n\
        [[rule]]\nname = \"east\"\nmatch = { region = [\"US-NY\", \"GB\"] }\n[[rule]]\nname = \"any\"\n";
    stage.route("per_second = 3", rules).await;
    stage.paused(&["mixed"]).await;
    let workers = [stage.worker(&[]).await, stage.worker(&[]).await];
    let phones = ["+14155550", "+12125550", "+44207946", "+16045550"];
    let mixed: Vec<Value> = (0..300usize)
        .map(|i| {
            let mut job = job(&format!("m-{i}"), "mixed", &format!("{}{:03}", phones[i % 4], 100 + i));
            // A few urgent ones, late.
            job["priority"] = match i {
                280.. => 9,
                200..260 if i % 7 == 0 => 6,
                _ => 4,
            }
            .into();
            job
        })
        .map(|mut job| {
            if job["phone"].as_str().unwrap().starts_with("+44") {
                job["phone"] = format!("{}0{}", "+44207946", &job["phone"].as_str().unwrap()[9..]).into();
            }
            job
        })
        .collect();
    stage.publish(&mixed).await;
    stage.jobs("waiting", Some("campaign_paused"), 300, SOON).await;
    stage.resume(&["mixed"]).await;
    stage.posted(29 + 9, SOON).await;
    let rows: Vec<(i64, i16)> = sqlx::query_as(
        "select j.job_no, j.priority from outdial.attempts a join outdial.jobs j using (job_no)
         where a.state <> 'submitting' order by a.slot, j.priority desc, j.job_no",
    )
    .fetch_all(&stage.db)
    .await
    .unwrap();
    drop(workers);
    let urgent = 20 + (200..260).filter(|i| i % 7 == 0).count();
    // A slot that was missed on a busy machine is made up for by a later one: a few may have changed places.
    let swapped = |order: &[(i16, i64)]| order.windows(2).filter(|pair| pair[0] > pair[1]).count();
    let order: Vec<(i16, i64)> = rows.iter().map(|row| (-row.1, row.0)).collect();
    let first = order[..urgent].iter().filter(|job| job.0 < -4).count();
    assert!(first + 3 >= urgent, "{order:?}");
    // With two workers, each sends its own share in order of receipt.
    for share in [0, 1] {
        let ours: Vec<(i16, i64)> = order.iter().filter(|job| job.1 / 64 % 2 == share).copied().collect();
        assert!(swapped(&ours) <= 4, "{ours:?}");
    }
}

struct Listener(Channel, #[expect(dead_code, reason = "kept open")] Connection);

impl Listener {
    /// Hears of events with this routing key from now on.
    async fn new(stage: &Stage, key: &str) -> Self {
        let connection =
            Connection::connect(&stage.vhost.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let declare = QueueDeclareOptions::default();
        channel.queue_declare("listener".into(), declare, FieldTable::default()).await.unwrap();
        let (events, bind) = ("outdial.events".into(), QueueBindOptions::default());
        channel.queue_bind("listener".into(), events, key.into(), bind, FieldTable::default()).await.unwrap();
        Self(channel, connection)
    }

    /// Everything heard so far.
    async fn heard(&self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(message) =
            self.0.basic_get("listener".into(), BasicGetOptions { no_ack: true }).await.unwrap()
        {
            events.push(serde_json::from_slice(&message.delivery.data).unwrap());
        }
        events
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_says_why_and_until_when_and_tells_it_once() {
    let stage = Stage::new(sandbox_config(&numbers(3))).await;
    let rules = format!(
        "[[campaign]]\nid = \"narrow\"\nlimits = {{ per_minute = 2 }}\n\
         [[campaign]]\nid = \"open\"\nlimits = {{ concurrent = 1 }}\n\
         [[number]]\nnumber = \"{}\"\nlimits = {{ per_minute = 2 }}\n\
         [[rule]]\nname = \"others\"\nuse = {{ numbers = [\"{}\", \"{}\"] }}\n",
        number(0),
        number(1),
        number(2)
    );
    stage.route("", &rules).await;
    // The concurrency of `open` is freed now and then, so that it waits, and goes on.
    stage
        .sandbox
        .change_settings(outdial::synthflow::sandbox::SettingsChange {
            time_scale: Some(50.0),
            ..Default::default()
        })
        .unwrap();
    let workers = [stage.worker(&[]).await, stage.worker(&[]).await];
    // Until the pool is known they would wait for that.
    stage.publish(&[job("first", "first", "+14155550123")]).await;
    stage.stands("first", "done", None).await;
    let listener = Listener::new(&stage, "job.waiting").await;
    let pinned = |mut job: Value| {
        job["from_phone_number"] = number(0).into();
        job
    };
    stage.publish(&jobs("pinned", 30).into_iter().map(pinned).collect::<Vec<_>>()).await;
    stage.publish(&others("narrow", 30)).await;
    let open: Vec<Value> =
        (0..30).map(|i| job(&format!("open-{i}"), "open", &format!("+1212555{:04}", 1000 + i))).collect();
    stage.publish(&open).await;
    stage.jobs("waiting", Some("number_limit"), 28, SOON).await;
    let of = |campaign: &str, reason: &str, due: &str| {
        format!(
            "select count(*) from reporting.jobs where campaign_id = '{campaign}' and state = 'waiting'
             and reason = '{reason}' and due_at {due}"
        )
    };
    let within = "between now() and now() + interval '61 seconds'";
    for (campaign, reason, due, n) in [
        ("pinned", "number_limit", within, 28),
        ("narrow", "campaign_limit", within, 28),
        // Only an ended call makes room, and nobody knows when.
        ("open", "campaign_limit", "is null", 5),
    ] {
        let query = of(campaign, reason, due);
        crate::support::eventually(SOON, async || (stage.count(&query).await >= n).then_some(())).await;
    }
    let query = "select reason, jobs, next_due_at is not null from reporting.waiting
        where campaign_id in ('pinned', 'narrow') order by 1";
    let said = [("campaign_limit".to_owned(), 28, true), ("number_limit".to_owned(), 28, true)];
    crate::support::eventually(SOON, async || {
        let rows: Vec<(String, i64, bool)> = sqlx::query_as(query).fetch_all(&stage.db).await.unwrap();
        (rows == said).then_some(())
    })
    .await;

    // Long enough for many passes and many calls.
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let hear = async |told: &mut BTreeMap<String, Vec<String>>| {
        for event in listener.heard().await {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            told.entry(text(&event["subject"])).or_default().push(text(&event["data"]["reason"]));
        }
    };
    let end = outdial::clock::monotonic() + SOON;
    let ended = "select count(*) from outdial.attempts where campaign_id = 'open' and state = 'ended'";
    while stage.count(ended).await < 8 || told.len() < 56 {
        assert!(outdial::clock::monotonic() < end, "{} told of", told.len());
        hear(&mut told).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    hear(&mut told).await;
    drop(workers);
    let mut counts: HashMap<usize, usize> = HashMap::new();
    for (job, reasons) in &told {
        assert!(reasons.windows(2).all(|pair| pair[0] != pair[1]), "{job}: {reasons:?}");
        *counts.entry(reasons.len()).or_default() += 1;
        if job.starts_with("pinned") || job.starts_with("narrow") {
            assert_eq!(reasons.len(), 1, "{job}: {reasons:?}");
        }
    }
    assert!(
        counts.keys().all(|told| *told <= 2),
        "{counts:?}: a reason that comes and goes isn't told each time"
    );
}
