//! Which rule speaks for a job, which numbers a rule may use, and what is settled before any rule is asked.

use outdial::synthflow::sandbox::AgentConfig;
use serde_json::json;

use super::{bare, entry, rule_for, to, with};
use crate::support::stage::{AGENT, Stage, job, number, numbers, sandbox_config};

#[tokio::test]
async fn the_first_rule_that_matches_speaks() {
    let pool = numbers(8);
    let mut config = sandbox_config(&pool);
    config.agents.push(AgentConfig { model_id: "agent-2".to_owned(), ..config.agents[0].clone() });
    let stage = Stage::new(config).await;
    let rule = |at: usize, name: &str, matches: &str| {
        format!(
            "[[rule]]\nname = {name:?}\nmatch = {{ {matches} }}\nuse = {{ numbers = [{:?}] }}\n",
            pool[at]
        )
    };
    let rules = [
        "[[campaign]]\nid = \"branded\"\nbrand = \"zeta\"\n[[campaign]]\nid = \"agented\"\nmodel_id = \"agent-2\"\n",
        &rule(0, "brand", "brand = [\"acme\", \"zeta\"], campaign = []"),
        &rule(1, "brand again", "brand = [\"acme\"]"),
        &rule(2, "both", "region = [\"US-NY\"], campaign = [\"east\"]"),
        &rule(3, "a state", "region = [\"US-NY\", \"CA-ON\"]"),
        &rule(4, "campaign", "campaign = [\"named\"]"),
        &rule(5, "agent", "model_id = [\"agent-2\"]"),
        &rule(6, "a country", "region = [\"US\"]"),
        &rule(7, "all", ""),
    ]
    .concat();
    stage
        .route("", &(rules + "[[campaign]]\nid = \"wide\"\ndestinations = [\"US\", \"CA\", \"GB\"]\n"))
        .await;
    let _worker = stage.worker(&[]).await;
    let (ny, ca, on, gb) = ("+1212555010", "+1415555010", "+1416555010", "+44207946014");
    let cases = [
        (0, with(job("a", "x", &format!("{ca}1")), json!({ "brand": "acme" }))),
        (0, job("b", "branded", &format!("{ca}2"))),
        (7, with(job("c", "wide", &format!("{gb}6")), json!({ "brand": "other" }))),
        (2, job("d", "east", &format!("{ny}1"))),
        (3, job("e", "west", &format!("{ny}2"))),
        (3, job("f", "wide", &format!("{on}3"))),
        // The publisher's word counts more than the number's digits.
        (3, with(job("g", "x", &format!("{ca}3")), json!({ "region": "US-NY" }))),
        (4, job("h", "named", &format!("{ca}4"))),
        (5, with(bare("i", "x", &format!("{ca}5")), json!({ "model_id": "agent-2" }))),
        (5, bare("j", "agented", &format!("{ca}6"))),
        (6, job("k", "x", &format!("{ca}7"))),
        // Of the two keys of `both` it meets one.
        (6, job("m", "east", &format!("{ca}8"))),
        (0, with(job("l", "branded", &format!("{ny}9")), json!({ "brand": null }))),
    ];
    let (expected, jobs): (Vec<usize>, Vec<_>) = cases.into_iter().unzip();
    stage.publish(&jobs).await;
    for (at, job) in expected.into_iter().zip(&jobs) {
        let call = stage.called(job["phone"].as_str().unwrap()).await;
        assert_eq!(call.from_phone_number.as_ref(), Some(&pool[at]), "{job}");
        let model = if at == 5 { "agent-2" } else { AGENT };
        assert_eq!(call.model_id.as_deref(), Some(model), "{job}");
    }
}

#[tokio::test]
async fn a_rule_uses_numbers_by_brand_region_tags_and_name() {
    let named = ["+14157770001", "+16287770002", "+12127770003", "+14167770004", "+442079460146"];
    let stage = Stage::new(sandbox_config(&named.map(str::to_owned))).await;
    let uses = |campaign: &str, uses: &str| rule_for(campaign, &[], "").replace("numbers = []", uses);
    let rules = [
        // A number's region by its entry counts more than its digits.
        entry(named[0], "brand = \"acme\"\ntags = [\"a\", \"b\"]\nregion = \"US-NV\""),
        entry(named[1], "brand = \"acme\"\ntags = [\"a\"]"),
        entry(named[2], "brand = \"zeta\"\ntags = [\"b\", \"c\"]"),
        uses("by-brand", "brand = [\"zeta\"]"),
        uses("by-state", "region = [\"US-NV\"]"),
        uses("by-digits", "region = [\"US-CA\"]"),
        uses("by-country", "region = [\"CA\"]"),
        uses("by-tags", "tags = [\"a\", \"b\"]"),
        uses("by-number", &format!("numbers = [{:?}]", named[4])),
        uses("by-all", "brand = [\"acme\", \"zeta\"], region = [\"US\"], tags = [\"b\"], numbers = [\"+12127770003\", \"+14167770004\"]"),
    ]
    .concat();
    stage.route("", &rules).await;
    let _worker = stage.worker(&[]).await;
    let expected = [
        ("by-brand", 2),
        ("by-state", 0),
        ("by-digits", 1),
        ("by-country", 3),
        ("by-tags", 0),
        ("by-number", 4),
        ("by-all", 2),
    ];
    for (nth, (campaign, at)) in expected.into_iter().enumerate() {
        // Two callees in a row: a second number that it might use would be the less used.
        for half in ["1", "2"] {
            let phone = format!("+141555501{half}{nth}");
            stage.publish(&to(campaign, [phone.as_str()])).await;
            let call = stage.called(&phone).await;
            assert_eq!(call.from_phone_number.as_deref(), Some(named[at]), "{campaign}");
        }
    }
}

#[tokio::test]
async fn the_publishers_own_number_replaces_the_rules_and_keeps_its_limits() {
    let pool = numbers(3);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let rules = rule_for("own", &[&pool[0]], "") + &entry(&pool[1], "limits = { per_day = 1 }");
    stage.route("per_day = 50", &rules).await;
    let _worker = stage.worker(&[]).await;
    let own =
        |id: &str, from: &str, phone: &str| with(job(id, "own", phone), json!({ "from_phone_number": from }));
    let outside = number(40);
    stage.publish(&[own("in", &pool[1], "+14155550101")]).await;
    assert_eq!(stage.called("+14155550101").await.from_phone_number.as_ref(), Some(&pool[1]));
    stage.publish(&[own("full", &pool[1], "+14155550102"), own("out", &outside, "+14155550103")]).await;
    stage.stands("full", "waiting", Some("number_limit")).await;
    stage.stands("out", "waiting", Some("from_number_not_in_pool")).await;
    // One that waits for its number stands in nobody's way.
    stage.publish(&[job("rules", "own", "+14155550104"), own("other", &pool[2], "+14155550105")]).await;
    assert_eq!(stage.called("+14155550104").await.from_phone_number.as_ref(), Some(&pool[0]));
    assert_eq!(stage.called("+14155550105").await.from_phone_number.as_ref(), Some(&pool[2]));
    // Attached while its job waits: the job goes.
    let with_it: Vec<&str> = pool.iter().chain([&outside]).map(String::as_str).collect();
    stage.sandbox.set_pool("default", AGENT, &with_it).unwrap();
    stage.run(&["pool", "sync", AGENT]).await;
    assert_eq!(stage.called("+14155550103").await.from_phone_number, Some(outside));
    // No rule is needed.
    stage.route("per_day = 50", &entry(&pool[1], "limits = { per_day = 1 }")).await;
    stage.publish(&[own("ruleless", &pool[2], "+14155550106")]).await;
    assert_eq!(stage.called("+14155550106").await.from_phone_number.as_ref(), Some(&pool[2]));
    stage.stands("full", "waiting", Some("number_limit")).await;
    assert_eq!(stage.count("select count(*) from reporting.calls where rule = 'from_phone_number'").await, 4);
}

#[tokio::test]
async fn an_agent_comes_from_the_job_or_the_campaign_or_is_waited_for() {
    let pool = numbers(1);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let rules = rule_for("headless", &[&pool[0]], "");
    stage.route("", &rules).await;
    let _worker = stage.worker(&[]).await;
    stage.publish(&[bare("none", "headless", "+14155550101")]).await;
    stage.stands("none", "waiting", Some("no_agent")).await;
    stage.publish(&[job("own", "headless", "+14155550102")]).await;
    stage.called("+14155550102").await;
    stage.stands("none", "waiting", Some("no_agent")).await;
    let campaign = format!("[[campaign]]\nid = \"headless\"\nmodel_id = {AGENT:?}\nbrand = \"acme\"\n");
    stage.route("", &(campaign + &rules)).await;
    let call = stage.called("+14155550101").await;
    assert_eq!(call.model_id.as_deref(), Some(AGENT));
    stage.stands("none", "done", None).await;
    let brand: Option<String> = sqlx::query_scalar("select brand from reporting.calls where job_id = 'none'")
        .fetch_one(&stage.db)
        .await
        .unwrap();
    assert_eq!(brand.as_deref(), Some("acme"));
}

#[tokio::test]
async fn calls_go_only_where_the_campaign_allows() {
    let pool = ["+16287770002", "+442079460146"].map(str::to_owned);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let rules = "[[campaign]]\nid = \"france\"\ndestinations = [\"FR\"]\n[[rule]]\nname = \"any\"\n";
    stage.route("", rules).await;
    let _worker = stage.worker(&[]).await;
    let (us, gb, ca, fr) = ("+14155550101", "+442079460107", "+14165550103", "+33142685300");
    for phone in [us, gb, ca, fr] {
        stage.publish(&to("home", [phone])).await;
        stage.publish(&to("france", [phone])).await;
    }
    let refused = Some("destination_not_allowed");
    for id in [
        "home-14165550103",
        "home-33142685300",
        "france-14155550101",
        "france-442079460107",
        "france-14165550103",
    ] {
        stage.stands(id, "refused", refused).await;
    }
    for id in ["home-14155550101", "home-442079460107", "france-33142685300"] {
        stage.stands(id, "done", None).await;
    }
    assert_eq!(stage.posts().len(), 3);
}
