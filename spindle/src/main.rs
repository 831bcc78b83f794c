//! The binary: parse, start, serve, stop, exit code.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use serde_json::{Value, json};
use spindle::args::{Check, Cli, Command, Demo, Rpc, Run, Serve};
use spindle::control::{Control, dry::Dry, methods, reference};
use spindle::recorder;
use spindle::start::{Running, default_socket};
use spindle_conf::jsonrpc::client::Client;
use spindle_conf::jsonrpc::server::{ServeError, Server};
use spindle_conf::load::ConfigFile;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log);
    let filter = match filter {
        Ok(filter) => filter,
        Err(e) => {
            eprintln!("spindle: --log: {e}");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    recorder::dump_on_panic();
    let done = match cli.command {
        Command::Run(run) => serve_config(&run),
        Command::Demo(demo) => serve_demo(&demo),
        Command::Rpc(rpc) => call(&rpc),
        Command::Check(check) => check_file(&check),
        Command::Reference => print(&reference(&methods())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("spindle: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_config(run: &Run) -> Result<()> {
    let file = run.config.as_ref().map(|path| ConfigFile::read(path)).transpose()?;
    let signals = Signals::catch()?;
    let running = Running::start(&run.serve)?;
    if let Some(file) = file {
        let calls = running.control.replay(&running.methods, &file).map_err(|e| anyhow!(e.message));
        match calls {
            Ok(calls) => tracing::info!(calls, "configuration is in force"),
            Err(e) => {
                running.stop()?;
                return Err(e.context(format!("{}", run.config.as_ref().expect("it was read").display())));
            }
        }
    }
    let server = match start_rpc(&run.serve, &running) {
        Ok(server) => server,
        Err(e) => {
            running.stop()?;
            return Err(e.into());
        }
    };
    tracing::info!("serving; stop with Ctrl-C or SIGTERM");
    signals.wait();
    tracing::info!("stopping: no new logins, sessions end, devices are flushed");
    drop(server);
    running.stop()
}

fn start_rpc(serve: &Serve, running: &Running) -> Result<Server, ServeError> {
    let path = serve.socket.clone().unwrap_or_else(default_socket);
    let server = Server::start(&path, running.control.clone(), running.methods.clone())?;
    tracing::info!("RPC at {}", path.display());
    Ok(server)
}

fn serve_demo(demo: &Demo) -> Result<()> {
    let signals = Signals::catch()?;
    let running = Running::start(&demo.serve)?;
    let url = match open_demo(demo, &running) {
        Ok(url) => url,
        Err(e) => {
            running.stop()?;
            return Err(e);
        }
    };
    // A demo beside a running target does without RPC rather than not at all, unless it was asked for.
    let server = match start_rpc(&demo.serve, &running) {
        Ok(server) => Some(server),
        Err(e) if demo.serve.socket.is_none() => {
            tracing::warn!("no RPC: {e}");
            None
        }
        Err(e) => {
            running.stop()?;
            return Err(e.into());
        }
    };
    print(&format!("{url}\n"))?;
    tracing::info!("try: iscsi-inq {url}   or: qemu-img info {url}   stop with Ctrl-C");
    signals.wait();
    drop(server);
    running.stop()
}

/// Makes the demo's disk, portal and target by the same calls a user would make.
fn open_demo(demo: &Demo, running: &Running) -> Result<String> {
    let call = |method: &str, params: Value| {
        running.methods.call(&running.control, method, params).map_err(|e| anyhow!("{}", e.message))
    };
    let blocks = demo.size / u64::from(demo.block_size.max(1));
    let physical = demo.physical_block_size.max(demo.block_size);
    match (&demo.file, demo.null) {
        (Some(path), _) => {
            let params = json!({ "name": "demo", "filename": path, "block_size": demo.block_size,
                                 "physical_block_size": physical, "create_bytes": demo.size, "direct": demo.direct });
            call("bdev_uring_create", params)?
        }
        (None, true) => call(
            "bdev_null_create",
            json!({ "name": "demo", "num_blocks": blocks, "block_size": demo.block_size, "physical_block_size": physical }),
        )?,
        (None, false) => call(
            "bdev_malloc_create",
            json!({ "name": "demo", "num_blocks": blocks, "block_size": demo.block_size, "physical_block_size": physical }),
        )?,
    };
    let host: std::net::IpAddr =
        demo.listen.parse().map_err(|_| anyhow!("--listen {}: an IPv4 or IPv6 address", demo.listen))?;
    let portals = json!([{ "host": host.to_string(), "port": demo.port.to_string() }]);
    call("iscsi_create_portal_group", json!({ "tag": 1, "portals": portals, "allow_open_access": true }))
        .with_context(|| format!("--port {}", demo.port))?;
    call("iscsi_create_initiator_group", json!({ "tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"] }))?;
    call(
        "iscsi_create_target_node",
        json!({ "name": "demo", "pg_ig_maps": [{ "pg_tag": 1, "ig_tag": 1 }],
                "luns": [{ "bdev_name": "demo", "lun_id": 0 }] }),
    )?;
    let groups = call("iscsi_get_portal_groups", Value::Null)?;
    let port = groups[0]["portals"][0]["port"].as_str().unwrap_or_default().to_string();
    let targets = call("iscsi_get_target_nodes", Value::Null)?;
    let name = targets[0]["name"].as_str().unwrap_or_default();
    let host = match host {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    };
    Ok(format!("iscsi://{host}:{port}/{name}/0"))
}

fn call(rpc: &Rpc) -> Result<()> {
    let params = match rpc.params.as_deref() {
        None => Value::Null,
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading parameters from standard input")?;
            serde_json::from_str(&text).context("parameters are not JSON")?
        }
        Some(text) => serde_json::from_str(text).context("parameters are not JSON")?,
    };
    let path: PathBuf = rpc.socket.clone().unwrap_or_else(default_socket);
    let mut client = Client::connect(&path, Duration::from_secs(rpc.timeout))?;
    let answer = client.call(&rpc.method, params)?;
    print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))
}

fn check_file(check: &Check) -> Result<()> {
    let file = ConfigFile::read(&check.file)?;
    let control = Control::new(std::sync::Arc::new(Dry::new()?));
    match control.replay(&methods(), &file) {
        Ok(calls) => print(&format!("{}: {calls} calls, all well\n", check.file.display())),
        Err(e) => bail!("{}: {}", check.file.display(), e.message),
    }
}

/// Standard output, where a closed pipe is no reason for a stack trace.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}

/// SIGINT and SIGTERM: the first asks to stop, a second one does not wait.
struct Signals(signal_hook::iterator::Signals);

impl Signals {
    fn catch() -> Result<Signals> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let list = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("catching signals")?;
        Ok(Signals(list))
    }

    fn wait(mut self) {
        self.0.forever().next();
        std::thread::spawn(move || {
            if self.0.forever().next().is_some() {
                eprintln!("spindle: stopped at once, on a second signal");
                std::process::exit(1);
            }
        });
    }
}
