//! `/api/v1`: what it lists is what the views show, what it is told holds, each answer is as `/openapi.json` describes it.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use outdial::core::ids::CampaignId;
use outdial::store::pages::{self, CallsWanted, From, JobsWanted};
use outdial::synthflow::sandbox::{Action, Override};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use crate::callees::serving;
use crate::support::stage::{ANY_NUMBER, LONG, Stage, job, jobs, number, numbers, sandbox_config};
use crate::support::{Outdial, eventually};

const CONTROL: &str = "a-token-that-controls";
const READ: &str = "a-token-that-reads";

struct Asked {
    status: u16,
    body: Value,
}

/// A worker's API, and its own description of itself.
struct Api {
    client: Client,
    base: String,
    description: Value,
}

impl Api {
    async fn of(worker: &Outdial) -> Self {
        let (client, base) = (Client::new(), format!("http://{}", serving(worker)));
        let answer = client.get(format!("{base}/openapi.json")).send().await.unwrap();
        Self { client, base, description: answer.json().await.unwrap() }
    }

    async fn send(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Response {
        let request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(token);
        match body {
            Some(body) => request.body(body.to_string()),
            None => request,
        }
        .send()
        .await
        .unwrap()
    }

    /// Asks, and holds the answer against the description: its status, its type, and every field.
    async fn ask(
        &self,
        method: Method,
        template: &str,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Asked {
        let answer = self.send(method.clone(), path, token, body).await;
        let status = answer.status().as_u16();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let expected = if status < 400 { "application/json" } else { "application/problem+json" };
        assert_eq!(kind, expected, "{method} {path}: {status}");
        let body: Value = answer.json().await.unwrap();
        let operation = &self.description["paths"][template][method.as_str().to_lowercase()];
        let class = format!("{}XX", status / 100);
        let response = [status.to_string(), class]
            .iter()
            .find_map(|status| operation["responses"].get(status))
            .unwrap_or_else(|| panic!("{method} {template} doesn't describe {status}"));
        // The schema among its own definitions, so that what it refers to is found.
        let mut schema = response["content"][kind.as_str()]["schema"].clone();
        assert!(schema.is_object(), "{method} {template} doesn't describe {kind} for {status}");
        schema["components"] = self.description["components"].clone();
        // An explanation has more than is described of it.
        if !template.ends_with("explain") {
            close(&mut schema);
        }
        if let Err(fault) = jsonschema::validate(&schema, &body) {
            panic!("{method} {path} answers otherwise than described: {fault}\n{body}");
        }
        Asked { status, body }
    }

    async fn get(&self, template: &str, query: &str) -> Value {
        let path = format!("{template}{query}");
        let Asked { status, body } = self.ask(Method::GET, template, &path, CONTROL, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Every row, some to a page.
    async fn all(&self, template: &str, query: &str, limit: usize) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        // More pages than any list here has.
        for _ in 0..100 {
            let page = self.get(template, &format!("?limit={limit}{query}{cursor}")).await;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            rows.extend(items.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
        panic!("{template} has no last page");
    }

    /// Tells something; gives status and answer.
    async fn tell(&self, template: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let Asked { status, body } = self.ask(Method::POST, template, path, CONTROL, body).await;
        (status, body)
    }
}

async fn stage() -> Stage {
    let stage = Stage::new(sandbox_config(&numbers(3))).await;
    stage.route("per_second = 50, per_day = 1000", ANY_NUMBER).await;
    stage
}

async fn worker(stage: &Stage) -> (Outdial, Api) {
    worker_with(stage, &[]).await
}

async fn worker_with(stage: &Stage, more: &[(&str, &str)]) -> (Outdial, Api) {
    let tokens = [("OUTDIAL_API_TOKEN", CONTROL), ("OUTDIAL_API_READ_TOKEN", READ)];
    let worker = stage.worker(&[&tokens[..], more].concat()).await;
    let api = Api::of(&worker).await;
    (worker, api)
}

/// Every field that is described is there, null or not, and no other.
fn close(schema: &mut Value) {
    if let Some(properties) = schema["properties"].as_object() {
        let names: Vec<String> = properties.keys().cloned().collect();
        schema["required"] = json!(names);
        schema["additionalProperties"] = json!(false);
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(close),
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[name].as_str().unwrap()).collect()
}

#[tokio::test]
async fn lists_show_what_the_views_show_page_by_page() {
    let stage = stage().await;
    let (worker, api) = worker(&stage).await;
    stage.paused(&["later"]).await;
    stage.publish(&jobs("spring", 7)).await;
    stage.publish(&jobs("later", 4)).await;
    stage.jobs("done", None, 7, LONG).await;
    stage.jobs("waiting", Some("campaign_paused"), 4, LONG).await;

    // Each list, however it is cut into pages, has the rows of its view, each once and in one order.
    for (template, view, key) in [
        ("/api/v1/jobs", "jobs", "job_id"),
        ("/api/v1/calls", "calls", "attempt_id"),
        ("/api/v1/campaigns", "campaigns", "campaign_id"),
        ("/api/v1/numbers", "numbers", "number"),
        ("/api/v1/waiting", "waiting", "campaign_id"),
    ] {
        let whole = api.all(template, "", 200).await;
        let shown: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select {key}::text from reporting.{view}")))
                .fetch_all(&stage.db)
                .await
                .unwrap();
        let keys = column(&whole, key);
        assert_eq!(keys.len(), shown.len(), "{template}");
        assert_eq!(keys.iter().copied().collect::<BTreeSet<_>>(), shown.iter().map(String::as_str).collect());
        for limit in [1, 2, 3] {
            assert_eq!(column(&api.all(template, "", limit).await, key), keys, "{template} by {limit}");
        }
    }
    let one = api.all("/api/v1/jobs", "&campaign_id=spring", 1).await;
    assert_eq!(
        column(&one, "job_id"),
        ["spring-6", "spring-5", "spring-4", "spring-3", "spring-2", "spring-1", "spring-0"]
    );
    // Filters that no index serves.
    for (list, query, count) in [
        ("jobs", "&state=waiting", 4),
        ("jobs", "&state=done&campaign_id=spring", 7),
        ("jobs", "&state=done&campaign_id=later", 0),
        ("calls", "&state=ended", 7),
        ("calls", "&state=unknown", 0),
        ("calls", "&campaign_id=spring", 7),
        ("calls", "&campaign_id=spring&state=ended", 7),
        ("calls", "&job_id=spring-3", 1),
        ("calls", "&job_id=spring-3&campaign_id=later", 0),
        ("campaigns", "&state=paused", 1),
        ("numbers", "&state=active&model_id=agent-1", 3),
        ("numbers", "&model_id=nobody", 0),
        ("waiting", "&campaign_id=later", 1),
        ("waiting", "&campaign_id=spring", 0),
    ] {
        let found = api.all(&format!("/api/v1/{list}"), query, 2).await;
        assert_eq!(found.len(), count, "{list} {query}: {found:?}");
    }
    let from_one = format!("&from_phone_number={}", number(0).replace('+', "%2B"));
    let calls = api.all("/api/v1/calls", &from_one, 2).await;
    let those = format!("select count(*) from reporting.calls where from_phone_number = '{}'", number(0));
    assert_eq!(calls.len() as i64, stage.count(&those).await);

    let story =
        &api.ask(Method::GET, "/api/v1/jobs/{job_id}", "/api/v1/jobs/later-2", CONTROL, None).await.body;
    assert_eq!((&story["job"]["reason"], &story["attempts"]), (&json!("campaign_paused"), &json!([])));
    let done =
        &api.ask(Method::GET, "/api/v1/jobs/{job_id}", "/api/v1/jobs/spring-0", CONTROL, None).await.body;
    assert_eq!(done["attempts"][0]["decision"]["rule"], json!("any"), "{done}");
    let versions = api.all("/api/v1/routing/versions", "", 1).await;
    assert_eq!((versions.len(), &versions[0]["in_use"]), (1, &json!(true)));

    let later = CampaignId::parse("later").unwrap();
    let from_start = || From { after: None, limit: 50, scanned_max: pages::SCANNED_MAX };
    // No page is longer than what may be looked at for it; what it doesn't show the next ones do.
    let mut found = Vec::new();
    let mut pages = 0;
    let mut from = From { after: None, limit: 2, scanned_max: 3 };
    loop {
        let wanted = JobsWanted { state: Some("done"), campaign: None };
        let page = pages::jobs(&stage.db, wanted, from).await.unwrap();
        found.extend(page.rows);
        pages += 1;
        let Some(next) = page.next else { break };
        from = From { after: Some(next), limit: 2, scanned_max: 3 };
    }
    // The four that wait were received last: a page of three, and one of the fourth and two others.
    assert!(found.len() == 7 && pages >= 5, "{} in {pages} pages", found.len());
    let nothing_yet = CallsWanted { campaign: Some(&later), ..CallsWanted::default() };
    let page = pages::calls(&stage.db, nothing_yet, From { scanned_max: 2, ..from_start() }).await.unwrap();
    assert!(page.rows.is_empty() && page.next.is_some(), "two of four jobs were looked at: {page:?}");

    // Whoever only reads sees no callee's number, in any list.
    for path in ["jobs?limit=1", "calls?limit=1", "jobs/spring-0"] {
        let text = api.send(Method::GET, &format!("/api/v1/{path}"), READ, None).await.text().await.unwrap();
        assert!(text.contains("+*********") && !text.contains("+1415"), "{text}");
        let text =
            api.send(Method::GET, &format!("/api/v1/{path}"), CONTROL, None).await.text().await.unwrap();
        assert!(text.contains("+1415"), "{text}");
    }
    stage.stopped(worker).await;
}

#[tokio::test]
async fn what_is_stopped_over_http_stands_still_until_it_is_let_go_on() {
    let stage = stage().await;
    let (worker, api) = worker(&stage).await;
    stage.publish(&[job("first", "spring", "+14155550100")]).await;
    stage.stands("first", "done", None).await;
    let mut n = 0;
    // A job of a campaign that is stopped somehow, and goes on when that is taken back.
    for (stop, go_on, of, thing, reason) in [
        ("pause", "resume", "campaigns/{campaign_id}", "campaigns/spring", "campaign_paused"),
        ("pause", "resume", "accounts/{name}", "accounts/default", "account_paused"),
    ] {
        n += 1;
        let told = |what: &str| (format!("/api/v1/{of}/{what}"), format!("/api/v1/{thing}/{what}"));
        let (template, path) = told(stop);
        let (status, said) = api.tell(&template, &path, Some(json!({ "reason": "a look" }))).await;
        assert_eq!((status, said), (200, json!({ "state": "paused", "was": "active" })), "{path}");
        assert_eq!(
            api.tell(&template, &path, None).await,
            (200, json!({ "state": "paused", "was": "paused" }))
        );
        let id = format!("stopped-{n}");
        stage.publish(&[job(&id, "spring", &format!("+1415555020{n}"))]).await;
        stage.stands(&id, "waiting", Some(reason)).await;
        let (template, path) = told(go_on);
        assert_eq!(
            api.tell(&template, &path, None).await,
            (200, json!({ "state": "active", "was": "paused" }))
        );
        stage.stands(&id, "done", None).await;
    }
    let switch = async |on: bool| {
        api.tell("/api/v1/kill-switch", "/api/v1/kill-switch", Some(json!({ "on": on }))).await
    };
    assert_eq!(switch(true).await, (200, json!({ "on": true, "was": false })));
    stage.publish(&[job("killed", "spring", "+14155550300")]).await;
    stage.stands("killed", "waiting", Some("kill_switch")).await;
    assert_eq!(switch(false).await, (200, json!({ "on": false, "was": true })));
    stage.stands("killed", "done", None).await;

    // All numbers rest: nobody is called; one is enough.
    let tell_number = async |what: &str, n: usize| {
        let path = format!("/api/v1/numbers/{}/{what}", number(n).replace('+', "%2B"));
        api.tell(&format!("/api/v1/numbers/{{number}}/{what}"), &path, None).await
    };
    for n in 0..3 {
        assert_eq!(tell_number("rest", n).await, (200, json!({ "state": "resting", "was": "active" })));
    }
    stage.publish(&[job("rests", "spring", "+14155550400")]).await;
    stage.stands("rests", "waiting", Some("no_route")).await;
    assert_eq!(tell_number("activate", 1).await, (200, json!({ "state": "active", "was": "resting" })));
    stage.stands("rests", "done", None).await;
    assert_eq!(stage.called("+14155550400").await.from_phone_number, Some(number(1)));

    // What is canceled stays so, and its waiting jobs are over.
    let tell = async |what: &str| {
        let of = format!("/api/v1/campaigns/{{campaign_id}}/{what}");
        api.tell(&of, &format!("/api/v1/campaigns/later/{what}"), None).await
    };
    stage.paused(&["later"]).await;
    stage.publish(&jobs("later", 3)).await;
    stage.jobs("waiting", Some("campaign_paused"), 3, LONG).await;
    let cancel = async |job: &str| {
        api.tell("/api/v1/jobs/{job_id}/cancel", &format!("/api/v1/jobs/{job}/cancel"), None).await
    };
    for _ in 0..2 {
        assert_eq!(cancel("later-0").await, (200, json!({ "job_id": "later-0", "state": "canceled" })));
    }
    assert_eq!(cancel("first").await.0, 409);
    assert_eq!(cancel("nobody").await.0, 404);
    assert_eq!(tell("cancel").await, (200, json!({ "state": "canceled", "was": "paused" })));
    stage.jobs("canceled", Some("canceled"), 3, LONG).await;
    assert_eq!(tell("resume").await.0, 409);
    assert_eq!(stage.posts().len(), 5, "none of those that were canceled");
    stage.stopped(worker).await;
}

/// What counts many records is read by one for all who ask within a moment, and anew once something was changed.
#[tokio::test]
async fn lists_that_count_records_show_each_change_at_once_whoever_made_it() {
    let stage = stage().await;
    let (worker, api) = worker(&stage).await;
    stage.paused(&["spring"]).await;
    let spring = async || api.get("/api/v1/campaigns", "").await["items"][0]["state"].clone();
    assert_eq!(spring().await, json!("paused"));
    let path = "/api/v1/campaigns/spring/resume";
    assert_eq!(api.tell("/api/v1/campaigns/{campaign_id}/resume", path, None).await.0, 200);
    assert_eq!(spring().await, json!("active"));
    stage.run(&["campaign", "pause", "spring"]).await;
    assert_eq!(spring().await, json!("paused"));
    // A job canceled raises no epoch.
    stage.publish(&jobs("spring", 2)).await;
    stage.jobs("waiting", Some("campaign_paused"), 2, LONG).await;
    let counts = async || {
        let row = api.get("/api/v1/campaigns", "").await["items"][0].clone();
        (row["waiting"].as_i64().unwrap(), row["canceled"].as_i64().unwrap())
    };
    // Nothing tells when jobs come: they are seen once the last reading is old.
    eventually(LONG, async || (counts().await == (2, 0)).then_some(())).await;
    let cancel = "/api/v1/jobs/{job_id}/cancel";
    assert_eq!(api.tell(cancel, "/api/v1/jobs/spring-0/cancel", None).await.0, 200);
    assert_eq!(counts().await, (1, 1));
    // Whoever asks is told how old it is.
    let asked = (0..20).map(|n| {
        let (api, path) = (&api, format!("/api/v1/waiting?limit={}", 50 + n % 2));
        async move { api.send(Method::GET, &path, READ, None).await }
    });
    for answer in join_all(asked).await {
        let age: u64 = answer.headers()["age"].to_str().unwrap().parse().unwrap();
        assert!(answer.status().is_success() && age < LONG.as_secs(), "{age}");
    }
    stage.stopped(worker).await;
}

/// Clients take `.` and `..` for steps of a path.
#[tokio::test]
async fn a_job_and_a_campaign_named_by_dots_are_reached_behind_a_tilde() {
    let stage = stage().await;
    let (worker, api) = worker(&stage).await;
    stage.paused(&["."]).await;
    stage.publish(&[job("..", ".", "+14155550123")]).await;
    stage.stands("..", "waiting", Some("campaign_paused")).await;
    let of_job = "/api/v1/jobs/{job_id}";
    for path in ["/api/v1/jobs/~..", "/api/v1/jobs/~nobody"] {
        let answer = api.ask(Method::GET, of_job, path, CONTROL, None).await;
        let found = path.ends_with("..");
        assert_eq!(answer.status, if found { 200 } else { 404 }, "{path}: {}", answer.body);
        assert!(!found || answer.body["job"]["job_id"] == json!(".."), "{}", answer.body);
    }
    let path = "/api/v1/campaigns/~./resume";
    assert_eq!(api.tell("/api/v1/campaigns/{campaign_id}/resume", path, None).await.0, 200);
    stage.stands("..", "done", None).await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_person_resolves_what_is_in_review_over_http() {
    let stage = stage().await;
    let fast = [("OUTDIAL__RECONCILE__QUARANTINE", "3s"), ("OUTDIAL__CALLS__READS_PER_SECOND", "100")];
    let (worker, api) = worker_with(&stage, &fast).await;
    let refused = Action::Answer { status: 500, body: None, retry_after_s: None };
    stage.sandbox.override_posts(Override::next(3, refused));
    stage.publish(&jobs("spring", 3)).await;
    stage.jobs("review", Some("unconfirmed"), 3, LONG).await;
    let listed = api.all("/api/v1/review", "&campaign_id=spring", 1).await;
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|row| row["looks"].as_i64().unwrap() >= 2), "{listed:?}");
    let masked = api.send(Method::GET, "/api/v1/review", READ, None).await.text().await.unwrap();
    assert!(masked.contains("+*********") && !masked.contains("+1415"), "{masked}");
    let ids = column(&listed, "attempt_id");
    let resolve = async |id: &str, said: Value| {
        let path = format!("/api/v1/review/{id}/resolve");
        api.tell("/api/v1/review/{attempt_id}/resolve", &path, Some(said)).await
    };
    for wrong in [
        json!({ "outcome": "perhaps" }),
        json!({}),
        json!({ "outcome": "closed", "call_id": "x" }),
        json!({ "outcome": "placed", "call_id": "" }),
    ] {
        assert_eq!(resolve(ids[0], wrong.clone()).await.0, 400, "{wrong}");
    }
    assert_eq!(resolve("no-uuid", json!({ "outcome": "closed" })).await.0, 400);
    let (status, said) = resolve(ids[0], json!({ "outcome": "placed", "call_id": "by-hand" })).await;
    assert_eq!((status, &said["resolved"]), (200, &json!(true)));
    assert_eq!(resolve(ids[1], json!({ "outcome": "closed" })).await.0, 200);
    assert_eq!(resolve(ids[1], json!({ "outcome": "closed" })).await.0, 404);
    stage.jobs("placed", None, 1, LONG).await;
    stage.jobs("done", Some("unconfirmed"), 1, LONG).await;
    // Not placed, as the ledger has it: rung once, by the second try.
    assert_eq!(resolve(ids[2], json!({ "outcome": "not_placed" })).await.0, 200);
    stage.jobs("done", None, 2, LONG).await;
    assert_eq!(stage.posts().len(), 4);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn an_explanation_over_http_is_that_of_the_command() {
    let stage = stage().await;
    let (worker, api) = worker(&stage).await;
    stage.publish(&[job("first", "spring", "+14155550100")]).await;
    stage.stands("first", "done", None).await;
    // Until nothing was called in the last second: then the two tell the same, though one after the other.
    let used = "select count(*) from outdial.grants where slot > now() - interval '2 seconds'";
    eventually(LONG, async || (stage.count(used).await == 0).then_some(())).await;
    let asked = job("x", "spring", "+14155550199");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), asked.to_string()).unwrap();
    let command = stage.run(&["routing", "explain", "--json", "--job", file.path().to_str().unwrap()]).await;
    let by_command: Value = serde_json::from_str(&command).unwrap();
    let path = "/api/v1/routing/explain";
    let (status, mut over_http) = api.tell(path, path, Some(asked)).await;
    assert_eq!(status, 200, "{over_http}");
    assert_eq!(over_http["outcome"], json!("dial"), "{over_http}");
    // They were asked one after the other.
    over_http["at"] = by_command["at"].clone();
    assert_eq!(over_http, by_command);
    let (status, problem) = api.tell(path, path, Some(job("x", "spring", "12"))).await;
    assert_eq!((status, &problem["outcome"]), (200, &json!("dead_letter")));
    assert!(problem["detail"].as_str().unwrap().contains("phone"), "{problem}");
    assert_eq!(api.tell(path, path, Some(json!([]))).await.0, 400);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn whoever_may_not_is_told_so_and_what_is_asked_wrongly_is_named() {
    let stage = stage().await;
    let (worker, api) = worker(&stage).await;
    let paths = api.description["paths"].as_object().unwrap();
    let bodies = &api.description["components"]["schemas"];
    assert_eq!(bodies["Suppress"]["oneOf"].as_array().unwrap().len(), 6);
    assert_eq!(bodies["Resolve"]["oneOf"].as_array().unwrap().len(), 3);
    assert_eq!(api.description["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    assert_eq!(paths.len(), 20, "{:?}", paths.keys());
    // Every path, without a token, with a wrong one, and with one that only reads.
    for (template, operations) in paths {
        for name in operations.as_object().unwrap().keys() {
            let method: Method = name.to_uppercase().parse().unwrap();
            let path = ["{job_id}", "{campaign_id}", "{name}", "{number}", "{attempt_id}"]
                .iter()
                .fold(template.clone(), |path, hole| path.replace(hole, "x"));
            let answer = api.ask(method.clone(), template, &path, "nobodys", None).await;
            assert_eq!(answer.status, 401, "{method} {path}");
            let bare =
                api.client.request(method.clone(), format!("{}{path}", api.base)).send().await.unwrap();
            assert_eq!(
                (bare.status().as_u16(), &bare.headers()["www-authenticate"]),
                (401, &"Bearer".parse().unwrap())
            );
            let reads = operations[name]["tags"] == json!(["read"]);
            let answer = api.ask(method.clone(), template, &path, READ, None).await;
            let expected: &[u16] = match (reads, &method) {
                (false, _) => &[403],
                // There is no such job, and an empty body is none.
                (true, &Method::GET) => &[200, 404],
                (true, _) => &[400],
            };
            assert!(expected.contains(&answer.status), "{method} {path}: {}", answer.body);
        }
    }
    for wrong in ["?limit=0", "?limit=201", "?limit=x", "?state=sleeping", "?campaign_id=", "?nobody=1"] {
        let answer = api.ask(Method::GET, "/api/v1/jobs", &format!("/api/v1/jobs{wrong}"), READ, None).await;
        let detail = answer.body["detail"].as_str().unwrap();
        let name = wrong[1..].split('=').next().unwrap();
        assert!(answer.status == 400 && detail.contains(name), "{wrong}: {}", answer.body);
    }
    // Made up, of another list, or with what no database takes.
    let cursor = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for (list, key) in [
        ("jobs", r#"["versions",1]"#),
        ("jobs", r#"["jobs","x"]"#),
        ("campaigns", r#"["campaigns","\u0000"]"#),
        ("numbers", r#"["numbers","\u0000"]"#),
        ("waiting", r#"["waiting",["a","\u0000"]]"#),
        ("review", r#"["review",[-9000000000000000000,"00000000-0000-0000-0000-000000000000"]]"#),
        ("calls", r#"["calls",[1,70000]]"#),
    ] {
        let template = format!("/api/v1/{list}");
        let answer =
            api.ask(Method::GET, &template, &format!("{template}?cursor={}", cursor(key)), READ, None).await;
        assert_eq!(answer.status, 404, "{key}: {}", answer.body);
    }
    for (method, path, status) in [
        (Method::GET, "/api/v1", 404),
        (Method::GET, "/api/v1/nothing", 404),
        (Method::POST, "/api/v1/nothing/at/all", 404),
        (Method::DELETE, "/api/v1/jobs", 405),
        (Method::GET, "/api/v1/kill-switch", 405),
        (Method::POST, "/api/v1/campaigns/nobody/pause", 404),
        (Method::POST, "/api/v1/accounts/nobody/pause", 404),
        (Method::POST, "/api/v1/numbers/+14155550123/rest", 404),
        (Method::POST, "/api/v1/numbers/x/rest", 400),
        (Method::GET, "/api/v1/jobs/nobody", 404),
        (Method::GET, "/api/v1/jobs/no%20id", 400),
    ] {
        let answer = api.send(method.clone(), path, CONTROL, None).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (status, &"application/problem+json".parse().unwrap()),
            "{method} {path}"
        );
    }
    let long = json!({ "reason": "x".repeat(501) });
    let path = "/api/v1/campaigns/spring/pause";
    assert_eq!(api.tell("/api/v1/campaigns/{campaign_id}/pause", path, Some(long)).await.0, 400);
    let endless =
        api.client.post(format!("{}{path}", api.base)).bearer_auth(CONTROL).body(vec![b' '; 65 << 10]);
    assert_eq!(endless.send().await.unwrap().status().as_u16(), 413);
    let null = api.tell("/api/v1/campaigns/{campaign_id}/pause", path, Some(Value::Null)).await;
    assert_eq!(null.0, 404, "it is as good as no body: {}", null.1);
    // A name mistyped makes no account, and no campaign.
    assert_eq!(stage.count("select count(*) from outdial.accounts where name = 'nobody'").await, 0);
    assert_eq!(stage.posts().len(), 0);
    stage.stopped(worker).await;
}
