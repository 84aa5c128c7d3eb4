//! What lists hold: the rows of the `reporting` views.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::core::decide::CampaignState;
use crate::core::phone::E164;
use crate::core::states::{AttemptState, Disposition, JobState, NumberState, Reason};
use crate::core::text::mask_digits;

/// The contract's words as an enumeration.
macro_rules! enumerated {
    ($($name:ident),+) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let words = Self::ALL.iter().map(|word| word.as_str());
                    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).enum_values(Some(words)).into()
                }
            }

            impl ToSchema for $name {}
        )+
    };
}

enumerated!(CampaignState, JobState, AttemptState, Disposition, Reason, NumberState);

/// Shows all but the last two digits as stars; what is no number that we know, not at all.
fn mask(phone: &mut Option<String>) {
    *phone = phone
        .take()
        .map(|whole| E164::from_canonical(&whole).map_or("***".to_owned(), |number| number.masked()));
}

/// What the provider said, which may repeat a number.
fn mask_within(text: &mut Option<String>) {
    *text = text.take().map(|text| mask_digits(&text));
}

/// A job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Job {
    job_id: String,
    campaign_id: String,
    brand: Option<String>,
    account: Option<String>,
    model_id: Option<String>,
    /// The callee's, E.164; masked but for the last two digits to a token that only reads; null: erased.
    phone: Option<String>,
    region: Option<String>,
    #[schema(minimum = 0, maximum = 9)]
    priority: i16,
    state: JobState,
    /// Why it waits, or why it was not dialed.
    reason: Option<Reason>,
    /// When it could be dialed, as far as is known.
    due_at: Option<DateTime<Utc>>,
    /// Tries begun.
    attempts: i16,
    received_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    /// The publisher's own.
    metadata: Option<Value>,
}

impl Job {
    pub(super) fn mask(&mut self) {
        mask(&mut self.phone);
    }
}

/// An attempt: one try at placing a job's call.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Call {
    job_id: Option<String>,
    attempt_no: i16,
    attempt_id: uuid::Uuid,
    campaign_id: String,
    brand: Option<String>,
    account: String,
    model_id: String,
    /// The callee's, E.164; masked but for the last two digits to a token that only reads; null: erased.
    phone: Option<String>,
    region: Option<String>,
    /// The caller ID, E.164; null: the agent's own default, until the provider tells.
    from_phone_number: Option<String>,
    routing_version: i64,
    /// The rule that chose it.
    rule: Option<String>,
    state: AttemptState,
    disposition: Option<Disposition>,
    reason: Option<Reason>,
    /// The provider's.
    call_id: Option<String>,
    http_status: Option<i16>,
    provider_status: Option<String>,
    end_reason: Option<String>,
    provider_error: Option<String>,
    from_phone_number_reported: Option<String>,
    /// Null: not known.
    caller_id_verified: Option<bool>,
    submitted_at: DateTime<Utc>,
    placed_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    /// In seconds.
    duration_s: Option<i32>,
    /// Null, too, to a token that only reads.
    recording_url: Option<String>,
    /// The rule, the candidates and the exclusions, in brief.
    decision: Value,
}

impl Call {
    pub(super) fn mask(&mut self) {
        mask(&mut self.phone);
        mask_within(&mut self.end_reason);
        mask_within(&mut self.provider_status);
        // The callee's own voice.
        self.recording_url = None;
    }
}

/// A campaign: jobs by state, and its pace.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Campaign {
    campaign_id: String,
    brand: Option<String>,
    state: CampaignState,
    waiting: i64,
    dialing: i64,
    placed: i64,
    done: i64,
    refused: i64,
    expired: i64,
    canceled: i64,
    review: i64,
    answered: i64,
    /// Of ended calls, 0 to 1; null: none has ended.
    answer_rate: Option<f64>,
    placed_last_minute: i64,
    placed_last_hour: i64,
    placed_last_day: i64,
    first_received_at: Option<DateTime<Utc>>,
    last_placed_at: Option<DateTime<Utc>>,
    /// What waits, at the pace of the last hour.
    expected_finish_at: Option<DateTime<Utc>>,
}

/// A number, and how much of each limit is used.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Number {
    number: String,
    state: NumberState,
    state_reason: Option<String>,
    brand: Option<String>,
    region: Option<String>,
    /// The agents to which it is attached.
    agents: Vec<String>,
    /// Calls in the window that ends now; so the others.
    used_second: i64,
    /// Null: unlimited; so the others.
    limit_second: Option<i32>,
    used_minute: i64,
    limit_minute: Option<i32>,
    used_hour: i64,
    limit_hour: Option<i32>,
    used_day: i64,
    limit_day: Option<i32>,
    used_concurrent: i64,
    limit_concurrent: Option<i32>,
    placed_last_day: i64,
    /// Of ended calls of the last day, 0 to 1; null: none has ended.
    answer_rate: Option<f64>,
    last_call_at: Option<DateTime<Utc>>,
}

/// Why jobs of a campaign wait.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Waiting {
    campaign_id: String,
    reason: Option<Reason>,
    jobs: i64,
    oldest_received_at: Option<DateTime<Utc>>,
    next_due_at: Option<DateTime<Utc>>,
}

/// An attempt of which nobody could find out whether the call was placed, with the evidence there is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct InReview {
    attempt_id: uuid::Uuid,
    job_id: String,
    campaign_id: String,
    attempt_no: i16,
    account: String,
    model_id: String,
    /// The callee's, E.164; masked but for the last two digits to a token that only reads; null: erased.
    phone: Option<String>,
    from_phone_number: Option<String>,
    submitted_at: DateTime<Utc>,
    http_status: Option<i16>,
    provider_error: Option<String>,
    /// How often the provider was looked through for it.
    looks: i32,
    looked_at: Option<DateTime<Utc>>,
    /// From then on the provider could be looked through, and had no such call.
    not_found_from: Option<DateTime<Utc>>,
    not_found_until: Option<DateTime<Utc>>,
    in_review_since: DateTime<Utc>,
}

impl InReview {
    pub(super) fn mask(&mut self) {
        mask(&mut self.phone);
    }
}

/// Everything that is known of a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Story {
    job: Job,
    /// What holds it while it waits; null when it doesn't.
    waits: Option<Value>,
    /// Oldest first.
    attempts: Vec<Call>,
    /// Events that the broker hasn't confirmed yet.
    unpublished_events: Vec<Value>,
}

impl Story {
    pub(super) fn mask(&mut self) {
        self.job.mask();
        self.attempts.iter_mut().for_each(Call::mask);
    }
}

/// A version of the routing rules.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Version {
    version: i64,
    applied_at: DateTime<Utc>,
    applied_by: String,
    /// SHA-256 of the document, in hex.
    digest: String,
    in_use: bool,
}
