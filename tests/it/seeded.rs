//! A ledger with something in it, made by the ledger's own steps: one job that was answered, one that waits for its
//! number, one that waits for a date.

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool, Row};

pub const NUMBER: &str = "+16286666348";
pub const AGENT: &str = "0ae2859d-c25c-4d56-a9f3-809387b725ce";
pub const PHONES: [&str; 3] = ["+14155550123", "+14155550124", "+14155550125"];

pub async fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(4).connect(url).await.unwrap()
}

/// Statements without parameters, all of them the tests' own text.
pub async fn run(pool: &PgPool, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(pool).await.unwrap();
}

/// The first column of the first row, as text.
pub async fn text(pool: &PgPool, query: &str) -> String {
    let row = sqlx::query(AssertSqlSafe(format!("select (q.*)::text from ({query}) q")))
        .fetch_one(pool)
        .await
        .unwrap();
    row.get::<String, _>(0).trim_matches(|c| c == '(' || c == ')').to_owned()
}

/// `j-1` done and answered, `j-2` waiting for its number, `j-3` for tomorrow; campaign `spring-sale`.
pub async fn seed(pool: &PgPool) {
    run(
        pool,
        &format!(
            "select outdial.see_campaigns(array['spring-sale']);
             update outdial.campaigns set brand = 'acme', model_id = '{AGENT}' where campaign_id = 'spring-sale';
             insert into outdial.accounts (name) values ('default');
             insert into outdial.agents (model_id, account) values ('{AGENT}', 'default');
             insert into outdial.numbers (number, brand, region) values ('{NUMBER}', 'acme', 'US-CA');
             insert into outdial.pool (model_id, number, slug) values ('{AGENT}', '{NUMBER}', '16286666348');
             insert into outdial.limits (kind, key) values (1, 'default');
             insert into outdial.limits (kind, key, per_second, per_day) values (3, '{NUMBER}', 1, 75);
             insert into outdial.workers (host, pid, version, lease_until) values ('h', 1, '0', now() + interval '1 hour');
             insert into outdial.classes (campaign_id, region, country, area) values ('spring-sale', 'US-CA', 'US', '415');"
        ),
    )
    .await;
    accept(pool, 1, "null").await;
    dial_and_finish(pool).await;
    accept(pool, 2, "null").await;
    accept(pool, 3, "now() + interval '1 day'").await;
    // What dispatch says of the class when the number is at its limit.
    run(
        pool,
        "update outdial.classes set reason = 'number_limit', due_at = now() + interval '1 second', decided_at = now();",
    )
    .await;
}

/// Takes job `j-N` in, to PHONES[N-1].
pub async fn accept(pool: &PgPool, n: usize, not_before: &str) {
    let phone = PHONES[n - 1];
    run(
        pool,
        &format!(
            "select * from outdial.accept(array[md5('j-{n}')::uuid], array[md5('c')::uuid], array['j-{n}'], array['spring-sale'],
                 array[1], array['{phone}'], array['Canary Birdsong'], array['US-CA'], array[null::text], array[null::text],
                 array[null::text], array[null::jsonb], array['{{\"crm\": 7}}'::jsonb], array[4::smallint],
                 array[({not_before})::timestamptz], array[now() + interval '7 days'], array[now()], array[null::text], null);"
        ),
    )
    .await;
}

async fn dial_and_finish(pool: &PgPool) {
    let attempt = "'01890000-0000-7000-8000-000000000001'::uuid";
    run(
        pool,
        &format!(
            "select * from outdial.reserve(1, 0, '0', '1 second', '100 ms', array[1::bigint], array['spring-sale'],
                 array['default'], array['{NUMBER}'], array[null::text], array[null::text], array[null::text]);"
        ),
    )
    .await;
    let verdict = authorise(pool, 1, attempt).await;
    assert_eq!(verdict, None);
    run(
        pool,
        &format!(
            "select * from outdial.settle(array[{attempt}], array['placed'], array['call-1'], array[200::smallint],
                 array[null::text], array[null::text], array[null::timestamptz], array['ok'], array[null::int], array[null::timestamptz], interval '0.1 s', null);
             select outdial.finish(array[{attempt}], array['call-1'], array['answered'], array[null::text], array['completed'],
                 array['human_goodbye'], array[null::text], array['{NUMBER}'], array[now()], array[42], array[null::text], null);"
        ),
    )
    .await;
}

/// Authorises a reserved job; the verdict says why not.
pub async fn authorise(pool: &PgPool, job_no: i64, attempt: &str) -> Option<String> {
    let query = format!(
        "select verdict from outdial.authorise(1, '1 minute', array[{job_no}::bigint],
             array[(select slot from outdial.reservations where job_no = {job_no})], array[{attempt}], array['{AGENT}'], array['acme'],
             array['US-CA'], array['acme, California'], array['{{\"rule\": \"acme, California\"}}'::jsonb],
             array[null::timestamptz], false)"
    );
    sqlx::query(AssertSqlSafe(query)).fetch_one(pool).await.unwrap().get(0)
}
