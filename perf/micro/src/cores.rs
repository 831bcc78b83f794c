//! Whether cores hinder each other: what one does alone, and while another serves the same unit beside it.
//!
//! Each core runs in a thread of its own on a processor of its own, with its session, over the network that costs nothing:
//! what is left is what a reactor does, and what it writes. A core that shares a written cache line with the other would be
//! slower beside it. Two processors also share what the machine gives them (a cache, power, at worst one core): so the
//! other core first serves a unit of another target, with which nothing at all is shared, and then the same unit.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::device::Disk;
use crate::seat::{Order, Seat};
use crate::world::{Ask, Target, World};

/// Measures and prints; fails if a partner hinders more than a stranger by more than `most`, in the median.
pub fn run((a, b): (u32, u32), rounds: u32, time: Duration, most: Option<f64>) -> Result<()> {
    ensure!(a != b, "two processors are needed");
    println!(
        "| commands | alone | beside a stranger | beside a partner on the same unit | partner / stranger |"
    );
    println!("|---|---:|---:|---:|---:|");
    let mut hindered = Vec::new();
    for disk in [Disk::Null, Disk::Ram] {
        for ask in [Ask::Read, Ask::Write] {
            let (target, mails) = Target::new(disk, 2)?;
            let (other_target, other_mails) = Target::new(disk, 1)?;
            let [nobody, stranger, partner] = std::thread::scope(|scope| {
                let mut seats = Vec::new();
                for (mail, (target, cpu)) in
                    mails.into_iter().chain(other_mails).zip([(&target, a), (&target, b), (&other_target, b)])
                {
                    seats.push(Seat::take(scope, cpu, move || World::bring_up(target, mail, 0))?);
                }
                let [measured, partner, stranger] = &seats[..] else { bail!("three cores were to be made") };
                measured.prepare("measured", &[ask], None)?;
                partner.prepare("partner", &[ask], Some(measured))?;
                stranger.prepare("stranger", &[ask], None)?;
                let mut rates = [const { Vec::new() }; 3];
                for round in 0..rounds as usize {
                    for turn in 0..3 {
                        // Each is first in every third round.
                        let beside = (round + turn) % 3;
                        let other = [None, Some(stranger), Some(partner)][beside];
                        rates[beside].push(rate(measured, other, ask, time)?);
                    }
                }
                Ok::<_, anyhow::Error>(rates)
            })?;
            let ratios: Vec<f64> =
                partner.iter().zip(&stranger).map(|(with, without)| with / without).collect();
            let [nobody, strange, same] = [nobody, stranger, partner].map(median);
            let (least, ratio) =
                (ratios.iter().copied().fold(f64::INFINITY, f64::min), median(ratios.clone()));
            let greatest = ratios.iter().copied().fold(0.0, f64::max);
            println!(
                "| {ask:?}, {disk:?} | {:.2} M/s | {:.2} M/s | {:.2} M/s | **{ratio:.3}** ({least:.3}–{greatest:.3}) |",
                nobody / 1e6,
                strange / 1e6,
                same / 1e6
            );
            if most.is_some_and(|most| ratio < 1.0 - most) {
                hindered.push(format!("{ask:?}, {disk:?}: {ratio:.3}"));
            }
        }
    }
    ensure!(
        hindered.is_empty(),
        "a core is slower beside one that serves the same unit: {}",
        hindered.join("; ")
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Commands a second of the first, while the other runs, too.
fn rate(measured: &Seat, other: Option<&Seat>, ask: Ask, time: Duration) -> Result<f64> {
    let begin = Arc::new(Barrier::new(1 + usize::from(other.is_some())));
    let stop = Arc::new(AtomicBool::new(false));
    if let Some(other) = other {
        other.tell(Order::Run(ask, begin.clone(), stop.clone(), None));
    }
    let rate = measured.obey(Order::Run(ask, begin, stop, Some(time)));
    if let Some(other) = other {
        other.answer()?;
    }
    rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_of_one_target_answer_beside_each_other() {
        let [a, b, ..] = spindle_ffi_os::cpu::allowed().unwrap()[..] else { return };
        run((a, b), 1, Duration::from_millis(20), Some(1.0)).unwrap();
    }
}
