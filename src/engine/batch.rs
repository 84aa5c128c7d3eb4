//! Group commit: what comes while a statement runs goes with the next one. So batches size themselves by load, and a
//! single item never waits for company.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// Hands items to whoever runs the batches; clones share it.
#[derive(Debug)]
pub struct Batcher<I, O> {
    queue: mpsc::Sender<(I, oneshot::Sender<O>)>,
}

impl<I, O> Clone for Batcher<I, O> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

/// The one who runs the batches is gone: the process is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopping")]
pub struct Stopped;

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// `run` gets up to `max` items and answers each, in order. It runs one batch at a time, until every clone of the
    /// batcher is dropped and the last item is answered.
    pub fn start<F, Fut>(tracker: &TaskTracker, max: usize, run: F) -> Self
    where
        F: Fn(Vec<I>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<O>> + Send,
    {
        let (queue, mut items) = mpsc::channel::<(I, oneshot::Sender<O>)>(2 * max);
        tracker.spawn(async move {
            let mut taken = Vec::with_capacity(max);
            while items.recv_many(&mut taken, max).await > 0 {
                let (batch, askers): (Vec<I>, Vec<_>) = taken.drain(..).unzip();
                for (asker, answer) in askers.into_iter().zip(run(batch).await) {
                    // Whoever asked may have given up: then nobody needs to know.
                    drop(asker.send(answer));
                }
            }
        });
        Self { queue }
    }

    /// Puts an item into the next batch and waits for its answer.
    pub async fn ask(&self, item: I) -> Result<O, Stopped> {
        let (asker, answer) = oneshot::channel();
        self.queue.send((item, asker)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn what_comes_while_a_batch_runs_goes_with_the_next() {
        let tracker = TaskTracker::new();
        let gate = Arc::new(Semaphore::new(0));
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let batcher = {
            let (gate, sizes) = (gate.clone(), sizes.clone());
            Batcher::start(&tracker, 4, move |batch: Vec<u32>| {
                let (gate, sizes) = (gate.clone(), sizes.clone());
                async move {
                    gate.acquire().await.unwrap().forget();
                    sizes.lock().unwrap().push(batch.len());
                    batch.into_iter().map(|n| n * 2).collect()
                }
            })
        };
        let asks: Vec<_> = (0..7u32)
            .map(|n| {
                let batcher = batcher.clone();
                tracker.spawn(async move { batcher.ask(n).await.unwrap() })
            })
            .collect();
        tokio::task::yield_now().await;
        gate.add_permits(10);
        for (n, ask) in (0..7u32).zip(asks) {
            assert_eq!(ask.await.unwrap(), n * 2);
        }
        let sizes = sizes.lock().unwrap().clone();
        assert_eq!(sizes.iter().sum::<usize>(), 7);
        assert!(sizes.iter().all(|n| *n <= 4) && sizes.len() < 7, "{sizes:?}");
    }
}
