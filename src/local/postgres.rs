//! A private PostgreSQL.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::process::Kept;
use super::user::RunAs;
use super::{LocalError, Result, port, secret};

const MAJOR_MIN: u32 = 13;
const READY_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
const SOCKET_PATH_MAX: usize = 100;
/// Starts that are tried: a port can be taken between the look and the bind, and after SIGKILL the old server's children
/// hold its memory for a moment.
const TRIES: u32 = 5;

#[derive(Debug)]
pub struct Postgres {
    kept: Kept,
    programs: PathBuf,
    port: u16,
    password: String,
    setup: PostgresSetup,
}

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct PostgresSetup {
    /// Without it the server is faster, and what it has committed survives its own death, though not the machine's.
    pub fsync: bool,
    /// Beside the usual ones, as `name=value`.
    pub settings: Vec<&'static str>,
    /// What its processes find in their environment.
    pub env: Vec<(&'static str, String)>,
}

impl Default for PostgresSetup {
    fn default() -> Self {
        Self { fsync: true, settings: Vec::new(), env: Vec::new() }
    }
}

impl Postgres {
    /// Starts an empty server in a new folder inside `parent`. Takes about a second.
    pub fn start(parent: &Path) -> Result<Self> {
        Self::start_with(parent, PostgresSetup::default())
    }

    pub fn start_with(parent: &Path, setup: PostgresSetup) -> Result<Self> {
        let programs = find_programs().ok_or(LocalError::NotInstalled {
            what: "PostgreSQL 13 or newer",
            package: "postgresql",
            variable: "DATABASE_URL",
        })?;
        let user = RunAs::choose(&["postgres", "nobody"], "postgres, nobody")?;
        let kept = Kept::new("postgres", parent, user)?;
        let mut server = Self { kept, programs, port: 0, password: secret(), setup };
        server.init()?;
        server.launch(true)?;
        Ok(server)
    }

    /// The URL of a database of this server, as its superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://outdial:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's first process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.kept.pid()
    }

    pub fn folder(&self) -> &Path {
        self.kept.folder()
    }

    /// Fast shutdown (connections are cut) and a start on the same port and data.
    pub fn restart(&mut self) -> Result<()> {
        self.halt();
        self.resume()
    }

    /// Fast shutdown; the data stays for `resume`.
    pub fn halt(&mut self) {
        self.kept.end_server(Signal::INT, STOP_MAX);
    }

    /// Immediate shutdown, as `pg_ctl stop -m immediate`: nothing is tidied up, and `resume` recovers from the log.
    pub fn stop_at_once(&mut self) {
        self.kept.end_server(Signal::QUIT, STOP_MAX);
    }

    /// The process dies by SIGKILL; the data stays for `resume`.
    pub fn kill9(&mut self) {
        self.kept.end_server(Signal::KILL, STOP_MAX);
    }

    /// Whether it has ended by itself; then `resume` starts it again.
    pub fn has_ended(&mut self) -> bool {
        self.kept.exited().is_some()
    }

    /// Starts it again after `halt` or `kill9`: same port, same data.
    pub fn resume(&mut self) -> Result<()> {
        self.launch(false)
    }

    /// Stops it and removes its folder, as Drop does.
    pub fn stop(self) {}

    fn init(&self) -> Result<()> {
        let password_file = self.kept.write("password", &self.password)?;
        let mut initdb = self.kept.command(&self.programs.join("initdb"));
        initdb.args([
            "--pgdata",
            "data",
            "--username",
            "outdial",
            // Not what costs each new connection thousands of hashes.
            "--auth",
            "md5",
            "--encoding",
            "UTF8",
        ]);
        initdb.args(["--locale", "C.UTF-8", "--no-sync", "--pwfile"]).arg(password_file);
        self.kept.run(initdb)
    }

    fn launch(&mut self, any_port: bool) -> Result<()> {
        let mut tries = TRIES;
        loop {
            if any_port {
                [self.port] = port::free()?;
            }
            let Err(error) = self.launch_once() else { return Ok(()) };
            tries -= 1;
            let passing = matches!(&error, LocalError::Failed { log, .. } if is_passing(log));
            if !passing || tries == 0 {
                return Err(error);
            }
            super::process::pause(Duration::from_millis(200));
        }
    }

    fn launch_once(&mut self) -> Result<()> {
        let settings = self.settings();
        let program = self.programs.join("postgres");
        let program = program.to_string_lossy();
        let mut arguments = vec![&*program, "-D", "data"];
        for setting in &settings {
            arguments.extend(["-c", setting]);
        }
        self.kept.start("exec \"$@\"", &arguments, &self.setup.env)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        self.kept.wait_ready(READY_MAX, || is_ready(address))
    }

    fn settings(&self) -> Vec<String> {
        let folder = self.kept.folder();
        // A socket's path is limited to 107 bytes by the system.
        let sockets = if folder.as_os_str().len() > SOCKET_PATH_MAX - ".s.PGSQL.00000".len() {
            String::new()
        } else {
            folder.to_string_lossy().into_owned()
        };
        let fsync = if self.setup.fsync { "on" } else { "off" };
        let mut settings = vec![
            "listen_addresses=127.0.0.1".into(),
            format!("port={}", self.port),
            format!("unix_socket_directories={sockets}"),
            "max_connections=400".into(),
            "shared_buffers=128MB".into(),
            "max_wal_size=2GB".into(),
            format!("fsync={fsync}"),
            // Files in the data folder, not in /dev/shm, so that nothing outlives the folder.
            "dynamic_shared_memory_type=mmap".into(),
        ];
        settings.extend(self.setup.settings.iter().map(|&setting| setting.to_owned()));
        settings
    }
}

fn is_passing(log: &str) -> bool {
    let last = log.lines().rev().take(12).collect::<Vec<_>>().join("\n");
    ["could not bind", "pre-existing shared memory block", "could not create any TCP/IP sockets"]
        .iter()
        .any(|sign| last.contains(sign))
}

/// The newest installed server: the distribution keeps versions apart, others have their programs on the search path.
fn find_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(major, bin)| *major >= MAJOR_MIN && has_programs(bin))
        .max()
        .map(|(_, bin)| bin);
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest.or_else(|| std::env::split_paths(&path).find(|bin| has_programs(bin)))
}

fn has_programs(bin: &Path) -> bool {
    bin.join("initdb").is_file() && bin.join("postgres").is_file()
}

/// Asks to log in; a server that still starts answers with an error, one that is ready asks for the password.
fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let body = b"\x00\x03\x00\x00user\0outdial\0database\0postgres\0\0";
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        stream.write_all(&[&length.to_be_bytes(), &body[..]].concat())?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    };
    ask().is_ok_and(|answer| answer == b'R')
}
