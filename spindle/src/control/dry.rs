//! The backplane of `spindle check`: it opens nothing and believes what the model believes.

use std::sync::Arc;

use serde_json::{Value, json};
use spindle_bdev::{Bdev, BdevInfo};
use spindle_conf::jsonrpc::RpcError;
use spindle_mem::{Arena, ArenaConfig, ArenaError};

use super::model::{LunMap, Model};
use super::specs::{NullCreate, Portal};
use super::{Backplane, BdevSpec, Unit};

/// Checks without effects.
pub struct Dry {
    /// A few pages, for the null devices that stand for every device.
    arena: Arc<Arena>,
}

impl Dry {
    /// Ready to check.
    pub fn new() -> Result<Dry, ArenaError> {
        Ok(Dry { arena: Arena::new(ArenaConfig::plain(1 << 20, 1 << 30))? })
    }
}

impl Backplane for Dry {
    fn make_bdev(&self, name: &str, uuid: [u8; 16], spec: &BdevSpec) -> Result<Arc<dyn Bdev>, RpcError> {
        let (num_blocks, block_size, physical_block_size) = match spec {
            BdevSpec::Malloc(s) => (s.num_blocks, s.block_size, s.physical_block_size),
            BdevSpec::Null(s) => (s.num_blocks, s.block_size, s.physical_block_size),
            BdevSpec::File(s, _) => {
                let found = std::fs::metadata(&s.filename);
                let bytes = match (found, s.create_bytes) {
                    // The size of a block device is known only to those who open it.
                    (Ok(m), _) => m.len().max(4096),
                    (Err(_), Some(bytes)) => bytes,
                    (Err(e), None) => {
                        return Err(RpcError::field("filename", format!("{}: {e}", s.filename)));
                    }
                };
                let block = s.block_size.unwrap_or(512);
                (bytes / u64::from(block.max(1)), block, None)
            }
        };
        let stand_in =
            NullCreate { name: name.into(), num_blocks, block_size, physical_block_size, uuid: None };
        Ok(Arc::new(crate::live::null(&self.arena, name, uuid, &stand_in)?))
    }

    fn open_lus(&self, _: &[Unit]) -> Result<(), RpcError> {
        Ok(())
    }

    fn close_lu(&self, _: u32) -> Result<(), RpcError> {
        Ok(())
    }

    fn lu_shrinks(&self, _: u32, _: u64) -> Result<(), RpcError> {
        Ok(())
    }

    fn lu_changed(&self, _: u32, _: &BdevInfo) -> Result<(), RpcError> {
        Ok(())
    }

    fn set_luns(&self, _: u32, _: &LunMap) -> Result<(), RpcError> {
        Ok(())
    }

    fn listen(&self, _: u16, portal: &Portal) -> Result<u16, RpcError> {
        Ok(portal.port)
    }

    fn unlisten(&self, _: u16, _: &Portal) {}

    fn apply_access(&self, model: &Model) -> Result<(), RpcError> {
        let limits = crate::limits::Limits::new(1, 64 << 20, Some(1 << 30), 0).map_err(RpcError::internal)?;
        crate::live::access(model, 0, &limits).map(drop)
    }

    fn reactors(&self) -> Value {
        json!({ "reactors": [] })
    }

    fn connections(&self) -> Value {
        json!([])
    }

    fn move_session(&self, tsih: u16, _: u8) -> Result<(), RpcError> {
        Err(RpcError::missing(format_args!("session {tsih}")))
    }

    fn lu_stats(&self, _: u32) -> Value {
        json!({})
    }

    fn memory(&self) -> Value {
        json!({})
    }

    fn tasks(&self) -> Value {
        json!([])
    }
}
