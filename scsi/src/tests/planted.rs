//! Each planted mistake is found.

use std::panic::catch_unwind;

use crate::planted::{Bug, plant};

fn found(bug: Bug) -> bool {
    plant(Some(bug));
    let storms = || (0..200).for_each(super::storm::one);
    let found = match bug {
        Bug::ReservationPublishedLate => {
            catch_unwind(super::reservations::a_reservation_is_answered_only_when_every_core_knows).is_err()
        }
        Bug::StaleData => {
            catch_unwind(super::way::a_failed_read_sends_no_data_and_a_failed_write_is_not_good).is_err()
        }
        Bug::GateClosedEarly => {
            catch_unwind(super::gates::compare_and_write_waits_for_writes_that_have_begun).is_err()
        }
        _ => catch_unwind(storms).is_err(),
    };
    plant(None);
    found
}

#[test]
fn every_planted_mistake_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<_> = Bug::ALL.into_iter().filter(|bug| !found(*bug)).collect();
    _ = std::panic::take_hook();
    assert_eq!(missed, []);
}
