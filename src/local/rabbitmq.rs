//! A private RabbitMQ node, with a name server (epmd) of its own.
//!
//! Without one of its own it would start or join the machine's epmd on 4369, which outlives it. The package's own
//! `bin/rabbitmq-server` is run, not the wrapper of the same name on the search path, which serves the system's broker.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::process::Kept;
use super::user::RunAs;
use super::{LocalError, Result, port, secret};

const READY_MAX: Duration = Duration::from_secs(120);
const STOP_MAX: Duration = Duration::from_secs(30);
const TRIES: u32 = 4;

/// `$1` is the server's program, `$2` the port of the name server. The node must not start before the name server
/// answers, or it would start one that outlives it. The shell stays as the parent of both and takes them down in order,
/// so that no orphan of theirs is left to the machine's first process: TERM stops the node in its own way, QUIT at once.
const SCRIPT: &str = r#"
node= names=
trap 'kill -s TERM $node' TERM
trap 'kill -s KILL $node $names' QUIT
trap '' INT HUP
epmd -port "$2" & names=$!
left=100
until epmd -port "$2" -names >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] && kill -s 0 $names || { echo "epmd: address in use or not startable" >&2; exit 1; }
    sleep 0.05
done
"$1" & node=$!
while kill -s 0 $node 2>/dev/null; do wait $node; status=$?; done
kill -s KILL $names
wait $names
exit $status
"#;

#[derive(Debug)]
pub struct Rabbit {
    kept: Kept,
    programs: PathBuf,
    node: String,
    password: String,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    vhosts: u32,
}

impl Rabbit {
    /// Starts a node with nothing but the virtual host `/`, in a new folder inside `parent`. Takes 4 to 8 seconds.
    pub fn start(parent: &Path) -> Result<Self> {
        Self::start_with(parent, 0)
    }

    /// With virtual hosts `v0`, `v1`, … besides. A hundred take about a second.
    pub fn start_with(parent: &Path, vhosts: u32) -> Result<Self> {
        let programs = find_programs().ok_or(LocalError::NotInstalled {
            what: "RabbitMQ",
            package: "rabbitmq-server",
            variable: "AMQP_URL",
        })?;
        let user = RunAs::choose(&["rabbitmq", "nobody"], "rabbitmq, nobody")?;
        let kept = Kept::new("rabbitmq", parent, user)?;
        let node = format!("outdial-{}@localhost", secret());
        let mut server =
            Self { kept, programs, node, password: secret(), port: 0, dist_port: 0, epmd_port: 0, vhosts };
        server.kept.write("definitions.json", &server.definitions(0..vhosts, true))?;
        server.kept.write("enabled_plugins", "[].\n")?;
        server.kept.write("rabbitmq-env.conf", "")?;
        server.kept.write("inetrc", "{lookup, [file]}.\n{host, {127,0,0,1}, [\"localhost\"]}.\n")?;
        server.launch(true)?;
        Ok(server)
    }

    /// The URL of the virtual host `/`.
    pub fn amqp_url(&self) -> String {
        self.vhost_url("/")
    }

    pub fn vhost_url(&self, vhost: &str) -> String {
        let vhost = vhost.replace('/', "%2f");
        format!("amqp://outdial:{}@127.0.0.1:{}/{vhost}", self.password, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every port it listens on: AMQP, distribution, name server.
    pub fn ports(&self) -> [u16; 3] {
        [self.port, self.dist_port, self.epmd_port]
    }

    /// The node's first process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.kept.pid()
    }

    pub fn folder(&self) -> &Path {
        self.kept.folder()
    }

    /// How many of `v0`, `v1`, … there are.
    pub fn vhosts(&self) -> u32 {
        self.vhosts
    }

    /// Makes `more` virtual hosts on the running node; takes 2 to 4 seconds for a few dozen.
    pub fn add_vhosts(&mut self, more: u32) -> Result<()> {
        let end = self.vhosts + more;
        let file = self.kept.write("more.json", &self.definitions(self.vhosts..end, false))?;
        self.ctl(&["import_definitions", &file.to_string_lossy()])?;
        self.vhosts = end;
        Ok(())
    }

    /// `rabbitmqctl`, with this node's name and secret. Takes 1 to 2 seconds.
    pub fn ctl(&self, arguments: &[&str]) -> Result<()> {
        let mut ctl = self.kept.command(&self.programs.join("rabbitmqctl"));
        ctl.args(arguments).envs(self.environment());
        self.kept.run(ctl)
    }

    /// An orderly stop and a start on the same port and data.
    pub fn restart(&mut self) -> Result<()> {
        self.halt();
        self.resume()
    }

    /// An orderly stop; the data stays for `resume`.
    pub fn halt(&mut self) {
        self.kept.end_server(Signal::TERM, STOP_MAX);
    }

    /// The node dies by SIGKILL; the data stays for `resume`.
    pub fn kill9(&mut self) {
        self.kept.end_server(Signal::QUIT, STOP_MAX); // by which the shell kills it
    }

    /// Starts it again after `halt` or `kill9`: same port, same data.
    pub fn resume(&mut self) -> Result<()> {
        self.launch(false)
    }

    /// Stops it and removes its folder, as Drop does.
    pub fn stop(self) {}

    fn launch(&mut self, any_port: bool) -> Result<()> {
        let mut tries = TRIES;
        loop {
            if any_port {
                [self.port, self.dist_port, self.epmd_port] = port::free()?;
            }
            self.kept.write("rabbitmq.conf", &self.configuration())?;
            let Err(error) = self.launch_once() else { return Ok(()) };
            tries -= 1;
            if !is_passing(&error) || tries == 0 {
                return Err(error);
            }
            self.kept.end_server(Signal::QUIT, STOP_MAX);
            super::process::pause(Duration::from_millis(500));
        }
    }

    fn launch_once(&mut self) -> Result<()> {
        let program = self.programs.join("rabbitmq-server");
        let environment = self.environment();
        self.kept.start(SCRIPT, &[&program.to_string_lossy(), &self.epmd_port.to_string()], &environment)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        self.kept.wait_ready(READY_MAX, || is_ready(address))
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let inside = |name: &str| self.kept.folder().join(name).to_string_lossy().into_owned();
        vec![
            ("RABBITMQ_NODENAME", self.node.clone()),
            ("RABBITMQ_DIST_PORT", self.dist_port.to_string()),
            ("ERL_EPMD_PORT", self.epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_MNESIA_BASE", inside("data")),
            ("RABBITMQ_LOG_BASE", inside("logs")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", inside("generated")),
            ("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", inside("advanced.config")),
            ("RABBITMQ_CONF_ENV_FILE", inside("rabbitmq-env.conf")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", inside("enabled_plugins")),
            // "localhost" without asking the resolver, for which Erlang would start a helper process.
            ("ERL_INETRC", inside("inetrc")),
            // The package's script becomes the node then, instead of waiting beside it as a second process.
            ("RUNNING_UNDER_SYSTEMD", "true".into()),
            ("ERL_CRASH_DUMP", inside("erl_crash.dump")),
            // No busy waiting: the processors are for whom it serves, too.
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
                    .into(),
            ),
        ]
    }

    fn configuration(&self) -> String {
        let definitions = self.kept.folder().join("definitions.json");
        format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nload_definitions = {}\nlog.console = true\nlog.file = false\n",
            self.port,
            definitions.display()
        )
    }

    /// The import format of RabbitMQ. Where definitions are loaded at start, it makes no user and no `/` by itself.
    fn definitions(&self, vhosts: std::ops::Range<u32>, first: bool) -> String {
        let mut names: Vec<String> = vhosts.map(|n| format!("v{n}")).collect();
        if first {
            names.insert(0, "/".into());
        }
        let permission = |vhost: &String| serde_json::json!({ "user": "outdial", "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*" });
        serde_json::json!({
            "users": [{ "name": "outdial", "password": self.password, "tags": ["administrator"] }],
            "vhosts": names.iter().map(|name| serde_json::json!({ "name": name })).collect::<Vec<_>>(),
            "permissions": names.iter().map(permission).collect::<Vec<_>>(),
        })
        .to_string()
    }
}

fn is_passing(error: &LocalError) -> bool {
    let LocalError::Failed { log, .. } = error else { return false };
    let log = log.to_ascii_lowercase();
    ["eaddrinuse", "address in use", "address already in use", "port_conflict"]
        .iter()
        .any(|sign| log.contains(sign))
}

/// Keep the places alike with deploy/local/install.sh.
fn find_programs() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = vec!["/usr/lib/rabbitmq/bin".into()];
    let versions = std::fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    places.extend(versions.map(|entry| entry.path().join("sbin")));
    let elsewhere = ["/opt/rabbitmq/sbin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin"];
    places.extend(elsewhere.map(PathBuf::from));
    places.into_iter().find(|bin| bin.join("rabbitmq-server").is_file())
}

/// Greets in AMQP and reads the beginning of the answer: a method frame on channel 0, Connection.Start.
fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<[u8; 11]> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        let mut frame = [0; 11];
        stream.read_exact(&mut frame)?;
        Ok(frame)
    };
    ask().is_ok_and(|frame| frame[..3] == [1, 0, 0] && frame[7..] == [0, 10, 0, 10])
}
