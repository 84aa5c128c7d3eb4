//! The broker and its exchanges and queues. Only looked at: declaring is the worker's.

use super::ANSWER_MAX;
use super::finding::Finding;
use crate::broker::{self, Seen, Sighting, Target};
use crate::cli::Failure;
use crate::config::Config;

pub async fn look(config: &Config) -> Vec<Finding> {
    let looked = async {
        let target = Target::parse(config.amqp.url()?)?;
        // Who may not declare may not compare.
        let seen = broker::look(&target, config.amqp.declare, ANSWER_MAX).await?;
        Ok::<_, Failure>((target, seen))
    }
    .await;
    match looked {
        Ok((target, seen)) => {
            let mut findings = vec![Finding::ok("broker", target.to_string())];
            findings.extend(judge(&seen, config.amqp.declare));
            findings
        }
        Err(failure) => {
            let mend = failure.mend_or("correct AMQP_URL");
            vec![Finding::problem("broker", failure.what(), mend)]
        }
    }
}

fn judge(sightings: &[Sighting], declare: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let missing = sightings.iter().filter(|sighting| sighting.seen == Seen::Missing);
    let missing: Vec<&str> = missing.map(|sighting| sighting.item.as_str()).collect();
    if !missing.is_empty() {
        let what = format!("not there: {}", missing.join(", "));
        findings.push(if declare {
            let mend = "a worker declares them when it connects; until then nothing can be published";
            Finding::warning("topology", what, mend)
        } else {
            let mend = "declare them (deploy/rabbitmq/definitions.sh), or set amqp.declare = true";
            Finding::problem("topology", what, mend)
        });
    }
    for Sighting { item, seen } in sightings {
        match seen {
            Seen::Wrong(words) => findings.push(Finding::problem(
                "topology",
                format!("{item}: {words}"),
                "delete it once it is empty, and a worker declares it; or declare it with the value received here",
            )),
            // Nor does it let a worker.
            Seen::Refused(words) => findings.push(Finding::problem(
                "topology",
                format!("{item} can't be looked at: {words}"),
                "give the user the right to declare it, or declare it yourself and set amqp.declare = false",
            )),
            Seen::Right | Seen::There | Seen::Missing => {}
        }
    }
    if findings.is_empty() {
        let compared = sightings.iter().any(|sighting| sighting.seen == Seen::Right);
        findings.push(Finding::ok(
            "topology",
            if compared {
                "exchanges and queues are there, queues with the arguments they must have"
            } else {
                "exchanges and queues are there; with amqp.declare = false their arguments are not seen"
            },
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::*;

    fn sightings(jobs: Seen) -> Vec<Sighting> {
        let sighting = |item: &str, seen| Sighting { item: item.to_owned(), seen };
        vec![sighting("exchange outdial.jobs", Seen::There), sighting("queue outdial.jobs", jobs)]
    }

    fn only(mut findings: Vec<Finding>) -> Finding {
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn what_is_there_is_well_and_says_how_closely_it_was_looked_at() {
        let compared = only(judge(&sightings(Seen::Right), true));
        assert_eq!((compared.grade, compared.what.contains("must have")), (Grade::Ok, true));
        let seen = only(judge(&sightings(Seen::There), false));
        assert_eq!((seen.grade, seen.what.contains("not seen")), (Grade::Ok, true));
    }

    #[test]
    fn what_is_missing_is_a_problem_where_no_worker_makes_it() {
        let made = only(judge(&sightings(Seen::Missing), true));
        assert_eq!((made.grade, made.what.as_str()), (Grade::Warning, "not there: queue outdial.jobs"));
        assert_eq!(only(judge(&sightings(Seen::Missing), false)).grade, Grade::Problem);
    }

    #[test]
    fn another_queue_of_that_name_is_a_problem_in_the_brokers_words() {
        let wrong = only(judge(&sightings(Seen::Wrong("inequivalent arg".to_owned())), true));
        assert_eq!(
            (wrong.grade, wrong.what.as_str()),
            (Grade::Problem, "queue outdial.jobs: inequivalent arg")
        );
        let refused = only(judge(&sightings(Seen::Refused("access refused".to_owned())), true));
        assert_eq!(refused.grade, Grade::Problem);
    }
}
