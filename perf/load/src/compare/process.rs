//! A process of ours: pinned, in a group of its own, halted and continued, gone with its owner.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use spindle_ffi_os::cpu;

/// A child that leads a process group.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it on these processors; what it writes goes to a file named in errors.
    pub fn start(command: &mut Command, cpus: &[u32], name: &str) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let log = std::env::temp_dir().join(format!("spindle-perf-{}-{name}.log", std::process::id()));
        let file = fs::File::create(&log).with_context(|| format!("{}", log.display()))?;
        let mine = cpu::allowed()?;
        cpu::pin_to(cpus).with_context(|| format!("processors {cpus:?}"))?;
        // The child inherits the mask; ours is put back whatever happens.
        let child = command.process_group(0).stdin(Stdio::null()).stderr(file).spawn();
        cpu::pin_to(&mine)?;
        let program = command.get_program().to_string_lossy().into_owned();
        Ok(Self { child: child.with_context(|| format!("{program} does not start"))?, log })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on standard output that holds `wanted`. The rest of the output is read and thrown away, so
    /// that the child never waits for us.
    pub fn wait_for_line(&mut self, wanted: &str, max: Duration) -> Result<String> {
        let out = self.child.stdout.take().context("standard output is not ours")?;
        let (tell, told) = mpsc::channel();
        let wanted = wanted.to_owned();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if line.contains(&wanted) {
                    // Only the first is waited for.
                    let _ = tell.send(line);
                }
            }
        });
        match told.recv_timeout(max) {
            Ok(line) => Ok(line),
            Err(_) => bail!("it did not say where it serves within {max:?}; see {}", self.log.display()),
        }
    }

    /// Fails if the process has ended.
    pub fn ensure_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let from = log.lines().count().saturating_sub(5);
            bail!("it ended with {status}: {}", log.lines().skip(from).collect::<Vec<_>>().join("; "));
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process_group(pid, signal).with_context(|| format!("{signal:?}"))
    }

    /// Halts it.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        // The signal takes effect when the process next enters the kernel: see that it has.
        for _ in 0..5000 {
            if self.state().is_some_and(|state| matches!(state, 'T' | 'Z' | 'X')) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("it does not halt")
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn stat(&self) -> Option<Vec<String>> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name may hold blanks and brackets: fields begin behind the last one.
        let rest = &text[text.rfind(')')? + 1..];
        Some(rest.split_whitespace().map(str::to_owned).collect())
    }

    fn state(&self) -> Option<char> {
        self.stat()?.first()?.chars().next()
    }

    /// Processor time its threads have used so far, to the nanosecond: what a target does with nothing to do is less than
    /// the hundredths of a second that `stat` counts in.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let mut ns = 0u64;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()? {
            // One that has just ended takes with it what it used: short errands, nothing that is measured.
            let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
            ns += text.split_whitespace().next()?.parse::<u64>().ok()?;
        }
        Some(ns as f64 / 1e9)
    }

    /// Resident memory.
    pub fn resident_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A halted process must be continued to die of anything milder.
        let _ = self.signal(Signal::KILL);
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
    }
}

/// Runs a helper to its end; its output is in the error if it fails.
pub fn run_to_end(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{command:?}: {}", text.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halted_process_uses_no_time_and_goes_on_afterwards() {
        let cpu = cpu::allowed().unwrap()[0];
        let mut command = Command::new("sh");
        command.args(["-c", "echo iscsi://here; while :; do :; done"]).stdout(Stdio::piped());
        let mut process = Process::start(&mut command, &[cpu], "test").unwrap();
        assert_eq!(process.wait_for_line("iscsi://", Duration::from_secs(20)).unwrap(), "iscsi://here");
        process.pause().unwrap();
        let before = process.cpu_seconds().unwrap();
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(process.cpu_seconds().unwrap(), before);
        process.resume().unwrap();
        for _ in 0..500 {
            if process.cpu_seconds().unwrap() > before {
                process.ensure_alive().unwrap();
                assert!(process.resident_bytes().unwrap() > 0);
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it never went on");
    }

    #[test]
    fn a_process_that_ends_or_says_nothing_is_an_error() {
        let cpu = cpu::allowed().unwrap()[0];
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]).stdout(Stdio::piped());
        let mut process = Process::start(&mut command, &[cpu], "silent").unwrap();
        assert!(process.wait_for_line("iscsi://", Duration::from_secs(5)).is_err());
        std::thread::sleep(Duration::from_millis(100));
        assert!(process.ensure_alive().unwrap_err().to_string().contains("3"));
    }
}
