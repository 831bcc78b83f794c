//! The wire in every way of calling: both directions, whole and cut requests, several connections.

use std::time::Duration;

use spindle_ffi_os::cpu;
use spindle_perf::wire::{self, Direction, Shape};

fn shape(direction: Direction) -> Option<Shape> {
    let [responder_cpu, generator_cpu, ..] = cpu::allowed().unwrap()[..] else { return None };
    Some(Shape {
        direction,
        bs: 4096,
        depth: 8,
        connections: 2,
        // Neither a request nor an answer fits a whole number of times.
        batch: 10_000,
        cold: false,
        calls: wire::Calls::Sockets,
        warmup: Duration::from_millis(10),
        time: Duration::from_millis(100),
        responder_cpu,
        generator_cpu,
    })
}

#[test]
fn every_way_answers_reads_and_writes() {
    for direction in [Direction::Read, Direction::Write] {
        let Some(shape) = shape(direction) else { return };
        for &calls in wire::ways() {
            let report = wire::run(&Shape { calls, ..shape.clone() }).unwrap();
            assert!(report.latency.count >= 16, "{direction:?} {calls:?}: {report:?}");
            let other = if direction == Direction::Read { report.write } else { report.read };
            assert_eq!(other.count, 0);
        }
    }
}

#[test]
fn the_best_way_is_one_of_those_tried() {
    let Some(shape) = shape(Direction::Read) else { return };
    let shape = Shape { time: Duration::from_millis(20), ..shape };
    let (batch, calls) = wire::best_way(&shape).unwrap();
    assert!(wire::batches(shape.bs).contains(&batch) && wire::ways().contains(&calls));
}
