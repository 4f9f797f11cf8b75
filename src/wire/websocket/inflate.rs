use flate2::{Decompress, FlushDecompress, Status};

use super::Broken;
use crate::wire::encoding::MAX_DECODED;

/// Undoes permessage-deflate (RFC 7692 §7.2.2) piece by piece.
#[derive(Debug)]
pub(super) struct Inflate {
    state: Decompress,
    /// What the message under way has grown to.
    grown: usize,
}

/// What the compressor took off the end of each message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Decompressed at a time.
const PIECE: usize = 4096;

impl Inflate {
    pub fn new() -> Self {
        Self { state: Decompress::new(false), grown: 0 }
    }

    /// A piece of a message.
    pub fn push(&mut self, mut input: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), Broken> {
        let mut plain = [0; PIECE];
        loop {
            let (read, written) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(input, &mut plain, FlushDecompress::Sync)
                .map_err(|_| Broken::Compressed)?;
            let used = (self.state.total_in() - read) as usize;
            let made = (self.state.total_out() - written) as usize;
            input = &input[used..];
            self.grown += made;
            if self.grown > MAX_DECODED {
                return Err(Broken::Bomb);
            }
            take(&plain[..made]);
            if status == Status::StreamEnd {
                // A last block may end a message, too (RFC 7692 §7.2.3.4).
                self.state.reset(false);
            }
            if (used == 0 && made == 0) || (input.is_empty() && made < PIECE) {
                return Ok(());
            }
        }
    }

    /// The end of a message.
    pub fn end(&mut self, take: impl FnMut(&[u8])) -> Result<(), Broken> {
        let result = self.push(&TAIL, take);
        self.grown = 0;
        result
    }
}
