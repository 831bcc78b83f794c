//! How deep idle processors may sleep while a target serves.
//!
//! A processor in a deep state takes 100 µs and more to come back, and the first command after a pause pays for it.
//! The kernel takes a wish for it (PM QoS): who holds `/dev/cpu_dma_latency` open, with a number of microseconds
//! written to it, keeps all idle processors out of states with a longer way back. It ends with the descriptor, so
//! nothing stays behind however the process dies.
//!
//! All files are read and written below a root directory, `/` in life and a made-up tree in tests.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::str::FromStr;

const DEVICE: &str = "dev/cpu_dma_latency";

/// What idle processors are allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakeLatency {
    /// States they come back from within so many microseconds; with nought they never halt.
    Within(i32),
    /// Whatever the system lets them do.
    Any,
}

impl Default for WakeLatency {
    /// Bars C6 of today's servers, which takes 130 µs and more, and not C1 and C1E.
    fn default() -> Self {
        WakeLatency::Within(50)
    }
}

impl FromStr for WakeLatency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(WakeLatency::Any),
            _ => text
                .parse()
                .ok()
                .filter(|us| *us >= 0)
                .map(WakeLatency::Within)
                .ok_or_else(|| format!("{text:?}: microseconds, or any")),
        }
    }
}

/// The wish as the system holds it, for as long as this lives.
#[derive(Debug)]
pub struct Hold {
    device: io::Result<Option<File>>,
    latency: WakeLatency,
    machine: Machine,
}

impl Hold {
    /// Tells the machine below `root` what its idle processors are allowed.
    pub fn take(root: &Path, latency: WakeLatency) -> Hold {
        let device = match latency {
            WakeLatency::Any => Ok(None),
            WakeLatency::Within(us) => write(&root.join(DEVICE), us).map(Some),
        };
        Hold { device, latency, machine: Machine::read(root) }
    }

    /// The system did not take the wish.
    pub fn refused(&self) -> bool {
        self.device.is_err()
    }

    /// What holds now, what it costs, and what could be done about it. `sleeps`: reactors sleep when they are idle.
    pub fn tell(&self, sleeps: bool) -> String {
        let holds = match (&self.device, self.latency) {
            (Err(error), _) => {
                return format!(
                    "idle processors sleep as deep as the system lets them, so the first command after a pause may take \
                     some 100 µs longer: /{DEVICE}: {error}; grant this user access to it, or say --wake-latency any"
                );
            }
            (Ok(_), WakeLatency::Any) => "idle processors sleep as deep as the system lets them".to_string(),
            (Ok(_), WakeLatency::Within(0)) => "idle processors do not halt".to_string(),
            (Ok(_), WakeLatency::Within(us)) => format!("idle processors wake within {us} µs"),
        };
        match (self.machine, self.latency) {
            (Machine::GuestThatHalts, _) if sleeps => {
                "idle processors halt, and come back when the hypervisor lets them: this guest has no cpuidle driver that \
                 could be told otherwise (idle=poll on the kernel's command line does)"
                    .to_string()
            }
            (Machine::Guest, latency) if sleeps && latency != WakeLatency::Within(0) => {
                format!("{holds}; virtual ones that halt take longer, --wake-latency 0 keeps them from it")
            }
            _ => holds,
        }
    }
}

/// One number of four bytes in one write: anything else would be read as text.
fn write(path: &Path, us: i32) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(&us.to_ne_bytes())?;
    Ok(file)
}

/// Who decides when a halted processor comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Machine {
    /// The hardware, in the time its idle state is known to take.
    Real,
    /// A hypervisor, in its own time; the guest's kernel chooses whether to halt.
    Guest,
    /// A hypervisor, and the kernel knows no other way to be idle than to halt.
    GuestThatHalts,
}

impl Machine {
    fn read(root: &Path) -> Machine {
        let driver = std::fs::read_to_string(root.join("sys/devices/system/cpu/cpuidle/current_driver"));
        let driver = driver.as_deref().map(str::trim).unwrap_or("none");
        // Only guests have this driver, on processors without such a flag too.
        if driver == "haltpoll" {
            return Machine::Guest;
        }
        match (has_hypervisor(&root.join("proc/cpuinfo")), driver) {
            (false, _) => Machine::Real,
            (true, "none") => Machine::GuestThatHalts,
            (true, _) => Machine::Guest,
        }
    }
}

/// By the flags of the first processor.
fn has_hypervisor(cpuinfo: &Path) -> bool {
    let Ok(file) = File::open(cpuinfo) else { return false };
    let flags = BufReader::new(file).lines().map_while(Result::ok).find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A machine made of files; `None`: the file is not there.
    fn machine(driver: Option<&str>, flags: &str) -> TempDir {
        let root = TempDir::new().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put(DEVICE, "");
        put("proc/cpuinfo", &format!("processor\t: 0\nflags\t\t: fpu {flags} sse2\nbugs\t\t: hypervisor\n"));
        if let Some(driver) = driver {
            put("sys/devices/system/cpu/cpuidle/current_driver", &format!("{driver}\n"));
        }
        root
    }

    fn told(root: &TempDir, latency: &str, sleeps: bool) -> String {
        Hold::take(root.path(), latency.parse().unwrap()).tell(sleeps)
    }

    #[test]
    fn microseconds_or_any_is_read_and_nothing_else() {
        for (text, is) in [
            ("any", WakeLatency::Any),
            ("0", WakeLatency::Within(0)),
            ("50", WakeLatency::default()),
            ("2147483647", WakeLatency::Within(i32::MAX)),
        ] {
            assert_eq!(text.parse(), Ok(is));
        }
        for bad in ["", "-1", "2147483648", "1.5", "50us", "ANY", "none"] {
            assert!(bad.parse::<WakeLatency>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_device_is_written_one_number_of_four_bytes() {
        for us in [0, 50, 1000] {
            let root = machine(Some("intel_idle"), "avx");
            let hold = Hold::take(root.path(), WakeLatency::Within(us));
            assert!(!hold.refused());
            assert_eq!(fs::read(root.path().join(DEVICE)).unwrap(), us.to_ne_bytes());
        }
        let root = machine(Some("intel_idle"), "avx");
        assert!(!Hold::take(root.path(), WakeLatency::Any).refused());
        assert!(
            fs::read(root.path().join(DEVICE)).unwrap().is_empty(),
            "the system's own choice needs no wish"
        );
    }

    #[test]
    fn a_device_that_cannot_be_had_is_told_with_its_cost_and_is_not_made() {
        let root = machine(Some("intel_idle"), "avx");
        fs::remove_file(root.path().join(DEVICE)).unwrap();
        let hold = Hold::take(root.path(), WakeLatency::default());
        assert!(hold.refused());
        let line = hold.tell(true);
        for word in ["/dev/cpu_dma_latency", "No such file", "100 µs", "--wake-latency any"] {
            assert!(line.contains(word), "{line}");
        }
        assert!(!root.path().join(DEVICE).exists());
        assert!(!Hold::take(root.path(), WakeLatency::Any).refused(), "who wishes nothing misses nothing");
    }

    #[test]
    fn a_real_machine_is_told_what_holds() {
        for driver in [Some("intel_idle"), Some("none"), None] {
            let root = machine(driver, "avx");
            assert_eq!(told(&root, "50", true), "idle processors wake within 50 µs");
            assert_eq!(told(&root, "0", true), "idle processors do not halt");
            assert_eq!(told(&root, "any", true), "idle processors sleep as deep as the system lets them");
        }
    }

    #[test]
    fn a_guest_is_told_what_helps_there() {
        for (driver, flags) in [("haltpoll", "avx"), ("haltpoll", "hypervisor"), ("intel_idle", "hypervisor")]
        {
            let root = machine(Some(driver), flags);
            for latency in ["50", "any"] {
                assert!(
                    told(&root, latency, true).contains("--wake-latency 0"),
                    "{driver} {flags} {latency}"
                );
                assert!(!told(&root, latency, false).contains("--wake-latency"), "reactors that never sleep");
            }
            assert_eq!(told(&root, "0", true), "idle processors do not halt");
        }
        for driver in [Some("none"), None] {
            let root = machine(driver, "hypervisor");
            for latency in ["0", "50", "any"] {
                let line = told(&root, latency, true);
                assert!(line.contains("idle=poll") && !line.contains("--wake-latency"), "{line}");
            }
        }
    }
}
