//! How each target is started and told to serve one disk.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Started;
use super::process::{Process, run_to_end};
use super::spec::{ContenderSpec, Lun, Program};
use crate::session::{self, Place};
use crate::url::Url;
use crate::workload::Workload;

/// A target that serves.
pub struct Running {
    /// `None` for one that was running before.
    process: Option<Process>,
    url: Url,
    /// Its folder of sockets and state, removed with it.
    folder: Option<PathBuf>,
}

impl Running {
    /// Where it serves.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Halts it.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::pause)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::resume)
    }

    /// Resident memory.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.process.as_ref()?.resident_bytes()
    }

    /// Nanoseconds the cores of a Spindle were busy so far, all together.
    pub fn busy_ns(&self) -> Result<u64> {
        let folder = self.folder.as_ref().context("only a Spindle that was started here can be asked")?;
        let mut rpc = Rpc { stream: UnixStream::connect(folder.join("rpc.sock"))?, id: 0 };
        let answer = rpc.call("framework_get_reactors", json!({}))?;
        let reactors = answer["reactors"].as_array().context("no list of reactors")?;
        Ok(reactors.iter().filter_map(|reactor| reactor["busy"].as_u64()).sum())
    }

    /// Processor time used so far.
    pub fn cpu_seconds(&self) -> Option<f64> {
        self.process.as_ref()?.cpu_seconds()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process = None;
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

const START_MAX: Duration = Duration::from_secs(60);

/// Starts a target on these processors, one core of its own on each where it has any, and waits until it answers a login.
pub fn start(spec: &ContenderSpec, cpus: &[u32]) -> Result<(Running, Option<Started>)> {
    if let ContenderSpec::Spindle(p) | ContenderSpec::Tgt(p) | ContenderSpec::Spdk(p) = spec
        && let Lun::File(path) = &p.lun
    {
        backing(path, p.size)?;
    }
    let clock = Instant::now();
    let mut running = match spec {
        ContenderSpec::Spindle(program) => spindle(program, cpus)?,
        ContenderSpec::Tgt(program) => tgt(program, cpus)?,
        ContenderSpec::Spdk(program) => spdk(program, cpus)?,
        ContenderSpec::Respond(program) => respond(program, cpus)?,
        ContenderSpec::Command { run, name } => {
            let mut command = Command::new(&run[0]);
            command.args(&run[1..]);
            printing(&mut command, cpus, name, None)?
        }
        ContenderSpec::Url { url, .. } => Running { process: None, url: url.clone(), folder: None },
        ContenderSpec::Wire { .. } => bail!("the wire is not a target"),
    };
    // The listener may be there before the target behind it.
    let work = Workload::default();
    loop {
        match session::login_and_measure(&running.url, &work, Place::first_of(0xFFFF)) {
            Ok(_) => break,
            Err(error) => {
                if let Some(process) = &mut running.process {
                    process.ensure_alive()?;
                }
                ensure!(clock.elapsed() < START_MAX, "it does not serve: {error:#}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    let facts = running.process.as_ref().map(|process| Started {
        start_ms: clock.elapsed().as_secs_f64() * 1e3,
        resident_bytes: process.resident_bytes().unwrap_or(0),
    });
    Ok((running, facts))
}

/// A folder nobody else uses.
fn folder(name: &str) -> Result<PathBuf> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("spindle-perf-{}-{n}-{name}", std::process::id()));
    fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}

/// Processors as all these programs read them.
fn list(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// A port nobody listens at just now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A target that prints its URL.
fn printing(command: &mut Command, cpus: &[u32], name: &str, folder: Option<PathBuf>) -> Result<Running> {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let mut process = Process::start(command.stdout(Stdio::piped()), cpus, &name)?;
    let line = process.wait_for_line("iscsi://", START_MAX)?;
    let at = line.find("iscsi://").expect("the line was chosen for it");
    let url = line[at..].split_whitespace().next().unwrap_or_default().parse()?;
    Ok(Running { process: Some(process), url, folder })
}

fn spindle(program: &Program, cpus: &[u32]) -> Result<Running> {
    let folder = folder("spindle")?;
    let mut command = Command::new(&program.path);
    command.args(["--log", "warn", "demo", "--port", "0", "--cores", &list(cpus)]);
    command.arg("--socket").arg(folder.join("rpc.sock")).arg("--state").arg(folder.join("state"));
    match &program.lun {
        Lun::Null => command.arg("--null"),
        Lun::Ram => &mut command,
        Lun::File(path) => {
            command.arg("--file").arg(path);
            if program.direct { command.arg("--direct") } else { &mut command }
        }
    };
    command.args(["--size", &program.size.to_string()]).args(&program.args);
    printing(&mut command, cpus, "spindle", Some(folder))
}

fn respond(program: &Program, cpus: &[u32]) -> Result<Running> {
    let path =
        if program.path.as_os_str().is_empty() { std::env::current_exe()? } else { program.path.clone() };
    let mut command = Command::new(path);
    command.args(["respond", "--cpu", &cpus[0].to_string()]);
    if program.lun == Lun::Ram {
        command.args(["--size", &program.size.to_string()]);
    }
    printing(&mut command, cpus, "respond", None)
}

/// A file of the size asked for, if there is none yet. It is really written: reading what was never written costs a disk
/// nothing.
fn backing(path: &Path, size: u64) -> Result<()> {
    if !path.exists() {
        let mut file = fs::File::create(path).with_context(|| format!("{}", path.display()))?;
        let mut left = size;
        let part = vec![0xA5; 1 << 20];
        while left > 0 {
            let n = left.min(part.len() as u64);
            file.write_all(&part[..n as usize])?;
            left -= n;
        }
        file.sync_all()?;
    }
    Ok(())
}

const PEER: &str = "iqn.2026-01.org.example:peer";

fn tgt(program: &Program, cpus: &[u32]) -> Result<Running> {
    let port = free_port()?;
    // Its control channel is a number, too.
    let control = (20_000 + port % 10_000).to_string();
    let mut command = Command::new(&program.path);
    command.args(["-f", "-C", &control, "--iscsi", &format!("portal=127.0.0.1:{port}")]).args(&program.args);
    let mut process = Process::start(command.stdout(Stdio::null()), cpus, "tgt")?;
    let admin = |args: &[&str]| {
        let mut command = Command::new("tgtadm");
        command.args(["-C", &control, "--lld", "iscsi"]).args(args);
        run_to_end(&mut command)
    };
    let clock = Instant::now();
    while let Err(error) = admin(&["--op", "new", "--mode", "target", "--tid", "1", "-T", PEER]) {
        process.ensure_alive()?;
        ensure!(clock.elapsed() < START_MAX, "{error:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let unit = ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1"];
    match &program.lun {
        Lun::Null => admin(&[&unit[..], &["--bstype", "null", "-b", "none"]].concat())?,
        Lun::File(path) => {
            let path = path.to_string_lossy();
            let flags: &[&str] = if program.direct { &["--bsoflags", "direct"] } else { &[] };
            admin(&[&unit[..], &["--bstype", "rdwr", "-b", &path], flags].concat())?;
        }
        Lun::Ram => bail!("tgt has no disk in memory: give lun=PATH on a tmpfs"),
    }
    admin(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"])?;
    let url = format!("iscsi://127.0.0.1:{port}/{PEER}/1").parse()?;
    Ok(Running { process: Some(process), url, folder: None })
}

fn spdk(program: &Program, cpus: &[u32]) -> Result<Running> {
    let folder = folder("spdk")?;
    let socket = folder.join("rpc.sock");
    let port = free_port()?;
    let mut command = Command::new(&program.path);
    command.args(["-m", &format!("[{}]", list(cpus)), "--wait-for-rpc", "-r"]).arg(&socket);
    // Contenders stand on the same processor and run in turns.
    command.arg("--disable-cpumask-locks").args(&program.args);
    let mut process = Process::start(command.stdout(Stdio::null()), cpus, "spdk")?;
    let mut rpc = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break Rpc { stream, id: 0 },
            Err(error) => {
                process.ensure_alive()?;
                ensure!(process_age_ok(&folder), "no RPC socket: {error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    // The default lets a connection have fewer commands outstanding than the deepest row asks for.
    rpc.call("iscsi_set_options", json!({ "max_queue_depth": 256, "max_sessions": 2048 }))?;
    rpc.call("framework_start_init", json!({}))?;
    rpc.call("framework_wait_init", json!({}))?;
    let blocks = program.size / 512;
    let bdev = match &program.lun {
        Lun::Null => {
            rpc.call("bdev_null_create", json!({ "name": "d0", "num_blocks": blocks, "block_size": 512 }))?
        }
        Lun::Ram => {
            rpc.call("bdev_malloc_create", json!({ "name": "d0", "num_blocks": blocks, "block_size": 512 }))?
        }
        Lun::File(path) => {
            let arguments = json!({ "name": "d0", "filename": path, "block_size": 512 });
            rpc.call(if program.aio { "bdev_aio_create" } else { "bdev_uring_create" }, arguments)?
        }
    };
    let portals = json!([{ "host": "127.0.0.1", "port": port.to_string() }]);
    rpc.call("iscsi_create_portal_group", json!({ "tag": 1, "portals": portals }))?;
    rpc.call(
        "iscsi_create_initiator_group",
        json!({ "tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"] }),
    )?;
    rpc.call(
        "iscsi_create_target_node",
        json!({
            "name": PEER, "alias_name": "peer", "queue_depth": 256, "disable_chap": true,
            "pg_ig_maps": [{ "pg_tag": 1, "ig_tag": 1 }],
            "luns": [{ "bdev_name": bdev, "lun_id": 0 }],
        }),
    )?;
    let url = format!("iscsi://127.0.0.1:{port}/{PEER}/0").parse()?;
    Ok(Running { process: Some(process), url, folder: Some(folder) })
}

/// The socket must appear within the time a start may take; the folder was made just before it.
fn process_age_ok(folder: &Path) -> bool {
    let made = fs::metadata(folder).and_then(|m| m.modified()).ok();
    made.and_then(|made| made.elapsed().ok()).is_none_or(|age| age < START_MAX)
}

/// JSON-RPC 2.0 over a Unix socket.
struct Rpc {
    stream: UnixStream,
    id: u64,
}

impl Rpc {
    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.id += 1;
        let mut request = json!({ "jsonrpc": "2.0", "id": self.id, "method": method });
        if params.as_object().is_some_and(|p| !p.is_empty()) {
            request["params"] = params;
        }
        self.stream.set_read_timeout(Some(START_MAX))?;
        self.stream.write_all(request.to_string().as_bytes())?;
        let mut text = Vec::new();
        let mut part = [0; 4096];
        loop {
            let n = self.stream.read(&mut part).with_context(|| format!("answer to {method}"))?;
            ensure!(n > 0, "the target hung up during {method}");
            text.extend_from_slice(&part[..n]);
            ensure!(text.len() < 1 << 20, "the answer to {method} does not end");
            let Some(Ok(answer)) = serde_json::Deserializer::from_slice(&text).into_iter::<Value>().next()
            else {
                continue;
            };
            if let Some(error) = answer.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(answer.get("result").cloned().unwrap_or(Value::Null));
        }
    }
}
