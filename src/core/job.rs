//! A call job: from the bytes a publisher sent to a value that the rest of the program can trust, or the reason why
//! it can't be one. Pure; what only the ledger knows (`conflict`) is not decided here.

mod digest;
mod fault;
mod field;
mod json;
mod message;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::core::ids::{Brand, CampaignId, JobId, ModelId};
use crate::core::phone::{self, E164, Phone, PhoneCheck};
use crate::core::place::Region;

pub use digest::{Digest16, of_id as id_digest};
pub use fault::{DeadLetter, DeadReason};
pub use field::{Consent, Metadata, Name, Priority};
pub use message::job_schema;
use message::{CancelMessage, JobMessage};

/// The largest body, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// `intake.unknown_fields`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// A misspelt `from_phone_number` must not dial from the wrong number.
    Reject,
    Ignore,
}

#[derive(Debug, Clone, Copy)]
pub struct JobOptions {
    pub unknown_fields: UnknownFields,
    pub phone_check: PhoneCheck,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self { unknown_fields: UnknownFields::Reject, phone_check: PhoneCheck::Valid }
    }
}

#[derive(Clone, PartialEq)]
pub struct Job {
    pub job_id: JobId,
    pub campaign_id: CampaignId,
    /// The callee, and what the number tells of where it is.
    pub phone: Phone,
    pub name: Name,
    pub model_id: Option<ModelId>,
    pub brand: Option<Brand>,
    /// As the publisher said; see [`Job::region`].
    pub region: Option<Region>,
    pub from_phone_number: Option<E164>,
    pub not_before: Option<DateTime<Utc>>,
    /// As the publisher said; the campaign's rule holds where it is absent.
    pub expires_at: Option<DateTime<Utc>>,
    pub priority: Priority,
    pub content: Content,
    pub metadata: Option<Metadata>,
    pub received_at: DateTime<Utc>,
}

/// What is passed on to the provider as it is, and kept in one column.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Content {
    /// Sorted by key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub custom_variables: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lead_email: Option<String>,
    /// A name of the IANA database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lead_timezone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
}

/// What a publisher may send to `outdial.jobs`.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    Dial(Box<Job>),
    Cancel(JobId),
}

impl Job {
    /// Equal for equal content after parsing, whatever the field order, white space, punctuation of the phone, form
    /// of the variables or headers.
    pub fn content_digest(&self) -> Digest16 {
        digest::of_content(self)
    }

    /// Where the callee is, for the rules: as the publisher said, else as the number tells. Whether the country may be
    /// called is judged by the number alone, see [`Phone::destination`].
    pub fn region(&self) -> Option<Region> {
        self.region.or(self.phone.place.region)
    }

    pub fn id_digest(&self) -> Digest16 {
        id_digest(self.job_id.as_str())
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({} of {} to {:?})", self.job_id, self.campaign_id, self.phone.number)
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Content(…)")
    }
}

/// Reads a job. `message_id` is the AMQP property, which stands in for an absent `job_id`.
pub fn decode(
    body: &[u8],
    message_id: Option<&str>,
    received_at: DateTime<Utc>,
    options: &JobOptions,
) -> Result<Job, DeadLetter> {
    let mut fields = object(body)?;
    if options.unknown_fields == UnknownFields::Reject {
        refuse_unknown(&fields, JobMessage::FIELDS)?;
    }
    let message_id = message_id.filter(|id| !id.is_empty());
    refuse_missing(&fields, JobMessage::FIELDS)?;
    if is_absent(&fields, "job_id") && message_id.is_none() {
        return Err(DeadLetter::new(
            DeadReason::MissingField,
            "job_id is missing, and so is the AMQP message_id; give one of them",
        ));
    }
    let phone = read_phone(fields.get("phone"), options.phone_check)?;
    let message = JobMessage::read(&mut fields).map_err(DeadLetter::invalid_field)?;
    let job_id = match (message.job_id.clone(), message_id) {
        (Some(id), _) => id,
        (None, id) => JobId::parse(id.unwrap_or_default())
            .map_err(|e| DeadLetter::invalid_field(format!("the AMQP message_id, used as job_id, {e}")))?,
    };
    if let (Some(not_before), Some(expires_at)) = (message.not_before, message.expires_at)
        && expires_at <= not_before
    {
        return Err(DeadLetter::invalid_field("expires_at must be later than not_before"));
    }
    Ok(assemble(message, job_id, phone, received_at))
}

fn assemble(message: JobMessage, job_id: JobId, phone: Phone, received_at: DateTime<Utc>) -> Job {
    Job {
        job_id,
        campaign_id: message.campaign_id,
        phone,
        name: message.name,
        model_id: message.model_id,
        brand: message.brand,
        region: message.region,
        from_phone_number: message.from_phone_number,
        not_before: message.not_before,
        expires_at: message.expires_at,
        priority: message.priority.unwrap_or_default(),
        content: Content {
            custom_variables: message.custom_variables.unwrap_or_default().0,
            prompt: message.prompt,
            greeting: message.greeting,
            lead_email: message.lead_email,
            lead_timezone: message.lead_timezone.map(|zone| zone.name().to_owned()),
            consent: message.consent,
        },
        metadata: message.metadata,
        received_at,
    }
}

/// Reads the body of a control message of AMQP type `cancel`.
pub fn decode_cancel(body: &[u8], options: &JobOptions) -> Result<JobId, DeadLetter> {
    let mut fields = object(body)?;
    if options.unknown_fields == UnknownFields::Reject {
        refuse_unknown(&fields, CancelMessage::FIELDS)?;
    }
    refuse_missing(&fields, CancelMessage::FIELDS)?;
    CancelMessage::read(&mut fields).map(|message| message.job_id).map_err(DeadLetter::invalid_field)
}

/// A name that is no field of a job, and the one that was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoField {
    pub meant: Option<&'static str>,
}

/// Whether a job has a field of this name.
pub fn check_field(name: &str) -> Result<(), NoField> {
    match JobMessage::FIELDS.iter().any(|(field, _)| *field == name) {
        true => Ok(()),
        false => Err(NoField { meant: message::meant(name, JobMessage::FIELDS) }),
    }
}

/// Reads whatever a publisher may send, by its AMQP type.
pub fn decode_order(
    body: &[u8],
    kind: Option<&str>,
    message_id: Option<&str>,
    received_at: DateTime<Utc>,
    options: &JobOptions,
) -> Result<Order, DeadLetter> {
    match kind {
        Some("cancel") => decode_cancel(body, options).map(Order::Cancel),
        _ => decode(body, message_id, received_at, options).map(|job| Order::Dial(Box::new(job))),
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, DeadLetter> {
    if body.len() > BODY_BYTES_MAX {
        let detail = format!("the body is {} bytes long, at most {BODY_BYTES_MAX} are allowed", body.len());
        return Err(DeadLetter::new(DeadReason::TooLarge, detail));
    }
    match json::parse(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(DeadLetter::malformed("the body must be one JSON object")),
        Err(fault) => Err(DeadLetter::malformed(format!("the body is not JSON as it should be: {fault}"))),
    }
}

fn is_absent(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_none_or(Value::is_null)
}

fn refuse_unknown(fields: &Map<String, Value>, known: &[(&'static str, bool)]) -> Result<(), DeadLetter> {
    const NAMED_MAX: usize = 5;
    let unknown = message::unknown_fields(fields, known);
    if unknown.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = unknown
        .iter()
        .take(NAMED_MAX)
        .map(|name| match message::meant(name, known) {
            Some(meant) => format!("{} (did you mean {meant}?)", json::quoted(name)),
            None => json::quoted(name),
        })
        .collect();
    let more = unknown.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let detail = format!("unknown: {}{more}; correct or remove it", named.join(", "));
    Err(DeadLetter::new(DeadReason::UnknownField, detail))
}

fn refuse_missing(fields: &Map<String, Value>, known: &[(&str, bool)]) -> Result<(), DeadLetter> {
    let missing: Vec<&str> = known
        .iter()
        .filter(|(name, required)| *required && is_absent(fields, name))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DeadLetter::new(DeadReason::MissingField, format!("required, but absent: {}", missing.join(", "))))
}

fn read_phone(value: Option<&Value>, check: PhoneCheck) -> Result<Phone, DeadLetter> {
    let invalid = |fault: String| DeadLetter::new(DeadReason::InvalidPhone, format!("phone {fault}"));
    match value {
        Some(Value::String(text)) => phone::parse(text, check).map_err(|e| invalid(e.to_string())),
        _ => Err(invalid("must be a string".to_owned())),
    }
}
