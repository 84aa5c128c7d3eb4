//! The operators' page: what it shows, that its buttons do what they say, and that nobody else's do.

use outdial::synthflow::sandbox::{Action, Override};
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};

use crate::callees::serving;
use crate::support::stage::{ANY_NUMBER, LONG, Stage, job, jobs, number, numbers, sandbox_config};
use crate::support::{Outdial, eventually};

const CONTROL: &str = "a-token-that-controls";
const READ: &str = "a-token-that-reads";

/// Somebody at a browser.
struct Browser {
    client: Client,
    base: String,
    cookie: String,
}

impl Browser {
    fn new(worker: &Outdial) -> Self {
        let client = Client::builder().redirect(Policy::none()).build().unwrap();
        Self { client, base: format!("http://{}", serving(worker)), cookie: String::new() }
    }

    async fn log_in(worker: &Outdial, token: &str) -> Self {
        let mut browser = Self::new(worker);
        let answer = browser.send("/login", &[("token", token)]).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()[LOCATION]), (303, &"/".parse().unwrap()));
        let cookie = answer.headers()[SET_COOKIE].to_str().unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        browser.cookie = cookie.split(';').next().unwrap().to_owned();
        browser
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).header(COOKIE, &self.cookie).send().await.unwrap()
    }

    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// The page, once it says so: what is counted is good for a moment, and the same for all.
    async fn shows(&self, path: &str, said: &str) -> String {
        eventually(LONG, async || Some(self.page(path).await).filter(|page| page.contains(said))).await
    }

    /// A form, as it stands.
    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let body: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.client
            .post(format!("{}{path}", self.base))
            .header(COOKIE, &self.cookie)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"))
            .send()
            .await
            .unwrap()
    }

    /// Presses the button of a form that stands on a page.
    async fn press(&self, on: &str, action: &str, more: &[(&str, &str)]) -> u16 {
        let page = self.page(on).await;
        assert!(page.contains(&format!("action=\"{action}\"")), "{action} is not on {on}: {page}");
        let proof =
            page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let fields: Vec<(&str, &str)> =
            [("csrf", proof.as_str())].into_iter().chain(more.iter().copied()).collect();
        self.send(action, &fields).await.status().as_u16()
    }
}

/// What stands in a table of a page.
fn table<'a>(page: &'a str, id: &str) -> &'a str {
    page.split_once(&format!("id=\"{id}\"")).unwrap().1.split("</table>").next().unwrap()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn stage() -> Stage {
    let stage = Stage::new(sandbox_config(&numbers(3))).await;
    stage.route("per_second = 50, per_day = 1000", ANY_NUMBER).await;
    stage
}

async fn worker(stage: &Stage) -> Outdial {
    stage.worker(&[("OUTDIAL_API_TOKEN", CONTROL), ("OUTDIAL_API_READ_TOKEN", READ)]).await
}

#[tokio::test]
async fn pages_tell_how_things_stand_and_buttons_change_it() {
    let stage = stage().await;
    let worker = worker(&stage).await;
    let browser = Browser::log_in(&worker, CONTROL).await;
    assert!(browser.page("/").await.contains("No job has come yet."));
    stage.publish(&jobs("spring", 5)).await;
    stage.jobs("done", None, 5, LONG).await;
    let overview = browser.shows("/", "aria-label=\"done 5\"").await;
    for said in ["/campaigns/spring", "Counted as of", "Placed, last minute", "default"] {
        assert!(overview.contains(said), "{said} is not in {overview}");
    }
    // A campaign: paused, gone on with, canceled.
    assert_eq!(browser.press("/", "/do/campaigns/spring/pause", &[]).await, 303);
    // It is seen at once, and so is what others do, though the overview was read a moment ago.
    assert!(browser.page("/").await.contains("/do/campaigns/spring/resume"));
    stage.resume(&["spring"]).await;
    assert!(browser.page("/").await.contains("/do/campaigns/spring/pause"));
    stage.run(&["campaign", "pause", "spring"]).await;
    stage.publish(&[job("waits", "spring", "+14155550150")]).await;
    stage.stands("waits", "waiting", Some("campaign_paused")).await;
    let story = browser.page("/jobs/waits").await;
    assert!(story.contains("campaign paused") && story.contains("+14155550150"), "{story}");
    assert_eq!(browser.press("/campaigns/spring", "/do/campaigns/spring/resume", &[]).await, 303);
    stage.stands("waits", "done", None).await;
    let story = browser.page("/jobs/waits").await;
    assert!(
        story.contains("Attempt 1") && story.contains("Why this number") && story.contains("least_used"),
        "{story}"
    );
    assert_eq!(browser.press("/campaigns/spring", "/do/campaigns/spring/cancel", &[]).await, 303);
    assert!(browser.page("/campaigns/spring").await.contains("canceled"));
    // A number, an account, everything.
    let path = format!("/numbers/{}", number(0));
    assert_eq!(browser.press(&path, &format!("/do{path}/rest"), &[]).await, 303);
    assert!(browser.page("/numbers").await.contains("resting"));
    assert_eq!(browser.press(&path, &format!("/do{path}/activate"), &[]).await, 303);
    assert_eq!(browser.press("/", "/do/accounts/default/pause", &[]).await, 303);
    assert_eq!(browser.press("/", "/do/accounts/default/resume", &[]).await, 303);
    assert_eq!(browser.press("/", "/do/kill-switch/on", &[]).await, 303);
    assert!(browser.page("/review").await.contains("The kill switch is on."));
    assert_eq!(browser.press("/", "/do/kill-switch/off", &[]).await, 303);
    // One job, and what would become of another.
    stage.paused(&["later"]).await;
    stage.publish(&[job("one", "later", "+14155550151")]).await;
    stage.stands("one", "waiting", Some("campaign_paused")).await;
    assert!(!table(&browser.page("/").await, "uncalled").contains("canceled"));
    assert_eq!(browser.press("/jobs/one", "/do/jobs/one/cancel", &[]).await, 303);
    stage.stands("one", "canceled", Some("canceled")).await;
    // Why some were not called: of all campaigns, and of one.
    assert!(table(&browser.page("/").await, "uncalled").contains("canceled"), "it is counted at once");
    stage.run(&["suppress", "add", "+14155550160"]).await;
    stage.publish(&[job("never", "summer", "+14155550160")]).await;
    stage.stands("never", "refused", Some("suppressed")).await;
    let overview = browser.shows("/", "suppressed").await;
    assert!(table(&overview, "uncalled").contains("suppressed"), "{overview}");
    let summer = browser.page("/campaigns/summer").await;
    let uncalled = table(&summer, "uncalled");
    assert!(uncalled.contains("suppressed") && !uncalled.contains("canceled"), "{summer}");
    let proof = browser.page("/explain").await;
    let proof = proof.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let asked = job("x", "summer", "+14155550199").to_string();
    let answer = browser.send("/explain", &[("csrf", &proof), ("job", &asked)]).await.text().await.unwrap();
    assert!(answer.contains("dial") && answer.contains(&number(0)[1..5]), "{answer}");
    let answer = browser
        .send("/explain", &[("csrf", &proof), ("job", "{\"phone\": \"<b>\"}")])
        .await
        .text()
        .await
        .unwrap();
    assert!(answer.contains("role=\"alert\"") && !answer.contains("\"<b>\""), "{answer}");
    for (path, status) in
        [("/jobs/nobody", 404), ("/campaigns/nobody", 404), ("/numbers/x", 400), ("/jobs?id=waits", 303)]
    {
        assert_eq!(browser.get(path).await.status().as_u16(), status, "{path}");
    }
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_person_says_on_the_page_what_became_of_calls_that_nobody_knows_of() {
    let stage = stage().await;
    let fast = [("OUTDIAL__RECONCILE__QUARANTINE", "3s"), ("OUTDIAL__CALLS__READS_PER_SECOND", "100")];
    let worker = stage
        .worker(&[&[("OUTDIAL_API_TOKEN", CONTROL), ("OUTDIAL_API_READ_TOKEN", READ)][..], &fast].concat())
        .await;
    let refused = Action::Answer { status: 500, body: None, retry_after_s: None };
    stage.sandbox.override_posts(Override::next(3, refused));
    let three: Vec<_> =
        (0..3).map(|n| job(&format!("crm:{n}"), "spring", &format!("+1415555020{n}"))).collect();
    stage.publish(&three).await;
    stage.jobs("review", Some("unconfirmed"), 3, LONG).await;
    let browser = Browser::log_in(&worker, CONTROL).await;
    let reader = Browser::log_in(&worker, READ).await.page("/review").await;
    assert!(reader.contains("crm:0") && !reader.contains("+1415555") && !reader.contains("/do/"), "{reader}");
    let page = browser.page("/review").await;
    let forms: Vec<String> = page
        .split("action=\"/do/review/")
        .skip(1)
        .filter_map(|rest| rest.split('/').next().map(str::to_owned))
        .collect();
    assert_eq!(forms.len(), 9, "three for each of three: {page}");
    let resolve = async |nth: usize, what: &str, more: &[(&str, &str)]| {
        browser.press("/review", &format!("/do/review/{}/{what}", forms[3 * nth]), more).await
    };
    assert_eq!(resolve(0, "placed", &[("call_id", "by-hand")]).await, 303);
    assert_eq!(resolve(1, "closed", &[]).await, 303);
    assert_eq!(resolve(2, "not_placed", &[]).await, 303);
    stage.jobs("placed", None, 1, LONG).await;
    stage.jobs("done", Some("unconfirmed"), 1, LONG).await;
    stage.jobs("done", None, 2, LONG).await;
    assert!(browser.page("/review").await.contains("Nothing is in review."));
    stage.stopped(worker).await;
}

#[tokio::test]
async fn nobody_elses_form_does_anything_and_a_reader_sees_no_callee() {
    let stage = stage().await;
    let worker = worker(&stage).await;
    stage.publish(&[job("first", "spring", "+14155550123")]).await;
    stage.stands("first", "done", None).await;
    let stranger = Browser::new(&worker);
    for path in ["/", "/numbers", "/review", "/jobs/first", "/campaigns/spring", "/explain"] {
        let answer = stranger.get(path).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()[LOCATION]),
            (303, &"/login".parse().unwrap()),
            "{path}"
        );
    }
    assert_eq!(stranger.send("/login", &[("token", "nobodys")]).await.status().as_u16(), 401);
    let reader = Browser::log_in(&worker, READ).await;
    let page = reader.page("/").await;
    assert!(!page.contains("/do/"), "no button for who only reads: {page}");
    for path in ["/jobs/first", "/campaigns/spring", "/review"] {
        let page = reader.page(path).await;
        assert!(!page.contains("+1415555"), "{path}: {page}");
    }
    let proof = page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(reader.send("/do/kill-switch/on", &[("csrf", proof)]).await.status().as_u16(), 403);
    // The cookie alone is not enough, nor another session's proof, nor a form that another site has the browser send.
    let operator = Browser::log_in(&worker, CONTROL).await;
    for fields in [&[][..], &[("csrf", "")], &[("csrf", proof)]] {
        assert_eq!(operator.send("/do/kill-switch/on", fields).await.status().as_u16(), 403, "{fields:?}");
    }
    let own = operator.page("/").await;
    let own = own.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let elsewhere = operator
        .client
        .post(format!("{}/do/kill-switch/on", operator.base))
        .header(COOKIE, &operator.cookie)
        .header("sec-fetch-site", "cross-site")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("csrf={own}"))
        .send()
        .await
        .unwrap();
    assert_eq!(elsewhere.status().as_u16(), 403);
    assert_eq!(stage.count("select count(*) from outdial.control where kill_switch").await, 0);
    let answer = operator.get("/").await;
    let policy = answer.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    // Logged out, the browser has no cookie; and another token ends all that it has made.
    let answer = operator.send("/logout", &[("csrf", own)]).await;
    assert!(answer.headers()[SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    stage.stopped(worker).await;
    let other = stage.worker(&[("OUTDIAL_API_TOKEN", "another-token-that-controls")]).await;
    let late = Browser { base: format!("http://{}", serving(&other)), ..operator };
    assert_eq!(late.get("/").await.status().as_u16(), 303);
    stage.stopped(other).await;
}

/// Clients take `.` and `..` for steps of a path, so links and forms write them otherwise.
#[tokio::test]
async fn a_job_and_a_campaign_named_by_dots_have_their_pages() {
    let stage = stage().await;
    stage.paused(&["..", "."]).await;
    let worker = worker(&stage).await;
    stage.publish(&[job(".", "..", "+14155550123"), job("..", ".", "+14155550124")]).await;
    stage.jobs("waiting", Some("campaign_paused"), 2, LONG).await;
    let browser = Browser::log_in(&worker, CONTROL).await;
    for (id, page) in [(".", "/jobs/~."), ("..", "/jobs/~.."), ("x", "/jobs/x")] {
        let found = browser.get(&format!("/jobs?id={id}")).await;
        assert_eq!((found.status().as_u16(), found.headers()[LOCATION].to_str().unwrap()), (303, page));
    }
    assert!(browser.page("/jobs/~.").await.contains("href=\"/campaigns/~..\""));
    let overview = browser.page("/").await;
    assert!(overview.contains("href=\"/campaigns/~..\"") && overview.contains("href=\"/campaigns/~.\""));
    assert_eq!(browser.press("/campaigns/~..", "/do/campaigns/~../resume", &[]).await, 303);
    stage.stands(".", "done", None).await;
    assert_eq!(browser.press("/jobs/~..", "/do/jobs/~../cancel", &[]).await, 303);
    stage.stands("..", "canceled", Some("canceled")).await;
    stage.stopped(worker).await;
}
