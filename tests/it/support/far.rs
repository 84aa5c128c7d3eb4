//! A provider far away: TLS in front of the sandbox, with connections that open slowly and aren't kept for ever.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub struct Far {
    address: SocketAddr,
    certificate: NamedTempFile,
    lines: Arc<Lines>,
    _stop: DropGuard,
}

struct Lines {
    sandbox: SocketAddr,
    acceptor: TlsAcceptor,
    /// From a connection's first byte until the TLS handshake goes on.
    opening: Duration,
    /// A connection on which nothing moves for so long is closed.
    idle: Duration,
    opened: AtomicUsize,
    open: AtomicUsize,
}

impl Far {
    pub async fn new(sandbox: SocketAddr, opening: Duration, idle: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let mut certificate = NamedTempFile::new().unwrap();
        certificate.write_all(cert.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(Lines {
            sandbox,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            opening,
            idle,
            opened: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        TaskTracker::new().spawn(stop.clone().run_until_cancelled_owned(serve(listener, Arc::clone(&lines))));
        Self { address, certificate, lines, _stop: stop.drop_guard() }
    }

    /// What a worker needs to find it, and to trust it.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let certificate = self.certificate.path().to_str().unwrap().to_owned();
        [("SYNTHFLOW_BASE_URL", format!("https://{}/v2", self.address)), ("SSL_CERT_FILE", certificate)]
    }

    /// Connections opened so far.
    pub fn opened(&self) -> usize {
        self.lines.opened.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.lines.open.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, lines: Arc<Lines>) {
    let served = TaskTracker::new();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        let lines = Arc::clone(&lines);
        served.spawn(async move {
            lines.opened.fetch_add(1, Ordering::Relaxed);
            lines.open.fetch_add(1, Ordering::Relaxed);
            // Whichever side ends it, and however: it is over.
            let _ = lines.carry(near).await;
            lines.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl Lines {
    async fn carry(&self, near: TcpStream) -> std::io::Result<()> {
        near.set_nodelay(true)?;
        tokio::time::sleep(self.opening).await;
        let mut near = self.acceptor.accept(near).await?;
        let mut far = TcpStream::connect(self.sandbox).await?;
        far.set_nodelay(true)?;
        let (mut up, mut down) = ([0; 16 << 10], [0; 16 << 10]);
        loop {
            tokio::select! {
                read = near.read(&mut up) => match read? {
                    0 => return Ok(()),
                    n => far.write_all(&up[..n]).await?,
                },
                read = far.read(&mut down) => match read? {
                    0 => return near.shutdown().await,
                    n => near.write_all(&down[..n]).await?,
                },
                () = tokio::time::sleep(self.idle) => return near.shutdown().await,
            }
        }
    }
}
