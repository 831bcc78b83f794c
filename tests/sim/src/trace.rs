//! What happened, in order: the last lines are printed when a seed fails, all of them with `--trace`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Arguments;

use spindle_reactor::Tick;

/// Lines that are kept for a failure.
const KEPT: usize = 400;

#[derive(Default)]
struct Log {
    on: bool,
    now: Tick,
    lines: VecDeque<String>,
}

thread_local! {
    // One simulation at a time on a thread; networks and disks write here without holding a reference each.
    static LOG: RefCell<Log> = RefCell::new(Log::default());
}

/// Forgets the lines of an earlier run. `print`: every line goes to the standard output at once.
pub fn begin(print: bool) {
    LOG.with_borrow_mut(|log| *log = Log { on: print, ..Log::default() });
}

/// The simulated time that the next lines bear.
pub fn at(now: Tick) {
    LOG.with_borrow_mut(|log| log.now = now);
}

/// Adds a line.
pub fn line(text: Arguments<'_>) {
    LOG.with_borrow_mut(|log| {
        let line = format!("{:>16} {text}", log.now.to_string());
        if log.on {
            println!("{line}");
        }
        if log.lines.len() == KEPT {
            log.lines.pop_front();
        }
        log.lines.push_back(line);
    });
}

/// The last lines.
pub fn last(lines: usize) -> Vec<String> {
    LOG.with_borrow(|log| log.lines.iter().skip(log.lines.len().saturating_sub(lines)).cloned().collect())
}

/// Adds a line to the trace: `trace!("disk {n} is silent")`.
#[macro_export]
macro_rules! trace {
    ($($arg:tt)*) => { $crate::trace::line(format_args!($($arg)*)) };
}
