//! One job's way, in its publisher's trace: how its caller ID was chosen, and its POST.

use chrono::{DateTime, Utc};

use crate::clock;
use crate::core::ids::AttemptId;
use crate::core::ledger::Became;
use crate::core::outcome::Sent;
use crate::core::trace::{Attribute, Context, Kind, Span, Took};
use crate::engine::dispatch::Slotted;
use crate::engine::place::Posted;

/// The spans of one job with a slot. The POST's is made first, for its id goes to the provider.
#[derive(Debug)]
pub(super) struct Trail {
    publisher: Context,
    dial: Context,
    post: Context,
    began: DateTime<Utc>,
}

impl Trail {
    /// `None`: its publisher gave it no trace, or doesn't record it.
    pub(super) fn of(job: &Slotted) -> Option<Self> {
        let publisher = Context::parse(job.reserved.traceparent.as_deref()?).filter(|c| c.sampled())?;
        Some(Self {
            publisher,
            dial: publisher.child(rand::random()),
            post: publisher.child(rand::random()),
            began: clock::wall(),
        })
    }

    /// The `traceparent` of the POST.
    pub(super) fn header(&self) -> String {
        self.post.to_string()
    }

    /// From asking for a slot until there was one: by then rule and number are chosen.
    pub(super) fn decided(&self, job: &Slotted) -> Span {
        let plan = &job.pick.plan;
        let rule = plan.tiers.get(job.pick.tier).map(|tier| tier.source.name());
        let mut attributes = about(job);
        attributes.push(("outdial.routing.version", Attribute::Number(job.version.0)));
        attributes.push(("outdial.slot", Attribute::Text(job.reserved.slot.to_rfc3339())));
        attributes.extend(rule.map(|name| ("outdial.rule", Attribute::Text(name.to_owned()))));
        attributes.extend(
            job.number().map(|number| ("outdial.caller_id", Attribute::Text(number.masked().to_string()))),
        );
        Span {
            name: "decide",
            kind: Kind::Internal,
            context: self.publisher.child(rand::random()),
            parent: self.publisher.span,
            took: job.decided,
            attributes,
            failed: None,
        }
    }

    pub(super) fn posted(&self, took: Took, attempt: AttemptId, posted: &Posted) -> Span {
        let mut attributes = vec![
            ("http.request.method", Attribute::Text("POST".to_owned())),
            ("url.template", Attribute::Text("/v2/calls".to_owned())),
            ("outdial.attempt.id", Attribute::Text(attempt.to_string())),
        ];
        let failed = match &posted.sent {
            Sent::Answered(answer) => {
                attributes.push(("http.response.status_code", Attribute::Number(answer.status.into())));
                (answer.status >= 400).then_some("refused")
            }
            Sent::Unclear(_) => Some("unclear"),
            Sent::NotSent(_) => Some("not_sent"),
        };
        Span {
            name: "POST /v2/calls",
            kind: Kind::Client,
            context: self.post,
            parent: self.dial.span,
            took,
            attributes,
            failed,
        }
    }

    /// From taking the job up until what became of it is written down.
    pub(super) fn dialed(&self, job: &Slotted, attempt: AttemptId, became: &Became) -> Span {
        let (outcome, failed) = match became {
            Became::Placed { .. } => ("placed", None),
            Became::Unknown => ("unknown", Some("unknown")),
            Became::Refused { .. } => ("refused", Some("refused")),
            Became::Retry { .. } => ("waiting", None),
            Became::Unsent { .. } => ("unsent", None),
        };
        let mut attributes = about(job);
        attributes.push(("outdial.attempt.id", Attribute::Text(attempt.to_string())));
        attributes.push(("outdial.outcome", Attribute::Text(outcome.to_owned())));
        if let Became::Placed { call_id } = became {
            attributes.push(("outdial.call.id", Attribute::Text(call_id.to_string())));
        }
        Span {
            name: "dial",
            kind: Kind::Internal,
            context: self.dial,
            parent: self.publisher.span,
            took: Took { began: self.began, ended: clock::wall() },
            attributes,
            failed,
        }
    }
}

fn about(job: &Slotted) -> Vec<(&'static str, Attribute)> {
    vec![
        ("outdial.job.id", Attribute::Text(job.reserved.job_id.to_string())),
        ("outdial.campaign.id", Attribute::Text(job.pick.ask.campaign.to_string())),
    ]
}
