//! Two cores for all tests: those that keep them busy don't run beside one that judges when calls arrive.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static CORES: RwLock<()> = RwLock::const_new(());

/// Beside other busy ones.
pub async fn busy() -> RwLockReadGuard<'static, ()> {
    CORES.read().await
}

/// Beside none of them.
pub async fn quiet() -> RwLockWriteGuard<'static, ()> {
    CORES.write().await
}
