//! A device that may hold a planted mistake: the proof that the fuzzer reaches what lies behind a login.
//!
//! With the feature `planted_panic` a WRITE panics whose first 64 bytes have a certain sum. No seed has it; `ci/fuzz.sh
//! --prove` demands that the fuzzer finds one within its time.

use std::sync::Arc;

use spindle_bdev::{
    Bdev, BdevInfo, BlockIo, ChannelSeed, CoreEnv, IoChannel, IoCx, IoKey, OpenError, ResetScope,
};
use spindle_reactor::{CoreId, WakeSet};

/// Hands everything on.
pub struct Tripwire(pub Arc<dyn Bdev>);

struct Seed(Box<dyn ChannelSeed>);

struct Channel(Box<dyn IoChannel>);

impl Bdev for Tripwire {
    fn info(&self) -> BdevInfo {
        self.0.info()
    }

    fn driver(&self) -> &'static str {
        self.0.driver()
    }

    fn prepare(&self, core: CoreId) -> Result<Box<dyn ChannelSeed>, OpenError> {
        Ok(Box::new(Seed(self.0.prepare(core)?)))
    }

    fn resize(&self, blocks: Option<u64>) -> Result<u64, spindle_bdev::ResizeError> {
        self.0.resize(blocks)
    }
}

impl ChannelSeed for Seed {
    fn bind(self: Box<Self>, env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>, OpenError> {
        Ok(Box::new(Channel(self.0.bind(env)?)))
    }
}

#[cfg(feature = "planted_panic")]
fn look_at(io: &BlockIo) {
    let (spindle_bdev::Op::Write, Some(data)) = (io.op, &io.data) else { return };
    let mut head = [0; 64];
    data.copy_to(io.at, &mut head);
    let sum = head.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    assert!(sum != 0x5A, "the planted panic: a WRITE of certain bytes has reached the device");
}

#[cfg(not(feature = "planted_panic"))]
fn look_at(_: &BlockIo) {}

impl IoChannel for Channel {
    fn submit(&mut self, io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
        look_at(&io);
        self.0.submit(io, cx)
    }

    fn kick(&mut self) {
        self.0.kick();
    }

    fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        self.0.poll(cx)
    }

    fn abort(&mut self, key: IoKey) {
        self.0.abort(key);
    }

    fn reset(&mut self, scope: ResetScope, cx: &mut IoCx<'_>) {
        self.0.reset(scope, cx);
    }

    fn in_flight(&self) -> u32 {
        self.0.in_flight()
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        self.0.arm(wake)
    }

    fn close(&mut self, env: &mut CoreEnv<'_>) {
        self.0.close(env);
    }
}
