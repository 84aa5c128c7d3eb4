//! Sends webhooks when their time has come, a bounded number at once, each within its time limit and none after the end.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use super::config::WebhookConfig;
use super::http::Shared;
use super::webhooks::{Next, Webhook};

/// Err: in words.
pub fn client(config: &WebhookConfig) -> Result<reqwest::Client, reqwest::Error> {
    // Fails where one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .tls_certs_only([])
        .timeout(Duration::from_millis(config.timeout_ms))
        .build()
}

/// Until the sandbox stops.
pub async fn run(shared: Arc<Shared>, http: reqwest::Client, tasks: TaskTracker) {
    let (news, config) = {
        let world = shared.world();
        (world.webhooks.news(), world.config.webhooks.clone())
    };
    let permits = Arc::new(Semaphore::new(config.concurrent_max));
    let header: Arc<str> = config.header.into();
    loop {
        let permit = shared.stop.run_until_cancelled(permits.clone().acquire_owned()).await;
        let Some(Ok(permit)) = permit else { return };
        let Some(webhook) = shared.stop.run_until_cancelled(next(&shared, &news)).await else { return };
        let (shared, http, header) = (shared.clone(), http.clone(), header.clone());
        tasks.spawn(async move {
            let sent_us = shared.world().timeline.now_us();
            if let Some(outcome) = shared.stop.run_until_cancelled(send(&http, &header, &webhook)).await {
                shared.world().webhook_sent(&webhook, sent_us, outcome);
            }
            drop(permit);
        });
    }
}

async fn next(shared: &Shared, news: &Notify) -> Webhook {
    loop {
        let next = shared.world().next_webhook();
        match next {
            Next::Now(webhook) => return webhook,
            Next::At(instant) => {
                tokio::select! {
                    () = tokio::time::sleep_until(instant) => {}
                    () = news.notified() => {}
                }
            }
            Next::Nothing => news.notified().await,
        }
    }
}

async fn send(http: &reqwest::Client, header: &str, webhook: &Webhook) -> Result<u16, String> {
    let mut request =
        http.post(&webhook.url).header(CONTENT_TYPE, "application/json").body(webhook.body.clone());
    if let Some(signature) = &webhook.signature {
        request = request.header(header, signature);
    }
    let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
    Ok(answer.status().as_u16())
}
