//! What counts many records, for pages and programs: read by one for all (see [`recent`](super::recent)), and anew once something was changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokio::sync::Semaphore;

use super::recent::{Answer, Edition, Recent, Unread};
use crate::core::decide::CampaignState;
use crate::core::ids::{CampaignId, ModelId};
use crate::core::phone::E164;
use crate::core::states::{NumberState, Reason};
use crate::store::pages::{self, From, Page};
use crate::store::{DatabaseError, Pool, reporting};

type Told<T> = Result<Answer<T>, Unread>;
type Read<T> = Result<T, DatabaseError>;

/// One key of a list's pages.
type WaitingKey<C> = (C, Option<Reason>);

/// How everything stands.
#[derive(Debug, Default)]
pub(super) struct Overview {
    pub campaigns: Page<String>,
    /// By reason.
    pub waiting: Vec<Value>,
    /// Of the jobs received last, those that were not called, by reason.
    pub uncalled: Vec<Value>,
}

/// How a campaign stands.
#[derive(Debug)]
pub(super) struct OneCampaign {
    pub row: Value,
    pub waiting: Vec<Value>,
    pub uncalled: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CampaignsKey {
    state: Option<CampaignState>,
    after: Option<CampaignId>,
    limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NumbersKey {
    state: Option<NumberState>,
    model: Option<ModelId>,
    after: Option<E164>,
    limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct WaitingAsked {
    campaign: Option<CampaignId>,
    after: Option<WaitingKey<CampaignId>>,
    limit: u32,
}

#[derive(Debug)]
pub(super) struct Reports {
    pool: Pool,
    acts: AtomicU64,
    overview: Recent<u32, Overview>,
    campaign: Recent<CampaignId, Option<OneCampaign>>,
    campaigns: Recent<CampaignsKey, Page<String>>,
    numbers: Recent<NumbersKey, Page<String>>,
    waiting: Recent<WaitingAsked, Page<WaitingKey<String>>>,
}

impl Reports {
    pub(super) fn new(pool: Pool) -> Self {
        let turns = Arc::new(Semaphore::new(1));
        Self {
            pool,
            acts: AtomicU64::new(0),
            overview: Recent::new(&turns),
            campaign: Recent::new(&turns),
            campaigns: Recent::new(&turns),
            numbers: Recent::new(&turns),
            waiting: Recent::new(&turns),
        }
    }

    /// Something was changed of which no epoch tells: what was read before counts no more. Of all else the epoch tells, whoever
    /// changed it.
    pub(super) fn changed(&self) {
        self.acts.fetch_add(1, Ordering::AcqRel);
    }

    /// The ledger's epoch now, for those who ask below.
    pub(super) async fn epoch(&self) -> Read<i64> {
        reporting::epoch(&self.pool).await
    }

    fn edition(&self, epoch: i64) -> Edition {
        Edition { epoch, acts: self.acts.load(Ordering::Acquire) }
    }

    /// With the first `limit` campaigns.
    pub(super) async fn overview(&self, epoch: i64, limit: u32) -> Told<Overview> {
        let reading = overview(self.pool.clone(), limit);
        self.overview.get(limit, self.edition(epoch), reading).await
    }

    pub(super) async fn campaign(&self, epoch: i64, campaign: CampaignId) -> Told<Option<OneCampaign>> {
        let reading = one_campaign(self.pool.clone(), campaign.clone());
        self.campaign.get(campaign, self.edition(epoch), reading).await
    }

    pub(super) async fn campaigns(
        &self,
        epoch: i64,
        state: Option<CampaignState>,
        from: From<CampaignId>,
    ) -> Told<Page<String>> {
        let key = CampaignsKey { state, after: from.after.clone(), limit: from.limit };
        let (pool, state) = (self.pool.clone(), state.map(CampaignState::as_str));
        let reading = async move { pages::campaigns(&pool, state, from).await };
        self.campaigns.get(key, self.edition(epoch), reading).await
    }

    pub(super) async fn numbers(
        &self,
        epoch: i64,
        state: Option<NumberState>,
        model: Option<ModelId>,
        from: From<E164>,
    ) -> Told<Page<String>> {
        let key = NumbersKey { state, model: model.clone(), after: from.after.clone(), limit: from.limit };
        let (pool, state) = (self.pool.clone(), state.map(NumberState::as_str));
        let reading = async move { pages::numbers(&pool, state, model.as_ref(), from).await };
        self.numbers.get(key, self.edition(epoch), reading).await
    }

    pub(super) async fn waiting(
        &self,
        epoch: i64,
        campaign: Option<CampaignId>,
        from: From<WaitingKey<CampaignId>>,
    ) -> Told<Page<WaitingKey<String>>> {
        let key = WaitingAsked { campaign: campaign.clone(), after: from.after.clone(), limit: from.limit };
        let pool = self.pool.clone();
        let reading = async move { pages::waiting(&pool, campaign.as_ref(), from).await };
        self.waiting.get(key, self.edition(epoch), reading).await
    }
}

async fn overview(pool: Pool, limit: u32) -> Read<Overview> {
    let first = From { after: None, limit, scanned_max: pages::SCANNED_MAX };
    Ok(Overview {
        campaigns: pages::campaigns(&pool, None, first).await?,
        waiting: reporting::waiting_by_reason(&pool).await?,
        uncalled: reporting::uncalled(&pool, None).await?,
    })
}

/// None: there is no such campaign.
async fn one_campaign(pool: Pool, campaign: CampaignId) -> Read<Option<OneCampaign>> {
    let Some(row) = reporting::campaign(&pool, &campaign).await? else { return Ok(None) };
    let waiting = reporting::waiting(&pool, Some(&campaign)).await?;
    let uncalled = reporting::uncalled(&pool, Some(&campaign)).await?;
    Ok(Some(OneCampaign { row, waiting, uncalled }))
}
