//! Digests by which the ledger knows a job again: of its id, and of its content after parsing.

use sha2::{Digest as _, Sha256};

use super::Job;

/// SHA-256, the first 16 bytes.
pub type Digest16 = [u8; 16];

/// The form of the text under the digest. Digests are kept for ever: a change of form needs a new number, and a
/// ledger that knows both.
const FORM: u8 = 1;

pub fn of_id(job_id: &str) -> Digest16 {
    shorten(Sha256::digest(job_id.as_bytes()).into())
}

/// Of everything the publisher said but the id: equal for equal content, however it was written.
pub fn of_content(job: &Job) -> Digest16 {
    let mut form = Form(Sha256::new_with_prefix([FORM]));
    form.text("campaign_id", Some(job.campaign_id.as_str()));
    form.text("phone", Some(job.phone.number.as_str()));
    form.text("name", Some(job.name.as_str()));
    form.text("model_id", job.model_id.as_ref().map(|v| v.as_str()));
    form.text("brand", job.brand.as_ref().map(|v| v.as_str()));
    form.text("region", job.region.as_ref().map(|v| v.as_str()));
    form.text("from_phone_number", job.from_phone_number.as_ref().map(|v| v.as_str()));
    for (key, value) in &job.content.custom_variables {
        form.text("variable", Some(key));
        form.text("is", Some(value));
    }
    form.text("prompt", job.content.prompt.as_deref());
    form.text("greeting", job.content.greeting.as_deref());
    form.text("lead_email", job.content.lead_email.as_deref());
    form.text("lead_timezone", job.content.lead_timezone.as_deref());
    form.date("not_before", job.not_before);
    form.date("expires_at", job.expires_at);
    form.text("priority", Some(&job.priority.get().to_string()));
    if let Some(consent) = &job.content.consent {
        form.text("consent", Some(&consent.source));
        form.date("obtained_at", Some(consent.obtained_at));
    }
    form.text("metadata", job.metadata.as_ref().map(|v| v.to_json()).as_deref());
    shorten(form.0.finalize().into())
}

struct Form(Sha256);

impl Form {
    /// Lengths before texts, so that no two contents run together to the same bytes. Absent leaves no trace, so that
    /// a field added later doesn't change the digests of messages without it.
    fn text(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        for part in [name, value] {
            self.0.update((part.len() as u64).to_be_bytes());
            self.0.update(part.as_bytes());
        }
    }

    fn date(&mut self, name: &str, value: Option<chrono::DateTime<chrono::Utc>>) {
        self.text(name, value.map(|date| date.timestamp_micros().to_string()).as_deref());
    }
}

fn shorten(whole: [u8; 32]) -> Digest16 {
    let mut short = [0; 16];
    short.copy_from_slice(&whole[..16]);
    short
}
