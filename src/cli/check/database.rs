//! The database: the server, its clock, the schema, and what is stopped in it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::finding::Finding;
use super::{PATIENCE, answer, in_time};
use crate::cli::connect;
use crate::clock;
use crate::config::Config;
use crate::core::dbtime::{DbTime, Probe, Reading};
use crate::store::{self, Pool, Purpose, SchemaStatus, ServerFacts, Standing};

/// The oldest PostgreSQL that the README promises.
const POSTGRES_MIN: i32 = 130_000;
/// Beyond it records and logs of one call no longer fit together; the alert rings at twice as much.
const APART_MAX: Duration = Duration::from_secs(1);
/// Looks at the clock: the first opens the connection, and the one with the least error counts.
const LOOKS: usize = 3;

const RIGHTS: &str = "give this user the right to use schema outdial";

/// What was found, and the connection where the schema is one to ask more of.
pub async fn look(config: &Config) -> (Vec<Finding>, Option<Pool>) {
    let pool = match connect(config, Purpose::Command, PATIENCE).await {
        Ok(pool) => pool,
        Err(failure) => {
            let mend = failure.mend_or("see DATABASE_URL");
            return (vec![Finding::problem("database", failure.what(), mend)], None);
        }
    };
    let mut findings = Vec::new();
    match answer(store::server_facts(&pool)).await {
        Ok(facts) => findings.extend(server(&facts)),
        Err(why) => findings.push(Finding::problem("database", why, "look at the server's log")),
    }
    findings.push(match lost(config).await {
        Ok(lost) => timeouts(&lost),
        Err(why) => Finding::warning("timeouts", why, "look at the server's log"),
    });
    findings.push(match clocks(&pool).await {
        Ok((database, here)) => apart(database, here),
        Err(why) => Finding::warning("clock", why, "look at the server's log"),
    });
    let current = match in_time(store::schema_status(&pool)).await {
        Ok(Ok(status)) => {
            let current = status == SchemaStatus::Current;
            let newer = if current { answer(store::newer_steps(&pool)).await } else { Ok(Vec::new()) };
            findings.push(schema(&status, &newer.unwrap_or_default()));
            current
        }
        Ok(Err(error)) => {
            findings.push(Finding::problem("schema", error.to_string(), RIGHTS));
            false
        }
        Err(why) => {
            findings.push(Finding::problem("schema", why, "look at the server's log"));
            false
        }
    };
    if !current {
        return (findings, None);
    }
    match answer(store::standing(&pool)).await {
        Ok(standing) => findings.extend(stands(&standing)),
        Err(why) => findings.push(Finding::problem("database", why, RIGHTS)),
    }
    match answer(store::missing_grants(&pool)).await {
        Ok(grants) => findings.extend(readers(&grants)),
        Err(why) => findings.push(Finding::warning("reporting", why, RIGHTS)),
    }
    (findings, Some(pool))
}

fn server(facts: &ServerFacts) -> Vec<Finding> {
    let mut findings = vec![if facts.version_num < POSTGRES_MIN {
        let what = format!("PostgreSQL {} is too old", facts.version);
        Finding::problem("database", what, "PostgreSQL 13 or newer")
    } else if facts.is_standby {
        let what = "the server is a standby: nothing can be written there";
        Finding::problem("database", what, "give DATABASE_URL the primary's address")
    } else {
        Finding::ok("database", format!("PostgreSQL {}", facts.version))
    }];
    findings.extend(durability(facts));
    findings.extend(replication(facts));
    findings
}

/// Whether what was committed outlives a crash of the server: a call that it forgets is made again.
fn durability(facts: &ServerFacts) -> Option<Finding> {
    if !facts.unsafe_settings.is_empty() {
        let what = format!(
            "{}: a crash of the machine may tear the database, or take committed calls with it",
            facts.unsafe_settings.join(", ")
        );
        let mend = "set them on in postgresql.conf; without them a person may be dialed twice, and a number over its limit";
        // Storage that never tears a page may do without the other, and where a service offers such, nobody can set it.
        let forgets = facts.unsafe_settings.iter().any(|setting| setting.starts_with("fsync"));
        let told = if forgets { Finding::problem } else { Finding::warning };
        return Some(told("durability", what, mend));
    }
    let lost = match facts.synchronous_commit.as_str() {
        "off" => "a crash may forget calls that were placed: a person dialed twice, a number over its limit",
        "local" => "commits wait for no standby: a failover may forget calls that were placed",
        _ => return None,
    };
    let what = format!("synchronous_commit = {}: {lost}", facts.synchronous_commit);
    let mend = "set synchronous_commit = on for this user, this database and in postgresql.conf";
    Some(Finding::warning("durability", what, mend))
}

/// Whether it outlives the server itself. Nothing to add where commits wait for no standby anyway.
fn replication(facts: &ServerFacts) -> Option<Finding> {
    if matches!(facts.synchronous_commit.as_str(), "off" | "local") || facts.is_standby {
        return None;
    }
    Some(match (facts.names_standbys, facts.standbys) {
        (false, 0) => Finding::ok("replication", "no standby: nothing to fail over to"),
        (false, n) => Finding::warning(
            "replication",
            format!(
                "commits don't wait for any of the {n} standbys: a failover may forget calls that were placed"
            ),
            "set synchronous_standby_names",
        ),
        (true, 0) => Finding::warning(
            "replication",
            "synchronous_standby_names is set and no standby is attached: every commit waits for one",
            "attach the standby, or empty synchronous_standby_names",
        ),
        (true, _) => Finding::ok("replication", "commits wait for a standby"),
    })
}

/// What a worker asks for and doesn't get, seen on a connection as a worker makes it.
async fn lost(config: &Config) -> Result<Vec<String>, String> {
    let pool =
        connect(config, Purpose::Steps, PATIENCE).await.map_err(|failure| failure.what().to_owned())?;
    answer(store::limits_lost(&pool)).await
}

fn timeouts(lost: &[String]) -> Finding {
    if lost.is_empty() {
        return Finding::ok("timeouts", "a worker's statement that hangs is ended after 2 s");
    }
    let what = format!(
        "a worker's connection asks for 2 s and has {}: a statement that hangs holds up all others",
        lost.join(", ")
    );
    let mend = "a pooler before the database drops them: have it set them (PgBouncer: connect_query), see deploy/docs/pooler.md";
    Finding::warning("timeouts", what, mend)
}

async fn clocks(pool: &Pool) -> Result<(Reading, DateTime<Utc>), String> {
    let mut time = DbTime::default();
    for _ in 0..LOOKS {
        let asked = clock::uptime();
        let said = answer(store::read_clock(pool)).await?;
        time.add(Probe { asked, answered: clock::uptime(), said });
    }
    let reading = time.read(clock::uptime()).ok_or("it was not read")?;
    Ok((reading, clock::wall()))
}

fn apart(database: Reading, here: DateTime<Utc>) -> Finding {
    let by = database.now - here;
    let certain = by.abs().to_std().unwrap_or_default().saturating_sub(database.error);
    if certain <= APART_MAX {
        return Finding::ok("clock", "this machine's and the database's agree within a second");
    }
    let side = if by < TimeDelta::zero() { "behind" } else { "ahead of" };
    Finding::warning(
        "clock",
        format!("the database's is {:.1} s {side} this machine's", certain.as_secs_f64()),
        "mend NTP on the one that is off: records carry the database's time, logs this machine's; limits hold anyway",
    )
}

fn schema(status: &SchemaStatus, newer: &[i64]) -> Finding {
    match (status, newer) {
        (SchemaStatus::Behind { missing }, _) => {
            Finding::problem("schema", format!("missing: {}", missing.join(", ")), "outdial migrate")
        }
        (SchemaStatus::Current, []) => Finding::ok("schema", "up to date"),
        (SchemaStatus::Current, newer) => {
            let steps: Vec<String> = newer.iter().map(|step| format!("{step:04}")).collect();
            Finding::warning(
                "schema",
                format!("newer than this program, which doesn't know {}", steps.join(", ")),
                "upgrade this one, too; a program of the minor version before works with it meanwhile",
            )
        }
    }
}

fn stands(standing: &Standing) -> Vec<Finding> {
    let mut findings = vec![if standing.kill_switch {
        Finding::warning("kill switch", "on: nothing is dialed", "outdial kill-switch off")
    } else {
        Finding::ok("kill switch", "off")
    }];
    findings.extend(standing.paused.iter().map(|account| {
        let what = format!("paused: {}", account.reason.as_deref().unwrap_or("no reason was given"));
        let mend = match account.reason.as_deref() {
            // As the workers write it.
            Some("unauthorized") => {
                "mend its key or base_url; a worker resumes it once the key works".to_owned()
            }
            _ => format!("outdial account resume {}", account.name),
        };
        Finding::warning(format!("account {}", account.name), what, mend)
    }));
    findings.push(match standing.routing_version {
        0 => Finding::warning("routing", "none is applied: jobs wait no_route", "outdial routing apply FILE"),
        version => Finding::ok("routing", format!("version {version}")),
    });
    findings.push(match (standing.unlimited, standing.numbers) {
        (0, numbers) => Finding::ok("numbers", format!("{numbers} attached, none without limits")),
        (unlimited, numbers) => Finding::warning(
            "numbers",
            format!("{unlimited} of {numbers} attached have no limit at all"),
            "set number_limits in [defaults] of the routing file, then outdial routing apply FILE",
        ),
    });
    findings
}

fn readers(grants: &[String]) -> Option<Finding> {
    let what = "the readers' roles are missing or can't read";
    (!grants.is_empty()).then(|| Finding::warning("reporting", what, grants.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::*;
    use crate::store::PausedAccount;

    fn facts() -> ServerFacts {
        ServerFacts {
            version: "16.3".to_owned(),
            version_num: 160_003,
            is_standby: false,
            unsafe_settings: Vec::new(),
            synchronous_commit: "on".to_owned(),
            names_standbys: false,
            standbys: 0,
        }
    }

    fn graded(findings: &[Finding]) -> Vec<(Grade, &str)> {
        findings.iter().map(|finding| (finding.grade, finding.subject.as_str())).collect()
    }

    #[test]
    fn a_careful_server_is_well_with_or_without_a_standby() {
        let well = [(Grade::Ok, "database"), (Grade::Ok, "replication")];
        assert_eq!(graded(&server(&facts())), well);
        let replicated = ServerFacts { names_standbys: true, standbys: 1, ..facts() };
        assert_eq!(graded(&server(&replicated)), well);
    }

    #[test]
    fn an_old_server_and_a_standby_are_problems() {
        let old = ServerFacts { version_num: 120_017, ..facts() };
        assert_eq!(graded(&server(&old))[0], (Grade::Problem, "database"));
        let standby = ServerFacts { is_standby: true, ..facts() };
        assert_eq!(graded(&server(&standby)), [(Grade::Problem, "database")]);
    }

    #[test]
    fn what_a_crash_may_forget_is_told_by_how_much_it_is() {
        let torn = ServerFacts { unsafe_settings: vec!["fsync = off".to_owned()], ..facts() };
        assert_eq!(graded(&server(&torn))[1], (Grade::Problem, "durability"));
        for commit in ["off", "local"] {
            let late = ServerFacts { synchronous_commit: commit.to_owned(), names_standbys: true, ..facts() };
            assert_eq!(
                graded(&server(&late)),
                [(Grade::Ok, "database"), (Grade::Warning, "durability")],
                "{commit}"
            );
        }
        assert_eq!(
            durability(&ServerFacts { synchronous_commit: "remote_apply".to_owned(), ..facts() }),
            None
        );
    }

    #[test]
    fn a_standby_that_nobody_waits_for_and_one_that_is_missing_are_warnings() {
        for (names_standbys, standbys) in [(false, 2), (true, 0)] {
            let found = server(&ServerFacts { names_standbys, standbys, ..facts() });
            assert_eq!(graded(&found)[1], (Grade::Warning, "replication"));
        }
    }

    #[test]
    fn limits_that_a_pooler_drops_are_named_with_their_values() {
        assert_eq!(timeouts(&[]).grade, Grade::Ok);
        let found = timeouts(&["lock_timeout = 0".to_owned(), "statement_timeout = 0".to_owned()]);
        assert_eq!((found.grade, found.subject.as_str()), (Grade::Warning, "timeouts"));
        assert!(found.what.contains("lock_timeout = 0, statement_timeout = 0"), "{found:?}");
    }

    #[test]
    fn clocks_are_apart_only_where_that_is_certain() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let reading = |ms, error| Reading {
            now: now + TimeDelta::milliseconds(ms),
            error: Duration::from_millis(error),
        };
        assert_eq!(apart(reading(900, 1), now).grade, Grade::Ok);
        assert_eq!(apart(reading(3_000, 2_000), now).grade, Grade::Ok, "the answer took so long");
        let ahead = apart(reading(3_010, 10), now);
        assert_eq!(
            (ahead.grade, ahead.what.as_str()),
            (Grade::Warning, "the database's is 3.0 s ahead of this machine's")
        );
        assert_eq!(apart(reading(-1_510, 10), now).what, "the database's is 1.5 s behind this machine's");
    }

    #[test]
    fn a_schema_is_missing_current_or_newer() {
        let behind = SchemaStatus::Behind { missing: vec!["0004 stops".to_owned()] };
        assert_eq!(
            schema(&behind, &[]),
            Finding::problem("schema", "missing: 0004 stops", "outdial migrate")
        );
        assert_eq!(schema(&SchemaStatus::Current, &[]), Finding::ok("schema", "up to date"));
        let newer = schema(&SchemaStatus::Current, &[9, 10]);
        assert_eq!(newer.grade, Grade::Warning);
        assert!(newer.what.contains("0009, 0010"), "{newer:?}");
    }

    #[test]
    fn what_is_stopped_is_told_with_how_to_go_on() {
        let well = Standing { routing_version: 3, numbers: 2, ..Standing::default() };
        assert!(stands(&well).iter().all(|finding| finding.grade == Grade::Ok));
        let account = |name: &str, reason: Option<&str>| PausedAccount {
            name: name.to_owned(),
            reason: reason.map(str::to_owned),
        };
        let stopped = Standing {
            kill_switch: true,
            paused: vec![account("eu", None), account("us", Some("unauthorized"))],
            routing_version: 0,
            numbers: 2,
            unlimited: 1,
        };
        let found = stands(&stopped);
        let mends: Vec<&str> = found.iter().filter_map(|finding| finding.mend.as_deref()).collect();
        assert_eq!(mends.len(), 5, "{found:?}");
        assert_eq!(mends[..2], ["outdial kill-switch off", "outdial account resume eu"]);
        assert!(mends[2].contains("a worker resumes it"), "{mends:?}");
        assert!(found.iter().all(|finding| finding.grade == Grade::Warning));
    }
}
