//! Schema `reporting`: the contract's columns, the rows of a small ledger, and who sees a callee's number.

use sqlx::{AssertSqlSafe, Row};

use crate::seeded::{self, NUMBER};
use crate::support::stage::{Stage, numbers, sandbox_config};
use crate::support::{Outdial, database, eventually, own_postgres};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::test]
async fn the_views_have_the_contracts_columns() {
    let database = database().await;
    let pool = seeded::pool(&database.url).await;
    let contract = [
        (
            "jobs",
            "job_id, campaign_id, brand, account, model_id, phone, region, priority, state, reason, due_at, attempts, \
             received_at, finished_at, metadata",
        ),
        (
            "calls",
            "job_id, attempt_no, attempt_id, campaign_id, brand, account, model_id, phone, region, from_phone_number, \
             routing_version, rule, state, disposition, reason, call_id, http_status, provider_status, end_reason, \
             provider_error, from_phone_number_reported, caller_id_verified, submitted_at, placed_at, ended_at, \
             duration_s, recording_url, decision",
        ),
        (
            "campaigns",
            "campaign_id, brand, state, waiting, dialing, placed, done, refused, expired, canceled, review, answered, \
             answer_rate, placed_last_minute, placed_last_hour, placed_last_day, first_received_at, last_placed_at, \
             expected_finish_at",
        ),
        (
            "numbers",
            "number, state, state_reason, brand, region, agents, used_second, limit_second, used_minute, limit_minute, \
             used_hour, limit_hour, used_day, limit_day, used_concurrent, limit_concurrent, placed_last_day, \
             answer_rate, last_call_at",
        ),
        ("waiting", "campaign_id, reason, jobs, oldest_received_at, next_due_at"),
    ];
    for (view, columns) in contract {
        let found: String = sqlx::query_scalar(
            "select string_agg(column_name, ', ' order by ordinal_position) from information_schema.columns
             where table_schema = 'reporting' and table_name = $1",
        )
        .bind(view)
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(found, columns, "reporting.{view}");
    }
}

#[tokio::test]
async fn each_view_tells_of_a_small_ledger() {
    let database = database().await;
    let pool = seeded::pool(&database.url).await;
    seeded::seed(&pool).await;
    let text = async |query: &str| seeded::text(&pool, query).await;

    let jobs = "select string_agg(concat_ws('/', job_id, brand, account, model_id is not null, state, reason, attempts, \
                due_at is not null, finished_at is not null, metadata), ' ' order by job_id) from reporting.jobs";
    assert_eq!(
        text(jobs).await.replace('"', ""),
        "j-1/acme/default/t/done/1/f/t/{\\crm\\: 7} j-2/acme/default/t/waiting/number_limit/0/t/f/{\\crm\\: 7} \
         j-3/acme/default/t/waiting/not_before/0/t/f/{\\crm\\: 7}"
            .replace("\\crm\\", "crm"),
    );
    let calls = "select concat_ws('/', job_id, attempt_no, from_phone_number, rule, state, disposition, call_id, http_status, \
                 provider_status, end_reason, caller_id_verified, duration_s) from reporting.calls";
    assert_eq!(
        text(calls).await.replace('"', ""),
        format!("j-1/1/{NUMBER}/acme, California/ended/answered/call-1/200/completed/human_goodbye/t/42")
    );
    let campaigns = "select concat_ws('/', campaign_id, brand, state, waiting, dialing, placed, done, canceled, answered, \
                     answer_rate, placed_last_minute, expected_finish_at > now()) from reporting.campaigns";
    assert_eq!(text(campaigns).await, "spring-sale/acme/active/2/0/0/1/0/1/1.0000/1/t");
    let numbers = "select concat_ws('/', number, state, brand, region, cardinality(agents), used_day, limit_second, limit_day, \
                   used_concurrent, placed_last_day, answer_rate, last_call_at <= now()) from reporting.numbers";
    assert_eq!(text(numbers).await, format!("{NUMBER}/active/acme/US-CA/1/1/1/75/0/1/1.0000/t"));
    let waiting = "select string_agg(concat_ws('/', campaign_id, reason, jobs, next_due_at is not null), ' ' order by reason) \
                   from reporting.waiting";
    assert_eq!(text(waiting).await, "\"spring-sale/not_before/1/t spring-sale/number_limit/1/t\"");
}

/// Views read counts that are kept beside the records: added up or not, coarse as they grow old, and there when records have gone.
#[tokio::test]
async fn counts_are_the_same_added_up_and_outlive_the_records() {
    let database = database().await;
    let pool = seeded::pool(&database.url).await;
    seeded::seed(&pool).await;
    let campaign = "select concat_ws('/', waiting, dialing, placed, done, answered, answer_rate, placed_last_minute, placed_last_hour,
                    placed_last_day, last_placed_at is not null) from reporting.campaigns";
    let number = "select concat_ws('/', placed_last_day, answer_rate) from reporting.numbers";
    let told = async || (seeded::text(&pool, campaign).await, seeded::text(&pool, number).await);
    let is = |campaign: &str, number: &str| (campaign.to_owned(), number.to_owned());
    // To where counts stand this long after.
    let later = async |by: &str| {
        let statements = format!(
            "update outdial.campaign_news set at = at - interval '{by}'; update outdial.number_news set hour = hour - interval '{by}';
             update outdial.campaign_pace set at = at - interval '{by}'; update outdial.number_pace set hour = hour - interval '{by}';
             select outdial.count_up_campaigns(1000), outdial.count_up_numbers(1000), outdial.coarsen_pace(1000);"
        );
        seeded::run(&pool, &statements).await;
    };

    assert_eq!(told().await, is("2/0/0/1/1/1.0000/1/1/1/t", "1/1.0000"));
    let count_up = "select outdial.count_up_campaigns(1000), outdial.count_up_numbers(1000)";
    seeded::run(&pool, count_up).await;
    assert_eq!(
        told().await,
        is("2/0/0/1/1/1.0000/1/1/1/t", "1/1.0000"),
        "only calls of the last minute aren't added up"
    );
    assert_eq!(seeded::text(&pool, "select string_agg(what, ',') from outdial.campaign_news").await, "calls");
    later("2 minutes").await;
    assert_eq!(told().await, is("2/0/0/1/1/1.0000/0/1/1/t", "1/1.0000"));
    assert_eq!(seeded::text(&pool, "select count(*) from outdial.campaign_news").await, "0");
    later("2 hours").await;
    assert_eq!(told().await, is("2/0/0/1/1/1.0000/0/0/1/t", "1/1.0000"));
    let begins = "select extract(epoch from at)::int % 1200 from outdial.campaign_pace";
    assert_eq!(seeded::text(&pool, begins).await, "0", "with one of twenty minutes");
    later("24 hours").await;
    seeded::run(
        &pool,
        "delete from outdial.attempts where state = 'ended'; delete from outdial.jobs where state = 'done'",
    )
    .await;
    assert_eq!(told().await, is("2/0/0/1/1/1.0000/0/0/0/t", "0"));
    let kept =
        "select (select count(*) from outdial.campaign_pace) + (select count(*) from outdial.number_pace)";
    assert_eq!(seeded::text(&pool, kept).await, "0");
}

/// Upkeep was away, or a disk stood still: what wasn't added up is more than a statement has time for.
#[tokio::test]
async fn counts_that_were_left_for_long_are_added_up_piece_by_piece() {
    const LEFT: i64 = 120_000;
    let stage = Stage::new(sandbox_config(&numbers(1))).await;
    let left = format!(
        "insert into outdial.campaigns (campaign_id) values ('c');
         insert into outdial.numbers (number) values ('{NUMBER}');
         insert into outdial.campaign_news (campaign_id, what, n, at)
         select 'c', 'calls', 1, now() - interval '10 minutes' from generate_series(1, {LEFT});
         insert into outdial.number_news (number, hour, ended, answered)
         select '{NUMBER}', date_trunc('hour', now(), 'UTC'), 1, 1 from generate_series(1, {LEFT})"
    );
    seeded::run(&stage.db, &left).await;
    let told = "select (select placed_last_hour from reporting.campaigns) + (select placed_last_day from reporting.numbers
                where number = '+16286666348')";
    assert_eq!(stage.count(told).await, 2 * LEFT);
    let _worker = stage.worker(&[]).await;
    let rest =
        "select (select count(*) from outdial.campaign_news) + (select count(*) from outdial.number_news)";
    eventually(LIMIT, async || (stage.count(rest).await == 0).then_some(())).await;
    assert_eq!(stage.count(told).await, 2 * LEFT);
    // The runbook's way to be rid of their pages, which views would read again and again.
    let pages = "select pg_relation_size('outdial.campaign_news') + pg_relation_size('outdial.number_news')";
    assert!(stage.count(pages).await > 0);
    let vacuum = "vacuum (truncate on) outdial.campaign_news, outdial.number_news";
    eventually(LIMIT, async || {
        sqlx::query(vacuum).execute(&stage.db).await.unwrap();
        (stage.count(pages).await == 0).then_some(())
    })
    .await;
}

/// A job that leaves brand and agent to its campaign is shown with the campaign's, as the routing has them.
#[tokio::test]
async fn a_waiting_job_shows_its_campaigns_brand_agent_and_account() {
    let database = database().await;
    let pool = seeded::pool(&database.url).await;
    seeded::seed(&pool).await;
    seeded::run(&pool, "update outdial.campaigns set brand = null, model_id = null").await;
    let source = include_str!("../../config/routing.toml");
    let settings = outdial::core::rules::parse(source).unwrap();
    outdial::store::routing::apply(&pool, source, settings, "tester").await.unwrap();
    let job = "select concat_ws('/', brand, account, model_id) from reporting.jobs where job_id = 'j-2'";
    assert_eq!(seeded::text(&pool, job).await, format!("acme/default/{}", seeded::AGENT));
}

#[tokio::test]
async fn a_reader_sees_numbers_masked_and_nothing_else() {
    let database = database().await;
    let pool = seeded::pool(&database.url).await;
    seeded::seed(&pool).await;
    let mut connection = pool.acquire().await.unwrap();
    for (role, expected) in [("outdial_reader", "+*********23"), ("outdial_reader_pii", seeded::PHONES[0])] {
        let become_role = AssertSqlSafe(format!("set role {role}"));
        sqlx::query(become_role).execute(&mut *connection).await.unwrap();
        for view in ["jobs", "calls"] {
            let query = AssertSqlSafe(format!("select phone from reporting.{view} where job_id = 'j-1'"));
            let phone: String = sqlx::query_scalar(query).fetch_one(&mut *connection).await.unwrap();
            assert_eq!(phone, expected, "{role} in {view}");
        }
        for view in ["campaigns", "numbers", "waiting"] {
            let query = AssertSqlSafe(format!("select count(*) from reporting.{view}"));
            let rows = sqlx::query(query).fetch_one(&mut *connection).await.unwrap();
            assert!(rows.get::<i64, _>(0) > 0, "{role} in {view}");
        }
        let tables = sqlx::query("select phone from outdial.jobs").fetch_all(&mut *connection).await;
        assert!(tables.unwrap_err().to_string().contains("permission denied"), "{role} reads the tables");
        sqlx::query("reset role").execute(&mut *connection).await.unwrap();
    }
}

#[tokio::test]
async fn migrate_prints_what_it_may_not_do_itself() {
    let server = own_postgres().await;
    let admin = seeded::pool(&server.url("postgres")).await;
    seeded::run(&admin, "create role plain login password 'plain'").await;
    seeded::run(&admin, "create database plain owner plain").await;
    let url = server.url("plain");
    let plain_url = {
        let (_, rest) = url.split_once('@').unwrap();
        format!("postgres://plain:plain@{rest}")
    };
    let migrate = || Outdial::start(&["migrate"], &[("DATABASE_URL", &plain_url)]).wait(LIMIT);

    let (status, told) = migrate().await;
    assert!(status.success(), "{told}");
    assert!(told.contains("applied 0002 reporting"), "{told}");
    let statements: Vec<&str> = told.lines().map(str::trim).filter(|line| line.ends_with(';')).collect();
    assert_eq!(statements.len(), 6, "{told}");
    assert!(told.contains("create role outdial_reader nologin;"), "{told}");

    // Run by somebody who may, they are all that was missing.
    let there = seeded::pool(&url).await;
    seeded::run(&there, &statements.join("\n")).await;
    let (status, told) = migrate().await;
    assert!(status.success() && told.trim() == "the schema is up to date", "{told}");
}
