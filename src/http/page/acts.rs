//! What forms tell: each does one thing and goes back to where it stood.

use axum::extract::{Form, Path};
use axum::http::HeaderMap;
use axum::response::Redirect;

use super::{Guest, Proof, Told, Trouble};
use crate::core::ids::{AccountName, AttemptId, CallId, CampaignId, JobId};
use crate::core::phone::E164;
use crate::http::segment;
use crate::store::reconcile::{self, Resolution, Reviewed};
use crate::store::stops::{self, AccountTo, CampaignTo, Cancelled, NumberTo};

type Done = Result<Redirect, Trouble>;

/// In events and lists: who did it.
const BY: &str = "on the page";

fn named<T, E: std::fmt::Display>(what: &str, parsed: Result<T, E>) -> Result<T, Trouble> {
    parsed.map_err(|why| Trouble::Bad(format!("{what} {why}")))
}

fn unknown(what: &str) -> Trouble {
    Trouble::Missing(format!("There is no such action: {what}"))
}

pub(super) async fn kill_switch(
    guest: Guest,
    Path(what): Path<String>,
    headers: HeaderMap,
    Form(proof): Form<Proof>,
) -> Done {
    // Whoever stops everything waits for nobody.
    let Told(guest) = Told::admit(guest, &headers, &proof)?;
    let on = match what.as_str() {
        "on" => true,
        "off" => false,
        other => return Err(unknown(other)),
    };
    stops::set_kill_switch(&guest.ledger.pool, on).await.map_err(Trouble::of_database)?;
    Ok(Redirect::to("/"))
}

pub(super) async fn campaign(
    guest: Guest,
    Path((id, what)): Path<(String, String)>,
    headers: HeaderMap,
    Form(proof): Form<Proof>,
) -> Done {
    let (guest, _turn) = Told::admit(guest, &headers, &proof)?.in_turn().await?;
    let campaign = named("The campaign's id", CampaignId::parse(segment::id(&id)))?;
    let to = match what.as_str() {
        "pause" => CampaignTo::Paused,
        "resume" => CampaignTo::Active,
        "cancel" => CampaignTo::Canceled,
        other => return Err(unknown(other)),
    };
    let ledger = &guest.ledger;
    let was = stops::set_campaign(&ledger.pool, &campaign, to, Some(BY), ledger.events).await;
    match was.map_err(Trouble::of_database)? {
        None => Err(Trouble::Missing(format!("There is no campaign {campaign}"))),
        Some(was) if was == CampaignTo::Canceled.as_str() && to != CampaignTo::Canceled => {
            Err(Trouble::Conflict(format!(
                "{campaign} is canceled, and stays so: its waiting jobs were canceled with it."
            )))
        }
        Some(_) => Ok(Redirect::to(&format!("/campaigns/{}", segment::of(campaign.as_str())))),
    }
}

pub(super) async fn account(
    guest: Guest,
    Path((id, what)): Path<(String, String)>,
    headers: HeaderMap,
    Form(proof): Form<Proof>,
) -> Done {
    let (guest, _turn) = Told::admit(guest, &headers, &proof)?.in_turn().await?;
    let account = named("The account's name", AccountName::parse(segment::id(&id)))?;
    let to = match what.as_str() {
        "pause" => AccountTo::Paused,
        "resume" => AccountTo::Active,
        other => return Err(unknown(other)),
    };
    let ledger = &guest.ledger;
    if !stops::knows_account(&ledger.pool, &account).await.map_err(Trouble::of_database)? {
        return Err(Trouble::Missing(format!("There is no account {account}")));
    }
    let set = stops::set_account(&ledger.pool, &account, to, Some(BY), ledger.events).await;
    set.map_err(Trouble::of_database)?;
    Ok(Redirect::to("/"))
}

pub(super) async fn number(
    guest: Guest,
    Path((id, what)): Path<(String, String)>,
    headers: HeaderMap,
    Form(proof): Form<Proof>,
) -> Done {
    let (guest, _turn) = Told::admit(guest, &headers, &proof)?.in_turn().await?;
    let number =
        E164::from_canonical(&id).ok_or_else(|| Trouble::Bad("That is no number in E.164.".to_owned()))?;
    let to = match what.as_str() {
        "rest" => NumberTo::Resting,
        "activate" => NumberTo::Active,
        other => return Err(unknown(other)),
    };
    let ledger = &guest.ledger;
    let was = stops::set_number(&ledger.pool, &number, to, Some(BY), ledger.events).await;
    match was.map_err(Trouble::of_database)? {
        None => Err(Trouble::Missing(format!("Nobody knows the number {}", number.as_str()))),
        Some(_) => Ok(Redirect::to(&format!("/numbers/{}", number.as_str()))),
    }
}

pub(super) async fn cancel_job(
    guest: Guest,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(proof): Form<Proof>,
) -> Done {
    let (guest, _turn) = Told::admit(guest, &headers, &proof)?.in_turn().await?;
    let job = named("The job's id", JobId::parse(segment::id(&id)))?;
    let ledger = &guest.ledger;
    let canceled = stops::cancel_job(&ledger.pool, &job, ledger.events).await;
    // Also where the answer was lost on its way.
    ledger.reports.changed();
    match canceled.map_err(Trouble::of_database)? {
        Cancelled::NoSuchJob => Err(Trouble::Missing(format!("There is no job {job}"))),
        Cancelled::TooLate(state) if state != "canceled" => Err(Trouble::Conflict(format!(
            "{job} can't be canceled now: it is {state}. If it comes to wait again, it can."
        ))),
        Cancelled::Done | Cancelled::TooLate(_) => {
            Ok(Redirect::to(&format!("/jobs/{}", segment::of(job.as_str()))))
        }
    }
}

#[derive(serde::Deserialize)]
pub(super) struct Resolve {
    #[serde(flatten)]
    proof: Proof,
    #[serde(default)]
    call_id: String,
}

pub(super) async fn resolve(
    guest: Guest,
    Path((id, what)): Path<(String, String)>,
    headers: HeaderMap,
    Form(asked): Form<Resolve>,
) -> Done {
    let (guest, _turn) = Told::admit(guest, &headers, &asked.proof)?.in_turn().await?;
    let attempt = named("The attempt's id", uuid::Uuid::parse_str(&id)).map(AttemptId)?;
    let resolution = match (what.as_str(), asked.call_id.trim()) {
        ("placed", "") => Resolution::Placed { call_id: None },
        ("placed", call) => {
            Resolution::Placed { call_id: Some(named("The call's id", CallId::parse(call))?) }
        }
        ("not_placed", _) => Resolution::NotPlaced,
        ("closed", _) => Resolution::Closed,
        (other, _) => return Err(unknown(other)),
    };
    let ledger = &guest.ledger;
    let until = reconcile::now(&ledger.pool).await.map_err(Trouble::of_database)?;
    let which = Reviewed::Attempt(attempt);
    let resolved = reconcile::resolve_some(&ledger.pool, &which, &resolution, until, ledger.events).await;
    ledger.reports.changed();
    match resolved.map_err(Trouble::of_database)? {
        0 => Err(Trouble::Conflict("It is not in review any more.".to_owned())),
        _ => Ok(Redirect::to("/review")),
    }
}
