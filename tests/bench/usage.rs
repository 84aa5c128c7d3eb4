//! Processor time and memory of processes, from /proc.

use std::collections::HashMap;

use anyhow::{Context, Result};

use super::ground::Ground;
use super::provider::StandIn;

/// A clock tick of /proc, which Linux fixes for programs at a hundredth of a second.
const TICK_US: u64 = 10_000;

/// Processor time of a process, of those it started that live, and of those it has waited for: microseconds.
pub fn cpu_us(root: u32) -> Result<u64> {
    let processes = processes()?;
    Ok(processes.iter().filter(|(pid, _)| is_under(&processes, **pid, root)).map(|(_, (_, us))| us).sum())
}

/// A process and those it started.
pub fn family(root: u32) -> Result<Vec<u32>> {
    let processes = processes()?;
    Ok(processes.keys().copied().filter(|pid| is_under(&processes, *pid, root)).collect())
}

/// By process: its parent, and its processor time.
type Processes = HashMap<u32, (u32, u64)>;

fn processes() -> Result<Processes> {
    let mut processes = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ends meanwhile is counted by who waits for it.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let field = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let ticks = field(11) + field(12) + field(13) + field(14);
        processes.insert(pid, (field(1) as u32, ticks * TICK_US));
    }
    Ok(processes)
}

fn is_under(processes: &Processes, pid: u32, root: u32) -> bool {
    let mut at = pid;
    // Deeper than any tree of processes here.
    for _ in 0..20 {
        if at == root {
            return true;
        }
        match processes.get(&at) {
            Some((parent, _)) if *parent != 0 => at = *parent,
            _ => return false,
        }
    }
    false
}

/// Processor time of the servers up to now, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Servers {
    pub postgres: u64,
    pub rabbitmq: u64,
    pub provider: u64,
}

impl Servers {
    pub fn of(ground: &Ground, provider: &StandIn) -> Result<Self> {
        let postgres = ground.servers.postgres.as_ref().and_then(outdial::local::Postgres::pid);
        let rabbitmq = ground.servers.rabbit.as_ref().and_then(outdial::local::Rabbit::pid);
        Ok(Self {
            postgres: cpu_us(postgres.context("postgres")?)?,
            rabbitmq: cpu_us(rabbitmq.context("rabbitmq")?)?,
            provider: cpu_us(provider.process.pid)?,
        })
    }
}

/// The most memory that the process has held, in bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).context("VmHWM")?;
    Ok(kib * 1024)
}

/// The machine, in a line.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model =
        cpus.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .lines()
        .find(|line| line.starts_with("MemTotal:"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    format!(
        "{cores} processors ({}), {} GiB, Linux {}",
        model.unwrap_or("unknown"),
        kib >> 20,
        read("/proc/sys/kernel/osrelease").trim()
    )
}
