//! Who is called, and how often: suppressions, consent, caps for each callee, retries.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::time::Duration;

use outdial::synthflow::sandbox::LedgerEntry;
use serde_json::{Value, json};

use crate::support::stage::{
    ANY_NUMBER, LONG, NAME, Stage, callees, job, jobs, most_in_window, numbers, sandbox_config,
};
use crate::support::{Figures, Listener, Outdial, busy, eventually};

const SOON: Duration = Duration::from_secs(20);

async fn stage(rest: &str) -> Stage {
    let stage = Stage::new(sandbox_config(&numbers(4))).await;
    stage.route("", &format!("{ANY_NUMBER}{rest}")).await;
    stage
}

fn phone(n: usize) -> String {
    callees(n + 1).last().unwrap()
}

fn to<'a>(posts: &'a [LedgerEntry], phone: &str) -> Vec<&'a LedgerEntry> {
    posts.iter().filter(|post| post.phone.as_deref() == Some(phone)).collect()
}

#[tokio::test]
async fn a_suppressed_phone_is_refused_and_never_called() {
    let stage =
        stage("[[campaign]]\nid = \"spring\"\nbrand = \"acme\"\n[[campaign]]\nid = \"autumn\"\n").await;
    let file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    let listed = format!(
        "phone,brand,campaign_id\n{},,\n{},acme,\n{},,autumn\nnonsense,,\n",
        phone(0),
        phone(1),
        phone(2)
    );
    std::fs::write(file.path(), listed).unwrap();
    let import = ["suppress", "import", file.path().to_str().unwrap(), "--source", "opt-outs"];
    let (status, told) = stage.start(&import, &[]).wait(SOON).await;
    assert!(!status.success(), "a bad line is told: {told}");
    assert!(told.contains("3 phones, 3 new, 1 bad lines") && told.contains(":5: the phone"), "{told}");
    assert!(!told.contains("nonsense"), "{told}");
    assert_eq!(
        stage.run(&["suppress", "add", "--prefix", "+1212"]).await,
        "1 added, 0 stood there already\n"
    );
    let again = stage.run(&["suppress", "add", &phone(0), "--source", "again"]).await;
    assert_eq!(again, "0 added, 1 stood there already\n");
    let list: Value = serde_json::from_str(&stage.run(&["suppress", "list", "--json"]).await).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 4);
    assert_eq!(
        list[1],
        json!({"prefix": null, "phone": phone(0), "scope": "", "source": "opt-outs", "added_at": list[1]["added_at"]})
    );

    let worker = stage.worker(&[]).await;
    let job_of = |id: &str, campaign: &str, n: usize| job(id, campaign, &phone(n));
    stage
        .publish(&[
            job_of("all", "spring", 0),
            job_of("brand", "spring", 1),
            job_of("other-brand", "autumn", 1),
            job_of("campaign", "autumn", 2),
            job_of("other-campaign", "spring", 2),
            job("range", "spring", "+12125550142"),
            job_of("free", "spring", 3),
        ])
        .await;
    for id in ["all", "brand", "campaign", "range"] {
        stage.stands(id, "refused", Some("suppressed")).await;
    }
    for id in ["other-brand", "other-campaign", "free"] {
        stage.stands(id, "done", None).await;
    }
    assert_eq!(stage.posts().len(), 3);

    assert_eq!(stage.run(&["suppress", "remove", &phone(0)]).await, "1 removed\n");
    stage.publish(&[job_of("again", "spring", 0)]).await;
    stage.stands("again", "done", None).await;
    stage.stopped(worker).await;
}

/// `OUTDIAL_SUPPRESSIONS` of them, and a campaign with one percent of them in it.
#[tokio::test]
async fn of_many_suppressed_phones_none_is_called() {
    let n: usize = std::env::var("OUTDIAL_SUPPRESSIONS").map_or(20_000, |n| n.parse().unwrap());
    let area = |i: usize| 212 + 100 * (i / 8_000_000);
    let suppressed = |i: usize| format!("+1{}{:03}{:04}", area(i), 200 + i / 10_000 % 800, i % 10_000);
    let stage = stage("").await;
    // A worker that knows its tables small and finds them huge.
    let worker = stage.worker(&[]).await;
    stage.publish(&[job("before", "spring", &phone(1_000))]).await;
    stage.stands("before", "done", None).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    {
        let mut file = std::io::BufWriter::new(file.as_file_mut());
        writeln!(file, "phone").unwrap();
        (0..n).for_each(|i| writeln!(file, "{}", suppressed(i)).unwrap());
    }
    let import = ["suppress", "import", file.path().to_str().unwrap(), "--source", "many"];
    let began = outdial::clock::monotonic();
    let limit = LONG + Duration::from_micros(30 * n as u64);
    let import = stage.start(&import, &[]);
    let peak = peak_memory_kib(import.pid());
    let ((status, told), peak) = tokio::join!(import.wait(limit), peak);
    assert!(status.success() && told.contains(&format!("{n} phones, {n} new")), "{told}");
    let (took, peak_mib) = (began.elapsed(), peak / 1024);
    assert!(peak_mib < 100, "{peak_mib} MiB: it grows with the file");

    let refused = n / 100;
    let all: Vec<Value> = (0..refused)
        .map(|i| job(&format!("no-{i}"), "spring", &suppressed(100 * i)))
        .chain((0..refused / 10).map(|i| job(&format!("yes-{i}"), "spring", &phone(i))))
        .collect();
    let limit = LONG + Duration::from_millis(2 * all.len() as u64);
    for some in all.chunks(10_000) {
        stage.publish(some).await;
    }
    stage.jobs("refused", Some("suppressed"), refused as i64, limit).await;
    stage.jobs("done", None, refused as i64 / 10 + 1, limit).await;
    let posts = stage.posts();
    assert_eq!(posts.len(), refused / 10 + 1);
    let open: HashSet<String> = (0..refused / 10).map(phone).chain([phone(1_000)]).collect();
    assert!(posts.iter().all(|post| open.contains(post.phone.as_ref().unwrap())));
    println!(
        "suppressions: {n} imported in {took:.1?} with {peak_mib} MiB; of a campaign with {refused} of them 0 called"
    );
    stage.stopped(worker).await;
}

/// The most that a process had in memory, until it is gone.
async fn peak_memory_kib(pid: u32) -> u64 {
    let mut most = 0;
    while let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        most = peak.unwrap_or(0).max(most);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    most
}

#[tokio::test]
async fn an_opt_out_during_a_run_holds_from_its_commit_on() {
    let stage = stage("").await;
    // So few that the run lasts for six seconds.
    stage.route("per_second = 25", ANY_NUMBER).await;
    let _cores = busy().await;
    stage.paused(&["many"]).await;
    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    stage.publish(&jobs("many", 600)).await;
    stage.jobs("waiting", None, 600, LONG).await;
    stage.resume(&["many"]).await;
    // Those that come last by order of receipt, while the first are dialed.
    let mut opted: HashMap<String, i64> = HashMap::new();
    stage.posted(50, SOON).await;
    for n in (100..600).step_by(25).rev() {
        stage.run(&["suppress", "add", &phone(n)]).await;
        let at = stage.count("select (extract(epoch from clock_timestamp()) * 1000000)::bigint").await;
        opted.insert(phone(n), at);
    }
    let over = "select count(*) from reporting.jobs where state in ('done', 'refused')";
    eventually(LONG, async || (stage.count(over).await == 600).then_some(())).await;
    let after: Vec<i64> = sqlx::query_scalar(
        "select (extract(epoch from submitted_at) * 1000000)::bigint - p.at from outdial.attempts
         join unnest($1::text[], $2::bigint[]) p(phone, at) using (phone)",
    )
    .bind(opted.keys().cloned().collect::<Vec<_>>())
    .bind(opted.values().copied().collect::<Vec<_>>())
    .fetch_all(&stage.db)
    .await
    .unwrap();
    assert!(after.iter().all(|micros| *micros <= 0), "authorised after its opt-out: {after:?}");
    let refused = stage.count("select count(*) from reporting.jobs where reason = 'suppressed'").await;
    assert!(refused > 0, "some were suppressed in time");
    assert_eq!(refused as usize + after.len(), opted.len());
    assert_eq!(stage.posts().len() as i64, 600 - refused);
    stage.nothing_held().await;
    stage.stopped(one).await;
    stage.stopped(two).await;
}

#[tokio::test]
async fn a_campaign_that_demands_consent_refuses_jobs_without() {
    let stage = stage("[[campaign]]\nid = \"strict\"\nconsent = \"required\"\n").await;
    let worker = stage.worker(&[]).await;
    let mut told = job("told", "strict", &phone(0));
    told["consent"] = json!({ "source": "form", "obtained_at": "2026-01-01T00:00:00Z" });
    stage.publish(&[told, job("untold", "strict", &phone(1)), job("elsewhere", "easy", &phone(2))]).await;
    stage.stands("untold", "refused", Some("consent_missing")).await;
    stage.stands("told", "done", None).await;
    stage.stands("elsewhere", "done", None).await;
    assert!(to(&stage.posts(), &phone(1)).is_empty());
    stage.stopped(worker).await;
}

#[tokio::test]
async fn nobody_is_called_more_often_than_the_cap_allows_by_all_campaigns_of_a_brand() {
    let campaign = |id: &str| {
        format!(
            "[[campaign]]\nid = \"{id}\"\nbrand = \"acme\"\nrecipient_limits = {{ per_day = 2, min_gap = \"10s\" }}\n"
        )
    };
    let alone = "[[campaign]]\nid = \"alone\"\nrecipient_limits = { per_hour = 1 }\n";
    let stage = stage(&format!("{}{}{alone}", campaign("spring"), campaign("autumn"))).await;
    let workers = [stage.worker(&[]).await, stage.worker(&[]).await, stage.worker(&[]).await];
    // Ten callees, six jobs for each, of two campaigns.
    let all: Vec<Value> = (0..60)
        .map(|i| job(&format!("j-{i}"), ["spring", "autumn"][i / 10 % 2], &phone(i % 10)))
        .chain((0..2).map(|i| job(&format!("a-{i}"), "alone", &phone(0))))
        .collect();
    stage.publish(&all).await;
    // The first of each at once; the others wait for a date that is true: the gap, and 35 s for what may arrive late.
    stage.posted(11, SOON).await;
    stage.jobs("waiting", Some("recipient_limit"), 51, SOON).await;
    let dated = "select count(*) from reporting.jobs where reason = 'recipient_limit' and due_at is not null";
    eventually(LONG, async || (stage.count(dated).await == 51).then_some(())).await;
    let posts = stage.posted(21, Duration::from_secs(150)).await;
    stage.jobs("waiting", Some("recipient_limit"), 41, SOON).await;
    assert_eq!(posts.len(), 21);
    for n in 0..10 {
        let arrivals = to(&posts, &phone(n)).into_iter().map(|post| post.at_us.unsigned_abs());
        let (alone, most) = (usize::from(n == 0), arrivals.clone().count());
        assert_eq!(most, 2 + alone, "{n}");
        assert!(most_in_window(arrivals, 10) <= 1 + alone, "{n}");
    }
    let tomorrow =
        "select count(*) from reporting.jobs where reason = 'recipient_limit' and campaign_id <> 'alone'
             and due_at > now() + interval '23 hours'";
    eventually(LONG, async || (stage.count(tomorrow).await == 40).then_some(())).await;
    stage.jobs("done", None, 21, LONG).await;
    for worker in workers {
        stage.stopped(worker).await;
    }
    stage.nothing_held().await;
}

#[tokio::test]
async fn a_new_cap_counts_the_calls_that_were_made_before_it() {
    let stage = stage("").await;
    let worker = stage.worker(&[]).await;
    stage.publish(&[job("before", "spring", &phone(0)), job("other", "autumn", &phone(1))]).await;
    stage.jobs("done", None, 2, SOON).await;
    stage
        .route(
            "",
            &format!("{ANY_NUMBER}[[campaign]]\nid = \"spring\"\nrecipient_limits = {{ per_day = 1 }}\n"),
        )
        .await;
    stage.publish(&[job("again", "spring", &phone(0)), job("first", "spring", &phone(1))]).await;
    stage.stands("first", "done", None).await;
    stage.stands("again", "waiting", Some("recipient_limit")).await;
    due_tomorrow(&stage, "again").await;
    // Nor does a new name help.
    let renamed = "[[campaign]]\nid = \"spring\"\nbrand = \"acme\"\nrecipient_limits = { per_day = 1 }\n";
    stage.route("", &format!("{ANY_NUMBER}{renamed}")).await;
    stage.publish(&[job("renamed", "spring", &phone(0)), job("new", "spring", &phone(2))]).await;
    stage.stands("new", "done", None).await;
    stage.stands("renamed", "waiting", Some("recipient_limit")).await;
    due_tomorrow(&stage, "renamed").await;
    // Without the cap it is free at once, not tomorrow.
    stage.route("", ANY_NUMBER).await;
    stage.stands("again", "done", None).await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn the_policy_decides_who_is_called_again_and_when_it_is_over() {
    let mut config = sandbox_config(&numbers(4));
    let outcomes = ["no-answer", "busy", "completed", "hangup_on_voicemail"];
    config.script.outcomes_by_phone =
        outcomes.iter().enumerate().map(|(n, outcome)| (phone(n), (*outcome).to_owned())).collect();
    let stage = Stage::new(config).await;
    let policy = "[[rule]]\nname = \"any\"\nsticky = true\n[[campaign]]\nid = \"spring\"\n\
                  retry = { max_attempts = 3, on = { no_answer = \"10s\", busy = \"1d\" } }\n";
    stage.route("", policy).await;
    let worker = stage.worker(&[]).await;
    let all: Vec<Value> = (0..4).map(|n| job(outcomes[n], "spring", &phone(n))).collect();
    let mut short = job("short", "spring", &phone(1));
    short["expires_at"] = json!(outdial::clock::wall() + chrono::TimeDelta::hours(2));
    stage.publish(&all).await;
    stage.publish(&[short]).await;
    stage.stands("completed", "done", None).await;
    stage.stands("hangup_on_voicemail", "done", None).await;
    stage.stands("short", "done", None).await;
    let due = stage.stands("busy", "waiting", Some("retry")).await.unwrap();
    assert!(due > outdial::clock::wall() + chrono::TimeDelta::hours(23), "{due}");
    stage.stands("no-answer", "waiting", Some("retry")).await;
    stage.stands("no-answer", "done", None).await;
    let posts = stage.posts();
    let rung = to(&posts, &phone(0));
    assert_eq!(rung.len(), 3, "placed three times, and no more");
    assert!(
        rung.windows(2).all(|pair| pair[1].at_us - pair[0].at_us >= 10_000_000),
        "each 10 s after the last's end"
    );
    assert!(
        rung.windows(2).all(|pair| pair[1].from_phone_number == pair[0].from_phone_number),
        "from the same number"
    );
    let story: Vec<(i16, String, Option<String>)> = sqlx::query_as(
        "select attempt_no, state, disposition from reporting.calls where job_id = 'no-answer' order by 1",
    )
    .fetch_all(&stage.db)
    .await
    .unwrap();
    let ended = |n| (n, "ended".to_owned(), Some("no_answer".to_owned()));
    assert_eq!(story, [ended(1), ended(2), ended(3)]);
    // One that waits for a retry is canceled as any other; it has been done all the same.
    stage.run(&["campaign", "cancel", "spring"]).await;
    stage.stands("busy", "canceled", Some("canceled")).await;
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_number_that_the_provider_does_not_show_is_told_and_quarantined_where_the_rules_say_so() {
    let mut config = sandbox_config(&numbers(3));
    let fault = json!({ "kind": "other_caller" });
    config.faults = vec![serde_json::from_value(fault).unwrap()];
    let stage = Stage::new(config).await;
    stage.route_with("number_limits = {}\ncaller_id_mismatch = \"quarantine\"", ANY_NUMBER).await;
    let worker = stage.worker(&[]).await;
    let mut listener = Listener::new(&stage.vhost.url).await;
    stage.publish(&[job("first", "spring", &phone(0))]).await;
    stage.stands("first", "done", None).await;
    let states = async || {
        let rows: Vec<(String, Option<String>)> = sqlx::query_as(
            "select number, state_reason from reporting.numbers where state = 'quarantined' order by 1",
        )
        .fetch_all(&stage.db)
        .await
        .unwrap();
        rows
    };
    let chosen = stage.posts()[0].from_phone_number.clone().unwrap();
    let quarantined = eventually(SOON, async || Some(states().await).filter(|rows| !rows.is_empty())).await;
    assert_eq!(quarantined, [(chosen.clone(), Some("caller_id_mismatch".to_owned()))]);
    let counted = async || Figures::of(&worker).await.sum("caller_id_mismatches_total");
    eventually(SOON, async || (counted().await == 1.0).then_some(())).await;
    let told = listener.of("call.caller_id_mismatch", 1, SOON).await.remove(0);
    assert_eq!((&told["job_id"], &told["from_phone_number"]), (&json!("first"), &json!(chosen)));
    assert_ne!(told["from_phone_number_reported"], told["from_phone_number"]);
    let told = listener.of("number.state_changed", 1, SOON).await.remove(0);
    let said = [&told["number"], &told["state"], &told["reason"]];
    assert_eq!(said, [&json!(chosen), &json!("quarantined"), &json!("caller_id_mismatch")]);
    // The rules may say otherwise, and a person may let it go on.
    stage.route_with("number_limits = {}\ncaller_id_mismatch = \"report\"", ANY_NUMBER).await;
    stage.run(&["number", "activate", &chosen]).await;
    stage.publish(&[job("second", "spring", &phone(1))]).await;
    stage.stands("second", "done", None).await;
    let unverified = "select count(*) from reporting.calls where caller_id_verified = false";
    assert_eq!(stage.count(unverified).await, 2);
    assert_eq!(states().await, []);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn the_hours_of_the_callees_place_hold_where_the_rules_call_for_them() {
    let stage = Stage::new(sandbox_config(&numbers(1))).await;
    let days = r#"["mon", "tue", "wed", "thu", "fri", "sat", "sun"]"#;
    // Always open, and never: whatever the hour of this test is.
    let rules = format!(
        "{ANY_NUMBER}[[calling_rule]]\nplace = \"US\"\nsource = \"test\"\nhours = [{{ days = {days}, from = \"00:00\", to = \"24:00\" }}]\n\
         [[calling_rule]]\nplace = \"US-CA\"\nsource = \"test\"\nattempts = {{ calls = 1, hours = 24 }}\n\
         [[calling_rule]]\nplace = \"US-NV\"\nsource = \"test\"\nhours = [{{ days = {days}, from = \"03:17\", to = \"03:18\" }}]\n"
    );
    stage.apply(&format!("[defaults]\ncalling_rules = \"standard\"\n{rules}")).await;
    let worker = stage.worker(&[]).await;
    let in_nevada = "+17025550142";
    stage.publish(&[job("ca", "spring", &phone(0)), job("nv", "spring", in_nevada)]).await;
    stage.stands("ca", "done", None).await;
    let due = stage.stands("nv", "waiting", Some("outside_window")).await.unwrap();
    let local = due.with_timezone(&chrono_tz::America::Los_Angeles).time().to_string();
    assert_eq!(local, "03:17:00");
    stage.publish(&[job("ca-again", "spring", &phone(0))]).await;
    stage.stands("ca-again", "waiting", Some("recipient_limit")).await;
    due_tomorrow(&stage, "ca-again").await;
    // Without the law there is only what the campaign says.
    stage.route("", ANY_NUMBER).await;
    stage.stands("ca-again", "done", None).await;
    stage.stands("nv", "done", None).await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn an_opt_out_over_http_holds_and_needs_the_token() {
    let stage = stage("").await;
    let worker = stage.worker(&[("OUTDIAL_API_TOKEN", "a-long-enough-token")]).await;
    let address = serving(&worker);
    let post = async |token: &str, body: Value| {
        let headers = format!("authorization: Bearer {token}\r\n");
        crate::webhooks::post(&address, "/api/v1/suppressions", &headers, body.to_string().as_bytes()).await
    };
    let token = "a-long-enough-token";
    let opt_out = json!({ "phone": phone(0), "brand": "acme", "source": "web form" });
    assert_eq!(post("another-long-token", opt_out.clone()).await, 401);
    assert_eq!(stage.run(&["suppress", "list"]).await, "nothing\n");
    assert_eq!(post(token, opt_out.clone()).await, 201);
    assert_eq!(post(token, opt_out).await, 200);
    for bad in
        [json!({}), json!({ "phone": "4155552671" }), json!({ "phone": phone(0), "name": "x" }), json!([])]
    {
        assert_eq!(post(token, bad.clone()).await, 400, "{bad}");
    }
    // As people write it, and as jobs have it.
    assert_eq!(post(token, json!({ "phone": "+44 (0)20 7946 0958" })).await, 201);
    let kept = stage.run(&["suppress", "list", "+442079460958", "--json"]).await;
    assert!(kept.contains("+442079460958"), "{kept}");
    assert_eq!(post(token, json!({ "source": "x".repeat(65 << 10) })).await, 413);
    let list: Value =
        serde_json::from_str(&stage.run(&["suppress", "list", &phone(0), "--json"]).await).unwrap();
    assert_eq!((&list[0]["scope"], &list[0]["source"]), (&json!("brand:acme"), &json!("web form")));
    let mut one = job("one", "spring", &phone(0));
    one["brand"] = json!("acme");
    stage.publish(&[one]).await;
    stage.stands("one", "refused", Some("suppressed")).await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_callee_is_forgotten_but_for_key_and_suppression() {
    let stage = stage("").await;
    let worker = stage.worker(&[]).await;
    let told = |id: &str, campaign: &str, n: usize| {
        let mut job = job(id, campaign, &phone(n));
        job["custom_variables"] = json!({ "policy": "canary-policy" });
        job["lead_email"] = json!("canary@example.org");
        job["metadata"] = json!({ "customer": "canary-customer" });
        job
    };
    stage.paused(&["later"]).await;
    stage.publish(&[told("done", "spring", 0), told("waits", "later", 0), told("other", "spring", 1)]).await;
    stage.stands("done", "done", None).await;
    stage.stands("other", "done", None).await;
    stage.stands("waits", "waiting", Some("campaign_paused")).await;
    stage.run(&["suppress", "add", &phone(0)]).await;
    let told_by_forget = stage.run(&["forget", &phone(0)]).await;
    assert_eq!(told_by_forget, "2 records erased, 1 of jobs that waited and are canceled\n");
    // Of the two callees one is left in the records, whatever table one looks into.
    let digits = phone(0)[1..].to_owned();
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'outdial' and c.relkind = 'r' and c.relname <> 'suppressions'",
    )
    .fetch_all(&stage.db)
    .await
    .unwrap();
    let holding = async |what: &str| {
        let mut rows = 0;
        for table in &tables {
            rows += stage
                .count(&format!("select count(*) from outdial.{table} t where t::text like '%{what}%'"))
                .await;
        }
        rows
    };
    assert_eq!(holding(&digits).await, 0, "the phone");
    for what in [NAME, "canary-policy", "canary@example.org", "canary-customer"] {
        eventually(SOON, async || {
            (stage.count("select count(*) from outdial.outbox").await == 0).then_some(())
        })
        .await;
        assert_eq!(holding(what).await, 1, "{what} stands in the other job alone");
    }
    assert!(holding(&phone(1)[1..]).await >= 2, "the other callee's job and attempt");
    // What happened stays countable, the key is known, and nobody calls again.
    stage.stands("done", "done", None).await;
    stage.stands("waits", "canceled", Some("canceled")).await;
    let call = "select count(*) from reporting.calls where job_id = 'done' and phone is null and disposition is not null";
    assert_eq!(stage.count(call).await, 1);
    stage.run(&["job", "show", "done"]).await;
    stage.publish(&[told("done", "spring", 0), told("new", "spring", 0)]).await;
    stage.stands("new", "refused", Some("suppressed")).await;
    stage.stands("done", "done", None).await;
    assert_eq!(stage.posts().len(), 2);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn who_is_being_called_is_not_forgotten_yet() {
    let mut config = sandbox_config(&numbers(1));
    config.time_scale = 0.001;
    let stage = Stage::new(config).await;
    stage.route("", ANY_NUMBER).await;
    let worker = stage.worker(&[]).await;
    stage.publish(&[job("rings", "spring", &phone(0))]).await;
    stage.jobs("placed", None, 1, SOON).await;
    let (status, told) = stage.start(&["forget", &phone(0)], &[]).wait(SOON).await;
    assert!(!status.success() && told.contains("0 records erased"), "{told}");
    assert!(told.contains("1 are dialed, or in review: rings") && !told.contains(&phone(0)), "{told}");
    assert_eq!(stage.count("select count(*) from reporting.jobs where phone is not null").await, 1);
    stage.stopped(worker).await;
}

/// A call's id, caller ID and disposition.
type Heard = (Option<String>, Option<String>, Option<String>);

/// What a listener makes of one job's events.
#[derive(Debug, Default, PartialEq)]
struct Told {
    state: String,
    reason: Option<String>,
    /// By attempt: call id, caller ID, disposition.
    calls: BTreeMap<i64, Heard>,
}

impl Told {
    fn hear(&mut self, event: &Value) {
        let text = |field: &str| event["data"][field].as_str().map(str::to_owned);
        if let Some(n) = event["data"]["attempt_no"].as_i64()
            && event["type"] != "call.unknown"
        {
            let call = self.calls.entry(n).or_default();
            call.0 = text("call_id").or(call.0.take());
            call.1 = text("from_phone_number").or(call.1.take());
            call.2 = text("disposition").or(call.2.take());
        }
        let state = match event["type"].as_str().unwrap() {
            "job.accepted" | "job.waiting" => "waiting",
            "job.refused" => "refused",
            "job.expired" => "expired",
            "job.canceled" => "canceled",
            "job.done" => "done",
            "call.placed" => "placed",
            "call.unknown" if event["data"]["state"] == "review" => "review",
            "call.unknown" => "dialing",
            _ => return,
        };
        (self.state, self.reason) = (state.to_owned(), text("reason"));
    }
}

/// Every outcome, retries of two sorts, opt-outs, short expiries and POSTs that nobody answers: `OUTDIAL_CAMPAIGN_JOBS`
/// jobs. Delays are the shortest there are, where a real campaign has hours.
#[tokio::test]
async fn a_campaign_with_retries_ends_and_its_events_tell_what_the_table_tells() {
    let n: usize = std::env::var("OUTDIAL_CAMPAIGN_JOBS").map_or(300, |n| n.parse().unwrap());
    let mut config = sandbox_config(&numbers(20));
    config.script.outcomes = ["no-answer", "busy", "completed", "hangup_on_voicemail", "failed"]
        .map(|outcome| (outcome.to_owned(), 1))
        .into();
    let unanswered = json!({ "kind": "answer", "status": 503, "place": false, "rate": 0.02 });
    config.faults = vec![serde_json::from_value(unanswered).unwrap()];
    let stage = Stage::new(config).await;
    let policy = "[[campaign]]\nid = \"spring\"\n\
                  retry = { max_attempts = 3, on = { no_answer = \"12s\", busy = \"10s\" } }\n";
    stage.route("", &format!("{ANY_NUMBER}{policy}")).await;
    let env = [("OUTDIAL__RECONCILE__QUARANTINE", "5s"), ("OUTDIAL__CALLS__READS_PER_SECOND", "200")];
    let workers = [stage.worker(&env).await, stage.worker(&env).await];
    let mut listener = Listener::new(&stage.vhost.url).await;
    let mut all = jobs("spring", n);
    for (i, job) in all.iter_mut().enumerate() {
        match i % 50 {
            7 => {
                stage.run(&["suppress", "add", &phone(i)]).await;
            }
            11 => job["expires_at"] = json!(outdial::clock::wall() - chrono::TimeDelta::seconds(1)),
            _ => {}
        }
    }
    stage.publish(&all).await;
    let limit = LONG + Duration::from_millis(20 * n as u64);
    let over = "select count(*) from reporting.jobs where state in ('done', 'refused', 'expired', 'review')";
    eventually(limit, async || (stage.count(over).await == n as i64).then_some(())).await;
    stage.nothing_in_use().await;

    let most = "select coalesce(max(placed), 0)::bigint from (
        select count(placed_at) placed from reporting.calls group by job_id) c";
    assert_eq!(stage.count(most).await, 3, "placed as often as the policy allows, and some as often");
    let within_policy = "select count(*) from reporting.calls c join reporting.calls p using (job_id)
        where c.attempt_no = p.attempt_no + 1
          and not (p.state = 'not_placed' or p.disposition = 'no_answer' and c.submitted_at >= p.ended_at + interval '11.9 seconds'
                   or p.disposition = 'busy' and c.submitted_at >= p.ended_at + interval '9.9 seconds')";
    assert_eq!(stage.count(within_policy).await, 0, "tried again without a cause, or too soon");
    let given_up = "select count(*) from (select distinct on (job_id) * from reporting.calls order by job_id, attempt_no desc) c
        where disposition in ('no_answer', 'busy') and attempt_no < 3
          and (select count(placed_at) from reporting.calls p where p.job_id = c.job_id) < 3";
    assert_eq!(stage.count(given_up).await, 0, "the policy would have tried again");
    let arrivals = stage.posts().len() as i64;
    assert_eq!(stage.count("select count(*) from reporting.calls").await, arrivals, "a record for each POST");

    // The last event of each job, by its sequence, has been heard: so have all.
    let rows: Vec<(String, String, Option<String>)> =
        sqlx::query_as("select job_id, state, reason from reporting.jobs")
            .fetch_all(&stage.db)
            .await
            .unwrap();
    let sent = "select count(*) from outdial.outbox";
    eventually(LONG, async || (stage.count(sent).await == 0).then_some(())).await;
    let heard = listener.until(LONG, |heard| heard.len() >= n).await;
    let mut in_order: Vec<&Value> =
        heard.iter().filter(|event| event["data"]["job_id"].is_string()).collect();
    in_order.sort_by_key(|event| event["sequence"].as_str().unwrap().to_owned());
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    for event in in_order {
        told.entry(event["subject"].as_str().unwrap().to_owned()).or_default().hear(event);
    }
    let mut expected: BTreeMap<String, Told> = BTreeMap::new();
    for (id, state, reason) in rows {
        expected.insert(id, Told { state, reason, calls: BTreeMap::new() });
    }
    type Call = (String, i16, Option<String>, Option<String>, Option<String>);
    let calls: Vec<Call> = sqlx::query_as(
        "select job_id, attempt_no, call_id, from_phone_number, disposition from reporting.calls where placed_at is not null",
    )
    .fetch_all(&stage.db)
    .await
    .unwrap();
    for (id, attempt, call_id, from, disposition) in calls {
        expected.get_mut(&id).unwrap().calls.insert(i64::from(attempt), (call_id, from, disposition));
    }
    let states = |told: &BTreeMap<String, Told>| {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        told.values().for_each(|job| *count.entry(job.state.clone()).or_default() += 1);
        count
    };
    println!("campaign: {n} jobs, {arrivals} POSTs, {} events, ends {:?}", heard.len(), states(&expected));
    assert_eq!(states(&told), states(&expected));
    let differing: Vec<_> = expected.iter().filter(|(id, job)| told.get(*id) != Some(job)).take(3).collect();
    assert!(differing.is_empty(), "{differing:#?}, told {:#?}", told.get(differing[0].0));
    for state in ["done", "refused", "expired", "review"] {
        assert!(states(&expected).contains_key(state), "{state}");
    }
    for worker in workers {
        stage.stopped(worker).await;
    }
}

/// A date is told once it is sure that there was a call.
async fn due_tomorrow(stage: &Stage, id: &str) {
    let query = format!(
        "select count(*) from reporting.jobs where job_id = '{id}' and due_at > now() + interval '23 hours'"
    );
    eventually(LONG, async || (stage.count(&query).await == 1).then_some(())).await;
}

/// Where a worker serves HTTP.
pub fn serving(worker: &Outdial) -> String {
    let line: Value = serde_json::from_str(&worker.printed("serving health and metrics").unwrap()).unwrap();
    line["http.listen"].as_str().unwrap().to_owned()
}
