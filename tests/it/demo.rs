//! `outdial demo`, by the real binary: it ends well, and whatever happens it leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Outdial, database, eventually, quiet, vhost};

const WHOLE: Duration = Duration::from_secs(240);
const GONE: Duration = Duration::from_secs(20);

/// A temporary folder of the test's own that other users may pass: root's servers run as them.
fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o711);
    tempfile::Builder::new().prefix("outdial-demo-test").permissions(mode).tempdir().unwrap()
}

/// Processes with the folder's path in their command line or environment: the demo's, its servers', their keepers'.
fn of_folder(folder: &Path) -> Vec<String> {
    let needle = folder.to_str().unwrap().as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| {
            let read = |name| std::fs::read(process.path().join(name)).unwrap_or_default();
            let command = read("cmdline");
            let ours = holds(&command) || holds(&read("environ"));
            ours.then(|| String::from_utf8_lossy(&command).replace('\0', " "))
        })
        .collect()
}

async fn nothing_is_left(folder: &Path) {
    eventually(GONE, async || {
        let files = std::fs::read_dir(folder).unwrap().count();
        let processes = of_folder(folder);
        (files == 0 && processes.is_empty()).then_some(()).ok_or((files, processes)).ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_demo_ends_with_four_zeros_and_leaves_nothing() {
    let _cores = quiet().await;
    let folder = folder();
    let env = [("TMPDIR", folder.path().to_str().unwrap())];
    let (status, output) = Outdial::start(&["demo", "--jobs", "150"], &env).wait(WHOLE).await;
    assert!(status.success(), "{output}");
    for zero in ["dialed twice 0 ", "wrong caller ID 0 ", "above a limit 0 ", "lost 0 "] {
        assert!(output.contains(zero), "{zero}in {output}");
    }
    assert!(output.contains("stopped    both workers, with exit status 0"), "{output}");
    nothing_is_left(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_servers_are_used_and_left_as_they_were() {
    let (vhost, database, folder) = (vhost().await, database().await, folder());
    let env = [
        ("TMPDIR", folder.path().to_str().unwrap()),
        ("DATABASE_URL", &*database.url),
        ("AMQP_URL", &*vhost.url),
    ];
    let databases = async || -> Vec<String> {
        let pool = sqlx::PgPool::connect(&database.url).await.unwrap();
        let like = "select datname from pg_database where datname like 'outdial_demo_%'";
        sqlx::query_scalar(like).fetch_all(&pool).await.unwrap()
    };
    let (status, output) = Outdial::start(&["demo", "--jobs", "100"], &env).wait(WHOLE).await;
    assert!(status.success() && output.contains("lost 0 "), "{output}");
    assert_eq!(databases().await, Vec::<String>::new());
    nothing_is_left(folder.path()).await;

    // Its queues are gone; one that somebody else has declared is not touched.
    let connection =
        lapin::Connection::connect(&vhost.url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let declared = channel.queue_declare("outdial.jobs".into(), Default::default(), Default::default()).await;
    declared.unwrap();
    let (status, output) = Outdial::start(&["demo", "--jobs", "100"], &env).wait(GONE).await;
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("in use there already: queue outdial.jobs"), "{output}");
    let deleted = channel.queue_delete("outdial.jobs".into(), Default::default()).await;
    deleted.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_demo_leaves_nothing() {
    for signal in [Signal::INT, Signal::KILL] {
        let folder = folder();
        let env = [("TMPDIR", folder.path().to_str().unwrap())];
        let demo = Outdial::start(&["demo"], &env);
        demo.line(WHOLE, "published").await;
        assert!(of_folder(folder.path()).len() > 5, "servers and workers run");
        demo.signal(signal);
        let (status, output) = demo.wait(WHOLE).await;
        assert!(!status.success(), "{output}");
        if signal == Signal::INT {
            assert!(output.contains("nothing is left behind"), "{output}");
            nothing_is_left(folder.path()).await;
        } else {
            // Nobody is left to remove its own folder, with a CSV and logs; servers and workers are gone.
            eventually(Duration::from_secs(60), async || of_folder(folder.path()).is_empty().then_some(()))
                .await;
        }
    }
}
