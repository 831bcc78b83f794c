//! Command descriptor blocks as the scripts send them.

/// A ten-byte CDB with LBA and length.
pub fn ten(opcode: u8, flags: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![0; 10];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A sixteen-byte CDB with LBA and length.
pub fn sixteen(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// COMPARE AND WRITE of one block.
pub fn compare_and_write(lba: u64) -> Vec<u8> {
    let mut cdb = vec![0; 16];
    cdb[0] = 0x89;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[13] = 1;
    cdb
}

/// UNMAP and its parameter list.
pub fn unmap(ranges: &[(u64, u32)]) -> (Vec<u8>, Vec<u8>) {
    let mut list = vec![0; 8];
    for (lba, blocks) in ranges {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    let len = list.len() as u16;
    list[0..2].copy_from_slice(&(len - 2).to_be_bytes());
    list[2..4].copy_from_slice(&(len - 8).to_be_bytes());
    let mut cdb = vec![0; 10];
    cdb[0] = 0x42;
    cdb[7..9].copy_from_slice(&len.to_be_bytes());
    (cdb, list)
}

/// PERSISTENT RESERVE OUT and its parameter list.
pub fn persistent_out(action: u8, kind: u8, key: u64, service_key: u64) -> (Vec<u8>, Vec<u8>) {
    let mut cdb = vec![0; 10];
    (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5F, action, kind, 24);
    let mut list = vec![0; 24];
    list[0..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&service_key.to_be_bytes());
    (cdb, list)
}

/// A LUN below 256 in the eight-byte form.
pub fn lun(lun: u16) -> [u8; 8] {
    [0, lun as u8, 0, 0, 0, 0, 0, 0]
}
